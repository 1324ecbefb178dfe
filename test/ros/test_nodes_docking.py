"""The docking node: odometry, commands and contact in, velocities and states out."""

import math
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="pip install 'depai_robot[ros]', or source a ROS 2 installation")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped, Twist, TwistStamped
from nav_msgs.msg import Odometry as OdometryMessage
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool

from depai_robot.docking.machine import DockingSettings, Phase, State
from depai_robot.docking.scale import ScaleFit
from depai_robot.nodes.convert import odometry_to_message
from depai_robot.nodes.docking import DockingNode
from depai_robot.nodes.docking_protocol import DockingCommand, DockingState, decode_state, encode
from depai_robot.nodes.quality import LATCHED, STATE
from depai_robot.ports import Odometry
from depai_robot.values.geometry import Pose2
from test.ros.conftest import Ros

START = Pose2(1.0, 0.5, 0.0)
"""Of the robot in the map; odometry begins there."""
AHEAD = (4.0, 0.5, 0.0)
"""A dock three metres in front of it."""


class Bench:
    """The node under test, its base and its wallet."""

    def __init__(self, ros: Any, velocity: type = Twist) -> None:
        self.ros = ros
        self.node = ros.add(DockingNode(DockingSettings(), (0.2, 0.0, 0.3), START))
        self.other = ros.node()
        self.velocities: list[Any] = []
        self.states: list[DockingState] = []
        self._stamp_ns = 0
        self.other.create_subscription(velocity, "cmd_vel", self.velocities.append, STATE)
        self.other.create_subscription(
            String, "docking/state", lambda message: self.states.append(decode_state(message.data)), LATCHED
        )
        self.odometry = self.other.create_publisher(OdometryMessage, "odom", STATE)
        self.commands = self.other.create_publisher(String, "docking/command", LATCHED)
        self.contact = self.other.create_publisher(Bool, "charging_contact", LATCHED)
        self.poses = self.other.create_publisher(PoseStamped, "detected_dock_pose", STATE)
        self.emergency = self.other.create_client(SetBool, "docking/emergency_stop")
        publishers = (self.odometry, self.commands, self.contact, self.poses)
        ros.until(
            lambda: (
                all(publisher.get_subscription_count() for publisher in publishers)
                and self.other.count_publishers("/cmd_vel")
                and self.other.count_publishers("/docking/state")
                and self.emergency.service_is_ready()
            )
        )

    def move(self, x_m: float = 0.0) -> None:
        """One odometry message, taken."""
        self._stamp_ns += 20_000_000
        wanted = self._stamp_ns
        self.odometry.publish(
            odometry_to_message(Odometry(wanted, Pose2(x_m, 0.0, 0.0), 0.0, 0.0), "odom", "base_link")
        )
        self.ros.until(lambda: self.node._state.history and self.node._state.history[-1][0] >= wanted)

    def ask(self, number: int, verb: str, dock: str = "dock_a", pose: Any = AHEAD) -> None:
        self.commands.publish(String(data=encode(DockingCommand(number, verb, dock, pose))))

    def stop_for_emergency(self, on: bool) -> str:
        future = self.emergency.call_async(SetBool.Request(data=on))
        self.ros.until(future.done)
        return str(future.result().message)

    def start(self) -> None:
        """On the way to a dock, as command 7."""
        self.move()
        self.ask(7, "dock")
        self.ros.until(lambda: self.states)
        self.move()
        self.ros.until(lambda: self.velocities)


@pytest.fixture
def bench(ros) -> Bench:
    return Bench(ros)


def test_a_command_moves_the_robot_and_the_state_names_it(bench: Bench) -> None:
    bench.move()
    bench.ros.spin_for(0.1)
    assert bench.velocities == [], "whoever has not been asked leaves cmd_vel to others"
    bench.start()
    assert (bench.states[0].id, bench.states[0].phase, bench.states[0].result) == (7, "TRAVELLING", "")
    assert bench.velocities[0].linear.x > 0
    assert abs(bench.velocities[0].angular.z) < 0.1, "the dock is straight ahead: map and odometry fit"


def test_a_dock_asked_for_before_any_odometry_waits_for_it(bench: Bench) -> None:
    bench.ask(7, "dock")
    bench.ros.spin_for(0.2)
    assert bench.states == [], "neither begun nor failed: nothing says yet where the robot is"
    bench.move()
    bench.ros.until(lambda: bench.states)
    assert (bench.states[0].id, bench.states[0].phase, bench.states[0].result) == (7, "TRAVELLING", "")


