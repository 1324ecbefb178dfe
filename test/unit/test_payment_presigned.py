"""Deposits that the treasury signed beforehand: the file is read strictly, and bound to place, payer, key, policy."""

import json
from dataclasses import replace

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data

from depai_robot.payment.channel import ChannelConfig, DepositAuthorization
from depai_robot.payment.eip712 import DEPOSIT_COLLECTOR
from depai_robot.payment.policy import SpendPolicy
from depai_robot.payment.presigned import (
    DepositPlace,
    Presigned,
    format_presigned,
    parse_presigned,
    presigned_digest,
    read_presigned,
    total_atomic,
)
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.error import ConfigError
from depai_robot.values.identity import ADDRESS_ZERO, address_from_hex, address_to_hex

PAYER, ROBOT, STATION = (DevelopmentSigner(name) for name in ("treasury", "voucher", "station"))
OTHER = DevelopmentSigner("somebody else")
PLACE = DepositPlace(
    chain_id=84532,
    token=address_from_hex("0x036CbD53842c5426634e7929541eC2318f3dCF7e"),
    token_name="USDC",
    token_version="2",
)
NOW_S = 1_800_000_000
POLICY = SpendPolicy(
    robot=ROBOT.address,
    epoch=1,
    valid_after_s=NOW_S - 100,
    valid_before_s=NOW_S + 100_000,
    tranche_max_atomic=5_000,
    session_max_atomic=50_000,
    day_max_atomic=100_000,
    escrow_channel_max_atomic=60_000,
    escrow_unknown_max_atomic=0,
    escrow_total_max_atomic=80_000,
    withdraw_delay_max_s=3600,
    price_max_atomic_per_kwh=500_000,
    start_fee_max_atomic=1_000,
    payees=(STATION.address,),
)


def make_presigned(number=1, *, key=PAYER, amount_atomic=50_000, place=PLACE, **changes):
    channel = ChannelConfig(
        payer=PAYER.address,
        payer_authorizer=ROBOT.address,
        receiver=STATION.address,
        receiver_authorizer=STATION.address,
        token=PLACE.token,
        withdraw_delay_s=900,
        salt=bytes(32),
    )
    deposit = DepositAuthorization(amount_atomic, 0, NOW_S + 1000, number.to_bytes(32, "big"), bytes(65))
    for name, value in changes.items():
        if hasattr(channel, name):
            channel = replace(channel, **{name: value})
        else:
            deposit = replace(deposit, **{name: value})
    deposit = replace(deposit, signature=key.sign(presigned_digest(place, channel, deposit)))
    return Presigned("yard-1", channel, deposit)


def read(data, **changes):
    values = {"place": PLACE, "payer": PAYER.address, "voucher_key": ROBOT.address, "policy": POLICY}
    return parse_presigned(data, **{**values, **changes})


def test_what_is_written_is_read():
    items = tuple(make_presigned(number) for number in (1, 2, 3))
    assert read(format_presigned(items, PLACE)) == items
    assert read(format_presigned((), PLACE)) == ()
    assert total_atomic(items, now_s=NOW_S) == 150_000
    assert total_atomic(items, now_s=NOW_S + 1000) == 0


