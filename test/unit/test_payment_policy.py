import json
from dataclasses import fields, replace

import pytest
from eth_account import Account
from eth_account.messages import _hash_eip191_message, encode_typed_data

from depai_robot.payment.policy import (
    Exposure,
    SpendPolicy,
    Terms,
    escrow_max_atomic,
    format_policy,
    parse_policy,
    policy_digest,
    policy_typed_data,
    refuse_signature,
    refuse_terms,
    tighten,
)
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.error import ConfigError
from depai_robot.values.identity import ADDRESS_ZERO, address_to_hex

CHAIN = 84532
OWNER, ROBOT = DevelopmentSigner("owner"), DevelopmentSigner("robot voucher key")
KNOWN, UNKNOWN = DevelopmentSigner("known station").address, DevelopmentSigner("new station").address
NOW_S = 1_800_000_000


def make_policy(**changes):
    good = SpendPolicy(
        robot=ROBOT.address,
        epoch=3,
        valid_after_s=NOW_S - 100,
        valid_before_s=NOW_S + 100,
        tranche_max_atomic=1_000,
        session_max_atomic=20_000,
        day_max_atomic=50_000,
        escrow_channel_max_atomic=30_000,
        escrow_unknown_max_atomic=10_000,
        escrow_total_max_atomic=40_000,
        withdraw_delay_max_s=3600,
        price_max_atomic_per_kwh=500_000,
        start_fee_max_atomic=500,
        payees=(KNOWN,),
    )
    return replace(good, **changes)


def make_terms(**changes):
    return replace(Terms(KNOWN, 400_000, 100, 900, 3600, 0), **changes)


def sign(policy, chain=CHAIN, key=OWNER):
    return format_policy(policy, chain, OWNER.address, key.sign(policy_digest(policy, chain)))


def read(data, **changes):
    expected = {"chain_id": CHAIN, "owner": OWNER.address, "robot": ROBOT.address, **changes}
    return parse_policy(data, **expected)


# --- the owner's signature -------------------------------------------------------------------------------------


@pytest.mark.parametrize("payees", [(), (KNOWN,), (UNKNOWN, KNOWN)])
def test_digest_is_what_a_wallet_signs(payees):
    policy = make_policy(payees=payees)
    signable = encode_typed_data(full_message=policy_typed_data(policy, CHAIN))
    assert policy_digest(policy, CHAIN) == _hash_eip191_message(signable)


def test_a_wallet_can_sign_it():
    policy = make_policy()
    wallet = Account.from_key(OWNER.secret)
    signed = wallet.sign_typed_data(
        full_message=json.loads(json.dumps(policy_typed_data(policy, CHAIN)))
    ).signature
    assert read(format_policy(policy, CHAIN, OWNER.address, bytes(signed))) == policy


def test_every_field_is_signed():
    digest = policy_digest(make_policy(), CHAIN)
    seen = {digest, policy_digest(make_policy(), CHAIN + 1), policy_digest(make_policy(payees=()), CHAIN)}
    numbers = [item.name for item in fields(SpendPolicy) if item.type == "int" or item.type is int]
    assert len(numbers) == 15
    for name in numbers:
        changed = make_policy(**{name: getattr(make_policy(), name) + 1})
        seen.add(policy_digest(changed, CHAIN))
    seen.add(policy_digest(make_policy(robot=UNKNOWN), CHAIN))
    assert len(seen) == len(numbers) + 4


def test_file_round_trips():
    assert read(sign(make_policy())) == make_policy()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chain_id": 1}, "chain 84532"),
        ({"owner": UNKNOWN}, "owner"),
        ({"robot": UNKNOWN}, "robot"),
        ({"epoch_min": 4}, "epoch 3"),
    ],
)
def test_a_policy_is_for_one_chain_owner_robot_and_epoch(changes, words):
    with pytest.raises(ConfigError, match=words):
        read(sign(make_policy()), **changes)


def test_another_signer_is_refused():
    with pytest.raises(ConfigError, match="not signed by its owner"):
        read(sign(make_policy(), key=ROBOT))


def test_a_changed_limit_is_refused():
    data = sign(make_policy()).replace(b'"day_max_atomic": 50000', b'"day_max_atomic": 50001')
    with pytest.raises(ConfigError, match="not signed by its owner"):
        read(data)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: b"",
        lambda d: b"{",
        lambda d: b"[]",
        lambda d: d.replace(b"epoch", b"epok"),
        lambda d: d.replace(b'"epoch": 3', b'"epoch": 3.5'),
        lambda d: d.replace(b'"epoch": 3', b'"epoch": -3'),
        lambda d: d.replace(b'"epoch": 3', b'"epoch": "3"'),
        lambda d: d.replace(b'"epoch": 3', b'"epoch": 3, "more": 1'),
        lambda d: d.replace(b'"signature": "0x', b'"signature": "0xzz'),
        lambda d: d.replace(b'"signature": "0x', b'"signature": "0x00'),
        lambda d: d.replace(b'"robot": "0x', b'"robot": "'),
        lambda d: b"\xff" + d,
    ],
)
def test_a_spoiled_file_is_one_clear_error(spoil):
    with pytest.raises(ConfigError):
        read(spoil(sign(make_policy())))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"robot": ADDRESS_ZERO}, "zero"),
        ({"robot": b"short"}, "20 bytes"),
        ({"payees": (b"",)}, "20 bytes"),
        ({"valid_before_s": NOW_S - 100}, "never"),
        ({"tranche_max_atomic": -1}, "tranche_max_atomic"),
        ({"epoch": True}, "epoch"),
        ({"day_max_atomic": 1.5}, "day_max_atomic"),
        ({"escrow_total_max_atomic": 2**128}, "escrow_total_max_atomic"),
    ],
)
def test_a_policy_refuses_values_it_can_not_mean(changes, words):
    with pytest.raises(ConfigError, match=words):
        make_policy(**changes)


