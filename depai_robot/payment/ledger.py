"""What was signed, locked and got back, channel by channel: folded from facts, never forgotten.

Exposure is the highest ceiling ever signed: a lower later voucher revokes nothing, and a refund never resets a
channel's totals.
"""

from dataclasses import dataclass, field, replace

from depai_robot.payment.policy import SpendPolicy, escrow_single_max_atomic
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
        fronted: a voucher was signed on the promise already; no other before the deposit is there.
        signed_by_time: (Unix seconds, rise of the ceiling) of each voucher, for the day's limit.
    """

    receiver: Address
    escrow_atomic: int = 0
    promised_atomic: int = 0
    ceiling_atomic: int = 0
    claimed_atomic: int = 0
    returned_atomic: int = 0
    fronted: bool = False
    signed_by_time: tuple[tuple[int, int], ...] = ()

    @property
    def held_atomic(self) -> int:
        """Confirmed escrow that has not gone back: the contract's balance. No ceiling may exceed it."""
        return self.escrow_atomic - self.returned_atomic

    @property
    def locked_atomic(self) -> int:
        """Escrow that is neither claimed nor back, with what was promised."""
        return self.held_atomic - self.claimed_atomic + self.promised_atomic

    @property
    def unsettled_atomic(self) -> int:
        """Signed, and not yet claimed: what the receiver can still take, promised deposits included."""
        return max(0, min(self.ceiling_atomic, self.held_atomic + self.promised_atomic) - self.claimed_atomic)


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
        """A deposit is about to be signed.

        Raises:
            BugError: the amount is not positive, or the channel pays somebody else.
        """
        account = self.account_by_channel.get(channel, ChannelAccount(receiver))
        if amount_atomic <= 0:
            raise BugError(f"a deposit must be positive, got {amount_atomic}")
        if account.receiver != receiver:
            raise BugError(f"channel pays 0x{account.receiver.hex()}, not 0x{receiver.hex()}")
        promised = account.promised_atomic + amount_atomic
        return self._with(channel, replace(account, promised_atomic=promised, fronted=False))

    def sign(self, channel: ChannelId, ceiling_atomic: int, now_s: int) -> "Ledger":
        """A voucher is about to be signed.

        It must lie within the confirmed escrow. The one exception is the voucher that travels with a deposit: it may
        lie within what that deposit promises, since it is worth nothing until the deposit is there, and no further
        rise is allowed before that.

        Raises:
            BugError: it would fall below an earlier one, or rise above the channel's escrow (invariant 1).
        """
        account = self.account(channel)
        if ceiling_atomic < account.ceiling_atomic:
            raise BugError(f"ceiling would fall from {account.ceiling_atomic} to {ceiling_atomic}")
        rise = ceiling_atomic - account.ceiling_atomic
        with_deposit = not account.fronted or rise == 0
        allowed = account.held_atomic + (account.promised_atomic if with_deposit else 0)
        if ceiling_atomic > allowed:
            raise BugError(
                f"ceiling {ceiling_atomic} is above {allowed}: confirmed escrow {account.held_atomic}, "
                f"promised {account.promised_atomic}, signed {account.ceiling_atomic}"
            )
        # Only a day counts; older entries are summed into nothing.
        recent = tuple(entry for entry in account.signed_by_time if entry[0] > now_s - DAY_S)
        if rise:
            recent = (*recent, (now_s, rise))
        fronted = account.fronted or ceiling_atomic > account.held_atomic
        signed = replace(account, ceiling_atomic=ceiling_atomic, signed_by_time=recent, fronted=fronted)
        return self._with(channel, signed)

    def observe(self, channel: ChannelId, *, balance_atomic: int, total_claimed_atomic: int) -> "Ledger":
        """The chain was read.

        The contract's balance is what was deposited less what went back, so a fall of it is money returned, and a
        deposit that a reorganisation took out is returned until it is mined again. A reading that no contract can
        give (more claimed than there is) changes nothing: the books never follow a lying node, and a wallet must not
        be stopped for good by a row that every later recovery folds again.
        """
        account = self.account(channel)
        if not 0 <= total_claimed_atomic <= balance_atomic:
            return self
        held = account.held_atomic
        if balance_atomic > held:
            arrived = balance_atomic - held
            account = replace(
                account,
                escrow_atomic=account.escrow_atomic + arrived,
                promised_atomic=max(0, account.promised_atomic - arrived),
                fronted=account.fronted and arrived < account.promised_atomic,
            )
        elif balance_atomic < held:
            account = replace(account, returned_atomic=account.returned_atomic + held - balance_atomic)
        return self._with(channel, replace(account, claimed_atomic=total_claimed_atomic))

    def release_promise(self, channel: ChannelId) -> "Ledger":
        """A deposit's authorization has expired unused."""
        return self._with(channel, replace(self.account(channel), promised_atomic=0, fronted=False))

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

    def refuse_exposure(self, policy: SpendPolicy, now_s: int) -> str | None:
        """Why the books lie outside a policy (invariant 2), or None. A tightened policy may be exceeded already."""
        day_atomic = self.day_atomic(now_s)
        if day_atomic > policy.day_max_atomic:
            return f"signed {day_atomic} in a day, the policy allows {policy.day_max_atomic}"
        if self.escrow_total_atomic > policy.escrow_total_max_atomic:
            return f"locked {self.escrow_total_atomic} in all, the policy allows {policy.escrow_total_max_atomic}"
        for account in self.account_by_channel.values():
            allowed = escrow_single_max_atomic(policy, account.receiver)
            if account.locked_atomic > allowed:
                return f"locked {account.locked_atomic} with 0x{account.receiver.hex()}, the policy allows {allowed}"
        return None

    def check_conservation(self, channel: ChannelId, balance_atomic: int) -> None:
        """What was deposited is claimed, returned or left (invariant 6).

        Raises:
            BugError: the books and the contract differ.
        """
        account = self.account(channel)
        left = balance_atomic - account.claimed_atomic
        if left < 0 or account.escrow_atomic != account.claimed_atomic + account.returned_atomic + left:
            raise BugError(
                f"deposit {account.escrow_atomic} is not claimed {account.claimed_atomic} + returned "
                f"{account.returned_atomic} + left {left}"
            )
