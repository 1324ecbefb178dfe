"""Whether a dock is built as its file says: the decal measured on the panel that carries it.

A pose from a wrong model is wrong without a sign of it: the gate sees that keypoints fit each other, not that the
panel is 40 cm wide. But decal and panel lie in one plane, so their ratio needs no pose: the panel's four corners give
the plane's coordinates, and the decal's edges are measured in them. A dock that is wrong as a whole shows no ratio;
``depai_robot.docking.scale`` finds it by odometry.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from depai_robot.perception.dock import DockModel
from depai_robot.perception.frame import CameraIntrinsics
from depai_robot.perception.observation import DockKeypoints
from depai_robot.perception.subpixel import DecalCorners

MISFIT_MIN = 0.025
"""Half of the 5 % that a print service's scaling, or a panel cut to other sizes, is off by."""

COUNT_MIN = 6
_SIGMAS = 3.0
_PANEL = slice(0, 4)
_VISIBLE_MIN = 0.5
_SIGMA_MAX = 0.02
_COMMON_SIGMA = 0.004
"""What frames of one dock have in common: light, print, the network's own leaning."""

_COUNT_MAX = 400
"""Older frames fade: a model that is changed, or another dock, is noticed."""


@dataclass(frozen=True, slots=True)
class DecalRatio:
    """The decal's size in one image, as a share of what the dock's file says.

    Attributes:
        width: 1 when it is as said.
        height: likewise.
        sigma: standard deviation of either.
    """

    width: float
    height: float
    sigma: float


@dataclass(frozen=True, slots=True)
class DecalFit:
    """What the images so far say together.

    Attributes:
        count: of images.
        weight: sum of inverse variances.
        width: weighted mean.
        height: weighted mean.
    """

    count: int = 0
    weight: float = 0.0
    width: float = 1.0
    height: float = 1.0

    def add(self, ratio: DecalRatio) -> "DecalFit":
        """With one image more."""
        fade = 1.0 if self.count < _COUNT_MAX else 1.0 - 1.0 / _COUNT_MAX
        added = 1.0 / (ratio.sigma**2 + _COMMON_SIGMA**2)
        weight = self.weight * fade + added
        share = added / weight
        return DecalFit(
            min(self.count + 1, _COUNT_MAX),
            weight,
            self.width + share * (ratio.width - self.width),
            self.height + share * (ratio.height - self.height),
        )

    @property
    def sigma(self) -> float:
        """Standard deviation of either mean."""
        return math.hypot(1.0 / math.sqrt(self.weight), _COMMON_SIGMA) if self.weight else math.inf

    @property
    def misfit(self) -> float:
        """How far the worse of both is from 1."""
        return max(abs(self.width - 1.0), abs(self.height - 1.0))

    @property
    def is_wrong(self) -> bool:
        """Whether the decal surely does not fit its panel."""
        return self.count >= COUNT_MIN and self.misfit > max(MISFIT_MIN, _SIGMAS * self.sigma)


def measure_decal(
    keypoints: DockKeypoints, corners: DecalCorners, intrinsics: CameraIntrinsics, dock: DockModel
) -> DecalRatio | None:
    """The decal's size on its panel, or None when the panel's corners can't be seen well enough."""
    panel, sigma_px = keypoints.points_px[_PANEL], keypoints.sigma_px[_PANEL]
    if not (keypoints.visibility[_PANEL] >= _VISIBLE_MIN).all() or not np.isfinite(panel).all():
        return None
    matrix, lens = intrinsics.matrix(), np.array(intrinsics.distortion)
    seen = np.concatenate([panel, corners.points_px])[:, None]
    rays = np.asarray(cv2.undistortPoints(seen, matrix, lens), dtype=np.float64)[:, 0]
    # Right and down on the face, in metres, as an image has them.
    face = -dock.points_m()[_PANEL][:, 1:]
    if not cv2.isContourConvex(rays[:4].astype(np.float32)[:, None]):
        return None
    to_face = cv2.getPerspectiveTransform(rays[:4].astype(np.float32), face.astype(np.float32))
    decal = cv2.perspectiveTransform(rays[4:, None], to_face)[:, 0]
    top, right, bottom, left = np.linalg.norm(np.roll(decal, -1, axis=0) - decal, axis=1)
    width_px = float(np.linalg.norm(panel[1] - panel[0] + panel[2] - panel[3])) / 2
    height_px = float(np.linalg.norm(panel[3] - panel[0] + panel[2] - panel[1])) / 2
    decal_px = float(np.linalg.norm(corners.points_px[1] - corners.points_px[0]))
    size_px = min(width_px, height_px)
    if not (size_px > 1.0 and decal_px > 1.0):
        return None
    sigma = math.hypot(
        float(np.sqrt(np.mean(sigma_px**2))) / size_px,
        float(np.sqrt(np.mean(corners.sigma_px**2))) / decal_px,
    )
    size_m = dock.decal.size_m
    ratio = DecalRatio(
        float(top + bottom) / (2 * size_m), float(left + right) / (2 * size_m), max(sigma, 1e-4)
    )
    usable = sigma < _SIGMA_MAX and math.isfinite(ratio.width) and math.isfinite(ratio.height)
    return ratio if usable else None