def test_an_external_wallet_signs_the_same():
    item = make_presigned()
    names = ("from", "to", "value", "validAfter", "validBefore", "nonce")
    types = ("address", "address", "uint256", "uint256", "uint256", "bytes32")
    values = (
        address_to_hex(PAYER.address),
        address_to_hex(DEPOSIT_COLLECTOR),
        50_000,
        0,
        NOW_S + 1000,
        item.nonce(PLACE),
    )
    signed = Account.from_key(PAYER.secret).sign_message(
        encode_typed_data(
            domain_data={
                "name": "USDC",
                "version": "2",
                "chainId": 84532,
                "verifyingContract": address_to_hex(PLACE.token),
            },
            message_types={
                "ReceiveWithAuthorization": [
                    {"name": n, "type": t} for n, t in zip(names, types, strict=True)
                ]
            },
            message_data=dict(zip(names, values, strict=True)),
        )
    )
    assert bytes(signed.signature) == item.deposit.signature


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (make_presigned(key=OTHER), "not signed by the payer"),
        (make_presigned(payer=OTHER.address), "its payer is"),
        (make_presigned(payer_authorizer=OTHER.address), "its voucher key"),
        (make_presigned(token=OTHER.address), "its token is"),
        (make_presigned(receiver=ADDRESS_ZERO), "its receiver is the zero address"),
        (make_presigned(receiver_authorizer=ADDRESS_ZERO), "receiverAuthorizer is the zero address"),
        (make_presigned(receiver=OTHER.address), "not among the policy's payees"),
        (make_presigned(amount_atomic=0), "its amount is 0"),
        (make_presigned(amount_atomic=60_001), "the policy allows 60000 there"),
        (make_presigned(withdraw_delay_s=3601), "the policy allows 3600 s"),
        (make_presigned(withdraw_delay_s=899), "withdrawDelay 899 s"),
        (make_presigned(valid_after_s=NOW_S + 1000), "never"),
        (make_presigned(place=replace(PLACE, token_name="USD Coin")), "not signed by the payer"),
        (make_presigned(place=replace(PLACE, chain_id=8453)), "not signed by the payer"),
        (make_presigned(place=replace(PLACE, collector=OTHER.address)), "not signed by the payer"),
        (make_presigned(place=replace(PLACE, settlement=OTHER.address)), "not signed by the payer"),
    ],
)
def test_an_entry_that_is_not_as_it_must_be_refuses_the_file(item, words):
    data = format_presigned((make_presigned(7), item), PLACE)
    with pytest.raises(ConfigError, match=r"pre-signed deposit 2 \(yard-1\)") as refused:
        read(data)
    assert words in str(refused.value)


def test_every_signed_number_is_under_the_signature():
    good = json.loads(format_presigned((make_presigned(),), PLACE))
    entry = good["deposits"][0]
    signed = entry["deposit"]["authorization"]["erc3009Authorization"]
    for owner, name in ((entry["deposit"], "amount"), (signed, "validAfter"), (signed, "validBefore")):
        was = owner[name]
        owner[name] = str(int(was) + 1)
        with pytest.raises(ConfigError, match="not signed by the payer"):
            read(json.dumps(good).encode())
        owner[name] = was
    signed["salt"] = "0x" + "77" * 32
    with pytest.raises(ConfigError, match="not signed by the payer"):
        read(json.dumps(good).encode())


def test_the_same_deposit_twice_is_refused():
    with pytest.raises(ConfigError, match="2 .* is number 1 once more"):
        read(format_presigned((make_presigned(), make_presigned()), PLACE))


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (replace(PLACE, chain_id=8453), "for chain 84532, this robot is on 8453"),
        (replace(PLACE, token=OTHER.address), "for token 0x036CbD53842c5426634e7929541eC2318f3dCF7e"),
        (replace(PLACE, token_name="USD Coin"), "'USDC', this robot is on 'USD Coin'"),
        (replace(PLACE, token_version="1"), "token's version"),
        (replace(PLACE, settlement=OTHER.address), "settlement contract"),
        (replace(PLACE, collector=OTHER.address), "collector contract"),
    ],
)
def test_a_file_for_another_place_is_refused(place, words):
    with pytest.raises(ConfigError) as refused:
        read(format_presigned((make_presigned(),), PLACE), place=place)
    assert words in str(refused.value)


def test_a_channel_id_that_is_not_the_configs_is_refused():
    good = json.loads(format_presigned((make_presigned(),), PLACE))
    good["deposits"][0]["channelId"] = "0x" + "00" * 32
    with pytest.raises(ConfigError, match="names channel 0x0000"):
        read(json.dumps(good).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b" " * ((1 << 20) + 1),
        format_presigned((make_presigned(),), PLACE).replace(b'"version": 1', b'"version": 2'),
        format_presigned((make_presigned(),), PLACE).replace(b'"amount": "50000"', b'"amount": 50000'),
        format_presigned((make_presigned(),), PLACE).replace(b'"amount": "50000"', b'"amount": "-5"'),
        format_presigned((make_presigned(),), PLACE).replace(b'"deposits"', b'"extra": 1, "deposits"'),
    ],
)
def test_what_is_no_such_file_is_a_config_error(data):
    with pytest.raises(ConfigError, match="pre-signed deposit"):
        read(data)


def test_without_a_policy_only_the_signature_is_checked():
    item = make_presigned(amount_atomic=10**9)
    assert read(format_presigned((item,), PLACE), policy=None) == (item,)
    assert read_presigned(format_presigned((item,), PLACE), place=PLACE) == (item,)
