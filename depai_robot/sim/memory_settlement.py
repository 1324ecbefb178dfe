"""The rules of the settlement contract, its EIP-3009 collector and the token, on plain integers.

What each call changes and when it reverts, by the names of the contract's errors; no blocks, no accounts, no gas. The
contract suite runs it against the contract itself, call by call.
Not modelled: ERC-1271 (a payer without voucher key signs as a plain key), tokens other than the one.
Source: x402 v2, scheme batch-settlement on EVM; EIP-3009 as FiatToken v2.2 words its refusals.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from depai_robot.payment import eip712
from depai_robot.payment.channel import (
    WITHDRAW_DELAY_MAX_S,
    WITHDRAW_DELAY_MIN_S,
    ChannelConfig,
    DepositAuthorization,
)
from depai_robot.payment.exact import transfer_digest
from depai_robot.payment.signature import HALF_ORDER, SIGNATURE_BYTES, SignatureError, recover
from depai_robot.ports import (
    CancelCall,
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
from depai_robot.values.error import BugError
from depai_robot.values.identity import ADDRESS_ZERO, Address, ChannelId
from depai_robot.values.money import UINT128_MAX


class RevertError(Exception):
    """The contract's no, with the name of its error."""


@dataclass(frozen=True, slots=True)
class Row:
    """One channel.

    Attributes:
        balance: uint128, atomic units.
        claimed: <= balance.
        withdraw: amount of a pending withdrawal.
        withdraw_at_s: when it was asked for, 0 when none is pending.
        refund_nonce: of the next signed refund.
    """

    balance: int = 0
    claimed: int = 0
    withdraw: int = 0
    withdraw_at_s: int = 0
    refund_nonce: int = 0


@dataclass(slots=True)
class Settlement:
    """All the storage of the three contracts.

    Attributes:
        chain_id: EIP-155.
        token: its address.
        token_name: of its EIP-712 domain.
        token_version: of its EIP-712 domain.
        channels: by id.
        receivers: (claimed, settled) by receiver.
        balances: of the token, the settlement contract's own included.
        used: EIP-3009 nonces, spent or cancelled, with their payer.
    """

    chain_id: int
    token: Address
    token_name: str
    token_version: str
    channels: dict[ChannelId, Row] = field(default_factory=dict)
    receivers: dict[Address, tuple[int, int]] = field(default_factory=dict)
    balances: dict[Address, int] = field(default_factory=dict)
    used: set[tuple[Address, bytes]] = field(default_factory=set)

    def copy(self) -> "Settlement":
        """A state that changes apart from this one."""
        return Settlement(
            self.chain_id,
            self.token,
            self.token_name,
            self.token_version,
            dict(self.channels),
            dict(self.receivers),
            dict(self.balances),
            set(self.used),
        )

    def run(self, call: ChainCall, sender: Address, now_s: int) -> tuple[ChainEvent, ...]:
        """Applies one call, or nothing of it.

        Args:
            call: what is called.
            sender: who calls.
            now_s: time of the block.

        Raises:
            RevertError: the contract refuses.
        """
        trial = self.copy()
        events = _Run(trial, sender, now_s).run(call)
        self.channels, self.receivers = trial.channels, trial.receivers
        self.balances, self.used = trial.balances, trial.used
        return events

    @property
    def domain(self) -> bytes:
        """EIP-712 domain separator of the settlement contract."""
        return eip712.settlement_domain(self.chain_id)

    @property
    def token_domain(self) -> bytes:
        """EIP-712 domain separator of the token."""
        return eip712.domain_separator(self.token_name, self.token_version, self.chain_id, self.token)


def _require(condition: bool, error: str) -> None:
    if not condition:
        raise RevertError(error)


