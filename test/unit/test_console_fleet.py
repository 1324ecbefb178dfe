"""The picture of the fleet: what messages and time make of it."""

import msgspec
import pytest

from depai_robot.console.alert import AlertBook, Level
from depai_robot.console.fleet import DAY_S, Fleet
from depai_robot.console.query import FILTERS, SORTS, Query, select
from depai_robot.console.vda import Charging, InfoEntry, Reference, parse_topic, read_charging
from depai_robot.fleet import statement, status
from depai_robot.sim.fleet import FleetSim

NOW = 1_800_000_000.0


def feed(fleet, message, now_s=NOW, retained=False):
    return fleet.ingest(message[0], message[1], retained=retained, now_s=now_s)


def make_state(sim, now_s=NOW, number=0, charging=None, **changes):
    if charging is not None:
        changes["information"] = [
            {
                "infoType": "depai.charging",
                "infoLevel": "INFO",
                "infoReferences": [{"referenceKey": k, "referenceValue": v} for k, v in charging.items()],
            }
        ]
    return sim.state(number, now_s, **changes)


@pytest.fixture
def sim():
    return FleetSim(3, seed=4)


@pytest.fixture
def fleet():
    return Fleet()


def test_a_state_becomes_a_row(fleet, sim):
    feed(fleet, sim.connection(0, NOW), retained=True)
    robot = feed(fleet, make_state(sim, batteryState={"batteryCharge": 51.5, "charging": False}))
    assert robot.status() == "DRIVING"
    assert robot.battery_percent == 51.5
    assert robot.connection == "ONLINE"
    assert robot.connection_retained
    assert robot.reading.task == "T001-R00000"
    assert robot.reading.charging.budget_today_atomic == 5_000_000
    assert robot.position.mapId == "hall"


def test_version_3_is_read_too(fleet):
    body = {
        "headerId": 1,
        "timestamp": "t",
        "version": "3.0.0",
        "manufacturer": "m",
        "serialNumber": "s",
        "powerSupply": {"stateOfCharge": 40.0, "charging": True},
        "mobileRobotPosition": {"x": 1, "y": 2, "theta": 0, "mapId": "a"},
        "safetyState": {"activeEmergencyStop": "MANUAL"},
        "instantActionStates": [{"actionId": "1", "actionType": "startCharging", "actionStatus": "RUNNING"}],
    }
    robot = fleet.ingest("vda5050/v3/m/s/state", msgspec.json.encode(body), retained=False, now_s=NOW)
    assert (robot.battery_percent, robot.reading.emergency, robot.position.x) == (40.0, "MANUAL", 1)
    assert robot.reading.task == "startCharging"
    fleet.ingest(
        "vda5050/v3/m/s/connection",
        msgspec.json.encode({"connectionState": "CONNECTION_BROKEN"}),
        retained=False,
        now_s=NOW,
    )
    assert robot.status() == "BROKEN"


def test_two_missed_states_are_stale_and_a_new_one_mends_it(fleet, sim):
    robot = feed(fleet, make_state(sim))
    fleet.tick(NOW + 64)
    assert not robot.stale
    fleet.tick(NOW + 66)
    assert robot.status() == "STALE"
    assert fleet.alerts.of(robot.key) == {"stale": Level.WARNING}
    feed(fleet, make_state(sim, NOW + 70), NOW + 70)
    assert robot.status() == "DRIVING"
    assert fleet.alerts.of(robot.key) == {}
    assert [alert.kind for alert in fleet.alerts.closed.values()] == ["stale"]


def test_a_broken_connection_is_critical_and_not_stale_besides(fleet, sim):
    robot = feed(fleet, make_state(sim))
    feed(fleet, sim.connection(0, NOW, "CONNECTIONBROKEN"))
    fleet.tick(NOW + 1000)
    assert robot.status() == "BROKEN"
    assert fleet.alerts.of(robot.key) == {"broken": Level.CRITICAL}
    feed(fleet, sim.connection(0, NOW, "OFFLINE"))
    assert robot.status() == "OFFLINE"
    assert fleet.alerts.of(robot.key) == {}


