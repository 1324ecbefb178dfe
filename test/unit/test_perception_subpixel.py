import dataclasses
import math

import cv2
import numpy as np
import pytest

from depai_robot.perception.gate import FEATURES, Gate
from depai_robot.perception.looks import publish, surest_look
from depai_robot.perception.pose import refine_pose, solve_pose
from depai_robot.perception.subpixel import DECAL, find_decal_corners, sharpen
from test.decal_picture import DOCK, LENS, PLAIN, draw, keypoints_at, project, upright

OPEN_GATE = Gate((20.0, *[0.0] * (len(FEATURES) - 1)), 0.5)


def error_px(corners, pixels):
    return np.linalg.norm(corners.points_px - pixels[DECAL], axis=1).max()


@pytest.mark.parametrize("intrinsics", [PLAIN, LENS], ids=["plain", "lens"])
@pytest.mark.parametrize("yaw_deg", [-30, 0, 20])
@pytest.mark.parametrize("position", [(0.02, 0.03, 0.45), (0.12, -0.02, 0.7), (-0.2, 0.03, 0.95)])
def test_corners_are_found_to_a_small_part_of_a_pixel(intrinsics, yaw_deg, position):
    rotation, position = upright(math.radians(yaw_deg)), np.array(position)
    pixels = project(rotation, position, intrinsics)
    off = pixels + np.random.default_rng(3).normal(0, 0.7, pixels.shape)
    picture = draw(rotation, position, intrinsics, blur_px=0.6, rays=6)
    corners = find_decal_corners(picture, keypoints_at(off), intrinsics)
    assert error_px(corners, pixels) < 0.15
    assert (corners.sigma_px < 0.15).all()


def test_light_and_noise_change_little():
    rotation, position = upright(0.2), np.array([0.05, 0.03, 0.6])
    pixels = project(rotation, position)
    picture = draw(rotation, position, black=12, white=60, blur_px=0.8, noise=np.random.default_rng(1))
    assert error_px(find_decal_corners(picture, keypoints_at(pixels), PLAIN), pixels) < 0.3


def test_what_is_not_the_border_is_refused():
    rotation, position = upright(0.2), np.array([0.05, 0.03, 0.6])
    pixels = project(rotation, position)
    picture = draw(rotation, position)

    def look(image=picture, points=pixels, **changes):
        keypoints = dataclasses.replace(keypoints_at(points), **changes)
        return find_decal_corners(image, keypoints, PLAIN)

    assert look() is not None
    assert look(255 - picture) is None, "white on black is another thing"
    assert look(np.full((480, 640), 128, np.uint8)) is None
    covered = picture.copy()
    covered[:, : int(pixels[8, 0]) + 8] = 128
    assert look(covered) is None, "one edge is hidden"
    assert look(points=pixels[[*range(8), 10, 9, 8, 11]]) is None, "the corners cross"
    assert look(points=np.full((12, 2), np.nan)) is None
    assert look(points=pixels + 1e6) is None
    assert look(points=pixels + (9.0, 0.0), sigma_px=np.full(12, 0.1)) is None, (
        "too far from where it should be"
    )


def test_a_blur_that_drowns_the_border_is_refused():
    rotation, position = upright(0.0), np.array([0.0, 0.03, 0.8])
    picture = draw(rotation, position)
    drawn_out = cv2.blur(picture, (13, 1))
    assert find_decal_corners(drawn_out, keypoints_at(project(rotation, position)), PLAIN) is None


def test_far_away_nothing_is_sharpened():
    rotation, position = upright(0.0), np.array([0.0, 0.03, 2.0])
    keypoints = keypoints_at(project(rotation, position))
    assert find_decal_corners(draw(rotation, position), keypoints, PLAIN) is None


