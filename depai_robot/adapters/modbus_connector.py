"""A station's connector over Modbus RTU: ports.Contactor and ports.Meter.

Two devices: an energy meter (adapters.modbus_meter) and a head, the controller at the connector. The head is told to
hold its contactor closed several times a second and **opens it by itself** when it is not told for
:data:`HEAD_DROP_S`: no process, bus or host that fails leaves power on. A relay board whose coil stays as it was
written is no head (docs/hardware.md). The head's registers:

==================  ======================================================================================
coil 0              hold: written 1 again and again; 0 opens at once
discrete input 0    present: a robot, right polarity, pre-charge checked; without it the head does not close
discrete input 1    closed: the contactor's own feedback
holding 0 to 15     nonce on the pads, 32 bytes, high byte first; zeros for none
==================  ======================================================================================

A thread asks meter and head in turn. It holds only while each answer is good: present, energy below what was paid,
power within the limit, feedback as it was told. The contactor has no ramp: it must be able to break the full current.
"""

import contextlib
import math
import threading
import time
from dataclasses import dataclass
from typing import Final

from depai_robot.adapters.modbus_bus import ModbusBus
from depai_robot.adapters.modbus_meter import ModbusMeter
from depai_robot.ports import Clock, MeterReading
from depai_robot.values.error import DeviceAbsentError, DeviceError, DeviceFailedError, DeviceTimeoutError

HEAD_DROP_S: Final = 1.5
"""What a head must do; here nothing rests on it but the safety of a station that has died."""
PERIOD_S = 0.1
STALE_S = 1.5
"""Older answers are no answers."""
FOLLOW_S = 1.2
"""A contactor that has not closed by then does not follow. Waited for by :meth:`ModbusConnector.energise`."""
START_S = 5.0
POWER_FACTOR, POWER_MARGIN_W = 1.25, 5.0
HOLD, PRESENT, CLOSED = 0, 0, 1
NONCE_BYTES = 32
PAID, LEFT = "all that was paid has flowed", "nobody is on the pads"
"""Ends that are no faults."""
MILLIWH_PER_WS = 1 / 3.6


@dataclass(frozen=True, slots=True)
class Permission:
    """What may flow.

    Attributes:
        power_max_w: at most.
        until_energy_milliwh: on the meter's register.
        since_s: monotonic time.
    """

    power_max_w: float
    until_energy_milliwh: int
    since_s: float


