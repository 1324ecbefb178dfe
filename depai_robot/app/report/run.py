"""What a run left in its folder, read once: story, plan, receipt, checks, evidence, logs.

Missing parts are None or empty. Nothing is taken for granted: a run may have ended at any moment, and stations'
words are in its files.
"""

import bisect
import json
import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from depai_robot.app.story import Line, clean, read_story
from depai_robot.charging.envelope import EVERYBODY, RefusedMessageError, open_token, verify_token
from depai_robot.payment.receipt import Receipt, parse_receipt
from depai_robot.values.error import ConfigError
from depai_robot.values.identity import address_to_hex, parse_did_pkh

LOG_LINES_SHOWN = 12
LOG_BYTES_READ = 8192
TRACK_GAP_MAX_S = 0.5
"""Between points farther apart nobody knows where the robot was."""


@dataclass(frozen=True, slots=True)
class Stay:
    """One stay in a phase of the wallet's session.

    Attributes:
        phase: name.
        cause: the fact that led into it.
        from_s: session time at which it began.
        until_s: session time at which the next began, or the story's last line.
    """

    phase: str
    cause: str
    from_s: float
    until_s: float


@dataclass(frozen=True, slots=True)
class TrackPoint:
    """Where the robot really was, and its battery: told by the simulation.

    Attributes:
        at_s: session time.
        x_m, y_m, yaw_rad: in the map.
        charge: state of charge, 0 to 1, None when unknown.
        voltage_v, current_a, pads_w: of the battery, None when unknown.
    """

    at_s: float
    x_m: float
    y_m: float
    yaw_rad: float
    charge: float | None
    voltage_v: float | None
    current_a: float | None
    pads_w: float | None


@dataclass(frozen=True, slots=True)
class Dock:
    """A dock of the world: the pose of its panel, x into the dock."""

    id: str
    station: str
    x_m: float
    y_m: float
    yaw_rad: float


