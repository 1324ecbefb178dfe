"""The decal's corners to a small part of a pixel, from the black border's edges; distortion is honoured.

The network says where the decal is to about a pixel; along each of its four edges the border's step from black to the
light panel is found where the image has it, a straight line is fitted through those places in a camera without
distortion, and neighbouring lines are intersected. What does not look like the border is refused, not forced.
"""

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from depai_robot.perception.frame import CameraIntrinsics
from depai_robot.perception.observation import DockKeypoints

Array = NDArray[np.float64]

DECAL = slice(8, 12)
"""The decal's corners among the keypoints."""

_SIDE_MIN_PX = 60.0
"""Nearer than some 1.2 m with 465 pixels of focal length; beyond, twelve keypoints together are better."""

_SAMPLES = 16
_STEPS_PER_PX = 2
_REACH_MIN_PX, _REACH_SHARE, _REACH_MAX_PX = 1.5, 0.09, 8.0
"""How far from the expected edge to look: less than the border's width, an eighth of the decal's."""

_EXACT_REACH_PX = 3.5
_STEP_MIN = 10.0
"""Grey levels from border to panel."""

_NOISE = 6.0
"""Grey levels that a profile's ends may vary by, however small its rise."""

_KEPT_MIN = 8
_OUTLIER_PX = 0.6
_RESIDUAL_MAX_PX = 0.5
_MOVE_SIGMAS = 5.0
_UNEVEN_MAX = 0.12
"""Change within a profile's ends over its rise: a blur that reaches past them moves the edge."""

_SIGMA_MIN_PX = 0.06
_CORRELATION_PX = 2.0
"""Places on an edge nearer than this to each other share their pixels' errors."""

_POINT_MAX_PX = 1e5


@dataclass(frozen=True, slots=True)
class DecalCorners:
    """The decal's corners as its edges have them.

    Attributes:
        points_px: (4, 2) float64 pixels of the image as it is, order of the keypoints.
        sigma_px: (4,) float64 standard deviation of each.
        residual_px: root mean square distance of the edge's places from their lines.
    """

    points_px: Array
    sigma_px: Array
    residual_px: float


def find_decal_corners(
    grey: NDArray[np.uint8], keypoints: DockKeypoints, intrinsics: CameraIntrinsics
) -> DecalCorners | None:
    """The decal's corners, or None where its border can't be followed on all four sides. Some 0.5 ms.

    Args:
        grey: (H, W) uint8, the whole image.
        keypoints: of the dock in it; the decal's say where to look.
        intrinsics: of the lens.
    """
    expected = keypoints.points_px[DECAL]
    if not (np.abs(expected) < _POINT_MAX_PX).all():
        return None
    # First where the rise is steepest, which is robust; then by area about that, which is exact.
    near = _look(grey, expected.astype(np.float64), intrinsics, exact=False)
    found = _look(grey, near.points_px, intrinsics, exact=True) if near is not None else None
    if found is None:
        return None
    moved = np.linalg.norm(found.points_px - expected, axis=1)
    side_px = float(np.linalg.norm(expected[1] - expected[0]))
    allowed = np.maximum(_MOVE_SIGMAS * keypoints.sigma_px[DECAL], _REACH_SHARE * side_px)
    return found if (moved <= allowed).all() else None


def sharpen(keypoints: DockKeypoints, corners: DecalCorners) -> DockKeypoints:
    """The same keypoints with the decal's as its edges have them."""
    points, sigma = keypoints.points_px.copy(), keypoints.sigma_px.copy()
    visibility = keypoints.visibility.copy()
    points[DECAL], sigma[DECAL], visibility[DECAL] = corners.points_px, corners.sigma_px, 1.0
    covariance = keypoints.error_covariance
    if covariance is not None:  # these errors are no longer the network's
        decal = slice(2 * DECAL.start, 2 * DECAL.stop)
        covariance = covariance.copy()
        covariance[decal], covariance[:, decal] = 0.0, 0.0
        covariance[decal, decal] = np.eye(2 * len(corners.points_px))
    return replace(
        keypoints, points_px=points, sigma_px=sigma, visibility=visibility, error_covariance=covariance
    )


def _look(
    grey: NDArray[np.uint8], corners: Array, intrinsics: CameraIntrinsics, *, exact: bool
) -> DecalCorners | None:
    sides = corners[[1, 2, 3, 0]] - corners
    lengths = np.linalg.norm(sides, axis=1)
    if lengths.min() < _SIDE_MIN_PX or not cv2.isContourConvex(corners.astype(np.float32)[:, None]):
        return None
    reach = min(max(_REACH_MIN_PX, _REACH_SHARE * float(lengths.min())), _REACH_MAX_PX)
    if exact:
        reach = min(reach, _EXACT_REACH_PX)
    offsets = np.arange(-reach, reach + 1e-9, 1.0 / _STEPS_PER_PX)
    shares = np.linspace(0.1, 0.9, _SAMPLES)
    # Corners run clockwise in the image (y down), so this normal points out of the decal.
    normals = np.stack([sides[:, 1], -sides[:, 0]], axis=1) / lengths[:, None]
    on_edge = corners[:, None] + shares[None, :, None] * sides[:, None]  # (4, S, 2)
    places = on_edge[:, :, None] + offsets[None, None, :, None] * normals[:, None, None]  # (4, S, K, 2)
    height, width = grey.shape
    inside = ((places > 0) & (places < (width - 1, height - 1))).all(axis=(2, 3))  # (4, S)
    flat = places.reshape(4 * _SAMPLES, len(offsets), 2).astype(np.float32)
    values = cv2.remap(grey, flat[..., 0], flat[..., 1], cv2.INTER_LINEAR).astype(np.float64)
    profiles = values.reshape(4, _SAMPLES, len(offsets))
    at, rise = _by_area(profiles, offsets) if exact else _steepest(profiles, offsets)
    good = inside & (rise >= _STEP_MIN)
    if (good.sum(axis=1) < _KEPT_MIN).any():
        return None
    edges = on_edge + at[:, :, None] * normals[:, None]
    rays = _to_rays(edges.reshape(-1, 2), intrinsics).reshape(4, _SAMPLES, 2)
    focal_px = float(np.sqrt(intrinsics.fx_px * intrinsics.fy_px))
    return _intersect(rays, good, lengths, focal_px, intrinsics)


