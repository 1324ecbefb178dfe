"""What a base is told: within limits, along a ramp, and zero when nobody speaks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depai_robot.docking.limit import DriveLimits, DriveState, shape
from depai_robot.values.geometry import STOP, DriveCommand

LIMITS = DriveLimits(0.5, 1.0, 1.0, 4.0, 0.5)
SECOND = 1_000_000_000


def run(
    state: DriveState, seconds: float, start_ns: int = 0, step_ns: int = 20_000_000
) -> list[DriveCommand]:
    told = []
    now_ns = start_ns
    while now_ns < start_ns + seconds * SECOND:
        now_ns += step_ns
        applied = shape(state, now_ns, LIMITS)
        state = DriveState(state.wanted, state.wanted_ns, applied, now_ns, state.stopped)
        told.append(applied)
    return told


def test_a_command_is_reached_along_a_ramp_and_forgotten_after_its_time():
    told = run(DriveState(DriveCommand(2.0, 0.0)), 1.2)
    assert told[0].linear_mps == pytest.approx(0.02)
    assert max(command.linear_mps for command in told) == 0.5
    assert told[-1] == STOP


def test_an_emergency_stop_is_no_ramp():
    moving = DriveState(DriveCommand(0.5, 0.2), 0, DriveCommand(0.5, 0.2), 0, stopped=True)
    assert shape(moving, 1, LIMITS) == STOP


def test_a_command_of_the_future_is_not_obeyed():
    assert shape(DriveState(DriveCommand(0.5, 0.0), 10 * SECOND, STOP, 0), SECOND, LIMITS) == STOP


SPEEDS = st.floats(-1e6, 1e6)


@given(SPEEDS, SPEEDS, st.lists(st.integers(-SECOND, 2 * SECOND), max_size=30))
def test_whatever_comes_whenever_the_limits_hold(linear, angular, steps):
    state = DriveState(DriveCommand(linear, angular), 0)
    now_ns = 0
    for step_ns in steps:
        now_ns += step_ns
        applied = shape(state, now_ns, LIMITS)
        assert abs(applied.linear_mps) <= LIMITS.linear_max_mps
        assert abs(applied.angular_radps) <= LIMITS.angular_max_radps
        if step_ns > 0:
            ramp = LIMITS.linear_accel_max_mps2 * max(0, now_ns - state.applied_ns) / SECOND
            assert abs(applied.linear_mps - state.applied.linear_mps) <= ramp + 1e-9
        state = DriveState(state.wanted, 0, applied, now_ns)
