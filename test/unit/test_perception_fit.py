import dataclasses
import math

import numpy as np
import pytest

from depai_robot.perception.fit import COUNT_MIN, DecalFit, DecalRatio, measure_decal
from depai_robot.perception.subpixel import find_decal_corners
from test.decal_picture import DOCK, LENS, PLAIN, draw, keypoints_at, project, upright


def look(size_m=0.16, yaw_rad=0.2, z=0.7, intrinsics=PLAIN, sigma_px=0.3, **changes):
    rotation, position = upright(yaw_rad), np.array([0.02, 0.03, z])
    keypoints = dataclasses.replace(
        keypoints_at(project(rotation, position, intrinsics), sigma_px, intrinsics), **changes
    )
    picture = draw(rotation, position, intrinsics, size_m=size_m, blur_px=0.6, rays=5)
    corners = find_decal_corners(picture, keypoints, intrinsics)
    return measure_decal(keypoints, corners, intrinsics, DOCK)


@pytest.mark.parametrize("intrinsics", [PLAIN, LENS], ids=["plain", "lens"])
@pytest.mark.parametrize("share", [0.95, 1.0, 1.05])
@pytest.mark.parametrize("yaw_rad", [-0.5, 0.2])
def test_the_decals_size_on_its_panel_is_measured(intrinsics, share, yaw_rad):
    ratio = look(0.16 * share, yaw_rad, intrinsics=intrinsics)
    assert ratio.width == pytest.approx(share, abs=4e-3)
    assert ratio.height == pytest.approx(share, abs=4e-3)
    assert 1e-4 < ratio.sigma < 0.01


def test_a_panel_of_another_width_shows_in_the_width_alone():
    wide = dataclasses.replace(DOCK, panel=dataclasses.replace(DOCK.panel, width_m=0.42))
    points = [(x, y * 1.05 if i < 8 else y, z) for i, (x, y, z) in enumerate(DOCK.keypoints_m)]
    wide = dataclasses.replace(wide, keypoints_m=tuple(points))
    rotation, position = upright(0.1), np.array([0.02, 0.03, 0.7])
    keypoints = keypoints_at(project(rotation, position, dock=wide), 0.3)
    corners = find_decal_corners(draw(rotation, position, blur_px=0.6, rays=5), keypoints, PLAIN)
    ratio = measure_decal(keypoints, corners, PLAIN, DOCK)
    assert ratio.width == pytest.approx(1 / 1.05, abs=4e-3)
    assert ratio.height == pytest.approx(1.0, abs=4e-3)


def test_without_the_panels_corners_nothing_is_measured():
    assert look() is not None
    hidden = np.ones(12)
    hidden[2] = 0.2
    assert look(visibility=hidden) is None
    assert look(sigma_px=9.0) is None, "too uncertain to say"


def test_frames_together_decide():
    fit = DecalFit()
    assert not fit.is_wrong
    assert fit.sigma == math.inf
    for number in range(COUNT_MIN):
        assert not fit.is_wrong, f"after {number}"
        fit = fit.add(DecalRatio(1.05, 1.0, 0.005))
    assert fit.is_wrong
    assert fit.misfit == pytest.approx(0.05)
    for _ in range(3000):  # the print was replaced
        fit = fit.add(DecalRatio(1.0, 1.0, 0.005))
    assert not fit.is_wrong


def test_uncertain_frames_do_not_decide():
    fit = DecalFit()
    for _ in range(COUNT_MIN):
        fit = fit.add(DecalRatio(1.04, 1.0, 0.04))
    assert fit.misfit == pytest.approx(0.04)
    assert not fit.is_wrong
