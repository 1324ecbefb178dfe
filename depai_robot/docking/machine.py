"""The docking machine: ``step(state, input) -> (state, command)``, and its table of legal moves.

A known approximate pose of the dock (from the map) says where to look and where to drive first; from the first
detection on, the dock's pose in the odometry frame is filtered from what the camera sees, each seen pose placed at the
odometry of its own stamp, so that latency does not bend it. The last centimetres before contact are driven straight.

Any loss of sight, time-out or missed contact backs off and tries again, a limited number of times; an emergency stop
works in every phase.
"""

import math
from dataclasses import dataclass, field, replace
from enum import Enum

from depai_robot.docking.law import LawSettings, drive_to_pose
from depai_robot.values.error import BugError, ConfigError
from depai_robot.values.geometry import STOP, DriveCommand, Pose2, wrap_angle_rad

NS_PER_S = 1_000_000_000
HISTORY_MAX = 200
"""Odometry readings kept to place a late image: 4 s at 50 Hz."""


class Phase(str, Enum):
    """Where docking is."""

    IDLE = "IDLE"
    TRAVELLING = "TRAVELLING"
    SEARCHING = "SEARCHING"
    STAGING = "STAGING"
    APPROACHING = "APPROACHING"
    TOUCHING = "TOUCHING"
    RETRYING = "RETRYING"
    DOCKED = "DOCKED"
    UNDOCKING = "UNDOCKING"
    FAILED = "FAILED"
    STOPPED = "STOPPED"


P = Phase
MOVES: tuple[tuple[Phase, str, Phase], ...] = (
    (P.IDLE, "dock asked", P.TRAVELLING),
    (P.FAILED, "dock asked", P.TRAVELLING),
    (P.TRAVELLING, "near the place to look from", P.SEARCHING),
    (P.TRAVELLING, "dock seen", P.STAGING),
    (P.SEARCHING, "dock seen", P.STAGING),
    (P.SEARCHING, "turned around once", P.RETRYING),
    (P.STAGING, "in front of the dock", P.APPROACHING),
    (P.STAGING, "sight lost", P.RETRYING),
    (P.STAGING, "too slow", P.RETRYING),
    (P.APPROACHING, "near", P.TOUCHING),
    (P.APPROACHING, "contact", P.DOCKED),
    (P.APPROACHING, "sight lost", P.RETRYING),
    (P.APPROACHING, "too far beside", P.RETRYING),
    (P.APPROACHING, "too slow", P.RETRYING),
    (P.TOUCHING, "contact", P.DOCKED),
    (P.TOUCHING, "no contact", P.RETRYING),
    (P.RETRYING, "backed off", P.SEARCHING),
    (P.RETRYING, "tries used up", P.FAILED),
    (P.DOCKED, "undock asked", P.UNDOCKING),
    (P.DOCKED, "contact lost", P.RETRYING),
    (P.UNDOCKING, "clear of the dock", P.IDLE),
    (P.UNDOCKING, "too slow", P.FAILED),
    (P.FAILED, "undock asked", P.UNDOCKING),
    (P.STOPPED, "released", P.IDLE),
    *(
        (phase, "stop asked", P.IDLE)
        for phase in (P.TRAVELLING, P.SEARCHING, P.STAGING, P.APPROACHING, P.TOUCHING)
    ),
    (P.RETRYING, "stop asked", P.IDLE),
    (P.UNDOCKING, "stop asked", P.FAILED),
    *((phase, "emergency stop", P.STOPPED) for phase in P if phase is not P.STOPPED),
    *((phase, "took too long", P.FAILED) for phase in (P.TRAVELLING, P.SEARCHING, P.STAGING, P.APPROACHING)),
    (P.RETRYING, "took too long", P.FAILED),
    (P.TOUCHING, "took too long", P.FAILED),
)
"""Every legal move: (from, why, to). A move that is not here raises and leaves the state as it was."""
_LEGAL = frozenset(MOVES)


