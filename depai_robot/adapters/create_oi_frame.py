"""iRobot's Create 2 Open Interface, byte by byte: commands to the base, and the stream of what its sensors say.

Source: iRobot, "Create 2 Open Interface (OI) Specification based on the iRobot Roomba 600", 2018-07-19: its chapters
on modes, commands and sensor packets. Numbers are big endian. The base speaks every 15 ms once it is told to: ``19,
count, (packet id, data)..., checksum``, where all bytes of a frame add up to a multiple of 256.
"""

import math
import struct
from dataclasses import dataclass

BAUD = 115_200
START, SAFE, DRIVE_DIRECT, STREAM, QUERY_LIST, PAUSE_RESUME, END = 128, 131, 145, 148, 149, 150, 173
OFF_MODE, PASSIVE_MODE, SAFE_MODE, FULL_MODE = 0, 1, 2, 3
HEADER = 19
WHEEL_MAX_MMPS = 500
TRACK_M = 0.235
"""Between the wheels, as drivers of this base have it; to be measured on another."""
M_PER_COUNT = math.pi * 0.072 / 508.8
"""Source: packet 43: a wheel of 72 mm, 508.8 counts a turn. The direction is that of the command: no quadrature."""

PACKETS: tuple[tuple[int, str], ...] = (
    (7, "B"),  # bumps and wheel drops
    (9, "B"),  # cliff left, front left, front right, right
    (10, "B"),
    (11, "B"),
    (12, "B"),
    (14, "B"),  # overcurrents
    (22, "H"),  # battery: mV, mA (negative: out of it), mAh left, mAh when full
    (23, "h"),
    (25, "H"),
    (26, "H"),
    (34, "B"),  # chargers that are there
    (35, "B"),  # mode
    (43, "H"),  # encoders, left and right
    (44, "H"),
)
BODY_FORM = ">" + "".join("B" + form for _, form in PACKETS)
BODY_BYTES = struct.calcsize(BODY_FORM)
FRAME_BYTES = BODY_BYTES + 3
"""Of the 172 that fit into 15 ms at this speed."""
_BUMP_BITS, _DROP_BITS, _WHEEL_CURRENT_BITS = 0x03, 0x0C, 0x18
_CHARGERS = 0x03
_VOLTAGE_MV = range(5_000, 25_000)
_CAPACITY_MAH = range(500, 20_000)


@dataclass(frozen=True, slots=True)
class CreateState:
    """What the base says of itself.

    Attributes:
        bumped: a side of the bumper is pressed.
        dropped: a drive wheel hangs.
        cliff: a sensor at its front sees no floor.
        overcurrent: of a drive wheel.
        charger: a charger is plugged in, or its own dock touched.
        mode: one of the four above.
        left_counts, right_counts: of the encoders, 0..65535, wrap.
        voltage_mv, current_ma, charge_mah, capacity_mah: of its battery.
    """

    bumped: bool
    dropped: bool
    cliff: bool
    overcurrent: bool
    charger: bool
    mode: int
    left_counts: int
    right_counts: int
    voltage_mv: int
    current_ma: int
    charge_mah: int
    capacity_mah: int


def make_start() -> bytes:
    """Opens the interface (in passive mode: nothing moves) and asks for the stream."""
    return bytes((START, STREAM, len(PACKETS), *(number for number, _ in PACKETS)))


def make_drive(right_mmps: int, left_mmps: int) -> bytes:
    """Speed of each wheel, until told otherwise: the base itself has no time-out.

    Raises:
        ValueError: more than +-500 mm/s.
    """
    if max(abs(right_mmps), abs(left_mmps)) > WHEEL_MAX_MMPS:
        raise ValueError(
            f"wheels go at +-{WHEEL_MAX_MMPS} mm/s at most, got {right_mmps} right, {left_mmps} left"
        )
    return struct.pack(">Bhh", DRIVE_DIRECT, right_mmps, left_mmps)


def make_end() -> bytes:
    """Wheels stand, the stream pauses, and the base is passive: it may sleep and charge."""
    return make_drive(0, 0) + bytes((PAUSE_RESUME, 0, START))


def make_rescue() -> bytes:
    """Wheels stand, also when the driver died in the middle of a command: that one is filled up first."""
    return bytes(4) + make_drive(0, 0)


