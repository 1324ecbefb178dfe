"""Meter statements: our text verifies with an independent reader, and every spoiled one is refused."""

import coincurve
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depai_robot.charging import ocmf
from depai_robot.charging.ocmf import Statement, StatementError
from depai_robot.values.error import ConfigError
from depai_robot.values.identity import did_pkh, public_key_to_address

KEY = coincurve.PrivateKey(bytes([7]) * 32)
PUBLIC = KEY.public_key.format(compressed=False)[1:]
DID_KEY = ocmf.public_key_to_did_key(PUBLIC)
DID_PKH = did_pkh(31337, public_key_to_address(PUBLIC))
OTHER = coincurve.PrivateKey(bytes([9]) * 32).public_key.format(compressed=False)[1:]
GOOD = Statement(
    gateway="station-a",
    serial="M-1",
    pagination=17,
    session="s-1",
    transaction="B",
    energy_milliwh=12_345_678,
    current_type="DC",
    time=ocmf.format_time(1_700_000_000),
    tariff="400000 atomic USDC per kWh",
)


def sign(payload: str) -> bytes:
    return KEY.sign_recoverable(ocmf.digest_payload(payload), hasher=None)


def make_text(statement: Statement = GOOD) -> str:
    payload = ocmf.encode_payload(statement)
    return ocmf.assemble(payload, sign(payload))


@pytest.mark.parametrize("key", [DID_KEY, DID_PKH])
def test_round_trip(key):
    assert ocmf.check_statement(make_text(), key=key, serial="M-1", session="s-1") == GOOD
    assert ocmf.parse_statement(make_text()) == GOOD


def test_an_independent_reader_verifies_our_text():
    pyocmf = pytest.importorskip("pyocmf", reason="pip install pyocmf (test extra)")
    # SubjectPublicKeyInfo of a secp256k1 key, in DER: fixed header and the point.
    header = bytes.fromhex("3056301006072a8648ce3d020106052b8104000a034200")
    record = pyocmf.OCMF.from_string(make_text(), strict=True)
    assert record.verify_signature((header + b"\x04" + PUBLIC).hex()) is True
    assert str(record.payload.RD[0].RV) == "12.345678"
    assert record.payload.PG == "T17"
    assert record.verify_signature((header + b"\x04" + OTHER).hex()) is False


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "form"),
        ("OCMF|{}|{}", "form"),
        (make_text() + "|x", "form"),
        (make_text().replace("12.345678", "12.345679"), "signature"),
        (make_text().replace("12.345678", "1E+99999"), "unit"),
        (make_text().replace("12.345678", "-1.0"), "unit"),
        (make_text().replace("12.345678", "1.2345678"), "unit"),
        (make_text().replace('"RU":"kWh"', '"RU":"Wh"'), "unit"),
        (make_text().replace('"ST":"G"', '"ST":"M"'), "status"),
        (make_text().replace('"EF":""', '"EF":"E"'), "status"),
        (make_text().replace('"TX":"B"', '"TX":"Z"'), "form"),
        (make_text().replace('"PG":"T17"', '"PG":"F17"'), "form"),
        (make_text().replace('"FV":"1.4"', '"FV":"9.9"'), "form"),
        (make_text().replace('"SE":"hex"', '"SE":"base64"'), "form"),
        (make_text().replace('"IS":true', '"IS":true,"ZZ":1'), "form"),
        (make_text().replace('"SD":"30', '"SD":"31'), "signature"),
        (make_text().replace('"SD":"30', '"SD":"'), "signature"),
        ("OCMF|" + "[" * 5000 + "|{}", "form"),
        ("x" * 9000, "form"),
    ],
)
def test_refused(text, reason):
    with pytest.raises(StatementError) as caught:
        ocmf.check_statement(text, key=DID_KEY, serial="M-1", session="s-1")
    assert caught.value.reason == reason, caught.value


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {
                "key": ocmf.public_key_to_did_key(
                    coincurve.PrivateKey(b"\x09" * 32).public_key.format(False)[1:]
                )
            },
            "signature",
        ),
        ({"key": did_pkh(31337, bytes(20))}, "signature"),
        ({"key": "did:web:example"}, "meter"),
        ({"key": "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"}, "meter"),  # an Ed25519 key
        ({"serial": "M-2"}, "meter"),
        ({"session": "s-2"}, "session"),
    ],
)
def test_refused_by_agreement(changes, reason):
    with pytest.raises(StatementError) as caught:
        ocmf.check_statement(make_text(), **({"key": DID_KEY, "serial": "M-1", "session": "s-1"} | changes))
    assert caught.value.reason == reason


def test_a_high_s_is_the_same_signature():
    payload = ocmf.encode_payload(GOOD)
    signature = sign(payload)
    high = (ocmf._SECP256K1_ORDER - int.from_bytes(signature[32:64], "big")).to_bytes(32, "big")
    text = ocmf.assemble(payload, signature[:32] + high)
    for key in (DID_KEY, DID_PKH):
        assert ocmf.check_statement(text, key=key, serial="M-1", session="s-1") == GOOD


def test_what_can_not_be_written():
    with pytest.raises(ConfigError, match="'|'"):
        ocmf.encode_payload(Statement("a|b", "M", 1, "s", "B", 0, "DC", "t"))
    with pytest.raises(ConfigError, match="64 or 65 bytes"):
        ocmf.assemble("{}", b"")
    with pytest.raises(ConfigError):
        ocmf.require_meter_key("did:key:zzz")
    assert ocmf.require_meter_key(DID_PKH) == DID_PKH


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_mutated_text_is_refused_or_unchanged(data):
    text = make_text()
    place = data.draw(st.integers(0, len(text) - 1))
    char = data.draw(st.characters(codec="utf-8"))
    mutated = text[:place] + char + text[place + 1 :]
    try:
        assert ocmf.check_statement(mutated, key=DID_KEY, serial="M-1", session="s-1") == GOOD
        assert mutated.split("|")[1] == text.split("|")[1]
    except StatementError:
        pass