@dataclass(frozen=True, slots=True)
class DockingSettings:
    """Distances in metres, times in seconds.

    Attributes:
        law: of staging and approach.
        pads_x_m: of the robot's pads in its own frame.
        dock_pads_x_m: of the dock's pads in the dock's frame (negative: in front of the panel).
        look_distance_m: how far in front of the dock's expected place to look for it.
        staging_distance_m: robot's origin to panel, where the straight approach begins.
        staging_tolerance_m, staging_tolerance_rad: near enough to the staging pose.
        touch_distance_m: pads gap from which the robot drives straight and slowly.
        touch_speed_mps: of that.
        touch_over_m: how far it pushes past where contact was expected.
        lateral_max_m: beside the dock's axis at touch distance: back off instead of scraping.
        yaw_max_rad: off the dock's axis at touch distance.
        sight_timeout_s: without a detection in staging; in approach half of it.
        blind_distance_m: pads gap below which no detection is needed any more.
        search_turn_radps: while looking.
        back_off_m: before the next try.
        undock_m: straight back when leaving.
        gate_m: a detection farther than this from where the dock is expected is of another dock.
        filter_gain: weight of a new detection, 0..1.
        tries: before giving up.
        phase_timeout_s: for staging and approach.
        total_timeout_s: for everything.
    """

    law: LawSettings = field(default_factory=LawSettings)
    pads_x_m: float = 0.25
    dock_pads_x_m: float = -0.15
    look_distance_m: float = 1.6
    staging_distance_m: float = 0.95
    staging_tolerance_m: float = 0.06
    staging_tolerance_rad: float = 0.12
    touch_distance_m: float = 0.10
    touch_speed_mps: float = 0.06
    touch_over_m: float = 0.05
    lateral_max_m: float = 0.035
    yaw_max_rad: float = 0.11
    sight_timeout_s: float = 2.5
    blind_distance_m: float = 0.12
    search_turn_radps: float = 0.6
    back_off_m: float = 0.5
    undock_m: float = 0.5
    gate_m: float = 1.0
    filter_gain: float = 0.35
    tries: int = 4
    phase_timeout_s: float = 40.0
    total_timeout_s: float = 240.0

    def __post_init__(self) -> None:
        if not 0 < self.filter_gain <= 1:
            raise ConfigError(f"docking filter_gain must be above 0 and at most 1, got {self.filter_gain}")
        if not 1 <= self.tries <= 20:
            raise ConfigError(f"docking tries must be 1 to 20, got {self.tries}")
        if self.staging_distance_m <= self.pads_x_m - self.dock_pads_x_m + self.touch_distance_m:
            raise ConfigError(
                f"docking staging_distance_m {self.staging_distance_m} is nearer than the touch distance"
            )


# --- inputs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DockAsked:
    """Go to a dock.

    Attributes:
        stamp_ns: now.
        dock: its id.
        expected_in_odom: where the map says it is, x into the dock.
    """

    stamp_ns: int
    dock: str
    expected_in_odom: Pose2


@dataclass(frozen=True, slots=True)
class UndockAsked:
    """Leave."""

    stamp_ns: int


@dataclass(frozen=True, slots=True)
class StopAsked:
    """Stop where the robot is."""

    stamp_ns: int


@dataclass(frozen=True, slots=True)
class EmergencyStopped:
    """Stop and stay, until released."""

    stamp_ns: int


@dataclass(frozen=True, slots=True)
class EmergencyReleased:
    """A person has looked."""

    stamp_ns: int


@dataclass(frozen=True, slots=True)
class DockSeen:
    """The camera saw a dock.

    Attributes:
        stamp_ns: of the image.
        dock_in_base: its pose in the robot's frame at that time.
    """

    stamp_ns: int
    dock_in_base: Pose2


@dataclass(frozen=True, slots=True)
class OdometryRead:
    """Where the wheels say the robot is; also the tick that makes a command.

    Attributes:
        stamp_ns: now.
        base_in_odom: pose.
    """

    stamp_ns: int
    base_in_odom: Pose2


@dataclass(frozen=True, slots=True)
class ContactChanged:
    """The pads touch, or do not."""

    stamp_ns: int
    touching: bool


Input = (
    DockAsked
    | UndockAsked
    | StopAsked
    | EmergencyStopped
    | EmergencyReleased
    | DockSeen
    | OdometryRead
    | ContactChanged
)


@dataclass(frozen=True, slots=True)
class State:
    """What is known.

    Attributes:
        phase: where docking is.
        reason: why it failed.
        dock: the one asked for.
        dock_in_odom: where it is now thought to be.
        sure: whether the camera has seen it in this try.
        seen_ns: when last.
        phase_ns: since when in this phase.
        begun_ns: since when in all.
        history: (stamp_ns, base_in_odom), oldest first.
        touching: the pads.
        turned_rad: while searching.
        origin: of the odometry where backing off, touching or undocking began.
        attempt: 1 for the first.
    """

    phase: Phase = P.IDLE
    reason: str = ""
    dock: str = ""
    dock_in_odom: Pose2 | None = None
    sure: bool = False
    seen_ns: int = 0
    phase_ns: int = 0
    begun_ns: int = 0
    history: tuple[tuple[int, Pose2], ...] = ()
    touching: bool = False
    turned_rad: float = 0.0
    origin: Pose2 | None = None
    attempt: int = 1

    @property
    def base_in_odom(self) -> Pose2 | None:
        """The newest odometry."""
        return self.history[-1][1] if self.history else None


