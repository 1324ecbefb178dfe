"""Robots that cheat on the wire: holding connectors for nothing, floods, forged envelopes, replays, other's names."""
# ruff: noqa: D102  (the seams that are overridden here are documented in ``behaviour``)
# ruff: noqa: ARG002  (and have the parameters that they have there)

from typing import Any, ClassVar

from msgspec.structs import replace

from depai_robot.charging import fact as ft
from depai_robot.charging.message import Payment, QuoteCounter, QuoteRequest
from depai_robot.sim.adversary import station_wire
from depai_robot.sim.adversary.agent import Agent
from depai_robot.sim.adversary.arena import SECOND, Arena
from depai_robot.sim.adversary.behaviour import ROBOT, Behaviour
from depai_robot.sim.adversary.cast import seal, signer
from depai_robot.values.identity import address_to_hex

FLOOD = 200


def request_of(name: str, energy_milliwh: int = 2500) -> QuoteRequest:
    """A question as an honest robot would ask it."""
    return QuoteRequest(name, energy_milliwh, 300, "DC", address_to_hex(signer(f"voucher-{name}").address))


class _Idle(Behaviour):
    """Its machine does nothing; it only talks. An honest robot wants to charge beside it."""

    side = ROBOT
    robots = 2

    def fact(self, arena: Arena, agent: Agent, fact: Any) -> Any:
        return None if isinstance(fact, ft.ChargeRequested) else fact

    def begin(self, arena: Arena) -> None:
        arena.later(SECOND, lambda: self.talk(arena))

    def talk(self, arena: Arena) -> None:
        """What it says."""


class ReservedDash(_Idle):
    """Asks for a quote under the station's own session id ``-``, whose timers no session has."""

    name = "session-named-dash"
    session: ClassVar[str] = "-"

    def talk(self, arena: Arena) -> None:
        arena.misdeed()
        arena.say("robot-a", arena.stations[0], request_of("robot-a"), session=self.session)


class ReservedOffer(ReservedDash):
    """Asks for a quote under the session id ``offer``, whose letters are the station's offers."""

    name = "session-named-offer"
    session = "offer"


class HoldsWithQuestions(_Idle):
    """Asks again and again, never pays, and holds the connector each time."""

    name = "holds-by-asking"

    def talk(self, arena: Arena) -> None:
        arena.misdeed()
        for number in range(20):
            arena.later(number * 10 * SECOND, lambda number=number: self._ask(arena, number))  # type: ignore[misc]

    def _ask(self, arena: Arena, number: int) -> None:
        arena.say("robot-a", arena.stations[0], request_of("robot-a"), session=f"q-{number}")


class HoldsWithCounters(_Idle):
    """Haggles for ever over one quote, and holds the connector."""

    name = "holds-by-haggling"

    def talk(self, arena: Arena) -> None:
        arena.misdeed()
        station = arena.stations[0]
        arena.say("robot-a", station, request_of("robot-a"), session="q-1")
        for number in range(1, 20):
            arena.later(
                number * 10 * SECOND,
                lambda: _ignore(arena.say("robot-a", station, QuoteCounter(500_000, 1), session="q-1")),
            )


def _ignore(_value: object) -> None:
    """For a lambda."""


class ManyNames(_Idle):
    """Asks for two hundred quotes under as many fresh identities."""

    name = "many-identities"

    def talk(self, arena: Arena) -> None:
        arena.misdeed()
        for number in range(FLOOD):
            name = f"sybil-{number}"
            arena.say(name, arena.stations[0], request_of(name), session=f"sybil-{number}")


class QuestionFlood(_Idle):
    """Asks for two hundred quotes at once."""

    name = "question-flood"

    def talk(self, arena: Arena) -> None:
        arena.misdeed()
        for number in range(FLOOD):
            arena.say("robot-a", arena.stations[0], request_of("robot-a"), session=f"flood-{number}")


class NamesOfOthers(_Idle):
    """Asks under the session id that an honest robot is about to use."""

    name = "takes-anothers-session-id"

    def talk(self, arena: Arena) -> None:
        arena.misdeed()
        arena.say("robot-a", arena.stations[0], request_of("robot-a"), session="s-1")


class WantsNothing(_Idle):
    """Asks for zero energy."""

    name = "wants-nothing"
    robots = 1
    energy: ClassVar[int] = 0

    def begin(self, arena: Arena) -> None:
        """Its machine talks, with another amount."""

    def fact(self, arena: Arena, agent: Agent, fact: Any) -> Any:
        return fact

    def draft(self, arena: Arena, draft: Any) -> Any:
        if isinstance(draft.body, QuoteRequest):
            arena.misdeed()
            return replace(draft, body=replace(draft.body, energy_milliwh=self.energy))
        return draft


