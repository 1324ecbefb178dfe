"""A robot's own hardware as the local link shows it: battery board, microcontroller, and the meter at the pads.

The wallet and the robot's nodes are clients of the link, as in simulation; one process owns the serial ports. Readings
that authorise money so come by a local socket whose peer is known.
"""

import time
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import yaml
from msgspec import Meta, Struct

from depai_robot.adapters import daly, jbd, vedirect
from depai_robot.adapters.battery_board import PackReader
from depai_robot.adapters.mcu import McuBoard
from depai_robot.adapters.serial_line import SerialLine
from depai_robot.ports import BatteryReading
from depai_robot.sim.link import ConnectorInWorld, RobotBodyInWorld
from depai_robot.values.error import ConfigError, DeviceAbsentError, DeviceError, DeviceTimeoutError

READING_AGE_MAX_S = 3.0
"""A Victron monitor speaks once a second."""
BMS_PERIOD_S = 0.5

Port = Annotated[str, Meta(min_length=1, max_length=200)]


class BatteryPart(Struct, frozen=True, forbid_unknown_fields=True):
    """The battery's board.

    Attributes:
        driver: ``jbd`` or ``daly`` boards, ``vedirect`` for Victron's shunts and monitors.
        port: path below /dev/serial/by-id, or ``usb:VID:PID:SERIAL``.
    """

    port: Port
    driver: Literal["jbd", "daly", "vedirect"] = "jbd"


class BasePart(Struct, frozen=True, forbid_unknown_fields=True):
    """The microcontroller with wheels and pads.

    Attributes:
        driver: ``depai-mcu``, the protocol of firmware/depai_base.
        port: as above.
        baud: of the board's line; USB boards ignore it.
        track_m: between the wheels.
    """

    port: Port
    track_m: Annotated[float, Meta(gt=0.05, lt=5)]
    driver: Literal["depai-mcu"] = "depai-mcu"
    baud: Annotated[int, Meta(ge=9600, le=4_000_000)] = 115_200


class HardwareFile(Struct, frozen=True, forbid_unknown_fields=True):
    """``hardware.yaml``.

    Attributes:
        version: of this form.
        robot: id; clients of the link ask for it.
        link: path of the socket.
        battery, base: see there.
    """

    version: Annotated[int, Meta(ge=1, le=1)]
    robot: Annotated[str, Meta(min_length=1, max_length=64)]
    link: Port
    battery: BatteryPart
    base: BasePart


def open_board(part: BatteryPart) -> PackReader:
    """The battery's board; its port is opened when it is read."""
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
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {error}") from error


class RobotHardware:
    """sim.link.LinkedWorld of one real robot: it has a body, and no stations.

    Args:
        file: hardware.yaml.
    """

    def __init__(self, file: HardwareFile) -> None:
        self.file = file
        self.bms: PackReader = open_board(file.battery)
        self.board = McuBoard(
            SerialLine(file.base.port, file.base.baud, 0.2), file.base.track_m, self.time_ns
        )
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
            energy, watts = self.board.pads()
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
            return self.board.in_contact()
        except DeviceError:
            return False

    def read_probe(self) -> bytes | None:
        """The nonce on the pads."""
        try:
            return self.board.read_probe()
        except DeviceError:
            return None

    def close(self) -> None:
        """Lets go of both lines."""
        self.board.close()
        self.bms.close()
