"""An owner's draft of a policy: YAML in USDC and days, checked for sense, made into what is signed; and back to words.

The draft is for people; what binds is the signed file. Nothing here signs.
"""

import time
from dataclasses import replace
from datetime import date, datetime, timezone
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from depai_robot.app.config import AddressText, ChainPart, addresses, read_network, read_yaml
from depai_robot.payment.policy import SpendPolicy, grants_survival
from depai_robot.values.error import ConfigError
from depai_robot.values.identity import address_from_hex, address_to_hex
from depai_robot.values.money import USDC_DECIMALS, format_usdc

DAY_S = 86_400
Usdc = str | int | float
"""``0.30`` and ``"0.30"`` alike; at most six decimals."""

TEMPLATE = """\
# What one robot may spend. Fill it in, then:  depai-robot policy sign {name} --key owner.json --output policy.json
# Amounts are USDC. Everything is a most: the robot does with less. Nothing is granted that is not written here.
version: 2
robot: "{robot}"   # the robot's voucher key: depai-robot key show
network: {network}            # a file of config/network, or a path
epoch: 1                         # one more each time: a robot that has seen 2 never takes 1 again
valid_from: {today}           # UTC day, or Unix seconds
valid_days: 90

# Spending. One tranche is what a station can run away with: keep it small.
tranche_max: 0.002               # signed ahead of energy that the robot's own meter has confirmed
session_max: 0.10                # signed in one charge
day_max: 0.30                    # signed in any 24 hours
price_max_per_kwh: 0.60
start_fee_max: 0.01              # also the most for one idle minute

# Locking. What is locked comes back, at the latest after the withdraw delay.
escrow_channel_max: 0.20         # in one channel
escrow_unknown_max: 0            # at a station that is not in payees; 0: only those in payees
escrow_total_max: 0.40           # in all channels together
withdraw_delay_max_s: 86400      # the longest wait when a station vanishes

payees: []                       # receivers (addresses) of the stations that you know

# One last charge a day may be dearer when the battery is nearly empty. Zeros: not granted.
survival:
  below_percent: 0               # of the battery
  price_max_per_kwh: 0
  session_max: 0
"""


