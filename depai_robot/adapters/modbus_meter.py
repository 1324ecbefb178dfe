"""A station's energy meter with Modbus RTU: ports.Meter. A reading that no meter can have is refused, never passed on.

Two kinds, by the makers' register lists:

- ``sdm120``: Eastron SDM120, "Modbus Protocol": AC, input registers as IEEE 754 floats, high word first. What was
  imported is billed (0x0048), not import and export together (0x0156).
- ``pzem017``: Peacefair PZEM-003/017, "DC communication module": DC with a shunt, 2 stop bits, energy in whole
  watt-hours, low word first.

The register's step is what one can bill by: a watt-hour is two tranches of half a watt-hour (docs/hardware.md).
"""

import math
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from depai_robot.adapters.modbus_bus import ModbusBus
from depai_robot.ports import MeterReading
from depai_robot.values.error import ConfigError, DeviceFailedError

MeterKind = Literal["sdm120", "pzem017"]
DEVICE_IDS = range(1, 248)
JUMP_FACTOR = 2.0
"""A register may run so much faster than the connector's full power between two readings."""


@dataclass(frozen=True, slots=True)
class MeterForm:
    """How a kind of meter is asked, and what its answers mean.

    Attributes:
        blocks: (address, count) of input registers, each of another length.
        decode: their words to a sample.
        baud, stop_bits: as it comes from the factory.
        step_milliwh: of its energy register.
    """

    blocks: tuple[tuple[int, int], ...]
    decode: Callable[[Sequence[Sequence[int]]], "MeterSample"]
    baud: int
    stop_bits: Literal[1, 2]
    step_milliwh: int


@dataclass(frozen=True, slots=True)
class MeterSample:
    """What a meter's registers say.

    Attributes:
        voltage_v, current_a, power_w: now.
        energy_milliwh: delivered since it was made or reset.
    """

    voltage_v: float
    current_a: float
    power_w: float
    energy_milliwh: int


def words_to_float(words: Sequence[int]) -> float:
    """Two registers, high word first, as IEEE 754. Raises DeviceFailedError when it is not finite."""
    value: float = struct.unpack(">f", struct.pack(">HH", *words))[0]
    if not math.isfinite(value):
        raise DeviceFailedError(f"meter: registers {words[0]:#06x} {words[1]:#06x} are no finite number")
    return value


def decode_sdm120(blocks: Sequence[Sequence[int]]) -> MeterSample:
    """Registers 0x0000 to 0x000D (voltage, current at 6, power at 12), and the imported energy in kWh."""
    now, energy = blocks
    kwh = words_to_float(energy)
    if kwh < 0:
        raise DeviceFailedError(f"meter: an imported energy of {kwh} kWh can't be")
    return MeterSample(
        words_to_float(now[0:2]), words_to_float(now[6:8]), words_to_float(now[12:14]), math.floor(kwh * 1e6)
    )


def decode_pzem017(blocks: Sequence[Sequence[int]]) -> MeterSample:
    """Registers 0x0000 to 0x0005: 0.01 V, 0.01 A, 0.1 W in two words and Wh in two, low word first."""
    words = blocks[0]
    return MeterSample(
        words[0] / 100,
        words[1] / 100,
        (words[2] | words[3] << 16) / 10,
        (words[4] | words[5] << 16) * 1000,
    )


FORM_BY_KIND: dict[MeterKind, MeterForm] = {
    "sdm120": MeterForm(((0x0000, 14), (0x0048, 2)), decode_sdm120, 2400, 1, 1000),
    "pzem017": MeterForm(((0x0000, 6),), decode_pzem017, 9600, 2, 1000),
}


class ModbusMeter:
    """ports.Meter of one connector.

    Args:
        bus: that it is on.
        kind: of meter.
        device: its address on the bus, 1..247.
        power_max_w: of the connector, > 0.
        now_ns: session clock, for the stamps.
        monotonic_s: clock for what can have flown.

    Raises:
        ConfigError: an address or power that can't be.
    """

    def __init__(
        self,
        bus: ModbusBus,
        kind: MeterKind,
        device: int,
        power_max_w: float,
        now_ns: Callable[[], int],
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        if device not in DEVICE_IDS:
            raise ConfigError(f"a Modbus address is 1 to 247, got {device}")
        if not 0 < power_max_w < math.inf:
            raise ConfigError(f"a connector's power is more than 0 W, got {power_max_w}")
        self._bus, self._form, self._device = bus, FORM_BY_KIND[kind], device
        self._power_max_w, self._now_ns, self._monotonic_s = power_max_w, now_ns, monotonic_s
        self._last: tuple[float, int] | None = None

    def sample(self) -> MeterSample:
        """What the registers say, judged for itself alone. Raises DeviceError."""
        blocks = [self._bus.read_inputs(self._device, address, count) for address, count in self._form.blocks]
        return self._form.decode(blocks)

    def read(self) -> MeterReading:
        """See ports.Meter.

        Raises:
            DeviceTimeoutError, DeviceAbsentError: no answer; nothing old is given instead.
            DeviceFailedError: no finite number, a register that fell, or one that ran faster than power can flow.
        """
        sample, now_s = self.sample(), self._monotonic_s()
        if self._last is not None:
            last_s, before = self._last
            if sample.energy_milliwh < before:
                raise DeviceFailedError(
                    f"{self._bus.name}: the meter's register fell from {before} to {sample.energy_milliwh} mWh"
                )
            most = before + self._form.step_milliwh
            most += math.ceil(JUMP_FACTOR * self._power_max_w * (now_s - last_s) / 3.6)
            if sample.energy_milliwh > most:
                raise DeviceFailedError(
                    f"{self._bus.name}: the meter's register jumped from {before} to {sample.energy_milliwh} mWh in"
                    f" {now_s - last_s:.1f} s, expected {most} mWh at most"
                )
        self._last = (now_s, sample.energy_milliwh)
        return MeterReading(self._now_ns(), sample.energy_milliwh, sample.power_w)
