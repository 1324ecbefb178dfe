"""Nav2's docking server in the place of our docking node: commands of the wallet become its actions.

Same topics as the docking node towards the wallet (``docking/command``, ``docking/state``); towards Nav2 the actions
``dock_robot`` and ``undock_robot``. Nav2's database must know the docks by the ids that stations offer, or goals
carry the pose: by parameter. Needs nav2_msgs, which comes with Nav2.

Nav2 calls a robot docked when current flows, and a station gives power to a robot that is docked and has paid. So
contact (``charging_contact``) is what the wallet is told; Nav2's goal goes on waiting for the current, and succeeds
when it comes.
"""

import math
from typing import Any, ClassVar

from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from rclpy.action import ActionClient
from rclpy.node import Node
from std_msgs.msg import Bool, String

from depai_robot.nodes.docking_protocol import DockingCommand, DockingState, decode_command, encode
from depai_robot.nodes.lifecycle import ManagedNode, Setting
from depai_robot.nodes.process import run
from depai_robot.nodes.quality import LATCHED, STATE
from depai_robot.values.error import ConfigError, DepaiError

SERVER_WAIT_S = 5.0
DOCK_ERRORS = {
    901: "the dock is not in Nav2's database",
    902: "the dock is not valid",
    903: "the staging pose was not reached",
    904: "the dock was not seen",
    905: "control failed",
    906: "no charge current",
    907: "took too long",
    999: "unknown",
}
"""Source: nav2_msgs/action/DockRobot."""


