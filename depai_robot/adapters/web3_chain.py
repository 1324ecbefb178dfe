"""ports.Chain on web3: any EVM chain by configuration, several RPC endpoints, nothing retried that may have happened.

Reads go to the first endpoint that answers. A transaction is simulated, signed once with a nonce of our own keeping,
and broadcast as the same bytes to every endpoint. A contract's revert is a FinalChainError that names the contract's
error; silence is a RetryableChainError.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import requests
from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from hexbytes import HexBytes
from web3 import Web3
from web3.exceptions import ContractLogicError, TransactionNotFound, Web3Exception
from web3.providers.rpc.utils import ExceptionRetryConfiguration

from depai_robot.payment.channel import ChannelConfig, ChannelState
from depai_robot.payment.eip712 import DEPOSIT_COLLECTOR, SETTLEMENT, domain_separator, encode_collector_data
from depai_robot.ports import (
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
)
from depai_robot.values.error import BugError, ConfigError, FinalChainError, RetryableChainError
from depai_robot.values.identity import Address, ChannelId, address_to_hex, keccak256

T = TypeVar("T")

RPC_TIMEOUT_S = 10.0
GAS_MARGIN_PERCENT = 20
PRIORITY_FEE_WEI = 10**6
"""Enough for a layer 2 and a development chain; the node's own suggestion is used when it is higher."""
FEE_ROOM = 2
"""The base fee may double before the transaction waits."""

_CONFIG = "(address,address,address,address,address,uint40,bytes32)"
_ERRORS = (
    "InvalidChannel",
    "ZeroDeposit",
    "DepositOverflow",
    "InvalidSignature",
    "NotReceiverAuthorizer",
    "NotAuthorizedToClaim",
    "NotAuthorizedToRefund",
    "ClaimExceedsCeiling",
    "ClaimExceedsBalance",
    "WithdrawalAlreadyPending",
    "WithdrawalNotPending",
    "NotAuthorizedToFinalizeWithdraw",
    "WithdrawDelayNotElapsed",
    "NothingToWithdraw",
    "WithdrawAmountExceedsAvailable",
    "WithdrawDelayOutOfRange",
    "EmptyBatch",
    "DepositCollectionFailed",
    "InvalidCollector",
    "InvalidRefundNonce",
    "ZeroRefund",
)
ERROR_BY_SELECTOR = {keccak256(f"{name}()".encode())[:4].hex(): name for name in _ERRORS}
"""Custom errors of the settlement contract. Source: x402 v2 batch-settlement on EVM."""


def _item(
    kind: str, name: str, inputs: list[dict[str, Any]], outputs: list[str] | None = None
) -> dict[str, Any]:
    mutability = "view" if outputs else "nonpayable"
    return {
        "type": kind,
        "name": name,
        "inputs": inputs,
        "outputs": [{"name": "", "type": t} for t in outputs or []],
        "stateMutability": mutability,
        "anonymous": False,
    }


def _argument(kind: str, name: str, *, indexed: bool = False) -> dict[str, Any]:
    return {"name": name, "type": kind, "indexed": indexed}


_CONFIG_PARTS = [
    _argument("address", "payer"),
    _argument("address", "payerAuthorizer"),
    _argument("address", "receiver"),
    _argument("address", "receiverAuthorizer"),
    _argument("address", "token"),
    _argument("uint40", "withdrawDelay"),
    _argument("bytes32", "salt"),
]
_CHANNEL = {"name": "config", "type": "tuple", "components": _CONFIG_PARTS}
_CLAIM = {
    "name": "voucherClaims",
    "type": "tuple[]",
    "components": [
        {
            "name": "voucher",
            "type": "tuple",
            "components": [
                {"name": "channel", "type": "tuple", "components": _CONFIG_PARTS},
                _argument("uint128", "maxClaimableAmount"),
            ],
        },
        _argument("bytes", "signature"),
        _argument("uint128", "totalClaimed"),
    ],
}
SETTLEMENT_ABI: list[dict[str, Any]] = [
    _item(
        "function",
        "deposit",
        [
            _CHANNEL,
            _argument("uint128", "amount"),
            _argument("address", "collector"),
            _argument("bytes", "collectorData"),
        ],
    ),
    _item("function", "claim", [_CLAIM]),
    _item("function", "settle", [_argument("address", "receiver"), _argument("address", "token")]),
    _item("function", "refund", [_CHANNEL, _argument("uint128", "amount")]),
    _item("function", "initiateWithdraw", [_CHANNEL, _argument("uint128", "amount")]),
    _item("function", "finalizeWithdraw", [_CHANNEL]),
    _item("function", "channels", [_argument("bytes32", "channelId")], ["uint128", "uint128"]),
    _item("function", "pendingWithdrawals", [_argument("bytes32", "channelId")], ["uint128", "uint40"]),
    _item("function", "refundNonce", [_argument("bytes32", "channelId")], ["uint256"]),
    _item(
        "function",
        "receivers",
        [_argument("address", "a"), _argument("address", "b")],
        ["uint128", "uint128"],
    ),
]
TOKEN_ABI: list[dict[str, Any]] = [
    _item("function", "balanceOf", [_argument("address", "account")], ["uint256"]),
    _item(
        "function", "authorizationState", [_argument("address", "a"), _argument("bytes32", "nonce")], ["bool"]
    ),
    _item("function", "DOMAIN_SEPARATOR", [], ["bytes32"]),
]


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

    def __post_init__(self) -> None:
        if not self.rpc_urls or not all(url.startswith(("http://", "https://")) for url in self.rpc_urls):
            raise ConfigError(f"rpc_urls must be http(s) addresses, at least one, got {list(self.rpc_urls)}")
        for name in ("settlement_code_hash", "collector_code_hash"):
            if len(getattr(self, name)) != 32:
                raise ConfigError(f"{name} must be pinned: 32 bytes of keccak-256 of the contract's code")


