"""ports.Chain on web3: any EVM chain by configuration, several RPC endpoints, nothing retried that may have happened.

Reads go to the first endpoint that answers and has the pinned chain, contracts and token. A transaction is simulated,
signed once with a nonce that this process reserves, and broadcast as the same bytes to every endpoint. A contract's
revert is a FinalChainError that names the contract's error; silence and nonsense are a RetryableChainError.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from hexbytes import HexBytes
from web3 import Web3
from web3.exceptions import ContractLogicError, TransactionNotFound, Web3Exception
from web3.providers.rpc.utils import ExceptionRetryConfiguration

from depai_robot.adapters.settlement_abi import (
    SETTLEMENT_ABI,
    TOKEN_ABI,
    WITHDRAW_INITIATED,
    call_to_arguments,
    decode_event,
    name_error,
    transfer_to_arguments,
)
from depai_robot.payment.channel import ChannelState
from depai_robot.payment.eip712 import DEPOSIT_COLLECTOR, SETTLEMENT, domain_separator
from depai_robot.ports import (
    ChainCall,
    ChainHead,
    SignedTransaction,
    Signer,
    TransactionOutcome,
    TransactionStatus,
    TransferCall,
    Withdrawals,
)
from depai_robot.values.error import BugError, ConfigError, FinalChainError, RetryableChainError
from depai_robot.values.identity import Address, ChannelId, address_to_hex, keccak256

T = TypeVar("T")

RPC_TIMEOUT_S = 10.0
GAS_MARGIN_PERCENT = 20
PRIORITY_FEE_MIN_WEI = 10**6
"""Enough for a layer 2 and a development chain; the node's own suggestion is used when it is higher."""
FEE_ROOM = 2
"""The base fee may double before the transaction waits."""
REORGANISATION_BLOCKS_MAX = 12
"""Blocks below the last look that are looked at again: their events may have moved."""
LOG_BLOCKS_MAX = 1000
"""In one question for logs; public endpoints take between 1,000 and 10,000."""
LOG_QUESTIONS_MAX = 5
"""A longer gap is closed by reading each channel."""
LOG_TOPICS_MAX = 200
"""Channels named in one question for logs; with more, all of the contract's are asked for."""
UNSENT_NONCE_S = 60.0
"""A nonce whose transaction was not broadcast by then is given out again, so that no gap holds up the account."""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """One network, pinned.

    Attributes:
        rpc_urls: JSON-RPC endpoints, the preferred first.
        chain_id: EIP-155.
        token: address.
        token_name: of its EIP-712 domain.
        token_version: of its EIP-712 domain.
        settlement_code_hash: keccak-256 of the settlement contract's code.
        collector_code_hash: keccak-256 of the collector's code.
        settlement: address.
        collector: address.
        fee_max_wei: the most that the gas of one transaction may cost; a lying endpoint can't make it burn more.
    """

    rpc_urls: tuple[str, ...]
    chain_id: int
    token: Address
    token_name: str
    token_version: str
    settlement_code_hash: bytes
    collector_code_hash: bytes
    settlement: Address = SETTLEMENT
    collector: Address = DEPOSIT_COLLECTOR
    fee_max_wei: int = 10**16

    def __post_init__(self) -> None:
        if not self.rpc_urls:
            raise ConfigError("rpc_urls names no RPC endpoint, expected at least one http(s) address")
        for url in self.rpc_urls:
            # An address may hold an access key: only its scheme is shown.
            if not url.startswith(("http://", "https://")):
                raise ConfigError(
                    f"rpc_urls must be http(s) addresses, one is {url.partition(':')[0][:16]}:..."
                )
        for name in ("settlement_code_hash", "collector_code_hash"):
            if len(getattr(self, name)) != 32:
                raise ConfigError(f"{name} must be pinned: 32 bytes of keccak-256 of the contract's code")


@dataclass(slots=True)
class _Endpoint:
    """One RPC endpoint; its address may hold an access key, so only its host is ever named."""

    web: Web3
    url: str
    checked: bool = False

    def describe(self, error: Exception) -> str:
        parts = urlsplit(self.url)
        secret = self.url.partition(parts.netloc)[2].strip("/")
        text = f"{type(error).__name__}: {error}"
        if parts.username or parts.password:
            text = text.replace(parts.netloc, parts.hostname or "")
        return f"{parts.hostname}: {text.replace(secret, '...') if secret else text}"[:200]


@dataclass(slots=True)
class _Reserved:
    """A nonce that this process gave out."""

    tx_hash: bytes
    since_s: float
    sent: bool = field(default=False)


