"""The Create 2 Open Interface: the examples of iRobot's document, and whatever else may come on the line."""

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depai_robot.adapters import create_oi_frame as oi
from test.serial_device import CreateDevice

STATE = oi.CreateState(
    bumped=False,
    dropped=False,
    cliff=False,
    overcurrent=False,
    charger=False,
    mode=oi.SAFE_MODE,
    left_counts=65_530,
    right_counts=12,
    voltage_mv=15_200,
    current_ma=-310,
    charge_mah=1800,
    capacity_mah=2400,
)
FRAME = oi.make_frame(oi.format_body(STATE))
EXAMPLE = bytes((19, 5, 29, 2, 25, 13, 0, 163))
"""Source: the document, Stream: left cliff signal and virtual wall (it reads the bytes 2 25 as 0x0225, a slip)."""


def test_the_streams_example_of_the_document():
    assert oi.split_frame(EXAMPLE) == EXAMPLE[2:-1]
    assert oi.make_frame(EXAMPLE[2:-1]) == EXAMPLE


def test_the_signed_numbers_of_the_documents_drive_example():
    """-200 is [255][56] and 500 is [1][244] there, under the opcode 137; here they are the speeds of two wheels."""
    assert oi.make_drive(-200, 500) == bytes((145, 255, 56, 1, 244))


def test_right_comes_first_and_too_fast_is_refused():
    assert oi.make_drive(500, -500) == bytes((145, 1, 244, 254, 12))
    with pytest.raises(ValueError, match="500 mm/s at most, got 501"):
        oi.make_drive(501, 0)


def test_start_asks_for_a_stream_that_fits_into_its_slot():
    start = oi.make_start()
    assert start[:3] == bytes((128, 148, len(oi.PACKETS)))
    assert list(start[3:]) == [7, 9, 10, 11, 12, 14, 22, 23, 25, 26, 34, 35, 43, 44]
    assert len(FRAME) == oi.FRAME_BYTES <= 0.015 * oi.BAUD / 10


def test_the_end_stands_still_first():
    assert oi.make_end() == bytes((145, 0, 0, 0, 0, 150, 0, 128))


@pytest.mark.parametrize("said", range(5))
def test_a_rescue_also_ends_a_command_that_was_cut_off(said):
    device = CreateEars()
    device.hear(bytes((oi.START, oi.SAFE)) + oi.make_drive(300, 300))
    device.hear(oi.make_drive(300, 300)[:said] + oi.make_rescue())
    assert device.wheels_mmps == (0, 0)


class CreateEars(CreateDevice):
    """Only its parser: no line and no thread."""

    def __init__(self) -> None:
        self.mode, self.wheels_mmps, self.heard, self.starts = oi.OFF_MODE, (0, 0), b"", 0
        self.deaf = self.dropped = self.charger = self.cliff = False


@pytest.mark.parametrize(
    "changes",
    [
        {"bumped": True},
        {"dropped": True},
        {"cliff": True},
        {"overcurrent": True},
        {"charger": True},
        {"mode": oi.PASSIVE_MODE},
        {"current_ma": 1500, "left_counts": 0},
    ],
)
def test_a_state_comes_back_as_it_was(changes):
    state = replace(STATE, **changes)
    assert oi.parse_body(oi.format_body(state)) == state


@pytest.mark.parametrize("number", [9, 10, 11, 12])
def test_each_cliff_sensor_counts(number):
    body = bytearray(oi.format_body(STATE))
    body[1 + 2 * [7, 9, 10, 11, 12].index(number)] = 1
    assert oi.parse_body(bytes(body)).cliff


@pytest.mark.parametrize("spoil", range(oi.FRAME_BYTES))
def test_one_wrong_byte_is_no_state(spoil):
    bad = bytearray(FRAME)
    bad[spoil] ^= 0x20
    assert oi.Splitter().feed(bytes(bad)) == []


@pytest.mark.parametrize(("packet", "value"), [(7, 0x1F), (9, 2), (35, 4)])
def test_what_no_base_says_is_refused_even_with_a_good_checksum(packet, value):
    body = bytearray(oi.format_body(STATE))
    body[_data_of(packet)] = value
    assert oi.parse_body(bytes(body)) is None


def _data_of(wanted: int) -> int:
    at = 0
    for number, form in oi.PACKETS:
        if number == wanted:
            return at + 1
        at += 1 + struct.calcsize(form)
    raise AssertionError(wanted)


@given(st.binary(max_size=120), st.lists(st.integers(1, 50), max_size=8))
def test_a_state_is_found_behind_garbage_in_pieces_of_any_size(before, cuts):
    splitter, found, stream = oi.Splitter(), [], before + FRAME + FRAME
    for cut in [*cuts, len(stream)]:
        found += splitter.feed(stream[:cut])
        stream = stream[cut:]
    # A header inside the garbage may promise a frame; its checksum or its packet ids give it away.
    assert found == [STATE, STATE]


@given(st.binary(max_size=400))
def test_garbage_is_never_a_state_and_never_raises(data):
    splitter = oi.Splitter()
    for at in range(0, len(data), 7):
        assert splitter.feed(data[at : at + 7]) == []
    assert len(splitter._buffer) < oi.FRAME_BYTES


@given(st.integers(0, 65_535), st.integers(-30_000, 30_000))
def test_counts_wrap(before, way):
    assert oi.count_difference((before + way) & 0xFFFF, before) == way


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (struct.pack(">BHH", 1, 15_200, 2400), True),
        (struct.pack(">BHH", 0, 15_200, 2400), False),
        (struct.pack(">BHH", 2, 0, 2400), False),
        (struct.pack(">BHH", 2, 15_200, 65_535), False),
        (b"\x01\x3b", False),
    ],
)
def test_a_base_is_known_by_its_mode_and_battery(data, named):
    assert bool(oi.parse_identity(data)) is named
