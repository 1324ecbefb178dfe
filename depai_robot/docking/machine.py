"""The docking machine: ``step(state, input) -> (state, command)``, on the table of legal moves of ``phase``.

A known approximate pose of the dock (from the map) says where to look and where to drive first; from the first
detection on, the dock's pose in the odometry frame is filtered from what the camera sees, each seen pose placed at the
odometry of its own stamp, so that latency does not bend it. The last centimetres before contact are driven straight.

Any loss of sight, time-out or missed contact backs off and tries again, a limited number of times; an emergency stop
works in every phase, and while something stands in the way the robot stands. Once docked, nothing but a wish moves the
robot: contact that is lost is a failure, told to whoever asked for the dock.
"""

import math
from dataclasses import dataclass, field, replace

from depai_robot.docking.fact import (
    ContactChanged,
    DockAsked,
    DockSeen,
    EmergencyReleased,
    EmergencyStopped,
    Input,
    OdometryRead,
    StopAsked,
    UndockAsked,
    WayWatched,
)
from depai_robot.docking.law import drive_to_pose
from depai_robot.docking.phase import BUMPED, DRIVING, MOVES, Phase
from depai_robot.docking.scale import ScaleFit
from depai_robot.docking.setting import DockingSettings
from depai_robot.values.error import BugError
from depai_robot.values.geometry import STOP, DriveCommand, Pose2, wrap_angle_rad

__all__ = [
    "MOVES",
    "ContactChanged",
    "DockAsked",
    "DockSeen",
    "DockingSettings",
    "EmergencyReleased",
    "EmergencyStopped",
    "Input",
    "OdometryRead",
    "Phase",
    "State",
    "StopAsked",
    "UndockAsked",
    "WayWatched",
    "step",
]

NS_PER_S = 1_000_000_000
HISTORY_MAX = 200
"""Odometry readings kept to place a late image: 4 s at 50 Hz."""
ODOMETRY_SPEED_MAX_MPS = 3.0
"""Wheels that say more than this have been reset: every pose in the odometry frame is void."""
ODOMETRY_SLACK_M = 0.2
TIME_SLACK_NS = NS_PER_S
"""A reading that is older than the newest by less than this came late; by more, the clock was set back."""
P = Phase
_LEGAL = frozenset(MOVES)


@dataclass(frozen=True, slots=True)
class State:
    """What is known.

    Attributes:
        phase: where docking is.
        reason: why it failed, or why the last try did.
        dock: the one asked for.
        dock_in_odom: where it is now thought to be.
        sure: whether the camera has seen it in this try.
        sight_ns: when it was last seen, or last could not be seen from where the robot was.
        phase_ns: since when in this phase.
        begun_ns: since when in all.
        history: (stamp_ns, base_in_odom), oldest first.
        touching: the pads.
        touch_ns: when that last changed.
        turned_rad: while searching.
        origin: of the odometry where backing off, touching or undocking began.
        attempt: 1 for the first.
        blocked: something stands in the way: the robot stands, and its patience with it.
        scale: whether the dock's model is right, by the wheels; of this try.
    """

    phase: Phase = P.IDLE
    reason: str = ""
    dock: str = ""
    dock_in_odom: Pose2 | None = None
    sure: bool = False
    sight_ns: int = 0
    phase_ns: int = 0
    begun_ns: int = 0
    history: tuple[tuple[int, Pose2], ...] = ()
    touching: bool = False
    touch_ns: int = 0
    turned_rad: float = 0.0
    origin: Pose2 | None = None
    attempt: int = 1
    blocked: bool = False
    scale: ScaleFit = field(default_factory=ScaleFit)

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
        return _begin(state, fact, settings), None
    if isinstance(fact, UndockAsked):
        return _ask_to_leave(state, fact, settings), None
    if isinstance(fact, ContactChanged):
        return _touch(state, fact), None
    if isinstance(fact, WayWatched):
        state = replace(state, blocked=not fact.clear)
        return state, STOP if state.blocked and state.phase in DRIVING else None
    if isinstance(fact, DockSeen):
        return _see(state, fact, settings), None
    return _read_odometry(state, fact, settings)


