"""What a base may be told: speeds and accelerations within limits, and zero when nobody has spoken for a while.

A software stop is not a safety function; see docs/safety.md.
"""

from dataclasses import dataclass

from depai_robot.values.geometry import STOP, DriveCommand

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class DriveLimits:
    """Of one base, each > 0.

    Attributes:
        linear_max_mps, angular_max_radps: speeds, either way.
        linear_accel_max_mps2, angular_accel_max_radps2: while speeding up and while slowing down.
        command_timeout_s: a command is obeyed for so long.
    """

    linear_max_mps: float
    angular_max_radps: float
    linear_accel_max_mps2: float
    angular_accel_max_radps2: float
    command_timeout_s: float


@dataclass(frozen=True, slots=True)
class DriveState:
    """What a base was told last.

    Attributes:
        wanted: the newest command, as it came.
        wanted_ns: when.
        applied: what the wheels are told now.
        applied_ns: since when.
        stopped: by an emergency stop; nothing moves until it is released.
    """

    wanted: DriveCommand = STOP
    wanted_ns: int = 0
    applied: DriveCommand = STOP
    applied_ns: int = 0
    stopped: bool = False


def shape(state: DriveState, now_ns: int, limits: DriveLimits) -> DriveCommand:
    """What the wheels are to be told now: STOP at once in an emergency, else along a ramp.

    A clock that was set back, or has stood still, gives no ramp: the base keeps what it has, or stops when the command
    is too old or of the future.
    """
    if state.stopped:
        return STOP
    age_ns = now_ns - state.wanted_ns
    fresh = 0 <= age_ns <= limits.command_timeout_s * NS_PER_S
    wanted = state.wanted if fresh else STOP
    step_s = max(0, now_ns - state.applied_ns) / NS_PER_S
    return DriveCommand(
        _approach(
            state.applied.linear_mps,
            _clip(wanted.linear_mps, limits.linear_max_mps),
            limits.linear_accel_max_mps2 * step_s,
        ),
        _approach(
            state.applied.angular_radps,
            _clip(wanted.angular_radps, limits.angular_max_radps),
            limits.angular_accel_max_radps2 * step_s,
        ),
    )


def _clip(value: float, most: float) -> float:
    return max(-most, min(most, value))


def _approach(now: float, wanted: float, step: float) -> float:
    return now + _clip(wanted - now, step)
