import dataclasses
import math

import cv2
import numpy as np
import pytest

from depai_robot.perception.dock import Base, Decal, DockModel, Pads, Panel
from depai_robot.perception.frame import CameraIntrinsics
from depai_robot.perception.gate import FEATURES, Evidence, Gate, position_tolerance_m
from depai_robot.perception.looks import publish, surest_look
from depai_robot.perception.observation import DockKeypoints
from depai_robot.perception.pose import solve_pose
from depai_robot.values.error import BugError, ConfigError

OPEN_GATE = Gate((20.0, *[0.0] * (len(FEATURES) - 1)), 0.5)
SHUT_GATE = Gate((-20.0, *[0.0] * (len(FEATURES) - 1)), 0.5)
PLAIN = CameraIntrinsics(640, 480, 465.0, 465.0, 319.5, 239.5)
LENS = CameraIntrinsics(640, 480, 460.0, 470.0, 315.0, 244.0, (-0.32, 0.11, 0.001, -0.0015, -0.012))


def rectangle(x, half_width, top, bottom):
    return ((x, half_width, top), (x, -half_width, top), (x, -half_width, bottom), (x, half_width, bottom))


DOCK = DockModel(
    Panel(0.4, 0.3, 0.02, 0.25),
    Base(0.4, 0.08, 0.15),
    Decal(0.16, "tag36h11"),
    Pads(-0.15, -0.19, 0.06, 0.14),
    rectangle(0.0, 0.2, 0.15, -0.15)
    + rectangle(-0.15, 0.2, -0.15, -0.23)
    + rectangle(0.0, 0.08, 0.08, -0.08),
)


def upright(yaw_rad):
    """Dock axes (x away from the camera, y left, z up) in the frame of a level camera."""
    forward = np.array([math.sin(yaw_rad), 0.0, math.cos(yaw_rad)])
    up = np.array([0.0, -1.0, 0.0])
    return np.stack([forward, np.cross(up, forward), up], axis=1)


def project(rotation, position, intrinsics):
    points = DOCK.points_m() @ rotation.T + position
    lens = np.array(intrinsics.distortion)
    pixels = cv2.projectPoints(points, np.zeros(3), np.zeros(3), intrinsics.matrix(), lens)[0][:, 0]
    inside = ((pixels > 0) & (pixels < [intrinsics.width_px, intrinsics.height_px])).all(axis=1)
    return pixels, inside.astype(float)


def make_keypoints(rotation, position, intrinsics=PLAIN, sigma_px=0.3, **changes):
    pixels, visibility = project(rotation, position, intrinsics)
    keypoints = DockKeypoints(pixels, np.full(12, sigma_px), visibility, 0.99)
    return dataclasses.replace(keypoints, **changes)


def errors(solution, rotation, position):
    turn = cv2.Rodrigues(solution.rotation.T @ rotation)[0]
    return np.linalg.norm(solution.position_m - position), np.linalg.norm(turn)


@pytest.mark.parametrize("intrinsics", [PLAIN, LENS], ids=["plain", "lens"])
@pytest.mark.parametrize("yaw_deg", [-60, -20, 0, 35, 60])
@pytest.mark.parametrize("position", [(0.0, 0.03, 0.45), (0.3, 0.03, 1.2), (-0.8, 0.1, 3.0), (0.5, 0.0, 5.0)])
def test_exact_keypoints_give_the_exact_pose(intrinsics, yaw_deg, position):
    if position[2] < 0.5 and abs(yaw_deg) > 35:
        yaw_deg = math.copysign(20, yaw_deg)  # nearer than its own length a robot stands square
    rotation = upright(math.radians(yaw_deg))
    solution = solve_pose(make_keypoints(rotation, np.array(position), intrinsics), intrinsics, DOCK)
    position_m, angle_rad = errors(solution, rotation, np.array(position))
    assert position_m < 2e-3 * position[2]
    assert angle_rad < 2e-2
    assert solution.evidence.tilt_rad < 1e-2


def test_a_lens_that_is_not_taken_out_would_show():
    rotation, position = upright(0.3), np.array([0.35, 0.05, 0.9])
    keypoints = make_keypoints(rotation, position, LENS)
    wrong = solve_pose(keypoints, dataclasses.replace(LENS, distortion=(0.0,) * 5), DOCK)
    right = solve_pose(keypoints, LENS, DOCK)
    assert errors(right, rotation, position)[0] < 1e-3
    assert errors(wrong, rotation, position)[0] > 10 * errors(right, rotation, position)[0]


