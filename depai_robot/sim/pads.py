"""The robot's battery and every station's supply, joined at whichever pads the robot touches.

Shown to other processes by ``link``. Where the robot is comes from outside: the physics engine's contact, or a test.
Steps in simulated time and keeps no clock of its own.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from depai_robot.ports import BatteryReading, MeterReading
from depai_robot.sim.link import ConnectorInWorld, RobotBodyInWorld
from depai_robot.sim.supply import SimulatedSupply
from depai_robot.values.error import DeviceAbsentError

STEP_NS = 10_000_000
CLOCKWORK_PERIOD_S = 0.004
BACKLOG_STEPS_MAX = 50
"""A host that was held up does not run after lost time for longer than this."""

ConnectorKey = tuple[str, int]
"""(station, number of the connector)."""


class PadsBattery(Protocol):
    """The robot's battery and the meter at its pads."""

    def step(self, dt_ns: int, offered_w: float, drive_fraction: float = 0.0) -> float:
        """Advances; returns the power taken at the pads."""

    def reading(self, stamp_ns: int) -> BatteryReading:
        """As ports.Battery gives it. Raises DeviceError when it does not answer."""


B = TypeVar("B", bound=PadsBattery)


class ChargingPads(Generic[B]):
    """See sim.link.LinkedWorld.

    Args:
        robot: id of the one robot.
        battery: its own.
        supplies: of every connector.

    Attributes:
        lock: to be held by whoever steps or looks.
    """

    def __init__(self, robot: str, battery: B, supplies: dict[ConnectorKey, SimulatedSupply]) -> None:
        self.lock = threading.RLock()
        self.robot = robot
        self.battery = battery
        self.supplies = supplies
        self._now_ns = 0
        self._touched: ConnectorKey | None = None

    # --- the simulation's side -----------------------------------------------------------------------------

    @property
    def touched(self) -> ConnectorKey | None:
        """The connector that the robot's pads touch."""
        return self._touched

    def touch(self, key: ConnectorKey | None) -> None:
        """The robot came into contact with a connector, or (None) left.

        Raises:
            DeviceAbsentError: there is no such connector.
        """
        if key is not None and key not in self.supplies:
            raise DeviceAbsentError(f"no connector {key} in this world, there are {sorted(self.supplies)}")
        with self.lock:
            self._touched = key
            for other, supply in self.supplies.items():
                if supply.present != (other == key):
                    supply.set_present(present=other == key)

    def set_time(self, now_ns: int) -> None:
        """Where another clock begins; before the first step."""
        with self.lock:
            self._now_ns = now_ns

    def step(self, dt_ns: int = STEP_NS, drive_fraction: float = 0.0) -> None:
        """Advances power, meters and time."""
        with self.lock:
            taken_w = 0.0
            for key, supply in self.supplies.items():
                offered_w = supply.offer_w(dt_ns)
                if key == self._touched:
                    taken_w = self.battery.step(dt_ns, offered_w, drive_fraction)
                    supply.take(dt_ns, taken_w)
                else:
                    supply.take(dt_ns, 0.0)
            if self._touched is None:
                self.battery.step(dt_ns, 0.0, drive_fraction)
            self._now_ns += dt_ns

    # --- what others see -----------------------------------------------------------------------------------

    def time_ns(self) -> int:
        """See sim.link.LinkedWorld."""
        return self._now_ns

    def robot_body(self, robot: str) -> RobotBodyInWorld:
        """See sim.link.LinkedWorld."""
        if robot != self.robot:
            raise DeviceAbsentError(f"no robot {robot!r} in this world, it is {self.robot!r}")
        return _Body(self)

    def connector(self, station: str, number: int) -> ConnectorInWorld:
        """See sim.link.LinkedWorld."""
        if (station, number) not in self.supplies:
            raise DeviceAbsentError(
                f"no connector {number} of station {station!r} in this world, there are {sorted(self.supplies)}"
            )
        return _Connector(self, (station, number))


class _Body:
    def __init__(self, pads: ChargingPads[Any]) -> None:
        self._pads = pads

    def read(self) -> BatteryReading:
        reading: BatteryReading = self._pads.battery.reading(self._pads.time_ns())
        return reading

    def in_contact(self) -> bool:
        return self._pads.touched is not None

    def read_probe(self) -> bytes | None:
        key = self._pads.touched
        return None if key is None else self._pads.supplies[key].probe


class _Connector:
    def __init__(self, pads: ChargingPads[Any], key: ConnectorKey) -> None:
        self._pads = pads
        self._supply = pads.supplies[key]

    def read(self) -> MeterReading:
        return MeterReading(self._pads.time_ns(), self._supply.register_milliwh, self._supply.power_w)

    def present(self) -> bool:
        return self._supply.present

    def write_probe(self, nonce: bytes) -> None:
        self._supply.probe = nonce if self._supply.present else None

    def energise(self, power_max_w: float, until_energy_milliwh: int) -> None:
        self._supply.energise(power_max_w, until_energy_milliwh)

    def deenergise(self) -> None:
        self._supply.deenergise()

    def open(self) -> None:
        self._supply.open()


class PadsClockwork:
    """Steps a world of pads by itself at ``factor`` times real time; for tests, benches and stations on a desk."""

    def __init__(
        self,
        pads: ChargingPads[Any],
        factor: float,
        after_step: Callable[[], None] | None = None,
        *,
        step_ns: int = STEP_NS,
    ) -> None:
        self._pads, self._factor, self._after_step, self._step_ns = pads, factor, after_step, step_ns
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pads", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Time stands still from here."""
        self._closing.set()
        self._thread.join(2.0)

    def _run(self) -> None:
        due_ns = 0.0
        last_s = time.monotonic()
        while not self._closing.wait(CLOCKWORK_PERIOD_S):
            now_s = time.monotonic()
            due_ns += (now_s - last_s) * 1e9 * self._factor
            last_s = now_s
            steps = min(int(due_ns // self._step_ns), BACKLOG_STEPS_MAX)
            for _ in range(steps):
                self._pads.step(self._step_ns)
            due_ns = 0.0 if steps == BACKLOG_STEPS_MAX else due_ns - steps * self._step_ns
            if steps and self._after_step is not None:
                self._after_step()