def test_only_the_decals_keypoints_change():
    rotation, position = upright(0.1), np.array([0.0, 0.03, 0.6])
    pixels = project(rotation, position)
    keypoints = keypoints_at(pixels + 0.4)
    corners = find_decal_corners(draw(rotation, position), keypoints, PLAIN)
    sharp = sharpen(keypoints, corners)
    np.testing.assert_array_equal(sharp.points_px[:8], keypoints.points_px[:8])
    np.testing.assert_array_equal(sharp.points_px[8:], corners.points_px)
    assert (keypoints.points_px[8:] == pixels[8:] + 0.4).all(), "the given ones stay as they are"


def pose_error(observation, position):
    return np.linalg.norm(np.array(observation.dock_in_camera.position_m) - position)


def test_the_published_pose_is_the_sharp_one_and_says_so():
    rotation, position = upright(0.15), np.array([0.02, 0.03, 0.55])
    rng, plain_m, sharp_m = np.random.default_rng(2), [], []
    picture = draw(rotation, position, blur_px=0.6)
    for _ in range(10):
        keypoints = keypoints_at(project(rotation, position) + rng.normal(0, 0.5, (12, 2)))
        seen = surest_look(keypoints, lambda _: None, PLAIN, DOCK, gate=OPEN_GATE)
        known = {"stamp_ns": 1, "gate": OPEN_GATE, "model_sha256": "ab" * 32}
        plain = publish(seen, PLAIN, DOCK, **known)
        corners = find_decal_corners(picture, keypoints, PLAIN)
        sharp = publish(seen, PLAIN, DOCK, **known, corners=corners)
        assert sharp.confidence == plain.confidence, "the gate judges what it was fitted on"
        assert np.trace(sharp.covariance) < np.trace(plain.covariance)
        plain_m.append(pose_error(plain, position))
        sharp_m.append(pose_error(sharp, position))
    assert np.mean(sharp_m) < 0.7 * np.mean(plain_m)


def test_corners_by_their_edges_share_no_error_with_the_networks_keypoints():
    rotation, position = upright(0.15), np.array([0.02, 0.03, 0.55])
    corners = find_decal_corners(draw(rotation, position), keypoints_at(project(rotation, position)), PLAIN)
    shared = np.full((24, 24), 0.5) + 0.5 * np.eye(24)
    keypoints = dataclasses.replace(keypoints_at(project(rotation, position)), error_covariance=shared.copy())
    found = sharpen(keypoints, corners).error_covariance
    np.testing.assert_array_equal(found[16:, 16:], np.eye(8))
    assert not found[:16, 16:].any()
    np.testing.assert_array_equal(found[:16, :16], shared[:16, :16])
    np.testing.assert_array_equal(keypoints.error_covariance, shared)


def test_keypoints_that_contradict_the_pose_do_not_move_it():
    rotation, position = upright(0.15), np.array([0.02, 0.03, 0.55])
    keypoints = keypoints_at(project(rotation, position))
    solution = solve_pose(keypoints, PLAIN, DOCK)
    elsewhere = keypoints_at(project(upright(-0.3), position + (0.1, 0.0, 0.2)))
    assert refine_pose(solution, elsewhere, PLAIN, DOCK) is solution
    hidden = dataclasses.replace(keypoints, visibility=np.zeros(12))
    assert refine_pose(solution, hidden, PLAIN, DOCK) is solution


def test_where_two_poses_explain_a_far_panel_none_is_given():
    """Without the base a far panel looks nearly the same turned left and right."""
    rotation, position = upright(0.35), np.array([0.0, 0.0, 4.5])
    pixels = project(rotation, position)
    whole = keypoints_at(pixels, sigma_px=0.6)
    flat = dataclasses.replace(whole, visibility=np.where(np.arange(12) // 4 == 1, 0.0, 1.0))
    assert solve_pose(whole, PLAIN, DOCK) is not None
    assert solve_pose(flat, PLAIN, DOCK) is None
    near = dataclasses.replace(
        keypoints_at(project(rotation, np.array([0.0, 0.0, 0.6]))), visibility=flat.visibility
    )
    assert solve_pose(near, PLAIN, DOCK) is not None, "perspective tells them apart"
