"""Whatever a detector puts out: boxes inside the image, or one typed error. And a tracker is never stale."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from depai_robot.perception.objects import (
    BoxesForm,
    InputForm,
    MapForm,
    ObjectCard,
    decode_objects,
    make_input,
)
from depai_robot.perception.observation import DockObservation
from depai_robot.perception.track import TrackLimits, TrackState, agree, step
from depai_robot.perception.way import WaySettings, WayState, is_clear, look
from depai_robot.values.error import DeviceFailedError
from depai_robot.values.geometry import Pose3

INPUT = InputForm("image", 96, 64)
BOXES = ObjectCard(
    1, "boxes", "m.onnx", "ab" * 32, INPUT, BoxesForm("b", "s", "c"), ("person", "cart"), 0.3, 5
)
MAP = ObjectCard(1, "map", "m.onnx", "ab" * 32, INPUT, MapForm("m"), ("text",), 0.3, 5)
S = 1_000_000_000

anything = st.floats(-1e4, 1e4) | st.sampled_from([math.nan, math.inf, -math.inf, 1e300])


def values(shape):
    return npst.arrays(np.float64, shape, elements=anything)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(0, 6), st.integers(1, 2000), st.integers(1, 2000))
def test_any_boxes_are_inside_or_refused(data, count, width_px, height_px):
    outputs = {
        "b": data.draw(
            values(data.draw(st.sampled_from([(1, count, 4), (count, 4), (count, 5), (4, count)])))
        ),
        "s": data.draw(values(data.draw(st.sampled_from([(1, count), (count,), (count + 1,)])))),
        "c": data.draw(npst.arrays(np.int64, (count,), elements=st.integers(-1, 2))),
    }
    try:
        seen = decode_objects(outputs, BOXES, width_px=width_px, height_px=height_px)
    except DeviceFailedError:
        return
    check(seen, BOXES, width_px, height_px)


@settings(max_examples=60, deadline=None)
@given(
    npst.arrays(np.float32, (1, 1, 32, 48), elements=st.floats(0, 1, width=32) | st.just(float("nan"))),
    st.integers(1, 2000),
    st.integers(1, 2000),
)
def test_any_map_gives_areas_inside(plane, width_px, height_px):
    try:
        seen = decode_objects({"m": plane}, MAP, width_px=width_px, height_px=height_px)
    except DeviceFailedError:
        assert not np.isfinite(plane).all()
        return
    check(seen, MAP, width_px, height_px)


def check(seen, card, width_px, height_px):
    assert len(seen) <= card.count_max
    assert [item.score for item in seen] == sorted((item.score for item in seen), reverse=True)
    for item in seen:
        assert item.name in card.classes
        assert card.score_min <= item.score <= 1
        assert 0 <= item.left_px < item.right_px <= width_px
        assert 0 <= item.top_px < item.bottom_px <= height_px


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from(["nchw", "nhwc"]),
    st.sampled_from(["rgb", "bgr", "grey"]),
)
def test_an_image_of_any_size_becomes_the_input(width_px, height_px, layout, channels):
    form = InputForm("image", 96, 64, layout, channels)
    card = ObjectCard(1, "boxes", "m.onnx", "ab" * 32, form, BoxesForm("b", "s", "c"), ("x",))
    tensor = make_input(np.full((height_px, width_px, 3), 255, np.uint8), card)
    assert tensor.shape == form.shape()
    assert tensor.dtype == np.float32
    assert tensor.max() == 1.0
    assert tensor.flags["C_CONTIGUOUS"]


# --- tracker ------------------------------------------------------------------------------------------------


def seen_at(stamp_ns, x, z, turn_rad):
    pose = Pose3((x, 0.0, z), (0.0, math.sin(turn_rad / 2), 0.0, math.cos(turn_rad / 2)))
    return DockObservation(stamp_ns, pose, np.eye(6) * 1e-4, 0.9, "ab" * 32)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(-2 * S, 2 * S),
            st.none() | st.tuples(st.floats(-2, 2), st.floats(0.3, 5), st.floats(-1, 1)),
        ),
        max_size=40,
    )
)
def test_what_is_published_is_of_this_image_and_follows_from_what_was(rows):
    """Steady or lost, never stale: any order of stamps, any poses."""
    limits = TrackLimits()
    state, stamp_ns = TrackState(), 0
    for after_ns, pose in rows:
        stamp_ns = max(stamp_ns + after_ns, 0)
        observation = None if pose is None else seen_at(stamp_ns, *pose)
        before = state
        state, out = step(state, observation, stamp_ns, limits)
        assert out is None or out is observation
        if out is None:
            continue
        if before.accepted is not None and agree(before.accepted, out, limits):
            assert out.stamp_ns > before.accepted.stamp_ns
        else:
            # A new track: others before it agreed.
            assert before.tentative is not None
            assert agree(before.tentative, out, limits)


# --- way ----------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, S), st.booleans()), max_size=30), st.integers(0, 3 * S))
def test_the_way_is_clear_only_after_clear_images(rows, later_ns):
    settings_ = WaySettings(clear_s=1.0, stale_s=1.0)
    state, now_ns, seen = WayState(), 0, []
    for after_ns, blocked in rows:
        now_ns += after_ns
        if not seen or now_ns > seen[-1][0]:
            seen.append((now_ns, blocked))
        state = look(state, blocked=blocked, stamp_ns=now_ns)
    now_ns += later_ns
    if is_clear(state, now_ns, settings_):
        newest_ns = seen[-1][0]
        assert now_ns - newest_ns <= S
        assert not any(blocked for stamp_ns, blocked in seen if newest_ns - stamp_ns < S)
        assert seen[0][0] <= newest_ns - S
