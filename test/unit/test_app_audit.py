"""The audit passes what happened, and fails each thing that did not: one wrong row, reading or claim at a time."""

from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from depai_robot.app.audit import audit, highest_ceiling, read_facts
from depai_robot.charging import fact as ft
from depai_robot.charging.envelope import open_token
from depai_robot.charging.message import Payment
from depai_robot.payment.receipt import Receipt, parse_receipt
from depai_robot.ports import JournalRow
from depai_robot.values.error import JournalError
from test.journal_world import run_world

BAND_MILLIWH = 200


@pytest.fixture(scope="module")
def world():
    return run_world(1)


class Case:
    """What an audit looks at; a test spoils one thing of it."""

    def __init__(self, world) -> None:
        self.receipt: Receipt = parse_receipt(world.receipts[-1])
        self.wallet: list[Any] = [ft.decode_fact(row) for row in world.robot.journal]
        self.station: list[Any] = [ft.decode_fact(row) for row in world.stations["a"].journal]
        found = world.chain.channel(bytes.fromhex(self.receipt.channel[2:]))
        self.balance, self.claimed = found["balance"], found["claimed"]

    def failures(self) -> set[str]:
        seen = SimpleNamespace(balance_atomic=self.balance, total_claimed_atomic=self.claimed)
        chain: Any = SimpleNamespace(channel=lambda _id, _confirmations: seen)
        checks = audit(self.receipt, self.wallet, self.station, chain, BAND_MILLIWH)
        assert len(checks) >= 9
        return {check.name for check in checks if not check.ok}


@pytest.fixture
def case(world) -> Case:
    return Case(world)


def ceiling_of(fact: Any) -> int:
    if not isinstance(fact, ft.MessageSealed | ft.MessageReceived):
        return -1
    body = open_token(fact.token).body
    return int(body.payload.payload.voucher.max_claimable_amount) if isinstance(body, Payment) else -1


CEILING = "ceiling is the highest voucher in the robot's journal"
METERS = "both meters agree within the band"
ENERGIES = "the receipt's energies are the meters'"
CLAIMED = "claimed on chain is what the receipt says"
DEPOSIT = "deposit = claimed + returned + left in the channel"


def test_what_happened_passes(case) -> None:
    assert case.failures() == set()


def test_a_wallet_journal_without_its_highest_voucher_fails(case) -> None:
    highest = max(map(ceiling_of, case.wallet))
    case.wallet = [fact for fact in case.wallet if ceiling_of(fact) != highest]
    assert case.failures() == {CEILING}


def test_an_empty_wallet_journal_fails(case) -> None:
    case.wallet = []
    assert {CEILING, METERS, ENERGIES} >= case.failures() >= {CEILING, METERS}


def test_another_sessions_journal_fails(case) -> None:
    case.receipt = replace(case.receipt, session="s-9")
    assert CEILING in case.failures()
    assert METERS in case.failures()


def test_a_receipt_below_what_was_signed_fails(case) -> None:
    case.receipt = replace(case.receipt, ceiling_atomic=case.receipt.ceiling_atomic - 1)
    assert CEILING in case.failures()
    assert "the station holds no voucher above the ceiling" in case.failures()


def test_a_station_that_was_given_more_than_the_wallet_says_fails(case) -> None:
    """Two processes with one key: the wallet's journal does not know what the other has signed."""
    case.receipt = replace(case.receipt, ceiling_atomic=case.receipt.ceiling_atomic - 1)
    highest = max(map(ceiling_of, case.wallet))
    case.wallet = [fact for fact in case.wallet if ceiling_of(fact) != highest]
    assert "the station holds no voucher above the ceiling" in case.failures()


def scale(fact: Any, permille: int) -> Any:
    if isinstance(fact, ft.StatementMade):
        return replace(fact, energy_milliwh=fact.energy_milliwh * permille // 1000)
    reading = getattr(fact, "reading", None)
    if reading is None:
        return fact
    return replace(
        fact, reading=replace(reading, pads_energy_milliwh=reading.pads_energy_milliwh * permille // 1000)
    )


@pytest.mark.parametrize(
    ("side", "permille"), [("station", 1500), ("station", 400), ("wallet", 1500), ("wallet", 400)]
)
def test_a_journal_with_another_energy_fails(case, side: str, permille: int) -> None:
    setattr(case, side, [scale(fact, permille) for fact in getattr(case, side)])
    assert METERS in case.failures()


@pytest.mark.parametrize("name", ["station_energy_milliwh", "robot_energy_milliwh"])
def test_a_receipt_over_more_energy_than_was_metered_fails(case, name: str) -> None:
    case.receipt = replace(case.receipt, **{name: getattr(case.receipt, name) + 2 * BAND_MILLIWH})
    assert ENERGIES in case.failures()


@pytest.mark.parametrize("by", [-1, 1])
def test_another_claim_on_chain_fails(case, by: int) -> None:
    case.claimed += by
    assert case.failures() & {CLAIMED, DEPOSIT}


@pytest.mark.parametrize("by", [-1, 1])
def test_money_that_is_nowhere_fails(case, by: int) -> None:
    case.balance += by
    assert DEPOSIT in case.failures()


@pytest.mark.parametrize(
    "name", ["owed_atomic", "start_fee_atomic", "price_atomic_per_kwh", "deposited_atomic", "returned_atomic"]
)
def test_a_receipt_that_does_not_add_up_fails(case, name: str) -> None:
    case.receipt = replace(case.receipt, **{name: getattr(case.receipt, name) + 10_000})
    assert case.failures()


def test_the_highest_ceiling_of_nothing_is_none(case) -> None:
    assert highest_ceiling([], "s-1") is None
    assert (
        highest_ceiling([fact.token for fact in case.wallet if isinstance(fact, ft.MessageSealed)], "s-9")
        is None
    )


class PretendReader:
    """adapters.JournalReader over rows in memory."""

    def __init__(self, rows: list[bytes], owner: str = "0x1", torn_at: int = 0) -> None:
        self.form = SimpleNamespace(owner=owner)
        self._rows, self._torn_at = rows, torn_at

    def rows(self):
        for number, data in enumerate(self._rows, 1):
            if number == self._torn_at:
                raise JournalError(f"was damaged or edited at row {number}")
            yield JournalRow(number, 1, data)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("reader", "match"),
    [
        (lambda rows: PretendReader(rows, owner="0x2"), "belongs to 0x2, expected 0x1"),
        (lambda rows: PretendReader(rows, torn_at=3), "damaged or edited at row 3"),
        (lambda rows: PretendReader([*rows[:4], b"{}"]), "row 5 is not a fact"),
    ],
)
def test_a_wrong_journal_is_not_audited_at_all(world, monkeypatch, reader, match: str) -> None:
    from pathlib import Path

    from depai_robot.app import audit as module

    monkeypatch.setattr(module, "JournalReader", lambda _path: reader(world.robot.journal))
    with pytest.raises(JournalError, match=match):
        read_facts(Path("wallet.sqlite"), "0x1")
    monkeypatch.setattr(module, "JournalReader", lambda _path: PretendReader(world.robot.journal))
    assert len(read_facts(Path("wallet.sqlite"), "0x1")) == len(world.robot.journal)
