"""Robots that cheat with what they deposit."""
# ruff: noqa: D102  (the seams that are overridden here are documented in ``behaviour``)
# ruff: noqa: ARG002  (and have the parameters that they have there)

import dataclasses
from typing import Any, ClassVar

from msgspec.structs import replace

from depai_robot.charging import fact as ft
from depai_robot.charging.message import Payment
from depai_robot.charging.setting import RobotSettings
from depai_robot.charging.station_selling import deposit_wish
from depai_robot.payment.x402 import (
    DepositPayload,
)
from depai_robot.sim.adversary.agent import Agent
from depai_robot.sim.adversary.arena import SECOND, Arena
from depai_robot.sim.adversary.behaviour import ROBOT, Behaviour
from depai_robot.sim.adversary.cast import signer
from depai_robot.sim.adversary.chain import wish_to_call
from depai_robot.sim.adversary.robot_money import OTHER, Payments
from depai_robot.values.identity import Address, address_to_hex


class _Deposit(Payments):
    """Changes the deposit."""

    kind = DepositPayload
    good = 0
    config: ClassVar[dict[str, Any]] = {}

    def spoil(self, arena: Arena, payload: Any) -> Any:
        return replace(payload, channel_config=replace(payload.channel_config, **self.config))


class ZeroAuthorizer(_Deposit):
    """Its channel has no payer authorizer, so its vouchers would be ERC-1271 and not checkable offline."""

    name = "zero-payer-authorizer"
    config: ClassVar[dict[str, Any]] = {"payer_authorizer": "0x" + "00" * 20}


class ContractPayer(_Deposit):
    """Its payer is a contract that may say no when the claim comes."""

    name = "contract-payer"
    config: ClassVar[dict[str, Any]] = {"payer": OTHER}


class OtherReceiver(_Deposit):
    """Its channel pays itself."""

    name = "channel-to-itself"
    config: ClassVar[dict[str, Any]] = {"receiver": address_to_hex(signer("payer-a").address)}


class OtherReceiverAuthorizer(_Deposit):
    """Its channel lets itself refund."""

    name = "refunds-itself"
    config: ClassVar[dict[str, Any]] = {"receiver_authorizer": address_to_hex(signer("payer-a").address)}


class OtherToken(_Deposit):
    """Its channel holds a token of its own making."""

    name = "worthless-token"
    config: ClassVar[dict[str, Any]] = {"token": OTHER}


class ShortDelay(_Deposit):
    """Its channel can be emptied after one second."""

    name = "short-withdraw-delay"
    config: ClassVar[dict[str, Any]] = {"withdraw_delay": 1}


class OtherSalt(_Deposit):
    """Its deposit is for another channel than its voucher."""

    name = "other-salt"
    config: ClassVar[dict[str, Any]] = {"salt": "0x" + "55" * 32}


class SmallDeposit(_Deposit):
    """Deposits one atomic unit."""

    name = "tiny-deposit"

    def spoil(self, arena: Arena, payload: Any) -> Any:
        return replace(payload, deposit=replace(payload.deposit, amount="1"))


class ForgedDeposit(_Deposit):
    """Its deposit is not signed by the payer that it names."""

    name = "forged-deposit"

    def spoil(self, arena: Arena, payload: Any) -> Any:
        return _authorization(payload, signature="0x" + "11" * 65)


class ExpiredDeposit(_Deposit):
    """Its deposit is not valid any more when it comes."""

    name = "expired-deposit"

    def spoil(self, arena: Arena, payload: Any) -> Any:
        return _authorization(payload, valid_before=str(arena.wall_s))


class FutureDeposit(_Deposit):
    """Its deposit is valid from tomorrow."""

    name = "future-deposit"

    def spoil(self, arena: Arena, payload: Any) -> Any:
        return _authorization(payload, valid_after=str(arena.wall_s + 86_400))


def _authorization(payload: Any, **changes: Any) -> Any:
    inner = replace(payload.deposit.authorization.erc3009_authorization, **changes)
    authorization = replace(payload.deposit.authorization, erc3009_authorization=inner)
    return replace(payload, deposit=replace(payload.deposit, authorization=authorization))


