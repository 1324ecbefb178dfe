"""Whether the base stands out of the panel: a dock does, a picture of one does not.

A photo of the dock fits the dock's model in the frame that is seen from where it was taken, at that distance and
nowhere else: the base of a real dock grows against its panel as the robot comes nearer, a printed one does not. So each
frame gives the depth of the base as a share of what the dock's file says, fitted together with the pose; the share that
a photo shows is the robot's distance over the photographer's. What several frames say together is judged, within three
metres: farther away the base stands out by few pixels, and the keypoint network leans the same way for seconds.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from depai_robot.perception.dock import DockModel
from depai_robot.perception.frame import CameraIntrinsics
from depai_robot.perception.observation import DockKeypoints
from depai_robot.perception.pose import keypoint_noise, projection_slopes
from depai_robot.values.geometry import Pose3

MISFIT_MIN = 0.25
"""A base that is built so much too deep or too flat is refused like a picture."""

COUNT_MIN = 4
RANGE_MAX_M = 3.0
"""Chosen on whole approaches: docs/decisions/0013."""

_SIGMAS = 4.0
_SIGMA_MAX = 0.25
_COMMON_SIGMA = 0.05
"""Of print and build, whatever the keypoints say."""

_COUNT_MAX = 5
"""Older frames fade: what a picture shows changes along the approach."""

_FORGET_NS = 5_000_000_000
_VISIBLE_MIN = 0.5
_OUT_MIN, _FLAT_MIN = 2, 4
_SIGMA_MIN_PX = 0.1
_STEPS = 4
_SETTLED = 0.001
"""Change of the share, a fiftieth of :data:`_COMMON_SIGMA`."""

_DEPTH_MIN_M = 0.02

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Relief:
    """The depth of the base in one image, as a share of what the dock's file says.

    Attributes:
        share: 1 when it is as said, 0 in the panel's plane.
        sigma: its standard deviation.
    """

    share: float
    sigma: float


@dataclass(frozen=True, slots=True)
class ReliefFit:
    """What the newest images say together.

    Attributes:
        count: of images, at most five.
        weight: sum of inverse variances, faded.
        share: weighted mean.
        stamp_ns: of the newest image.
    """

    count: int = 0
    weight: float = 0.0
    share: float = 1.0
    stamp_ns: int = 0

    def add(self, relief: Relief, stamp_ns: int) -> "ReliefFit":
        """With one image more; after five seconds without any, the first one."""
        if not 0 <= stamp_ns - self.stamp_ns < _FORGET_NS:
            return ReliefFit(1, 1.0 / relief.sigma**2, relief.share, stamp_ns)
        fade = 1.0 if self.count < _COUNT_MAX else 1.0 - 1.0 / _COUNT_MAX
        added = 1.0 / relief.sigma**2
        weight = self.weight * fade + added
        share = self.share + added / weight * (relief.share - self.share)
        return ReliefFit(min(self.count + 1, _COUNT_MAX), weight, share, stamp_ns)

    @property
    def sigma(self) -> float:
        """Standard deviation of the mean, as of one image: frames that follow each other err alike."""
        return math.hypot(math.sqrt(self.count / self.weight), _COMMON_SIGMA) if self.weight else math.inf

    def is_picture(self, stamp_ns: int) -> bool:
        """Whether what is seen at a time surely has not the dock's depth."""
        if self.count < COUNT_MIN or not 0 <= stamp_ns - self.stamp_ns < _FORGET_NS:
            return False
        return abs(self.share - 1.0) > max(MISFIT_MIN, _SIGMAS * self.sigma)


def measure_relief(
    keypoints: DockKeypoints, intrinsics: CameraIntrinsics, dock: DockModel, dock_in_camera: Pose3
) -> Relief | None:
    """Depth of the base, with the pose fitted anew beside it; None where too little of it can be seen, or too far away.

    Gauss-Newton on seven unknowns: position, a small rotation from the left, and the factor on the keypoints' depth.
    """
    if math.dist(dock_in_camera.position_m, (0.0, 0.0, 0.0)) > RANGE_MAX_M:
        return None
    points_m = dock.points_m()
    used = (keypoints.visibility >= _VISIBLE_MIN) & np.isfinite(keypoints.points_px).all(axis=1)
    out = points_m[:, 0] != 0
    if int((used & out).sum()) < _OUT_MIN or int((used & ~out).sum()) < _FLAT_MIN:
        return None
    matrix, lens = intrinsics.matrix(), np.array(intrinsics.distortion)
    seen = np.ascontiguousarray(keypoints.points_px[used])[:, None]
    rays = np.asarray(cv2.undistortPoints(seen, matrix, lens), dtype=np.float64)[:, 0]
    sigma = np.maximum(keypoints.sigma_px[used], _SIGMA_MIN_PX) / math.sqrt(
        intrinsics.fx_px * intrinsics.fy_px
    )
    precision = keypoint_noise(keypoints, used, sigma).precision
    points_m = points_m[used]
    rotation, position_m = dock_in_camera.rotation(), np.array(dock_in_camera.position_m)
    share, information = 1.0, np.eye(7)
    for _ in range(_STEPS):
        turned = (points_m * [share, 1.0, 1.0]) @ rotation.T
        at_m = turned + position_m
        if not (at_m[:, 2] > _DEPTH_MIN_M).all():
            return None
        residual = ((at_m[:, :2] / at_m[:, 2:] - rays) / sigma[:, None]).reshape(-1)
        slopes = projection_slopes(turned, at_m)
        # The seventh moves each point along the dock's depth, as a translation by as much would.
        deeper = slopes[:, :, :3] @ rotation[:, 0] * points_m[:, 0]
        rows = np.concatenate([slopes, deeper[:, :, None]], axis=2) / sigma[None, :, None]
        flat = rows.transpose(1, 0, 2).reshape(-1, 7)
        weighted = flat.T @ precision
        information = weighted @ flat
        try:
            step = -np.linalg.solve(information, weighted @ residual)
        except np.linalg.LinAlgError:
            return None
        position_m = position_m + step[:3]
        rotation = np.asarray(cv2.Rodrigues(step[3:6])[0], dtype=np.float64) @ rotation
        share += float(step[6])
        if not math.isfinite(share) or abs(share) > 100:
            return None
        if abs(float(step[6])) < _SETTLED:
            break  # the pose was fitted already, so this is soon
    spread = math.sqrt(max(float(np.linalg.inv(information)[6, 6]), 0.0))
    return Relief(share, max(spread, 1e-3)) if spread < _SIGMA_MAX else None
