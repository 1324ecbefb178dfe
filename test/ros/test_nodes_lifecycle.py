"""Managed nodes as a lifecycle manager sees them: by their services, states and parameters."""

import math
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="pip install 'depai_robot[ros]', or source a ROS 2 installation")

import rclpy
from geometry_msgs.msg import Twist
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from sensor_msgs.msg import BatteryState

from depai_robot.nodes.battery import BatteryNode
from depai_robot.nodes.dock_detector import DockDetector
from depai_robot.nodes.docking import DockingNode
from depai_robot.nodes.lifecycle import ManagedNode, Setting, bring_up
from depai_robot.nodes.quality import STATE
from depai_robot.nodes.wallet import WalletNode
from depai_robot.ports import BatteryReading
from depai_robot.values.error import ConfigError, DeviceAbsentError

UNCONFIGURED, INACTIVE, ACTIVE, FINALIZED = "unconfigured", "inactive", "active", "finalized"


class Hardware:
    """A battery that reads, and no contact."""

    def read(self) -> BatteryReading:
        return BatteryReading(1, 25.5, -1.5, 0.42, 0, 0.0)

    def in_contact(self) -> bool:
        return False

    def read_probe(self) -> bytes | None:
        return None


class Manager:
    """What a lifecycle manager does."""

    def __init__(self, ros: Any, name: str) -> None:
        self.ros, self.node = ros, ros.node("manager")
        self.change = self.node.create_client(ChangeState, f"{name}/change_state")
        self.get = self.node.create_client(GetState, f"{name}/get_state")
        ros.until(lambda: self.change.service_is_ready() and self.get.service_is_ready())

    def _call(self, client: Any, request: Any) -> Any:
        future = client.call_async(request)
        self.ros.until(future.done)
        return future.result()

    def ask(self, transition: int) -> bool:
        request = ChangeState.Request()
        request.transition.id = transition
        return bool(self._call(self.change, request).success)

    @property
    def state(self) -> str:
        return str(self._call(self.get, GetState.Request()).current_state.label)


def add_unmanaged(ros: Any, node: ManagedNode) -> ManagedNode:
    ros.executor.add_node(node)
    ros._nodes.append(node)
    return node


def test_a_manager_takes_a_node_through_its_states_and_back(ros) -> None:
    add_unmanaged(ros, BatteryNode(Hardware(), Hardware()))
    manager = Manager(ros, "battery")
    heard: list[BatteryState] = []
    manager.node.create_subscription(BatteryState, "battery_state", heard.append, STATE)
    assert manager.state == UNCONFIGURED
    assert manager.ask(Transition.TRANSITION_CONFIGURE)
    assert manager.state == INACTIVE
    ros.spin_for(0.4)
    assert heard == [], "inactive is silent"
    assert manager.ask(Transition.TRANSITION_ACTIVATE)
    assert manager.state == ACTIVE
    ros.until(lambda: len(heard) > 2)
    assert not math.isnan(heard[-1].voltage)
    assert manager.ask(Transition.TRANSITION_DEACTIVATE)
    ros.spin_for(0.2)
    heard.clear()
    ros.spin_for(0.4)
    assert heard == []
    assert manager.ask(Transition.TRANSITION_CLEANUP)
    ros.until(lambda: manager.node.count_publishers("battery_state") == 0)
    assert manager.ask(Transition.TRANSITION_CONFIGURE)
    assert manager.ask(Transition.TRANSITION_ACTIVATE)
    ros.until(lambda: heard)
    assert manager.ask(Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert manager.state == FINALIZED


def test_a_docking_node_that_is_made_inactive_stands_still(ros) -> None:
    from test.ros.test_nodes_docking import Bench

    bench = Bench(ros)
    bench.start()
    assert bench.velocities[-1].linear.x > 0
    assert bench.node.trigger_deactivate().name == "SUCCESS"
    ros.until(lambda: bench.velocities[-1] == Twist())
    count = len(bench.velocities)
    for number in range(5):
        bench.move(0.01 * number)
    assert len(bench.velocities) == count
    bench.ask(8, "dock")
    ros.until(lambda: bench.states[-1].id == 8)
    assert (bench.states[-1].result, bench.states[-1].reason) == ("failed", "the docking node is not active")
    assert bench.node.trigger_activate().name == "SUCCESS"
    bench.ask(9, "dock")
    ros.until(lambda: bench.states[-1].id == 9 and bench.states[-1].phase == "TRAVELLING")


class Picky(ManagedNode):
    """Can't be configured until its device is there."""

    settings = (Setting("rate_hz", 10.0, "of something", 0.5, 100.0),)
    present = False

    def set_up(self) -> None:
        self.create_timer(1.0, print)
        if not self.present:
            raise DeviceAbsentError("/dev/ttyUSB7: expected a device, there is none")

    def go(self) -> None:
        if self.value("rate_hz") > 50:
            raise ConfigError("too fast")


def test_what_is_in_the_way_is_said_and_the_node_stays_unconfigured(ros) -> None:
    node = add_unmanaged(ros, Picky("picky"))
    with pytest.raises(DeviceAbsentError, match="ttyUSB7"):
        bring_up(node)
    manager = Manager(ros, "picky")
    assert manager.state == UNCONFIGURED
    timers = len(list(node.timers))
    assert not manager.ask(Transition.TRANSITION_CONFIGURE)
    assert len(list(node.timers)) == timers, "what a failed try had made is gone"
    node.present = True
    assert manager.ask(Transition.TRANSITION_CONFIGURE)
    assert manager.ask(Transition.TRANSITION_ACTIVATE)
    assert manager.state == ACTIVE


def make(name: str, *arguments: str) -> Picky:
    rclpy.try_shutdown()
    rclpy.init(args=["--ros-args", *[word for item in arguments for word in ("-p", item)]])
    return Picky(name)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        (
            "rate_hertz:=5.0",
            r"no parameter 'rate_hertz', there are \['autostart', 'rate_hz'\]; did you mean rate_hz",
        ),
        ("rate_hz:=1000.0", "rate_hz"),
        ("rate_hz:=fast", "rate_hz"),
        ("rate_hz:=5", "rate_hz"),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_runs(ros, argument, words) -> None:
    with pytest.raises(ConfigError, match=words):
        make("picky", argument)


def test_parameters_come_with_their_meaning(ros) -> None:
    node = add_unmanaged(ros, make("picky", "rate_hz:=5.0", "use_sim_time:=true"))
    about = node.describe_parameter("rate_hz")
    assert about.description == "of something"
    assert (about.floating_point_range[0].from_value, about.floating_point_range[0].to_value) == (0.5, 100.0)


def test_a_wallet_without_a_file_says_so(ros) -> None:
    node = add_unmanaged(ros, WalletNode())
    with pytest.raises(ConfigError, match="the parameter config must name a file"):
        bring_up(node)


def test_every_parameter_of_every_node_is_described(ros) -> None:
    for kind in (BatteryNode, DockDetector, DockingNode, WalletNode):
        for setting in kind.settings:
            assert len(setting.text) > 10, (kind, setting.name)