def step(state: State, fact: Input, settings: DockingSettings) -> tuple[State, DriveCommand | None]:
    """One input. A command comes with every odometry reading, and at once with a stop; else None.

    Raises:
        BugError: a move that the table does not have; the state stays as it was.
    """
    if isinstance(fact, EmergencyStopped):
        if state.phase is P.STOPPED:
            return state, STOP
        return _move(state, "emergency stop", P.STOPPED, fact.stamp_ns), STOP
    if isinstance(fact, EmergencyReleased):
        if state.phase is not P.STOPPED:
            return state, None
        return _move(state, "released", P.IDLE, fact.stamp_ns), STOP
    if isinstance(fact, StopAsked):
        return _stop(state, fact), STOP
    if isinstance(fact, DockAsked):
        return _begin(state, fact), None
    if isinstance(fact, UndockAsked):
        if state.phase not in (P.DOCKED, P.FAILED):
            return state, None
        return replace(
            _move(state, "undock asked", P.UNDOCKING, fact.stamp_ns), origin=state.base_in_odom
        ), None
    if isinstance(fact, ContactChanged):
        return _touch(state, fact), None
    if isinstance(fact, DockSeen):
        return _see(state, fact, settings), None
    history = (*state.history[-(HISTORY_MAX - 1) :], (fact.stamp_ns, fact.base_in_odom))
    return _drive(replace(state, history=history), fact, settings)


def _move(state: State, why: str, after: Phase, stamp_ns: int) -> State:
    if (state.phase, why, after) not in _LEGAL:
        raise BugError(f"docking has no move from {state.phase.value} to {after.value} because of {why!r}")
    return replace(state, phase=after, phase_ns=stamp_ns)


def _stop(state: State, fact: StopAsked) -> State:
    if state.phase in (P.IDLE, P.DOCKED, P.FAILED, P.STOPPED):
        return state
    after = P.FAILED if state.phase is P.UNDOCKING else P.IDLE
    return replace(_move(state, "stop asked", after, fact.stamp_ns), reason="stopped")


def _begin(state: State, fact: DockAsked) -> State:
    if state.phase not in (P.IDLE, P.FAILED):
        return state
    moved = _move(state, "dock asked", P.TRAVELLING, fact.stamp_ns)
    return replace(
        moved,
        dock=fact.dock,
        dock_in_odom=fact.expected_in_odom,
        sure=False,
        reason="",
        begun_ns=fact.stamp_ns,
        attempt=1,
        turned_rad=0.0,
    )


def _touch(state: State, fact: ContactChanged) -> State:
    state = replace(state, touching=fact.touching)
    if fact.touching and state.phase in (P.APPROACHING, P.TOUCHING):
        return _move(state, "contact", P.DOCKED, fact.stamp_ns)
    if not fact.touching and state.phase is P.DOCKED:
        return _back_off(state, "contact lost", fact.stamp_ns)
    return state


def _see(state: State, fact: DockSeen, settings: DockingSettings) -> State:
    base = _base_at(state, fact.stamp_ns)
    if base is None or state.dock_in_odom is None:
        return state
    seen = base.compose(fact.dock_in_base)
    if seen.distance_m(state.dock_in_odom) > settings.gate_m:
        return state  # another dock, or a wrong pose
    if state.phase not in (P.TRAVELLING, P.SEARCHING, P.STAGING, P.APPROACHING):
        return state
    if state.sure:
        gain, old = settings.filter_gain, state.dock_in_odom
        seen = Pose2(
            old.x_m + gain * (seen.x_m - old.x_m),
            old.y_m + gain * (seen.y_m - old.y_m),
            wrap_angle_rad(old.yaw_rad + gain * wrap_angle_rad(seen.yaw_rad - old.yaw_rad)),
        )
    state = replace(state, dock_in_odom=seen, sure=True, seen_ns=fact.stamp_ns)
    if state.phase in (P.TRAVELLING, P.SEARCHING):
        state = _move(state, "dock seen", P.STAGING, fact.stamp_ns)
    return state


def _base_at(state: State, stamp_ns: int) -> Pose2 | None:
    """Odometry at the time of an image, between the two readings around it; None when it is too old."""
    after: tuple[int, Pose2] | None = None
    for entry in reversed(state.history):
        if entry[0] <= stamp_ns:
            if after is None or after[0] == entry[0]:
                return entry[1]
            part = (stamp_ns - entry[0]) / (after[0] - entry[0])
            a, b = entry[1], after[1]
            return Pose2(
                a.x_m + part * (b.x_m - a.x_m),
                a.y_m + part * (b.y_m - a.y_m),
                wrap_angle_rad(a.yaw_rad + part * wrap_angle_rad(b.yaw_rad - a.yaw_rad)),
            )
        after = entry
    return None