def test_the_covariance_predicts_the_scatter():
    """Over seeded noise the mean squared whitened error of 6 degrees of freedom is near 6."""
    rng = np.random.default_rng(5)
    rotation, position, sigma_px = upright(0.4), np.array([0.3, 0.05, 1.5]), 0.4
    exact = make_keypoints(rotation, position, sigma_px=sigma_px)
    whitened = []
    for _ in range(60):
        noisy = dataclasses.replace(exact, points_px=exact.points_px + rng.normal(0, sigma_px, (12, 2)))
        solution = solve_pose(noisy, PLAIN, DOCK)
        turn = cv2.Rodrigues(solution.rotation @ rotation.T)[0][:, 0]
        error = np.concatenate([solution.position_m - position, turn])
        whitened.append(error @ np.linalg.solve(solution.covariance, error))
    assert 3.0 < np.mean(whitened) < 8.0


def moving_together(share=0.9, spread=1.5):
    """(24, 24): the corners of panel, base and decal err in groups, x apart from y."""
    group = np.kron(np.eye(3), np.ones((4, 4)))
    corners = spread**2 * (share * group + (1 - share) * np.eye(12))
    return np.kron(corners, np.eye(2))


def test_errors_that_keypoints_share_are_told_from_those_that_turn_the_dock():
    """With what they have in common known, the pose is nearer and its covariance predicts the scatter."""
    rng = np.random.default_rng(8)
    rotation, position, sigma_px = upright(0.4), np.array([0.3, 0.05, 3.0]), 0.5
    exact = make_keypoints(rotation, position, sigma_px=sigma_px)
    covariance = moving_together()
    root = np.linalg.cholesky(covariance)
    whitened, angles = {True: [], False: []}, {True: [], False: []}
    for _ in range(80):
        points = exact.points_px + sigma_px * (root @ rng.normal(size=24)).reshape(12, 2)
        for known in (True, False):
            keypoints = dataclasses.replace(
                exact, points_px=points, error_covariance=covariance if known else None
            )
            solution = solve_pose(keypoints, PLAIN, DOCK)
            turn = cv2.Rodrigues(solution.rotation @ rotation.T)[0][:, 0]
            error = np.concatenate([solution.position_m - position, turn])
            whitened[known].append(error @ np.linalg.solve(solution.covariance, error))
            angles[known].append(np.linalg.norm(turn))
    assert 3.0 < np.mean(whitened[True]) < 9.0
    assert np.mean(whitened[False]) > 1.5 * np.mean(whitened[True])
    assert np.mean(angles[True]) < 0.95 * np.mean(angles[False])


def test_no_error_in_common_is_the_same_as_none_given():
    rotation, position = upright(-0.3), np.array([0.1, 0.05, 1.2])
    plain = make_keypoints(rotation, position)
    plain = dataclasses.replace(plain, points_px=plain.points_px + np.arange(24).reshape(12, 2) % 5 * 0.2)
    given = dataclasses.replace(plain, error_covariance=np.eye(24))
    one, other = solve_pose(plain, PLAIN, DOCK), solve_pose(given, PLAIN, DOCK)
    np.testing.assert_allclose(one.position_m, other.position_m, atol=1e-12)
    np.testing.assert_allclose(one.covariance, other.covariance, rtol=1e-9)


def test_one_wild_keypoint_hardly_moves_the_pose():
    rotation, position = upright(-0.3), np.array([0.1, 0.05, 1.2])
    keypoints = make_keypoints(rotation, position)
    points = keypoints.points_px.copy()
    points[1] += (25.0, -14.0)
    sigma = keypoints.sigma_px.copy()
    solution = solve_pose(dataclasses.replace(keypoints, points_px=points, sigma_px=sigma), PLAIN, DOCK)
    position_m, angle_rad = errors(solution, rotation, position)
    assert position_m < 0.02
    assert angle_rad < 0.06
    # ... and it says that it is less sure.
    clean = solve_pose(keypoints, PLAIN, DOCK)
    assert np.trace(solution.covariance) > 4 * np.trace(clean.covariance)


def test_panel_and_decal_alone_are_enough_when_near():
    rotation, position = upright(0.15), np.array([0.02, 0.03, 0.4])
    keypoints = make_keypoints(rotation, position)
    assert (keypoints.visibility[4:8] == 0).all()
    assert errors(solve_pose(keypoints, PLAIN, DOCK), rotation, position)[0] < 1e-4


