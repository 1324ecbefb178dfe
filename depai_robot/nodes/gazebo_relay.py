"""Relay between Gazebo and the robot: what drives is limited, what charges is paid for, and the wallet has its link.

Takes ``cmd_vel`` (or ``cmd_vel_stamped``) and gives ``gazebo/cmd_vel`` within the base's limits, zero when nobody
speaks (Gazebo's DiffDrive keeps the last command for ever); ``~/emergency_stop``. Takes ``gazebo/ground_truth`` to see
which dock's pads the robot touches, by the same rule as the embedded simulation. Takes ``gazebo/battery``, and lets the
plugin recharge (``gazebo/recharge_start``, ``gazebo/recharge_stop``) only on contact with a dock whose station has
energised it, which it does in a paid session only. Hosts the simulation's local link for wallet and stations.
"""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from geometry_msgs.msg import Twist, TwistStamped
from nav_msgs.msg import Odometry as OdometryMessage
from rclpy.node import Node
from sensor_msgs.msg import BatteryState
from std_msgs.msg import Bool
from std_srvs.srv import SetBool

from depai_robot.app.resource import resource_path
from depai_robot.docking.limit import DriveLimits, DriveState, shape
from depai_robot.nodes.convert import message_to_odometry, stamp_to_ns
from depai_robot.nodes.lifecycle import ManagedNode, Setting
from depai_robot.nodes.process import run
from depai_robot.nodes.quality import STATE
from depai_robot.nodes.simulation import SimulationConfig, read_config
from depai_robot.perception.dock import DockModel, parse_dock
from depai_robot.sim.contact import find_contact
from depai_robot.sim.gazebo_battery import GazeboBattery, PackState
from depai_robot.sim.link import LinkServer
from depai_robot.sim.pads import ChargingPads
from depai_robot.sim.scene import RobotModel, WorldModel, parse_robot, parse_world
from depai_robot.sim.supply import SimulatedSupply, SupplyModel
from depai_robot.values.error import ConfigError, DepaiError
from depai_robot.values.geometry import STOP, DriveCommand

PERIOD_S = 0.02
STEP_NS_MAX = 200_000_000
"""A jump of the clock is not paid for as one long step."""


