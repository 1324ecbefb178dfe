"""Two meters: honest ones never alarm, dishonest ones do within the stated band."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depai_robot.charging.reconciliation import (
    MeterBand,
    Reconciliation,
    lower_bound_milliwh,
    reconcile,
    upper_bound_milliwh,
)
from depai_robot.values.error import ConfigError

BAND = MeterBand()
LAG = 1000


def run(states, band=BAND):
    """(station, own) totals -> (last value, complaint)."""
    value, complaint = Reconciliation(), ""
    for station, own in states:
        value, complaint = reconcile(value, band, station_milliwh=station, own_milliwh=own, lag_milliwh=LAG)
        if complaint:
            break
    return value, complaint


@pytest.mark.parametrize("efficiency", [0.965, 0.98, 1.0])
def test_honest_meters_pass(efficiency):
    value, complaint = run((83 * n, int(83 * n * efficiency)) for n in range(500))
    assert complaint == ""
    assert value.station_milliwh == 83 * 499


@pytest.mark.parametrize("permille", [1350, 1100])
def test_a_false_scale_is_caught_soon(permille):
    value, complaint = run((83 * n * permille // 1000, 83 * n * 98 // 100) for n in range(500))
    assert "is explained" in complaint
    assert value.station_milliwh < 2000


def test_a_small_steady_cheat_is_caught_by_the_sum_and_not_by_the_band():
    value, complaint = run((83 * n * 1040 // 1000, 83 * n * 98 // 100) for n in range(2000))
    assert "drifts" in complaint
    assert value.station_milliwh <= upper_bound_milliwh(BAND, value.own_milliwh)


def test_register_that_counts_without_power():
    value, complaint = run((83 * n, 0) for n in range(100))
    assert "is explained" in complaint
    assert value.station_milliwh <= BAND.slack_milliwh


def test_falling_registers():
    assert "station's register fell" in run([(100, 95), (99, 95)])[1]
    assert "own meter fell" in run([(100, 95), (101, 94)])[1]


def test_a_register_that_stands_still_while_power_flows():
    assert "is expected" in run([(0, 83 * n) for n in range(100)])[1]


def test_statements_of_an_outage_arriving_at_once_are_no_cheat():
    honest = [(83 * n, 83 * n * 98 // 100) for n in range(50)]
    burst = [(83 * n, 83 * 56 * 98 // 100) for n in range(50, 57)]
    after = [(83 * n, 83 * n * 98 // 100) for n in range(57, 200)]
    assert run(honest + burst + after)[1] == ""


def test_credit_can_not_be_saved_up():
    value, _ = run((83 * n, 83 * n) for n in range(1000))
    assert value.drift_microwh >= -2 * 83 * 1000


@given(own=st.integers(0, 10**9))
def test_the_band_contains_equality(own):
    assert lower_bound_milliwh(BAND, own, 0) <= own <= upper_bound_milliwh(BAND, own)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), max_size=20))
def test_whatever_is_accepted_is_monotone_and_in_the_band(steps):
    value = Reconciliation()
    for station, own in steps:
        after, complaint = reconcile(value, BAND, station_milliwh=station, own_milliwh=own, lag_milliwh=LAG)
        if complaint:
            assert after == value
        else:
            assert after.station_milliwh >= value.station_milliwh
            assert after.station_milliwh <= upper_bound_milliwh(BAND, after.own_milliwh)
        value = after


@pytest.mark.parametrize(
    "changes",
    [
        {"efficiency_min_permille": 499},
        {"efficiency_max_permille": 1051},
        {"efficiency_min_permille": 990},
        {"slack_milliwh": 0},
        {"drift_slack_permille": 101},
        {"drift_limit_milliwh": 0},
    ],
)
def test_refused_bands(changes):
    with pytest.raises(ConfigError):
        MeterBand(**changes)
