"""Keys are made, shown and changed; one that something is open under stays, and a cut at any step fails closed."""

import os
from dataclasses import replace as with_values

import pytest
import yaml
from click.testing import CliRunner
from msgspec.structs import replace

from depai_robot.adapters.keystore_signer import KeystoreSigner, read_keystore_address, write_keystore
from depai_robot.adapters.sqlite_journal import SqliteJournal
from depai_robot.app import rotation
from depai_robot.app.part import KeyLock
from depai_robot.app.program import state_codec
from depai_robot.charging import robot, station
from depai_robot.charging.robot_state import RobotState
from depai_robot.charging.station_state import StationState
from depai_robot.cli.main import cli
from depai_robot.payment.ledger import ChannelAccount, Ledger
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.error import DepaiError
from depai_robot.values.identity import address_to_hex
from test.pretend import World, make_robot_settings, make_station_settings
from test.unit.test_charging_channel import WH, fill, world_that_keeps

PASS = "rotation pass"
OLD = DevelopmentSigner("rotated voucher")


def run(*arguments, ok=True):
    done = CliRunner().invoke(cli, [str(item) for item in arguments])
    if isinstance(done.exception, DepaiError):
        assert not ok, done.exception
        return f"error: {done.exception}"
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert (done.exit_code == 0) == ok, done.output
    return done.output


@pytest.fixture(autouse=True)
def dumpable(monkeypatch):
    """The test process itself stays as it is."""
    monkeypatch.setattr("depai_robot.adapters.core_dump.forbid_core_dumps", lambda: None)
    monkeypatch.setattr("depai_robot.app.rotation.forbid_core_dumps", lambda: None)


@pytest.fixture
def password(tmp_path):
    path = tmp_path / "pass"
    path.write_text(PASS + "\n")
    path.chmod(0o600)
    return path


def test_new_and_show(tmp_path, password):
    path = tmp_path / "keys" / "voucher.json"
    said = run("key", "new", path, "--kdf", "light", "--password-file", password)
    address = said.split()[0]
    assert path.stat().st_mode & 0o777 == 0o600
    assert address == address_to_hex(KeystoreSigner(path, PASS).address)
    shown = run("key", "show", path)
    assert f"{address}  {path} (as the file names it)" in shown
    assert "mode 0600, scrypt (n 16384, r 8, p 1)" in shown
    assert "(opened: sure)" in run("key", "show", path, "--open", "--password-file", password)
    assert "a key is never overwritten" in run("key", "new", path, "--password-file", password, ok=False)
    assert PASS not in said + shown
    assert path.read_text() not in said + shown


def test_a_keystore_that_names_no_address_is_said(tmp_path):
    path = tmp_path / "k.json"
    for text in ("{}", "[]", "", '{"address": 5}', '{"address": "0x12"}'):
        path.write_text(text)
        path.chmod(0o600)
        assert "names no address" in run("key", "show", path, ok=False)


# --- what must be closed first -----------------------------------------------------------------------------------


def test_a_robot_at_rest_with_empty_channels_has_nothing_open():
    world = World()
    assert rotation.open_things(world.robot.state) == []
    world.run_session("s-1", 2 * WH)
    world.run(lambda: station.is_at_rest(world.stations["a"].state), 300)
    assert rotation.open_things(world.robot.state) == []
    assert rotation.open_things(world.stations["a"].state) == []


def test_an_open_session_and_a_kept_channel_block():
    world = world_that_keeps()
    world.run(lambda: len(world.robot.state.offers) == 1, 5)
    world.request("s-1", 2 * WH)
    world.run(lambda: world.phase == "CHARGING", 60)
    assert "session s-1 is open" in rotation.open_things(world.robot.state)[0]
    assert "s-1 open" in rotation.open_things(world.stations["a"].state)[0]
    world = world_that_keeps()
    fill(world, 50 * WH)
    world.run(lambda: station.is_at_rest(world.stations["a"].state), 300)
    (line,) = rotation.open_things(world.robot.state)
    assert "still holds" in line
    assert "depai-robot channel close" in line
    (line,) = rotation.open_things(world.stations["a"].state)
    assert "owes" in line or "which only this key can give back" in line


