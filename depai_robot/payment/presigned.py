"""Deposits that the owner's treasury signed beforehand: their file, and what is checked before a robot holds one.

In delegated mode the payer's key never is on the robot. The treasury signs EIP-3009 authorizations; each names one
channel by its nonce, so it can only fund that station's channel with this robot's voucher key, whoever sends it.
No files, keys or clock here.

Sources: EIP-3009 ReceiveWithAuthorization; x402 v2, batch-settlement on EVM: the nonce of a deposit is
keccak(abi.encode(channelId, salt)); the entries bear the field names of its ``deposit`` payload.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from depai_robot.payment.channel import ChannelConfig, DepositAuthorization
from depai_robot.payment.eip712 import (
    DEPOSIT_COLLECTOR,
    SETTLEMENT,
    channel_id,
    deposit_digest,
    deposit_nonce,
    domain_separator,
    settlement_domain,
)
from depai_robot.payment.policy import SpendPolicy, escrow_single_max_atomic
from depai_robot.payment.signature import SignatureError, verify
from depai_robot.payment.voucher import VoucherRefusedError, check_config
from depai_robot.payment.x402 import (
    AddressText,
    Bytes32Text,
    ChannelConfigJson,
    DepositJson,
    X402Object,
    config_to_json,
    deposit_to_json,
    json_to_config,
    json_to_deposit,
)
from depai_robot.values.error import ConfigError, RemoteError
from depai_robot.values.identity import (
    ADDRESS_ZERO,
    Address,
    ChannelId,
    address_from_hex,
    address_to_hex,
)

PRESIGNED_VERSION = 1
PRESIGNED_BYTES_MAX = 1 << 20
DEPOSITS_MAX = 1000
"""In one file: each is checked at the start of the robot, 0.2 ms apiece."""


@dataclass(frozen=True, slots=True)
class DepositPlace:
    """Chain, token and contracts that a deposit is signed for; all are under the signature.

    Attributes:
        chain_id: EIP-155.
        token: address.
        token_name, token_version: of the token's EIP-712 domain.
        settlement, collector: addresses of the contracts.
    """

    chain_id: int
    token: Address
    token_name: str
    token_version: str
    settlement: Address = SETTLEMENT
    collector: Address = DEPOSIT_COLLECTOR

    def channel_id(self, channel: ChannelConfig) -> ChannelId:
        """Of a channel there."""
        return channel_id(channel, settlement_domain(self.chain_id, self.settlement))

    def token_domain(self) -> bytes:
        """EIP-712 domain separator of the token."""
        return domain_separator(self.token_name, self.token_version, self.chain_id, self.token)


@dataclass(frozen=True, slots=True)
class Presigned:
    """One deposit.

    Attributes:
        station: for people; nothing is decided by it.
        channel: the only channel that it can fund.
        deposit: amount, times, salt and the payer's signature.
    """

    station: str
    channel: ChannelConfig
    deposit: DepositAuthorization

    def nonce(self, place: DepositPlace) -> bytes:
        """EIP-3009 nonce: what the token knows it by, and what a cancellation names."""
        return deposit_nonce(place.channel_id(self.channel), self.deposit.salt)


class _EntryJson(X402Object, frozen=True):
    station: Annotated[str, Meta(max_length=200)]
    channel_id: Bytes32Text
    channel_config: ChannelConfigJson
    deposit: DepositJson


class _TokenJson(X402Object, frozen=True):
    address: AddressText
    name: str
    version: str


class _FileJson(X402Object, frozen=True):
    version: int
    chain_id: Annotated[int, Meta(ge=1, le=10**17)]
    token: _TokenJson
    settlement: AddressText
    collector: AddressText
    deposits: Annotated[list[_EntryJson], Meta(max_length=DEPOSITS_MAX)]


def presigned_digest(place: DepositPlace, channel: ChannelConfig, deposit: DepositAuthorization) -> bytes:
    """What the payer signs; the deposit's own signature is not looked at."""
    return deposit_digest(
        place.token_domain(),
        payer=channel.payer,
        channel=place.channel_id(channel),
        amount_atomic=deposit.amount_atomic,
        valid_after_s=deposit.valid_after_s,
        valid_before_s=deposit.valid_before_s,
        salt=deposit.salt,
        collector=place.collector,
    )


def verify_presigned(
    item: Presigned, *, place: DepositPlace, payer: Address, voucher_key: Address, policy: SpendPolicy | None
) -> None:
    """One deposit is signed by the payer, for this robot's key, and within its policy.

    Args:
        item: as read.
        place: that this robot pays on.
        payer: the treasury that this robot was given.
        voucher_key: address of this robot's.
        policy: in force; None when there is none to ask, for a look at a file.

    Raises:
        ConfigError: saying what is wrong.
    """
    channel, deposit = item.channel, item.deposit
    pairs = (
        ("payer", channel.payer, payer),
        ("voucher key (payerAuthorizer)", channel.payer_authorizer, voucher_key),
        ("token", channel.token, place.token),
    )
    for name, seen, expected in pairs:
        if seen != expected:
            raise ConfigError(f"its {name} is {address_to_hex(seen)}, expected {address_to_hex(expected)}")
    for name, address in (
        ("receiver", channel.receiver),
        ("receiverAuthorizer", channel.receiver_authorizer),
    ):
        if address == ADDRESS_ZERO:
            raise ConfigError(f"its {name} is the zero address")
    try:
        check_config(channel)
    except VoucherRefusedError as error:
        raise ConfigError(f"its channel: {error}") from error
    if deposit.amount_atomic == 0:
        raise ConfigError("its amount is 0")
    if deposit.valid_after_s >= deposit.valid_before_s:
        raise ConfigError(f"it is valid from {deposit.valid_after_s} to {deposit.valid_before_s}: never")
    try:
        verify(presigned_digest(place, channel, deposit), deposit.signature, payer)
    except SignatureError as error:
        raise ConfigError(f"it is not signed by the payer {address_to_hex(payer)}: {error}") from error
    if policy is not None:
        _check_policy(item, policy)


