"""Stations that vanish, or hold a robot and say nothing of it."""
# ruff: noqa: D102  (the seams that are overridden here are documented in ``behaviour``)
# ruff: noqa: ARG002  (and have the parameters that they have there)

from typing import Any, ClassVar

from msgspec.structs import replace

from depai_robot.charging import effect as fx
from depai_robot.sim.adversary.agent import Agent
from depai_robot.sim.adversary.arena import SECOND, Arena
from depai_robot.sim.adversary.behaviour import STATION, Behaviour
from depai_robot.sim.adversary.chain import wish_to_call


class _Vanishes(Behaviour):
    """From some phase on it does and says nothing any more."""

    side = STATION
    phase: ClassVar[str] = ""

    def __init__(self) -> None:
        self._gone = False

    def _look(self, arena: Arena, agent: Agent) -> None:
        if not self._gone and any(s.phase == self.phase for s in agent.state.sessions.values()):
            self._gone = True
            arena.misdeed()
            for (name, _), item in arena.connectors.items():
                if name == agent.name:
                    item.power_w = 0

    def effect(self, arena: Arena, agent: Agent, effect: Any) -> tuple[Any, ...]:
        self._look(arena, agent)
        return () if self._gone else (effect,)

    def fact(self, arena: Arena, agent: Agent, fact: Any) -> Any:
        return None if self._gone else fact


class VanishesQuoted(_Vanishes):
    """Vanishes once it was asked for a quote."""

    name = "vanishes-quoted"
    phase = "QUOTED"


class VanishesFunding(_Vanishes):
    """Vanishes with the signed deposit in its hands."""

    name = "vanishes-funding"
    phase = "FUNDING"


class VanishesFunded(_Vanishes):
    """Vanishes once the deposit is on chain."""

    name = "vanishes-funded"
    phase = "FUNDED"


class VanishesBinding(_Vanishes):
    """Vanishes when the robot is on its pads."""

    name = "vanishes-binding"
    phase = "BINDING"


class VanishesCharging(_Vanishes):
    """Vanishes with the first voucher for energy."""

    name = "vanishes-charging"
    phase = "CHARGING"


class VanishesStopping(_Vanishes):
    """Vanishes when the charging is to end."""

    name = "vanishes-stopping"
    phase = "STOPPING"


class VanishesEnded(_Vanishes):
    """Vanishes before the rest is asked back."""

    name = "vanishes-ended"
    phase = "ENDED"


class VanishesClaiming(_Vanishes):
    """Vanishes before it claims."""

    name = "vanishes-claiming"
    phase = "CLAIMING"


class VanishesRefunding(_Vanishes):
    """Claims, and vanishes before it gives the rest back."""

    name = "vanishes-refunding"
    phase = "REFUNDING"


class FeeAndGone(_Vanishes):
    """Claims the start fee as soon as the robot is on its way, and vanishes."""

    name = "start-fee-and-gone"
    phase = "FUNDED"

    def _look(self, arena: Arena, agent: Agent) -> None:
        fresh = not self._gone
        super()._look(arena, agent)
        session = next(iter(agent.state.sessions.values()), None)
        if fresh and self._gone and session is not None and session.channel is not None:
            channel = session.channel
            wish = fx.ClaimWish(channel.config, channel.ceiling, channel.signature, channel.ceiling)
            arena.chain.mine(wish_to_call(wish, arena.chain.state.domain), arena.sender_of(agent))


class Hostage(Behaviour):
    """Keeps the current on so that the robot does not leave, and settles nothing."""

    side = STATION
    name = "hostage"
    seconds: ClassVar[float] = 1800.0

    def effect(self, arena: Arena, agent: Agent, effect: Any) -> tuple[Any, ...]:
        if isinstance(effect, fx.Energise):
            return (replace(effect, until_energy_milliwh=effect.until_energy_milliwh + 10**9),)
        if isinstance(effect, fx.Deenergise) and arena.now_ns > 5 * SECOND:
            arena.misdeed()
            return ()
        if isinstance(effect, fx.PrepareTransaction) and not isinstance(effect.call, fx.DepositWish):
            return ()
        return (effect,)
