"""Stations that cheat with answers to payments and with transactions."""
# ruff: noqa: D102  (the seams that are overridden here are documented in ``behaviour``)
# ruff: noqa: ARG002  (and have the parameters that they have there)

from typing import Any, ClassVar

import msgspec
from msgspec.structs import replace

from depai_robot.charging import effect as fx
from depai_robot.charging.envelope import open_token
from depai_robot.charging.fact import MessageReceived
from depai_robot.charging.message import (
    Payment,
    PaymentResult,
)
from depai_robot.charging.setting import StationSettings
from depai_robot.charging.station_turn import StationTurn
from depai_robot.charging.terms import build_failure, build_need
from depai_robot.payment.x402 import RefundPayload, VoucherPayload, VoucherStateJson
from depai_robot.sim.adversary.agent import Agent
from depai_robot.sim.adversary.arena import SECOND, Arena
from depai_robot.sim.adversary.behaviour import STATION, Behaviour
from depai_robot.sim.adversary.cast import signer
from depai_robot.sim.adversary.chain import wish_to_call
from depai_robot.values.identity import Address

# --- answers --------------------------------------------------------------------------------------------------


class _SpoiledAnswer(Behaviour):
    """An answer to a voucher for energy with something changed."""

    side = STATION

    def spoil(self, extra: Any) -> Any:
        return extra

    def draft(self, arena: Arena, draft: Any) -> Any:
        body = draft.body
        if not isinstance(body, PaymentResult) or not body.settle.success or body.settle.transaction:
            return draft
        arena.misdeed()
        return replace(
            draft, body=replace(body, settle=replace(body.settle, extra=self.spoil(body.settle.extra)))
        )


class ChargesMore(_SpoiledAnswer):
    """Charges more than the voucher added."""

    name = "charges-more-than-added"

    def spoil(self, extra: Any) -> Any:
        return replace(extra, charged_amount="5000")


class WrongSum(_SpoiledAnswer):
    """Its sum grows by more than it charged."""

    name = "wrong-sum"

    def spoil(self, extra: Any) -> Any:
        state = extra.channel_state
        charged = str(int(state.charged_cumulative_amount) + 100)
        return replace(extra, channel_state=replace(state, charged_cumulative_amount=charged))


class AnswerOfAnother(_SpoiledAnswer):
    """Answers with the state of another channel."""

    name = "answer-of-another-channel"

    def spoil(self, extra: Any) -> Any:
        return replace(extra, channel_state=replace(extra.channel_state, channel_id="0x" + "77" * 32))


class NoCharge(_SpoiledAnswer):
    """Answers without saying what it charged."""

    name = "answer-without-charge"

    def spoil(self, extra: Any) -> Any:
        return replace(extra, charged_amount=msgspec.UNSET)


class Busy(Behaviour):
    """Refuses every voucher for energy with channel_busy, and keeps it."""

    side = STATION
    name = "channel-busy"

    def draft(self, arena: Arena, draft: Any) -> Any:
        body = draft.body
        if isinstance(body, PaymentResult) and body.settle.success and not body.settle.transaction:
            arena.misdeed()
            settle = build_failure(arena.cheat.settings.network, "invalid_batch_settlement_evm_channel_busy")
            return replace(draft, body=PaymentResult(body.answers, settle))
        return draft


class _Corrective(Behaviour):
    """Refuses the refund request with a corrective answer."""

    side = STATION
    more: ClassVar[int] = 0
    forged: ClassVar[bool] = False

    def __init__(self) -> None:
        self._asked = False

    def fact(self, arena: Arena, agent: Agent, fact: Any) -> Any:
        if not isinstance(fact, MessageReceived):
            return fact
        draft = open_token(fact.token)
        payload = draft.body.payload.payload if isinstance(draft.body, Payment) else None
        if not isinstance(payload, RefundPayload) or draft.session not in agent.state.sessions:
            return fact
        arena.misdeed()
        session = agent.state.sessions[draft.session]
        if self._asked:
            self._take(arena, agent, session, payload.voucher)
            return None
        self._asked = True
        turn = StationTurn(agent.state, fact, "Payment", session)
        charged = int(payload.voucher.max_claimable_amount) + self.more
        state = replace(turn.channel_state(), charged_cumulative_amount=str(charged))
        reason = "invalid_batch_settlement_evm_cumulative_amount_mismatch"
        required = build_need(agent.settings, session.connector, 0, state, error=reason)
        if self.forged:
            voucher = VoucherStateJson(str(charged), "0x" + "11" * 65)
            item = required.accepts[0]
            item = replace(item, extra=replace(item.extra, voucher_state=voucher))
            required = replace(required, accepts=[item])
        body = PaymentResult(draft.id, build_failure(agent.settings.network, reason), required)
        arena.say(agent.name, arena.victim, body, session=draft.session)
        return None

    def _take(self, arena: Arena, agent: Agent, session: Any, voucher: Any) -> None:
        """Claims all that the robot signs in reply."""
        ceiling = int(voucher.max_claimable_amount)
        wish = fx.ClaimWish(session.channel.config, ceiling, bytes.fromhex(voucher.signature[2:]), ceiling)
        arena.chain.mine(wish_to_call(wish, arena.chain.state.domain), arena.sender_of(agent))


class CorrectsALittle(_Corrective):
    """Says after the end that 20 atomic units more are owed: within the band."""

    name = "corrects-a-little"
    more = 20


class CorrectsMuch(_Corrective):
    """Says after the end that 5,000 atomic units more are owed."""

    name = "corrects-much"
    more = 5000


class CorrectsForged(_Corrective):
    """Corrects the sum and shows a voucher that the robot never signed."""

    name = "corrective-with-forged-voucher"
    more = 5000
    forged = True


