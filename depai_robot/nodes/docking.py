"""Docking node: the docking machine on ROS topics.

Subscribes ``odom``, ``detected_dock_pose``, ``charging_contact``, ``path_clear`` and ``docking/command``; publishes
``cmd_vel`` with every odometry message while it drives, ``docking/state``, and on ``/diagnostics`` once docked the
dock's scale by the wheels. ``path_clear`` false makes it stand until it is true; silence too, with ``path_timeout_s``.
``~/emergency_stop`` (SetBool) works in every phase. Active, it obeys; made inactive, it stops the robot on its way.
A dock that is asked for before any odometry was heard waits for it: the command is latched, and a node that has just
started may hear it first.
"""

import math
from typing import Any, ClassVar

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import PoseStamped, Twist, TwistStamped
from nav_msgs.msg import Odometry as OdometryMessage

# It is defined in rclpy.clock_type, which Humble does not have yet.
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]
from rclpy.duration import Duration
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool

from depai_robot.app.story import StoryWriter
from depai_robot.docking import machine
from depai_robot.docking.machine import DockingSettings, Phase, State
from depai_robot.nodes.convert import message_to_odometry, stamp_to_ns, stamped_to_pose3
from depai_robot.nodes.docking_protocol import DockingCommand, DockingState, decode_command, encode
from depai_robot.nodes.lifecycle import ManagedNode, Setting
from depai_robot.nodes.quality import LATCHED, STATE
from depai_robot.nodes.transform import OPTICAL_XYZW
from depai_robot.values.error import BugError, DepaiError
from depai_robot.values.geometry import STOP, DriveCommand, Pose2, Pose3

STORY_PERIOD_NS = 200_000_000
HEARD_TIMEOUT_S = 0.5
ODOMETRY_TIMEOUT_S = 15.0
"""For the first odometry: DDS repeats what it tells of endpoints every 3 s, and a busy machine may lose it twice."""


