"""Payment channels of the settlement contract, as values.

Source: x402 v2 scheme ``batch-settlement`` on EVM, structs ChannelConfig, ChannelState and VoucherClaim.
"""

from dataclasses import dataclass

from depai_robot.values.error import ConfigError
from depai_robot.values.identity import Address, ChannelId
from depai_robot.values.money import UINT128_MAX

UINT40_MAX = 2**40 - 1
UINT256_MAX = 2**256 - 1
WITHDRAW_DELAY_MIN_S = 15 * 60
WITHDRAW_DELAY_MAX_S = 30 * 24 * 3600


@dataclass(frozen=True, slots=True)
class ChannelConfig:
    """What names a channel; its EIP-712 hash is the channel's id.

    Attributes:
        payer: who funds it and gets the rest back (the owner's treasury, or the robot in self mode).
        payer_authorizer: whose signature makes a voucher (the robot's voucher key).
        receiver: who is paid.
        receiver_authorizer: who may sign claims and refunds for the receiver.
        token: the ERC-20 contract.
        withdraw_delay_s: uint40; the contract wants 15 min to 30 days.
        salt: 32 bytes.
    """

    payer: Address
    payer_authorizer: Address
    receiver: Address
    receiver_authorizer: Address
    token: Address
    withdraw_delay_s: int
    salt: bytes

    def __post_init__(self) -> None:
        for name in ("payer", "payer_authorizer", "receiver", "receiver_authorizer", "token"):
            value = getattr(self, name)
            if not isinstance(value, bytes) or len(value) != 20:
                raise ConfigError(f"{name} must be 20 bytes, got {value!r}")
        if isinstance(self.withdraw_delay_s, bool) or not isinstance(self.withdraw_delay_s, int):
            raise ConfigError(f"withdraw_delay_s must be an integer, got {self.withdraw_delay_s!r}")
        if not 0 <= self.withdraw_delay_s <= UINT40_MAX:
            raise ConfigError(f"withdraw_delay_s must fit 40 bits, got {self.withdraw_delay_s}")
        if not isinstance(self.salt, bytes) or len(self.salt) != 32:
            raise ConfigError(f"salt must be 32 bytes, got {self.salt!r}")


@dataclass(frozen=True, slots=True)
class ChannelState:
    """What the contract holds of a channel at some block.

    Attributes:
        balance_atomic: all that was deposited, less what was refunded or withdrawn (claims do not lower it).
        total_claimed_atomic: what the receiver has claimed so far, <= balance.
        withdraw_requested_at_s: chain time of a pending withdrawal, 0 when there is none.
        refund_nonce: of the next signed refund.
        block_number: the block this was read at.
    """

    balance_atomic: int
    total_claimed_atomic: int
    withdraw_requested_at_s: int
    refund_nonce: int
    block_number: int


@dataclass(frozen=True, slots=True)
class Voucher:
    """A signed ceiling: the receiver may claim up to it, whatever it delivered.

    Attributes:
        channel_id: 32 bytes.
        ceiling_atomic: cumulative over the channel's life, uint128 (``maxClaimableAmount``).
        signature: 65 bytes r || s || v by the payer authorizer.
    """

    channel_id: ChannelId
    ceiling_atomic: int
    signature: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.ceiling_atomic <= UINT128_MAX:
            raise ConfigError(f"a voucher's ceiling must fit 128 bits, got {self.ceiling_atomic}")


@dataclass(frozen=True, slots=True)
class DepositAuthorization:
    """An EIP-3009 authorization that funds exactly one channel.

    Attributes:
        amount_atomic: what is taken from the payer.
        valid_after_s: chain time, exclusive.
        valid_before_s: chain time, exclusive.
        salt: 32 bytes; with the channel id it makes the token's nonce.
        signature: 65 bytes of the payer.
    """

    amount_atomic: int
    valid_after_s: int
    valid_before_s: int
    salt: bytes
    signature: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.amount_atomic <= UINT128_MAX:
            raise ConfigError(f"a deposit must fit 128 bits, got {self.amount_atomic}")
        if not (0 <= self.valid_after_s <= UINT256_MAX and 0 <= self.valid_before_s <= UINT256_MAX):
            raise ConfigError(
                f"times must fit 256 bits, got from {self.valid_after_s} to {self.valid_before_s}"
            )
        if len(self.salt) != 32:
            raise ConfigError(f"a deposit's salt has 32 bytes, got {len(self.salt)}")
