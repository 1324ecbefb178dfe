"""What only the real adapters can get wrong: refusals, broken brokers, certificates, access lists, processes."""

import datetime as dt
import ipaddress
import logging
import socket
import statistics
import threading
import time

import pytest

from depai_robot.adapters import broker_process
from depai_robot.adapters.broker_process import HOST, find_mosquitto, free_port, start_broker
from depai_robot.adapters.paho_broker import QUEUE_MESSAGES_MAX, BrokerAddress, PahoBroker, Tls
from depai_robot.values.error import ConfigError, DeviceAbsentError, DeviceFailedError

PATIENCE_S = 15.0
needs_mosquitto = pytest.mark.skipif(
    find_mosquitto() is None, reason="mosquitto is not installed: apt-get install mosquitto"
)


class FakeBroker:
    """Answers the n-th connection with the n-th script: bytes to send after CONNECT, then holds the line."""

    def __init__(self, *scripts):
        self.connections = 0
        self._scripts = scripts
        self._socket = socket.create_server((HOST, 0))
        self.port = self._socket.getsockname()[1]
        self._lines = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        for script in self._scripts:
            try:
                line, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            self._lines.append(line)
            line.recv(4096)
            line.sendall(script)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for line in self._lines:
            line.close()
        self._thread.join(PATIENCE_S)


CONNACK = b"\x20\x02\x00\x00"
CONNACK_NOT_AUTHORISED = b"\x20\x02\x00\x05"


def paho(port, name="robot", timeout_s=5.0, **options):
    address = {
        key: options.pop(key) for key in ("username", "password", "tls", "mqtt5", "host") if key in options
    }
    return PahoBroker(
        BrokerAddress(address.pop("host", HOST), port, **address),
        name,
        connect_timeout_s=timeout_s,
        **options,
    )


def wait_until(condition):
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_nobody_listens():
    port = free_port()
    with pytest.raises(DeviceAbsentError) as caught:
        paho(port, timeout_s=0.2).connect()
    assert str(caught.value) == f"no MQTT broker answers at 127.0.0.1:{port} within 0.2 s: connection refused"


def test_a_broker_that_is_still_starting_is_waited_for():
    port = free_port()
    servers = []
    timer = threading.Timer(0.3, lambda: servers.append(socket.create_server((HOST, port))))
    timer.start()
    with pytest.raises(DeviceAbsentError, match="does not speak MQTT"):
        paho(port, timeout_s=1.0).connect()
    timer.join()
    servers[0].close()


def test_no_such_host():
    with pytest.raises(DeviceAbsentError, match="no MQTT broker answers at broker.invalid:1883 within 0.2 s"):
        paho(1883, timeout_s=0.2, host="broker.invalid").connect()


def test_refused_is_told_apart_from_absent():
    with FakeBroker(CONNACK_NOT_AUTHORISED) as fake:
        started_s = time.monotonic()
        with pytest.raises(DeviceFailedError, match="refuses us: Not authorized"):
            paho(fake.port, username="robot", password="wrong").connect()
        assert time.monotonic() - started_s < 4  # at once, not after the time-out


@pytest.mark.parametrize(
    "packet",
    [
        b"\x30\x02\x00\x05",  # PUBLISH shorter than its topic
        b"\x32\x05\x00\x02\xff\xfeX",  # PUBLISH, topic not UTF-8, packet id cut off
        b"\x90\x00",  # SUBACK of nothing
        b"\x40\x00",  # PUBACK of nothing
        b"\xf0\x00" * 3,  # reserved type
        b"\x30\xff\xff\xff\xff\x7f",  # remaining length of five bytes
    ],
    ids=["short-publish", "topic-not-utf8", "empty-suback", "empty-puback", "reserved-type", "length"],
)
def test_a_broken_packet_does_not_end_the_client(packet, caplog):
    caplog.set_level(logging.CRITICAL, "depai_robot.adapters.paho_broker")
    with FakeBroker(CONNACK + packet, CONNACK, CONNACK) as fake:
        broker = paho(fake.port)
        broker.connect()
        wait_until(lambda: fake.connections >= 2 and broker.connected)
        broker.close()