def test_a_session_ends_once_and_counts_for_robot_and_station(fleet, sim):
    said = {
        "phase": "CHARGING",
        "station": "dock-1",
        "session": "s1",
        "energy_milliwh": "5000",
        "cost_atomic": "2000",
    }
    robot = feed(fleet, make_state(sim, charging=said))
    assert fleet.stations.rows["dock-1"].charging == {robot.key}
    for phase in ("SETTLED", "SETTLED", "IDLE"):
        feed(
            fleet,
            make_state(
                sim, charging=said | {"phase": phase, "energy_milliwh": "6000", "cost_atomic": "2500"}
            ),
        )
    station = fleet.stations.rows["dock-1"]
    assert (station.sessions, station.energy_milliwh, station.cost_atomic, station.faults) == (
        1,
        6000,
        2500,
        0,
    )
    assert station.charging == set()
    assert station.meter_honesty_percent == 100.0
    assert robot.spent_today_atomic(NOW) == 2500
    assert robot.spent_today_atomic(NOW + DAY_S) == 0
    assert [s.session for s in fleet.take_finished()] == ["s1"]
    assert fleet.take_finished() == []


def test_a_session_that_is_followed_by_another_has_ended(fleet, sim):
    said = {"phase": "CHARGING", "station": "d", "session": "s1", "cost_atomic": "10", "fault": "meter: band"}
    feed(fleet, make_state(sim, charging=said))
    feed(fleet, make_state(sim, charging={"phase": "NEGOTIATING", "session": "s2"}))
    assert fleet.stations.rows["d"].meter_faults == 1
    assert len(fleet.sessions) == 1


def test_alerts_of_a_state_come_and_go(fleet, sim):
    bad = {
        "batteryState": {"batteryCharge": 9.0, "charging": False},
        "safetyState": {"eStop": "MANUAL", "fieldViolation": False},
        "errors": [
            {"errorType": "noRoute", "errorLevel": "WARNING", "errorDescription": "blocked"},
            {"errorType": "motor", "errorLevel": "FATAL"},
        ],
    }
    said = {"spent_today_atomic": "95", "budget_today_atomic": "100", "fault": "no power", "station": "d"}
    robot = feed(fleet, make_state(sim, charging=said, **bad))
    assert fleet.alerts.of(robot.key) == {
        "battery": Level.WARNING,
        "e-stop": Level.CRITICAL,
        "error": Level.CRITICAL,
        "budget": Level.WARNING,
        "charging": Level.CRITICAL,
    }
    assert fleet.alerts.open[robot.key, "error"].text == "motor (and 1 more)"
    feed(fleet, make_state(sim, NOW + 1, charging={}, batteryState={"batteryCharge": 50, "charging": True}))
    assert fleet.alerts.of(robot.key) == {}


def test_lost_and_repeated_states_are_counted(fleet, sim):
    first = make_state(sim)
    robot = feed(fleet, first)
    feed(fleet, first)
    make_state(sim)
    feed(fleet, make_state(sim, NOW + 1))
    assert (robot.states, robot.repeated, robot.lost) == (2, 1, 1)
    make_state(sim)
    feed(fleet, sim.connection(0, NOW))
    feed(fleet, make_state(sim, NOW + 2))
    assert robot.lost == 1, "header ids begin anew with a connection"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[]",
        b'{"headerId":"x"}',
        b"\xff\xfe",
        b'{"batteryState":[]}',
        b'{"serialNumber":"other"}',
        b"0" * 200_000,
    ],
)
def test_what_is_no_state_is_counted_and_told(fleet, sim, payload):
    robot = fleet.ingest(sim.topic(0, "state"), payload, retained=False, now_s=NOW)
    assert fleet.counters.unreadable == 1
    assert robot.reading is None
    assert fleet.alerts.of(robot.key) == {"unreadable": Level.WARNING}


@pytest.mark.parametrize(
    "topic",
    ["", "a/b", "uagv/v2/m/s/order", "uagv/v2//s/state", "uagv/v2/m/s/state/x", "uagv/v2/m/\x1b[2J/state"],
)
def test_other_topics_make_no_robot(fleet, topic):
    assert parse_topic(topic) is None
    fleet.ingest(topic, b"{}", retained=False, now_s=NOW)
    assert not fleet.robots
    assert fleet.counters.foreign == 1


