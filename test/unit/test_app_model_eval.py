"""Tables of judged frames: shares, bands, intervals."""

import math

import pytest

from depai_robot.app.model_eval import Judged, band_of, group_rows, summarise, wilson

GOOD = Judged("clean", 1.5, published=True, usable=True, position_m=0.01, lateral_m=-0.004, yaw_rad=-0.02)
WRONG = Judged("clean", 1.5, published=True, position_m=0.5, yaw_rad=0.3)
NOTHING = Judged("dark", 4.5, published=False)
FALSE = Judged("clean", None, published=True)
EMPTY = Judged("clean", None, published=False)


def test_counts_and_errors_are_of_the_frames_that_they_name():
    row = summarise("all", [GOOD, WRONG, NOTHING, FALSE, EMPTY])
    assert (row.docks, row.usable, row.wrong, row.rooms, row.false) == (3, 1, 1, 2, 1)
    alone = summarise("all", [GOOD, NOTHING])
    assert alone.position_p50_mm == pytest.approx(10)
    assert alone.lateral_p95_mm == pytest.approx(4)
    assert alone.yaw_p95_deg == pytest.approx(math.degrees(0.02), abs=1e-3)


def test_nothing_published_has_no_errors():
    row = summarise("dark", [NOTHING])
    assert (row.position_p95_mm, row.yaw_p95_deg, row.usable) == (0, 0, 0)


@pytest.mark.parametrize(
    ("range_m", "band"),
    [
        (0.35, "0 to 0.5 m"),
        (0.5, "0 to 0.5 m"),
        (0.51, "0.5 to 1 m"),
        (5.0, "4 to 5 m"),
        (8.0, "over 7 m"),
        (99.0, "over 7 m"),
    ],
)
def test_every_range_has_a_band(range_m, band):
    assert band_of(range_m) == band


def test_rows_keep_the_order_of_their_first_frame():
    rows = group_rows([NOTHING, GOOD, WRONG], lambda o: o.condition)
    assert [(row.name, row.docks) for row in rows] == [("dark", 1), ("clean", 2)]


def test_no_failure_in_600_proves_only_so_much():
    low, high = wilson(0, 600)
    assert low == pytest.approx(0)
    assert high == pytest.approx(0.00636, abs=1e-4)
    assert wilson(600, 600)[1] == pytest.approx(1)
    assert wilson(0, 0) == (0.0, pytest.approx(1.0))