class GazeboRelay(ManagedNode):
    """See the module."""

    settings: ClassVar[tuple[Setting, ...]] = (
        Setting("config", "", "path of simulation.yaml (depai-robot site writes it)"),
    )

    def __init__(self) -> None:
        super().__init__("gazebo_relay")
        self._link: LinkServer | None = None

    def set_up(self) -> None:
        """See ManagedNode."""
        name = str(self.value("config"))
        if not name:
            raise ConfigError("the parameter config must name a file: --ros-args -p config:=FILE")
        self._config: SimulationConfig = read_config(Path(name))
        self._robot: RobotModel = parse_robot(
            resource_path("config", "robot.yaml").read_text(encoding="utf-8")
        )
        self._dock: DockModel = parse_dock(resource_path("config", "dock.yaml").read_text(encoding="utf-8"))
        world = Path(self._config.world) if self._config.world else resource_path("config", "world.yaml")
        self._layout: WorldModel = parse_world(world.read_text(encoding="utf-8"), str(world))
        self._key_by_dock = {place.dock: (place.station, 1) for place in self._config.connectors}
        limits = self._robot.limits
        self._limits = DriveLimits(
            limits.linear_max_mps,
            limits.angular_max_radps,
            limits.linear_accel_max_mps2,
            limits.angular_accel_max_radps2,
            limits.command_timeout_s,
        )
        self._drive = DriveState()
        self._moving = False
        self._charging = False
        self._stepped_ns = 0
        self._battery = GazeboBattery(self._robot.battery.onboard_load_w, self._config.state_of_charge)
        self._pads = ChargingPads(
            self._config.robot,
            self._battery,
            {
                (place.station, 1): SimulatedSupply(
                    SupplyModel(power_max_w=place.power_max_w), seed=self._config.seed + number
                )
                for number, place in enumerate(self._config.connectors)
            },
        )
        self._lock = threading.Lock()
        self._out = self.create_publisher(Twist, "gazebo/cmd_vel", STATE)
        self._start = self.create_publisher(Bool, "gazebo/recharge_start", STATE)
        self._stop = self.create_publisher(Bool, "gazebo/recharge_stop", STATE)
        self.create_subscription(Twist, "cmd_vel", self._take_velocity, STATE)
        self.create_subscription(
            TwistStamped, "cmd_vel_stamped", lambda message: self._take_velocity(message.twist), STATE
        )
        self.create_subscription(OdometryMessage, "gazebo/ground_truth", self._take_truth, STATE)
        self.create_subscription(BatteryState, "gazebo/battery", self._take_battery, STATE)
        self.create_service(SetBool, "~/emergency_stop", self._take_emergency)
        self.create_timer(PERIOD_S, self._tick)
        self._link = LinkServer(Path(self._config.link), self._pads, self._pads.lock)

    def pause(self) -> None:
        """Wheels stand, nothing charges."""
        self._drive = replace(self._drive, wanted=STOP, applied=STOP)
        self._say(STOP)
        self._charge(on=False)

    def tear_down(self) -> None:
        """Hangs up the link."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    # --- wheels ------------------------------------------------------------------------------------------------

    def _take_velocity(self, twist: Any) -> None:
        try:
            command = DriveCommand(float(twist.linear.x), float(twist.angular.z))
        except DepaiError as error:
            self.get_logger().warning(f"cmd_vel refused: {error}")
            return
        self._drive = replace(self._drive, wanted=command, wanted_ns=self._now_ns())

    def _take_emergency(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._drive = replace(self._drive, stopped=bool(request.data), wanted=STOP)
        if request.data:
            self._say(STOP)
        response.success = True
        response.message = "stopped" if request.data else "released"
        return response

    def _say(self, command: DriveCommand) -> None:
        message = Twist()
        message.linear.x, message.angular.z = command.linear_mps, command.angular_radps
        self._out.publish(message)

    # --- power -----------------------------------------------------------------------------------------------

    def _take_truth(self, message: OdometryMessage) -> None:
        try:
            base = message_to_odometry(message).base_in_odom
        except DepaiError as error:
            self.get_logger().warning(f"gazebo/ground_truth: {error}", throttle_duration_sec=5.0)
            return
        dock = find_contact(base, self._robot, self._layout, self._dock)
        key = None if dock is None else self._key_by_dock.get(dock)
        if key != self._pads.touched:
            self._pads.touch(key)

    def _take_battery(self, message: BatteryState) -> None:
        stamp_ns = stamp_to_ns(message.header.stamp) or self._now_ns()
        pack = PackState(
            stamp_ns,
            float(message.voltage),
            float(message.current),
            float(message.charge),
            float(message.capacity),
        )
        if not pack.is_sane:
            self.get_logger().warning(f"gazebo/battery makes no sense: {pack}", throttle_duration_sec=5.0)
        self._battery.take(pack)

    def _charge(self, *, on: bool) -> None:
        if on != self._charging:
            self._charging = on
            (self._start if on else self._stop).publish(Bool(data=True))

    def _tick(self) -> None:
        """50 times a second of simulated time."""
        now_ns = self._now_ns()
        if not self.is_active:
            self._stepped_ns = now_ns
            return
        applied = shape(self._drive, now_ns, self._limits)
        moving = applied != STOP
        if moving or self._moving:
            self._say(applied)
        self._moving = moving
        self._drive = replace(self._drive, applied=applied, applied_ns=now_ns)
        if self._stepped_ns == 0:
            self._pads.set_time(now_ns)
        elif now_ns - self._stepped_ns > 0:
            self._pads.step(min(now_ns - self._stepped_ns, STEP_NS_MAX))
            self._charge(on=self._battery.is_charging)
            if self._link is not None:
                self._link.push()
        self._stepped_ns = now_ns


def _make() -> list[Node]:
    return [GazeboRelay()]


def main() -> None:
    """Entry point."""
    run(_make)


if __name__ == "__main__":
    main()
