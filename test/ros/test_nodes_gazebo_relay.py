"""The relay to Gazebo, with a test in Gazebo's place on the bridged topics, and a wallet's and station's link."""

import math

import pytest

pytest.importorskip("rclpy", reason="pip install 'depai_robot[ros]', or source a ROS 2 installation")

import rclpy
import yaml
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry as OdometryMessage
from sensor_msgs.msg import BatteryState
from std_msgs.msg import Bool
from std_srvs.srv import SetBool

from depai_robot.app.resource import resource_path
from depai_robot.nodes.convert import ns_to_stamp, odometry_to_message
from depai_robot.nodes.gazebo_relay import GazeboRelay
from depai_robot.nodes.quality import STATE
from depai_robot.ports import Odometry
from depai_robot.sim.link_hardware import LinkRobotHardware, LinkStationHardware
from depai_robot.values.error import DeviceError
from depai_robot.values.geometry import Pose2
from test.ros.conftest import Ros

DOCKED = Pose2(3.65, 0.9, 0.0).compose(Pose2(-0.15 - 0.25, 0.0, 0.0))
"""In contact at dock_far: the robot's pads, 0.25 m before its axle, on the dock's, 0.15 m before the panel."""


class Gazebo:
    """A test in Gazebo's place."""

    def __init__(self, ros: Ros, folder, relay: GazeboRelay) -> None:
        self.ros, self.relay = ros, relay
        self.node = ros.node("gazebo")
        self.wheels: list[Twist] = []
        self.recharge: list[bool] = []
        self.node.create_subscription(Twist, "gazebo/cmd_vel", self.wheels.append, STATE)
        for name, on in (("start", True), ("stop", False)):
            self.node.create_subscription(
                Bool, f"gazebo/recharge_{name}", lambda _, on=on: self.recharge.append(on), STATE
            )
        self.truth = self.node.create_publisher(OdometryMessage, "gazebo/ground_truth", STATE)
        self.pack = self.node.create_publisher(BatteryState, "gazebo/battery", STATE)
        self.drive = self.node.create_publisher(Twist, "cmd_vel", STATE)
        self.pose = Pose2(0.0, 0.0, 0.0)
        self.current_a = -1.0
        self.speaks = True
        self.node.create_timer(0.05, self._speak)
        ros.until(lambda: self.truth.get_subscription_count() and self.drive.get_subscription_count())

    def _speak(self) -> None:
        now = self.node.get_clock().now()
        truth = Odometry(now.nanoseconds, self.pose, 0.0, 0.0)
        self.truth.publish(odometry_to_message(truth, "map", "base_link"))
        if self.speaks:
            state = BatteryState(
                voltage=26.0, current=self.current_a, charge=2.0, capacity=8.0, percentage=25.0
            )
            state.header.stamp = ns_to_stamp(now.nanoseconds)
            self.pack.publish(state)


@pytest.fixture
def gazebo(ros, ros_domain_id, tmp_path):
    file = tmp_path / "simulation.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "robot": "rover-1",
                "link": str(tmp_path / "link"),
                "connectors": [{"dock": "dock_far", "station": "st-far"}],
            }
        )
    )
    rclpy.try_shutdown()
    rclpy.init(args=["--ros-args", "-p", f"config:={file}"], domain_id=ros_domain_id)
    made = Ros(rclpy.get_default_context())
    try:
        yield Gazebo(made, tmp_path, made.add(GazeboRelay())), tmp_path / "link"
    finally:
        made.close()
        rclpy.try_shutdown()


def drive(gazebo: Gazebo, linear: float) -> None:
    message = Twist()
    message.linear.x = linear
    gazebo.drive.publish(message)


def test_wheels_are_told_within_limits_and_zero_when_nobody_speaks(gazebo):
    gazebo, _ = gazebo
    drive(gazebo, 3.0)
    gazebo.ros.until(lambda: gazebo.wheels and gazebo.wheels[-1].linear.x > 0.1)
    gazebo.ros.until(lambda: gazebo.wheels[-1].linear.x == 0.0)
    assert max(message.linear.x for message in gazebo.wheels) <= 0.45
    steps = [b.linear.x - a.linear.x for a, b in zip(gazebo.wheels, gazebo.wheels[1:], strict=False)]
    assert max(steps) < 0.2, "along a ramp"
    count = len(gazebo.wheels)
    gazebo.ros.spin_for(0.3)
    assert len(gazebo.wheels) == count, "zero is said once, then the topic is left"


