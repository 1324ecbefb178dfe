import json

import msgspec
import pytest

from depai_robot.payment import x402
from depai_robot.payment.channel import ChannelConfig, DepositAuthorization, Voucher
from depai_robot.values.error import RemoteError

ADDRESS, CHANNEL, SIGNATURE = "0x" + "aB" * 20, "0x" + "cd" * 32, "0x" + "ef" * 65
TRANSACTION = "0x" + "12" * 32


def requirements():
    return {
        "scheme": "batch-settlement",
        "network": "eip155:84532",
        "amount": "2000",
        "asset": ADDRESS,
        "payTo": ADDRESS.lower(),
        "maxTimeoutSeconds": 60,
        "extra": {"receiverAuthorizer": ADDRESS, "withdrawDelay": 3600, "name": "USDC", "version": "2"},
    }


def required():
    return {
        "x402Version": 2,
        "error": "why not",
        "resource": {"url": "mqtt://station-1/charge", "description": "energy", "mimeType": "text/plain"},
        "accepts": [requirements()],
        "extensions": {"depai-charging": {"info": {"any": [1, "thing"]}, "schema": {"type": "object"}}},
    }


def config():
    return {
        "payer": ADDRESS,
        "payerAuthorizer": ADDRESS,
        "receiver": ADDRESS,
        "receiverAuthorizer": ADDRESS,
        "token": ADDRESS,
        "withdrawDelay": 3600,
        "salt": CHANNEL,
    }


def voucher():
    return {"channelId": CHANNEL, "maxClaimableAmount": "5000", "signature": SIGNATURE}


def deposit():
    inner = {"validAfter": "0", "validBefore": "9", "salt": CHANNEL, "signature": SIGNATURE}
    return {"amount": "9", "authorization": {"erc3009Authorization": inner}}


def payload(kind="voucher", **more):
    inner = {"type": kind, "channelConfig": config(), "voucher": voucher(), **more}
    return {"x402Version": 2, "accepted": requirements(), "payload": inner}


def state():
    return {
        "channelId": CHANNEL,
        "balance": "10",
        "totalClaimed": "0",
        "withdrawRequestedAt": 0,
        "refundNonce": "0",
        "chargedCumulativeAmount": "3",
    }


def corrective():
    out = required()
    out["accepts"][0]["extra"] |= {
        "channelState": state(),
        "voucherState": {"signedMaxClaimable": "5000", "signature": SIGNATURE},
    }
    return out


OBJECTS = [
    (x402.PaymentRequired, required()),
    (x402.PaymentRequired, corrective()),
    (x402.PaymentPayload, payload()),
    (x402.PaymentPayload, payload("refund")),
    (x402.PaymentPayload, payload("refund", amount="7")),
    (x402.PaymentPayload, payload("deposit", deposit=deposit())),
    (x402.PaymentPayload, payload() | {"resource": {"url": "x"}, "extensions": {}}),
    (x402.SettleResponse, {"success": True, "transaction": TRANSACTION, "network": "eip155:1"}),
    (
        x402.SettleResponse,
        {
            "success": True,
            "transaction": "",
            "network": "eip155:1",
            "payer": ADDRESS,
            "amount": "",
            "extra": {"chargedAmount": "5", "channelState": state()},
        },
    ),
    (
        x402.SettleResponse,
        {"success": False, "transaction": "", "network": "eip155:1", "errorReason": "invalid_scheme"},
    ),
    (x402.VerifyResponse, {"isValid": False, "invalidReason": "invalid_scheme", "payer": ADDRESS}),
    (x402.VerifyResponse, {"isValid": True, "extra": {"anything": 1}}),
]


@pytest.mark.parametrize(("form", "plain"), OBJECTS)
def test_objects_round_trip_to_the_same_json(form, plain):
    decoded = msgspec.json.decode(json.dumps(plain), type=form)
    assert json.loads(msgspec.json.encode(decoded)) == plain


@pytest.mark.parametrize(("form", "plain"), OBJECTS[:6])
@pytest.mark.parametrize("spoil", ["drop", "add"])
def test_closed_objects_refuse_missing_and_unknown_fields(form, plain, spoil):
    for name in list(plain) if spoil == "drop" else ["more"]:
        if name in ("error", "extensions"):
            continue
        spoiled = {k: v for k, v in plain.items() if k != name}
        if spoil == "add":
            spoiled[name] = 1
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(spoiled, form)


