"""The wallet node: real broker, chain and station; the action buys a charge, and says why when it does not."""

import itertools
import json
import signal
import statistics
import time
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="pip install 'depai_robot[ros]', or source a ROS 2 installation")
pytest.importorskip(
    "depai_interfaces", reason="tools/build_interfaces.py builds them; it needs a C++ compiler"
)

import rclpy
from action_msgs.msg import GoalStatus
from builtin_interfaces.msg import Time
from rclpy.action import ActionClient
from rclpy.clock import Clock as SteadyClock
from rclpy.clock import ClockType
from rosgraph_msgs.msg import Clock
from std_msgs.msg import String
from std_srvs.srv import Trigger

from depai_interfaces.action import Charge
from depai_interfaces.msg import ChargingReceipt, ChargingSession
from depai_interfaces.srv import GetBudget, GetPolicy
from depai_robot.nodes.convert import ns_to_stamp
from depai_robot.nodes.docking_protocol import DockingState, decode_command, encode
from depai_robot.nodes.interface import INTERFACES
from depai_robot.nodes.lifecycle import bring_up
from depai_robot.nodes.quality import LATCHED
from depai_robot.nodes.wallet import WalletNode
from depai_robot.payment.receipt import parse_receipt
from depai_robot.sim.link_hardware import LinkRobotHardware
from depai_robot.values.error import JournalError
from test.ros.conftest import Ros
from test.ros.test_nodes_interface import compare, type_name
from test.site_world import ROBOT, STATION, make_site, start_station


class Room:
    """The node, a docking node that is at once where it wants to be, and simulated time."""

    def __init__(self, ros: Ros, folder: Any, pads: Any) -> None:
        self.ros, self.folder, self.pads = ros, folder, pads
        self.docks = self.answers = True
        self.hardware = LinkRobotHardware(folder / "sim.sock", ROBOT)
        self.other = ros.node("other")
        self.clock = self.other.create_publisher(Clock, "/clock", 10)
        self.other.create_timer(0.02, self._tick, clock=SteadyClock(clock_type=ClockType.STEADY_TIME))
        self.states = self.other.create_publisher(String, "docking/state", LATCHED)
        self.other.create_subscription(String, "docking/command", self._obey, LATCHED)
        self.sessions: list[Any] = []
        self.receipts: list[Any] = []
        self.feedback: list[Any] = []
        self.feedback_s: list[float] = []
        self.verbs: list[str] = []
        self.node = ros.add(WalletNode())
        self.other.create_subscription(ChargingSession, "wallet/session", self.sessions.append, LATCHED)
        self.other.create_subscription(ChargingReceipt, "wallet/receipt", self.receipts.append, LATCHED)
        self.client = ActionClient(self.other, Charge, "wallet/charge_battery")
        ros.until(lambda: self.client.server_is_ready() and self.is_running(), 30)

    def is_running(self) -> bool:
        return self.node._program.is_running and bool(self.node._program.state.offers)

    def _tick(self) -> None:
        message = Clock()
        message.clock = ns_to_stamp(self.hardware.clock.session_ns())
        self.clock.publish(message)

    def _obey(self, message: String) -> None:
        command = decode_command(message.data)
        if command.verb == "dock" and not self.answers:
            self.verbs.append(command.verb)
            return  # on its way for as long as it takes
        self.verbs.append(command.verb)
        result, reason = {"dock": "docked", "undock": "undocked", "stop": "stopped"}[command.verb], ""
        if command.verb == "dock" and not self.docks:
            result, reason = "failed", "tries used up"
        elif command.verb == "dock":
            self.pads.touch((STATION, 1))
        elif command.verb == "undock":
            self.pads.touch(None)
        self.states.publish(String(data=encode(DockingState(command.id, "X", result, reason))))

    def ask(self, **goal: Any) -> Any:
        """Sends a goal; returns its handle."""
        request = Charge.Goal()
        for name, value in goal.items():
            setattr(request, name, value)
        future = self.client.send_goal_async(request, self._take_feedback)
        self.ros.until(future.done)
        return future.result()

    def _take_feedback(self, message: Any) -> None:
        self.feedback.append(message.feedback)
        self.feedback_s.append(self.hardware.clock.session_ns() / 1e9)

    def result(self, handle: Any, timeout_s: float = 60.0) -> Any:
        future = handle.get_result_async()
        self.ros.until(future.done, timeout_s)
        return future.result().result

    def call(self, kind: Any, name: str) -> Any:
        client = self.other.create_client(kind, name)
        self.ros.until(client.service_is_ready)
        future = client.call_async(kind.Request())
        self.ros.until(future.done)
        return future.result()

    def at_rest(self) -> None:
        self.ros.until(lambda: self.node._program.phase in ("IDLE", "SETTLED"), 60)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with make_site(tmp_path_factory.mktemp("site")) as (folder, pads):
        station = start_station(folder)
        try:
            yield folder, pads
        finally:
            station.send_signal(signal.SIGTERM)
            station.wait(20)