class Nav2Docking(ManagedNode):
    """See the module."""

    settings: ClassVar[tuple[Setting, ...]] = (
        Setting("by_id", True, "goals name the dock; false: they carry the offer's pose and dock_type"),
        Setting("dock_type", "depai_dock", "plugin of Nav2's docking server, for goals by pose"),
        Setting("map_frame", "map", "frame of poses in offers"),
        Setting("max_staging_time", 300.0, "seconds that Nav2 may take to the staging pose", 1.0, 7200.0),
    )

    def __init__(self) -> None:
        super().__init__("docking")
        self._command = DockingCommand(0, "stop")
        self._goal: Any = None
        self._phase = "IDLE"

    def set_up(self) -> None:
        """See ManagedNode."""
        try:
            from nav2_msgs.action import DockRobot, UndockRobot
        except ImportError as error:
            raise ConfigError(
                f"nav2_msgs is not installed ({error}): apt install ros-$ROS_DISTRO-nav2-msgs"
            ) from error
        self._types = {"dock": DockRobot, "undock": UndockRobot}
        self._nav2 = {
            "dock": ActionClient(self, DockRobot, "dock_robot"),
            "undock": ActionClient(self, UndockRobot, "undock_robot"),
        }
        self._answered = True
        self._touching = self._touched_before = False
        self._states = self.create_publisher(String, "docking/state", LATCHED)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", STATE)
        self.create_subscription(String, "docking/command", self._take_command, LATCHED)
        self.create_subscription(Bool, "charging_contact", self._take_contact, LATCHED)
        self.create_timer(1.0, self._report)

    def pause(self) -> None:
        """Cancels what is under way: Nav2 ends a cancelled goal with zero velocity."""
        self._cancel()

    def tear_down(self) -> None:
        """Lets go of the action clients."""
        for client in getattr(self, "_nav2", {}).values():
            client.destroy()
        self._nav2 = {}

    # --- commands ------------------------------------------------------------------------------------------------

    def _take_command(self, message: String) -> None:
        try:
            command = decode_command(message.data)
        except DepaiError as error:
            self.get_logger().warning(str(error))
            return
        if command.id <= self._command.id:
            return  # said again
        self._command, self._answered = command, False
        self._touched_before = self._touching  # at some dock, maybe not this one
        if not self.is_active:
            self._answer(command, "failed", "the docking node is not active")
        elif command.verb == "stop":
            under_way = self._goal is not None
            self._cancel()
            if not under_way:
                self._answer(command, "stopped", "")
        else:
            self._cancel()
            self._ask(command)

    def _take_contact(self, message: Bool) -> None:
        self._touching = bool(message.data)
        self._touched_before = self._touched_before and self._touching
        self._look_for_contact()

    def _look_for_contact(self) -> None:
        arrived = self._touching and not self._touched_before
        if arrived and self._goal is not None and self._command.verb == "dock" and not self._answered:
            self._answer(self._command, "docked", "")

    def _ask(self, command: DockingCommand) -> None:
        client = self._nav2[command.verb]
        if not client.server_is_ready() and not client.wait_for_server(timeout_sec=0.0):
            self._answer(
                command,
                "failed",
                f"Nav2's {command.verb}_robot does not answer: is its docking server active?",
            )
            return
        goal = self._types[command.verb].Goal()
        if command.verb == "dock":
            goal.dock_id = command.dock
            goal.use_dock_id = bool(self.value("by_id"))
            goal.navigate_to_staging_pose = True
            goal.max_staging_time = float(self.value("max_staging_time"))
            if not goal.use_dock_id:
                goal.dock_type = str(self.value("dock_type"))
                goal.dock_pose = self._pose(command)
        self._phase = "DOCKING" if command.verb == "dock" else "UNDOCKING"
        self._say(command, "", "")
        client.send_goal_async(goal).add_done_callback(lambda future: self._accepted(command, future))

    def _pose(self, command: DockingCommand) -> PoseStamped:
        x_m, y_m, yaw_rad = command.pose
        pose = PoseStamped()
        pose.header.frame_id = str(self.value("map_frame"))
        pose.pose.position.x, pose.pose.position.y = x_m, y_m
        pose.pose.orientation.z, pose.pose.orientation.w = math.sin(yaw_rad / 2), math.cos(yaw_rad / 2)
        return pose

    def _accepted(self, command: DockingCommand, future: Any) -> None:
        handle = future.result()
        if not handle.accepted:
            self._answer(command, "failed", f"Nav2 does not accept {command.verb}")
            return
        if command.id != self._command.id and self._command.verb != "stop":
            handle.cancel_goal_async()
            return
        self._goal = handle
        if self._command.verb == "stop" or not self.is_active:
            handle.cancel_goal_async()
        self._look_for_contact()
        handle.get_result_async().add_done_callback(lambda done: self._ended(command, handle, done))

    def _ended(self, command: DockingCommand, handle: Any, future: Any) -> None:
        answer = future.result()
        if self._goal is handle:
            self._goal = None
        newest = self._command
        if newest.id != command.id and newest.verb != "stop":
            return  # another command took its place
        if answer.status == GoalStatus.STATUS_CANCELED or newest.verb == "stop":
            self._answer(newest, "stopped", "cancelled")
        elif answer.result.success:
            self._answer(command, "docked" if command.verb == "dock" else "undocked", "")
        else:
            code = int(answer.result.error_code)
            told = getattr(answer.result, "error_msg", "") or DOCK_ERRORS.get(code, "")
            self._answer(command, "failed", f"Nav2 {code}: {told}"[:512])

    def _cancel(self) -> None:
        goal, self._goal = self._goal, None
        if goal is not None:
            goal.cancel_goal_async()

    # --- answers ------------------------------------------------------------------------------------------------

    def _answer(self, command: DockingCommand, result: str, reason: str) -> None:
        if self._answered:
            return  # in contact, and told so; what becomes of Nav2's goal is Nav2's
        self._answered = True
        self._phase = {"docked": "DOCKED", "failed": "FAILED"}.get(result, "IDLE")
        self.get_logger().info(f"{command.verb} {command.dock}: {result} {reason}")
        self._say(command, result, reason)

    def _say(self, command: DockingCommand, result: str, reason: str) -> None:
        state = DockingState(command.id, self._phase, result, reason)  # type: ignore[arg-type]
        self._states.publish(String(data=encode(state)))

    def _report(self) -> None:
        ready = all(client.server_is_ready() for client in self._nav2.values())
        status = DiagnosticStatus(
            level=DiagnosticStatus.OK if ready else DiagnosticStatus.WARN,
            name=self.status_name("docking"),
            message=self._phase if ready else "Nav2's docking server does not answer",
            hardware_id="nav2",
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


def _make() -> list[Node]:
    return [Nav2Docking()]


def main() -> None:
    """Entry point."""
    run(_make)


if __name__ == "__main__":
    main()
