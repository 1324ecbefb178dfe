import json
from dataclasses import replace

import msgspec
import pytest

from depai_robot.payment.receipt import (
    OutsideFacts,
    Receipt,
    Transactions,
    format_receipt,
    parse_receipt,
    receipt_digest,
    reconcile,
)
from depai_robot.values.error import ConfigError
from depai_robot.values.identity import keccak256


def make_receipt(**changes):
    good = Receipt(
        session="session-1",
        robot="robot-1",
        station="station-1",
        robot_address="0x" + "1a" * 20,
        station_address="0x" + "2B" * 20,
        network="eip155:31337",
        token="0x" + "3c" * 20,
        channel="0x" + "4d" * 32,
        started_s=1_800_000_000,
        ended_s=1_800_000_060,
        stop_reason="SOCLimitReached",
        price_atomic_per_kwh=400_000,
        start_fee_atomic=100,
        idle_fee_atomic=7,
        station_energy_milliwh=10_003,
        robot_energy_milliwh=9_900,
        statements=("OCMF|{}|{}", "OCMF|{}|{}"),
        vouchers=21,
        ceiling_atomic=4_500,
        owed_atomic=4_108,
        deposited_atomic=9_000,
        claimed_atomic=4_108,
        returned_atomic=4_892,
        transactions=Transactions(deposit="0x" + "5e" * 32),
        evidence=("0x" + "6f" * 32,),
    )
    return msgspec.structs.replace(good, **changes)


FACTS = OutsideFacts(
    balance_atomic=4_108,
    total_claimed_atomic=4_108,
    robot_meter_milliwh=9_900,
    station_meter_milliwh=10_003,
    meter_band_milliwh=200,
    journal_ceiling_atomic=4_500,
    station_ceiling_atomic=4_500,
)


def failed(receipt, facts=FACTS):
    return [name for name, passed, _ in reconcile(receipt, facts) if not passed]


def test_json_is_canonical_and_round_trips():
    text = format_receipt(make_receipt())
    assert parse_receipt(text) == make_receipt()
    keys = list(json.loads(text))
    assert keys == sorted(keys)
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    shuffled = json.dumps(dict(reversed(json.loads(text).items())), indent=1)
    assert format_receipt(parse_receipt(shuffled)) == text
    assert receipt_digest(make_receipt()) == keccak256(text.encode())


def test_every_field_counts_in_the_digest():
    assert receipt_digest(make_receipt(vouchers=22)) != receipt_digest(make_receipt())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d.pop("channel"),
        lambda d: d.update(more=1),
        lambda d: d.update(version=2),
        lambda d: d.update(vouchers=-1),
        lambda d: d.update(vouchers=1.5),
        lambda d: d.update(vouchers="1"),
        lambda d: d.update(channel="0x" + "4D" * 32),
        lambda d: d.update(channel="0x" + "4d" * 32 + "\n"),
        lambda d: d.update(token="0x"),
        lambda d: d.update(evidence=["0x"]),
        lambda d: d.update(transactions={"other": ""}),
        lambda d: d.update(statements=["one"]),
    ],
)
def test_a_spoiled_receipt_is_one_clear_error(spoil):
    data = json.loads(format_receipt(make_receipt()))
    spoil(data)
    with pytest.raises(ConfigError, match="receipt: "):
        parse_receipt(json.dumps(data))


@pytest.mark.parametrize("text", ["", "[]", "null", "{", b"\xff"])
def test_no_receipt_at_all(text):
    with pytest.raises(ConfigError, match="receipt: "):
        parse_receipt(text)


def test_an_honest_session_reconciles():
    assert failed(make_receipt()) == []


def test_a_station_without_a_journal_is_judged_by_the_rest():
    assert failed(make_receipt(), replace(FACTS, station_ceiling_atomic=None)) == []


@pytest.mark.parametrize(
    ("receipt", "facts", "names"),
    [
        ({"owed_atomic": 4_109}, {}, ["owed is price times energy plus fees"]),
        ({"claimed_atomic": 4_107, "returned_atomic": 4_893}, {}, ["claimed on chain"]),
        ({"ceiling_atomic": 4_107}, {}, ["claimed is not above the signed ceiling", "ceiling is", "station"]),
        ({"returned_atomic": 4_891}, {}, ["deposit = claimed"]),
        ({}, {"journal_ceiling_atomic": 4_501}, ["ceiling is the highest"]),
        ({}, {"station_ceiling_atomic": 4_501}, ["the station holds no voucher"]),
        ({}, {"meter_band_milliwh": 102}, ["both meters agree"]),
        ({"robot_energy_milliwh": 10_101}, {}, ["the receipt's energies"]),
        ({}, {"balance_atomic": 4_109}, ["deposit = claimed"]),
    ],
)
def test_each_discrepancy_is_named(receipt, facts, names):
    seen = failed(make_receipt(**receipt), replace(FACTS, **facts))
    assert len(seen) == len(names), seen
    for name in names:
        assert any(name in text for text in seen), (name, seen)


def test_an_over_claim_is_named():
    receipt = make_receipt(claimed_atomic=4_500, returned_atomic=4_500)
    facts = replace(FACTS, balance_atomic=4_500, total_claimed_atomic=4_500)
    assert failed(receipt, facts) == ["claimed is not above what is owed"]
