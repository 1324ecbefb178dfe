"""The VDA 5050 agent over a real broker: absent at start, restarted, killed; and under a master that is not ours."""

import asyncio
import json
import threading
import time

import pytest
from vda5050.adapters.mqtt.transport import AiomqttTransport
from vda5050.client.master import MasterClient
from vda5050.config import MasterConfig
from vda5050.model.common import Action

from depai_robot.adapters.broker_process import find_mosquitto, free_port, start_broker
from depai_robot.adapters.paho_broker import BrokerAddress, PahoBroker
from depai_robot.adapters.paho_feed import PahoFeed
from depai_robot.app.fleet_agent import FleetAgent
from depai_robot.fleet.profile import Profile
from depai_robot.fleet.status import Charge, Status
from depai_robot.values.error import ConfigError
from test.vda_check import check

pytestmark = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
PROFILE = Profile(manufacturer="depai", serial="robot-1", stations_by_node={"dock_a": "station_a"})
TOPIC = "uagv/v2/depai/robot-1"


class Robot:
    """Charges half a second after it was asked."""

    def __init__(self):
        self.status = Status(charge_percent=50.0)
        self.asked = []
        self.refuses = False

    def look(self):
        return self.status

    def request_charge(self, station):
        if self.refuses:
            raise ConfigError("the wallet is not active: it buys nothing now")
        self.asked.append(station)
        number = len(self.asked)

        def charge():
            time.sleep(0.5)
            self.status = Status(
                charge_percent=50.0,
                charging=True,
                charge=Charge(f"s{number}", "CHARGING", "station_a", ended=False),
            )

        threading.Thread(target=charge).start()
        return f"s{number}"

    def stop_charge(self):
        self.status = Status(charge_percent=51.0, charge=Charge("s1", "SETTLED", "station_a", ended=True))

    def set_pause(self, *, paused):
        raise ConfigError("this base can't pause")


class Listener:
    """What comes for a robot, each message checked against the standard."""

    def __init__(self, port):
        self.feed = PahoFeed(BrokerAddress("127.0.0.1", port))
        self.feed.subscribe(
            *(f"{TOPIC}/{name}" for name in ("connection", "state", "factsheet", "visualization"))
        )
        self.feed.start()
        assert self.feed.wait_connected(10)
        self.heard = []

    def until(self, condition, timeout_s=12.0):
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for topic, payload, retained in self.feed.take(100):
                self.heard.append((topic.rsplit("/", 1)[1], check(topic, payload), retained))
            for item in self.heard:
                if condition(*item):
                    return item
            time.sleep(0.02)
        raise AssertionError(
            f"not heard; {[(name, body.get('connectionState')) for name, body, _ in self.heard]}"
        )

    def word(self, word, after=-1, timeout_s=12.0):
        def fits(name, body, _retained):
            return name == "connection" and body["connectionState"] == word and body["headerId"] > after

        return self.until(fits, timeout_s)


@pytest.fixture
def port():
    return free_port()


@pytest.fixture
def agent(port):
    agent = FleetAgent(BrokerAddress("127.0.0.1", port, keepalive_s=2), PROFILE, Robot())
    agent.start()
    yield agent
    agent.stop()


def test_broker_absent_at_start_then_restarted_then_a_good_bye(tmp_path, port, agent):
    time.sleep(0.5)
    assert not agent.connected
    broker = start_broker(tmp_path, "mosquitto", port=port)
    listener = Listener(port)
    try:
        _, online, _ = listener.word("ONLINE")
        listener.until(lambda name, _body, _retained: name == "state")
        listener.until(lambda name, _body, _retained: name == "factsheet")
        broker.kill()
        listener.feed.close()
        broker = start_broker(tmp_path, "mosquitto", port=port)
        listener = Listener(port)
        _, again, _ = listener.word("ONLINE", after=online["headerId"])
        assert again["timestamp"] > online["timestamp"]
        agent.stop()
        _, offline, _ = listener.word("OFFLINE")
        assert offline["headerId"] == again["headerId"] + 1
        listener.feed.close()
        listener = Listener(port)
        _, kept, retained = listener.until(lambda name, _body, _retained: name == "connection")
        assert kept == offline
        assert retained
    finally:
        listener.feed.close()
        broker.stop()


