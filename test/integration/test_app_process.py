"""The station as its command runs it, and a wallet opened from its file, over a real broker and a real chain."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import psutil
import pytest
import yaml

from depai_robot.adapters.anvil import find_anvil, fund, place_contracts, start_anvil
from depai_robot.adapters.broker_process import start_broker
from depai_robot.adapters.keystore_signer import write_keystore
from depai_robot.app.resource import resource_path
from depai_robot.app.wallet import WalletProgram, open_wallet
from depai_robot.payment.policy import format_policy, policy_digest
from depai_robot.payment.receipt import parse_receipt
from depai_robot.sim.battery import SimulatedBattery
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.sim.link import LinkServer
from depai_robot.sim.link_hardware import LinkRobotHardware
from depai_robot.sim.pads import ChargingPads, PadsClockwork
from depai_robot.sim.scene import parse_robot
from depai_robot.sim.supply import SimulatedSupply, SupplyModel
from depai_robot.values.error import ConfigError, JournalError
from depai_robot.values.identity import address_to_hex
from test.app_world import TeleportingDock, make_policy, robot_key, station_key, until
from test.secret_search import Search

ROBOT, STATION, PASSWORD = "robot-7", "gate", "correct horse battery"
ROLES = ("identity", "voucher", "payer", "receiver", "meter")
OWNER = DevelopmentSigner("owner")


def write_yaml(path: Path, tree: Any) -> Path:
    path.write_text(yaml.safe_dump(tree))
    return path


def write_secret(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
    path.chmod(0o600)


def listen(port: int, path: Path) -> mqtt.Client:
    """Writes all that the broker carries into a file."""
    file = path.open("ab", buffering=0)

    def take(_client, _data, message) -> None:
        file.write(message.topic.encode() + b" " + message.payload + b"\n")

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "listener")
    client.on_message = take
    client.on_connect = lambda client, *_: client.subscribe("#")
    client.connect("127.0.0.1", port)
    client.loop_start()
    client.user_data_set(file)
    return client


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Broker, chain, pads and the files of both programs."""
    if find_anvil() is None:
        pytest.skip("anvil is not installed: depai-robot setup chain")
    folder = tmp_path_factory.mktemp("site")
    broker = start_broker(folder / "broker")
    chain = start_anvil(folder / "chain")
    listener = listen(broker.port, folder / "mqtt.log")
    model = parse_robot(resource_path("config", "robot.yaml").read_text()).battery
    pads = ChargingPads(
        ROBOT,
        SimulatedBattery(model, 0.18, seed=1),
        {(STATION, 1): SimulatedSupply(SupplyModel(), seed=1)},
    )
    server = LinkServer(folder / "sim.sock", pads, pads.lock)
    clockwork = PadsClockwork(pads, 10.0, server.push, step_ns=40_000_000)
    try:
        place_contracts(chain.url, resource_path("contracts", "artifacts"))
        fund(chain.url, robot_key(ROBOT, "payer").address, usdc_atomic=10_000_000)
        fund(chain.url, station_key(STATION, "receiver").address)
        write_secret(folder / "secrets" / "station", PASSWORD)
        for role in ("identity", "receiver", "meter"):
            write_keystore(folder / "keys" / f"{role}.json", station_key(STATION, role).secret, PASSWORD)
        write_keystore(folder / "keys" / "voucher.json", robot_key(ROBOT, "voucher").secret, PASSWORD)
        keys = {
            role: {"keystore": f"keys/{role}.json", "password_file": "secrets/station"}
            for role in ("identity", "receiver", "meter")
        }
        common = {
            "version": 1,
            "zone": "lab",
            "chain": {"network": "development", "rpc_urls": [chain.url]},
            "broker": {"port": broker.port},
            "link": "sim.sock",
        }
        write_yaml(
            folder / "station.yaml",
            {
                **common,
                "station": STATION,
                "name": "Gate",
                "folder": "station",
                "keys": {"identity": keys["identity"], "receiver": keys["receiver"]},
                "dock": f"dock-{STATION}",
                "pose": {"x_m": 2.0, "y_m": 0.0, "yaw_rad": 0.0},
                "meters": [{"serial": "M-1", "key": keys["meter"]}],
                "settings": {
                    "power_max_w": 100,
                    "tranche_milliwh": 600,
                    "report_interval_ms": 1000,
                    "voucher_timeout_ms": 20_000,
                },
            },
        )
        policy = make_policy(ROBOT, (STATION,))
        signature = OWNER.sign(policy_digest(policy, 31337))
        (folder / "policy.json").write_bytes(format_policy(policy, 31337, OWNER.address, signature))
        write_yaml(
            folder / "wallet.yaml",
            {
                **common,
                "robot": ROBOT,
                "folder": "wallet",
                "keys": {role: {"development": f"{ROBOT} {role}"} for role in ("identity", "payer")}
                | {
                    "voucher": {
                        "keystore": str(folder / "keys" / "voucher.json"),
                        "password_file": str(folder / "secrets" / "station"),
                    }
                },
                "owner": address_to_hex(OWNER.address),
                "policy": "policy.json",
                "charge": {"below_permille": 0, "energy_milliwh": 800},
                "settings": {"reading_age_max_ms": 10_000, "meter_slack_ms": 300_000, "retry_ms": 5000},
            },
        )
        yield folder, pads
    finally:
        listener.disconnect()
        listener.loop_stop()
        listener.user_data_get().close()
        clockwork.close()
        server.close()
        chain.stop()
        broker.stop()


def start_station(folder: Path) -> "subprocess.Popen[bytes]":
    log = (folder / "station.log").open("ab")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "depai_robot.cli.main",
            "station",
            "run",
            "--config",
            str(folder / "station.yaml"),
        ],
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    log.close()
    return process


