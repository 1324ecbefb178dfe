"""A station's supply, contactor and meter on one connector.

The energy limit is enforced here, step by step, as a charger's firmware would: the supply ramps to zero before the
register reaches it and then opens. Does not model: arcing, pre-charge, cable heating, a supply that trips.
"""

from dataclasses import dataclass

import numpy as np

from depai_robot.sim.battery import MILLIWH_PER_JOULE
from depai_robot.values.error import DeviceFailedError


@dataclass(frozen=True, slots=True)
class SupplyModel:
    """A connector.

    Attributes:
        power_max_w: of the supply.
        ramp_w_per_s: how quickly it goes up and down.
        cable_efficiency: station's meter to robot's pads.
        idle_w: nothing is metered below this.
    """

    power_max_w: float = 300.0
    ramp_w_per_s: float = 1500.0
    cable_efficiency: float = 0.985
    idle_w: float = 0.5


class SimulatedSupply:
    """Steps in simulated time.

    Args:
        model: of the connector.
        seed: of the meter's own gain.
    """

    def __init__(self, model: SupplyModel, *, seed: int = 0) -> None:
        self._model = model
        drawn = float(np.clip(np.random.default_rng([seed, 0x5CA1E]).normal(0, 0.002), -0.005, 0.005))
        self._gain = 1.0 + drawn
        self._register_milliwh = 0.0
        self._delivered_milliwh = 0.0
        self._until_milliwh = 0
        self._wanted_w = 0.0
        self._allowed_w = 0.0
        self.present = False
        self.closed = False
        self.power_w = 0.0
        self.probe: bytes | None = None
        self.page = 0

    @property
    def register_milliwh(self) -> int:
        """The meter's cumulative register."""
        return int(self._register_milliwh)

    @property
    def delivered_milliwh(self) -> float:
        """The truth, which no program sees."""
        return self._delivered_milliwh

    def next_page(self) -> int:
        """Pagination of the meter's statements: it never goes back, whoever restarts."""
        self.page += 1
        return self.page

    def set_present(self, *, present: bool) -> None:
        """A robot came into contact, or left: then the contactor opens by itself and the probe is gone."""
        if not present:
            self.open()
            self.probe = None
        self.present = present

    def energise(self, power_max_w: float, until_energy_milliwh: int) -> None:
        """See ports.Contactor.energise."""
        if not self.present:
            raise DeviceFailedError("nobody is on the connector: the pads stay dead")
        self._wanted_w = min(power_max_w, self._model.power_max_w)
        self._until_milliwh = until_energy_milliwh
        self.closed = True

    def deenergise(self) -> None:
        """See ports.Contactor.deenergise."""
        self._wanted_w = 0.0

    def open(self) -> None:
        """See ports.Contactor.open."""
        self._wanted_w = self._allowed_w = self.power_w = 0.0
        self.closed = False

    def offer_w(self, dt_ns: int) -> float:
        """Power at the robot's pads that is on offer for the next step, W."""
        dt_s = dt_ns * 1e-9
        target = self._wanted_w if self.closed and self.present else 0.0
        left_milliwh = self._until_milliwh - self._register_milliwh
        ramp = self._model.ramp_w_per_s
        # Ramping down from P takes P/ramp seconds and delivers P^2/(2 ramp): stop early enough for that.
        target = min(target, (2.0 * ramp * max(0.0, left_milliwh - 1.0) / MILLIWH_PER_JOULE) ** 0.5)
        change = float(np.clip(target - self._allowed_w, -ramp * dt_s, ramp * dt_s))
        self._allowed_w = max(0.0, self._allowed_w + change)
        most = max(0.0, left_milliwh) / MILLIWH_PER_JOULE / dt_s
        self._allowed_w = min(self._allowed_w, most)
        if self._wanted_w == 0.0 and self._allowed_w < self._model.idle_w:
            self._allowed_w = 0.0
            self.closed = False
        return self._allowed_w * self._model.cable_efficiency

    def take(self, dt_ns: int, pads_w: float) -> None:
        """What the robot took at its pads in the step."""
        metered_w = pads_w / self._model.cable_efficiency
        self._delivered_milliwh += metered_w * dt_ns * 1e-9 * MILLIWH_PER_JOULE
        self.power_w = metered_w
        counted = metered_w * dt_ns * 1e-9 * MILLIWH_PER_JOULE * self._gain
        self._register_milliwh = min(
            self._register_milliwh + counted, max(self._register_milliwh, float(self._until_milliwh))
        )