class WantsEverything(WantsNothing):
    """Asks for 9,000 GWh."""

    name = "wants-everything"
    energy = 2**53


class PaymentFlood(Behaviour):
    """Sends each voucher two hundred times under new ids."""

    side = ROBOT
    name = "payment-flood"

    def __init__(self) -> None:
        self._flooded = False

    def token(self, arena: Arena, draft: Any, token: str) -> tuple[str, ...]:
        if not isinstance(draft.body, Payment) or self._flooded or draft.seq < 3:
            return (token,)
        self._flooded = True
        arena.misdeed()
        more = (seal("robot-a", replace(draft, id=f"flood.{n}", seq=2000 + n)) for n in range(FLOOD))
        return (token, *more)


class Repeats(Behaviour):
    """Sends each message ten times."""

    side = ROBOT
    name = "repeats-everything"

    def token(self, arena: Arena, draft: Any, token: str) -> tuple[str, ...]:
        arena.misdeed()
        return (token,) * 10


class ReplaysOldSession(Behaviour):
    """In a second session it replays every message of the first."""

    side = ROBOT
    name = "replays-the-last-session"
    least_s: ClassVar[float] = 150.0

    def begin(self, arena: Arena) -> None:
        robot = arena.robots[0]
        arena.later(70 * SECOND, lambda: arena.request(robot, "s-2"))
        arena.later(78 * SECOND, lambda: self._replay(arena))

    def _replay(self, arena: Arena) -> None:
        arena.misdeed()
        inbox = arena.stations[0].settings.inbox
        for _, topic, token in list(arena.published):
            if topic == inbox:
                arena.deliver(topic, token)


class TwoBodiesOneKey(Behaviour):
    """Two programs with the same keys ask the same station at once."""

    side = ROBOT
    name = "two-robots-one-key"

    def begin(self, arena: Arena) -> None:
        for at_s, session in ((2, "twin-1"), (9, "twin-2"), (20, "twin-3")):
            arena.later(at_s * SECOND, lambda session=session: self._ask(arena, session))  # type: ignore[misc]

    def _ask(self, arena: Arena, session: str) -> None:
        arena.misdeed()
        arena.say("robot-a", arena.stations[0], request_of("robot-a"), session=session)


class ClockAhead(Behaviour):
    """Its clock is an hour fast."""

    side = ROBOT
    name = "clock-fast"
    offset_s: ClassVar[int] = 3600

    def draft(self, arena: Arena, draft: Any) -> Any:
        arena.misdeed()
        return replace(draft, ts=draft.ts + self.offset_s, exp=draft.exp + self.offset_s)


class ClockBehind(ClockAhead):
    """Its clock is an hour slow."""

    name = "clock-slow"
    offset_s = -3600


class _Forged(Behaviour):
    """Spoils the bytes of every payment."""

    side = ROBOT
    model: ClassVar[type[station_wire.Forged]] = station_wire.Forged

    def token(self, arena: Arena, draft: Any, token: str) -> tuple[str, ...]:
        if isinstance(draft.body, Payment):
            arena.misdeed()
            return (self.model().forge(token),)
        return (token,)


class AlgNone(_Forged):
    """Says ``alg: none`` and signs nothing."""

    name = "alg-none"
    model = station_wire.AlgNone


class AlgOther(_Forged):
    """Says ``alg: ES256``."""

    name = "alg-es256"
    model = station_wire.AlgOther


class KidOfAnother(_Forged):
    """Puts another's address over its own key."""

    name = "kid-of-another"
    model = station_wire.KidOfAnother


class HighS(_Forged):
    """Signs its messages with the high s."""

    name = "high-s-envelopes"
    model = station_wire.HighS


class Truncated(_Forged):
    """Sends half of each payment."""

    name = "truncated-messages"
    model = station_wire.Truncated


class Oversized(_Forged):
    """Sends payments of 100 KiB."""

    name = "oversized-messages"
    model = station_wire.Oversized


class Nested(_Forged):
    """Sends payloads of ten thousand nested brackets."""

    name = "nested-messages"
    model = station_wire.Nested


class Edited(_Forged):
    """Changes an amount after it signed."""

    name = "edited-messages"
    model = station_wire.ChangedPayload


class SaysRepeatedId(Behaviour):
    """Gives every payment the id of its first one."""

    side = ROBOT
    name = "same-message-id"

    def __init__(self) -> None:
        self._first = ""

    def draft(self, arena: Arena, draft: Any) -> Any:
        if not isinstance(draft.body, Payment):
            return draft
        if not self._first:
            self._first = draft.id
            return draft
        arena.misdeed()
        return replace(draft, id=self._first)
