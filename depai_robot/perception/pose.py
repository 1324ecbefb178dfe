"""From keypoints to the dock's pose with its covariance, or nothing when it can't be trusted.

SQPnP on the best keypoints gives a start; a Levenberg-Marquardt fit of all, weighted by the network's own sigmas and by
what the keypoints' errors have in common, and made robust by Huber's weights, gives the pose. Lens distortion is taken
out of the points first. Near the dock the decal's edges make it sharper. Where two poses explain the keypoints, none is
given.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from depai_robot.perception.dock import DockModel
from depai_robot.perception.frame import CameraIntrinsics
from depai_robot.perception.gate import YAW_TOLERANCE_RAD, Evidence, position_tolerance_m
from depai_robot.perception.observation import KEYPOINT_COUNT, DockKeypoints
from depai_robot.values.error import BugError
from depai_robot.values.geometry import Vector3

Array = NDArray[np.float64]

UP_IN_LEVEL_CAMERA: Vector3 = (0.0, -1.0, 0.0)
"""Upwards in the optical frame of a camera that looks horizontally."""

_VISIBILITY_MIN = 0.3
_USED_MIN = 5
"""Four are a lone tag: with four, 8 of 20,000 rooms without a dock had one (docs/decisions/0012)."""

_POINT_MAX_PX = 1e5
"""Beyond any image; keeps squares of nonsense within floats."""

_START_COUNT = 8
_LINE_MAX_M = 1e-6
_SIGMA_MIN_PX = 0.01
_RANGE_MIN_M, _RANGE_MAX_M = 0.1, 12.0
_DEPTH_MIN_M = 0.02
_HUBER_SIGMAS = 1.5
_ITERATIONS_MAX = 15
_GAIN_MIN, _GAIN_MIN_SHARE = 1e-6, 1e-3
"""Squared sigmas; a step that gains less moves the pose by a small part of its own uncertainty."""

_SUSPICIOUS_RESIDUAL = 2.0
_RIVAL_COST = 9.0
"""Squared sigmas: a pose that fits worse by no more is as good an explanation (three sigmas)."""

_AGREE_COST = 36.0
"""Squared sigmas of six degrees of freedom: a sharper pose farther from the first is of something else."""

_ROUND_TRIP_MAX_PX = 0.05
_UNDISTORT_STEPS = 25
_RAY_MAX = 5.0


@dataclass(frozen=True, slots=True)
class PoseSolution:
    """A pose and how well it fits, before any judgement.

    Attributes:
        rotation: (3, 3) float64, dock to camera.
        position_m: (3,) float64 of the dock's origin in the camera's optical frame.
        covariance: (6, 6) float64 of position in m and rotation vector about the optical axes in rad.
        evidence: for the gate.
        cost: robust sum of squared residuals, in sigmas.
    """

    rotation: Array
    position_m: Array
    covariance: Array
    evidence: Evidence
    cost: float


def solve_pose(
    keypoints: DockKeypoints,
    intrinsics: CameraIntrinsics,
    dock: DockModel,
    *,
    up_in_camera: Vector3 = UP_IN_LEVEL_CAMERA,
) -> PoseSolution | None:
    """The pose that fits the visible keypoints best; None when there are too few or none fits at all.

    Raises:
        BugError: the keypoints' arrays have wrong shapes.
    """
    shapes = (keypoints.points_px.shape, keypoints.sigma_px.shape, keypoints.visibility.shape)
    if shapes != ((KEYPOINT_COUNT, 2), (KEYPOINT_COUNT,), (KEYPOINT_COUNT,)):
        raise BugError(f"keypoints have shapes (12, 2), (12,), (12,), got {shapes}")
    rays, straight = _undistort(keypoints.points_px, intrinsics)
    with np.errstate(invalid="ignore"):
        used = straight & (keypoints.visibility >= _VISIBILITY_MIN) & (keypoints.sigma_px > 0)
        used &= keypoints.sigma_px < _POINT_MAX_PX
    if int(used.sum()) < _USED_MIN:
        return None
    focal_px = math.sqrt(intrinsics.fx_px * intrinsics.fy_px)
    points_m, rays = dock.points_m()[used], rays[used]
    sigma = np.maximum(keypoints.sigma_px[used], _SIGMA_MIN_PX) / focal_px
    noise = keypoint_noise(keypoints, used, sigma)
    solid = float(np.ptp(points_m[:, 0])) > 0
    fits: list[_Fit] = []
    for rotation, position_m in _starts(points_m, rays, sigma):
        fit = _refine(rotation, position_m, points_m, rays, noise)
        if fit is None:
            continue
        fits.append(fit)
        if solid and fit.residual_median < _SUSPICIOUS_RESIDUAL:
            break  # points that do not lie in a plane have one pose
    if not fits:
        return None
    best = min(fits, key=lambda fit: fit.cost)
    if not solid and any(_rivals(best, other) for other in fits):
        return None
    return _judge(best, keypoints, used, intrinsics=intrinsics, dock=dock, up_in_camera=up_in_camera)


def refine_pose(
    solution: PoseSolution, keypoints: DockKeypoints, intrinsics: CameraIntrinsics, dock: DockModel
) -> PoseSolution:
    """The pose anew with sharper keypoints, from where it is; as it was if they do not bear it out."""
    rays, straight = _undistort(keypoints.points_px, intrinsics)
    used = straight & (keypoints.visibility >= _VISIBILITY_MIN)
    if int(used.sum()) < _USED_MIN:
        return solution
    focal_px = math.sqrt(intrinsics.fx_px * intrinsics.fy_px)
    sigma = np.maximum(keypoints.sigma_px[used], _SIGMA_MIN_PX) / focal_px
    fit = _refine(
        solution.rotation,
        solution.position_m,
        dock.points_m()[used],
        rays[used],
        keypoint_noise(keypoints, used, sigma),
        damping=1e-9,
    )
    covariance = _covariance(fit, int(used.sum())) if fit is not None else None
    if fit is None or covariance is None:
        return solution
    turn = np.asarray(cv2.Rodrigues(fit.rotation @ solution.rotation.T)[0], dtype=np.float64)[:, 0]
    moved = np.concatenate([fit.position_m - solution.position_m, turn])
    if not float(moved @ np.linalg.solve(solution.covariance + covariance, moved)) <= _AGREE_COST:
        return solution
    return PoseSolution(fit.rotation, fit.position_m, covariance, solution.evidence, fit.cost)


def _rivals(best: "_Fit", other: "_Fit") -> bool:
    """Whether another pose explains the points as well and would turn the robot elsewhere."""
    if other.cost - best.cost > _RIVAL_COST:
        return False
    cosine = (float(np.trace(best.rotation.T @ other.rotation)) - 1) / 2
    return math.acos(min(max(cosine, -1.0), 1.0)) > YAW_TOLERANCE_RAD


def _undistort(points_px: Array, intrinsics: CameraIntrinsics) -> tuple[Array, NDArray[np.bool_]]:
    """(12, 2) normalised image coordinates, and which of them the lens model maps back to where they were.

    Far outside of the image a distortion polynomial folds over; such points are worth nothing.
    """
    finite: NDArray[np.bool_] = np.asarray((np.abs(points_px) < _POINT_MAX_PX).all(axis=1))
    filled = np.where(finite[:, None], points_px, 0.0)
    focal = np.array([intrinsics.fx_px, intrinsics.fy_px])
    rays = (filled - np.array([intrinsics.cx_px, intrinsics.cy_px])) / focal
    if not any(intrinsics.distortion):
        return rays, finite
    matrix, lens = intrinsics.matrix(), np.array(intrinsics.distortion)
    error_px = np.full_like(filled, np.inf)
    for _ in range(_UNDISTORT_STEPS):
        solid = np.concatenate([rays, np.ones((len(rays), 1))], axis=1)
        back = cv2.projectPoints(solid, np.zeros(3), np.zeros(3), matrix, lens)[0]
        error_px = filled - np.asarray(back, dtype=np.float64)[:, 0]
        rays = np.clip(rays + error_px / focal, -_RAY_MAX, _RAY_MAX)
    with np.errstate(invalid="ignore"):
        straight = np.asarray(np.abs(error_px).max(axis=1) < _ROUND_TRIP_MAX_PX)
    return rays, finite & straight


def _starts(points_m: Array, rays: Array, sigma: Array) -> list[tuple[Array, Array]]:
    """Poses to begin with: SQPnP on the best keypoints, and its mirror image about the line of sight.

    Source: G. Terzakis, M. Lourakis, "A Consistently Fast and Globally Optimal Solution to the
    Perspective-n-Point Problem", ECCV 2020.
    """
    best = np.argsort(sigma, kind="stable")[:_START_COUNT]
    spread = points_m[best] - points_m[best].mean(axis=0)
    if np.linalg.eigvalsh(spread.T @ spread)[1] < _LINE_MAX_M**2:
        return []  # all on a line
    try:
        found, turn, position = cv2.solvePnP(
            points_m[best], rays[best][:, None], np.eye(3), None, flags=cv2.SOLVEPNP_SQPNP
        )
    except cv2.error:
        return []
    if not found or not np.isfinite(turn).all() or not np.isfinite(position).all():
        return []
    rotation = np.asarray(cv2.Rodrigues(turn)[0], dtype=np.float64)
    position_m = np.asarray(position, dtype=np.float64)[:, 0]
    # A far plane looks nearly the same when its normal is mirrored about the line of sight.
    sight = position_m / max(float(np.linalg.norm(position_m)), 1e-9)
    half_turn = 2 * np.outer(sight, sight) - np.eye(3)
    mirrored = half_turn @ rotation @ np.diag([1.0, -1.0, -1.0])
    return [(rotation, position_m), (mirrored, position_m)]


@dataclass(frozen=True, slots=True)
class KeypointNoise:
    """How N keypoints err.

    Attributes:
        sigma: (N,) of each, in normalised image coordinates.
        spread: (N,) deviation of its errors, in sigmas.
        precision: (2 N, 2 N) inverse covariance of the errors in sigmas.
    """

    sigma: Array
    spread: Array
    precision: Array


def keypoint_noise(keypoints: DockKeypoints, used: NDArray[np.bool_], sigma: Array) -> KeypointNoise:
    """Of the keypoints that are used, with what their errors have in common.

    Args:
        keypoints: all twelve.
        used: (12,) which.
        sigma: (N,) of those, in normalised image coordinates.
    """
    if keypoints.error_covariance is None:
        return KeypointNoise(sigma, np.ones(len(sigma)), np.eye(2 * len(sigma)))
    both = np.repeat(used, 2)
    covariance = keypoints.error_covariance[np.ix_(both, both)]
    spread = np.sqrt(np.diag(covariance).reshape(-1, 2).mean(axis=1))
    return KeypointNoise(sigma, spread, np.asarray(np.linalg.inv(covariance), dtype=np.float64))


@dataclass(frozen=True, slots=True)
class _Fit:
    rotation: Array
    position_m: Array
    information: Array
    cost: float
    residual_median: float


def _residuals(turned: Array, position_m: Array, rays: Array, sigma: Array) -> tuple[Array, Array] | None:
    """(N, 2) differences in sigmas and (N, 3) points in the camera; None when one is behind it."""
    seen = turned + position_m
    if not (seen[:, 2] > _DEPTH_MIN_M).all():
        return None
    return (seen[:, :2] / seen[:, 2:] - rays) / sigma[:, None], seen


def _weights_and_cost(residuals: Array, noise: KeypointNoise) -> tuple[Array, float]:
    """Roots of Huber's weights per coordinate, (2 N,), and the robust cost.

    A keypoint that lies outside counts less, as if its own errors were larger, whatever it has in common with others.

    Source: P. J. Huber, "Robust Estimation of a Location Parameter", 1964.
    """
    size = np.sqrt((residuals**2).sum(axis=1)) / noise.spread
    outside = size > _HUBER_SIGMAS
    weights = np.where(outside, _HUBER_SIGMAS / np.maximum(size, 1e-12), 1.0)
    roots = np.repeat(np.sqrt(weights), 2)
    weighted = roots * residuals.reshape(-1)
    excess = np.where(outside, _HUBER_SIGMAS * (size - _HUBER_SIGMAS), 0.0).sum()
    return roots, float(weighted @ noise.precision @ weighted + excess)


def _refine(
    rotation: Array,
    position_m: Array,
    points_m: Array,
    rays: Array,
    noise: KeypointNoise,
    *,
    damping: float = 1e-3,
) -> _Fit | None:
    """Levenberg-Marquardt over position and a small rotation applied from the left."""
    turned = points_m @ rotation.T
    state = _residuals(turned, position_m, rays, noise.sigma)
    if state is None:
        return None
    residuals, seen = state
    roots, cost = _weights_and_cost(residuals, noise)
    information = np.zeros((6, 6))
    for _ in range(_ITERATIONS_MAX):
        information, gradient = _normal_equations(turned, seen, residuals, roots, noise)
        damped = information.copy()
        damped.flat[::7] += damping * (damped.flat[::7] + 1e-12)
        try:
            step = -np.linalg.solve(damped, gradient)
        except np.linalg.LinAlgError:
            return None
        if -float(gradient @ step) < _GAIN_MIN + _GAIN_MIN_SHARE * cost:
            break  # no more is to be gained, by the model of the step itself
        turn = np.asarray(cv2.Rodrigues(step[3:])[0], dtype=np.float64)
        trial = _residuals(points_m @ (turn @ rotation).T, position_m + step[:3], rays, noise.sigma)
        trial_roots, trial_cost = _weights_and_cost(trial[0], noise) if trial else (roots, math.inf)
        if trial is None or not trial_cost < cost:
            damping *= 8.0
            if damping > 1e8:
                break
            continue
        rotation, position_m = turn @ rotation, position_m + step[:3]
        turned = points_m @ rotation.T
        done = cost - trial_cost < _GAIN_MIN + _GAIN_MIN_SHARE * cost
        (residuals, seen), roots, cost = trial, trial_roots, trial_cost
        damping = max(damping / 8.0, 1e-9)
        if done:
            break
    information, _ = _normal_equations(turned, seen, residuals, roots, noise)
    median = float(np.median(np.sqrt((residuals**2).sum(axis=1))))
    return _Fit(rotation, position_m, information, cost, median)


def _normal_equations(
    turned: Array, seen: Array, residuals: Array, roots: Array, noise: KeypointNoise
) -> tuple[Array, Array]:
    """(6, 6) and (6,): J' W J and J' W r."""
    rows = projection_slopes(turned, seen) * (1.0 / noise.sigma)[None, :, None]
    flat = rows.transpose(1, 0, 2).reshape(-1, 6) * roots[:, None]
    weighted = flat.T @ noise.precision
    return weighted @ flat, weighted @ (roots * residuals.reshape(-1))


def projection_slopes(turned: Array, seen: Array) -> Array:
    """(2, N, 6): how x / z and y / z of points change with their position and with a turn about the camera's axes.

    The derivative of exp(w) R p by w is -[R p]x.

    Args:
        turned: (N, 3) points, turned as the camera sees them.
        seen: (N, 3) the same in the camera.
    """
    inverse_z = 1.0 / seen[:, 2]
    u, v = seen[:, 0] * inverse_z, seen[:, 1] * inverse_z
    x, y, z = turned.T
    rows = np.empty((2, len(seen), 6))
    rows[0, :, 0], rows[0, :, 1], rows[0, :, 2] = 1.0, 0.0, -u
    rows[1, :, 0], rows[1, :, 1], rows[1, :, 2] = 0.0, 1.0, -v
    rows[0, :, 3], rows[0, :, 4], rows[0, :, 5] = -u * y, z + u * x, -y
    rows[1, :, 3], rows[1, :, 4], rows[1, :, 5] = -z - v * y, v * x, x
    rows *= inverse_z[None, :, None]
    return rows


def _covariance(fit: _Fit, count: int) -> Array | None:
    """(6, 6) of a fit to ``count`` points, wider where it fits worse than their sigmas say; None when singular."""
    try:
        covariance = np.linalg.inv(fit.information)
    except np.linalg.LinAlgError:
        return None
    covariance = (covariance + covariance.T) / 2 * max(1.0, fit.cost / max(2 * count - 6, 1))
    if not np.isfinite(covariance).all() or (np.diag(covariance) <= 0).any():
        return None
    return np.asarray(covariance, dtype=np.float64)


def _judge(
    fit: _Fit,
    keypoints: DockKeypoints,
    used: NDArray[np.bool_],
    *,
    intrinsics: CameraIntrinsics,
    dock: DockModel,
    up_in_camera: Vector3,
) -> PoseSolution | None:
    """Covariance and evidence of a fit; None when it lies where no dock can be seen."""
    range_m = float(np.linalg.norm(fit.position_m))
    if not _RANGE_MIN_M < range_m < _RANGE_MAX_M:
        return None
    if float(fit.rotation[:, 0] @ fit.position_m) <= 0:
        return None  # the panel's back
    covariance = _covariance(fit, int(used.sum()))
    if covariance is None:
        return None
    variances = np.diag(covariance)
    upward = fit.rotation[:, 2]
    size_px = intrinsics.fx_px * dock.panel.width_m / float(fit.position_m[2])
    yaw_sigma_rad = math.sqrt(max(float(upward @ covariance[3:, 3:] @ upward), 0.0))
    evidence = Evidence(
        score=keypoints.score,
        residual_median=fit.residual_median,
        keypoint_sigma_share=float(keypoints.sigma_px[used].mean()) / max(size_px, 1.0),
        position_sigma_share=math.sqrt(float(variances[:3].sum())) / position_tolerance_m(range_m),
        yaw_sigma_share=yaw_sigma_rad / YAW_TOLERANCE_RAD,
        used_share=float(used.sum()) / KEYPOINT_COUNT,
        tilt_rad=math.acos(min(max(float(upward @ np.array(up_in_camera)), -1.0), 1.0)),
    )
    return PoseSolution(fit.rotation, fit.position_m, covariance, evidence, fit.cost)
