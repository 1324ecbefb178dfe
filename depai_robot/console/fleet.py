"""The picture of the fleet: messages and time go in, rows, sessions and alerts come out. Pure and bounded.

Time comes as an argument (Unix seconds). A state's own time stamp is shown, never trusted for staleness: robots' clocks
differ, the console's own does not.
"""

import math
from collections import deque
from dataclasses import dataclass, field

from depai_robot.console.alert import AlertBook, Level
from depai_robot.console.station import StationBook
from depai_robot.console.vda import (
    BROKEN,
    OFFLINE,
    ONLINE,
    Address,
    Charging,
    Fault,
    Position,
    Reading,
    UnreadableMessageError,
    clean,
    parse_topic,
    read_connection,
    read_position,
    read_state,
    to_reading,
)
from depai_robot.values.error import RemoteError

ROBOTS_MAX = 50_000
STALE_AFTER_S = 65.0
"""VDA 5050 wants a state at least every 30 s: two missed ones and a margin."""
BATTERY_LOW_PERCENT = 15.0
BUDGET_NEAR_PERMILLE = 900
SESSIONS_KEPT = 5_000
DAY_S = 86_400
IDLE_PHASES = frozenset({"", "IDLE", "SETTLED", "BACKING_OFF", "CALLING_FOR_HELP", "SHUT_DOWN", "FAILED"})
"""Phases in which nothing is bought; a session that comes to one of them has ended."""
ELSEWHERE_PHASES = IDLE_PHASES | {"QUOTING", "FUNDING", "SETTLING", "WITHDRAWING"}
"""Phases in which the robot does not take a place at the station."""
FACTSHEET_BYTES_MAX = 64 * 1024
POSITION_MAX_M = 1e6


@dataclass(slots=True)
class Session:
    """One purchase of energy, as the robot told it.

    Attributes:
        robot, station, session: ids.
        begun_s, seen_s: first and last word of it, Unix seconds of the console.
        energy_milliwh, cost_atomic: newest.
        price_atomic_per_kwh: agreed; None when not said.
        phase: newest.
        fault: empty when nothing went wrong.
        receipt: as the robot names it.
        ended: the robot has gone on.
    """

    robot: str
    station: str
    session: str
    begun_s: float
    seen_s: float
    energy_milliwh: int = 0
    cost_atomic: int = 0
    price_atomic_per_kwh: int | None = None
    phase: str = ""
    fault: str = ""
    receipt: str = ""
    ended: bool = False


