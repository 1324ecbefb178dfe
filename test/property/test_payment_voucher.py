"""Good vouchers are accepted; each rule has a sibling with one thing spoiled."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depai_robot.payment.channel import WITHDRAW_DELAY_MAX_S, WITHDRAW_DELAY_MIN_S, ChannelConfig, Voucher
from depai_robot.payment.eip712 import channel_id, settlement_domain, voucher_digest
from depai_robot.payment.voucher import VoucherLimits, VoucherRefusedError, check_voucher
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.money import UINT128_MAX

KEY = DevelopmentSigner("voucher key")
addresses = st.binary(min_size=20, max_size=20)


@st.composite
def agreements(draw):
    """(config, domain, limits, voucher) that any station must accept."""
    config = ChannelConfig(
        payer=draw(addresses),
        payer_authorizer=KEY.address,
        receiver=draw(addresses),
        receiver_authorizer=draw(addresses),
        token=draw(addresses),
        withdraw_delay_s=draw(st.integers(WITHDRAW_DELAY_MIN_S, WITHDRAW_DELAY_MAX_S)),
        salt=draw(st.binary(min_size=32, max_size=32)),
    )
    domain = settlement_domain(draw(st.integers(1, 2**64)))
    claimed, charged, amount, spare = (draw(st.integers(0, 2**64)) for _ in range(4))
    charged += claimed
    ceiling = charged + amount
    limits = VoucherLimits(ceiling + spare, claimed, charged_atomic=charged, amount_atomic=amount)
    channel = channel_id(config, domain)
    return (
        config,
        domain,
        limits,
        Voucher(channel, ceiling, KEY.sign(voucher_digest(channel, ceiling, domain))),
    )


@given(agreements())
def test_a_good_voucher_is_accepted(agreement):
    config, domain, limits, voucher = agreement
    check_voucher(config, voucher, domain, limits)


@given(agreements(), st.data())
def test_one_changed_field_of_the_channel_is_refused(agreement, data):
    config, domain, limits, voucher = agreement
    name = data.draw(st.sampled_from([item.name for item in fields(config)]))
    old = getattr(config, name)
    if isinstance(old, int):
        new = data.draw(st.integers(0, 2**40 - 1).filter(lambda v: v != old))
    else:
        new = data.draw(st.binary(min_size=len(old), max_size=len(old)).filter(lambda v: v != old))
    with pytest.raises(VoucherRefusedError):
        check_voucher(replace(config, **{name: new}), voucher, domain, limits)


@given(agreements(), st.integers(0, UINT128_MAX))
def test_another_ceiling_is_refused_even_when_signed(agreement, ceiling):
    config, domain, limits, voucher = agreement
    if ceiling == voucher.ceiling_atomic:
        return
    unsigned = replace(voucher, ceiling_atomic=ceiling)
    signed = replace(unsigned, signature=KEY.sign(voucher_digest(voucher.channel_id, ceiling, domain)))
    for spoiled in (unsigned, signed):
        with pytest.raises(VoucherRefusedError):
            check_voucher(config, spoiled, domain, limits)


@given(agreements(), st.binary(max_size=70))
def test_another_signature_is_refused(agreement, signature):
    config, domain, limits, voucher = agreement
    if signature == voucher.signature:
        return
    with pytest.raises(VoucherRefusedError, match="voucher_signature"):
        check_voucher(config, replace(voucher, signature=signature), domain, limits)


@given(agreements(), st.integers(1, 2**64))
def test_what_is_above_the_escrow_or_below_the_claims_is_refused(agreement, by):
    config, domain, limits, voucher = agreement
    ceiling = voucher.ceiling_atomic
    if ceiling >= by:
        with pytest.raises(VoucherRefusedError, match="exceeds_balance"):
            check_voucher(config, voucher, domain, replace(limits, balance_atomic=ceiling - by))
    with pytest.raises(VoucherRefusedError, match="below_claimed"):
        check_voucher(
            config,
            voucher,
            domain,
            replace(limits, total_claimed_atomic=ceiling + by, balance_atomic=ceiling + by),
        )
