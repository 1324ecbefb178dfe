"""Objects survive encoding; spoiled ones are refused, never a crash."""

import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from depai_robot.payment import x402
from depai_robot.payment.channel import ChannelConfig, DepositAuthorization, Voucher
from depai_robot.values.error import RemoteError
from depai_robot.values.identity import address_to_hex

addresses = st.binary(min_size=20, max_size=20)
words = st.binary(min_size=32, max_size=32)
uint128 = st.integers(0, 2**128 - 1)
uint256 = st.integers(0, 2**256 - 1)
texts = st.text(max_size=30)
decimals = uint128.map(str)

configs = st.builds(
    ChannelConfig,
    payer=addresses,
    payer_authorizer=addresses,
    receiver=addresses,
    receiver_authorizer=addresses,
    token=addresses,
    withdraw_delay_s=st.integers(0, 2**40 - 1),
    salt=words,
)
vouchers = st.builds(Voucher, channel_id=words, ceiling_atomic=uint128, signature=st.binary(max_size=70))
deposits = st.builds(
    DepositAuthorization,
    amount_atomic=uint128,
    valid_after_s=uint256,
    valid_before_s=uint256,
    salt=words,
    signature=st.binary(max_size=70),
)
extras = st.builds(
    x402.RequirementsExtra,
    receiver_authorizer=addresses.map(address_to_hex),
    withdraw_delay=st.integers(0, 2**40 - 1),
    name=texts,
    version=texts,
    asset_transfer_method=st.sampled_from([UNSET, "eip3009"]),
    min_deposit=st.just(UNSET) | decimals,
)
requirements = st.builds(
    x402.PaymentRequirements,
    scheme=st.just("batch-settlement"),
    network=st.integers(1, 2**53).map("eip155:{}".format),
    amount=decimals,
    asset=addresses.map(lambda a: "0x" + a.hex()) | addresses.map(address_to_hex),
    pay_to=addresses.map(lambda a: "0x" + a.hex().upper()),
    max_timeout_seconds=st.integers(1, 2**31),
    extra=extras,
)
payloads = st.one_of(
    st.builds(
        x402.DepositPayload,
        configs.map(x402.config_to_json),
        vouchers.map(x402.voucher_to_json),
        deposits.map(x402.deposit_to_json),
    ),
    st.builds(x402.VoucherPayload, configs.map(x402.config_to_json), vouchers.map(x402.voucher_to_json)),
    st.builds(
        x402.RefundPayload,
        configs.map(x402.config_to_json),
        vouchers.map(x402.voucher_to_json),
        st.just(UNSET) | decimals,
    ),
)
messages = st.builds(
    x402.PaymentPayload,
    x402_version=st.just(2),
    accepted=requirements,
    payload=payloads,
    resource=st.just(UNSET) | st.builds(x402.Resource, url=texts),
)


@given(configs, vouchers, deposits)
def test_values_survive(config, voucher, deposit):
    for value, write, read in (
        (config, x402.config_to_json, x402.json_to_config),
        (voucher, x402.voucher_to_json, x402.json_to_voucher),
        (deposit, x402.deposit_to_json, x402.json_to_deposit),
    ):
        form = write(value)
        again = msgspec.json.decode(msgspec.json.encode(form), type=type(form))
        assert read(again) == value


@given(messages)
def test_messages_survive(message):
    data = msgspec.json.encode(message)
    again = msgspec.json.decode(data, type=x402.PaymentPayload)
    assert again == message
    assert msgspec.json.encode(again) == data


@given(messages, requirements)
def test_the_echo_is_equal_only_to_what_was_asked(message, other):
    same = msgspec.json.decode(msgspec.json.encode(message.accepted), type=x402.PaymentRequirements)
    assert same == message.accepted
    differs = msgspec.json.encode(other) != msgspec.json.encode(same)
    assert (other != same) == differs


@given(messages, st.data())
def test_a_spoiled_message_is_refused_or_read_whole(message, data):
    raw = bytearray(msgspec.json.encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        seen = msgspec.json.decode(bytes(raw), type=x402.PaymentPayload)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return
    # What got in is read completely: nothing was dropped on the way.
    assert json.loads(msgspec.json.encode(seen)) == json.loads(raw)
    try:
        x402.json_to_config(seen.payload.channel_config)
        x402.json_to_voucher(seen.payload.voucher)
        if isinstance(seen.payload, x402.DepositPayload):
            x402.json_to_deposit(seen.payload.deposit)
    except RemoteError:
        pass