class _Draft(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class SurvivalDraft(_Draft, frozen=True, kw_only=True):
    """The survival clause; see payment.policy."""

    below_percent: Usdc = 0
    price_max_per_kwh: Usdc = 0
    session_max: Usdc = 0


class PolicyDraft(_Draft, frozen=True, kw_only=True):
    """``depai-robot policy init`` writes one with comments. Amounts in USDC; names as SpendPolicy's, without unit."""

    version: Literal[2]
    robot: AddressText
    network: str
    epoch: Annotated[int, Meta(ge=0, le=2**53)]
    valid_from: date | int
    valid_days: Annotated[int, Meta(ge=1, le=3650)]
    tranche_max: Usdc
    session_max: Usdc
    day_max: Usdc
    price_max_per_kwh: Usdc
    start_fee_max: Usdc
    escrow_channel_max: Usdc
    escrow_unknown_max: Usdc
    escrow_total_max: Usdc
    withdraw_delay_max_s: Annotated[int, Meta(ge=900, le=2_592_000)]
    payees: list[AddressText]
    survival: SurvivalDraft = SurvivalDraft()


def template(name: str, robot: str, network: str) -> str:
    """A draft with comments, to be filled in."""
    today = datetime.now(tz=timezone.utc).strftime("%Y-%m-%d")
    return TEMPLATE.format(name=name, robot=robot, network=network, today=today)


def parse_usdc(value: Usdc, name: str) -> int:
    """Atomic units of an amount in USDC, exactly.

    Raises:
        ConfigError: no number, negative, or more than six decimals.
    """
    try:
        # A YAML float is shown in as few digits as give it back: those that were typed.
        atomic = Decimal(str(value)).scaleb(USDC_DECIMALS)
        whole = int(atomic)
    except (InvalidOperation, ValueError, OverflowError) as error:
        raise ConfigError(f"{name} must be an amount in USDC, got {value!r}") from error
    if isinstance(value, bool) or whole != atomic or whole < 0:
        raise ConfigError(
            f"{name} must be 0 or more USDC with at most {USDC_DECIMALS} decimals, got {value!r}"
        )
    return whole


def _parse_day(value: date | int) -> int:
    if isinstance(value, int):
        return value
    return int(datetime(value.year, value.month, value.day, tzinfo=timezone.utc).timestamp())


def read_draft(path: Path) -> tuple[SpendPolicy, int]:
    """The policy of a draft, and the id of its chain.

    Raises:
        ConfigError: one line that says what is wrong, and what could be meant.
    """
    draft = read_yaml(path, PolicyDraft)
    network = read_network(ChainPart(network=draft.network), path)
    try:
        policy = draft_to_policy(draft)
        check_sense(policy)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return policy, network.chain_id


def draft_to_policy(draft: PolicyDraft) -> SpendPolicy:
    """Amounts and times as they are signed. Raises ConfigError."""
    begin_s = _parse_day(draft.valid_from)
    permille = parse_usdc(draft.survival.below_percent, "survival.below_percent") // 10**5
    return SpendPolicy(
        robot=address_from_hex(draft.robot),
        epoch=draft.epoch,
        valid_after_s=begin_s,
        valid_before_s=begin_s + draft.valid_days * DAY_S,
        tranche_max_atomic=parse_usdc(draft.tranche_max, "tranche_max"),
        session_max_atomic=parse_usdc(draft.session_max, "session_max"),
        day_max_atomic=parse_usdc(draft.day_max, "day_max"),
        escrow_channel_max_atomic=parse_usdc(draft.escrow_channel_max, "escrow_channel_max"),
        escrow_unknown_max_atomic=parse_usdc(draft.escrow_unknown_max, "escrow_unknown_max"),
        escrow_total_max_atomic=parse_usdc(draft.escrow_total_max, "escrow_total_max"),
        withdraw_delay_max_s=draft.withdraw_delay_max_s,
        price_max_atomic_per_kwh=parse_usdc(draft.price_max_per_kwh, "price_max_per_kwh"),
        start_fee_max_atomic=parse_usdc(draft.start_fee_max, "start_fee_max"),
        payees=addresses(draft.payees),
        survival_below_permille=permille,
        survival_price_max_atomic_per_kwh=parse_usdc(
            draft.survival.price_max_per_kwh, "survival.price_max_per_kwh"
        ),
        survival_session_max_atomic=parse_usdc(draft.survival.session_max, "survival.session_max"),
    )


def check_sense(policy: SpendPolicy) -> None:
    """A policy that an owner can have meant: nothing that could never buy, no limit that another makes void.

    Raises:
        ConfigError: what contradicts what.
    """
    first = policy.tranche_max_atomic + policy.start_fee_max_atomic
    if not policy.tranche_max_atomic or not policy.price_max_atomic_per_kwh:
        raise ConfigError("tranche_max and price_max_per_kwh must be above 0: nothing could be bought")
    pairs = (
        ("tranche_max and start_fee_max together", first, "session_max", policy.session_max_atomic),
        ("session_max", policy.session_max_atomic, "day_max", policy.day_max_atomic),
        (
            "tranche_max and start_fee_max together",
            first,
            "escrow_channel_max",
            policy.escrow_channel_max_atomic,
        ),
        (
            "escrow_unknown_max",
            policy.escrow_unknown_max_atomic,
            "escrow_channel_max",
            policy.escrow_channel_max_atomic,
        ),
        (
            "escrow_channel_max",
            policy.escrow_channel_max_atomic,
            "escrow_total_max",
            policy.escrow_total_max_atomic,
        ),
    )
    for small_name, small, large_name, large in pairs:
        if small > large:
            raise ConfigError(
                f"{small_name} ({format_usdc(small)}) is above {large_name} ({format_usdc(large)})"
            )
    if not policy.payees and not policy.escrow_unknown_max_atomic:
        raise ConfigError(
            "payees is empty and escrow_unknown_max is 0: no station could be paid; name receivers, or let unknown"
            " ones hold something"
        )
    if len(set(policy.payees)) != len(policy.payees):
        raise ConfigError("payees names an address twice")
    clause = (
        policy.survival_below_permille,
        policy.survival_price_max_atomic_per_kwh,
        policy.survival_session_max_atomic,
    )
    if any(clause) and not grants_survival(policy):
        raise ConfigError(
            "survival grants nothing: below_percent and session_max must be above 0, price_max_per_kwh above the usual"
            " one; or all three 0"
        )


def policy_to_words(policy: SpendPolicy, chain_id: int, *, now_s: int | None = None) -> list[str]:
    """What the policy allows, line by line, for its owner."""
    now_s = int(time.time()) if now_s is None else now_s
    left_s = policy.valid_before_s - now_s
    if now_s < policy.valid_after_s:
        validity = f"not yet: in {_days(policy.valid_after_s - now_s)}"
    elif left_s <= 0:
        validity = f"expired {_days(-left_s)} ago"
    else:
        validity = f"{_days(left_s)} left"
    unknown = policy.escrow_unknown_max_atomic
    usdc = format_usdc
    session, day = usdc(policy.session_max_atomic), usdc(policy.day_max_atomic)
    channel, total = usdc(policy.escrow_channel_max_atomic), usdc(policy.escrow_total_max_atomic)
    price, start = usdc(policy.price_max_atomic_per_kwh), usdc(policy.start_fee_max_atomic)
    unknown = policy.escrow_unknown_max_atomic
    pairs = [
        ("for robot", f"{address_to_hex(policy.robot)} (its voucher key) on chain {chain_id}"),
        ("epoch", f"{policy.epoch}: the robot never takes a lower one again"),
        ("valid", f"{_stamp(policy.valid_after_s)} to {_stamp(policy.valid_before_s)} ({validity})"),
        ("pays at most", f"{price} per kWh, {start} to start"),
        (
            "signs at most",
            f"{usdc(policy.tranche_max_atomic)} ahead of the energy that its own meter has confirmed",
        ),
        ("", f"{session} in one charge, {day} in 24 hours"),
        ("locks at most", f"{channel} in one channel, {total} in all"),
        ("", f"back after {policy.withdraw_delay_max_s} s at the latest when a station vanishes"),
        (
            "others",
            f"stations that are not named here may hold {usdc(unknown)}" if unknown else "get nothing",
        ),
    ]
    lines = [f"{name:15}{words}" for name, words in pairs]
    lines += [f"payee          {address_to_hex(payee)}" for payee in policy.payees]
    if grants_survival(policy):
        lines.append(
            f"survival       below {policy.survival_below_permille / 10:g} % of the battery one charge a day may cost"
            f" {format_usdc(policy.survival_price_max_atomic_per_kwh)} per kWh,"
            f" {format_usdc(min(policy.survival_session_max_atomic, policy.session_max_atomic))} in all"
        )
    else:
        lines.append("survival       not granted: an empty battery changes no limit")
    return lines


def widened(before: SpendPolicy, after: SpendPolicy) -> list[str]:
    """Names of the limits that the later policy widens, for the owner to see before it signs."""
    names = [
        name
        for name in SpendPolicy.__slots__
        if name not in ("robot", "epoch", "payees", "valid_after_s")
        and getattr(after, name) > getattr(before, name)
    ]
    if set(after.payees) - set(before.payees):
        names.append("payees")
    return names


def next_epoch(policy: SpendPolicy, epoch: int) -> SpendPolicy:
    """The same with a higher epoch."""
    return replace(policy, epoch=max(policy.epoch, epoch + 1))


def _stamp(at_s: int) -> str:
    try:
        return datetime.fromtimestamp(at_s, tz=timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, ValueError, OSError):
        return f"second {at_s}"


def _days(span_s: int) -> str:
    if span_s < 2 * DAY_S:
        return f"{span_s // 3600} h"
    return f"{span_s // DAY_S} days"
