"""Between plain values of a session and the x402 objects that travel: quotes, payments and their answers.

Readers here are strict and name what is wrong; what a session makes of it is in ``robot`` and ``station``.
"""

import inspect
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from depai_robot.charging.effect import ChannelJson
from depai_robot.charging.message import CHARGING_EXTENSION, ChargingTerms, Offer
from depai_robot.charging.setting import Network, StationSettings, tranche_need_milliwh
from depai_robot.payment.channel import (
    WITHDRAW_DELAY_MAX_S,
    WITHDRAW_DELAY_MIN_S,
    ChannelConfig,
    DepositAuthorization,
    Voucher,
)
from depai_robot.payment.eip712 import (
    channel_id,
    deposit_digest,
    domain_separator,
    settlement_domain,
    voucher_digest,
)
from depai_robot.payment.exact import ExactPaymentPayload, TransferAuthorization, transfer_to_json
from depai_robot.payment.x402 import (
    EXACT,
    SCHEME,
    SIGNATURE_EMPTY,
    X402_VERSION,
    ChannelStateJson,
    DepositPayload,
    Extension,
    PaymentPayload,
    PaymentRequired,
    PaymentRequirements,
    RefundPayload,
    RequirementsExtra,
    Resource,
    SchemePayload,
    SettleExtra,
    SettleResponse,
    VoucherJson,
    VoucherPayload,
    bytes_to_text,
    config_to_json,
    deposit_to_json,
    json_to_config,
    parse_amount,
    parse_bytes,
    voucher_to_json,
)
from depai_robot.values.error import RemoteError
from depai_robot.values.identity import Address, ChannelId, address_to_hex
from depai_robot.values.money import cost_atomic

SIGNATURE_NONE = bytes(65)
DEPOSIT_VALIDITY_MAX_S = 3600
"""The longest that a quote may ask a deposit's authorisation to hold; stations relay at once, in seconds."""
REASON_PREFIX = "invalid_batch_settlement_evm_"
"""Of the scheme's error strings. Source: x402 v2 scheme batch-settlement on EVM."""


class QuoteError(RemoteError):
    """A quote does not say what a quote must, or not what the station's own signed offer says."""


class BlockOffer(Struct, frozen=True):
    """The other way to pay: scheme ``exact``, one transfer for each block of energy, before it flows.

    Attributes:
        requirements: echoed as they came.
        block_milliwh: at the station's meter.
        price_atomic: of a block, gas included.
    """

    requirements: PaymentRequirements
    block_milliwh: int
    price_atomic: int


class Agreed(Struct, frozen=True):
    """A quote in plain values.

    Attributes:
        terms: of charging.
        requirements: the accepted way to pay, echoed as it came.
        resource: what is paid for.
        receiver: address.
        receiver_authorizer: address.
        withdraw_delay_s: of the channel.
        min_deposit_atomic: least deposit, 0 when not said.
        block: the station sells blocks of energy, too.
    """

    terms: ChargingTerms
    requirements: PaymentRequirements
    resource: Resource
    receiver: bytes
    receiver_authorizer: bytes
    withdraw_delay_s: int
    min_deposit_atomic: int
    block: BlockOffer | None = None


class Need(Struct, frozen=True):
    """What a ``need-voucher`` asks for.

    Attributes:
        requirements: fresh, echoed in the payment.
        amount_atomic: that the next voucher adds.
        charged_atomic: what the station has charged so far.
    """

    requirements: PaymentRequirements
    amount_atomic: int
    charged_atomic: int


@lru_cache(maxsize=1)
def _terms_schema() -> dict[str, Any]:
    schema = msgspec.json.schema(ChargingTerms)
    # Before msgspec 0.23 a docstring keeps its indent; a message shall not depend on the library's version.
    for part in schema.get("$defs", {}).values():
        if "description" in part:
            part["description"] = inspect.cleandoc(part["description"])
    return schema


# --- channels -----------------------------------------------------------------------------------------------


def channel_config(channel: ChannelJson) -> ChannelConfig:
    """The value that digests are made of. Raises ConfigError for what no channel can be."""
    return ChannelConfig(
        payer=Address(channel.payer),
        payer_authorizer=Address(channel.payer_authorizer),
        receiver=Address(channel.receiver),
        receiver_authorizer=Address(channel.receiver_authorizer),
        token=Address(channel.token),
        withdraw_delay_s=channel.withdraw_delay_s,
        salt=channel.salt,
    )


