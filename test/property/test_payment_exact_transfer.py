"""Any transfer that was signed as asked is accepted; with any one thing changed it is refused."""

from dataclasses import fields, replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depai_robot.payment.eip712 import domain_separator
from depai_robot.payment.exact import (
    MARGIN_S,
    ExactPayload,
    TransferAuthorization,
    TransferRefusedError,
    check_transfer,
    json_to_transfer,
    transfer_digest,
    transfer_to_json,
)
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.money import UINT128_MAX

PAYER = DevelopmentSigner("payer")
addresses = st.binary(min_size=20, max_size=20)


@st.composite
def transfers(draw):
    """(transfer, token's domain, now) that any station must accept."""
    now_s = draw(st.integers(1, 2**40))
    domain = domain_separator(
        draw(st.text(max_size=20)), draw(st.text(max_size=5)), draw(st.integers(1, 2**63)), draw(addresses)
    )
    unsigned = TransferAuthorization(
        payer=PAYER.address,
        receiver=draw(addresses),
        amount_atomic=draw(st.integers(0, UINT128_MAX)),
        valid_after_s=draw(st.integers(0, now_s - 1)),
        valid_before_s=draw(st.integers(now_s + MARGIN_S, 2**256 - 1)),
        nonce=draw(st.binary(min_size=32, max_size=32)),
    )
    return replace(unsigned, signature=PAYER.sign(transfer_digest(domain, unsigned))), domain, now_s


def judge(transfer, asked, domain, now_s):
    check_transfer(transfer, domain, receiver=asked.receiver, amount_atomic=asked.amount_atomic, now_s=now_s)


@given(transfers())
def test_as_asked_is_accepted_also_over_the_wire(drawn):
    transfer, domain, now_s = drawn
    judge(transfer, transfer, domain, now_s)
    text = msgspec.json.encode(transfer_to_json(transfer))
    assert json_to_transfer(msgspec.json.decode(text, type=ExactPayload)) == transfer


@given(transfers(), st.data())
def test_one_changed_field_is_refused(drawn, data):
    transfer, domain, now_s = drawn
    name = data.draw(st.sampled_from([item.name for item in fields(transfer)]))
    old = getattr(transfer, name)
    if isinstance(old, int):
        new = data.draw(st.integers(0, UINT128_MAX).filter(lambda value: value != old))
    else:
        new = data.draw(st.binary(min_size=len(old), max_size=len(old)).filter(lambda value: value != old))
    with pytest.raises(TransferRefusedError, match="^invalid_exact_evm_payload_"):
        judge(replace(transfer, **{name: new}), transfer, domain, now_s)


@given(transfers(), st.binary(max_size=100))
def test_no_other_bytes_are_a_signature(drawn, signature):
    transfer, domain, now_s = drawn
    with pytest.raises(TransferRefusedError, match="signature"):
        judge(replace(transfer, signature=signature), transfer, domain, now_s)


@given(transfers(), st.integers(0, 2**41))
def test_it_holds_from_when_to_when_it_says(drawn, later_s):
    transfer, domain, _ = drawn
    if transfer.valid_after_s < later_s <= transfer.valid_before_s - MARGIN_S:
        judge(transfer, transfer, domain, later_s)
        return
    with pytest.raises(TransferRefusedError, match="authorization_valid_"):
        judge(transfer, transfer, domain, later_s)
