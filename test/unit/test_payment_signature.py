import pytest

from depai_robot.payment.signature import (
    CURVE_ORDER,
    HALF_ORDER,
    SignatureError,
    check_form,
    recover,
    recover_public_key,
    verify,
)
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.error import RemoteError
from depai_robot.values.identity import keccak256

SIGNER = DevelopmentSigner("voucher key")
DIGEST = keccak256(b"message")
GOOD = SIGNER.sign(DIGEST)


def join(r: int, s: int, v: int) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([v])


R, S, V = int.from_bytes(GOOD[:32], "big"), int.from_bytes(GOOD[32:64], "big"), GOOD[64]


def test_a_good_signature_is_its_signers():
    assert recover(DIGEST, GOOD) == SIGNER.address
    assert recover_public_key(DIGEST, GOOD) == SIGNER.public_key
    verify(DIGEST, GOOD, SIGNER.address)


def test_signing_is_deterministic():
    assert SIGNER.sign(DIGEST) == GOOD


@pytest.mark.parametrize(
    ("signature", "words"),
    [
        (b"", "65 bytes"),
        (GOOD[:64], "got 64"),
        (GOOD + b"\0", "got 66"),
        (join(R, S, V - 27), "v must be"),
        (join(R, S, V + 10), "v must be"),
        (join(R, S, V + 8), "v must be"),
        (join(0, S, V), "r is not"),
        (join(CURVE_ORDER, S, V), "r is not"),
        (join(2**256 - 1, S, V), "r is not"),
        (join(R, 0, V), "s is not"),
        (join(R, HALF_ORDER + 1, V), "s is not"),
        (join(R, CURVE_ORDER - S, 55 - V), "high s"),
        (bytes(65), "v must be"),
    ],
)
def test_what_the_contract_reverts_is_refused_with_the_part_named(signature, words):
    with pytest.raises(SignatureError, match=words):
        recover(DIGEST, signature)


def test_largest_low_s_has_the_right_form():
    check_form(join(R, HALF_ORDER, V))
    check_form(join(CURVE_ORDER - 1, 1, V))


def test_an_x_that_is_on_no_point_is_refused():
    # x = 5 is not the abscissa of a point of y^2 = x^3 + 7.
    with pytest.raises(SignatureError, match="no public key"):
        recover(DIGEST, join(5, 1, 27))


def test_another_digest_is_another_signer():
    with pytest.raises(SignatureError, match="expected 0x" + SIGNER.address.hex()):
        verify(keccak256(b"other"), GOOD, SIGNER.address)


@pytest.mark.parametrize("digest", [b"", DIGEST[:31], DIGEST + b"\0"])
def test_a_digest_has_32_bytes(digest):
    with pytest.raises(SignatureError, match="digest"):
        recover(digest, GOOD)


def test_a_bad_signature_is_the_other_sides_fault():
    assert issubclass(SignatureError, RemoteError)
