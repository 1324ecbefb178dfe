"""Makes the books of a journal from its rows alone, not through the machine that wrote them.

So it reads the rows of every version, and tells what was signed and seen, whatever a machine made of it.
"""

import base64
import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec

from depai_robot.app.book import (
    OTHER,
    OWN,
    TRANSACTIONS,
    Book,
    ChannelEntry,
    DayEntry,
    SessionEntry,
    SignedThing,
    day_of,
)
from depai_robot.charging.envelope import open_token
from depai_robot.charging.fact import (
    BatteryRead,
    ChainFailed,
    ChannelObserved,
    ChargeRequested,
    DockingEnded,
    Fact,
    MessageReceived,
    MessageSealed,
    PresenceChanged,
    StatementMade,
    TransactionConfirmed,
    TransactionSigned,
    decode_fact,
)
from depai_robot.charging.message import (
    CHARGING_EXTENSION,
    TYPE_BY_BODY,
    ChargingTerms,
    Draft,
    NeedVoucher,
    Payment,
    PaymentResult,
    Quote,
    QuoteRequest,
    ReceiptMessage,
    SessionEvent,
    SessionStop,
)
from depai_robot.charging.ocmf import StatementError, parse_statement
from depai_robot.payment.receipt import parse_receipt
from depai_robot.payment.x402 import parse_amount
from depai_robot.ports import JournalRow
from depai_robot.values.error import ConfigError, DepaiError, JournalError
from depai_robot.values.identity import address_to_hex, parse_did_pkh


def signer_of(token: str) -> tuple[int, bytes]:
    """(chain id, address) in a token's header; nothing is checked.

    Raises:
        ConfigError: there is none.
    """
    header = token.partition(".")[0]
    try:
        kid = msgspec.json.decode(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))["kid"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"token has no header with a kid: {error}") from error
    return parse_did_pkh(kid)


