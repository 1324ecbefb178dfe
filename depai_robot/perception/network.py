"""What the two networks' raw outputs mean, in pixels of the image. No runtime here, only arrays."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from depai_robot.perception.observation import KEYPOINT_COUNT, DockKeypoints
from depai_robot.perception.region import (
    CROP_PX,
    FINDER_STRIDE_PX,
    REGION_MARGIN,
    REGION_SIDE_MIN_PX,
    Region,
    finder_scale,
    region_of,
)

FINDER_SHAPE = (1, 5, 30, 40)
"""Centre logit, dx and dy in cells from the cell's centre, log width and log height in finder pixels."""

KEYPOINTS_SHAPE = (1, KEYPOINT_COUNT, 4)
"""x and y in crop pixels, log of the Laplace scale in crop pixels, logit of visibility."""

PRESENCE_SHAPE = (1, 1)
"""Logit that a dock is in the crop."""

_LOG_SIZE_MAX = math.log(800.0)
_LOG_SIGMA_MAX = math.log(float(CROP_PX))
_VISIBLE_MIN = 0.5
_VISIBLE_COUNT_MIN = 4
_OVERLAP_MAX = 0.5
_NEIGHBOURS = np.ones((3, 3), np.uint8)
_CLOSE_SHIFT, _CLOSE_RATIO = 0.05, 1.12
"""Of a region's side: crops that differ by no more are one to the network, which is trained on crops shaken so."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A place where a dock may be.

    Attributes:
        region: to look closer at.
        score: 0..1.
    """

    region: Region
    score: float


def sigmoid(logit: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)), without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logit)), dtype=np.float64)


def decode_finder(
    output: NDArray[np.float32], size_px: tuple[int, int], *, score_min: float, count_max: int
) -> tuple[Candidate, ...]:
    """The best peaks of a finder output, best first, none covering more than half of a better one's region.

    Args:
        output: (1, 5, 30, 40) float32, finite.
        size_px: (width, height) of the image that went in.
        score_min: peaks below are dropped.
        count_max: at most this many come back.
    """
    heat = sigmoid(output[0, 0].astype(np.float64))
    around = cv2.dilate(heat, _NEIGHBOURS)
    peaks = [(int(r), int(c)) for r, c in np.argwhere((heat >= around) & (heat >= score_min))]
    peaks.sort(key=lambda peak: -heat[peak])
    scale = finder_scale(size_px)
    found: list[Candidate] = []
    for row, column in peaks:
        dx, dy, log_width, log_height = (float(v) for v in output[0, 1:, row, column])
        # The centre of cell c covers finder pixels 8c .. 8c+7, so it lies at 8c + 3.5.
        x = (column + 0.5 + dx) * FINDER_STRIDE_PX - 0.5
        y = (row + 0.5 + dy) * FINDER_STRIDE_PX - 0.5
        longer = math.exp(min(max(log_width, log_height), _LOG_SIZE_MAX))
        region = Region(
            (x + 0.5) / scale - 0.5,
            (y + 0.5) / scale - 0.5,
            max(REGION_MARGIN * longer / scale, REGION_SIDE_MIN_PX),
        )
        if all(_overlap(region, other.region) < _OVERLAP_MAX for other in found):
            found.append(Candidate(region, float(heat[row, column])))
        if len(found) == count_max:
            break
    return tuple(found)


def _overlap(a: Region, b: Region) -> float:
    """Shared area over the smaller of the two."""
    reach = (a.side_px + b.side_px) / 2
    width = min(reach - abs(a.x_px - b.x_px), a.side_px, b.side_px)
    height = min(reach - abs(a.y_px - b.y_px), a.side_px, b.side_px)
    return max(width, 0.0) * max(height, 0.0) / min(a.side_px, b.side_px) ** 2


def decode_keypoints(
    keypoints: NDArray[np.float32], presence: NDArray[np.float32], region: Region
) -> DockKeypoints:
    """Keypoints in image pixels from (1, 12, 4) and (1, 1) float32, both finite, of the crop of a region."""
    rows = keypoints[0].astype(np.float64)
    zoom = region.side_px / CROP_PX
    # The standard deviation of a Laplace distribution is sqrt(2) times its scale.
    scale = np.exp(np.clip(rows[:, 2], -4.0, _LOG_SIGMA_MAX))
    return DockKeypoints(
        points_px=region.to_image(rows[:, :2]),
        sigma_px=math.sqrt(2.0) * zoom * scale,
        visibility=sigmoid(rows[:, 3]),
        score=float(sigmoid(presence.astype(np.float64))[0, 0]),
    )


def visible_count(keypoints: DockKeypoints) -> int:
    """How many of the twelve are more likely seen than not."""
    return int((keypoints.visibility >= _VISIBLE_MIN).sum())


def next_region(keypoints: DockKeypoints) -> Region | None:
    """Where to look again, closer; None when too few keypoints are visible to say."""
    visible = keypoints.visibility >= _VISIBLE_MIN
    if int(visible.sum()) < _VISIBLE_COUNT_MIN:
        return None
    return region_of(keypoints.points_px[visible])


def is_close(region: Region, other: Region) -> bool:
    """Whether a look at the other region would show nothing that the first did not."""
    shift_px = max(abs(region.x_px - other.x_px), abs(region.y_px - other.y_px))
    ratio = region.side_px / other.side_px
    return shift_px <= _CLOSE_SHIFT * other.side_px and 1 / _CLOSE_RATIO <= ratio <= _CLOSE_RATIO
