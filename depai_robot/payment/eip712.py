"""EIP-712 digests of x402 on EVM, encoded by hand: domain separators once, then one or two keccaks each.

Sources: EIP-712 (hashStruct and the 0x1901 prefix); EIP-3009 (authorization types); x402 v2 scheme
``batch-settlement`` on EVM (ChannelConfig, Voucher, Refund, ClaimBatch). Every digest is checked against
eth-account and against golden vectors that the canonical contract confirmed (test/data/x402.json).
"""

from collections.abc import Sequence
from functools import lru_cache

from depai_robot.payment.channel import UINT40_MAX, UINT256_MAX, ChannelConfig
from depai_robot.values.error import BugError
from depai_robot.values.identity import Address, ChannelId, keccak256
from depai_robot.values.money import UINT128_MAX

SETTLEMENT = Address(bytes.fromhex("4020074e9dF2ce1deE5A9C1b5c3f541D02a10003"))
"""x402BatchSettlement, the same address on every chain. Source: x402 v2 batch-settlement on EVM."""
DEPOSIT_COLLECTOR = Address(bytes.fromhex("4020806089470a89826cB9fB1f4059150b550004"))
"""ERC3009DepositCollector, the same address on every chain. Source: as above."""

SETTLEMENT_NAME = "x402 Batch Settlement"
SETTLEMENT_VERSION = "1"

