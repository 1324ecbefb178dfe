"""A journal as books, the entries: every signed thing and its outcome, sessions, channels, day totals.

Values only; :mod:`bookkeeping` makes them. Amounts are atomic units and energies mWh; nothing is rounded.
"""

import datetime as dt
from dataclasses import dataclass, field

from depai_robot.payment.receipt import Receipt

OWN = "own"
OTHER = "other"
TRANSACTIONS = ("deposit", "claim", "refund", "settle", "withdraw")


@dataclass(slots=True)
class SignedThing:
    """One signature in the journal.

    Attributes:
        row: number of the row that records it.
        at_s: when it was journalled, Unix seconds.
        by: ``own`` key or the ``other`` side.
        kind: message type, payments with what they carry (``payment.voucher``); ``statement``; ``transaction``.
        session: id, ``-`` outside any.
        party: address of the other side (of the addressee, or the sender), empty where there is none.
        id: of the message, purpose of the transaction.
        channel: 0x..., empty where there is none.
        amount_atomic: that is deposited or asked for.
        ceiling_atomic: of the voucher, cumulative on its channel; None where there is none.
        energy_milliwh: stated register; None where there is none.
        tx_hash: 0x..., once it is known.
        outcome: in words.
        digest: SHA-256 of the signed bytes as journalled, 0x....
    """

    row: int
    at_s: int
    by: str
    kind: str
    session: str
    party: str = ""
    id: str = ""
    channel: str = ""
    amount_atomic: int | None = None
    ceiling_atomic: int | None = None
    energy_milliwh: int | None = None
    tx_hash: str = ""
    outcome: str = ""
    digest: str = ""


@dataclass(slots=True)
class SessionEntry:
    """One session.

    Attributes:
        session: id.
        role: ``robot`` bought, ``station`` sold.
        opened_s, ended_s: first and last row about it, Unix seconds.
        party: address of the other side's identity.
        robot, station: ids, as far as they were said.
        channel: it was paid by.
        price_atomic_per_kwh, start_fee_atomic, idle_fee_atomic_per_min: of the quote that was paid on.
        station_milliwh: by the station's meter: last stated register less the first.
        own_milliwh: by the robot's own meter, from contact to the last reading; None in a station's journal.
        vouchers: how many.
        ceiling_atomic: highest of the session, cumulative on its channel.
        deposit_atomic: put into the channel for this session.
        billed_atomic: by the receipt that the station signed; None without one.
        fees_atomic: part of what was billed: start and idle fee.
        base_atomic: charged on the channel before this session, by that receipt.
        claimed_atomic, returned_atomic: seen on chain while the session lasted.
        transactions: hash by what it did.
        stop_reason: OCPP word, as signed by either side.
        fault: which rule the other side broke, by the receipt.
        receipt: the signed receipt in the journal: a station's own, or the one that a robot was sent.
        outcome: ``paid`` (there is a receipt), ``settled`` (nothing is left in the channel, and no receipt came),
            ``open`` (signed, and not settled yet), ``nothing bought``.
    """

    session: str
    role: str
    opened_s: int
    ended_s: int
    party: str = ""
    robot: str = ""
    station: str = ""
    channel: str = ""
    price_atomic_per_kwh: int | None = None
    start_fee_atomic: int | None = None
    idle_fee_atomic_per_min: int | None = None
    station_milliwh: int = 0
    own_milliwh: int | None = None
    vouchers: int = 0
    ceiling_atomic: int = 0
    deposit_atomic: int = 0
    billed_atomic: int | None = None
    fees_atomic: int | None = None
    base_atomic: int = 0
    claimed_atomic: int = 0
    returned_atomic: int = 0
    transactions: dict[str, str] = field(default_factory=dict)
    stop_reason: str = ""
    fault: str = ""
    receipt: Receipt | None = None
    outcome: str = "nothing bought"


@dataclass(slots=True)
class ChannelEntry:
    """One payment channel, over all its sessions.

    Attributes:
        channel: 0x....
        party: address that is paid, or that pays.
        first_s, last_s: first and last row about it.
        sessions: how many.
        ceiling_atomic: highest signed, cumulative.
        deposited_atomic, claimed_atomic, returned_atomic, left_atomic: as seen on chain.
    """

    channel: str
    party: str
    first_s: int
    last_s: int
    sessions: int = 0
    ceiling_atomic: int = 0
    deposited_atomic: int = 0
    claimed_atomic: int = 0
    returned_atomic: int = 0
    left_atomic: int = 0


@dataclass(slots=True)
class DayEntry:
    """Totals of one day (UTC), by the day a session ended.

    Attributes:
        day: ``2026-01-31``.
        sessions: that ended.
        station_milliwh, own_milliwh: their energy.
        billed_atomic, fees_atomic, claimed_atomic, deposited_atomic, returned_atomic: their sums.
        signed_atomic: by how much own ceilings rose that day; what the policy's day limit counts.
    """

    day: str
    sessions: int = 0
    station_milliwh: int = 0
    own_milliwh: int = 0
    billed_atomic: int = 0
    fees_atomic: int = 0
    claimed_atomic: int = 0
    deposited_atomic: int = 0
    returned_atomic: int = 0
    signed_atomic: int = 0


@dataclass(slots=True)
class Book:
    """Everything of a journal.

    Attributes:
        role: ``robot`` or ``station``; empty when nothing tells.
        identity: address that signs its messages, empty before the first.
        signed: every signature, in the order of rows.
        sessions, channels, days: see there; by id and by day.
        rows: how many there were.
    """

    role: str = ""
    identity: str = ""
    signed: list[SignedThing] = field(default_factory=list)
    sessions: dict[str, SessionEntry] = field(default_factory=dict)
    channels: dict[str, ChannelEntry] = field(default_factory=dict)
    days: dict[str, DayEntry] = field(default_factory=dict)
    rows: int = 0


def day_of(wall_s: int) -> str:
    """``2026-01-31``, UTC."""
    return dt.datetime.fromtimestamp(wall_s, tz=dt.timezone.utc).strftime("%Y-%m-%d")