def test_no_control_character_reaches_the_screen(fleet, sim):
    robot = feed(
        fleet, make_state(sim, orderId="x\x1b[31mred", charging={"station": "d\x07", "session": "s"})
    )
    assert robot.reading.task == "x?[31mred"
    assert robot.reading.charging.station == "d?"


def test_robots_are_bounded():
    fleet, sim = Fleet(robots_max=2), FleetSim(3)
    for number in range(3):
        feed(fleet, sim.state(number, NOW))
    assert len(fleet.robots) == 2
    assert fleet.counters.refused_robots == 1


def test_huge_positions_are_not_taken(fleet, sim):
    robot = feed(fleet, make_state(sim, agvPosition={"x": 1e300, "y": 0, "theta": 0, "mapId": ""}))
    assert robot.position is None


def test_acknowledging_an_alert_and_getting_worse():
    book = AlertBook()
    assert book.raise_alert("r", "error", Level.WARNING, "a", NOW)
    assert not book.raise_alert("r", "error", Level.WARNING, "b", NOW + 1)
    assert book.acknowledge("r", "error", "ann", NOW + 2)
    assert not book.acknowledge("r", "error", "bob", NOW + 3)
    assert book.count(unseen=True) == 0
    assert book.raise_alert("r", "error", Level.CRITICAL, "c", NOW + 4), "worse: somebody must look again"
    assert book.count(unseen=True) == 1
    book.clear("r", "error", NOW + 5)
    book.clear("r", "error", NOW + 6)
    assert book.count() == 0
    assert book.open == {}


def test_alerts_are_bounded():
    book = AlertBook(open_max=3, closed_max=2)
    for number in range(5):
        book.raise_alert(f"r{number}", "stale", Level.WARNING, "", NOW)
    assert (book.count(), book.dropped_count) == (3, 2)
    for number in range(5):
        book.clear(f"r{number}", "stale", NOW)
    assert len(book.closed) == 2


def test_every_filter_and_sort_works_on_a_mixed_fleet(fleet):
    sim = FleetSim(40, seed=2)
    for number in range(30):
        feed(fleet, sim.connection(number, NOW))
        feed(fleet, sim.state(number, NOW))
    feed(fleet, sim.connection(35, NOW, "CONNECTIONBROKEN"))
    for name in FILTERS:
        for sort in SORTS:
            rows = select(fleet, Query(name=name, sort=sort), NOW)
            assert select(fleet, Query(name=name, sort=sort, backwards=True), NOW) == rows[::-1]
    assert [robot.name for robot in select(fleet, Query(name="away"), NOW)] == ["R00035"]
    assert [robot.name for robot in select(fleet, Query(search="r0000 driving 3"), NOW)] == ["R00003"]
    by_battery = [robot.battery_percent for robot in select(fleet, Query(sort="battery"), NOW)]
    assert by_battery == sorted(by_battery)


def test_filters_and_sorts_go_round():
    query = Query()
    for _ in FILTERS:
        query = query.next_filter()
    for _ in SORTS:
        query = query.next_sort()
    assert query == Query()


def test_an_instant_action_is_followed(fleet, sim):
    fleet.watch_action("a1")
    assert fleet.action_status("a1") == ("SENT", "")
    feed(
        fleet,
        make_state(
            sim,
            actionStates=[
                {
                    "actionId": "a1",
                    "actionType": "startCharging",
                    "actionStatus": "FAILED",
                    "resultDescription": "no dock",
                }
            ],
        ),
    )
    assert fleet.action_status("a1") == ("FAILED", "no dock")
    assert fleet.action_status("a2") == ("", "")


def test_what_our_own_agent_says_of_charging_is_read():
    """Keys of depai_robot.fleet and of the reader here are agreed by this test."""
    charge = status.Charge("s1", "CHARGING", "dock-1", 5000, 2000, 400_000, False, "meter: band", "r1")
    told = statement.charging_references(
        status.Status(charge=charge, spent_today_atomic=7, budget_today_atomic=9)
    )
    entry = InfoEntry(statement.INFO_TYPE, [Reference(key, value) for key, value in told.items()])
    assert read_charging([entry]) == Charging(
        "CHARGING", "dock-1", "s1", 5000, 2000, 400_000, 7, 9, "meter: band", "r1"
    )
