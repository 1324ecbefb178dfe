"""ports.Chain in memory: blocks, confirmations, a pool of transactions and reorganisations, on the contract's rules.

For tests and simulation without a process of its own. Not modelled: gas and who pays it (every account has enough),
replaced transactions, several endpoints, the bytes of a real transaction. Figures of gas are those that were measured
on the canonical contract.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from depai_robot.payment.channel import ChannelState
from depai_robot.ports import (
    CancelCall,
    ChainCall,
    ChainEvent,
    ChainHead,
    ClaimCall,
    DepositCall,
    FinalizeWithdrawCall,
    InitiateWithdrawCall,
    RefundCall,
    SettleCall,
    SignedTransaction,
    Signer,
    TransactionOutcome,
    TransactionStatus,
    TransferCall,
    Withdrawals,
)
from depai_robot.sim.memory_settlement import RevertError, Row, Settlement
from depai_robot.values.error import BugError, FinalChainError, RetryableChainError
from depai_robot.values.identity import Address, ChannelId, keccak256

GAS_BY_CALL = {
    DepositCall: 140_616,
    ClaimCall: 48_573,
    SettleCall: 56_840,
    RefundCall: 67_938,
    TransferCall: 85_716,
    CancelCall: 55_000,
    InitiateWithdrawCall: 52_677,
    FinalizeWithdrawCall: 61_146,
}
"""Whole transactions, real contract and real USDC code on a local chain."""
GAS_MORE_PER_CLAIM_ROW = 21_322
"""Ten rows by the receiver took 240,468."""


@dataclass(frozen=True, slots=True)
class _Transaction:
    sender: Address
    nonce: int
    call: ChainCall


@dataclass(frozen=True, slots=True)
class _Mined:
    succeeded: bool
    gas_used: int
    events: tuple[ChainEvent, ...]


@dataclass(frozen=True, slots=True)
class _Block:
    head: ChainHead
    state: Settlement
    nonces: dict[Address, int]
    mined: dict[bytes, _Mined]


class MemoryLedger:
    """The chain that every :class:`MemoryChain` of a test looks at. Thread-safe.

    Args:
        token: address of the token.
        token_name: of its EIP-712 domain.
        token_version: of its EIP-712 domain.
        chain_id: EIP-155.
        clock_s: wall time; a block is never earlier than it, nor earlier than its parent.
    """

    def __init__(
        self,
        token: Address,
        token_name: str = "USDC",  # noqa: S107 (a token's name, no password)
        token_version: str = "2",  # noqa: S107
        chain_id: int = 31337,
        clock_s: Callable[[], int] = lambda: int(time.time()),
    ) -> None:
        self.lock = threading.RLock()
        self.automine = True
        self.down = False
        self._clock_s = clock_s
        self._ahead_s = 0
        self._known: dict[bytes, _Transaction] = {}
        self._pool: dict[bytes, _Transaction] = {}
        self._reorganisations = 0
        state = Settlement(chain_id, token, token_name, token_version)
        self._blocks = [_Block(ChainHead(0, clock_s(), keccak256(b"memory chain")), state, {}, {})]

    @property
    def state(self) -> Settlement:
        """At the head; not to be changed."""
        return self._blocks[-1].state

    def mint(self, holder: Address, amount_atomic: int) -> None:
        """Makes tokens, at the head."""
        with self.lock:
            balances = self.state.balances
            balances[holder] = balances.get(holder, 0) + amount_atomic

    def advance(self, seconds: int) -> None:
        """Makes a block that is so much later than the newest one."""
        with self.lock:
            self._ahead_s = self._blocks[-1].head.timestamp_s + seconds - self._clock_s()
            self.mine()

    def mine(self, count: int = 1) -> None:
        """Makes blocks; the first takes what is in the pool, in order of nonces."""
        with self.lock:
            for _ in range(count):
                self._mine_block()

    def reorganise(self, depth: int) -> None:
        """Replaces the newest blocks by as many empty ones; their transactions are lost, and in no pool."""
        with self.lock:
            if not 0 < depth < len(self._blocks):
                raise BugError(f"a reorganisation of {depth} of {len(self._blocks)} blocks")
            del self._blocks[-depth:]
            self._reorganisations += 1
            self._pool.clear()
            self.mine(depth)

    def _mine_block(self) -> None:
        parent = self._blocks[-1]
        number = parent.head.number + 1
        stamp_s = max(parent.head.timestamp_s + 1, self._clock_s() + self._ahead_s)
        state, nonces, mined = parent.state.copy(), dict(parent.nonces), {}
        for tx_hash, transaction in sorted(self._pool.items(), key=lambda item: item[1].nonce):
            if transaction.nonce != nonces.get(transaction.sender, 0):
                continue
            del self._pool[tx_hash]
            nonces[transaction.sender] = transaction.nonce + 1
            gas = GAS_BY_CALL[type(transaction.call)]
            if isinstance(transaction.call, ClaimCall):
                gas += (len(transaction.call.rows) - 1) * GAS_MORE_PER_CLAIM_ROW
            try:
                mined[tx_hash] = _Mined(True, gas, state.run(transaction.call, transaction.sender, stamp_s))
            except RevertError:
                mined[tx_hash] = _Mined(False, gas, ())
        text = parent.head.block_hash + f"{number} {self._reorganisations}".encode() + b"".join(mined)
        self._blocks.append(_Block(ChainHead(number, stamp_s, keccak256(text)), state, nonces, mined))

    # --- what MemoryChain asks -----------------------------------------------------------------------------

    def block(self, number: int) -> _Block:
        """By number; below zero is the first."""
        return self._blocks[max(0, number)]

    @property
    def height(self) -> int:
        """Number of the newest block."""
        return len(self._blocks) - 1

    def simulate(self, call: ChainCall, sender: Address) -> None:
        """Runs a call on the head and forgets it. Raises RevertError."""
        stamp_s = max(self._blocks[-1].head.timestamp_s, self._clock_s() + self._ahead_s)
        self.state.copy().run(call, sender, stamp_s)

    def register(self, sender: Address, call: ChainCall) -> SignedTransaction:
        """Gives a call its nonce and bytes."""
        taken = {t.nonce for t in self._known.values() if t.sender == sender}
        nonce = self._blocks[-1].nonces.get(sender, 0)
        while nonce in taken:
            nonce += 1
        raw = f"memory transaction {sender.hex()} {nonce} {call!r}".encode()
        self._known[keccak256(raw)] = _Transaction(sender, nonce, call)
        return SignedTransaction(raw, keccak256(raw), nonce)

    def submit(self, tx_hash: bytes) -> None:
        """Puts a transaction into the pool. Raises FinalChainError."""
        transaction = self._known.get(tx_hash)
        if transaction is None:
            raise FinalChainError("these bytes are no transaction that was prepared on this chain")
        if tx_hash in self._pool or self.find(tx_hash) is not None:
            return
        if transaction.nonce < self._blocks[-1].nonces.get(transaction.sender, 0):
            raise FinalChainError(f"nonce {transaction.nonce} was used by another transaction")
        self._pool[tx_hash] = transaction
        if self.automine:
            self._mine_block()

    def find(self, tx_hash: bytes) -> tuple[int, _Mined] | None:
        """Where a transaction was mined."""
        for block in reversed(self._blocks):
            if tx_hash in block.mined:
                return block.head.number, block.mined[tx_hash]
        return None

    def in_pool(self, tx_hash: bytes) -> bool:
        """Whether it waits for a block."""
        return tx_hash in self._pool


class MemoryChain:
    """See ports.Chain; one account's look at a ledger.

    Args:
        ledger: shared by all.
        signer: of the account; None only reads.
    """

    def __init__(self, ledger: MemoryLedger, signer: Signer | None = None) -> None:
        self._ledger = ledger
        self._signer = signer

    def _require_up(self) -> None:
        if self._ledger.down:
            raise RetryableChainError("no RPC endpoint answers: the chain in memory is down")

    def check_pins(self) -> None:
        """See ports.Chain; there is nothing here that could differ."""
        self._require_up()

    def head(self) -> ChainHead:
        """See ports.Chain."""
        with self._ledger.lock:
            self._require_up()
            return self._ledger.block(self._ledger.height).head

    def channel(self, channel_id: ChannelId, confirmations: int) -> ChannelState:
        """See ports.Chain."""
        with self._ledger.lock:
            self._require_up()
            block = self._ledger.block(self._ledger.height - (confirmations - 1))
            row = block.state.channels.get(channel_id, Row())
            return ChannelState(
                row.balance, row.claimed, row.withdraw_at_s, row.refund_nonce, block.head.number
            )

    def token_balance(self, holder: Address) -> int:
        """See ports.Chain."""
        with self._ledger.lock:
            self._require_up()
            return self._ledger.state.balances.get(holder, 0)

    def authorization_used(self, payer: Address, nonce: bytes) -> bool:
        """See ports.Chain."""
        with self._ledger.lock:
            self._require_up()
            return (payer, nonce) in self._ledger.state.used

    def withdrawals(self, channel_ids: Sequence[ChannelId], after_block: int) -> Withdrawals:
        """See ports.Chain; here each channel's own state says it."""
        with self._ledger.lock:
            self._require_up()
            rows = self._ledger.state.channels
            pending = frozenset(item for item in channel_ids if rows.get(item, Row()).withdraw_at_s)
            return Withdrawals(
                self._ledger.height, pending | self._asked_for(frozenset(channel_ids), after_block)
            )

    def _asked_for(self, channel_ids: frozenset[ChannelId], after_block: int) -> frozenset[ChannelId]:
        height = self._ledger.height
        return frozenset(
            event.channel_id
            for number in range(after_block + 1, height + 1)
            for mined in self._ledger.block(number).mined.values()
            for event in mined.events
            if event.name == "WithdrawInitiated" and event.channel_id in channel_ids
        )

    def simulate(self, call: ChainCall) -> int:
        """See ports.Chain; the gas is that of a usual call of its kind."""
        if self._signer is None:
            raise BugError("this chain adapter only reads: it has no account")
        with self._ledger.lock:
            self._require_up()
            try:
                self._ledger.simulate(call, self._signer.address)
            except RevertError as error:
                raise FinalChainError(f"{type(call).__name__} reverts: {error}") from error
            more = len(call.rows) - 1 if isinstance(call, ClaimCall) else 0
            return GAS_BY_CALL[type(call)] + more * GAS_MORE_PER_CLAIM_ROW

    def prepare(self, call: ChainCall) -> SignedTransaction:
        """See ports.Chain."""
        if self._signer is None:
            raise BugError("this chain adapter only reads: it has no account")
        with self._ledger.lock:
            self._require_up()
            try:
                self._ledger.simulate(call, self._signer.address)
            except RevertError as error:
                raise FinalChainError(f"{type(call).__name__} reverts: {error}") from error
            return self._ledger.register(self._signer.address, call)

    def broadcast(self, transaction: SignedTransaction) -> None:
        """See ports.Chain."""
        with self._ledger.lock:
            self._require_up()
            self._ledger.submit(keccak256(transaction.raw))

    def outcome(self, tx_hash: bytes, confirmations: int) -> TransactionOutcome:
        """See ports.Chain."""
        with self._ledger.lock:
            self._require_up()
            found = self._ledger.find(tx_hash)
            if found is None:
                pending = self._ledger.in_pool(tx_hash)
                status = TransactionStatus.PENDING if pending else TransactionStatus.UNKNOWN
                return TransactionOutcome(status, 0, 0, ())
            number, mined = found
            if self._ledger.height - number + 1 < confirmations:
                status = TransactionStatus.PENDING
            else:
                status = TransactionStatus.CONFIRMED if mined.succeeded else TransactionStatus.REVERTED
            return TransactionOutcome(status, number, mined.gas_used, mined.events, tx_hash)

    def tend(self) -> None:
        """See ports.Chain; there are no fees here, and who watches a transaction sends it again."""
        self._require_up()
