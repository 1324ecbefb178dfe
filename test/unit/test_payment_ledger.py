import pytest

from depai_robot.payment.ledger import DAY_S, Ledger
from depai_robot.payment.policy import SpendPolicy
from depai_robot.values.error import BugError

CHANNEL, OTHER = b"\x01" * 32, b"\x02" * 32
STATION = b"\x0a" * 20
NOW_S = 1_800_000_000


def make_ledger(deposit=10_000, signed=0, claimed=0):
    ledger = Ledger().promise(CHANNEL, STATION, deposit)
    ledger = ledger.observe(CHANNEL, balance_atomic=deposit, total_claimed_atomic=0)
    ledger = ledger.sign(CHANNEL, signed, NOW_S) if signed else ledger
    return ledger.observe(CHANNEL, balance_atomic=deposit, total_claimed_atomic=claimed)


def make_policy(**changes):
    limits = {
        name: 2**64
        for name in SpendPolicy.__slots__
        if name.endswith("_atomic") or name in ("valid_before_s", "withdraw_delay_max_s")
    }
    limits["price_max_atomic_per_kwh"] = 2**64
    return SpendPolicy(**{"robot": STATION, "epoch": 1, "valid_after_s": 0, **limits, **changes})


def test_an_unknown_channel_is_our_bug():
    with pytest.raises(BugError, match="no account"):
        Ledger().sign(CHANNEL, 1, NOW_S)


def test_a_ceiling_never_falls():
    ledger = make_ledger(signed=500)
    with pytest.raises(BugError, match="fall from 500 to 499"):
        ledger.sign(CHANNEL, 499, NOW_S)
    assert ledger.sign(CHANNEL, 500, NOW_S).account(CHANNEL).ceiling_atomic == 500


def test_a_ceiling_never_exceeds_the_escrow():
    ledger = make_ledger()
    assert ledger.sign(CHANNEL, 10_000, NOW_S).account(CHANNEL).ceiling_atomic == 10_000
    with pytest.raises(BugError, match="10001 is above 10000"):
        ledger.sign(CHANNEL, 10_001, NOW_S)


def test_money_that_went_back_is_no_escrow():
    ledger = make_ledger(signed=100, claimed=100).observe(
        CHANNEL, balance_atomic=100, total_claimed_atomic=100
    )
    with pytest.raises(BugError, match="101 is above 100"):
        ledger.sign(CHANNEL, 101, NOW_S)


def test_one_voucher_travels_with_a_deposit():
    ledger = Ledger().promise(CHANNEL, STATION, 10_000).sign(CHANNEL, 100, NOW_S)
    ledger.sign(CHANNEL, 100, NOW_S)  # the same again is no rise
    with pytest.raises(BugError, match="confirmed escrow 0"):
        ledger.sign(CHANNEL, 101, NOW_S)
    funded = ledger.observe(CHANNEL, balance_atomic=10_000, total_claimed_atomic=0)
    assert funded.account(CHANNEL).promised_atomic == 0
    funded.sign(CHANNEL, 101, NOW_S)
    with pytest.raises(BugError, match="10001"):
        Ledger().promise(CHANNEL, STATION, 10_000).sign(CHANNEL, 10_001, NOW_S)


@pytest.mark.parametrize("amount", [0, -1])
def test_a_promise_is_positive_and_to_the_same_receiver(amount):
    with pytest.raises(BugError, match="positive"):
        Ledger().promise(CHANNEL, STATION, amount)
    with pytest.raises(BugError, match="channel pays"):
        make_ledger().promise(CHANNEL, b"\x0b" * 20, 1)


def test_a_promise_counts_as_locked_until_it_lapses():
    ledger = Ledger().promise(CHANNEL, STATION, 7_000)
    assert ledger.escrow_total_atomic == 7_000
    assert ledger.release_promise(CHANNEL).escrow_total_atomic == 0


def test_a_claim_frees_what_was_locked():
    ledger = make_ledger(signed=4_000, claimed=3_000)
    assert ledger.escrow_total_atomic == 7_000
    assert ledger.unsettled_total_atomic == 1_000


