"""ports.Chain on web3: any EVM chain by configuration, several RPC endpoints, nothing retried that may have happened.

Whom to ask and to believe is :mod:`rpc_pool`'s; nonces, fees and what was sent are :mod:`chain_account`'s. Here is what
is asked: the pinned contracts and token, channels, outcomes. A contract's revert is a FinalChainError that names the
contract's error; silence, nonsense and disagreement are a RetryableChainError.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hexbytes import HexBytes
from web3 import Web3
from web3.exceptions import ContractLogicError, TransactionNotFound, Web3Exception

from depai_robot.adapters.chain_account import ChainAccount
from depai_robot.adapters.outbox import Outbox
from depai_robot.adapters.rpc_pool import RpcPool
from depai_robot.adapters.settlement_abi import (
    SETTLEMENT_ABI,
    TOKEN_ABI,
    WITHDRAW_INITIATED,
    call_to_arguments,
    decode_event,
    name_error,
    token_call_to_arguments,
)
from depai_robot.payment.channel import ChannelState
from depai_robot.payment.eip712 import DEPOSIT_COLLECTOR, SETTLEMENT, domain_separator
from depai_robot.ports import (
    CancelCall,
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
from depai_robot.values.identity import Address, ChannelId, keccak256

RPC_TIMEOUT_S = 10.0
FEE_MAX_WEI = 10**16
GAS_MARGIN_PERCENT = 20
REORGANISATION_BLOCKS_MAX = 12
"""Blocks below the last look that are looked at again: their events may have moved."""
LOG_BLOCKS_MAX = 1000
"""In one question for logs; public endpoints take between 1,000 and 10,000."""
LOG_QUESTIONS_MAX = 5
"""A longer gap is closed by reading each channel."""
LOG_TOPICS_MAX = 200
"""Channels named in one question for logs; with more, all of the contract's are asked for."""


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
        agree: so many endpoints must say alike what decides about money; with one, the first is believed.
        rpc_timeout_s: of one request to one endpoint.
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
    fee_max_wei: int = FEE_MAX_WEI
    agree: int = 1
    rpc_timeout_s: float = RPC_TIMEOUT_S

    def __post_init__(self) -> None:
        if not self.rpc_urls:
            raise ConfigError("rpc_urls names no RPC endpoint, expected at least one http(s) address")
        if not 1 <= self.agree <= len(self.rpc_urls):
            raise ConfigError(
                f"agree is {self.agree}, expected 1 to {len(self.rpc_urls)}: so many endpoints are named"
            )
        if len(set(self.rpc_urls)) != len(self.rpc_urls):
            raise ConfigError("rpc_urls names an endpoint twice: it would agree with itself")
        for url in self.rpc_urls:
            # An address may hold an access key: only its scheme is shown.
            if not url.startswith(("http://", "https://")):
                raise ConfigError(
                    f"rpc_urls must be http(s) addresses, one is {url.partition(':')[0][:16]}:..."
                )
        for name in ("settlement_code_hash", "collector_code_hash"):
            if len(getattr(self, name)) != 32:
                raise ConfigError(f"{name} must be pinned: 32 bytes of keccak-256 of the contract's code")


