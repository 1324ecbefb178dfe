"""Envelopes under arbitrary and under spoiled bytes."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import fuzz_wire, wire_seed
from bench.wire_seed import CHAIN_ID, NOW_S, STATION
from depai_robot.charging import envelope
from depai_robot.charging.envelope import RefusedMessageError, open_token, verify_token
from depai_robot.charging.message import QuoteCounter, SessionStop

SEED_TOKENS = wire_seed.make_tokens()


def test_twenty_thousand_spoiled_messages():
    report = fuzz_wire.fuzz(20_000, seed=20)
    assert report.count == 20_000
    assert report.signed_count == 10_000
    assert report.let_in_unsigned_count == 0
    assert set(report.refused) == set(envelope.REFUSAL_CODES)
    # Enough get past the signature and the envelope for the bodies to be tried.
    assert report.refused_signed["body"] > 1000
    assert report.let_in_count > 500


def test_the_same_seed_spoils_the_same_way():
    first, second = fuzz_wire.Spoiler(7), fuzz_wire.Spoiler(7)
    assert [first.signed() for _ in range(50)] == [second.signed() for _ in range(50)]
    assert [first.unsigned() for _ in range(50)] == [second.unsigned() for _ in range(50)]


@given(
    st.binary() | st.text() | st.from_regex(r"[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*", fullmatch=True)
)
def test_any_input_is_refused_and_nothing_else(token):
    for read in (
        lambda: verify_token(token, now_s=NOW_S, chain_id=CHAIN_ID, recipient=STATION.address),
        lambda: open_token(token if isinstance(token, str) else token.decode("latin-1")),
    ):
        with pytest.raises(RefusedMessageError) as caught:
            read()
        assert caught.value.code in envelope.REFUSAL_CODES
        assert str(caught.value).isprintable()


@given(st.sampled_from(SEED_TOKENS), st.data())
def test_no_bit_can_be_changed(token, data):
    position = data.draw(st.integers(0, len(token) - 1))
    changed = bytearray(token.encode())
    changed[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(RefusedMessageError):
        verify_token(bytes(changed), now_s=NOW_S, chain_id=CHAIN_ID, recipient=STATION.address)


@given(
    text=st.text(max_size=512, alphabet=st.characters(exclude_categories=["Cs"])),
    amount=st.integers(0, 2**63 - 1),
    seq=st.integers(0, 2**53),
)
def test_what_is_sealed_comes_out_the_same(text, amount, seq):
    for body in (SessionStop("Other", text), QuoteCounter(amount, 2)):
        draft = wire_seed.make_draft(body, seq=seq)
        token = wire_seed.seal(draft)
        verified = verify_token(token, now_s=NOW_S, chain_id=CHAIN_ID, recipient=STATION.address)
        assert verified.draft == open_token(token) == draft
        for part in token.split("."):
            assert base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