class Web3Chain:
    """See ports.Chain. Thread-safe; every call blocks for RPC_TIMEOUT_S times the endpoints at most."""

    def __init__(self, network: NetworkConfig, signer: Signer | None = None) -> None:
        self._network = network
        self._signer = signer
        self._lock = threading.Lock()
        self._next_nonce = 0
        self._webs = [Web3(_provider(url)) for url in network.rpc_urls]
        first = self._webs[0]
        self._settlement = first.eth.contract(
            address=Web3.to_checksum_address(network.settlement), abi=SETTLEMENT_ABI
        )
        self._token = first.eth.contract(address=Web3.to_checksum_address(network.token), abi=TOKEN_ABI)
        self._event_abis = {
            keccak256(signature.encode()): (name, amount_word)
            for name, signature, amount_word in (
                ("ChannelCreated", f"ChannelCreated(bytes32,{_CONFIG})", None),
                ("ChannelClosed", "ChannelClosed(bytes32)", None),
                ("Deposited", "Deposited(bytes32,address,uint128,uint128)", 0),
                ("Claimed", "Claimed(bytes32,address,uint128,uint128)", 1),
                ("Settled", "Settled(address,address,address,uint128)", 0),
                ("Refunded", "Refunded(bytes32,address,uint128)", 0),
                ("WithdrawInitiated", "WithdrawInitiated(bytes32,uint128,uint40)", 0),
                ("WithdrawFinalized", "WithdrawFinalized(bytes32,address,uint128)", 0),
            )
        }

    # --- reads ---------------------------------------------------------------------------------------------

    def _ask(self, question: Callable[[Web3], T]) -> T:
        """The first endpoint's answer; a revert or a missing thing is an answer too."""
        failures = []
        for web, url in zip(self._webs, self._network.rpc_urls, strict=True):
            try:
                return question(web)
            except (ContractLogicError, TransactionNotFound):
                raise
            except (requests.RequestException, Web3Exception, OSError, ValueError) as error:
                failures.append(f"{url}: {type(error).__name__}: {str(error)[:160]}")
        raise RetryableChainError("no RPC endpoint answers: " + "; ".join(failures))

    def _view(self, contract: Any, name: str, *arguments: Any, block: int | str = "latest") -> Any:
        data = contract.encode_abi(name, args=list(arguments))
        call = {"to": contract.address, "data": data}
        try:
            raw = self._ask(lambda web: web.eth.call(call, block))  # type: ignore[arg-type]
        except ContractLogicError as error:
            raise FinalChainError(f"{name} reverts: {error}") from error
        outputs = [
            output["type"] for item in contract.abi if item["name"] == name for output in item["outputs"]
        ]
        if not raw:
            raise FinalChainError(f"{name} at {contract.address} gives nothing: no contract there")
        values = self._webs[0].codec.decode(outputs, raw)
        return values[0] if len(values) == 1 else values

    def check_pins(self) -> None:
        """See ports.Chain."""
        network = self._network
        chain_id = self._ask(lambda web: web.eth.chain_id)
        if chain_id != network.chain_id:
            raise FinalChainError(f"the RPC endpoint is on chain {chain_id}, expected {network.chain_id}")
        for name, address, pinned in (
            ("settlement", network.settlement, network.settlement_code_hash),
            ("collector", network.collector, network.collector_code_hash),
        ):
            code = self._ask(lambda web, a=address: web.eth.get_code(Web3.to_checksum_address(a)))  # type: ignore[misc]
            seen = keccak256(bytes(code))
            if seen != pinned:
                raise FinalChainError(
                    f"{name} {address_to_hex(address)} has code hash 0x{seen.hex()}, pinned is 0x{pinned.hex()}"
                )
        seen = bytes(self._view(self._token, "DOMAIN_SEPARATOR"))
        wanted = domain_separator(network.token_name, network.token_version, network.chain_id, network.token)
        if seen != wanted:
            raise FinalChainError(
                f"token {address_to_hex(network.token)} has domain separator 0x{seen.hex()}, but name "
                f"{network.token_name!r} version {network.token_version!r} give 0x{wanted.hex()}"
            )

    def head(self) -> ChainHead:
        """See ports.Chain."""
        block = self._ask(lambda web: web.eth.get_block("latest"))
        return ChainHead(int(block["number"]), int(block["timestamp"]), bytes(block["hash"]))

    def channel(self, channel_id: ChannelId, confirmations: int) -> ChannelState:
        """See ports.Chain."""
        number = max(0, self.head().number - (confirmations - 1))
        balance, claimed = self._view(self._settlement, "channels", channel_id, block=number)
        _, requested_s = self._view(self._settlement, "pendingWithdrawals", channel_id, block=number)
        nonce = self._view(self._settlement, "refundNonce", channel_id, block=number)
        return ChannelState(int(balance), int(claimed), int(requested_s), int(nonce), number)

    def token_balance(self, holder: Address) -> int:
        """See ports.Chain."""
        return int(self._view(self._token, "balanceOf", Web3.to_checksum_address(holder)))

    def authorization_used(self, payer: Address, nonce: bytes) -> bool:
        """See ports.Chain."""
        return bool(self._view(self._token, "authorizationState", Web3.to_checksum_address(payer), nonce))

    # --- transactions --------------------------------------------------------------------------------------

    def prepare(self, call: ChainCall) -> SignedTransaction:
        """See ports.Chain."""
        if self._signer is None:
            raise BugError("this chain adapter only reads: it has no account")
        sender = Web3.to_checksum_address(self._signer.address)
        request: Any = {"from": sender, "to": self._settlement.address, "data": self._encode(call)}
        try:
            gas = self._ask(lambda web: web.eth.estimate_gas(request))
        except ContractLogicError as error:
            raise FinalChainError(f"{type(call).__name__} reverts: {_name_revert(error)}") from error
        head = self._ask(lambda web: web.eth.get_block("latest"))
        base_fee = int(head.get("baseFeePerGas", 0))
        tip = PRIORITY_FEE_WEI
        fields = {
            "type": 2,
            "chainId": self._network.chain_id,
            "to": self._settlement.address,
            "value": 0,
            "data": request["data"],
            "gas": gas + gas * GAS_MARGIN_PERCENT // 100,
            "maxPriorityFeePerGas": tip,
            "maxFeePerGas": base_fee * FEE_ROOM + tip,
            "accessList": [],
        }
        with self._lock:
            pending = self._ask(lambda web: web.eth.get_transaction_count(sender, "pending"))
            nonce = max(self._next_nonce, int(pending))
            raw = _sign_transaction({**fields, "nonce": nonce}, self._signer)
            self._next_nonce = nonce + 1
        return SignedTransaction(raw, keccak256(raw), nonce)

    def broadcast(self, transaction: SignedTransaction) -> None:
        """See ports.Chain."""
        failures, accepted = [], False
        for web, url in zip(self._webs, self._network.rpc_urls, strict=True):
            try:
                web.eth.send_raw_transaction(HexBytes(transaction.raw))
                accepted = True
            except (requests.RequestException, Web3Exception, OSError, ValueError) as error:
                failures.append(f"{url}: {str(error)[:160]}")
        if accepted:
            return
        # "already known" and "nonce too low" both mean: look the hash up. Unknown is not failed.
        if self.outcome(transaction.tx_hash, 1).status is not TransactionStatus.UNKNOWN:
            return
        raise RetryableChainError("no RPC endpoint takes the transaction: " + "; ".join(failures))

    def outcome(self, tx_hash: bytes, confirmations: int) -> TransactionOutcome:
        """See ports.Chain."""
        try:
            receipt = self._ask(lambda web: web.eth.get_transaction_receipt(HexBytes(tx_hash)))
        except TransactionNotFound:
            return TransactionOutcome(self._pending(tx_hash), 0, 0, ())
        number = int(receipt["blockNumber"])
        if receipt["status"] != 1:
            status = TransactionStatus.REVERTED
        elif self.head().number - number + 1 >= confirmations:
            status = TransactionStatus.CONFIRMED
        else:
            status = TransactionStatus.PENDING
        events = tuple(event for log in receipt["logs"] if (event := self._decode_log(log)) is not None)
        return TransactionOutcome(status, number, int(receipt["gasUsed"]), events)

    def _pending(self, tx_hash: bytes) -> TransactionStatus:
        try:
            self._ask(lambda web: web.eth.get_transaction(HexBytes(tx_hash)))
        except TransactionNotFound:
            return TransactionStatus.UNKNOWN
        return TransactionStatus.PENDING

    def _decode_log(self, log: Any) -> ChainEvent | None:
        if bytes.fromhex(log["address"][2:]) != self._network.settlement or not log["topics"]:
            return None
        found = self._event_abis.get(bytes(log["topics"][0]))
        if found is None:
            return None
        name, word = found
        data = bytes(log["data"])
        amount = 0 if word is None else int.from_bytes(data[32 * word : 32 * word + 32], "big")
        channel = None if name == "Settled" else ChannelId(bytes(log["topics"][1]))
        return ChainEvent(name, channel, amount)

    def _encode(self, call: ChainCall) -> str:
        encode: Callable[..., str] = self._settlement.encode_abi
        if isinstance(call, DepositCall):
            authorization = call.authorization
            data = encode_collector_data(
                authorization.valid_after_s,
                authorization.valid_before_s,
                authorization.salt,
                authorization.signature,
            )
            collector = Web3.to_checksum_address(self._network.collector)
            return encode(
                "deposit", args=[_tuple(call.channel), authorization.amount_atomic, collector, data]
            )
        if isinstance(call, ClaimCall):
            rows = [
                (
                    (_tuple(row.channel), row.voucher.ceiling_atomic),
                    row.voucher.signature,
                    row.total_claimed_atomic,
                )
                for row in call.rows
            ]
            return encode("claim", args=[rows])
        if isinstance(call, SettleCall):
            return encode(
                "settle", args=[Web3.to_checksum_address(call.receiver), Web3.to_checksum_address(call.token)]
            )
        if isinstance(call, RefundCall):
            return encode("refund", args=[_tuple(call.channel), call.amount_atomic])
        if isinstance(call, InitiateWithdrawCall):
            return encode("initiateWithdraw", args=[_tuple(call.channel), call.amount_atomic])
        if isinstance(call, FinalizeWithdrawCall):
            return encode("finalizeWithdraw", args=[_tuple(call.channel)])
        raise BugError(f"{type(call).__name__} is no call on the settlement contract")


