"""What a camera gives: pixels with their time and the lens that made them."""

import math
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from depai_robot.values.error import ConfigError


@dataclass(frozen=True, slots=True)
class CameraIntrinsics:
    """Pinhole camera with the Brown-Conrady lens of OpenCV and ROS ``plumb_bob``.

    Attributes:
        width_px: image width, > 0.
        height_px: image height, > 0.
        fx_px: focal length along x, > 0.
        fy_px: focal length along y, > 0.
        cx_px: principal point, pixel centres at integers.
        cy_px: principal point.
        distortion: k1, k2, p1, p2, k3.
    """

    width_px: int
    height_px: int
    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float
    distortion: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if self.width_px <= 0 or self.height_px <= 0:
            raise ConfigError(f"image size must be positive, got {self.width_px} x {self.height_px}")
        values = (self.fx_px, self.fy_px, self.cx_px, self.cy_px, *self.distortion)
        if not all(math.isfinite(v) for v in values) or self.fx_px <= 0 or self.fy_px <= 0:
            raise ConfigError(f"intrinsics must be finite with positive focal lengths, got {values}")

    def matrix(self) -> NDArray[np.float64]:
        """(3, 3) float64 camera matrix."""
        return np.array(
            [[self.fx_px, 0, self.cx_px], [0, self.fy_px, self.cy_px], [0, 0, 1]], dtype=np.float64
        )


@dataclass(frozen=True)
class Frame:
    """One camera image.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        stamp_ns: ROS time of the exposure.
        intrinsics: of the lens; its size is that of the image.
    """

    image: NDArray[np.uint8]
    stamp_ns: int
    intrinsics: CameraIntrinsics

    def __post_init__(self) -> None:
        expected = (self.intrinsics.height_px, self.intrinsics.width_px, 3)
        if self.image.shape != expected or self.image.dtype != np.uint8:
            raise ConfigError(
                f"a frame is uint8 {expected}, got {self.image.dtype} {tuple(self.image.shape)}"
            )

    @cached_property
    def grey(self) -> NDArray[np.uint8]:
        """(H, W) uint8, made once: detector, tag and edges all ask for it."""
        return np.asarray(cv2.cvtColor(self.image, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
