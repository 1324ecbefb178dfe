"""Whether the dock's model is wrong as a whole, found by what the wheels say on the way to it.

A dock that is 5 % larger than its file looks 5 % nearer from everywhere, and no picture shows it. But it stands still:
while the robot comes nearer by a metre by its odometry, the seen dock must come nearer by a metre. The scale k that
lets all sights agree on one place of the dock in the odometry frame, ``dock = camera + k * seen``, is a linear fit.
"""

import math
from dataclasses import dataclass

from depai_robot.values.geometry import Pose2

SCALE_OFF_MIN = 0.03
"""Wheels and floor differ by 1 % or so (one standard deviation); a model that matters is off by more than this."""

COUNT_MIN = 12
SPREAD_MIN_M = 0.2
"""Standard deviation of the sights' places: less travel says nothing of scale."""

_RANGE_MAX_M = 3.0
_SIGMA_NEAR_M, _SIGMA_PER_M2 = 0.004, 0.004
"""Standard deviation of a seen position: it grows with the square of the range, as a triangulation's does."""


@dataclass(frozen=True, slots=True)
class ScaleFit:
    """Weighted sums over the sights of one approach; positions in the odometry frame, metres.

    Attributes:
        count: of sights.
        weight: sum of weights.
        camera_x, camera_y: weighted sums of where the camera was.
        seen_x, seen_y: weighted sums of camera to dock, as seen.
        across: weighted sum of seen times camera.
        square: weighted sum of seen times seen.
    """

    count: int = 0
    weight: float = 0.0
    camera_x: float = 0.0
    camera_y: float = 0.0
    seen_x: float = 0.0
    seen_y: float = 0.0
    across: float = 0.0
    square: float = 0.0

    def add(self, base_in_odom: Pose2, dock_in_base: Pose2, camera_x_m: float) -> "ScaleFit":
        """With one sight more; a far one is left out.

        Args:
            base_in_odom: of the robot when the image was taken.
            dock_in_base: as seen.
            camera_x_m: of the camera in the robot's frame: ranges are the camera's.
        """
        forward_m, left_m = dock_in_base.x_m - camera_x_m, dock_in_base.y_m
        range_m = math.hypot(forward_m, left_m)
        if not range_m <= _RANGE_MAX_M:
            return self
        cosine, sine = math.cos(base_in_odom.yaw_rad), math.sin(base_in_odom.yaw_rad)
        camera_x = base_in_odom.x_m + cosine * camera_x_m
        camera_y = base_in_odom.y_m + sine * camera_x_m
        seen_x = cosine * forward_m - sine * left_m
        seen_y = sine * forward_m + cosine * left_m
        weight = (_SIGMA_NEAR_M + _SIGMA_PER_M2 * range_m**2) ** -2
        return ScaleFit(
            self.count + 1,
            self.weight + weight,
            self.camera_x + weight * camera_x,
            self.camera_y + weight * camera_y,
            self.seen_x + weight * seen_x,
            self.seen_y + weight * seen_y,
            self.across + weight * (seen_x * camera_x + seen_y * camera_y),
            self.square + weight * (seen_x**2 + seen_y**2),
        )

    @property
    def spread_m(self) -> float:
        """Weighted standard deviation of the sights' places."""
        return math.sqrt(self._spread_square() / self.weight) if self.weight else 0.0

    @property
    def scale(self) -> float | None:
        """The real dock's size as a share of its model's; None before the robot has moved enough."""
        if self.count < COUNT_MIN or self.spread_m < SPREAD_MIN_M:
            return None
        along = self.across - (self.seen_x * self.camera_x + self.seen_y * self.camera_y) / self.weight
        return -along / self._spread_square()

    @property
    def is_wrong(self) -> bool:
        """Whether the dock is surely of another size than its model, or the odometry is that wrong."""
        scale = self.scale
        return scale is not None and abs(scale - 1.0) > SCALE_OFF_MIN

    def _spread_square(self) -> float:
        return max(self.square - (self.seen_x**2 + self.seen_y**2) / self.weight, 0.0)
