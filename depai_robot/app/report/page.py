"""Builds report.html from what a run left: stories, receipt, checks, evidence. Missing parts are named, not hidden."""

import base64
import json
from html import escape
from pathlib import Path
from typing import Any

import jinja2

from depai_robot.app.report.chart import Series, line_chart, world_map
from depai_robot.app.report.state_picture import state_picture
from depai_robot.app.story import Line, read_story
from depai_robot.charging.transition import ROBOT_TRANSITIONS, RobotPhase
from depai_robot.values.error import ConfigError
from depai_robot.values.money import format_energy, format_usdc

FRAMES_SHOWN = 6


def write_report(folder: Path) -> Path:
    """Writes ``report.html`` into a run's folder and returns its path; the page needs nothing else.

    Raises:
        ConfigError: the folder can't be read or written.
    """
    try:
        page = render(folder)
        path = folder / "report.html"
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"report of {folder}: {error}") from error
    return path


def render(folder: Path) -> str:
    """The page's HTML."""
    lines = read_story(folder)
    receipt = _read_json(folder / "receipt.json") or _newest(lines, "receipt", "wallet")
    checks = _read_json(folder / "checks.json") or []
    plan = _read_json(folder / "plan.json") or {}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("depai_robot.app.report", "template"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"usdc": lambda v: format_usdc(int(v)), "wh": lambda v: format_energy(int(v))}
    session = receipt["session"] if receipt else _last_session(lines)
    path = _path(lines, session)
    missing = [
        name
        for name, there in (("receipt", receipt), ("audit", checks), ("tranches", _of(lines, "tranche")))
        if not there
    ]
    return environment.get_template("page.html.j2").render(
        name=folder.name,
        plan=plan,
        receipt=receipt,
        checks=checks,
        ok=bool(checks) and all(check["ok"] for check in checks),
        missing=missing,
        quotes=_quotes(lines),
        map_svg=_map(lines, receipt),
        frames=_frames(folder, lines),
        battery_svg=_battery(lines),
        energy_svg=_energy(lines),
        money_svg=_money(lines),
        states_svg=state_picture(
            [(row.before, row.cause, row.after) for row in ROBOT_TRANSITIONS],
            [phase.value for phase in RobotPhase],
            path,
            "The robot's session",
        ),
        path=" → ".join(path),
        transactions=_transactions(lines),
        evidence=_evidence(folder),
        stop=_newest(lines, "stop", "wallet"),
        camera=_newest(lines, "camera", "sim"),
        broker=_newest(lines, "broker", "demo"),
        speed=_speed(lines),
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _of(lines: list[Line], kind: str, source: str = "") -> list[Line]:
    return [line for line in lines if line.kind == kind and line.source.startswith(source)]


def _newest(lines: list[Line], kind: str, source: str = "") -> dict[str, Any] | None:
    found = _of(lines, kind, source)
    return found[-1].data if found else None


def _last_session(lines: list[Line]) -> str:
    states = _of(lines, "state", "wallet")
    return str(states[-1].data.get("session", "")) if states else ""


def _path(lines: list[Line], session: str) -> list[str]:
    states = [line for line in _of(lines, "state", "wallet") if line.data.get("session") == session]
    return ["IDLE", *(str(line.data.get("to")) for line in states)]


def _quotes(lines: list[Line]) -> list[dict[str, Any]]:
    newest: dict[str, dict[str, Any]] = {}
    for line in _of(lines, "quote", "wallet"):
        newest[str(line.data["station"])] = line.data
    return [newest[name] for name in sorted(newest)]


def _zero(lines: list[Line]) -> float:
    """Session time of the first request, where the curves begin."""
    states = _of(lines, "state", "wallet")
    return states[0].ros_s if states else (lines[0].ros_s if lines else 0.0)


def _map(lines: list[Line], receipt: dict[str, Any] | None) -> str:
    world = _newest(lines, "world", "sim")
    if world is None:
        return ""
    poses = _of(lines, "pose", "sim")
    track = [(p.data["x_m"], p.data["y_m"], p.data["yaw_rad"]) for p in poses]
    return world_map(world, track, str(receipt["station"]) if receipt else "")


def _battery(lines: list[Line]) -> str:
    zero, poses = _zero(lines), _of(lines, "pose", "sim")
    poses = [p for p in poses if p.ros_s >= zero - 2]
    return line_chart(
        [
            Series(
                "state of charge", "a", [(p.ros_s - zero, p.data["state_of_charge"] * 100) for p in poses]
            ),
        ],
        "seconds of simulated time",
        "state of charge, %",
    )


def _energy(lines: list[Line]) -> str:
    zero, tranches = _zero(lines), _of(lines, "tranche", "wallet")
    return line_chart(
        [
            Series(
                "station's meter", "b", [(t.ros_s - zero, t.data["station_milliwh"] / 1000) for t in tranches]
            ),
            Series("own meter", "a", [(t.ros_s - zero, t.data["own_milliwh"] / 1000) for t in tranches]),
        ],
        "seconds of simulated time",
        "energy, Wh",
    )


def _money(lines: list[Line]) -> str:
    zero, tranches = _zero(lines), _of(lines, "tranche", "wallet")
    return line_chart(
        [
            Series(
                "signed ceiling",
                "b",
                [(t.ros_s - zero, t.data["ceiling_atomic"] / 1e6) for t in tranches],
                stairs=True,
            ),
            Series(
                "owed for reconciled energy and fees",
                "a",
                [(t.ros_s - zero, t.data["cost_atomic"] / 1e6) for t in tranches],
                stairs=True,
            ),
        ],
        "seconds of simulated time",
        "USDC",
    )


def _frames(folder: Path, lines: list[Line]) -> list[dict[str, str]]:
    """A handful of pictures over the approach, with the keypoints that the detector saw."""
    seen = [
        line for line in _of(lines, "detection", "detector") if (folder / str(line.data["frame"])).is_file()
    ]
    usable = [line for line in seen if line.data.get("confidence") is not None] or seen
    if not usable:
        return []
    step = max(1, (len(usable) - 1) // (FRAMES_SHOWN - 1))
    chosen = usable[::step][:FRAMES_SHOWN]
    if usable[-1] not in chosen:
        chosen[-1] = usable[-1]
    frames = []
    for line in chosen:
        data = (folder / str(line.data["frame"])).read_bytes()
        dots = "".join(
            f'<circle cx="{x}" cy="{y}" r="4"/>'
            for (x, y), sure in zip(line.data["keypoints"], line.data["visibility"], strict=True)
            if sure > 0.5
        )
        range_m = line.data.get("range_m")
        words = (
            "no pose published"
            if range_m is None
            else f"{range_m:.2f} m, confidence {line.data['confidence']:.2f}"
        )
        frames.append(
            {
                "uri": "data:image/jpeg;base64," + base64.b64encode(data).decode(),
                "dots": f'<svg viewBox="0 0 640 480" aria-hidden="true">{dots}</svg>',
                "words": words,
            }
        )
    return frames


def _transactions(lines: list[Line]) -> list[dict[str, Any]]:
    return [
        {
            "who": line.source,
            "what": str(line.data.get("purpose", "")).rpartition(":")[2],
            "hash": str(line.data.get("hash", "")),
            "block": line.data.get("block"),
            "gas": line.data.get("gas"),
        }
        for line in _of(lines, "tx")
    ]


def _evidence(folder: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted(folder.glob("evidence-*.json")):
        data = _read_json(path)
        if isinstance(data, dict):
            found.append(
                {"file": path.name, "reason": data.get("reason", ""), "count": len(data.get("tokens", []))}
            )
    return found


def _speed(lines: list[Line]) -> str:
    newest: dict[bool, dict[str, Any]] = {}
    for line in _of(lines, "speed", "sim"):
        newest[bool(line.data["docked"])] = line.data
    words = [
        f"{'docked' if docked else 'driving'} {data['simulated_s'] / data['wall_s']:.1f} times real time"
        for docked, data in sorted(newest.items())
        if data["wall_s"] > 0
    ]
    return escape(", ".join(words))
