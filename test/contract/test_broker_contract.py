"""One suite for every broker: the one in memory may stand for the real ones only while it passes what they pass."""

import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import pytest

from depai_robot.adapters.broker_process import HOST, find_mosquitto, start_broker
from depai_robot.adapters.paho_broker import BrokerAddress, PahoBroker, Will
from depai_robot.sim.memory_broker import MemoryExchange
from depai_robot.values.error import BugError, DeviceAbsentError

PATIENCE_S = 15.0
VICTIM = """
import sys, time
from depai_robot.adapters.paho_broker import BrokerAddress, PahoBroker, Will
broker = PahoBroker(BrokerAddress("127.0.0.1", int(sys.argv[1]), mqtt5=sys.argv[2] == "5"), "victim",
                    will=Will("c/victim/offer"))
broker.connect()
broker.publish("c/victim/offer", b"alive", retain=True)
broker.publish("c/victim/said", b"done")
time.sleep(60)
"""


class Inbox:
    """Collects messages on the broker's thread."""

    def __init__(self):
        self.messages = []
        self._changed = threading.Condition()

    def __call__(self, topic, payload):
        with self._changed:
            self.messages.append((topic, payload))
            self._changed.notify_all()

    def wait(self, condition, timeout_s=PATIENCE_S):
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self.messages), timeout_s), self.messages

    def wait_for(self, *expected):
        """All of these came, in whatever order and number."""
        self.wait(lambda messages: set(expected) <= set(messages))


class Flag:
    """Waits for the connection to come or go."""

    def __init__(self):
        self.history = []
        self._changed = threading.Condition()

    def __call__(self, up):
        with self._changed:
            self.history.append(up)
            self._changed.notify_all()

    def wait_for(self, history):
        with self._changed:
            assert self._changed.wait_for(lambda: self.history == history, PATIENCE_S), self.history


class MemoryBench:
    def __init__(self):
        self.exchange = MemoryExchange()

    def client(self, name, on_connection=None):
        return self.exchange.client(name, on_connection=on_connection)

    def start_victim(self):
        victim = self.exchange.client("victim", will=("c/victim/offer", b"", True))
        victim.connect()
        victim.publish("c/victim/offer", b"alive", retain=True)
        victim.publish("c/victim/said", b"done")
        return lambda: self.exchange.cut(victim)

    def stop(self):
        self.exchange.stop()

    def start(self):
        self.exchange.start()

    def end(self):
        self.exchange.close()


class RealBench:
    def __init__(self, folder, kind, *, mqtt5=False):
        self.folder, self.kind, self.mqtt5 = folder, kind, mqtt5
        self.process = start_broker(folder, kind)
        self.port = self.process.port
        self.victims = []

    def client(self, name, on_connection=None):
        address = BrokerAddress(HOST, self.port, mqtt5=self.mqtt5)
        return PahoBroker(address, name, on_connection=on_connection, connect_timeout_s=10.0)

    def start_victim(self):
        victim = subprocess.Popen([sys.executable, "-c", VICTIM, str(self.port), "5" if self.mqtt5 else "3"])
        self.victims.append(victim)
        return lambda: (victim.kill(), victim.wait())

    def stop(self):
        self.process.stop()

    def start(self):
        self.process = start_broker(self.folder, self.kind, port=self.port)

    def end(self):
        for victim in self.victims:
            victim.kill()
            victim.wait()
        self.process.stop()


@pytest.fixture(params=["memory", "mosquitto", "mosquitto-mqtt5", "amqtt"])
def bench(request, tmp_path):
    if request.param.startswith("mosquitto") and find_mosquitto() is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    if request.param == "amqtt":
        pytest.importorskip("amqtt", reason="amqtt is not installed: pip install 'depai_robot[sim]'")
    if request.param == "memory":
        made = MemoryBench()
    else:
        kind, _, version = request.param.partition("-")
        made = RealBench(tmp_path, kind, mqtt5=version == "mqtt5")
    yield made
    made.end()


@pytest.fixture
def stack():
    with ExitStack() as made:
        yield made


def connected(bench, stack, name, on_connection=None):
    client = bench.client(name, on_connection)
    client.connect()
    stack.callback(client.close)
    return client


