"""The robot's microcontroller on a serial line: ports.Base and ports.Connector, and the meter at the pads.

One thread reads; what it has not heard for :data:`STALE_S` counts as unknown. The board's wheel counts become odometry
by the midpoint rule. A board that starts anew begins the differences anew: no jump is driven, and no energy forgotten.
"""

import contextlib
import math
import threading
import time
from collections.abc import Callable

from depai_robot.adapters.mcu_frame import (
    PADS,
    STATE,
    BaseState,
    PadsState,
    Splitter,
    make_drive,
    make_stop,
    parse_pads,
    parse_state,
)
from depai_robot.adapters.serial_line import SerialLine
from depai_robot.ports import Odometry
from depai_robot.values.error import DeviceError, DeviceTimeoutError
from depai_robot.values.geometry import DriveCommand, Pose2, wrap_angle_rad

STALE_S = 0.5
READ_S = 0.1
WHEEL_JUMP_MM = 500
"""More than a wheel turns between two frames 20 ms apart at any speed: the board was reset."""


class McuBoard:
    """Wheels, pads and their meter.

    Args:
        line: to the board.
        track_m: between the wheels.
        now_ns: session clock, for the stamps of odometry.
    """

    def __init__(self, line: SerialLine, track_m: float, now_ns: Callable[[], int]) -> None:
        self._line, self._track_m, self._now_ns = line, track_m, now_ns
        self._splitter = Splitter()
        self._lock = threading.Lock()
        self._state: BaseState | None = None
        self._pads: PadsState | None = None
        self._state_s = self._pads_s = -math.inf
        self._odometry = Odometry(0, Pose2(0.0, 0.0, 0.0), 0.0, 0.0)
        self._energy_base = 0
        self._sequence = 0
        self._stop_wanted = False
        self.trouble = "nothing heard yet"
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mcu", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._closing.is_set():
            try:
                data = self._line.read(512, READ_S)
            except DeviceError as error:
                self.trouble = str(error)
                self._closing.wait(READ_S)
                continue
            for kind, _, payload in self._splitter.feed(data):
                self._take(kind, payload)

    def _take(self, kind: int, payload: bytes) -> None:
        if kind == STATE and (state := parse_state(payload)) is not None:
            with self._lock:
                self._move(state)
                self._state, self._state_s = state, time.monotonic()
                self.trouble = "a drive has failed" if state.fault else ""
                forgotten = self._stop_wanted and not state.stopped
            if forgotten:  # the board has started anew; whoever stopped it has not released it
                with contextlib.suppress(DeviceError):
                    self.stop_for_emergency(stop=True)
        elif kind == PADS and (pads := parse_pads(payload)) is not None:
            with self._lock:
                if self._pads is not None and pads.energy_milliwh < self._pads.energy_milliwh:
                    # A board that starts anew counts from zero; what the robot took in before is not forgotten.
                    self._energy_base += self._pads.energy_milliwh
                self._pads, self._pads_s = pads, time.monotonic()

    def _move(self, state: BaseState) -> None:
        before, pose = self._state, self._odometry.base_in_odom
        if before is not None:
            left, right = state.left_mm - before.left_mm, state.right_mm - before.right_mm
            if max(abs(left), abs(right)) <= WHEEL_JUMP_MM:
                way_m, turn = (left + right) / 2000, (right - left) / 1000 / self._track_m
                yaw = pose.yaw_rad + turn / 2
                pose = Pose2(
                    pose.x_m + way_m * math.cos(yaw),
                    pose.y_m + way_m * math.sin(yaw),
                    wrap_angle_rad(pose.yaw_rad + turn),
                )
        self._odometry = Odometry(self._now_ns(), pose, state.linear_mmps / 1000, state.angular_mradps / 1000)

    # --- ports.Base --------------------------------------------------------------------------------------------

    def send(self, command: DriveCommand) -> DriveCommand:
        """See ports.Base. Raises DeviceError."""
        with self._lock:
            self._sequence += 1
            sequence = self._sequence
        self._line.write(make_drive(sequence, command.linear_mps, command.angular_radps))
        return command

    def stop_for_emergency(self, *, stop: bool) -> None:
        """The board stops at once, and stays so until released. Raises DeviceError."""
        with self._lock:
            self._stop_wanted = stop
            self._sequence += 1
            sequence = self._sequence
        self._line.write(make_stop(sequence, stop=stop))

    def odometry(self) -> Odometry:
        """See ports.Base. Raises DeviceTimeoutError when the board is silent."""
        with self._lock:
            self._require(self._state_s, "wheels")
            return self._odometry

    # --- ports.Connector, and the meter ------------------------------------------------------------------------

    def in_contact(self) -> bool:
        """See ports.Connector. Raises DeviceTimeoutError when the board is silent."""
        with self._lock:
            self._require(self._state_s, "pads")
            return self._state is not None and self._state.contact

    def read_probe(self) -> bytes | None:
        """See ports.Connector. Raises DeviceTimeoutError when the board is silent."""
        with self._lock:
            self._require(self._pads_s, "pads")
            nonce = b"" if self._pads is None else self._pads.nonce
            return nonce or None

    def pads(self) -> tuple[int, float]:
        """(milliwatt-hours taken in since this program began to listen, watts now). Raises DeviceTimeoutError."""
        with self._lock:
            self._require(self._pads_s, "pads meter")
            if self._pads is None:
                raise DeviceTimeoutError(f"{self._line.name}: the pads' meter is silent")
            watts = self._pads.voltage_mv * self._pads.current_ma / 1e6
            return self._energy_base + self._pads.energy_milliwh, watts

    def _require(self, heard_s: float, what: str) -> None:
        age_s = time.monotonic() - heard_s
        if age_s > STALE_S:
            said = f", {self.trouble}" if self.trouble else ""
            raise DeviceTimeoutError(
                f"{self._line.name}: {what}: nothing heard for {min(age_s, 1e6):.1f} s{said}"
            )

    def close(self) -> None:
        """Stops listening and lets go of the line; the wheels stop by themselves."""
        self._closing.set()
        self._thread.join(2.0)
        self._line.close()
