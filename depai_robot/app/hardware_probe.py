"""Names what is on serial ports, by what it says.

Base board and Victron's monitors speak by themselves, other boards when they are asked. Listening comes first. Only
questions that change nothing are asked; a device that is none of these gets a few bytes that it does not know.
"""

import importlib.util
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from depai_robot.adapters import create_oi_frame, daly, jbd, vedirect
from depai_robot.adapters.mcu_frame import PADS, STATE, Splitter
from depai_robot.adapters.serial_line import SerialLine
from depai_robot.values.error import DeviceError

if TYPE_CHECKING:
    from depai_robot.adapters.battery_board import PackReader

LISTEN_S = 0.4
METER_ANSWER_S = 0.25
METER_VOLTAGE_MAX_V = 500.0
BASE_BAUD = 115_200
PORTS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Found:
    """One port.

    Attributes:
        port: its path.
        about: what the adapter says of itself.
        device: driver's name as in hardware.yaml (``depai-mcu``, ``create-oi``, ``vedirect``, ``jbd``,
            ``daly``) or kind of meter (``sdm120``, ``pzem017``), or empty when
            nothing answered.
        detail: a reading, or why there is none.
    """

    port: str
    about: str
    device: str
    detail: str


def list_serial_ports() -> list[tuple[str, str]]:
    """(path, what the adapter says of itself) of every port with a device behind it."""
    from serial.tools import list_ports

    found = []
    for port in list_ports.comports():
        if port.vid is None and "ttyS" in str(port.device):
            continue  # a board's own ports are listed whether or not anything is there
        usb = f"usb:{port.vid:04x}:{port.pid:04x}:{port.serial_number or ''} " if port.vid is not None else ""
        found.append((str(port.device), f"{usb}{port.description or ''}".strip()))
    return found


def probe_port(port: str, about: str = "") -> Found:
    """Listens, then asks."""
    try:
        heard = hear_base(port)
        if heard:
            return Found(port, about, "depai-mcu", heard)
        heard = ask_create(port)
        if heard:
            return Found(port, about, "create-oi", heard)
    except DeviceError as error:
        return Found(port, about, "", str(error))
    why = ""
    # In this order: who speaks by itself is heard before anybody is asked.
    boards: tuple[tuple[str, PackReader], ...] = (
        ("vedirect", vedirect.VeDirectMonitor(SerialLine(port, vedirect.BAUD, vedirect.TIMEOUT_S))),
        ("jbd", jbd.JbdBms(SerialLine(port, jbd.BAUD, jbd.TIMEOUT_S))),
        ("daly", daly.DalyBms(SerialLine(port, daly.BAUD, daly.TIMEOUT_S))),
    )
    for name, board in boards:
        try:
            info = board.read()
        except DeviceError as error:
            why = str(error)
            continue
        finally:
            board.close()
        detail = f"{info.voltage_v:.2f} V, {info.current_a:.2f} A, {info.state_of_charge:.0%}"
        return Found(port, about, name, detail)
    kind, detail = _ask_meter(port)
    if kind:
        return Found(port, about, kind, detail)
    return Found(port, about, "", f"nothing that we know answers: {why}")


def hear_base(port: str, baud: int = BASE_BAUD) -> str:
    """What our board says by itself, in words; empty when it is silent. Raises DeviceError."""
    line = SerialLine(port, baud, LISTEN_S)
    splitter = Splitter()
    try:
        end = time.monotonic() + LISTEN_S
        while time.monotonic() < end:
            for kind, _, _ in splitter.feed(line.read(256, 0.1)):
                if kind in (STATE, PADS):
                    return "speaks the base's protocol"
    finally:
        line.close()
    return ""


def ask_create(port: str) -> str:
    """Asks for mode and battery, and leaves the interface as it mostly was: off. No wheel moves in between.

    Empty when nothing answers so. Raises DeviceError.
    """
    line = SerialLine(port, create_oi_frame.BAUD, LISTEN_S)
    answer = b""
    try:
        line.open()
        line.drop_input()
        line.write(create_oi_frame.make_identity_question())
        end = time.monotonic() + LISTEN_S
        while time.monotonic() < end and len(answer) < create_oi_frame.IDENTITY_BYTES:
            answer += line.read(256, 0.1)
        found = create_oi_frame.parse_identity(answer)
        if found:
            line.write(bytes((create_oi_frame.END,)))
        return found
    finally:
        line.close()


def _ask_meter(port: str) -> tuple[str, str]:
    """(kind, a reading) of a Modbus meter with the address from the factory; empty without one, or without pymodbus."""
    if importlib.util.find_spec("pymodbus") is None:
        return "", ""
    from depai_robot.adapters.modbus_bus import ModbusBus
    from depai_robot.adapters.modbus_meter import FORM_BY_KIND, MeterKind, ModbusMeter

    asked: tuple[tuple[MeterKind, int], ...] = (("sdm120", 2400), ("sdm120", 9600), ("pzem017", 9600))
    for kind, baud in asked:
        bus = ModbusBus(port, baud, "N", FORM_BY_KIND[kind].stop_bits, METER_ANSWER_S)
        try:
            sample = ModbusMeter(bus, kind, 1, 1.0, lambda: 0).sample()
        except DeviceError:
            continue
        finally:
            bus.close()
        if sample.voltage_v <= METER_VOLTAGE_MAX_V:
            said = f"{sample.voltage_v:.1f} V, {sample.power_w:.1f} W, {sample.energy_milliwh / 1e6:.3f} kWh"
            return kind, f"address 1, {baud} baud: {said}"
    return "", ""


def probe(ports: Sequence[tuple[str, str]]) -> list[Found]:
    """Every one of them, at once; the answers are in order."""
    with ThreadPoolExecutor(PORTS_AT_ONCE, "probe") as pool:
        return list(pool.map(lambda item: probe_port(*item), ports))