def test_messages_topics_and_retained(bench, stack):
    """The greater part in one test: a broker takes half a second to start."""
    flag = Flag()
    robot, station = connected(bench, stack, "robot", flag), connected(bench, stack, "station")
    flag.wait_for([True])

    inbox, everything, nothing = Inbox(), Inbox(), Inbox()
    robot.subscribe("c/robots/r-1/inbox", inbox)
    robot.subscribe("c/stations/+/offer", everything)
    robot.subscribe("other/#", nothing)
    station.publish("c/robots/r-1/inbox", b"hello")
    inbox.wait_for(("c/robots/r-1/inbox", b"hello"))

    # Retained: for those who come later, until an empty one clears it.
    station.publish("c/stations/st-1/offer", b"offer 1", retain=True)
    station.publish("c/stations/st-2/offer", b"offer 2", retain=True)
    station.publish("c/stations/st-3/inbox", b"not an offer")
    everything.wait_for(("c/stations/st-1/offer", b"offer 1"), ("c/stations/st-2/offer", b"offer 2"))
    late = Inbox()
    connected(bench, stack, "late").subscribe("c/stations/+/offer", late)
    late.wait_for(("c/stations/st-1/offer", b"offer 1"), ("c/stations/st-2/offer", b"offer 2"))
    station.publish("c/stations/st-1/offer", b"", retain=True)
    late.wait_for(("c/stations/st-1/offer", b""))
    latest = Inbox()
    connected(bench, stack, "latest").subscribe("c/stations/+/offer", latest)
    latest.wait_for(("c/stations/st-2/offer", b"offer 2"))
    assert ("c/stations/st-1/offer", b"offer 1") not in latest.messages

    # A second callback of one filter hears what is retained too; a failing one harms nobody.
    def fail(topic, payload):
        raise RuntimeError("a callback that fails")

    second = Inbox()
    robot.subscribe("c/stations/+/offer", fail)
    robot.subscribe("c/stations/+/offer", second)
    second.wait_for(("c/stations/st-2/offer", b"offer 2"))

    # As large as a message gets, and any bytes.
    large = bytes(range(256)) * 256
    station.publish("c/robots/r-1/inbox", large)
    inbox.wait_for(("c/robots/r-1/inbox", large))

    # One sender, one topic: in order.
    for number in range(200):
        station.publish("c/robots/r-1/inbox", b"%d" % number)
    inbox.wait(lambda messages: messages[-1][1] == b"199")
    numbers = [int(payload) for _, payload in inbox.messages if payload.isdigit()]
    assert list(dict.fromkeys(numbers)) == list(range(200))
    assert {topic for topic, _ in everything.messages} == {"c/stations/st-1/offer", "c/stations/st-2/offer"}
    assert nothing.messages == []

    for bad in ("a/+/b", "#", ""):
        with pytest.raises(BugError, match="no topic to publish to"):
            station.publish(bad, b"")
    with pytest.raises(BugError, match="no topic filter"):
        station.subscribe("a/#/b", inbox)


def test_the_will_clears_the_offer_of_who_dies(bench, stack):
    watcher, offers, said = connected(bench, stack, "watcher"), Inbox(), Inbox()
    watcher.subscribe("c/+/offer", offers)
    watcher.subscribe("c/+/said", said)
    kill = bench.start_victim()
    said.wait_for(("c/victim/said", b"done"))
    offers.wait_for(("c/victim/offer", b"alive"))
    assert ("c/victim/offer", b"") not in offers.messages
    kill()
    offers.wait_for(("c/victim/offer", b""))
    late, fence = Inbox(), connected(bench, stack, "fence")
    fence.subscribe("c/#", late)
    fence.publish("c/fence", b"")
    late.wait_for(("c/fence", b""))
    assert late.messages == [("c/fence", b"")]


def test_a_restart_of_the_broker(bench, stack):
    flag, inbox = Flag(), Inbox()
    robot = connected(bench, stack, "robot", flag)
    robot.subscribe("c/robots/+/inbox", inbox)
    bench.stop()
    flag.wait_for([True, False])
    assert not robot.connected
    robot.publish("c/robots/r-2/inbox", b"while away")
    bench.start()
    flag.wait_for([True, False, True])
    inbox.wait_for(("c/robots/r-2/inbox", b"while away"))
    station = connected(bench, stack, "station")
    station.publish("c/robots/r-1/inbox", b"after")
    inbox.wait_for(("c/robots/r-1/inbox", b"after"))


def test_a_session_outlives_its_process(bench, stack):
    robot = bench.client("robot")
    robot.subscribe("c/robots/r-1/inbox", Inbox())
    robot.connect()
    fence = Inbox()
    station = connected(bench, stack, "station")
    station.subscribe("c/fence", fence)
    robot.publish("c/fence", b"")
    fence.wait_for(("c/fence", b""))
    robot.close()
    time.sleep(0.2)  # a broker may take a moment to see that it is alone
    station.publish("c/robots/r-1/inbox", b"while the robot was off")
    station.publish("c/fence", b"again")
    fence.wait_for(("c/fence", b"again"))

    back, inbox = connected(bench, stack, "robot"), Inbox()
    time.sleep(0.05)  # what waited may come before anybody has subscribed
    back.subscribe("c/robots/r-1/inbox", inbox)
    inbox.wait_for(("c/robots/r-1/inbox", b"while the robot was off"))


def test_who_closes_has_sent_all(bench, stack):
    watcher, inbox = connected(bench, stack, "watcher"), Inbox()
    watcher.subscribe("c/last", inbox)
    hasty = bench.client("hasty")
    hasty.connect()
    for number in range(300):
        hasty.publish("c/last", b"%d" % number)
    hasty.close()
    hasty.close()
    inbox.wait_for(*(("c/last", b"%d" % number) for number in range(300)))


def test_no_broker(bench):
    bench.stop()
    client = bench.client("robot")
    client._timeout_s = 0.3
    with pytest.raises(DeviceAbsentError, match="no MQTT broker answers"):
        client.connect()
    client.close()
    assert not client.connected


def test_will_by_default_clears_a_retained_topic():
    assert Will("a") == Will("a", b"", retain=True)
