"""The robot's books beside a model of the contract that they never see, in any order of events."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from depai_robot.payment.ledger import DAY_S, Ledger
from depai_robot.values.error import BugError

CHANNELS = [bytes([number]) * 32 for number in (1, 2)]
STATION = b"\x0a" * 20

channels = st.sampled_from(CHANNELS)
amounts = st.integers(1, 1_000)


class Contract:
    """What the settlement contract does to one channel."""

    def __init__(self):
        self.deposited = self.returned = self.claimed = 0

    @property
    def balance(self):
        return self.deposited - self.returned


class Books(RuleBasedStateMachine):
    @initialize()
    def begin(self):
        self.ledger = Ledger()
        self.contract = {channel: Contract() for channel in CHANNELS}
        self.promised = {channel: [] for channel in CHANNELS}
        self.signed = {channel: [0] for channel in CHANNELS}
        self.fronted = dict.fromkeys(CHANNELS, False)
        self.rises = []
        self.now_s = 1_800_000_000

    def account(self, channel):
        return self.ledger.account_by_channel.get(channel)

    @rule(channel=channels, amount=amounts)
    def promise(self, channel, amount):
        self.ledger = self.ledger.promise(channel, STATION, amount)
        self.promised[channel].append(amount)
        self.fronted[channel] = False

    @rule(channel=channels)
    def deposit_is_mined(self, channel):
        if self.promised[channel]:
            self.contract[channel].deposited += self.promised[channel].pop()

    @rule(channel=channels, share=st.integers(0, 100))
    def station_claims(self, channel, share):
        contract, ceiling = self.contract[channel], max(self.signed[channel])
        most = min(ceiling, contract.balance)
        if most > contract.claimed:
            contract.claimed += (most - contract.claimed) * share // 100

    @rule(channel=channels, share=st.integers(0, 100))
    def escrow_goes_back(self, channel, share):
        contract = self.contract[channel]
        contract.returned += (contract.balance - contract.claimed) * share // 100

    @rule(channel=channels)
    def chain_is_read(self, channel):
        if self.account(channel) is None:
            return
        contract = self.contract[channel]
        self.ledger = self.ledger.observe(
            channel, balance_atomic=contract.balance, total_claimed_atomic=contract.claimed
        )
        self.ledger.check_conservation(channel, contract.balance)
        if not self.account(channel).promised_atomic:
            self.fronted[channel] = False

    @rule(
        channel=channels,
        edge=st.sampled_from(["signed", "confirmed", "promised"]),
        by=st.sampled_from([-100, -1, 0, 1, 100]),
    )
    def voucher_is_wished(self, channel, edge, by):
        """Near the three borders that matter."""
        account = self.account(channel)
        if account is None:
            return
        signed, confirmed = account.ceiling_atomic, account.held_atomic
        promised = confirmed + account.promised_atomic
        ceiling = max(0, {"signed": signed, "confirmed": confirmed, "promised": promised}[edge] + by)
        before = self.ledger
        try:
            self.ledger = self.ledger.sign(channel, ceiling, self.now_s)
        except BugError:
            assert self.ledger is before
            return
        assert ceiling >= max(self.signed[channel])
        assert ceiling <= promised
        if ceiling > signed:
            # Beyond the confirmed escrow goes only the one voucher that travels with each deposit.
            assert ceiling <= confirmed or not self.fronted[channel]
            self.fronted[channel] = self.fronted[channel] or ceiling > confirmed
            self.rises.append((self.now_s, ceiling - signed))
        self.signed[channel].append(ceiling)

    @rule(seconds=st.sampled_from([0, 1, 3_600, DAY_S - 1, DAY_S]))
    def time_passes(self, seconds):
        self.now_s += seconds

    @invariant()
    def ceilings_are_the_highest_ever_signed(self):
        for channel in CHANNELS:
            account = self.account(channel)
            assert max(self.signed[channel]) == (0 if account is None else account.ceiling_atomic)

    @invariant()
    def the_day_is_a_sum_over_its_vouchers(self):
        expected = sum(rise for signed_s, rise in self.rises if signed_s > self.now_s - DAY_S)
        assert self.ledger.day_atomic(self.now_s) == expected

    @invariant()
    def nothing_is_negative(self):
        for account in self.ledger.account_by_channel.values():
            assert 0 <= account.claimed_atomic <= account.held_atomic
            assert account.locked_atomic >= 0
            assert 0 <= account.unsettled_atomic <= account.locked_atomic

    @invariant()
    def what_the_station_can_take_is_known(self):
        """Invariant 2: with what is promised mined, no claim exceeds the books' unsettled sum."""
        for channel in CHANNELS:
            account, contract = self.account(channel), self.contract[channel]
            if account is None or account.held_atomic != contract.balance:
                continue  # the chain has moved since it was read
            takeable = min(max(self.signed[channel]), contract.balance + sum(self.promised[channel]))
            assert takeable - account.claimed_atomic <= account.unsettled_atomic


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
