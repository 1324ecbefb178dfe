"""Books as lines that a person reads in a terminal. Text of others is shown without control characters."""

import datetime as dt
from collections.abc import Iterator

from depai_robot.app.book import Book, SessionEntry, SignedThing, day_of
from depai_robot.app.story import clean
from depai_robot.values.money import format_energy, format_usdc

_WORD_MAX = 60
_REASON_MAX = 200


def tell_book(book: Book, last: int) -> Iterator[str]:
    """The newest sessions, oldest first, then what is in the channels, then totals."""
    entries = list(book.sessions.values())
    if len(entries) > last:
        yield f"{len(entries) - last} earlier sessions are not shown"
    day = ""
    for entry in entries[-last:]:
        if day_of(entry.opened_s) != day:
            day = day_of(entry.opened_s)
            yield day
        yield from _session(entry)
    if not entries:
        yield "no session yet"
    for channel in book.channels.values():
        if channel.left_atomic:
            yield (
                f"channel {channel.channel}: {format_usdc(channel.left_atomic)} is left of"
                f" {format_usdc(channel.deposited_atomic)} (as last seen on chain)"
            )
    total = [
        sum(getattr(entry, name) for entry in book.days.values())
        for name in ("sessions", "station_milliwh", "billed_atomic", "claimed_atomic")
    ]
    yield (
        f"in all: {total[0]} sessions, {format_energy(total[1])}, {format_usdc(total[2])} billed,"
        f" {format_usdc(total[3])} claimed"
    )


def tell_session(book: Book, session: str) -> Iterator[str]:
    """One session with every signature in it."""
    entry = book.sessions[session]
    yield day_of(entry.opened_s)
    yield from _session(entry)
    for thing in book.signed:
        if thing.session == session:
            yield _signed(thing)


def _time(wall_s: int) -> str:
    return dt.datetime.fromtimestamp(wall_s, tz=dt.timezone.utc).strftime("%H:%M:%S")


def _word(text: str) -> str:
    return clean(text, _WORD_MAX)


def _session(entry: SessionEntry) -> Iterator[str]:
    verb, other = ("bought", entry.station) if entry.role == "robot" else ("sold", entry.robot)
    own = "" if entry.own_milliwh is None else f" ({format_energy(entry.own_milliwh)} by its own meter)"
    yield f"  {_time(entry.opened_s)}  {_word(entry.session)}: {entry.outcome}"
    if not entry.vouchers and not entry.deposit_atomic:
        return
    side = "from" if verb == "bought" else "to"
    billed = "" if entry.billed_atomic is None else f" for {format_usdc(entry.billed_atomic)}"
    yield f"            {verb} {format_energy(entry.station_milliwh)}{own}{billed} {side} {_word(other)} {entry.party}"
    if entry.price_atomic_per_kwh is not None:
        yield (
            f"            price {format_usdc(entry.price_atomic_per_kwh)} per kWh, start fee"
            f" {format_usdc(entry.start_fee_atomic or 0)}"
        )
    yield (
        f"            {entry.vouchers} vouchers up to {format_usdc(entry.ceiling_atomic)}; deposited"
        f" {format_usdc(entry.deposit_atomic)}, claimed {format_usdc(entry.claimed_atomic)}, returned"
        f" {format_usdc(entry.returned_atomic)}"
    )
    for name, tx_hash in entry.transactions.items():
        yield f"            {name} {_word(tx_hash) if len(tx_hash) != 66 else tx_hash}"
    reason = f"stopped: {_word(entry.stop_reason) or 'not yet'}"
    yield f"            {reason}" + (f"; fault: {clean(entry.fault, _REASON_MAX)}" if entry.fault else "")


def _signed(thing: SignedThing) -> str:
    parts = [f"  {_time(thing.at_s)}  row {thing.row:<6} {thing.by:<5} {_word(thing.kind):<16}"]
    if thing.amount_atomic is not None:
        parts.append(f"deposit {format_usdc(thing.amount_atomic)}")
    if thing.ceiling_atomic is not None:
        parts.append(f"up to {format_usdc(thing.ceiling_atomic)}")
    if thing.energy_milliwh is not None:
        parts.append(f"register {format_energy(thing.energy_milliwh)}")
    if thing.tx_hash:
        parts.append(_word(thing.tx_hash) if len(thing.tx_hash) != 66 else thing.tx_hash)
    if thing.outcome not in ("sent", "received", "made"):
        parts.append(clean(thing.outcome, _REASON_MAX))
    return " ".join(parts)
