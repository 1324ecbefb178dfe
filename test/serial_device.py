"""Devices on a pty, byte by byte, with the faults of the field: a JBD battery board, the robot's microcontroller."""

import contextlib
import os
import pty
import select
import threading
import time
import tty
from pathlib import Path

from depai_robot.adapters.jbd import BASIC, make_answer
from depai_robot.adapters.mcu_frame import (
    DRIVE,
    PADS,
    STATE,
    STOP,
    BaseState,
    PadsState,
    Splitter,
    encode,
    format_pads,
    format_state,
)

TICK_S = 0.02
COMMAND_TIMEOUT_S = 0.3


class PtyDevice:
    """One end of a serial line; the other is :attr:`path`.

    Attributes:
        silent: says nothing, as a board that sleeps or hangs.
        garble: XORs this into every byte that it sends.
        noise: is sent before each answer.
        slow_s: between two bytes.
    """

    def __init__(self, link: Path | None = None) -> None:
        self.silent = False
        self.garble = 0
        self.noise = b""
        self.slow_s = 0.0
        self._link = link
        self._master = self._slave = -1
        self._closing = threading.Event()
        self.path = ""
        self.plug()
        self._thread = threading.Thread(target=self._work, name="device", daemon=True)
        self._thread.start()

    def plug(self) -> None:
        """There again, under another name; a link, as below /dev/serial/by-id, keeps its own."""
        self._master, self._slave = pty.openpty()
        tty.setraw(self._master)
        tty.setraw(self._slave)
        self.path = os.ttyname(self._slave)
        if self._link is not None:
            with contextlib.suppress(FileNotFoundError):
                self._link.unlink()
            self._link.symlink_to(self.path)

    def unplug(self) -> None:
        """Gone in the midst of whatever was said."""
        master, slave, self._master, self._slave = self._master, self._slave, -1, -1
        for descriptor in (master, slave):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        if self._link is not None:
            with contextlib.suppress(FileNotFoundError):
                self._link.unlink()

    def close(self) -> None:
        """Ends the thread and the line."""
        self._closing.set()
        self._thread.join(2.0)
        self.unplug()

    def say(self, data: bytes) -> None:
        """Sends, with the faults that are set."""
        if self.silent or self._master < 0:
            return
        data = self.noise + bytes(byte ^ self.garble for byte in data)
        with contextlib.suppress(OSError):
            if not self.slow_s:
                os.write(self._master, data)
                return
            for byte in data:
                os.write(self._master, bytes((byte,)))
                time.sleep(self.slow_s)

    def _work(self) -> None:
        while not self._closing.is_set():
            master = self._master
            if master < 0:
                self._closing.wait(TICK_S)
                continue
            try:
                ready, _, _ = select.select([master], [], [], TICK_S)
                if ready:
                    self.hear(os.read(master, 256))
            except (OSError, ValueError):
                self._closing.wait(TICK_S)
            self.tick()

    def hear(self, data: bytes) -> None:
        """Bytes from the host."""

    def tick(self) -> None:
        """Every 20 ms."""


class JbdDevice(PtyDevice):
    """A board that answers questions for basic information.

    Attributes:
        data: of register 0x03.
        asked: how often.
        sleeps: so many questions are not answered first.
    """

    def __init__(self, data: bytes, link: Path | None = None) -> None:
        self.data = data
        self.asked = self.sleeps = 0
        self.status = 0
        self._heard = b""
        super().__init__(link)

    def hear(self, data: bytes) -> None:
        """Answers each whole question."""
        self._heard = (self._heard + data)[-64:]
        while (at := self._heard.find(bytes((0xDD, 0xA5, BASIC)))) >= 0 and len(self._heard) >= at + 7:
            self._heard = self._heard[at + 7 :]
            self.asked += 1
            if self.sleeps:
                self.sleeps -= 1
                continue
            self.say(make_answer(BASIC, self.data, self.status))


class McuDevice(PtyDevice):
    """The reference firmware's behaviour: wheels that stop without commands, pads, their meter.

    Attributes:
        contact, nonce, voltage_mv, current_ma, energy_milliwh: what it says of the pads.
        linear_mps, angular_radps: of the wheels now.
    """

    def __init__(self, track_m: float = 0.34, link: Path | None = None) -> None:
        self.contact = False
        self.nonce = b""
        self.voltage_mv = self.current_ma = self.energy_milliwh = 0
        self.linear_mps = self.angular_radps = 0.0
        self.stopped = False
        self._track_m = track_m
        self._ways_m = [0.0, 0.0]
        self._splitter = Splitter()
        self._commanded_s = self._ticked_s = time.monotonic()
        self._sequence = 0
        super().__init__(link)

    def hear(self, data: bytes) -> None:
        """Commands."""
        for kind, _, payload in self._splitter.feed(data):
            if kind == STOP:
                self.stopped = payload == b"\x01"
            elif kind == DRIVE and len(payload) == 4:
                self._commanded_s = time.monotonic()
                if not self.stopped:
                    self.linear_mps = int.from_bytes(payload[:2], "little", signed=True) / 1000
                    self.angular_radps = int.from_bytes(payload[2:], "little", signed=True) / 1000
            if self.stopped:
                self.linear_mps = self.angular_radps = 0.0

    def tick(self) -> None:
        """Moves the wheels, and says how it is."""
        now_s = time.monotonic()
        step_s, self._ticked_s = now_s - self._ticked_s, now_s
        if now_s - self._commanded_s > COMMAND_TIMEOUT_S:
            self.linear_mps = self.angular_radps = 0.0
        turn = self.angular_radps * self._track_m / 2
        for index, sign in enumerate((-1, 1)):
            self._ways_m[index] += (self.linear_mps + sign * turn) * step_s
        ms = int(now_s * 1000)
        left, right = (round(1000 * way) for way in self._ways_m)
        linear, angular = round(1000 * self.linear_mps), round(1000 * self.angular_radps)
        state = BaseState(ms, left, right, self.contact, self.stopped, False, linear, angular)
        pads = PadsState(ms, self.voltage_mv, self.current_ma, self.energy_milliwh, self.nonce)
        self._sequence += 1
        self.say(
            encode(STATE, self._sequence, format_state(state))
            + encode(PADS, self._sequence, format_pads(pads))
        )
