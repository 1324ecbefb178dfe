"""What was earned on kept channels: claimed in batches, paid out, and watched for withdrawals.

A batch is simulated before it is signed. When it fails, the chain is asked which rows are to blame; these are set
aside with their payers barred, and the others are claimed without them: one bad voucher must not hold up honest ones.
"""

from msgspec.structs import replace

from depai_robot.charging.effect import (
    ClaimBatchWish,
    ClaimWish,
    FindBadRows,
    PrepareTransaction,
    ReadChannel,
    ReadWithdrawals,
    SettleWish,
)
from depai_robot.charging.fact import (
    BadRowsFound,
    ChainFailed,
    ChannelObserved,
    Fact,
    TransactionConfirmed,
    TransactionSigned,
    WithdrawalsObserved,
)
from depai_robot.charging.station_state import KeptChannel, StationState
from depai_robot.charging.station_turn import speaker_of
from depai_robot.charging.turn import Dialogue, Turn

CLAIM, SETTLE, BLAME, WATCH = "claim", "settle", "blame", "withdrawals"
WATCHED_MAX = 64
"""Channels read one by one in a round of watching; the others have their turn in the next."""


class BatchTurn(Turn[Dialogue]):
    """One step on the lobby: the correspondence and chain jobs that belong to no session."""

    def __init__(self, state: StationState, fact: Fact) -> None:
        super().__init__(speaker_of(state.settings), fact, type(fact).__name__, state.lobby)
        self.state = state
        self.settings = state.settings

    def change(self, **changes: object) -> None:
        """Changes fields of the station's state."""
        self.state = replace(self.state, **changes)

    def store(self) -> StationState:
        """The state with the lobby in its place."""
        return replace(self.state, lobby=self.session)

    def busy(self) -> bool:
        """Whether a batch is under way."""
        return any(self.purpose(what) in self.session.jobs for what in (CLAIM, SETTLE, BLAME))


def due_channels(state: StationState) -> list[tuple[str, KeptChannel]]:
    """Channels with something to claim that no session is on, the most urgent first."""
    due = [
        (key, kept)
        for key, kept in state.channels.items()
        if kept.due_atomic and state.paying_with(kept.channel.id) is None
    ]
    return sorted(due, key=lambda item: (not item[1].withdrawing, -item[1].due_atomic, item[0]))


def consider(turn: BatchTurn) -> None:
    """After every step: claim at once when enough is due or somebody withdraws, else when the interval is over."""
    due = due_channels(turn.state)
    watched = any(kept.rest_atomic or kept.due_atomic for kept in turn.state.channels.values())
    if watched:
        turn.set_timer_once("watch", turn.settings.channel_watch_ms)
    if not due or turn.busy():
        return
    total = sum(kept.due_atomic for _, kept in due)
    hurry = any(kept.withdrawing for _, kept in due)
    enough = total >= turn.settings.claim_at_atomic or len(due) >= turn.settings.claim_rows_max
    if hurry or (enough and not turn.state.trouble):
        start_claim(turn)
        return
    turn.set_timer_once("claim", turn.settings.claim_interval_ms)


def start_claim(turn: BatchTurn) -> None:
    """One transaction for as many channels as it takes."""
    due = due_channels(turn.state)[: turn.settings.claim_rows_max]
    if not due or turn.busy():
        return
    turn.clear_timer("claim")
    turn.change(batch=tuple(key for key, _ in due))
    turn.start(PrepareTransaction(turn.purpose(CLAIM), ClaimBatchWish(tuple(_row(kept) for _, kept in due))))


def _row(kept: KeptChannel) -> ClaimWish:
    channel = kept.channel
    return ClaimWish(
        channel.config, channel.ceiling, channel.signature, min(channel.charged, channel.balance)
    )


def on_failed(turn: BatchTurn, fact: ChainFailed) -> None:
    """The chain refuses the batch: find the rows to blame; a failed question or payout is tried again later."""
    if not turn.failed(fact):
        return
    what = fact.purpose.rpartition(":")[2]
    if what == WATCH or what.startswith("channel."):
        turn.ignore("chain read failed")
        return
    if what == CLAIM:
        rows = tuple(_row(turn.state.channels[key]) for key in turn.state.batch if key in turn.state.channels)
        turn.start(FindBadRows(turn.purpose(BLAME), rows))
        return
    turn.change(trouble=f"{fact.purpose} fails: {fact.message}"[:512], batch=())
    turn.set_timer("claim", turn.settings.chain_retry_ms * 30)


