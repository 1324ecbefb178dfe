"""The receipt of a session: a fold of the journal, in one canonical form, and what it must agree with."""

from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from depai_robot.values.error import ConfigError
from depai_robot.values.identity import keccak256
from depai_robot.values.money import cost_atomic

RECEIPT_VERSION = 1

Hex32 = Annotated[str, Meta(pattern=r"^0x[0-9a-f]{64}\Z")]
AddressText = Annotated[str, Meta(pattern=r"^0x[0-9a-fA-F]{40}\Z")]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Transactions(Struct, frozen=True, forbid_unknown_fields=True):
    """Hashes of what went on chain; empty where nothing did."""

    deposit: str = ""
    claim: str = ""
    refund: str = ""
    settle: str = ""
    withdraw: str = ""


class Receipt(Struct, frozen=True, forbid_unknown_fields=True):
    """What was bought, for how much, and what became of every atomic unit.

    Attributes:
        version: of this form.
        session, robot, station: ids.
        robot_address, station_address: who signed the messages.
        network: CAIP-2.
        token, channel: where the money went through.
        started_s, ended_s: Unix seconds.
        stop_reason: OCPP stoppedReason word.
        price_atomic_per_kwh: agreed.
        start_fee_atomic, idle_fee_atomic: owed.
        station_energy_milliwh: last reconciled statement of the station's meter, less its first.
        robot_energy_milliwh: the robot's own meter, over the same time.
        statements: (first, last) OCMF texts that bound the energy; empty strings where there are none.
        vouchers: how many were signed.
        ceiling_atomic: the highest ceiling signed.
        owed_atomic: floor(price x station energy) + fees.
        deposited_atomic, claimed_atomic, returned_atomic: as seen on chain by the robot.
        withdrawal_until_s: 0, or when a pending withdrawal can be finalised.
        base_atomic: charged on the channel in earlier sessions: ceiling, deposited, claimed and returned are the
            channel's sums.
        left_atomic: stays in the channel for the next session, or for a claim to come.
        scheme: x402 scheme that it was paid by.
        blocks, block_atomic: for scheme exact, how many were paid and the price of one; that is what is owed, whatever
            was taken of the last.
        transactions: hashes.
        evidence: keccak-256 of each kept piece of evidence.
        fault: which rule the station broke, or empty.
    """

    session: str
    robot: str
    station: str
    robot_address: AddressText
    station_address: AddressText
    network: str
    token: AddressText
    channel: Hex32
    started_s: Count
    ended_s: Count
    stop_reason: str
    price_atomic_per_kwh: Count
    start_fee_atomic: Count
    idle_fee_atomic: Count
    station_energy_milliwh: Count
    robot_energy_milliwh: Count
    statements: tuple[str, str]
    vouchers: Count
    ceiling_atomic: Count
    owed_atomic: Count
    deposited_atomic: Count
    claimed_atomic: Count
    returned_atomic: Count
    withdrawal_until_s: Count = 0
    base_atomic: Count = 0
    left_atomic: Count = 0
    scheme: str = "batch-settlement"
    blocks: Count = 0
    block_atomic: Count = 0
    transactions: Transactions = Transactions()
    evidence: tuple[Hex32, ...] = ()
    fault: str = ""
    version: Annotated[int, Meta(ge=1, le=1)] = RECEIPT_VERSION


def format_receipt(receipt: Receipt) -> str:
    """Canonical JSON: keys sorted, no spaces. Signed as these bytes."""
    return msgspec.json.encode(receipt, order="sorted").decode()


def parse_receipt(text: str | bytes) -> Receipt:
    """A receipt from its JSON.

    Raises:
        ConfigError: what was wrong and where.
    """
    try:
        return msgspec.json.decode(text, type=Receipt)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ConfigError(f"receipt: {error}") from error


def receipt_digest(receipt: Receipt) -> bytes:
    """keccak-256 of the canonical JSON."""
    return keccak256(format_receipt(receipt).encode())


