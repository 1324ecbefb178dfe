"""What the HTTP counter accepts: the station's own rules, applied to a payment that came over HTTP."""

from msgspec import UNSET
from msgspec.structs import replace

from depai_robot.app.http_tab_chain import TabChain
from depai_robot.app.http_tab_row import Tab
from depai_robot.charging.effect import ChannelJson
from depai_robot.charging.setting import StationSettings
from depai_robot.charging.terms import channel_config, digest_deposit, read_channel
from depai_robot.payment.channel import ChannelState, Voucher
from depai_robot.payment.eip712 import settlement_domain
from depai_robot.payment.exact import MARGIN_S, TransferRefusedError
from depai_robot.payment.signature import SignatureError, verify
from depai_robot.payment.voucher import VoucherLimits, VoucherRefusedError, check_voucher
from depai_robot.payment.x402 import (
    DepositPayload,
    PaymentPayload,
    PaymentRequirements,
    json_to_deposit,
)
from depai_robot.values.error import DepaiError
from depai_robot.values.identity import Address


class TabJudge:
    """Judges payments; changes nothing.

    Args:
        settings: of the counter.
        asked: what every request is asked for.
        chain: that is looked at.
    """

    def __init__(self, settings: StationSettings, asked: PaymentRequirements, chain: TabChain) -> None:
        self._settings, self._asked, self._chain = settings, asked, chain
        network = settings.network
        self._domain = settlement_domain(network.chain_id, network.settlement)

    def require_asked(self, accepted: PaymentRequirements) -> None:
        """What the buyer accepted is what was asked for; it may echo a corrective answer's states.

        Raises:
            TransferRefusedError: it is not.
        """
        plain = replace(accepted, extra=replace(accepted.extra, channel_state=UNSET, voucher_state=UNSET))
        if plain != self._asked:
            raise TransferRefusedError("invalid_payment_requirements", "not those that were asked for")

    def read_channel(self, payment: PaymentPayload) -> ChannelJson:
        """The channel that a payment names. Raises VoucherRefusedError for one that does not pay this counter."""
        settings = self._settings
        try:
            channel = read_channel(payment.payload)
        except DepaiError as error:
            raise VoucherRefusedError("payload_invalid", str(error)) from error
        for name, seen, expected in (
            ("receiver_mismatch", channel.receiver, settings.receiver),
            ("receiver_authorizer_mismatch", channel.receiver_authorizer, settings.receiver_authorizer),
            ("token_mismatch", channel.token, settings.network.token),
            ("withdraw_delay_mismatch", channel.withdraw_delay_s, settings.withdraw_delay_s),
        ):
            if seen != expected:
                raise VoucherRefusedError(name, f"expected {expected!r}, got {seen!r}")
        if settings.served is not None and channel.payer_authorizer not in settings.served:
            raise VoucherRefusedError("payer_authorizer_mismatch", "not among the customers")
        return channel

    def require_known(
        self, key: bytes, channel: ChannelJson, payload: DepositPayload | None, state: ChannelState
    ) -> None:
        """A channel that is not in the books is new on chain, too, or was filled by this very deposit.

        Raises:
            VoucherRefusedError: what was charged on it is not known.
        """
        if not (state.balance_atomic or state.total_claimed_atomic):
            return
        if payload is not None and not state.total_claimed_atomic:
            deposit = json_to_deposit(payload.deposit)
            by_it = self._chain.is_used(key, channel, deposit.salt)
            if by_it and state.balance_atomic <= deposit.amount_atomic:
                return
        raise VoucherRefusedError("channel_busy", "opened elsewhere: what was charged is not known")

    def check_voucher(
        self,
        channel: ChannelJson,
        voucher: Voucher,
        state: ChannelState,
        *,
        charged_atomic: int,
        amount_atomic: int,
        arriving_atomic: int = 0,
    ) -> None:
        """See payment.voucher.

        Args:
            channel: that it is of.
            voucher: as it came.
            state: of the channel on chain.
            charged_atomic: so far.
            amount_atomic: that it shall add.
            arriving_atomic: escrow that a deposit will bring.

        Raises:
            VoucherRefusedError: first thing that is wrong.
        """
        limits = VoucherLimits(
            state.balance_atomic + arriving_atomic,
            state.total_claimed_atomic,
            charged_atomic=charged_atomic,
            amount_atomic=amount_atomic,
        )
        check_voucher(channel_config(channel), voucher, self._domain, limits)

    def deposit_arriving(
        self, key: bytes, channel: ChannelJson, tab: Tab | None, payload: DepositPayload, now_s: int
    ) -> int:
        """How much is still to arrive with a deposit; nothing when it is in.

        Raises:
            VoucherRefusedError: refused before, out of time, or not signed by the payer.
        """
        deposit = json_to_deposit(payload.deposit)
        known = None if tab is None else tab.deposit
        if tab is not None and known is not None:
            if known.salt == deposit.salt and tab.deposit_reason:
                raise VoucherRefusedError("deposit_transaction_failed", tab.deposit_reason)
            if tab.deposit_reason is None and known.salt != deposit.salt:
                raise VoucherRefusedError("channel_busy", "another deposit is under way")
            if known.salt == deposit.salt:
                return 0 if tab.deposit_reason is not None else known.amount_atomic
        if deposit.valid_before_s < now_s + MARGIN_S:
            raise VoucherRefusedError(
                "payload_authorization_valid_before",
                f"valid before {deposit.valid_before_s}, expected at least {now_s + MARGIN_S}",
            )
        if deposit.valid_after_s >= now_s:
            raise VoucherRefusedError(
                "payload_authorization_valid_after", f"valid after {deposit.valid_after_s}, now is {now_s}"
            )
        if deposit.amount_atomic < 1:
            raise VoucherRefusedError("deposit_payload", "a deposit must be positive")
        try:
            digest = digest_deposit(self._settings.network, channel.payer, key, deposit)
            verify(digest, deposit.signature, Address(channel.payer))
        except SignatureError as error:
            raise VoucherRefusedError("receive_authorization_signature", str(error)) from error
        return deposit.amount_atomic


def is_answered(tab: Tab, connector: int, voucher: Voucher) -> bool:
    """Whether this payment was answered, and charged something: if not, the same bytes are a new request."""
    sold = tab.answered
    if sold is None or tab.answer is None:
        return False
    same = (sold.connector, sold.ceiling_atomic, sold.signature)
    charged = tab.charged_atomic > sold.ceiling_atomic - sold.amount_atomic
    return charged and same == (connector, voucher.ceiling_atomic, voucher.signature)
