"""Any view of a decal: its corners come out where they are, with an honest sigma, or not at all."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from depai_robot.perception.pose import solve_pose
from depai_robot.perception.subpixel import DECAL, find_decal_corners
from test.decal_picture import DOCK, LENS, PLAIN, draw, keypoints_at, project, upright


def views():
    return st.tuples(st.floats(-0.6, 0.6), st.floats(-0.15, 0.15), st.floats(-0.1, 0.1), st.floats(0.42, 1.1))


@settings(max_examples=25, deadline=None)
@given(
    views(),
    st.sampled_from([PLAIN, LENS]),
    st.floats(0.0, 1.2),
    st.floats(5, 60),
    st.floats(70, 250),
    st.integers(0, 1000),
)
def test_corners_lie_where_they_are_or_are_not_given(view, intrinsics, blur_px, black, white, seed):
    yaw_rad, x, y, z = view
    rotation, position = upright(yaw_rad), np.array([x, y, z])
    pixels = project(rotation, position, intrinsics)
    off = keypoints_at(pixels + np.random.default_rng(seed).normal(0, 0.8, pixels.shape))
    picture = draw(rotation, position, intrinsics, black=black, white=white, blur_px=blur_px)
    corners = find_decal_corners(picture, off, intrinsics)
    if corners is None:
        return
    errors_px = np.linalg.norm(corners.points_px - pixels[DECAL], axis=1)
    assert errors_px.max() < 0.4
    assert (errors_px < 6 * corners.sigma_px).all()


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-1.0, 1.0),
    st.floats(-1.0, 1.0),
    st.floats(0.5, 5.0),
    st.integers(0, 2**32 - 1),
    st.sampled_from([PLAIN, LENS]),
)
def test_a_solved_poses_error_is_within_its_covariance(yaw_rad, across, range_m, seed, intrinsics):
    """Whitened by its own covariance, an error of six degrees of freedom beyond 8 sigmas would be a lie."""
    rotation = upright(yaw_rad)
    position = np.array([0.4 * across * range_m, 0.03, range_m])
    pixels = project(rotation, position, intrinsics)
    sigma_px = 0.4
    keypoints = keypoints_at(
        pixels + np.random.default_rng(seed).normal(0, sigma_px, (12, 2)), sigma_px, intrinsics
    )
    solution = solve_pose(keypoints, intrinsics, DOCK)
    if solution is None:
        return
    turn = solution.rotation @ rotation.T
    angle = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]) / 2
    error = np.concatenate([solution.position_m - position, angle])
    assert math.sqrt(error @ np.linalg.solve(solution.covariance, error)) < 8
    eigenvalues = np.linalg.eigvalsh(solution.covariance)
    assert (eigenvalues > 0).all()