class Web3Chain:
    """See ports.Chain. Thread-safe; a call blocks for RPC_TIMEOUT_S per endpoint and request at most."""

    def __init__(self, network: NetworkConfig, signer: Signer | None = None) -> None:
        self._network = network
        self._signer = signer
        self._lock = threading.Lock()
        self._reserved: dict[int, _Reserved] = {}
        self._endpoints = [_Endpoint(Web3(_provider(url)), url) for url in network.rpc_urls]
        first = self._endpoints[0].web
        self._settlement = first.eth.contract(
            address=Web3.to_checksum_address(network.settlement), abi=SETTLEMENT_ABI
        )
        self._token = first.eth.contract(address=Web3.to_checksum_address(network.token), abi=TOKEN_ABI)

    # --- reads ---------------------------------------------------------------------------------------------

    def _try(self, endpoint: _Endpoint, question: Callable[[Web3], T]) -> T:
        """One endpoint's answer. Before its first, it must show the pinned chain.

        Raises:
            ContractLogicError: a revert is an answer.
            TransactionNotFound: so is a missing thing.
            FinalChainError: the endpoint is of another chain.
            RetryableChainError: no answer, or nonsense.
        """
        if not endpoint.checked:
            self._check_endpoint(endpoint)
        return _question(endpoint, question)

    def _ask(self, question: Callable[[Web3], T]) -> T:
        """The first endpoint's answer; one on another chain is as good as silent."""
        failures = []
        for endpoint in self._endpoints:
            try:
                return self._try(endpoint, question)
            except (RetryableChainError, FinalChainError) as error:
                failures.append(str(error))
        raise RetryableChainError("no RPC endpoint answers: " + "; ".join(failures))

    def _view(self, contract: Any, name: str, *arguments: Any) -> Any:
        try:
            return self._ask(lambda web: _call(web, contract, name, arguments, "latest"))
        except ContractLogicError as error:
            raise FinalChainError(f"{name} reverts: {_name_revert(error)}") from error

    def _check_endpoint(self, endpoint: _Endpoint) -> None:
        network = self._network
        chain_id = _question(endpoint, lambda web: int(web.eth.chain_id))
        if chain_id != network.chain_id:
            raise FinalChainError(
                f"RPC endpoint {urlsplit(endpoint.url).hostname} is on chain {chain_id}, expected {network.chain_id}"
            )
        for name, address, pinned in (
            ("settlement", network.settlement, network.settlement_code_hash),
            ("collector", network.collector, network.collector_code_hash),
        ):
            text = Web3.to_checksum_address(address)
            code = _question(endpoint, lambda web, a=text: bytes(web.eth.get_code(a)))  # type: ignore[misc]
            if not code:
                raise FinalChainError(f"{name} {text}: no contract there, expected code that is pinned")
            if keccak256(code) != pinned:
                raise FinalChainError(
                    f"{name} {text} has code hash 0x{keccak256(code).hex()}, pinned is 0x{pinned.hex()}"
                )
        wanted = domain_separator(network.token_name, network.token_version, network.chain_id, network.token)
        try:
            seen = _question(
                endpoint, lambda web: bytes(_call(web, self._token, "DOMAIN_SEPARATOR", (), "latest"))
            )
        except ContractLogicError as error:
            raise FinalChainError(f"token {self._token.address} has no domain separator: {error}") from error
        if seen != wanted:
            raise FinalChainError(
                f"token {self._token.address} has domain separator 0x{seen.hex()}, but name "
                f"{network.token_name!r} version {network.token_version!r} give 0x{wanted.hex()}"
            )
        endpoint.checked = True

    def check_pins(self) -> None:
        """See ports.Chain. Every endpoint that answers must pass; one that does not answer is checked when it does."""
        failures = []
        for endpoint in self._endpoints:
            endpoint.checked = False
            try:
                self._check_endpoint(endpoint)
            except RetryableChainError as error:
                failures.append(str(error))
        if len(failures) == len(self._endpoints):
            raise RetryableChainError("no RPC endpoint answers: " + "; ".join(failures))

    def head(self) -> ChainHead:
        """See ports.Chain."""

        def read(web: Web3) -> ChainHead:
            block = web.eth.get_block("latest")
            return ChainHead(int(block["number"]), int(block["timestamp"]), bytes(block["hash"]))

        return self._ask(read)

    def channel(self, channel_id: ChannelId, confirmations: int) -> ChannelState:
        """See ports.Chain. One endpoint answers all of it, at one block."""

        def read(web: Web3) -> ChannelState:
            number = max(0, int(web.eth.block_number) - (confirmations - 1))
            balance, claimed = _call(web, self._settlement, "channels", (channel_id,), number)
            _, requested_s = _call(web, self._settlement, "pendingWithdrawals", (channel_id,), number)
            nonce = _call(web, self._settlement, "refundNonce", (channel_id,), number)
            return ChannelState(int(balance), int(claimed), int(requested_s), int(nonce), number)

        try:
            return self._ask(read)
        except ContractLogicError as error:
            raise FinalChainError(f"reading the channel reverts: {_name_revert(error)}") from error

    def token_balance(self, holder: Address) -> int:
        """See ports.Chain."""
        return int(self._view(self._token, "balanceOf", Web3.to_checksum_address(holder)))

    def authorization_used(self, payer: Address, nonce: bytes) -> bool:
        """See ports.Chain."""
        return bool(self._view(self._token, "authorizationState", Web3.to_checksum_address(payer), nonce))

    def withdrawals(self, channel_ids: Sequence[ChannelId], after_block: int) -> Withdrawals:
        """See ports.Chain."""
        wanted = frozenset(channel_ids)

        def read(web: Web3) -> Withdrawals:
            head = int(web.eth.block_number)
            begin = max(0, min(after_block, head) + 1 - REORGANISATION_BLOCKS_MAX)
            if head - begin < LOG_BLOCKS_MAX * LOG_QUESTIONS_MAX:
                try:
                    return Withdrawals(head, self._read_asked_for(web, wanted, begin, head))
                except (Web3Exception, ValueError):
                    pass  # Some endpoints give no logs, or fewer blocks at once: the state says it, too.
            return Withdrawals(head, self._read_pending(web, wanted))

        return self._ask(read)

    def _read_asked_for(
        self, web: Web3, wanted: frozenset[ChannelId], begin: int, end: int
    ) -> frozenset[ChannelId]:
        """From the event; what an endpoint says of other channels is left out."""
        topics: list[Any] = [HexBytes(WITHDRAW_INITIATED)]
        if len(wanted) <= LOG_TOPICS_MAX:
            topics.append([HexBytes(item) for item in sorted(wanted)])
        found = set()
        for first in range(begin, end + 1, LOG_BLOCKS_MAX):
            logs = web.eth.get_logs(
                {
                    "address": self._settlement.address,
                    "fromBlock": first,
                    "toBlock": min(end, first + LOG_BLOCKS_MAX - 1),
                    "topics": topics,
                }
            )
            found |= {ChannelId(bytes(log["topics"][1])) for log in logs if len(log["topics"]) > 1}
        return wanted & found

    def _read_pending(self, web: Web3, wanted: frozenset[ChannelId]) -> frozenset[ChannelId]:
        """From each channel's own state."""
        return frozenset(
            item
            for item in wanted
            if int(_call(web, self._settlement, "pendingWithdrawals", (item,), "latest")[1])
        )

    # --- transactions --------------------------------------------------------------------------------------

    def simulate(self, call: ChainCall) -> int:
        """See ports.Chain."""
        return self._estimate(call)[0]

    def _estimate(self, call: ChainCall) -> tuple[int, Any, str]:
        """(gas, address of the contract, the call's data)."""
        if self._signer is None:
            raise BugError("this chain adapter only reads: it has no account")
        sender = Web3.to_checksum_address(self._signer.address)
        target, data = self._encode(call)
        request: Any = {"from": sender, "to": target, "data": data}
        try:
            gas = self._ask(lambda web: int(web.eth.estimate_gas(request)))
        except ContractLogicError as error:
            raise FinalChainError(f"{type(call).__name__} reverts: {_name_revert(error)}") from error
        return gas, target, data

    def prepare(self, call: ChainCall) -> SignedTransaction:
        """See ports.Chain. The gas estimate is the simulation: the node runs the call on its newest state.

        Raises:
            RetryableChainError: also when gas would cost more than the network's fee_max_wei, or the account
                can't pay it.
        """
        gas, target, data = self._estimate(call)
        if self._signer is None:
            raise BugError("this chain adapter only reads: it has no account")
        sender = Web3.to_checksum_address(self._signer.address)
        gas += gas * GAS_MARGIN_PERCENT // 100
        base_fee, tip = self._ask(_read_fees)
        fee = base_fee * FEE_ROOM + tip
        if gas * fee > self._network.fee_max_wei:
            raise RetryableChainError(
                f"gas would cost up to {gas * fee} wei ({gas} at {fee}), more than {self._network.fee_max_wei}"
            )
        fields = {
            "type": 2,
            "chainId": self._network.chain_id,
            "to": target,
            "value": 0,
            "data": data,
            "gas": gas,
            "maxPriorityFeePerGas": tip,
            "maxFeePerGas": fee,
            "accessList": [],
        }
        with self._lock:
            nonce = self._free_nonce(sender)
            raw = _sign_transaction({**fields, "nonce": nonce}, self._signer)
            self._reserved[nonce] = _Reserved(keccak256(raw), time.monotonic())
        return SignedTransaction(raw, keccak256(raw), nonce)

    def _free_nonce(self, sender: Any) -> int:
        """The lowest nonce that neither the node nor this process has used."""
        nonce, mined = self._ask(
            lambda web: (
                int(web.eth.get_transaction_count(sender, "pending")),
                int(web.eth.get_transaction_count(sender, "latest")),
            )
        )
        stale_s = time.monotonic() - UNSENT_NONCE_S
        self._reserved = {
            number: kept
            for number, kept in self._reserved.items()
            if number >= mined and (kept.sent or kept.since_s > stale_s)
        }
        while nonce in self._reserved:
            nonce += 1
        return nonce

    def broadcast(self, transaction: SignedTransaction) -> None:
        """See ports.Chain.

        Raises:
            BugError: the bytes are not the transaction that they are said to be.
            FinalChainError: another transaction of the account has used its nonce: it can never be mined.
        """
        sender = _recover_sender(transaction)
        with self._lock:
            kept = self._reserved.setdefault(
                transaction.nonce, _Reserved(transaction.tx_hash, time.monotonic())
            )
            kept.sent = True
        failures, accepted = [], False
        for endpoint in self._endpoints:
            try:
                self._try(endpoint, lambda web: web.eth.send_raw_transaction(HexBytes(transaction.raw)))
                accepted = True
            except (RetryableChainError, FinalChainError, ContractLogicError) as error:
                failures.append(str(error))
        if accepted:
            return
        # "already known" and "nonce too low" both mean: look the hash up. Unknown is not failed.
        if self.outcome(transaction.tx_hash, 1).status is not TransactionStatus.UNKNOWN:
            return
        mined = self._ask(lambda web: int(web.eth.get_transaction_count(sender, "latest")))
        if (
            mined > transaction.nonce
            and self.outcome(transaction.tx_hash, 1).status is TransactionStatus.UNKNOWN
        ):
            raise FinalChainError(
                f"nonce {transaction.nonce} of {sender} was used by another transaction;"
                f" 0x{transaction.tx_hash.hex()} can't be mined"
            )
        raise RetryableChainError("no RPC endpoint takes the transaction: " + "; ".join(failures))

    def outcome(self, tx_hash: bytes, confirmations: int) -> TransactionOutcome:
        """See ports.Chain. Asks every endpoint before it says that nobody knows the transaction."""
        found: TransactionOutcome | None = None
        failures = []
        for endpoint in self._endpoints:
            try:
                outcome = self._try(endpoint, lambda web: self._read_outcome(web, tx_hash, confirmations))
            except (RetryableChainError, FinalChainError) as error:
                failures.append(str(error))
                continue
            if outcome.status is not TransactionStatus.UNKNOWN:
                return outcome
            found = outcome
        if found is None:
            raise RetryableChainError("no RPC endpoint answers: " + "; ".join(failures))
        return found

    def _read_outcome(self, web: Web3, tx_hash: bytes, confirmations: int) -> TransactionOutcome:
        try:
            receipt = web.eth.get_transaction_receipt(HexBytes(tx_hash))
        except TransactionNotFound:
            try:
                web.eth.get_transaction(HexBytes(tx_hash))
            except TransactionNotFound:
                return TransactionOutcome(TransactionStatus.UNKNOWN, 0, 0, ())
            return TransactionOutcome(TransactionStatus.PENDING, 0, 0, ())
        number = int(receipt["blockNumber"])
        # A revert counts only when it is as deep as a success must be: another order of blocks may turn it round.
        if int(web.eth.block_number) - number + 1 < confirmations:
            status = TransactionStatus.PENDING
        else:
            status = TransactionStatus.CONFIRMED if receipt["status"] == 1 else TransactionStatus.REVERTED
        # A deposit makes the token speak, too; what counts is said by the contract that was called.
        called = bytes.fromhex(str(receipt["to"] or "0x")[2:])
        speaker = called if called == self._network.token else self._network.settlement
        events = (
            decode_event([bytes(topic) for topic in log["topics"]], bytes(log["data"]))
            for log in receipt["logs"]
            if bytes.fromhex(log["address"][2:]) == speaker
        )
        return TransactionOutcome(
            status, number, int(receipt["gasUsed"]), tuple(event for event in events if event is not None)
        )

    def _encode(self, call: ChainCall) -> tuple[Any, str]:
        """Address of the contract, and the call's data."""
        if isinstance(call, TransferCall):
            name, arguments = transfer_to_arguments(call)
            return self._token.address, str(self._token.encode_abi(name, args=arguments))
        name, arguments = call_to_arguments(call, self._network.collector)
        return self._settlement.address, str(self._settlement.encode_abi(name, args=arguments))


