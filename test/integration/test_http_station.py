"""``depai-robot station http`` as people run it, on simulated pads and a real EVM; a stock x402 client buys."""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
import requests
import yaml

pytest.importorskip("flask", reason="flask is absent: pip install 'depai_robot[http,test]'")
pytest.importorskip("waitress", reason="waitress is absent: pip install 'depai_robot[http,test]'")
pytest.importorskip("x402", reason="the x402 package is absent: pip install 'depai_robot[test]'")

from eth_account import Account  # noqa: E402
from x402 import x402ClientSync  # noqa: E402
from x402.http.clients.requests import PaymentError, x402_requests  # noqa: E402
from x402.mechanisms.evm.batch_settlement.client.scheme import BatchSettlementEvmScheme  # noqa: E402
from x402.mechanisms.evm.exact.register import register_exact_evm_client  # noqa: E402

from depai_robot.adapters.keystore_signer import write_keystore  # noqa: E402
from depai_robot.app.resource import resource_path  # noqa: E402
from depai_robot.sim.battery import SimulatedBattery  # noqa: E402
from depai_robot.sim.link import LinkServer  # noqa: E402
from depai_robot.sim.pads import ChargingPads, PadsClockwork  # noqa: E402
from depai_robot.sim.scene import parse_robot  # noqa: E402
from depai_robot.sim.supply import SimulatedSupply, SupplyModel  # noqa: E402
from test.app_world import station_key, until  # noqa: E402
from test.chain_world import AnvilWorld, signer  # noqa: E402

ROBOT, STATION, PASSWORD = "robot-7", "gate", "correct horse battery"
FACTOR = 20.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Site:
    """Chain, pads with a robot on them, and the station's file."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.world = AnvilWorld(folder / "chain")
        model = parse_robot(resource_path("config", "robot.yaml").read_text()).battery
        self.pads = ChargingPads(
            ROBOT,
            SimulatedBattery(model, 0.18, seed=1),
            {(STATION, 1): SimulatedSupply(SupplyModel(), seed=1)},
        )
        self.server = LinkServer(folder / "sim.sock", self.pads, self.pads.lock)
        self.clockwork = PadsClockwork(self.pads, FACTOR, self.server.push, step_ns=40_000_000)
        self.world.fund(station_key(STATION, "receiver").address)
        (folder / "password").write_text(PASSWORD + "\n")
        (folder / "password").chmod(0o600)
        keys = {}
        for role in ("identity", "receiver", "meter"):
            write_keystore(folder / f"{role}.json", station_key(STATION, role).secret, PASSWORD)
            keys[role] = {"keystore": f"{role}.json", "password_file": "password"}
        tree = {
            "version": 1,
            "zone": "lab",
            "chain": {"network": "development", "rpc_urls": [self.world.anvil.url]},
            "broker": {"port": free_port()},
            "link": "sim.sock",
            "station": STATION,
            "name": "Gate",
            "folder": "station",
            "keys": {"identity": keys["identity"], "receiver": keys["receiver"]},
            "dock": f"dock-{STATION}",
            "pose": {"x_m": 2.0, "y_m": 0.0, "yaw_rad": 0.0},
            "meters": [{"serial": "M-1", "key": keys["meter"]}],
            "settings": {"power_max_w": 100, "tranche_milliwh": 600, "block_milliwh": 300},
        }
        (folder / "station.yaml").write_text(yaml.safe_dump(tree))

    def start(self) -> tuple["subprocess.Popen[bytes]", str]:
        url = f"127.0.0.1:{free_port()}"
        command = [sys.executable, "-m", "depai_robot.cli.main", "station", "http"]
        log = (self.folder / "log").open("ab")
        process = subprocess.Popen(
            [*command, "--config", str(self.folder / "station.yaml"), "--listen", url], stdout=log, stderr=log
        )
        log.close()

        def answers() -> bool:
            assert process.poll() is None, (self.folder / "log").read_text()
            try:
                return requests.get(f"http://{url}/connectors/1/energy", timeout=5).status_code == 402
            except requests.ConnectionError:
                return False

        until(answers, "the station answers", 30)
        return process, f"http://{url}/connectors/1"

    def earned(self) -> int:
        return self.world.chain().token_balance(station_key(STATION, "receiver").address)

    def close(self) -> None:
        self.clockwork.close()
        self.server.close()
        self.world.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = Site(tmp_path_factory.mktemp("site"))
    yield site
    site.close()


def make_sessions(site):
    """The stock client's, for both schemes."""
    key = signer("http buyer")
    site.world.fund(key.address, 100_000)
    account = Account.from_key(key.secret)
    by_block = register_exact_evm_client(x402ClientSync().set_spend_controls(False), account)
    by_meter = x402ClientSync().set_spend_controls(False)
    by_meter.register("eip155:31337", BatchSettlementEvmScheme(account))
    return x402_requests(by_meter), x402_requests(by_block)


def charged_of(response) -> int:
    assert response.status_code == 200, response.text
    settle = json.loads(base64.b64decode(response.headers["PAYMENT-RESPONSE"]))
    return int(settle["extra"]["chargedAmount"])


def served(session, url):
    """The answer, once the connector serves: presence is proven, and nobody's power flows."""
    return until(
        lambda: next((r for r in [session.get(url, timeout=60)] if r.status_code != 409), None), "served", 30
    )


def test_energy_by_the_meter_and_a_block_and_a_kill_in_the_midst(site):
    process, url = site.start()
    try:
        session, block_session = make_sessions(site)
        assert "nothing was taken" in session.get(url + "/energy", timeout=60).json()["error"]
        site.pads.touch((STATION, 1))
        # 600 mWh at 400 a Wh are 240; a supply ramps down a little before its limit.
        assert 2230 <= charged_of(served(session, url + "/energy")) <= 2240
        assert 230 <= charged_of(served(session, url + "/energy")) <= 240
        before = site.earned()
        block = served(block_session, url + "/block")
        assert block.status_code == 200, block.text
        assert site.earned() - before == 1000 + 120, "300 mWh and the fee"
        assert 230 <= charged_of(served(session, url + "/energy")) <= 240, "after the block is through"
        thread = threading.Thread(target=lambda: broken(session, url), daemon=True)
        thread.start()
        journal = site.folder / "station" / f"tab-{STATION}.sqlite-wal"
        size = journal.stat().st_size
        until(lambda: journal.stat().st_size > size, "sold", 20)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        thread.join(20)
        process, url = site.start()
        again = charged_of(served(session, url + "/energy"))
        assert 0 < again <= 240, "charged what had flowed, or served now"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, (site.folder / "log").read_text()
    text = (site.folder / "log").read_text()
    assert "gate sells at" in text
    assert "Traceback" not in text, text


def broken(session, url) -> None:
    with contextlib.suppress(requests.ConnectionError, PaymentError):  # the stock client wraps the former
        session.get(url + "/energy", timeout=60)


def test_help_says_what_is_sold():
    answer = subprocess.run(
        [sys.executable, "-m", "depai_robot.cli.main", "station", "http", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "100"},
    )
    assert "/connectors/1/energy  up to a tranche, charged by the meter (batch-settlement)" in answer.stdout
    assert "/connectors/1/block   one block (exact)" in answer.stdout
