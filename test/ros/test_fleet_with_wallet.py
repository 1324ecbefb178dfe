"""A fleet buys a charge: VDA 5050 over a real broker, fleet bridge and wallet node, a real station and a real chain."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="pip install 'depai_robot[ros]', or source a ROS 2 installation")
pytest.importorskip(
    "depai_interfaces", reason="tools/build_interfaces.py builds them; it needs a C++ compiler"
)

import rclpy
import yaml
from nav_msgs.msg import Odometry
from rclpy.clock import Clock as SteadyClock
from rclpy.clock import ClockType
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import BatteryState
from std_msgs.msg import String

from depai_robot.adapters.paho_broker import BrokerAddress
from depai_robot.adapters.paho_feed import PahoFeed
from depai_robot.app.fleet_guard import answer_topic, command_topic, seal_document
from depai_robot.fleet.command import Command, Grant
from depai_robot.nodes.convert import ns_to_stamp
from depai_robot.nodes.docking_protocol import DockingState, decode_command, encode
from depai_robot.nodes.fleet_bridge import FleetBridgeNode
from depai_robot.nodes.quality import LATCHED
from depai_robot.nodes.wallet import WalletNode
from depai_robot.payment.receipt import parse_receipt
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.sim.link_hardware import LinkRobotHardware
from depai_robot.values.identity import address_to_hex
from test.ros.conftest import Ros
from test.site_world import OWNER, ROBOT, STATION, make_site, start_station, write_yaml
from test.vda_check import check

CHAIN = 31337
ADA = DevelopmentSigner("operator-ada")
VDA = f"uagv/v2/depai/{ROBOT}"


class Fleet:
    """A master at the fleet's broker, and the robot's base, battery and docking as far as they matter here."""

    def __init__(self, ros: Ros, folder: Path, pads: Any, port: int) -> None:
        self.ros, self.folder, self.pads = ros, folder, pads
        self.hardware = LinkRobotHardware(folder / "sim.sock", ROBOT)
        self.body = ros.node("body")
        self._clock = self.body.create_publisher(Clock, "/clock", 10)
        self._battery = self.body.create_publisher(BatteryState, "battery_state", 10)
        self._odometry = self.body.create_publisher(Odometry, "odom", 10)
        self._states = self.body.create_publisher(String, "docking/state", LATCHED)
        self.body.create_timer(0.02, self._tick, clock=SteadyClock(clock_type=ClockType.STEADY_TIME))
        self.body.create_subscription(String, "docking/command", self._obey, LATCHED)
        self.feed = PahoFeed(BrokerAddress("127.0.0.1", port))
        self.feed.subscribe(f"{VDA}/connection", f"{VDA}/state", answer_topic(ROBOT))
        self.feed.start()
        self.bodies: dict[str, Any] = {}
        self.states: list[Any] = []
        self.answers: dict[str, Any] = {}

    def _tick(self) -> None:
        now_ns = self.hardware.clock.session_ns()
        self._clock.publish(Clock(clock=ns_to_stamp(now_ns)))
        message = BatteryState(voltage=25.0, percentage=self.pads.battery.state_of_charge)
        message.current = 4.0 if self.pads.touched is not None else -1.0
        self._battery.publish(message)
        pose = Odometry()
        pose.pose.pose.orientation.w = 1.0
        self._odometry.publish(pose)

    def _obey(self, message: String) -> None:
        command = decode_command(message.data)
        result = {"dock": "docked", "undock": "undocked", "stop": "stopped"}[command.verb]
        if command.verb != "stop":
            self.pads.touch((STATION, 1) if command.verb == "dock" else None)
        self._states.publish(String(data=encode(DockingState(command.id, "X", result, ""))))

    def until(self, fits: Callable[[], object], timeout_s: float = 30.0) -> None:
        def look() -> object:
            for topic, payload, _ in self.feed.take(200):
                if topic == answer_topic(ROBOT):
                    answer = json.loads(payload)
                    self.answers[answer["id"]] = answer
                    continue
                kind = topic.rsplit("/", 1)[1]
                self.bodies[kind] = check(topic, payload)
                if kind == "state":
                    self.states.append(self.bodies[kind])
            return fits()

        self.ros.until(look, timeout_s)

    def act(self, kind: str, action_id: str, **parameters: str) -> None:
        head = {"headerId": 1, "timestamp": "2026-01-01T00:00:00.000Z", "version": "2.1.0"}
        action = {"actionType": kind, "actionId": action_id, "blockingType": "NONE"}
        if parameters:
            action["actionParameters"] = [{"key": key, "value": value} for key, value in parameters.items()]
        body = head | {"manufacturer": "depai", "serialNumber": ROBOT, "actions": [action]}
        self.feed.publish(f"{VDA}/instantActions", json.dumps(body).encode())

    def action(self, action_id: str) -> Any:
        actions = self.bodies.get("state", {}).get("actionStates", [])
        return next((item for item in actions if item["actionId"] == action_id), {})

    def charging(self, state: Any) -> dict[str, str]:
        """The references of the state's information about charging."""
        return {
            item["referenceKey"]: item["referenceValue"]
            for information in state.get("information", [])
            if "charging" in information["infoType"].lower()
            for item in information.get("infoReferences", [])
        }

    def order(self, kind: str, order_id: str) -> Any:
        """An operator's signed command; the wallet's answer."""
        now_s = int(time.time())
        command = Command(
            document="depai.fleet.command/1",
            id=order_id,
            robot=ROBOT,
            kind=kind,
            issued_s=now_s,
            expires_s=now_s + 60,
            reason="a test",
        )
        self.feed.publish(command_topic(ROBOT), seal_document(command, ADA, CHAIN).encode(), qos=1)
        self.until(lambda: order_id in self.answers)
        return self.answers[order_id]

    def close(self) -> None:
        self.feed.close()
        self.hardware.close()
        self.pads.touch(None)