def open_parts(folder: Path, pads: ChargingPads):
    hardware = LinkRobotHardware(folder / "sim.sock", ROBOT)
    docking = TeleportingDock(pads)
    parts = open_wallet(
        folder / "wallet.yaml",
        clock=hardware.clock,
        battery=hardware,
        connector=hardware,
        docking=docking,
    )
    return parts, hardware, docking


def test_a_session_over_real_processes_survives_a_kill_of_the_station(site) -> None:
    folder, pads = site
    station = start_station(folder)
    parts, hardware, docking = open_parts(folder, pads)
    wallet = docking.wallet = WalletProgram(parts)
    try:
        wallet.start()
        until(lambda: wallet.state.offers or station.poll() is not None, "an offer", 30)
        session = wallet.request_charge()
        until(lambda: wallet.phase == "CHARGING", "charging", 30)
        station.kill()
        station.wait()
        station = start_station(folder)
        path = folder / "wallet" / f"receipt-{session}.json"
        until(lambda: path.exists() or wallet.failure, "the receipt", 90)
        receipt = parse_receipt(path.read_bytes())
        assert receipt.claimed_atomic == receipt.owed_atomic
        assert receipt.robot_energy_milliwh > 0
        assert receipt.transactions.claim
        memory_mib = psutil.Process(station.pid).memory_info().rss / 2**20
        assert memory_mib < 250, f"station takes {memory_mib:.0f} MiB"
        station.send_signal(signal.SIGTERM)
        assert station.wait(20) == 0
    finally:
        wallet.stop()
        hardware.close()
        if station.poll() is None:
            station.kill()
            station.wait()


def test_no_key_and_no_passphrase_is_in_logs_files_or_messages(site, capfd) -> None:
    """After a session with a killed station in between: everything that the programs left, and all MQTT traffic."""
    folder, _ = site
    assert b"/offer " in (folder / "mqtt.log").read_bytes()
    search = Search(
        [key.secret for role in ROLES for key in (robot_key(ROBOT, role), station_key(STATION, role))],
        [PASSWORD],
    )
    found, count = search.in_folder(folder, skip=[folder / "secrets" / "station"])
    assert found == []
    assert count > 10
    assert search.in_bytes("".join(capfd.readouterr()).encode(), "output") == []
    assert not [path for path in Path.cwd().glob("core*") if path.is_file()]


def test_two_wallets_of_one_key_are_refused(site) -> None:
    folder, pads = site
    parts, hardware, _ = open_parts(folder, pads)
    with pytest.raises(JournalError, match="in use by another process: two must never sign"):
        open_wallet(
            folder / "wallet.yaml",
            clock=hardware.clock,
            battery=hardware,
            connector=hardware,
            docking=parts.docking,
        )
    parts.journal.close()
    parts.key_lock.release()
    hardware.close()


def test_a_policy_that_the_owner_did_not_sign_is_refused(site, tmp_path) -> None:
    folder, pads = site
    tree = yaml.safe_load((folder / "wallet.yaml").read_text())
    tree["owner"] = address_to_hex(DevelopmentSigner("somebody").address)
    for name in ("policy", "folder", "link"):
        tree[name] = str(folder / tree[name])
    path = write_yaml(tmp_path / "wallet.yaml", tree)
    with pytest.raises(
        ConfigError, match=r"wallet\.yaml: policy names owner 0x\w+, this robot's owner is 0x"
    ):
        open_wallet(path, clock=None, battery=None, connector=None, docking=None)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"station": "no good"}, "station must be 1 to 64 of"),
        ({"link": "nowhere.sock"}, "finds no simulation at"),
        ({"chain": {"network": "base"}}, "rpc_urls names no RPC endpoint"),
        ({"broker": {"port": 1}}, "no MQTT broker answers at 127.0.0.1:1"),
        ({"settings": {"tranche_milliwh": 1}}, "tranche_milliwh 1 must hold"),
    ],
)
def test_a_station_that_can_not_run_says_why_in_one_line(
    site, tmp_path, change, line: str, monkeypatch
) -> None:
    from click.testing import CliRunner

    from depai_robot.app import part, program
    from depai_robot.cli.station import station
    from depai_robot.sim import link_hardware
    from depai_robot.values.error import DepaiError

    del part
    monkeypatch.setattr(program, "CONNECT_TRIES", 1)
    monkeypatch.setattr(link_hardware.LinkStationHardware.__init__, "__defaults__", (0.3,))
    folder, _ = site
    tree = yaml.safe_load((folder / "station.yaml").read_text()) | {"folder": str(tmp_path), **change}
    text = json.dumps(tree).replace("keys/", f"{folder}/keys/").replace("secrets/", f"{folder}/secrets/")
    tree = json.loads(text)
    if tree["link"] == "sim.sock":
        tree["link"] = str(folder / "sim.sock")
    path = write_yaml(tmp_path / "station.yaml", tree)
    result = CliRunner().invoke(station, ["run", "--config", str(path)])
    assert isinstance(result.exception, DepaiError)
    assert line in str(result.exception)
    assert "\n" not in str(result.exception)


def test_start_time_and_memory_are_what_a_small_board_can_bear(site) -> None:
    folder, _ = site
    begin = time.monotonic()
    before = (folder / "station.log").read_bytes().count(b"serves")
    station = start_station(folder)
    try:
        until(lambda: (folder / "station.log").read_bytes().count(b"serves") > before, "it serves", 30)
        print(f"station serves after {time.monotonic() - begin:.2f} s")
    finally:
        station.send_signal(signal.SIGTERM)
        assert station.wait(20) == 0
    assert os.listdir(folder / "station")
