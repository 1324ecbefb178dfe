"""A second opinion on a dock: when it is asked for, and when it is believed."""

import math
from dataclasses import replace

import numpy as np
import pytest

from depai_robot.app.resource import resource_path
from depai_robot.perception.dock import parse_dock
from depai_robot.perception.frame import CameraIntrinsics
from depai_robot.perception.gate import FEATURES, OPINION_FEATURES, OTHERS, Agreement, Gate, Opinions
from depai_robot.perception.looks import MORE_LOOKS, View, surest_look
from depai_robot.perception.network import next_region
from depai_robot.perception.observation import DockKeypoints
from depai_robot.values.error import BugError, ConfigError

LENS = CameraIntrinsics(640, 480, 465.0, 465.0, 319.5, 239.5)
DOCK = parse_dock(resource_path("config", "dock.yaml").read_text(encoding="utf-8"))
CAREFUL = Opinions(
    tuple(
        {"one": -8.0, "surest_logit": 2.0, "distance_log": -3.0}.get(name, 0.0) for name in OPINION_FEATURES
    ),
    ask_below=0.97,
)
"""Believes a sure look that the others agree with."""

SCORE_ONLY = Gate(tuple(float(name == "score_logit") for name in FEATURES), 0.9, opinions=CAREFUL)
"""Believes of a single look what the network says of a dock's presence."""


def seen(score, *, yaw_deg=10.0, range_m=2.0):
    yaw = np.radians(yaw_deg)
    forward, up = np.array([np.sin(yaw), 0, np.cos(yaw)]), np.array([0, -1.0, 0])
    rotation = np.stack([forward, np.cross(up, forward), up], axis=1)
    points = DOCK.points_m() @ rotation.T + np.array([0.1, 0.03, range_m])
    pixels = points @ LENS.matrix().T
    return DockKeypoints(pixels[:, :2] / pixels[:, 2:], np.full(12, 0.3), np.ones(12), score)


def surest(first, *answers, gate=SCORE_ONLY, **changes):
    asked = []

    def look(region, blur_px):
        asked.append((region, blur_px))
        return answers[len(asked) - 1]

    return surest_look(first, look, LENS, DOCK, gate=gate, **changes), asked


def test_a_sure_look_is_the_only_one():
    first = seen(0.98)
    found, asked = surest(first)
    assert found.keypoints is first
    assert found.confidence == pytest.approx(0.98)
    assert (found.agreement, asked) == (None, [])


def test_without_a_fit_over_looks_the_first_is_the_only_one():
    found, asked = surest(seen(0.5), gate=replace(SCORE_ONLY, opinions=None))
    assert (found.confidence, asked) == (pytest.approx(0.5), [])


def test_an_unsure_look_is_followed_by_others_of_the_same_place():
    first, third = seen(0.6), seen(0.96)
    found, asked = surest(first, seen(0.7), third, seen(0.8))
    assert found.keypoints is third
    where = next_region(first)
    assert [View(round(region.side_px / where.side_px, 6), blur_px) for region, blur_px in asked] == list(
        MORE_LOOKS
    )
    assert len(asked) == OTHERS
    assert found.agreement.surest == pytest.approx(0.96)
    assert [confidence for confidence, _ in found.agreement.others] == pytest.approx([0.6, 0.7, 0.8])
    assert [distance for _, distance in found.agreement.others] == pytest.approx([0.0] * 3, abs=1e-3)


def test_looks_that_agree_are_believed_and_others_are_not():
    agreed = surest(seen(0.6), seen(0.96), seen(0.7), seen(0.7))[0]
    assert agreed.confidence == pytest.approx(0.96)
    turned = surest(seen(0.6, yaw_deg=-20), seen(0.96), seen(0.7, yaw_deg=30), seen(0.7, yaw_deg=-5))[0]
    moved = surest(seen(0.6, range_m=2.3), seen(0.96), seen(0.7, range_m=1.7), seen(0.7, range_m=2.5))[0]
    unseen = surest(seen(0.6, yaw_deg=-20), seen(0.96), None, None)[0]
    assert max(turned.confidence, moved.confidence, unseen.confidence) < 0.5


def test_many_that_agree_are_no_surer_than_the_surest_of_them():
    found, _ = surest(*(seen(0.7) for _ in range(4)))
    assert found.confidence == pytest.approx(0.7)


def test_a_first_look_over_the_threshold_is_not_believed_against_others():
    first = seen(0.95)
    alone = replace(SCORE_ONLY, opinions=None)
    assert surest(first, gate=alone)[0].confidence > SCORE_ONLY.threshold
    found, _ = surest(first, seen(0.6, yaw_deg=-20), seen(0.7, yaw_deg=30), None)
    assert found.keypoints is first
    assert found.confidence < SCORE_ONLY.threshold


def test_how_far_apart_looks_are_is_said_in_tolerances():
    found, _ = surest(seen(0.96), seen(0.6, yaw_deg=15), seen(0.6, range_m=2.2), None)
    assert [other and round(other[1], 1) for other in found.agreement.others] == [0.5, 2.0, None]


def test_where_nothing_more_is_seen_the_first_stays():
    first = seen(0.6)
    found, asked = surest(first, None, None, None)
    assert found.keypoints is first
    assert found.confidence < 0.1
    assert len(asked) == OTHERS
    lost = replace(first, visibility=np.zeros(12))
    found, asked = surest(lost)
    assert (found.solution, found.confidence, asked) == (None, 0.0, [])


def test_a_pose_that_leaves_nowhere_to_look_again_is_not_believed_alone():
    faint = replace(seen(0.95), visibility=np.full(12, 0.4))  # enough for a pose, too little for a region
    assert surest(faint, gate=replace(SCORE_ONLY, opinions=None))[0].confidence > SCORE_ONLY.threshold
    found, asked = surest(faint)
    assert (found.agreement, asked) == (Agreement(pytest.approx(0.95), (None,) * OTHERS), [])
    assert found.confidence < SCORE_ONLY.threshold


def test_a_dock_that_does_not_stand_upright_stays_unbelieved():
    looks = (seen(0.6), seen(0.99), seen(0.99), seen(0.99))
    assert surest(*looks)[0].confidence > 0.9
    found, _ = surest(*looks, up_in_camera=(0.0, -math.cos(0.4), math.sin(0.4)))
    assert found.confidence == 0.0


@pytest.mark.parametrize(
    ("weights", "ask_below"),
    [((1.0,), 0.97), ((float("nan"),) * len(OPINION_FEATURES), 0.97), (CAREFUL.weights, 1.0)],
)
def test_a_fit_that_is_none_is_refused(weights, ask_below):
    with pytest.raises(ConfigError, match=r"opinions: 4 finite weights|ask_below lies in"):
        Opinions(weights, ask_below)


def test_opinions_of_too_few_looks_are_a_bug():
    with pytest.raises(BugError, match="3 other looks, got 1"):
        CAREFUL.probability(Agreement(0.9, (None,)))