def test_a_topic_that_is_not_utf8_is_dropped(caplog):
    inbox, came = [], threading.Event()

    def receive(topic, payload):
        inbox.append((topic, payload))
        came.set()

    bad, good = b"\x30\x05\x00\x02\xff\xfeX", b"\x30\x04\x00\x01aY"
    with FakeBroker(CONNACK + bad + good) as fake:
        broker = paho(fake.port, timeout_s=0.3)
        broker.subscribe("#", receive)
        broker.connect()
        assert came.wait(PATIENCE_S)
        assert inbox == [("a", b"Y")]
        broker.close()
    assert "not UTF-8" in caplog.text


def test_the_queue_is_bounded(monkeypatch):
    broker = paho(free_port())
    for _ in range(QUEUE_MESSAGES_MAX):
        broker.publish("a", b"")
    with pytest.raises(DeviceFailedError, match="10000 messages wait"):
        broker.publish("a", b"")


def test_certificates_that_are_not_there(tmp_path):
    with pytest.raises(ConfigError, match="MQTT certificates: "):
        paho(1, tls=Tls(tmp_path / "ca.pem"))
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match="MQTT certificates: "):
        paho(1, tls=Tls(tmp_path / "ca.pem"))


@pytest.fixture(params=["mosquitto", "amqtt"])
def broker(request, tmp_path):
    if request.param == "mosquitto" and find_mosquitto() is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    if request.param == "amqtt":
        pytest.importorskip("amqtt", reason="amqtt is not installed: pip install 'depai_robot[sim]'")
    process = start_broker(tmp_path, request.param)
    yield process
    process.stop()


def test_round_trips_do_not_wait_for_delayed_acknowledgements(broker):
    robot, station = paho(broker.port, "robot"), paho(broker.port, "station")
    robot.connect()
    station.connect()
    answered = threading.Event()
    station.subscribe("t/station", lambda _, payload: station.publish("t/robot", payload))
    robot.subscribe("t/robot", lambda *_: answered.set())
    took_s = []
    for _ in range(30):
        answered.clear()
        started_s = time.perf_counter()
        robot.publish("t/station", b"x" * 400)
        assert answered.wait(PATIENCE_S)
        took_s.append(time.perf_counter() - started_s)
    robot.close()
    station.close()
    # 44 ms or more without TCP_NODELAY at one end; the fastest half also stands a busy machine.
    assert statistics.median(took_s) < 0.04


def test_a_subscription_in_a_callback_does_not_wait_for_itself(broker):
    robot, done = paho(broker.port), threading.Event()
    robot.connect()

    def first(topic, payload):
        robot.subscribe("t/second", lambda *_: done.set())
        robot.publish("t/second", b"")

    robot.subscribe("t/first", first)
    robot.publish("t/first", b"")
    started_s = time.monotonic()
    assert done.wait(PATIENCE_S)
    assert time.monotonic() - started_s < 4
    robot.close()


def test_a_port_that_is_taken_is_said_so(broker, tmp_path):
    with pytest.raises(
        DeviceFailedError, match=rf"no {broker.kind} can listen at 127.0.0.1:{broker.port}: Address already"
    ):
        start_broker(tmp_path / "second", broker.kind, port=broker.port)


def test_what_is_not_installed_is_said_so(tmp_path, monkeypatch):
    monkeypatch.setattr(broker_process, "find_mosquitto", lambda: None)
    with pytest.raises(DeviceAbsentError, match="apt-get install mosquitto"):
        start_broker(tmp_path, "mosquitto")
    monkeypatch.setattr(broker_process.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DeviceAbsentError, match="pip install"):
        start_broker(tmp_path)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="needs mosquitto"):
        start_broker(tmp_path, "amqtt", acl=True)


@needs_mosquitto
def test_retained_offers_outlive_the_broker(tmp_path):
    process = start_broker(tmp_path, "mosquitto")
    station = paho(process.port, "station")
    station.connect()
    station.publish("t/offer", b"offer", retain=True)
    station.close()
    process.stop()
    process = start_broker(tmp_path, "mosquitto", port=process.port)
    came = threading.Event()
    robot = paho(process.port)
    robot.connect()
    robot.subscribe("t/offer", lambda *_: came.set())
    assert came.wait(PATIENCE_S)
    robot.close()
    process.kill()