def read_fact(row: JournalRow) -> Fact:
    """The fact of a row. Raises JournalError."""
    try:
        return decode_fact(row.data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise JournalError(f"row {row.number} is not a fact: {error}") from error


def read_terms(quote: Quote) -> ChargingTerms | None:
    """The charging extension of a quote, None when it has none that can be read."""
    extensions = quote.payment_required.extensions
    if isinstance(extensions, dict) and CHARGING_EXTENSION in extensions:
        try:
            return msgspec.convert(extensions[CHARGING_EXTENSION].info, ChargingTerms)
        except msgspec.ValidationError:
            return None
    return None


def make_book(rows: Iterable[JournalRow]) -> Book:
    """The books of a journal's rows.

    Raises:
        JournalError: a row is not a fact, or a message in it can't be read.
    """
    clerk = _Clerk()
    for row in rows:
        fact = read_fact(row)
        try:
            clerk.enter(row.number, fact)
        except (DepaiError, ValueError) as error:
            raise JournalError(f"row {row.number} can't be read: {error}") from error
    clerk.close()
    return clerk.book


class _Clerk:
    """Writes rows into the books, one after another."""

    def __init__(self) -> None:
        self.book = Book()
        self._terms: dict[tuple[str, str], tuple[ChargingTerms, str]] = {}
        self._payment: dict[tuple[str, str], list[SignedThing]] = {}
        self._transaction: dict[str, SignedThing] = {}
        self._register: dict[str, tuple[int, int]] = {}
        self._own: dict[str, tuple[int, int]] = {}
        self._docked = ""
        self._user_of_channel: dict[str, str] = {}

    def enter(self, number: int, fact: Fact) -> None:
        """One row."""
        self.book.rows += 1
        if isinstance(fact, MessageSealed | MessageReceived):
            self._message(number, fact)
        elif isinstance(fact, ChargeRequested):
            self._role("robot")
            self._session(fact.session, fact.at.wall_s)
        elif isinstance(fact, DockingEnded) and fact.docked and fact.reading is not None:
            self._own_meter(self._docked, fact.reading)
        elif isinstance(fact, StatementMade):
            self._statement(number, fact)
        elif isinstance(fact, ChannelObserved):
            self._channel_seen(fact)
        elif isinstance(fact, TransactionSigned | TransactionConfirmed | ChainFailed):
            self._on_chain(number, fact)
        elif isinstance(fact, PresenceChanged):
            self._role("station")

    def close(self) -> None:
        """Day totals."""
        for entry in self.book.sessions.values():
            channel = self.book.channels.get(entry.channel)
            if entry.receipt is not None:
                entry.outcome = "paid"
            elif channel is not None and channel.deposited_atomic and not channel.left_atomic:
                entry.outcome = "settled"
            elif entry.vouchers or entry.deposit_atomic:
                entry.outcome = "open"
            day = self._day(entry.ended_s)
            day.sessions += 1
            day.station_milliwh += entry.station_milliwh
            day.own_milliwh += entry.own_milliwh or 0
            day.billed_atomic += entry.billed_atomic or 0
            day.fees_atomic += entry.fees_atomic or 0
            day.claimed_atomic += entry.claimed_atomic
            day.deposited_atomic += entry.deposit_atomic
            day.returned_atomic += entry.returned_atomic
        self.book.days = dict(sorted(self.book.days.items()))

    # --- entries -------------------------------------------------------------------------------------------

    def _role(self, role: str) -> None:
        self.book.role = self.book.role or role

    def _day(self, wall_s: int) -> DayEntry:
        day = day_of(wall_s)
        return self.book.days.setdefault(day, DayEntry(day))

    def _session(self, session: str, at_s: int) -> SessionEntry:
        entry = self.book.sessions.get(session)
        if entry is None:
            entry = self.book.sessions[session] = SessionEntry(session, self.book.role, at_s, at_s)
        entry.ended_s = max(entry.ended_s, at_s)
        return entry

    def _sign(self, thing: SignedThing, signed: str | bytes) -> SignedThing:
        data = signed.encode() if isinstance(signed, str) else signed
        thing.digest = "0x" + hashlib.sha256(data).hexdigest()
        self.book.signed.append(thing)
        return thing

    # --- messages ------------------------------------------------------------------------------------------

    def _message(self, number: int, fact: MessageSealed | MessageReceived) -> None:
        draft = open_token(fact.token)
        at_s, body = fact.at.wall_s, draft.body
        _, signer = signer_of(fact.token)
        own = isinstance(fact, MessageSealed)
        if own:
            self.book.identity = address_to_hex(signer)
            party = "" if draft.to == "*" else address_to_hex(parse_did_pkh(draft.to)[1])
        else:
            party = address_to_hex(signer)
        kind = TYPE_BY_BODY[type(body)]
        if isinstance(body, QuoteRequest):
            self._role("robot" if own else "station")
        thing = SignedThing(number, at_s, OWN if own else OTHER, kind, draft.session, party, draft.id)
        if isinstance(body, Payment):
            self._payment_entry(thing, draft, body)
        thing.outcome = "waits for an answer" if isinstance(body, Payment) else "sent" if own else "received"
        self._sign(thing, fact.token)
        if draft.session == "-":
            return
        entry = self._session(draft.session, at_s)
        self._say(entry, thing, body)
        if isinstance(fact, MessageReceived) and fact.reading is not None:
            self._own_meter(draft.session, fact.reading)

    def _say(self, entry: SessionEntry, thing: SignedThing, body: Any) -> None:
        """What a message tells of its session."""
        if isinstance(body, QuoteRequest):
            entry.robot = body.robot
            entry.role = self.book.role
        elif isinstance(body, Quote):
            terms = read_terms(body)
            if terms is not None:
                buyer = thing.party
                self._terms[entry.session, buyer] = (terms, buyer)
        elif isinstance(body, PaymentResult):
            self._answer(thing, body)
        elif isinstance(body, SessionEvent | NeedVoucher):
            if body.statement is not None:
                self._stated(entry, thing, body.statement)
            if isinstance(body, SessionEvent) and body.stopped_reason:
                entry.stop_reason = body.stopped_reason
        elif isinstance(body, SessionStop) and entry.vouchers:
            entry.stop_reason = entry.stop_reason or body.reason
        elif isinstance(body, ReceiptMessage):
            self._receipt(entry, body.receipt)

    def _payment_entry(self, thing: SignedThing, draft: Draft, body: Payment) -> None:
        inner: Any = body.payload.payload
        thing.kind = f"payment.{inner.__struct_config__.tag or body.payload.accepted.scheme}"
        entry = self._session(draft.session, thing.at_s)
        found = self._terms.get((draft.session, thing.party))
        if found is not None and entry.price_atomic_per_kwh is None:
            terms = found[0]
            entry.party, entry.station = thing.party, terms.station
            entry.price_atomic_per_kwh = terms.price_atomic_per_kwh
            entry.start_fee_atomic = terms.start_fee_atomic
            entry.idle_fee_atomic_per_min = terms.idle_fee_atomic_per_min
        entry.party = thing.party
        letters = self._payment.setdefault((thing.party, draft.id), [])
        again = bool(letters)
        letters.append(thing)
        voucher = getattr(inner, "voucher", None)
        if voucher is None:
            self._block(thing, entry, inner, again=again)
            return
        thing.channel = voucher.channel_id
        thing.ceiling_atomic = parse_amount(voucher.max_claimable_amount)
        deposit = getattr(inner, "deposit", None)
        if deposit is not None:
            thing.amount_atomic = parse_amount(deposit.amount)
        if again:
            return  # the same bytes, or the same letter, once more
        channel = self._channel(thing.channel, thing.at_s, thing.party)
        if self._user_of_channel.get(thing.channel) != draft.session:
            self._user_of_channel[thing.channel] = draft.session
            channel.sessions += 1
        if deposit is None and "refund" in thing.kind:
            entry.channel = thing.channel
            return
        rise = thing.ceiling_atomic - channel.ceiling_atomic
        if rise > 0:
            channel.ceiling_atomic = thing.ceiling_atomic
            if thing.by == OWN:
                self._day(thing.at_s).signed_atomic += rise
        entry.channel = thing.channel
        entry.vouchers += 1
        entry.ceiling_atomic = max(entry.ceiling_atomic, thing.ceiling_atomic)

    def _block(self, thing: SignedThing, entry: SessionEntry, inner: Any, *, again: bool) -> None:
        """A payment without a channel: what it authorises is all there is to it."""
        value = getattr(getattr(inner, "authorization", None), "value", None)
        if value is None:
            return
        thing.amount_atomic = parse_amount(str(value))
        if not again:
            entry.vouchers += 1
            if thing.by == OWN:
                self._day(thing.at_s).signed_atomic += thing.amount_atomic

    def _answer(self, thing: SignedThing, body: PaymentResult) -> None:
        settle = body.settle
        thing.tx_hash = settle.transaction
        outcome = "accepted"
        if not settle.success:
            outcome = (
                f"refused: {settle.error_reason if isinstance(settle.error_reason, str) else 'no reason'}"
            )
        payments = self._payment.get((thing.party, body.answers), [])
        known = any(payment.outcome == "accepted" for payment in payments)
        for payment in payments:
            if not known or settle.success:
                payment.outcome, payment.tx_hash = outcome, settle.transaction
        if not payments or not settle.success:
            return
        payment = payments[0]
        entry = self._session(payment.session, thing.at_s)
        if payment.kind == "payment.deposit":
            if not known:
                entry.deposit_atomic += payment.amount_atomic or 0
            if settle.transaction:
                entry.transactions.setdefault("deposit", settle.transaction)
        elif payment.kind == "payment.refund" and settle.transaction:
            entry.transactions.setdefault("refund", settle.transaction)

    def _receipt(self, entry: SessionEntry, text: str) -> None:
        receipt = parse_receipt(text)
        entry.receipt = receipt
        entry.billed_atomic = receipt.owed_atomic
        entry.fees_atomic = receipt.start_fee_atomic + receipt.idle_fee_atomic
        entry.base_atomic = getattr(receipt, "base_atomic", 0)
        entry.stop_reason = receipt.stop_reason or entry.stop_reason
        entry.fault = receipt.fault
        entry.robot, entry.station = receipt.robot, receipt.station
        for name in TRANSACTIONS:
            value = getattr(receipt.transactions, name)
            if value:
                entry.transactions[name] = value

    # --- meters --------------------------------------------------------------------------------------------

    def _stated(self, entry: SessionEntry, thing: SignedThing, text: str) -> None:
        try:
            statement = parse_statement(text)
        except StatementError:
            return  # a message may carry what is no statement; then nobody pays on it
        thing.energy_milliwh = statement.energy_milliwh
        if self.book.role == "robot":
            self._meter(entry, statement.session, statement.energy_milliwh)

    def _meter(self, entry: SessionEntry, session: str, energy_milliwh: int) -> None:
        if session != entry.session:
            return
        first, last = self._register.get(session, (energy_milliwh, energy_milliwh))
        first, last = min(first, energy_milliwh), max(last, energy_milliwh)
        self._register[session] = first, last
        entry.station_milliwh = last - first
        self._docked = session

    def _statement(self, number: int, fact: StatementMade) -> None:
        self._role("station")
        statement = parse_statement(fact.statement)
        thing = SignedThing(
            number, fact.at.wall_s, OWN, "statement", statement.session, id=f"T{statement.pagination}"
        )
        thing.energy_milliwh, thing.outcome = fact.energy_milliwh, "made"
        self._sign(thing, fact.statement)
        if statement.session in self.book.sessions:
            entry = self._session(statement.session, fact.at.wall_s)
            self._meter(entry, statement.session, fact.energy_milliwh)

    def _own_meter(self, session: str, reading: BatteryRead) -> None:
        """Readings count from the station's first statement on: before, the robot stood on no pads of its own."""
        if session not in self._register:
            return
        energy = reading.pads_energy_milliwh
        first, last = self._own.get(session, (energy, energy))
        self._own[session] = min(first, energy), max(last, energy)
        self.book.sessions[session].own_milliwh = self._own[session][1] - self._own[session][0]

    # --- chain ---------------------------------------------------------------------------------------------

    def _channel(self, channel: str, at_s: int, party: str = "") -> ChannelEntry:
        entry = self.book.channels.setdefault(channel, ChannelEntry(channel, party, at_s, at_s))
        entry.last_s = at_s
        entry.party = entry.party or party
        return entry

    def _channel_seen(self, fact: ChannelObserved) -> None:
        name = "0x" + fact.channel_id.hex()
        channel = self._channel(name, fact.at.wall_s)
        if not 0 <= fact.total_claimed_atomic <= fact.balance_atomic:
            return  # a reading that no contract can give
        held = channel.deposited_atomic - channel.returned_atomic
        moved, claimed = fact.balance_atomic - held, fact.total_claimed_atomic - channel.claimed_atomic
        channel.claimed_atomic = fact.total_claimed_atomic
        channel.deposited_atomic += max(0, moved)
        channel.returned_atomic += max(0, -moved)
        channel.left_atomic = fact.balance_atomic - fact.total_claimed_atomic
        user = self._user_of_channel.get(name)
        if user is not None:
            entry = self._session(user, fact.at.wall_s)
            entry.claimed_atomic += claimed
            entry.returned_atomic += max(0, -moved)

    def _on_chain(self, number: int, fact: TransactionSigned | TransactionConfirmed | ChainFailed) -> None:
        session, _, verb = fact.purpose.rpartition(":")
        if isinstance(fact, TransactionSigned):
            name = session if session in self.book.sessions else "-"
            thing = SignedThing(number, fact.at.wall_s, OWN, "transaction", name, id=fact.purpose)
            thing.tx_hash, thing.outcome = "0x" + fact.tx_hash.hex(), "not known"
            self._transaction[fact.purpose] = self._sign(thing, fact.raw)
            return
        found = self._transaction.get(fact.purpose)
        if isinstance(fact, ChainFailed):
            if found is not None and fact.final:
                found.outcome = f"failed: {fact.message}"
            return
        tx_hash = "0x" + fact.tx_hash.hex()
        if found is not None and found.tx_hash == tx_hash:
            found.outcome = f"confirmed in block {fact.block_number}, {fact.gas_used} gas"
        if session in self.book.sessions and verb in TRANSACTIONS:
            self._session(session, fact.at.wall_s).transactions[verb] = tx_hash
