"""Cheats of both sides on a channel that is kept between two sessions."""
# ruff: noqa: D102  (the seams that are overridden here are documented in ``behaviour``)
# ruff: noqa: ARG002  (and have the parameters that they have there)

from typing import Any, ClassVar

from msgspec.structs import replace

from depai_robot.charging import effect as fx
from depai_robot.charging import fact as ft
from depai_robot.charging.message import (
    CHARGING_EXTENSION,
    NeedVoucher,
    Payment,
    PaymentResult,
    Quote,
    QuoteRequest,
)
from depai_robot.charging.setting import RobotSettings, StationSettings
from depai_robot.charging.terms import build_failure, build_refund, channel_config
from depai_robot.payment.x402 import RefundPayload, VoucherPayload
from depai_robot.ports import FinalizeWithdrawCall, InitiateWithdrawCall, RefundCall
from depai_robot.sim.adversary.agent import Agent
from depai_robot.sim.adversary.arena import SECOND, Arena
from depai_robot.sim.adversary.behaviour import ROBOT, STATION, Behaviour
from depai_robot.sim.adversary.chain import wish_to_call
from depai_robot.sim.adversary.robot_money import sign_voucher
from depai_robot.values.identity import Address, ChannelId

FIRST_STOPS_S, BETWEEN_S, SECOND_BEGINS_S = 25, 60, 80


class _Kept(Behaviour):
    """An honest first session that ends early and keeps its channel, and a second one."""

    energy_milliwh: ClassVar[int] = 10_000
    least_s: ClassVar[float] = 200.0
    second_s: ClassVar[int] = SECOND_BEGINS_S

    def robot_settings(self, settings: RobotSettings) -> RobotSettings:
        return replace(settings, keep_max_atomic=50_000)

    def station_settings(self, settings: StationSettings) -> StationSettings:
        return replace(settings, reuse_fee_atomic=200, claim_interval_ms=300_000)

    def begin(self, arena: Arena) -> None:
        robot = arena.robots[0]
        arena.later(
            FIRST_STOPS_S * SECOND, lambda: arena.give(robot, ft.StopRequested(arena.at, "enough for now"))
        )
        arena.later(BETWEEN_S * SECOND, lambda: self.between(arena))
        arena.later(self.second_s * SECOND, lambda: arena.request(robot, "s-2", 2500))

    def between(self, arena: Arena) -> None:
        """What it does when the first session is over."""

    def channel(self, arena: Arena) -> Any:
        """The kept channel as the station knows it, None when there is none."""
        return next((kept.channel for kept in arena.stations[0].state.channels.values()), None)


# --- stations -------------------------------------------------------------------------------------------------


class HonestKept(_Kept):
    """Nothing: the control run of two honest sessions on one channel."""

    side = STATION
    name = "honest-kept-channel"


class ClaimsRest(_Kept):
    """Between the sessions it claims the highest ceiling that was ever signed."""

    side = STATION
    name = "kept-claims-the-ceiling"

    def __init__(self) -> None:
        self._best: Any = None

    def begin(self, arena: Arena) -> None:
        super().begin(arena)
        robot = arena.robots[0]
        arena.later(140 * SECOND, lambda: arena.give(robot, ft.StopRequested(arena.at, "try again")))
        arena.later(150 * SECOND, lambda: arena.request(robot, "s-3"))

    def heard(self, arena: Arena, agent: Agent, draft: Any) -> None:
        payload = draft.body.payload.payload if isinstance(draft.body, Payment) else None
        if isinstance(payload, VoucherPayload):
            voucher = payload.voucher
            if self._best is None or int(voucher.max_claimable_amount) > int(self._best.max_claimable_amount):
                self._best = voucher

    def between(self, arena: Arena) -> None:
        channel = self.channel(arena)
        if channel is None:
            return
        arena.misdeed()
        ceiling = int(self._best.max_claimable_amount)
        wish = fx.ClaimWish(channel.config, ceiling, bytes.fromhex(self._best.signature[2:]), ceiling)
        arena.chain.mine(wish_to_call(wish, arena.chain.state.domain), arena.sender_of(arena.stations[0]))


class GivesBackUnasked(_Kept):
    """Between the sessions it gives the rest back, and quotes as if it were still there."""

    side = STATION
    name = "kept-refunds-unasked"

    def between(self, arena: Arena) -> None:
        channel = self.channel(arena)
        if channel is None:
            return
        arena.misdeed()
        call = RefundCall(channel_config(channel.config), 10**9)
        arena.chain.mine(call, arena.sender_of(arena.stations[0]))


