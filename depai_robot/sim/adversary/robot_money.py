"""Robots that cheat with vouchers, refunds and withdrawals."""
# ruff: noqa: D102  (the seams that are overridden here are documented in ``behaviour``)
# ruff: noqa: ARG002  (and have the parameters that they have there)

from typing import Any, ClassVar

from msgspec.structs import replace

from depai_robot.charging import fact as ft
from depai_robot.charging.envelope import open_token
from depai_robot.charging.message import NeedVoucher, Payment
from depai_robot.charging.terms import channel_config
from depai_robot.payment.eip712 import channel_id, settlement_domain, voucher_digest
from depai_robot.payment.signature import CURVE_ORDER
from depai_robot.payment.x402 import (
    RefundPayload,
    VoucherPayload,
    bytes_to_text,
    json_to_config,
)
from depai_robot.ports import InitiateWithdrawCall
from depai_robot.sim.adversary.agent import Agent
from depai_robot.sim.adversary.arena import SECOND, Arena
from depai_robot.sim.adversary.behaviour import ROBOT, Behaviour
from depai_robot.sim.adversary.cast import CHAIN_ID, signer
from depai_robot.values.identity import Address, ChannelId, address_to_hex

_DOMAIN = settlement_domain(CHAIN_ID)
OTHER = address_to_hex(signer("somebody else").address)


def sign_voucher(channel: bytes, ceiling: int, key: str = "voucher-a") -> str:
    """A voucher's signature by the key of that name, as text."""
    return bytes_to_text(signer(key).sign(voucher_digest(ChannelId(channel), ceiling, _DOMAIN)))


class Payments(Behaviour):
    """Changes the payload of payments of some kind, after ``good`` of them."""

    side = ROBOT
    kind: ClassVar[type] = VoucherPayload
    good: ClassVar[int] = 1

    def __init__(self) -> None:
        self._paid = 0

    def spoil(self, arena: Arena, payload: Any) -> Any:
        return payload

    def draft(self, arena: Arena, draft: Any) -> Any:
        body = draft.body
        if not isinstance(body, Payment) or not isinstance(body.payload.payload, self.kind):
            return draft
        self._paid += 1
        if self._paid <= self.good:
            return draft
        payload = self.spoil(arena, body.payload.payload)
        if payload is None:
            arena.misdeed()
            return None
        if payload == body.payload.payload:
            return draft
        arena.misdeed()
        return replace(draft, body=Payment(replace(body.payload, payload=payload)))


def _signature(payload: Any, change: Any) -> Any:
    raw = bytes.fromhex(payload.voucher.signature[2:])
    return replace(payload, voucher=replace(payload.voucher, signature=bytes_to_text(change(raw))))


def _ceiling(payload: Any, ceiling: int) -> Any:
    channel = bytes.fromhex(payload.voucher.channel_id[2:])
    signature = sign_voucher(channel, ceiling)
    voucher = replace(payload.voucher, max_claimable_amount=str(ceiling), signature=signature)
    return replace(payload, voucher=voucher)


class HighS(Payments):
    """Signs its vouchers with the high s: the stock check passes them, the contract reverts."""

    name = "voucher-high-s"

    def spoil(self, arena: Arena, payload: Any) -> Any:
        return _signature(
            payload,
            lambda raw: (
                raw[:32]
                + (CURVE_ORDER - int.from_bytes(raw[32:64], "big")).to_bytes(32, "big")
                + bytes([55 - raw[64]])
            ),
        )


class LowV(Payments):
    """Signs its vouchers with v of 0 or 1."""

    name = "voucher-v-0-or-1"

    def spoil(self, arena: Arena, payload: Any) -> Any:
        return _signature(payload, lambda raw: raw[:64] + bytes([raw[64] - 27]))


class HighV(Payments):
    """Signs its vouchers with v + 10."""

    name = "voucher-v-plus-10"

    def spoil(self, arena: Arena, payload: Any) -> Any:
        return _signature(payload, lambda raw: raw[:64] + bytes([raw[64] + 10]))