# --- transactions ---------------------------------------------------------------------------------------------


class ClaimsCeiling(Behaviour):
    """Honest until the end, then claims the whole signed ceiling."""

    side = STATION
    name = "claims-the-ceiling"

    def effect(self, arena: Arena, agent: Agent, effect: Any) -> tuple[Any, ...]:
        if isinstance(effect, fx.PrepareTransaction) and isinstance(effect.call, fx.ClaimWish):
            arena.misdeed()
            call = effect.call
            return (replace(effect, call=replace(call, total_claimed_atomic=call.ceiling_atomic)),)
        return (effect,)


class ClaimsEarly(Behaviour):
    """Claims the whole ceiling with each voucher, while the robot still charges, and vanishes with the third."""

    side = STATION
    name = "claims-at-once"

    def __init__(self) -> None:
        self._vouchers = 0

    def heard(self, arena: Arena, agent: Agent, draft: Any) -> None:
        payload = draft.body.payload.payload if isinstance(draft.body, Payment) else None
        session = agent.state.sessions.get(draft.session)
        if not isinstance(payload, VoucherPayload) or session is None or session.channel is None:
            return
        arena.misdeed()
        self._vouchers += 1
        ceiling = int(payload.voucher.max_claimable_amount)
        signature = bytes.fromhex(payload.voucher.signature[2:])
        wish = fx.ClaimWish(session.channel.config, ceiling, signature, ceiling)
        call = wish_to_call(wish, arena.chain.state.domain)
        arena.chain.mine(call, Address(agent.settings.receiver))

    def effect(self, arena: Arena, agent: Agent, effect: Any) -> tuple[Any, ...]:
        if self._vouchers < 3:
            return (effect,)
        return (fx.Deenergise(1),) if isinstance(effect, fx.Energise) and agent.name else ()


class ClaimsTwice(Behaviour):
    """Sends every claim and settlement twice."""

    side = STATION
    name = "settles-twice"

    def effect(self, arena: Arena, agent: Agent, effect: Any) -> tuple[Any, ...]:
        if isinstance(effect, fx.PrepareTransaction) and isinstance(
            effect.call, fx.ClaimWish | fx.SettleWish | fx.RefundWish
        ):
            arena.misdeed()
            call = wish_to_call(effect.call, arena.chain.state.domain)
            arena.later(2 * SECOND, lambda: _ignore(arena.chain.mine(call, arena.sender_of(agent))))
        return (effect,)


def _ignore(_value: object) -> None:
    """For a lambda."""


class NeverClaims(Behaviour):
    """Takes the money's promise and never sends a transaction after the deposit."""

    side = STATION
    name = "never-claims"

    def effect(self, arena: Arena, agent: Agent, effect: Any) -> tuple[Any, ...]:
        if isinstance(effect, fx.PrepareTransaction) and not isinstance(effect.call, fx.DepositWish):
            arena.misdeed()
            return ()
        return (effect,)


class RefusesRefund(Behaviour):
    """Claims and is paid, and never gives the rest back."""

    side = STATION
    name = "refuses-refund"

    def effect(self, arena: Arena, agent: Agent, effect: Any) -> tuple[Any, ...]:
        if isinstance(effect, fx.PrepareTransaction) and isinstance(effect.call, fx.RefundWish):
            arena.misdeed()
            return ()
        return (effect,)


class RefundsLess(Behaviour):
    """Gives one atomic unit of the rest back, and says that it was all."""

    side = STATION
    name = "refunds-less"

    def __init__(self) -> None:
        self._done = False

    def effect(self, arena: Arena, agent: Agent, effect: Any) -> tuple[Any, ...]:
        if not isinstance(effect, fx.PrepareTransaction) or not isinstance(effect.call, fx.RefundWish):
            return (effect,)
        arena.misdeed()
        if self._done:
            return ()
        self._done = True
        return (replace(effect, call=replace(effect.call, amount_atomic=1)),)


class NeverRelays(Behaviour):
    """Takes the signed deposit and never sends it."""

    side = STATION
    name = "never-relays"

    def effect(self, arena: Arena, agent: Agent, effect: Any) -> tuple[Any, ...]:
        if isinstance(effect, fx.PrepareTransaction) and isinstance(effect.call, fx.DepositWish):
            arena.misdeed()
            return ()
        return (effect,)


class RelaysLate(NeverRelays):
    """Relays the deposit minutes later, when the robot has long given up."""

    name = "relays-late"

    def effect(self, arena: Arena, agent: Agent, effect: Any) -> tuple[Any, ...]:
        if isinstance(effect, fx.PrepareTransaction) and isinstance(effect.call, fx.DepositWish):
            arena.misdeed()
            call = wish_to_call(effect.call, arena.chain.state.domain)
            arena.later(200 * SECOND, lambda: _ignore(arena.chain.mine(call, arena.sender_of(agent))))
            return ()
        return (effect,)


class BlacklistedReceiver(Behaviour):
    """The token's issuer has blacklisted its receiver: it can claim and is never paid."""

    side = STATION
    name = "blacklisted-receiver"

    def begin(self, arena: Arena) -> None:
        arena.chain.blacklist.add(Address(arena.stations[0].settings.receiver))
        arena.misdeed()


class UnknownReceiver(Behaviour):
    """A station whose receiver the owner never allowed."""

    side = STATION
    name = "unknown-receiver"

    def station_settings(self, settings: StationSettings) -> StationSettings:
        other = bytes(signer("somebody else").address)
        return replace(settings, receiver=other, receiver_authorizer=other)

    def begin(self, arena: Arena) -> None:
        arena.misdeed()
