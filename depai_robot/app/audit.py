"""An audit after a run, by what nobody in it could write alone: both journals, the chain, and the simulator's truth.

Reads journals as rows of facts, not through the machines that wrote them.
"""

import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depai_robot.adapters.journal_reader import JournalReader
from depai_robot.app.bookkeeping import read_fact
from depai_robot.charging.envelope import open_token
from depai_robot.charging.fact import (
    BatteryObserved,
    BatteryRead,
    DockingEnded,
    MessageReceived,
    MessageSealed,
    StatementMade,
)
from depai_robot.charging.message import Payment
from depai_robot.charging.ocmf import parse_statement
from depai_robot.payment.receipt import OutsideFacts, Receipt, reconcile
from depai_robot.payment.x402 import parse_amount
from depai_robot.ports import Chain
from depai_robot.values.error import JournalError
from depai_robot.values.identity import ChannelId


@dataclass(frozen=True, slots=True)
class Check:
    """One question and its answer.

    Attributes:
        name: what must hold.
        ok: whether it does.
        detail: what was seen.
    """

    name: str
    ok: bool
    detail: str


def read_facts(path: Path, owner: str) -> list[Any]:
    """Every fact of a journal, its hash chain checked; an auditor changes nothing in what it audits.

    Raises:
        JournalError: it is not there, damaged, or another owner's.
    """
    with contextlib.closing(JournalReader(path)) as reader:
        if reader.form.owner != owner:
            raise JournalError(f"journal {path} belongs to {reader.form.owner}, expected {owner}")
        return [read_fact(row) for row in reader.rows()]


def highest_ceiling(tokens: Iterable[str], session: str) -> int | None:
    """The highest voucher among a session's sealed or received payments, or None."""
    ceilings = []
    for token in tokens:
        draft = open_token(token)
        if draft.session == session and isinstance(draft.body, Payment):
            voucher: Any = getattr(draft.body.payload.payload, "voucher", None)
            if voucher is not None:
                ceilings.append(parse_amount(voucher.max_claimable_amount))
    return max(ceilings, default=None)


def robot_pads_milliwh(facts: list[Any]) -> int:
    """What the robot's own meter took in, over the readings of its journal."""
    readings: list[BatteryRead] = [
        fact.reading
        for fact in facts
        if isinstance(fact, MessageReceived | DockingEnded | BatteryObserved) and fact.reading is not None
    ]
    if not readings:
        return 0
    registers = [reading.pads_energy_milliwh for reading in readings]
    return max(registers) - min(registers)


def station_register_milliwh(facts: list[Any], session: str) -> int:
    """What the station's meter stated for the session: last less first."""
    registers = [
        fact.energy_milliwh
        for fact in facts
        if isinstance(fact, StatementMade) and parse_statement(fact.statement).session == session
    ]
    return max(registers) - min(registers) if registers else 0


def audit(
    receipt: Receipt, wallet: list[Any], station: list[Any], chain: Chain, meter_band_milliwh: int
) -> list[Check]:
    """The receipt against both journals, the chain and both meters."""
    state = chain.channel(ChannelId(bytes.fromhex(receipt.channel[2:])), 1)
    sealed = (fact.token for fact in wallet if isinstance(fact, MessageSealed))
    taken = (fact.token for fact in station if isinstance(fact, MessageReceived))
    facts = OutsideFacts(
        balance_atomic=state.balance_atomic,
        total_claimed_atomic=state.total_claimed_atomic,
        robot_meter_milliwh=robot_pads_milliwh(wallet),
        station_meter_milliwh=station_register_milliwh(station, receipt.session),
        meter_band_milliwh=meter_band_milliwh,
        journal_ceiling_atomic=highest_ceiling(sealed, receipt.session) or 0,
        station_ceiling_atomic=highest_ceiling(taken, receipt.session),
    )
    return [Check(name, ok, detail) for name, ok, detail in reconcile(receipt, facts)]


def write_statements(path: Path, station: list[Any], session: str) -> int:
    """The session's OCMF records, one a line; returns how many."""
    texts = [
        fact.statement
        for fact in station
        if isinstance(fact, StatementMade) and parse_statement(fact.statement).session == session
    ]
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return len(texts)


def write_checks(path: Path, checks: list[Check]) -> None:
    """For the report."""
    rows = [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in checks]
    path.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