class ShortSignature(Payments):
    """Its vouchers' signatures have 64 bytes."""

    name = "voucher-64-bytes"

    def spoil(self, arena: Arena, payload: Any) -> Any:
        return _signature(payload, lambda raw: raw[:64])


class ZeroSignature(Payments):
    """Its vouchers' signatures are zeros."""

    name = "voucher-zeros"

    def spoil(self, arena: Arena, payload: Any) -> Any:
        return _signature(payload, lambda raw: bytes(len(raw)))


class WrongKey(Payments):
    """Signs its vouchers with its identity key."""

    name = "voucher-wrong-key"

    def spoil(self, arena: Arena, payload: Any) -> Any:
        voucher = payload.voucher
        channel = bytes.fromhex(voucher.channel_id[2:])
        signature = sign_voucher(channel, int(voucher.max_claimable_amount), "robot-a")
        return replace(payload, voucher=replace(voucher, signature=signature))


class LowerCeiling(Payments):
    """Signs a ceiling 100 atomic units lower than was asked."""

    name = "ceiling-too-low"

    def spoil(self, arena: Arena, payload: Any) -> Any:
        return _ceiling(payload, int(payload.voucher.max_claimable_amount) - 100)


class FallingCeiling(Payments):
    """Signs a ceiling lower than the one before."""

    name = "ceiling-falls"

    def spoil(self, arena: Arena, payload: Any) -> Any:
        return _ceiling(payload, 2001)


class HugeCeiling(Payments):
    """Signs a ceiling of 2^128 - 1, which no escrow covers."""

    name = "ceiling-huge"

    def spoil(self, arena: Arena, payload: Any) -> Any:
        return _ceiling(payload, 2**128 - 1)


class AboveEscrow(Payments):
    """Signs one atomic unit more than its escrow holds."""

    name = "ceiling-above-escrow"

    def spoil(self, arena: Arena, payload: Any) -> Any:
        channel = bytes.fromhex(payload.voucher.channel_id[2:])
        balance = arena.chain.read(ChannelId(channel), 1).balance_atomic
        return _ceiling(payload, balance + 1)


class OldVoucher(Payments):
    """Pays each request with its first voucher."""

    name = "same-voucher-again"
    good = 0

    def __init__(self) -> None:
        super().__init__()
        self._first: Any = None

    def spoil(self, arena: Arena, payload: Any) -> Any:
        self._first = self._first or payload
        return self._first


class OtherChannel(Payments):
    """Signs on a channel of its own making, with no money in it."""

    name = "voucher-of-empty-channel"

    def spoil(self, arena: Arena, payload: Any) -> Any:
        config = replace(payload.channel_config, salt="0x" + "77" * 32)
        channel = channel_id(json_to_config(config), _DOMAIN)
        ceiling = int(payload.voucher.max_claimable_amount)
        voucher = replace(
            payload.voucher, channel_id=bytes_to_text(channel), signature=sign_voucher(channel, ceiling)
        )
        return replace(payload, channel_config=config, voucher=voucher)


class CheapAccepted(Behaviour):
    """Says that it accepted a request for one atomic unit."""

    side = ROBOT
    name = "accepts-another-amount"

    def draft(self, arena: Arena, draft: Any) -> Any:
        body = draft.body
        if isinstance(body, Payment) and isinstance(body.payload.payload, VoucherPayload):
            arena.misdeed()
            accepted = replace(body.payload.accepted, amount="1")
            return replace(draft, body=Payment(replace(body.payload, accepted=accepted)))
        return draft


class NeverPays(Payments):
    """Answers no request after the first voucher, and goes on drawing."""

    name = "draws-without-paying"

    def spoil(self, arena: Arena, payload: Any) -> Any:
        return None


