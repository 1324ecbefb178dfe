"""The auditor's command on files and a chain that programs wrote: quiet after honest sessions, loud after an edit."""

import contextlib
import json
import shutil
import sqlite3

import pytest

from depai_robot.adapters.anvil import DEVELOPMENT_USDC, fund
from depai_robot.app.auditor import main
from depai_robot.app.config import ChainPart, read_network
from depai_robot.app.part import open_chain
from depai_robot.sim.memory_broker import MemoryExchange
from test.app_world import ROBOT, AppWorld, make_policy, robot_key, station_key, until
from test.chain_world import start_chain


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two sessions on a real EVM; (folder, arguments of the command)."""
    folder = tmp_path_factory.mktemp("audited")
    chain = start_chain(folder / "chain")
    exchange = MemoryExchange()
    network = read_network(ChainPart(network="development", rpc_urls=[chain.url]), folder / "none.yaml")
    fund(chain.url, robot_key(ROBOT, "payer").address, usdc_atomic=1_000_000)
    fund(chain.url, station_key("a", "receiver").address)
    world = AppWorld(
        folder,
        network.network(),
        lambda client_id, will: exchange.client(client_id, will=(will, b"", True) if will else None),
        lambda signer: open_chain(network, signer, folder),
    )
    try:
        wallet = world.start_wallet()
        for number in (1, 2):
            wallet.request_charge(2000, f"s-{number}")
            until(lambda n=number: wallet.failure or wallet.state.finished == n, "a session", 60)
        assert wallet.failure is None
    finally:
        world.close()
        exchange.close()
    policy = make_policy(ROBOT, ("a",))
    limits = {
        name: getattr(policy, name)
        for name in ("session_max_atomic", "day_max_atomic", "escrow_total_max_atomic")
    }
    limits["payees"] = ["0x" + payee.hex() for payee in policy.payees]
    (folder / "policy.json").write_text(json.dumps(limits))
    yield (
        folder,
        [
            "--rpc",
            chain.url,
            "--token",
            "0x" + DEVELOPMENT_USDC.hex(),
            "--policy",
            str(folder / "policy.json"),
        ],
    )
    chain.stop()


def test_two_honest_sessions_pass(run, capsys) -> None:
    folder, arguments = run
    files = [str(folder / "wallet.sqlite"), str(folder / "station-a.sqlite")]
    status = main([*arguments, *files])
    said = capsys.readouterr().out
    assert status == 0, said
    assert "0 findings" in said
    assert "2 journals" in said


def spoil(folder, what: str):
    """A copy of the robot's journal with one row taken out or changed, without a hash of ours noticing."""
    path = folder / f"spoiled-{what}.sqlite"
    shutil.copy(folder / "wallet.sqlite", path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f"DROP TRIGGER {name}")
        rows = database.execute(
            "SELECT number, data FROM row WHERE CAST(data AS TEXT) LIKE '%MessageSealed%'"
        ).fetchall()
        number, data = rows[len(rows) // 2]
        row = json.loads(data)
        if what == "forgotten":
            # Rows stay without gaps: what was signed is replaced by something harmless.
            row = {"type": "TimerFired", "at": row["at"], "name": "x/y"}
        else:
            row["token"] = row["token"][:-4] + ("AAAA" if row["token"][-4:] != "AAAA" else "BBBB")
        database.execute("UPDATE row SET data = ? WHERE number = ?", (json.dumps(row).encode(), number))
    return path


@pytest.mark.parametrize(("what", "said"), [("forgotten", "invariant 4"), ("edited", "evidence")])
def test_a_spoiled_journal_is_found(run, capsys, what, said) -> None:
    folder, arguments = run
    status = main([*arguments, str(spoil(folder, what)), str(folder / "station-a.sqlite")])
    assert status == 1
    assert said in capsys.readouterr().out


def test_a_file_that_is_no_journal_is_said(run, capsys) -> None:
    folder, arguments = run
    assert main([*arguments, str(folder / "policy.json")]) == 2
    assert "can't audit" in capsys.readouterr().err
