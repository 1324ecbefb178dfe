"""Scheme exact: what is accepted, and what each refusal is called. One thing is spoiled at a time."""

import json
from dataclasses import replace

import msgspec
import pytest

from depai_robot.payment.eip712 import domain_separator
from depai_robot.payment.exact import (
    MARGIN_S,
    ExactPaymentPayload,
    TransferAuthorization,
    TransferRefusedError,
    check_transfer,
    json_to_transfer,
    transfer_digest,
    transfer_to_json,
)
from depai_robot.payment.signature import CURVE_ORDER
from depai_robot.payment.x402 import PaymentRequirements, RequirementsExtra
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.error import RemoteError
from depai_robot.values.identity import Address, address_to_hex

PAYER, STATION = DevelopmentSigner("payer"), DevelopmentSigner("station")
TOKEN = Address(bytes.fromhex("036CbD53842c5426634e7929541eC2318f3dCF7e"))
DOMAIN = domain_separator("USDC", "2", 84532, TOKEN)
NOW_S = 1_800_000_000
AMOUNT = 801
PREFIX = "invalid_exact_evm_payload_"


def signed(key=PAYER, domain=DOMAIN, **changes) -> TransferAuthorization:
    values = {
        "payer": PAYER.address,
        "receiver": STATION.address,
        "amount_atomic": AMOUNT,
        "valid_after_s": 0,
        "valid_before_s": NOW_S + 60,
        "nonce": bytes(range(32)),
    }
    transfer = TransferAuthorization(**(values | changes))
    return replace(transfer, signature=key.sign(transfer_digest(domain, transfer)))


def judge(transfer, domain=DOMAIN, now_s=NOW_S):
    check_transfer(transfer, domain, receiver=STATION.address, amount_atomic=AMOUNT, now_s=now_s)


def reason_of(transfer, **options) -> str:
    with pytest.raises(TransferRefusedError) as caught:
        judge(transfer, **options)
    assert str(caught.value).startswith(caught.value.reason + ": ")
    return caught.value.reason.removeprefix(PREFIX)


def test_a_good_transfer_is_accepted():
    judge(signed())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"receiver": PAYER.address}, "recipient_mismatch"),
        ({"amount_atomic": AMOUNT - 1}, "authorization_value_mismatch"),
        ({"amount_atomic": AMOUNT + 1}, "authorization_value_mismatch"),
        ({"valid_after_s": NOW_S}, "authorization_valid_after"),
        ({"valid_before_s": NOW_S + MARGIN_S - 1}, "authorization_valid_before"),
        ({"valid_before_s": 0}, "authorization_valid_before"),
        ({"payer": STATION.address}, "signature"),
    ],
)
def test_what_was_not_asked_for_is_refused_by_its_name(changes, reason):
    assert reason_of(signed(**changes)) == reason


def test_the_bounds_of_time_are_what_a_facilitator_takes():
    judge(signed(valid_after_s=NOW_S - 1, valid_before_s=NOW_S + MARGIN_S))
    assert MARGIN_S == 6


@pytest.mark.parametrize(
    "domain",
    [
        domain_separator("USD Coin", "2", 84532, TOKEN),
        domain_separator("USDC", "1", 84532, TOKEN),
        domain_separator("USDC", "2", 8453, TOKEN),
        domain_separator("USDC", "2", 84532, STATION.address),
    ],
    ids=["name", "version", "chain", "token"],
)
def test_a_signature_in_another_domain_is_none(domain):
    assert reason_of(signed(domain=domain)) == "signature"


@pytest.mark.parametrize(
    "field", ["receiver", "amount_atomic", "valid_after_s", "valid_before_s", "nonce", "payer"]
)
def test_each_field_is_signed(field):
    good = signed()
    other = {
        "receiver": PAYER.address,
        "amount_atomic": 1,
        "valid_after_s": 1,
        "valid_before_s": 2,
        "nonce": bytes(32),
        "payer": STATION.address,
    }[field]
    assert transfer_digest(DOMAIN, replace(good, **{field: other})) != transfer_digest(DOMAIN, good)


def spoil(signature: bytes, how: str) -> bytes:
    r, s, v = signature[:32], int.from_bytes(signature[32:64], "big"), signature[64]
    return {
        "high s": r + (CURVE_ORDER - s).to_bytes(32, "big") + bytes([55 - v]),
        "v of 0 or 1": signature[:64] + bytes([v - 27]),
        "v + 10": signature[:64] + bytes([v + 10]),
        "compact": signature[:64],
        "longer": signature + b"\0",
        "zeros": bytes(65),
        "empty": b"",
    }[how]


@pytest.mark.parametrize("how", ["high s", "v of 0 or 1", "v + 10", "compact", "longer", "zeros", "empty"])
def test_signatures_that_the_token_reverts_are_refused(how):
    good = signed()
    assert reason_of(replace(good, signature=spoil(good.signature, how))) == "signature"


# --- as JSON ------------------------------------------------------------------------------------------------


def payment(**changes) -> dict:
    accepted = PaymentRequirements(
        scheme="exact",
        network="eip155:84532",
        amount=str(AMOUNT),
        asset=address_to_hex(TOKEN),
        pay_to=address_to_hex(STATION.address),
        max_timeout_seconds=60,
        extra=RequirementsExtra(name="USDC", version="2", asset_transfer_method="eip3009"),
    )
    whole = ExactPaymentPayload(2, accepted, transfer_to_json(signed(**changes)))
    return json.loads(msgspec.json.encode(whole))


def decode(plain: dict) -> ExactPaymentPayload:
    return msgspec.json.decode(json.dumps(plain).encode(), type=ExactPaymentPayload)


def test_names_on_the_wire():
    plain = payment()
    assert set(plain) == {"x402Version", "accepted", "payload"}
    assert set(plain["payload"]) == {"signature", "authorization"}
    names = {"from", "to", "value", "validAfter", "validBefore", "nonce"}
    assert set(plain["payload"]["authorization"]) == names
    assert all(isinstance(value, str) for value in plain["payload"]["authorization"].values())


def test_there_and_back():
    assert json_to_transfer(decode(payment()).payload) == signed()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["x402Version"], 1),
        (["accepted", "scheme"], "batch-settlement"),
        (["accepted", "scheme"], "upto"),
        (["accepted", "extra", "withdrawDelay"], 900),
        (["payload", "authorization", "value"], 801),
        (["payload", "authorization", "value"], "0x321"),
        (["payload", "authorization", "value"], "-1"),
        (["payload", "authorization", "value"], "801\n"),
        (["payload", "authorization", "value"], "0801"),
        (["payload", "authorization", "nonce"], "0x" + "00" * 31),
        (["payload", "authorization", "from"], "0x00"),
        (["payload", "authorization", "spender"], "0x" + "00" * 20),
        (["payload", "signature"], "00" * 65),
        (["payload", "permit2Authorization"], {}),
    ],
)
def test_anything_else_is_not_decoded(path, value):
    plain = payment()
    inner = plain
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    with pytest.raises(msgspec.ValidationError):
        decode(plain)


def test_an_amount_over_128_bits_is_refused():
    plain = payment()
    plain["payload"]["authorization"]["value"] = str(2**128)
    with pytest.raises(RemoteError, match="128 bits"):
        json_to_transfer(decode(plain).payload)


def test_for_ever_is_a_time():
    plain = payment()
    plain["payload"]["authorization"]["validBefore"] = str(2**256 - 1)
    assert json_to_transfer(decode(plain).payload).valid_before_s == 2**256 - 1
