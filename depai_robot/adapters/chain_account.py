"""One account on one chain: its nonces, its fees, and what becomes of the transactions that it sent.

A transaction is signed once, kept on disk (:mod:`outbox`) and broadcast as the same bytes to every endpoint. What is
lost from the pools is sent again; what waits too long is replaced with higher fees at the same nonce, up to a cap, and
whichever is mined counts; a nonce that nobody filled is filled, so that nothing behind it waits for ever.
"""

import logging
import threading
import time
from dataclasses import dataclass
from typing import Any

from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from hexbytes import HexBytes
from web3 import Web3
from web3.exceptions import ContractLogicError, TransactionNotFound

from depai_robot.adapters.outbox import Kept, Outbox
from depai_robot.adapters.rpc_pool import RpcPool
from depai_robot.ports import SignedTransaction, Signer
from depai_robot.values.error import BugError, FinalChainError, RetryableChainError
from depai_robot.values.identity import address_to_hex, keccak256

LOG = logging.getLogger(__name__)

PRIORITY_FEE_MIN_WEI = 10**6
"""Enough for a layer 2 and a development chain; the node's own suggestion is used when it is higher."""
FEE_ROOM = 2
"""The base fee may double before the transaction waits."""
REPLACEMENT_PER_MILLE = 1125
"""Of both fees. Nodes take a replacement at 10 % more (geth) or 12.5 % (others)."""
UNSENT_NONCE_S = 60.0
"""A nonce whose transaction was not broadcast by then is given out again, so that no gap holds up the account."""
REPLACE_AFTER_S = 45.0
"""What is the account's next and still not mined after this long gets higher fees."""
PENDING_AHEAD_MAX = 64
"""A node that counts more pending transactions of the account than this is not believed."""
GAP_CALL = keccak256(b"depai: a nonce that nobody filled")
TRANSFER_GAS = 21_000


@dataclass(frozen=True, slots=True)
class Fees:
    """In wei per gas.

    Attributes:
        tip: for the block's maker.
        most: of base fee and tip together.
    """

    tip: int
    most: int


