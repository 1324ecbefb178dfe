"""Where in an image the dock is looked for, and the pixels that the networks are given of it.

Training and inference call these same functions, so a model sees on the robot what it was trained on.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from depai_robot.values.error import BugError

FINDER_WIDTH_PX = 320
FINDER_HEIGHT_PX = 240
FINDER_STRIDE_PX = 8
CROP_PX = 128
REGION_MARGIN = 1.3
"""Side of a region over the longer side of the dock in it."""

REGION_SIDE_MIN_PX = 24.0
_PAD_GREY = 127
_DEVIATION_MIN = 4.0
"""Grey levels; a flat crop is not blown up into noise."""


@dataclass(frozen=True, slots=True)
class Region:
    """A square of an image, upright; may reach over its edges.

    Attributes:
        x_px: of the centre, pixel centres at integers.
        y_px: of the centre.
        side_px: > 0.
    """

    x_px: float
    y_px: float
    side_px: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(v) for v in (self.x_px, self.y_px, self.side_px)) or self.side_px <= 0:
            raise BugError(f"a region is finite with a positive side, got {self}")

    def scaled(self, factor: float) -> "Region":
        """About the same centre."""
        return Region(self.x_px, self.y_px, self.side_px * factor)

    def to_image(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, 2) crop pixels to image pixels."""
        corner = np.array([self.x_px, self.y_px]) - self.side_px / 2 + 0.5
        return (points + 0.5) * (self.side_px / CROP_PX) + corner - 0.5

    def to_crop(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, 2) image pixels to crop pixels."""
        corner = np.array([self.x_px, self.y_px]) - self.side_px / 2 + 0.5
        return (points + 0.5 - corner) * (CROP_PX / self.side_px) - 0.5


def region_of(points_px: NDArray[np.float64]) -> Region:
    """The region that a dock with these (N, 2) image points is looked at in."""
    low, high = points_px.min(axis=0), points_px.max(axis=0)
    centre = (low + high) / 2
    side_px = max(REGION_MARGIN * float((high - low).max()), REGION_SIDE_MIN_PX)
    return Region(float(centre[0]), float(centre[1]), side_px)


class GreyImage:
    """A frame in grey at full, half and quarter size, so that a crop is never thinned out by more than two.

    The smaller ones are made when they are first asked for.
    """

    LEVELS = 3

    def __init__(self, grey: NDArray[np.uint8]) -> None:
        """Of an (H, W) uint8 image, which is not copied."""
        self._levels = [grey]

    def level(self, number: int) -> NDArray[np.uint8]:
        """The image halved ``number`` times, (H, W) uint8; 0 is the whole one."""
        while len(self._levels) <= number:
            height, width = self._levels[-1].shape
            size = (max(1, width // 2), max(1, height // 2))
            half = cv2.resize(self._levels[-1], size, interpolation=cv2.INTER_AREA)
            self._levels.append(np.asarray(half, dtype=np.uint8))
        return self._levels[number]

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height) of the full image."""
        height, width = self._levels[0].shape
        return width, height


def normalise(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W) uint8 to (1, 1, H, W) float32 of mean 0 and deviation 1."""
    mean, deviation = (float(value[0, 0]) for value in cv2.meanStdDev(pixels))
    values = pixels.astype(np.float32)
    values -= np.float32(mean)
    values *= np.float32(1.0 / max(deviation, _DEVIATION_MIN))
    return values[None, None]


def finder_scale(size_px: tuple[int, int]) -> float:
    """Finder pixels per image pixel for an image of (width, height)."""
    return min(FINDER_WIDTH_PX / size_px[0], FINDER_HEIGHT_PX / size_px[1])


def finder_pixels(grey: GreyImage) -> NDArray[np.uint8]:
    """(240, 320) uint8: the whole image, aspect kept, padded at the right and below."""
    scale = finder_scale(grey.size_px)
    if scale == 0.5 and grey.size_px == (2 * FINDER_WIDTH_PX, 2 * FINDER_HEIGHT_PX):
        return grey.level(1)
    width, height = (max(1, round(v * scale)) for v in grey.size_px)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    padded = np.full((FINDER_HEIGHT_PX, FINDER_WIDTH_PX), _PAD_GREY, np.uint8)
    padded[:height, :width] = cv2.resize(grey.level(0), (width, height), interpolation=interpolation)
    return padded


def crop_pixels(grey: GreyImage, region: Region, *, blur_px: float = 0.0) -> NDArray[np.uint8]:
    """(128, 128) uint8 of a region; what lies outside of the image is grey.

    Args:
        grey: the image.
        region: of it.
        blur_px: deviation of a Gaussian that softens the crop, in its pixels; 0 leaves it as it is.
    """
    zoom = region.side_px / CROP_PX
    level = min(max(math.floor(math.log2(zoom) + 1e-9), 0), GreyImage.LEVELS - 1)
    shrink = 2.0**level
    # Crop pixel c lies at image pixel a + zoom c; the same point at this level is (p + 0.5) / shrink - 0.5.
    step = zoom / shrink
    origin = region.to_image(np.zeros((1, 2)))[0]
    offset = (origin + 0.5) / shrink - 0.5
    matrix = np.array([[step, 0.0, offset[0]], [0.0, step, offset[1]]])
    crop = cv2.warpAffine(
        grey.level(level),
        matrix,
        (CROP_PX, CROP_PX),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=_PAD_GREY,
    )
    if blur_px > 0:
        crop = cv2.GaussianBlur(crop, (0, 0), blur_px)
    return np.asarray(crop, dtype=np.uint8)
