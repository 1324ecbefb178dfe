"""A base that stands out of its panel, and the picture of one."""

from dataclasses import replace

import numpy as np
import pytest

from depai_robot.app.resource import resource_path
from depai_robot.perception.dock import parse_dock
from depai_robot.perception.frame import CameraIntrinsics
from depai_robot.perception.observation import DockKeypoints
from depai_robot.perception.relief import COUNT_MIN, RANGE_MAX_M, Relief, ReliefFit, measure_relief
from depai_robot.values.geometry import Pose3

LENS = CameraIntrinsics(640, 480, 465.0, 465.0, 319.5, 239.5, (0.05, -0.02, 0.0, 0.0, 0.0))
STRAIGHT = CameraIntrinsics(640, 480, 465.0, 465.0, 319.5, 239.5)
SECOND_NS = 1_000_000_000


@pytest.fixture(scope="module")
def dock():
    return parse_dock(resource_path("config", "dock.yaml").read_text(encoding="utf-8"))


def before(range_m, yaw_deg=0.0):
    """Pose of a dock ahead of a level camera that is 3 cm higher than the panel's centre."""
    yaw = np.radians(yaw_deg)
    forward, up = np.array([np.sin(yaw), 0, np.cos(yaw)]), np.array([0, -1.0, 0])
    rotation = np.stack([forward, np.cross(up, forward), up], axis=1)
    return Pose3.from_matrix(rotation, (0.02, 0.03, range_m))


def seen(points_m, pose, lens=STRAIGHT, sigma_px=0.3):
    import cv2

    points = points_m @ pose.rotation().T + np.array(pose.position_m)
    pixels = cv2.projectPoints(points, np.zeros(3), np.zeros(3), lens.matrix(), np.array(lens.distortion))[0]
    return DockKeypoints(pixels[:, 0], np.full(12, sigma_px), np.ones(12), 0.99)


def flat(points_m, photographer_m):
    """The dock's points as a photo from straight ahead has them, in the panel's plane."""
    scale = photographer_m / (photographer_m + points_m[:, :1])
    return np.concatenate([np.zeros((12, 1)), points_m[:, 1:] * scale], axis=1)


@pytest.mark.parametrize("lens", [STRAIGHT, LENS])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0, 1.3])
def test_the_depth_of_the_base_is_measured(dock, share, lens):
    pose = before(1.0, 15)
    built = dock.points_m() * [share, 1, 1]
    relief = measure_relief(seen(built, pose, lens), lens, dock, before(1.05, 12))
    assert relief.share == pytest.approx(share, abs=2e-3)
    assert 0 < relief.sigma < 0.1


@pytest.mark.parametrize("range_m", [0.6, 1.0, 1.6])
def test_a_photo_shows_the_distance_over_the_photographers(dock, range_m):
    pose = before(range_m)
    relief = measure_relief(seen(flat(dock.points_m(), 2.0), pose), STRAIGHT, dock, pose)
    assert relief.share == pytest.approx(range_m / 2.0, abs=0.05)


@pytest.mark.parametrize("sigma_px", [0.05, 1.0])
def test_far_away_nothing_is_said(dock, sigma_px):
    pose = before(RANGE_MAX_M + 0.1)
    assert measure_relief(seen(dock.points_m(), pose, sigma_px=sigma_px), STRAIGHT, dock, pose) is None


@pytest.mark.parametrize("hidden", [slice(4, 8), slice(0, 8), slice(0, 12)])
def test_without_base_or_panel_nothing_is_said(dock, hidden):
    pose = before(1.0)
    keypoints = seen(dock.points_m(), pose)
    keypoints.visibility[hidden] = 0.1
    assert measure_relief(keypoints, STRAIGHT, dock, pose) is None


def test_points_that_are_no_numbers_say_nothing(dock):
    pose = before(1.0)
    keypoints = seen(dock.points_m(), pose)
    keypoints.points_px[:] = np.nan
    assert measure_relief(keypoints, STRAIGHT, dock, pose) is None


def test_a_picture_is_one_after_some_images_and_for_some_seconds():
    fit = ReliefFit()
    for number in range(COUNT_MIN):
        assert not fit.is_picture(number)
        fit = fit.add(Relief(0.6, 0.05), number)
    assert fit.is_picture(COUNT_MIN)
    assert fit.is_picture(4 * SECOND_NS)
    assert not fit.is_picture(6 * SECOND_NS)
    assert fit.add(Relief(1.0, 0.05), 7 * SECOND_NS).count == 1


def test_a_dock_is_none_and_old_images_fade():
    fit = ReliefFit()
    for number in range(20):
        fit = fit.add(Relief(1.0 + 0.1 * (-1) ** number, 0.05), number)
        assert not fit.is_picture(number)
    for number in range(20, 60):
        fit = fit.add(Relief(0.5, 0.05), number)
    assert fit.is_picture(60)


def test_images_that_follow_each_other_err_alike():
    fit = ReliefFit()
    for number in range(50):
        fit = fit.add(Relief(0.7, 0.1), number)
    assert fit.sigma > 0.1
    assert not fit.is_picture(50)


def test_what_a_picture_shows_now_soon_counts_more_than_what_it_showed():
    fit = ReliefFit()
    for number in range(50):
        fit = fit.add(Relief(1.0, 0.05), number)
    for number in range(50, 60):
        fit = fit.add(Relief(0.6, 0.05), number)
    assert fit.is_picture(60)


def test_what_the_keypoints_errors_have_in_common_widens_the_sigma(dock):
    pose = before(1.5, 30)
    alone = seen(dock.points_m(), pose)
    common = np.eye(24)
    # Beside its own error each corner of the base has one that all of them have.
    common[8:16, 8:16] = np.kron(np.eye(4) + 15, np.eye(2))
    together = replace(alone, error_covariance=common)
    widened, plain = (measure_relief(k, STRAIGHT, dock, pose) for k in (together, alone))
    assert widened.share == pytest.approx(1.0, abs=1e-3)
    assert widened.sigma > 1.2 * plain.sigma


def test_uncertain_images_accuse_nobody():
    fit = ReliefFit()
    for number in range(6):
        fit = fit.add(Relief(0.6, 0.3), number)
    assert not fit.is_picture(6)