@dataclass(frozen=True, slots=True)
class OutsideFacts:
    """What somebody who did not write the receipt has seen.

    Attributes:
        balance_atomic: of the channel on chain.
        total_claimed_atomic: of the channel on chain.
        robot_meter_milliwh: energy that the robot's meter counted in the session.
        station_meter_milliwh: energy that the station's meter counted in the session.
        meter_band_milliwh: by how much the two may differ.
        journal_ceiling_atomic: highest voucher found in the robot's journal.
        station_ceiling_atomic: highest voucher found in the station's journal; None when there is none.
    """

    balance_atomic: int
    total_claimed_atomic: int
    robot_meter_milliwh: int
    station_meter_milliwh: int
    meter_band_milliwh: int
    journal_ceiling_atomic: int
    station_ceiling_atomic: int | None


def reconcile(receipt: Receipt, facts: OutsideFacts) -> list[tuple[str, bool, str]]:
    """Every check as (name, passed, what was seen); the receipt stands when all have passed."""
    owed = (
        cost_atomic(receipt.price_atomic_per_kwh, receipt.station_energy_milliwh)
        + receipt.start_fee_atomic
        + receipt.idle_fee_atomic
    )
    if receipt.scheme == "exact":
        owed = receipt.blocks * receipt.block_atomic
    owed_in_all = receipt.base_atomic + receipt.owed_atomic
    # What was left in the channel may have been claimed since.
    claimed = facts.total_claimed_atomic if receipt.left_atomic else receipt.claimed_atomic
    left = facts.balance_atomic - facts.total_claimed_atomic
    meters = abs(facts.station_meter_milliwh - facts.robot_meter_milliwh)
    return [
        (
            "owed is price times energy plus fees",
            receipt.owed_atomic == owed,
            f"{receipt.owed_atomic}, {owed}",
        ),
        (
            "claimed on chain is what the receipt says",
            facts.total_claimed_atomic == receipt.claimed_atomic
            or (
                receipt.claimed_atomic < facts.total_claimed_atomic <= owed_in_all and receipt.left_atomic > 0
            ),
            f"{facts.total_claimed_atomic}, {receipt.claimed_atomic}",
        ),
        (
            "claimed is not above what is owed",
            receipt.claimed_atomic <= owed_in_all,
            f"{receipt.claimed_atomic}, {owed_in_all}",
        ),
        (
            "claimed is not above the signed ceiling",
            receipt.claimed_atomic <= receipt.ceiling_atomic,
            f"{receipt.claimed_atomic}, {receipt.ceiling_atomic}",
        ),
        (
            "deposit = claimed + returned + left in the channel",
            receipt.deposited_atomic == claimed + receipt.returned_atomic + left,
            f"{receipt.deposited_atomic}, {claimed} + {receipt.returned_atomic} + {left}",
        ),
        (
            "ceiling is the highest voucher in the robot's journal",
            receipt.ceiling_atomic == facts.journal_ceiling_atomic,
            f"{receipt.ceiling_atomic}, {facts.journal_ceiling_atomic}",
        ),
        (
            "the station holds no voucher above the ceiling",
            facts.station_ceiling_atomic is None or facts.station_ceiling_atomic <= receipt.ceiling_atomic,
            f"{facts.station_ceiling_atomic}, {receipt.ceiling_atomic}",
        ),
        (
            "both meters agree within the band",
            meters <= facts.meter_band_milliwh,
            f"{facts.station_meter_milliwh}, {facts.robot_meter_milliwh}, band {facts.meter_band_milliwh} mWh",
        ),
        (
            "the receipt's energies are the meters'",
            receipt.robot_energy_milliwh <= facts.robot_meter_milliwh + facts.meter_band_milliwh
            and receipt.station_energy_milliwh <= facts.station_meter_milliwh + facts.meter_band_milliwh,
            f"station {receipt.station_energy_milliwh} mWh, robot {receipt.robot_energy_milliwh} mWh",
        ),
    ]
