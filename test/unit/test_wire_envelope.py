"""Envelopes: what gets in, and that nothing else does."""

import base64
import hashlib
import json

import msgspec
import pytest

from bench import wire_seed
from bench.wire_seed import CHAIN_ID, NOW_S, ROBOT, STATION, make_bodies, make_draft, seal
from depai_robot.charging import envelope
from depai_robot.charging.envelope import (
    REFUSAL_CODES,
    RefusedMessageError,
    SeenIds,
    Verified,
    open_token,
    verify_token,
)
from depai_robot.charging.message import BODY_BY_TYPE, MESSAGE_BYTES_MAX, Offer, QuoteCounter, SessionStop
from depai_robot.payment.signature import CURVE_ORDER
from depai_robot.values.error import BugError, RemoteError
from depai_robot.values.identity import address_to_hex, did_pkh

BODIES = make_bodies()
STOP = SessionStop("Local", "full")


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def let_in(token, now_s=NOW_S, chain_id=CHAIN_ID, recipient=STATION.address):
    return verify_token(token, now_s=now_s, chain_id=chain_id, recipient=recipient)


def refused(token, **changes):
    with pytest.raises(RefusedMessageError) as caught:
        let_in(token, **changes)
    assert caught.value.code in REFUSAL_CODES
    return caught.value.code


def resign(header, payload, signer=ROBOT):
    """A token of any bytes, with a right signature."""
    signing_input = f"{b64(header)}.{b64(payload)}".encode()
    return envelope.assemble(signing_input, signer.sign(envelope.signing_digest(signing_input)))


def parts(token):
    header, payload, signature = token.split(".")
    return unb64(header), unb64(payload), unb64(signature)


def with_payload(change, body=STOP):
    """A token whose payload's JSON was changed before signing."""
    header, payload, _ = parts(seal(make_draft(body)))
    value = json.loads(payload)
    change(value)
    return resign(header, json.dumps(value, separators=(",", ":")).encode())


def with_header(change, **options):
    header, payload, _ = parts(seal(make_draft(STOP)))
    value = json.loads(header)
    change(value)
    return resign(json.dumps(value, **({"separators": (",", ":")} | options)).encode(), payload)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_every_type_goes_through(body):
    draft = make_draft(body)
    token = seal(draft)
    assert let_in(token) == Verified(ROBOT.address, draft)
    assert let_in(token.encode()) == Verified(ROBOT.address, draft)
    assert open_token(token) == draft
    assert seal(draft) == token
    kind = next(name for name, type_ in BODY_BY_TYPE.items() if type_ is type(body))
    assert envelope.decode_body(kind, envelope.encode_body(body)) == body


def test_the_header_is_exactly_alg_kid_jwk():
    header, payload, signature = parts(seal(make_draft(STOP)))
    assert json.loads(header) == {
        "alg": "ES256K",
        "kid": f"did:pkh:eip155:31337:{address_to_hex(ROBOT.address)}",
        "jwk": {
            "crv": "secp256k1",
            "kty": "EC",
            "x": b64(ROBOT.public_key[:32]),
            "y": b64(ROBOT.public_key[32:]),
        },
    }
    assert list(json.loads(payload)) == ["v", "id", "session", "seq", "ts", "exp", "to", "type", "body"]
    assert len(signature) == 64


def test_es256k_signs_the_sha256_of_header_dot_payload():
    cryptography = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec")
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    token = seal(make_draft(STOP))
    signing_input, _, signature = token.rpartition(".")
    raw = unb64(signature)
    key = cryptography.EllipticCurvePublicNumbers(
        int.from_bytes(ROBOT.public_key[:32], "big"),
        int.from_bytes(ROBOT.public_key[32:], "big"),
        cryptography.SECP256K1(),
    ).public_key()
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    key.verify(der, signing_input.encode(), cryptography.ECDSA(hashes.SHA256()))
    assert envelope.signing_digest(signing_input.encode()) == hashlib.sha256(signing_input.encode()).digest()


