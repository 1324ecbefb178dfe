"""A station whose connector is a real line: configuration, and the program on a byte-level meter and head."""

import signal
import time

import pytest
import yaml

from depai_robot.adapters import modbus_connector
from depai_robot.app.station_hardware import (
    ModbusConnectorPart,
    ModbusHeadPart,
    ModbusMeterPart,
    check_connectors,
    open_connectors,
)
from depai_robot.values.error import ConfigError, DeviceAbsentError
from test.site_world import make_site, start_station
from test.station_device import StationDevice


def part(port: str, meter: int = 1, head: int = 2, **head_line: int) -> ModbusConnectorPart:
    return ModbusConnectorPart(
        meter=ModbusMeterPart(kind="pzem017", port=port, device=meter),
        head=ModbusHeadPart(port=port, device=head, **head_line),
    )


def test_two_connectors_may_share_a_line_but_no_address_and_no_speed_differs():
    check_connectors([part("/dev/a"), part("/dev/a", 3, 4), part("/dev/b")])
    with pytest.raises(ConfigError, match=r"modbus\[1\].head: device 2 of /dev/a is used twice"):
        check_connectors([part("/dev/a"), part("/dev/a", 3, 2)])
    with pytest.raises(
        ConfigError, match=r"modbus\[0\].head: 19200 baud and 1 stop bits, expected 9600 and 1"
    ):
        check_connectors([part("/dev/a", baud=19_200)])


def test_a_line_that_is_not_there_is_said_and_lets_go(tmp_path, monkeypatch):
    monkeypatch.setattr(modbus_connector, "START_S", 0.5)
    with pytest.raises(DeviceAbsentError, match="no answer of meter and head 2"):
        open_connectors([part(str(tmp_path / "none"))], 300.0)


def test_the_station_serves_on_a_real_line_and_switches_off_at_the_end(tmp_path):
    device = StationDevice(tmp_path / "rs485")
    try:
        with make_site(tmp_path) as (folder, _):
            tree = yaml.safe_load((folder / "station.yaml").read_text())
            del tree["link"]
            line = {"port": str(tmp_path / "rs485")}
            tree["modbus"] = [{"meter": {"kind": "pzem017", **line}, "head": line}]
            (folder / "station.yaml").write_text(yaml.safe_dump(tree))
            station, log = start_station(folder), folder / "station.log"
            try:
                end = time.monotonic() + 100
                while b"serves" not in log.read_bytes():
                    assert station.poll() is None, log.read_text()
                    assert time.monotonic() < end, log.read_text()
                    time.sleep(0.1)
                device.present = True
                time.sleep(1.0)
                assert station.poll() is None, log.read_text()
                assert not device.closed  # nobody has paid
            finally:
                station.send_signal(signal.SIGTERM)
                assert station.wait(20) == 0, log.read_text()
    finally:
        device.close()