def on_blamed(turn: BatchTurn, fact: BadRowsFound) -> None:
    """Bad rows are set aside and their payers barred; the rest is claimed again."""
    if not turn.end(fact.purpose):
        turn.ignore("rows blamed twice")
        return
    turn.change(batch=())
    reason = fact.reason[:256] or "the contract refuses its voucher"
    for channel_id in fact.channel_ids:
        key = channel_id.hex()
        kept = turn.state.channels.get(key)
        if kept is None:
            continue
        payer = kept.channel.config.payer_authorizer.hex()
        turn.change(
            channels={**turn.state.channels, key: replace(kept, bad=reason)},
            bars={**turn.state.bars, payer: reason},
            trouble=f"channel 0x{key} can not be claimed: {reason}"[:512],
        )
    if fact.channel_ids:
        start_claim(turn)
        return
    turn.change(trouble="a batch of claims failed, and no row is to blame: tried again later")
    turn.set_timer("claim", turn.settings.chain_retry_ms * 30)


def on_signed(turn: BatchTurn, fact: TransactionSigned) -> None:
    """A transaction of the lobby has its bytes."""
    turn.signed(fact, turn.settings.confirmations)


def on_confirmed(turn: BatchTurn, fact: TransactionConfirmed) -> None:
    """Deep enough: look at the channels, then be paid."""
    if not turn.confirmed(fact):
        return
    if fact.purpose.rpartition(":")[2] != CLAIM:
        turn.change(trouble="")
        return
    for key in turn.state.batch:
        kept = turn.state.channels.get(key)
        if kept is not None:
            _read(turn, kept)
    turn.change(batch=())
    settings = turn.settings
    turn.start(
        PrepareTransaction(turn.purpose(SETTLE), SettleWish(settings.receiver, settings.network.token))
    )


def _read(turn: BatchTurn, kept: KeptChannel) -> None:
    purpose = turn.purpose(f"channel.{kept.channel.id.hex()}")
    if purpose not in turn.session.jobs:
        turn.start(ReadChannel(purpose, kept.channel.id, turn.settings.confirmations))


def on_channel(turn: BatchTurn, fact: ChannelObserved) -> None:
    """A kept channel as the chain has it."""
    turn.end_reads(fact.channel_id)
    key = fact.channel_id.hex()
    kept = turn.state.channels.get(key)
    if kept is None:
        return
    channel = replace(kept.channel, balance=fact.balance_atomic, claimed=fact.total_claimed_atomic)
    withdrawing = bool(fact.withdraw_requested_at_s)
    turn.change(
        channels={**turn.state.channels, key: replace(kept, channel=channel, withdrawing=withdrawing)}
    )


def on_watch_timer(turn: BatchTurn) -> None:
    """Looks whether somebody withdraws from kept channels on which something is due: one question for all of them.

    A channel that was kept since the last look is read by itself once: what happened on it before lies behind.
    """
    due = due_channels(turn.state)
    fresh = [(key, kept) for key, kept in due if not kept.watched][:WATCHED_MAX]
    for _, kept in fresh:
        _read(turn, kept)
    watched = {key: replace(kept, watched=True) for key, kept in fresh}
    turn.change(channels={**turn.state.channels, **watched})
    ids = tuple(kept.channel.id for key, kept in due if key not in watched and kept.watched)
    purpose = turn.purpose(WATCH)
    if ids and purpose not in turn.session.jobs:
        turn.start(ReadWithdrawals(purpose, ids, turn.state.watched_block))


def on_withdrawals(turn: BatchTurn, fact: WithdrawalsObserved) -> None:
    """These are read; what is due on them is claimed when a withdrawal is pending indeed."""
    if not turn.end(fact.purpose):
        turn.ignore("withdrawals read twice")
        return
    turn.change(watched_block=max(turn.state.watched_block, fact.until_block))
    for channel_id in fact.channel_ids:
        kept = turn.state.channels.get(channel_id.hex())
        if kept is not None:
            _read(turn, kept)
