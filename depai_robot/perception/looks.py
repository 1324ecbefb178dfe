"""Looks again at a dock whose pose is not sure: another crop of the same image is another opinion.

The keypoint network errs differently when the same dock lies a little elsewhere in its crop. Where the first look's
pose would not be published, two more are taken; the surest of the three is believed if another agrees with it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from depai_robot.perception.dock import DockModel
from depai_robot.perception.frame import CameraIntrinsics
from depai_robot.perception.gate import YAW_TOLERANCE_RAD, Gate, position_tolerance_m
from depai_robot.perception.network import next_region
from depai_robot.perception.observation import DockKeypoints, DockObservation
from depai_robot.perception.pose import UP_IN_LEVEL_CAMERA, PoseSolution, refine_pose, solve_pose
from depai_robot.perception.region import Region
from depai_robot.perception.subpixel import DecalCorners, sharpen
from depai_robot.values.geometry import Pose3, Vector3

MORE_LOOKS = ((1.1, -0.06, 0.04), (1.25, 0.0, 0.0))
"""Each: side in sides of the region where the first look has the dock; shift to the right and down in its own sides.

Chosen on frames of both renderers (docs/perception.md); more than two give little more.
"""


@dataclass(frozen=True, slots=True)
class SurestLook:
    """What is known of a dock after its looks.

    Attributes:
        keypoints: of the look whose pose is the surest.
        solution: that pose; None when no look gave one.
        confidence: that it is usable, by the gate; 0 without one.
    """

    keypoints: DockKeypoints
    solution: PoseSolution | None
    confidence: float


def surest_look(
    keypoints: DockKeypoints,
    look: Callable[[Region], DockKeypoints | None],
    intrinsics: CameraIntrinsics,
    dock: DockModel,
    *,
    gate: Gate,
    up_in_camera: Vector3 = UP_IN_LEVEL_CAMERA,
) -> SurestLook:
    """The first look, or a surer one when the gate would not let its pose pass and two looks agree.

    Args:
        keypoints: of the first look.
        look: at a region of the same image; None when no dock is seen there.
        intrinsics: of the lens that made the image.
        dock: geometry.
        gate: judges each look.
        up_in_camera: unit vector upwards in the optical frame.
    """

    def judged(seen: DockKeypoints) -> SurestLook:
        solution = solve_pose(seen, intrinsics, dock, up_in_camera=up_in_camera)
        return SurestLook(
            seen, solution, gate.probability(solution.evidence) if solution is not None else 0.0
        )

    first = judged(keypoints)
    region = next_region(keypoints)
    if first.confidence >= gate.threshold or region is None:
        return first
    looks = [first]
    for scale, right, down in MORE_LOOKS:
        side_px = region.side_px * scale
        again = look(Region(region.x_px + right * side_px, region.y_px + down * side_px, side_px))
        if again is not None:
            looks.append(judged(again))
    best = max(looks, key=lambda seen: seen.confidence)
    others = [seen for seen in looks if seen is not best]
    return best if any(_agree(best.solution, seen.solution) for seen in others) else first


def publish(
    seen: SurestLook,
    intrinsics: CameraIntrinsics,
    dock: DockModel,
    *,
    gate: Gate,
    stamp_ns: int,
    model_sha256: str,
    corners: DecalCorners | None = None,
) -> DockObservation | None:
    """What is published of a dock, or None when its pose is not good enough.

    Args:
        seen: of this image.
        intrinsics: of the lens that made the image.
        dock: geometry.
        gate: decides.
        stamp_ns: of the image; passed on.
        model_sha256: of the models that made the keypoints; passed on.
        corners: of the decal by its edges, near the dock: they sharpen the pose. The gate judges the pose of the
            keypoints alone, as it was fitted.
    """
    solution = seen.solution
    if solution is None or seen.confidence < gate.threshold:
        return None
    if corners is not None:
        solution = refine_pose(solution, sharpen(seen.keypoints, corners), intrinsics, dock)
    x, y, z = (float(v) for v in solution.position_m)
    return DockObservation(
        stamp_ns=stamp_ns,
        dock_in_camera=Pose3.from_matrix(solution.rotation, (x, y, z)),
        covariance=solution.covariance,
        confidence=seen.confidence,
        model_sha256=model_sha256,
    )


def _agree(one: PoseSolution | None, other: PoseSolution | None) -> bool:
    """Whether both would be usable if one were right."""
    if one is None or other is None:
        return False
    turn = one.rotation.T @ other.rotation
    apart_m = math.dist(one.position_m, other.position_m)
    yaw_rad = math.atan2(float(turn[1, 0]), float(turn[0, 0]))
    range_m = math.hypot(*one.position_m)
    return abs(yaw_rad) < YAW_TOLERANCE_RAD and apart_m < position_tolerance_m(range_m)