@pytest.mark.parametrize(
    "token",
    ["", ".", "..", "...", "a.b", "a.b.c.d", "é.é.é", "\ud800", b"\xff\xfe", b"\0" * 300, "." * 60_000],
    ids=range(11),
)
def test_noise_is_refused(token):
    assert refused(token) in ("form", "header")


def test_size():
    assert refused("a" * (MESSAGE_BYTES_MAX + 1)) == "size"
    with pytest.raises(BugError, match="must fit 65536 bytes"):
        seal(
            make_draft(
                next(b for b in BODIES if type(b).__name__ == "ReceiptMessage").__class__("ä" * 32_768)
            )
        )


def test_base64url_is_canonical():
    header, payload, signature = seal(make_draft(STOP)).split(".")
    assert refused(f"{header}=.{payload}.{signature}") in ("form", "header")
    assert refused(f"{header}.{payload}\n.{signature}") == "form"
    assert refused(f"{header}.{payload}.{signature}==") == "form"
    assert refused(f"{header}.{payload}.{signature[:-1]}") in ("form", "signature")
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = last[last.index(signature[-1]) ^ 1]  # the same 64 bytes: only spare bits differ
    assert unb64(signature[:-1] + other) == unb64(signature)
    assert refused(f"{header}.{payload}.{signature[:-1]}{other}") == "form"


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.update(alg="none"),
        lambda h: h.update(alg="ES256"),
        lambda h: h.update(alg=7),
        lambda h: h.update(typ="JWT"),
        lambda h: h.update(crit=["x"]),
        lambda h: h.pop("jwk"),
        lambda h: h.pop("kid"),
        lambda h: h.update(kid=did_pkh(1, ROBOT.address)),
        lambda h: h.update(kid=h["kid"].lower()),
        lambda h: h.update(kid="did:key:zQ3sh"),
        lambda h: h.update(kid=h["kid"] + "\n"),
        lambda h: h["jwk"].update(kty="OKP"),
        lambda h: h["jwk"].update(d="AAAA"),
        lambda h: h.update(jwk=[]),
    ],
)
def test_header_is_strict(change):
    assert refused(with_header(change)) == "header"


@pytest.mark.parametrize(
    "options", [{"separators": (", ", ": ")}, {"sort_keys": True, "separators": (",", ":")}]
)
def test_header_is_canonical(options):
    assert refused(with_header(lambda h: None, **options)) == "header"


def test_repeated_header_member():
    header, payload, _ = parts(seal(make_draft(STOP)))
    assert refused(resign(header.replace(b'{"alg"', b'{"alg":"ES256K","alg"', 1), payload)) == "header"


def test_key_must_hash_to_the_address():
    assert refused(with_header(lambda h: h.update(kid=did_pkh(CHAIN_ID, STATION.address)))) == "key"
    assert refused(with_header(lambda h: h["jwk"].update(x=b64(STATION.public_key[:32])))) == "key"
    for x in ("A" * 42, "+" * 43, "é" * 43, "A" * 44):
        assert refused(with_header(lambda h, x=x: h["jwk"].update(x=x))) in ("header", "form", "key")


def test_key_must_be_on_the_curve():
    from depai_robot.values.identity import public_key_to_address

    point = ROBOT.public_key[:32] + bytes(31) + b"\x05"

    def spoil(header):
        header["jwk"]["y"] = b64(point[32:])
        header["kid"] = did_pkh(CHAIN_ID, public_key_to_address(point))

    with pytest.raises(RefusedMessageError, match="not a point of secp256k1"):
        let_in(with_header(spoil))


def test_signature():
    token = seal(make_draft(STOP))
    header, payload, signature = parts(token)
    head = token.rpartition(".")[0]
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")

    def signed(r, s):
        return f"{head}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    assert let_in(signed(r, s))
    for bad in ((r, CURVE_ORDER - s), (0, s), (r, 0), (CURVE_ORDER, s), (2**256 - 1, 2**256 - 1), (s, r)):
        assert refused(signed(*bad)) == "signature"
    assert refused(f"{head}.{b64(signature + b'!')}") == "signature"
    assert refused(f"{head}.") == "signature"
    assert refused(resign(header, payload, signer=STATION)) == "signature"
    other = seal(make_draft(SessionStop("Remote")))
    assert refused(f"{other.rpartition('.')[0]}.{b64(signature)}") == "signature"


