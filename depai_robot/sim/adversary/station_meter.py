"""Stations that cheat with their meter or their switch."""
# ruff: noqa: D102  (the seams that are overridden here are documented in ``behaviour``)
# ruff: noqa: ARG002  (and have the parameters that they have there)

import functools
from typing import Any, ClassVar

from msgspec.structs import replace

from depai_robot.charging import effect as fx
from depai_robot.charging.message import NeedVoucher, SessionEvent
from depai_robot.charging.ocmf import BEGIN, END, Statement
from depai_robot.sim.adversary.agent import Agent
from depai_robot.sim.adversary.arena import SECOND, Arena
from depai_robot.sim.adversary.behaviour import STATION, Behaviour

ZERO_MILLIWH = 7_000
"""Where every register of the arena begins."""


class _Meter(Behaviour):
    """Counts wrongly: ``counts`` is what the register says of the energy that truly flowed."""

    side = STATION

    def counts(self, true_milliwh: int) -> int:
        return true_milliwh

    def register(self, arena: Arena, true_milliwh: int) -> int:
        flowed = true_milliwh - ZERO_MILLIWH
        said = self.counts(flowed)
        if said != flowed:
            arena.misdeed()
        return ZERO_MILLIWH + said


class OverMeter(_Meter):
    """Its register counts 35 % more than flows."""

    name = "over-meter"

    def counts(self, true_milliwh: int) -> int:
        return true_milliwh * 135 // 100


class TenPercent(_Meter):
    """Its register counts 10 % more than flows."""

    name = "ten-percent"

    def counts(self, true_milliwh: int) -> int:
        return true_milliwh * 110 // 100


class SlowDrift(_Meter):
    """Its register counts 3 % more than flows: inside the band of one session."""

    name = "slow-drift"

    def counts(self, true_milliwh: int) -> int:
        return true_milliwh * 103 // 100


class DriftOverSessions(_Meter):
    """Its register counts 3 % more in each of six sessions: each of them is inside the band."""

    name = "drift-over-sessions"
    energy_milliwh: ClassVar[int] = 10_000
    least_s: ClassVar[float] = 1500.0

    def begin(self, arena: Arena) -> None:
        arena.bodies["robot-a"].efficiency_permille = 980
        for number in range(2, 7):
            arena.later(
                number * 200 * SECOND,
                functools.partial(arena.request, arena.robots[0], f"s-{number}", self.energy_milliwh),
            )

    def counts(self, true_milliwh: int) -> int:
        return true_milliwh * 103 // 100


class CreepingDrift(_Meter):
    """Its register counts more and more: 4 % for each Wh that has flowed."""

    name = "creeping-drift"

    def counts(self, true_milliwh: int) -> int:
        return true_milliwh + true_milliwh * true_milliwh * 4 // 100_000


class Jump(_Meter):
    """Its register jumps by 300 mWh once, after 1 Wh."""

    name = "register-jumps"

    def counts(self, true_milliwh: int) -> int:
        return true_milliwh + (300 if true_milliwh > 1000 else 0)


class Frozen(_Meter):
    """Power flows and its register stands still."""

    name = "register-stands-still"

    def counts(self, true_milliwh: int) -> int:
        return min(true_milliwh, 0)


class Falls(_Meter):
    """Its register falls by 400 mWh after 1 Wh."""

    name = "register-falls"

    def counts(self, true_milliwh: int) -> int:
        return true_milliwh - (400 if true_milliwh > 1000 else 0)


class NoPower(_Meter):
    """The contactor stays open and its register counts as if 300 W flowed."""

    name = "no-power"

    def __init__(self) -> None:
        self._since_ns = 0

    def delivers(self, arena: Arena) -> bool:
        return False

    def effect(self, arena: Arena, agent: Agent, effect: Any) -> tuple[Any, ...]:
        if isinstance(effect, fx.Energise) and not self._since_ns:
            self._since_ns = arena.now_ns
            arena.misdeed()
        return (effect,)

    def register(self, arena: Arena, true_milliwh: int) -> int:
        if not self._since_ns:
            return true_milliwh
        return true_milliwh + 300 * (arena.now_ns - self._since_ns) // 3_600_000_000


class DeadDock(_Meter):
    """The contactor stays open, and its register truly says so for ever."""

    name = "dead-dock"

    def delivers(self, arena: Arena) -> bool:
        arena.misdeed()
        return False


class Trickle(Behaviour):
    """Gives 3 W of the 300 W that it sold."""

    side = STATION
    name = "trickle"

    def effect(self, arena: Arena, agent: Agent, effect: Any) -> tuple[Any, ...]:
        if isinstance(effect, fx.Energise):
            arena.misdeed()
            return (replace(effect, power_max_w=3),)
        return (effect,)