@needs_mosquitto
def test_the_access_list_keeps_roles_apart(tmp_path):
    process = start_broker(tmp_path, "mosquitto", acl=True)
    zone, seen, came = "depai/v1/home", [], threading.Event()

    def receive(topic, payload):
        seen.append((topic, payload))
        if payload == b"last":
            came.set()

    robot, spy, station = (
        paho(process.port, name, username=name, password="") for name in ("r-1", "r-2", "st-1")
    )
    for client in (robot, spy, station):
        client.connect()
    station.subscribe(f"{zone}/stations/st-1/inbox", receive)
    robot.subscribe(f"{zone}/robots/r-1/inbox", receive)
    robot.subscribe(f"{zone}/stations/+/offer", receive)
    spied = []
    for topic in (f"{zone}/robots/r-1/inbox", f"{zone}/stations/st-1/inbox"):
        # mosquitto grants the subscription and delivers nothing.
        spy.subscribe(topic, lambda *args: spied.append(args))
    spy.publish(f"{zone}/stations/st-1/offer", b"forged", retain=True)
    spy.publish("elsewhere", b"x")
    station.publish(f"{zone}/stations/st-1/offer", b"offer", retain=True)
    robot.publish(f"{zone}/stations/st-1/inbox", b"request")
    station.publish(f"{zone}/robots/r-1/inbox", b"last")
    assert came.wait(PATIENCE_S)
    wait_until(lambda: len(seen) == 3)
    assert sorted(payload for _, payload in seen) == [b"last", b"offer", b"request"]
    assert spied == []
    for client in (robot, spy, station):
        client.close()
    process.stop()


def make_certificate(subject, issuer=None, issuer_key=None):
    """(certificate, key) for loopback, valid for a day; an authority of its own without an issuer."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)])
    now = dt.datetime.now(dt.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]), critical=False
        )
    )
    return builder.sign(issuer_key or key, hashes.SHA256()), key


def write_pem(folder, name, certificate, key):
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / f"{name}.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder / f"{name}.pem", folder / f"{name}.key"


# paho leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@needs_mosquitto
def test_tls_both_ways(tmp_path, monkeypatch):
    pytest.importorskip("cryptography", reason="pip install cryptography")
    authority, authority_key = make_certificate("authority")
    ca, _ = write_pem(tmp_path, "ca", authority, authority_key)
    server, server_key = write_pem(tmp_path, "server", *make_certificate("server", authority, authority_key))
    certificate, key = write_pem(tmp_path, "robot", *make_certificate("r-1", authority, authority_key))
    stranger, _ = write_pem(tmp_path, "stranger", *make_certificate("somebody"))
    plain = broker_process._write_mosquitto_config

    def with_tls(folder, port, *, acl):
        config = plain(folder, port, acl=acl)
        lines = config.read_text().splitlines()
        lines[1:1] = [
            f"cafile {ca}",
            f"certfile {server}",
            f"keyfile {server_key}",
            "require_certificate true",
        ]
        config.write_text("\n".join(lines) + "\n")
        return config

    monkeypatch.setattr(broker_process, "_write_mosquitto_config", with_tls)
    monkeypatch.setattr(broker_process, "_speaks_mqtt", _accepts)
    process = start_broker(tmp_path / "broker", "mosquitto")
    try:
        robot = paho(process.port, tls=Tls(ca, certificate, key))
        robot.connect()
        came = threading.Event()
        robot.subscribe("t", lambda *_: came.set())
        robot.publish("t", b"")
        assert came.wait(PATIENCE_S)
        robot.close()
        with pytest.raises(DeviceFailedError, match="does not prove who it is: .*certificate"):
            paho(process.port, tls=Tls(stranger, certificate, key)).connect()
        with pytest.raises(DeviceAbsentError, match="no MQTT broker answers"):
            paho(process.port, tls=Tls(ca), timeout_s=0.5).connect()
    finally:
        process.stop()


def _accepts(port):
    try:
        socket.create_connection((HOST, port)).close()
    except OSError:
        return False
    return True


@needs_mosquitto
def test_a_broker_that_ends_at_once_shows_its_log(tmp_path, monkeypatch):
    def nonsense(folder, port, *, acl):
        (folder / "mosquitto.conf").write_text("nonsense 1\n")
        return folder / "mosquitto.conf"

    monkeypatch.setattr(broker_process, "_write_mosquitto_config", nonsense)
    with pytest.raises(
        DeviceFailedError, match=r"mosquitto does not listen at 127\.0\.0\.1:\d+:\n(.|\n)*nonsense"
    ):
        start_broker(tmp_path, "mosquitto")