@dataclass(slots=True)
class Robot:
    """One robot's row.

    Attributes:
        address: of its topics.
        number: in the order of first sight.
        connection: VDA word; empty before the first.
        connection_retained: the word was kept by the broker: true once, perhaps old.
        seen_s: arrival of the last state; 0 before the first.
        reading: newest state in the console's words.
        raw, raw_before: newest state and the one before, as they came.
        session: in progress, or the last.
        day: number of the UTC day that ``spent`` belongs to.
        spent_atomic: of the sessions of that day, as the console saw them.
        states, lost, repeated, unreadable: counters.
        version: grows at each change.
        stale: it should have spoken by now.
        header_fresh: its next header id may be any: it, or this console, has connected anew.
        factsheet: as it came; empty when nobody asked.
    """

    address: Address
    key: str
    name: str
    number: int
    connection: str = ""
    connection_retained: bool = False
    connection_s: float = 0.0
    seen_s: float = 0.0
    reading: Reading | None = None
    position: Position | None = None
    raw: bytes = b""
    raw_before: bytes = b""
    session: Session | None = None
    day: int = 0
    spent_atomic: int = 0
    states: int = 0
    lost: int = 0
    repeated: int = 0
    unreadable: int = 0
    version: int = 0
    stale: bool = False
    header_fresh: bool = True
    factsheet: bytes = b""

    @property
    def battery_percent(self) -> float:
        """-1 when unknown."""
        return self.reading.battery_percent if self.reading else -1.0

    @property
    def charging(self) -> Charging | None:
        """What it says of buying energy."""
        return self.reading.charging if self.reading else None

    def status(self) -> str:
        """One word: BROKEN, OFFLINE, SILENT (nothing yet), STALE, E-STOP, FAULT, PAUSED, CHARGING, DRIVING, IDLE."""
        if self.connection == BROKEN:
            return "BROKEN"
        if self.connection == OFFLINE:
            return "OFFLINE"
        reading = self.reading
        if reading is None:
            return "SILENT"
        if self.stale:
            return "STALE"
        if reading.emergency:
            return "E-STOP"
        if any(fault.level in ("FATAL", "CRITICAL") for fault in reading.faults):
            return "FAULT"
        if reading.charging_now:
            return "CHARGING"
        if reading.paused:
            return "PAUSED"
        return "DRIVING" if reading.driving else "IDLE"

    def spent_today_atomic(self, now_s: float) -> int:
        """By the robot's own ledger where it says so, else the sessions that the console saw today (UTC)."""
        said = self.charging.spent_today_atomic if self.charging else None
        if said is not None:
            return said
        return self.spent_atomic if self.day == int(now_s // DAY_S) else 0


@dataclass(slots=True)
class Counters:
    """What came in, all of it.

    Attributes:
        messages: taken in.
        unreadable: dropped, not VDA 5050.
        foreign: dropped, topics that are no robot's or station's.
        refused_robots: dropped, more robots than ROBOTS_MAX.
        lost: states that header ids say are missing.
        repeated: dropped, same header id and time as the one before.
    """

    messages: int = 0
    unreadable: int = 0
    foreign: int = 0
    refused_robots: int = 0
    lost: int = 0
    repeated: int = 0


@dataclass(slots=True)
class Fleet:
    """All robots, stations, sessions and alerts. Not thread-safe: one thread feeds and reads it."""

    stale_after_s: float = STALE_AFTER_S
    robots_max: int = ROBOTS_MAX
    robots: dict[str, Robot] = field(default_factory=dict)
    stations: StationBook = field(default_factory=StationBook)
    alerts: AlertBook = field(default_factory=AlertBook)
    sessions: deque[Session] = field(default_factory=lambda: deque(maxlen=SESSIONS_KEPT))
    counters: Counters = field(default_factory=Counters)
    version: int = 0
    finished: list[Session] = field(default_factory=list)
    """Sessions that ended since :meth:`take_finished`."""
    changed: set[str] = field(default_factory=set)
    """Keys of robots that changed since :meth:`take_changed`."""
    _actions: dict[str, tuple[str, str]] = field(default_factory=dict)

    def ingest(self, topic: str, payload: bytes, *, retained: bool, now_s: float) -> Robot | None:
        """Takes in one message; never raises for what others sent. Returns the robot it was about."""
        if topic.endswith("/offer"):
            self._take_offer(topic, payload, now_s)
            return None
        found = parse_topic(topic)
        if found is None:
            self.counters.foreign += 1
            return None
        address, name = found
        robot = self._robot(address)
        if robot is None:
            return None
        self.counters.messages += 1
        try:
            if name == "state":
                self._take_state(robot, payload, now_s)
            elif name == "connection":
                self._take_connection(robot, payload, retained=retained, now_s=now_s)
            elif name == "visualization":
                self._take_position(robot, read_position(payload))
            else:
                robot.factsheet = payload[:FACTSHEET_BYTES_MAX]
        except UnreadableMessageError as error:
            self.counters.unreadable += 1
            robot.unreadable += 1
            self.alerts.raise_alert(robot.key, "unreadable", Level.WARNING, clean(str(error), 160), now_s)
        self._touch(robot)
        return robot

    def tick(self, now_s: float) -> None:
        """Notices what did not come: call once a second."""
        limit_s = now_s - self.stale_after_s
        for robot in self.robots.values():
            stale = 0 < robot.seen_s < limit_s and robot.connection not in (BROKEN, OFFLINE)
            if stale != robot.stale:
                robot.stale = stale
                text = f"no state for more than {self.stale_after_s:.0f} s" if stale else ""
                self.alerts.set_alert(robot.key, "stale", Level.WARNING, text, now_s)
                self._touch(robot)

    def watch_action(self, action_id: str) -> None:
        """Has :meth:`action_status` follow an instant action; the oldest of many is forgotten."""
        if len(self._actions) >= 1000:
            del self._actions[next(iter(self._actions))]
        self._actions[action_id] = ("SENT", "")

    def action_status(self, action_id: str) -> tuple[str, str]:
        """(status, result in words) of an instant action that was sent from here."""
        return self._actions.get(action_id, ("", ""))

    def take_finished(self) -> list[Session]:
        """Sessions that ended since the last call."""
        finished, self.finished = self.finished, []
        return finished

    def take_changed(self) -> set[str]:
        """Keys of robots that changed since the last call."""
        changed, self.changed = self.changed, set()
        return changed

    def restore_session(self, session: Session, now_s: float) -> None:
        """A session of the history: counts for its station, and for its robot's day once the robot is seen."""
        self.sessions.append(session)
        self.stations.add_session(session.station, session.energy_milliwh, session.cost_atomic, session.fault)
        robot = self.robots.get(session.robot)
        if robot is not None and session.seen_s // DAY_S == now_s // DAY_S:
            robot.day = int(now_s // DAY_S)
            robot.spent_atomic += session.cost_atomic

    def restore_robot(self, address: Address) -> Robot | None:
        """A robot of the history, not yet seen by this run."""
        return self._robot(address)

    def _robot(self, address: Address) -> Robot | None:
        robot = self.robots.get(address.key)
        if robot is None:
            if len(self.robots) >= self.robots_max:
                self.counters.refused_robots += 1
                return None
            robot = Robot(address, address.key, clean(address.serial, 40), len(self.robots))
            self.robots[address.key] = robot
        elif robot.address is not address and robot.address != address:
            robot.address = address  # the same robot speaks another major version now
        return robot

    def _touch(self, robot: Robot) -> None:
        robot.version += 1
        self.version += 1
        self.changed.add(robot.key)

    def _take_connection(self, robot: Robot, payload: bytes, *, retained: bool, now_s: float) -> None:
        if not payload:
            robot.connection = ""
            return
        word = read_connection(payload).connectionState
        robot.connection, robot.connection_retained, robot.connection_s = word, retained, now_s
        robot.header_fresh = True
        text = "the broker lost it: no good-bye" if word == BROKEN else ""
        self.alerts.set_alert(robot.key, "broken", Level.CRITICAL, text, now_s)
        if word != ONLINE and robot.stale:
            robot.stale = False
            self.alerts.clear(robot.key, "stale", now_s)

    def _take_state(self, robot: Robot, payload: bytes, now_s: float) -> None:
        state = read_state(payload)
        if state.serialNumber and state.serialNumber != robot.address.serial:
            raise UnreadableMessageError(
                f"state says serialNumber {clean(state.serialNumber)!r} on the topic of {robot.name!r}"
            )
        reading, before = to_reading(state), robot.reading
        if before is not None and reading.header_id >= 0:
            missing = reading.header_id - before.header_id - 1
            if missing == -1 and reading.timestamp == before.timestamp:
                robot.repeated += 1
                self.counters.repeated += 1
                return
            if missing > 0 and not robot.header_fresh:
                robot.lost += missing
                self.counters.lost += missing
        robot.header_fresh = False
        robot.states += 1
        robot.raw_before, robot.raw = robot.raw, payload
        robot.seen_s, robot.reading = now_s, reading
        if robot.stale:
            robot.stale = False
            self.alerts.clear(robot.key, "stale", now_s)
        self._take_position(robot, reading.position)
        self._take_charging(robot, reading.charging, now_s)
        self._judge(robot, reading, now_s)
        for action_id, status, result in reading.actions:
            if action_id in self._actions:
                self._actions[action_id] = (status, result)

    def _take_position(self, robot: Robot, position: Position | None) -> None:
        if position is None:
            return
        if all(math.isfinite(v) and abs(v) <= POSITION_MAX_M for v in (position.x, position.y)):
            robot.position = position

    def _judge(self, robot: Robot, reading: Reading, now_s: float) -> None:
        alerts, key = self.alerts, robot.key
        alerts.clear(key, "unreadable", now_s)
        emergency = f"emergency stop: {reading.emergency}" if reading.emergency else ""
        alerts.set_alert(key, "e-stop", Level.CRITICAL, emergency, now_s)
        worst = _worst(reading.faults)
        level = Level.WARNING
        text = ""
        if worst is not None:
            level = Level.WARNING if worst.level in ("WARNING", "") else Level.CRITICAL
            more = f" (and {reading.fault_count - 1} more)" if reading.fault_count > 1 else ""
            text = f"{worst.kind}: {worst.text}{more}" if worst.text else f"{worst.kind}{more}"
        alerts.set_alert(key, "error", level, text, now_s)
        percent = reading.battery_percent
        low = 0 <= percent < BATTERY_LOW_PERCENT and not reading.charging_now
        alerts.set_alert(key, "battery", Level.WARNING, f"battery at {percent:.0f} %" if low else "", now_s)
        said = reading.charging
        fault = f"charging at {said.station or '?'}: {said.fault}" if said.fault else ""
        alerts.set_alert(key, "charging", Level.CRITICAL, fault, now_s)
        budget = said.budget_today_atomic
        text = ""
        if budget:
            spent = robot.spent_today_atomic(now_s)
            if spent * 1000 >= budget * BUDGET_NEAR_PERMILLE:
                text = f"spent {100 * spent // budget} % of what its owner allows today"
        alerts.set_alert(key, "budget", Level.WARNING, text, now_s)

    def _take_charging(self, robot: Robot, said: Charging, now_s: float) -> None:
        session = robot.session
        if session is not None and not session.ended and session.session != said.session:
            self._end(robot, session, now_s)
        if not said.session:
            return
        if session is None or session.session != said.session:
            session = robot.session = Session(robot.key, said.station, said.session, now_s, now_s)
        if session.ended:
            session.receipt = said.receipt or session.receipt
            return
        charging_before = (session.station, session.phase)
        session.seen_s = now_s
        session.station = said.station or session.station
        session.phase = said.phase
        session.energy_milliwh = max(session.energy_milliwh, said.energy_milliwh or 0)
        session.cost_atomic = max(session.cost_atomic, said.cost_atomic or 0)
        session.price_atomic_per_kwh = said.price_atomic_per_kwh or session.price_atomic_per_kwh
        session.fault = said.fault or session.fault
        session.receipt = said.receipt or session.receipt
        if charging_before != (session.station, session.phase):
            self.stations.set_load(
                robot.key, session.station if session.phase not in ELSEWHERE_PHASES else ""
            )
        if said.phase in IDLE_PHASES:
            self._end(robot, session, now_s)

    def _end(self, robot: Robot, session: Session, now_s: float) -> None:
        session.ended = True
        self.stations.set_load(robot.key, "")
        if not session.energy_milliwh and not session.cost_atomic and not session.fault:
            return  # asked, and bought nothing
        day = int(now_s // DAY_S)
        if robot.day != day:
            robot.day, robot.spent_atomic = day, 0
        robot.spent_atomic += session.cost_atomic
        self.sessions.append(session)
        self.finished.append(session)
        self.stations.add_session(session.station, session.energy_milliwh, session.cost_atomic, session.fault)

    def _take_offer(self, topic: str, payload: bytes, now_s: float) -> None:
        self.counters.messages += 1
        try:
            subject = self.stations.take_offer(topic, payload, now_s)
        except RemoteError as error:
            self.counters.unreadable += 1
            name = clean(topic.split("/")[-2] if topic.count("/") >= 2 else topic, 40)
            self.alerts.raise_alert(f"station {name}", "offer", Level.WARNING, clean(str(error), 160), now_s)
        else:
            self.alerts.clear(f"station {subject}", "offer", now_s)
        self.version += 1


def _worst(faults: tuple[Fault, ...]) -> Fault | None:
    order = {"FATAL": 3, "CRITICAL": 2, "URGENT": 1}
    return max(faults, key=lambda fault: order.get(fault.level, 0)) if faults else None
