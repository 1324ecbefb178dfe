"""A robot's own hardware as the local link shows it: battery board, base, and the meter at the pads.

The wallet and the robot's nodes are clients of the link, as in simulation; one process owns the serial ports. Readings
that authorise money so come by a local socket whose peer is known.
"""

import time
from pathlib import Path
from typing import Annotated, Literal, Protocol

import msgspec
import yaml
from msgspec import Meta, Struct

from depai_robot.adapters import create_oi_frame, daly, jbd, vedirect
from depai_robot.adapters.battery_board import PackReader
from depai_robot.adapters.create_oi import CreateBattery, open_create
from depai_robot.adapters.mcu import McuBoard
from depai_robot.adapters.serial_line import SerialLine
from depai_robot.ports import Base, BatteryReading
from depai_robot.sim.link import ConnectorInWorld, RobotBodyInWorld
from depai_robot.values.error import ConfigError, DeviceAbsentError, DeviceError, DeviceTimeoutError

READING_AGE_MAX_S = 3.0
"""A Victron monitor speaks once a second."""
BMS_PERIOD_S = 0.5

Port = Annotated[str, Meta(min_length=1, max_length=200)]


class BatteryPart(Struct, frozen=True, forbid_unknown_fields=True):
    """The battery's board.

    Attributes:
        driver: ``jbd`` or ``daly`` boards, ``vedirect`` for Victron's shunts and monitors, ``create-oi`` for the
            battery inside such a base.
        port: path below /dev/serial/by-id, or ``usb:VID:PID:SERIAL``; with create-oi the base's.
    """

    port: Port
    driver: Literal["jbd", "daly", "vedirect", "create-oi"] = "jbd"


class BasePart(Struct, frozen=True, forbid_unknown_fields=True):
    """The wheels.

    Attributes:
        driver: ``depai-mcu``, the protocol of firmware/depai_base, whose board has the pads too; or ``create-oi``,
            iRobot's Create 2 Open Interface.
        port: as above.
        baud: of the line; USB boards ignore it, create-oi has 115200.
        track_m: between the wheels.
    """

    port: Port
    track_m: Annotated[float, Meta(gt=0.05, lt=5)]
    driver: Literal["depai-mcu", "create-oi"] = "depai-mcu"
    baud: Annotated[int, Meta(ge=9600, le=4_000_000)] = 115_200


class PadsPart(Struct, frozen=True, forbid_unknown_fields=True):
    """The pads with their meter on a board of their own: firmware/depai_base without wheels.

    Attributes:
        driver: ``depai-mcu``.
        port, baud: as above.
    """

    port: Port
    driver: Literal["depai-mcu"] = "depai-mcu"
    baud: Annotated[int, Meta(ge=9600, le=4_000_000)] = 115_200


class HardwareFile(Struct, frozen=True, forbid_unknown_fields=True):
    """``hardware.yaml``.

    Attributes:
        version: of this form.
        robot: id; clients of the link ask for it.
        link: path of the socket.
        description: of the robot, whose limits of motion count, as config/robot.yaml; empty for that one.
        battery, base: see there.
        pads: left out when they are on the base's board.

    Raises:
        ConfigError: parts that do not go together.
    """

    version: Annotated[int, Meta(ge=1, le=1)]
    robot: Annotated[str, Meta(min_length=1, max_length=64)]
    link: Port
    battery: BatteryPart
    base: BasePart
    pads: PadsPart | None = None
    description: Annotated[str, Meta(max_length=200)] = ""

    def __post_init__(self) -> None:
        inside = self.battery.driver == "create-oi"
        if self.base.driver == "create-oi":
            if self.pads is None:
                raise ConfigError(
                    "base create-oi has no meter at the pads: expected pads with a port of their own"
                )
            if self.base.baud != create_oi_frame.BAUD:
                raise ConfigError(
                    f"base create-oi: baud: expected {create_oi_frame.BAUD}, got {self.base.baud}"
                )
        elif inside:
            raise ConfigError(
                f"battery create-oi is inside a base create-oi, but the base is {self.base.driver}"
            )
        ports = [self.base.port]
        if inside and self.battery.port != self.base.port:
            raise ConfigError(
                f"battery create-oi: port: expected the base's, {self.base.port}, got {self.battery.port}"
            )
        ports += [] if inside else [self.battery.port]
        ports += [] if self.pads is None else [self.pads.port]
        if len(set(ports)) != len(ports):
            raise ConfigError(f"each part needs a port of its own, got {', '.join(ports)}")


class Wheels(Base, Protocol):
    """A base on a line.

    Attributes:
        trouble: empty when all is well.
    """

    trouble: str

    def stop_for_emergency(self, *, stop: bool) -> None:
        """Stops at once, and stays so until released. Raises DeviceError."""

    def close(self) -> None:
        """Lets go of the line; the wheels stop."""


