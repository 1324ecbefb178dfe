import dataclasses

import numpy as np
import pytest

from depai_robot.perception.dock import Base, Decal, DockModel, Pads, Panel
from depai_robot.perception.frame import CameraIntrinsics
from depai_robot.perception.observation import DockObservation
from depai_robot.perception.track import TrackLimits, TrackState, expected_region, step
from depai_robot.values.error import ConfigError
from depai_robot.values.geometry import Pose3

LIMITS = TrackLimits()
DOCK = DockModel(
    Panel(0.4, 0.3, 0.02, 0.25),
    Base(0.4, 0.08, 0.15),
    Decal(0.16, "tag36h11"),
    Pads(-0.15, -0.19, 0.06, 0.14),
    tuple(
        (x, side * half, z)
        for x, half, top, bottom in (
            (0, 0.2, 0.15, -0.15),
            (-0.15, 0.2, -0.15, -0.23),
            (0, 0.08, 0.08, -0.08),
        )
        for side, z in ((1, top), (-1, top), (-1, bottom), (1, bottom))
    ),
)
TENTH_NS = 100_000_000


def make_observation(stamp_ns, z_m=2.0, x_m=0.0):
    # Dock axes in a level camera: x forward (optical z), y left (-x), z up (-y).
    axes = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
    pose = Pose3.from_matrix(axes, (x_m, 0.03, z_m))
    return DockObservation(stamp_ns, pose, np.eye(6) * 1e-4, 0.99, "ab")


def feed(observations, limits=LIMITS, state=TrackState()):
    """(stamp, observation or None) pairs in; the published ones out."""
    published = []
    for stamp_ns, observation in observations:
        state, out = step(state, observation, stamp_ns, limits)
        published.append(out)
    return state, published


def sequence(*ranges_m, start=1):
    stamps = [(start + i) * TENTH_NS for i in range(len(ranges_m))]
    return [(s, None if z is None else make_observation(s, z)) for s, z in zip(stamps, ranges_m, strict=True)]


def test_the_first_pose_waits_for_a_second_that_agrees():
    inputs = sequence(2.0, 1.95, 1.9)
    _, out = feed(inputs)
    assert out == [None, inputs[1][1], inputs[2][1]]


def test_what_comes_out_is_what_went_in_or_nothing():
    inputs = sequence(2.0, 1.95, None, None, 1.8)
    _, out = feed(inputs)
    assert out == [None, inputs[1][1], None, None, inputs[4][1]]


def test_a_single_jump_is_swallowed():
    inputs = sequence(2.0, 1.98, 4.5, 1.94)
    _, out = feed(inputs)
    assert out == [None, inputs[1][1], None, inputs[3][1]]


def test_a_jump_that_stays_wins_after_three():
    inputs = sequence(2.0, 1.98, 4.5, 4.5, 4.5, 4.5)
    _, out = feed(inputs)
    assert out == [None, inputs[1][1], None, None, inputs[4][1], inputs[5][1]]


def test_after_silence_the_track_begins_anew():
    _, out = feed(sequence(2.0, 2.0) + sequence(4.0, start=20) + sequence(4.0, start=21))
    assert [o is not None for o in out] == [False, True, False, True]


def test_old_and_repeated_images_are_ignored():
    state, _ = feed(sequence(2.0, 2.0))
    assert step(state, make_observation(2 * TENTH_NS), 2 * TENTH_NS, LIMITS) == (state, None)
    assert step(state, make_observation(TENTH_NS), TENTH_NS, LIMITS) == (state, None)


def test_an_observation_of_another_image_is_not_published():
    state, _ = feed(sequence(2.0, 2.0))
    assert step(state, make_observation(2 * TENTH_NS), 3 * TENTH_NS, LIMITS)[1] is None


def test_time_that_is_set_back_begins_anew():
    state, _ = feed(sequence(2.0, 2.0, start=1000))
    state, out = feed(sequence(3.0, 3.0), state=state)
    assert [o is not None for o in out] == [False, True]


def test_the_limits_are_checked():
    for changes in (
        {"speed_max_mps": 0.0},
        {"confirm_count": 0},
        {"jump_count": 1},
        {"timeout_s": float("nan")},
    ):
        with pytest.raises(ConfigError):
            dataclasses.replace(LIMITS, **changes)


def test_the_dock_is_expected_where_it_projects():
    intrinsics = CameraIntrinsics(640, 480, 465.0, 465.0, 319.5, 239.5)
    region = expected_region(make_observation(1, 2.0), intrinsics, DOCK)
    assert region.x_px == pytest.approx(319.5, abs=1)
    # The base's front, 0.15 m nearer, is the widest: 0.40 * 465 / 1.85 px.
    assert region.side_px == pytest.approx(1.3 * 0.4 * 465 / 1.85, rel=1e-3)
    assert expected_region(make_observation(1, 0.1), intrinsics, DOCK) is None
    assert expected_region(make_observation(1, 2.0, 9.0), intrinsics, DOCK) is None
