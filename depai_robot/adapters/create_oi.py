"""A base that speaks iRobot's Create 2 Open Interface: ports.Base, and its battery.

The base goes on at the last speed that it was told, for ever: the interface has no time-out. What stands in for one:

1. This driver's thread tells the speed again every :data:`REPEAT_S`, and zero once no command has come for
   :data:`COMMAND_TIMEOUT_S`, or the base has not been heard for :data:`STALE_S`.
2. A process of its own (adapters.wheel_guard) holds the line open and tells zero when this process dies or hangs.
3. The base is kept in safe mode, where it stops by itself at a cliff, when a wheel drops, and when a charger is
   plugged in. After such a stop nobody drives on by chance: it is armed again only after a second without commands.

A host without power tells nothing: see docs/hardware.md.
"""

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable

from depai_robot.adapters import create_oi_frame as oi
from depai_robot.adapters.battery_board import PackInfo
from depai_robot.adapters.create_oi_frame import CreateState, Splitter
from depai_robot.adapters.serial_line import SerialLine
from depai_robot.adapters.wheel_guard import WheelGuard
from depai_robot.ports import Odometry
from depai_robot.values.error import DeviceError, DeviceFailedError, DeviceTimeoutError
from depai_robot.values.geometry import STOP, DriveCommand, Pose2, wrap_angle_rad

COMMAND_TIMEOUT_S = 0.3
REPEAT_S = 0.1
READ_S = 0.05
WRITE_TIMEOUT_S = 0.2
STALE_S = 0.5
"""A base speaks every 15 ms."""
STANDSTILL_S = 1.0
"""So long nobody may want to drive before a base that has stopped by itself is armed again."""
ASK_S = 0.5
FRAME_S = 0.015
SMOOTHING = 0.1
SPEED_WINDOW_S = 0.15
JUMP_MARGIN_M = 0.05
SPEED_MAX_MPS = 0.6
"""A little more than a wheel can: what is faster was no way, the base was reset."""