def test_a_stop_takes_back_a_dock_that_waits_for_odometry(bench: Bench) -> None:
    bench.ask(7, "dock")
    bench.ros.spin_for(0.1)
    bench.ask(8, "stop", dock="")
    bench.ros.until(lambda: bench.states)
    assert (bench.states[0].id, bench.states[0].result) == (8, "stopped")
    bench.move()
    bench.ros.spin_for(0.2)
    assert bench.node._state.phase is Phase.IDLE
    assert len(bench.states) == 1


def test_an_emergency_stop_takes_back_a_dock_that_waits_for_odometry(bench: Bench) -> None:
    bench.ask(7, "dock")
    bench.ros.spin_for(0.1)
    assert bench.stop_for_emergency(on=True) == "STOPPED"
    bench.ros.until(lambda: bench.states)
    assert (bench.states[0].id, bench.states[0].result) == (7, "stopped")
    assert bench.stop_for_emergency(on=False) == "IDLE"
    bench.move()
    bench.ros.spin_for(0.2)
    assert bench.node._state.phase is Phase.IDLE, "what was stopped is not begun by a release"


def test_without_odometry_a_dock_fails_and_says_why(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("depai_robot.nodes.docking.ODOMETRY_TIMEOUT_S", 0.5)
    bench.ask(7, "dock")
    bench.ros.until(lambda: bench.states)
    said = bench.states[0]
    assert (said.id, said.phase, said.result) == (7, "IDLE", "failed")
    assert said.reason.startswith("no odometry on /odom within")
    bench.move()
    bench.ros.spin_for(0.2)
    assert bench.node._state.phase is Phase.IDLE, "what has been answered is not begun later"


def test_a_node_made_inactive_takes_back_a_dock_that_waits(bench: Bench) -> None:
    bench.ask(7, "dock")
    bench.ros.spin_for(0.1)
    bench.node.trigger_deactivate()
    bench.ros.until(lambda: bench.states)
    assert (bench.states[0].id, bench.states[0].result) == (7, "stopped")


def test_the_expected_pose_is_turned_from_the_map_to_odometry(bench: Bench) -> None:
    bench.move()
    bench.ask(7, "dock", pose=(1.0, 3.5, math.pi / 2))
    bench.ros.until(lambda: bench.states)
    bench.move()
    bench.ros.until(lambda: bench.velocities)
    assert bench.velocities[0].linear.x == 0.0
    assert bench.velocities[0].angular.z > 0.2, "the dock is on the left: turn there first"


def test_a_repeated_command_changes_nothing(bench: Bench) -> None:
    bench.start()
    bench.ask(8, "stop", dock="")
    bench.ros.until(lambda: bench.states[-1].id == 8)
    assert bench.states[-1].result == "stopped"
    said = len(bench.states)
    bench.ask(7, "dock")
    bench.ask(8, "dock")
    bench.ros.spin_for(0.2)
    bench.move()
    assert len(bench.states) == said
    assert bench.node._state.phase.value == "IDLE"


def test_a_stop_says_zero_once_and_then_is_silent(bench: Bench) -> None:
    bench.start()
    bench.ask(8, "stop", dock="")
    bench.ros.until(lambda: bench.velocities[-1] == Twist())
    said = len(bench.velocities)
    for _ in range(3):
        bench.move()
    bench.ros.spin_for(0.1)
    assert len(bench.velocities) == said


def test_an_emergency_stop_is_zero_at_once_and_stays(bench: Bench) -> None:
    bench.start()
    assert bench.stop_for_emergency(on=True) == "STOPPED"
    bench.ros.until(lambda: bench.velocities[-1] == Twist())
    assert (bench.states[-1].id, bench.states[-1].phase, bench.states[-1].result) == (7, "STOPPED", "stopped")
    bench.ask(9, "dock")
    bench.ros.until(lambda: bench.states[-1].id == 9)
    assert bench.states[-1].result == "failed"
    assert "STOPPED" in bench.states[-1].reason
    for _ in range(3):
        bench.move()
    bench.ros.spin_for(0.1)
    assert bench.velocities[-1] == Twist()
    assert bench.stop_for_emergency(on=False) == "IDLE"
    bench.ask(10, "dock")
    bench.ros.until(lambda: bench.states[-1].id == 10)
    assert bench.states[-1].phase == "TRAVELLING"


@pytest.mark.parametrize("field", ["x", "yaw"])
def test_odometry_that_is_not_finite_stops_the_robot_and_not_the_node(bench: Bench, field: str) -> None:
    bench.start()
    message = OdometryMessage()
    message.header.stamp.sec = 1
    if field == "x":
        message.pose.pose.position.x = math.nan
    else:
        message.pose.pose.orientation.z = math.inf
    bench.odometry.publish(message)
    bench.ros.until(lambda: bench.velocities[-1] == Twist())
    bench.move(0.01)
    bench.ros.until(lambda: bench.velocities[-1].linear.x > 0)


@pytest.mark.parametrize(
    "text", ["", "{}", '{"id": 99, "verb": "fly"}', '{"id": 99, "verb": "stop", "x": 1}']
)
def test_words_that_are_no_command_are_left_out(bench: Bench, text: str) -> None:
    bench.start()
    bench.commands.publish(String(data=text))
    bench.ros.spin_for(0.2)
    assert bench.node._command.id == 7
    assert bench.node._state.phase.value == "TRAVELLING"


def test_a_pose_that_is_not_finite_is_left_out(bench: Bench) -> None:
    bench.start()
    pose = PoseStamped()
    pose.pose.position.z = math.nan
    bench.poses.publish(pose)
    bench.poses.publish(PoseStamped())  # a quaternion of zeros
    bench.ros.spin_for(0.2)
    assert bench.node._state.phase.value == "TRAVELLING"
    bench.move(0.01)


def test_something_in_the_way_holds_the_robot_until_it_is_gone(bench: Bench) -> None:
    path = bench.other.create_publisher(Bool, "path_clear", STATE)
    bench.ros.until(path.get_subscription_count)
    bench.start()
    assert bench.velocities[-1].linear.x > 0
    path.publish(Bool(data=False))
    bench.ros.until(lambda: bench.node._state.blocked)
    bench.ros.until(lambda: bench.velocities[-1] == Twist())
    count = len(bench.velocities)
    bench.move()
    bench.ros.spin_for(0.1)
    assert all(velocity == Twist() for velocity in bench.velocities[count:])
    path.publish(Bool(data=True))
    bench.ros.until(lambda: not bench.node._state.blocked)
    bench.move()
    bench.ros.until(lambda: bench.velocities[-1].linear.x > 0)


def test_a_watch_that_is_silent_holds_the_robot(ros_domain_id: int) -> None:
    rclpy.init(args=["--ros-args", "-p", "path_timeout_s:=0.3"], domain_id=ros_domain_id)
    ros = Ros(rclpy.get_default_context())
    try:
        bench = Bench(ros)
        bench.move()
        assert bench.node._state.blocked, "nobody ever said that the way is clear"
        path = bench.other.create_publisher(Bool, "path_clear", STATE)
        ros.until(path.get_subscription_count)
        path.publish(Bool(data=True))
        ros.until(lambda: not bench.node._state.blocked)
        bench.move()
        assert not bench.node._state.blocked
        ros.spin_for(0.4)
        bench.move()
        assert bench.node._state.blocked
    finally:
        ros.close()
        rclpy.try_shutdown()


def test_a_node_that_ends_on_the_way_says_zero(bench: Bench) -> None:
    bench.start()
    bench.node.close()
    bench.ros.until(lambda: bench.velocities[-1] == Twist())
    said = len(bench.velocities)
    bench.node.close()
    bench.ros.spin_for(0.1)
    assert len(bench.velocities) == said


def test_velocities_can_be_stamped(ros_domain_id: int) -> None:
    rclpy.init(args=["--ros-args", "-p", "stamped_cmd_vel:=true"], domain_id=ros_domain_id)
    ros = Ros(rclpy.get_default_context())
    try:
        bench = Bench(ros, TwistStamped)
        bench.start()
        assert bench.velocities[0].header.frame_id == "base_link"
        assert bench.velocities[0].header.stamp.sec > 0
        assert bench.velocities[0].twist.linear.x > 0
    finally:
        ros.close()
        rclpy.try_shutdown()


@pytest.mark.parametrize(("scale", "level"), [(1.0, DiagnosticStatus.OK), (1.06, DiagnosticStatus.WARN)])
def test_once_docked_the_docks_size_by_the_wheels_is_reported(
    bench: Bench, scale: float, level: bytes
) -> None:
    statuses: list[DiagnosticStatus] = []
    bench.other.create_subscription(
        DiagnosticArray, "/diagnostics", lambda message: statuses.extend(message.status), STATE
    )
    bench.ros.until(lambda: bench.other.count_publishers("/diagnostics"))
    fit = ScaleFit()
    for number in range(40):
        ahead_m = 2.0 - number * 0.04
        fit = fit.add(Pose2(-ahead_m, 0.0, 0.0), Pose2(0.02 + (ahead_m - 0.02) / scale, 0.0, 0.0), 0.02)
    bench.node._state = State(Phase.DOCKED, dock="dock_a", scale=fit)
    bench.node._announce(Phase.TOUCHING)
    bench.ros.until(lambda: statuses)
    assert (statuses[0].name, statuses[0].hardware_id, statuses[0].level) == ("dock_scale", "dock_a", level)
    assert {v.key: v.value for v in statuses[0].values}["scale"] == f"{scale:.4f}"
