"""Fleet bridge: this robot as a VDA 5050 robot, in a process of its own that holds no key.

It listens to the robot's topics and asks the wallet by its public intents (``wallet/charge_battery``, ``wallet/stop``);
what a fleet wants can't go past the wallet's policy. Inactive, it is OFFLINE to the fleet.
"""

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from nav_msgs.msg import Odometry as OdometryMessage
from rclpy.action import ActionClient
from rclpy.node import Node
from sensor_msgs.msg import BatteryState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from depai_robot.app.fleet_agent import FleetAgent, read_fleet
from depai_robot.fleet.status import Charge, Motion, Place, Status, Trouble
from depai_robot.nodes.convert import message_to_odometry
from depai_robot.nodes.lifecycle import ManagedNode, Setting
from depai_robot.nodes.process import run
from depai_robot.nodes.quality import LATCHED, STATE
from depai_robot.values.error import ConfigError, DepaiError, DeviceFailedError, DeviceTimeoutError
from depai_robot.values.geometry import Pose2

try:
    from depai_interfaces.action import Charge as ChargeAction
    from depai_interfaces.msg import ChargingReceipt, ChargingSession
    from depai_interfaces.srv import GetBudget
except ImportError as error:
    MISSING = (
        f"depai_interfaces is not installed ({error}): the bridge can't see or ask for a charge without it"
    )
else:
    MISSING = ""

CHARGING_A = 0.5
"""Source: Nav2's SimpleChargingDock, the default of charging_threshold."""
MOVING = 0.01
"""m/s and rad/s below which the wheels stand."""
SILENT_S = 5.0
ANSWER_S = 5.0
SESSION_S = 10.0
BUDGET_PERIOD_S = 10.0
POSE_NUMBERS = 3
_ENDED = ("", "IDLE", "SETTLED", "WITHDRAWING", "CALLING_FOR_HELP", "SHUT_DOWN")
_FAILED = ("CALLING_FOR_HELP", "SHUT_DOWN")


