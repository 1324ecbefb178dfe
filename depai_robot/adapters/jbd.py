"""JBD (Xiaoxiang) battery management systems: 9600 baud, 8N1, question and answer.

Source: JBD's "RS485 general protocol" as published with its boards: ``DD A5 cmd 00 csum csum 77`` and
``DD cmd status len data csum csum 77``; the checksum is 0x10000 less the sum from status (cmd in a question) to data.
"""

import struct
import time
from dataclasses import dataclass

from depai_robot.adapters.battery_board import PackInfo
from depai_robot.adapters.serial_line import SerialLine
from depai_robot.values.error import DeviceFailedError, DeviceTimeoutError

BAUD = 9600
TIMEOUT_S = 0.6
"""A board answers within 100 ms; one that sleeps needs to be asked twice."""
TRIES = 2
START, END, READ = 0xDD, 0x77, 0xA5
BASIC = 0x03
DATA_MAX = 64
KELVIN_TENTHS = 2731
BASIC_FORM = ">HhHHHHHHHBBBBB"
BASIC_BYTES = struct.calcsize(BASIC_FORM)


@dataclass(frozen=True, slots=True)
class BasicInfo(PackInfo):
    """What a board says of its pack, besides what all of them say.

    Attributes:
        charge_ah, capacity_ah: left, and nominal.
        charging_allowed, discharging_allowed: its switches.
        temperatures_c: of its sensors.
    """

    charge_ah: float = 0.0
    capacity_ah: float = 0.0
    charging_allowed: bool = False
    discharging_allowed: bool = False
    temperatures_c: tuple[float, ...] = ()


def checksum(data: bytes) -> int:
    """16 bit, big endian in the frame."""
    return (0x10000 - sum(data)) & 0xFFFF


def make_question(command: int) -> bytes:
    """Asks for a register."""
    body = bytes((command, 0))
    return bytes((START, READ)) + body + struct.pack(">H", checksum(body)) + bytes((END,))


def make_answer(command: int, data: bytes, status: int = 0) -> bytes:
    """What a board says; for simulators."""
    body = bytes((status, len(data))) + data
    return bytes((START, command)) + body + struct.pack(">H", checksum(body)) + bytes((END,))


def find_answer(buffer: bytes, command: int) -> tuple[bytes | None, int]:
    """The first good answer in what has come, and how many bytes are done with.

    Garbage, half frames and answers to other questions are passed over, never taken.

    Raises:
        DeviceFailedError: the board says that it can't.
    """
    start = 0
    while True:
        start = buffer.find(START, start)
        if start < 0:
            return None, len(buffer)
        frame = buffer[start:]
        if len(frame) < 4:
            return None, start
        length = frame[3]
        whole = 7 + length
        if frame[1] != command or length > DATA_MAX:
            start += 1
            continue
        if len(frame) < whole:
            # A start byte inside garbage may promise bytes that never come: look for a good one behind it.
            later, done = find_answer(buffer[start + 1 :], command)
            return (later, start + 1 + done) if later is not None else (None, start)
        body, end = frame[2 : 4 + length], frame[whole - 1]
        if end != END or struct.unpack(">H", frame[4 + length : 6 + length])[0] != checksum(body):
            start += 1
            continue
        if frame[2] != 0:
            raise DeviceFailedError(f"BMS: status {frame[2]:#04x} to the question {command:#04x}")
        return bytes(frame[4 : 4 + length]), start + whole


def parse_basic(data: bytes) -> BasicInfo:
    """Register 0x03.

    Raises:
        DeviceFailedError: too short, or not what a battery can be.
    """
    if len(data) < BASIC_BYTES:
        raise DeviceFailedError(f"BMS: basic information has at least {BASIC_BYTES} bytes, got {len(data)}")
    fields = struct.unpack_from(BASIC_FORM, data)
    sensors = fields[13]
    if len(data) < BASIC_BYTES + 2 * sensors:
        raise DeviceFailedError(
            f"BMS: {sensors} sensors are announced, {len(data) - BASIC_BYTES} bytes follow"
        )
    temperatures = struct.unpack_from(f">{sensors}H", data, BASIC_BYTES)
    info = BasicInfo(
        voltage_v=fields[0] / 100,
        current_a=fields[1] / 100,
        charge_ah=fields[2] / 100,
        capacity_ah=fields[3] / 100,
        state_of_charge=fields[10] / 100,
        protection=fields[8],
        charging_allowed=bool(fields[11] & 1),
        discharging_allowed=bool(fields[11] & 2),
        temperatures_c=tuple((raw - KELVIN_TENTHS) / 10 for raw in temperatures),
    )
    if not 0 <= info.state_of_charge <= 1 or info.voltage_v == 0:
        raise DeviceFailedError(f"BMS: {info.voltage_v} V and {info.state_of_charge:.0%} are of no battery")
    return info


class JbdBms:
    """A board on a line."""

    def __init__(self, line: SerialLine) -> None:
        self._line = line

    def read(self) -> BasicInfo:
        """Asks now.

        Raises:
            DeviceTimeoutError: no good answer; asked twice, since a sleeping board wakes by the first question.
            DeviceAbsentError, DeviceFailedError: the line, or the board.
        """
        for _ in range(TRIES):
            self._line.drop_input()
            self._line.write(make_question(BASIC))
            data = self._answer(BASIC)
            if data is not None:
                return parse_basic(data)
        raise DeviceTimeoutError(f"{self._line.name}: the BMS does not answer")

    def _answer(self, command: int) -> bytes | None:
        deadline = time.monotonic() + TIMEOUT_S
        buffer = b""
        while (left_s := deadline - time.monotonic()) > 0:
            buffer += self._line.read(256, left_s)
            data, done = find_answer(buffer, command)
            if data is not None:
                return data
            buffer = buffer[done:]
        return None

    def close(self) -> None:
        """Lets go of the line."""
        self._line.close()
