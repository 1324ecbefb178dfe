"""A second opinion on a dock: when it is asked for, and when it is believed."""

from dataclasses import replace

import numpy as np
import pytest

from depai_robot.app.resource import resource_path
from depai_robot.perception.dock import parse_dock
from depai_robot.perception.frame import CameraIntrinsics
from depai_robot.perception.gate import FEATURES, Gate
from depai_robot.perception.looks import MORE_LOOKS, surest_look
from depai_robot.perception.network import next_region
from depai_robot.perception.observation import DockKeypoints

LENS = CameraIntrinsics(640, 480, 465.0, 465.0, 319.5, 239.5)
DOCK = parse_dock(resource_path("config", "dock.yaml").read_text(encoding="utf-8"))
SCORE_ONLY = Gate(tuple(float(name == "score_logit") for name in FEATURES), 0.9)
"""Believes what the network says of a dock's presence."""


def seen(score, *, yaw_deg=10.0, range_m=2.0):
    yaw = np.radians(yaw_deg)
    forward, up = np.array([np.sin(yaw), 0, np.cos(yaw)]), np.array([0, -1.0, 0])
    rotation = np.stack([forward, np.cross(up, forward), up], axis=1)
    points = DOCK.points_m() @ rotation.T + np.array([0.1, 0.03, range_m])
    pixels = points @ LENS.matrix().T
    return DockKeypoints(pixels[:, :2] / pixels[:, 2:], np.full(12, 0.3), np.ones(12), score)


def looking(*answers):
    asked = []

    def look(region):
        asked.append(region)
        return answers[len(asked) - 1]

    return look, asked


def surest(first, *answers):
    look, asked = looking(*answers)
    return surest_look(first, look, LENS, DOCK, gate=SCORE_ONLY), asked


def test_a_sure_look_is_the_only_one():
    first = seen(0.95)
    found, asked = surest(first)
    assert found.keypoints is first
    assert found.confidence == pytest.approx(0.95)
    assert asked == []


def test_an_unsure_look_is_followed_by_others_of_the_same_place():
    first, second, third = seen(0.6), seen(0.7), seen(0.96)
    found, asked = surest(first, second, third)
    assert found.keypoints is third
    assert found.confidence == pytest.approx(0.96)
    where = next_region(first)
    assert [round(region.side_px / where.side_px, 6) for region in asked] == [
        side for side, _, _ in MORE_LOOKS
    ]


def test_a_surer_look_with_which_no_other_agrees_is_not_believed():
    first = seen(0.6, yaw_deg=-20)
    found, _ = surest(first, seen(0.97, yaw_deg=10), seen(0.5, yaw_deg=30))
    assert found.keypoints is first
    found, _ = surest(first, seen(0.97, range_m=2.3), None)
    assert found.keypoints is first


def test_two_that_agree_outvote_the_first():
    first = seen(0.6, yaw_deg=-20)
    surer = seen(0.97, yaw_deg=12)
    found, _ = surest(first, surer, seen(0.5, yaw_deg=8))
    assert found.keypoints is surer


def test_where_nothing_more_is_seen_the_first_stays():
    first = seen(0.6)
    found, asked = surest(first, None, None)
    assert found.keypoints is first
    assert len(asked) == len(MORE_LOOKS)
    lost = replace(first, visibility=np.zeros(12))
    found, asked = surest(lost)
    assert (found.solution, found.confidence, asked) == (None, 0.0, [])