def test_a_refund_settles_but_never_resets_totals():
    ledger = make_ledger(signed=4_000, claimed=3_000)
    ledger = ledger.observe(CHANNEL, balance_atomic=3_000, total_claimed_atomic=3_000)
    account = ledger.account(CHANNEL)
    assert (ledger.escrow_total_atomic, ledger.unsettled_total_atomic) == (0, 0)
    assert (account.ceiling_atomic, account.claimed_atomic, account.returned_atomic) == (4_000, 3_000, 7_000)
    # A top-up makes the old ceiling worth something again.
    assert ledger.promise(CHANNEL, STATION, 500).unsettled_total_atomic == 500
    assert ledger.promise(CHANNEL, STATION, 5_000).unsettled_total_atomic == 1_000
    ledger.check_conservation(CHANNEL, 3_000)


def test_money_comes_back_in_parts():
    ledger = make_ledger(signed=4_000, claimed=3_000)
    for balance in (8_000, 5_000, 3_000):
        ledger = ledger.observe(CHANNEL, balance_atomic=balance, total_claimed_atomic=3_000)
        ledger.check_conservation(CHANNEL, balance)
    assert ledger.account(CHANNEL).returned_atomic == 7_000


def test_a_reorganised_deposit_is_not_counted_twice():
    ledger = make_ledger().observe(CHANNEL, balance_atomic=0, total_claimed_atomic=0)
    assert ledger.escrow_total_atomic == 0
    ledger = ledger.observe(CHANNEL, balance_atomic=10_000, total_claimed_atomic=0)
    assert ledger.escrow_total_atomic == 10_000
    ledger.check_conservation(CHANNEL, 10_000)


@pytest.mark.parametrize(("balance", "claimed"), [(5, 6), (10_000, -1), (-1, -1)])
def test_a_reading_that_no_contract_gives_changes_nothing(balance, claimed):
    ledger = make_ledger(signed=4_000)
    assert ledger.observe(CHANNEL, balance_atomic=balance, total_claimed_atomic=claimed) == ledger


def test_conservation_is_checked():
    ledger = make_ledger(signed=4_000, claimed=3_000)
    ledger.check_conservation(CHANNEL, 10_000)
    for balance in (9_999, 10_001, 2_999):
        with pytest.raises(BugError, match="deposit 10000"):
            ledger.check_conservation(CHANNEL, balance)


def test_a_day_is_a_sliding_window():
    ledger = make_ledger(signed=1_000)
    ledger = ledger.sign(CHANNEL, 1_500, NOW_S + 3_600)
    assert ledger.day_atomic(NOW_S + 3_600) == 1_500
    assert ledger.day_atomic(NOW_S + DAY_S - 1) == 1_500
    assert ledger.day_atomic(NOW_S + DAY_S) == 500
    assert ledger.day_atomic(NOW_S + DAY_S + 3_600) == 0
    # A clock that was set back must not make room.
    assert ledger.day_atomic(NOW_S - 10 * DAY_S) == 1_500


def test_signing_forgets_only_what_is_older_than_a_day():
    ledger = make_ledger(signed=1_000)
    assert ledger.sign(CHANNEL, 1_200, NOW_S + DAY_S - 1).day_atomic(NOW_S + DAY_S - 1) == 1_200
    later = ledger.sign(CHANNEL, 1_200, NOW_S + DAY_S)
    assert later.account(CHANNEL).signed_by_time == ((NOW_S + DAY_S, 200),)


def test_day_counts_rises_of_every_channel_once():
    ledger = make_ledger(signed=1_000).promise(OTHER, STATION, 300).sign(OTHER, 200, NOW_S)
    assert ledger.day_atomic(NOW_S) == 1_200
    assert ledger.sign(OTHER, 200, NOW_S).day_atomic(NOW_S) == 1_200


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"day_max_atomic": 999}, "signed 1000 in a day"),
        ({"escrow_total_max_atomic": 9_999}, "locked 10000 in all"),
        ({"escrow_channel_max_atomic": 9_999}, "the policy allows 9999"),
        ({"escrow_unknown_max_atomic": 9_999}, "the policy allows 9999"),
        ({"escrow_unknown_max_atomic": 9_999, "payees": (STATION,)}, None),
    ],
)
def test_exposure_is_judged_by_a_policy(changes, words):
    refused = make_ledger(signed=1_000).refuse_exposure(make_policy(**changes), NOW_S)
    assert refused is None if words is None else words in refused


def test_a_ledger_is_a_value():
    ledger = make_ledger()
    before = dict(ledger.account_by_channel)
    ledger.sign(CHANNEL, 5, NOW_S)
    ledger.promise(OTHER, STATION, 1)
    assert ledger.account_by_channel == before