def _move(state: State, why: str, after: Phase, stamp_ns: int) -> State:
    if (state.phase, why, after) not in _LEGAL:
        raise BugError(f"docking has no move from {state.phase.value} to {after.value} because of {why!r}")
    return replace(state, phase=after, phase_ns=stamp_ns)


def _fail(state: State, why: str, stamp_ns: int) -> State:
    return replace(_move(state, why, P.FAILED, stamp_ns), reason=why)


def _back_off(state: State, why: str, stamp_ns: int) -> State:
    moved = _move(state, why, P.RETRYING, stamp_ns)
    return replace(moved, origin=state.base_in_odom, sure=False, turned_rad=0.0, reason=why)


# --- wishes ---------------------------------------------------------------------------------------------------


def _stop(state: State, fact: StopAsked) -> State:
    if state.phase is P.UNDOCKING:
        return replace(_move(state, "stop asked", P.FAILED, fact.stamp_ns), reason="stopped")
    if state.phase in DRIVING:
        return replace(_move(state, "stop asked", P.IDLE, fact.stamp_ns), reason="stopped")
    return state


def _begin(state: State, fact: DockAsked, settings: DockingSettings) -> State:
    base = state.base_in_odom
    if state.phase not in (P.IDLE, P.FAILED) or base is None:
        return state  # busy, or nothing says yet where the robot is
    asked = replace(
        state,
        dock=fact.dock,
        dock_in_odom=fact.expected_in_odom,
        sure=False,
        reason="",
        begun_ns=fact.stamp_ns,
        sight_ns=fact.stamp_ns,
        attempt=1,
        turned_rad=0.0,
    )
    expected_in_base = base.inverse().compose(fact.expected_in_odom)
    if state.touching and _beside_m(expected_in_base, settings) < settings.gate_m:
        # Started, or stopped, on a dock. It is where the asked one should be, so it is taken for that: the station
        # proves by its nonce whether it is.
        return replace(_move(asked, "in contact already", P.TOUCHING, fact.stamp_ns), origin=base)
    if _beside_m(expected_in_base, settings) < 2 * settings.clear_m or not _is_clear(state, settings):
        return replace(_back_off(asked, "too near a dock", fact.stamp_ns), attempt=0)
    return _move(asked, "dock asked", P.TRAVELLING, fact.stamp_ns)


def _ask_to_leave(state: State, fact: UndockAsked, settings: DockingSettings) -> State:
    if state.phase in (P.DOCKED, P.FAILED) or (state.phase is P.IDLE and not _is_clear(state, settings)):
        moved = _move(state, "undock asked", P.UNDOCKING, fact.stamp_ns)
        # Out of touch and with no dock known, there is nothing to drive away from.
        leaves = state.touching or state.dock_in_odom is not None
        return replace(moved, origin=state.base_in_odom if leaves else None)
    return state


def _touch(state: State, fact: ContactChanged) -> State:
    if fact.touching != state.touching:
        state = replace(state, touching=fact.touching, touch_ns=fact.stamp_ns)
    if fact.touching and state.phase is P.APPROACHING:
        return replace(_move(state, "contact", P.TOUCHING, fact.stamp_ns), origin=state.base_in_odom)
    if fact.touching and state.phase in (P.TRAVELLING, P.SEARCHING, P.STAGING):
        return _back_off(state, BUMPED, fact.stamp_ns)
    return state


# --- sight ----------------------------------------------------------------------------------------------------