@dataclass(frozen=True, slots=True)
class World:
    """Room and docks, metres."""

    x_min_m: float
    x_max_m: float
    y_min_m: float
    y_max_m: float
    docks: tuple[Dock, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """A signed message in a piece of evidence.

    Attributes:
        sender: address, or empty when the signature did not hold.
        kind: of the body, or why it was not opened.
        body: its JSON, indented.
    """

    sender: str
    kind: str
    body: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """One piece: why it was kept, and the messages."""

    file: str
    reason: str
    messages: tuple[Message, ...]


class Run:
    """A run's folder. Every part is read when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def lines(self) -> list[Line]:
        """The whole story, in order."""
        return read_story(self.folder)

    def of(self, kind: str, source: str = "") -> list[Line]:
        """Lines of a kind, of sources that begin so."""
        return [line for line in self.lines if line.kind == kind and line.source.startswith(source)]

    def newest(self, kind: str, source: str = "") -> Line | None:
        """The last of them."""
        found = self.of(kind, source)
        return found[-1] if found else None

    @cached_property
    def plan(self) -> dict[str, Any]:
        """What was asked of the demo; empty when it was something else."""
        data = read_json(self.folder / "plan.json")
        return data if isinstance(data, dict) else {}

    @cached_property
    def receipt(self) -> Receipt | None:
        """The session's receipt."""
        paths = [self.folder / "receipt.json", *sorted(self.folder.glob("receipt-*.json"))]
        for path in paths:
            try:
                return parse_receipt(path.read_bytes())
            except (OSError, ConfigError):
                continue
        return None

    @cached_property
    def checks(self) -> list[tuple[str, bool, str]]:
        """The audit: name, passed, what was seen."""
        data = read_json(self.folder / "checks.json")
        rows = [row for row in data if isinstance(row, dict)] if isinstance(data, list) else []
        return [
            (clean(str(row.get("name", ""))), row.get("ok") is True, clean(str(row.get("detail", ""))))
            for row in rows
        ]

    @cached_property
    def session(self) -> str:
        """Id of the session that the receipt is of, else of the newest."""
        if self.receipt is not None:
            return self.receipt.session
        newest = self.newest("state", "wallet")
        return newest.text("session") if newest else ""

    @cached_property
    def stays(self) -> list[Stay]:
        """The session's way through its phases; the begin in IDLE is left out."""
        states = [line for line in self.of("state", "wallet") if line.text("session") == self.session]
        if not states:
            return []
        ends = [*(line.ros_s for line in states[1:]), self.end_s]
        return [
            Stay(line.text("to"), line.text("cause"), line.ros_s, max(line.ros_s, end))
            for line, end in zip(states, ends, strict=True)
        ]

    @cached_property
    def zero_s(self) -> float:
        """Session time of the first request, from which every time on the page counts."""
        states = self.of("state", "wallet")
        if states:
            return states[0].ros_s
        return next((line.ros_s for line in self.lines if line.ros_s), 0.0)

    @cached_property
    def end_s(self) -> float:
        """Session time of the last line of those who know it."""
        return max((line.ros_s for line in self.lines), default=0.0)

    @cached_property
    def contact_s(self) -> float | None:
        """Session time of the contact that charging began with."""
        times = [stay.from_s for stay in self.stays if stay.phase == "PRESENTING"]
        touches = [line.ros_s for line in self.of("contact", "sim") if line.text("dock")]
        return times[-1] if times else touches[-1] if touches else None

    @cached_property
    def station(self) -> str:
        """Id of the station that was chosen, or empty."""
        if self.receipt is not None:
            return self.receipt.station
        newest = self.newest("agreement", "wallet")
        return newest.text("station") if newest else ""

    @cached_property
    def quotes(self) -> list[Line]:
        """The newest of each station."""
        by_station = {line.text("station"): line for line in self.of("quote", "wallet")}
        return [by_station[name] for name in sorted(by_station)]

    @cached_property
    def track(self) -> list[TrackPoint]:
        """Where the robot was, over time."""
        points = []
        for line in self.of("pose", "sim"):
            x_m, y_m, yaw_rad = (line.number(name) for name in ("x_m", "y_m", "yaw_rad"))
            if x_m is not None and y_m is not None and yaw_rad is not None:
                battery = (
                    line.number(name) for name in ("state_of_charge", "voltage_v", "current_a", "pads_w")
                )
                points.append(TrackPoint(line.ros_s, x_m, y_m, yaw_rad, *battery))
        return sorted(points, key=lambda point: point.at_s)

    def place_at(self, at_s: float) -> TrackPoint | None:
        """Where the robot was at that time, between the two nearest points; None when they are too far away."""
        after = bisect.bisect_left(self._track_times_s, at_s)
        pair = self.track[max(0, after - 1) : after + 1]
        if not pair or any(abs(point.at_s - at_s) > TRACK_GAP_MAX_S for point in pair):
            return None
        first, last = pair[0], pair[-1]
        span_s = last.at_s - first.at_s
        share = min(1.0, max(0.0, (at_s - first.at_s) / span_s)) if span_s > 0 else 0.0
        turn_rad = math.remainder(last.yaw_rad - first.yaw_rad, math.tau)
        return replace(
            first,
            at_s=at_s,
            x_m=first.x_m + share * (last.x_m - first.x_m),
            y_m=first.y_m + share * (last.y_m - first.y_m),
            yaw_rad=first.yaw_rad + share * turn_rad,
        )

    @cached_property
    def _track_times_s(self) -> list[float]:
        return [point.at_s for point in self.track]

    @cached_property
    def world(self) -> World | None:
        """Room and docks, None when nobody told them."""
        line = self.newest("world", "sim")
        try:
            return None if line is None else _parse_world(line.data)
        except (KeyError, TypeError, ValueError):
            return None

    @cached_property
    def speeds(self) -> list[tuple[bool, float]]:
        """(docked, simulated seconds for one of the wall)."""
        newest = {line.data.get("docked") is True: line for line in self.of("speed", "sim")}
        found = []
        for docked, line in sorted(newest.items()):
            simulated_s, wall_s = line.number("simulated_s"), line.number("wall_s")
            if simulated_s and wall_s:
                found.append((docked, simulated_s / wall_s))
        return found

    @cached_property
    def evidence(self) -> list[Evidence]:
        """What was kept against the station, opened and verified anew."""
        found = []
        chain_id = _chain_id(self.receipt.network) if self.receipt is not None else 0
        for path in sorted(self.folder.glob("evidence-*.json")):
            data = read_json(path)
            if isinstance(data, dict):
                tokens = data.get("tokens")
                messages = [_open(str(t), chain_id) for t in tokens] if isinstance(tokens, list) else []
                found.append(Evidence(path.name, clean(str(data.get("reason", ""))), tuple(messages)))
        return found

    @cached_property
    def logs(self) -> list[tuple[str, str]]:
        """(file, its last lines) of each log that says something."""
        found = []
        for path in sorted((self.folder / "logs").glob("*.log")):
            try:
                data = path.read_bytes()[-LOG_BYTES_READ:]
            except OSError:
                continue
            lines = [clean(line) for line in data.decode(errors="replace").splitlines() if line.strip()]
            if lines:
                found.append((path.name, "\n".join(lines[-LOG_LINES_SHOWN:])))
        return found

    def is_simulated(self) -> bool:
        """Whether the world told of itself."""
        return self.world is not None or bool(self.track)


def read_json(path: Path) -> Any:
    """The file's value, None when there is none or it is broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _parse_world(data: dict[str, Any]) -> World:
    room = data["room"]
    box = [float(room[name]) for name in ("x_min_m", "x_max_m", "y_min_m", "y_max_m")]
    docks = tuple(
        Dock(
            clean(str(dock["id"]), 40),
            clean(str(dock.get("station", "")), 40),
            float(dock["x_m"]),
            float(dock["y_m"]),
            float(dock["yaw_rad"]),
        )
        for dock in data["docks"]
    )
    numbers = [*box, *(value for dock in docks for value in (dock.x_m, dock.y_m, dock.yaw_rad))]
    if not all(map(math.isfinite, numbers)) or box[1] <= box[0] or box[3] <= box[2]:
        raise ValueError(f"expected a finite room, got {box}")
    return World(box[0], box[1], box[2], box[3], docks)


def _open(token: str, chain_id: int) -> Message:
    """What a message says, and whose signature it really bears at the time it was made."""
    try:
        draft = open_token(token)
        recipient = None if draft.to == EVERYBODY else parse_did_pkh(draft.to)[1]
        verified = verify_token(token, now_s=draft.ts, chain_id=chain_id, recipient=recipient)
    except (RefusedMessageError, ConfigError) as error:
        return Message("", f"not opened: {clean(str(error), 160)}", "")
    body = msgspec.json.format(msgspec.json.encode(draft.body), indent=2).decode()
    return Message(address_to_hex(verified.sender), type(draft.body).__name__, body)


def _chain_id(network: str) -> int:
    """Of a CAIP-2 name; 0, which no message is of, when it is none of Ethereum's."""
    namespace, _, reference = network.partition(":")
    return int(reference) if namespace == "eip155" and reference.isdecimal() else 0
