"""Messages as JWS (ES256K, compact) by the sender's identity key: sealing, and the only way in.

``did:pkh`` holds only an address, so the protected header is exactly ``{alg, kid, jwk}`` and the key in it must hash
to the address in ``kid``. Pure: the signature itself comes from a Signer, the time from the caller.
Sources: RFC 7515 (JWS), RFC 8812 (ES256K), RFC 7638 (order of JWK members), did:pkh.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from coincurve import PublicKey
from coincurve.ecdsa import cdata_to_der, deserialize_compact
from msgspec import Meta, Struct

from depai_robot.charging.message import (
    BODY_BY_TYPE,
    MESSAGE_BYTES_MAX,
    TYPE_BY_BODY,
    WIRE_VERSION,
    Draft,
    EnvelopeJson,
)
from depai_robot.payment.signature import CURVE_ORDER, HALF_ORDER
from depai_robot.values.error import BugError, ConfigError, RemoteError
from depai_robot.values.identity import Address, did_pkh, parse_did_pkh, public_key_to_address

CLOCK_SKEW_MAX_S = 120
"""Clocks of two honest sides may differ by this much."""
LIFETIME_MAX_S = 3600
LIFETIME_OFFER_MAX_S = 24 * 3600
EVERYBODY = "*"
"""Addressee of offers."""

_SEGMENT_BYTES_MAX = 1024
"""A header is about 300 bytes; a longer one is no header of ours."""


class RefusedMessageError(RemoteError):
    """A message that does not get in.

    Attributes:
        code: one of a short list of words, for counting.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code


class _Jwk(Struct, frozen=True, forbid_unknown_fields=True):
    crv: Literal["secp256k1"]
    kty: Literal["EC"]
    x: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{43}$")]
    y: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{43}$")]


class _Header(Struct, frozen=True, forbid_unknown_fields=True):
    alg: Literal["ES256K"]
    kid: Annotated[str, Meta(max_length=96)]
    jwk: _Jwk


_HEADER = msgspec.json.Decoder(_Header)
_ENVELOPE = msgspec.json.Decoder(EnvelopeJson)
_BODIES: dict[str, msgspec.json.Decoder[Any]] = {
    name: msgspec.json.Decoder(body) for name, body in BODY_BY_TYPE.items()
}


