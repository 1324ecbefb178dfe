"""What a robot knows of itself, in one value: its programs fill it, the agent reports it."""

from typing import Literal

from msgspec import Struct

Mode = Literal["AUTOMATIC", "SEMIAUTOMATIC", "MANUAL", "SERVICE"]


class Place(Struct, frozen=True):
    """Where it is, in the frame of the map: metres, radians."""

    x_m: float
    y_m: float
    yaw_rad: float


class Motion(Struct, frozen=True):
    """How it moves: m/s forward, rad/s."""

    linear_mps: float
    angular_radps: float


class Charge(Struct, frozen=True):
    """The charging session that is open, or the last one.

    Attributes:
        session, phase: of the wallet.
        station: chosen; empty before.
        energy_milliwh: reconciled.
        cost_atomic: owed, fees included.
        price_atomic_per_kwh: agreed; 0 before.
        ended: nothing more will be bought in it.
        fault: why it failed; empty when it did not.
        receipt: of it; empty before.
    """

    session: str = ""
    phase: str = "IDLE"
    station: str = ""
    energy_milliwh: int = 0
    cost_atomic: int = 0
    price_atomic_per_kwh: int = 0
    ended: bool = True
    fault: str = ""
    receipt: str = ""


class Trouble(Struct, frozen=True):
    """Something wrong with the robot itself."""

    kind: str
    words: str
    fatal: bool = False


class Status(Struct, frozen=True, kw_only=True):
    """Everything that a state message says of the robot.

    Attributes:
        charge_percent: of the battery, 0 to 100.
        voltage_v, current_a: of the battery; None when unknown.
        charging: current flows into it.
        place, motion: None when unknown.
        driving, paused: of the base.
        mode: who drives.
        e_stop: an emergency stop is pressed.
        field_violation: of a safety scanner.
        charge: see there.
        spent_today_atomic, budget_today_atomic: by the robot's own ledger and its owner's policy.
        troubles: of its parts.
    """

    charge_percent: float = 0.0
    voltage_v: float | None = None
    current_a: float | None = None
    charging: bool = False
    place: Place | None = None
    motion: Motion | None = None
    driving: bool = False
    paused: bool = False
    mode: Mode = "AUTOMATIC"
    e_stop: bool = False
    field_violation: bool = False
    charge: Charge = Charge()
    spent_today_atomic: int = 0
    budget_today_atomic: int = 0
    troubles: tuple[Trouble, ...] = ()
