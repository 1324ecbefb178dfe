"""Gazebo's battery as the robot's: what LinearBatteryPlugin says, with its traps handled, and the meter at the pads.

The plugin knows no pads. Its current is what goes into the cells; what the robot takes at the pads is that and the
on-board load, which the plugin draws all the time. It charges on a message, wherever the robot stands, so the message
is sent on contact with a dock whose station has energised it, and taken back at once when either ends.
"""

import math
from dataclasses import dataclass

from depai_robot.ports import BatteryReading
from depai_robot.values.error import DeviceTimeoutError

MILLIWH_PER_JOULE = 1000.0 / 3600.0
STALE_NS = 2_000_000_000
"""The plugin speaks with every step; two seconds without a word is a dead bridge."""


@dataclass(frozen=True, slots=True)
class PackState:
    """What the plugin said.

    Attributes:
        stamp_ns: simulated time.
        voltage_v: at the terminals.
        current_a: into the cells; the SDF's invert_current_sign makes it so.
        charge_ah, capacity_ah: by which the state of charge is told: ``percentage`` is 0..1 or 0..100 by a switch.
    """

    stamp_ns: int
    voltage_v: float
    current_a: float
    charge_ah: float
    capacity_ah: float

    @property
    def is_sane(self) -> bool:
        """All finite, and a pack that has a capacity."""
        numbers = (self.voltage_v, self.current_a, self.charge_ah, self.capacity_ah)
        return (
            all(math.isfinite(number) for number in numbers) and self.capacity_ah > 0 and self.voltage_v > 0
        )


class GazeboBattery:
    """In the place of sim.battery.SimulatedBattery, for sim.pads.ChargingPads.

    Args:
        load_w: what the plugin draws all the time (power_load).
        state_of_charge: told until the plugin has spoken.
    """

    def __init__(self, load_w: float, state_of_charge: float) -> None:
        self._load_w = load_w
        self._first = state_of_charge
        self._pack: PackState | None = None
        self._pads_milliwh = 0.0
        self._pads_w = 0.0
        self.is_charging = False

    def take(self, pack: PackState) -> None:
        """What the plugin says now; nonsense is not taken, so that it becomes stale."""
        if pack.is_sane:
            self._pack = pack

    @property
    def state_of_charge(self) -> float:
        """0..1."""
        if self._pack is None:
            return self._first
        return min(1.0, max(0.0, self._pack.charge_ah / self._pack.capacity_ah))

    def step(self, dt_ns: int, offered_w: float, drive_fraction: float = 0.0) -> float:
        """Power taken at the pads for ``dt_ns``, at most what is offered there; whether to charge is remembered."""
        del drive_fraction  # the plugin's load is constant
        self.is_charging = offered_w > 0 and self._pack is not None
        taken_w = 0.0
        if self.is_charging and self._pack is not None:
            taken_w = min(offered_w, max(0.0, self._pack.voltage_v * self._pack.current_a + self._load_w))
        self._pads_w = taken_w
        self._pads_milliwh += taken_w * dt_ns * 1e-9 * MILLIWH_PER_JOULE
        return taken_w

    def reading(self, stamp_ns: int) -> BatteryReading:
        """As ports.Battery gives it.

        Raises:
            DeviceTimeoutError: the plugin has not spoken, or not for a while.
        """
        pack = self._pack
        if pack is None or stamp_ns - pack.stamp_ns > STALE_NS:
            raise DeviceTimeoutError(
                f"gazebo/battery: no state for {STALE_NS // 10**9} s: is the bridge running?"
            )
        return BatteryReading(
            stamp_ns=stamp_ns,
            voltage_v=pack.voltage_v,
            current_a=pack.current_a,
            state_of_charge=self.state_of_charge,
            pads_energy_milliwh=int(self._pads_milliwh),
            pads_power_w=self._pads_w,
        )
