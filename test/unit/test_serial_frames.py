"""Frames of serial devices: what public documents show, and whatever else may come."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depai_robot.adapters import daly, vedirect
from depai_robot.adapters import mcu_frame as mcu
from depai_robot.adapters.jbd import BASIC, find_answer, make_answer, make_question, parse_basic
from depai_robot.values.error import DeviceFailedError

RECORDED = bytes.fromhex("DD03001B1700000002D003E8000020780000000000001048030F020B760B82FBFF77")
"""An answer as JBD's protocol document shows it: 15 cells, 58.88 V, no current, 72 %."""


def test_the_question_of_the_document():
    assert make_question(BASIC) == bytes.fromhex("DDA50300FFFD77")


def test_the_answer_of_the_document():
    data, done = find_answer(RECORDED, BASIC)
    assert done == len(RECORDED)
    info = parse_basic(data)
    assert (info.voltage_v, info.current_a, info.state_of_charge) == (58.88, 0.0, 0.72)
    assert (info.charge_ah, info.capacity_ah, info.protection) == (7.2, 10.0, 0)
    assert info.charging_allowed
    assert info.discharging_allowed
    assert info.temperatures_c == pytest.approx((20.3, 21.5))
    assert make_answer(BASIC, data) == RECORDED


def test_discharging_is_negative():
    data = bytearray(find_answer(RECORDED, BASIC)[0])
    data[2:4] = struct.pack(">h", -1234)
    assert parse_basic(bytes(data)).current_a == -12.34


@pytest.mark.parametrize("spoil", range(len(RECORDED)))
def test_one_wrong_byte_is_no_answer(spoil):
    bad = bytearray(RECORDED)
    bad[spoil] ^= 0x20
    try:
        data, _ = find_answer(bytes(bad), BASIC)
    except DeviceFailedError:
        return
    assert data is None


@given(st.binary(max_size=60), st.binary(max_size=20))
def test_an_answer_is_found_in_garbage(before, after):
    buffer, found = before + RECORDED + after, None
    while found is None and buffer:
        found, done = find_answer(buffer, BASIC)
        if found is None and done == 0:
            break
        buffer = buffer[done:]
    # Garbage may look like the start of a longer frame; then more bytes are waited for, and nothing false is taken.
    assert found in (None, find_answer(RECORDED, BASIC)[0])
    if 0xDD not in before:
        assert found is not None


@given(st.binary(max_size=200))
def test_garbage_is_never_an_answer_and_never_raises_but_the_boards_own_error(data):
    try:
        found, done = find_answer(data, BASIC)
    except DeviceFailedError:
        return
    assert 0 <= done <= len(data)
    if found is not None:
        try:
            info = parse_basic(found)
        except DeviceFailedError:
            return
        assert 0 <= info.state_of_charge <= 1


def test_a_boards_error_is_said():
    with pytest.raises(DeviceFailedError, match="status 0x80"):
        find_answer(make_answer(BASIC, b"", 0x80), BASIC)


@pytest.mark.parametrize("data", [b"", b"\0" * 22, find_answer(RECORDED, BASIC)[0][:-1]])
def test_what_no_battery_says_is_refused(data):
    with pytest.raises(DeviceFailedError):
        parse_basic(data)


# --- the microcontroller ---------------------------------------------------------------------------------------------


def test_crc_and_cobs_as_published():
    assert mcu.crc16(b"123456789") == 0x29B1, "the check value of CRC-16/CCITT-FALSE"
    assert mcu.cobs_encode(b"\x11\x22\x00\x33") == b"\x03\x11\x22\x02\x33"
    assert mcu.cobs_encode(b"\x00") == b"\x01\x01"
    assert mcu.cobs_encode(b"") == b"\x01"


@given(st.binary(max_size=600))
def test_cobs_has_no_zeros_and_comes_back(data):
    coded = mcu.cobs_encode(data)
    assert 0 not in coded
    assert mcu.cobs_decode(coded) == data


@given(st.binary(max_size=600))
def test_anything_decodes_to_something_or_nothing(data):
    mcu.cobs_decode(data)
    mcu.decode(data)
    for kind, _, payload in mcu.Splitter().feed(data):
        assert 0 <= kind < 256
        mcu.parse_state(payload)
        mcu.parse_pads(payload)


@given(st.binary(max_size=40), st.lists(st.integers(1, 9), max_size=20))
def test_frames_are_found_after_garbage_however_they_are_cut(garbage, cuts):
    frame = mcu.make_drive(7, 0.25, -0.5)
    stream = garbage + b"\0" + frame
    splitter, found = mcu.Splitter(), []
    at = 0
    for size in [*cuts, len(stream)]:
        found += splitter.feed(stream[at : at + size])
        at += size
    assert found[-1] == (mcu.DRIVE, 7, struct.pack("<hh", 250, -500))