def _steepest(profiles: Array, offsets: Array) -> tuple[Array, Array]:
    """Where each profile rises most, and by how much within a pixel."""
    steps = profiles[:, :, _STEPS_PER_PX:] - profiles[:, :, :-_STEPS_PER_PX]
    best = steps.argmax(axis=2)
    rise = np.take_along_axis(steps, best[:, :, None], axis=2)[:, :, 0]
    at = (offsets[:-_STEPS_PER_PX] + 0.5)[best]
    # At the end of the reach the rise may go on outside: no edge was found.
    at_end = (best == 0) | (best == steps.shape[2] - 1)
    return at, np.where(at_end, 0.0, rise)


def _by_area(profiles: Array, offsets: Array) -> tuple[Array, Array]:
    """Where a sharp edge between the levels of both ends would be, and the difference of these levels.

    What is missing to the bright level, summed along the profile, does not depend on how the edge falls on the
    pixels, nor on how it is blurred.
    """
    ends = _STEPS_PER_PX + 1
    dark, bright = profiles[:, :, :ends].mean(axis=2), profiles[:, :, -ends:].mean(axis=2)
    rise = bright - dark
    missing = (bright[:, :, None] - profiles) / np.maximum(rise, 1e-9)[:, :, None]
    area = (missing[:, :, 1:] + missing[:, :, :-1]).sum(axis=2) / (2 * _STEPS_PER_PX)
    uneven = np.maximum(np.ptp(profiles[:, :, :ends], axis=2), np.ptp(profiles[:, :, -ends:], axis=2))
    flat = uneven < np.maximum(_UNEVEN_MAX * rise, _NOISE)
    return np.clip(offsets[0] + area, offsets[0], offsets[-1]), np.where(flat, rise, 0.0)


def _to_rays(points: Array, intrinsics: CameraIntrinsics) -> Array:
    lens = np.array(intrinsics.distortion)
    rays = cv2.undistortPoints(points[:, None], intrinsics.matrix(), lens)
    return np.asarray(rays, dtype=np.float64)[:, 0]


def _intersect(
    rays: Array, good: NDArray[np.bool_], lengths: Array, focal_px: float, intrinsics: CameraIntrinsics
) -> DecalCorners | None:
    """Lines through (4, S, 2) places of which ``good`` are used, and the corners where neighbours meet."""
    _, distances = _fit_lines(rays, good)
    near = good & (np.abs(distances) * focal_px < _OUTLIER_PX)
    count = near.sum(axis=1)
    if (count < _KEPT_MIN).any():
        return None
    lines, distances = _fit_lines(rays, near)
    squares = (np.where(near, distances, 0.0) ** 2).sum(axis=1) / count * focal_px**2
    if not (squares < _RESIDUAL_MAX_PX**2).all():
        return None
    independent = np.maximum(np.minimum(count, 0.8 * lengths / _CORRELATION_PX), 2.0)
    # At its end, a line through n places is twice as uncertain as in the middle.
    sigmas = 2.0 * np.sqrt(squares / independent)
    (a, b, c), (d, e, f) = lines[[-1, 0, 1, 2]].T, lines.T
    parallel = a * e - b * d
    if (np.abs(parallel) < 1e-9).any():
        return None
    solid = np.stack([(b * f - c * e) / parallel, (c * d - a * f) / parallel, np.ones(4)], axis=1)
    pixels = cv2.projectPoints(
        solid, np.zeros(3), np.zeros(3), intrinsics.matrix(), np.array(intrinsics.distortion)
    )[0]
    sigma = np.hypot(sigmas[[-1, 0, 1, 2]], sigmas)
    points = np.asarray(pixels, dtype=np.float64)[:, 0]
    if not np.isfinite(points).all():
        return None
    return DecalCorners(points, np.maximum(sigma, _SIGMA_MIN_PX), math.sqrt(float(squares.sum()) / 4))


def _fit_lines(points: Array, used: NDArray[np.bool_]) -> tuple[Array, Array]:
    """(4, 3) of a, b, c with a x + b y + c = 0 and a² + b² = 1 through (4, S, 2) points, and (4, S) distances."""
    weights = used.astype(np.float64)
    middle = (weights[:, :, None] * points).sum(axis=1) / weights.sum(axis=1)[:, None]
    x, y = (points - middle[:, None]).transpose(2, 0, 1)
    angle = 0.5 * np.arctan2(2 * (weights * x * y).sum(axis=1), (weights * (x * x - y * y)).sum(axis=1))
    a, b = -np.sin(angle), np.cos(angle)
    lines = np.stack([a, b, -(a * middle[:, 0] + b * middle[:, 1])], axis=1)
    return lines, a[:, None] * x + b[:, None] * y
