"""What a meter's registers mean, and which readings no meter can have."""

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depai_robot.adapters.modbus_meter import (
    FORM_BY_KIND,
    ModbusMeter,
    decode_pzem017,
    decode_sdm120,
    words_to_float,
)
from depai_robot.values.error import ConfigError, DeviceFailedError, DeviceTimeoutError

words = st.integers(0, 0xFFFF)


def float_words(value: float) -> list[int]:
    return list(struct.unpack(">HH", struct.pack(">f", value)))


def sdm120_blocks(kwh: float, power_w: float = 0.0) -> list[list[int]]:
    now = [0] * 14
    now[0:2], now[6:8], now[12:14] = float_words(230.2), float_words(1.5), float_words(power_w)
    return [now, float_words(kwh)]


class Bus:
    """Answers from a list of readings in kWh; None is silence."""

    name = "/dev/meter"

    def __init__(self, *kwh: float | None) -> None:
        self.kwh = list(kwh)

    def read_inputs(self, device: int, address: int, count: int) -> list[int]:
        if self.kwh[0] is None:
            del self.kwh[0]
            raise DeviceTimeoutError("silent")
        blocks = sdm120_blocks(self.kwh[0], 100.0)
        if address:
            del self.kwh[0]
        return blocks[bool(address)]


def make_meter(*kwh: float | None, step_s: float = 1.0) -> ModbusMeter:
    times = iter(step_s * number for number in range(100))
    return ModbusMeter(Bus(*kwh), "sdm120", 1, 300.0, lambda: 7, monotonic_s=lambda: next(times))


def test_the_makers_example_of_a_float():
    """Source: Eastron's protocol document, reading "Volts 1": 43 66 33 34 (hex) are 230.2 V."""
    assert words_to_float((0x4366, 0x3334)) == pytest.approx(230.2, abs=1e-4)


def test_sdm120():
    sample = decode_sdm120(sdm120_blocks(12.345, 345.0))
    assert (sample.voltage_v, sample.current_a) == (pytest.approx(230.2, abs=1e-4), 1.5)
    assert sample.power_w == 345.0
    assert sample.energy_milliwh == pytest.approx(12_345_000, abs=1)


def test_pzem017():
    sample = decode_pzem017([[2650, 1130, 2994, 0, 0x0001, 0x0001]])
    assert (sample.voltage_v, sample.current_a, sample.power_w) == (26.5, 11.3, 299.4)
    assert sample.energy_milliwh == 65_537_000


def test_each_block_has_a_length_of_its_own_so_a_late_answer_is_known():
    for form in FORM_BY_KIND.values():
        counts = [count for _, count in form.blocks]
        assert len(set(counts)) == len(counts)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.5])
def test_what_is_no_energy_is_refused(value):
    with pytest.raises(DeviceFailedError, match="meter"):
        decode_sdm120(sdm120_blocks(value))


@given(st.lists(words, min_size=14, max_size=14), st.lists(words, min_size=2, max_size=2))
def test_any_words_are_a_finite_sample_or_refused(now, energy):
    try:
        sample = decode_sdm120([now, energy])
    except DeviceFailedError:
        return
    assert sample.energy_milliwh >= 0
    assert math.isfinite(sample.power_w)


@given(st.lists(words, min_size=6, max_size=6))
def test_any_words_of_a_pzem017_are_a_sample(six):
    assert decode_pzem017([six]).energy_milliwh >= 0


def test_a_register_that_falls_is_refused_until_it_is_there_again():
    meter = make_meter(1.0, 0.5, 1.001)
    assert meter.read().energy_milliwh == 1_000_000
    with pytest.raises(DeviceFailedError, match="fell from 1000000 to 500000 mWh"):
        meter.read()
    assert meter.read().energy_milliwh == pytest.approx(1_001_000, abs=1)


def test_a_register_that_jumps_is_refused():
    meter = make_meter(1.0, 1.1, 1.001)
    meter.read()
    with pytest.raises(DeviceFailedError, match=r"jumped from 1000000 to 11000\d\d mWh in 1.0 s, expected"):
        meter.read()
    assert meter.read().energy_milliwh == pytest.approx(1_001_000, abs=1)


def test_after_a_silence_as_much_may_have_flowed():
    meter = make_meter(1.0, None, 1.1, step_s=1200.0)
    meter.read()
    with pytest.raises(DeviceTimeoutError):
        meter.read()
    assert meter.read().energy_milliwh == pytest.approx(1_100_000, abs=1)


@given(st.floats(0, 9999), st.floats(0, 0.002))
def test_rounding_never_bills_more_than_the_register_says_nor_lets_it_fall(before, more):
    first = decode_sdm120(sdm120_blocks(before)).energy_milliwh
    second = decode_sdm120(sdm120_blocks(before + more)).energy_milliwh
    assert first <= words_to_float(float_words(before)) * 1e6
    assert second >= first


@pytest.mark.parametrize(("device", "power"), [(0, 300.0), (248, 300.0), (1, 0.0), (1, math.nan)])
def test_settings_that_can_not_be(device, power):
    with pytest.raises(ConfigError):
        ModbusMeter(Bus(), "sdm120", device, power, lambda: 0)
