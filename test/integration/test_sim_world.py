"""The MuJoCo world: what a command does, what the odometry says of it, and where the pads touch."""

import math
import sys

import pytest

from depai_robot.sim.world import IDEAL, STEP_NS, Disturbance, World
from depai_robot.values.error import ConfigError
from depai_robot.values.geometry import STOP, DriveCommand, Pose2
from test.panel_fit import DOCK, before_dock, make_world

HERE = Pose2(-1.0, 0.0, 0.0)


def ideal(start=HERE):
    return make_world(disturbance=IDEAL, start=start)


def run(world, seconds, command=None):
    for i in range(round(seconds * 1e9 / STEP_NS)):
        if command is not None and i % 25 == 0:
            world.send(command)
        world.step()


def moved(world, start=HERE):
    return start.inverse().compose(world.base_in_map)


def test_untouched_it_stands():
    world = ideal()
    run(world, 2.0)
    assert moved(world).distance_m(Pose2(0, 0, 0)) < 0.002
    assert abs(world.odometry().linear_mps) < 0.002
    assert world.time_ns == 2_000_000_000
    assert world.contact_dock() is None


def test_it_drives_as_told_and_the_odometry_agrees():
    world = ideal()
    run(world, 3.0, DriveCommand(0.3, 0.0))
    assert moved(world).x_m == pytest.approx(0.3 * 3.0 - 0.3 * 0.3 / 0.8 / 2, abs=0.03)
    assert abs(moved(world).y_m) < 0.01
    odometry = world.odometry()
    assert odometry.stamp_ns == world.time_ns
    assert odometry.linear_mps == pytest.approx(0.3, abs=0.01)
    assert odometry.base_in_odom.distance_m(moved(world)) < 0.02


def test_it_turns_as_told():
    world = ideal()
    run(world, 2.0, DriveCommand(0.0, 0.6))
    assert moved(world).yaw_rad == pytest.approx(0.6 * 2.0 - 0.6 * 0.6 / 3.0 / 2, abs=0.06)
    assert math.hypot(moved(world).x_m, moved(world).y_m) < 0.02
    assert world.odometry().base_in_odom.yaw_rad == pytest.approx(moved(world).yaw_rad, abs=0.05)


def test_commands_are_limited_and_what_is_applied_is_said():
    world = ideal()
    assert world.send(DriveCommand(9.0, -9.0)) == DriveCommand(0.45, -1.2)
    world.step()
    # 0.8 m/s2 for 4 ms, not 9 m/s at once.
    assert world._applied.linear_mps == pytest.approx(0.8 * 0.004)


def test_without_further_commands_it_stops():
    world = ideal()
    world.send(DriveCommand(0.4, 0.0))
    run(world, 0.5)
    assert world.odometry().linear_mps > 0.3
    run(world, 1.0)
    before = world.base_in_map
    run(world, 0.5)
    assert world.base_in_map.distance_m(before) < 0.002


def test_an_emergency_stop_holds_until_released():
    world = make_world(start=HERE)
    run(world, 1.0, DriveCommand(0.4, 0.0))
    world.stop_for_emergency()
    assert world.send(DriveCommand(0.4, 0.0)) == STOP
    run(world, 0.3, DriveCommand(0.4, 0.0))
    before = world.base_in_map
    run(world, 1.0, DriveCommand(0.4, 0.4))
    assert world.base_in_map.distance_m(before) < 0.005
    world.release_emergency()
    run(world, 1.0, DriveCommand(0.4, 0.0))
    assert world.base_in_map.distance_m(before) > 0.2


def test_latency_delays_the_wheels():
    world = make_world(disturbance=Disturbance(0.1, 0, 0, 0, 0, 1.0), start=HERE)
    run(world, 0.096, DriveCommand(0.4, 0.0))
    assert moved(world).x_m < 0.001
    run(world, 0.2, DriveCommand(0.4, 0.0))
    assert moved(world).x_m > 0.005


def test_slip_is_not_seen_by_the_encoders():
    world = make_world(disturbance=Disturbance(0.0, 0.05, 0.0, 0.0, 0.0, 1.0), seed=3, start=HERE)
    run(world, 3.0, DriveCommand(0.3, 0.0))
    truth, odometry = moved(world), world.odometry().base_in_odom
    assert abs(truth.yaw_rad) > 0.05
    assert abs(odometry.yaw_rad) < 0.02
    assert odometry.x_m == pytest.approx(0.3 * 3.0 - 0.3 * 0.3 / 0.8 / 2, abs=0.03)


def test_the_same_seed_is_the_same_drive():
    poses = []
    for seed in (4, 4, 5):
        world = make_world(seed=seed, start=HERE)
        run(world, 1.0, DriveCommand(0.3, 0.2))
        poses.append((world.base_in_map, world.odometry()))
    assert poses[0] == poses[1]
    assert poses[0] != poses[2]


# --- contact --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lateral_m", "touches"), [(0.0, True), (0.05, True), (-0.05, True), (0.08, False)])
def test_driving_in_touches_within_the_tolerance(lateral_m, touches):
    world = ideal(before_dock(ideal(), 0.60).compose(Pose2(0.0, lateral_m, 0.0)))
    assert world.contact_dock() is None
    run(world, 3.0, DriveCommand(0.1, 0.0))
    assert world.contact_dock() == (DOCK if touches else None)


@pytest.mark.parametrize(
    ("gap_m", "yaw_deg", "touches"),
    [(0.0, 0, True), (0.004, 0, True), (0.01, 0, False), (0.0, 7, True), (0.0, 9, False), (0.0, 180, False)],
)
def test_pads_touch_near_and_straight_enough(gap_m, yaw_deg, touches):
    world = ideal()
    pads = before_dock(world, 0.15 + gap_m).compose(Pose2(0.0, 0.0, math.radians(yaw_deg)))
    world._place(pads.compose(Pose2(-world.robot.pads.x_m, 0.0, 0.0)))
    assert world.contact_dock() == (DOCK if touches else None)


def test_the_dock_stops_the_robot_and_contact_holds_without_push():
    start = before_dock(ideal(), 0.60)
    world = ideal(start)
    run(world, 4.0, DriveCommand(0.15, 0.0))
    distance = math.hypot(world.dock_in_base(DOCK).x_m, world.dock_in_base(DOCK).y_m)
    assert distance == pytest.approx(0.40, abs=0.008)
    run(world, 3.0, STOP)
    assert world.contact_dock() == DOCK
    # At contact the camera still stands off the panel.
    assert distance - world.robot.camera.x_m >= 0.35
    run(world, 1.0, DriveCommand(-0.15, 0.0))
    assert world.contact_dock() is None


def test_time_passes_while_it_is_parked():
    world = ideal()
    before = world.base_in_map
    world.skip(3_000_000_000)
    assert world.time_ns == 3_000_000_000
    assert world.base_in_map == before


def test_a_dock_without_its_picture_is_refused(tmp_path):
    whole = ideal()
    with pytest.raises(ConfigError, match=r"dock dock_near: marker_id 0 has no panel_0.png in .*got \[\]"):
        World(whole.robot, whole.layout, whole.dock, tmp_path)


def test_without_mujoco_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ConfigError, match=r"needs MuJoCo.*pip install 'depai_robot\[sim\]'"):
        ideal()
