"""A station's record over sessions, and the vectorised twin that the drift figures come from."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.meter_drift import BEFORE, draw_fleet, run, sessions
from depai_robot.charging.reconciliation import (
    MeterBand,
    MeterRecord,
    Reconciliation,
    RecordBand,
    reconcile,
    remember,
)
from depai_robot.values.error import ConfigError

BAND, LIMITS = MeterBand(), RecordBand()
WH = 1000


def after(pairs, record=MeterRecord()):
    """(record, complaint, number of the session that it came in)."""
    for number, (station, own) in enumerate(pairs, 1):
        record, complaint = remember(record, BAND, LIMITS, station_milliwh=station, own_milliwh=own)
        if complaint:
            return record, complaint, number
    return record, "", 0


def test_honest_sessions_add_up_to_nothing():
    record, complaint, _ = after([(101_500, 100 * WH), (102_500, 100 * WH), (101_000, 100 * WH)] * 200)
    assert complaint == ""
    assert record.sessions == 600
    assert record.carried_microwh == 0


def test_a_little_beyond_what_a_session_shows_adds_up():
    # 4.3 % above the own meter: 170 mWh a session beyond nominal and slack
    _, complaint, number = after([(104_300, 100 * WH)] * 10)
    assert "over 2 sessions the station counts" in complaint
    assert number == 2


def test_a_station_that_begins_to_cheat_is_compared_with_its_own_past():
    honest = [(101_000, 100 * WH)] * 10
    _, complaint, number = after(honest + [(102_500, 100 * WH)] * 10)
    assert "more than it used to" in complaint
    assert number == 12


def test_short_sessions_say_too_little():
    record, complaint, _ = after([(1999, 1)] * 100)
    assert (record, complaint) == (MeterRecord(), "")


def test_a_cheat_does_not_become_usual():
    record, complaint, _ = after([(101_000, 100 * WH)] * 10 + [(110_000, 100 * WH)])
    assert complaint
    assert record.station_milliwh == 1_010_000
    assert remember(record, BAND, LIMITS, station_milliwh=110_000, own_milliwh=100 * WH)[1]


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)), max_size=30))
def test_any_energies_give_sums_of_integers_that_are_never_negative(pairs):
    record = MeterRecord()
    for station, own in pairs:
        record, _ = remember(record, BAND, LIMITS, station_milliwh=station, own_milliwh=own)
        assert min(record.carried_microwh, record.change_microwh, record.station_milliwh) >= 0
        assert all(isinstance(getattr(record, name), int) for name in record.__struct_fields__)


@pytest.mark.parametrize(
    "changes",
    [
        {"energy_min_milliwh": 0},
        {"sessions_min": 0},
        {"carried_slack_permille": 101},
        {"carried_limit_milliwh": 0},
        {"change_slack_permille": -1},
        {"change_limit_milliwh": 0},
    ],
)
def test_refused_limits(changes):
    with pytest.raises(ConfigError):
        RecordBand(**changes)


@pytest.mark.parametrize("band", [BAND, BEFORE])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), drift=st.sampled_from([0.0, 0.02, 0.04, 0.35]))
def test_the_twin_says_what_the_machine_would(band, seed, drift):
    random = np.random.default_rng(seed)
    stated, metered = sessions(random, draw_fleet(random, 3), drift, 120)
    by_band, by_sum, _ = run(stated, metered, band)
    first = np.minimum(by_band, by_sum)
    for pair in range(3):
        value, at = Reconciliation(), 120
        for step in range(120):
            value, complaint = reconcile(
                value,
                band,
                station_milliwh=int(stated[step, pair]),
                own_milliwh=int(metered[step, pair]),
                lag_milliwh=1000,
            )
            if complaint:
                at = step
                break
        assert at == first[pair]
