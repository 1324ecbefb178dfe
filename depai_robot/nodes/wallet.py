"""Wallet node: the robot's wallet in a process of its own, so that a security enclave can hold it.

It gives the wallet ROS time, the way to docking, and where the robot is; readings that authorise money come from the
local link, never from a topic. It offers intents only (``~/charge`` and ``~/stop``, Trigger), never a transfer or a
signature. Publishes ``wallet/phase`` (latched) for people and consoles.

Inactive, it buys nothing new and settles what is open; configured, it has its keys and its journal.
"""

import math
import threading
import time
from pathlib import Path
from typing import ClassVar

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from nav_msgs.msg import Odometry as OdometryMessage
from rclpy.node import Node
from std_msgs.msg import String
from std_srvs.srv import Trigger

from depai_robot.app.config import read_wallet, resolve
from depai_robot.app.wallet import WalletParts, WalletProgram, open_wallet
from depai_robot.charging.fact import StopRequested
from depai_robot.nodes.charge_action import MISSING, ChargeServer
from depai_robot.nodes.convert import message_to_odometry
from depai_robot.nodes.docking_protocol import DockingCommand, decode_state, encode
from depai_robot.nodes.lifecycle import ManagedNode, Setting
from depai_robot.nodes.process import run
from depai_robot.nodes.quality import LATCHED, STATE
from depai_robot.sim.link_hardware import LinkRobotHardware
from depai_robot.values.error import ConfigError, DepaiError, DeviceError
from depai_robot.values.geometry import Pose2

CLOCK_WAIT_S = 30.0
POSE_NUMBERS = 3


