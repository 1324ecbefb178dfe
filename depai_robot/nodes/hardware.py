"""The robot's hardware process: wheels on ``cmd_vel`` and ``odom``, and the link for wallet, battery and pads.

Takes ``cmd_vel`` (and ``cmd_vel_stamped``), limits it as the robot's description says (hardware.yaml names it), and
sends it to the base 50 times a second while it is fresh; without a fresh command it sends nothing more after zero, and
the base, or its driver, stops by itself. ``emergency_stop`` (Bool, latched) and ``~/emergency_stop`` (SetBool) stop the
wheels there.
"""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Twist, TwistStamped
from nav_msgs.msg import Odometry as OdometryMessage
from rclpy.node import Node
from std_msgs.msg import Bool
from std_srvs.srv import SetBool

from depai_robot.app.description import read_description
from depai_robot.app.robot_hardware import BMS_PERIOD_S, RobotHardware, read_hardware
from depai_robot.docking.limit import DriveLimits, DriveState, shape
from depai_robot.nodes.convert import odometry_to_message
from depai_robot.nodes.lifecycle import ManagedNode, Setting
from depai_robot.nodes.process import run
from depai_robot.nodes.quality import LATCHED, STATE
from depai_robot.nodes.transform import OPTICAL_XYZW, Transforms
from depai_robot.sim.link import LinkServer
from depai_robot.values.error import ConfigError, DepaiError, DeviceError
from depai_robot.values.geometry import STOP, DriveCommand, Pose3

PERIOD_S = 0.02


class HardwareNode(ManagedNode):
    """See the module."""

    settings: ClassVar[tuple[Setting, ...]] = (
        Setting("config", "", "path of hardware.yaml"),
        Setting("camera_frame", "camera_optical", "name of the camera's frame, for /tf_static"),
    )

    def __init__(self) -> None:
        super().__init__("hardware")
        self._hardware: RobotHardware | None = None

    def set_up(self) -> None:
        """Opens the lines; a device that is not there is asked for again and again."""
        name = str(self.value("config"))
        if not name:
            raise ConfigError("the parameter config must name a file: --ros-args -p config:=FILE")
        file = read_hardware(Path(name))
        robot = read_description(file.description, Path(name))
        limits = robot.limits
        self._limits = DriveLimits(
            limits.linear_max_mps,
            limits.angular_max_radps,
            limits.linear_accel_max_mps2,
            limits.angular_accel_max_radps2,
            limits.command_timeout_s,
        )
        self._drive = DriveState()
        self._moving = False
        self._told_ns = 0
        self._odometry = self.create_output(OdometryMessage, "odom", STATE)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", STATE)
        eye = Pose3((robot.camera.x_m, 0.0, robot.camera.z_m), OPTICAL_XYZW)
        self._transforms = Transforms(self, eye, str(self.value("camera_frame")))
        self.create_subscription(Twist, "cmd_vel", self._take_velocity, STATE)
        self.create_subscription(
            TwistStamped, "cmd_vel_stamped", lambda message: self._take_velocity(message.twist), STATE
        )
        self.create_subscription(Bool, "emergency_stop", self._take_emergency, LATCHED)
        self.create_service(SetBool, "~/emergency_stop", self._serve_emergency)
        self.create_timer(PERIOD_S, self._tick)
        self.create_timer(1.0, self._report)
        hardware = RobotHardware(file)
        self._closing = threading.Event()
        self._poller = threading.Thread(target=self._poll, args=(hardware,), name="battery", daemon=True)
        self._poller.start()
        self._link = LinkServer(Path(file.link), hardware, threading.RLock())
        self._hardware = hardware

    def _poll(self, hardware: RobotHardware) -> None:
        while not self._closing.wait(BMS_PERIOD_S):
            hardware.poll()
            self._link.push()

    def pause(self) -> None:
        """Wheels stand."""
        self._drive = replace(self._drive, wanted=STOP, applied=STOP)
        self._send(STOP)

    def tear_down(self) -> None:
        """Hangs up the link and lets go of the ports."""
        hardware, self._hardware = self._hardware, None
        if hardware is not None:
            self._closing.set()
            self._poller.join(3.0)
            self._link.close()
            hardware.close()

    # --- wheels ------------------------------------------------------------------------------------------------

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _take_velocity(self, twist: Any) -> None:
        try:
            command = DriveCommand(float(twist.linear.x), float(twist.angular.z))
        except DepaiError as error:
            self.get_logger().warning(f"cmd_vel refused: {error}")
            return
        self._drive = replace(self._drive, wanted=command, wanted_ns=self._now_ns())

    def _take_emergency(self, message: Bool) -> None:
        self._emergency(message.data)

    def _serve_emergency(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        response.success = self._emergency(request.data)
        response.message = "stopped" if request.data else "released"
        return response

    def _emergency(self, stop: Any) -> bool:
        self._drive = replace(self._drive, stopped=bool(stop), wanted=STOP, applied=STOP)
        if self._hardware is None:
            return False
        try:
            self._hardware.base.stop_for_emergency(stop=bool(stop))
        except DeviceError as error:
            self.get_logger().error(f"emergency stop was not sent, the board stops by itself: {error}")
            return False
        return True

    def _send(self, command: DriveCommand) -> None:
        if self._hardware is None:
            return
        try:
            self._hardware.base.send(command)
        except DeviceError as error:
            self.get_logger().warning(str(error), throttle_duration_sec=2.0)

    def _tick(self) -> None:
        if not self.is_active or self._hardware is None:
            return
        now_ns = self._now_ns()
        applied = shape(self._drive, now_ns, self._limits)
        moving = applied != STOP
        if moving or self._moving:
            self._send(applied)
        self._moving = moving
        self._drive = replace(self._drive, applied=applied, applied_ns=now_ns)
        try:
            odometry = self._hardware.base.odometry()
        except DeviceError:
            return  # no odometry rather than an old one: docking stands still without
        if odometry.stamp_ns > self._told_ns:
            self._told_ns = odometry.stamp_ns
            message = odometry_to_message(odometry, "odom", "base_link")
            self._odometry.publish(message)
            self._transforms.tell(message)

    def _report(self) -> None:
        if self._hardware is None:
            return
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        file = self._hardware.file
        told = [
            ("battery board", self._hardware.trouble, file.battery.port),
            ("base board", self._hardware.base.trouble, file.base.port),
        ]
        if file.pads is not None:
            told.append(("pads board", self._hardware.pads.trouble, file.pads.port))
        for name, trouble, port in told:
            level = DiagnosticStatus.ERROR if trouble else DiagnosticStatus.OK
            message.status.append(
                DiagnosticStatus(level=level, name=name, message=trouble or "talks", hardware_id=port)
            )
        self._diagnostics.publish(message)


def _make() -> list[Node]:
    return [HardwareNode()]


def main() -> None:
    """Entry point."""
    run(_make)


if __name__ == "__main__":
    main()
