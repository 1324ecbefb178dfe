import math

import pytest

from depai_robot.docking.law import LawSettings, drive_to_pose
from depai_robot.values.error import ConfigError
from depai_robot.values.geometry import STOP, Pose2

LAW = LawSettings()


def test_at_the_target_it_stands():
    assert drive_to_pose(Pose2(0.0, 0.0, 1.0), LAW) == STOP


def test_straight_ahead_is_driven_straight_at_full_speed():
    command = drive_to_pose(Pose2(2.0, 0.0, 0.0), LAW)
    assert command.linear_mps == pytest.approx(LAW.speed_max_mps)
    assert command.angular_radps == pytest.approx(0.0)


def test_left_and_right_are_mirrors():
    left = drive_to_pose(Pose2(1.5, 0.6, 0.3), LAW)
    right = drive_to_pose(Pose2(1.5, -0.6, -0.3), LAW)
    assert left.linear_mps == pytest.approx(right.linear_mps)
    assert left.angular_radps == pytest.approx(-right.angular_radps)


def test_it_slows_near_the_target_and_in_curves():
    assert drive_to_pose(Pose2(0.1, 0.0, 0.0), LAW).linear_mps == pytest.approx(LAW.speed_max_mps * 0.1 / 0.4)
    assert drive_to_pose(Pose2(1.0, 0.5, 0.0), LAW).linear_mps < 0.8 * LAW.speed_max_mps


@pytest.mark.parametrize(
    "target", [(x, y, yaw) for x in (0.05, 0.5, 3.0) for y in (-2, 0.1, 1) for yaw in (-2, 0, 3)]
)
def test_limits_hold_everywhere(target):
    command = drive_to_pose(Pose2(*target), LAW)
    assert 0 < command.linear_mps <= LAW.speed_max_mps
    assert abs(command.angular_radps) <= LAW.turn_max_radps + 1e-12


@pytest.mark.parametrize("start", [(-2.0, 0.5, 0.0), (-2.0, -0.7, 0.4), (-1.5, 0.3, -0.9), (-3.0, 1.5, 0.2)])
def test_it_converges_on_the_pose(start):
    pose, target = Pose2(*start), Pose2(0.0, 0.0, 0.0)
    for _ in range(3000):
        in_base = pose.inverse().compose(target)
        if in_base.x_m < 0.02:
            break
        command = drive_to_pose(in_base, LAW)
        pose = pose.compose(Pose2(command.linear_mps * 0.01, 0.0, command.angular_radps * 0.01))
    assert math.hypot(pose.x_m, pose.y_m) < 0.03
    assert abs(pose.yaw_rad) < 0.1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"k_phi": 0.0}, "law k_phi must be positive"),
        ({"beta": float("nan")}, "law beta must be positive"),
        ({"speed_min_mps": 0.0}, "speed_min_mps must be above 0"),
        ({"speed_min_mps": 1.0}, "at most speed_max_mps 0.4, got 1.0"),
    ],
)
def test_wrong_gains_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        LawSettings(**changes)