class DockingNode(ManagedNode):
    """Owns one docking machine.

    Args:
        settings: of the machine.
        camera_position_m: of a level, forward-looking camera in base_link, when TF is not at hand.
        initial_pose: of the robot in the map at start-up; odometry begins there.
        story: told of phases and distances, or None.
    """

    settings: ClassVar[tuple[Setting, ...]] = (
        Setting("stamped_cmd_vel", False, "publish TwistStamped instead of Twist"),
        Setting(
            "path_timeout_s",
            0.0,
            "with a watch of the way: without a word on path_clear for so long the robot stands, s; 0: there is none",
            0.0,
            10.0,
        ),
    )

    def __init__(
        self,
        settings: DockingSettings,
        camera_position_m: tuple[float, float, float],
        initial_pose: Pose2,
        story: StoryWriter | None = None,
    ) -> None:
        super().__init__("docking")
        self._settings = settings
        self._optical_in_base = Pose3(camera_position_m, OPTICAL_XYZW)
        self._map_in_odom = initial_pose.inverse()
        self._state = State()
        self._command = DockingCommand(0, "stop")
        self._story = story
        self._told_ns = 0
        self._driving = False
        # Odometry may stand still because the simulated time does: patience is of the steady clock.
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._waiting_since_ns: int | None = None

    def set_up(self) -> None:
        """See ManagedNode."""
        self._stamped = bool(self.value("stamped_cmd_vel"))
        self._state = State()
        self._velocities = self.create_output(TwistStamped if self._stamped else Twist, "cmd_vel", STATE)
        self._states = self.create_publisher(String, "docking/state", LATCHED)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", STATE)
        self.create_subscription(OdometryMessage, "odom", self._take_odometry, STATE)
        self.create_subscription(PoseStamped, "detected_dock_pose", self._take_dock, STATE)
        self.create_subscription(Bool, "charging_contact", self._take_contact, LATCHED)
        self._path_timeout_ns = int(self.value("path_timeout_s") * 1e9)
        self._path_heard_ns: int | None = None
        self.create_subscription(Bool, "path_clear", self._take_path, STATE)
        self.create_subscription(String, "docking/command", self._take_command, LATCHED)
        self.create_service(SetBool, "~/emergency_stop", self._take_emergency)
        self._waiting_since_ns = None
        self.create_timer(1.0, self._watch_wait, clock=self._steady)

    def pause(self) -> None:
        """Stands still; a dock that it stands on is kept."""
        if self._waiting_since_ns is not None:
            self._waiting_since_ns = None
            self._answer(self._state.phase, "stopped", "the docking node was made inactive")
        self._feed(machine.StopAsked(self._now_ns()))
        self._stop()

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _feed(self, fact: machine.Input) -> None:
        before = self._state
        try:
            self._state, command = machine.step(before, fact, self._settings)
        except BugError as error:
            self.get_logger().error(str(error))
            self._drive(STOP)
            return
        if command is not None:
            self._drive(command)
        if self._state.phase is not before.phase:
            self._announce(before.phase)

    def _drive(self, command: DriveCommand) -> None:
        moving = command != STOP
        # Zero is said once more after motion, then the topic is left to others.
        if not moving and not self._driving:
            return
        self._driving = moving
        message: Any = TwistStamped() if self._stamped else Twist()
        twist = message.twist if self._stamped else message
        twist.linear.x, twist.angular.z = command.linear_mps, command.angular_radps
        if self._stamped:
            message.header.stamp = self.get_clock().now().to_msg()
            message.header.frame_id = "base_link"
        self._velocities.publish(message)

    def _announce(self, before: Phase) -> None:
        state, result = self._state, ""
        if state.phase is Phase.DOCKED:
            result = "docked"
        elif state.phase is Phase.FAILED:
            result = "failed"
        elif before is Phase.UNDOCKING and state.phase is Phase.IDLE:
            result = "undocked"
        elif state.phase in (Phase.IDLE, Phase.STOPPED):
            result = "stopped"
        self.get_logger().info(f"{before.value} -> {state.phase.value} {state.reason}")
        self._answer(state.phase, result, state.reason)
        self._tell(force=True)
        if state.phase is Phase.DOCKED:
            self._report_scale()

    def _report_scale(self) -> None:
        """Whether the dock was of the size that its model says, once for each docking."""
        fit = self._state.scale
        if fit.scale is None:
            return
        name = self.status_name("dock_scale")
        status = DiagnosticStatus(level=DiagnosticStatus.OK, name=name, hardware_id=self._state.dock)
        status.message = "the dock is of its model's size"
        if fit.is_wrong:
            status.level = DiagnosticStatus.WARN
            status.message = (
                f"dock {self._state.dock} is {fit.scale:.3f} of its model's size by the wheels: dock.yaml, "
                "its print, the camera's calibration or the odometry's scale is wrong"
            )
            self.get_logger().warning(status.message)
        status.values = [
            KeyValue(key="scale", value=f"{fit.scale:.4f}"),
            KeyValue(key="sights", value=str(fit.count)),
            KeyValue(key="spread_m", value=f"{fit.spread_m:.3f}"),
        ]
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _answer(self, phase: Phase, result: str, reason: str) -> None:
        answer = DockingState(self._command.id, phase.value, result, reason)  # type: ignore[arg-type]
        self._states.publish(String(data=encode(answer)))

    def _tell(self, *, force: bool = False) -> None:
        state, base = self._state, self._state.base_in_odom
        if self._story is None or base is None or state.phase is Phase.IDLE:
            return
        now_ns = state.history[-1][0]
        if not force and now_ns - self._told_ns < STORY_PERIOD_NS:
            return
        self._told_ns = now_ns
        dock = None if state.dock_in_odom is None else base.inverse().compose(state.dock_in_odom)
        self._story.tell(
            "docking",
            phase=state.phase.value,
            reason=state.reason,
            attempt=state.attempt,
            distance_m=None if dock is None else round(math.hypot(dock.x_m, dock.y_m), 3),
            lateral_m=None if dock is None else round(dock.inverse().y_m, 4),
            yaw_error_rad=None if dock is None else round(dock.yaw_rad, 4),
        )

    def _take_odometry(self, message: OdometryMessage) -> None:
        try:
            odometry = message_to_odometry(message)
        except DepaiError as error:
            # Blind for this reading: stand still rather than go on by the last one.
            self.get_logger().error(str(error), throttle_duration_sec=1.0)
            self._drive(STOP)
            return
        self._watch_path()
        self._feed(machine.OdometryRead(odometry.stamp_ns, odometry.base_in_odom))
        if self._waiting_since_ns is not None:
            self._waiting_since_ns = None
            self._obey(self._command)
        if self._state.phase not in (Phase.IDLE, Phase.DOCKED, Phase.FAILED, Phase.STOPPED):
            self._tell()

    def _take_dock(self, message: PoseStamped) -> None:
        try:
            dock = self._optical_in_base.compose(stamped_to_pose3(message)).to_pose2()
        except DepaiError as error:
            self.get_logger().warning(f"detected_dock_pose refused: {error}")
            return
        self._feed(machine.DockSeen(stamp_to_ns(message.header.stamp), dock))

    def _take_path(self, message: Bool) -> None:
        self._path_heard_ns = self._now_ns()
        if bool(message.data) == self._state.blocked:
            self._feed(machine.WayWatched(self._path_heard_ns, bool(message.data)))
            self.get_logger().info(
                "the way is clear" if message.data else "something is in the way: standing"
            )

    def _watch_path(self) -> None:
        """A watch that has fallen silent, or never spoke, is no leave to drive."""
        if not self._path_timeout_ns or self._state.blocked:
            return
        heard_ns, now_ns = self._path_heard_ns, self._now_ns()
        if heard_ns is None or now_ns - heard_ns > self._path_timeout_ns:
            self._feed(machine.WayWatched(now_ns, clear=False))
            self.get_logger().warning("no word on path_clear: standing")

    def _take_contact(self, message: Bool) -> None:
        self._feed(machine.ContactChanged(self._now_ns(), bool(message.data)))

    def _take_command(self, message: String) -> None:
        try:
            command = decode_command(message.data)
        except DepaiError as error:
            self.get_logger().warning(str(error))
            return
        if command.id <= self._command.id:
            return  # said again
        self._command = command
        if not self.is_active:
            self._answer(self._state.phase, "failed", "the docking node is not active")
            return
        self._waiting_since_ns = None
        if command.verb == "dock" and self._state.base_in_odom is None:
            self._waiting_since_ns = self._steady_ns()
            self.get_logger().info(f"{command.dock} asked: waiting for the first odometry")
            return
        self._obey(command)

    def _steady_ns(self) -> int:
        return int(self._steady.now().nanoseconds)

    def _watch_wait(self) -> None:
        """A robot of which nothing says where it is will not find a dock."""
        since_ns = self._waiting_since_ns
        if since_ns is None or self._steady_ns() - since_ns < ODOMETRY_TIMEOUT_S * 1e9:
            return
        self._waiting_since_ns = None
        reason = f"no odometry on {self.resolve_topic_name('odom')} within {ODOMETRY_TIMEOUT_S:.0f} s"
        self.get_logger().error(reason)
        self._answer(self._state.phase, "failed", reason)

    def _obey(self, command: DockingCommand) -> None:
        now_ns = self._now_ns()
        before = self._state
        if command.verb == "dock":
            expected = self._map_in_odom.compose(Pose2(*command.pose))
            self._feed(machine.DockAsked(now_ns, command.dock, expected))
        elif command.verb == "undock":
            self._feed(machine.UndockAsked(now_ns))
        else:
            self._feed(machine.StopAsked(now_ns))
        if self._state.phase is before.phase:
            self._answer_standing(command)

    def _answer_standing(self, command: DockingCommand) -> None:
        """A command that moved nothing is answered too: whoever asked waits."""
        phase = self._state.phase
        result, reason = "failed", f"{command.verb} asked in {phase.value}"
        if command.verb == "stop":
            result, reason = "stopped", ""
        elif command.verb == "undock" and phase is Phase.IDLE:
            result, reason = "undocked", ""
        elif command.verb == "dock" and phase is Phase.DOCKED and self._state.dock == command.dock:
            result, reason = "docked", ""
        self._answer(phase, result, reason)

    def _take_emergency(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        now_ns = self._now_ns()
        if request.data:
            self._waiting_since_ns = None  # the wish is answered as stopped; no release may begin it later
        self._feed(machine.EmergencyStopped(now_ns) if request.data else machine.EmergencyReleased(now_ns))
        response.success = True
        response.message = self._state.phase.value
        return response

    def _stop(self) -> None:
        # Zero, until it is heard: some bases keep the last command for ever.
        if self._driving:
            self._drive(STOP)
            self._velocities.wait_for_all_acked(Duration(seconds=HEARD_TIMEOUT_S))
