"""The hardware process's node on pty devices: wheels by cmd_vel, odometry, emergency stop, the wallet's link."""

import time

import pytest

pytest.importorskip("rclpy", reason="pip install 'depai_robot[ros]', or source a ROS 2 installation")

import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry as OdometryMessage
from std_msgs.msg import Bool

from depai_robot.adapters.jbd import BASIC, find_answer
from depai_robot.app.resource import resource_path
from depai_robot.nodes.hardware import HardwareNode
from depai_robot.nodes.quality import LATCHED, STATE
from depai_robot.sim.link_hardware import LinkRobotHardware
from test.ros.conftest import Ros
from test.ros.test_nodes_interface import compare
from test.serial_device import CreateDevice, JbdDevice, McuDevice
from test.unit.test_serial_frames import RECORDED

LINEAR_MAX_MPS = 0.3
"""Less than the package's example allows."""


class Bench:
    """The node, its devices, and who drives."""

    def __init__(self, ros: Ros, folder, bms: JbdDevice, mcu: McuDevice) -> None:
        self.ros, self.folder, self.bms, self.mcu = ros, folder, bms, mcu
        self.node = ros.add(HardwareNode())
        self.other = ros.node("driver")
        self.odometry: list[OdometryMessage] = []
        self.statuses: dict[str, str] = {}
        self.other.create_subscription(OdometryMessage, "odom", self.odometry.append, STATE)
        self.other.create_subscription(DiagnosticArray, "/diagnostics", self._take, STATE)
        self.velocities = self.other.create_publisher(Twist, "cmd_vel", STATE)
        self.emergency = self.other.create_publisher(Bool, "emergency_stop", LATCHED)
        self._driven_s = -1.0
        ros.until(lambda: self.odometry and self.velocities.get_subscription_count())

    def _take(self, message: DiagnosticArray) -> None:
        self.statuses.update({status.name: status.message for status in message.status})

    def drive(self, linear: float) -> None:
        """A command, at most each 20 ms: one in every turn would starve the node that shares the executor."""
        now_s = time.monotonic()
        if now_s - self._driven_s >= 0.02:
            self._driven_s = now_s
            message = Twist()
            message.linear.x = linear
            self.velocities.publish(message)
        self.ros.executor.spin_once(timeout_sec=0.02)


@pytest.fixture
def bench(ros, ros_domain_id, tmp_path):
    bms = JbdDevice(find_answer(RECORDED, BASIC)[0], tmp_path / "bms")
    mcu = McuDevice(link=tmp_path / "mcu")
    description = yaml.safe_load(resource_path("config", "robot.yaml").read_text())
    description["limits"]["linear_max_mps"] = LINEAR_MAX_MPS
    (tmp_path / "rover.yaml").write_text(yaml.safe_dump(description))
    file = tmp_path / "hardware.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "version": 1,
                "robot": "rover-1",
                "link": str(tmp_path / "link"),
                "description": "rover.yaml",
                "battery": {"port": str(tmp_path / "bms")},
                "base": {"port": str(tmp_path / "mcu"), "track_m": 0.34},
            }
        )
    )
    rclpy.try_shutdown()
    rclpy.init(args=["--ros-args", "-p", f"config:={file}"], domain_id=ros_domain_id)
    made = Ros(rclpy.get_default_context())
    try:
        yield Bench(made, tmp_path, bms, mcu)
    finally:
        made.close()
        rclpy.try_shutdown()
        bms.close()
        mcu.close()


def test_its_topics_are_those_of_the_page(bench: Bench) -> None:
    compare(bench.node, "hardware", ignore=("/clock", "/tf", "/tf_static"))


