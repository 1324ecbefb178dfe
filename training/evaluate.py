"""A drawn frame as perception takes it, and how far a pose is from its truth.

Figures come from ``depai-robot model eval`` on sets of ``training.make_set``, and from ``bench.perception``.
"""

import numpy as np

from depai_robot.perception.frame import CameraIntrinsics, Frame
from depai_robot.perception.gate import YAW_TOLERANCE_RAD, position_tolerance_m
from depai_robot.perception.pose import PoseSolution
from training.degrade import HEIGHT_PX, WIDTH_PX
from training.scene import Camera, DockTruth, Sample


def intrinsics_of(camera: Camera) -> CameraIntrinsics:
    return CameraIntrinsics(
        WIDTH_PX,
        HEIGHT_PX,
        camera.focal_px,
        camera.focal_px,
        (WIDTH_PX - 1) / 2,
        (HEIGHT_PX - 1) / 2,
        camera.distortion,
    )


def frame_of(sample: Sample, stamp_ns: int = 1) -> Frame:
    return Frame(np.repeat(sample.image[:, :, None], 3, axis=2), stamp_ns, intrinsics_of(sample.camera))


def errors(solution: PoseSolution, truth: DockTruth) -> tuple[float, float]:
    """Position error in m and yaw error in rad (about the dock's own upward axis)."""
    between = truth.rotation.T @ solution.rotation
    yaw = float(np.arctan2(between[1, 0], between[0, 0]))
    return float(np.linalg.norm(solution.position_m - truth.position_m)), yaw


def usable(solution: PoseSolution, truth: DockTruth) -> bool:
    position_m, yaw_rad = errors(solution, truth)
    tolerance_m = position_tolerance_m(float(np.linalg.norm(truth.position_m)))
    return position_m < tolerance_m and abs(yaw_rad) < YAW_TOLERANCE_RAD
