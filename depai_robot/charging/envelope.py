"""Messages as JWS (ES256K, compact) by the sender's identity key: sealing, and the only way in.

``did:pkh`` holds only an address, so the protected header is exactly ``{alg, kid, jwk}`` and the key in it must hash
to the address in ``kid``. Pure: the signature itself comes from a Signer, the time from the caller.
Sources: RFC 7515 (JWS), RFC 8812 (ES256K), RFC 7638 (order of JWK members), did:pkh.
"""

import base64
import binascii
import functools
import hashlib
import json
from dataclasses import dataclass, field
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
    BlockPayment,
    Draft,
    EnvelopeJson,
    PaymentScheme,
)
from depai_robot.payment.signature import CURVE_ORDER, HALF_ORDER
from depai_robot.payment.x402 import EXACT
from depai_robot.values.error import BugError, ConfigError, RemoteError
from depai_robot.values.identity import Address, did_pkh, parse_did_pkh, public_key_to_address

CLOCK_SKEW_MAX_S = 120
"""Clocks of two honest sides may differ by this much."""
LIFETIME_MAX_S = 3600
LIFETIME_OFFER_MAX_S = 24 * 3600
EVERYBODY = "*"
"""Addressee of offers."""

REFUSAL_CODES = (
    "size", "form", "header", "key", "version", "time", "addressee", "signature", "type", "body",
)  # fmt: skip
"""Every ``code`` of a RefusedMessageError, cheapest check first."""

_HEADER_BYTES_MAX = 1024
"""A header is about 300 bytes; a longer one is no header of ours."""
_SIGNATURE_CHARACTERS = 86
"""64 bytes r || s in base64url."""
_DETAIL_CHARACTERS_MAX = 240
"""A refusal goes to logs and counters: the sender must not choose how long it is."""
_SENDERS_MAX = 512
"""Headers whose key was checked lately. A site has fewer; a stranger can only make us check again."""

_REFUSED_BY_DECODER = (msgspec.MsgspecError, ValueError, RecursionError)
"""What decoding of strange bytes raises; UnicodeDecodeError is a ValueError."""


class RefusedMessageError(RemoteError):
    """A message that does not get in.

    Attributes:
        code: one of :data:`REFUSAL_CODES`, for counting.
        detail: what was seen and what was expected; one printable line, cut after 240 characters.
    """

    def __init__(self, code: str, detail: str) -> None:
        # The detail may quote the message: no line breaks or terminal codes of a stranger get into a log.
        shown = "".join(c if c.isprintable() else "?" for c in detail[:_DETAIL_CHARACTERS_MAX])
        super().__init__(f"{code}: {shown}")
        self.code = code
        self.detail = shown


class _Jwk(Struct, frozen=True, forbid_unknown_fields=True):
    crv: Literal["secp256k1"]
    kty: Literal["EC"]
    x: Annotated[str, Meta(min_length=43, max_length=43)]
    y: Annotated[str, Meta(min_length=43, max_length=43)]


class _Header(Struct, frozen=True, forbid_unknown_fields=True):
    alg: Literal["ES256K"]
    kid: Annotated[str, Meta(max_length=96)]
    jwk: _Jwk


_HEADER = msgspec.json.Decoder(_Header)
_ENVELOPE = msgspec.json.Decoder(EnvelopeJson)
_BODIES: dict[str, msgspec.json.Decoder[Any]] = {
    name: msgspec.json.Decoder(body) for name, body in BODY_BY_TYPE.items()
}


_SCHEME = msgspec.json.Decoder(PaymentScheme)
_BLOCK_PAYMENT = msgspec.json.Decoder(BlockPayment)


@dataclass(frozen=True, slots=True)
class Verified:
    """A message whose signature, time, form and addressee are right.

    Attributes:
        sender: address of the identity key that signed.
        draft: what it says.
    """

    sender: Address
    draft: Draft


@dataclass(frozen=True, slots=True)
class SeenIds:
    """The message ids of each sender that have not expired: an id counts once, however often it comes.

    A value; whoever keeps it across restarts rebuilds it from its journal. Copies of a message that was lost on its
    way are identical bytes, so what is refused here may still deserve the same answer again.

    Attributes:
        expiry_by_id: (sender, id) to Unix seconds.
        count_max: when so many live ids are remembered, the next one is refused: forgetting one would let it in
            twice.
    """

    expiry_by_id: dict[tuple[bytes, str], int] = field(default_factory=dict)
    count_max: int = 4096

    def seen(self, message: "Verified") -> bool:
        """Whether this id of this sender is remembered."""
        return (message.sender, message.draft.id) in self.expiry_by_id

    def add(self, message: "Verified", now_s: int) -> "SeenIds":
        """Remembers it, and forgets what has expired (such a message is refused for its time).

        Raises:
            RefusedMessageError: code ``size``: too many are alive.
        """
        alive = {key: exp for key, exp in self.expiry_by_id.items() if exp >= now_s}
        alive[message.sender, message.draft.id] = message.draft.exp
        if len(alive) > self.count_max:
            raise RefusedMessageError(
                "size", f"{len(alive)} messages are alive, at most {self.count_max} are remembered"
            )
        return SeenIds(alive, self.count_max)


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


