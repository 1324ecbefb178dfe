"""x402 v2 objects with their exact JSON names. They travel unmodified, so that any facilitator can settle them.

Source: x402 v2 core objects; scheme ``batch-settlement`` on EVM. Amounts are decimal strings, addresses are kept as
the text that came, since the scheme compares ``payTo`` and ``asset`` as strings.
"""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from depai_robot.payment.channel import UINT256_MAX, ChannelConfig, DepositAuthorization, Voucher
from depai_robot.values.error import RemoteError
from depai_robot.values.identity import Address, ChannelId, address_to_hex
from depai_robot.values.money import UINT128_MAX

X402_VERSION = 2
SCHEME: Final = "batch-settlement"
EXACT: Final = "exact"

# \Z and not $: the latter lets a line feed through, and then one amount would have two texts.
Decimal = Annotated[str, Meta(pattern=r"^(0|[1-9][0-9]{0,77})\Z")]
AddressText = Annotated[str, Meta(pattern=r"^0x[0-9a-fA-F]{40}\Z")]
Bytes32Text = Annotated[str, Meta(pattern=r"^0x[0-9a-fA-F]{64}\Z")]
HexText = Annotated[str, Meta(pattern=r"^0x([0-9a-fA-F]{2}){0,1024}\Z")]
Network = Annotated[str, Meta(pattern=r"^eip155:[1-9][0-9]{0,17}\Z")]
Uint40 = Annotated[int, Meta(ge=0, le=2**40 - 1)]
Text = Annotated[str, Meta(max_length=1024)]

SIGNATURE_EMPTY = "0x" + "00" * 65
"""Stands where a signature will be; never valid."""


