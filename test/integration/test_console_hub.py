"""Console on a real mosquitto: picture, command, audit, restart. No screen here."""

import json
import sqlite3
import time

import pytest

from depai_robot.adapters.broker_process import start_broker
from depai_robot.adapters.paho_broker import BrokerAddress, PahoBroker
from depai_robot.adapters.paho_feed import PahoFeed
from depai_robot.console.alert import Level
from depai_robot.console.command import COMMANDS, Role, parse_role
from depai_robot.console.history import AuditRow, History
from depai_robot.console.hub import Hub, HubSettings
from depai_robot.sim.fleet import FleetSim
from depai_robot.values.error import BugError, ConfigError, DeviceFailedError

COMMAND = {command.name: command for command in COMMANDS}


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    process = start_broker(tmp_path_factory.mktemp("broker"), "mosquitto")
    yield process
    process.stop()


@pytest.fixture
def robots(broker):
    link = PahoBroker(BrokerAddress(broker.host, broker.port), f"robots-{time.monotonic_ns()}")
    link.connect()
    yield link
    link.close()


def make_hub(broker, tmp_path, role=Role.OPERATOR):
    return Hub(
        HubSettings(
            BrokerAddress(broker.host, broker.port), history=tmp_path / "h.sqlite", role=role, who="ann"
        )
    )


def pump_until(hub, done, timeout_s=8.0):
    deadline_s = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline_s, "what was expected did not come"
        hub.pump()
        time.sleep(0.01)


def test_a_console_sees_commands_and_remembers(broker, robots, tmp_path):
    sim = FleetSim(5, seed=3)
    for number in range(5):
        robots.publish(*sim.connection(number, time.time()), retain=True)
    heard = []
    robots.subscribe("uagv/v2/+/+/instantActions", lambda topic, payload: heard.append((topic, payload)))
    hub = make_hub(broker, tmp_path)
    hub.start()
    try:
        pump_until(hub, lambda: len(hub.fleet.robots) == 5)
        robot = hub.fleet.robots["depai/R00002"]
        assert robot.connection_retained
        robots.publish(*sim.state(2, time.time(), batteryState={"batteryCharge": 5.0, "charging": False}))
        pump_until(hub, lambda: robot.reading is not None)
        action = hub.command(robot, COMMAND["startCharging"])
        pump_until(hub, lambda: heard)
        topic, body = heard[0][0], json.loads(heard[0][1])
        assert topic == "uagv/v2/depai/R00002/instantActions"
        assert body["actions"] == [
            {
                "actionType": "startCharging",
                "actionId": action,
                "blockingType": "NONE",
                "actionParameters": [],
            }
        ]
        done = [{"actionId": action, "actionType": "startCharging", "actionStatus": "FINISHED"}]
        information = [
            {
                "infoType": "depai.charging",
                "infoLevel": "INFO",
                "infoReferences": [
                    {"referenceKey": key, "referenceValue": value}
                    for key, value in {
                        "phase": "SETTLED",
                        "station": "dock-7",
                        "session": "s1",
                        "energy_milliwh": "9000",
                        "cost_atomic": "3600",
                    }.items()
                ],
            }
        ]
        robots.publish(
            *sim.state(
                2,
                time.time(),
                actionStates=done,
                information=information,
                batteryState={"batteryCharge": 5.0, "charging": False},
            )
        )
        pump_until(hub, lambda: hub.fleet.action_status(action)[0] == "FINISHED")
        assert hub.acknowledge(robot.key, "battery")
        assert not hub.acknowledge(robot.key, "battery")
        hub._ticked_s = 0
        hub.pump()
        whats = [row.what for row in hub.history.audit_rows()]
        assert whats == ["result", "acknowledge", "command startCharging"]
        hub.open_robot(robot)
        robots.publish(*sim.factsheet(2, time.time()), retain=True)
        pump_until(hub, lambda: robot.factsheet)
        hub.close_robot(robot)
    finally:
        hub.close()

    again = make_hub(broker, tmp_path)
    again.start()
    try:
        robot = again.fleet.robots["depai/R00002"]
        assert robot.status() == "SILENT"
        pump_until(again, lambda: robot.connection == "ONLINE")
        assert again.fleet.stations.rows["dock-7"].energy_milliwh == 9000
        samples = again.history.samples(robot.key, time.time() - 60)
        assert samples[-1].battery_percent == 5.0
        assert samples[-1].spent_atomic == 3600
        robots.publish(*sim.state(2, time.time(), batteryState={"batteryCharge": 5.0, "charging": False}))
        pump_until(again, lambda: robot.reading is not None)
        assert again.fleet.alerts.open[robot.key, "battery"].by == "ann", "seen before the restart"
    finally:
        again.close()