def test_escrow_that_only_the_ledger_knows_blocks():
    channel = bytes([7]) * 32
    account = ChannelAccount(receiver=OLD.address, escrow_atomic=5000, ceiling_atomic=3000)
    state = replace(robot.initial_state(make_robot_settings()), ledger=Ledger({channel: account}))
    (line,) = rotation.open_things(state)
    assert line.startswith(
        f"channel 0x{channel.hex()} may still hold 0.005000 USDC: depai-robot channel withdraw"
    )
    done = with_values(account, claimed_atomic=3000, returned_atomic=2000)
    assert rotation.open_things(replace(state, ledger=Ledger({channel: done}))) == []


# --- the change --------------------------------------------------------------------------------------------------


@pytest.fixture
def wallet(tmp_path, password):
    """A wallet's configuration, keystores and a journal at rest."""
    write_keystore(tmp_path / "keys" / "voucher.json", OLD.secret, PASS)
    write_keystore(tmp_path / "keys" / "identity.json", DevelopmentSigner("rotated identity").secret, PASS)
    tree = {
        "version": 1,
        "robot": "r",
        "zone": "z",
        "folder": "wallet",
        "chain": {"network": "development"},
        "broker": {},
        "keys": {
            "identity": {"keystore": "keys/identity.json", "password_file": "pass"},
            "voucher": {"keystore": "keys/voucher.json", "password_file": "pass"},
            "payer": {"development": "r payer"},
        },
        "owner": address_to_hex(DevelopmentSigner("owner").address),
        "policy": "policy.json",
    }
    (tmp_path / "wallet.yaml").write_text(yaml.safe_dump(tree))
    write_state(tmp_path, robot.initial_state(make_robot_settings()))
    return tmp_path


def write_state(folder, state, owner=OLD):
    (folder / "wallet").mkdir(exist_ok=True)
    journal = SqliteJournal(folder / "wallet" / "wallet.sqlite", address_to_hex(owner.address))
    journal.write_snapshot(state_codec(RobotState)[0](state), robot.STEP_VERSION)
    journal.close()


def rotate(folder, role="voucher", *more, ok=True, config="wallet.yaml"):
    return run("key", "rotate", "--config", folder / config, role, "--kdf", "light", *more, ok=ok)


def test_a_voucher_key_is_changed_and_the_old_one_kept(wallet):
    assert "may go: nothing is open" in rotate(wallet, "voucher", "--check")
    said = rotate(wallet)
    new = KeystoreSigner(wallet / "keys" / "voucher.json", PASS)
    assert new.address != OLD.address
    assert address_to_hex(new.address) in said
    assert "the owner signs a policy" in said
    old = wallet / "keys" / f"voucher.json.retired-{address_to_hex(OLD.address)}"
    assert KeystoreSigner(old, PASS).address == OLD.address
    assert old.stat().st_mode & 0o777 == 0o600
    aside = f"wallet-{address_to_hex(OLD.address)}.sqlite"
    left = {name for name in os.listdir(wallet / "wallet") if not name.endswith(".lock")}
    assert left == {aside, aside + ".head"}
    # The next start begins a journal of the new key, and the old one can still be read by the old.
    SqliteJournal(wallet / "wallet" / "wallet.sqlite", address_to_hex(new.address)).close()
    SqliteJournal(wallet / "wallet" / aside, address_to_hex(OLD.address)).close()
    assert sorted(os.listdir(wallet / "keys")) == ["identity.json", "voucher.json", old.name]


def test_an_identity_key_is_changed_and_the_journal_stays(wallet):
    before = read_keystore_address(wallet / "keys" / "identity.json")
    rotate(wallet, "identity")
    assert read_keystore_address(wallet / "keys" / "identity.json") != before
    assert (wallet / "wallet" / "wallet.sqlite").exists()


def test_a_key_with_a_channel_stays(wallet):
    world = world_that_keeps()
    fill(world, 50 * WH)
    (wallet / "wallet" / "wallet.sqlite").unlink()
    (wallet / "wallet" / "wallet.sqlite.head").unlink()
    write_state(wallet, world.robot.state)
    assert "still holds" in rotate(wallet, "voucher", "--check", ok=False)
    assert "keys.voucher can't go yet: channel 0x" in rotate(wallet, ok=False)
    assert KeystoreSigner(wallet / "keys" / "voucher.json", PASS).address == OLD.address
    assert "keys.identity can't go yet" in rotate(wallet, "identity", ok=False)


