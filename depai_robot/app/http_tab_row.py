"""What the HTTP counter for metered energy remembers: its journal's rows, and the tab that they fold into."""

import msgspec
from msgspec import Struct

from depai_robot.charging.effect import ChannelJson
from depai_robot.payment.x402 import SettleResponse


class DepositTaken(Struct, frozen=True, tag=True):
    """A deposit was judged good, and its transaction has its bytes; neither has left.

    Attributes:
        key: channel id.
        channel: its terms.
        amount_atomic: that goes in.
        salt: of the authorisation; with the channel it names the deposit.
        raw, tx_hash, tx_nonce: the transaction; empty when somebody else had relayed it.
    """

    key: bytes
    channel: ChannelJson
    amount_atomic: int
    salt: bytes
    raw: bytes
    tx_hash: bytes
    tx_nonce: int


class DepositEnded(Struct, frozen=True, tag=True):
    """It is deep enough, or refused. ``reason`` is empty when it is in."""

    key: bytes
    salt: bytes
    reason: str = ""


class Sold(Struct, frozen=True, tag=True):
    """A voucher was judged good; power has not begun.

    Attributes:
        key: channel id.
        ceiling_atomic, signature: the voucher.
        connector: number.
        start_milliwh: register of its meter.
        limit_milliwh: that the voucher buys.
        fee_atomic: charged whatever flows, for a deposit that came along.
        amount_atomic: at most charged.
        deposited: a deposit came along.
    """

    key: bytes
    ceiling_atomic: int
    signature: bytes
    connector: int
    start_milliwh: int
    limit_milliwh: int
    fee_atomic: int
    amount_atomic: int
    deposited: bool = False


class Charged(Struct, frozen=True, tag=True):
    """What flowed, and what it costs; the answer as it was given."""

    key: bytes
    energy_milliwh: int
    charged_atomic: int
    answer: SettleResponse


class Refunded(Struct, frozen=True, tag=True):
    """The rest went back."""

    key: bytes
    answer: SettleResponse


TabRow = DepositTaken | DepositEnded | Sold | Charged | Refunded
TAB_VERSION = 1
decode_row = msgspec.json.Decoder(TabRow).decode


class Tab(Struct):
    """One channel in the counter's books.

    Attributes:
        channel: its terms.
        charged_atomic: cumulative, never falls, never forgotten.
        energy_milliwh: sold on it, cumulative.
        ceiling_atomic, signature: the highest voucher.
        open: sold and not yet charged.
        answered: the last sale that was charged, and its answer: the same payment again gets the same answer.
        answer: to it.
        deposit: that is under way or was the last.
        deposit_reason: why it was refused, empty when it is in; None while it is under way.
        fee_due: the start fee of a deposit is not charged yet.
        refund: answer to the last refund, while nothing was sold since.
    """

    channel: ChannelJson
    charged_atomic: int = 0
    energy_milliwh: int = 0
    ceiling_atomic: int = 0
    signature: bytes = b""
    open: Sold | None = None
    answered: Sold | None = None
    answer: SettleResponse | None = None
    deposit: DepositTaken | None = None
    deposit_reason: str | None = ""
    fee_due: bool = False
    refund: SettleResponse | None = None


def fold(tabs: dict[bytes, Tab], row: TabRow) -> None:
    """Puts a row into the books."""
    if isinstance(row, DepositTaken):
        tab = tabs.setdefault(row.key, Tab(row.channel))
        tab.deposit, tab.deposit_reason, tab.refund, tab.fee_due = row, None, None, True
        return
    tab = tabs[row.key]
    if isinstance(row, DepositEnded):
        tab.deposit_reason = row.reason
    elif isinstance(row, Sold):
        tab.open, tab.refund = row, None
        if row.ceiling_atomic > tab.ceiling_atomic:
            tab.ceiling_atomic, tab.signature = row.ceiling_atomic, row.signature
    elif isinstance(row, Charged):
        tab.fee_due = tab.fee_due and not (tab.open is not None and tab.open.fee_atomic)
        tab.answered, tab.open, tab.answer = tab.open, None, row.answer
        tab.charged_atomic += row.charged_atomic
        tab.energy_milliwh += row.energy_milliwh
    else:
        tab.refund = row.answer
