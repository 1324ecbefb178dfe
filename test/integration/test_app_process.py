"""The station as its command runs it, and a wallet opened from its file, over a real broker and a real chain."""

import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest
import yaml

from depai_robot.app.wallet import WalletProgram, open_wallet
from depai_robot.payment.receipt import parse_receipt
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.sim.link_hardware import LinkRobotHardware
from depai_robot.sim.pads import ChargingPads
from depai_robot.values.error import ConfigError, JournalError
from depai_robot.values.identity import address_to_hex
from test.app_world import TeleportingDock, robot_key, station_key, until
from test.secret_search import Search
from test.site_world import PASSWORD, ROBOT, STATION, make_site, start_station, write_yaml

ROLES = ("identity", "voucher", "payer", "receiver", "meter")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Broker, chain, pads and the files of both programs."""
    with make_site(tmp_path_factory.mktemp("site")) as made:
        yield made


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
