"""When a voucher may be accepted, in x402's own error strings; stricter than the stock package where the contract is.

Source: x402 v2 batch-settlement on EVM, voucher verification; golden verdicts in test/data/x402.json.
"""

from dataclasses import dataclass

from depai_robot.payment.channel import WITHDRAW_DELAY_MAX_S, WITHDRAW_DELAY_MIN_S, ChannelConfig, Voucher
from depai_robot.payment.eip712 import channel_id, voucher_digest
from depai_robot.payment.signature import SignatureError, verify
from depai_robot.values.error import RemoteError
from depai_robot.values.identity import ADDRESS_ZERO

PREFIX = "invalid_batch_settlement_evm_"


class VoucherRefusedError(RemoteError):
    """A voucher or deposit that must not be accepted.

    Attributes:
        reason: x402 error string.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{PREFIX}{reason}: {detail}")
        self.reason = PREFIX + reason


@dataclass(frozen=True, slots=True)
class VoucherLimits:
    """What a voucher is judged against.

    Attributes:
        balance_atomic: confirmed escrow of the channel.
        total_claimed_atomic: already claimed on chain.
        withdraw_pending: somebody has asked for the escrow back.
        charged_atomic: what the receiver has charged so far, cumulative.
        amount_atomic: ``accepts.amount`` of the requirements that the payer accepted; None to leave the exact rule
            out and judge by the contract's own rules only.
    """

    balance_atomic: int
    total_claimed_atomic: int
    withdraw_pending: bool = False
    charged_atomic: int = 0
    amount_atomic: int | None = None


def check_config(config: ChannelConfig) -> None:
    """A channel that vouchers can be judged on without asking the chain.

    Raises:
        VoucherRefusedError: zero payer authorizer (its vouchers would be ERC-1271, not checkable offline), or a
            withdraw delay outside the contract's 15 minutes to 30 days.
    """
    if config.payer_authorizer == ADDRESS_ZERO:
        raise VoucherRefusedError("voucher_signature", "payerAuthorizer is zero, expected a voucher key")
    if not WITHDRAW_DELAY_MIN_S <= config.withdraw_delay_s <= WITHDRAW_DELAY_MAX_S:
        raise VoucherRefusedError(
            "withdraw_delay_out_of_range",
            f"withdrawDelay {config.withdraw_delay_s} s, expected {WITHDRAW_DELAY_MIN_S} to {WITHDRAW_DELAY_MAX_S}",
        )


def check_voucher(config: ChannelConfig, voucher: Voucher, domain: bytes, limits: VoucherLimits) -> None:
    """Accepts, or raises with the x402 reason.

    Args:
        config: of the channel that both sides agreed on.
        voucher: as it came.
        domain: of the settlement contract (eip712.settlement_domain).
        limits: what is known of the channel.

    Raises:
        VoucherRefusedError: the contract would refuse it, or it is not what was asked for.
    """
    check_config(config)
    expected = channel_id(config, domain)
    if voucher.channel_id != expected:
        raise VoucherRefusedError(
            "channel_id_mismatch", f"voucher for 0x{voucher.channel_id.hex()}, expected 0x{expected.hex()}"
        )
    try:
        verify(
            voucher_digest(voucher.channel_id, voucher.ceiling_atomic, domain),
            voucher.signature,
            config.payer_authorizer,
        )
    except SignatureError as error:
        raise VoucherRefusedError("voucher_signature", str(error)) from error
    if limits.withdraw_pending:
        raise VoucherRefusedError("channel_busy", "a withdrawal is pending on the channel")
    if voucher.ceiling_atomic > limits.balance_atomic:
        raise VoucherRefusedError(
            "cumulative_exceeds_balance",
            f"ceiling {voucher.ceiling_atomic}, confirmed escrow {limits.balance_atomic}",
        )
    if voucher.ceiling_atomic < limits.total_claimed_atomic:
        raise VoucherRefusedError(
            "cumulative_below_claimed",
            f"ceiling {voucher.ceiling_atomic}, already claimed {limits.total_claimed_atomic}",
        )
    if limits.amount_atomic is not None:
        wanted = limits.charged_atomic + limits.amount_atomic
        if voucher.ceiling_atomic != wanted:
            raise VoucherRefusedError(
                "cumulative_amount_mismatch",
                f"ceiling {voucher.ceiling_atomic}, expected charged {limits.charged_atomic} + amount "
                f"{limits.amount_atomic} = {wanted}",
            )
