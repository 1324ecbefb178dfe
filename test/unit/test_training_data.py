"""What the networks learn from: labels that fit the crops, and how a pose's error moves them."""

import cv2
import numpy as np
import pytest

from depai_robot.perception.gate import YAW_TOLERANCE_RAD, position_tolerance_m
from depai_robot.perception.region import region_of
from training import data
from training.scene import Painter, Request


@pytest.fixture(scope="module")
def painter():
    return Painter(1, "slopes")


@pytest.mark.parametrize("range_m", [0.8, 4.0])
def test_slopes_are_how_far_keypoints_move_when_the_pose_is_wrong(painter, range_m):
    sample = painter.sample(0, Request("clean", range_m))
    truth = sample.docks[0]
    region = region_of(truth.points_px)
    slopes = data.pose_slopes(painter.dock, truth, sample.camera.focal_px, region)
    tolerance_m = position_tolerance_m(float(np.linalg.norm(truth.position_m)))

    def points(wrong):
        """In the crop, of a pose that is wrong by so many tolerances."""
        turn = cv2.Rodrigues(wrong[3:] * YAW_TOLERANCE_RAD)[0]
        position_m = truth.position_m + wrong[:3] * tolerance_m
        pixels = (painter.dock.points_m() @ (truth.rotation @ turn).T + position_m) @ sample.camera.matrix().T
        return region.to_crop(pixels[:, :2] / pixels[:, 2:])

    for axis in range(6):
        step = np.zeros(6)
        step[axis] = 1e-4
        moved = (points(step) - points(-step)) / 2e-4
        np.testing.assert_allclose(slopes[:, :, axis], moved, atol=1e-3)


def test_only_the_hard_split_has_slopes_and_only_where_a_dock_is():
    _, plain = data.make(5, "train", 2)
    _, hard = data.make(5, data.HARD_SPLIT, 4)
    assert plain.slopes.shape == (0, 12, 2, 6)
    assert hard.slopes.shape == (12, 12, 2, 6)
    has_slopes = hard.slopes.any(axis=(1, 2, 3))
    np.testing.assert_array_equal(has_slopes, hard.presence > 0)