class RosClock:
    """ports.Clock: ROS time for sessions (it stands still when a simulation is paused), the wall for expiries."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def session_ns(self) -> int:
        """See ports.Clock."""
        return int(self._node.get_clock().now().nanoseconds)

    def wall_s(self) -> int:
        """See ports.Clock."""
        return int(time.time())


class WalletNode(ManagedNode):
    """Hosts the wallet program; it starts when ROS time runs."""

    settings: ClassVar[tuple[Setting, ...]] = (
        Setting("config", "", "path of wallet.yaml"),
        Setting("initial_pose", [0.0, 0.0, 0.0], "of the robot where odometry begins: x m, y m, yaw rad"),
    )

    def __init__(self) -> None:
        super().__init__("wallet")
        self._lock = threading.Lock()
        # Numbers rise over restarts too, so that a docking node never takes a new command for an old one.
        self._number = time.time_ns() // 1_000_000
        self._program: WalletProgram | None = None

    def set_up(self) -> None:
        """Opens keys and journal; connecting and recovery go on in the background."""
        name = str(self.value("config"))
        if not name:
            raise ConfigError("the parameter config must name a file: --ros-args -p config:=FILE")
        config = Path(name)
        file = read_wallet(config)
        if file.link is None:
            raise ConfigError(f"{config}: link: expected the socket where battery and pads are")
        pose = [float(number) for number in self.value("initial_pose")]
        if len(pose) != POSE_NUMBERS:
            raise ConfigError(f"initial_pose: expected x m, y m, yaw rad, got {pose}")
        self._odom_in_map = Pose2(*pose)
        self._base_in_map = self._odom_in_map
        self._verb = self._dock = self._phase = self._failure = ""
        self._answered = True
        self._commands = self.create_publisher(String, "docking/command", LATCHED)
        self._phases = self.create_publisher(String, "wallet/phase", LATCHED)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", STATE)
        self._hardware = LinkRobotHardware(resolve(config, file.link), file.robot)
        try:
            self._parts: WalletParts = open_wallet(
                config, clock=RosClock(self), battery=self._hardware, connector=self._hardware, docking=self
            )
        except DepaiError:
            self._hardware.close()
            raise
        self._parts.position_m = self._position_m
        program = WalletProgram(self._parts)
        program.buys = self.is_active
        self._program = program
        self._action: ChargeServer | None = None
        if MISSING:
            self.get_logger().warning(MISSING)
        else:
            self._action = ChargeServer(self, program, self._state_of_charge)
        self.create_subscription(String, "docking/state", self._take_state, LATCHED)
        self.create_subscription(OdometryMessage, "odom", self._take_odometry, STATE)
        self.create_service(Trigger, "~/charge", self._take_charge)
        self.create_service(Trigger, "~/stop", self._take_stop)
        self.create_timer(0.5, self._report)
        self._starter = threading.Thread(target=self._start, args=(program,), name="start", daemon=True)
        self._starter.start()

    def go(self) -> None:
        """Buys from now on."""
        self._running().buys = True

    def pause(self) -> None:
        """Buys nothing any more, and ends the session in order: what was signed is settled."""
        program = self._running()
        program.buys = False
        try:
            self._stop(program, "Local")
        except DepaiError as error:
            self.get_logger().warning(f"nothing to stop: {error}")

    def tear_down(self) -> None:
        """Finishes what is journalled and lets go of keys and journal."""
        program, self._program = self._program, None
        if program is not None:
            if self._action is not None:
                self._action.close()
            self._starter.join(CLOCK_WAIT_S)
            program.stop()
            self._hardware.close()

    def _running(self) -> WalletProgram:
        if self._program is None:
            raise ConfigError("the wallet is not configured")
        return self._program

    def _start(self, program: WalletProgram) -> None:
        """Connecting and recovery block, so they do not happen on the executor."""
        deadline_s = time.monotonic() + CLOCK_WAIT_S
        while self._parts.clock.session_ns() == 0 and time.monotonic() < deadline_s:
            time.sleep(0.05)
        try:
            program.start()
        except DepaiError as error:
            self._failure = str(error)
            self.get_logger().fatal(f"wallet does not start: {error}")

    # --- the way to docking (performer.DockingLink), called on the runner's thread --------------------------

    def start_docking(self, dock: str, marker_id: int, pose_mm_mrad: tuple[int, int, int]) -> None:
        """See performer.DockingLink."""
        del marker_id  # the docking node knows the dock by its place
        x, y, yaw = (value / 1000 for value in pose_mm_mrad)
        self._send("dock", dock, (x, y, yaw))

    def cancel_docking(self) -> None:
        """See performer.DockingLink."""
        self._send("stop", self._dock, (0.0, 0.0, 0.0), expects_dock=True)

    def start_undocking(self) -> None:
        """See performer.DockingLink."""
        self._send("undock", self._dock, (0.0, 0.0, 0.0))

    def _send(
        self, verb: str, dock: str, pose: tuple[float, float, float], *, expects_dock: bool = False
    ) -> None:
        with self._lock:
            self._number += 1
            self._dock, self._answered = dock, False
            self._verb = "dock" if expects_dock else verb
            command = DockingCommand(self._number, verb, dock, pose)  # type: ignore[arg-type]
        self._commands.publish(String(data=encode(command)))

    def _take_state(self, message: String) -> None:
        try:
            state = decode_state(message.data)
        except DepaiError as error:
            self.get_logger().warning(str(error))
            return
        with self._lock:
            if state.id != self._number or not state.result or self._answered:
                return
            self._answered = True
            verb, dock = self._verb, self._dock
        try:
            if verb == "dock":
                self._running().docking_ended(dock, docked=state.result == "docked", reason=state.reason)
            else:
                self._running().undocking_ended(undocked=state.result == "undocked", reason=state.reason)
        except DepaiError as error:
            self.get_logger().error(f"{verb} ended, and the wallet did not take it: {error}")

    # --- intents -------------------------------------------------------------------------------------------

    def _take_charge(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        del request
        try:
            response.message = self._running().request_charge()
            response.success = True
        except DepaiError as error:
            response.success, response.message = False, str(error)
        return response

    def _take_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        del request
        try:
            self._stop(self._running(), "Remote")
            response.success, response.message = True, "stopping"
        except DepaiError as error:
            response.success, response.message = False, str(error)
        return response

    def _stop(self, program: WalletProgram, reason: str) -> None:
        program.runner.post(StopRequested(program.runner.instant(), reason))

    # --- around it -----------------------------------------------------------------------------------------

    def _take_odometry(self, message: OdometryMessage) -> None:
        try:
            self._base_in_map = self._odom_in_map.compose(message_to_odometry(message).base_in_odom)
        except DepaiError as error:
            # The place only ranks offers: the last good one serves, and nothing on a topic may end the wallet.
            self.get_logger().warning(str(error), throttle_duration_sec=5.0)

    def _position_m(self) -> tuple[float, float]:
        pose = self._base_in_map
        return pose.x_m, pose.y_m

    def _state_of_charge(self) -> float:
        try:
            return self._hardware.read().state_of_charge
        except DeviceError:
            return math.nan

    def _report(self) -> None:
        program = self._running()
        runner = program.runner
        failure = self._failure or (str(runner.failure) if runner.failure is not None else "")
        phase = "FAILED" if failure else program.phase if program.is_running else "STARTING"
        if phase != self._phase:
            self._phase = phase
            self._phases.publish(String(data=phase))
        status = DiagnosticStatus(
            level=DiagnosticStatus.ERROR if failure else DiagnosticStatus.OK,
            name=self.status_name("wallet"),
            message=failure or phase,
            hardware_id=self._parts.settings.robot,
            values=[KeyValue(key="phase", value=phase)],
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


def _make() -> list[Node]:
    return [WalletNode()]


def main() -> None:
    """Entry point."""
    run(_make)


if __name__ == "__main__":
    main()
