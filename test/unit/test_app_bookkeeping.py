"""Books of journals from the pretended world: what they say is what the chain and the machines say."""

import csv
import io
import json

import pytest

from depai_robot.app.book import OWN, SessionEntry
from depai_robot.app.book_story import tell_book, tell_session
from depai_robot.app.book_table import TABLES, format_csv, format_json, make_tables, to_usdc
from depai_robot.app.bookkeeping import make_book, signer_of
from depai_robot.charging.fact import MessageSealed, StopRequested, encode_fact
from depai_robot.ports import JournalRow
from depai_robot.values.error import ConfigError, JournalError
from depai_robot.values.identity import address_to_hex
from test.builders import make_instant
from test.journal_world import rows_of, run_world


@pytest.fixture(scope="module")
def world():
    return run_world(3)


@pytest.fixture(scope="module")
def robot(world):
    return make_book(rows_of(world.robot))


@pytest.fixture(scope="module")
def station(world):
    return make_book(rows_of(world.stations["a"]))


def test_both_sides_books_say_the_same(robot, station, world) -> None:
    assert (robot.role, station.role) == ("robot", "station")
    assert robot.identity == address_to_hex(world.robot.keys["identity"].address)
    for number in (1, 2, 3):
        bought, sold = robot.sessions[f"s-{number}"], station.sessions[f"s-{number}"]
        assert bought.outcome == sold.outcome == "paid"
        for name in (
            "channel",
            "vouchers",
            "ceiling_atomic",
            "deposit_atomic",
            "billed_atomic",
            "fees_atomic",
            "price_atomic_per_kwh",
            "station_milliwh",
            "robot",
            "station",
        ):
            assert getattr(bought, name) == getattr(sold, name), name
        assert 0 < bought.own_milliwh <= bought.station_milliwh
        assert sold.own_milliwh is None
        assert bought.party == station.identity
        assert sold.party == robot.identity


def test_channels_say_what_the_chain_says(robot, world) -> None:
    assert robot.channels
    for name, entry in robot.channels.items():
        on_chain = world.chain.channel(bytes.fromhex(name[2:]))
        assert entry.deposited_atomic - entry.returned_atomic == on_chain["balance"]
        assert entry.deposited_atomic == entry.claimed_atomic + entry.returned_atomic + entry.left_atomic
    assert sum(entry.sessions for entry in robot.channels.values()) == 3


def test_every_own_signature_is_one_line_and_each_payment_has_its_outcome(robot, station, world) -> None:
    sealed = [row for row in world.robot.journal if b'"MessageSealed"' in row]
    assert len([thing for thing in robot.signed if thing.by == OWN]) == len(sealed)
    payments = [thing for thing in robot.signed if thing.kind.startswith("payment.") and thing.by == OWN]
    assert payments
    assert {thing.outcome for thing in payments} == {"accepted"}
    signed = {thing.row for thing in station.signed if thing.kind == "transaction"}
    assert len(signed) == sum(b'"TransactionSigned"' in row for row in world.stations["a"].journal)
    confirmed = [thing for thing in station.signed if thing.outcome.startswith("confirmed in block")]
    assert {thing.tx_hash for thing in confirmed} >= set(robot.sessions["s-1"].transactions.values())


def test_days_are_the_sums_of_sessions(robot) -> None:
    days, sessions = robot.days.values(), robot.sessions.values()
    assert sum(day.billed_atomic for day in days) == sum(entry.billed_atomic or 0 for entry in sessions)
    assert sum(day.sessions for day in days) == len(sessions)
    assert sum(day.signed_atomic for day in days) == sum(c.ceiling_atomic for c in robot.channels.values())


def test_the_ledgers_day_limit_counts_the_same(robot, world) -> None:
    assert world.robot.state.ledger.day_atomic(world.wall_s) == sum(
        d.signed_atomic for d in robot.days.values()
    )