def channel_json(config: ChannelConfig) -> ChannelJson:
    """The plain form that effects carry."""
    return ChannelJson(
        payer=bytes(config.payer),
        payer_authorizer=bytes(config.payer_authorizer),
        receiver=bytes(config.receiver),
        receiver_authorizer=bytes(config.receiver_authorizer),
        token=bytes(config.token),
        withdraw_delay_s=config.withdraw_delay_s,
        salt=config.salt,
    )


def channel_key(network: Network, channel: ChannelJson) -> ChannelId:
    """The channel's id on that network."""
    return channel_id(channel_config(channel), settlement_domain(network.chain_id, network.settlement))


def digest_voucher(network: Network, channel: bytes, ceiling_atomic: int) -> bytes:
    """What the voucher key signs."""
    return voucher_digest(channel, ceiling_atomic, settlement_domain(network.chain_id, network.settlement))


def digest_deposit(network: Network, payer: bytes, channel: bytes, deposit: DepositAuthorization) -> bytes:
    """What the payer's key signs."""
    return deposit_digest(
        domain_separator(network.token_name, network.token_version, network.chain_id, network.token),
        payer=payer,
        channel=channel,
        amount_atomic=deposit.amount_atomic,
        valid_after_s=deposit.valid_after_s,
        valid_before_s=deposit.valid_before_s,
        salt=deposit.salt,
        collector=network.collector,
    )


# --- quotes -------------------------------------------------------------------------------------------------


def build_requirements(settings: StationSettings, amount_atomic: int) -> PaymentRequirements:
    """A station's way to be paid."""
    network = settings.network
    return PaymentRequirements(
        scheme="batch-settlement",
        network=network.caip2,
        amount=str(amount_atomic),
        asset=address_to_hex(network.token),
        pay_to=address_to_hex(settings.receiver),
        max_timeout_seconds=settings.payment_timeout_s,
        extra=RequirementsExtra(
            receiver_authorizer=address_to_hex(settings.receiver_authorizer),
            withdraw_delay=settings.withdraw_delay_s,
            name=network.token_name,
            version=network.token_version,
            asset_transfer_method="eip3009",
        ),
    )


def build_block_requirements(settings: StationSettings, price_atomic: int) -> PaymentRequirements:
    """A station's way to be paid for a block of energy."""
    network = settings.network
    return PaymentRequirements(
        scheme=EXACT,
        network=network.caip2,
        amount=str(price_atomic),
        asset=address_to_hex(network.token),
        pay_to=address_to_hex(settings.receiver),
        max_timeout_seconds=settings.payment_timeout_s,
        extra=RequirementsExtra(
            name=network.token_name, version=network.token_version, asset_transfer_method="eip3009"
        ),
    )


def block_price_atomic(settings: StationSettings, price_atomic_per_kwh: int) -> int:
    """Price of a block: its energy, and the fee that pays for the gas of its transfer."""
    return settings.block_fee_atomic + cost_atomic(price_atomic_per_kwh, settings.block_milliwh)


def build_resource(zone: str, station: str, connector: int) -> Resource:
    """What is paid for: energy at a connector."""
    return Resource(
        url=f"mqtt://depai/v1/{zone}/stations/{station}/connectors/{connector}",
        description="energy at a charging dock",
        mime_type="application/json",
    )


def build_quote(settings: StationSettings, terms: ChargingTerms) -> PaymentRequired:
    """x402's PaymentRequired with the charging extension; its amount is the start fee."""
    accepts = [build_requirements(settings, terms.start_fee_atomic)]
    if terms.block_milliwh is not None:
        price = block_price_atomic(settings, terms.price_atomic_per_kwh)
        accepts.append(build_block_requirements(settings, price))
    return PaymentRequired(
        x402_version=X402_VERSION,
        resource=build_resource(settings.zone, settings.station, terms.connector),
        accepts=accepts,
        extensions={CHARGING_EXTENSION: Extension(info=msgspec.to_builtins(terms), schema=_terms_schema())},
    )


