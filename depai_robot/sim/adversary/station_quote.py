"""Stations that cheat with quotes and with requests for vouchers."""
# ruff: noqa: D102  (the seams that are overridden here are documented in ``behaviour``)

from typing import Any, ClassVar

import msgspec
from msgspec.structs import replace

from depai_robot.charging.message import (
    CHARGING_EXTENSION,
    NeedVoucher,
    Quote,
)
from depai_robot.sim.adversary.arena import Arena
from depai_robot.sim.adversary.behaviour import STATION, Behaviour
from depai_robot.sim.adversary.cast import signer
from depai_robot.values.identity import address_to_hex

OTHER = address_to_hex(signer("somebody else").address)


class _SpoiledQuote(Behaviour):
    """A quote with some fields changed."""

    side = STATION
    terms: ClassVar[dict[str, Any]] = {}
    requirements: ClassVar[dict[str, Any]] = {}
    extra: ClassVar[dict[str, Any]] = {}

    def draft(self, arena: Arena, draft: Any) -> Any:
        if not isinstance(draft.body, Quote):
            return draft
        arena.misdeed()
        required: Any = draft.body.payment_required
        item = required.accepts[0]
        item = replace(replace(item, extra=replace(item.extra, **self.extra)), **self.requirements)
        extension = required.extensions[CHARGING_EXTENSION]
        info = {**extension.info, **self.terms}
        extensions = {CHARGING_EXTENSION: replace(extension, info=info)}
        required = replace(required, accepts=[item], extensions=extensions)
        return replace(draft, body=Quote(required))


class OtherReceiver(_SpoiledQuote):
    """Its quote pays another receiver than its signed offer names."""

    name = "other-receiver"
    requirements: ClassVar[dict[str, Any]] = {"pay_to": OTHER}


class OtherAuthorizer(_SpoiledQuote):
    """Its quote lets somebody else sign claims."""

    name = "other-receiver-authorizer"
    extra: ClassVar[dict[str, Any]] = {"receiver_authorizer": OTHER}


class OtherToken(_SpoiledQuote):
    """Its quote wants another token."""

    name = "other-token"
    requirements: ClassVar[dict[str, Any]] = {"asset": OTHER}


class OtherChain(_SpoiledQuote):
    """Its quote settles on another chain."""

    name = "other-chain"
    requirements: ClassVar[dict[str, Any]] = {"network": "eip155:8453"}


class OtherDomain(_SpoiledQuote):
    """Its quote names the token otherwise, so that the deposit's signature would be over another domain."""

    name = "other-domain-name"
    extra: ClassVar[dict[str, Any]] = {"name": "USD Coin"}


class LongDelay(_SpoiledQuote):
    """Its quote wants a withdraw delay of 30 days."""

    name = "long-withdraw-delay"
    extra: ClassVar[dict[str, Any]] = {"withdraw_delay": 2_592_000}


class ZeroDelay(_SpoiledQuote):
    """Its quote wants a withdraw delay that the contract refuses."""

    name = "zero-withdraw-delay"
    extra: ClassVar[dict[str, Any]] = {"withdraw_delay": 0}


class HugeDeposit(_SpoiledQuote):
    """Its quote wants all that the robot may lock, and more, as least deposit."""

    name = "huge-deposit"
    extra: ClassVar[dict[str, Any]] = {"min_deposit": "9000000"}


class LastingDeposit(_SpoiledQuote):
    """Its quote wants a deposit that holds for 68 years."""

    name = "lasting-deposit"
    requirements: ClassVar[dict[str, Any]] = {"max_timeout_seconds": 2**31}


class DearEnergy(_SpoiledQuote):
    """Its quote asks five times the price of its offer, above the policy."""

    name = "dear-quote"
    terms: ClassVar[dict[str, Any]] = {"price_atomic_per_kwh": 2_000_000}


class FreeEnergy(_SpoiledQuote):
    """Its quote asks nothing for energy, so that a ceiling would buy any amount."""

    name = "zero-price"
    terms: ClassVar[dict[str, Any]] = {"price_atomic_per_kwh": 0}


class DearStart(_SpoiledQuote):
    """Its quote wants a start fee of a dollar: gas bait."""

    name = "dear-start-fee"
    terms: ClassVar[dict[str, Any]] = {"start_fee_atomic": 1_000_000}
    requirements: ClassVar[dict[str, Any]] = {"amount": "1000000"}


class TwoStartFees(_SpoiledQuote):
    """Its quote's amount is not its start fee."""

    name = "amount-is-not-the-fee"
    requirements: ClassVar[dict[str, Any]] = {"amount": "9999"}


class DearIdling(_SpoiledQuote):
    """Its quote wants a dollar for each idle minute."""

    name = "dear-idle-fee"
    terms: ClassVar[dict[str, Any]] = {"idle_fee_atomic_per_min": 1_000_000}


