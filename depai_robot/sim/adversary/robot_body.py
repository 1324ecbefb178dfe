"""Robots that cheat with their body: at the wrong place, with another's proof, drawing more, staying for ever."""
# ruff: noqa: D102  (the seams that are overridden here are documented in ``behaviour``)
# ruff: noqa: ARG002  (and have the parameters that they have there)

from typing import Any, ClassVar

from msgspec.structs import replace

from depai_robot.charging import effect as fx
from depai_robot.charging import fact as ft
from depai_robot.charging.message import MeterIdentity, SessionEvent, SessionStop
from depai_robot.charging.setting import StationSettings
from depai_robot.sim.adversary.agent import Agent
from depai_robot.sim.adversary.arena import SECOND, Arena
from depai_robot.sim.adversary.behaviour import ROBOT, Behaviour
from depai_robot.sim.adversary.cast import CHAIN_ID, signer
from depai_robot.values.identity import did_pkh


def two_connectors(settings: StationSettings) -> StationSettings:
    """The same station with a second connector and meter."""
    second = MeterIdentity("M-2", did_pkh(CHAIN_ID, signer("meter-a").address), 5)
    return replace(settings, meters=(*settings.meters, second))


class _Probe(Behaviour):
    """Returns another nonce than the one on its pads."""

    side = ROBOT

    def nonce(self, arena: Arena, true: str) -> str | None:
        return true

    def draft(self, arena: Arena, draft: Any) -> Any:
        if not isinstance(draft.body, SessionEvent) or draft.body.probe is None:
            return draft
        nonce = self.nonce(arena, draft.body.probe)
        if nonce == draft.body.probe:
            return draft
        arena.misdeed()
        return None if nonce is None else replace(draft, body=replace(draft.body, probe=nonce))


class GuessedProof(_Probe):
    """Says a nonce that it made up."""

    name = "guessed-proof"

    def nonce(self, arena: Arena, true: str) -> str | None:
        return "0x" + "42" * 32


class NoProof(_Probe):
    """Sits on the connector and proves nothing."""

    name = "no-proof"

    def nonce(self, arena: Arena, true: str) -> str | None:
        return None


class OldProof(_Probe):
    """In a second session it returns the nonce of the first."""

    name = "proof-of-another-session"
    least_s: ClassVar[float] = 150.0

    def __init__(self) -> None:
        self._first = ""

    def begin(self, arena: Arena) -> None:
        arena.later(70 * SECOND, lambda: arena.request(arena.robots[0], "s-2"))

    def nonce(self, arena: Arena, true: str) -> str | None:
        self._first = self._first or true
        return self._first


class OtherConnector(Behaviour):
    """Sits on the second connector and pays for the first, which another robot may have."""

    side = ROBOT
    name = "sits-on-another-connector"

    def station_settings(self, settings: StationSettings) -> StationSettings:
        return two_connectors(settings)

    def effect(self, arena: Arena, agent: Agent, effect: Any) -> tuple[Any, ...]:
        if not isinstance(effect, fx.StartDocking):
            return (effect,)
        arena.misdeed()
        arena.later(4 * SECOND, lambda: self._sit(arena, agent, effect.dock))
        return ()

    def _sit(self, arena: Arena, agent: Agent, dock: str) -> None:
        arena.sit(agent, "station-a", 2)
        arena.give(agent, ft.DockingEnded(arena.at, True, dock, "", arena.reading(agent.name)))


class OthersProof(Behaviour):
    """Returns the nonce of the connector on which an honest robot sits, to charge it to that robot's pads."""

    side = ROBOT
    name = "proof-of-another-connector"
    robots = 2

    def station_settings(self, settings: StationSettings) -> StationSettings:
        return two_connectors(settings)

    def fact(self, arena: Arena, agent: Agent, fact: Any) -> Any:
        if isinstance(fact, ft.ChargeRequested) and arena.now_ns < 9 * SECOND:
            arena.later(8 * SECOND, lambda: arena.request(agent))  # the honest one comes first
            return None
        return fact

    def draft(self, arena: Arena, draft: Any) -> Any:
        if isinstance(draft.body, SessionEvent) and draft.body.probe is not None:
            other = arena.connectors["station-a", 1].nonce
            if other:
                arena.misdeed()
                return replace(draft, body=replace(draft.body, probe="0x" + other.hex()))
        return draft


class Squats(Behaviour):
    """Plugs in without any session and takes the place that an honest robot has paid for."""

    side = ROBOT
    name = "plugs-in-first"
    robots = 2

    def begin(self, arena: Arena) -> None:
        arena.later(2 * SECOND, lambda: self._sit(arena))

    def _sit(self, arena: Arena) -> None:
        arena.misdeed()
        arena.sit(arena.robots[0], "station-a", 1)

    def fact(self, arena: Arena, agent: Agent, fact: Any) -> Any:
        return None if isinstance(fact, ft.ChargeRequested) else fact


