"""A smooth law that drives a differential-drive robot to a pose.

Source: J. J. Park and B. Kuipers, "A smooth control law for graceful motion of differential wheeled mobile robots in
2D environment", ICRA 2011, equations 13 to 17; the law that Nav2's docking server and graceful controller use.
"""

import math
from dataclasses import dataclass

from depai_robot.values.error import ConfigError
from depai_robot.values.geometry import DriveCommand, Pose2, wrap_angle_rad


@dataclass(frozen=True, slots=True)
class LawSettings:
    """Gains and limits.

    Attributes:
        k_phi: how strongly the heading follows the slow manifold (k1 of the paper).
        k_delta: how quickly it is reached (k2 of the paper).
        beta: how much curvature slows the robot.
        lambda_: sharpness of that.
        speed_max_mps: on a straight line.
        speed_min_mps: so that it does not stall.
        turn_max_radps: the most it turns.
        slow_radius_m: nearer than this it slows in proportion.
    """

    k_phi: float = 2.0
    k_delta: float = 3.0
    beta: float = 0.25
    lambda_: float = 2.0
    speed_max_mps: float = 0.40
    speed_min_mps: float = 0.04
    turn_max_radps: float = 0.9
    slow_radius_m: float = 0.4

    def __post_init__(self) -> None:
        for name in (
            "k_phi",
            "k_delta",
            "beta",
            "lambda_",
            "speed_max_mps",
            "turn_max_radps",
            "slow_radius_m",
        ):
            if not 0 < getattr(self, name) < 100:
                raise ConfigError(f"law {name} must be positive and below 100, got {getattr(self, name)}")
        if not 0 < self.speed_min_mps <= self.speed_max_mps:
            raise ConfigError(
                f"law speed_min_mps must be above 0 and at most speed_max_mps {self.speed_max_mps},"
                f" got {self.speed_min_mps}"
            )


def drive_to_pose(target_in_base: Pose2, settings: LawSettings) -> DriveCommand:
    """Velocity towards a pose that is ahead.

    Args:
        target_in_base: pose to reach, x axis along the wanted final heading, in the robot's frame.
        settings: gains.

    Returns:
        Forward speed and turn rate, within the settings' limits.
    """
    distance = math.hypot(target_in_base.x_m, target_in_base.y_m)
    if distance < 1e-6:
        return DriveCommand(0.0, 0.0)
    bearing = math.atan2(target_in_base.y_m, target_in_base.x_m)
    # Egocentric polar coordinates: the line of sight seen from the target's and from the robot's heading.
    phi = wrap_angle_rad(target_in_base.yaw_rad - bearing)
    delta = wrap_angle_rad(-bearing)
    k1, k2 = settings.k_phi, settings.k_delta
    curvature = (
        -(k2 * (delta - math.atan(-k1 * phi)) + (1.0 + k1 / (1.0 + (k1 * phi) ** 2)) * math.sin(delta))
        / distance
    )
    speed = settings.speed_max_mps / (1.0 + settings.beta * abs(curvature) ** settings.lambda_)
    speed = min(speed, settings.speed_max_mps * distance / settings.slow_radius_m)
    speed = max(speed, settings.speed_min_mps)
    turn = curvature * speed
    if abs(turn) > settings.turn_max_radps:
        # Keep the curve, give up speed.
        speed *= settings.turn_max_radps / abs(turn)
        turn = math.copysign(settings.turn_max_radps, turn)
    return DriveCommand(speed, turn)