class Web3Chain:
    """See ports.Chain. Thread-safe; a call blocks for ``rpc_timeout_s`` per endpoint and request at most.

    Args:
        network: pinned.
        signer: of the account; None only reads.
        outbox: file in which what is signed is kept until it lies deep; None keeps it in memory.
    """

    def __init__(
        self, network: NetworkConfig, signer: Signer | None = None, outbox: Path | None = None
    ) -> None:
        self._network = network
        self._pool = RpcPool(
            network.rpc_urls, self._check, agree=network.agree, timeout_s=network.rpc_timeout_s
        )
        eth = self._pool.endpoints[0].web.eth
        self._settlement = eth.contract(
            address=Web3.to_checksum_address(network.settlement), abi=SETTLEMENT_ABI
        )
        self._token = eth.contract(address=Web3.to_checksum_address(network.token), abi=TOKEN_ABI)
        self._account: ChainAccount | None = None
        if signer is not None:
            kept = Outbox(outbox, network.chain_id, signer.address)
            self._account = ChainAccount(self._pool, signer, network.chain_id, network.fee_max_wei, kept)

    # --- pins ----------------------------------------------------------------------------------------------

    def _check(self, web: Web3, host: str) -> None:
        """Whether an endpoint shows the pinned chain, contracts and token. Raises FinalChainError."""
        network = self._network
        chain_id = int(web.eth.chain_id)
        if chain_id != network.chain_id:
            raise FinalChainError(f"RPC endpoint {host} is on chain {chain_id}, expected {network.chain_id}")
        for name, address, pinned in (
            ("settlement", network.settlement, network.settlement_code_hash),
            ("collector", network.collector, network.collector_code_hash),
        ):
            text = Web3.to_checksum_address(address)
            code = bytes(web.eth.get_code(text))
            if not code:
                raise FinalChainError(f"{name} {text}: no contract there, expected code that is pinned")
            if keccak256(code) != pinned:
                raise FinalChainError(
                    f"{name} {text} has code hash 0x{keccak256(code).hex()}, pinned is 0x{pinned.hex()}"
                )
        wanted = domain_separator(network.token_name, network.token_version, network.chain_id, network.token)
        try:
            seen = bytes(_call(web, self._token, "DOMAIN_SEPARATOR", (), "latest"))
        except ContractLogicError as error:
            raise FinalChainError(f"token {self._token.address} has no domain separator: {error}") from error
        if seen != wanted:
            raise FinalChainError(
                f"token {self._token.address} has domain separator 0x{seen.hex()}, but name "
                f"{network.token_name!r} version {network.token_version!r} give 0x{wanted.hex()}"
            )

    def check_pins(self) -> None:
        """See ports.Chain. Every endpoint that answers must pass; one that does not answer is checked when it does."""
        self._pool.check_all()

    # --- reads ---------------------------------------------------------------------------------------------

    def head(self) -> ChainHead:
        """See ports.Chain. With ``agree`` above one: the newest block that so many endpoints have."""
        number: Any = "latest" if self._network.agree == 1 else self._pool.common_block()

        def read(web: Web3) -> ChainHead:
            block = web.eth.get_block(number)
            return ChainHead(int(block["number"]), int(block["timestamp"]), bytes(block["hash"]))

        return self._pool.ask_agreeing(read, "head")

    def channel(self, channel_id: ChannelId, confirmations: int) -> ChannelState:
        """See ports.Chain. Each endpoint answers all of it, at one block of one fork."""
        common = None if self._network.agree == 1 else self._pool.common_block()

        def read(web: Web3) -> tuple[ChannelState, bytes]:
            number = max(0, (int(web.eth.block_number) if common is None else common) - (confirmations - 1))
            balance, claimed = _call(web, self._settlement, "channels", (channel_id,), number)
            _, requested_s = _call(web, self._settlement, "pendingWithdrawals", (channel_id,), number)
            nonce = _call(web, self._settlement, "refundNonce", (channel_id,), number)
            fork = b"" if common is None else bytes(web.eth.get_block(number)["hash"])
            return ChannelState(int(balance), int(claimed), int(requested_s), int(nonce), number), fork

        try:
            return self._pool.ask_agreeing(read, f"channel 0x{channel_id.hex()}")[0]
        except ContractLogicError as error:
            raise FinalChainError(f"reading the channel reverts: {_name_revert(error)}") from error

    def _view(self, contract: Any, name: str, *arguments: Any) -> Any:
        number: Any = "latest" if self._network.agree == 1 else self._pool.common_block()
        try:
            return self._pool.ask_agreeing(lambda web: _call(web, contract, name, arguments, number), name)
        except ContractLogicError as error:
            raise FinalChainError(f"{name} reverts: {_name_revert(error)}") from error

    def token_balance(self, holder: Address) -> int:
        """See ports.Chain."""
        return int(self._view(self._token, "balanceOf", Web3.to_checksum_address(holder)))

    def authorization_used(self, payer: Address, nonce: bytes) -> bool:
        """See ports.Chain."""
        return bool(self._view(self._token, "authorizationState", Web3.to_checksum_address(payer), nonce))

    def withdrawals(self, channel_ids: Sequence[ChannelId], after_block: int) -> Withdrawals:
        """See ports.Chain. What any endpoint says is taken: it only makes somebody read the channel."""
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

        if self._network.agree == 1:
            return self._pool.ask(read)
        said, failures = self._pool.ask_each(read)
        if len(said) < self._network.agree:
            raise RetryableChainError(
                f"withdrawals: {len(said)} RPC endpoints answer, {self._network.agree} must: {'; '.join(failures)}"
            )
        found: frozenset[ChannelId] = frozenset().union(*(item.answer.channel_ids for item in said))
        # Some may be behind: from there on it is looked at again.
        return Withdrawals(min(item.answer.until_block for item in said), found)

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

    def _sending(self) -> ChainAccount:
        if self._account is None:
            raise BugError("this chain adapter only reads: it has no account")
        return self._account

    def simulate(self, call: ChainCall) -> int:
        """See ports.Chain."""
        return self._estimate(call)[0]

    def _estimate(self, call: ChainCall) -> tuple[int, Any, str]:
        """(gas, address of the contract, the call's data). A revert counts when ``agree`` endpoints see the same."""
        sender = self._sending().sender
        target, data = self._encode(call)
        request: Any = {"from": sender, "to": target, "data": data}

        def read(web: Web3) -> tuple[int, str]:
            try:
                return int(web.eth.estimate_gas(request)), ""
            except ContractLogicError as error:
                return 0, _name_revert(error)

        gas, reverts = self._pool.ask_agreeing(read, type(call).__name__, key=lambda answer: answer[1])
        if reverts:
            raise FinalChainError(f"{type(call).__name__} reverts: {reverts}")
        return gas, target, data

    def prepare(self, call: ChainCall) -> SignedTransaction:
        """See ports.Chain. The gas estimate is the simulation: the node runs the call on its newest state.

        Raises:
            RetryableChainError: also when gas would cost more than the network's fee_max_wei, or the account
                can't pay it.
        """
        gas, target, data = self._estimate(call)
        return self._sending().prepare(target, data, gas + gas * GAS_MARGIN_PERCENT // 100)

    def broadcast(self, transaction: SignedTransaction) -> None:
        """See ports.Chain and :meth:`ChainAccount.broadcast`."""
        self._sending().broadcast(transaction)

    def tend(self) -> None:
        """See ports.Chain."""
        if self._account is not None:
            self._account.tend()

    def outcome(self, tx_hash: bytes, confirmations: int) -> TransactionOutcome:
        """See ports.Chain. Every endpoint is asked before nobody knows the transaction."""
        hashes = [tx_hash] if self._account is None else self._account.alike(tx_hash)
        said, failures = self._pool.ask_each(lambda web: self._read_outcome(web, hashes, confirmations))
        if len(said) < self._network.agree:
            raise RetryableChainError(
                f"no RPC endpoint answers: {'; '.join(failures)}"
                if not said
                else f"{len(said)} RPC endpoints answer, {self._network.agree} must agree: {'; '.join(failures)}"
            )
        answers = [item.answer for item in said]
        decided = [
            item
            for item in answers
            if item.status in (TransactionStatus.CONFIRMED, TransactionStatus.REVERTED)
        ]
        for answer in decided:
            others = [item for item in decided if item != answer]
            if decided.count(answer) >= self._network.agree and decided.count(answer) > len(others):
                return answer
        # What too few endpoints say is not known yet: neither failed nor done.
        known = decided or [item for item in answers if item.status is TransactionStatus.PENDING]
        if len(known) == 0:
            return answers[0]
        return TransactionOutcome(TransactionStatus.PENDING, known[0].block_number, 0, (), known[0].tx_hash)

    def _read_outcome(self, web: Web3, hashes: Sequence[bytes], confirmations: int) -> TransactionOutcome:
        """Of a transaction and its replacements, the mined one's, else whether one waits."""
        for tx_hash in hashes:
            try:
                receipt = web.eth.get_transaction_receipt(HexBytes(tx_hash))
            except TransactionNotFound:
                continue
            if bytes(receipt["transactionHash"]) != tx_hash:
                raise ValueError(
                    f"a receipt of 0x{bytes(receipt['transactionHash']).hex()} was given instead"
                )
            return self._judge_receipt(web, tx_hash, receipt, confirmations)
        for tx_hash in hashes:
            try:
                web.eth.get_transaction(HexBytes(tx_hash))
            except TransactionNotFound:
                continue
            return TransactionOutcome(TransactionStatus.PENDING, 0, 0, ())
        return TransactionOutcome(TransactionStatus.UNKNOWN, 0, 0, ())

    def _judge_receipt(
        self, web: Web3, tx_hash: bytes, receipt: Any, confirmations: int
    ) -> TransactionOutcome:
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
            status,
            number,
            int(receipt["gasUsed"]),
            tuple(event for event in events if event is not None),
            tx_hash,
        )

    def _encode(self, call: ChainCall) -> tuple[Any, str]:
        """Address of the contract, and the call's data."""
        if isinstance(call, TransferCall | CancelCall):
            name, arguments = token_call_to_arguments(call)
            return self._token.address, str(self._token.encode_abi(name, args=arguments))
        name, arguments = call_to_arguments(call, self._network.collector)
        return self._settlement.address, str(self._settlement.encode_abi(name, args=arguments))


def _call(web: Web3, contract: Any, name: str, arguments: tuple[Any, ...], block: Any) -> Any:
    raw = web.eth.call(
        {"to": contract.address, "data": contract.encode_abi(name, args=list(arguments))}, block
    )
    if not raw:
        raise ContractLogicError(f"{name} at {contract.address} gives nothing: no contract there")
    outputs = [part["type"] for item in contract.abi if item["name"] == name for part in item["outputs"]]
    values = web.codec.decode(outputs, raw)
    return values[0] if len(values) == 1 else values


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