class ChainAccount:
    """See the module. Thread-safe.

    Args:
        pool: endpoints.
        signer: of the account.
        chain_id: EIP-155.
        fee_max_wei: the most that the gas of one transaction may cost, replacements included.
        outbox: of this account.
    """

    def __init__(
        self, pool: RpcPool, signer: Signer, chain_id: int, fee_max_wei: int, outbox: Outbox
    ) -> None:
        self._pool, self._signer, self._outbox = pool, signer, outbox
        self._chain_id, self._fee_max_wei = chain_id, fee_max_wei
        self._lock = threading.Lock()
        self._gap_since: tuple[int, float] | None = None
        self._capped = b""
        self.sender = Web3.to_checksum_address(signer.address)

    # --- signing -----------------------------------------------------------------------------------------------

    def prepare(self, target: str, data: str, gas: int) -> SignedTransaction:
        """Signs a call with the next free nonce and keeps it. Sends nothing.

        The same call asked for again before it was sent (a crash between signing and journalling) gives the same bytes.

        Raises:
            RetryableChainError: also when gas would cost more than ``fee_max_wei``.
            JournalError: it can't be kept.
        """
        call_hash = keccak256(bytes.fromhex(target[2:]) + bytes.fromhex(data[2:]))
        fees = self._read_fees()
        self._require_affordable(gas, fees)
        with self._lock:
            nonce, again = self._free_nonce(call_hash)
            if again is not None:
                return SignedTransaction(again.raw, again.tx_hash, again.nonce)
            signed = self._sign(nonce, target, data, gas, fees)
            self._outbox.add(nonce, signed.tx_hash, signed.raw, call_hash)
        return signed

    def _read_fees(self) -> Fees:
        base_fee, tip = self._pool.ask(
            lambda web: (
                int(web.eth.get_block("latest").get("baseFeePerGas", 0)),
                int(web.eth.max_priority_fee),
            )
        )
        tip = max(PRIORITY_FEE_MIN_WEI, tip)
        return Fees(tip, base_fee * FEE_ROOM + tip)

    def _require_affordable(self, gas: int, fees: Fees) -> None:
        if gas * fees.most > self._fee_max_wei:
            raise RetryableChainError(
                f"gas would cost up to {gas * fees.most} wei ({gas} at {fees.most}), more than {self._fee_max_wei}"
            )

    def _free_nonce(self, call_hash: bytes) -> tuple[int, Kept | None]:
        """The lowest nonce that neither the chain nor the outbox has used, or an unsent transaction of this call."""
        pending, mined = self._read_counts()
        fresh_s = time.monotonic() - UNSENT_NONCE_S
        taken = set()
        for kept in self._outbox.live(mined):
            if kept.sent or kept.since_s > fresh_s:
                if not kept.sent and kept.call_hash == call_hash:
                    return kept.nonce, kept
                taken.add(kept.nonce)
            else:
                self._outbox.forget(kept.tx_hash)
        nonce = pending if mined <= pending <= mined + len(taken) + PENDING_AHEAD_MAX else mined
        while nonce in taken:
            nonce += 1
        return nonce, None

    def _read_counts(self) -> tuple[int, int]:
        """(with the pool's, mined)."""
        mined = self._mined_count()
        return self._pool.ask(lambda web: int(web.eth.get_transaction_count(self.sender, "pending"))), mined

    def _mined_count(self) -> int:
        """The account's next nonce as ``agree`` endpoints have it."""
        if self._pool.agree == 1:
            return self._pool.ask(lambda web: int(web.eth.get_transaction_count(self.sender, "latest")))
        number = self._pool.common_block()
        return self._pool.ask_agreeing(
            lambda web: int(web.eth.get_transaction_count(self.sender, number)), "the account's nonce"
        )

    def _sign(self, nonce: int, target: str, data: str, gas: int, fees: Fees) -> SignedTransaction:
        fields = {
            "type": 2,
            "chainId": self._chain_id,
            "to": target,
            "value": 0,
            "data": data,
            "gas": gas,
            "maxPriorityFeePerGas": fees.tip,
            "maxFeePerGas": fees.most,
            "accessList": [],
            "nonce": nonce,
        }
        raw = sign_transaction(fields, self._signer)
        return SignedTransaction(raw, keccak256(raw), nonce)

    # --- sending -----------------------------------------------------------------------------------------------

    def broadcast(self, transaction: SignedTransaction) -> None:
        """Sends the bytes, or those of the newest replacement, to every endpoint.

        Raises:
            BugError: the bytes are not the transaction that they are said to be.
            FinalChainError: another transaction of the account has used its nonce: it can never be mined.
            RetryableChainError: no endpoint takes it.
        """
        fields = decode_transaction(transaction)
        if Account.recover_transaction(transaction.raw) != self.sender:
            raise BugError(f"bytes to broadcast are of another account than {self.sender}")
        call_hash = keccak256(bytes(fields["to"]) + bytes(fields["data"]))
        with self._lock:
            self._outbox.add(transaction.nonce, transaction.tx_hash, transaction.raw, call_hash, sent=True)
            self._outbox.mark_sent(transaction.tx_hash)
            alike = self._outbox.alike(transaction.tx_hash)
        failures = self._send(alike[-1].raw if alike else transaction.raw)
        if failures is None:
            return
        # "already known" and "nonce too low" both mean: look the hash up. Unknown is not failed.
        hashes = [kept.tx_hash for kept in alike] or [transaction.tx_hash]
        if any(self._is_known(tx_hash) for tx_hash in hashes):
            return
        if self._mined_count() > transaction.nonce and not any(self._is_known(item) for item in hashes):
            raise FinalChainError(
                f"nonce {transaction.nonce} of {self.sender} was used by another transaction;"
                f" 0x{transaction.tx_hash.hex()} can't be mined"
            )
        raise RetryableChainError("no RPC endpoint takes the transaction: " + "; ".join(failures))

    def _send(self, raw: bytes) -> list[str] | None:
        """To each endpoint; None when one took it, else why none did."""
        failures = []
        accepted = False
        for endpoint in self._pool.ordered():
            try:
                self._pool.ask_one(
                    endpoint, lambda web: web.eth.send_raw_transaction(HexBytes(raw)), refusal=True
                )
                accepted = True
            except (RetryableChainError, FinalChainError, ContractLogicError) as error:
                failures.append(str(error))
        return None if accepted else failures

    def _is_known(self, tx_hash: bytes) -> bool:
        """Whether any endpoint has it, in its pool or in a block."""

        def look(web: Web3) -> bool:
            try:
                web.eth.get_transaction(HexBytes(tx_hash))
            except TransactionNotFound:
                return False
            return True

        said, failures = self._pool.ask_each(look)
        if not said:
            raise RetryableChainError("no RPC endpoint answers: " + "; ".join(failures))
        return any(item.answer for item in said)

    def alike(self, tx_hash: bytes) -> list[bytes]:
        """A transaction's hash and those of its replacements."""
        return [kept.tx_hash for kept in self._outbox.alike(tx_hash)] or [tx_hash]

    # --- tending -----------------------------------------------------------------------------------------------

    def tend(self) -> None:
        """Looks after what was sent and is not mined: sends it again, replaces it, fills a gap below it.

        Raises:
            RetryableChainError: no endpoint answers.
            JournalError: a replacement can't be kept, so it did not leave.
        """
        mined = self._mined_count()
        with self._lock:
            self._outbox.prune(mined)
            sent: dict[int, list[Kept]] = {}
            for kept in self._outbox.live(mined):
                if kept.sent:
                    sent.setdefault(kept.nonce, []).append(kept)
        for nonce, variants in sorted(sent.items()):
            if not self._is_known(variants[-1].tx_hash):
                LOG.info("nonce %d is in no pool: sent again", nonce)
                self._send(variants[-1].raw)
        if mined in sent:
            self._gap_since = None
            self._hasten(sent[mined][-1])
        elif sent:
            self._fill_gap(mined)

    def _hasten(self, kept: Kept) -> None:
        """A replacement for the account's next transaction, when it has waited and more fees would help."""
        if time.monotonic() - kept.since_s < REPLACE_AFTER_S:
            return
        fields = TypedTransaction.from_bytes(HexBytes(kept.raw)).as_dict()
        now = self._read_fees()
        tip = max(now.tip, _raised(int(fields["maxPriorityFeePerGas"])))
        fees = Fees(tip, max(now.most, _raised(int(fields["maxFeePerGas"])), tip))
        gas = int(fields["gas"])
        if gas * fees.most > self._fee_max_wei:
            level = logging.DEBUG if self._capped == kept.tx_hash else logging.WARNING
            self._capped = kept.tx_hash
            LOG.log(
                level,
                "nonce %d waits: higher fees would cost %d wei, more than %d",
                kept.nonce,
                gas * fees.most,
                self._fee_max_wei,
            )
            return
        with self._lock:
            target = Web3.to_checksum_address(bytes(fields["to"]))
            signed = self._sign(kept.nonce, target, "0x" + bytes(fields["data"]).hex(), gas, fees)
            self._outbox.add(kept.nonce, signed.tx_hash, signed.raw, kept.call_hash, sent=True)
        LOG.info("nonce %d waits: replaced at %d wei per gas", kept.nonce, fees.most)
        self._send(signed.raw)

    def _fill_gap(self, nonce: int) -> None:
        """What was sent waits behind a nonce that nobody used: an empty transfer to ourselves takes it."""
        now_s = time.monotonic()
        if self._gap_since is None or self._gap_since[0] != nonce:
            self._gap_since = (nonce, now_s)
        if now_s - self._gap_since[1] < UNSENT_NONCE_S:
            return
        pending = self._pool.ask(lambda web: int(web.eth.get_transaction_count(self.sender, "pending")))
        if pending != nonce:
            return
        fees = self._read_fees()
        self._require_affordable(TRANSFER_GAS, fees)
        with self._lock:
            for kept in self._outbox.live(nonce):
                if kept.nonce == nonce and not kept.sent:
                    self._outbox.forget(kept.tx_hash)
            signed = self._sign(nonce, self.sender, "0x", TRANSFER_GAS, fees)
            self._outbox.add(nonce, signed.tx_hash, signed.raw, GAP_CALL, sent=True)
        LOG.warning("nonce %d was never used: filled, so that what waits behind it goes on", nonce)
        self._send(signed.raw)