def test_cmd_vel_turns_the_wheels_within_this_robots_limits_and_silence_stops_them(bench: Bench) -> None:
    fastest = []
    bench.ros.until(
        lambda: (bench.drive(2.0), fastest.append(bench.mcu.linear_mps))[0] or max(fastest) > 0.25
    )
    bench.ros.until(lambda: bench.drive(2.0) or bench.mcu.linear_mps >= LINEAR_MAX_MPS)
    assert bench.mcu.linear_mps <= LINEAR_MAX_MPS
    assert max(fastest) <= LINEAR_MAX_MPS
    bench.ros.until(lambda: bench.mcu.linear_mps == 0.0, 3)
    assert bench.odometry[-1].pose.pose.position.x > 0.0


def test_an_emergency_stop_reaches_the_board_and_holds(bench: Bench) -> None:
    bench.ros.until(lambda: bench.drive(0.3) or bench.mcu.linear_mps > 0.1)
    bench.emergency.publish(Bool(data=True))
    bench.ros.until(lambda: bench.mcu.stopped)
    for _ in range(20):
        bench.drive(0.3)
    assert bench.mcu.linear_mps == 0.0
    bench.emergency.publish(Bool(data=False))
    bench.ros.until(lambda: not bench.mcu.stopped)
    bench.ros.until(lambda: bench.drive(0.3) or bench.mcu.linear_mps > 0.1)


def test_the_wallet_reads_battery_and_pads_by_the_link(bench: Bench) -> None:
    bench.mcu.contact = True
    client = None
    bench.ros.until(lambda: bench.node._hardware._reading is not None)
    client = LinkRobotHardware(bench.folder / "link", "rover-1")
    try:
        assert client.read().state_of_charge == 0.72
        bench.ros.until(client.in_contact)
    finally:
        client.close()


def test_a_board_that_is_pulled_is_said_and_gives_no_odometry(bench: Bench) -> None:
    bench.ros.until(lambda: bench.statuses.get("base board") == "talks")
    bench.mcu.unplug()
    bench.ros.until(lambda: bench.statuses.get("base board") not in (None, "talks"), 10)
    bench.ros.spin_for(0.6)
    count = len(bench.odometry)
    bench.ros.spin_for(0.5)
    assert len(bench.odometry) == count
    bench.mcu.plug()
    bench.ros.until(lambda: len(bench.odometry) > count, 15)


def test_an_inactive_node_stands(bench: Bench) -> None:
    bench.ros.until(lambda: bench.drive(0.3) or bench.mcu.linear_mps > 0.1)
    assert bench.node.trigger_deactivate().name == "SUCCESS"
    bench.ros.until(lambda: bench.mcu.linear_mps == 0.0, 2)
    for _ in range(10):
        bench.drive(0.3)
    assert bench.mcu.linear_mps == 0.0


def test_a_create_with_pads_on_their_own_board(ros, ros_domain_id, tmp_path) -> None:
    create, mcu = CreateDevice(tmp_path / "create"), McuDevice(link=tmp_path / "pads")
    port = str(tmp_path / "create")
    file = tmp_path / "hardware.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "version": 1,
                "robot": "rover-1",
                "link": str(tmp_path / "link"),
                "battery": {"driver": "create-oi", "port": port},
                "base": {"driver": "create-oi", "port": port, "track_m": 0.235},
                "pads": {"port": str(tmp_path / "pads")},
            }
        )
    )
    rclpy.try_shutdown()
    rclpy.init(args=["--ros-args", "-p", f"config:={file}"], domain_id=ros_domain_id)
    made = Ros(rclpy.get_default_context())
    try:
        bench = Bench(made, tmp_path, None, mcu)
        made.until(lambda: bench.statuses.get("pads board") == bench.statuses.get("base board") == "talks")
        made.until(lambda: bench.drive(0.3) or min(create.wheels_mmps) > 100)
        made.until(lambda: bench.drive(0.3) or bench.odometry[-1].pose.pose.position.x > 0.02)
        bench.emergency.publish(Bool(data=True))
        made.until(lambda: bench.drive(0.3) or create.wheels_mmps == (0, 0))
        for _ in range(10):
            bench.drive(0.3)
        assert create.wheels_mmps == (0, 0)
    finally:
        made.close()
        rclpy.try_shutdown()
        create.close()
        mcu.close()
