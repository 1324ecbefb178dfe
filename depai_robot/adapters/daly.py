"""Daly battery management systems: 9600 baud, 8N1, 13 bytes each way.

Source: Daly's "UART/485 communications protocol": ``A5 40 90 08`` and eight zeros, then the sum of all bytes; the
answer has the board's address in the second place. Question 0x90: volts in tenths, gathered volts, (current + 3000 A)
in tenths, state of charge in tenths of a percent. Its current is positive when the pack discharges; ours is negative
then.
"""

import struct
import time

from depai_robot.adapters.battery_board import PackInfo
from depai_robot.adapters.serial_line import SerialLine
from depai_robot.values.error import DeviceFailedError, DeviceTimeoutError

BAUD = 9600
TIMEOUT_S = 0.6
TRIES = 2
"""A board that sleeps wakes by the first question."""
START, HOST, BOARD, SUMMARY, DATA_BYTES = 0xA5, 0x40, 0x01, 0x90, 8
FRAME_BYTES = 13
ZERO_CURRENT = 30_000


def make_frame(address: int, command: int, data: bytes) -> bytes:
    """With its sum."""
    body = bytes((START, address, command, DATA_BYTES)) + data
    return body + bytes((sum(body) & 0xFF,))


QUESTION = make_frame(HOST, SUMMARY, bytes(DATA_BYTES))


def find_answer(buffer: bytes, command: int) -> bytes | None:
    """The eight bytes of the first good answer; misaligned and foreign bytes are passed over."""
    head = bytes((START, BOARD, command, DATA_BYTES))
    at = buffer.find(head)
    while at >= 0 and len(buffer) >= at + FRAME_BYTES:
        frame = buffer[at : at + FRAME_BYTES]
        if sum(frame[:-1]) & 0xFF == frame[-1]:
            return bytes(frame[4:12])
        at = buffer.find(head, at + 1)
    return None


def parse_summary(data: bytes) -> PackInfo:
    """Question 0x90. Raises DeviceFailedError for what no battery says."""
    volts, _, current, charge = struct.unpack(">HHHH", data)
    info = PackInfo(volts / 10, (ZERO_CURRENT - current) / 10, charge / 1000)
    if not 0 <= info.state_of_charge <= 1 or info.voltage_v == 0:
        raise DeviceFailedError(f"BMS: {info.voltage_v} V and {info.state_of_charge:.0%} are of no battery")
    return info


class DalyBms:
    """A board on a line."""

    def __init__(self, line: SerialLine) -> None:
        self._line = line

    def read(self) -> PackInfo:
        """See PackReader."""
        for _ in range(TRIES):
            self._line.drop_input()
            self._line.write(QUESTION)
            deadline = time.monotonic() + TIMEOUT_S
            buffer = b""
            while (left_s := deadline - time.monotonic()) > 0:
                buffer += self._line.read(256, left_s)
                data = find_answer(buffer, SUMMARY)
                if data is not None:
                    return parse_summary(data)
        raise DeviceTimeoutError(f"{self._line.name}: the BMS does not answer")

    def close(self) -> None:
        """Lets go of the line."""
        self._line.close()
