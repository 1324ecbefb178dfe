"""``depai-robot operator`` as owner and operator use it: a real broker and chain, a wallet opened from its file."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from depai_robot.adapters.keystore_signer import write_keystore
from depai_robot.app.journal_check import check_journal
from depai_robot.app.wallet import WalletProgram, open_wallet
from depai_robot.cli.main import cli
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.sim.link_hardware import LinkRobotHardware
from depai_robot.values.error import ConfigError, DepaiError
from depai_robot.values.identity import address_to_hex
from test.app_world import TeleportingDock, robot_key, until
from test.site_world import OWNER, ROBOT, make_site, start_station, write_secret, write_yaml

ADA = DevelopmentSigner("operator-ada")


class Desk:
    """Owner's and operator's machine."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        write_secret(folder / "passphrase", "paper boat")
        write_keystore(folder / "owner.json", OWNER.secret, "paper boat")
        write_keystore(folder / "ada.json", ADA.secret, "paper boat")

    def run(self, *words: str, code: int = 0) -> str:
        """What it says, an error included; ``code`` 2 stands for one, as main() exits with."""
        done = CliRunner().invoke(cli, ["operator", *words])
        if code == 0:
            assert done.exception is None, done.output
            return done.output
        assert isinstance(done.exception, DepaiError | SystemExit), done.output
        return f"{done.output}{done.exception}"

    def grant(self, *words: str) -> str:
        key = ("--key", str(self.folder / "owner.json"), "--password-file", str(self.folder / "passphrase"))
        return self.run("grant", ROBOT, address_to_hex(ADA.address), *key, *words)

    def order(self, kind: str, *words: str, key: str = "ada", code: int = 0) -> str:
        key_options = (
            "--key",
            str(self.folder / f"{key}.json"),
            "--password-file",
            str(self.folder / "passphrase"),
        )
        options = ("--port", str(self.port), "--reason", "a test", *words)
        return self.run("order", ROBOT, kind, *key_options, *options, code=code)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with make_site(tmp_path_factory.mktemp("site")) as (folder, pads):
        tree = yaml.safe_load((folder / "wallet.yaml").read_text())
        desk = Desk(folder, tree["broker"]["port"])
        (folder / "grants.jws").write_text(desk.grant())
        write_yaml(folder / "wallet.yaml", tree | {"grants": "grants.jws"})
        station = start_station(folder)
        hardware = LinkRobotHardware(folder / "sim.sock", ROBOT)
        docking = TeleportingDock(pads)
        parts = open_wallet(
            folder / "wallet.yaml",
            clock=hardware.clock,
            battery=hardware,
            connector=hardware,
            docking=docking,
        )
        wallet = docking.wallet = WalletProgram(parts)
        try:
            wallet.start()
            until(lambda: wallet.state.offers or station.poll() is not None, "an offer", 30)
            yield folder, desk, wallet
        finally:
            wallet.stop()
            hardware.close()
            station.terminate()
            station.wait(20)


def test_orders_of_an_operator_whom_the_owner_allowed(site) -> None:
    _, desk, wallet = site
    answer = json.loads(desk.order("pause"))
    assert (answer["accepted"], answer["paused"], answer["by"]) == (True, True, address_to_hex(ADA.address))
    with pytest.raises(ConfigError, match="an operator has paused spending"):
        wallet.request_charge()
    assert json.loads(desk.order("resume"))["paused"] is False
    tightened = json.loads(desk.order("tighten", "--limit", "session_max_atomic=90000"))
    assert tightened["limits"] == {"session_max_atomic": 90_000}
    assert "takes the owner's signature" in desk.order("widen", "--limit", "session_max_atomic=95000", code=2)
    widened = json.loads(desk.order("widen", "--limit", "session_max_atomic=95000", key="owner"))
    assert widened["limits"] == {"session_max_atomic": 95_000}


def test_a_limit_that_is_none_and_a_key_that_is_not_there_are_told_before_anything_is_sent(site) -> None:
    _, desk, _ = site
    assert "expected NAME=ATOMIC" in desk.order("tighten", "--limit", "everything=1", code=2)
    assert "2026-11-24" in desk.order("journal", "--since", "yesterday", code=2)
    assert "nobody.json" in desk.order("pause", key="nobody", code=2)


def test_a_robot_that_is_not_there_does_not_answer(site) -> None:
    folder, desk, _ = site
    key = ("--key", str(folder / "ada.json"), "--password-file", str(folder / "passphrase"))
    said = desk.run("order", "robot-99", "pause", *key, "--port", str(desk.port), "--timeout", "0.3", code=2)
    assert "does not answer within 0.3 s" in said


def test_the_journal_is_told_kept_and_read_again(site, tmp_path) -> None:
    folder, desk, wallet = site
    session = wallet.request_charge()
    until(
        lambda: (folder / "wallet" / f"receipt-{session}.json").exists() or wallet.failure, "the receipt", 20
    )
    identity = address_to_hex(robot_key(ROBOT, "identity").address)
    path = tmp_path / "told.jws"
    said = desk.order("journal", "--days", "1", "--identity", identity, "--out", str(path))
    assert f"{ROBOT}: 1 sessions" in said
    assert identity in desk.run("read", str(path), "--identity", identity)
    told = json.loads(desk.run("read", str(path), "--format", "json"))
    (row,) = told["sessions"]
    receipt = json.loads((folder / "wallet" / f"receipt-{session}.json").read_bytes())
    assert (row["session"], row["outcome"]) == (session, "paid")
    assert row["billed_atomic"] == int(receipt["owed_atomic"])
    assert told["days"][0]["billed_atomic"] == row["billed_atomic"]
    assert session in desk.run("read", str(path), "--format", "csv")
    assert "expected 0x" in desk.run("read", str(path), "--identity", address_to_hex(ADA.address), code=2)

    # The head that was told is what the robot's own file is checked against later.
    from depai_robot.adapters.journal_head import Head

    head = json.loads(desk.run("read", str(path), "--format", "head"))
    verdict = check_journal(
        folder / "wallet" / "wallet.sqlite", head=Head(head["rows"], bytes.fromhex(head["hash"][2:]))
    )
    assert verdict.ok, verdict

    none = desk.order("journal", "--since", "2020-01-01", "--until", "2020-01-02", "--out", str(path))
    assert f"{ROBOT}: 0 sessions" in none


def test_a_journal_that_cannot_be_read_is_said_and_the_wallet_goes_on(site, tmp_path) -> None:
    _, desk, wallet = site
    share = wallet._share
    share._path, path = tmp_path / "none.sqlite", share._path
    try:
        said = desk.order("journal", code=2)
    finally:
        share._path = path
    assert "tells no journal: the journal can't be read" in said
    assert "none.sqlite" not in said, "paths of the robot are nobody's business"
    assert wallet.failure is None