@pytest.mark.parametrize("spoil", range(len(mcu.make_drive(1, 0.1, 0.2)) - 1))
@pytest.mark.parametrize("bit", [1, 0x10, 0x80])
def test_a_damaged_frame_is_dropped_and_counted(spoil, bit):
    bad = bytearray(mcu.make_drive(1, 0.1, 0.2))
    bad[spoil] ^= bit
    splitter = mcu.Splitter()
    assert splitter.feed(bytes(bad)) == []
    assert splitter.damaged >= 1
    assert len(splitter.feed(mcu.make_stop(2, stop=True))) == 1


def test_states_come_back_as_they_were_said():
    state = mcu.BaseState(2**32 - 1, -5, 70_000, True, False, True, -450, 1200)
    assert mcu.parse_state(mcu.format_state(state)) == state
    pads = mcu.PadsState(5, 26_000, -1500, 123_456, bytes(range(1, 33)))
    assert mcu.parse_pads(mcu.format_pads(pads)) == pads
    assert mcu.parse_pads(mcu.format_pads(mcu.PadsState(5, 0, 0, 0, b""))).nonce == b""


# --- Daly ------------------------------------------------------------------------------------------------------------


def daly_answer(volts: float, raw_current: int, charge: float) -> bytes:
    data = struct.pack(">HHHH", round(volts * 10), 0, raw_current, round(charge * 1000))
    return daly.make_frame(daly.BOARD, daly.SUMMARY, data)


def test_dalys_question_of_the_document():
    assert daly.QUESTION == bytes.fromhex("A5409008000000000000000" + "07D")


def test_a_daly_pack_that_charges_is_positive():
    info = daly.parse_summary(daly.find_answer(daly_answer(52.8, 30_000 - 105, 0.655), daly.SUMMARY))
    assert (info.voltage_v, info.current_a, info.state_of_charge) == (52.8, 10.5, 0.655)
    info = daly.parse_summary(daly.find_answer(daly_answer(52.8, 30_000 + 105, 0.655), daly.SUMMARY))
    assert info.current_a == -10.5


@given(st.binary(max_size=60), st.binary(max_size=20))
def test_a_daly_answer_is_found_in_garbage(before, after):
    frame = daly_answer(48.0, 30_000, 0.5)
    found = daly.find_answer(before + frame + after, daly.SUMMARY)
    assert found is not None
    if b"\xa5\x01" not in before:
        assert found == frame[4:12]


@pytest.mark.parametrize("spoil", range(13))
def test_a_daly_answer_with_a_wrong_byte_is_none(spoil):
    bad = bytearray(daly_answer(48.0, 30_000, 0.5))
    bad[spoil] ^= 0x10
    assert daly.find_answer(bytes(bad), daly.SUMMARY) is None


# --- VE.Direct ----------------------------------------------------------------------------------------------------


def block(**fields: str) -> bytes:
    body = b"".join(f"\r\n{name}\t{value}".encode() for name, value in fields.items()) + vedirect.END
    return body + bytes((-sum(body) & 0xFF,))


MONITOR = {
    "PID": "0xA389",
    "V": "26201",
    "I": "-1500",
    "P": "-39",
    "SOC": "876",
    "AR": "0",
    "BMV": "SmartShunt",
}
HISTORY = {"H1": "-55", "H2": "-55", "H7": "23500"}


def test_a_monitors_block():
    fields, rest = vedirect.take_block(block(**MONITOR))
    assert rest == b""
    info = vedirect.parse_block(fields)
    assert (info.voltage_v, info.current_a, info.state_of_charge, info.protection) == (26.201, -1.5, 0.876, 0)
    assert vedirect.parse_block(vedirect.take_block(block(**HISTORY))[0]) is None


def test_a_block_that_was_joined_in_its_middle_is_passed_over():
    stream = block(**MONITOR)[17:] + block(**HISTORY) + block(**MONITOR)
    fields, rest = vedirect.take_block(stream)
    assert fields == HISTORY
    assert vedirect.take_block(rest)[0] == MONITOR


def test_hex_messages_between_are_passed_over():
    whole = block(**MONITOR)
    at = whole.index(b"\r\nSOC")
    assert vedirect.take_block(whole[:at] + b":A4F9F01000052\n" + whole[at:])[0] == MONITOR


@given(st.data())
def test_one_wrong_byte_spoils_the_block(data):
    bad = bytearray(block(**MONITOR))
    at = data.draw(st.integers(0, len(bad) - len(vedirect.END) - 2))
    bad[at] ^= data.draw(st.integers(1, 255))
    fields, _ = vedirect.take_block(bytes(bad))
    assert fields is None or fields != MONITOR


@given(st.binary(max_size=300))
def test_ve_direct_takes_any_garbage(data):
    fields, rest = vedirect.take_block(data)
    assert len(rest) <= len(data)
    if fields is not None:
        try:
            vedirect.parse_block(fields)
        except DeviceFailedError:
            pass


@pytest.mark.parametrize("changes", [{"V": "---"}, {"SOC": "1200"}, {"V": "0"}])
def test_what_no_monitor_says_is_refused(changes):
    with pytest.raises(DeviceFailedError, match="VE.Direct"):
        vedirect.parse_block(MONITOR | changes)