class ModbusConnector:
    """One connector. Waits for the first answers.

    Args:
        meter: of this connector.
        bus: that the head is on.
        device: the head's address.
        clock: session time.

    Raises:
        DeviceAbsentError: head or meter did not answer within :data:`START_S`.
    """

    def __init__(self, meter: ModbusMeter, bus: ModbusBus, device: int, clock: Clock) -> None:
        self.clock = clock
        self._meter, self._bus, self._device = meter, bus, device
        self._state = threading.Condition()
        self._permission: Permission | None = None
        self._reading: MeterReading | None = None
        self._read_s = self._seen_s = -math.inf
        self._present = self._closed = False
        self._told = False
        self._let_go_s = self._told_s = self._told_for_s = -math.inf
        self._period_s = 0.5
        self._fault = ""
        self.trouble = "not asked yet"
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"connector-{device}", daemon=True)
        self._thread.start()
        with self._state:
            if self._state.wait_for(lambda: self._reading is not None and self._seen_s > 0, START_S):
                return
        self.close()
        raise DeviceAbsentError(
            f"{bus.name}: no answer of meter and head {device} in {START_S} s: {self.trouble}"
        )

    # --- the thread --------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._closing.is_set():
            begin_s = time.monotonic()
            self._turn()
            self._wake.wait(PERIOD_S)
            self._wake.clear()
            self._period_s = time.monotonic() - begin_s
        with contextlib.suppress(DeviceError):
            self._bus.write_coil(self._device, HOLD, value=False)

    def _turn(self) -> None:
        trouble = ""
        try:
            reading: MeterReading | None = self._meter.read()
        except DeviceError as error:
            reading, trouble = None, str(error)
        try:
            present, closed = self._bus.read_discrete(self._device, PRESENT, 2)
            seen = True
        except DeviceError as error:
            present = closed = seen = False
            trouble = trouble or str(error)
        now_s = time.monotonic()
        with self._state:
            if reading is not None:
                self._reading, self._read_s = reading, now_s
            if seen:
                self._present, self._closed, self._seen_s = present, closed, now_s
            permission, hold = self._permission, False
            if permission is not None:
                refusal = trouble or self._refuse(permission, reading, now_s)
                hold = not refusal
                if refusal:
                    self._permission = None
                    self._fault = "" if refusal in (PAID, LEFT) else refusal
            self.trouble = trouble or self._fault
            self._state.notify_all()
        if not seen:  # not told is opened; and its answers may be lost while it still hears
            self._told = False
            return
        if self._told and not hold:
            self._let_go_s = now_s
        try:
            if hold or self._told or closed:
                self._bus.write_coil(self._device, HOLD, value=hold)
            if hold and permission is not None and self._told_for_s != permission.since_s:
                self._told_s, self._told_for_s = time.monotonic(), permission.since_s
            self._told = hold
        except DeviceError as error:
            self.trouble = str(error)

    def _refuse(self, permission: Permission, reading: MeterReading | None, now_s: float) -> str:
        """Why power may not flow; empty when it may."""
        if reading is None:
            return "the meter is silent"
        if not self._present:
            return LEFT
        if reading.power_w > permission.power_max_w * POWER_FACTOR + POWER_MARGIN_W:
            return f"{reading.power_w:.0f} W flow, expected {permission.power_max_w:.0f} W at most"
        if self._told and not self._closed and now_s - permission.since_s > FOLLOW_S:
            return "the contactor does not close"
        lead = max(0.0, reading.power_w) * self._period_s * MILLIWH_PER_WS  # flows until the next look
        if reading.energy_milliwh + lead >= permission.until_energy_milliwh:
            return PAID
        return ""

    # --- ports.Contactor ---------------------------------------------------------------------------------------

    def present(self) -> bool:
        """See ports.Contactor. Raises DeviceTimeoutError when the head is silent."""
        with self._state:
            self._require_head()
            return self._present

    def write_probe(self, nonce: bytes) -> None:
        """See ports.Contactor. Raises DeviceError."""
        if len(nonce) > NONCE_BYTES:
            raise DeviceFailedError(f"a nonce on the pads has {NONCE_BYTES} bytes at most, got {len(nonce)}")
        whole = nonce.ljust(NONCE_BYTES, b"\0")
        words = [int.from_bytes(whole[at : at + 2], "big") for at in range(0, NONCE_BYTES, 2)]
        self._bus.write_holding(self._device, 0, words)

    def energise(self, power_max_w: float, until_energy_milliwh: int) -> None:
        """See ports.Contactor. Blocks for :data:`FOLLOW_S` at most. Raises DeviceError."""
        with self._state:
            reading = self._require_reading()
            self._require_head()
            if not self._present:
                raise DeviceFailedError(f"{self._bus.name}: nobody is on the pads: not switched on")
            if self._fault:
                raise DeviceFailedError(f"{self._bus.name}: was opened: {self._fault}")
            held = self._told or time.monotonic() - self._let_go_s < FOLLOW_S
            if self._closed and self._permission is None and not held:
                raise DeviceFailedError(
                    f"{self._bus.name}: the contactor is closed though nobody holds it: welded"
                )
            if until_energy_milliwh <= reading.energy_milliwh:
                self._permission = None
                self._wake.set()
                return
            since_s = time.monotonic() if self._permission is None else self._permission.since_s
            permission = Permission(power_max_w, until_energy_milliwh, since_s)
            self._permission = permission
            self._wake.set()
            done = self._state.wait_for(lambda: self._follows(since_s) or self._permission is None, FOLLOW_S)
            if self._fault:
                raise DeviceFailedError(f"{self._bus.name}: not switched on: {self._fault}")
            if not done:
                self._permission = None
                self._wake.set()
                raise DeviceFailedError(f"{self._bus.name}: the contactor does not close")

    def _follows(self, since_s: float) -> bool:
        """It is closed, by a feedback of after it was told for this permission."""
        return self._told_for_s == since_s and self._closed and self._seen_s > self._told_s

    def deenergise(self) -> None:
        """See ports.Contactor: opens; there is no ramp. A fault is over with it."""
        with self._state:
            self._permission, self._fault = None, ""
        self._wake.set()

    def open(self) -> None:
        """See ports.Contactor."""
        self.deenergise()

    # --- ports.Meter -------------------------------------------------------------------------------------------

    def read(self) -> MeterReading:
        """See ports.Meter: of the last turn.

        Raises:
            DeviceTimeoutError: that is too old.
            DeviceFailedError: the connector was opened by a fault; so a session hears of it.
        """
        with self._state:
            if self._fault:
                raise DeviceFailedError(f"{self._bus.name}: was opened: {self._fault}")
            return self._require_reading()

    def _require_reading(self) -> MeterReading:
        age_s = time.monotonic() - self._read_s
        if self._reading is None or age_s > STALE_S:
            raise DeviceTimeoutError(f"meter: no good reading for {min(age_s, 1e6):.1f} s: {self.trouble}")
        return self._reading

    def _require_head(self) -> None:
        age_s = time.monotonic() - self._seen_s
        if age_s > STALE_S:
            raise DeviceTimeoutError(
                f"{self._bus.name}: head {self._device} silent for {min(age_s, 1e6):.1f} s: {self.trouble}"
            )

    def close(self) -> None:
        """Opens the contactor. The buses are whoever's who opened them."""
        self.deenergise()
        self._closing.set()
        self._wake.set()
        self._thread.join(3.0)
