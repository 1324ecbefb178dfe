"""What the HTTP counter does on the chain: relays deposits, claims what was charged, gives the rest back."""

import logging
import time
from collections.abc import Sequence

from depai_robot.app.chain_worker import CLAIM_GAS_MAX, find_bad_rows, fit_rows
from depai_robot.app.http_tab_row import Tab
from depai_robot.charging.effect import ChannelJson
from depai_robot.charging.setting import Network
from depai_robot.charging.terms import channel_config
from depai_robot.payment.channel import ChannelState, Voucher
from depai_robot.payment.eip712 import channel_id, deposit_nonce, settlement_domain
from depai_robot.ports import (
    Chain,
    ChainCall,
    ClaimCall,
    ClaimRow,
    RefundCall,
    SettleCall,
    SignedTransaction,
    TransactionOutcome,
    TransactionStatus,
)
from depai_robot.values.error import FinalChainError, RetryableChainError
from depai_robot.values.identity import Address, ChannelId

LOG = logging.getLogger(__name__)

POLL_S = 0.1
CONFIRM_S = 120.0


class TabChain:
    """Calls that are waited for.

    Args:
        chain: with the receiver's account.
        network: of it.
        receiver: that is paid.
        confirmations: that make a transaction believed.
    """

    def __init__(self, chain: Chain, network: Network, receiver: bytes, confirmations: int) -> None:
        self.chain = chain
        self._token, self._receiver = Address(network.token), Address(receiver)
        self._domain = settlement_domain(network.chain_id, network.settlement)
        self._confirmations = confirmations

    def state(self, key: bytes) -> ChannelState:
        """The channel as deep as the owner wants it."""
        return self.chain.channel(ChannelId(key), self._confirmations)

    def is_used(self, key: bytes, channel: ChannelJson, salt: bytes) -> bool:
        """Whether a deposit was sent, by whomever, or cancelled."""
        return self.chain.authorization_used(Address(channel.payer), deposit_nonce(ChannelId(key), salt))

    def follow(self, transaction: SignedTransaction) -> TransactionOutcome:
        """Sends the bytes, and waits until they are deep enough.

        Raises:
            FinalChainError: refused or reverted.
            RetryableChainError: not known in time: unknown is not failed.
        """
        deadline = time.monotonic() + CONFIRM_S
        sent = False
        while time.monotonic() < deadline:
            try:
                if not sent:
                    self.chain.broadcast(transaction)
                    sent = True
                outcome = self.chain.outcome(transaction.tx_hash, self._confirmations)
            except RetryableChainError as error:
                LOG.warning("transaction 0x%s: %s", transaction.tx_hash.hex(), error)
                time.sleep(POLL_S)
                continue
            if outcome.status is TransactionStatus.CONFIRMED:
                return outcome
            if outcome.status is TransactionStatus.REVERTED:
                raise FinalChainError(f"transaction 0x{transaction.tx_hash.hex()} reverted")
            sent = outcome.status is not TransactionStatus.UNKNOWN
            time.sleep(POLL_S)
        raise RetryableChainError(f"transaction 0x{transaction.tx_hash.hex()} is not confirmed")

    def send(self, call: ChainCall) -> TransactionOutcome:
        """Simulates, signs, sends and waits. Raises as :meth:`follow`."""
        return self.follow(self.chain.prepare(call))

    def claim(self, tabs: Sequence[Tab]) -> int:
        """Claims what was charged on these channels and pays it out.

        Rows that the contract refuses are left out, so that they spoil no honest ones. Returns how many were claimed.

        Raises:
            ChainError: the chain does not serve; what is due stays due.
        """
        rows = tuple(self._row(tab) for tab in tabs)
        bad = find_bad_rows(self.chain, rows)
        for key, reason in bad.items():
            LOG.error("channel 0x%s can not be claimed: %s", key.hex(), reason)
        due = tuple(row for row in rows if row.voucher.channel_id not in bad)
        claimed = 0
        while due:
            batch = fit_rows(self.chain, due, CLAIM_GAS_MAX)
            self.send(ClaimCall(batch))
            claimed += len(batch)
            due = due[len(batch) :]
        if claimed:
            self.send(SettleCall(self._receiver, self._token))
        return claimed

    def _row(self, tab: Tab) -> ClaimRow:
        config = channel_config(tab.channel)
        voucher = Voucher(channel_id(config, self._domain), tab.ceiling_atomic, tab.signature)
        return ClaimRow(config, voucher, tab.charged_atomic)

    def refund(self, tab: Tab, amount_atomic: int) -> bytes:
        """Gives the payer unclaimed escrow back; hash of the transaction. Raises as :meth:`follow`."""
        signed = self.chain.prepare(RefundCall(channel_config(tab.channel), amount_atomic))
        return self.follow(signed).tx_hash or signed.tx_hash
