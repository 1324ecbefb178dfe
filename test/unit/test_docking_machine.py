import math
from dataclasses import replace

import pytest

from depai_robot.docking.fact import (
    ContactChanged,
    DockAsked,
    DockSeen,
    EmergencyReleased,
    EmergencyStopped,
    OdometryRead,
    StopAsked,
    UndockAsked,
    WayWatched,
)
from depai_robot.docking.machine import State, step
from depai_robot.docking.phase import DRIVING, MOVES, Phase
from depai_robot.docking.setting import DockingSettings
from depai_robot.values.error import BugError, ConfigError
from depai_robot.values.geometry import STOP, Pose2
from test.floor import CONTACT_M, Floor, docked_floor, is_moving, start_at

SETTINGS = DockingSettings()
HERE = Pose2(0.0, 0.0, 0.0)
S = 1_000_000_000


def in_phase(phase, **changes):
    """A state in the middle of things."""
    given = {
        "phase": phase,
        "dock": "dock_a",
        "dock_in_odom": Pose2(1.5, 0.0, 0.0),
        "history": ((0, HERE),),
        "origin": HERE,
        **changes,
    }
    return State(**given)


# --- the whole way --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_it_docks_from_anywhere_in_the_fan(seed):
    distance, angle = 1.0 + 3.0 * (seed % 4) / 3, -60 + 120 * seed / 11
    floor = Floor(start_at(distance, angle, heading_deg=67 * seed), seed=seed)
    floor.ask()
    assert floor.run(Phase.DOCKED, Phase.FAILED) is Phase.DOCKED, floor.state.reason
    pads = floor.pads_in_dock()
    assert abs(pads.y_m) < 0.02
    assert abs(pads.yaw_rad) < 0.05


def test_it_leaves_straight_back_and_can_dock_again():
    floor = docked_floor()
    floor.feed(UndockAsked(floor.now_ns))
    assert floor.state.phase is Phase.UNDOCKING
    floor.run(Phase.IDLE)
    floor.run_for(1.0)
    assert floor.pads_in_dock().x_m == pytest.approx(-0.15 - SETTINGS.undock_m, abs=0.05)
    assert abs(floor.base_in_map.y_m) < 0.02
    floor.ask()
    floor.run(Phase.DOCKED)


def test_a_dock_that_is_not_there_ends_in_failure_and_standing():
    floor = Floor(start_at(2.5, 20, 90), ideal=True)
    floor.sees = False
    floor.ask()
    floor.run(Phase.FAILED)
    assert floor.state.reason in ("not found", "took too long")
    assert floor.phases.count(Phase.SEARCHING) >= 2
    floor.run_for(1.0)
    assert floor.linear == floor.angular == 0.0
    assert floor.base_in_map.x_m < -CONTACT_M


def test_pads_that_never_touch_use_up_the_tries():
    floor = Floor(start_at(1.5), ideal=True)
    floor.pads_work = False
    floor.ask()
    floor.run(Phase.FAILED)
    assert floor.state.reason == "no contact"
    assert floor.phases.count(Phase.TOUCHING) == SETTINGS.tries


def test_sight_lost_in_the_approach_backs_off_and_looks_again():
    floor = Floor(start_at(1.5), ideal=True)
    floor.ask()
    floor.run(Phase.APPROACHING)
    floor.run_for(1.0)
    floor.sees = False
    floor.run(Phase.RETRYING, limit_s=SETTINGS.sight_timeout_s)
    assert floor.state.reason == "sight lost"
    floor.sees = True
    floor.run(Phase.DOCKED)
    assert floor.state.reason == ""
    assert floor.state.attempt == 2


# --- sight ----------------------------------------------------------------------------------------------------


