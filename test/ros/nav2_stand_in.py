"""Nav2's docking server as our nodes meet it, on machines without Nav2: its topics, its rules, its order of things.

Rules as Nav2's docking server and its SimpleChargingDock state them (docs.nav2.org, "Docking Server"): a detection is
used while it is younger than external_detection_timeout; odometry must exist within 0.2 s of its stamp, and is
waited for; the first usable detection may take initial_perception_timeout; the pose's rotation is taken as it is;
contact or current ends the approach; then current must come within wait_charge_timeout; a failed try goes back to the
staging pose, at most max_retries times; a cancelled goal ends with zero velocity. Times are simulated ones, from the
messages' stamps.
"""

import bisect
import math
from collections.abc import Callable
from typing import Any

from geometry_msgs.msg import PoseStamped, Twist
from nav_msgs.msg import Odometry as OdometryMessage
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import BatteryState

from depai_robot.docking.law import LawSettings, drive_to_pose
from depai_robot.nodes.convert import message_to_odometry, stamp_to_ns, stamped_to_pose3
from depai_robot.nodes.quality import STATE
from depai_robot.values.geometry import Pose2, Pose3

OPTICAL = (-0.5, 0.5, -0.5, 0.5)
FAILED_DETECTION, FAILED_CHARGE = 904, 906
TRANSFORM_TOLERANCE_NS = 200_000_000
TRANSFORM_DEPTH = 100
"""Of the queue that the server's odometry waits in; tf2's listener has as many."""


