from dataclasses import replace

import pytest

from depai_robot.payment.channel import ChannelConfig, Voucher
from depai_robot.payment.eip712 import channel_id, settlement_domain, voucher_digest
from depai_robot.payment.voucher import VoucherLimits, VoucherRefusedError, check_config, check_voucher
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.identity import ADDRESS_ZERO

DOMAIN = settlement_domain(31337)
KEY = DevelopmentSigner("voucher key")
CONFIG = ChannelConfig(
    payer=DevelopmentSigner("owner").address,
    payer_authorizer=KEY.address,
    receiver=DevelopmentSigner("station").address,
    receiver_authorizer=DevelopmentSigner("station").address,
    token=DevelopmentSigner("token").address,
    withdraw_delay_s=3600,
    salt=bytes(32),
)
LIMITS = VoucherLimits(
    balance_atomic=100_000, total_claimed_atomic=2_000, charged_atomic=4_000, amount_atomic=1_000
)


def make_voucher(ceiling=5_000, key=KEY, config=CONFIG, **changes):
    channel = channel_id(config, DOMAIN)
    good = Voucher(channel, ceiling, key.sign(voucher_digest(channel, ceiling, DOMAIN)))
    return replace(good, **changes)


def reason_of(voucher, limits=LIMITS, config=CONFIG):
    with pytest.raises(VoucherRefusedError) as caught:
        check_voucher(config, voucher, DOMAIN, limits)
    assert caught.value.reason in str(caught.value)
    return caught.value.reason.removeprefix("invalid_batch_settlement_evm_")


def test_charged_plus_amount_is_accepted():
    check_voucher(CONFIG, make_voucher(), DOMAIN, LIMITS)


@pytest.mark.parametrize("ceiling", [4_999, 5_001, 4_000])
def test_any_other_ceiling_is_a_mismatch(ceiling):
    assert reason_of(make_voucher(ceiling)) == "cumulative_amount_mismatch"


def test_a_refund_voucher_is_exactly_what_is_charged():
    limits = replace(LIMITS, amount_atomic=0)
    check_voucher(CONFIG, make_voucher(4_000), DOMAIN, limits)
    assert reason_of(make_voucher(4_001), limits) == "cumulative_amount_mismatch"


def test_without_an_amount_only_the_contracts_rules_count():
    limits = replace(LIMITS, amount_atomic=None)
    for ceiling in (2_000, 100_000):
        check_voucher(CONFIG, make_voucher(ceiling), DOMAIN, limits)
    assert reason_of(make_voucher(1_999), limits) == "cumulative_below_claimed"
    assert reason_of(make_voucher(100_001), limits) == "cumulative_exceeds_balance"


def test_escrow_is_judged_before_the_amount():
    limits = replace(LIMITS, balance_atomic=4_500)
    assert reason_of(make_voucher(), limits) == "cumulative_exceeds_balance"


def test_no_voucher_while_a_withdrawal_is_pending():
    assert reason_of(make_voucher(), replace(LIMITS, withdraw_pending=True)) == "channel_busy"


@pytest.mark.parametrize("part", ["payer", "receiver", "receiver_authorizer", "token", "salt"])
def test_a_voucher_is_for_one_channel(part):
    other = replace(CONFIG, **{part: b"\x01" * len(getattr(CONFIG, part))})
    assert reason_of(make_voucher(config=other)) == "channel_id_mismatch"


def test_another_key_is_refused():
    assert reason_of(make_voucher(key=DevelopmentSigner("payer"))) == "voucher_signature"


@pytest.mark.parametrize("signature", [b"", bytes(64), bytes(65), bytes(66), b"\xff" * 65, b"\xff" * 1000])
def test_no_bytes_crash_it(signature):
    assert reason_of(make_voucher(signature=signature)) == "voucher_signature"


def test_a_zero_authorizer_is_refused_whoever_signed():
    config = replace(CONFIG, payer_authorizer=ADDRESS_ZERO)
    assert reason_of(make_voucher(config=config), config=config) == "voucher_signature"


@pytest.mark.parametrize("delay", [0, 899, 30 * 86400 + 1])
def test_delays_that_the_contract_refuses(delay):
    with pytest.raises(VoucherRefusedError, match="withdraw_delay_out_of_range"):
        check_config(replace(CONFIG, withdraw_delay_s=delay))


@pytest.mark.parametrize("delay", [900, 30 * 86400])
def test_delays_at_the_contracts_limits(delay):
    check_config(replace(CONFIG, withdraw_delay_s=delay))
