"""A site's broker as `depai-robot broker` makes it, on a real mosquitto: who gets in, and to which topics."""

import os
import subprocess
import time
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="pip install 'depai_robot[broker]'")

import paho.mqtt.client as mqtt
from click.testing import CliRunner
from paho.mqtt.enums import CallbackAPIVersion

from depai_robot.adapters.broker_process import find_mosquitto, free_port
from depai_robot.adapters.broker_site import (
    acl_head,
    add_client,
    init_site,
    mosquitto_config,
    revoke_client,
)
from depai_robot.adapters.paho_broker import BrokerAddress, PahoBroker, Tls
from depai_robot.cli.main import cli
from depai_robot.values.error import ConfigError, DeviceError

DEPLOY = Path(__file__).parents[2] / "deploy" / "mosquitto"
needs_mosquitto = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    port = free_port()
    runner = CliRunner()
    for arguments in (
        ["init", str(folder), "--host", "127.0.0.1", "--host", "localhost", "--port", str(port)],
        ["add", str(folder), "robot-1"],
        ["add", str(folder), "robot-2"],
        ["add", str(folder), "station-a", "--role", "station"],
        ["add", str(folder), "ada", "--role", "operator"],
        ["add", str(folder), "vic", "--role", "viewer"],
    ):
        result = runner.invoke(cli, ["broker", *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    config = folder / "mosquitto.conf"
    if os.geteuid() == 0:
        config.write_text(config.read_text() + "user root\n")
    log = (folder / "log").open("wb")
    process = subprocess.Popen([find_mosquitto(), "-c", str(config)], stdout=log, stderr=log)
    yield folder, port
    process.terminate()
    process.wait(10)
    log.close()


def start(folder):
    log = (folder / "log").open("ab")
    process = subprocess.Popen(
        [find_mosquitto(), "-c", str(folder / "mosquitto.conf")], stdout=log, stderr=log
    )
    log.close()
    return process


class Client:
    """MQTT 5, so that the broker says what it refuses."""

    def __init__(self, site, name):
        folder, port = site
        self.heard, self.answers = [], {}
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5)
        place = folder / "clients" / name
        self.client.tls_set(str(folder / "ca.pem"), f"{place}.pem", f"{place}.key")
        self.client.on_message = lambda _c, _u, message: self.heard.append((message.topic, message.payload))
        self.client.on_publish = lambda _c, _u, number, reason, _p: self.answers.update({number: str(reason)})
        deadline = time.monotonic() + 10
        while True:
            try:
                self.client.connect("127.0.0.1", port)
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        self.client.loop_start()

    def write(self, topic, payload=b"x"):
        """Whether the broker took it."""
        info = self.client.publish(topic, payload, qos=1)
        info.wait_for_publish(10)
        deadline = time.monotonic() + 5
        while info.mid not in self.answers and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.answers[info.mid] != "Not authorized"

    def read(self, *topics):
        for topic in topics:
            self.client.subscribe(topic, 1)
        time.sleep(0.3)

    def hears(self, topic):
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            if any(name == topic for name, _ in self.heard):
                return True
            time.sleep(0.02)
        return False

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def clients(site):
    opened = []

    def make(name):
        opened.append(Client(site, name))
        return opened[-1]

    yield make
    for client in opened:
        client.close()


INBOX = "depai/v1/zone/robots/robot-2/inbox"


@needs_mosquitto
def test_a_robot_reads_its_own_inbox_and_no_other(clients):
    one, two, station = clients("robot-1"), clients("robot-2"), clients("station-a")
    for client in (one, two):
        client.read(INBOX, "depai/v1/+/robots/+/inbox", "#")
    assert station.write(INBOX)
    assert two.hears(INBOX)
    assert not one.hears(INBOX)


@needs_mosquitto
def test_a_robot_writes_its_own_state_and_no_other(clients):
    one = clients("robot-1")
    assert one.write("uagv/v2/depai/robot-1/state")
    assert one.write("vda5050/v3/depai/robot-1/connection")
    assert not one.write("uagv/v2/depai/robot-2/state")
    assert not one.write("uagv/v2/depai/robot-2/connection")
    assert not one.write("uagv/v2/depai/robot-1/instantActions")
    assert not one.write("uagv/v2/other/robot-1/state")
    assert not one.write("depai/v1/zone/stations/station-a/offer")
    assert not one.write("depai/v1/fleet/robot-2/command")
    assert one.write("depai/v1/fleet/robot-1/answer")


@needs_mosquitto
def test_a_viewer_looks_and_an_operator_commands(clients):
    one, ada, vic = clients("robot-1"), clients("ada"), clients("vic")
    for person in (ada, vic):
        person.read("uagv/v2/depai/+/state")
    one.read("uagv/v2/depai/robot-1/instantActions")
    assert one.write("uagv/v2/depai/robot-1/state")
    assert ada.hears("uagv/v2/depai/robot-1/state")
    assert vic.hears("uagv/v2/depai/robot-1/state")
    assert not vic.write("uagv/v2/depai/robot-1/instantActions")
    assert not ada.write("uagv/v2/depai/robot-1/state")
    assert ada.write("uagv/v2/depai/robot-1/instantActions")
    assert one.hears("uagv/v2/depai/robot-1/instantActions")


@needs_mosquitto
@pytest.mark.parametrize("way", ["plain", "without", "foreign", "self-made"])
def test_nobody_without_a_certificate_of_the_site_gets_in(site, tmp_path, way, clients):
    clients("robot-1")  # the broker is up
    folder, port = site
    tls = Tls(folder / "ca.pem")
    if way == "plain":
        tls = None
    elif way == "foreign":
        init_site(tmp_path, ["127.0.0.1"], "depai")
        tls = Tls(folder / "ca.pem", *add_client(tmp_path, "robot-1", "robot"))
    elif way == "self-made":
        tls = Tls(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    broker = PahoBroker(BrokerAddress("127.0.0.1", port, tls=tls), f"intruder-{way}", connect_timeout_s=1.5)
    with pytest.raises(DeviceError):
        broker.connect()


@needs_mosquitto
def test_a_program_of_ours_gets_in_with_its_own(site, clients):
    clients("robot-1")
    folder, port = site
    place = folder / "clients"
    tls = Tls(folder / "ca.pem", place / "robot-2.pem", place / "robot-2.key")
    broker = PahoBroker(BrokerAddress("127.0.0.1", port, tls=tls), "robot-robot-2")
    broker.connect()
    broker.close()


def test_secrets_are_private_and_nothing_is_overwritten(site):
    folder, _ = site
    for key in [*folder.glob("*.key"), *folder.glob("clients/*.key")]:
        assert key.stat().st_mode & 0o077 == 0, key
    with pytest.raises(ConfigError, match="has a certificate authority"):
        init_site(folder, ["127.0.0.1"], "depai")
    with pytest.raises(ConfigError, match="has a certificate"):
        add_client(folder, "robot-1", "robot")
    with pytest.raises(ConfigError):
        add_client(folder, "../x", "robot")
    with pytest.raises(ConfigError, match="no certificate authority"):
        add_client(folder / "store", "robot-3", "robot")


def test_the_example_in_deploy_is_what_the_command_writes():
    assert (DEPLOY / "mosquitto.conf").read_text() == mosquitto_config("/etc/mosquitto/depai")
    assert (DEPLOY / "acl").read_text() == acl_head("depai")


@needs_mosquitto
def test_a_revoked_certificate_is_shut_out_and_its_name_may_have_a_new_one(tmp_path):
    folder, port = tmp_path / "site", free_port()
    init_site(folder, ["127.0.0.1"], "depai", port=port)
    for name in ("robot-1", "robot-2"):
        add_client(folder, name, "robot")
    config = folder / "mosquitto.conf"
    if os.geteuid() == 0:
        config.write_text(config.read_text() + "user root\n")
    old = [(folder / "clients" / f"robot-1.{kind}").read_bytes() for kind in ("pem", "key")]

    def gets_in(name):
        place = folder / "clients" / name
        tls = Tls(folder / "ca.pem", Path(f"{place}.pem"), Path(f"{place}.key"))
        broker = PahoBroker(BrokerAddress("127.0.0.1", port, tls=tls), name)
        deadline = time.monotonic() + 10
        while True:
            try:
                broker.connect()
            except DeviceError as error:
                if "refused" in str(error).lower() and time.monotonic() < deadline:
                    time.sleep(0.05)  # it is not up yet
                    continue
                return False
            broker.close()
            return True

    process = start(folder)
    try:
        assert gets_in("robot-1")
        result = CliRunner().invoke(cli, ["broker", "revoke", str(folder), "robot-1"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert "restart" in result.output
        process.terminate()
        process.wait(10)
        process = start(folder)
        assert gets_in("robot-2")
        for kind, data in zip(("pem", "key"), old, strict=True):
            (folder / "clients" / f"thief.{kind}").write_bytes(data)
        assert not gets_in("thief")
        add_client(folder, "robot-1", "robot")
        assert gets_in("robot-1")
    finally:
        process.terminate()
        process.wait(10)


def test_who_has_no_certificate_is_not_revoked(tmp_path):
    init_site(tmp_path, ["127.0.0.1"], "depai")
    with pytest.raises(ConfigError, match="nobody can't be revoked"):
        revoke_client(tmp_path, "nobody")
