"""A station's real connectors as ``station.yaml`` names them: meter and head on RS-485 lines."""

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct

from depai_robot.sim.dishonest import Hardware
from depai_robot.values.error import ConfigError, DepaiError

Port = Annotated[str, Meta(min_length=1, max_length=200)]
DeviceNumber = Annotated[int, Meta(ge=1, le=247)]
Baud = Annotated[int, Meta(ge=1200, le=115_200)]


class ModbusMeterPart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A meter on a line.

    Attributes:
        kind: ``pzem017`` on the pads' side (DC), ``sdm120`` on the mains' side (AC).
        port: path below /dev/serial/by-id, or ``usb:VID:PID:SERIAL``.
        device: its address.
        baud, stop_bits: of the line; every device on it needs the same.
    """

    kind: Literal["pzem017", "sdm120"]
    port: Port
    device: DeviceNumber = 1
    baud: Baud = 9600
    stop_bits: Literal[1, 2] = 1


class ModbusHeadPart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A head on a line; adapters.modbus_connector says what it must do.

    Attributes:
        port, device, baud, stop_bits: as above; on the meter's line it needs another address.
    """

    port: Port
    device: DeviceNumber = 2
    baud: Baud = 9600
    stop_bits: Literal[1, 2] = 1


class ModbusConnectorPart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One connector."""

    meter: ModbusMeterPart
    head: ModbusHeadPart


def check_connectors(parts: Sequence[ModbusConnectorPart]) -> None:
    """Raises ConfigError: two devices with one address on a line, or a line with two speeds."""
    line_by_port: dict[str, tuple[int, int]] = {}
    seen: set[tuple[str, int]] = set()
    for number, part in enumerate(parts, start=1):
        for name, device in (("meter", part.meter), ("head", part.head)):
            where = f"modbus[{number - 1}].{name}"
            line = (device.baud, device.stop_bits)
            known = line_by_port.setdefault(device.port, line)
            if line != known:
                raise ConfigError(
                    f"{where}: {line[0]} baud and {line[1]} stop bits, expected {known[0]} and {known[1]} as before on"
                    f" {device.port}"
                )
            if (device.port, device.device) in seen:
                raise ConfigError(f"{where}: device {device.device} of {device.port} is used twice")
            seen.add((device.port, device.device))


def open_connectors(parts: Sequence[ModbusConnectorPart], power_max_w: float) -> dict[int, Hardware]:
    """By number, the first is 1; each answers.

    Raises:
        ConfigError: pymodbus is not installed, or see :func:`check_connectors`.
        DeviceAbsentError: a meter or a head does not answer.
    """
    check_connectors(parts)
    try:
        from depai_robot.adapters.modbus_bus import ModbusBus
        from depai_robot.adapters.modbus_connector import ModbusConnector
        from depai_robot.adapters.modbus_meter import ModbusMeter
        from depai_robot.app.part import SystemClock
    except ModuleNotFoundError as error:
        raise ConfigError(f"modbus needs the extra: pip install 'depai_robot[modbus]' ({error})") from error
    clock = SystemClock()
    bus_by_port: dict[str, ModbusBus] = {}
    connectors: dict[int, ModbusConnector] = {}
    for part in parts:
        for device in (part.meter, part.head):
            if device.port not in bus_by_port:
                bus_by_port[device.port] = ModbusBus(
                    device.port, device.baud, stop_bits=device.stop_bits, timeout_s=0.2
                )
    try:
        for number, part in enumerate(parts, start=1):
            meter = ModbusMeter(
                bus_by_port[part.meter.port],
                part.meter.kind,
                part.meter.device,
                power_max_w,
                clock.session_ns,
            )
            connectors[number] = ModbusConnector(meter, bus_by_port[part.head.port], part.head.device, clock)
    except DepaiError:
        for connector in connectors.values():
            connector.close()
        for bus in bus_by_port.values():
            bus.close()
        raise
    return dict(connectors)
