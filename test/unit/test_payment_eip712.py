"""Our hand-written encoders against eth-account's general one."""

import eth_abi
import pytest
from eth_account.messages import _hash_eip191_message, encode_typed_data

from depai_robot.payment import eip712
from depai_robot.payment.channel import ChannelConfig, DepositAuthorization, Voucher
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.error import BugError, ConfigError
from depai_robot.values.identity import address_from_hex, address_to_hex, keccak256

CHAIN = 84532
TOKEN = address_from_hex("0x036CbD53842c5426634e7929541eC2318f3dCF7e")
CONFIG_TYPES = [
    ("address", "payer"),
    ("address", "payerAuthorizer"),
    ("address", "receiver"),
    ("address", "receiverAuthorizer"),
    ("address", "token"),
    ("uint40", "withdrawDelay"),
    ("bytes32", "salt"),
]
AUTHORIZATION_TYPES = [
    ("address", "from"),
    ("address", "to"),
    ("uint256", "value"),
    ("uint256", "validAfter"),
    ("uint256", "validBefore"),
    ("bytes32", "nonce"),
]


def make_config(**changes):
    address = {
        name: DevelopmentSigner(name).address
        for name in ("payer", "payer_authorizer", "receiver", "receiver_authorizer")
    }
    return ChannelConfig(
        **{**address, "token": TOKEN, "withdraw_delay_s": 3600, "salt": bytes(32), **changes}
    )


def reference_digest(name, version, contract, types, primary, message):
    """The digest by eth-account."""
    signable = encode_typed_data(
        domain_data={
            "name": name,
            "version": version,
            "chainId": CHAIN,
            "verifyingContract": address_to_hex(contract),
        },
        message_types={kind: [{"type": t, "name": n} for t, n in members] for kind, members in types.items()},
        message_data=message,
    )
    assert primary in types
    return _hash_eip191_message(signable)


def reference_settlement(types, primary, message):
    return reference_digest("x402 Batch Settlement", "1", eip712.SETTLEMENT, types, primary, message)


def test_known_channel_and_voucher():
    # Source: keys 0x11.., 0x22.., 0x33.. on Base Sepolia; both values were confirmed by the canonical contract.
    from coincurve import PrivateKey

    from depai_robot.values.identity import public_key_to_address

    payer, authorizer, receiver = (
        public_key_to_address(PrivateKey(bytes([byte]) * 32).public_key.format(compressed=False))
        for byte in (0x11, 0x22, 0x33)
    )
    domain = eip712.settlement_domain(CHAIN)
    config = ChannelConfig(payer, authorizer, receiver, receiver, TOKEN, 3600, bytes(32))
    channel = eip712.channel_id(config, domain)
    assert channel.hex() == "41828f762a31260bf8f34143db204a10762150e9746885bacabc8dd9f1d41187"
    assert (
        eip712.voucher_digest(channel, 5000, domain).hex()
        == "1d670e7334fc43a6a8e6f55ebb5049346697d3aadb12a901c8d2dd3864b9b3fc"
    )


@pytest.mark.parametrize("delay", [0, 900, 2**40 - 1])
@pytest.mark.parametrize("salt", [bytes(32), b"\xff" * 32])
def test_channel_id(delay, salt):
    config = make_config(withdraw_delay_s=delay, salt=salt)
    message = {
        "payer": address_to_hex(config.payer),
        "payerAuthorizer": address_to_hex(config.payer_authorizer),
        "receiver": address_to_hex(config.receiver),
        "receiverAuthorizer": address_to_hex(config.receiver_authorizer),
        "token": address_to_hex(config.token),
        "withdrawDelay": delay,
        "salt": salt,
    }
    expected = reference_settlement({"ChannelConfig": CONFIG_TYPES}, "ChannelConfig", message)
    assert eip712.channel_id(config, eip712.settlement_domain(CHAIN)) == expected


@pytest.mark.parametrize("amount", [0, 1, 2**53 + 1, 2**128 - 1])
def test_voucher_and_refund(amount):
    domain, channel = eip712.settlement_domain(CHAIN), keccak256(b"channel")
    voucher = {"Voucher": [("bytes32", "channelId"), ("uint128", "maxClaimableAmount")]}
    assert eip712.voucher_digest(channel, amount, domain) == reference_settlement(
        voucher, "Voucher", {"channelId": channel, "maxClaimableAmount": amount}
    )
    refund = {"Refund": [("bytes32", "channelId"), ("uint256", "nonce"), ("uint128", "amount")]}
    assert eip712.refund_digest(channel, 7, amount, domain) == reference_settlement(
        refund, "Refund", {"channelId": channel, "nonce": 7, "amount": amount}
    )