@pytest.fixture
def room(ros, ros_domain_id, site):
    folder, pads = site
    rclpy.try_shutdown()
    file = f"config:={folder / 'wallet.yaml'}"
    rclpy.init(args=["--ros-args", "-p", "use_sim_time:=true", "-p", file], domain_id=ros_domain_id)
    made = Ros(rclpy.get_default_context())
    room = Room(made, folder, pads)
    try:
        yield room
    finally:
        made.close()
        room.hardware.close()
        pads.touch(None)
        rclpy.try_shutdown()


def test_a_goal_buys_a_charge_and_its_result_is_the_receipts(room: Room) -> None:
    result = room.result(room.ask())
    assert (result.error_code, result.error_msg) == (Charge.Result.NONE, "the wanted energy is in")
    receipt = parse_receipt((room.folder / "wallet" / f"receipt-{result.receipt_id}.json").read_bytes())
    assert (result.energy_milliwh, result.cost_atomic) == (
        receipt.station_energy_milliwh,
        receipt.owed_atomic,
    )
    assert result.stop_reason == receipt.stop_reason == "EnergyLimitReached"
    phases = [message.phase for message in room.feedback]
    assert "CHARGING" in phases
    assert all(0 < message.state_of_charge < 1 for message in room.feedback)
    room.ros.until(lambda: room.receipts and room.sessions and room.sessions[-1].phase == "SETTLED")
    said = room.receipts[-1]
    assert parse_receipt(said.json) == receipt
    assert (said.session, said.owed_atomic) == (result.receipt_id, receipt.owed_atomic)
    assert room.sessions[-1].cost_atomic == receipt.owed_atomic
    assert max(s.ceiling_atomic for s in room.sessions) <= room.sessions[-1].escrow_atomic
    budget = room.call(GetBudget, "wallet/get_budget")
    assert 0 < receipt.owed_atomic <= budget.day_spent_atomic <= budget.day_max_atomic
    policy = room.call(GetPolicy, "wallet/get_policy")
    assert policy.valid
    assert (
        json.loads(policy.json)["session_max_atomic"]
        == policy.session_max_atomic
        == budget.session_max_atomic
    )


def test_its_topics_and_services_are_those_of_the_page(room: Room) -> None:
    compare(room.node, "wallet", ignore=("/clock",))
    assert [type_name(Charge)] == [e.type for e in INTERFACES["wallet"] if e.kind == "acts"]


def test_a_target_is_stopped_at(room: Room) -> None:
    charge = room.pads.battery.state_of_charge
    room.feedback.clear()
    result = room.result(room.ask(target_state_of_charge=charge + 0.0005))
    assert (result.error_code, result.stop_reason) == (Charge.Result.NONE, "Remote"), result
    assert "is reached" in result.error_msg
    assert 0 < result.energy_milliwh < 800
    room.at_rest()


def test_a_cancelled_goal_settles_what_was_signed(room: Room) -> None:
    handle = room.ask()
    room.ros.until(lambda: room.node._program.phase == "CHARGING", 40)
    busy = room.result(room.ask())
    assert busy.error_code == Charge.Result.BUSY
    future = handle.cancel_goal_async()
    room.ros.until(future.done)
    result = room.result(handle)
    assert result.stop_reason == "Remote", result
    receipt = parse_receipt((room.folder / "wallet" / f"receipt-{result.receipt_id}.json").read_bytes())
    assert 0 < receipt.owed_atomic == result.cost_atomic
    assert receipt.fault == ""


