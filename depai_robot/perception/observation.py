"""What perception says of the dock: keypoints in the image, and the pose they make."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from depai_robot.values.geometry import Pose3

KEYPOINT_COUNT = 12
"""4 corners of the panel, 4 of the base's front, 4 of the decal (config/dock.yaml)."""


@dataclass(frozen=True, slots=True)
class DockKeypoints:
    """The dock's keypoints in one image, as the network saw them.

    Attributes:
        points_px: (12, 2) float64 pixel positions (x, y) in the full image, order of config/dock.yaml.
        sigma_px: (12,) float64 standard deviation of each, > 0.
        visibility: (12,) float64 in 0..1.
        score: that a dock is there at all, 0..1.
        error_covariance: (24, 24) float64 of the errors of x0, y0, x1, y1 and so on, each in its own sigma: what
            blurs one corner blurs its neighbours the same way. None when they are independent.
    """

    points_px: NDArray[np.float64]
    sigma_px: NDArray[np.float64]
    visibility: NDArray[np.float64]
    score: float
    error_covariance: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True)
class DockObservation:
    """The dock's pose at one instant, good enough to publish.

    Attributes:
        stamp_ns: the image's stamp.
        dock_in_camera: the dock frame (origin at the centre of the panel's front face, x into the dock, z up)
            in the camera's optical frame.
        covariance: (6, 6) float64 of (x, y, z in m; rotation vector about the optical axes in rad).
        confidence: probability that the pose is usable, 0..1.
        model_sha256: hexadecimal hash of the model set that made it.
    """

    stamp_ns: int
    dock_in_camera: Pose3
    covariance: NDArray[np.float64]
    confidence: float
    model_sha256: str