def test_a_running_program_keeps_its_key(wallet):
    lock = KeyLock(OLD.address)
    try:
        assert "in use by another process" in rotate(wallet, ok=False)
        assert "in use by another process" in rotate(wallet, "voucher", "--check", ok=False)
    finally:
        lock.release()
    assert KeystoreSigner(wallet / "keys" / "voucher.json", PASS).address == OLD.address


@pytest.mark.parametrize("cut_at", ["write_keystore", "_give_second_name", "_sync", "_put_aside"])
def test_a_cut_anywhere_leaves_one_key_in_force(wallet, monkeypatch, cut_at):
    class CutError(Exception):
        pass

    def cut(*_args, **_kwargs):
        raise CutError

    with monkeypatch.context() as patch:
        patch.setattr(rotation, cut_at, cut)
        done = CliRunner().invoke(
            cli, ["key", "rotate", "--config", str(wallet / "wallet.yaml"), "voucher", "--kdf", "light"]
        )
        assert isinstance(done.exception, CutError)
    path = wallet / "keys" / "voucher.json"
    signer = KeystoreSigner(path, PASS)
    if cut_at == "_put_aside":
        assert signer.address != OLD.address
        with pytest.raises(DepaiError, match="belongs to"):
            SqliteJournal(wallet / "wallet" / "wallet.sqlite", address_to_hex(signer.address))
        assert "was cut short and is now complete" in rotate(wallet, ok=False)
        assert KeystoreSigner(path, PASS).address == signer.address
        SqliteJournal(wallet / "wallet" / "wallet.sqlite", address_to_hex(signer.address)).close()
        return
    assert signer.address == OLD.address
    rotate(wallet)
    assert KeystoreSigner(path, PASS).address != OLD.address


def test_roles_and_kinds_that_can_not_be_changed_here(wallet):
    assert "expected one of identity, voucher, payer" in rotate(wallet, "meter", ok=False)
    assert "a development key" in rotate(wallet, "payer", ok=False)
    tree = yaml.safe_load((wallet / "wallet.yaml").read_text())
    del tree["keys"]["payer"]
    tree |= {"payer": address_to_hex(OLD.address), "presigned": "presigned.json"}
    (wallet / "wallet.yaml").write_text(yaml.safe_dump(tree))
    assert "its owner changes it" in rotate(wallet, "payer", ok=False)


def test_a_stations_keys(tmp_path, password):
    keys = {role: DevelopmentSigner(f"rotated station {role}") for role in ("identity", "receiver", "meter")}
    for role, signer in keys.items():
        write_keystore(tmp_path / f"{role}.json", signer.secret, PASS)
    part = {role: {"keystore": f"{role}.json", "password_file": "pass"} for role in keys}
    tree = {
        "version": 1,
        "station": "gate",
        "zone": "z",
        "name": "Gate",
        "folder": "station",
        "chain": {"network": "development"},
        "broker": {},
        "keys": {"identity": part["identity"], "receiver": part["receiver"]},
        "dock": "d",
        "pose": {"x_m": 0.0, "y_m": 0.0, "yaw_rad": 0.0},
        "meters": [{"serial": "M", "key": part["meter"]}],
        "link": "sim.sock",
    }
    (tmp_path / "station.yaml").write_text(yaml.safe_dump(tree))
    (tmp_path / "station").mkdir()
    path = tmp_path / "station" / "station-gate.sqlite"
    journal = SqliteJournal(path, address_to_hex(keys["identity"].address))
    state = station.initial_state(make_station_settings("a"))
    journal.write_snapshot(state_codec(StationState)[0](state), station.STEP_VERSION)
    journal.close()
    assert "named in the next offer" in rotate(tmp_path, "meter-1", config="station.yaml")
    assert "needs gas" in rotate(tmp_path, "receiver", config="station.yaml")
    assert path.exists()
    assert "whoever names this identity" in rotate(tmp_path, "identity", config="station.yaml")
    assert not path.exists()
    for role, signer in keys.items():
        assert read_keystore_address(tmp_path / f"{role}.json") != signer.address