class NoMoney(Behaviour):
    """Signs a deposit without having the money."""

    side = ROBOT
    name = "no-money"

    def fact(self, arena: Arena, agent: Agent, fact: Any) -> Any:
        if isinstance(fact, ft.FundsObserved):
            arena.misdeed()
            spend(arena, Address(agent.settings.payer))
        return fact


def spend(arena: Arena, payer: Address) -> None:
    """Its tokens go to another account of the same owner."""
    balances = arena.chain.state.balances
    amount = balances.get(payer, 0)
    balances[payer] = 0
    hoard = signer("somebody else").address
    balances[hoard] = balances.get(hoard, 0) + amount


class MoneyMoves(Behaviour):
    """Moves its money away between the station's simulation and its transaction."""

    side = ROBOT
    name = "money-moves-away"

    def begin(self, arena: Arena) -> None:
        arena.after_step.append(lambda agent: self._look(arena, agent))

    def _look(self, arena: Arena, agent: Agent) -> None:
        if agent is arena.stations[0] and any(s.phase == "FUNDING" for s in agent.state.sessions.values()):
            jobs = [
                name for s in agent.state.sessions.values() for name in s.jobs if name.endswith(":deposit")
            ]
            if jobs and arena.misdeed_ns < 0:
                arena.misdeed()
                payer = Address(arena.robots[0].settings.payer)
                arena.later(30_000_000, lambda: spend(arena, payer))


class ForksAway(Behaviour):
    """Relays its own deposit, and has the chain reorganised once it charges."""

    side = ROBOT
    name = "deposit-forked-away"

    def station_settings(self, settings: Any) -> Any:
        return replace(settings, confirmations=3)

    def begin(self, arena: Arena) -> None:
        arena.after_step.append(lambda agent: self._look(arena, agent))

    def _look(self, arena: Arena, agent: Agent) -> None:
        if agent is not arena.stations[0] or arena.misdeed_ns >= 0:
            return
        session = next((s for s in agent.state.sessions.values() if s.phase == "FUNDING"), None)
        if session is None:
            return
        arena.misdeed()
        call = wish_to_call(deposit_wish(session.channel), arena.chain.state.domain)
        arena.chain.mine(call, Address(arena.robots[0].settings.payer))
        arena.later(int(1.5 * SECOND), lambda: self._fork(arena))

    def _fork(self, arena: Arena) -> None:
        arena.chain.fork(3)
        spend(arena, Address(arena.robots[0].settings.payer))


class SameDeposit(Behaviour):
    """In a second session it sends the deposit of the first again."""

    side = ROBOT
    name = "same-deposit-twice"
    least_s: ClassVar[float] = 150.0

    def __init__(self) -> None:
        self._first: Any = None

    def begin(self, arena: Arena) -> None:
        arena.later(70 * SECOND, lambda: arena.request(arena.robots[0], "s-2"))

    def draft(self, arena: Arena, draft: Any) -> Any:
        body = draft.body
        if not isinstance(body, Payment) or not isinstance(body.payload.payload, DepositPayload):
            return draft
        if self._first is None:
            self._first = body
            return draft
        arena.misdeed()
        return replace(draft, body=self._first)


class BlacklistedPayer(Behaviour):
    """The token's issuer blacklists its payer in mid-session: refunds to it revert."""

    side = ROBOT
    name = "blacklisted-payer"

    def begin(self, arena: Arena) -> None:
        arena.later(15 * SECOND, lambda: self._list(arena))

    def _list(self, arena: Arena) -> None:
        arena.misdeed()
        arena.chain.blacklist.add(Address(arena.robots[0].settings.payer))


class LessEscrow(Behaviour):
    """Its policy lets it lock only fee and one tranche, and it asks for much more energy."""

    side = ROBOT
    name = "small-escrow"

    def robot_settings(self, settings: RobotSettings) -> RobotSettings:
        policy = dataclasses.replace(settings.policy, escrow_channel_max_atomic=2500)
        return replace(settings, policy=policy)

    def begin(self, arena: Arena) -> None:
        arena.misdeed()