class CreateBase:
    """Wheels and battery.

    Args:
        line: to the base, at 115200 baud.
        now_ns: session clock, for the stamps of odometry.
        track_m: between the wheels.
        guard: of that line; None for none.
    """

    def __init__(
        self,
        line: SerialLine,
        now_ns: Callable[[], int],
        track_m: float = oi.TRACK_M,
        guard: WheelGuard | None = None,
    ) -> None:
        self._line, self._now_ns, self._track_m, self._guard = line, now_ns, track_m, guard
        self._splitter = Splitter()
        self._lock, self._telling = threading.Lock(), threading.Lock()
        self._state: CreateState | None = None
        self._state_s = self._made_s = -math.inf
        self._pose = Pose2(0.0, 0.0, 0.0)
        self._odometry = Odometry(0, self._pose, 0.0, 0.0)
        self._ways: deque[tuple[float, float, float]] = deque(maxlen=64)
        self._way_m = [0.0, 0.0]
        self._wheels_mmps = (0, 0)
        self._commanded_s = self._wished_s = self._told_s = self._asked_s = self._armed_s = -math.inf
        self._tripped = False
        self._stopped = False
        self.trouble = "nothing heard yet"
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="create", daemon=True)
        self._thread.start()

    @property
    def damaged(self) -> int:
        """Frames that were thrown away."""
        return self._splitter.damaged

    # --- the thread --------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._closing.is_set():
            if self._guard is not None:
                self._guard.beat()
            try:
                data = self._line.read(512, READ_S)
                for state in self._splitter.feed(data):
                    self._take(state)
                self._tend()
            except DeviceError as error:
                self.trouble = str(error)
                with self._lock:
                    self._wheels_mmps = (0, 0)
                self._closing.wait(READ_S)

    def _take(self, state: CreateState) -> None:
        now_s = time.monotonic()
        with self._lock:
            before, self._state = self._state, state
            if before is not None:
                self._move(before, state, now_s)
            if before is not None and before.mode == oi.SAFE_MODE != state.mode and not state.charger:
                self._tripped = True
            self._state_s = now_s
            self._odometry = Odometry(self._now_ns(), self._pose, *self._speeds(self._smooth(now_s)))
            self.trouble = self._judge(state)

    def _move(self, before: CreateState, state: CreateState, now_s: float) -> None:
        counts = (
            oi.count_difference(state.left_counts, before.left_counts),
            oi.count_difference(state.right_counts, before.right_counts),
        )
        left_m, right_m = (count * oi.M_PER_COUNT for count in counts)
        silent_s = now_s - self._state_s
        if silent_s > STALE_S or max(abs(left_m), abs(right_m)) > SPEED_MAX_MPS * silent_s + JUMP_MARGIN_M:
            self._ways.clear()
            return  # it may have been reset, and count from another number: odometry never jumps
        turn = (right_m - left_m) / self._track_m
        yaw, way = self._pose.yaw_rad + turn / 2, (left_m + right_m) / 2
        self._pose = Pose2(
            self._pose.x_m + way * math.cos(yaw),
            self._pose.y_m + way * math.sin(yaw),
            wrap_angle_rad(self._pose.yaw_rad + turn),
        )
        self._way_m[0] += left_m
        self._way_m[1] += right_m

    def _smooth(self, now_s: float) -> float:
        """When the frame was made: frames come in bundles, but are made every 15 ms."""
        made_s = self._made_s + FRAME_S
        made_s += SMOOTHING * (now_s - made_s)
        if not abs(now_s - made_s) < SPEED_WINDOW_S:
            self._ways.clear()
            made_s = now_s
        self._made_s = made_s
        return made_s

    def _speeds(self, made_s: float) -> tuple[float, float]:
        self._ways.append((made_s, self._way_m[0], self._way_m[1]))
        while made_s - self._ways[0][0] > SPEED_WINDOW_S and len(self._ways) > 2:
            self._ways.popleft()
        then_s, left_m, right_m = self._ways[0]
        step_s = made_s - then_s
        if step_s < SPEED_WINDOW_S / 4:
            return 0.0, 0.0
        left, right = self._way_m[0] - left_m, self._way_m[1] - right_m
        return (left + right) / 2 / step_s, (right - left) / self._track_m / step_s

    def _judge(self, state: CreateState) -> str:
        if state.dropped:
            return "a wheel hangs"
        if state.overcurrent:
            return "a wheel's motor takes too much current"
        if state.cliff:
            return "no floor in front"
        if state.bumped:
            return "the bumper is pressed"
        if state.mode != oi.SAFE_MODE and not state.charger:
            return f"not in safe mode but in mode {state.mode}"
        return ""

    def _tend(self) -> None:
        """Asks a silent base again, arms it, and tells the wheels what is still wanted of them."""
        now_s = time.monotonic()
        with self._lock:
            state, heard = self._state, now_s - self._state_s <= STALE_S
            if now_s - self._commanded_s > COMMAND_TIMEOUT_S or not heard or self._stopped:
                self._wheels_mmps = (0, 0)
            if self._tripped and now_s - self._wished_s > STANDSTILL_S:
                self._tripped = False
            arm = state is not None and not (self._tripped or state.dropped or state.charger)
        if not heard and now_s - self._asked_s > ASK_S:
            self._asked_s = now_s
            if state is not None:
                self.trouble = f"nothing heard for {now_s - self._state_s:.1f} s"
            # The wheels first: starting the interface makes the base passive, and then it takes no speeds.
            self._line.write(oi.make_drive(0, 0) + oi.make_start())
            return
        if heard and state is not None and state.mode != oi.SAFE_MODE:
            if arm and now_s - self._armed_s > ASK_S:
                self._armed_s = now_s
                self._line.write(bytes((oi.SAFE,)) + oi.make_drive(0, 0))
            return
        if now_s - self._told_s >= REPEAT_S:
            self._tell()

    def _tell(self) -> None:
        """What is wanted now: whoever writes last has read it last, so no repetition overtakes a stop."""
        with self._telling:
            with self._lock:
                left_mmps, right_mmps = self._wheels_mmps
            self._told_s = time.monotonic()
            self._line.write(oi.make_drive(right_mmps, left_mmps))

    # --- ports.Base --------------------------------------------------------------------------------------------

    def send(self, command: DriveCommand) -> DriveCommand:
        """See ports.Base. A stop is always told.

        Raises:
            DeviceTimeoutError: the base is silent: nobody drives blindly.
            DeviceFailedError: it has stopped by itself, or something is in front of it.
            DeviceAbsentError: it is not there.
        """
        turn_mps = command.angular_radps * self._track_m / 2
        left, right = (1000 * (command.linear_mps - turn_mps), 1000 * (command.linear_mps + turn_mps))
        scale = min(1.0, oi.WHEEL_MAX_MMPS / max(abs(left), abs(right), 1.0))  # the curve stays the same
        wheels = round(left * scale), round(right * scale)
        now_s = time.monotonic()
        with self._lock:
            moving = wheels != (0, 0)
            if moving:
                self._wished_s = now_s
            refusal = self._refusal(command, now_s) if moving else None
            if refusal is not None or self._stopped:
                wheels = (0, 0)
            self._wheels_mmps, self._commanded_s = wheels, now_s
        self._tell()
        if refusal is not None:
            raise refusal
        return (
            DriveCommand((wheels[0] + wheels[1]) / 2000, (wheels[1] - wheels[0]) / 1000 / self._track_m)
            if wheels != (0, 0)
            else STOP
        )

    def _refusal(self, command: DriveCommand, now_s: float) -> DeviceError | None:
        state, name = self._state, self._line.name
        if state is None or now_s - self._state_s > STALE_S:
            return DeviceTimeoutError(f"{name}: does not drive: the base is silent")
        if state.mode != oi.SAFE_MODE:
            why = "a charger is plugged in" if state.charger else (self.trouble or "it has stopped by itself")
            return DeviceFailedError(f"{name}: does not drive: {why}")
        if command.linear_mps > 0 and (state.bumped or state.cliff):
            return DeviceFailedError(f"{name}: does not drive forward: {self._judge(state)}")
        return None

    def stop_for_emergency(self, *, stop: bool) -> None:
        """The wheels are told zero at once, and whatever is sent, until released. Raises DeviceError."""
        with self._lock:
            self._stopped = stop
            self._wheels_mmps = (0, 0)
        self._tell()

    def odometry(self) -> Odometry:
        """See ports.Base. Raises DeviceTimeoutError when the base is silent."""
        with self._lock:
            self._require()
            return self._odometry

    def pack(self) -> PackInfo:
        """The base's own battery. Raises DeviceTimeoutError when the base is silent, DeviceFailedError for nonsense."""
        with self._lock:
            state = self._require()
        if not (state.voltage_mv and state.capacity_mah > 0 and state.charge_mah <= 1.1 * state.capacity_mah):
            raise DeviceFailedError(
                f"{self._line.name}: {state.voltage_mv} mV and {state.charge_mah} of {state.capacity_mah} mAh are of"
                " no battery"
            )
        charge = min(1.0, state.charge_mah / state.capacity_mah)
        return PackInfo(state.voltage_mv / 1000, state.current_ma / 1000, charge)

    def _require(self) -> CreateState:
        age_s = time.monotonic() - self._state_s
        if self._state is None or age_s > STALE_S:
            said = f", {self.trouble}" if self.trouble else ""
            raise DeviceTimeoutError(
                f"{self._line.name}: wheels: nothing heard for {min(age_s, 1e6):.1f} s{said}"
            )
        return self._state

    def close(self) -> None:
        """Wheels stand, the base is passive, and the line is let go of."""
        self._closing.set()
        self._thread.join(2.0)
        with contextlib.suppress(DeviceError):
            self._line.write(oi.make_end())
        self._line.close()


def open_create(port: str, now_ns: Callable[[], int], track_m: float = oi.TRACK_M) -> CreateBase:
    """The base on a port, with its guard; the port is opened by the driver's thread, again and again if need be."""
    guard = WheelGuard(oi.make_rescue())
    return CreateBase(SerialLine(port, oi.BAUD, WRITE_TIMEOUT_S, guard), now_ns, track_m, guard)


class CreateBattery:
    """battery_board.PackReader of the battery inside such a base; the line is the base's."""

    def __init__(self, base: CreateBase) -> None:
        self._base = base

    def read(self) -> PackInfo:
        """See PackReader."""
        return self._base.pack()

    def close(self) -> None:
        """Nothing: the base closes its line."""