def _provider(url: str) -> Any:
    # Only reads are retried by the library, and only refused or broken connections: a time-out goes to the next
    # endpoint at once. Its built-in list names the wrong ConnectionError. Sending is never retried here: the same
    # bytes are sent again by whoever asked. An answer must not make this process fetch addresses (CCIP read).
    retry = ExceptionRetryConfiguration(
        errors=(requests.ConnectionError,),
        retries=2,
        method_allowlist=[
            "eth_call",
            "eth_chainId",
            "eth_blockNumber",
            "eth_getBlockByNumber",
            "eth_getCode",
            "eth_getTransactionReceipt",
            "eth_getTransactionByHash",
            "eth_getTransactionCount",
            "eth_maxPriorityFeePerGas",
            "eth_estimateGas",
        ],
    )
    provider = Web3.HTTPProvider(
        url, request_kwargs={"timeout": RPC_TIMEOUT_S}, exception_retry_configuration=retry
    )
    provider.global_ccip_read_enabled = False
    return provider


def _question(endpoint: _Endpoint, question: Callable[[Web3], T]) -> T:
    try:
        return question(endpoint.web)
    except (ContractLogicError, TransactionNotFound):
        raise
    except Exception as error:
        # Whatever an endpoint sends, in whatever form, is at worst no answer.
        raise RetryableChainError(endpoint.describe(error)) from error