def _provider(url: str) -> Any:
    # Only reads are retried by the library, and only refused or broken connections; its built-in list names the
    # wrong ConnectionError. Sending is never retried here: the same bytes are sent again by whoever asked.
    retry = ExceptionRetryConfiguration(
        errors=(requests.ConnectionError, requests.Timeout),
        retries=2,
        method_allowlist=[
            "eth_call",
            "eth_chainId",
            "eth_getBlockByNumber",
            "eth_getCode",
            "eth_getTransactionReceipt",
            "eth_getTransactionByHash",
            "eth_getTransactionCount",
            "eth_estimateGas",
        ],
    )
    return Web3.HTTPProvider(
        url, request_kwargs={"timeout": RPC_TIMEOUT_S}, exception_retry_configuration=retry
    )


def _tuple(config: ChannelConfig) -> tuple[Any, ...]:
    address = Web3.to_checksum_address
    return (
        address(config.payer),
        address(config.payer_authorizer),
        address(config.receiver),
        address(config.receiver_authorizer),
        address(config.token),
        config.withdraw_delay_s,
        config.salt,
    )


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


def _name_revert(error: ContractLogicError) -> str:
    """The contract's error in words: a custom error's name, or the reason string."""
    data = getattr(error, "data", None)
    if isinstance(data, str) and data.startswith("0x") and len(data) >= 10:
        name = ERROR_BY_SELECTOR.get(data[2:10])
        if name is not None:
            return name
    return str(getattr(error, "message", None) or error)