def read_quote(
    required: PaymentRequired, offer: Offer, network: Network, session: str, channel: str | None = None
) -> Agreed:
    """A quote in plain values, after everything that the signed offer fixes was compared with it.

    Args:
        required: the quote.
        offer: the station's.
        network: that the robot pays on.
        session: that was asked for.
        channel: of an earlier session, that the robot named in its request.

    Raises:
        QuoteError: naming the first thing that is not as it must be.
    """
    extensions = {} if required.extensions is UNSET else required.extensions
    if CHARGING_EXTENSION not in extensions:
        raise QuoteError(f"a quote needs the extension {CHARGING_EXTENSION}, got {sorted(extensions)}")
    try:
        terms = msgspec.convert(extensions[CHARGING_EXTENSION].info, ChargingTerms)
    except msgspec.ValidationError as error:
        raise QuoteError(f"the quote's charging terms: {error}") from error
    requirements = required.accepts[0]
    extra = requirements.extra
    if extra.receiver_authorizer is UNSET or extra.withdraw_delay is UNSET:
        raise QuoteError(f"the quote's first way to pay must be {SCHEME}, got {requirements.scheme}")
    asked_channel = None if terms.channel is None else channel
    channel_state = extra.channel_state
    for name, seen, expected in (
        ("number of ways to pay", len(required.accepts), 1 if terms.block_milliwh is None else 2),
        ("network", requirements.network, network.caip2),
        ("asset", parse_bytes(requirements.asset).hex(), network.token.hex()),
        ("token name", extra.name, network.token_name),
        ("token version", extra.version, network.token_version),
        ("payTo", parse_bytes(requirements.pay_to).hex(), parse_bytes(offer.receiver).hex()),
        (
            "receiverAuthorizer",
            parse_bytes(extra.receiver_authorizer).hex(),
            parse_bytes(offer.receiver_authorizer).hex(),
        ),
        ("channel", terms.channel, asked_channel),
        ("session", terms.session, session),
        ("station", terms.station, offer.station),
        ("meter", terms.meter, offer.meter),
        ("amount", requirements.amount, str(terms.start_fee_atomic)),
        ("channel state", channel_state is UNSET, True),
    ):
        if seen != expected:
            raise QuoteError(f"the quote's {name}: expected {expected!r}, got {seen!r}")
    if not WITHDRAW_DELAY_MIN_S <= extra.withdraw_delay <= WITHDRAW_DELAY_MAX_S:
        raise QuoteError(
            f"the quote's withdraw delay: expected {WITHDRAW_DELAY_MIN_S} to {WITHDRAW_DELAY_MAX_S} s,"
            f" got {extra.withdraw_delay}"
        )
    _require_validity(requirements)
    if terms.price_atomic_per_kwh < 1:
        raise QuoteError(
            "the quote's price must be positive: the energy that a ceiling buys would be unbounded"
        )
    return Agreed(
        terms=terms,
        requirements=requirements,
        resource=required.resource,
        receiver=parse_bytes(requirements.pay_to),
        receiver_authorizer=parse_bytes(extra.receiver_authorizer),
        withdraw_delay_s=extra.withdraw_delay,
        min_deposit_atomic=0 if extra.min_deposit is UNSET else parse_amount(extra.min_deposit),
        block=_read_block(required, terms, offer, network),
    )


def _require_validity(requirements: PaymentRequirements) -> None:
    if not 0 < requirements.max_timeout_seconds <= DEPOSIT_VALIDITY_MAX_S:
        raise QuoteError(
            f"the quote's maxTimeoutSeconds: expected 1 to {DEPOSIT_VALIDITY_MAX_S}, got"
            f" {requirements.max_timeout_seconds}: what is signed and not sent locks the owner's limits for so long"
        )


def _read_block(
    required: PaymentRequired, terms: ChargingTerms, offer: Offer, network: Network
) -> BlockOffer | None:
    if terms.block_milliwh is None:
        return None
    requirements = required.accepts[1]
    for name, seen, expected in (
        ("scheme", requirements.scheme, EXACT),
        ("network", requirements.network, network.caip2),
        ("asset", parse_bytes(requirements.asset).hex(), network.token.hex()),
        ("token name", requirements.extra.name, network.token_name),
        ("token version", requirements.extra.version, network.token_version),
        ("payTo", parse_bytes(requirements.pay_to).hex(), parse_bytes(offer.receiver).hex()),
    ):
        if seen != expected:
            raise QuoteError(f"the quote's second way to pay, {name}: expected {expected!r}, got {seen!r}")
    _require_validity(requirements)
    price = parse_amount(requirements.amount)
    if price < 1:
        raise QuoteError("the quote's price of a block must be positive")
    return BlockOffer(requirements, terms.block_milliwh, price)