def test_tables_read_back(robot) -> None:
    tables = make_tables(robot)
    assert set(tables) == set(TABLES)
    for name in TABLES:
        text = format_csv(name, tables[name])
        read = list(csv.DictReader(io.StringIO(text, newline="")))
        assert len(read) == len(tables[name]) > 0
        for seen, wanted in zip(read, tables[name], strict=True):
            assert seen == {key: "" if value is None else str(value) for key, value in wanted.items()}
            for key in [key for key in wanted if key.endswith("_atomic")]:
                usdc = wanted[key.removesuffix("_atomic") + "_usdc"]
                assert usdc == (None if wanted[key] is None else f"{wanted[key] / 10**6:.6f}")
    document = json.loads(format_json(robot, "0x1"))
    assert {name: document[name] for name in TABLES} == tables


def test_empty_books_have_headings() -> None:
    tables = make_tables(make_book([]))
    for name in TABLES:
        assert format_csv(name, tables[name]).count("\r\n") == 1


@pytest.mark.parametrize(
    ("atomic", "usdc"),
    [
        (0, "0.000000"),
        (1, "0.000001"),
        (4000, "0.004000"),
        (12_345_678, "12.345678"),
        (-1, "-0.000001"),
        (None, None),
    ],
)
def test_amounts_are_exact(atomic, usdc) -> None:
    assert to_usdc(atomic) == usdc


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "=cmd|'/c calc'!A1"])
def test_text_of_others_is_no_formula(text: str) -> None:
    entry = SessionEntry("s", "robot", 0, 0, fault=text)
    (row,) = csv.DictReader(
        io.StringIO(format_csv("sessions", make_tables(_book_with(entry))["sessions"]), newline="")
    )
    assert row["fault"] == "'" + text


def _book_with(entry: SessionEntry):
    book = make_book([])
    book.sessions[entry.session] = entry
    return book


def test_a_story_is_told_and_no_text_of_others_steers_the_terminal(robot) -> None:
    text = "\n".join(tell_book(robot, 2))
    assert "1 earlier sessions are not shown" in text
    assert "s-3: paid" in text
    assert "s-1: paid" not in text
    assert "in all: 3 sessions" in text
    lines = list(tell_session(robot, "s-2"))
    assert sum("payment.voucher" in line for line in lines) == robot.sessions["s-2"].vouchers - (
        robot.sessions["s-2"].deposit_atomic > 0
    )
    entry = SessionEntry("s", "robot", 0, 0, vouchers=1, fault="\x1b[2J\n", station="\x07")
    assert all(line.isprintable() for line in tell_book(_book_with(entry), 5))
    assert list(tell_book(make_book([]), 5))[0] == "no session yet"


def test_what_a_session_without_money_is_called() -> None:
    world = run_world(0)
    world.run(seconds=2)
    world.request("s-9")
    world.give(world.robot, StopRequested(world.at, "changed my mind"))
    book = make_book(rows_of(world.robot))
    assert book.sessions["s-9"].outcome == "nothing bought"
    assert "s-9: nothing bought" in "\n".join(tell_book(book, 5))


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"{}", "row 1 is not a fact"),
        (b"\xff", "row 1 is not a fact"),
        (encode_fact(MessageSealed(make_instant(), "x", "a.b.c")), "row 1 can't be read"),
        (encode_fact(MessageSealed(make_instant(), "x", "")), "row 1 can't be read"),
    ],
)
def test_a_row_that_is_none_is_named(data: bytes, match: str) -> None:
    with pytest.raises(JournalError, match=match):
        make_book([JournalRow(1, 1, data)])


@pytest.mark.parametrize("token", ["", "e30.x.y", "bm8.x.y", "W10.x.y", "eyJraWQiOjF9.x.y"])
def test_a_token_without_a_signer_is_refused(token: str) -> None:
    with pytest.raises(ConfigError):
        signer_of(token)
