"""Scheme ``exact``: one payment is one EIP-3009 transfer, sent by whoever is paid. For stations that sell fixed blocks.

Sources: x402 v2, scheme exact on EVM; EIP-3009 TransferWithAuthorization. What is refused here bears the scheme's own
error strings.
"""

from dataclasses import dataclass
from typing import Annotated

from msgspec import UNSET, Meta, UnsetType, field

from depai_robot.payment.eip712 import authorization_digest
from depai_robot.payment.signature import SignatureError, verify
from depai_robot.payment.x402 import (
    EXACT,
    AddressText,
    Bytes32Text,
    Decimal,
    Extension,
    HexText,
    PaymentRequirements,
    Resource,
    X402Object,
    bytes_to_text,
    parse_amount,
    parse_bytes,
    parse_time_s,
)
from depai_robot.values.error import RemoteError
from depai_robot.values.identity import Address, address_to_hex

MARGIN_S = 6
"""Seconds that an authorisation must still hold to be sent. Source: x402 facilitators' own margin."""


class TransferRefusedError(RemoteError):
    """A transfer that must not be accepted.

    Attributes:
        reason: x402 error string.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class TransferAuthorization:
    """EIP-3009 TransferWithAuthorization.

    Attributes:
        payer: from whom.
        receiver: to whom.
        amount_atomic: all of it or nothing.
        valid_after_s, valid_before_s: chain time, both exclusive.
        nonce: 32 random bytes; used once.
        signature: 65 bytes.
    """

    payer: Address
    receiver: Address
    amount_atomic: int
    valid_after_s: int
    valid_before_s: int
    nonce: bytes
    signature: bytes = bytes(65)


class TransferJson(X402Object, frozen=True):
    """``payload.authorization``."""

    from_: AddressText = field(name="from")
    to: AddressText
    value: Decimal
    valid_after: Decimal
    valid_before: Decimal
    nonce: Bytes32Text


class ExactPayload(X402Object, frozen=True):
    """``payload`` of the scheme."""

    signature: HexText
    authorization: TransferJson


class ExactPaymentPayload(X402Object, frozen=True):
    """What a buyer sends: the accepted requirements, byte for byte, and the signed transfer."""

    x402_version: Annotated[int, Meta(ge=2, le=2)] = field(name="x402Version")
    accepted: PaymentRequirements
    payload: ExactPayload
    resource: Resource | UnsetType = UNSET
    extensions: dict[str, Extension] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.accepted.scheme != EXACT:
            raise ValueError(f"a signed transfer pays for scheme exact, accepted is {self.accepted.scheme}")


def transfer_digest(token_domain: bytes, transfer: TransferAuthorization) -> bytes:
    """What the payer signs.

    Args:
        token_domain: EIP-712 domain separator of the token.
        transfer: its signature does not matter.
    """
    return authorization_digest(
        token_domain,
        payer=transfer.payer,
        to=transfer.receiver,
        amount_atomic=transfer.amount_atomic,
        valid_after_s=transfer.valid_after_s,
        valid_before_s=transfer.valid_before_s,
        nonce=transfer.nonce,
        receive=False,
    )


def transfer_to_json(transfer: TransferAuthorization) -> ExactPayload:
    """A transfer on the wire."""
    return ExactPayload(
        signature=bytes_to_text(transfer.signature),
        authorization=TransferJson(
            from_=address_to_hex(transfer.payer),
            to=address_to_hex(transfer.receiver),
            value=str(transfer.amount_atomic),
            valid_after=str(transfer.valid_after_s),
            valid_before=str(transfer.valid_before_s),
            nonce=bytes_to_text(transfer.nonce),
        ),
    )


def json_to_transfer(payload: ExactPayload) -> TransferAuthorization:
    """Our value of a transfer; its signature is not checked here. Raises RemoteError for amounts over 128 bits."""
    inner = payload.authorization
    return TransferAuthorization(
        payer=Address(parse_bytes(inner.from_)),
        receiver=Address(parse_bytes(inner.to)),
        amount_atomic=parse_amount(inner.value),
        valid_after_s=parse_time_s(inner.valid_after),
        valid_before_s=parse_time_s(inner.valid_before),
        nonce=parse_bytes(inner.nonce),
        signature=parse_bytes(payload.signature),
    )


def check_transfer(
    transfer: TransferAuthorization,
    token_domain: bytes,
    *,
    receiver: Address,
    amount_atomic: int,
    now_s: int,
) -> None:
    """Accepts, or raises with the x402 reason; the chain has the last word on nonce and balance.

    Args:
        transfer: as it came.
        token_domain: of the token that the requirements name.
        receiver: ``payTo``.
        amount_atomic: that was asked for, to the atomic unit.
        now_s: wall clock.

    Raises:
        TransferRefusedError: first thing that is wrong.
    """
    if transfer.receiver != receiver:
        raise TransferRefusedError(
            "invalid_exact_evm_payload_recipient_mismatch",
            f"to {address_to_hex(transfer.receiver)}, expected {address_to_hex(receiver)}",
        )
    if transfer.amount_atomic != amount_atomic:
        raise TransferRefusedError(
            "invalid_exact_evm_payload_authorization_value_mismatch",
            f"value {transfer.amount_atomic}, expected {amount_atomic}",
        )
    if transfer.valid_after_s >= now_s:
        raise TransferRefusedError(
            "invalid_exact_evm_payload_authorization_valid_after",
            f"valid after {transfer.valid_after_s}, now is {now_s}",
        )
    if transfer.valid_before_s < now_s + MARGIN_S:
        raise TransferRefusedError(
            "invalid_exact_evm_payload_authorization_valid_before",
            f"valid before {transfer.valid_before_s}, expected at least {now_s + MARGIN_S}",
        )
    try:
        verify(transfer_digest(token_domain, transfer), transfer.signature, transfer.payer)
    except SignatureError as error:
        raise TransferRefusedError("invalid_exact_evm_payload_signature", str(error)) from error