class Forgets(_Kept):
    """In the second session it does not know the channel any more, once it has the voucher."""

    side = STATION
    name = "kept-forgets"

    def draft(self, arena: Arena, draft: Any) -> Any:
        if draft.session == "s-2" and isinstance(draft.body, PaymentResult):
            arena.misdeed()
            reason = "invalid_batch_settlement_evm_channel_not_found"
            settle = build_failure(arena.cheat.settings.network, reason)
            return replace(draft, body=PaymentResult(draft.body.answers, settle))
        return draft


class RaisesBase(_Kept):
    """In the second session it says that 100 atomic units more were charged in the first."""

    side = STATION
    name = "kept-raises-the-base"

    def draft(self, arena: Arena, draft: Any) -> Any:
        if draft.session != "s-2" or not isinstance(draft.body, NeedVoucher):
            return draft
        arena.misdeed()
        required = draft.body.payment_required
        item: Any = required.accepts[0]
        state = item.extra.channel_state
        state = replace(state, charged_cumulative_amount=str(int(state.charged_cumulative_amount) + 300))
        item = replace(item, extra=replace(item.extra, channel_state=state))
        required = replace(required, accepts=[item])
        return replace(draft, body=replace(draft.body, payment_required=required))


class RaisesSum(_Kept):
    """Agrees to keep the channel, at a higher sum than the last voucher's."""

    side = STATION
    name = "kept-raises-the-sum"

    def draft(self, arena: Arena, draft: Any) -> Any:
        body: Any = draft.body
        state = arena.robots[0].state
        closing = state.session is not None and state.session.phase == "SETTLING" and state.session.keep
        if not closing or not isinstance(body, PaymentResult) or not body.settle.success:
            return draft
        arena.misdeed()
        extra: Any = body.settle.extra
        old = extra.channel_state
        new = replace(old, charged_cumulative_amount=str(int(old.charged_cumulative_amount) + 300))
        extra = replace(extra, channel_state=new)
        return replace(draft, body=replace(body, settle=replace(body.settle, extra=extra)))


class QuotesOtherChannel(_Kept):
    """Its second quote is for a channel that the robot did not name."""

    side = STATION
    name = "kept-quotes-another-channel"

    def draft(self, arena: Arena, draft: Any) -> Any:
        if draft.session != "s-2" or not isinstance(draft.body, Quote):
            return draft
        arena.misdeed()
        required: Any = draft.body.payment_required
        extension = required.extensions[CHARGING_EXTENSION]
        info = {**extension.info, "channel": "0x" + "77" * 32}
        required = replace(required, extensions={CHARGING_EXTENSION: replace(extension, info=info)})
        return replace(draft, body=Quote(required))


class _Closes(_Kept):
    """The robot's owner wants the rest back instead of a second session."""

    side = STATION

    def begin(self, arena: Arena) -> None:
        super().begin(arena)
        arena.later(70 * SECOND, lambda: self._close(arena))

    def _close(self, arena: Arena) -> None:
        robot = arena.robots[0]
        for kept in robot.state.channels.values():
            arena.misdeed()
            wish = ft.ChannelCloseRequested(
                arena.at, "close-1", kept.agreement.channel_id, "the owner wants it back"
            )
            arena.give(robot, wish)


class IgnoresClosing(_Closes):
    """Does not answer the wish to close the channel, and does nothing."""

    name = "kept-ignores-closing"

    def draft(self, arena: Arena, draft: Any) -> Any:
        return None if draft.session == "close-1" else draft

    def effect(self, arena: Arena, agent: Agent, effect: Any) -> tuple[Any, ...]:
        named = getattr(effect, "purpose", "").startswith("close-1")
        return () if named and isinstance(effect, fx.PrepareTransaction) else (effect,)


# --- robots ---------------------------------------------------------------------------------------------------


class HonestRobotKept(_Kept):
    """Nothing: the control run of two honest sessions on one channel."""

    side = ROBOT
    name = "honest-kept-channel"


class WithdrawsBetween(_Kept):
    """Starts to withdraw between the sessions, then pays from the channel again."""

    side = ROBOT
    name = "kept-withdraws-between"

    def between(self, arena: Arena) -> None:
        channel = self.channel(arena)
        if channel is None:
            return
        arena.misdeed()
        row = arena.chain.state.channels[ChannelId(channel.id)]
        call = InitiateWithdrawCall(channel_config(channel.config), row.balance - row.claimed)
        arena.chain.mine(call, Address(channel.config.payer))


