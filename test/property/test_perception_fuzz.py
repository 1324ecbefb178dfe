"""Whatever a network may say, perception answers with a finite pose or with nothing, and never raises."""

import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from depai_robot.perception.dock import Base, Decal, DockModel, Pads, Panel, parse_dock
from depai_robot.perception.frame import CameraIntrinsics
from depai_robot.perception.manifest import parse_manifest
from depai_robot.perception.network import decode_finder, decode_keypoints, next_region
from depai_robot.perception.observation import DockKeypoints
from depai_robot.perception.pose import solve_pose
from depai_robot.perception.region import GreyImage, Region, crop_pixels
from depai_robot.perception.tag import read_tag
from depai_robot.values.error import ConfigError

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
LENSES = (
    CameraIntrinsics(640, 480, 465.0, 465.0, 319.5, 239.5),
    CameraIntrinsics(640, 480, 300.0, 310.0, 300.0, 200.0, (-0.4, 0.2, 0.01, -0.01, -0.1)),
)
GREY = np.random.default_rng(0).integers(0, 256, (480, 640), np.uint8)

anything = st.floats(allow_nan=True, allow_infinity=True, width=64)
pixels = st.one_of(st.floats(-2000, 2000), anything)
logits = st.floats(-1e6, 1e6, width=32)


@settings(max_examples=150, deadline=None)
@given(
    arrays.arrays(np.float64, (12, 2), elements=pixels),
    arrays.arrays(np.float64, 12, elements=st.one_of(st.floats(1e-6, 100), anything)),
    arrays.arrays(np.float64, 12, elements=st.one_of(st.floats(0, 1), anything)),
    st.sampled_from(LENSES),
)
def test_any_keypoints_give_a_finite_pose_or_none(points, sigma, visibility, lens):
    keypoints = DockKeypoints(points, sigma, visibility, 0.5)
    solution = solve_pose(keypoints, lens, DOCK)
    if solution is not None:
        assert np.isfinite(solution.position_m).all()
        np.testing.assert_allclose(solution.rotation @ solution.rotation.T, np.eye(3), atol=1e-6)
        assert np.isfinite(solution.covariance).all()
    assert read_tag(GREY, keypoints) in (None, *range(587))


@settings(max_examples=100, deadline=None)
@given(
    arrays.arrays(np.float32, (1, 5, 30, 40), elements=logits, fill=st.just(-9.0)),
    arrays.arrays(np.float32, (1, 12, 4), elements=logits),
    arrays.arrays(np.float32, (1, 1), elements=logits),
)
def test_any_finite_output_is_decoded(maps, rows, presence):
    grey = GreyImage(GREY)
    for candidate in decode_finder(maps, (640, 480), score_min=0.2, count_max=3):
        assert crop_pixels(grey, candidate.region).shape == (128, 128)
    keypoints = decode_keypoints(rows, presence, Region(320.0, 240.0, 100.0))
    assert 0 <= keypoints.score <= 1
    assert (keypoints.sigma_px > 0).all()
    next_region(keypoints)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(max_size=60), json_values.map(json.dumps)))
def test_any_text_is_a_dock_and_manifest_or_a_config_error(text):
    for parse, argument in ((parse_dock, text), (parse_manifest, text.encode("utf-8", "surrogatepass"))):
        try:
            parse(argument)
        except ConfigError:
            pass