class FleetBridgeNode(ManagedNode):
    """Hosts the agent. See app.fleet_agent.FleetRobot for what it does for it."""

    settings: ClassVar[tuple[Setting, ...]] = (
        Setting("config", "", "path of fleet.yaml"),
        Setting("initial_pose", [0.0, 0.0, 0.0], "of the robot where odometry begins: x m, y m, yaw rad"),
    )

    def __init__(self) -> None:
        super().__init__("fleet_bridge")
        self._lock = threading.Lock()
        self._agent: FleetAgent | None = None
        self._battery: BatteryState | None = None
        self._battery_s = -math.inf
        self._place: Place | None = None
        self._motion: Motion | None = None
        self._charge = Charge()
        self._phase = ""
        self._budget = (0, 0)

    def set_up(self) -> None:
        """Reads the file; connects nothing yet."""
        if MISSING:
            raise ConfigError(MISSING)
        name = str(self.value("config"))
        if not name:
            raise ConfigError("the parameter config must name a file: --ros-args -p config:=FILE")
        self._address, self._profile = read_fleet(Path(name))
        pose = [float(number) for number in self.value("initial_pose")]
        if len(pose) != POSE_NUMBERS:
            raise ConfigError(f"initial_pose: expected x m, y m, yaw rad, got {pose}")
        self._odom_in_map = Pose2(*pose)
        self.create_subscription(BatteryState, "battery_state", self._take_battery, STATE)
        self.create_subscription(OdometryMessage, "odom", self._take_odometry, STATE)
        self.create_subscription(String, "wallet/phase", self._take_phase, LATCHED)
        self.create_subscription(ChargingSession, "wallet/session", self._take_session, LATCHED)
        self.create_subscription(ChargingReceipt, "wallet/receipt", self._take_receipt, LATCHED)
        self._stop_client: Any = self.create_client(Trigger, "wallet/stop")
        self._budget_client: Any = self.create_client(GetBudget, "wallet/get_budget")
        self._action = ActionClient(self, ChargeAction, "wallet/charge_battery")
        self.create_timer(BUDGET_PERIOD_S, self._ask_budget)

    def go(self) -> None:
        """ONLINE as soon as the broker answers."""
        self._agent = FleetAgent(self._address, self._profile, self)
        self._agent.start()

    def pause(self) -> None:
        """OFFLINE. A session that is open goes on; the wallet looks after it."""
        agent, self._agent = self._agent, None
        if agent is not None:
            agent.stop()

    def tear_down(self) -> None:
        """See ManagedNode."""
        self.pause()
        self._action.destroy()

    # --- what the agent asks, on its threads ----------------------------------------------------------------

    def look(self) -> Status:
        """See FleetRobot.look."""
        with self._lock:
            battery, age_s = self._battery, time.monotonic() - self._battery_s
            place, motion, charge = self._place, self._motion, self._charge
            phase, (spent, budget) = self._phase, self._budget
        if battery is None:
            raise DeviceTimeoutError("no battery_state was heard yet")
        troubles = []
        if age_s > SILENT_S:
            troubles.append(
                Trouble("depai.batterySilent", f"no battery_state for more than {SILENT_S:.0f} s")
            )
        if phase == "FAILED":
            troubles.append(Trouble("depai.walletFailed", "the wallet has failed and signs nothing"))
        percent = float(battery.percentage) * 100
        current_a, voltage_v = float(battery.current), float(battery.voltage)
        return Status(
            charge_percent=0.0 if math.isnan(percent) else percent,
            voltage_v=None if math.isnan(voltage_v) else voltage_v,
            current_a=None if math.isnan(current_a) else current_a,
            charging=current_a > CHARGING_A and age_s <= SILENT_S,
            place=place,
            motion=motion,
            driving=motion is not None
            and (abs(motion.linear_mps) > MOVING or abs(motion.angular_radps) > MOVING),
            charge=charge,
            spent_today_atomic=spent,
            budget_today_atomic=budget,
            troubles=tuple(troubles),
        )

    def request_charge(self, station: str) -> str:
        """See FleetRobot.request_charge; blocks for 15 s at most."""
        if not self._action.server_is_ready():
            raise DeviceFailedError("the wallet's action server is not there")
        before = self._session_id()
        answered = threading.Event()
        ended: list[str] = []

        def take_result(future: Any) -> None:
            result = future.result().result
            ended.append(f"{result.error_code}: {result.error_msg}" if result.error_code else "")

        def take_goal(future: Any) -> None:
            handle = future.result()
            if handle.accepted:
                handle.get_result_async().add_done_callback(take_result)
            else:
                ended.append("the wallet's action server refuses the goal")
            answered.set()

        goal = ChargeAction.Goal(station=station)
        self._action.send_goal_async(goal).add_done_callback(take_goal)
        if not answered.wait(ANSWER_S):
            raise DeviceTimeoutError(f"the wallet does not answer within {ANSWER_S:.0f} s")
        return self._await(lambda: (self._session_id() != before and self._session_id()) or "", ended)

    def stop_charge(self) -> None:
        """See FleetRobot.stop_charge; blocks for 5 s at most."""
        if not self._stop_client.service_is_ready():
            raise DeviceFailedError("the wallet's service stop is not there")
        done = threading.Event()
        future = self._stop_client.call_async(Trigger.Request())
        future.add_done_callback(lambda _future: done.set())
        if not done.wait(ANSWER_S):
            raise DeviceTimeoutError(f"the wallet does not answer within {ANSWER_S:.0f} s")
        answer = future.result()
        if not answer.success:
            raise DeviceFailedError(f"the wallet does not stop: {answer.message}")

    def set_pause(self, *, paused: bool) -> None:
        """See FleetRobot.set_pause; this base has no such command, and its factsheet says so."""
        del paused
        raise DeviceFailedError("this base can't pause by order of a fleet")

    def _await(self, found: Callable[[], str], ended: list[str]) -> str:
        deadline_s = time.monotonic() + SESSION_S
        while time.monotonic() < deadline_s:
            if session := found():
                return session
            if ended and ended[0]:
                raise DeviceFailedError(f"the wallet refuses: {ended[0]}")
            time.sleep(0.05)
        raise DeviceTimeoutError(f"the wallet began no session within {SESSION_S:.0f} s")

    def _session_id(self) -> str:
        with self._lock:
            return self._charge.session

    # --- what the robot says, on the executor ---------------------------------------------------------------

    def _take_battery(self, message: BatteryState) -> None:
        with self._lock:
            self._battery, self._battery_s = message, time.monotonic()

    def _take_odometry(self, message: OdometryMessage) -> None:
        try:
            odometry = message_to_odometry(message)
        except DepaiError as error:
            self.get_logger().warning(str(error), throttle_duration_sec=5.0)
            return
        pose = self._odom_in_map.compose(odometry.base_in_odom)
        with self._lock:
            self._place = Place(pose.x_m, pose.y_m, pose.yaw_rad)
            self._motion = Motion(odometry.linear_mps, odometry.angular_radps)

    def _take_phase(self, message: String) -> None:
        with self._lock:
            self._phase = message.data
            if message.data == "IDLE" and not self._charge.ended:
                # A session that ends before anything was signed is forgotten without a word.
                self._charge = _ended(self._charge)

    def _take_session(self, message: Any) -> None:
        phase = str(message.phase)
        fault = str(message.fault) or (f"the session ended in {phase}" if phase in _FAILED else "")
        with self._lock:
            self._charge = Charge(
                session=message.session,
                phase=phase,
                station=message.station,
                energy_milliwh=message.energy_milliwh,
                cost_atomic=message.cost_atomic,
                price_atomic_per_kwh=message.price_atomic_per_kwh,
                ended=phase in _ENDED,
                fault=fault[:512],
                receipt=self._charge.receipt,
            )

    def _take_receipt(self, message: Any) -> None:
        with self._lock:
            self._charge = _with_receipt(self._charge, str(message.digest))

    def _ask_budget(self) -> None:
        if self._budget_client.service_is_ready():
            self._budget_client.call_async(GetBudget.Request()).add_done_callback(self._take_budget)

    def _take_budget(self, future: Any) -> None:
        answer = future.result()
        if answer is not None:
            with self._lock:
                self._budget = (int(answer.day_spent_atomic), int(answer.day_max_atomic))


def _ended(charge: Charge) -> Charge:
    return Charge(
        charge.session, "IDLE", charge.station, ended=True, fault=charge.fault, receipt=charge.receipt
    )


def _with_receipt(charge: Charge, digest: str) -> Charge:
    return Charge(
        charge.session,
        charge.phase,
        charge.station,
        charge.energy_milliwh,
        charge.cost_atomic,
        charge.price_atomic_per_kwh,
        charge.ended,
        charge.fault,
        digest,
    )


def _make() -> list[Node]:
    return [FleetBridgeNode()]


def main() -> None:
    """Entry point."""
    run(_make)


if __name__ == "__main__":
    main()