def tranche_shortfall_milliwh(terms: ChargingTerms) -> int:
    """How much more a tranche would have to hold to last until a missing voucher stops the current; 0 is well."""
    need = tranche_need_milliwh(terms.power_max_w, terms.report_interval_ms, terms.voucher_timeout_ms)
    return max(0, need - terms.tranche_milliwh)


def tranche_price_atomic(terms: ChargingTerms) -> int:
    """Price of a whole tranche: what may be signed ahead of reconciled energy."""
    return cost_atomic(terms.price_atomic_per_kwh, terms.tranche_milliwh)


# --- asking for a voucher -----------------------------------------------------------------------------------


def build_channel_state(channel: bytes, balance: int, claimed: int, charged: int) -> ChannelStateJson:
    """What the station says of the channel."""
    return ChannelStateJson(
        channel_id=bytes_to_text(channel),
        balance=str(balance),
        total_claimed=str(claimed),
        withdraw_requested_at=0,
        refund_nonce="0",
        charged_cumulative_amount=str(charged),
    )


def build_need(
    settings: StationSettings, connector: int, amount_atomic: int, state: ChannelStateJson, error: str = ""
) -> PaymentRequired:
    """Fresh requirements, for ``need-voucher`` and for corrective answers."""
    requirements = build_requirements(settings, amount_atomic)
    extra = msgspec.structs.replace(requirements.extra, channel_state=state)
    return PaymentRequired(
        x402_version=X402_VERSION,
        resource=build_resource(settings.zone, settings.station, connector),
        accepts=[msgspec.structs.replace(requirements, extra=extra)],
        error=error or UNSET,
    )


def read_need(required: PaymentRequired, agreed: Agreed, channel: bytes) -> Need:
    """What is asked for, after it was compared with what was agreed: any change within a session ends it.

    Raises:
        QuoteError: naming the first change.
    """
    requirements = required.accepts[0]
    state = requirements.extra.channel_state
    if len(required.accepts) != 1 or state is UNSET:
        raise QuoteError("expected one way to pay, with the channel's state")
    plain = msgspec.structs.replace(
        requirements,
        amount=agreed.requirements.amount,
        extra=msgspec.structs.replace(requirements.extra, channel_state=UNSET, voucher_state=UNSET),
    )
    if plain != agreed.requirements:
        raise QuoteError(
            f"requirements changed within the session: agreed {agreed.requirements}, got {plain}"
        )
    if parse_bytes(state.channel_id) != channel:
        raise QuoteError(f"expected channel 0x{channel.hex()}, got {state.channel_id}")
    return Need(
        requirements, parse_amount(requirements.amount), parse_amount(state.charged_cumulative_amount)
    )


# --- paying -------------------------------------------------------------------------------------------------


def _build_payload(
    agreed: Agreed, requirements: PaymentRequirements, payload: SchemePayload
) -> PaymentPayload:
    return PaymentPayload(
        x402_version=X402_VERSION, accepted=requirements, payload=payload, resource=agreed.resource
    )


def _empty_voucher(channel: bytes, ceiling_atomic: int) -> VoucherJson:
    voucher = Voucher(ChannelId(channel), ceiling_atomic, SIGNATURE_NONE)
    return msgspec.structs.replace(voucher_to_json(voucher), signature=SIGNATURE_EMPTY)


def build_deposit(
    agreed: Agreed, channel: ChannelJson, key: bytes, ceiling_atomic: int, deposit: DepositAuthorization
) -> PaymentPayload:
    """Opens the channel; signatures are still empty."""
    payload = DepositPayload(
        channel_config=config_to_json(channel_config(channel)),
        voucher=_empty_voucher(key, ceiling_atomic),
        deposit=deposit_to_json(deposit),
    )
    return _build_payload(agreed, agreed.requirements, payload)


def build_voucher(
    agreed: Agreed, need: Need, channel: ChannelJson, key: bytes, ceiling_atomic: int
) -> PaymentPayload:
    """The next ceiling; its signature is still empty."""
    payload = VoucherPayload(
        channel_config=config_to_json(channel_config(channel)), voucher=_empty_voucher(key, ceiling_atomic)
    )
    return _build_payload(agreed, need.requirements, payload)