def test_a_goal_cancelled_on_the_way_to_the_dock_stops_the_robot_and_owes_nothing(room: Room) -> None:
    room.answers = False
    handle = room.ask()
    room.ros.until(lambda: "dock" in room.verbs, 40)
    future = handle.cancel_goal_async()
    room.ros.until(future.done)
    result = room.result(handle)
    assert handle.status == GoalStatus.STATUS_CANCELED
    assert "stop" in room.verbs, "who was on the way has to stop"
    assert (result.energy_milliwh, result.cost_atomic) == (0, 0)
    room.at_rest()


def test_a_deadline_on_the_way_ends_the_goal_and_feedback_comes_twice_a_second_of_ros_time(
    room: Room,
) -> None:
    room.answers = False
    deadline_s = int(time.time()) + 7
    result = room.result(room.ask(deadline=Time(sec=deadline_s)))
    assert "the deadline of the goal is over" in result.error_msg
    assert time.time() >= deadline_s
    assert "stop" in room.verbs
    assert (result.energy_milliwh, result.cost_atomic) == (0, 0)
    gaps_s = [after - before for before, after in itertools.pairwise(room.feedback_s)]
    assert len(gaps_s) >= 6
    assert 0.3 < statistics.median(gaps_s) < 1.0
    room.at_rest()


def test_a_second_goal_never_preempts_a_first(room: Room) -> None:
    """Money is signed under the first: whoever wants another cancels it."""
    first = room.ask()
    room.ros.until(lambda: room.node._program.phase == "CHARGING", 40)
    second = room.result(room.ask(target_state_of_charge=0.9))
    assert second.error_code == Charge.Result.BUSY
    assert first.status in (GoalStatus.STATUS_ACCEPTED, GoalStatus.STATUS_EXECUTING)
    result = room.result(first)
    assert (result.error_code, result.stop_reason) == (Charge.Result.NONE, "EnergyLimitReached")


@pytest.mark.parametrize(
    ("goal", "code", "words"),
    [
        ({"deadline": Time(sec=1)}, "INVALID_GOAL", "deadline: 1 s (Unix) is over, now is"),
        ({"deadline": Time(sec=-1)}, "INVALID_GOAL", "deadline: -1 s (Unix) is over, now is"),
        ({"target_state_of_charge": 1.5}, "INVALID_GOAL", "expected 0 to 1, got 1.5"),
        ({"target_state_of_charge": 0.01}, "INVALID_GOAL", "is reached, the battery has"),
    ],
)
def test_a_goal_that_makes_no_sense_is_answered_with_a_reason(room: Room, goal, code, words) -> None:
    result = room.result(room.ask(**goal))
    assert result.error_code == getattr(Charge.Result, code)
    assert words in result.error_msg
    assert result.receipt_id == ""


def test_a_dock_that_is_not_reached(room: Room) -> None:
    room.docks = False
    result = room.result(room.ask())
    assert result.error_code == Charge.Result.DOCKING
    assert "tries used up" in result.error_msg


def test_an_inactive_wallet_buys_nothing_and_an_active_one_again(room: Room) -> None:
    assert room.node.trigger_deactivate().name == "SUCCESS"
    result = room.result(room.ask())
    assert result.error_code == Charge.Result.BUSY
    assert "not active" in result.error_msg
    answer = room.call(Trigger, "wallet/charge")
    assert (answer.success, answer.message) == (False, "the wallet is not active: it buys nothing now")
    assert room.node.trigger_cleanup().name == "SUCCESS"
    bring_up(room.node)
    room.ros.until(lambda: room.client.server_is_ready() and room.is_running(), 30)
    room.pads.touch(None)
    assert room.result(room.ask(station=STATION)).error_code == Charge.Result.NONE


def test_a_second_wallet_with_the_same_key_is_refused(room: Room) -> None:
    node = WalletNode()
    try:
        with pytest.raises(JournalError):
            bring_up(node)
    finally:
        node.destroy_node()
