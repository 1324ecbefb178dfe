"""Looks again at a dock whose pose is not sure: another crop of the same image is another opinion.

The keypoint network errs differently when the same dock lies otherwise in its crop: smaller, larger, softened. Where
the first look is not very sure of its pose, three more are taken; the surest is judged by what all four say.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from depai_robot.perception.dock import DockModel
from depai_robot.perception.frame import CameraIntrinsics
from depai_robot.perception.gate import YAW_TOLERANCE_RAD, Agreement, Gate, position_tolerance_m
from depai_robot.perception.network import next_region
from depai_robot.perception.observation import DockKeypoints, DockObservation
from depai_robot.perception.pose import UP_IN_LEVEL_CAMERA, PoseSolution, refine_pose, solve_pose
from depai_robot.perception.region import Region
from depai_robot.perception.subpixel import DecalCorners, sharpen
from depai_robot.values.geometry import Pose3, Vector3


@dataclass(frozen=True, slots=True)
class View:
    """How another look differs from one at the dock's own region.

    Attributes:
        scale: its side in sides of that region.
        blur_px: deviation of the Gaussian that softens it, in pixels of the crop; 0 leaves it as it is.
    """

    scale: float
    blur_px: float = 0.0


MORE_LOOKS = (View(1.25), View(0.9), View(1.0, blur_px=2.0))
""":data:`depai_robot.perception.gate.OTHERS` of thirty that were tried: they are seldom wrong together.

Source: docs/decisions/0015.
"""

Look = Callable[[Region, float], DockKeypoints | None]
"""At a region of an image, softened by a Gaussian of so many crop pixels; None when no dock is seen there."""


@dataclass(frozen=True, slots=True)
class SurestLook:
    """What is known of a dock after its looks.

    Attributes:
        keypoints: of the look whose pose is the surest.
        solution: that pose; None when no look gave one.
        confidence: that it is usable, by the gate; 0 without one.
        agreement: of the looks; None where there was one only.
    """

    keypoints: DockKeypoints
    solution: PoseSolution | None
    confidence: float
    agreement: Agreement | None = None


def surest_look(
    keypoints: DockKeypoints,
    look: Look,
    intrinsics: CameraIntrinsics,
    dock: DockModel,
    *,
    gate: Gate,
    up_in_camera: Vector3 = UP_IN_LEVEL_CAMERA,
) -> SurestLook:
    """The first look when it is very sure, else the surest of several and what the gate makes of all of them.

    Args:
        keypoints: of the first look.
        look: at the same image again.
        intrinsics: of the lens that made the image.
        dock: geometry.
        gate: judges each look, and all together.
        up_in_camera: unit vector upwards in the optical frame.
    """

    def judged(seen: DockKeypoints) -> SurestLook:
        solution = solve_pose(seen, intrinsics, dock, up_in_camera=up_in_camera)
        return SurestLook(
            seen, solution, gate.probability(solution.evidence) if solution is not None else 0.0
        )

    first = judged(keypoints)
    if gate.opinions is None or first.confidence >= gate.opinions.ask_below:
        return first
    region = next_region(keypoints)
    looks: list[SurestLook | None] = [first]
    for view in MORE_LOOKS:
        # Too little to say where the dock is leaves nowhere to look: an opinion missing, not one in favour.
        again = look(region.scaled(view.scale), view.blur_px) if region is not None else None
        looks.append(judged(again) if again is not None else None)
    best = max((seen for seen in looks if seen is not None), key=lambda seen: seen.confidence)
    others = tuple(_opinion(best.solution, seen) for seen in looks if seen is not best)
    agreement = Agreement(best.confidence, others)
    return SurestLook(best.keypoints, best.solution, gate.opinions.probability(agreement), agreement)


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


def _opinion(surest: PoseSolution | None, other: SurestLook | None) -> tuple[float, float] | None:
    """Confidence of another look, and how far its pose is from the surest one's, in tolerances."""
    if surest is None or other is None or other.solution is None:
        return None
    turn = surest.rotation.T @ other.solution.rotation
    yaw_rad = abs(math.atan2(float(turn[1, 0]), float(turn[0, 0])))
    apart_m = math.dist(surest.position_m, other.solution.position_m)
    tolerance_m = position_tolerance_m(math.hypot(*surest.position_m))
    return other.confidence, max(yaw_rad / YAW_TOLERANCE_RAD, apart_m / tolerance_m)