def build_closing(agreed: Agreed, channel: ChannelJson, key: bytes, charged_atomic: int) -> PaymentPayload:
    """The last voucher of a session whose channel is kept: at exactly what is charged, adding nothing."""
    payload = VoucherPayload(
        channel_config=config_to_json(channel_config(channel)), voucher=_empty_voucher(key, charged_atomic)
    )
    return _build_payload(agreed, msgspec.structs.replace(agreed.requirements, amount="0"), payload)


def build_refund(
    agreed: Agreed, channel: ChannelJson, key: bytes, charged_atomic: int, amount_atomic: int | None = None
) -> PaymentPayload:
    """Asks for the rest back: a voucher at exactly what is charged, unsigned yet; None for all of it."""
    payload = RefundPayload(
        channel_config=config_to_json(channel_config(channel)),
        voucher=_empty_voucher(key, charged_atomic),
        amount=UNSET if amount_atomic is None else str(amount_atomic),
    )
    return _build_payload(agreed, agreed.requirements, payload)


def read_channel(payload: SchemePayload) -> ChannelJson:
    """The channel that a payment names."""
    return channel_json(json_to_config(payload.channel_config))


# --- blocks -------------------------------------------------------------------------------------------------


def build_block_need(settings: StationSettings, connector: int, price_atomic: int) -> PaymentRequired:
    """Asks for the next block to be paid."""
    return PaymentRequired(
        x402_version=X402_VERSION,
        resource=build_resource(settings.zone, settings.station, connector),
        accepts=[build_block_requirements(settings, price_atomic)],
    )


def token_domain(network: Network) -> bytes:
    """EIP-712 domain of the network's token."""
    return domain_separator(network.token_name, network.token_version, network.chain_id, network.token)


def build_transfer(agreed: Agreed, transfer: TransferAuthorization) -> ExactPaymentPayload:
    """Pays a block; its signature is still empty. Raises QuoteError when the quote sells none."""
    if agreed.block is None:
        raise QuoteError("this quote sells no blocks")
    return ExactPaymentPayload(
        x402_version=X402_VERSION,
        accepted=agreed.block.requirements,
        payload=transfer_to_json(transfer),
        resource=agreed.resource,
    )


# --- answering ----------------------------------------------------------------------------------------------


def build_success(
    network: Network,
    payer: bytes,
    state: ChannelStateJson,
    *,
    charged_atomic: int,
    transaction: bytes = b"",
    amount_atomic: int | None = None,
) -> SettleResponse:
    """A payment was taken. ``charged_atomic`` is what was billed since the answer before."""
    return SettleResponse(
        success=True,
        transaction=bytes_to_text(transaction) if transaction else "",
        network=network.caip2,
        payer=address_to_hex(payer),
        amount="" if amount_atomic is None else str(amount_atomic),
        extra=SettleExtra(charged_amount=str(charged_atomic), channel_state=state),
    )


def build_transfer_success(
    network: Network, payer: bytes, amount_atomic: int, transaction: bytes
) -> SettleResponse:
    """A transfer is confirmed."""
    return SettleResponse(
        success=True,
        transaction=bytes_to_text(transaction),
        network=network.caip2,
        payer=address_to_hex(payer),
        amount=str(amount_atomic),
    )


def build_failure(network: Network, reason: str, transaction: bytes = b"") -> SettleResponse:
    """A payment was refused; the reason is one of the scheme's strings."""
    return SettleResponse(
        success=False,
        transaction=bytes_to_text(transaction) if transaction else "",
        network=network.caip2,
        error_reason=reason,
    )


def read_charge(settle: SettleResponse, channel: bytes) -> tuple[int, int]:
    """What a successful answer says: charged by it, and cumulative.

    Raises:
        QuoteError: it does not say, or speaks of another channel.
    """
    extra = settle.extra
    if extra is UNSET or extra.channel_state is UNSET or extra.charged_amount is UNSET:
        raise QuoteError("the answer to a payment must say chargedAmount and channelState")
    if parse_bytes(extra.channel_state.channel_id) != channel:
        raise QuoteError(f"expected channel 0x{channel.hex()}, got {extra.channel_state.channel_id}")
    return parse_amount(extra.charged_amount), parse_amount(extra.channel_state.charged_cumulative_amount)