def test_a_robot_killed_is_seen_by_its_will_and_comes_back(tmp_path, port, agent):
    broker = start_broker(tmp_path, "mosquitto", port=port)
    listener = Listener(port)
    try:
        _, online, _ = listener.word("ONLINE")
        agent._link._client._sock_close()  # as a killed process does: no good-bye
        _, broken, _ = listener.word("CONNECTIONBROKEN")
        assert broken["headerId"] == online["headerId"] + 1
        _, back, _ = listener.word("ONLINE", after=broken["headerId"])
        assert back["timestamp"] > online["timestamp"]
    finally:
        listener.feed.close()
        broker.stop()


ORDER = {
    "headerId": 1,
    "timestamp": "2026-01-01T00:00:00.000Z",
    "version": "2.1.0",
    "manufacturer": "depai",
    "serialNumber": "robot-1",
    "orderId": "o1",
    "orderUpdateId": 0,
    "nodes": [
        {
            "nodeId": "dock_a",
            "sequenceId": 0,
            "released": True,
            "actions": [{"actionType": "startCharging", "actionId": "a1", "blockingType": "HARD"}],
        }
    ],
    "edges": [],
}


def test_a_retained_order_is_not_obeyed_a_live_one_is_and_nonsense_is_reported(tmp_path, port):
    broker = start_broker(tmp_path, "mosquitto", port=port)
    listener = Listener(port)
    sender = PahoBroker(BrokerAddress("127.0.0.1", port), "careless-master")
    sender.connect()
    sender.publish(f"{TOPIC}/order", json.dumps(ORDER).encode(), retain=True)
    sender.close()
    robot = Robot()
    agent = FleetAgent(BrokerAddress("127.0.0.1", port), PROFILE, robot)
    agent.start()
    try:
        listener.until(lambda name, _body, _retained: name == "state")
        listener.feed.publish(f"{TOPIC}/order", b"\xff{{{")
        _, body, _ = listener.until(lambda name, body, _retained: name == "state" and body["errors"])
        assert body["errors"][0]["errorType"] == "validationError"
        assert body["orderId"] == ""
        assert robot.asked == []
        listener.feed.publish(f"{TOPIC}/order", json.dumps(ORDER).encode())
        _, body, _ = listener.until(lambda name, body, _retained: name == "state" and body["lastNodeId"])
        assert body["actionStates"][0]["actionStatus"] == "FINISHED"
        assert robot.asked == ["station_a"]
    finally:
        agent.stop()
        listener.feed.close()
        broker.stop()


def test_a_foreign_master_charges_and_orders_it(tmp_path, port, agent):
    """vda5050-sdk, with its own check of every message against its own copy of the schemas."""
    broker = start_broker(tmp_path, "mosquitto", port=port)

    async def drive():
        url = f"mqtt://127.0.0.1:{port}"
        config = MasterConfig(broker_url=url, validate_messages=True)
        master = MasterClient(config, transport=AiomqttTransport(url))
        errors, connections, key = [], [], "depai/robot-1"
        master.on_error(errors.append)
        master.on_connection(lambda message, _key: connections.append(message.connection_state.value))
        await master.connect()

        async def do(kind, action_id):
            action = Action(action_type=kind, action_id=action_id, blocking_type="NONE")
            await master.send_instant_action(key, [action])
            assert await master.wait_for_action(key, action_id, timeout=10)
            (state,) = [s for s in master.sessions() if str(s.key) == key]
            found = next(item for item in state.state.action_states if item.action_id == action_id)
            assert found.action_status.value == "FINISHED"

        try:
            assert await master.wait_for(key, lambda session: session.state is not None, timeout=10)
            await do("startCharging", "c1")
            await do("stopCharging", "c2")
            await do("factsheetRequest", "c3")
        finally:
            await master.disconnect()
        return errors, connections

    try:
        errors, connections = asyncio.run(drive())
        assert errors == []
        assert "ONLINE" in connections
    finally:
        broker.stop()
