"""Strict checking of 65-byte secp256k1 signatures by recovery. Signing needs a key and is a port.

Stricter than common verifiers on purpose: what the settlement contract reverts (high s, v other than 27 or 28,
compact form) must never be accepted off chain, or one such voucher makes a whole claim batch fail.
Source: OpenZeppelin ECDSA rules as the canonical contract applies them; EIP-2 (low s).
"""

from coincurve import PublicKey

from depai_robot.values.error import RemoteError
from depai_robot.values.identity import Address, public_key_to_address

CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""n of secp256k1. Source: SEC 2, § 2.4.1."""
HALF_ORDER = CURVE_ORDER // 2
SIGNATURE_BYTES = 65


class SignatureError(RemoteError):
    """A signature is not one that the contract would accept."""


def check_form(signature: bytes) -> None:
    """Length, v, r and s are what the contract accepts.

    Raises:
        SignatureError: naming the part that is wrong.
    """
    if len(signature) != SIGNATURE_BYTES:
        raise SignatureError(f"a signature has 65 bytes r || s || v, got {len(signature)}")
    r, s, v = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big"), signature[64]
    if v not in (27, 28):
        raise SignatureError(f"v must be 27 or 28, got {v}")
    if not 0 < r < CURVE_ORDER:
        raise SignatureError("r is not between 1 and n - 1")
    if not 0 < s <= HALF_ORDER:
        raise SignatureError(
            "s is not between 1 and n / 2 (high s is malleable, and the contract reverts on it)"
        )


def recover_public_key(digest: bytes, signature: bytes) -> bytes:
    """64 bytes x || y of the key that signed.

    Raises:
        SignatureError: the form is wrong, or no key fits.
    """
    if len(digest) != 32:
        raise SignatureError(f"a digest has 32 bytes, got {len(digest)}")
    check_form(signature)
    try:
        key = PublicKey.from_signature_and_message(
            signature[:64] + bytes([signature[64] - 27]), digest, hasher=None
        )
    except Exception as error:
        # libsecp256k1 has no type of its own for "no key fits"; any failure here is a bad signature.
        raise SignatureError(f"no public key fits the signature: {error}") from error
    return bytes(key.format(compressed=False)[1:])


def recover(digest: bytes, signature: bytes) -> Address:
    """Address of the signer of a 32-byte digest. Raises SignatureError."""
    return public_key_to_address(recover_public_key(digest, signature))


def verify(digest: bytes, signature: bytes, expected: Address) -> None:
    """The signature is by that address.

    Raises:
        SignatureError: wrong form, or another signer.
    """
    seen = recover(digest, signature)
    if seen != expected:
        raise SignatureError(f"signed by 0x{seen.hex()}, expected 0x{expected.hex()}")
