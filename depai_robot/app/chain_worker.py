"""The chain on a thread of its own: what was asked is done in order, what was broadcast is watched to its end."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from depai_robot.charging import effect as wish
from depai_robot.charging.fact import (
    AuthorizationObserved,
    BadRowsFound,
    ChainFailed,
    ChainHeadObserved,
    ChannelObserved,
    Fact,
    FundsObserved,
    Instant,
    TransactionConfirmed,
    TransactionSigned,
    WithdrawalsObserved,
)
from depai_robot.payment.channel import ChannelConfig, DepositAuthorization, Voucher
from depai_robot.payment.eip712 import channel_id
from depai_robot.payment.exact import TransferAuthorization
from depai_robot.ports import (
    Chain,
    ChainCall,
    ClaimCall,
    ClaimRow,
    DepositCall,
    FinalizeWithdrawCall,
    InitiateWithdrawCall,
    RefundCall,
    SettleCall,
    SignedTransaction,
    TransactionStatus,
    TransferCall,
)
from depai_robot.values.error import (
    BugError,
    ChainError,
    DepaiError,
    FinalChainError,
    RetryableChainError,
)
from depai_robot.values.identity import Address, ChannelId

LOG = logging.getLogger(__name__)

T = TypeVar("T")

CHAIN_POLL_S = 0.1
CHAIN_TRIES = 3
REBROADCAST_S = 1.0
TEND_S = 2.0
"""Between two looks after what was sent: lost from the pools, waiting for too long."""
TEND_CONFIRMATIONS = 12
"""A confirmed transaction is looked after until it lies so much deeper: a reorganisation may still undo it."""
CLAIM_GAS_MAX = 2_000_000
"""A batch of claims is made smaller until it takes no more; a row takes about 21,300, nodes' blocks 30 million."""
TEND_MAX = 64
"""Confirmed transactions that are looked after; the oldest are dropped."""

Post = Callable[[Fact], None]
Now = Callable[[], Instant]


def _config(channel: wish.ChannelJson) -> ChannelConfig:
    return ChannelConfig(
        Address(channel.payer),
        Address(channel.payer_authorizer),
        Address(channel.receiver),
        Address(channel.receiver_authorizer),
        Address(channel.token),
        channel.withdraw_delay_s,
        channel.salt,
    )


def _claim_row(row: wish.ClaimWish, domain: bytes) -> ClaimRow:
    config = _config(row.channel)
    return ClaimRow(
        config,
        Voucher(channel_id(config, domain), row.ceiling_atomic, row.signature),
        row.total_claimed_atomic,
    )


def wish_to_call(call: Any, domain: bytes) -> ChainCall:
    """The port's call of a machine's wish."""
    if isinstance(call, wish.DepositWish):
        authorization = DepositAuthorization(
            call.amount_atomic, call.valid_after_s, call.valid_before_s, call.salt, call.signature
        )
        return DepositCall(_config(call.channel), authorization)
    if isinstance(call, wish.ClaimWish):
        return ClaimCall((_claim_row(call, domain),))
    if isinstance(call, wish.ClaimBatchWish):
        return ClaimCall(tuple(_claim_row(row, domain) for row in call.rows))
    if isinstance(call, wish.SettleWish):
        return SettleCall(Address(call.receiver), Address(call.token))
    if isinstance(call, wish.RefundWish):
        return RefundCall(_config(call.channel), call.amount_atomic)
    if isinstance(call, wish.TransferWish):
        return TransferCall(
            TransferAuthorization(
                Address(call.payer),
                Address(call.receiver),
                call.amount_atomic,
                call.valid_after_s,
                call.valid_before_s,
                call.nonce,
                call.signature,
            )
        )
    if isinstance(call, wish.InitiateWithdrawWish):
        return InitiateWithdrawCall(_config(call.channel), call.amount_atomic)
    if isinstance(call, wish.FinalizeWithdrawWish):
        return FinalizeWithdrawCall(_config(call.channel))
    raise BugError(f"{type(call).__name__} is no call on the settlement contract")


def find_bad_rows(chain: Chain, rows: tuple[ClaimRow, ...]) -> dict[ChannelId, str]:
    """The rows without which a claim would pass, with the contract's reason, by halving.

    k bad ones of n take about k log n simulations. Rows that only fail together (they do not in this contract) would
    be found one by one.

    Raises:
        RetryableChainError: no endpoint answers: nobody is to blame yet.
    """
    if not rows:
        return {}
    try:
        chain.simulate(ClaimCall(rows))
    except FinalChainError as error:
        if len(rows) == 1:
            return {rows[0].voucher.channel_id: str(error)}
        half = len(rows) // 2
        return find_bad_rows(chain, rows[:half]) | find_bad_rows(chain, rows[half:])
    return {}


