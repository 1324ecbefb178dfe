"""The owner's signed spending policy: what the robot may spend, lock and accept. Pure checks with named reasons.

The owner signs it off the robot (EIP-712). A console may tighten it; only the owner's signature widens it. Words of
budgets and payees follow the Agent Payments Protocol (AP2); the form is our own.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import msgspec
from msgspec import Struct

from depai_robot.payment.eip712 import domain_separator, encode_address, encode_uint, typed_digest
from depai_robot.payment.signature import SignatureError, verify
from depai_robot.values.error import ConfigError
from depai_robot.values.identity import (
    ADDRESS_ZERO,
    Address,
    address_from_hex,
    address_to_hex,
    keccak256,
)
from depai_robot.values.money import UINT128_MAX

POLICY_NAME = "depai SpendPolicy"
POLICY_VERSION = "2"
"""Of the EIP-712 domain and of the file. "1" had no survival clause; see read_policy_file for what becomes of it."""
SURVIVAL_PERIOD_S = 24 * 3600
"""At most one charge above the price limit begins in any such time."""

# In the order of SpendPolicy's fields.
_POLICY_MEMBERS = (
    "address robot,uint256 epoch,uint256 validAfter,uint256 validBefore,"
    "uint256 tranche,uint256 session,uint256 day,uint256 escrowChannel,uint256 escrowUnknown,"
    "uint256 escrowTotal,uint256 withdrawDelay,uint256 pricePerKwh,uint256 startFee,address[] payees,"
    "uint256 survivalBelowPermille,uint256 survivalPricePerKwh,uint256 survivalSession"
)
_POLICY = keccak256(f"SpendPolicy({_POLICY_MEMBERS})".encode())


@dataclass(frozen=True, slots=True)
class SpendPolicy:
    """What an owner grants one robot. Money in atomic units.

    Attributes:
        robot: address of the voucher key that it is for.
        epoch: rises with each policy; a lower one than was ever seen is refused.
        valid_after_s: Unix time, inclusive.
        valid_before_s: Unix time, exclusive.
        tranche_max_atomic: signed ahead of reconciled energy.
        session_max_atomic: signed in one session.
        day_max_atomic: signed in 24 hours.
        escrow_channel_max_atomic: locked in one channel.
        escrow_unknown_max_atomic: locked at a station that is not among ``payees``; 0 allows only those.
        escrow_total_max_atomic: locked in all channels together.
        withdraw_delay_max_s: longest wait for the rest when a station vanishes.
        price_max_atomic_per_kwh: dearest energy.
        start_fee_max_atomic: dearest start.
        payees: receivers that are known; empty means that every receiver is an unknown station.
        survival_below_permille: below this state of charge one charge a day may be dearer than
            ``price_max_atomic_per_kwh``; 0 here or in the next two: not granted.
        survival_price_max_atomic_per_kwh: dearest energy of such a charge.
        survival_session_max_atomic: signed in such a session, within the other limits, all of which stay.
    """

    robot: Address
    epoch: int
    valid_after_s: int
    valid_before_s: int
    tranche_max_atomic: int
    session_max_atomic: int
    day_max_atomic: int
    escrow_channel_max_atomic: int
    escrow_unknown_max_atomic: int
    escrow_total_max_atomic: int
    withdraw_delay_max_s: int
    price_max_atomic_per_kwh: int
    start_fee_max_atomic: int
    payees: tuple[Address, ...] = ()
    survival_below_permille: int = 0
    survival_price_max_atomic_per_kwh: int = 0
    survival_session_max_atomic: int = 0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in ("robot", "payees"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= UINT128_MAX:
                raise ConfigError(f"policy {item.name} must be an integer from 0, got {value!r}")
        for address in (self.robot, *self.payees):
            if not isinstance(address, bytes) or len(address) != 20:
                raise ConfigError(f"policy addresses have 20 bytes, got {address!r}")
        if self.robot == ADDRESS_ZERO:
            raise ConfigError("policy robot must be the voucher key's address, got zero")
        if self.valid_after_s >= self.valid_before_s:
            raise ConfigError(f"policy is valid from {self.valid_after_s} to {self.valid_before_s}: never")
        if self.survival_below_permille > 1000:
            raise ConfigError(f"survival_below_permille is at most 1000, got {self.survival_below_permille}")


def policy_digest(policy: SpendPolicy, chain_id: int) -> bytes:
    """EIP-712 digest that the owner signs; :func:`policy_typed_data` is the same for an external wallet."""
    payees = keccak256(b"".join(encode_address(payee) for payee in policy.payees))
    words = (
        policy.epoch,
        policy.valid_after_s,
        policy.valid_before_s,
        policy.tranche_max_atomic,
        policy.session_max_atomic,
        policy.day_max_atomic,
        policy.escrow_channel_max_atomic,
        policy.escrow_unknown_max_atomic,
        policy.escrow_total_max_atomic,
        policy.withdraw_delay_max_s,
        policy.price_max_atomic_per_kwh,
        policy.start_fee_max_atomic,
    )
    survival = (
        policy.survival_below_permille,
        policy.survival_price_max_atomic_per_kwh,
        policy.survival_session_max_atomic,
    )
    struct = _POLICY + encode_address(policy.robot) + b"".join(encode_uint(word) for word in words) + payees
    struct += b"".join(encode_uint(word) for word in survival)
    return typed_digest(domain_separator(POLICY_NAME, POLICY_VERSION, chain_id, None), keccak256(struct))


def policy_typed_data(policy: SpendPolicy, chain_id: int) -> dict[str, Any]:
    """What ``eth_signTypedData_v4`` of the owner's wallet takes, so that the owner reads what it signs."""
    members = [word.split(" ") for word in _POLICY_MEMBERS.split(",")]
    values = [getattr(policy, item.name) for item in fields(policy)]
    message = {name: value for (_, name), value in zip(members, values, strict=True)}
    message["robot"] = address_to_hex(policy.robot)
    message["payees"] = [address_to_hex(payee) for payee in policy.payees]
    domain = (("string", "name"), ("string", "version"), ("uint256", "chainId"))
    return {
        "types": {
            "EIP712Domain": [{"name": name, "type": kind} for kind, name in domain],
            "SpendPolicy": [{"name": name, "type": kind} for kind, name in members],
        },
        "primaryType": "SpendPolicy",
        "domain": {"name": POLICY_NAME, "version": POLICY_VERSION, "chainId": chain_id},
        "message": message,
    }


