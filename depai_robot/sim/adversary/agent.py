"""One machine in the arena with its journal, its timers and its body; and the connectors, as they truly are."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from depai_robot.charging import effect as fx
from depai_robot.sim.adversary.behaviour import Behaviour
from depai_robot.values.identity import Address


@dataclass(slots=True)
class Connector:
    """Switch, meter and pads of one connector, as they truly are.

    Attributes:
        power_w: switched on.
        until_milliwh: of the stated register: then the supply stops.
        true_uwh: what really flowed, at the station's meter.
        nonce: on the pads.
        robot: who sits on it.
    """

    power_w: int = 0
    until_milliwh: int = 0
    true_uwh: int = 7_000_000
    nonce: bytes = b""
    robot: str = ""


@dataclass(slots=True)
class Body:
    """A robot's body.

    Attributes:
        at: (station, connector) it sits on, None away.
        pads_uwh: taken in.
        efficiency_permille: station's meter to its own, its own meter's error included.
        draws_w: by its charger.
    """

    at: tuple[str, int] | None = None
    pads_uwh: int = 0
    efficiency_permille: int = 980
    draws_w: int = 300


@dataclass(slots=True)
class Agent:
    """One machine with its journal and timers."""

    name: str
    role: str
    module: Any
    settings: Any
    state: Any
    cheat: Behaviour | None = None
    journal: list[bytes] = field(default_factory=list)
    timers: dict[str, int] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    sealed: dict[str, str] = field(default_factory=dict)
    vouchers: list[tuple[bytes, int]] = field(default_factory=list)
    evidence: list[fx.KeepEvidence] = field(default_factory=list)
    receipts: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    transactions: int = 0

    @property
    def identity(self) -> Address:
        """Of its messages."""
        return Address(self.settings.identity)
