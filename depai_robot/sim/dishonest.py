"""Stations that cheat, for showing what a robot does about it. Around an honest machine, never inside it.

=============== ==========================================================================================
``over-meter``    the meter's register counts 35 % more than flows, in statements that are properly signed
``no-power``      the register counts as if the supply ran at full power; the contactor is never closed
``over-claim``    honest until the end, then claims the whole signed ceiling on chain instead of what is owed
``bad-signature`` after five statements the meter's signatures are over something else
``vanish``        after four tranches the station switches off and never says or does anything again
=============== ==========================================================================================
"""

from collections.abc import Callable
from typing import Any, Protocol

from msgspec.structs import replace

from depai_robot.charging.effect import ClaimWish, Energise, PrepareTransaction
from depai_robot.ports import Clock, Contactor, Meter, MeterReading, Signer
from depai_robot.values.error import ConfigError
from depai_robot.values.identity import Address

DEVELOPMENT_CHAINS = (31337, 1337)
KINDS = ("none", "over-meter", "no-power", "over-claim", "bad-signature", "vanish")
OVER_METER_PERCENT = 135
GOOD_STATEMENTS = 5
GOOD_TRANCHES = 4

Perform = Callable[[Any], None]


class Hardware(Contactor, Meter, Protocol):
    """Of one connector."""

    @property
    def clock(self) -> Clock:
        """Session time, for what is pretended."""


class Cheat:
    """An honest cheat: changes nothing. The others change one thing each."""

    def hardware(self, hardware: Hardware) -> Hardware:
        """Contactor and meter as the station sees them."""
        return hardware

    def signer(self, signer: Signer) -> Signer:
        """The meter's key."""
        return signer

    def wrap(self, perform: Perform) -> Perform:
        """What is done of the machine's wishes."""
        return perform


def make_cheat(kind: str, chain_id: int) -> Cheat | None:
    """The cheat of that name, None for an honest station.

    Raises:
        ConfigError: no such cheat, or a chain where money is real.
    """
    if kind not in KINDS:
        raise ConfigError(f"dishonest: expected one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "none":
        return None
    if chain_id not in DEVELOPMENT_CHAINS:
        raise ConfigError(f"dishonest: {kind} is for development chains {DEVELOPMENT_CHAINS}, not {chain_id}")
    cheat: dict[str, type[Cheat]] = {
        "over-meter": OverMeter,
        "no-power": NoPower,
        "over-claim": OverClaim,
        "bad-signature": BadSignature,
        "vanish": Vanish,
    }
    return cheat[kind]()


class _HardwareProxy:
    """Hardware that passes everything on."""

    def __init__(self, inner: Hardware) -> None:
        self._inner = inner

    @property
    def clock(self) -> Clock:
        return self._inner.clock

    def read(self) -> MeterReading:
        return self._inner.read()

    def present(self) -> bool:
        return self._inner.present()

    def write_probe(self, nonce: bytes) -> None:
        self._inner.write_probe(nonce)

    def energise(self, power_max_w: float, until_energy_milliwh: int) -> None:
        self._inner.energise(power_max_w, until_energy_milliwh)

    def deenergise(self) -> None:
        self._inner.deenergise()

    def open(self) -> None:
        self._inner.open()


class _OverMetered(_HardwareProxy):
    def read(self) -> MeterReading:
        true = self._inner.read()
        return MeterReading(
            true.stamp_ns,
            true.energy_milliwh * OVER_METER_PERCENT // 100,
            true.power_w * OVER_METER_PERCENT / 100,
        )

    def energise(self, power_max_w: float, until_energy_milliwh: int) -> None:
        self._inner.energise(power_max_w, until_energy_milliwh * 100 // OVER_METER_PERCENT)


class OverMeter(Cheat):
    """See the module."""

    def hardware(self, hardware: Hardware) -> Hardware:
        """A register that runs fast."""
        return _OverMetered(hardware)


class _Unpowered(_HardwareProxy):
    """Integrates a power that never flows."""

    def __init__(self, inner: Hardware) -> None:
        super().__init__(inner)
        self._register_milliwh = 0.0
        self._until_milliwh = 0
        self._power_w = 0.0
        self._at_ns = 0

    def _advance(self) -> int:
        now_ns = self._inner.clock.session_ns()
        grown = self._register_milliwh + self._power_w * (now_ns - self._at_ns) / 3.6e9
        if self._power_w:
            self._register_milliwh = max(self._register_milliwh, min(grown, float(self._until_milliwh)))
        self._at_ns = now_ns
        return now_ns

    def read(self) -> MeterReading:
        now_ns = self._advance()
        flows = self._register_milliwh < self._until_milliwh
        return MeterReading(now_ns, int(self._register_milliwh), self._power_w if flows else 0.0)

    def energise(self, power_max_w: float, until_energy_milliwh: int) -> None:
        self._advance()
        self._power_w, self._until_milliwh = power_max_w, until_energy_milliwh

    def deenergise(self) -> None:
        self._advance()
        self._power_w = 0.0

    def open(self) -> None:
        self.deenergise()


class NoPower(Cheat):
    """See the module."""

    def hardware(self, hardware: Hardware) -> Hardware:
        """A register that counts by itself."""
        return _Unpowered(hardware)


class OverClaim(Cheat):
    """See the module."""

    def wrap(self, perform: Perform) -> Perform:
        """A claim of the whole ceiling."""

        def greedy(effect: Any) -> None:
            if isinstance(effect, PrepareTransaction) and isinstance(effect.call, ClaimWish):
                call = replace(effect.call, total_claimed_atomic=effect.call.ceiling_atomic)
                effect = replace(effect, call=call)
            perform(effect)

        return greedy


class _ForgetfulSigner:
    def __init__(self, inner: Signer) -> None:
        self._inner = inner
        self._made = 0

    @property
    def address(self) -> Address:
        return self._inner.address

    @property
    def public_key(self) -> bytes:
        return self._inner.public_key

    def sign(self, digest: bytes) -> bytes:
        self._made += 1
        return self._inner.sign(digest if self._made <= GOOD_STATEMENTS else digest[::-1])


class BadSignature(Cheat):
    """See the module."""

    def signer(self, signer: Signer) -> Signer:
        """A key that signs something else after a while."""
        return _ForgetfulSigner(signer)


class Vanish(Cheat):
    """See the module."""

    def __init__(self) -> None:
        self._hardware: list[Hardware] = []
        self._tranches = 0

    def hardware(self, hardware: Hardware) -> Hardware:
        """The same; remembered, to be switched off."""
        self._hardware.append(hardware)
        return hardware

    def wrap(self, perform: Perform) -> Perform:
        """Nothing at all after a while."""

        def fading(effect: Any) -> None:
            if isinstance(effect, Energise):
                self._tranches += 1
                if self._tranches > GOOD_TRANCHES:
                    for hardware in self._hardware:
                        hardware.open()
            if self._tranches <= GOOD_TRANCHES:
                perform(effect)

        return fading