def test_a_late_image_is_placed_where_the_robot_was():
    turned = tuple((i * S // 50, Pose2(0.0, 0.0, 0.016 * i)) for i in range(51))  # 0.8 rad/s
    dock = Pose2(2.0, 0.3, 0.1)
    state = in_phase(Phase.STAGING, history=turned, dock_in_odom=Pose2(1.9, 0.2, 0.0))
    for stamp_ns in (S // 2, S // 2 + 7_000_000, S):
        seen_from = Pose2(0.0, 0.0, 0.8 * stamp_ns / S)
        after, command = step(state, DockSeen(stamp_ns, seen_from.inverse().compose(dock)), SETTINGS)
        assert command is None
        assert after.sure
        assert after.dock_in_odom.distance_m(dock) < 1e-6
        assert after.dock_in_odom.yaw_rad == pytest.approx(dock.yaw_rad)


def test_an_image_older_than_the_odometry_is_not_placed():
    state = in_phase(Phase.STAGING, history=((5 * S, HERE),))
    assert step(state, DockSeen(4 * S, Pose2(1.5, 0.1, 0.0)), SETTINGS) == (state, None)


@pytest.mark.parametrize("other", [(1.5, 1.2, 0.0), (1.5, 0.0, 1.4), (4.0, 0.0, 0.0)])
def test_another_dock_or_a_wrong_pose_is_ignored(other):
    state = in_phase(Phase.TRAVELLING)
    assert step(state, DockSeen(0, Pose2(*other)), SETTINGS) == (state, None)


def test_after_the_first_sight_less_is_believed():
    seen = DockSeen(0, Pose2(1.5, 0.7, 0.0))
    assert step(in_phase(Phase.TRAVELLING), seen, SETTINGS)[0].phase is Phase.STAGING
    sure = in_phase(Phase.STAGING, sure=True)
    assert step(sure, seen, SETTINGS) == (sure, None)


def test_later_sights_are_filtered():
    after, _ = step(in_phase(Phase.STAGING, sure=True), DockSeen(0, Pose2(1.6, 0.0, 0.1)), SETTINGS)
    assert after.dock_in_odom.x_m == pytest.approx(1.5 + 0.1 * SETTINGS.filter_gain)
    assert after.dock_in_odom.yaw_rad == pytest.approx(0.1 * SETTINGS.filter_gain)


@pytest.mark.parametrize(
    "phase", [Phase.IDLE, Phase.DOCKED, Phase.UNDOCKING, Phase.FAILED, Phase.STOPPED, Phase.TOUCHING]
)
def test_where_sight_does_not_matter_it_changes_nothing(phase):
    state = in_phase(phase)
    assert step(state, DockSeen(0, Pose2(1.5, 0.1, 0.0)), SETTINGS) == (state, None)


# --- stopping -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", list(Phase))
def test_an_emergency_stop_works_in_every_phase_and_stays(phase):
    state, command = step(in_phase(phase), EmergencyStopped(1), SETTINGS)
    assert (state.phase, command) == (Phase.STOPPED, STOP)
    for fact in (
        OdometryRead(S, HERE),
        DockAsked(S, "dock_a", Pose2(1.5, 0, 0)),
        UndockAsked(S),
        StopAsked(S),
    ):
        state, command = step(state, fact, SETTINGS)
        assert state.phase is Phase.STOPPED
        assert not is_moving(command)
    state, command = step(state, EmergencyReleased(2 * S), SETTINGS)
    assert (state.phase, command) == (Phase.IDLE, STOP)


@pytest.mark.parametrize("phase", list(Phase))
def test_a_stop_stops_at_once(phase):
    state, command = step(in_phase(phase), StopAsked(1), SETTINGS)
    assert command == STOP
    expected = Phase.IDLE if phase in DRIVING else Phase.FAILED if phase is Phase.UNDOCKING else phase
    assert state.phase is expected


@pytest.mark.parametrize("phase", [Phase.IDLE, Phase.DOCKED, Phase.FAILED, Phase.STOPPED])
def test_resting_phases_never_move(phase):
    state = in_phase(phase, touching=phase is Phase.DOCKED)
    for i in range(1, 100):
        state, command = step(state, OdometryRead(i * S // 50, HERE), SETTINGS)
        assert command == STOP
    assert state.phase is phase


def test_everything_takes_at_most_its_time():
    floor = Floor(start_at(2.0), ideal=True, settings=DockingSettings(total_timeout_s=3.0))
    floor.ask()
    assert floor.run(Phase.FAILED) is Phase.FAILED
    assert floor.state.reason == "took too long"
    assert floor.now_ns <= 3.1 * S


# --- contact --------------------------------------------------------------------------------------------------


def test_contact_must_hold_before_it_counts():
    state = in_phase(Phase.TOUCHING, phase_ns=0)
    state, _ = step(state, ContactChanged(S, touching=True), SETTINGS)
    state, command = step(state, OdometryRead(S + S // 10, HERE), SETTINGS)
    assert (state.phase, command) == (Phase.TOUCHING, STOP)
    bounced, _ = step(state, ContactChanged(S + S // 5, touching=False), SETTINGS)
    bounced, command = step(bounced, OdometryRead(2 * S, HERE), SETTINGS)
    assert bounced.phase is Phase.TOUCHING
    assert command.linear_mps == SETTINGS.touch_speed_mps
    held, command = step(state, OdometryRead(2 * S, HERE), SETTINGS)
    assert (held.phase, command) == (Phase.DOCKED, STOP)
    assert held.dock_in_odom.x_m == pytest.approx(CONTACT_M)


def test_a_bounce_is_forgiven_and_a_lost_contact_is_a_failure_without_motion():
    floor = docked_floor()
    floor.pads_work = False
    floor.run_for(0.2)
    floor.pads_work = True
    floor.run_for(2.0)
    assert floor.state.phase is Phase.DOCKED
    floor.pads_work = False
    floor.run(Phase.FAILED, limit_s=1.0)
    assert floor.state.reason == "contact lost"
    floor.run_for(1.0)
    assert floor.linear == 0.0


def test_a_robot_that_starts_on_the_dock_is_docked():
    floor = Floor(start_at(CONTACT_M), ideal=True)
    floor.run_for(0.1)
    assert floor.touching
    floor.ask()
    floor.run(Phase.DOCKED)
    assert not any(is_moving(command) for command in floor.commands)


def test_a_robot_that_starts_on_a_dock_can_leave_it():
    floor = Floor(start_at(CONTACT_M), ideal=True)
    floor.run_for(0.1)
    floor.feed(UndockAsked(floor.now_ns))
    floor.run(Phase.IDLE)
    assert floor.pads_in_dock().x_m == pytest.approx(-0.65, abs=0.05)


@pytest.mark.parametrize("touching", [True, False])
def test_near_one_dock_it_backs_off_before_it_goes_to_another(touching):
    floor = Floor(start_at(CONTACT_M if touching else CONTACT_M + 0.05), ideal=True)
    floor.run_for(0.1)
    floor.state = replace(
        floor.state, dock_in_odom=Pose2(CONTACT_M if touching else CONTACT_M + 0.05, 0.0, 0.0)
    )
    far = floor.base_in_odom.compose(Pose2(-3.0, 1.0, math.pi))
    floor.feed(DockAsked(floor.now_ns, "dock_b", far))
    assert floor.state.phase is Phase.RETRYING
    while floor.state.phase is Phase.RETRYING:
        floor.tick()
        assert floor.command.angular_radps == 0.0
    assert floor.state.phase is Phase.TRAVELLING
    assert floor.pads_in_dock().x_m < -0.15 - 0.4
    assert floor.state.attempt == 1


@pytest.mark.parametrize("phase", [Phase.TRAVELLING, Phase.SEARCHING, Phase.STAGING])
def test_touching_something_on_the_way_backs_off(phase):
    state, _ = step(in_phase(phase), ContactChanged(S // 50, touching=True), SETTINGS)
    assert (state.phase, state.reason) == (Phase.RETRYING, "touched on the way")
    state, _ = step(state, ContactChanged(S // 25, touching=False), SETTINGS)
    for i in range(3, 60):
        state, command = step(state, OdometryRead(i * S // 50, Pose2(-0.003 * i, 0.0, 0.0)), SETTINGS)
        assert (state.phase, command.linear_mps) == (Phase.RETRYING, -SETTINGS.reverse_mps)


def test_undocking_that_does_not_get_clear_fails():
    state = in_phase(Phase.DOCKED, touching=True, dock_in_odom=Pose2(CONTACT_M, 0.0, 0.0))
    state, _ = step(state, UndockAsked(0), SETTINGS)
    for i in range(1, 1000):
        state, command = step(state, OdometryRead(i * S // 50, HERE), SETTINGS)
        if state.phase is not Phase.UNDOCKING:
            break
        assert command.linear_mps < 0
    assert state.phase is Phase.FAILED
    assert state.reason == "could not leave the dock"
    assert command == STOP


# --- odometry -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fact", [OdometryRead(S + S // 50, Pose2(3.0, 0.0, 0.0)), OdometryRead(-5 * S, HERE)]
)
def test_odometry_that_was_reset_ends_the_try_standing(fact):
    for phase in DRIVING | {Phase.UNDOCKING}:
        state = in_phase(phase, history=((S, HERE),))
        after, command = step(state, fact, SETTINGS)
        assert (after.phase, after.reason, command) == (Phase.FAILED, "odometry jumped", STOP)
        assert after.dock_in_odom is None


def test_odometry_that_comes_late_is_passed_over():
    state = in_phase(Phase.STAGING, history=((S, HERE),))
    assert step(state, OdometryRead(S, HERE), SETTINGS) == (state, None)
    assert step(state, OdometryRead(S - S // 10, HERE), SETTINGS) == (state, None)


def test_before_any_odometry_no_dock_is_asked_for():
    for touching in (False, True):
        state = State(touching=touching)
        assert step(state, DockAsked(0, "dock_a", Pose2(2.0, 0.0, 0.0)), SETTINGS) == (state, None)


# --- something in the way -------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", sorted(DRIVING))
def test_something_in_the_way_stops_at_once_and_holds_the_robot(phase):
    state = in_phase(phase)
    state, command = step(state, WayWatched(0, clear=False), SETTINGS)
    assert command == STOP
    for tick in range(1, 51):
        state, command = step(state, OdometryRead(tick * S // 50, HERE), SETTINGS)
        assert command == STOP
    assert state.phase is phase


@pytest.mark.parametrize("seed", range(3))
def test_after_a_pause_the_approach_goes_on_as_if_nothing_had_been(seed):
    """A pause of 20 s, longer than any patience of the approach but the one for everything."""
    floor = Floor(start_at(2.0, 15.0), seed=seed)
    floor.ask()
    floor.run(Phase.APPROACHING)
    floor.run_for(0.5)
    floor.feed(WayWatched(floor.now_ns, clear=False))
    floor.run_for(0.5)
    stood = floor.base_in_map
    floor.run_for(20.0)
    assert floor.base_in_map.distance_m(stood) < 1e-6
    assert floor.state.phase is Phase.APPROACHING
    floor.feed(WayWatched(floor.now_ns, clear=True))
    assert floor.run(Phase.DOCKED, Phase.FAILED) is Phase.DOCKED
    assert floor.state.attempt == 1


def test_a_way_that_stays_blocked_ends_in_failure_and_standing():
    floor = Floor(start_at(2.0), seed=1, settings=DockingSettings(total_timeout_s=30.0))
    floor.ask()
    floor.feed(WayWatched(floor.now_ns, clear=False))
    assert floor.run(Phase.FAILED, limit_s=40.0) is Phase.FAILED
    assert floor.state.reason == "took too long"
    assert floor.commands[-1] == STOP


def test_leaving_a_dock_and_resting_are_not_held():
    """The camera looks at the dock: what it sees there is not behind the robot."""
    for phase in (Phase.UNDOCKING, Phase.IDLE, Phase.DOCKED):
        state, command = step(in_phase(phase, touching=True), WayWatched(0, clear=False), SETTINGS)
        assert command is None
    state, command = step(
        in_phase(Phase.UNDOCKING, blocked=True, touching=True), OdometryRead(S // 50, HERE), SETTINGS
    )
    assert is_moving(command)


# --- table and settings ---------------------------------------------------------------------------------------


def test_the_table_has_each_move_once_and_a_way_out_of_every_phase():
    assert len(set(MOVES)) == len(MOVES)
    for phase in Phase:
        if phase is not Phase.STOPPED:
            assert (phase, "emergency stop", Phase.STOPPED) in MOVES
        assert any(move[0] is phase for move in MOVES)
        assert phase is Phase.IDLE or any(move[2] is phase for move in MOVES)


def test_a_state_that_cannot_be_raises():
    with pytest.raises(BugError, match="STAGING without a dock"):
        step(in_phase(Phase.STAGING, dock_in_odom=None), OdometryRead(S // 50, HERE), SETTINGS)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"filter_gain": 0.0}, "filter_gain must be above 0"),
        ({"tries": 0}, "tries must be 1 to 20, got 0"),
        ({"gate_m": -1.0}, "gate_m must be positive"),
        ({"pads_x_m": float("inf")}, "pads_x_m must be within 10 m"),
        ({"staging_distance_m": 0.45}, "staging_distance_m must be beyond contact"),
        ({"blind_distance_m": 0.05}, "blind_distance_m must not be below"),
        ({"total_timeout_s": float("nan")}, "total_timeout_s must be positive"),
    ],
)
def test_wrong_settings_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        DockingSettings(**changes)