class X402Object(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """What all of them share: camel case on the wire, unknown members refused, what is not said left out."""


class ChannelStateJson(X402Object, frozen=True):
    """``extra.channelState``: what the station says of the channel. Believe the chain instead."""

    channel_id: Bytes32Text
    balance: Decimal
    total_claimed: Decimal
    withdraw_requested_at: Annotated[int, Meta(ge=0, le=2**53)]
    refund_nonce: Decimal
    charged_cumulative_amount: Decimal


class VoucherStateJson(X402Object, frozen=True):
    """``extra.voucherState``: the last voucher that the station holds."""

    signed_max_claimable: Decimal
    signature: HexText


class RequirementsExtra(X402Object, frozen=True, kw_only=True):
    """``extra`` of requirements; both schemes name the token's domain, batch-settlement the channel's terms too.

    Attributes:
        receiver_authorizer: who signs claims and refunds; batch-settlement only.
        withdraw_delay: seconds, a JSON integer (anything else names another channel); batch-settlement only.
        name: of the token's EIP-712 domain.
        version: of the token's EIP-712 domain.
        asset_transfer_method: ``eip3009``.
        min_deposit: the station wants at least this.
        channel_state: in a corrective answer and in ``need-voucher``.
        voucher_state: in a corrective answer.
        charged_amount: in the answer to a voucher.
    """

    receiver_authorizer: AddressText | UnsetType = UNSET
    withdraw_delay: Uint40 | UnsetType = UNSET
    name: Text
    version: Text
    asset_transfer_method: Literal["eip3009"] | UnsetType = UNSET
    min_deposit: Decimal | UnsetType = UNSET
    channel_state: ChannelStateJson | UnsetType = UNSET
    voucher_state: VoucherStateJson | UnsetType = UNSET


class PaymentRequirements(X402Object, frozen=True):
    """One way to pay. ``amount`` is what the next voucher adds to what is charged, or the price of one transfer.

    Raises:
        ValueError: ``extra`` is not that of the scheme; in decoding, msgspec's ValidationError.
    """

    scheme: Literal["batch-settlement", "exact"]
    network: Network
    amount: Decimal
    asset: AddressText
    pay_to: AddressText
    max_timeout_seconds: Annotated[int, Meta(ge=1, le=2**31)]
    extra: RequirementsExtra

    def __post_init__(self) -> None:
        extra = self.extra
        channel = (extra.receiver_authorizer, extra.withdraw_delay)
        if self.scheme == SCHEME and UNSET in channel:
            raise ValueError("extra of batch-settlement needs receiverAuthorizer and withdrawDelay")
        of_channels = (*channel, extra.min_deposit, extra.channel_state, extra.voucher_state)
        if self.scheme == EXACT and any(item is not UNSET for item in of_channels):
            raise ValueError("extra of exact speaks of the token only, not of a channel")


class Resource(X402Object, frozen=True):
    """What is paid for."""

    url: Text
    description: Text | UnsetType = UNSET
    mime_type: Text | UnsetType = UNSET


class Extension(X402Object, frozen=True):
    """An extension's value: ``info`` and the JSON Schema of it."""

    info: Any
    schema: dict[str, Any]


class PaymentRequired(X402Object, frozen=True):
    """What a seller answers to whoever has not paid."""

    x402_version: Annotated[int, Meta(ge=2, le=2)] = msgspec.field(name="x402Version")
    resource: Resource
    accepts: Annotated[list[PaymentRequirements], Meta(min_length=1, max_length=8)]
    error: Text | UnsetType = UNSET
    extensions: dict[str, Extension] | UnsetType = UNSET


class ChannelConfigJson(X402Object, frozen=True):
    """ChannelConfig of the contract."""

    payer: AddressText
    payer_authorizer: AddressText
    receiver: AddressText
    receiver_authorizer: AddressText
    token: AddressText
    withdraw_delay: Uint40
    salt: Bytes32Text


class VoucherJson(X402Object, frozen=True):
    """A signed ceiling."""

    channel_id: Bytes32Text
    max_claimable_amount: Decimal
    signature: HexText


class Erc3009AuthorizationJson(X402Object, frozen=True):
    """The payer's authorization, without what the channel already says."""

    valid_after: Decimal
    valid_before: Decimal
    salt: Bytes32Text
    signature: HexText


class AuthorizationJson(X402Object, frozen=True):
    """The only transfer method that is spoken here."""

    erc3009_authorization: Erc3009AuthorizationJson = msgspec.field(name="erc3009Authorization")


class DepositJson(X402Object, frozen=True):
    """How much goes into the channel, and by what authority."""

    amount: Decimal
    authorization: AuthorizationJson


class _Payload(
    Struct, frozen=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True, tag_field="type"
):
    pass


class DepositPayload(_Payload, frozen=True, tag="deposit"):
    """Open or fill a channel, with the first voucher."""

    channel_config: ChannelConfigJson
    voucher: VoucherJson
    deposit: DepositJson


class VoucherPayload(_Payload, frozen=True, tag="voucher"):
    """The next voucher."""

    channel_config: ChannelConfigJson
    voucher: VoucherJson


class RefundPayload(_Payload, frozen=True, tag="refund"):
    """Give the rest back: a voucher at exactly what is charged; all of it without ``amount``."""

    channel_config: ChannelConfigJson
    voucher: VoucherJson
    amount: Decimal | UnsetType = UNSET


SchemePayload = DepositPayload | VoucherPayload | RefundPayload


class PaymentPayload(X402Object, frozen=True):
    """What a buyer sends: the accepted requirements, byte for byte, and the scheme's payload."""

    x402_version: Annotated[int, Meta(ge=2, le=2)] = msgspec.field(name="x402Version")
    accepted: PaymentRequirements
    payload: SchemePayload
    resource: Resource | UnsetType = UNSET
    extensions: dict[str, Extension] | UnsetType = UNSET


class SettleExtra(X402Object, frozen=True):
    """``extra`` of an answer: what this payment was charged, and the channel after it."""

    charged_amount: Decimal | UnsetType = UNSET
    channel_state: ChannelStateJson | UnsetType = UNSET


class SettleResponse(X402Object, frozen=True):
    """The answer to a payment. ``transaction`` is empty for vouchers."""

    success: bool
    transaction: Annotated[str, Meta(pattern=r"^(0x[0-9a-fA-F]{64})?\Z")]
    network: Network
    error_reason: Text | UnsetType = UNSET
    payer: AddressText | UnsetType = UNSET
    amount: Annotated[str, Meta(pattern=r"^(0|[1-9][0-9]{0,77})?\Z")] | UnsetType = UNSET
    extensions: dict[str, Extension] | UnsetType = UNSET
    extra: SettleExtra | UnsetType = UNSET


class VerifyResponse(X402Object, frozen=True):
    """A facilitator's opinion of a payload."""

    is_valid: bool
    invalid_reason: Text | UnsetType = UNSET
    payer: AddressText | UnsetType = UNSET
    extra: dict[str, Any] | UnsetType = UNSET


def parse_amount(text: str) -> int:
    """A decimal string as uint128. Raises RemoteError when it is larger."""
    value = int(text)
    if value > UINT128_MAX:
        raise RemoteError(f"an amount must fit 128 bits, got {text}")
    return value


def parse_time_s(text: str) -> int:
    """A decimal string as uint256 seconds: some payers write the largest for "always". Raises RemoteError."""
    value = int(text)
    if value > UINT256_MAX:
        raise RemoteError(f"a time must fit 256 bits, got {text}")
    return value


def parse_bytes(text: str) -> bytes:
    """Bytes of ``0x...`` text that a pattern above has let through."""
    return bytes.fromhex(text[2:])


def bytes_to_text(value: bytes) -> str:
    """``0x`` and lower-case hexadecimal."""
    return "0x" + value.hex()


def config_to_json(config: ChannelConfig) -> ChannelConfigJson:
    """Checksummed addresses, as the stock client writes them."""
    return ChannelConfigJson(
        payer=address_to_hex(config.payer),
        payer_authorizer=address_to_hex(config.payer_authorizer),
        receiver=address_to_hex(config.receiver),
        receiver_authorizer=address_to_hex(config.receiver_authorizer),
        token=address_to_hex(config.token),
        withdraw_delay=config.withdraw_delay_s,
        salt=bytes_to_text(config.salt),
    )


def json_to_config(config: ChannelConfigJson) -> ChannelConfig:
    """Our value of a channel's config."""
    return ChannelConfig(
        payer=Address(parse_bytes(config.payer)),
        payer_authorizer=Address(parse_bytes(config.payer_authorizer)),
        receiver=Address(parse_bytes(config.receiver)),
        receiver_authorizer=Address(parse_bytes(config.receiver_authorizer)),
        token=Address(parse_bytes(config.token)),
        withdraw_delay_s=config.withdraw_delay,
        salt=parse_bytes(config.salt),
    )


def voucher_to_json(voucher: Voucher) -> VoucherJson:
    """A voucher on the wire."""
    return VoucherJson(
        channel_id=bytes_to_text(voucher.channel_id),
        max_claimable_amount=str(voucher.ceiling_atomic),
        signature=bytes_to_text(voucher.signature),
    )


def json_to_voucher(voucher: VoucherJson) -> Voucher:
    """Our value of a voucher; its signature is not checked here. Raises RemoteError for a ceiling over 128 bits."""
    return Voucher(
        ChannelId(parse_bytes(voucher.channel_id)),
        parse_amount(voucher.max_claimable_amount),
        parse_bytes(voucher.signature),
    )


def json_to_deposit(deposit: DepositJson) -> DepositAuthorization:
    """Our value of a deposit; its signature is not checked here. Raises RemoteError for amounts over 128 bits."""
    inner = deposit.authorization.erc3009_authorization
    return DepositAuthorization(
        amount_atomic=parse_amount(deposit.amount),
        valid_after_s=parse_time_s(inner.valid_after),
        valid_before_s=parse_time_s(inner.valid_before),
        salt=parse_bytes(inner.salt),
        signature=parse_bytes(inner.signature),
    )


def deposit_to_json(deposit: DepositAuthorization) -> DepositJson:
    """A deposit on the wire."""
    return DepositJson(
        amount=str(deposit.amount_atomic),
        authorization=AuthorizationJson(
            erc3009_authorization=Erc3009AuthorizationJson(
                valid_after=str(deposit.valid_after_s),
                valid_before=str(deposit.valid_before_s),
                salt=bytes_to_text(deposit.salt),
                signature=bytes_to_text(deposit.signature),
            )
        ),
    )
