"""Books as tables for other programs: CSV files that a spreadsheet opens, and one JSON document.

Each amount is told twice: in atomic units and as a decimal number of USDC. Text that came from others can't become a
formula in a spreadsheet.
"""

import csv
import datetime as dt
import io
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from depai_robot.app.book import TRANSACTIONS, Book, ChannelEntry, DayEntry, SessionEntry, SignedThing
from depai_robot.app.story import clean
from depai_robot.values.error import BugError
from depai_robot.values.money import USDC_DECIMALS

TABLES = ("sessions", "signed", "channels", "days")
FORM_VERSION = 1
Cell = str | int | None
Row = dict[str, Cell]


def to_usdc(amount_atomic: int | None) -> str | None:
    """``4000`` -> ``"0.004000"``; exact. None stays None."""
    if amount_atomic is None:
        return None
    sign = "-" if amount_atomic < 0 else ""
    whole, part = divmod(abs(amount_atomic), 10**USDC_DECIMALS)
    return f"{sign}{whole}.{part:0{USDC_DECIMALS}d}"


def to_time(wall_s: int) -> str:
    """``2026-01-31T12:00:00Z``."""
    return dt.datetime.fromtimestamp(wall_s, tz=dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _amount(name: str, atomic: int | None) -> Row:
    return {f"{name}_atomic": atomic, f"{name}_usdc": to_usdc(atomic)}


def session_row(entry: SessionEntry) -> Row:
    """One session."""
    return {
        "session": entry.session,
        "role": entry.role,
        "outcome": entry.outcome,
        "opened": to_time(entry.opened_s),
        "ended": to_time(entry.ended_s),
        "robot": entry.robot,
        "station": entry.station,
        "party": entry.party,
        "station_energy_milliwh": entry.station_milliwh,
        "own_energy_milliwh": entry.own_milliwh,
        **_amount("price_per_kwh", entry.price_atomic_per_kwh),
        **_amount("start_fee", entry.start_fee_atomic),
        **_amount("idle_fee_per_min", entry.idle_fee_atomic_per_min),
        "vouchers": entry.vouchers,
        **_amount("ceiling", entry.ceiling_atomic),
        **_amount("base", entry.base_atomic),
        **_amount("billed", entry.billed_atomic),
        **_amount("fees", entry.fees_atomic),
        **_amount("deposit", entry.deposit_atomic),
        **_amount("claimed", entry.claimed_atomic),
        **_amount("returned", entry.returned_atomic),
        "stop_reason": entry.stop_reason,
        "fault": entry.fault,
        "channel": entry.channel,
        **{f"tx_{name}": entry.transactions.get(name, "") for name in TRANSACTIONS},
    }


def signed_row(thing: SignedThing) -> Row:
    """One signed thing."""
    return {
        "row": thing.row,
        "at": to_time(thing.at_s),
        "by": thing.by,
        "kind": thing.kind,
        "session": thing.session,
        "party": thing.party,
        "id": thing.id,
        **_amount("amount", thing.amount_atomic),
        **_amount("ceiling", thing.ceiling_atomic),
        "energy_milliwh": thing.energy_milliwh,
        "channel": thing.channel,
        "tx": thing.tx_hash,
        "outcome": thing.outcome,
        "sha256": thing.digest,
    }


def channel_row(entry: ChannelEntry) -> Row:
    """One channel."""
    return {
        "channel": entry.channel,
        "party": entry.party,
        "first": to_time(entry.first_s),
        "last": to_time(entry.last_s),
        "sessions": entry.sessions,
        **_amount("ceiling", entry.ceiling_atomic),
        **_amount("deposited", entry.deposited_atomic),
        **_amount("claimed", entry.claimed_atomic),
        **_amount("returned", entry.returned_atomic),
        **_amount("left", entry.left_atomic),
    }


def day_row(entry: DayEntry) -> Row:
    """One day."""
    return {
        "day": entry.day,
        "sessions": entry.sessions,
        "station_energy_milliwh": entry.station_milliwh,
        "own_energy_milliwh": entry.own_milliwh,
        **_amount("billed", entry.billed_atomic),
        **_amount("fees", entry.fees_atomic),
        **_amount("deposited", entry.deposited_atomic),
        **_amount("claimed", entry.claimed_atomic),
        **_amount("returned", entry.returned_atomic),
        **_amount("signed", entry.signed_atomic),
    }


def iterate_table(book: Book, name: str) -> Iterator[Row]:
    """The rows of one of :data:`TABLES`, made as they are asked for."""
    if name == "sessions":
        return map(session_row, book.sessions.values())
    if name == "signed":
        return map(signed_row, book.signed)
    if name == "channels":
        return map(channel_row, book.channels.values())
    if name == "days":
        return map(day_row, book.days.values())
    raise BugError(f"no table {name!r}, expected one of {', '.join(TABLES)}")


def make_tables(book: Book) -> dict[str, list[Row]]:
    """Every table of :data:`TABLES`, by name."""
    return {name: list(iterate_table(book, name)) for name in TABLES}


_HEADINGS: dict[str, list[str]] = {
    "sessions": list(session_row(SessionEntry("", "", 0, 0))),
    "signed": list(signed_row(SignedThing(0, 0, "", "", ""))),
    "channels": list(channel_row(ChannelEntry("", "", 0, 0))),
    "days": list(day_row(DayEntry(""))),
}


def format_csv(name: str, rows: Iterable[Row]) -> str:
    """RFC 4180, with a heading; absent values are empty, columns that another version has are left out."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _HEADINGS[name], lineterminator="\r\n", extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _tame(value) for key, value in row.items()})
    return text.getvalue()


def _tame(value: Cell) -> Cell:
    """Text of others as text: no cursor movement, and no formula that a spreadsheet would run."""
    if not isinstance(value, str):
        return value
    printable = clean(value)
    return "'" + printable if printable[:1] in ("=", "+", "-", "@") and printable != "-" else printable


def format_json(book: Book, owner: str) -> str:
    """One document with every table."""
    document: dict[str, Any] = {
        "form": FORM_VERSION,
        "owner": owner,
        "role": book.role,
        "identity": book.identity,
        "rows": book.rows,
        **make_tables(book),
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"