def test_what_can_not_be_solved_is_none():
    rotation, position = upright(0.0), np.array([0.0, 0.03, 1.0])
    good = make_keypoints(rotation, position)
    nan = good.points_px.copy()
    nan[:8] = np.nan
    assert solve_pose(dataclasses.replace(good, points_px=nan), PLAIN, DOCK) is None
    assert solve_pose(dataclasses.replace(good, visibility=np.zeros(12)), PLAIN, DOCK) is None
    assert solve_pose(dataclasses.replace(good, sigma_px=np.full(12, np.nan)), PLAIN, DOCK) is None
    assert solve_pose(dataclasses.replace(good, points_px=np.full((12, 2), 100.0)), PLAIN, DOCK) is None
    line = np.zeros(12)
    line[[0, 1]] = 1
    assert solve_pose(dataclasses.replace(good, visibility=line), PLAIN, DOCK) is None


def test_one_nan_keypoint_is_left_out():
    rotation, position = upright(0.2), np.array([0.0, 0.03, 1.0])
    good = make_keypoints(rotation, position)
    points = good.points_px.copy()
    points[2, 0] = np.nan
    solution = solve_pose(dataclasses.replace(good, points_px=points), PLAIN, DOCK)
    assert errors(solution, rotation, position)[0] < 1e-4
    assert solution.evidence.used_share == pytest.approx(11 / 12)


def test_wrong_shapes_are_a_bug():
    good = make_keypoints(upright(0.0), np.array([0.0, 0.03, 1.0]))
    with pytest.raises(BugError, match=r"\(12, 2\)"):
        solve_pose(dataclasses.replace(good, points_px=np.zeros((11, 2))), PLAIN, DOCK)


def estimate(keypoints, gate, **changes):
    seen = surest_look(keypoints, lambda _: None, PLAIN, DOCK, gate=gate, **changes)
    return publish(seen, PLAIN, DOCK, gate=gate, stamp_ns=7, model_sha256="ab")


def test_an_observation_carries_stamp_model_and_covariance():
    position = np.array([0.2, 0.03, 1.0])
    observation = estimate(make_keypoints(upright(0.2), position), OPEN_GATE)
    assert observation.stamp_ns == 7
    assert observation.model_sha256 == "ab"
    np.testing.assert_allclose(observation.dock_in_camera.position_m, position, atol=1e-5)
    np.testing.assert_allclose(observation.covariance, observation.covariance.T)
    assert (np.linalg.eigvalsh(observation.covariance) > 0).all()
    assert observation.confidence > 0.99


def test_below_the_threshold_nothing_comes_out():
    keypoints = make_keypoints(upright(0.2), np.array([0.2, 0.03, 1.0]))
    assert estimate(keypoints, SHUT_GATE) is None


def test_a_tilted_dock_is_refused_unless_the_camera_is_tilted():
    lean = cv2.Rodrigues(np.array([0.5, 0.0, 0.0]))[0]
    keypoints = make_keypoints(lean @ upright(0.1), np.array([0.0, 0.2, 1.2]))
    assert estimate(keypoints, OPEN_GATE) is None
    up = tuple(float(v) for v in lean @ np.array([0.0, -1.0, 0.0]))
    assert estimate(keypoints, OPEN_GATE, up_in_camera=up) is not None


EVIDENCE = Evidence(0.9, 0.5, 0.01, 0.2, 0.2, 1.0, 0.05)


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Evidence)])
def test_nan_evidence_is_no_evidence(name):
    assert OPEN_GATE.probability(dataclasses.replace(EVIDENCE, **{name: math.nan})) == 0.0


def test_extreme_scores_stay_finite():
    for score in (0.0, 1.0, 1e-300):
        assert 0 <= OPEN_GATE.probability(dataclasses.replace(EVIDENCE, score=score)) <= 1


@pytest.mark.parametrize(
    ("weights", "threshold", "tilt"),
    [((1.0,), 0.5, 0.3), ((math.nan,) * 7, 0.5, 0.3), ((1.0,) * 7, 1.0, 0.3), ((1.0,) * 7, 0.5, 0.0)],
)
def test_a_gate_is_whole(weights, threshold, tilt):
    with pytest.raises(ConfigError):
        Gate(weights, threshold, tilt)


def test_the_tolerance_grows_with_range():
    assert position_tolerance_m(0.4) == 0.05
    assert position_tolerance_m(4.0) == pytest.approx(0.2)
