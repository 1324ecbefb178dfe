"""What is counted over an approach: the wait for the first pose, gaps, and what was published after it."""

import math

from bench.approach import END_M, START_M, Approach, figures, ranges

FAR_M = (5.0, 4.0, 3.5, 2.0, 1.0)
FIRST = "seconds until the first pose, p50 / p95"
PLACE = "metres from the dock then, p50 / least"
BEYOND, WITHIN = "frames after it, beyond 3 m", "frames after it, within 3 m"
GAP = "longest gap in seconds, p50 / p95"


def test_frames_come_nearer_step_by_step():
    places = ranges()
    assert places[0] == START_M
    assert math.isclose(places[-1], END_M, abs_tol=0.03)
    assert all(math.isclose(a - b, 0.03) for a, b in zip(places, places[1:], strict=False))


def test_what_comes_before_the_first_pose_is_waiting_and_no_gap():
    found = figures([Approach("clean", FAR_M, (None, None, True, None, False))])
    assert found[FIRST] == "0.2 / 0.2"
    assert found[PLACE] == "3.5 / 3.5"
    assert found[BEYOND] == "100.00 % usable, 0.00 % wrong"
    assert found[WITHIN] == "0.00 % usable, 50.00 % wrong"
    assert found["approaches with a wrong pose"] == 1
    assert found[GAP] == "0.1 / 0.1"


def test_an_approach_without_a_pose_waits_for_ever():
    found = figures([Approach("blur16", FAR_M, (None,) * 5)])
    assert found[FIRST] == "inf / inf"
    assert found[PLACE] == "1.0 / 1.0"
    assert found[BEYOND] == found[WITHIN] == "0.00 % usable, 0.00 % wrong"


def test_a_gap_lasts_as_long_as_its_frames():
    approach = Approach("noise", FAR_M, (True, None, None, None, True))
    assert approach.gap_s() == 0.3
    assert approach.first == 0