class Failed(Exception):  # noqa: N818
    """One try; the code is Nav2's."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class DockingServer:
    """See the module.

    Args:
        ros: of the test.
        parameters: of docking_server, as in config/nav2_docking.yaml.
        camera_m: of the camera in base_link: x, z.
    """

    def __init__(self, ros: Any, parameters: dict[str, Any], camera_m: tuple[float, float]) -> None:
        self.ros, self.parameters = ros, parameters
        self.dock = parameters["depai_dock"]
        self.node = ros.node("docking_server")
        self._camera = Pose3((camera_m[0], 0.0, camera_m[1]), OPTICAL)
        self.now_ns = 0
        self.detected: PoseStamped | None = None
        self.current_a = math.nan
        self.odometry: list[tuple[int, Pose2]] = []
        self.retries = 0
        self.cancelled = False
        self.said: list[Twist] = []
        listen = self.node.create_subscription
        listen(Clock, "/clock", self._take_clock, 10)
        # RELIABLE, as there: a best-effort publisher never connects.
        listen(PoseStamped, "detected_dock_pose", lambda m: setattr(self, "detected", m), STATE)
        listen(BatteryState, "battery_state", lambda m: setattr(self, "current_a", m.current), STATE)
        listen(OdometryMessage, "odom", self._take_odometry, TRANSFORM_DEPTH)
        self._velocities = self.node.create_publisher(Twist, "cmd_vel", STATE)

    def _take_clock(self, message: Clock) -> None:
        self.now_ns = stamp_to_ns(message.clock)

    def _take_odometry(self, message: OdometryMessage) -> None:
        odometry = message_to_odometry(message)
        self.odometry.append((odometry.stamp_ns, odometry.base_in_odom))

    # --- what it goes by -------------------------------------------------------------------------------------

    @property
    def charges(self) -> bool:
        """isCharging: NaN is no."""
        return self.current_a > self.dock["charging_threshold"]

    @property
    def base(self) -> Pose2:
        return self.odometry[-1][1]

    def refined(self) -> Pose2 | None:
        """getRefinedPose: where base_link shall go, in odom; None while the detection's odometry is yet to come."""
        message = self.detected
        if message is None:
            raise Failed(FAILED_DETECTION, "no detection")
        stamp_ns = stamp_to_ns(message.header.stamp)
        age_s = (self.now_ns - stamp_ns) / 1e9
        if age_s > self.dock["external_detection_timeout"]:
            raise Failed(FAILED_DETECTION, f"the detection is {age_s:.2f} s old")
        index = bisect.bisect_left(self.odometry, (stamp_ns,))
        near = min(self.odometry[max(0, index - 1) : index + 1], key=lambda item: abs(item[0] - stamp_ns))
        if near[0] < stamp_ns - TRANSFORM_TOLERANCE_NS and index == len(self.odometry):
            return None
        if abs(near[0] - stamp_ns) >= TRANSFORM_TOLERANCE_NS:
            raise Failed(FAILED_DETECTION, "no transform at the image's stamp")
        dock_in_base = self._camera.compose(stamped_to_pose3(message)).to_pose2()
        along = Pose2(
            self.dock["external_detection_translation_x"], self.dock["external_detection_translation_y"], 0.0
        )
        return near[1].compose(dock_in_base).compose(along)

    # --- what it does -----------------------------------------------------------------------------------------

    def _drive(self, linear: float, angular: float) -> None:
        message = Twist()
        message.linear.x, message.angular.z = linear, angular
        self.said.append(message)
        self._velocities.publish(message)

    def _each_tick(self, step: Callable[[], bool], limit_s: float, code: int, what: str) -> None:
        """Runs ``step`` with each new odometry until it says True, the goal is cancelled, or the time is over."""
        begun_ns, last_ns = self.now_ns, 0

        def look() -> bool:
            nonlocal last_ns
            if self.cancelled:
                return True
            if not self.odometry or self.odometry[-1][0] == last_ns:
                return False
            last_ns = self.odometry[-1][0]
            if self.now_ns - begun_ns > limit_s * 1e9:
                raise Failed(code, f"{what}: more than {limit_s} s")
            return step()

        try:
            self.ros.until(look, 60)
        except AssertionError as error:
            since_s = (self.now_ns - begun_ns) / 1e9
            message = f"{what}: {error}; {since_s:.1f} s of simulated time, {len(self.odometry)} odometries"
            raise AssertionError(message) from error

    def _first_look(self) -> None:
        """doInitialPerception: Nav2 asks again until one detection can be used."""

        def step() -> bool:
            try:
                return self.refined() is not None
            except Failed:
                return False

        self._each_tick(
            step, self.parameters["initial_perception_timeout"], FAILED_DETECTION, "initial perception"
        )

    def _approach(self) -> None:
        law = LawSettings(speed_max_mps=self.parameters["controller"]["v_linear_max"], speed_min_mps=0.05)

        def step() -> bool:
            target = self.refined()
            if target is None:
                return False
            ahead = self.base.inverse().compose(target)
            if self.charges or math.hypot(ahead.x_m, ahead.y_m) < self.dock["docking_threshold"]:
                return True
            command = drive_to_pose(ahead, law)
            self._drive(command.linear_mps, command.angular_radps)
            return False

        self._each_tick(step, self.parameters["dock_approach_timeout"], 905, "approach")
        self._drive(0.0, 0.0)

    def _wait_for_charge(self) -> None:
        self._each_tick(
            lambda: self.charges, self.parameters["wait_charge_timeout"], FAILED_CHARGE, "no charge current"
        )

    def _back_to_staging(self, staging: Pose2) -> None:
        def step() -> bool:
            away = staging.inverse().compose(self.base)
            if away.x_m < 0.02:
                return True
            self._drive(-0.12, 0.0)
            return False

        self._each_tick(step, 40, 905, "back to staging")
        self._drive(0.0, 0.0)

    def dock_robot(self, max_retries: int | None = None) -> int:
        """The action's goal, from the staging pose on; 0, or Nav2's error code. Cancelled: -1."""
        most = self.parameters["max_retries"] if max_retries is None else max_retries
        self.retries, self.cancelled = 0, False
        self.ros.until(lambda: self.detected is not None and bool(self.odometry), 30)
        staging = self.base
        try:
            self._first_look()
        except Failed as error:
            return error.code
        while True:
            try:
                self._approach()
                if not self.cancelled:
                    self._wait_for_charge()
                if self.cancelled:
                    self._drive(0.0, 0.0)
                    return -1
            except Failed as error:
                self._drive(0.0, 0.0)
                self.retries += 1
                if self.retries > most:
                    return error.code
                self._back_to_staging(staging)
            else:
                return 0

    def undock_robot(self) -> int:
        """Backs off; 905 while it still charges."""
        if self.charges:
            return 905
        self._back_to_staging(self.base.compose(Pose2(-0.5, 0.0, 0.0)))
        return 0