def test_an_emergency_stop_holds_against_commands(gazebo):
    gazebo, _ = gazebo
    client = gazebo.node.create_client(SetBool, "gazebo_relay/emergency_stop")
    gazebo.ros.until(client.service_is_ready)
    drive(gazebo, 0.4)
    gazebo.ros.until(lambda: gazebo.wheels and gazebo.wheels[-1].linear.x > 0.1)
    future = client.call_async(SetBool.Request(data=True))
    gazebo.ros.until(future.done)
    for _ in range(5):
        drive(gazebo, 0.4)
        gazebo.ros.spin_for(0.05)
    assert gazebo.wheels[-1].linear.x == 0.0


def test_it_charges_only_on_contact_and_while_the_station_gives_power(gazebo):
    gazebo, link = gazebo
    gazebo.ros.until(lambda: gazebo.relay._battery.state_of_charge == 0.25)
    robot, station = LinkRobotHardware(link, "rover-1"), LinkStationHardware(link, "st-far", 1)
    try:
        reading = robot.read()
        assert (reading.voltage_v, reading.current_a, reading.state_of_charge) == (26.0, -1.0, 0.25)
        assert not robot.in_contact()
        gazebo.pose = DOCKED
        gazebo.ros.until(robot.in_contact)
        gazebo.ros.spin_for(0.3)
        assert gazebo.recharge == [], "contact alone charges nothing"
        before = station.read().energy_milliwh
        station.energise(300.0, before + 1000)
        gazebo.ros.until(lambda: gazebo.recharge == [True])
        gazebo.current_a = 6.0
        wanted_w = 26.0 * 6.0 + 25.0  # into the cells, and the on-board load
        gazebo.ros.until(lambda: abs(robot.read().pads_power_w - wanted_w) < 2)
        gazebo.ros.until(lambda: station.read().energy_milliwh > before + 20)
        assert robot.read().pads_energy_milliwh > 0
        gazebo.pose = Pose2(0.0, 0.0, 0.0)
        gazebo.ros.until(lambda: gazebo.recharge == [True, False])
        gazebo.ros.until(lambda: not robot.in_contact())
    finally:
        robot.close()
        station.close()


def test_a_station_that_switches_off_ends_the_recharge(gazebo):
    gazebo, link = gazebo
    station = LinkStationHardware(link, "st-far", 1)
    try:
        gazebo.pose = DOCKED
        gazebo.ros.until(station.present)
        station.energise(300.0, station.read().energy_milliwh + 1000)
        gazebo.ros.until(lambda: gazebo.recharge == [True])
        station.deenergise()
        gazebo.ros.until(lambda: gazebo.recharge == [True, False])
        station.energise(300.0, station.read().energy_milliwh + 1000)
        gazebo.ros.until(lambda: gazebo.recharge[-1])
        assert gazebo.relay.trigger_deactivate().name == "SUCCESS"
        gazebo.ros.until(lambda: not gazebo.recharge[-1])
    finally:
        station.close()


def test_a_silent_bridge_is_no_reading(gazebo):
    gazebo, link = gazebo
    gazebo.ros.until(lambda: gazebo.relay._battery.state_of_charge == 0.25)
    robot = LinkRobotHardware(link, "rover-1")
    try:
        gazebo.speaks = False

        def fails() -> bool:
            try:
                robot.read()
            except DeviceError:
                return True
            return False

        gazebo.ros.until(fails, 10)
        assert math.isfinite(gazebo.relay._battery.state_of_charge)
    finally:
        robot.close()


def test_the_docked_pose_is_the_worlds():
    world = yaml.safe_load(resource_path("config", "world.yaml").read_text())
    far = next(dock for dock in world["docks"] if dock["id"] == "dock_far")
    assert (far["x_m"], far["y_m"], far["yaw_rad"]) == (3.65, 0.9, 0.0)
