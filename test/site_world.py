"""A site of files and real processes: broker, chain, simulated pads; a station by its command, a wallet by its file."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
import yaml

from depai_robot.adapters.anvil import find_anvil, fund, place_contracts, start_anvil
from depai_robot.adapters.broker_process import start_broker
from depai_robot.adapters.keystore_signer import write_keystore
from depai_robot.app.resource import resource_path
from depai_robot.payment.policy import format_policy, policy_digest
from depai_robot.sim.battery import SimulatedBattery
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.sim.link import LinkServer
from depai_robot.sim.pads import ChargingPads, PadsClockwork
from depai_robot.sim.scene import parse_robot
from depai_robot.sim.supply import SimulatedSupply, SupplyModel
from depai_robot.values.identity import address_to_hex
from test.app_world import make_policy, robot_key, station_key

ROBOT, STATION, PASSWORD = "robot-7", "gate", "correct horse battery"
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


@contextmanager
def make_site(folder: Path) -> Iterator[tuple[Path, ChargingPads]]:
    """Broker, chain, pads and the files of both programs."""
    if find_anvil() is None:
        pytest.skip("anvil is not installed: depai-robot setup chain")
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
