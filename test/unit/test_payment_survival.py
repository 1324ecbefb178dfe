"""The survival clause: one last charge a day above the price limit, if the owner grants it."""

import json

import pytest

from depai_robot.payment.policy import (
    SURVIVAL_PERIOD_S,
    Exposure,
    SpendPolicy,
    Terms,
    format_policy,
    grants_survival,
    is_survival_price,
    may_survive,
    parse_policy,
    policy_digest,
    price_limit,
    read_policy_file,
    refuse_signature,
    refuse_terms,
    session_policy,
    survival_policy,
    tighten,
)
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.error import ConfigError

OWNER, ROBOT = DevelopmentSigner("owner"), DevelopmentSigner("robot voucher key")
STATION = DevelopmentSigner("station").address
NOW_S, CHAIN = 1_800_000_000, 84532


def make_granted(**changes):
    values = {
        "robot": ROBOT.address,
        "epoch": 1,
        "valid_after_s": NOW_S - 100,
        "valid_before_s": NOW_S + 1_000_000,
        "tranche_max_atomic": 5_000,
        "session_max_atomic": 50_000,
        "day_max_atomic": 100_000,
        "escrow_channel_max_atomic": 60_000,
        "escrow_unknown_max_atomic": 60_000,
        "escrow_total_max_atomic": 60_000,
        "withdraw_delay_max_s": 3600,
        "price_max_atomic_per_kwh": 500_000,
        "start_fee_max_atomic": 1_000,
        "survival_below_permille": 100,
        "survival_price_max_atomic_per_kwh": 1_500_000,
        "survival_session_max_atomic": 20_000,
        **changes,
    }
    return SpendPolicy(**values)


@pytest.mark.parametrize(
    ("soc", "last_s", "limit"),
    [
        (99, None, 1_500_000),
        (0, None, 1_500_000),
        (100, None, 500_000),
        (1000, None, 500_000),
        (-1, None, 500_000),
        (99, NOW_S - SURVIVAL_PERIOD_S, 1_500_000),
        (99, NOW_S - SURVIVAL_PERIOD_S + 1, 500_000),
        (99, NOW_S, 500_000),
        (99, NOW_S + 1, 500_000),
        (99, NOW_S + 10 * SURVIVAL_PERIOD_S, 500_000),
    ],
)
def test_price_limit_rises_below_the_threshold_once_a_day(soc, last_s, limit):
    assert price_limit(make_granted(), soc, survival_s=last_s, now_s=NOW_S) == limit


@pytest.mark.parametrize(
    "changes",
    [
        {"survival_below_permille": 0},
        {"survival_price_max_atomic_per_kwh": 0},
        {"survival_session_max_atomic": 0},
        {"survival_price_max_atomic_per_kwh": 500_000},
        {"survival_price_max_atomic_per_kwh": 400_000},
    ],
)
def test_a_clause_with_a_zero_or_no_higher_price_grants_nothing(changes):
    policy = make_granted(**changes)
    assert not grants_survival(policy)
    assert not may_survive(policy, 0, survival_s=None, now_s=NOW_S)
    assert survival_policy(policy) is policy


def test_a_survival_session_has_a_higher_price_and_a_lower_sum_and_nothing_else_changes():
    policy = make_granted()
    loose = survival_policy(policy)
    dear = Terms(STATION, 1_500_000, 100, 900, 3600, 0)
    assert "price per kWh 1500000" in refuse_terms(policy, dear, Exposure(), NOW_S)
    assert refuse_terms(loose, dear, Exposure(), NOW_S) is None
    dearer = Terms(STATION, 1_500_001, 100, 900, 3600, 0)
    assert "price per kWh 1500001" in refuse_terms(loose, dearer, Exposure(), NOW_S)
    refused = refuse_signature(
        loose, Exposure(session_atomic=19_500), rise_atomic=501, ahead_atomic=501, now_s=NOW_S
    )
    assert refused == "session total 20001 is above the policy's 20000"
    assert survival_policy(make_granted(session_max_atomic=10_000)).session_max_atomic == 10_000
    same = [name for name in SpendPolicy.__slots__ if getattr(loose, name) == getattr(policy, name)]
    assert len(same) == len(SpendPolicy.__slots__) - 2


def test_a_cheap_session_leaves_the_clause_for_later():
    policy = make_granted()
    assert not is_survival_price(policy, 500_000)
    assert session_policy(policy, 500_000) is policy
    assert session_policy(policy, 500_001) == survival_policy(policy)


def test_permille_are_at_most_a_thousand():
    with pytest.raises(ConfigError, match="at most 1000"):
        make_granted(survival_below_permille=1001)


def test_a_console_can_take_the_clause_away_but_not_widen_it():
    policy = make_granted()
    assert not grants_survival(tighten(policy, survival_below_permille=0))
    with pytest.raises(ConfigError, match="would rise"):
        tighten(policy, survival_session_max_atomic=20_001)


def _file(policy):
    return format_policy(policy, CHAIN, OWNER.address, OWNER.sign(policy_digest(policy, CHAIN)))


def test_the_clause_is_in_the_file_and_under_the_signature():
    data = _file(make_granted())
    assert parse_policy(data, chain_id=CHAIN, owner=OWNER.address, robot=ROBOT.address) == make_granted()
    for name in ("below_permille", "price_max_atomic_per_kwh", "session_max_atomic"):
        changed = json.loads(data)
        changed[f"survival_{name}"] += 1
        with pytest.raises(ConfigError, match="not signed by its owner"):
            parse_policy(
                json.dumps(changed).encode(), chain_id=CHAIN, owner=OWNER.address, robot=ROBOT.address
            )


@pytest.mark.parametrize("version", [None, "1", "3"])
def test_a_file_of_another_version_is_refused_with_what_to_do(version):
    values = json.loads(_file(make_granted()))
    del values["version"]
    if version is not None:
        values["version"] = version
    with pytest.raises(ConfigError, match="signs it again with `depai-robot policy sign`"):
        read_policy_file(json.dumps(values).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff\xfe", b'{"version": 2}', b'{"version": "2"}'])
def test_what_is_no_policy_file_is_a_config_error(data):
    with pytest.raises(ConfigError, match="policy file"):
        read_policy_file(data)