class _Run:
    """One call at one time by one sender."""

    def __init__(self, state: Settlement, sender: Address, now_s: int) -> None:
        self._state, self._sender, self._now_s = state, sender, now_s
        self._events: list[ChainEvent] = []

    def run(self, call: ChainCall) -> tuple[ChainEvent, ...]:
        """Dispatches. Raises RevertError."""
        rules: dict[type, Any] = {
            DepositCall: self._deposit,
            ClaimCall: self._claim,
            SettleCall: self._settle,
            RefundCall: self._refund,
            TransferCall: self._transfer,
            CancelCall: self._cancel,
            InitiateWithdrawCall: self._initiate,
            FinalizeWithdrawCall: self._finalize,
        }
        rule = rules.get(type(call))
        if rule is None:
            raise BugError(f"{type(call).__name__} is no call on the settlement contract")
        rule(call)
        return tuple(self._events)

    def _emit(self, name: str, channel: ChannelId | None, amount: int) -> None:
        self._events.append(ChainEvent(name, channel, amount))

    def _channel(self, config: ChannelConfig) -> tuple[ChannelId, Row]:
        channel = eip712.channel_id(config, self._state.domain)
        return channel, self._state.channels.get(channel, Row())

    def _move(self, payer: Address, to: Address, amount: int) -> None:
        balances = self._state.balances
        _require(to != ADDRESS_ZERO, "ERC20: transfer to the zero address")
        _require(balances.get(payer, 0) >= amount, "ERC20: transfer amount exceeds balance")
        balances[payer] = balances.get(payer, 0) - amount
        balances[to] = balances.get(to, 0) + amount

    # --- scheme exact --------------------------------------------------------------------------------------

    def _transfer(self, call: TransferCall) -> None:
        transfer = call.transfer
        _require(self._now_s > transfer.valid_after_s, "FiatTokenV2: authorization is not yet valid")
        _require(self._now_s < transfer.valid_before_s, "FiatTokenV2: authorization is expired")
        used = (transfer.payer, transfer.nonce)
        _require(used not in self._state.used, "FiatTokenV2: authorization is used or canceled")
        digest = transfer_digest(self._state.token_domain, transfer)
        _require_token_signature(digest, transfer.signature, transfer.payer)
        self._state.used.add(used)
        self._emit("AuthorizationUsed", None, 0)
        self._move(transfer.payer, transfer.receiver, transfer.amount_atomic)

    def _cancel(self, call: CancelCall) -> None:
        used = (call.payer, call.nonce)
        _require(used not in self._state.used, "FiatTokenV2: authorization is used or canceled")
        digest = eip712.cancellation_digest(self._state.token_domain, call.payer, call.nonce)
        _require_token_signature(digest, call.signature, call.payer)
        self._state.used.add(used)
        self._emit("AuthorizationCanceled", None, 0)

    # --- deposit -------------------------------------------------------------------------------------------

    def _deposit(self, call: DepositCall) -> None:
        config, authorization = call.channel, call.authorization
        for address in (config.payer, config.receiver, config.receiver_authorizer, config.token):
            _require(address != ADDRESS_ZERO, "InvalidChannel")
        _require(
            WITHDRAW_DELAY_MIN_S <= config.withdraw_delay_s <= WITHDRAW_DELAY_MAX_S, "WithdrawDelayOutOfRange"
        )
        amount = authorization.amount_atomic
        _require(amount > 0, "ZeroDeposit")
        channel, row = self._channel(config)
        _require(row.balance + amount <= UINT128_MAX, "DepositOverflow")
        _require(config.token == self._state.token, "no such token")
        self._collect(config, channel, authorization)
        if row.balance == 0:
            self._emit("ChannelCreated", channel, 0)
        self._put(channel, row, balance=row.balance + amount)
        self._emit("Deposited", channel, amount)

    def _collect(self, config: ChannelConfig, channel: ChannelId, deposit: DepositAuthorization) -> None:
        nonce = eip712.deposit_nonce(channel, deposit.salt)
        _require(self._now_s > deposit.valid_after_s, "FiatTokenV2: authorization is not yet valid")
        _require(self._now_s < deposit.valid_before_s, "FiatTokenV2: authorization is expired")
        _require(
            (config.payer, nonce) not in self._state.used, "FiatTokenV2: authorization is used or canceled"
        )
        digest = eip712.deposit_digest(
            self._state.token_domain,
            payer=config.payer,
            channel=channel,
            amount_atomic=deposit.amount_atomic,
            valid_after_s=deposit.valid_after_s,
            valid_before_s=deposit.valid_before_s,
            salt=deposit.salt,
        )
        _require_token_signature(digest, deposit.signature, config.payer)
        self._state.used.add((config.payer, nonce))
        self._move(config.payer, eip712.SETTLEMENT, deposit.amount_atomic)

    # --- claim and settle ----------------------------------------------------------------------------------

    def _claim(self, call: ClaimCall) -> None:
        _require(len(call.rows) > 0, "EmptyBatch")
        for item in call.rows:
            sides = (item.channel.receiver, item.channel.receiver_authorizer)
            _require(self._sender in sides, "NotAuthorizedToClaim")
            self._claim_row(item)

    def _claim_row(self, item: ClaimRow) -> None:
        config, total = item.channel, item.total_claimed_atomic
        channel, row = self._channel(config)
        # A row at or below what is recorded changes nothing, and its signature is not looked at.
        if total <= row.claimed:
            return
        _require(total <= item.voucher.ceiling_atomic, "ClaimExceedsCeiling")
        _require(total <= row.balance, "ClaimExceedsBalance")
        digest = eip712.voucher_digest(channel, item.voucher.ceiling_atomic, self._state.domain)
        if config.payer_authorizer != ADDRESS_ZERO:
            _require_voucher_signature(digest, item.voucher.signature, config.payer_authorizer)
        else:
            _require(_recover_or_none(digest, item.voucher.signature) == config.payer, "InvalidSignature")
        claimed, settled = self._state.receivers.get(config.receiver, (0, 0))
        self._state.receivers[config.receiver] = (claimed + total - row.claimed, settled)
        self._put(channel, row, claimed=total)
        self._emit("Claimed", channel, total)

    def _settle(self, call: SettleCall) -> None:
        claimed, settled = self._state.receivers.get(call.receiver, (0, 0))
        if call.token != self._state.token or claimed == settled:
            return
        self._state.receivers[call.receiver] = (claimed, claimed)
        self._move(eip712.SETTLEMENT, call.receiver, claimed - settled)
        self._emit("Settled", None, claimed - settled)

    # --- refund and withdrawal -----------------------------------------------------------------------------

    def _refund(self, call: RefundCall) -> None:
        config = call.channel
        _require(self._sender in (config.receiver, config.receiver_authorizer), "NotAuthorizedToRefund")
        _require(call.amount_atomic > 0, "ZeroRefund")
        channel, row = self._channel(config)
        row = self._put(channel, row, refund_nonce=row.refund_nonce + 1)
        paid = min(call.amount_atomic, row.balance - row.claimed)
        if paid == 0:
            return
        row = self._put(channel, row, balance=row.balance - paid)
        if row.withdraw_at_s:
            if paid >= row.withdraw:
                row = self._put(channel, row, withdraw=0, withdraw_at_s=0)
            else:
                row = self._put(channel, row, withdraw=row.withdraw - paid)
        self._emit("Refunded", channel, paid)
        self._close_if_empty(channel, row)
        self._move(eip712.SETTLEMENT, config.payer, paid)

    def _initiate(self, call: InitiateWithdrawCall) -> None:
        config, amount = call.channel, call.amount_atomic
        _require(self._sender in (config.payer, config.payer_authorizer), "InvalidChannel")
        _require(amount > 0, "NothingToWithdraw")
        channel, row = self._channel(config)
        _require(row.withdraw_at_s == 0, "WithdrawalAlreadyPending")
        _require(amount <= row.balance - row.claimed, "WithdrawAmountExceedsAvailable")
        self._put(channel, row, withdraw=amount, withdraw_at_s=self._now_s)
        self._emit("WithdrawInitiated", channel, amount)

    def _finalize(self, call: FinalizeWithdrawCall) -> None:
        config = call.channel
        _require(self._sender in (config.payer, config.payer_authorizer), "NotAuthorizedToFinalizeWithdraw")
        channel, row = self._channel(config)
        _require(row.withdraw_at_s > 0, "WithdrawalNotPending")
        _require(self._now_s >= row.withdraw_at_s + config.withdraw_delay_s, "WithdrawDelayNotElapsed")
        paid = min(row.withdraw, row.balance - row.claimed)
        row = self._put(channel, row, balance=row.balance - paid, withdraw=0, withdraw_at_s=0)
        self._emit("WithdrawFinalized", channel, paid)
        self._close_if_empty(channel, row)
        if paid:
            self._move(eip712.SETTLEMENT, config.payer, paid)

    def _close_if_empty(self, channel: ChannelId, row: Row) -> None:
        if row.balance == 0 and row.claimed == 0:
            self._emit("ChannelClosed", channel, 0)

    def _put(self, channel: ChannelId, row: Row, **changes: int) -> Row:
        changed = replace(row, **changes)
        self._state.channels[channel] = changed
        return changed


def _recover_or_none(digest: bytes, signature: bytes) -> Address | None:
    try:
        return recover(digest, signature)
    except SignatureError:
        return None


def _require_voucher_signature(digest: bytes, signature: bytes, signer: Address) -> None:
    """Plain recovery, whose errors say what is wrong with the form. Source: OpenZeppelin ECDSA."""
    _require(len(signature) == SIGNATURE_BYTES, "ECDSAInvalidSignatureLength")
    _require(int.from_bytes(signature[32:64], "big") <= HALF_ORDER, "ECDSAInvalidSignatureS")
    seen = _recover_or_none(digest, signature)
    _require(seen is not None, "ECDSAInvalidSignature")
    _require(seen == signer, "InvalidSignature")


def _require_token_signature(digest: bytes, signature: bytes, signer: Address) -> None:
    _require(len(signature) == SIGNATURE_BYTES, "ECRecover: invalid signature length")
    _require(int.from_bytes(signature[32:64], "big") <= HALF_ORDER, "ECRecover: invalid signature 's' value")
    _require(signature[64] in (27, 28), "ECRecover: invalid signature 'v' value")
    _require(_recover_or_none(digest, signature) == signer, "FiatTokenV2: invalid signature")