def put(plain, path, value):
    *way, last = path
    for step in way:
        plain = plain[step]
    plain[last] = value


@pytest.mark.parametrize(
    "value", ["", "-1", "+1", "01", "1.0", "1e3", " 1", "1\n", "0x1", "１", 5, None, "9" * 79]
)
@pytest.mark.parametrize("path", [["accepted", "amount"], ["payload", "voucher", "maxClaimableAmount"]])
def test_amounts_are_plain_decimal_strings(path, value):
    plain = payload()
    put(plain, path, value)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(plain, x402.PaymentPayload)


@pytest.mark.parametrize(
    "value", ["", "0x", ADDRESS[:-1], ADDRESS + "0", ADDRESS + "\n", "0X" + ADDRESS[2:], 1, None]
)
@pytest.mark.parametrize(
    "path", [["accepted", "payTo"], ["accepted", "asset"], ["payload", "channelConfig", "payer"]]
)
def test_addresses_are_twenty_bytes_of_hexadecimal(path, value):
    plain = payload()
    put(plain, path, value)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(plain, x402.PaymentPayload)


@pytest.mark.parametrize("text", ["3600.0", '"3600"', "true", "null", "-1", "1099511627776", "3.6e3"])
def test_withdraw_delay_is_a_json_integer_of_40_bits(text):
    plain = json.dumps(requirements()).replace("3600", text)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(plain, type=x402.PaymentRequirements)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["x402Version"], 1),
        (["accepted", "scheme"], "exact"),
        (["accepted", "network"], "base-sepolia"),
        (["accepted", "network"], "eip155:0"),
        (["accepted", "maxTimeoutSeconds"], 0),
        (["accepted", "extra", "assetTransferMethod"], "permit2"),
        (["accepted", "extra", "more"], 1),
        (["payload", "type"], "claim"),
        (["payload", "voucher", "signature"], "0xabc"),
        (["payload", "voucher", "signature"], "0x" + "00" * 1025),
        (["payload", "voucher", "channelId"], CHANNEL[:-2]),
        (["payload", "amount"], "1"),
    ],
)
def test_other_values_are_refused(path, value):
    plain = payload()
    put(plain, path, value)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(plain, x402.PaymentPayload)


def test_a_seller_offers_one_to_eight_ways():
    for count in (0, 9):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(required() | {"accepts": [requirements()] * count}, x402.PaymentRequired)


def test_accepted_is_echoed_byte_for_byte():
    asked = msgspec.json.decode(json.dumps(required()), type=x402.PaymentRequired).accepts[0]
    echoed = x402.PaymentPayload(
        x402_version=2,
        accepted=asked,
        payload=msgspec.convert(payload()["payload"], x402.VoucherPayload),
    )
    plain = json.loads(msgspec.json.encode(echoed))["accepted"]
    assert plain == requirements()
    assert (plain["payTo"], plain["asset"]) == (ADDRESS.lower(), ADDRESS)  # letter case is kept


def test_values_and_json_convert_both_ways():
    channel = ChannelConfig(
        b"\x01" * 20, b"\x02" * 20, b"\x03" * 20, b"\x04" * 20, b"\x05" * 20, 3600, b"\x06" * 32
    )
    assert x402.json_to_config(x402.config_to_json(channel)) == channel
    signed = Voucher(b"\x07" * 32, 2**128 - 1, b"\x08" * 65)
    assert x402.json_to_voucher(x402.voucher_to_json(signed)) == signed
    authorization = DepositAuthorization(2**128 - 1, 0, 2**256 - 1, b"\x09" * 32, b"\x0a" * 65)
    assert x402.json_to_deposit(x402.deposit_to_json(authorization)) == authorization


@pytest.mark.parametrize("read", [x402.parse_amount, x402.parse_time_s])
def test_numbers_larger_than_their_type_are_the_other_sides_fault(read):
    with pytest.raises(RemoteError, match="bits"):
        read(str(2**256))


def test_the_empty_signature_never_passes():
    from depai_robot.payment.signature import SignatureError, recover

    with pytest.raises(SignatureError):
        recover(bytes(32), x402.parse_bytes(x402.SIGNATURE_EMPTY))
