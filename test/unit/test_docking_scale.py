import math

import pytest

from depai_robot.docking.phase import Phase
from depai_robot.docking.scale import COUNT_MIN, ScaleFit
from depai_robot.values.geometry import Pose2
from test.floor import Floor, start_at

CAMERA_X_M = 0.02
DOCK = Pose2(3.0, 0.4, 0.3)


def drive(scale, *, bend_radpm=0.0, stretch=1.0, steps=60, turn_rad=0.0):
    """Straight towards the dock; the odometry is stretched and bent."""
    fit, odom = ScaleFit(), Pose2(0.7, -0.2, 1.0)
    base = Pose2(0.0, 0.0, turn_rad)
    for _ in range(steps):
        seen = base.inverse().compose(DOCK)
        shown = Pose2(CAMERA_X_M + (seen.x_m - CAMERA_X_M) / scale, seen.y_m / scale, seen.yaw_rad)
        fit = fit.add(odom, shown, CAMERA_X_M)
        base = base.compose(Pose2(0.04, 0.0, 0.004))
        odom = odom.compose(Pose2(0.04 * stretch, 0.0, 0.004 + bend_radpm * 0.04))
    return fit


@pytest.mark.parametrize("scale", [0.9, 0.95, 1.0, 1.05, 1.2])
@pytest.mark.parametrize("turn_rad", [0.0, 0.3, -0.2])
def test_the_scale_is_found_from_any_way(scale, turn_rad):
    fit = drive(scale, turn_rad=turn_rad)
    assert fit.scale == pytest.approx(scale, abs=1e-3)
    assert fit.is_wrong is (scale != 1.0)


def test_a_bent_odometry_is_not_taken_for_a_wrong_dock():
    assert drive(1.0, bend_radpm=0.08).scale == pytest.approx(1.0, abs=2e-3)


def test_an_odometry_of_another_length_looks_like_a_dock_of_another_size():
    """Nothing on the way tells them apart: the message names both."""
    assert drive(1.0, stretch=1.05).scale == pytest.approx(1.05, abs=1e-3)


def test_too_little_way_says_nothing():
    assert ScaleFit().scale is None
    assert drive(1.2, steps=COUNT_MIN - 1).scale is None
    fit = ScaleFit()
    for _ in range(100):  # standing still
        fit = fit.add(Pose2(0.0, 0.0, 0.0), Pose2(1.0, 0.0, 0.0), CAMERA_X_M)
    assert fit.scale is None
    assert fit.is_wrong is False


def test_far_sights_count_as_way_only():
    fit = ScaleFit().add(Pose2(0.0, 0.0, 0.0), Pose2(5.0, 0.0, 0.0), CAMERA_X_M)
    fit = fit.add(Pose2(3.0, 0.0, 0.0), Pose2(2.0, 0.0, 0.0), CAMERA_X_M)
    assert fit.count == 1
    assert fit.camera_x == pytest.approx(fit.weight * (3.0 + CAMERA_X_M))


@pytest.mark.parametrize("seed", range(4))
def test_a_whole_docking_finds_the_scale(seed):
    """By the machine, with noise, latency and slip."""
    floor = Floor(start_at(2.5, 10.0), seed=seed)
    floor.ask()
    assert floor.run(Phase.DOCKED, Phase.FAILED) is Phase.DOCKED
    right = floor.state.scale.scale
    assert abs(right - 1.0) < 0.05
    assert math.isfinite(floor.state.scale.spread_m)