@pytest.fixture
def fleet(tmp_path: Path, ros_domain_id: int) -> Iterator[Fleet]:
    with make_site(tmp_path) as (folder, pads):
        tree = yaml.safe_load((folder / "wallet.yaml").read_text())
        now_s = int(time.time())
        grant = Grant(
            document="depai.fleet.grant/1",
            operator=address_to_hex(ADA.address),
            robot=ROBOT,
            kinds=("pause", "resume"),
            valid_after_s=now_s - 10,
            valid_before_s=now_s + 3600,
        )
        (folder / "grants.jws").write_text(seal_document(grant, OWNER, CHAIN))
        write_yaml(folder / "wallet.yaml", tree | {"grants": "grants.jws"})
        port = tree["broker"]["port"]
        write_yaml(
            folder / "fleet.yaml",
            {
                "v": 1,
                "broker": {"host": "127.0.0.1", "port": port},
                "robot": {"manufacturer": "depai", "serial": ROBOT},
            },
        )
        station = start_station(folder)
        rclpy.init(args=["--ros-args", "-p", "use_sim_time:=true"], domain_id=ros_domain_id)
        ros = Ros(rclpy.get_default_context())
        made = Fleet(ros, folder, pads, port)
        try:
            yield made
        finally:
            ros.close()
            made.close()
            rclpy.try_shutdown()
            station.send_signal(signal.SIGTERM)
            station.wait(20)


def test_a_fleets_charge_is_paid_for_and_an_operators_pause_holds_against_the_fleet(fleet: Fleet) -> None:
    wallet, bridge = WalletNode(), FleetBridgeNode()
    wallet.set_parameters([Parameter("config", value=str(fleet.folder / "wallet.yaml"))])
    bridge.set_parameters([Parameter("config", value=str(fleet.folder / "fleet.yaml"))])
    fleet.ros.add(wallet)
    fleet.ros.add(bridge)
    fleet.until(lambda: fleet.bodies.get("connection", {}).get("connectionState") == "ONLINE")
    fleet.until(
        lambda: (
            wallet._program.is_running and wallet._program.state.offers and bridge._action.server_is_ready()
        )
    )

    # A charge by the fleet is a session of the wallet's, paid like any other.
    fleet.act("startCharging", "a1")
    fleet.until(lambda: fleet.charging(fleet.bodies["state"]).get("phase") == "CHARGING", 60)
    fleet.until(lambda: list((fleet.folder / "wallet").glob("receipt-*.json")), 90)
    (path,) = (fleet.folder / "wallet").glob("receipt-*.json")
    receipt = parse_receipt(path.read_bytes())
    assert receipt.owed_atomic > 0
    fleet.until(lambda: fleet.charging(fleet.bodies["state"]).get("receipt"), 30)
    told = fleet.charging(fleet.bodies["state"])
    assert (told["station"], told["session"], told["phase"]) == (STATION, receipt.session, "SETTLED")
    assert int(told["cost_atomic"]) == receipt.owed_atomic
    assert int(told["energy_milliwh"]) == receipt.station_energy_milliwh
    assert fleet.action("a1")["actionStatus"] == "FINISHED"
    costs = [int(fleet.charging(state).get("cost_atomic", 0)) for state in fleet.states]
    assert costs == sorted(costs), "what a session costs only rises"
    assert any(state["batteryState"]["charging"] for state in fleet.states)

    # An operator has the last word about money, whatever the fleet wants.
    assert fleet.order("pause", "o1")["paused"] is True
    fleet.act("startCharging", "a2")
    fleet.until(lambda: fleet.action("a2").get("actionStatus") == "FAILED", 30)
    assert "an operator has paused spending" in fleet.action("a2")["resultDescription"]
    assert len(list((fleet.folder / "wallet").glob("receipt-*.json"))) == 1
    assert fleet.order("resume", "o2")["paused"] is False

    # What nobody sells is refused by the wallet's choice, not by the bridge.
    fleet.act("startCharging", "a3", stationName="elsewhere")
    fleet.until(lambda: fleet.action("a3").get("actionStatus") in {"RUNNING", "FAILED"}, 30)
    fleet.act("stopCharging", "a4")
    fleet.until(lambda: fleet.action("a4").get("actionStatus") in {"FINISHED", "FAILED"}, 30)
    assert len(list((fleet.folder / "wallet").glob("receipt-*.json"))) == 1