def _see(state: State, fact: DockSeen, settings: DockingSettings) -> State:
    base = _base_at(state, fact.stamp_ns)
    if base is None or state.dock_in_odom is None:
        return state
    if state.phase not in (P.TRAVELLING, P.SEARCHING, P.STAGING, P.APPROACHING):
        return state
    seen, old = base.compose(fact.dock_in_base), state.dock_in_odom
    off_rad = wrap_angle_rad(seen.yaw_rad - old.yaw_rad)
    narrow = 0.5 if state.sure else 1.0
    if not state.sure:
        state = replace(state, scale=ScaleFit())
    if seen.distance_m(old) > settings.gate_m * narrow or abs(off_rad) > settings.gate_rad * narrow:
        return state  # another dock, or a wrong pose
    state = replace(state, scale=state.scale.add(base, fact.dock_in_base, settings.camera_x_m))
    if state.sure:
        gain = settings.filter_gain
        seen = Pose2(
            old.x_m + gain * (seen.x_m - old.x_m),
            old.y_m + gain * (seen.y_m - old.y_m),
            wrap_angle_rad(old.yaw_rad + gain * off_rad),
        )
    state = replace(state, dock_in_odom=seen, sure=True, sight_ns=max(state.sight_ns, fact.stamp_ns))
    if state.phase in (P.TRAVELLING, P.SEARCHING):
        state = _move(state, "dock seen", P.STAGING, state.history[-1][0])
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


def _in_view(dock_in_base: Pose2, settings: DockingSettings) -> bool:
    """Whether the camera should have the dock in its picture, face on."""
    bearing = math.atan2(dock_in_base.y_m, dock_in_base.x_m - settings.camera_x_m)
    return abs(bearing) < settings.view_half_rad


# --- distances ------------------------------------------------------------------------------------------------


def _pads_in_dock(dock_in_base: Pose2, settings: DockingSettings) -> Pose2:
    return dock_in_base.inverse().compose(Pose2(settings.pads_x_m, 0.0, 0.0))


def _gap_m(dock_in_base: Pose2, settings: DockingSettings) -> float:
    """Along the dock's axis, from the robot's pads to the dock's."""
    return settings.dock_pads_x_m - _pads_in_dock(dock_in_base, settings).x_m


def _beside_m(dock_in_base: Pose2, settings: DockingSettings) -> float:
    """From the robot's pads to the dock's, in a straight line."""
    return math.hypot(_gap_m(dock_in_base, settings), _pads_in_dock(dock_in_base, settings).y_m)


def _is_clear(state: State, settings: DockingSettings) -> bool:
    """Whether the robot may turn on the spot without scraping the dock it last knew of."""
    if state.touching:
        return False
    base, dock = state.base_in_odom, state.dock_in_odom
    if base is None or dock is None:
        return True
    return _beside_m(base.inverse().compose(dock), settings) >= settings.undock_m


def _aside(dock: Pose2, ahead_m: float, left_m: float = 0.0) -> Pose2:
    """The pose that looks along the dock's axis from ``ahead_m`` in front of its panel."""
    return dock.compose(Pose2(-ahead_m, left_m, 0.0))


# --- motion ---------------------------------------------------------------------------------------------------


def _read_odometry(
    state: State, fact: OdometryRead, settings: DockingSettings
) -> tuple[State, DriveCommand | None]:
    now = fact.stamp_ns
    if state.history:
        last_ns, last = state.history[-1]
        if last_ns - TIME_SLACK_NS < now <= last_ns:
            return state, None
        reach_m = ODOMETRY_SPEED_MAX_MPS * max(0, now - last_ns) / NS_PER_S + ODOMETRY_SLACK_M
        if now <= last_ns or fact.base_in_odom.distance_m(last) > reach_m:
            state = replace(state, history=((now, fact.base_in_odom),), touch_ns=now)
            if state.phase in DRIVING or state.phase is P.UNDOCKING:
                state = _fail(state, "odometry jumped", now)
            return replace(state, dock_in_odom=None, origin=None), STOP
    state = replace(state, history=(*state.history[-(HISTORY_MAX - 1) :], (now, fact.base_in_odom)))
    return _drive(state, fact.base_in_odom, now, settings)


