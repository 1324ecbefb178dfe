"""Reads which tag a dock carries, where the keypoints say its decal is. A hint, never a proof of identity."""

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from depai_robot.perception.observation import DockKeypoints

_CELLS = 8
"""tag36h11: 6 x 6 bits inside a black border one cell wide."""

_CELL_PX = 8
_CONTRAST_MIN = 16.0
_BITS_WRONG_SHARE = 0.4
"""Of the 5 bits that the family can correct: 2. More would be guessing."""

_SIDE_MIN_PX = 12.0
_POINT_MAX_PX = 1e5


@lru_cache(maxsize=1)
def _dictionary() -> Any:
    return cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11)


def read_tag(grey: NDArray[np.uint8], keypoints: DockKeypoints) -> int | None:
    """The tag's number in tag36h11, or None when it can't be read with certainty.

    Args:
        grey: (H, W) uint8, the whole image.
        keypoints: of the dock in it; the last four are the decal's corners.
    """
    decal = keypoints.points_px[8:]
    if not (np.abs(decal) < _POINT_MAX_PX).all():
        return None
    corners = decal.astype(np.float32)
    sides = np.linalg.norm(np.roll(corners, -1, axis=0) - corners, axis=1)
    if sides.min() < _SIDE_MIN_PX or not cv2.isContourConvex(corners[:, None]):
        return None
    size = _CELLS * _CELL_PX
    flat = np.array([(0, 0), (size, 0), (size, size), (0, size)], np.float32) - np.float32(0.5)
    matrix = cv2.getPerspectiveTransform(corners, flat)
    patch = cv2.warpPerspective(grey, matrix, (size, size), flags=cv2.INTER_LINEAR)
    # Only the middle of each cell: keypoints may be off by a fraction of one.
    cells = patch.reshape(_CELLS, _CELL_PX, _CELLS, _CELL_PX)[:, 2:-2, :, 2:-2].mean(axis=(1, 3))
    if float(np.ptp(cells)) < _CONTRAST_MIN:
        return None
    level, _ = cv2.threshold(patch, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    bits = (cells > level).astype(np.uint8)
    border = np.concatenate([bits[0], bits[-1], bits[1:-1, 0], bits[1:-1, -1]])
    if int(border.sum()) > 1:
        return None
    found, tag_id, turned = _dictionary().identify(bits[1:-1, 1:-1].copy(), _BITS_WRONG_SHARE)
    # A dock stands upright: a tag that reads only when turned is a misreading.
    return int(tag_id) if found and turned == 0 else None