# --- tightening ------------------------------------------------------------------------------------------------


def test_a_console_may_lower_limits():
    assert tighten(make_policy(), day_max_atomic=0, valid_before_s=NOW_S) == make_policy(
        day_max_atomic=0, valid_before_s=NOW_S
    )


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"day_max_atomic": 50_001}, "would rise"),
        ({"epoch": 2}, "can't be tightened"),
        ({"robot": 1}, "can't be tightened"),
        ({"nonsense": 1}, "can't be tightened"),
        ({"day_max_atomic": -1}, "day_max_atomic"),
        ({"valid_before_s": NOW_S - 200}, "never"),
        ({"payees": (KNOWN, UNKNOWN)}, "only the owner's signature widens"),
    ],
)
def test_a_console_may_not_widen(limits, words):
    with pytest.raises(ConfigError, match=words):
        tighten(make_policy(), **limits)


def test_a_payee_left_out_gets_no_more_than_before():
    policy = make_policy(escrow_unknown_max_atomic=35_000)
    less = tighten(policy, payees=())
    assert less.payees == ()
    for receiver in (KNOWN, UNKNOWN):
        assert escrow_max_atomic(less, receiver, Exposure()) <= escrow_max_atomic(
            policy, receiver, Exposure()
        )


# --- what it judges --------------------------------------------------------------------------------------------


def test_terms_within_the_policy_are_accepted():
    assert refuse_terms(make_policy(), make_terms(), Exposure(), NOW_S) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"price_atomic_per_kwh": 500_001}, "price per kWh 500001 is above the policy's 500000"),
        ({"start_fee_atomic": 501}, "start fee 501"),
        ({"tranche_cost_atomic": 1_001}, "tranche 1001"),
        ({"withdraw_delay_s": 3601}, "withdraw delay 3601"),
        ({"min_deposit_atomic": 30_001}, "minimum deposit 30001"),
        ({"min_deposit_atomic": 10_001, "receiver": UNKNOWN}, "minimum deposit 10001"),
        ({"receiver": ADDRESS_ZERO}, "zero address"),
    ],
)
def test_terms_outside_the_policy_are_refused_with_the_figure(changes, words):
    assert words in refuse_terms(make_policy(), make_terms(**changes), Exposure(), NOW_S)


def test_limits_are_inclusive():
    terms = make_terms(
        price_atomic_per_kwh=500_000,
        start_fee_atomic=500,
        tranche_cost_atomic=1_000,
        min_deposit_atomic=30_000,
    )
    assert refuse_terms(make_policy(), terms, Exposure(), NOW_S) is None


@pytest.mark.parametrize(
    ("now_s", "valid"), [(NOW_S - 101, 0), (NOW_S - 100, 1), (NOW_S + 99, 1), (NOW_S + 100, 0)]
)
def test_validity_is_half_open(now_s, valid):
    refused = refuse_terms(make_policy(), make_terms(), Exposure(), now_s)
    assert (refused is None) == bool(valid)
    signed = refuse_signature(make_policy(), Exposure(), rise_atomic=1, ahead_atomic=1, now_s=now_s)
    assert (signed is None) == bool(valid)


def test_only_named_payees_when_nothing_may_be_locked_with_strangers():
    policy = make_policy(escrow_unknown_max_atomic=0)
    assert "not among" in refuse_terms(policy, make_terms(receiver=UNKNOWN), Exposure(), NOW_S)
    assert refuse_terms(policy, make_terms(), Exposure(), NOW_S) is None


def test_escrow_counts_what_is_locked_elsewhere():
    assert escrow_max_atomic(make_policy(), KNOWN, Exposure()) == 30_000
    assert escrow_max_atomic(make_policy(), UNKNOWN, Exposure()) == 10_000
    assert escrow_max_atomic(make_policy(), UNKNOWN, Exposure(escrow_total_atomic=35_000)) == 5_000
    assert escrow_max_atomic(make_policy(), KNOWN, Exposure(escrow_total_atomic=50_000)) == 0
    full = Exposure(escrow_total_atomic=39_500)
    assert "does not hold" in refuse_terms(make_policy(), make_terms(), full, NOW_S)


@pytest.mark.parametrize("exposure", [Exposure(session_atomic=19_500), Exposure(day_atomic=49_500)])
def test_no_session_is_begun_that_the_budget_does_not_carry(exposure):
    assert "start fee and one tranche 1000" in refuse_terms(make_policy(), make_terms(), exposure, NOW_S)


@pytest.mark.parametrize(
    ("exposure", "rise", "ahead", "words"),
    [
        (Exposure(), 1_001, 1_001, "1001 ahead"),
        (Exposure(session_atomic=19_900), 101, 0, "session total 20001"),
        (Exposure(day_atomic=49_900), 101, 0, "day total 50001"),
    ],
)
def test_a_voucher_outside_the_policy_is_not_signed(exposure, rise, ahead, words):
    refused = refuse_signature(make_policy(), exposure, rise_atomic=rise, ahead_atomic=ahead, now_s=NOW_S)
    assert words in refused


def test_a_voucher_at_the_limits_is_signed():
    exposure = Exposure(session_atomic=19_000, day_atomic=49_000)
    assert (
        refuse_signature(make_policy(), exposure, rise_atomic=1_000, ahead_atomic=1_000, now_s=NOW_S) is None
    )


def test_the_file_is_readable():
    text = json.loads(sign(make_policy()))
    assert text["robot"] == address_to_hex(ROBOT.address)
    assert text["payees"] == [address_to_hex(KNOWN)]
    assert sign(make_policy()).endswith(b"}\n")