_DOMAIN = keccak256(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
_DOMAIN_WITHOUT_CONTRACT = keccak256(b"EIP712Domain(string name,string version,uint256 chainId)")
_CHANNEL_CONFIG = keccak256(
    b"ChannelConfig(address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,"
    b"address token,uint40 withdrawDelay,bytes32 salt)"
)
_VOUCHER = keccak256(b"Voucher(bytes32 channelId,uint128 maxClaimableAmount)")
_REFUND = keccak256(b"Refund(bytes32 channelId,uint256 nonce,uint128 amount)")
_CLAIM_ENTRY_TYPE = b"ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)"
_CLAIM_ENTRY = keccak256(_CLAIM_ENTRY_TYPE)
_CLAIM_BATCH = keccak256(b"ClaimBatch(ClaimEntry[] claims)" + _CLAIM_ENTRY_TYPE)
_RECEIVE = keccak256(
    b"ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,"
    b"uint256 validBefore,bytes32 nonce)"
)
_TRANSFER = keccak256(
    b"TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,"
    b"uint256 validBefore,bytes32 nonce)"
)
_CANCEL = keccak256(b"CancelAuthorization(address authorizer,bytes32 nonce)")


def encode_uint(value: int, maximum: int = UINT256_MAX) -> bytes:
    """32 bytes, big endian. Raises BugError when it does not fit the type."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= maximum:
        raise BugError(f"expected an integer from 0 to {maximum}, got {value!r}")
    return value.to_bytes(32, "big")


def encode_address(address: bytes) -> bytes:
    """32 bytes, left padded. Raises BugError when it has not 20."""
    if len(address) != 20:
        raise BugError(f"an address has 20 bytes, got {len(address)}")
    return bytes(12) + address


def encode_bytes32(value: bytes) -> bytes:
    """The same 32 bytes. Raises BugError when there are not 32."""
    if len(value) != 32:
        raise BugError(f"expected 32 bytes, got {len(value)}")
    return value


@lru_cache(maxsize=64)
def domain_separator(name: str, version: str, chain_id: int, contract: bytes | None) -> bytes:
    """EIP-712 domain separator (32 bytes) with name, version, chainId and, unless it is None, verifyingContract."""
    words = keccak256(name.encode()) + keccak256(version.encode()) + encode_uint(chain_id)
    if contract is None:
        return keccak256(_DOMAIN_WITHOUT_CONTRACT + words)
    return keccak256(_DOMAIN + words + encode_address(contract))


def settlement_domain(chain_id: int, contract: bytes = SETTLEMENT) -> bytes:
    """Domain separator of the settlement contract on a chain."""
    return domain_separator(SETTLEMENT_NAME, SETTLEMENT_VERSION, chain_id, contract)


def typed_digest(domain: bytes, struct_hash: bytes) -> bytes:
    """keccak(0x1901 || domain separator || hashStruct): what is signed."""
    return keccak256(b"\x19\x01" + domain + struct_hash)


def channel_id(config: ChannelConfig, domain: bytes) -> ChannelId:
    """The channel's id: the EIP-712 digest of its config in the settlement domain."""
    return ChannelId(
        typed_digest(
            domain,
            keccak256(
                _CHANNEL_CONFIG
                + encode_address(config.payer)
                + encode_address(config.payer_authorizer)
                + encode_address(config.receiver)
                + encode_address(config.receiver_authorizer)
                + encode_address(config.token)
                + encode_uint(config.withdraw_delay_s, UINT40_MAX)
                + encode_bytes32(config.salt)
            ),
        )
    )


def voucher_digest(channel: bytes, ceiling_atomic: int, domain: bytes) -> bytes:
    """What the payer authorizer signs: a ceiling on a channel, and nothing else."""
    return typed_digest(
        domain, keccak256(_VOUCHER + encode_bytes32(channel) + encode_uint(ceiling_atomic, UINT128_MAX))
    )


def refund_digest(channel: bytes, nonce: int, amount_atomic: int, domain: bytes) -> bytes:
    """What the receiver authorizer signs to give escrow back."""
    return typed_digest(
        domain,
        keccak256(
            _REFUND + encode_bytes32(channel) + encode_uint(nonce) + encode_uint(amount_atomic, UINT128_MAX)
        ),
    )


def claim_batch_digest(rows: Sequence[tuple[bytes, int, int]], domain: bytes) -> bytes:
    """What the receiver authorizer signs to claim: rows of (channel id, ceiling, total claimed)."""
    entries = b"".join(
        keccak256(
            _CLAIM_ENTRY
            + encode_bytes32(channel)
            + encode_uint(ceiling, UINT128_MAX)
            + encode_uint(total, UINT128_MAX)
        )
        for channel, ceiling, total in rows
    )
    return typed_digest(domain, keccak256(_CLAIM_BATCH + keccak256(entries)))


def authorization_digest(
    domain: bytes,
    *,
    payer: bytes,
    to: bytes,
    amount_atomic: int,
    valid_after_s: int,
    valid_before_s: int,
    nonce: bytes,
    receive: bool,
) -> bytes:
    """EIP-3009 digest in the token's domain: ``ReceiveWithAuthorization``, or Transfer... if not ``receive``."""
    return typed_digest(
        domain,
        keccak256(
            (_RECEIVE if receive else _TRANSFER)
            + encode_address(payer)
            + encode_address(to)
            + encode_uint(amount_atomic)
            + encode_uint(valid_after_s)
            + encode_uint(valid_before_s)
            + encode_bytes32(nonce)
        ),
    )


def cancellation_digest(domain: bytes, payer: bytes, nonce: bytes) -> bytes:
    """What the payer signs so that an authorization that was not used yet never can be; in the token's domain."""
    return typed_digest(domain, keccak256(_CANCEL + encode_address(payer) + encode_bytes32(nonce)))


def deposit_nonce(channel: bytes, salt: bytes) -> bytes:
    """EIP-3009 nonce that binds a deposit to one channel: keccak(abi.encode(channelId, uint256 salt))."""
    return keccak256(encode_bytes32(channel) + encode_bytes32(salt))


def deposit_digest(
    token_domain: bytes,
    *,
    payer: bytes,
    channel: bytes,
    amount_atomic: int,
    valid_after_s: int,
    valid_before_s: int,
    salt: bytes,
    collector: bytes = DEPOSIT_COLLECTOR,
) -> bytes:
    """What the payer signs to fund one channel through the collector."""
    return authorization_digest(
        token_domain,
        payer=payer,
        to=collector,
        amount_atomic=amount_atomic,
        valid_after_s=valid_after_s,
        valid_before_s=valid_before_s,
        nonce=deposit_nonce(channel, salt),
        receive=True,
    )


def encode_collector_data(valid_after_s: int, valid_before_s: int, salt: bytes, signature: bytes) -> bytes:
    """abi.encode(uint256 validAfter, uint256 validBefore, uint256 salt, bytes signature)."""
    padding = bytes(-len(signature) % 32)
    return (
        encode_uint(valid_after_s)
        + encode_uint(valid_before_s)
        + encode_bytes32(salt)
        + encode_uint(4 * 32)
        + encode_uint(len(signature))
        + signature
        + padding
    )
