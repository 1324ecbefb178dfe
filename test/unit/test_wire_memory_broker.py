"""The broker in memory: its faults, and that a seed repeats them. What brokers share is in the contract suite."""

import paho.mqtt.client as mqtt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depai_robot.sim.memory_broker import BrokerFaults, MemoryExchange, topic_matches
from depai_robot.values.error import BugError, DeviceAbsentError, DeviceFailedError

LEVELS = st.text("ab+#$", max_size=2)


def run(faults, seed=1, count=200):
    """What a robot hears of so many numbered messages of two stations."""
    exchange = MemoryExchange(faults, seed, threaded=False)
    robot, heard = exchange.client("robot"), []
    robot.subscribe("in/+", lambda topic, payload: heard.append((topic, int(payload))))
    robot.connect()
    stations = [exchange.client(name) for name in ("a", "b")]
    for station in stations:
        station.connect()
    for number in range(count):
        for station in stations:
            station.publish(f"in/{station.client_id}", b"%d" % number)
    exchange.pump()
    return heard


def test_without_faults_all_come_once_in_order():
    assert run(BrokerFaults()) == [(f"in/{name}", number) for number in range(200) for name in "ab"]


def test_a_seed_repeats_its_course():
    faults = BrokerFaults(drop_permille=100, duplicate_permille=100, delay_max_ms=50, reorder=True)
    assert run(faults, seed=3) == run(faults, seed=3)
    assert run(faults, seed=3) != run(faults, seed=4)


def test_drop_and_duplicate():
    assert run(BrokerFaults(drop_permille=1000)) == []
    twice = run(BrokerFaults(duplicate_permille=1000))
    assert len(twice) == 800
    assert twice[0] == twice[1]
    some = run(BrokerFaults(drop_permille=300))
    assert 200 < len(some) < 360
    assert len(set(some)) == len(some)


def test_delay_keeps_the_order_of_each_sender_unless_told_otherwise():
    def of(heard, name):
        return [number for topic, number in heard if topic == f"in/{name}"]

    late = run(BrokerFaults(delay_max_ms=100))
    assert of(late, "a") == of(late, "b") == list(range(200))
    overtaken = run(BrokerFaults(delay_max_ms=100, reorder=True))
    assert sorted(of(overtaken, "a")) == list(range(200)) != of(overtaken, "a")


@pytest.mark.parametrize(
    "changes", [{"drop_permille": 1001}, {"duplicate_permille": -1}, {"delay_max_ms": -1}]
)
def test_faults_refuse_nonsense(changes):
    with pytest.raises(BugError):
        BrokerFaults(**changes)


def test_what_follows_from_a_message_is_pumped_too():
    exchange = MemoryExchange(threaded=False)
    robot, station, heard = exchange.client("robot"), exchange.client("station"), []
    robot.connect()
    station.connect()
    station.subscribe("q", lambda _, payload: station.publish("a", payload))
    robot.subscribe("a", lambda _, payload: heard.append(payload))
    robot.publish("q", b"?")
    assert heard == []
    assert exchange.pump() == 2
    assert heard == [b"?"]


def test_the_outbox_is_bounded():
    exchange = MemoryExchange(threaded=False)
    robot = exchange.client("robot")
    robot.connect()
    exchange.stop()
    for _ in range(10_000):
        robot.publish("a", b"")
    with pytest.raises(DeviceFailedError, match="10000 messages wait"):
        robot.publish("a", b"")
    with pytest.raises(DeviceAbsentError):
        exchange.client("late").connect()


def test_a_closed_client_leaves_no_will_and_a_cut_one_does():
    exchange = MemoryExchange(threaded=False)
    watcher, heard = exchange.client("watcher"), []
    watcher.connect()
    watcher.subscribe("gone/+", lambda topic, _: heard.append(topic))
    orderly, cut = (exchange.client(name, will=(f"gone/{name}", b"", True)) for name in ("orderly", "cut"))
    for client in (orderly, cut):
        client.connect()
    orderly.close()
    exchange.cut(cut)
    exchange.cut(cut)
    exchange.pump()
    assert heard == ["gone/cut"]


@given(
    st.lists(LEVELS, min_size=1, max_size=4).map("/".join),
    st.lists(st.text("ab$", max_size=2), min_size=1, max_size=4).map("/".join),
)
def test_filters_match_as_in_paho(topic_filter, topic):
    levels = topic_filter.split("/")
    legal = "#" not in levels[:-1] and not any(len(x) > 1 and set(x) & {"+", "#"} for x in levels)
    # A filter that begins with $ has no wildcard in its first level, so both sides agree on $ topics.
    if topic_filter and topic and legal:
        assert topic_matches(topic_filter, topic) == mqtt.topic_matches_sub(topic_filter, topic)