def open_board(part: BatteryPart) -> PackReader:
    """The battery's own board; its port is opened when it is read. Raises ConfigError for one inside a base."""
    if part.driver == "create-oi":
        raise ConfigError("battery create-oi is read through its base")
    if part.driver == "daly":
        return daly.DalyBms(SerialLine(part.port, daly.BAUD, daly.TIMEOUT_S))
    if part.driver == "vedirect":
        return vedirect.VeDirectMonitor(SerialLine(part.port, vedirect.BAUD, vedirect.TIMEOUT_S))
    return jbd.JbdBms(SerialLine(part.port, jbd.BAUD, jbd.TIMEOUT_S))


def read_hardware(path: Path) -> HardwareFile:
    """Raises ConfigError, saying where and what was expected."""
    try:
        return msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), HardwareFile)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from error


def stop_wheels(file: HardwareFile) -> str:
    """Tells a base without a time-out of its own to stand; says what was done. Raises DeviceError."""
    if file.base.driver != "create-oi":
        return f"{file.base.port}: a {file.base.driver} board stops by itself"
    line = SerialLine(file.base.port, file.base.baud, 0.5)
    try:
        line.write(create_oi_frame.make_rescue() + create_oi_frame.make_end())
    finally:
        line.close()
    return f"{file.base.port}: the wheels were told to stand"


class RobotHardware:
    """sim.link.LinkedWorld of one real robot: it has a body, and no stations.

    Args:
        file: hardware.yaml.
    """

    def __init__(self, file: HardwareFile) -> None:
        self.file = file
        self.base: Wheels
        if file.base.driver == "create-oi":
            self.base = create = open_create(file.base.port, self.time_ns, file.base.track_m)
            self.bms: PackReader = (
                CreateBattery(create) if file.battery.driver == "create-oi" else open_board(file.battery)
            )
        else:
            line = SerialLine(file.base.port, file.base.baud, 0.2)
            self.base = board = McuBoard(line, file.base.track_m, self.time_ns)
            self.bms = open_board(file.battery)
        if file.pads is not None:
            self.pads = McuBoard(SerialLine(file.pads.port, file.pads.baud, 0.2), 1.0, self.time_ns)
        else:
            self.pads = board
        self._reading: BatteryReading | None = None
        self._read_s = 0.0
        self.trouble = "the battery was not asked yet"

    def time_ns(self) -> int:
        """The wall's, as ROS time on hardware."""
        return time.time_ns()

    def poll(self) -> None:
        """Asks the battery; to be called every half second, on a thread that may wait."""
        try:
            info = self.bms.read()
            energy, watts = self.pads.pads()
        except DeviceError as error:
            self.trouble = str(error)
            return
        self._reading = BatteryReading(
            stamp_ns=self.time_ns(),
            voltage_v=info.voltage_v,
            current_a=info.current_a,
            state_of_charge=info.state_of_charge,
            pads_energy_milliwh=energy,
            pads_power_w=watts,
        )
        self._read_s = time.monotonic()
        self.trouble = (
            f"the battery's protection has tripped: {info.protection:#06x}" if info.protection else ""
        )

    def robot_body(self, robot: str) -> RobotBodyInWorld:
        """See sim.link.LinkedWorld."""
        if robot != self.file.robot:
            raise DeviceAbsentError(f"no robot {robot!r} here, it is {self.file.robot!r}")
        return self

    def connector(self, station: str, number: int) -> ConnectorInWorld:
        """See sim.link.LinkedWorld."""
        raise DeviceAbsentError(f"a robot's hardware has no connector {number} of a station {station!r}")

    # --- sim.link.RobotBodyInWorld -----------------------------------------------------------------------------

    def read(self) -> BatteryReading:
        """The newest reading. Raises DeviceTimeoutError when it is too old to be believed."""
        age_s = time.monotonic() - self._read_s
        if self._reading is None or age_s > READING_AGE_MAX_S:
            raise DeviceTimeoutError(f"battery: no reading for {age_s:.1f} s: {self.trouble}")
        return self._reading

    def in_contact(self) -> bool:
        """Whether the pads touch; no, when the board is silent."""
        try:
            return self.pads.in_contact()
        except DeviceError:
            return False

    def read_probe(self) -> bytes | None:
        """The nonce on the pads."""
        try:
            return self.pads.read_probe()
        except DeviceError:
            return None

    def close(self) -> None:
        """Wheels stand; lets go of the lines."""
        self.base.close()
        if self.pads is not self.base:
            self.pads.close()
        self.bms.close()
