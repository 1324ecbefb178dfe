"""The small framed protocol of a robot's microcontroller: wheels, pads and their meter on one line.

Frames are COBS-encoded and end in 0x00, so a receiver is in step after any garbage with the next zero. Inside: kind (1
byte), sequence (1 byte), payload, CRC-16/CCITT-FALSE over all of it, little endian. Source of COBS: S. Cheshire and
M. Baker, "Consistent Overhead Byte Stuffing", IEEE/ACM Transactions on Networking 7 (1999); of the CRC: poly 0x1021,
init 0xFFFF. ``firmware/depai_base`` is the reference for the other end.

    host -> board  DRIVE  int16 mm/s, int16 mrad/s; the board stops 300 ms after the last one
    host -> board  STOP   uint8: 1 stops at once, 0 releases
    board -> host  STATE  uint32 ms, int32 mm left, int32 mm right, uint8 flags, int16 mm/s, int16 mrad/s
    board -> host  PADS   uint32 ms, uint16 mV, int16 mA, uint32 mWh taken in, 32 bytes nonce or zeros
"""

import binascii
import struct
from dataclasses import dataclass

DRIVE, STOP, STATE, PADS = 0x01, 0x02, 0x81, 0x82
FLAG_CONTACT, FLAG_STOPPED, FLAG_FAULT = 1, 2, 4
FRAME_MAX = 96
"""Longer runs without a zero are garbage."""
_STATE_FORM, _PADS_FORM = "<IiiBhh", "<IHhI32s"
LIMIT = 32_767
NONCE_BYTES = 32
"""Source: charging.fact.PresenceChanged."""


@dataclass(frozen=True, slots=True)
class BaseState:
    """What the wheels do.

    Attributes:
        stamp_ms: the board's clock; wraps after 49 days.
        left_mm, right_mm: way of each wheel since power-up.
        contact: the pads touch.
        stopped: by the emergency stop.
        fault: a drive has failed.
        linear_mmps, angular_mradps: measured.
    """

    stamp_ms: int
    left_mm: int
    right_mm: int
    contact: bool
    stopped: bool
    fault: bool
    linear_mmps: int
    angular_mradps: int


@dataclass(frozen=True, slots=True)
class PadsState:
    """What the pads' meter says.

    Attributes:
        stamp_ms: the board's clock.
        voltage_mv, current_ma: at the pads, into the robot.
        energy_milliwh: taken in since power-up.
        nonce: on the pads; empty when there is none.
    """

    stamp_ms: int
    voltage_mv: int
    current_ma: int
    energy_milliwh: int
    nonce: bytes


def crc16(data: bytes) -> int:
    """CRC-16/CCITT-FALSE."""
    return binascii.crc_hqx(data, 0xFFFF)


def cobs_encode(data: bytes) -> bytes:
    """Without zeros; the delimiter is not part of it."""
    out = bytearray()
    block = bytearray()
    for byte in data:
        if byte == 0:
            out += bytes((len(block) + 1,)) + block
            block.clear()
            continue
        block.append(byte)
        if len(block) == 254:
            out += b"\xff" + block
            block.clear()
    return bytes(out + bytes((len(block) + 1,)) + block)


def cobs_decode(data: bytes) -> bytes | None:
    """None when it is no COBS."""
    out = bytearray()
    index = 0
    while index < len(data):
        code = data[index]
        block = data[index + 1 : index + code]
        if code == 0 or len(block) != code - 1 or 0 in block:
            return None
        out += block
        index += code
        if code < 0xFF and index < len(data):
            out.append(0)
    return bytes(out)


def encode(kind: int, sequence: int, payload: bytes) -> bytes:
    """A frame with its delimiter."""
    body = bytes((kind, sequence & 0xFF)) + payload
    return cobs_encode(body + struct.pack("<H", crc16(body))) + b"\0"


def decode(frame: bytes) -> tuple[int, int, bytes] | None:
    """(kind, sequence, payload) of a frame without its delimiter; None when it is damaged."""
    body = cobs_decode(frame)
    if body is None or len(body) < 4 or struct.unpack("<H", body[-2:])[0] != crc16(body[:-2]):
        return None
    return body[0], body[1], bytes(body[2:-2])


class Splitter:
    """Bytes in, good frames out; counts what was thrown away."""

    def __init__(self) -> None:
        self._buffer = b""
        self.damaged = 0

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Every whole frame that has come."""
        *frames, rest = (self._buffer + data).split(b"\0")
        self._buffer = rest if len(rest) <= FRAME_MAX else b""
        self.damaged += len(rest) > FRAME_MAX
        good = []
        for frame in frames:
            decoded = decode(frame) if frame and len(frame) <= FRAME_MAX else None
            if decoded is not None:
                good.append(decoded)
            elif frame:
                self.damaged += 1
        return good


def make_drive(sequence: int, linear_mps: float, angular_radps: float) -> bytes:
    """Metres and radians a second; clipped to what the frame holds."""
    linear, angular = (max(-LIMIT, min(LIMIT, round(1000 * value))) for value in (linear_mps, angular_radps))
    return encode(DRIVE, sequence, struct.pack("<hh", linear, angular))


def make_stop(sequence: int, *, stop: bool) -> bytes:
    """Emergency stop, or its release."""
    return encode(STOP, sequence, bytes((int(stop),)))


def parse_state(payload: bytes) -> BaseState | None:
    """None when it has another length."""
    if len(payload) != struct.calcsize(_STATE_FORM):
        return None
    ms, left, right, flags, linear, angular = struct.unpack(_STATE_FORM, payload)
    contact, stopped, fault = (bool(flags & bit) for bit in (FLAG_CONTACT, FLAG_STOPPED, FLAG_FAULT))
    return BaseState(ms, left, right, contact, stopped, fault, linear, angular)


def format_state(state: BaseState) -> bytes:
    """For simulators."""
    flags = FLAG_CONTACT * state.contact | FLAG_STOPPED * state.stopped | FLAG_FAULT * state.fault
    return struct.pack(
        _STATE_FORM,
        state.stamp_ms & 0xFFFFFFFF,
        state.left_mm,
        state.right_mm,
        flags,
        state.linear_mmps,
        state.angular_mradps,
    )


def parse_pads(payload: bytes) -> PadsState | None:
    """None when it has another length."""
    if len(payload) != struct.calcsize(_PADS_FORM):
        return None
    ms, voltage, current, energy, nonce = struct.unpack(_PADS_FORM, payload)
    return PadsState(ms, voltage, current, energy, b"" if nonce == bytes(NONCE_BYTES) else nonce)


def format_pads(state: PadsState) -> bytes:
    """For simulators."""
    return struct.pack(
        _PADS_FORM,
        state.stamp_ms & 0xFFFFFFFF,
        state.voltage_mv,
        state.current_ma,
        state.energy_milliwh,
        state.nonce.ljust(NONCE_BYTES, b"\0")[:NONCE_BYTES],
    )