def _back_off(state: State, why: str, stamp_ns: int) -> State:
    moved = _move(state, why, P.RETRYING, stamp_ns)
    return replace(moved, origin=state.base_in_odom, sure=False, turned_rad=0.0, reason=why)


def _aside(dock: Pose2, ahead_m: float) -> Pose2:
    """The pose that faces the dock from ``ahead_m`` in front of its panel."""
    return dock.compose(Pose2(-ahead_m, 0.0, 0.0))


def _drive(state: State, fact: OdometryRead, settings: DockingSettings) -> tuple[State, DriveCommand]:
    base, dock, now = fact.base_in_odom, state.dock_in_odom, fact.stamp_ns
    if state.phase in (P.IDLE, P.DOCKED, P.FAILED, P.STOPPED):
        return state, STOP
    if state.phase is P.UNDOCKING:
        return _leave(state, base, now, settings)
    if dock is None:
        raise BugError(f"{state.phase.value} without a dock")
    if now - state.begun_ns > settings.total_timeout_s * NS_PER_S:
        return replace(_move(state, "took too long", P.FAILED, now), reason="took too long"), STOP
    dock_in_base = base.inverse().compose(dock)
    if state.phase is P.TRAVELLING:
        return _travel(state, dock_in_base, now, settings)
    if state.phase is P.SEARCHING:
        return _search(state, dock_in_base, now, settings)
    if state.phase is P.STAGING:
        return _stage(state, dock_in_base, now, settings)
    if state.phase is P.APPROACHING:
        return _approach(state, dock_in_base, base, now, settings)
    if state.phase is P.TOUCHING:
        return _push(state, dock_in_base, base, now, settings)
    return _retreat(state, base, now, settings)


def _travel(
    state: State, dock_in_base: Pose2, now: int, settings: DockingSettings
) -> tuple[State, DriveCommand]:
    target = _aside(dock_in_base, settings.look_distance_m)
    distance = math.hypot(target.x_m, target.y_m)
    if distance < 0.25 or _gap_m(dock_in_base, settings) < 0.4:
        return replace(_move(state, "near the place to look from", P.SEARCHING, now), turned_rad=0.0), STOP
    bearing = math.atan2(target.y_m, target.x_m)
    if abs(bearing) > 0.6:
        return state, _turn(bearing, settings)
    return state, drive_to_pose(Pose2(target.x_m, target.y_m, bearing), settings.law)


def _search(
    state: State, dock_in_base: Pose2, now: int, settings: DockingSettings
) -> tuple[State, DriveCommand]:
    last = state.history[-2][1].yaw_rad if len(state.history) > 1 else state.history[-1][1].yaw_rad
    turned = state.turned_rad + abs(wrap_angle_rad(state.history[-1][1].yaw_rad - last))
    if turned > 2 * math.tau:
        return _back_off(replace(state, turned_rad=0.0), "turned around once", now), STOP
    bearing = math.atan2(dock_in_base.y_m, dock_in_base.x_m)
    # Look where the dock should be first; after a look without a sight, all around.
    if turned < math.pi and abs(bearing) > 0.15:
        return replace(state, turned_rad=turned), _turn(bearing, settings)
    if turned < math.pi and now - state.phase_ns < 3 * NS_PER_S:
        return replace(state, turned_rad=turned), STOP
    return replace(state, turned_rad=turned), DriveCommand(0.0, settings.search_turn_radps)


def _turn(bearing: float, settings: DockingSettings) -> DriveCommand:
    rate = min(settings.law.turn_max_radps, max(0.25, 1.5 * abs(bearing)))
    return DriveCommand(0.0, math.copysign(rate, bearing))


def _too_late(state: State, now: int, sight_s: float, settings: DockingSettings) -> str | None:
    if now - max(state.seen_ns, state.phase_ns) > sight_s * NS_PER_S:
        return "sight lost"
    if now - state.phase_ns > settings.phase_timeout_s * NS_PER_S:
        return "too slow"
    return None


def _gap_m(dock_in_base: Pose2, settings: DockingSettings) -> float:
    """Along the dock's axis, from the robot's pads to the dock's."""
    pads_in_dock = dock_in_base.inverse().compose(Pose2(settings.pads_x_m, 0.0, 0.0))
    return settings.dock_pads_x_m - pads_in_dock.x_m