def _drive(state: State, base: Pose2, now: int, settings: DockingSettings) -> tuple[State, DriveCommand]:
    if state.phase is P.DOCKED:
        lost = not state.touching and now - state.touch_ns > settings.contact_grace_s * NS_PER_S
        return (_fail(state, "contact lost", now) if lost else state), STOP
    if state.phase is P.UNDOCKING:
        return _leave(state, base, now, settings)
    if state.phase not in DRIVING:
        return state, STOP
    dock = state.dock_in_odom
    if dock is None:
        raise BugError(f"{state.phase.value} without a dock")
    if now - state.begun_ns > settings.total_timeout_s * NS_PER_S:
        return _fail(state, "took too long", now), STOP
    if state.blocked and not state.touching:
        # Standing is not slowness, nor loss of sight; only the time for everything runs on.
        waited = now - state.history[-2][0] if len(state.history) > 1 else 0
        return replace(state, phase_ns=state.phase_ns + waited, sight_ns=state.sight_ns + waited), STOP
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
    return _retreat(state, dock_in_base, base, now, settings)


def _turn(bearing: float, settings: DockingSettings) -> DriveCommand:
    rate = min(settings.law.turn_max_radps, max(0.25, 1.5 * abs(bearing)))
    return DriveCommand(0.0, math.copysign(rate, bearing))


def _late(state: State, now: int, sight_s: float, settings: DockingSettings) -> str | None:
    if now - max(state.sight_ns, state.phase_ns) > sight_s * NS_PER_S:
        return "sight lost"
    if now - state.phase_ns > settings.phase_timeout_s * NS_PER_S:
        return "too slow"
    return None


def _travel(
    state: State, dock_in_base: Pose2, now: int, settings: DockingSettings
) -> tuple[State, DriveCommand]:
    if now - state.phase_ns > settings.phase_timeout_s * NS_PER_S:
        return _back_off(state, "too slow", now), STOP
    # Where nothing was seen the first time, another place may show it.
    left_m = (0.0, settings.look_aside_m, -settings.look_aside_m)[(state.attempt - 1) % 3]
    target = _aside(dock_in_base, settings.look_distance_m, left_m)
    distance = math.hypot(target.x_m, target.y_m)
    if distance < 0.25 or (state.attempt == 1 and dock_in_base.distance_m(Pose2(0, 0, 0)) < 1.2):
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
    if turned > 1.6 * math.tau or now - state.phase_ns > settings.phase_timeout_s * NS_PER_S:
        return _back_off(replace(state, turned_rad=0.0), "not found", now), STOP
    bearing = math.atan2(dock_in_base.y_m, dock_in_base.x_m)
    # Look where the dock should be first; after a look without a sight, all around.
    looking = turned < math.pi + 0.2
    if looking and abs(bearing) > 0.15:
        state = replace(state, turned_rad=turned, sight_ns=now)
        return state, _turn(bearing, settings)
    if looking and now - max(state.sight_ns, state.phase_ns) < settings.look_s * NS_PER_S:
        return replace(state, turned_rad=turned), STOP
    return replace(state, turned_rad=max(turned, math.pi + 0.2)), DriveCommand(
        0.0, settings.search_turn_radps
    )


def _stage(
    state: State, dock_in_base: Pose2, now: int, settings: DockingSettings
) -> tuple[State, DriveCommand]:
    if not _in_view(dock_in_base, settings):
        # It leaves the picture while the robot curves to the staging pose; odometry holds it meanwhile.
        state = replace(state, sight_ns=now)
    late = _late(state, now, settings.sight_timeout_s, settings)
    if late is not None:
        return _back_off(state, late, now), STOP
    base_in_dock = dock_in_base.inverse()
    ahead, lateral, yaw = -base_in_dock.x_m, base_in_dock.y_m, base_in_dock.yaw_rad
    in_line = abs(lateral) < settings.staging_tolerance_m and abs(yaw) < settings.staging_tolerance_rad
    if in_line and ahead < settings.staging_distance_m + 0.6:
        return _move(state, "in front of the dock", P.APPROACHING, now), STOP
    if _beside_m(dock_in_base, settings) < settings.clear_m:
        return _back_off(state, "too near", now), STOP
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
    late = _late(state, now, settings.sight_timeout_s / 2, settings)
    if late is not None and gap > settings.blind_distance_m:
        return _back_off(state, late, now), STOP
    if gap < settings.touch_distance_m:
        pads = _pads_in_dock(dock_in_base, settings)
        if abs(pads.y_m) > settings.lateral_max_m or abs(pads.yaw_rad) > settings.yaw_max_rad:
            return _back_off(state, "too far beside", now), STOP
        return replace(_move(state, "near", P.TOUCHING, now), origin=base), STOP
    # Aim a little behind the contact, so that the law never comes to its own end first.
    target = dock_in_base.compose(Pose2(settings.dock_pads_x_m - settings.pads_x_m + 0.15, 0.0, 0.0))
    command = drive_to_pose(target, settings.law)
    speed = max(settings.touch_speed_mps, settings.approach_rate_per_s * gap)
    slow = min(1.0, speed / command.linear_mps)
    return state, DriveCommand(command.linear_mps * slow, command.angular_radps * slow)