class PaysLate(Behaviour):
    """Answers each request ten seconds late, twice the time that it has."""

    side = ROBOT
    name = "pays-late"

    def __init__(self) -> None:
        self._due_ns: dict[str, int] = {}

    def fact(self, arena: Arena, agent: Agent, fact: Any) -> Any:
        if not isinstance(fact, ft.MessageReceived) or not isinstance(
            open_token(fact.token).body, NeedVoucher
        ):
            return fact
        due_ns = self._due_ns.get(fact.token)
        if due_ns is None:
            arena.misdeed()
            self._due_ns[fact.token] = arena.now_ns + 10 * SECOND
            arena.later(10 * SECOND, lambda: arena.give(agent, self._now(arena, fact)))
            return None
        return fact if arena.now_ns >= due_ns else None

    def _now(self, arena: Arena, fact: ft.MessageReceived) -> ft.MessageReceived:
        return replace(fact, at=arena.at, reading=arena.reading("robot-a"))


# --- refunds and withdrawals ----------------------------------------------------------------------------------


class _Withdraws(Behaviour):
    """Starts to withdraw at some phase of the station's session."""

    side = ROBOT
    phase: ClassVar[str] = ""

    def begin(self, arena: Arena) -> None:
        arena.after_step.append(lambda agent: self._look(arena, agent))

    def _look(self, arena: Arena, agent: Agent) -> None:
        if agent is not arena.stations[0] or arena.misdeed_ns >= 0:
            return
        session = next((s for s in agent.state.sessions.values() if s.phase == self.phase), None)
        if session is None or session.channel is None:
            return
        arena.misdeed()
        config = channel_config(session.channel.config)
        row = arena.chain.state.channels.get(ChannelId(session.channel.id))
        if row is not None:
            call = InitiateWithdrawCall(config, row.balance - row.claimed)
            arena.chain.mine(call, Address(config.payer))


class WithdrawsFunded(_Withdraws):
    """Starts to withdraw as soon as its deposit is confirmed."""

    name = "withdraws-funded"
    phase = "FUNDED"


class WithdrawsCharging(_Withdraws):
    """Starts to withdraw while it charges."""

    name = "withdraws-charging"
    phase = "CHARGING"


class WithdrawsEnded(_Withdraws):
    """Starts to withdraw right before the claim."""

    name = "withdraws-before-claim"
    phase = "ENDED"


class _Refund(Payments):
    """Changes the refund request."""

    kind = RefundPayload
    good = 0


class RefundTooLow(_Refund):
    """Asks for the rest with a voucher 500 atomic units below what is charged."""

    name = "refund-too-low"

    def spoil(self, arena: Arena, payload: Any) -> Any:
        return _ceiling(payload, int(payload.voucher.max_claimable_amount) - 500)


class RefundZero(_Refund):
    """Asks for everything back, with a voucher of zero."""

    name = "refund-of-everything"

    def spoil(self, arena: Arena, payload: Any) -> Any:
        return _ceiling(payload, 0)


class NoRefund(_Refund):
    """Never asks for the rest."""

    name = "never-asks-for-the-rest"

    def spoil(self, arena: Arena, payload: Any) -> Any:
        return None


class RefundEarly(Behaviour):
    """Asks for the rest instead of paying a request."""

    side = ROBOT
    name = "refund-in-mid-session"

    def __init__(self) -> None:
        self._paid = 0

    def draft(self, arena: Arena, draft: Any) -> Any:
        body = draft.body
        if not isinstance(body, Payment) or not isinstance(body.payload.payload, VoucherPayload):
            return draft
        self._paid += 1
        if self._paid <= 2:
            return draft
        arena.misdeed()
        payload = body.payload.payload
        channel = bytes.fromhex(payload.voucher.channel_id[2:])
        voucher = replace(payload.voucher, max_claimable_amount="2000", signature=sign_voucher(channel, 2000))
        refund = RefundPayload(channel_config=payload.channel_config, voucher=voucher)
        return replace(draft, body=Payment(replace(body.payload, payload=refund)))