@dataclass(frozen=True, slots=True)
class Verified:
    """A message whose signature, time, form and addressee are right.

    Attributes:
        sender: address of the identity key that signed.
        draft: what it says.
    """

    sender: Address
    draft: Draft


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(part: bytes, what: str) -> bytes:
    try:
        data = base64.b64decode(part + b"=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise RefusedMessageError("form", f"{what} is not base64url") from error
    if base64.urlsafe_b64encode(data).rstrip(b"=") != part:
        raise RefusedMessageError("form", f"{what} is not canonical base64url")
    return data


def encode_header(public_key: bytes, chain_id: int) -> str:
    """The protected header of every message of one key; compute once.

    Args:
        public_key: 64 bytes x || y.
        chain_id: of the did:pkh.
    """
    header = _Header(
        alg="ES256K",
        kid=did_pkh(chain_id, public_key_to_address(public_key)),
        jwk=_Jwk(crv="secp256k1", kty="EC", x=_encode(public_key[:32]), y=_encode(public_key[32:])),
    )
    return _encode(msgspec.json.encode(header))


def encode_signing_input(draft: Draft, header: str) -> bytes:
    """``header.payload``, what is hashed and signed; the same draft always gives the same bytes.

    Raises:
        BugError: the body is not a message, or the whole is too long.
    """
    kind = TYPE_BY_BODY.get(type(draft.body))
    if kind is None:
        raise BugError(f"{type(draft.body).__name__} is not a message body")
    payload = EnvelopeJson(
        v=WIRE_VERSION,
        id=draft.id,
        session=draft.session,
        seq=draft.seq,
        ts=draft.ts,
        exp=draft.exp,
        to=draft.to,
        type=kind,
        body=msgspec.Raw(msgspec.json.encode(draft.body)),
    )
    signing_input = f"{header}.{_encode(msgspec.json.encode(payload))}".encode()
    if len(signing_input) + 88 > MESSAGE_BYTES_MAX:
        raise BugError(
            f"a message must fit {MESSAGE_BYTES_MAX} bytes, this one has {len(signing_input) + 88}"
        )
    return signing_input


def signing_digest(signing_input: bytes) -> bytes:
    """SHA-256, as ES256K wants it."""
    return hashlib.sha256(signing_input).digest()


def assemble(signing_input: bytes, signature: bytes) -> str:
    """The token, from the signing input and 64 or 65 bytes r || s (|| v)."""
    if len(signature) not in (64, 65):
        raise BugError(f"expected r || s of 64 bytes, got {len(signature)}")
    return f"{signing_input.decode()}.{_encode(signature[:64])}"


def verify_token(token: bytes | str, *, now_s: int, chain_id: int, recipient: Address | None) -> Verified:
    """Lets a message in, or refuses it. Cheap checks come before the signature. Raises nothing else on any bytes.

    Args:
        token: as it came.
        now_s: wall clock, Unix seconds.
        chain_id: of the network that identities live on.
        recipient: our identity's address; None accepts only messages to everybody.

    Raises:
        RefusedMessageError: its ``code`` is one of size, form, header, key, time, addressee, signature, version,
            type, body.
    """
    raw = token.encode("utf-8", "surrogatepass") if isinstance(token, str) else bytes(token)
    if len(raw) > MESSAGE_BYTES_MAX:
        raise RefusedMessageError("size", f"{len(raw)} bytes, at most {MESSAGE_BYTES_MAX}")
    parts = raw.split(b".")
    if len(parts) != 3:
        raise RefusedMessageError("form", f"expected header.payload.signature, got {len(parts)} parts")
    if len(parts[0]) > _SEGMENT_BYTES_MAX:
        raise RefusedMessageError("header", f"{len(parts[0])} bytes, at most {_SEGMENT_BYTES_MAX}")
    sender, public_key = _check_header(_decode(parts[0], "header"), chain_id)
    signature = _decode(parts[2], "signature")
    envelope = _decode_envelope(_decode(parts[1], "payload"))
    _check_time(envelope, now_s)
    mine = EVERYBODY if recipient is None else did_pkh(chain_id, recipient)
    if envelope.to not in (mine, EVERYBODY) or (envelope.to == EVERYBODY) != (envelope.type == "offer"):
        raise RefusedMessageError("addressee", f"to {envelope.to!r}, expected {mine}")
    _check_signature(public_key, parts[0] + b"." + parts[1], signature)
    return Verified(sender, _to_draft(envelope))


def open_token(token: str) -> Draft:
    """What a token of our own journal says, its signature unchecked: it was checked before it came in.

    Raises:
        RefusedMessageError: it is not a message at all.
    """
    parts = token.encode().split(b".")
    if len(parts) != 3:
        raise RefusedMessageError("form", f"expected header.payload.signature, got {len(parts)} parts")
    return _to_draft(_decode_envelope(_decode(parts[1], "payload")))


def _check_header(data: bytes, chain_id: int) -> tuple[Address, PublicKey]:
    try:
        header = _HEADER.decode(data)
        did_chain, address = parse_did_pkh(header.kid)
    except (msgspec.MsgspecError, ConfigError, RecursionError, UnicodeDecodeError) as error:
        raise RefusedMessageError("header", str(error)) from error
    if msgspec.json.encode(header) != data:
        raise RefusedMessageError("header", "is not in canonical form (order, spaces or repeated keys)")
    if did_chain != chain_id:
        raise RefusedMessageError("header", f"identity of chain {did_chain}, expected {chain_id}")
    point = _decode(header.jwk.x.encode(), "jwk.x") + _decode(header.jwk.y.encode(), "jwk.y")
    if public_key_to_address(point) != address:
        raise RefusedMessageError("key", "the key in jwk does not hash to the address in kid")
    try:
        return address, PublicKey(b"\x04" + point)
    except Exception as error:
        # libsecp256k1 has no type of its own for a point off the curve.
        raise RefusedMessageError("key", "jwk is not a point of secp256k1") from error


def _check_time(envelope: EnvelopeJson, now_s: int) -> None:
    longest = LIFETIME_OFFER_MAX_S if envelope.type == "offer" else LIFETIME_MAX_S
    if envelope.exp < now_s:
        raise RefusedMessageError("time", f"expired {now_s - envelope.exp} s ago")
    if envelope.ts > now_s + CLOCK_SKEW_MAX_S:
        raise RefusedMessageError("time", f"made {envelope.ts - now_s} s in the future")
    if not 0 <= envelope.exp - envelope.ts <= longest:
        raise RefusedMessageError("time", f"lives {envelope.exp - envelope.ts} s, expected 0 to {longest}")


def _check_signature(public_key: PublicKey, signing_input: bytes, signature: bytes) -> None:
    if len(signature) != 64:
        raise RefusedMessageError("signature", f"has {len(signature)} bytes, expected 64")
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    if not (0 < r < CURVE_ORDER and 0 < s <= HALF_ORDER):
        raise RefusedMessageError("signature", "r or s out of range (s must be low)")
    der = cdata_to_der(deserialize_compact(signature))
    if not public_key.verify(der, signing_digest(signing_input), hasher=None):
        raise RefusedMessageError("signature", "does not fit header and payload")


def _decode_envelope(data: bytes) -> EnvelopeJson:
    try:
        return _ENVELOPE.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        code = "version" if "$.v`" in str(error) else "form"
        raise RefusedMessageError(code, str(error)) from error


def _to_draft(envelope: EnvelopeJson) -> Draft:
    decoder = _BODIES.get(envelope.type)
    if decoder is None:
        raise RefusedMessageError("type", f"{envelope.type!r}, expected one of {', '.join(_BODIES)}")
    try:
        body = decoder.decode(envelope.body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise RefusedMessageError("body", f"{envelope.type}: {error}") from error
    return Draft(envelope.id, envelope.session, envelope.seq, envelope.ts, envelope.exp, envelope.to, body)