def _push(
    state: State, dock_in_base: Pose2, base: Pose2, now: int, settings: DockingSettings
) -> tuple[State, DriveCommand]:
    if state.touching:
        if now - max(state.touch_ns, state.phase_ns) >= settings.contact_hold_s * NS_PER_S:
            # Touching pads say where the dock is better than any picture did.
            dock = base.compose(Pose2(settings.pads_x_m - settings.dock_pads_x_m, 0.0, 0.0))
            return replace(_move(state, "contact held", P.DOCKED, now), reason="", dock_in_odom=dock), STOP
        return state, STOP
    if state.origin is None:
        raise BugError("touching without an origin")
    gone = state.origin.distance_m(base)
    seconds = (now - state.phase_ns) / NS_PER_S
    far = settings.touch_distance_m + settings.touch_over_m
    if gone > far or seconds > 2.0 + far / settings.touch_speed_mps * 1.5:
        return _back_off(state, "no contact", now), STOP
    heading = dock_in_base.yaw_rad
    return state, DriveCommand(settings.touch_speed_mps, max(-0.15, min(0.15, heading)))


def _retreat(
    state: State, dock_in_base: Pose2, base: Pose2, now: int, settings: DockingSettings
) -> tuple[State, DriveCommand]:
    if state.attempt >= settings.tries:
        return _move(state, "tries used up", P.FAILED, now), STOP
    if state.origin is None:
        raise BugError("backing off without an origin")
    # The robot goes back only from what is in front of it: the dock, by the estimate, or the pads, by touch.
    # Attempt 0 leaves a dock that is not the asked one, and nothing says how near it is.
    reach_m = settings.undock_m if state.attempt == 0 else settings.back_off_m
    near = (
        state.touching
        or state.attempt == 0
        or state.reason == BUMPED
        or _beside_m(dock_in_base, settings) < settings.clear_m + settings.back_off_m
    )
    seconds = (now - state.phase_ns) / NS_PER_S
    if near and state.origin.distance_m(base) < reach_m and seconds < reach_m / settings.reverse_mps * 2.0:
        return state, DriveCommand(-settings.reverse_mps, 0.0)
    again = replace(state, attempt=state.attempt + 1, turned_rad=0.0, sight_ns=now)
    far = math.hypot(dock_in_base.x_m, dock_in_base.y_m) > settings.look_distance_m + 0.8
    if far or state.reason == "not found":
        return _move(again, "far from the dock", P.TRAVELLING, now), STOP
    return _move(again, "backed off", P.SEARCHING, now), STOP


def _leave(state: State, base: Pose2, now: int, settings: DockingSettings) -> tuple[State, DriveCommand]:
    gone = settings.undock_m if state.origin is None else state.origin.distance_m(base)
    known = state.dock_in_odom is not None
    if not state.touching and (gone >= settings.undock_m or (known and _is_clear(state, settings))):
        return _move(state, "clear of the dock", P.IDLE, now), STOP
    if now - state.phase_ns > settings.undock_timeout_s * NS_PER_S:
        return replace(_move(state, "too slow", P.FAILED, now), reason="could not leave the dock"), STOP
    return state, DriveCommand(-settings.reverse_mps, 0.0)