class SwapsBodies(Behaviour):
    """Proves that it is there, then another robot of its owner takes its place."""

    side = ROBOT
    name = "another-body-after-the-proof"
    robots = 2

    def begin(self, arena: Arena) -> None:
        arena.after_step.append(lambda agent: self._look(arena, agent))

    def _look(self, arena: Arena, agent: Agent) -> None:
        if agent is not arena.stations[0] or arena.misdeed_ns >= 0:
            return
        if any(s.phase == "CHARGING" and s.request.robot == "robot-a" for s in agent.state.sessions.values()):
            arena.misdeed()
            arena.leave(arena.robots[0])
            arena.sit(arena.robots[1], "station-a", 1)


class DrawsMore(Behaviour):
    """Draws 1,000 W on a session of 300 W."""

    side = ROBOT
    name = "draws-too-much"

    def draws_w(self, arena: Arena, wanted_w: int) -> int:
        arena.misdeed()
        return 1000


class DrawsNothing(Behaviour):
    """Sits on the connector, pays and draws nothing."""

    side = ROBOT
    name = "draws-nothing"

    def draws_w(self, arena: Arena, wanted_w: int) -> int:
        arena.misdeed()
        return 0


class NeverLeaves(Behaviour):
    """Stays on the connector after the end, where every minute costs."""

    side = ROBOT
    name = "never-undocks"
    least_s: ClassVar[float] = 600.0

    def station_settings(self, settings: StationSettings) -> StationSettings:
        return replace(settings, idle_fee_atomic_per_min=100)

    def effect(self, arena: Arena, agent: Agent, effect: Any) -> tuple[Any, ...]:
        if isinstance(effect, fx.StartUndocking):
            arena.misdeed()
            return ()
        return (effect,)


class Unplugs(Behaviour):
    """Drives off under current without a word."""

    side = ROBOT
    name = "unplugs-under-current"

    def begin(self, arena: Arena) -> None:
        arena.later(20 * SECOND, lambda: self._go(arena))

    def _go(self, arena: Arena) -> None:
        arena.misdeed()
        arena.leave(arena.robots[0])


class NeverComes(Behaviour):
    """Deposits, and never drives to the dock."""

    side = ROBOT
    name = "never-comes"

    def effect(self, arena: Arena, agent: Agent, effect: Any) -> tuple[Any, ...]:
        if isinstance(effect, fx.StartDocking):
            arena.misdeed()
            return ()
        return (effect,)


class _Vanishes(Behaviour):
    """From some phase on it says nothing any more; its body stays where it is."""

    side = ROBOT
    phase: ClassVar[str] = ""

    def __init__(self) -> None:
        self._gone = False

    def effect(self, arena: Arena, agent: Agent, effect: Any) -> tuple[Any, ...]:
        if not self._gone and agent.state.phase == self.phase:
            self._gone = True
            arena.misdeed()
        return () if self._gone else (effect,)

    def fact(self, arena: Arena, agent: Agent, fact: Any) -> Any:
        return None if self._gone else fact


class VanishesFunding(_Vanishes):
    """Vanishes after it accepted the quote: nothing is deposited."""

    name = "vanishes-funding"
    phase = "FUNDING"


class VanishesApproaching(_Vanishes):
    """Vanishes on its way."""

    name = "vanishes-approaching"
    phase = "APPROACHING"


class VanishesPresenting(_Vanishes):
    """Vanishes on the pads, before the first voucher."""

    name = "vanishes-presenting"
    phase = "PRESENTING"


class VanishesCharging(_Vanishes):
    """Vanishes while it charges, and stays on the pads."""

    name = "vanishes-charging"
    phase = "CHARGING"


class VanishesStopping(_Vanishes):
    """Vanishes when it has what it wanted, without paying the last energy."""

    name = "vanishes-stopping"
    phase = "STOPPING"


class StopsForOthers(Behaviour):
    """Says a stop in the name of another robot's session."""

    side = ROBOT
    name = "stops-anothers-session"
    robots = 2

    def begin(self, arena: Arena) -> None:
        arena.later(20 * SECOND, lambda: self._say(arena))

    def fact(self, arena: Arena, agent: Agent, fact: Any) -> Any:
        return None if isinstance(fact, ft.ChargeRequested) else fact

    def _say(self, arena: Arena) -> None:
        arena.misdeed()
        station = arena.stations[0]
        for session in list(station.state.sessions):
            arena.say("robot-a", station, SessionStop("Other", "stop it"), session=session)