def test_assemble_wants_64_or_65_bytes():
    with pytest.raises(BugError, match="64 bytes, got 63"):
        envelope.assemble(b"a.b", bytes(63))


def test_version_type_and_fields():
    for version in (0, 2, "1", None, 1.5, 2**70):
        assert refused(with_payload(lambda p, v=version: p.update(v=v))) in ("version", "form")
    assert refused(with_payload(lambda p: p.update(v=2))) == "version"
    assert refused(with_payload(lambda p: p.update(type="offer2"))) == "type"
    assert refused(with_payload(lambda p: p.update(hello=1))) == "form"
    assert refused(with_payload(lambda p: p.pop("seq"))) == "form"
    assert refused(with_payload(lambda p: p["body"].update(hello=1))) == "body"
    assert refused(with_payload(lambda p: p.update(body=[]))) == "body"
    assert refused(with_payload(lambda p: p.update(type="quote"))) == "body"
    for name in ("id", "session"):
        for bad in ("", "a/b", "#", "a b", "a\n", "-x", 5):
            assert refused(with_payload(lambda p, n=name, b=bad: p.update({n: b}))) == "form"


def test_a_line_break_at_the_end_of_a_pattern_is_refused():
    for body in BODIES:
        value = json.loads(envelope.encode_body(body))
        for field, text in value.items():
            if isinstance(text, str) and field not in ("name", "detail", "statement", "receipt"):
                token = with_payload(
                    lambda p, f=field, t=text: p["body"].update({f: t + "\n"}), make_draft(body).body
                )
                if field in ("trigger_reason", "charging_state", "stopped_reason") or (
                    type(body) is SessionStop and field == "reason"
                ):
                    continue  # words of OCPP, free text
                assert refused(token) == "body", (type(body).__name__, field)


def test_repeated_names_are_refused_however_deep():
    quote = next(b for b in BODIES if type(b).__name__ == "Quote")
    for body, old, new in (
        (STOP, b'"seq":1', b'"seq":1,"seq":1'),
        (STOP, b'"detail":"full"', b'"detail":"x","detail":"full"'),
        (quote, b'"tranche_milliwh":500', b'"tranche_milliwh":9,"tranche_milliwh":500'),
    ):
        header, payload, _ = parts(seal(make_draft(body)))
        assert old in payload
        with pytest.raises(RefusedMessageError, match="repeated name"):
            let_in(resign(header, payload.replace(old, new, 1)))


def test_another_writers_layout_is_let_in():
    header, payload, _ = parts(seal(make_draft(STOP)))
    loose = json.dumps(json.loads(payload), indent=1, sort_keys=True).encode()
    assert let_in(resign(header, loose)).draft == make_draft(STOP)


def test_deep_nesting_is_refused():
    header, payload, _ = parts(seal(make_draft(next(b for b in BODIES if type(b).__name__ == "Quote"))))
    depth = 20_000
    deep = payload.replace(b'"schema":{', b'"schema":{"a":' + b"[" * depth + b"]" * depth + b",", 1)
    assert refused(resign(header, deep)) in ("form", "body")


def test_time():
    late = make_draft(STOP, ts=NOW_S - 60, exp=NOW_S)
    assert let_in(seal(late))
    assert refused(seal(late), now_s=NOW_S + 1) == "time"
    assert let_in(seal(make_draft(STOP, ts=NOW_S + 120, exp=NOW_S + 180)))
    assert refused(seal(make_draft(STOP, ts=NOW_S + 121, exp=NOW_S + 180))) == "time"
    assert let_in(seal(make_draft(STOP, exp=NOW_S + 3600)))
    assert refused(seal(make_draft(STOP, exp=NOW_S + 3601))) == "time"
    assert refused(seal(make_draft(STOP, ts=NOW_S + 61, exp=NOW_S + 60))) == "time"


