"""Whether the dock's model is wrong as a whole, found by what the wheels say on the way to it.

A dock that is 5 % larger than its file looks 5 % nearer from everywhere, and no picture shows it. But it stands still:
while the robot comes nearer by a metre by its odometry, the seen dock must come nearer by a metre. The scale k that
lets all sights agree on one place of the dock, ``dock = camera + k * seen``, is a linear fit. Only lengths are taken
from the wheels: where the robot looks comes from the sights, since wheels that slip unevenly bend the odometry.
"""

import math
from dataclasses import dataclass, replace

from depai_robot.values.geometry import Pose2

SCALE_OFF_MIN = 0.029
"""Wheels and floor differ by 1 % or so (one standard deviation); a model that matters is off by more than this."""

COUNT_MIN = 12
SPREAD_MIN_M = 0.2
"""Standard deviation of the sights' places: less travel says nothing of scale."""

_RANGE_MAX_M = 3.0
_SIGMA_NEAR_M, _SIGMA_PER_M2 = 0.004, 0.004
"""Standard deviation of a seen position: it grows with the square of the range, as a triangulation's does."""


@dataclass(frozen=True, slots=True)
class ScaleFit:
    """Weighted sums over the sights of one approach, in a frame with the dock's axes; metres.

    Attributes:
        count: of sights.
        weight: sum of weights.
        camera_x, camera_y: weighted sums of where the camera was.
        seen_x, seen_y: weighted sums of camera to dock, as seen.
        across: weighted sum of seen times camera.
        square: weighted sum of seen times seen.
        way_x, way_y: of the robot, by its wheels since the first sight.
        last: base in odometry and heading in the dock's axes at the last sight.
    """

    count: int = 0
    weight: float = 0.0
    camera_x: float = 0.0
    camera_y: float = 0.0
    seen_x: float = 0.0
    seen_y: float = 0.0
    across: float = 0.0
    square: float = 0.0
    way_x: float = 0.0
    way_y: float = 0.0
    last: tuple[Pose2, float] | None = None

    def add(self, base_in_odom: Pose2, dock_in_base: Pose2, camera_x_m: float) -> "ScaleFit":
        """With one sight more; of a far one only the way is taken.

        Args:
            base_in_odom: of the robot when the image was taken.
            dock_in_base: as seen.
            camera_x_m: of the camera in the robot's frame: ranges are the camera's.
        """
        heading_rad = -dock_in_base.yaw_rad
        way_x, way_y = self.way_x, self.way_y
        if self.last is not None:
            before, before_rad = self.last
            moved = before.inverse().compose(base_in_odom)
            x_m, y_m = _turn(moved.x_m, moved.y_m, before_rad)
            way_x, way_y = way_x + x_m, way_y + y_m
        on = replace(self, way_x=way_x, way_y=way_y, last=(base_in_odom, heading_rad))
        forward_m, left_m = dock_in_base.x_m - camera_x_m, dock_in_base.y_m
        range_m = math.hypot(forward_m, left_m)
        if not range_m <= _RANGE_MAX_M:
            return on
        ahead_x, ahead_y = _turn(camera_x_m, 0.0, heading_rad)
        camera_x, camera_y = way_x + ahead_x, way_y + ahead_y
        seen_x, seen_y = _turn(forward_m, left_m, heading_rad)
        weight = (_SIGMA_NEAR_M + _SIGMA_PER_M2 * range_m**2) ** -2
        return replace(
            on,
            count=self.count + 1,
            weight=self.weight + weight,
            camera_x=self.camera_x + weight * camera_x,
            camera_y=self.camera_y + weight * camera_y,
            seen_x=self.seen_x + weight * seen_x,
            seen_y=self.seen_y + weight * seen_y,
            across=self.across + weight * (seen_x * camera_x + seen_y * camera_y),
            square=self.square + weight * (seen_x**2 + seen_y**2),
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


def _turn(x_m: float, y_m: float, angle_rad: float) -> tuple[float, float]:
    cosine, sine = math.cos(angle_rad), math.sin(angle_rad)
    return cosine * x_m - sine * y_m, sine * x_m + cosine * y_m
