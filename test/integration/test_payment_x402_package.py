"""The package x402 as referee: our bytes and objects are its bytes and objects."""

import json

import eth_account
import msgspec
import pytest

from depai_robot.payment import eip712, x402
from depai_robot.payment.channel import ChannelConfig, DepositAuthorization, Voucher
from depai_robot.payment.voucher import VoucherLimits, VoucherRefusedError, check_voucher
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.identity import Address, ChannelId, address_to_hex

evm = pytest.importorskip(
    "x402.mechanisms.evm.batch_settlement.facilitator.utils",
    reason="the x402 package is absent: pip install 'depai_robot[test]'",
)

from x402.mechanisms.evm.batch_settlement import constants, encoding, types, utils  # noqa: E402
from x402.mechanisms.evm.batch_settlement.client.voucher import sign_voucher  # noqa: E402
from x402.mechanisms.evm.signers import EthAccountSigner  # noqa: E402
from x402.schemas import PaymentPayload, PaymentRequired, PaymentRequirements  # noqa: E402

CHAIN = 84532
NETWORK = f"eip155:{CHAIN}"
KEY, OWNER, STATION = (
    DevelopmentSigner("voucher key"),
    DevelopmentSigner("owner"),
    DevelopmentSigner("station"),
)
CONFIG = ChannelConfig(
    payer=OWNER.address,
    payer_authorizer=KEY.address,
    receiver=STATION.address,
    receiver_authorizer=STATION.address,
    token=Address(bytes.fromhex("036CbD53842c5426634e7929541eC2318f3dCF7e")),
    withdraw_delay_s=3600,
    salt=b"\x05" * 32,
)
DOMAIN = eip712.settlement_domain(CHAIN)
CHANNEL = eip712.channel_id(CONFIG, DOMAIN)
THEIR_CONFIG = types.ChannelConfig.from_dict(json.loads(msgspec.json.encode(x402.config_to_json(CONFIG))))


def our_requirements():
    return x402.PaymentRequirements(
        scheme="batch-settlement",
        network=NETWORK,
        amount="2000",
        asset=address_to_hex(CONFIG.token),
        pay_to=address_to_hex(CONFIG.receiver),
        max_timeout_seconds=60,
        extra=x402.RequirementsExtra(
            receiver_authorizer=address_to_hex(CONFIG.receiver_authorizer),
            withdraw_delay=3600,
            name="USDC",
            version="2",
            min_deposit="2000",
        ),
    )


def our_voucher(ceiling):
    return Voucher(CHANNEL, ceiling, KEY.sign(eip712.voucher_digest(CHANNEL, ceiling, DOMAIN)))


def our_payloads():
    config, voucher = x402.config_to_json(CONFIG), x402.voucher_to_json(our_voucher(5000))
    deposit = x402.deposit_to_json(DepositAuthorization(9000, 0, 2**40, b"\x09" * 32, bytes(65)))
    return [
        x402.DepositPayload(config, voucher, deposit),
        x402.VoucherPayload(config, voucher),
        x402.RefundPayload(config, voucher),
        x402.RefundPayload(config, voucher, "7"),
    ]


def test_contract_addresses():
    assert constants.BATCH_SETTLEMENT_ADDRESS == address_to_hex(eip712.SETTLEMENT)
    assert constants.ERC3009_DEPOSIT_COLLECTOR_ADDRESS == address_to_hex(eip712.DEPOSIT_COLLECTOR)


def test_channel_id():
    assert utils.compute_channel_id(THEIR_CONFIG, NETWORK) == x402.bytes_to_text(CHANNEL)


@pytest.mark.parametrize("ceiling", [0, 5000, 2**128 - 1])
def test_voucher_bytes(ceiling):
    signer = EthAccountSigner(eth_account.Account.from_key(KEY.secret))
    theirs = sign_voucher(signer, x402.bytes_to_text(CHANNEL), ceiling, NETWORK).to_dict()
    assert theirs == json.loads(msgspec.json.encode(x402.voucher_to_json(our_voucher(ceiling))))


