"""Modbus RTU devices on a pty: pymodbus's own server, and a splice in the line for the faults of the field."""

import asyncio
import contextlib
import os
import pty
import select
import struct
import threading
import time
import tty
from pathlib import Path

from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusSerialServer
from pymodbus.simulator import DataType, SimData, SimDevice

TICK_S = 0.02


class Splice:
    """Two ptys, end to end: a device is on one, its master on the other, and faults happen in between.

    Attributes:
        device_path: for whoever plays the device.
        path: for the master; a link keeps its name.
        silent, garble, noise, slow_s: of what the device says.
    """

    def __init__(self, link: Path) -> None:
        self.silent, self.garble, self.noise, self.slow_s = False, 0, b"", 0.0
        self._link = link
        self._device, self._device_slave = self._open()
        self.device_path = os.ttyname(self._device_slave)
        self._host = self._host_slave = -1
        self.plug()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="splice", daemon=True)
        self._thread.start()

    @staticmethod
    def _open() -> tuple[int, int]:
        pair = pty.openpty()
        for end in pair:
            tty.setraw(end)
        return pair

    @property
    def path(self) -> str:
        return str(self._link)

    def plug(self) -> None:
        """There again, under another number."""
        self._host, self._host_slave = self._open()
        with contextlib.suppress(FileNotFoundError):
            self._link.unlink()
        self._link.symlink_to(os.ttyname(self._host_slave))

    def unplug(self) -> None:
        """Gone."""
        ends, self._host, self._host_slave = (self._host, self._host_slave), -1, -1
        time.sleep(2 * TICK_S)
        for end in ends:
            with contextlib.suppress(OSError):
                os.close(end)
        with contextlib.suppress(FileNotFoundError):
            self._link.unlink()

    def _work(self) -> None:
        while not self._closing.is_set():
            host = self._host
            try:
                ready, _, _ = select.select([self._device] + [host] * (host >= 0), [], [], TICK_S)
                if host in ready:
                    os.write(self._device, os.read(host, 256))
                if self._device in ready:
                    self._say(os.read(self._device, 256))
            except (OSError, ValueError):
                self._closing.wait(TICK_S)

    def _say(self, data: bytes) -> None:
        if self.silent or self._host < 0:
            return
        data = self.noise + bytes(byte ^ self.garble for byte in data)
        for piece in [bytes((byte,)) for byte in data] if self.slow_s else [data]:
            os.write(self._host, piece)
            time.sleep(self.slow_s)

    def close(self) -> None:
        self._closing.set()
        self._thread.join(2.0)
        self.unplug()
        for end in (self._device, self._device_slave):
            with contextlib.suppress(OSError):
                os.close(end)


def float_words(value: float) -> list[int]:
    return list(struct.unpack(">HH", struct.pack(">f", value)))


class MeterDevice:
    """pymodbus's server with a meter's input registers.

    Attributes:
        splice: the line to it.
        words: of input registers, by address; the others hold 0.
        asked: (function, address, count) of each question.
        refuses: every question, with the exception "device failure".
    """

    def __init__(self, link: Path, *, device: int = 1, stop_bits: int = 1) -> None:
        self.splice = Splice(link)
        self.words: dict[int, int] = {}
        self.asked: list[tuple[int, int, int]] = []
        self.refuses = False
        self._number, self._stop_bits = device, stop_bits
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._server: ModbusSerialServer | None = None
        self._thread = threading.Thread(target=self._run, name="meter", daemon=True)
        self._thread.start()
        assert self._started.wait(10)

    def sdm120(self, voltage: float, current: float, power: float, kwh: float) -> None:
        """Sets what it measures."""
        for address, value in ((0, voltage), (6, current), (12, power), (0x48, kwh), (0x156, 2 * kwh)):
            self.words[address], self.words[address + 1] = float_words(value)

    async def _answer(self, function, start, address, count, current, _values):
        self.asked.append((function, address, count))
        if self.refuses:
            return ExcCodes.DEVICE_FAILURE
        for index in range(count):
            current[address - start + index] = self.words.get(address + index, 0)
        return None

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)

        async def serve() -> None:
            registers = SimData(0, count=0x200, values=0, datatype=DataType.REGISTERS)
            device = SimDevice(self._number, registers, action=self._answer)
            self._server = ModbusSerialServer(
                device, port=self.splice.device_path, baudrate=9600, stopbits=self._stop_bits
            )
            await self._server.serve_forever(background=True)
            self._started.set()

        self._loop.run_until_complete(serve())
        self._loop.run_forever()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.shutdown(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()
        self.splice.close()
