"""Files that decide about money: whatever is changed in them, they are refused with ConfigError or say the same."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from depai_robot.payment.policy import (
    SURVIVAL_PERIOD_S,
    Exposure,
    Terms,
    may_survive,
    parse_policy,
    price_limit,
    refuse_signature,
    refuse_terms,
    survival_policy,
)
from depai_robot.payment.presigned import format_presigned
from depai_robot.values.error import ConfigError
from test.unit import test_payment_presigned as deposits
from test.unit.test_payment_survival import CHAIN, NOW_S, OWNER, ROBOT, STATION, _file, make_granted

POLICY = make_granted(payees=(STATION,))
POLICY_FILE = json.loads(_file(POLICY))
DEPOSITS = (deposits.make_presigned(1), deposits.make_presigned(2))
DEPOSIT_FILE = json.loads(format_presigned(DEPOSITS, deposits.PLACE))

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("0x" + "00" * 20)
values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.text(max_size=5), scalars, max_size=3)


def paths(tree, before=()):
    yield before
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from paths(value, (*before, key))


def changed(tree, path, value):
    if not path:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[path[0]] = changed(tree[path[0]], path[1:], value)
    return copy


def outcome(read, data):
    try:
        return read(data)
    except ConfigError as error:
        said = str(error)
    assert "\n" not in said
    return None


def read_policy(data):
    return parse_policy(data, chain_id=CHAIN, owner=OWNER.address, robot=ROBOT.address)


@settings(max_examples=300, deadline=None)
@given(path=st.sampled_from(list(paths(POLICY_FILE))), value=values)
@example(path=("payees",), value=[])
def test_a_changed_policy_file(path, value):
    assert outcome(read_policy, json.dumps(changed(POLICY_FILE, path, value)).encode()) in (None, POLICY)


@settings(max_examples=300, deadline=None)
@given(path=st.sampled_from(list(paths(DEPOSIT_FILE))), value=values)
def test_a_changed_file_of_deposits(path, value):
    if path == ("deposits",) and value == []:
        return
    read = outcome(deposits.read, json.dumps(changed(DEPOSIT_FILE, path, value)).encode())
    # The name is for people and not under the signature.
    assert read is None or [(i.channel, i.deposit) for i in read] == [
        (i.channel, i.deposit) for i in DEPOSITS
    ]


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes(data):
    assert outcome(read_policy, data) is None
    assert outcome(deposits.read, data) is None


@pytest.mark.parametrize("read", [read_policy, deposits.read])
def test_deep_nesting_is_refused(read):
    assert outcome(read, b"[" * 100_000) is None
    assert outcome(read, b'{"payees":' * 50_000) is None


@settings(max_examples=300, deadline=None)
@given(
    soc=st.integers(-5, 1005),
    last=st.none() | st.integers(NOW_S - 2 * SURVIVAL_PERIOD_S, NOW_S + 2 * SURVIVAL_PERIOD_S),
    below=st.integers(0, 1000),
    price=st.integers(0, 2_000_000),
    total=st.integers(0, 60_000),
    asked=st.integers(0, 3_000_000),
    rise=st.integers(0, 60_000),
)
def test_the_clause_never_allows_more_than_it_says(soc, last, below, price, total, asked, rise):
    policy = make_granted(
        survival_below_permille=below,
        survival_price_max_atomic_per_kwh=price,
        survival_session_max_atomic=total,
    )
    limit = price_limit(policy, soc, survival_s=last, now_s=NOW_S)
    assert limit in (policy.price_max_atomic_per_kwh, price)
    if limit > policy.price_max_atomic_per_kwh:
        assert soc < below
        assert last is None or NOW_S - last >= SURVIVAL_PERIOD_S
        assert may_survive(policy, soc, survival_s=last, now_s=NOW_S)
        # Used once, it is used up for a day.
        assert not may_survive(policy, soc, survival_s=NOW_S, now_s=NOW_S + SURVIVAL_PERIOD_S - 1)
    loose = survival_policy(policy)
    terms = Terms(STATION, asked, 0, 0, 3600, 0)
    if refuse_terms(loose, terms, Exposure(), NOW_S) is None:
        assert asked <= max(policy.price_max_atomic_per_kwh, price)
    allowed = refuse_signature(loose, Exposure(), rise_atomic=rise, ahead_atomic=0, now_s=NOW_S) is None
    strict = refuse_signature(policy, Exposure(), rise_atomic=rise, ahead_atomic=0, now_s=NOW_S) is None
    assert strict or not allowed, "the clause raises no other limit than the price"