def encode_body(body: Any) -> bytes:
    """JSON of a message's body; the same body always gives the same bytes. Raises BugError when it is none."""
    if type(body) not in TYPE_BY_BODY:
        raise BugError(f"{type(body).__name__} is not a message body")
    return msgspec.json.encode(body)


def decode_body(kind: str, data: bytes) -> Any:
    """A message's body from its JSON, strictly.

    Raises:
        RefusedMessageError: code ``type`` or ``body``.
    """
    decoder = _BODIES.get(kind)
    if decoder is None:
        raise RefusedMessageError("type", f"{kind!r}, expected one of {', '.join(_BODIES)}")
    try:
        if kind == "payment" and _SCHEME.decode(data).payload.accepted.scheme == EXACT:
            decoder = _BLOCK_PAYMENT
        return decoder.decode(data)
    except _REFUSED_BY_DECODER as error:
        raise RefusedMessageError("body", f"{kind}: {error}") from error


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
        BugError: the body is not a message, the whole is too long, or another strict reader would refuse it.
    """
    body = encode_body(draft.body)
    payload = EnvelopeJson(
        v=WIRE_VERSION,
        id=draft.id,
        session=draft.session,
        seq=draft.seq,
        ts=draft.ts,
        exp=draft.exp,
        to=draft.to,
        type=TYPE_BY_BODY[type(draft.body)],
        body=msgspec.Raw(body),
    )
    data = msgspec.json.encode(payload)
    try:
        _to_draft(_decode_envelope(data))
    except RefusedMessageError as error:
        # A struct does not check its own fields when it is made; the other side would.
        raise BugError(f"a message that every reader would refuse must not be signed: {error}") from error
    signing_input = f"{header}.{_encode(data)}".encode()
    size = len(signing_input) + 1 + _SIGNATURE_CHARACTERS
    if size > MESSAGE_BYTES_MAX:
        raise BugError(f"a message must fit {MESSAGE_BYTES_MAX} bytes, this one has {size}")
    return signing_input


def signing_digest(signing_input: bytes) -> bytes:
    """SHA-256, as ES256K wants it."""
    return hashlib.sha256(signing_input).digest()


def assemble(signing_input: bytes, signature: bytes) -> str:
    """The token, from the signing input and 64 or 65 bytes r || s (|| v)."""
    if len(signature) not in (64, 65):
        raise BugError(f"expected r || s of 64 bytes, got {len(signature)}")
    return f"{signing_input.decode()}.{_encode(signature[:64])}"


_BRACKETS_MAX = 1000
"""Objects and arrays in a payload, nested or not. Our largest message has a few dozen."""


def verify_token(token: bytes | str, *, now_s: int, chain_id: int, recipient: Address | None) -> Verified:
    """Lets a message in, or refuses it. Cheap checks come before the signature. Raises nothing else on any bytes.

    A message may be older than the allowed difference of clocks as long as it has not expired: a sender that was cut
    off, or restarted, sends the same bytes again.

    Args:
        token: as it came.
        now_s: wall clock, Unix seconds.
        chain_id: of the network that identities live on.
        recipient: our identity's address; None accepts only messages to everybody.

    Raises:
        RefusedMessageError: with one of REFUSAL_CODES.
    """
    raw = token.encode("utf-8", "surrogatepass") if isinstance(token, str) else bytes(token)
    header, payload, signature = _split(raw)
    sender, public_key = _check_header(header, chain_id)
    envelope = _decode_envelope(_decode(payload, "payload"))
    _check_time(envelope, now_s)
    mine = EVERYBODY if recipient is None else _did_pkh(chain_id, recipient)
    if envelope.to not in (mine, EVERYBODY) or (envelope.to == EVERYBODY) != (envelope.type == "offer"):
        raise RefusedMessageError("addressee", f"{envelope.type!r} to {envelope.to!r}, expected {mine}")
    _check_signature(public_key, raw[: len(header) + 1 + len(payload)], _decode(signature, "signature"))
    return Verified(sender, _to_draft(envelope))


def open_token(token: str) -> Draft:
    """What a token of our own journal says, its signature unchecked: it was checked before it came in.

    Raises:
        RefusedMessageError: it is not a message at all.
    """
    _, payload, _ = _split(token.encode("utf-8", "surrogatepass"))
    return _to_draft(_decode_envelope(_decode(payload, "payload")))


def open_bytes(token: bytes | str, *, chain_id: int) -> tuple[Address, bytes]:
    """Who signed a compact JWS over any bytes (a file, never a message), and the bytes; the signature is checked.

    Args:
        token: as it came.
        chain_id: that its did:pkh must name.

    Raises:
        RefusedMessageError: with one of REFUSAL_CODES.
    """
    raw = token.encode("utf-8", "surrogatepass") if isinstance(token, str) else bytes(token)
    header, payload, signature = _split(raw)
    sender, public_key = _check_header(header, chain_id)
    data = _decode(payload, "payload")
    _check_signature(public_key, raw[: len(header) + 1 + len(payload)], _decode(signature, "signature"))
    return sender, data


def _split(raw: bytes) -> tuple[bytes, bytes, bytes]:
    if len(raw) > MESSAGE_BYTES_MAX:
        raise RefusedMessageError("size", f"{len(raw)} bytes, at most {MESSAGE_BYTES_MAX}")
    parts = raw.split(b".", 3)
    if len(parts) != 3:
        raise RefusedMessageError("form", f"{len(parts)} or more parts, expected 3: header.payload.signature")
    return parts[0], parts[1], parts[2]


@functools.lru_cache(maxsize=_SENDERS_MAX)
def _did_pkh(chain_id: int, address: bytes) -> str:
    return did_pkh(chain_id, address)


@functools.lru_cache(maxsize=_SENDERS_MAX)
def _check_header(part: bytes, chain_id: int) -> tuple[Address, PublicKey]:
    # Every message of a sender has the same header; the cache saves two hashes and a square root modulo p.
    if len(part) > _HEADER_BYTES_MAX:
        raise RefusedMessageError("header", f"{len(part)} bytes, at most {_HEADER_BYTES_MAX}")
    try:
        header = _HEADER.decode(_decode(part, "header"))
        did_chain, address = parse_did_pkh(header.kid)
    except (*_REFUSED_BY_DECODER, ConfigError) as error:
        raise RefusedMessageError("header", str(error)) from error
    if did_chain != chain_id:
        raise RefusedMessageError("header", f"identity of chain {did_chain}, expected {chain_id}")
    # 43 characters of canonical base64url are 32 bytes.
    point = _decode(header.jwk.x.encode(), "jwk.x") + _decode(header.jwk.y.encode(), "jwk.y")
    if public_key_to_address(point) != address:
        raise RefusedMessageError("key", "the key in jwk does not hash to the address in kid")
    if encode_header(point, chain_id).encode() != part:
        raise RefusedMessageError(
            "header", "is not in canonical form: order of members, spaces, repeated members, EIP-55 checksum"
        )
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
        raise RefusedMessageError(
            "time", f"made {envelope.ts - now_s} s in the future, at most {CLOCK_SKEW_MAX_S}"
        )
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
    # Parsers recurse, and a library that raises the interpreter's recursion limit turns nesting into a crash.
    brackets = data.count(b"[") + data.count(b"{")
    if brackets > _BRACKETS_MAX:
        raise RefusedMessageError("form", f"payload has {brackets} brackets, at most {_BRACKETS_MAX}")
    try:
        envelope = _ENVELOPE.decode(data)
    except _REFUSED_BY_DECODER as error:
        code = "version" if str(error).endswith("`$.v`") else "form"
        raise RefusedMessageError(code, str(error)) from error
    if msgspec.json.encode(envelope) != data:
        # Ours always are; another writer's JSON may be laid out otherwise, but must read the same to every reader.
        _refuse_repeated_names(data)
    return envelope


def _refuse_repeated_names(data: bytes) -> None:
    try:
        json.loads(data, object_pairs_hook=_unique)
    except _REFUSED_BY_DECODER as error:
        raise RefusedMessageError("form", f"payload: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(f"repeated name {name!r}")
        members[name] = value
    return members


def _to_draft(envelope: EnvelopeJson) -> Draft:
    body = decode_body(envelope.type, bytes(envelope.body))
    if msgspec.json.encode(body) != bytes(envelope.body):
        _refuse_repeated_names(bytes(envelope.body))
    return Draft(envelope.id, envelope.session, envelope.seq, envelope.ts, envelope.exp, envelope.to, body)