class PolicyFile(Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON of a policy file: text at the edge, checked into SpendPolicy by :func:`parse_policy`."""

    robot: str
    epoch: int
    valid_after_s: int
    valid_before_s: int
    tranche_max_atomic: int
    session_max_atomic: int
    day_max_atomic: int
    escrow_channel_max_atomic: int
    escrow_unknown_max_atomic: int
    escrow_total_max_atomic: int
    withdraw_delay_max_s: int
    price_max_atomic_per_kwh: int
    start_fee_max_atomic: int
    payees: list[str]
    survival_below_permille: int
    survival_price_max_atomic_per_kwh: int
    survival_session_max_atomic: int
    version: str
    chain_id: int
    owner: str
    signature: str


class _VersionOnly(Struct, frozen=True):
    version: str = ""


def format_policy(policy: SpendPolicy, chain_id: int, owner: Address, signature: bytes) -> bytes:
    """JSON of a signed policy, one line a field."""
    values = {item.name: getattr(policy, item.name) for item in fields(policy)}
    values["robot"] = address_to_hex(policy.robot)
    values["payees"] = [address_to_hex(payee) for payee in policy.payees]
    text = PolicyFile(
        version=POLICY_VERSION,
        chain_id=chain_id,
        owner=address_to_hex(owner),
        signature="0x" + signature.hex(),
        **values,
    )
    return msgspec.json.format(msgspec.json.encode(text), indent=2) + b"\n"


def read_policy_file(data: bytes) -> tuple[SpendPolicy, PolicyFile]:
    """What a policy file says, its signature not checked: for showing only. :func:`parse_policy` is for use.

    A file of version 1 (before the survival clause) is refused, not read: its signature is over another type, and a
    reader of two types is a second way in.

    Raises:
        ConfigError: bad form or another version.
    """
    try:
        version = msgspec.json.decode(data, type=_VersionOnly).version
        if version != POLICY_VERSION:
            seen = ascii(version) if version else "1 (none is named)"
            raise ConfigError(
                f"policy file has version {seen}, this program reads {POLICY_VERSION}: the owner signs it again with"
                " `depai-robot policy sign`"
            )
        text = msgspec.json.decode(data, type=PolicyFile)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"policy file: {error}") from error
    values = {item.name: getattr(text, item.name) for item in fields(SpendPolicy)}
    values["robot"] = address_from_hex(text.robot)
    values["payees"] = tuple(address_from_hex(payee) for payee in text.payees)
    return SpendPolicy(**values), text


def parse_policy(
    data: bytes, *, chain_id: int, owner: Address, robot: Address, epoch_min: int = 0
) -> SpendPolicy:
    """A policy from its file, if the owner whom the robot was given signed it for this robot and chain.

    Args:
        data: JSON of the file.
        chain_id: that this robot pays on.
        owner: that this robot was given.
        robot: address of this robot's voucher key.
        epoch_min: highest epoch ever seen; an older policy may have been wider.

    Raises:
        ConfigError: bad form, another owner, robot or chain, an old epoch, or a wrong signature.
    """
    policy, text = read_policy_file(data)
    if text.chain_id != chain_id:
        raise ConfigError(f"policy is for chain {text.chain_id}, this robot is on {chain_id}")
    if policy.robot != robot:
        raise ConfigError(
            f"policy is for robot {text.robot}, this one's voucher key is {address_to_hex(robot)}"
        )
    if policy.epoch < epoch_min:
        raise ConfigError(f"policy has epoch {policy.epoch}, one of {epoch_min} was seen before")
    if address_from_hex(text.owner) != owner:
        raise ConfigError(f"policy names owner {text.owner}, this robot's owner is {address_to_hex(owner)}")
    try:
        signature = bytes.fromhex(text.signature.removeprefix("0x"))
        verify(policy_digest(policy, chain_id), signature, owner)
    except (ValueError, SignatureError) as error:
        raise ConfigError(f"policy is not signed by its owner: {error}") from error
    return policy


_UPPER_BOUNDS = (
    "valid_before_s",
    "tranche_max_atomic",
    "session_max_atomic",
    "day_max_atomic",
    "escrow_channel_max_atomic",
    "escrow_unknown_max_atomic",
    "escrow_total_max_atomic",
    "withdraw_delay_max_s",
    "price_max_atomic_per_kwh",
    "start_fee_max_atomic",
    "survival_below_permille",
    "survival_price_max_atomic_per_kwh",
    "survival_session_max_atomic",
)


def tighten(policy: SpendPolicy, *, payees: tuple[Address, ...] | None = None, **limits: int) -> SpendPolicy:
    """A policy with some limits lowered, as a console may do.

    Args:
        policy: the owner's, or one that was tightened before.
        payees: some of the policy's; whoever is left out becomes an unknown station. None keeps all.
        limits: fields of SpendPolicy that are upper bounds.

    Raises:
        ConfigError: a limit that is not an upper bound, one that would rise, or a payee that is new.
    """
    for name, value in limits.items():
        if name not in _UPPER_BOUNDS:
            raise ConfigError(f"{name} can't be tightened, expected one of {', '.join(_UPPER_BOUNDS)}")
        if value > getattr(policy, name):
            raise ConfigError(
                f"{name} would rise from {getattr(policy, name)} to {value}: only the owner's signature widens"
            )
    tightened = replace(policy, **limits)  # type: ignore[arg-type]
    if payees is None:
        return tightened
    new = [address_to_hex(payee) for payee in payees if payee not in policy.payees]
    if new:
        raise ConfigError(f"payees {', '.join(new)} are new: only the owner's signature widens")
    # One who is left out must not get more as an unknown station than as a known one.
    unknown = min(tightened.escrow_unknown_max_atomic, tightened.escrow_channel_max_atomic)
    return replace(tightened, payees=payees, escrow_unknown_max_atomic=unknown)


# --- survival -----------------------------------------------------------------------------------------------


def grants_survival(policy: SpendPolicy) -> bool:
    """Whether the owner grants a last charge above the price limit at all."""
    return (
        policy.survival_below_permille > 0
        and policy.survival_session_max_atomic > 0
        and policy.survival_price_max_atomic_per_kwh > policy.price_max_atomic_per_kwh
    )


def may_survive(
    policy: SpendPolicy, state_of_charge_permille: int, *, survival_s: int | None, now_s: int
) -> bool:
    """Whether a charge above the price limit may begin now.

    Args:
        policy: in force.
        state_of_charge_permille: of the robot's own battery reading.
        survival_s: wall time at which the last such charge was agreed, kept by whoever decides; None: never.
        now_s: wall clock. One that went back behind ``survival_s`` grants nothing.
    """
    if not grants_survival(policy) or not 0 <= state_of_charge_permille < policy.survival_below_permille:
        return False
    return survival_s is None or now_s - survival_s >= SURVIVAL_PERIOD_S


def price_limit(
    policy: SpendPolicy, state_of_charge_permille: int, *, survival_s: int | None, now_s: int
) -> int:
    """The dearest energy that may be agreed now, atomic per kWh; for arguments see :func:`may_survive`."""
    if may_survive(policy, state_of_charge_permille, survival_s=survival_s, now_s=now_s):
        return policy.survival_price_max_atomic_per_kwh
    return policy.price_max_atomic_per_kwh


def is_survival_price(policy: SpendPolicy, price_atomic_per_kwh: int) -> bool:
    """Whether a session at that price uses the survival clause up; the cheaper ones leave it for later."""
    return price_atomic_per_kwh > policy.price_max_atomic_per_kwh


def survival_policy(policy: SpendPolicy) -> SpendPolicy:
    """The limits that a survival session runs under: a higher price, a lower session; all others stay.

    The owner's policy itself when nothing is granted, so that a caller who asks wrongly gets the strict limits.
    """
    if not grants_survival(policy):
        return policy
    return replace(
        policy,
        price_max_atomic_per_kwh=policy.survival_price_max_atomic_per_kwh,
        session_max_atomic=min(policy.session_max_atomic, policy.survival_session_max_atomic),
    )


def session_policy(policy: SpendPolicy, price_atomic_per_kwh: int) -> SpendPolicy:
    """The limits of a session at that agreed price; whether it may begin is :func:`price_limit`'s to say."""
    return survival_policy(policy) if is_survival_price(policy, price_atomic_per_kwh) else policy


def task_policy(
    policy: SpendPolicy, *, price_max_atomic_per_kwh: int = 0, session_max_atomic: int = 0
) -> SpendPolicy:
    """The policy with limits of one task on top; they only tighten.

    Args:
        policy: in force.
        price_max_atomic_per_kwh: 0 for no other than the policy's.
        session_max_atomic: likewise.
    """
    price, session = policy.price_max_atomic_per_kwh, policy.session_max_atomic
    return replace(
        policy,
        price_max_atomic_per_kwh=min(price, price_max_atomic_per_kwh or price),
        session_max_atomic=min(session, session_max_atomic or session),
    )


# --- checks -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Terms:
    """The part of an offer that the policy judges.

    Attributes:
        receiver: who is paid.
        price_atomic_per_kwh: energy.
        start_fee_atomic: start.
        tranche_cost_atomic: price of one tranche.
        withdraw_delay_s: of the channel.
        min_deposit_atomic: the station wants at least that.
    """

    receiver: Address
    price_atomic_per_kwh: int
    start_fee_atomic: int
    tranche_cost_atomic: int
    withdraw_delay_s: int
    min_deposit_atomic: int


@dataclass(frozen=True, slots=True)
class Exposure:
    """What is already out: the highest ceilings ever signed, not what was claimed.

    Attributes:
        session_atomic: signed in this session.
        day_atomic: signed in the last 24 hours, this session included.
        escrow_total_atomic: locked in all channels now.
    """

    session_atomic: int = 0
    day_atomic: int = 0
    escrow_total_atomic: int = 0


def escrow_single_max_atomic(policy: SpendPolicy, receiver: Address) -> int:
    """The most that may be locked with that receiver, whatever is locked elsewhere."""
    if receiver in policy.payees:
        return policy.escrow_channel_max_atomic
    return min(policy.escrow_channel_max_atomic, policy.escrow_unknown_max_atomic)


def escrow_max_atomic(policy: SpendPolicy, receiver: Address, exposure: Exposure) -> int:
    """The most that may be locked in a new channel to that receiver now."""
    left = policy.escrow_total_max_atomic - exposure.escrow_total_atomic
    return max(0, min(escrow_single_max_atomic(policy, receiver), left))


def refuse_terms(policy: SpendPolicy, terms: Terms, exposure: Exposure, now_s: int) -> str | None:
    """Why these terms may not be accepted, or None. The reason says what was seen and what is allowed."""
    if not policy.valid_after_s <= now_s < policy.valid_before_s:
        return f"policy is valid from {policy.valid_after_s} to {policy.valid_before_s}, now is {now_s}"
    if terms.receiver == ADDRESS_ZERO:
        return "the receiver is the zero address"
    if escrow_single_max_atomic(policy, terms.receiver) == 0:
        return f"receiver {address_to_hex(terms.receiver)} is not among the policy's payees"
    escrow_atomic = escrow_max_atomic(policy, terms.receiver, exposure)
    first_atomic = terms.start_fee_atomic + terms.tranche_cost_atomic
    pairs = (
        ("price per kWh", terms.price_atomic_per_kwh, policy.price_max_atomic_per_kwh),
        ("start fee", terms.start_fee_atomic, policy.start_fee_max_atomic),
        ("tranche", terms.tranche_cost_atomic, policy.tranche_max_atomic),
        ("withdraw delay", terms.withdraw_delay_s, policy.withdraw_delay_max_s),
        ("minimum deposit", terms.min_deposit_atomic, escrow_atomic),
        ("start fee and one tranche", first_atomic, policy.session_max_atomic - exposure.session_atomic),
        ("start fee and one tranche", first_atomic, policy.day_max_atomic - exposure.day_atomic),
    )
    for name, seen, allowed in pairs:
        if seen > allowed:
            return f"{name} {seen} is above the policy's {allowed}"
    if first_atomic > escrow_atomic:
        return "the escrow that the policy allows does not hold the start fee and one tranche"
    return None


def refuse_signature(
    policy: SpendPolicy, exposure: Exposure, *, rise_atomic: int, ahead_atomic: int, now_s: int
) -> str | None:
    """Why a voucher may not be signed, or None.

    Args:
        policy: in force.
        exposure: before it.
        rise_atomic: by how much it raises the highest ceiling signed.
        ahead_atomic: how far it lies above what is owed for reconciled energy and fees.
        now_s: wall clock.
    """
    if not policy.valid_after_s <= now_s < policy.valid_before_s:
        return f"policy is valid from {policy.valid_after_s} to {policy.valid_before_s}, now is {now_s}"
    if ahead_atomic > policy.tranche_max_atomic:
        return f"{ahead_atomic} ahead of reconciled energy, the policy allows {policy.tranche_max_atomic}"
    session_atomic, day_atomic = exposure.session_atomic + rise_atomic, exposure.day_atomic + rise_atomic
    if session_atomic > policy.session_max_atomic:
        return f"session total {session_atomic} is above the policy's {policy.session_max_atomic}"
    if day_atomic > policy.day_max_atomic:
        return f"day total {day_atomic} is above the policy's {policy.day_max_atomic}"
    return None