@pytest.mark.parametrize("count", [0, 1, 2, 18])
def test_claim_batch(count):
    rows = [(keccak256(bytes([n])), 10**n, n) for n in range(count)]
    types = {
        "ClaimBatch": [("ClaimEntry[]", "claims")],
        "ClaimEntry": [
            ("bytes32", "channelId"),
            ("uint128", "maxClaimableAmount"),
            ("uint128", "totalClaimed"),
        ],
    }
    claims = [
        {"channelId": channel, "maxClaimableAmount": ceiling, "totalClaimed": total}
        for channel, ceiling, total in rows
    ]
    expected = reference_settlement(types, "ClaimBatch", {"claims": claims})
    assert eip712.claim_batch_digest(rows, eip712.settlement_domain(CHAIN)) == expected


@pytest.mark.parametrize("receive", [True, False])
def test_eip_3009_authorizations(receive):
    kind = "ReceiveWithAuthorization" if receive else "TransferWithAuthorization"
    payer, to, nonce = (
        DevelopmentSigner("payer").address,
        DevelopmentSigner("station").address,
        keccak256(b"n"),
    )
    message = {
        "from": address_to_hex(payer),
        "to": address_to_hex(to),
        "value": 2**256 - 1,
        "validAfter": 0,
        "validBefore": 2**64,
        "nonce": nonce,
    }
    expected = reference_digest("USD Coin", "2", TOKEN, {kind: AUTHORIZATION_TYPES}, kind, message)
    got = eip712.authorization_digest(
        eip712.domain_separator("USD Coin", "2", CHAIN, TOKEN),
        payer=payer,
        to=to,
        amount_atomic=2**256 - 1,
        valid_after_s=0,
        valid_before_s=2**64,
        nonce=nonce,
        receive=receive,
    )
    assert got == expected


def test_deposit_is_a_receive_to_the_collector_with_the_channel_in_its_nonce():
    domain, channel, salt = eip712.domain_separator("USDC", "2", CHAIN, TOKEN), keccak256(b"c"), b"\x07" * 32
    nonce = keccak256(eth_abi.encode(["bytes32", "uint256"], [channel, int.from_bytes(salt, "big")]))
    common = {"payer": make_config().payer, "amount_atomic": 5, "valid_after_s": 0, "valid_before_s": 99}
    assert eip712.deposit_nonce(channel, salt) == nonce
    assert eip712.deposit_digest(domain, channel=channel, salt=salt, **common) == eip712.authorization_digest(
        domain, to=eip712.DEPOSIT_COLLECTOR, nonce=nonce, receive=True, **common
    )


@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 64, 65, 66])
def test_collector_data_is_abi_encoding(length):
    signature = bytes(range(length))
    expected = eth_abi.encode(["uint256", "uint256", "uint256", "bytes"], [1, 2**40, 2**256 - 1, signature])
    assert eip712.encode_collector_data(1, 2**40, b"\xff" * 32, signature) == expected


def test_domain_separators_are_computed_once():
    eip712.settlement_domain(77)
    before = eip712.domain_separator.cache_info().misses
    assert eip712.settlement_domain(77) == eip712.settlement_domain(77)
    assert eip712.domain_separator.cache_info().misses == before


@pytest.mark.parametrize("bad", [-1, 2**128, 1.0, True, "1", None])
def test_encoders_refuse_what_the_type_does_not_hold(bad):
    domain = eip712.settlement_domain(CHAIN)
    with pytest.raises(BugError):
        eip712.voucher_digest(bytes(32), bad, domain)
    with pytest.raises(BugError):
        eip712.voucher_digest(bytes(31), 1, domain)
    with pytest.raises(BugError):
        eip712.encode_address(bytes(19))


@pytest.mark.parametrize(
    "changes",
    [
        {"payer": bytes(19)},
        {"token": "0x" + "00" * 20},
        {"withdraw_delay_s": -1},
        {"withdraw_delay_s": 2**40},
        {"withdraw_delay_s": 3600.0},
        {"withdraw_delay_s": True},
        {"salt": bytes(31)},
    ],
)
def test_a_channel_config_refuses_what_the_contract_can_not_hold(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        make_config(**changes)


def test_vouchers_and_deposits_refuse_what_the_contract_can_not_hold():
    with pytest.raises(ConfigError, match="128"):
        Voucher(bytes(32), 2**128, b"")
    good = {
        "amount_atomic": 1,
        "valid_after_s": 0,
        "valid_before_s": 1,
        "salt": bytes(32),
        "signature": b"",
    }
    for changes, words in (
        ({"amount_atomic": 2**128}, "128"),
        ({"amount_atomic": -1}, "128"),
        ({"valid_before_s": 2**256}, "256"),
        ({"salt": b""}, "salt"),
    ):
        with pytest.raises(ConfigError, match=words):
            DepositAuthorization(**{**good, **changes})
