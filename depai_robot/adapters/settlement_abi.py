"""Interface of the settlement contract and of an EIP-3009 token as data: functions, events, errors. No I/O.

Source: x402 v2, scheme batch-settlement on EVM; EIP-20; EIP-3009; errors of OpenZeppelin's ECDSA.
"""

from typing import Any

from depai_robot.payment.channel import ChannelConfig
from depai_robot.payment.eip712 import encode_address, encode_bytes32, encode_collector_data, encode_uint
from depai_robot.ports import (
    CancelCall,
    ChainCall,
    ChainEvent,
    ClaimCall,
    DepositCall,
    FinalizeWithdrawCall,
    InitiateWithdrawCall,
    RefundCall,
    SettleCall,
    TransferCall,
)
from depai_robot.values.error import BugError
from depai_robot.values.identity import ChannelId, address_to_hex, keccak256

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
_LIBRARY_ERRORS = (
    "ECDSAInvalidSignature()",
    "ECDSAInvalidSignatureLength(uint256)",
    "ECDSAInvalidSignatureS(bytes32)",
    "OnlyX402BatchSettlement()",
    "ReentrancyGuardReentrantCall()",
    "SafeERC20FailedOperation(address)",
)
ERROR_BY_SELECTOR = {
    keccak256(signature.encode())[:4]: signature.partition("(")[0]
    for signature in (*(f"{name}()" for name in _ERRORS), *_LIBRARY_ERRORS)
}
"""Custom errors of the settlement contract, its collector and the libraries below them, by 4-byte selector."""

_EVENT_BY_TOPIC = {
    keccak256(signature.encode()): (signature.partition("(")[0], amount_word)
    for signature, amount_word in (
        (f"ChannelCreated(bytes32,{_CONFIG})", None),
        (f"ChannelClosed(bytes32,{_CONFIG})", None),
        ("Deposited(bytes32,address,uint128,uint128)", 0),
        ("Claimed(bytes32,address,uint128,uint128)", 1),
        ("Settled(address,address,address,uint128)", 0),
        ("Refunded(bytes32,address,uint128)", 0),
        ("WithdrawInitiated(bytes32,uint128,uint40)", 0),
        ("WithdrawFinalized(bytes32,address,uint128)", 0),
    )
}
"""Name of each event, and which word of its data is the amount."""

WITHDRAW_INITIATED = keccak256(b"WithdrawInitiated(bytes32,uint128,uint40)")
"""Topic of the event by which a payer asks for its money back; the second topic is the channel."""
AUTHORIZATION_USED = keccak256(b"AuthorizationUsed(address,bytes32)")
AUTHORIZATION_CANCELED = keccak256(b"AuthorizationCanceled(address,bytes32)")
"""Topics of EIP-3009's events."""


def decode_event(topics: list[bytes], data: bytes) -> ChainEvent | None:
    """An event of the settlement contract, the token's AuthorizationUsed or -Canceled, or None for any other.

    Args:
        topics: of the log, 32 bytes each.
        data: of the log.
    """
    if topics and topics[0] == AUTHORIZATION_USED:
        return ChainEvent("AuthorizationUsed", None, 0)
    if topics and topics[0] == AUTHORIZATION_CANCELED:
        return ChainEvent("AuthorizationCanceled", None, 0)
    name, word = _EVENT_BY_TOPIC.get(topics[0], ("", None)) if topics else ("", None)
    if not name:
        return None
    amount = 0 if word is None else int.from_bytes(data[32 * word : 32 * word + 32], "big")
    return ChainEvent(name, None if name == "Settled" else ChannelId(topics[1]), amount)


def name_error(data: bytes) -> str | None:
    """The name of a custom error in a revert's data, or None when it is not one of these."""
    return ERROR_BY_SELECTOR.get(data[:4])


def call_to_arguments(call: ChainCall, collector: bytes) -> tuple[str, list[Any]]:
    """The function's name and its arguments, as an ABI encoder wants them.

    Args:
        call: of the port.
        collector: address of the EIP-3009 deposit collector.

    Raises:
        BugError: no call on the settlement contract.
    """
    if isinstance(call, DepositCall):
        given = call.authorization
        data = encode_collector_data(given.valid_after_s, given.valid_before_s, given.salt, given.signature)
        return "deposit", [_tuple(call.channel), given.amount_atomic, address_to_hex(collector), data]
    if isinstance(call, ClaimCall):
        rows = [
            (
                (_tuple(row.channel), row.voucher.ceiling_atomic),
                row.voucher.signature,
                row.total_claimed_atomic,
            )
            for row in call.rows
        ]
        return "claim", [rows]
    if isinstance(call, SettleCall):
        return "settle", [address_to_hex(call.receiver), address_to_hex(call.token)]
    if isinstance(call, RefundCall):
        return "refund", [_tuple(call.channel), call.amount_atomic]
    if isinstance(call, InitiateWithdrawCall):
        return "initiateWithdraw", [_tuple(call.channel), call.amount_atomic]
    if isinstance(call, FinalizeWithdrawCall):
        return "finalizeWithdraw", [_tuple(call.channel)]
    raise BugError(f"{type(call).__name__} is no call on the settlement contract")


def token_call_to_arguments(call: TransferCall | CancelCall) -> tuple[str, list[Any]]:
    """As :func:`call_to_arguments`, for the token: overloads with the signature as bytes (FiatToken v2.2)."""
    if isinstance(call, CancelCall):
        return "cancelAuthorization", [address_to_hex(call.payer), call.nonce, call.signature]
    transfer = call.transfer
    return "transferWithAuthorization", [
        address_to_hex(transfer.payer),
        address_to_hex(transfer.receiver),
        transfer.amount_atomic,
        transfer.valid_after_s,
        transfer.valid_before_s,
        transfer.nonce,
        transfer.signature,
    ]


def encode_cancel(call: CancelCall) -> bytes:
    """The call's data, for whoever sends it by other means: cancelAuthorization(address,bytes32,bytes)."""
    selector = keccak256(b"cancelAuthorization(address,bytes32,bytes)")[:4]
    words = encode_address(call.payer) + encode_bytes32(call.nonce) + encode_uint(3 * 32)
    signature = encode_uint(len(call.signature)) + call.signature + bytes(-len(call.signature) % 32)
    return selector + words + signature


def _tuple(config: ChannelConfig) -> tuple[Any, ...]:
    return (
        address_to_hex(config.payer),
        address_to_hex(config.payer_authorizer),
        address_to_hex(config.receiver),
        address_to_hex(config.receiver_authorizer),
        address_to_hex(config.token),
        config.withdraw_delay_s,
        config.salt,
    )


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
    _item(
        "function",
        "transferWithAuthorization",
        [
            _argument("address", "from"),
            _argument("address", "to"),
            _argument("uint256", "value"),
            _argument("uint256", "validAfter"),
            _argument("uint256", "validBefore"),
            _argument("bytes32", "nonce"),
            _argument("bytes", "signature"),
        ],
    ),
    _item(
        "function",
        "cancelAuthorization",
        [_argument("address", "authorizer"), _argument("bytes32", "nonce"), _argument("bytes", "signature")],
    ),
]
