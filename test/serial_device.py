"""Devices on a pty, byte by byte, with the faults of the field: a JBD battery board, the robot's microcontroller,
a Create 2 base."""

import contextlib
import os
import pty
import select
import struct
import threading
import time
import tty
from pathlib import Path

from depai_robot.adapters import create_oi_frame as oi
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
        time.sleep(2 * TICK_S)  # a descriptor that is closed under a select stays open until that returns
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
                self.tick()
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


class CreateDevice(PtyDevice):
    """A base with the Create 2 Open Interface: modes, drive direct, the stream, the encoders that wrap; no time-out.

    Attributes:
        mode: 0 off, 1 passive, 2 safe.
        wheels_mmps: right and left, now.
        bumped, dropped, cliff, charger: what its sensors see; safe mode ends by the last three.
        counts: of the encoders, left and right, before they wrap.
        deaf: hears nothing, and goes on as it was told.
    """

    def __init__(self, link: Path | None = None) -> None:
        self.mode = oi.OFF_MODE
        self.wheels_mmps = (0, 0)
        self.bumped = self.dropped = self.cliff = self.charger = self.deaf = False
        self.counts = [65_000.0, 65_000.0]
        self.starts = 0
        self.streams = False
        self.voltage_mv, self.current_ma, self.charge_mah, self.capacity_mah = 15_200, -310, 1800, 2400
        self.heard = b""
        self._ticked_s = time.monotonic()
        super().__init__(link)

    def hear(self, data: bytes) -> None:
        """Commands, one after the other; what it does not know is passed over."""
        if self.deaf:
            return
        self.heard += data
        while self.heard:
            count = {oi.DRIVE_DIRECT: 5, oi.PAUSE_RESUME: 2}.get(self.heard[0], 1)
            if self.heard[0] in (oi.STREAM, oi.QUERY_LIST):
                count = 2 + self.heard[1] if len(self.heard) > 1 else 2
            if len(self.heard) < count:
                return
            command, self.heard = self.heard[:count], self.heard[count:]
            self._obey(command)

    def _obey(self, command: bytes) -> None:
        code = command[0]
        if code == oi.START:
            self.starts += 1
            self._enter(oi.PASSIVE_MODE)
        elif self.mode == oi.OFF_MODE:
            return
        elif code == oi.SAFE and not self._unsafe():
            self._enter(oi.SAFE_MODE)
        elif code == oi.DRIVE_DIRECT and self.mode == oi.SAFE_MODE:
            self.wheels_mmps = struct.unpack(">hh", command[1:])
        elif code == oi.STREAM:
            self.streams = command[2:] == bytes(number for number, _ in oi.PACKETS)
        elif code == oi.QUERY_LIST and command[2:] == bytes(oi.IDENTITY_PACKETS):
            self.say(struct.pack(">BHH", self.mode, self.voltage_mv, self.capacity_mah))
        elif code == oi.PAUSE_RESUME:
            self.streams = bool(command[1])
        elif code == oi.END:
            self._enter(oi.OFF_MODE)
            self.streams = False

    def _enter(self, mode: int) -> None:
        self.mode = mode
        if mode != oi.SAFE_MODE:
            self.wheels_mmps = (0, 0)

    def _unsafe(self) -> bool:
        return self.dropped or self.charger or (self.cliff and sum(self.wheels_mmps) > 0)

    def tick(self) -> None:
        """Moves, stops by itself where safe mode says so, and speaks every 15 ms (here as often as it can)."""
        now_s = time.monotonic()
        step_s, self._ticked_s = now_s - self._ticked_s, now_s
        if self.mode == oi.SAFE_MODE and self._unsafe():
            self._enter(oi.PASSIVE_MODE)
        for index, speed in enumerate(reversed(self.wheels_mmps)):
            self.counts[index] += speed / 1000 * step_s / oi.M_PER_COUNT
        if self.streams:
            left, right = (int(count) & 0xFFFF for count in self.counts)
            state = oi.CreateState(
                bumped=self.bumped,
                dropped=self.dropped,
                cliff=self.cliff,
                overcurrent=False,
                charger=self.charger,
                mode=self.mode,
                left_counts=left,
                right_counts=right,
                voltage_mv=self.voltage_mv,
                current_ma=self.current_ma,
                charge_mah=self.charge_mah,
                capacity_mah=self.capacity_mah,
            )
            self.say(oi.make_frame(oi.format_body(state)))
