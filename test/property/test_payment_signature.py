"""No bytes crash the verification, and what it accepts is what was signed."""

from eth_keys import KeyAPI
from eth_keys.backends import NativeECCBackend
from hypothesis import example, given, settings
from hypothesis import strategies as st

from depai_robot.payment.signature import CURVE_ORDER, HALF_ORDER, SignatureError, recover
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.identity import public_key_to_address

digests = st.binary(min_size=32, max_size=32)
signers = st.text(max_size=4).map(DevelopmentSigner)


@given(st.binary(max_size=40), st.binary(max_size=80))
@example(b"\0" * 32, b"\0" * 65)
@example(b"\xff" * 32, b"\xff" * 64 + b"\x1b")
def test_recover_never_crashes(digest, signature):
    try:
        assert len(recover(digest, signature)) == 20
    except SignatureError:
        pass


# Near the borders of the field and the group, where implementations slip.
borders = st.sampled_from([0, 1, HALF_ORDER, CURVE_ORDER, 2**256 - 2**32 - 977]).flatmap(
    lambda middle: st.integers(max(0, middle - 3), min(2**256 - 1, middle + 3))
)


@given(digests, borders | st.integers(0, 2**256 - 1), borders, st.sampled_from([27, 28]))
def test_well_formed_bytes_never_crash_and_low_s_only(digest, r, s, v):
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([v])
    try:
        recover(digest, signature)
    except SignatureError:
        return
    assert 0 < r < CURVE_ORDER
    assert 0 < s <= HALF_ORDER


@given(signers, digests)
def test_round_trip(signer, digest):
    assert recover(digest, signer.sign(digest)) == signer.address


@settings(max_examples=10)
@given(signers, digests)
def test_another_implementation_agrees(signer, digest):
    signature = signer.sign(digest)
    pure = KeyAPI(NativeECCBackend()).PrivateKey(signer.secret)
    assert pure.sign_msg_hash(digest).to_bytes() == signature[:64] + bytes([signature[64] - 27])
    assert public_key_to_address(pure.public_key.to_bytes()) == signer.address


@given(signers, digests, st.integers(0, 64), st.integers(1, 255))
def test_a_changed_byte_is_another_signer_or_none(signer, digest, place, change):
    signature = bytearray(signer.sign(digest))
    signature[place] ^= change
    try:
        assert recover(digest, bytes(signature)) != signer.address
    except SignatureError:
        pass
