"""The robot's battery, its charger and the meter at its pads.

A pack of LiFePO4 cells: open-circuit voltage from the state of charge, one internal resistance, constant current then
constant voltage. Does not model: temperature, ageing, cell imbalance, relaxation, the charger's own start-up.
"""

from dataclasses import dataclass

import numpy as np

from depai_robot.ports import BatteryReading
from depai_robot.sim.scene import BatteryModel

_SOC = (0.0, 0.02, 0.05, 0.10, 0.20, 0.40, 0.60, 0.80, 0.95, 0.99, 1.0)
_CELL_V = (2.80, 3.00, 3.12, 3.20, 3.24, 3.28, 3.30, 3.32, 3.35, 3.40, 3.55)
"""Typical open-circuit voltage of a LiFePO4 cell at 25 C, by state of charge: flat between 10 and 95 %. Full is where
a charger of 3.55 V a cell drives no current any more."""

MILLIWH_PER_JOULE = 1000.0 / 3600.0


@dataclass(slots=True)
class Flow:
    """Power now, in watts.

    Attributes:
        pads_w: what the robot takes at its pads.
        battery_w: into the battery's terminals, negative when it discharges.
    """

    pads_w: float = 0.0
    battery_w: float = 0.0


class SimulatedBattery:
    """Steps in simulated time; read it as ports.Battery.

    Args:
        model: of config/robot.yaml.
        state_of_charge: at the start, 0..1.
        seed: of load variation and the meter's own gain.
        meter_gain_error: the pads meter's own error, e.g. 0.002; None draws one within 0.5 %.
    """

    def __init__(
        self,
        model: BatteryModel,
        state_of_charge: float,
        *,
        seed: int = 0,
        meter_gain_error: float | None = None,
    ) -> None:
        self._model = model
        self._random = np.random.default_rng([seed, 0xBA77])
        drawn = float(np.clip(self._random.normal(0, 0.002), -0.005, 0.005))
        self._gain = 1.0 + (drawn if meter_gain_error is None else meter_gain_error)
        self._energy_j = state_of_charge * model.capacity_wh * 3600.0
        self._capacity_j = model.capacity_wh * 3600.0
        self._pads_milliwh = 0.0
        self._load_wander = 0.0
        self._time_ns = 0
        self.flow = Flow()
        self._current_a = 0.0
        self._voltage_v = self._open_circuit_v()

    @property
    def state_of_charge(self) -> float:
        """0..1."""
        return self._energy_j / self._capacity_j

    def set_state_of_charge(self, state_of_charge: float) -> None:
        """Another charge, between two runs of a test or a benchmark; meters go on."""
        self._energy_j = min(1.0, max(0.0, state_of_charge)) * self._capacity_j

    def _open_circuit_v(self) -> float:
        return self._model.cells * float(np.interp(self.state_of_charge, _SOC, _CELL_V))

    def wanted_pads_w(self, drive_fraction: float = 0.0) -> float:
        """What the charger would take now: the on-board load and the charge current that the pack allows."""
        open_v, resistance = self._open_circuit_v(), self._model.internal_resistance_ohm
        by_voltage = (self._model.charge_voltage_max_v - open_v) / resistance if resistance else float("inf")
        current = max(0.0, min(self._model.charge_current_max_a, by_voltage))
        charge_w = current * (open_v + current * resistance)
        return charge_w / self._model.charge_efficiency + self._load_w(drive_fraction)

    def _load_w(self, drive_fraction: float) -> float:
        return (
            self._model.onboard_load_w * (1 + self._load_wander) + self._model.drive_load_w * drive_fraction
        )

    def step(self, dt_ns: int, offered_w: float, drive_fraction: float = 0.0) -> float:
        """Advances by ``dt_ns`` with ``offered_w`` at the pads; returns the power taken there, W."""
        dt_s = dt_ns * 1e-9
        self._load_wander += -self._load_wander * dt_s / 5.0 + 0.02 * float(self._random.normal()) * dt_s**0.5
        self._load_wander = float(np.clip(self._load_wander, -0.2, 0.2))
        load_w = self._load_w(drive_fraction)
        taken_w = min(offered_w, self.wanted_pads_w(drive_fraction))
        # The load is fed from the pads first; the converter's loss applies to what goes on into the pack.
        into_w = (taken_w - load_w) * (self._model.charge_efficiency if taken_w > load_w else 1.0)
        self._current_a = self._current_of(into_w)
        open_v = self._open_circuit_v()
        self._voltage_v = open_v + self._current_a * self._model.internal_resistance_ohm
        self._energy_j = float(
            np.clip(self._energy_j + open_v * self._current_a * dt_s, 0.0, self._capacity_j)
        )
        self._pads_milliwh += taken_w * dt_s * MILLIWH_PER_JOULE * self._gain
        self._time_ns += dt_ns
        self.flow = Flow(taken_w, into_w)
        return taken_w

    def _current_of(self, power_w: float) -> float:
        """Terminal current that carries a power: V = Voc + I R, P = V I."""
        open_v, resistance = self._open_circuit_v(), self._model.internal_resistance_ohm
        if resistance == 0.0:
            return power_w / open_v
        root = max(0.0, open_v * open_v + 4.0 * resistance * power_w)
        return float((root**0.5 - open_v) / (2.0 * resistance))

    def reading(self, stamp_ns: int) -> BatteryReading:
        """As ports.Battery gives it."""
        return BatteryReading(
            stamp_ns=stamp_ns,
            voltage_v=self._voltage_v,
            current_a=self._current_a,
            state_of_charge=self.state_of_charge,
            pads_energy_milliwh=int(self._pads_milliwh),
            pads_power_w=self.flow.pads_w * self._gain,
        )