def _call(web: Web3, contract: Any, name: str, arguments: tuple[Any, ...], block: Any) -> Any:
    raw = web.eth.call(
        {"to": contract.address, "data": contract.encode_abi(name, args=list(arguments))}, block
    )
    if not raw:
        raise ContractLogicError(f"{name} at {contract.address} gives nothing: no contract there")
    outputs = [part["type"] for item in contract.abi if item["name"] == name for part in item["outputs"]]
    values = web.codec.decode(outputs, raw)
    return values[0] if len(values) == 1 else values


def _read_fees(web: Web3) -> tuple[int, int]:
    """(base fee, tip) in wei per gas, from one endpoint."""
    base_fee = int(web.eth.get_block("latest").get("baseFeePerGas", 0))
    return base_fee, max(PRIORITY_FEE_MIN_WEI, int(web.eth.max_priority_fee))


def _sign_transaction(fields: dict[str, Any], signer: Signer) -> bytes:
    """EIP-1559 bytes; the key stays in its signer."""
    unsigned = TypedTransaction.from_dict(fields)
    signature = signer.sign(unsigned.hash())
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
    signed = TypedTransaction.from_dict({**fields, "v": signature[64] - 27, "r": r, "s": s})
    raw = signed.encode()
    if Account.recover_transaction(raw) != address_to_hex(signer.address):
        raise BugError("the signed transaction does not recover to its signer")
    return bytes(raw)


def _recover_sender(transaction: SignedTransaction) -> Any:
    if keccak256(transaction.raw) != transaction.tx_hash:
        raise BugError(f"bytes to broadcast do not hash to 0x{transaction.tx_hash.hex()}")
    try:
        return Account.recover_transaction(transaction.raw)
    except Exception as error:
        # Its decoders share no type of error.
        raise BugError(f"bytes to broadcast are no signed transaction: {error}") from error


def _name_revert(error: ContractLogicError) -> str:
    """The contract's error in words: a custom error's name, or the reason string."""
    data = getattr(error, "data", None)
    if isinstance(data, str) and data.startswith("0x"):
        try:
            name = name_error(bytes.fromhex(data[2:]))
        except ValueError:
            name = None
        if name is not None:
            return name
    return str(getattr(error, "message", None) or error)