def test_deposit_nonce_and_collector_data():
    salt, signature = b"\x09" * 32, bytes(range(65))
    assert encoding.build_erc3009_deposit_nonce(
        x402.bytes_to_text(CHANNEL), x402.bytes_to_text(salt)
    ) == x402.bytes_to_text(eip712.deposit_nonce(CHANNEL, salt))
    assert encoding.build_erc3009_collector_data(
        "1", "9", x402.bytes_to_text(salt), x402.bytes_to_text(signature)
    ) == eip712.encode_collector_data(1, 9, salt, signature)


def test_our_objects_are_theirs():
    required = x402.PaymentRequired(
        x402_version=2, resource=x402.Resource("mqtt://station/charge"), accepts=[our_requirements()]
    )
    plain = json.loads(msgspec.json.encode(required))
    theirs = PaymentRequired.model_validate(plain)
    assert theirs.model_dump(by_alias=True, exclude_none=True, mode="json") == plain
    for payload in our_payloads():
        ours = x402.PaymentPayload(x402_version=2, accepted=our_requirements(), payload=payload)
        plain = json.loads(msgspec.json.encode(ours))
        theirs = PaymentPayload.model_validate(plain)
        assert theirs.model_dump(by_alias=True, exclude_none=True, mode="json") == plain
        kind = {
            "deposit": types.DepositPayload,
            "voucher": types.VoucherPayload,
            "refund": types.RefundPayload,
        }[plain["payload"]["type"]]
        assert kind.from_dict(plain["payload"]).to_dict() == plain["payload"]


def their_verdict(voucher):
    config_error = evm.validate_channel_config(
        THEIR_CONFIG,
        x402.bytes_to_text(voucher.channel_id),
        PaymentRequirements.model_validate(json.loads(msgspec.json.encode(our_requirements()))),
    )
    return config_error is None and evm.verify_batch_settlement_voucher_typed_data(
        None,
        channel_id=x402.bytes_to_text(voucher.channel_id),
        max_claimable_amount=str(voucher.ceiling_atomic),
        payer_authorizer=address_to_hex(CONFIG.payer_authorizer),
        payer=address_to_hex(CONFIG.payer),
        signature=x402.bytes_to_text(voucher.signature),
        chain_id=CHAIN,
    )


def our_verdict(voucher):
    try:
        check_voucher(CONFIG, voucher, DOMAIN, VoucherLimits(2**128 - 1, 0))
    except VoucherRefusedError:
        return False
    return True


def test_what_we_accept_they_accept():
    for ceiling in (0, 1, 5000):
        assert our_verdict(our_voucher(ceiling))
        assert their_verdict(our_voucher(ceiling))


def test_we_are_stricter_where_the_contract_is():
    from depai_robot.payment.signature import CURVE_ORDER

    good = our_voucher(5000)
    r, s, v = good.signature[:32], int.from_bytes(good.signature[32:64], "big"), good.signature[64]
    high = r + (CURVE_ORDER - s).to_bytes(32, "big") + bytes([55 - v])
    for signature in (high, good.signature[:64] + bytes([v - 27]), good.signature[:64] + bytes([v + 10])):
        spoiled = Voucher(CHANNEL, 5000, signature)
        assert (their_verdict(spoiled), our_verdict(spoiled)) == (True, False)
    for spoiled in (
        Voucher(CHANNEL, 5001, good.signature),
        Voucher(ChannelId(bytes(32)), 5000, good.signature),
        Voucher(CHANNEL, 5000, STATION.sign(eip712.voucher_digest(CHANNEL, 5000, DOMAIN))),
    ):
        assert (their_verdict(spoiled), our_verdict(spoiled)) == (False, False)


def test_the_benchmark_runs_and_says_what_it_promises():
    """A thousandth of its length: that it works, never how fast."""
    from bench.signing import measure

    figures = measure(turns=1, turn_s=0.001)
    assert {
        "sign_ratio",
        "verify_ratio",
        "sign_and_verify_ratio",
        "sign_ours_per_s",
        "verify_stock_per_s",
    } <= set(figures)
    assert all(value > 0 for value in figures.values())