def test_a_viewer_sends_nothing(broker, tmp_path, robots):
    hub = make_hub(broker, tmp_path, Role.VIEWER)
    hub.start()
    try:
        sim = FleetSim(1)
        robots.publish(*sim.state(0, time.time()))
        pump_until(hub, lambda: hub.fleet.robots)
        robot = next(iter(hub.fleet.robots.values()))
        with pytest.raises(ConfigError, match="viewer"):
            hub.command(robot, COMMAND["startPause"])
        with pytest.raises(ConfigError, match="viewer"):
            hub.acknowledge(robot.key, "stale")
        assert [row.what for row in hub.history.audit_rows()] == ["refused"]
    finally:
        hub.close()


def test_without_a_broker_a_command_is_not_sent_and_said(tmp_path):
    hub = Hub(HubSettings(BrokerAddress("127.0.0.1", 9), history=tmp_path / "h.sqlite", role=Role.OPERATOR))
    try:
        sim = FleetSim(1)
        robot = hub.fleet.ingest(*sim.state(0, 1.8e9), retained=False, now_s=1.8e9)
        with pytest.raises(DeviceFailedError, match="no connection"):
            hub.command(robot, COMMAND["stopCharging"])
        assert [row.what for row in hub.history.audit_rows()] == ["not sent", "command stopCharging"]
    finally:
        hub.close()


def test_an_audit_row_cannot_be_changed(tmp_path):
    path = tmp_path / "h.sqlite"
    history = History(path)
    history.audit(AuditRow(1.0, "ann", "operator", "command x", "r", ""))
    history.close()
    base = sqlite3.connect(path)
    for statement in ("DELETE FROM audit", "UPDATE audit SET who = 'bob'"):
        with pytest.raises(sqlite3.DatabaseError, match="append-only"):
            base.execute(statement)
    base.close()


def test_a_file_of_a_newer_console_is_refused(tmp_path):
    path = tmp_path / "h.sqlite"
    base = sqlite3.connect(path)
    base.execute("PRAGMA user_version=99")
    base.close()
    with pytest.raises(ConfigError, match="version 99"):
        History(path)
    (tmp_path / "text").write_text("no database, and long enough to be seen as none" * 50)
    with pytest.raises(ConfigError):
        History(tmp_path / "text")


def test_nothing_subscribes_to_everything():
    feed = PahoFeed(BrokerAddress("127.0.0.1", 9))
    for topic in ("#", "+/#"):
        with pytest.raises(BugError):
            feed.subscribe(topic)


def test_a_slow_reader_loses_the_oldest(broker, robots):
    feed = PahoFeed(BrokerAddress(broker.host, broker.port), queue_max=10)
    feed.subscribe("t/+")
    feed.start()
    assert feed.wait_connected(5)
    time.sleep(0.2)
    for number in range(25):
        robots.publish("t/x", str(number).encode())
    deadline = time.monotonic() + 5
    while feed.dropped_count < 15 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [payload for _, payload, _ in feed.take(100)] == [str(n).encode() for n in range(15, 25)]
    feed.close()


def test_roles_are_read_by_name():
    assert parse_role("operator") is Role.OPERATOR
    with pytest.raises(ConfigError, match="viewer or operator"):
        parse_role("root")
    assert Level.CRITICAL > Level.WARNING