def test_offers_live_longer_and_go_to_everybody():
    offer = BODIES[0]
    assert type(offer) is Offer
    assert let_in(seal(make_draft(offer, exp=NOW_S + 86_400)), recipient=None)
    assert refused(seal(make_draft(offer, exp=NOW_S + 86_401))) == "time"
    assert refused(seal(make_draft(offer, to=did_pkh(CHAIN_ID, STATION.address)))) == "addressee"
    assert refused(seal(make_draft(STOP, to="*"))) == "addressee"


def test_addressee():
    token = seal(make_draft(STOP))
    assert refused(token, recipient=ROBOT.address) == "addressee"
    assert refused(token, recipient=None) == "addressee"
    assert refused(token, chain_id=1) == "header"
    assert refused(seal(make_draft(STOP, to=did_pkh(1, STATION.address)))) == "addressee"


def test_a_refusal_is_one_short_printable_line():
    name = "x\n\x1b[31m" * 2000
    with pytest.raises(RefusedMessageError) as caught:
        let_in(with_payload(lambda p: p.update({name: 1})))
    assert isinstance(caught.value, RemoteError)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
    assert caught.value.detail in str(caught.value)


def test_what_every_reader_would_refuse_is_not_signed():
    with pytest.raises(BugError, match="every reader would refuse"):
        seal(make_draft(QuoteCounter(price_atomic_per_kwh=-1, round=1)))
    with pytest.raises(BugError, match="every reader would refuse"):
        seal(make_draft(STOP, id="a/b"))
    with pytest.raises(BugError, match="dict is not a message body"):
        seal(make_draft({}))


def test_open_token_refuses_what_is_no_message():
    for text in ("", "a.b.c", "\ud800.\ud800.\ud800", seal(make_draft(STOP)).replace(".", "!", 1)):
        with pytest.raises(RefusedMessageError):
            open_token(text)


def message(name, exp=NOW_S + 60, sender=ROBOT.address):
    return Verified(sender, make_draft(STOP, id=name, exp=exp))


def test_seen_ids_count_once_per_sender_until_they_expire():
    seen = SeenIds()
    first = message("a")
    assert not seen.seen(first)
    after = seen.add(first, NOW_S)
    assert after.seen(first)
    assert not seen.seen(first)
    assert not after.seen(message("a", sender=STATION.address))
    assert not after.seen(message("b"))
    later = after.add(message("b", exp=NOW_S + 120), NOW_S + 61)
    assert set(later.expiry_by_id) == {(ROBOT.address, "b")}


def test_seen_ids_forget_none_that_is_alive():
    seen = SeenIds(count_max=2)
    for name in "ab":
        seen = seen.add(message(name), NOW_S)
    assert seen.add(message("a"), NOW_S) == seen
    with pytest.raises(RefusedMessageError, match="at most 2"):
        seen.add(message("c"), NOW_S)
    assert seen.add(message("c"), NOW_S + 61).seen(message("c"))


def test_seeds_hold_every_type():
    assert {type(body) for body in BODIES} == set(BODY_BY_TYPE.values())
    assert wire_seed.make_tokens() == [seal(make_draft(body)) for body in BODIES]
    assert msgspec.json.encode(BODIES[0])


def test_nesting_is_refused_before_any_parser_sees_it_whatever_the_recursion_limit() -> None:
    import base64
    import sys

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)  # as py_ecc, which web3 brings, does to the whole process
    try:
        for nest in (
            b"[" * 45_000,
            b'{"a":' * 9_000,
            b'{"v":1,"body":' + b"[" * 24_000 + b"]" * 24_000 + b"}",
        ):
            part = base64.urlsafe_b64encode(nest).rstrip(b"=").decode()
            with pytest.raises(RefusedMessageError, match="brackets"):
                open_token(f"a.{part}.b")
    finally:
        sys.setrecursionlimit(limit)
