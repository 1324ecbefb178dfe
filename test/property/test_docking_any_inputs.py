"""Whatever docking is told, in whatever order: it never breaks its table, its limits or its rest."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

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
from depai_robot.docking.machine import HISTORY_MAX, State, step
from depai_robot.docking.phase import MOVES, Phase
from depai_robot.docking.setting import DockingSettings
from depai_robot.values.geometry import STOP, Pose2

SETTINGS = DockingSettings(total_timeout_s=30.0)
EDGES = {(before, after) for before, _, after in MOVES}
RESTING = {Phase.IDLE, Phase.DOCKED, Phase.FAILED, Phase.STOPPED}

coordinate = st.floats(-4, 4)
pose = st.builds(Pose2, coordinate, coordinate, st.floats(-math.pi, math.pi))
near_pose = st.builds(Pose2, st.floats(-0.6, 0.6), st.floats(-0.3, 0.3), st.floats(-0.5, 0.5))
moment = st.integers(-2_000_000_000, 3_000_000_000)
fact = st.one_of(
    st.tuples(st.just(OdometryRead), moment, near_pose),
    st.tuples(st.just(OdometryRead), moment, near_pose),
    st.tuples(st.just(OdometryRead), moment, pose),
    st.tuples(st.just(DockSeen), moment, pose),
    st.tuples(st.just(DockSeen), moment, near_pose),
    st.tuples(st.just(ContactChanged), moment, st.booleans()),
    st.tuples(st.just(DockAsked), moment, st.sampled_from(["a", "b"]), pose),
    st.tuples(st.just(DockAsked), moment, st.sampled_from(["a", "b"]), near_pose),
    st.tuples(st.just(UndockAsked), moment),
    st.tuples(st.just(StopAsked), moment),
    st.tuples(st.just(EmergencyStopped), moment),
    st.tuples(st.just(EmergencyReleased), moment),
    st.tuples(st.just(WayWatched), moment, st.booleans()),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(fact, min_size=5, max_size=80))
def test_any_inputs_in_any_order(rows):
    state, now_ns = State(), 0
    for kind, after_ns, *rest in rows:
        now_ns = max(now_ns + after_ns // 10, 0)
        before = state
        state, command = step(state, kind(now_ns, *rest), SETTINGS)
        assert state.phase is before.phase or (before.phase, state.phase) in EDGES
        assert len(state.history) <= HISTORY_MAX
        assert [row[0] for row in state.history] == sorted({row[0] for row in state.history})
        assert 0 <= state.attempt <= SETTINGS.tries
        if command is not None:
            assert abs(command.linear_mps) <= SETTINGS.law.speed_max_mps
            assert abs(command.angular_radps) <= SETTINGS.law.turn_max_radps
            if state.phase in RESTING:
                assert command == STOP
        if kind in (StopAsked, EmergencyStopped):
            assert command == STOP