def _stage(
    state: State, dock_in_base: Pose2, now: int, settings: DockingSettings
) -> tuple[State, DriveCommand]:
    # The dock leaves the picture while the robot curves to the staging pose: longer patience than in approach.
    late = _too_late(state, now, settings.sight_timeout_s * 3, settings)
    if late is not None:
        return _back_off(state, late, now), STOP
    base_in_dock = dock_in_base.inverse()
    ahead = -base_in_dock.x_m
    lateral, yaw = base_in_dock.y_m, base_in_dock.yaw_rad
    in_line = abs(lateral) < settings.staging_tolerance_m and abs(yaw) < settings.staging_tolerance_rad
    if in_line and ahead < settings.staging_distance_m + 0.6:
        return _move(state, "in front of the dock", P.APPROACHING, now), STOP
    target = _aside(dock_in_base, settings.staging_distance_m)
    distance = math.hypot(target.x_m, target.y_m)
    bearing = math.atan2(target.y_m, target.x_m)
    if distance < settings.staging_tolerance_m:
        facing = math.atan2(dock_in_base.y_m, dock_in_base.x_m) if abs(lateral) > 0.2 else target.yaw_rad
        if abs(facing) < settings.staging_tolerance_rad:
            return _move(state, "in front of the dock", P.APPROACHING, now), STOP
        return state, _turn(facing, settings)
    if abs(bearing) > 1.2:
        return state, _turn(bearing, settings)
    return state, drive_to_pose(target, settings.law)


def _approach(
    state: State, dock_in_base: Pose2, base: Pose2, now: int, settings: DockingSettings
) -> tuple[State, DriveCommand]:
    gap = _gap_m(dock_in_base, settings)
    late = _too_late(state, now, settings.sight_timeout_s / 2, settings)
    if late is not None and gap > settings.blind_distance_m:
        return _back_off(state, late, now), STOP
    base_in_dock = dock_in_base.inverse()
    if gap < settings.touch_distance_m:
        pads = base_in_dock.compose(Pose2(settings.pads_x_m, 0.0, 0.0))
        if abs(pads.y_m) > settings.lateral_max_m or abs(pads.yaw_rad) > settings.yaw_max_rad:
            return _back_off(state, "too far beside", now), STOP
        return replace(_move(state, "near", P.TOUCHING, now), origin=base), STOP
    # Aim a little behind the contact, so that the law never comes to its own end first.
    target = dock_in_base.compose(Pose2(settings.dock_pads_x_m - settings.pads_x_m + 0.15, 0.0, 0.0))
    command = drive_to_pose(target, settings.law)
    slow = min(1.0, max(0.15, gap / 0.6)) * 0.6
    return state, DriveCommand(command.linear_mps * slow, command.angular_radps * slow)


def _push(
    state: State, dock_in_base: Pose2, base: Pose2, now: int, settings: DockingSettings
) -> tuple[State, DriveCommand]:
    if state.origin is None:
        raise BugError("touching without an origin")
    gone = state.origin.distance_m(base)
    seconds = (now - state.phase_ns) / NS_PER_S
    far = settings.touch_distance_m + settings.touch_over_m
    if gone > far or seconds > 2.0 + far / settings.touch_speed_mps * 1.5:
        return _back_off(state, "no contact", now), STOP
    heading = dock_in_base.yaw_rad
    return state, DriveCommand(settings.touch_speed_mps, max(-0.15, min(0.15, heading)))


def _retreat(state: State, base: Pose2, now: int, settings: DockingSettings) -> tuple[State, DriveCommand]:
    if state.attempt >= settings.tries:
        return _move(state, "tries used up", P.FAILED, now), STOP
    if state.origin is None:
        raise BugError("backing off without an origin")
    seconds = (now - state.phase_ns) / NS_PER_S
    if state.origin.distance_m(base) >= settings.back_off_m or seconds > 8.0:
        moved = _move(state, "backed off", P.SEARCHING, now)
        return replace(moved, attempt=state.attempt + 1, turned_rad=0.0), STOP
    return state, DriveCommand(-0.15, 0.0)


def _leave(state: State, base: Pose2, now: int, settings: DockingSettings) -> tuple[State, DriveCommand]:
    if state.origin is None:
        raise BugError("undocking without an origin")
    if state.origin.distance_m(base) >= settings.undock_m:
        return _move(state, "clear of the dock", P.IDLE, now), STOP
    if now - state.phase_ns > 15 * NS_PER_S:
        return replace(_move(state, "too slow", P.FAILED, now), reason="could not leave the dock"), STOP
    return state, DriveCommand(-0.15, 0.0)