class HugeTranche(_SpoiledQuote):
    """Its quote sells tranches of 100 Wh."""

    name = "huge-tranche"
    terms: ClassVar[dict[str, Any]] = {"tranche_milliwh": 100_000}


class SmallTranche(_SpoiledQuote):
    """Its quote sells tranches that end before a voucher can come."""

    name = "small-tranche"
    terms: ClassVar[dict[str, Any]] = {"tranche_milliwh": 50}


class ExpiredHold(_SpoiledQuote):
    """Its quote held the connector until yesterday."""

    name = "expired-quote"
    terms: ClassVar[dict[str, Any]] = {"hold_until_s": 1_799_900_000}


class QuoteOfAnother(_SpoiledQuote):
    """Its quote is for another session."""

    name = "quote-of-another-session"
    terms: ClassVar[dict[str, Any]] = {"session": "s-0"}


class OtherMeter(_SpoiledQuote):
    """Its quote names another meter than its signed offer."""

    name = "other-meter-in-quote"

    def draft(self, arena: Arena, draft: Any) -> Any:
        draft = super().draft(arena, draft)
        if isinstance(draft.body, Quote):
            required: Any = draft.body.payment_required
            extension = required.extensions[CHARGING_EXTENSION]
            meter = {**msgspec.to_builtins(extension.info["meter"]), "serial": "M-other"}
            extension = replace(extension, info={**extension.info, "meter": meter})
            required = replace(required, extensions={CHARGING_EXTENSION: extension})
            return replace(draft, body=Quote(required))
        return draft


class NeverConfirmed(_SpoiledQuote):
    """Its quote wants a thousand confirmations, so that the deposit is locked and the robot never comes."""

    name = "thousand-confirmations"
    terms: ClassVar[dict[str, Any]] = {"confirmations": 1000}


# --- requests for vouchers ------------------------------------------------------------------------------------


class _SpoiledNeed(Behaviour):
    """A request for a voucher with something changed, after the first good ones."""

    side = STATION
    good: ClassVar[int] = 2

    def __init__(self) -> None:
        self._asked = 0

    def spoil(self, item: Any) -> Any:
        return item

    def draft(self, arena: Arena, draft: Any) -> Any:
        if not isinstance(draft.body, NeedVoucher):
            return draft
        self._asked += 1
        if self._asked <= self.good:
            return draft
        arena.misdeed()
        required = draft.body.payment_required
        required = replace(required, accepts=[self.spoil(required.accepts[0])])
        return replace(draft, body=replace(draft.body, payment_required=required))


def _with_state(item: Any, **changes: Any) -> Any:
    state = replace(item.extra.channel_state, **changes)
    return replace(item, extra=replace(item.extra, channel_state=state))


class RaisedAmount(_SpoiledNeed):
    """Asks for ten tranches at once."""

    name = "raised-amount"

    def spoil(self, item: Any) -> Any:
        return replace(item, amount=str(int(item.amount) * 10))


class OneMore(_SpoiledNeed):
    """Asks for one atomic unit more than a tranche each time."""

    name = "one-unit-more"

    def spoil(self, item: Any) -> Any:
        return replace(item, amount=str(int(item.amount) + 400))


class AllAtOnce(_SpoiledNeed):
    """Asks for the whole escrow."""

    name = "whole-escrow"
    good = 0

    def spoil(self, item: Any) -> Any:
        return replace(item, amount="90000")


class BlankCheque(_SpoiledNeed):
    """Asks for a ceiling of 2^128 - 1."""

    name = "blank-cheque"
    good = 0

    def spoil(self, item: Any) -> Any:
        return replace(item, amount=str(2**128 - 1))


class OtherPayee(_SpoiledNeed):
    """In mid-session the money shall go to somebody else."""

    name = "payee-changes"

    def spoil(self, item: Any) -> Any:
        return replace(item, pay_to=OTHER)


class OtherDelay(_SpoiledNeed):
    """In mid-session the channel shall have another withdraw delay."""

    name = "delay-changes"

    def spoil(self, item: Any) -> Any:
        return replace(item, extra=replace(item.extra, withdraw_delay=86_400))


class FeeTwice(_SpoiledNeed):
    """Charges the start fee a second time."""

    name = "start-fee-twice"

    def spoil(self, item: Any) -> Any:
        charged = int(item.extra.channel_state.charged_cumulative_amount) + 2000
        return _with_state(item, charged_cumulative_amount=str(charged))


class WrongChannel(_SpoiledNeed):
    """Asks for a voucher on another channel."""

    name = "voucher-for-another-channel"

    def spoil(self, item: Any) -> Any:
        return _with_state(item, channel_id="0x" + "77" * 32)


class FallenSum(_SpoiledNeed):
    """Says that less is charged than it said before, to be paid for the same energy again."""

    name = "sum-falls"

    def spoil(self, item: Any) -> Any:
        return _with_state(item, charged_cumulative_amount="0")