def fit_rows(chain: Chain, rows: tuple[ClaimRow, ...], gas_max: int) -> tuple[ClaimRow, ...]:
    """As many of the rows, from the first, as one transaction of that gas takes; at least one.

    Raises:
        FinalChainError: the claim reverts: :func:`find_bad_rows`.
        RetryableChainError: no endpoint answers.
    """
    if len(rows) < 2 or chain.simulate(ClaimCall(rows)) <= gas_max:
        return rows
    fits, too_many = 1, len(rows)
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if chain.simulate(ClaimCall(rows[:middle])) <= gas_max:
            fits = middle
        else:
            too_many = middle
    return rows[:fits]


@dataclass(frozen=True, slots=True)
class _Watched:
    """A transaction under way.

    Attributes:
        effect: that sent it.
        sent_s: monotonic.
        told: its confirmation was told; it is only looked after until it lies deeper.
    """

    effect: wish.BroadcastTransaction
    sent_s: float
    told: bool = False


class ChainWorker:
    """One thread that talks to the chain in the order asked, and watches what was broadcast."""

    def __init__(self, chain: Chain, domain: bytes, post: Post, now: Now) -> None:
        self._chain = chain
        self._domain = domain
        self._post, self._now = post, now
        self._queue: queue.Queue[Any] = queue.Queue()
        self._watched: dict[str, _Watched] = {}
        self._pinned = False
        self._looked_s = 0.0
        self._tended_s = 0.0
        self._thread = threading.Thread(target=self._run, name="chain", daemon=True)
        self._thread.start()

    def ask(self, effect: Any) -> None:
        """Queues a chain effect."""
        self._queue.put(effect)

    def stop(self) -> None:
        """Ends the thread after what it is at."""
        self._queue.put(None)
        self._thread.join(10.0)

    def _run(self) -> None:
        try:
            self._serve()
        except BugError as error:
            LOG.warning(
                "chain worker ends: %s", error
            )  # most often the runner has stopped: nobody takes facts

    def _serve(self) -> None:
        while True:
            try:
                effect = self._queue.get(timeout=self._pause_s())
            except queue.Empty:
                self._look()
                continue
            if effect is None:
                return
            self._attempt(effect)
            if self._watched and time.monotonic() - self._looked_s > CHAIN_POLL_S:
                self._look()

    def _pause_s(self) -> float | None:
        """How long to wait for a question before looking again."""
        if not self._watched:
            return None
        return TEND_S if all(item.told for item in self._watched.values()) else CHAIN_POLL_S

    def _attempt(self, effect: Any) -> None:
        for number in range(1, CHAIN_TRIES + 1):
            try:
                self._do(effect)
            except RetryableChainError as error:
                if number == CHAIN_TRIES:
                    self._fail(effect.purpose, error, final=False)
                    return
                time.sleep(CHAIN_POLL_S * number)
            except ChainError as error:
                self._fail(effect.purpose, error, final=True)
                return
            except BugError:
                raise
            except Exception as error:
                # A library's surprise must not end the only thread that can settle; unknown is not failed.
                LOG.exception("%s", effect.purpose)
                surprise = RetryableChainError(f"{type(error).__name__}: {error}")
                self._fail(effect.purpose, surprise, final=False)
                return
            else:
                return

    def _fail(self, purpose: str, error: DepaiError, *, final: bool) -> None:
        LOG.warning("%s: %s", purpose, error)
        if final:
            self._watched.pop(purpose, None)
        self._post(ChainFailed(self._now(), purpose, final, str(error)[:500]))

    def _do(self, effect: Any) -> None:
        if not self._pinned:
            # Every signature needs a fresh head: no head before chain, contracts and token are the pinned ones.
            self._chain.check_pins()
            self._pinned = True
            # What was sent before a restart and is not mined goes on, whoever asks for it again.
            self._answer_or_none(self._chain.tend)
        if isinstance(effect, wish.ReadHead):
            head = self._chain.head()
            self._post(ChainHeadObserved(self._now(), head.number, head.timestamp_s))
        elif isinstance(effect, wish.ReadChannel):
            state = self._chain.channel(ChannelId(effect.channel_id), effect.confirmations)
            self._post(
                ChannelObserved(
                    self._now(),
                    effect.channel_id,
                    state.balance_atomic,
                    state.total_claimed_atomic,
                    state.withdraw_requested_at_s,
                    state.refund_nonce,
                    state.block_number,
                )
            )
        elif isinstance(effect, wish.FindBadRows):
            rows = tuple(_claim_row(row, self._domain) for row in effect.rows)
            bad = find_bad_rows(self._chain, rows)
            reason = next(iter(bad.values()), "")[:500]
            self._post(BadRowsFound(self._now(), effect.purpose, tuple(map(bytes, bad)), reason))
        elif isinstance(effect, wish.ReadWithdrawals):
            ids = tuple(map(ChannelId, effect.channel_ids))
            seen = self._chain.withdrawals(ids, effect.after_block)
            self._post(
                WithdrawalsObserved(
                    self._now(), effect.purpose, seen.until_block, tuple(sorted(map(bytes, seen.channel_ids)))
                )
            )
        elif isinstance(effect, wish.ReadAuthorization):
            # The head is read first: what is unused later was unused then.
            number = self._chain.head().number
            used = self._chain.authorization_used(Address(effect.payer), effect.nonce)
            self._post(AuthorizationObserved(self._now(), effect.purpose, used, number))
        elif isinstance(effect, wish.ReadFunds):
            balance = self._chain.token_balance(Address(effect.holder))
            self._post(FundsObserved(self._now(), effect.purpose, balance))
        elif isinstance(effect, wish.PrepareTransaction):
            call = wish_to_call(effect.call, self._domain)
            if isinstance(call, ClaimCall):
                # What is left out stays due, as the channels that are read afterwards show.
                call = ClaimCall(fit_rows(self._chain, call.rows, CLAIM_GAS_MAX))
            signed = self._chain.prepare(call)
            self._post(
                TransactionSigned(self._now(), effect.purpose, signed.raw, signed.tx_hash, signed.nonce)
            )
        elif isinstance(effect, wish.BroadcastTransaction):
            # Watched first: whether an endpoint took it or not, it may have left.
            self._watched[effect.purpose] = _Watched(effect, time.monotonic())
            self._chain.broadcast(SignedTransaction(effect.raw, effect.tx_hash, effect.nonce))
        else:
            raise BugError(f"{type(effect).__name__} is no effect of the chain")

    def _look(self) -> None:
        now_s = self._looked_s = time.monotonic()
        tends = now_s - self._tended_s > TEND_S
        for purpose, watched in list(self._watched.items()):
            if purpose in self._watched and (not watched.told or tends):
                self._look_at(purpose, watched)
        if tends and self._watched:
            self._tended_s = now_s
            self._answer_or_none(self._chain.tend)

    def _answer_or_none(self, question: Callable[[], T]) -> T | None:
        try:
            return question()
        except BugError:
            raise
        except Exception as error:  # noqa: BLE001 (as above: it is looked at again)
            LOG.info("%s", error)
            return None

    def _look_at(self, purpose: str, watched: _Watched) -> None:
        effect = watched.effect
        depth = effect.confirmations + (TEND_CONFIRMATIONS if watched.told else 0)
        outcome = self._answer_or_none(lambda: self._chain.outcome(effect.tx_hash, depth))
        if outcome is None:
            return
        if outcome.status is TransactionStatus.CONFIRMED and not watched.told:
            self._keep_looking(purpose, watched)
            events = tuple(
                (event.name, bytes(event.channel_id or b""), event.amount_atomic) for event in outcome.events
            )
            self._post(
                TransactionConfirmed(
                    self._now(),
                    purpose,
                    outcome.tx_hash or effect.tx_hash,
                    outcome.block_number,
                    outcome.gas_used,
                    events,
                )
            )
        elif outcome.status is TransactionStatus.CONFIRMED:
            del self._watched[purpose]
        elif outcome.status is TransactionStatus.REVERTED:
            del self._watched[purpose]
            if not watched.told:
                reason = f"transaction 0x{effect.tx_hash.hex()} reverted in block {outcome.block_number}"
                self._fail(purpose, BugError(reason), final=True)
        elif (
            outcome.status is TransactionStatus.UNKNOWN and time.monotonic() - watched.sent_s > REBROADCAST_S
        ):
            # A reorganisation drops transactions from the pool: the same bytes again.
            self._watched[purpose] = replace(watched, sent_s=time.monotonic())
            if not watched.told:
                self._queue.put(effect)
            elif self._answer_or_none(lambda: self._send_again(effect)) is False:
                del self._watched[purpose]

    def _keep_looking(self, purpose: str, watched: _Watched) -> None:
        del self._watched[purpose]
        told = [key for key, item in self._watched.items() if item.told]
        for key in told[: max(0, len(told) + 1 - TEND_MAX)]:
            del self._watched[key]
        self._watched[purpose] = replace(watched, told=True)

    def _send_again(self, effect: wish.BroadcastTransaction) -> bool:
        """What was confirmed and is gone. Returns whether it can still be mined."""
        LOG.warning("%s: a reorganisation undid 0x%s: sent again", effect.purpose, effect.tx_hash.hex())
        try:
            self._chain.broadcast(SignedTransaction(effect.raw, effect.tx_hash, effect.nonce))
        except FinalChainError as error:
            LOG.warning("%s: %s", effect.purpose, error)
            return False
        return True