class EmptiesBetween(WithdrawsBetween):
    """Withdraws all between the sessions, a quarter of an hour later, unclaimed vouchers and all."""

    name = "kept-empties-the-channel"
    least_s: ClassVar[float] = 1200.0
    second_s: ClassVar[int] = 1050

    def between(self, arena: Arena) -> None:
        super().between(arena)
        channel = self.channel(arena)
        if channel is not None:
            call = FinalizeWithdrawCall(channel_config(channel.config))
            arena.later(901 * SECOND, lambda: self._finish(arena, call))

    def _finish(self, arena: Arena, call: FinalizeWithdrawCall) -> None:
        arena.chain.mine(call, call.channel.payer)


class TwoAtOnce(_Kept):
    """Asks for two sessions on the one channel."""

    side = ROBOT
    name = "kept-two-sessions-at-once"

    def draft(self, arena: Arena, draft: Any) -> Any:
        body = draft.body
        if draft.session == "s-2" and isinstance(body, Payment):
            arena.misdeed()
            channel = body.payload.payload.voucher.channel_id
            more = QuoteRequest(
                "robot-a", 2500, 300, "DC", body.payload.payload.channel_config.payer_authorizer
            )
            arena.say("robot-a", arena.stations[0], replace(more, channel=channel), session="s-3")
            arena.say("robot-a", arena.stations[0], body, session="s-3")
        return draft


class _SecondVoucher(_Kept):
    """Changes the first voucher of the second session, or the closing one of the first."""

    side = ROBOT
    session: ClassVar[str] = "s-2"
    less: ClassVar[int] = 200

    def draft(self, arena: Arena, draft: Any) -> Any:
        body = draft.body
        if draft.session != self.session or not isinstance(body, Payment):
            return draft
        payload = body.payload.payload
        if not isinstance(payload, VoucherPayload) or not self._now(arena, body):
            return draft
        arena.misdeed()
        ceiling = max(0, int(payload.voucher.max_claimable_amount) - self.less)
        signature = sign_voucher(bytes.fromhex(payload.voucher.channel_id[2:]), ceiling)
        voucher = replace(payload.voucher, max_claimable_amount=str(ceiling), signature=signature)
        payload = replace(payload, voucher=voucher)
        return replace(draft, body=Payment(replace(body.payload, payload=payload)))

    def _now(self, arena: Arena, body: Any) -> bool:
        return arena.misdeed_ns < 0


class NoFee(_SecondVoucher):
    """Its first voucher of the second session leaves the start fee out."""

    name = "kept-without-start-fee"


class OldCeiling(_SecondVoucher):
    """Its first voucher of the second session is one of the first session."""

    name = "kept-voucher-of-the-first-session"
    less: ClassVar[int] = 1000


class ClosesTooLow(_SecondVoucher):
    """Its closing voucher is 300 atomic units below what it owes."""

    name = "kept-closes-too-low"
    session: ClassVar[str] = "s-1"
    less: ClassVar[int] = 300

    def _now(self, arena: Arena, body: Any) -> bool:
        return bool(body.payload.accepted.amount == "0")


class NeverCloses(_Kept):
    """Sends no closing voucher and leaves."""

    side = ROBOT
    name = "kept-never-closes"

    def draft(self, arena: Arena, draft: Any) -> Any:
        body = draft.body
        closing = isinstance(body, Payment) and (
            body.payload.accepted.amount == "0" or isinstance(body.payload.payload, RefundPayload)
        )
        if closing:
            arena.misdeed()
            return None
        return draft


class ClosesInUse(_Kept):
    """Asks for the rest of the channel, under another session's name, while it charges from it."""

    side = ROBOT
    name = "kept-closes-in-use"

    def __init__(self) -> None:
        self._asked = False

    def draft(self, arena: Arena, draft: Any) -> Any:
        session = arena.robots[0].state.session
        charging = session is not None and session.id == "s-2" and session.phase == "CHARGING"
        if charging and isinstance(draft.body, Payment) and not self._asked:
            self._asked = True
            arena.misdeed()
            agreement = session.contract()
            charged = session.money.base
            payload = build_refund(agreement.agreed, agreement.channel, agreement.channel_id, charged)
            inner = payload.payload
            signature = sign_voucher(agreement.channel_id, charged)
            inner = replace(inner, voucher=replace(inner.voucher, signature=signature))
            body = Payment(replace(payload, payload=inner))
            arena.say("robot-a", arena.stations[0], body, session="thief-1")
        return draft


class AnothersChannel(_Kept):
    """Another robot names the channel and asks for its rest."""

    side = ROBOT
    name = "kept-named-by-another"
    robots = 2

    def between(self, arena: Arena) -> None:
        channel = self.channel(arena)
        if channel is None:
            return
        arena.misdeed()
        request = QuoteRequest("robot-b", 2500, 300, "DC", "0x" + channel.config.payer_authorizer.hex())
        named = replace(request, channel="0x" + channel.id.hex())
        arena.say("robot-b", arena.stations[0], named, session="thief-2")
