"""The arena's chain: the contract's rules, one block a second of the arena's clock, reads at a depth, and forks.

Not modelled: gas, a pool (a transaction is mined when it is sent), ERC-1271. The rules are ``sim.memory_settlement``.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from depai_robot.charging import effect as fx
from depai_robot.charging.terms import channel_config
from depai_robot.payment.channel import ChannelState, DepositAuthorization, Voucher
from depai_robot.payment.eip712 import channel_id
from depai_robot.payment.exact import TransferAuthorization
from depai_robot.ports import (
    ChainCall,
    ChainEvent,
    ClaimCall,
    ClaimRow,
    DepositCall,
    FinalizeWithdrawCall,
    InitiateWithdrawCall,
    RefundCall,
    SettleCall,
    TransferCall,
)
from depai_robot.sim.memory_settlement import RevertError, Row, Settlement
from depai_robot.values.error import BugError
from depai_robot.values.identity import Address, ChannelId

FIRST_BLOCK = 100


@dataclass(frozen=True, slots=True)
class Sent:
    """A transaction that was mined.

    Attributes:
        sender: who paid its gas.
        call: what it did.
        block: where.
        events: of the contract.
        error: why it reverted, empty when it did not.
    """

    sender: Address
    call: ChainCall
    block: int
    events: tuple[ChainEvent, ...]
    error: str = ""


def wish_to_call(wish: fx.Call, domain: bytes) -> ChainCall:
    """The port's call of a machine's wish."""
    if isinstance(wish, fx.DepositWish):
        deposit = DepositAuthorization(
            wish.amount_atomic, wish.valid_after_s, wish.valid_before_s, wish.salt, wish.signature
        )
        return DepositCall(channel_config(wish.channel), deposit)
    if isinstance(wish, fx.ClaimWish | fx.ClaimBatchWish):
        rows = wish.rows if isinstance(wish, fx.ClaimBatchWish) else (wish,)
        return ClaimCall(tuple(_row(row, domain) for row in rows))
    if isinstance(wish, fx.SettleWish):
        return SettleCall(Address(wish.receiver), Address(wish.token))
    if isinstance(wish, fx.RefundWish):
        return RefundCall(channel_config(wish.channel), wish.amount_atomic)
    if isinstance(wish, fx.InitiateWithdrawWish):
        return InitiateWithdrawCall(channel_config(wish.channel), wish.amount_atomic)
    if isinstance(wish, fx.TransferWish):
        transfer = TransferAuthorization(
            Address(wish.payer),
            Address(wish.receiver),
            wish.amount_atomic,
            wish.valid_after_s,
            wish.valid_before_s,
            wish.nonce,
            wish.signature,
        )
        return TransferCall(transfer)
    if isinstance(wish, fx.FinalizeWithdrawWish):
        return FinalizeWithdrawCall(channel_config(wish.channel))
    raise BugError(f"{type(wish).__name__} is no call on the settlement contract")


def _row(row: fx.ClaimWish, domain: bytes) -> ClaimRow:
    config = channel_config(row.channel)
    voucher = Voucher(channel_id(config, domain), row.ceiling_atomic, row.signature)
    return ClaimRow(config, voucher, row.total_claimed_atomic)


class ArenaChain:
    """One chain that everybody in the arena sees alike.

    Args:
        chain_id: EIP-155.
        token: address.
        token_name, token_version: of its EIP-712 domain.
        now_s: the arena's wall clock.
    """

    def __init__(
        self, chain_id: int, token: Address, token_name: str, token_version: str, now_s: Callable[[], int]
    ) -> None:
        self._now_s = now_s
        self._zero_s = now_s()
        self.state = Settlement(chain_id, token, token_name, token_version)
        self._history: list[tuple[int, Settlement]] = [(FIRST_BLOCK, self.state.copy())]
        self._signed: dict[bytes, tuple[Address, ChainCall]] = {}
        self.mined: dict[bytes, Sent] = {}
        self.blacklist: set[Address] = set()
        self._owners: dict[ChannelId, Address] = {}
        self.skew_s = 0

    @property
    def number(self) -> int:
        """Of the newest block."""
        return FIRST_BLOCK + self._now_s() - self._zero_s

    def mint(self, holder: Address, amount_atomic: int) -> None:
        """Makes tokens, at once and at every depth."""
        for state in (self.state, *(state for _, state in self._history)):
            state.balances[holder] = state.balances.get(holder, 0) + amount_atomic

    def read(self, channel: ChannelId, confirmations: int) -> ChannelState:
        """The channel, so many blocks deep."""
        deepest = self.number - (confirmations - 1)
        state = next((s for block, s in reversed(self._history) if block <= deepest), self._history[0][1])
        row = state.channels.get(channel, Row())
        return ChannelState(row.balance, row.claimed, row.withdraw_at_s, row.refund_nonce, self.number)

    def _run(self, state: Settlement, call: ChainCall, sender: Address) -> tuple[ChainEvent, ...]:
        parties: list[Address] = []
        if isinstance(call, DepositCall | RefundCall | FinalizeWithdrawCall):
            parties.append(call.channel.payer)
        if isinstance(call, SettleCall):
            parties.append(call.receiver)
        if any(party in self.blacklist for party in parties):
            raise RevertError("Blacklistable: account is blacklisted")
        return state.run(call, sender, self._now_s() + self.skew_s)

    def prepare(self, call: ChainCall, sender: Address, purpose: str) -> tuple[bytes, bytes]:
        """Simulates; the bytes and their hash. Raises RevertError."""
        self._run(self.state.copy(), call, sender)
        raw = f"{purpose} {sender.hex()} {len(self._signed)}".encode()
        tx_hash = hashlib.sha256(raw).digest()
        self._signed[tx_hash] = (sender, call)
        return raw, tx_hash

    def send(self, tx_hash: bytes) -> Sent:
        """Mines what was prepared; the same again changes nothing."""
        if tx_hash in self.mined:
            return self.mined[tx_hash]
        if tx_hash not in self._signed:
            raise BugError(f"no transaction 0x{tx_hash.hex()} was prepared")
        sender, call = self._signed[tx_hash]
        done = self.mine(call, sender)
        self.mined[tx_hash] = done
        return done

    def mine(self, call: ChainCall, sender: Address) -> Sent:
        """Sends a call; one that reverts is mined as well."""
        try:
            events = self._run(self.state, call, sender)
        except RevertError as error:
            return Sent(sender, call, self.number, (), str(error))
        if isinstance(call, DepositCall):
            self._owners[channel_id(call.channel, self.state.domain)] = call.channel.payer
        self._history.append((self.number, self.state.copy()))
        return Sent(sender, call, self.number, events)

    def fork(self, blocks: int) -> None:
        """Another branch wins: all that the newest blocks did is undone and forgotten."""
        deepest = self.number - blocks
        kept = [(block, state) for block, state in self._history if block <= deepest] or self._history[:1]
        self._history = kept
        self.state = kept[-1][1].copy()
        self.mined = {key: item for key, item in self.mined.items() if item.block <= deepest}

    def channels_of(self, payer: Address) -> list[Row]:
        """Rows of the channels that a payer has funded."""
        rows = self.state.channels
        return [rows[key] for key, owner in self._owners.items() if owner == payer and key in rows]

    def total_atomic(self) -> int:
        """All tokens there are: never changes but by minting."""
        return sum(self.state.balances.values())
