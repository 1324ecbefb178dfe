"""Two brokers as docs/scale.md has them: a zone with certificates and access list, and a central one that reads it."""

import os
import subprocess
import time
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="pip install 'depai_robot[broker]'")

from depai_robot.adapters.broker_process import find_mosquitto, free_port
from depai_robot.adapters.broker_site import add_client, init_site
from depai_robot.adapters.paho_broker import BrokerAddress, PahoBroker, Tls
from depai_robot.values.error import DeviceError

pytestmark = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
BRIDGE = Path(__file__).parents[2] / "deploy" / "mosquitto" / "bridge.conf"
WAIT_S = 15.0


def start(folder: Path, config: str) -> "subprocess.Popen[bytes]":
    path = folder / "mosquitto.conf"
    path.write_text(config + ("user root\n" if os.geteuid() == 0 else ""))
    with (folder / "log").open("ab") as log:
        return subprocess.Popen([find_mosquitto(), "-c", str(path)], stdout=log, stderr=log)


def client(port: int, name: str, tls: Tls | None = None) -> PahoBroker:
    made = PahoBroker(BrokerAddress("127.0.0.1", port, tls=tls), name)
    made.connect()
    return made


def until(true, what: str) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.02)


@pytest.fixture
def brokers(tmp_path):
    zone, central = tmp_path / "zone", tmp_path / "central"
    central.mkdir()
    zone_port, central_port = free_port(), free_port()
    init_site(zone, ("127.0.0.1",), "depai", port=zone_port)
    add_client(zone, "robot-1", "robot")
    add_client(zone, "central", "operator")
    lines = BRIDGE.read_text().replace("broker.hall-1.site:8883", f"127.0.0.1:{zone_port}")
    files = {"ca.pem": zone / "ca.pem"} | {
        f"central.{end}": zone / "clients" / f"central.{end}" for end in ("pem", "key")
    }
    for name, path in files.items():
        lines = lines.replace(f"/etc/mosquitto/depai/hall-1/{name}", str(path))
    processes = [
        start(zone, (zone / "mosquitto.conf").read_text()),
        start(
            central, f"listener {central_port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n{lines}"
        ),
    ]
    try:
        yield zone, zone_port, central_port
    finally:
        for process in processes:
            process.terminate()
            process.wait(10)


def test_a_central_broker_sees_a_zone_orders_its_robots_and_gets_no_inbox(brokers):
    zone, zone_port, central_port = brokers
    place = zone / "clients" / "robot-1"
    tls = Tls(zone / "ca.pem", Path(f"{place}.pem"), Path(f"{place}.key"))
    deadline_s = time.monotonic() + WAIT_S
    while True:
        try:
            robot = client(zone_port, "robot-1", tls)
            console = client(central_port, "console")
            break
        except DeviceError:
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
    try:
        heard: dict[str, list[bytes]] = {"zone": [], "central": []}
        inbox = "depai/v1/hall-1/robots/robot-1/inbox"
        robot.subscribe("depai/v1/fleet/robot-1/command", lambda _t, data: heard["zone"].append(data))
        robot.subscribe("uagv/v2/depai/robot-1/instantActions", lambda _t, data: heard["zone"].append(data))
        console.subscribe("uagv/v2/depai/robot-1/state", lambda _t, data: heard["central"].append(data))
        console.subscribe("depai/v1/fleet/robot-1/answer", lambda _t, data: heard["central"].append(data))
        console.subscribe(inbox, lambda _t, _d: heard["central"].append(b"INBOX"))

        # Until the bridge stands states are lost, as the standard means them to be; a connection is retained.
        robot.publish("uagv/v2/depai/robot-1/connection", b"online", retain=True)

        def state_comes() -> bool:
            robot.publish("uagv/v2/depai/robot-1/state", b"state")
            return b"state" in heard["central"]

        until(state_comes, "a state at the central broker")
        late: list[bytes] = []
        console.subscribe("uagv/v2/depai/robot-1/connection", lambda _t, data: late.append(data))
        until(lambda: late == [b"online"], "the retained connection at the central broker")

        console.publish("depai/v1/fleet/robot-1/command", b"signed")
        console.publish("uagv/v2/depai/robot-1/instantActions", b"actions")
        until(lambda: {b"signed", b"actions"} <= set(heard["zone"]), "orders in the zone")
        # Neither is a robot's word believed that comes from above, nor does an inbox leave its zone.
        robot.publish(inbox, b"money")
        console.publish(inbox, b"money")
        console.publish("uagv/v2/depai/robot-1/state", b"forged")
        robot.subscribe(inbox, lambda _t, _d: heard["zone"].append(b"INBOX"))
        robot.publish("depai/v1/fleet/robot-1/answer", b"answer")
        until(lambda: b"answer" in heard["central"], "an answer at the central broker")
        assert heard["central"].count(b"INBOX") == 1, "its own, and not the zone's"
        assert b"INBOX" not in heard["zone"]
    finally:
        robot.close()
        console.close()
