"""A Modbus meter: pymodbus's own server at the other end of a pty, and the faults of the field in between."""

import time

import pytest

from depai_robot.adapters.modbus_bus import ModbusBus
from depai_robot.adapters.modbus_meter import ModbusMeter, words_to_float
from depai_robot.app.hardware_probe import probe_port
from depai_robot.values.error import DeviceAbsentError, DeviceError, DeviceFailedError, DeviceTimeoutError
from test.modbus_device import MeterDevice
from test.serial_device import PtyDevice


@pytest.fixture
def bench(tmp_path):
    device = MeterDevice(tmp_path / "meter")
    device.sdm120(230.0, 1.3, 299.0, 12.5)
    bus = ModbusBus(str(tmp_path / "meter"), 9600)
    yield device, bus, ModbusMeter(bus, "sdm120", 1, 300.0, time.time_ns)
    bus.close()
    device.close()


def test_a_meter_is_read(bench):
    device, _, meter = bench
    reading = meter.read()
    assert (reading.energy_milliwh, reading.power_w) == (12_500_000, 299.0)
    assert abs(time.time_ns() - reading.stamp_ns) < 5e9
    assert device.asked == [(4, 0, 14), (4, 0x48, 2)]
    device.sdm120(230.0, 1.3, 299.0, 12.501)
    assert meter.read().energy_milliwh == pytest.approx(12_501_000, abs=1)


class Recorded(PtyDevice):
    """Answers the question of Eastron's protocol document with its answer: "Volts 1" of device 1."""

    question, answer = bytes.fromhex("0104 0000 0002 71CB"), bytes.fromhex("0104 04 43663334 1B38")

    def hear(self, data: bytes) -> None:
        self.heard = getattr(self, "heard", b"") + data
        if self.heard.endswith(self.question):
            self.say(self.answer)


def test_the_frames_of_the_makers_document():
    device = Recorded()
    bus = ModbusBus(device.path)
    try:
        assert words_to_float(bus.read_inputs(1, 0, 2)) == pytest.approx(230.2, abs=1e-4)
        device.answer = device.answer[:-1] + b"\x39"
        with pytest.raises(DeviceTimeoutError):
            bus.read_inputs(1, 0, 2)
        device.answer = bytes.fromhex("0104 02 4366 0D0A")  # another length; its checksum is wrong, too
        with pytest.raises(DeviceError):
            bus.read_inputs(1, 0, 2)
    finally:
        bus.close()
        device.close()


def test_the_probe_names_it(tmp_path):
    device = MeterDevice(tmp_path / "meter")
    device.sdm120(230.0, 1.3, 299.0, 12.5)
    try:
        found = probe_port(str(tmp_path / "meter"))
        assert (found.device, found.detail) == (
            "sdm120",
            "address 1, 2400 baud: 230.0 V, 299.0 W, 12.500 kWh",
        )
    finally:
        device.close()


def test_silence_is_no_reading_at_once_and_it_comes_back(bench):
    device, _, meter = bench
    assert meter.read()
    device.splice.silent = True
    begin_s = time.monotonic()
    with pytest.raises(
        DeviceTimeoutError, match="device 1, input registers 0x0000 to 0x000d: no good answer"
    ):
        meter.read()
    assert time.monotonic() - begin_s < 2.0
    device.splice.silent = False
    assert meter.read().power_w == 299.0


def test_garbage_is_no_reading_and_slow_bytes_are_one(bench):
    device, _, meter = bench
    device.splice.garble = 0x21
    with pytest.raises(DeviceError):
        meter.read()
    device.splice.garble, device.splice.slow_s = 0, 0.001
    assert meter.read().energy_milliwh == 12_500_000


def test_noise_before_an_answer_never_gives_a_false_one(bench):
    device, _, meter = bench
    device.splice.noise = b"\x01\x04\x1c\x00"
    try:
        assert meter.read().energy_milliwh == 12_500_000
    except DeviceError:
        pass
    device.splice.noise = b""
    assert meter.read().energy_milliwh == 12_500_000


def test_a_refusal_says_its_code(bench):
    device, _, meter = bench
    device.refuses = True
    with pytest.raises(DeviceFailedError, match="Modbus exception 4"):
        meter.read()


def test_another_address_is_silent(bench):
    _, bus, _ = bench
    with pytest.raises(DeviceError):
        ModbusMeter(bus, "sdm120", 9, 300.0, time.time_ns).read()


def test_unplugged_and_back_under_another_name(bench):
    device, _, meter = bench
    assert meter.read()
    device.splice.unplug()
    with pytest.raises(DeviceError):
        meter.read()
    device.splice.plug()
    deadline = time.monotonic() + 8
    while True:
        try:
            assert meter.read().energy_milliwh == 12_500_000
            break
        except DeviceError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_second_master_is_refused(bench, tmp_path):
    _, _, meter = bench
    assert meter.read()
    with pytest.raises(DeviceAbsentError, match="another program has it"):
        ModbusBus(str(tmp_path / "meter")).read_inputs(1, 0, 2)
