"""A station's meter (address 1, PZEM-017) and head (address 2) on one pty, byte by byte, with current that flows."""

import time
from pathlib import Path

from test.serial_device import PtyDevice

DROP_S = 1.5


def crc(data: bytes) -> bytes:
    """CRC-16/MODBUS, low byte first. Source: "MODBUS over Serial Line" V1.02, 6.2.2."""
    value = 0xFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xA001 if value & 1 else 0)
    return value.to_bytes(2, "little")


class StationDevice(PtyDevice):
    """See the module.

    Attributes:
        present: somebody is on the pads.
        welded, stuck: the contactor does not open, does not close.
        power_w: while it is closed.
        energy_wh: delivered; the register says whole watt-hours of it, or milliwatt-hours times 1000 when fine.
        deaf_meter, deaf_head: does not answer.
        nonce: on the pads.
        closed_s: how long it was closed, all in all.
    """

    def __init__(self, link: Path | None = None) -> None:
        self.present = False
        self.welded = self.stuck = self.deaf_meter = self.deaf_head = False
        self.power_w, self.energy_wh, self.nonce, self.closed_s = 100.0, 1000.0, bytes(32), 0.0
        self.held = False
        self._held_s = self._ticked_s = time.monotonic()
        self._heard = b""
        super().__init__(link)

    @property
    def closed(self) -> bool:
        return (self.held and not self.stuck) or self.welded

    def tick(self) -> None:
        """Current flows while it is closed; the head drops what is no longer held."""
        now_s = time.monotonic()
        step_s, self._ticked_s = now_s - self._ticked_s, now_s
        if now_s - self._held_s > DROP_S or not self.present:
            self.held = False
        if self.closed:
            self.energy_wh += self.power_w * step_s / 3600
            self.closed_s += step_s

    def hear(self, data: bytes) -> None:
        """Questions of the functions 2, 4, 5 and 16; garbage is dropped as a whole."""
        self._heard += data
        if len(self._heard) < 8:
            return
        count = 9 + self._heard[6] if self._heard[1] == 16 else 8
        if len(self._heard) < count:
            return
        frame, self._heard = self._heard[:count], b""
        if crc(frame[:-2]) == frame[-2:]:
            self._answer(frame)

    def _answer(self, frame: bytes) -> None:
        device, function = frame[0], frame[1]
        address, count = int.from_bytes(frame[2:4], "big"), int.from_bytes(frame[4:6], "big")
        if (device == 1 and self.deaf_meter) or (device == 2 and self.deaf_head) or device not in (1, 2):
            return
        if (device, function) == (1, 4):
            power, energy = round(10 * self.power_w * self.closed), int(self.energy_wh)
            words = [2650, 400, power & 0xFFFF, power >> 16, energy & 0xFFFF, energy >> 16][address:][:count]
            body = bytes((device, 4, 2 * count)) + b"".join(word.to_bytes(2, "big") for word in words)
        elif (device, function) == (2, 2):
            body = bytes((device, 2, 1, self.present | self.closed << 1))
        elif (device, function) == (2, 5):
            self.held, self._held_s = frame[4:6] == b"\xff\x00" and self.present, time.monotonic()
            body = frame[:6]
        elif (device, function) == (2, 16):
            self.nonce = frame[7:-2]
            body = frame[:6]
        else:
            body = bytes((device, function | 0x80, 1))
        self.say(body + crc(body))
