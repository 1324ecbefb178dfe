"""A station's contactor and meter over Modbus: what flows is what was paid, and everything that fails opens."""

import time

import pytest

from depai_robot.adapters import modbus_connector
from depai_robot.adapters.modbus_bus import ModbusBus
from depai_robot.adapters.modbus_connector import ModbusConnector
from depai_robot.adapters.modbus_meter import ModbusMeter
from depai_robot.app.part import SystemClock
from depai_robot.values.error import DeviceAbsentError, DeviceError, DeviceFailedError, DeviceTimeoutError
from test.station_device import DROP_S, StationDevice

FULL_MILLIWH = 10_000_000


def until(condition, timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.01)


def open_connector(path) -> tuple[ModbusConnector, ModbusBus]:
    bus, clock = ModbusBus(str(path), 9600, timeout_s=0.2), SystemClock()
    meter = ModbusMeter(bus, "pzem017", 1, 5000.0, clock.session_ns)
    try:
        return ModbusConnector(meter, bus, 2, clock), bus
    except DeviceError:
        bus.close()
        raise


@pytest.fixture
def bench(tmp_path):
    device = StationDevice(tmp_path / "station")
    connector, bus = open_connector(tmp_path / "station")
    yield device, connector
    connector.close()
    bus.close()
    device.close()


def begin(device: StationDevice, connector: ModbusConnector, until_milliwh: int = FULL_MILLIWH) -> None:
    device.present = True
    until(connector.present)
    connector.energise(300.0, until_milliwh)
    assert device.closed


def test_nonce_presence_and_power(bench):
    device, connector = bench
    assert not connector.present()
    connector.write_probe(bytes(range(1, 33)))
    assert device.nonce == bytes(range(1, 33))
    connector.write_probe(b"")
    assert device.nonce == bytes(32)
    with pytest.raises(DeviceFailedError, match="nobody is on the pads"):
        connector.energise(300.0, FULL_MILLIWH)
    begin(device, connector)
    until(lambda: connector.read().power_w == 100.0)
    time.sleep(DROP_S + 0.5)  # it is held again and again
    assert device.closed
    connector.deenergise()
    until(lambda: not device.closed, 1)
    begin(device, connector)  # at once again: no weld is suspected
    connector.open()
    until(lambda: not device.closed, 1)


def test_it_opens_when_what_was_paid_has_flowed(bench):
    device, connector = bench
    device.power_w = 3600.0  # a watt-hour a second
    device.present = True
    until(connector.present)
    connector.energise(3600.0, 1_003_000)
    until(lambda: not device.closed, 6)
    assert 2.0 < device.energy_wh - 1000 <= 4.1  # one step of the register more at most
    register = connector.read().energy_milliwh
    connector.energise(3600.0, register)  # nothing more is paid: nothing happens
    assert not device.closed
    connector.energise(3600.0, register + 10_000)
    assert device.closed


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"deaf_meter": True}, "no good answer"),
        ({"deaf_head": True}, "no good answer"),
        ({"power_w": 900.0}, "900 W flow, expected 300 W at most"),
        ({"energy_wh": 2000.0}, "jumped"),
        ({"energy_wh": 900.0}, "fell"),
        ({"garble": 0x11}, "no good answer"),
        ({"stuck": True}, "does not close"),
    ],
    ids=lambda item: next(iter(item)) if isinstance(item, dict) else "",
)
def test_each_fault_opens_and_is_said(bench, fault, words):
    device, connector = bench
    begin(device, connector)
    for name, value in fault.items():
        setattr(device, name, value)
    until(lambda: not device.closed, DROP_S + 2)
    until(lambda: words in _said(connector.read), 5)
    with pytest.raises(DeviceError):
        connector.energise(300.0, FULL_MILLIWH)


def _said(call) -> str:
    try:
        call()
    except DeviceError as error:
        return str(error)
    return ""


def test_a_robot_that_leaves_is_no_fault(bench):
    device, connector = bench
    begin(device, connector)
    device.present = False
    until(lambda: not device.closed, 1)
    until(lambda: not connector.present())
    time.sleep(0.3)
    assert connector.read().energy_milliwh >= 1_000_000


def test_after_a_fault_the_next_session_works(bench):
    device, connector = bench
    begin(device, connector)
    device.deaf_meter = True
    until(lambda: not device.closed)
    device.deaf_meter = False
    connector.deenergise()
    until(lambda: not _said(connector.read))
    begin(device, connector)


def test_a_welded_contactor_is_not_switched_on(bench):
    device, connector = bench
    device.welded = device.present = True
    until(connector.present)
    with pytest.raises(DeviceFailedError, match="welded"):
        connector.energise(300.0, FULL_MILLIWH)


def test_a_contactor_that_never_closes(bench):
    device, connector = bench
    device.stuck = device.present = True
    until(connector.present)
    with pytest.raises(DeviceFailedError, match="does not close"):
        connector.energise(300.0, FULL_MILLIWH)
    until(lambda: not device.held)


def test_a_pulled_cable_lets_the_head_drop_and_the_station_goes_on_when_it_is_back(bench):
    device, connector = bench
    begin(device, connector)
    device.unplug()
    until(lambda: not device.closed, DROP_S + 1)
    until(lambda: _said(connector.present), 5)
    with pytest.raises(DeviceTimeoutError, match="silent"):
        connector.present()
    device.plug()
    connector.deenergise()
    until(lambda: not _said(connector.present) and not _said(connector.read), 8)


def test_without_a_head_there_is_no_connector(tmp_path, monkeypatch):
    monkeypatch.setattr(modbus_connector, "START_S", 1.0)
    device = StationDevice(tmp_path / "station")
    device.deaf_head = True
    try:
        with pytest.raises(DeviceAbsentError, match="no answer of meter and head 2"):
            open_connector(tmp_path / "station")
    finally:
        device.close()


def test_closing_opens(tmp_path):
    device = StationDevice(tmp_path / "station")
    connector, bus = open_connector(tmp_path / "station")
    begin(device, connector)
    connector.close()
    assert not device.closed
    bus.close()
    device.close()
