"""What was signed, locked and got back, channel by channel: folded from facts, never forgotten.

Exposure is the highest ceiling ever signed: a lower later voucher revokes nothing, and a refund never resets a
channel's totals.
"""

from dataclasses import dataclass, field, replace

from depai_robot.values.error import BugError
from depai_robot.values.identity import Address, ChannelId

DAY_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class ChannelAccount:
    """One channel in the books of its payer.

    Attributes:
        receiver: who is paid.
        escrow_atomic: confirmed deposits, cumulative.
        promised_atomic: deposits signed and not yet confirmed.
        ceiling_atomic: the highest ceiling ever signed.
        claimed_atomic: claimed on chain.
        returned_atomic: refunded and withdrawn.
        signed_by_time: (Unix seconds, rise of the ceiling) of each voucher, for the day's limit.
    """

    receiver: Address
    escrow_atomic: int = 0
    promised_atomic: int = 0
    ceiling_atomic: int = 0
    claimed_atomic: int = 0
    returned_atomic: int = 0
    signed_by_time: tuple[tuple[int, int], ...] = ()

    @property
    def locked_atomic(self) -> int:
        """Escrow that is neither claimed nor back, with what was promised."""
        return self.escrow_atomic - self.claimed_atomic - self.returned_atomic + self.promised_atomic

    @property
    def unsettled_atomic(self) -> int:
        """Signed, and not yet claimed: what the receiver can still take."""
        if self.locked_atomic == 0:
            return 0
        return max(0, self.ceiling_atomic - self.claimed_atomic)


@dataclass(frozen=True)
class Ledger:
    """Every channel of one voucher key.

    Attributes:
        account_by_channel: the books.
    """

    account_by_channel: dict[ChannelId, ChannelAccount] = field(default_factory=dict)

    def account(self, channel: ChannelId) -> ChannelAccount:
        """Raises BugError for a channel that was never opened."""
        if channel not in self.account_by_channel:
            raise BugError(f"no account for channel 0x{channel.hex()}")
        return self.account_by_channel[channel]

    def _with(self, channel: ChannelId, account: ChannelAccount) -> "Ledger":
        return Ledger({**self.account_by_channel, channel: account})

    def promise(self, channel: ChannelId, receiver: Address, amount_atomic: int) -> "Ledger":
        """A deposit is about to be signed."""
        account = self.account_by_channel.get(channel, ChannelAccount(receiver))
        return self._with(channel, replace(account, promised_atomic=account.promised_atomic + amount_atomic))

    def sign(self, channel: ChannelId, ceiling_atomic: int, now_s: int) -> "Ledger":
        """A voucher is about to be signed.

        Raises:
            BugError: it would fall below an earlier one, or rise above the channel's escrow (invariant 1).
        """
        account = self.account(channel)
        if ceiling_atomic < account.ceiling_atomic:
            raise BugError(f"ceiling would fall from {account.ceiling_atomic} to {ceiling_atomic}")
        if ceiling_atomic > account.escrow_atomic + account.promised_atomic:
            raise BugError(
                f"ceiling {ceiling_atomic} is above the escrow {account.escrow_atomic} + {account.promised_atomic}"
            )
        rise = ceiling_atomic - account.ceiling_atomic
        # Only a day counts; older entries are summed into nothing.
        recent = tuple(entry for entry in account.signed_by_time if entry[0] > now_s - DAY_S)
        if rise:
            recent = (*recent, (now_s, rise))
        return self._with(channel, replace(account, ceiling_atomic=ceiling_atomic, signed_by_time=recent))

    def observe(self, channel: ChannelId, *, balance_atomic: int, total_claimed_atomic: int) -> "Ledger":
        """The chain was read.

        The contract's balance is what was deposited less what went back, so a fall of it is money returned.

        Raises:
            BugError: claims fell, or more was claimed than is there.
        """
        account = self.account(channel)
        if total_claimed_atomic > balance_atomic:
            raise BugError(f"claimed {total_claimed_atomic} of a balance of {balance_atomic}")
        held = account.escrow_atomic - account.returned_atomic
        if balance_atomic > held:
            arrived = balance_atomic - held
            account = replace(
                account,
                escrow_atomic=account.escrow_atomic + arrived,
                promised_atomic=max(0, account.promised_atomic - arrived),
            )
        elif balance_atomic < held:
            account = replace(account, returned_atomic=account.returned_atomic + held - balance_atomic)
        return self._with(channel, replace(account, claimed_atomic=total_claimed_atomic))

    def release_promise(self, channel: ChannelId) -> "Ledger":
        """A deposit's authorization has expired unused."""
        return self._with(channel, replace(self.account(channel), promised_atomic=0))

    @property
    def escrow_total_atomic(self) -> int:
        """Locked in all channels together."""
        return sum(account.locked_atomic for account in self.account_by_channel.values())

    @property
    def unsettled_total_atomic(self) -> int:
        """Signed and not yet settled, over all channels (invariant 2)."""
        return sum(account.unsettled_atomic for account in self.account_by_channel.values())

    def day_atomic(self, now_s: int) -> int:
        """Signed in the last 24 hours."""
        return sum(
            rise
            for account in self.account_by_channel.values()
            for signed_s, rise in account.signed_by_time
            if signed_s > now_s - DAY_S
        )

    def check_conservation(self, channel: ChannelId, balance_atomic: int) -> None:
        """What was deposited is claimed, returned or left (invariant 6).

        Raises:
            BugError: the books and the contract differ.
        """
        account = self.account(channel)
        left = balance_atomic - account.claimed_atomic
        if account.escrow_atomic != account.claimed_atomic + account.returned_atomic + left:
            raise BugError(
                f"deposit {account.escrow_atomic} is not claimed {account.claimed_atomic} + returned "
                f"{account.returned_atomic} + left {left}"
            )