def _raised(fee: int) -> int:
    return -(-fee * REPLACEMENT_PER_MILLE // 1000) + 1


def sign_transaction(fields: dict[str, Any], signer: Signer) -> bytes:
    """EIP-1559 bytes; the key stays in its signer.

    Raises:
        BugError: the signature is not the account's.
    """
    unsigned = TypedTransaction.from_dict(fields)
    signature = signer.sign(unsigned.hash())
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
    signed = TypedTransaction.from_dict({**fields, "v": signature[64] - 27, "r": r, "s": s})
    raw = signed.encode()
    if Account.recover_transaction(raw) != address_to_hex(signer.address):
        raise BugError("the signed transaction does not recover to its signer")
    return bytes(raw)


def decode_transaction(transaction: SignedTransaction) -> dict[str, Any]:
    """The fields of signed bytes.

    Raises:
        BugError: they are not the transaction that they are said to be.
    """
    if keccak256(transaction.raw) != transaction.tx_hash:
        raise BugError(f"bytes to broadcast do not hash to 0x{transaction.tx_hash.hex()}")
    try:
        Account.recover_transaction(transaction.raw)
        return TypedTransaction.from_bytes(HexBytes(transaction.raw)).as_dict()
    except Exception as error:
        # Its decoders share no type of error.
        raise BugError(f"bytes to broadcast are no signed transaction: {error}") from error