IDENTITY_PACKETS = (35, 22, 26)
IDENTITY_BYTES = 5


def make_identity_question() -> bytes:
    """Mode, voltage and capacity, once."""
    return bytes((START, QUERY_LIST, len(IDENTITY_PACKETS), *IDENTITY_PACKETS))


def parse_identity(data: bytes) -> str:
    """In words; empty when no base of this kind would say that."""
    if len(data) != IDENTITY_BYTES:
        return ""
    mode, voltage, capacity = struct.unpack(">BHH", data)
    if mode not in (PASSIVE_MODE, SAFE_MODE, FULL_MODE):
        return ""
    if voltage not in _VOLTAGE_MV or capacity not in _CAPACITY_MAH:
        return ""
    return f"Create 2 Open Interface, battery {voltage / 1000:.2f} V, {capacity} mAh when full"


def checksum(data: bytes) -> int:
    """Makes the sum a multiple of 256."""
    return -sum(data) & 0xFF


def make_frame(body: bytes) -> bytes:
    """For simulators."""
    head = bytes((HEADER, len(body))) + body
    return head + bytes((checksum(head),))


def split_frame(frame: bytes) -> bytes | None:
    """The body of a whole frame; None when it is damaged."""
    if len(frame) < 3 or frame[0] != HEADER or frame[1] != len(frame) - 3 or sum(frame) & 0xFF:
        return None
    return frame[2:-1]


def parse_body(body: bytes) -> CreateState | None:
    """None when it is not exactly what :func:`make_start` has asked for, or says what no base can."""
    if len(body) != BODY_BYTES:
        return None
    fields = struct.unpack(BODY_FORM, body)
    if fields[::2] != tuple(number for number, _ in PACKETS):
        return None
    value = dict(zip(fields[::2], fields[1::2], strict=True))
    if value[35] > FULL_MODE or value[7] > 0x0F or any(value[number] > 1 for number in (9, 10, 11, 12)):
        return None
    return CreateState(
        bumped=bool(value[7] & _BUMP_BITS),
        dropped=bool(value[7] & _DROP_BITS),
        cliff=any(value[number] for number in (9, 10, 11, 12)),
        overcurrent=bool(value[14] & _WHEEL_CURRENT_BITS),
        charger=bool(value[34] & _CHARGERS),
        mode=value[35],
        left_counts=value[43],
        right_counts=value[44],
        voltage_mv=value[22],
        current_ma=value[23],
        charge_mah=value[25],
        capacity_mah=value[26],
    )


def format_body(state: CreateState) -> bytes:
    """For simulators; a flag is said by one of its sensors."""
    value = dict.fromkeys((number for number, _ in PACKETS), 0) | {
        7: 0x01 * state.bumped | 0x04 * state.dropped,
        10: int(state.cliff),
        14: 0x08 * state.overcurrent,
        22: state.voltage_mv,
        23: state.current_ma,
        25: state.charge_mah,
        26: state.capacity_mah,
        34: 0x01 * state.charger,
        35: state.mode,
        43: state.left_counts & 0xFFFF,
        44: state.right_counts & 0xFFFF,
    }
    return struct.pack(BODY_FORM, *(part for number, _ in PACKETS for part in (number, value[number])))


class Splitter:
    """Bytes in, states out; garbage is passed over, and counted."""

    def __init__(self) -> None:
        self._buffer = b""
        self.damaged = 0

    def feed(self, data: bytes) -> list[CreateState]:
        """Every whole frame that has come."""
        buffer, found, start = self._buffer + data, [], 0
        head = bytes((HEADER, BODY_BYTES))
        while (at := buffer.find(head, start)) >= 0 and len(buffer) - at >= FRAME_BYTES:
            body = split_frame(buffer[at : at + FRAME_BYTES])
            state = None if body is None else parse_body(body)
            if state is None:
                self.damaged += 1
                start = at + 1
                continue
            found.append(state)
            start = at + FRAME_BYTES
        rest = buffer[max(start, at) :] if at >= 0 else buffer[start:][-1:]
        self._buffer = rest
        return found


def count_difference(now: int, before: int) -> int:
    """Way between two counts, shortest way round."""
    return ((now - before + 0x8000) & 0xFFFF) - 0x8000
