"""Victron VE.Direct in text mode: 19200 baud; a shunt or battery monitor speaks once a second by itself.

Source: Victron, "VE.Direct Protocol": lines of carriage return, line feed, label, tab, value; a block ends with the
label ``Checksum`` and one byte that makes the sum of all the block's bytes 0 modulo 256. HEX messages (``:`` to
line feed) may stand between. V is in mV, I in mA (positive when it charges), SOC in tenths of a percent, AR in bits
of alarms.
"""

import time

from depai_robot.adapters.battery_board import PackInfo
from depai_robot.adapters.serial_line import SerialLine
from depai_robot.values.error import DeviceFailedError, DeviceTimeoutError

BAUD = 19_200
TIMEOUT_S = 2.5
BLOCK_BYTES_MAX = 1024
END = b"\r\nChecksum\t"


def take_block(buffer: bytes) -> tuple[dict[str, str] | None, bytes]:
    """The first whole block whose sum is right, or None; and what is left to be completed."""
    while True:
        at = buffer.find(END)
        if at < 0 or len(buffer) <= at + len(END):
            return None, buffer[-BLOCK_BYTES_MAX:]
        block, buffer = buffer[: at + len(END) + 1], buffer[at + len(END) + 1 :]
        # A block that was joined in its middle does not sum up; nor does one with a HEX message inside.
        block = _without_hex(block)
        if sum(block) & 0xFF:
            continue
        fields = {}
        for line in block[: block.rfind(END)].split(b"\r\n"):
            label, tab, value = line.partition(b"\t")
            if tab:
                fields[label.decode("ascii", "replace")] = value.decode("ascii", "replace")
        return fields, buffer


def _without_hex(block: bytes) -> bytes:
    start = block.find(b":")
    while start >= 0:
        end = block.find(b"\n", start)
        if end < 0 or not all(byte in b"0123456789ABCDEF" for byte in block[start + 1 : end]):
            start = block.find(b":", start + 1)
            continue
        block = block[:start] + block[end + 1 :]
        start = block.find(b":")
    return block


def parse_block(fields: dict[str, str]) -> PackInfo | None:
    """A monitor's main block; None for its other one, which has no voltage.

    Raises:
        DeviceFailedError: numbers that are none, or of no battery.
    """
    if not {"V", "I", "SOC"} <= fields.keys():
        return None
    try:
        volts, amperes, charge = (int(fields[name]) for name in ("V", "I", "SOC"))
        alarms = int(fields.get("AR", "0"))
    except ValueError as error:
        raise DeviceFailedError(f"VE.Direct: {error}") from error
    info = PackInfo(volts / 1000, amperes / 1000, charge / 1000, alarms)
    if not 0 <= info.state_of_charge <= 1 or info.voltage_v <= 0:
        raise DeviceFailedError(
            f"VE.Direct: {info.voltage_v} V and {info.state_of_charge:.0%} are of no battery"
        )
    return info


class VeDirectMonitor:
    """A monitor on a line."""

    def __init__(self, line: SerialLine) -> None:
        self._line = line
        self._buffer = b""

    def read(self) -> PackInfo:
        """See PackReader: the next block that it says; what waited in the line is older and passed over."""
        self._line.drop_input()
        self._buffer = b""
        deadline = time.monotonic() + TIMEOUT_S
        while (left_s := deadline - time.monotonic()) > 0:
            self._buffer += self._line.read(512, left_s)
            while True:
                fields, self._buffer = take_block(self._buffer)
                if fields is None:
                    break
                info = parse_block(fields)
                if info is not None:
                    return info
        raise DeviceTimeoutError(f"{self._line.name}: no whole VE.Direct block in {TIMEOUT_S} s")

    def close(self) -> None:
        """Lets go of the line."""
        self._line.close()
