import math

import numpy as np
import pytest

from depai_robot.values.error import BugError
from depai_robot.values.geometry import Pose2, Pose3, matrix_to_quaternion_xyzw, wrap_angle_rad


@pytest.mark.parametrize(
    ("angle", "wrapped"),
    [(0, 0), (math.pi, math.pi), (-math.pi, math.pi), (3 * math.pi, math.pi), (math.tau + 0.5, 0.5)],
)
def test_angles_wrap_into_half_open_turn(angle, wrapped):
    assert wrap_angle_rad(angle) == pytest.approx(wrapped)


def test_composition_in_the_plane():
    dock_in_world = Pose2(1.0, 2.0, math.pi / 2).compose(Pose2(3.0, 0.0, math.pi / 2))
    assert (dock_in_world.x_m, dock_in_world.y_m) == pytest.approx((1.0, 5.0))
    assert dock_in_world.yaw_rad == pytest.approx(math.pi)


def test_inverse_undoes():
    pose = Pose2(1.5, -2.0, 2.5)
    same = pose.compose(pose.inverse())
    assert (same.x_m, same.y_m, same.yaw_rad) == pytest.approx((0, 0, 0), abs=1e-12)
    assert pose.distance_m(Pose2(1.5, 1.0, 0.0)) == pytest.approx(3.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_poses_are_finite(bad):
    with pytest.raises(BugError, match="finite"):
        Pose2(bad, 0.0, 0.0)
    with pytest.raises(BugError, match="finite"):
        Pose3((0.0, bad, 0.0), (0.0, 0.0, 0.0, 1.0))


def test_quaternions_have_unit_length():
    with pytest.raises(BugError, match="length 1"):
        Pose3((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.01))


@pytest.mark.parametrize(
    "axis", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.6, 0.8, 0.0), (-0.48, 0.6, 0.64)]
)
@pytest.mark.parametrize("angle_rad", [0.0, 1e-9, 0.7, 2.0, math.pi - 1e-9, math.pi])
def test_rotations_round_trip(axis, angle_rad):
    half = angle_rad / 2
    quaternion = (*(math.sin(half) * part for part in axis), math.cos(half))
    pose = Pose3((1.0, 2.0, 3.0), quaternion)
    rotation = pose.rotation()
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    again = Pose3((0.0, 0.0, 0.0), matrix_to_quaternion_xyzw(rotation))
    np.testing.assert_allclose(again.rotation(), rotation, atol=1e-9)
    assert matrix_to_quaternion_xyzw(rotation)[3] >= 0


def test_inverse_and_shadow_in_space():
    pose = Pose3((1.0, 2.0, 0.5), (0.0, 0.0, math.sin(0.4), math.cos(0.4)))
    same = pose.compose(pose.inverse())
    np.testing.assert_allclose(same.position_m, (0, 0, 0), atol=1e-12)
    np.testing.assert_allclose(same.rotation(), np.eye(3), atol=1e-12)
    flat = pose.to_pose2()
    assert (flat.x_m, flat.y_m, flat.yaw_rad) == pytest.approx((1.0, 2.0, 0.8))