def _check_policy(item: Presigned, policy: SpendPolicy) -> None:
    receiver = address_to_hex(item.channel.receiver)
    limit = escrow_single_max_atomic(policy, item.channel.receiver)
    if limit == 0:
        raise ConfigError(f"its receiver {receiver} is not among the policy's payees")
    limit = min(limit, policy.escrow_total_max_atomic)
    if item.deposit.amount_atomic > limit:
        raise ConfigError(
            f"it locks {item.deposit.amount_atomic} at {receiver}, the policy allows {limit} there"
        )
    delay_s, delay_max_s = item.channel.withdraw_delay_s, policy.withdraw_delay_max_s
    if delay_s > delay_max_s:
        raise ConfigError(f"its withdraw delay is {delay_s} s, the policy allows {delay_max_s} s")


def parse_presigned(
    data: bytes,
    *,
    place: DepositPlace,
    payer: Address,
    voucher_key: Address,
    policy: SpendPolicy | None = None,
) -> tuple[Presigned, ...]:
    """All deposits of a file, each checked by :func:`verify_presigned`; one bad entry refuses the file.

    What has expired, or was sent before, stays in: the robot skips it by its own journal and clock.

    Raises:
        ConfigError: bad form, another chain, token or contract, an entry that is not as it must be, or one that is
            there twice.
    """
    items = read_presigned(data, place=place)
    seen: dict[bytes, int] = {}
    for number, item in enumerate(items, 1):
        try:
            verify_presigned(item, place=place, payer=payer, voucher_key=voucher_key, policy=policy)
        except ConfigError as error:
            raise ConfigError(f"pre-signed deposit {number} ({item.station}): {error}") from error
        first = seen.setdefault(item.nonce(place), number)
        if first != number:
            raise ConfigError(f"pre-signed deposit {number} ({item.station}) is number {first} once more")
    return items


def read_presigned(data: bytes, *, place: DepositPlace) -> tuple[Presigned, ...]:
    """What a file says, no signature checked; for showing only. Raises ConfigError."""
    if len(data) > PRESIGNED_BYTES_MAX:
        raise ConfigError(f"pre-signed deposits: {len(data)} bytes, expected at most {PRESIGNED_BYTES_MAX}")
    try:
        text = msgspec.json.decode(data, type=_FileJson)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"pre-signed deposits: {error}") from error
    if text.version != PRESIGNED_VERSION:
        raise ConfigError(f"pre-signed deposits: version {text.version}, expected {PRESIGNED_VERSION}")
    pairs: tuple[tuple[str, object, object], ...] = (
        ("chain", text.chain_id, place.chain_id),
        ("token", address_from_hex(text.token.address), place.token),
        ("token's name", text.token.name, place.token_name),
        ("token's version", text.token.version, place.token_version),
        ("settlement contract", address_from_hex(text.settlement), place.settlement),
        ("collector contract", address_from_hex(text.collector), place.collector),
    )
    for name, seen, expected in pairs:
        if seen != expected:
            shown = [address_to_hex(v) if isinstance(v, bytes) else repr(v) for v in (seen, expected)]
            raise ConfigError(f"pre-signed deposits are for {name} {shown[0]}, this robot is on {shown[1]}")
    items = []
    for number, entry in enumerate(text.deposits, 1):
        try:
            item = Presigned(
                entry.station, json_to_config(entry.channel_config), json_to_deposit(entry.deposit)
            )
        except (RemoteError, ValueError) as error:
            raise ConfigError(f"pre-signed deposit {number} ({entry.station}): {error}") from error
        named = bytes.fromhex(entry.channel_id[2:])
        if named != place.channel_id(item.channel):
            raise ConfigError(
                f"pre-signed deposit {number} ({entry.station}): names channel {entry.channel_id}, its channelConfig is"
                f" 0x{place.channel_id(item.channel).hex()}"
            )
        items.append(item)
    return tuple(items)


def format_presigned(items: Sequence[Presigned], place: DepositPlace) -> bytes:
    """JSON of a file."""
    text = _FileJson(
        version=PRESIGNED_VERSION,
        chain_id=place.chain_id,
        token=_TokenJson(address_to_hex(place.token), place.token_name, place.token_version),
        settlement=address_to_hex(place.settlement),
        collector=address_to_hex(place.collector),
        deposits=[
            _EntryJson(
                station=item.station,
                channel_id="0x" + place.channel_id(item.channel).hex(),
                channel_config=config_to_json(item.channel),
                deposit=deposit_to_json(item.deposit),
            )
            for item in items
        ],
    )
    return msgspec.json.format(msgspec.json.encode(text), indent=2) + b"\n"


def total_atomic(items: Sequence[Presigned], *, now_s: int) -> int:
    """What whoever has the robot could lock with those that have not expired: at risk until they are cancelled."""
    return sum(item.deposit.amount_atomic for item in items if now_s < item.deposit.valid_before_s)