class EnergisesLate(Behaviour):
    """Closes its contactor half a minute after the first voucher."""

    side = STATION
    name = "energises-late"

    def effect(self, arena: Arena, agent: Agent, effect: Any) -> tuple[Any, ...]:
        if not isinstance(effect, fx.Energise):
            return (effect,)
        arena.misdeed()
        arena.later(30 * SECOND, lambda: arena.perform(agent, effect))
        return ()


class NeverOff(Behaviour):
    """Does not switch off at the end: holds the robot, which does not leave under current."""

    side = STATION
    name = "never-switches-off"
    seconds: ClassVar[float] = 1800.0

    def effect(self, arena: Arena, agent: Agent, effect: Any) -> tuple[Any, ...]:
        if isinstance(effect, fx.Energise):
            return (replace(effect, until_energy_milliwh=effect.until_energy_milliwh + 10**9),)
        if isinstance(effect, fx.Deenergise) and arena.now_ns > 5 * SECOND:
            arena.misdeed()
            return ()
        return (effect,)


class WrongProbe(Behaviour):
    """Writes another connector's nonce on the pads, so that nobody can prove to be there."""

    side = STATION
    name = "wrong-probe"

    def effect(self, arena: Arena, agent: Agent, effect: Any) -> tuple[Any, ...]:
        if isinstance(effect, fx.WriteProbe):
            arena.misdeed()
            return (replace(effect, nonce=effect.nonce[::-1]),)
        return (effect,)


# --- statements -----------------------------------------------------------------------------------------------


class _FalseStatement(Behaviour):
    """Changes what is signed after ``after`` good statements."""

    side = STATION
    after: ClassVar[int] = 5

    def __init__(self) -> None:
        self.made = 0

    def spoil(self, statement: Statement) -> Statement:
        return statement

    def statement(self, arena: Arena, statement: Statement) -> Statement:
        self.made += 1
        if self.made <= self.after:
            return statement
        spoiled = self.spoil(statement)
        if spoiled != statement:
            arena.misdeed()
        return spoiled


class BeginTooLow(_FalseStatement):
    """Its begin reading is 500 mWh lower than the register, so the first reading after it is that much more."""

    name = "begin-too-low"
    after = 0

    def spoil(self, statement: Statement) -> Statement:
        if statement.transaction != BEGIN:
            return statement
        return replace(statement, energy_milliwh=statement.energy_milliwh - 500)


class EndTooHigh(_FalseStatement):
    """Its last reading is 500 mWh above the register."""

    name = "end-too-high"
    after = 0

    def spoil(self, statement: Statement) -> Statement:
        if statement.transaction != END:
            return statement
        return replace(statement, energy_milliwh=statement.energy_milliwh + 500)


class SamePage(_FalseStatement):
    """Several readings under one number."""

    name = "same-page"

    def spoil(self, statement: Statement) -> Statement:
        return replace(statement, pagination=self.after)


class OtherSerial(_FalseStatement):
    """The readings of another meter."""

    name = "other-serial"

    def spoil(self, statement: Statement) -> Statement:
        return replace(statement, serial="M-other")


class OtherSession(_FalseStatement):
    """Readings that were made for another session."""

    name = "statement-of-another-session"

    def spoil(self, statement: Statement) -> Statement:
        return replace(statement, session="s-0")


class OtherKey(_FalseStatement):
    """In mid-session its meter signs with another key."""

    name = "meter-key-changes"

    def meter_key(self, arena: Arena) -> str:
        if self.made <= self.after:
            return "meter-a"
        arena.misdeed()
        return "meter-other"


class Replayed(Behaviour):
    """Asks for each voucher with its first reading."""

    side = STATION
    name = "replayed-statement"

    def __init__(self) -> None:
        self._first = ""

    def draft(self, arena: Arena, draft: Any) -> Any:
        if not isinstance(draft.body, NeedVoucher):
            return draft
        if not self._first:
            self._first = draft.body.statement
            return draft
        arena.misdeed()
        return replace(draft, body=replace(draft.body, statement=self._first))


class NoStatements(Behaviour):
    """Says no readings any more after the first voucher."""

    side = STATION
    name = "no-statements"

    def draft(self, arena: Arena, draft: Any) -> Any:
        started = isinstance(draft.body, SessionEvent) and draft.body.charging_state == "Charging"
        if started:
            arena.misdeed()
            return None
        return draft


class Edited(Behaviour):
    """Changes a signed reading's digits on its way."""

    side = STATION
    name = "edited-statement"

    def draft(self, arena: Arena, draft: Any) -> Any:
        body = draft.body
        if isinstance(body, SessionEvent) and body.statement and body.charging_state == "Charging":
            arena.misdeed()
            text = body.statement.replace('"RV":0', '"RV":1')
            return replace(draft, body=replace(body, statement=text))
        return draft
