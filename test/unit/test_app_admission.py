"""What a stranger can make us write: nothing but a few quote requests, however well he signs."""

import pytest

from depai_robot.app.admission import SENDERS_MAX, Bucket, Pace, RobotAdmission, StationAdmission
from depai_robot.charging.envelope import open_token
from depai_robot.charging.message import Draft, QuoteRequest, SessionStop
from test.builders import make_key, make_offer
from test.pretend import World

ROBOT = make_key("robot").address
STATION = make_key("station-a").address
STRANGER = make_key("stranger").address


def draft(body: object, session: str = "s-1") -> Draft:
    return Draft(id="m", session=session, seq=0, ts=0, exp=0, to="*", body=body)


def quote_request() -> QuoteRequest:
    return QuoteRequest("robot-1", 1000, 300, "DC", "0x" + ROBOT.hex())


@pytest.fixture
def charging() -> World:
    world = World()
    world.run(lambda: len(world.robot.state.offers) == 1, 5)
    world.request("s-1", 10_000)
    assert world.run(lambda: world.phase == "CHARGING", 60)
    return world


def test_a_bucket_fills_at_its_rate():
    bucket = Bucket(2.0, 3.0)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(0.4)
    assert bucket.take(0.6)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]


def test_a_clock_that_goes_back_gives_nothing():
    bucket = Bucket(1.0, 1.0)
    assert bucket.take(10.0)
    assert not bucket.take(0.0)


def test_many_senders_share_one_pace_and_are_forgotten():
    pace = Pace((1.0, 1.0), (0.0, 5.0))
    assert sum(pace.take(bytes([n]), 0.0) for n in range(20)) == 5
    for n in range(SENDERS_MAX + 10):
        pace.take(n.to_bytes(20, "big"), 0.0)
    assert len(pace._buckets) == SENDERS_MAX


def test_a_station_takes_all_that_an_honest_robot_says(charging):
    admit = StationAdmission(lambda: charging.stations["a"].state)
    mine = [token for sender, token in charging.published if sender == "robot"]
    assert len(mine) >= 3
    assert [admit(ROBOT, open_token(token), 0.0) for token in mine] == [""] * len(mine)


def test_a_robot_takes_all_that_its_station_says(charging):
    admit = RobotAdmission(lambda: charging.robot.state)
    theirs = [token for sender, token in charging.published if sender == "a"]
    drafts = [open_token(token) for token in theirs]
    assert [admit(STATION, item, 0.0) for item in drafts] == [""] * len(drafts)


def test_a_stranger_is_dropped_in_an_open_session(charging):
    station = StationAdmission(lambda: charging.stations["a"].state)
    robot = RobotAdmission(lambda: charging.robot.state)
    assert station(STRANGER, draft(SessionStop("Other")), 0.0) == "no open session"
    assert station(ROBOT, draft(SessionStop("Other"), "s-9"), 0.0) == "no open session"
    assert robot(STRANGER, draft(SessionStop("Other")), 0.0) == "not asked"
    assert robot(STATION, draft(SessionStop("Other"), "s-9"), 0.0) == "no open session"


def test_a_stranger_asks_at_a_slow_pace(charging):
    station = StationAdmission(lambda: charging.stations["a"].state)
    robot = RobotAdmission(lambda: charging.robot.state)
    asked = [station(STRANGER, draft(quote_request(), f"s-{n}"), 0.0) for n in range(100)]
    assert asked.count("") == 10
    offered = [robot(STRANGER, draft(make_offer(), "-"), 0.0) for n in range(100)]
    assert offered.count("") == 10
    assert station(ROBOT, draft(SessionStop("Other")), 0.0) == "", "and others are served"
