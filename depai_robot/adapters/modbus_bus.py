"""One RS-485 line with Modbus RTU devices on it, through pymodbus: questions one after the other, errors of ours.

Needs the extra ``modbus``. An RTU answer does not say to which question it belongs; so late bytes are dropped before a
question, an answer of another length is refused, and who reads asks for blocks of different lengths. A line that fails
is opened anew, with back-off, by what the adapter is (see adapters.serial_line).
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Literal

from pymodbus.client import ModbusSerialClient
from pymodbus.exceptions import ConnectionException, ModbusException
from pymodbus.pdu import ModbusPDU

from depai_robot.adapters.serial_line import BACK_OFF_FIRST_S, BACK_OFF_MAX_S, find_port
from depai_robot.values.error import DeviceAbsentError, DeviceError, DeviceFailedError, DeviceTimeoutError

TRIES = 2
# What it would say there is said by our errors, once.
logging.getLogger("pymodbus.logging").setLevel(logging.CRITICAL)


class ModbusBus:
    """The only master on a line.

    Args:
        name: path below /dev/serial/by-id, or ``usb:VID:PID:SERIAL``.
        baud, parity, stop_bits: of every device on it.
        timeout_s: for an answer; it is asked for twice.
    """

    def __init__(
        self,
        name: str,
        baud: int = 9600,
        parity: Literal["N", "E", "O"] = "N",
        stop_bits: Literal[1, 2] = 1,
        timeout_s: float = 0.3,
    ) -> None:
        self.name = name
        self._baud, self._parity, self._stop_bits, self._timeout_s = baud, parity, stop_bits, timeout_s
        self._lock = threading.Lock()
        self._client: ModbusSerialClient | None = None
        self._back_off_s = BACK_OFF_FIRST_S
        self._not_before_s = 0.0

    def read_inputs(self, device: int, address: int, count: int) -> list[int]:
        """Input registers, 16 bit each (function 4). Blocks for two time-outs at most. Raises DeviceError."""
        what = f"device {device}, input registers {address:#06x} to {address + count - 1:#06x}"
        answer = self._ask(what, lambda c: c.read_input_registers(address, count=count, device_id=device))
        registers = list(answer.registers)
        if len(registers) != count:
            raise DeviceFailedError(f"{self.name}: {what}: expected {count}, got {len(registers)}")
        return registers

    def read_discrete(self, device: int, address: int, count: int) -> list[bool]:
        """Discrete inputs (function 2). Blocks and raises as above."""
        what = f"device {device}, discrete inputs {address} to {address + count - 1}"
        answer = self._ask(what, lambda c: c.read_discrete_inputs(address, count=count, device_id=device))
        if not count <= len(answer.bits) < count + 8:  # bits come in bytes
            raise DeviceFailedError(f"{self.name}: {what}: expected {count}, got {len(answer.bits)}")
        return [bool(bit) for bit in answer.bits[:count]]

    def write_coil(self, device: int, address: int, *, value: bool) -> None:
        """A coil (function 5), which the device repeats. Blocks and raises as above."""
        what = f"device {device}, coil {address}"
        answer = self._ask(what, lambda c: c.write_coil(address, value, device_id=device))
        if list(answer.bits)[:1] != [value]:
            raise DeviceFailedError(
                f"{self.name}: {what}: expected {value} repeated, got {list(answer.bits)[:1]}"
            )

    def write_holding(self, device: int, address: int, words: list[int]) -> None:
        """Holding registers (function 16). Blocks and raises as above."""
        what = f"device {device}, holding registers {address} to {address + len(words) - 1}"
        self._ask(what, lambda c: c.write_registers(address, words, device_id=device))

    def _ask(self, what: str, question: Callable[[ModbusSerialClient], ModbusPDU]) -> ModbusPDU:
        with self._lock:
            client = self._open()
            for _ in range(TRIES):
                try:
                    answer = question(client)
                except ConnectionException as error:
                    raise self._lost(error) from error
                except ModbusException:
                    continue  # silence, or garbage
                except Exception as error:  # pyserial's and termios's, as the device goes
                    raise self._lost(error) from error
                if answer.isError():
                    code = getattr(answer, "exception_code", "?")
                    raise DeviceFailedError(f"{self.name}: {what}: refused with Modbus exception {code}")
                return answer
        raise DeviceTimeoutError(f"{self.name}: {what}: no good answer")

    def _open(self) -> ModbusSerialClient:
        if self._client is not None:
            return self._client
        wait_s = self._not_before_s - time.monotonic()
        if wait_s > 0:
            raise DeviceAbsentError(f"{self.name}: tried a moment ago, again in {wait_s:.1f} s")
        try:
            client = ModbusSerialClient(
                find_port(self.name),
                baudrate=self._baud,
                parity=self._parity,
                stopbits=self._stop_bits,
                timeout=self._timeout_s,
                retries=0,
            )
            if not client.connect():
                raise DeviceAbsentError(f"{self.name}: not there, or another program has it")
        except DeviceError:
            self._rest()
            raise
        self._back_off_s = BACK_OFF_FIRST_S
        self._client = client
        return client

    def _rest(self) -> None:
        self._not_before_s = time.monotonic() + self._back_off_s
        self._back_off_s = min(BACK_OFF_MAX_S, 2 * self._back_off_s)

    def _lost(self, error: Exception) -> DeviceAbsentError:
        self._hang_up()
        self._rest()
        return DeviceAbsentError(f"{self.name}: gone: {error}")

    def _hang_up(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                client.close()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Lets go of the line."""
        with self._lock:
            self._hang_up()
