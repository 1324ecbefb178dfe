"""A damaged journal and a person's decision: nothing is deleted, and what comes of it is only ever settled."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from depai_robot.adapters.sqlite_journal import SqliteJournal
from depai_robot.app import salvage
from depai_robot.app.journal_check import check_journal
from depai_robot.app.program import state_codec
from depai_robot.app.runner import Runner, Snapshots
from depai_robot.app.salvage import accept_damage
from depai_robot.charging import fact as ft
from depai_robot.charging import robot
from depai_robot.charging.effect import CallForHelp, SealPayment
from depai_robot.charging.robot_state import RobotState
from depai_robot.values.error import ConfigError, JournalError
from test.builders import make_policy, make_reading, make_robot_settings
from test.journal_world import encode_state, owner_of, run_world, write_journal
from test.pretend import World

NOW_S = 1_900_000_000


@pytest.fixture(scope="module")
def world() -> World:
    """A robot in the midst of its second session."""
    made = run_world(1)
    made.request("s-2")
    assert made.run(lambda: made.phase == "CHARGING", 600)
    made.run(seconds=10)
    return made


@pytest.fixture
def path(tmp_path, world) -> Path:
    return write_journal(tmp_path / "wallet.sqlite", world.robot)


def overwrite(path: Path, row: int) -> None:
    """One byte of that row is another."""
    data = bytearray(path.read_bytes())
    with_row = SqliteJournal(path, owner_of_file(path))
    wanted = next(iter(with_row.rows(row - 1))).data
    with_row.close()
    at = data.find(wanted)
    assert at > 0
    data[at + len(wanted) // 2] ^= 1
    path.write_bytes(data)


def owner_of_file(path: Path) -> str:
    return check_journal(path).owner


class Clock:
    def session_ns(self) -> int:
        return 10**15

    def wall_s(self) -> int:
        return NOW_S


def start(path: Path, world: World, epoch: int = 1) -> tuple[Runner[RobotState], list]:
    """The wallet's runner on the file, with the policy of that epoch."""
    settings = make_robot_settings(policy=make_policy(epoch=epoch))
    encode, decode = state_codec(RobotState)

    def adopt(state: RobotState) -> RobotState:
        return replace(state, settings=settings)

    runner = Runner(
        journal=SqliteJournal(path, owner_of(world.robot)),
        step=robot.step,
        step_version=robot.STEP_VERSION,
        state=robot.initial_state(settings),
        clock=Clock(),
        entropy=lambda: bytes(32),
        snapshots=Snapshots(encode, decode, robot.is_at_rest, adopt),
    )
    done: list = []
    try:
        runner.start(done.append)
    except JournalError:
        runner.stop()
        raise
    return runner, done


def test_a_damaged_row_in_the_midst_ends_the_session_and_settles_only(path, world) -> None:
    kept = len(world.robot.journal) - 12
    whole = check_journal(path).owner
    overwrite(path, kept + 1)
    before = {file.name: file.read_bytes() for file in path.parent.iterdir() if file.suffix != ".lock"}
    with pytest.raises(JournalError, match="nothing is signed: look with 'depai-robot journal verify"):
        SqliteJournal(path, whole)
    done = accept_damage(path, now_s=NOW_S, policy_epoch=1)
    assert (done.rows_kept, done.rows_lost, done.role, done.policy_epoch) == (kept, 12, "robot", 1)
    assert f"damaged or edited at row {kept + 1}" in " ".join(done.findings)
    assert {name: (done.kept_in / name).read_bytes() for name in before} == before
    assert check_journal(path).ok
    runner, effects = start(path, world)
    session = runner.state.session
    assert (session.id, session.phase) == ("s-2", "STOPPING")
    assert "rows of the journal are lost" in session.stop.detail
    runner.stop()
    assert not [effect for effect in effects if isinstance(effect, SealPayment)]


def test_only_a_later_policy_makes_it_buy_again(path, world) -> None:
    path.with_name("wallet.sqlite.head").unlink()
    done = accept_damage(path, now_s=NOW_S, policy_epoch=3)
    assert (done.rows_lost, done.policy_epoch) == (-1, 3)
    for epoch, buys in ((3, False), (4, True)):
        runner, effects = start(path, world, epoch)
        state = runner.state
        runner.stop()
        assert state.settle_only_epoch == 3
        settings = make_robot_settings(policy=make_policy(epoch=epoch))
        rested = replace(state, session=None, background={}, settings=settings)
        request = ft.ChargeRequested(ft.Instant(10**15, NOW_S), "s-9", bytes(32), 1000, 0, 0, make_reading())
        after, effects = robot.step(rested, request)
        assert (after.session is not None) == buys
        assert any(isinstance(effect, CallForHelp) for effect in effects) == (not buys)


def test_a_snapshot_among_the_sound_rows_is_kept(tmp_path) -> None:
    world = run_world(1)
    path = write_journal(tmp_path / "wallet.sqlite", world.robot)
    journal = SqliteJournal(path, owner_of(world.robot))
    journal.write_snapshot(encode_state(world.robot, world.robot.state), robot.STEP_VERSION)
    found = journal.read_snapshot(robot.STEP_VERSION)
    for number in range(700):
        reading = make_reading(pads_energy_milliwh=number)
        journal.append([ft.encode_fact(ft.BatteryObserved(world.at, reading))], robot.STEP_VERSION)
    journal.close()
    overwrite(path, len(world.robot.journal) + 650)
    done = accept_damage(path, now_s=NOW_S, policy_epoch=1)
    assert done.rows_kept == len(world.robot.journal) + 649
    journal = SqliteJournal(path, owner_of(world.robot))
    assert journal.read_snapshot(robot.STEP_VERSION) == found
    assert journal.length == done.rows_kept + 1
    journal.close()
    assert check_journal(path).ok


def test_without_the_settings_of_its_rows_a_history_begins_anew(path, world) -> None:
    """A database that is none any more: role, owner and policy are the person's to say."""
    path.write_bytes(os.urandom(path.stat().st_size))
    with pytest.raises(ConfigError, match="give --owner"):
        accept_damage(path, now_s=NOW_S, policy_epoch=2)
    owner = owner_of(world.robot)
    with pytest.raises(ConfigError, match="give --role"):
        accept_damage(path, now_s=NOW_S, policy_epoch=2, owner=owner)
    with pytest.raises(ConfigError, match="give the policy file"):
        accept_damage(path, now_s=NOW_S, owner=owner, role="robot")
    assert [file.name for file in path.parent.iterdir() if "damaged" in file.name] == []
    done = accept_damage(path, now_s=NOW_S, policy_epoch=2, owner=owner, role="robot")
    assert (done.rows_kept, done.rows_lost, done.policy_epoch) == (0, len(world.robot.journal), 2)
    for epoch in (2, 3, 4):
        runner, _ = start(path, world, epoch)
        assert runner.state.settle_only_epoch == 2
        runner.stop()


def test_rows_of_another_version_are_put_aside_in_the_same_way(tmp_path, world) -> None:
    """An upgrade in the midst of a history that the new program can't fold: whole, and of no use to it."""
    path = write_journal(tmp_path / "wallet.sqlite", world.robot)
    journal = SqliteJournal(path, owner_of(world.robot))
    journal.append([ft.encode_fact(ft.BatteryObserved(world.at, make_reading()))], robot.STEP_VERSION - 1)
    journal.close()
    with pytest.raises(JournalError, match="an upgrade needs a snapshot with no open session"):
        start(path, world)
    done = accept_damage(path, now_s=NOW_S, policy_epoch=1)
    assert (done.rows_kept, done.rows_lost) == (0, len(world.robot.journal) + 1)
    assert (
        f"are of step version {robot.STEP_VERSION - 1}, {robot.STEP_VERSION}, this program"
        in done.findings[0]
    )
    runner, _ = start(path, world)
    assert runner.state.settle_only_epoch == 1
    runner.stop()
    assert check_journal(done.kept_in / "wallet.sqlite").book.sessions.keys() == {"s-1", "s-2"}


def test_a_journal_that_is_gone_is_begun_anew_in_the_same_way(path, world) -> None:
    path.unlink()
    with pytest.raises(JournalError, match=r"has 0 rows, its head file noted \d+"):
        SqliteJournal(path, owner_of(world.robot))
    done = accept_damage(path, now_s=NOW_S, policy_epoch=1, owner=owner_of(world.robot), role="robot")
    assert done.rows_kept == 0
    assert check_journal(path).ok


def test_a_station_sells_again(tmp_path, world) -> None:
    agent = world.stations["a"]
    path = write_journal(tmp_path / "station.sqlite", agent)
    overwrite(path, len(agent.journal) - 5)
    done = accept_damage(path, now_s=NOW_S)
    assert (done.role, done.policy_epoch, done.rows_lost) == ("station", -1, 6)
    assert check_journal(path).ok


def test_what_is_not_damaged_is_left_alone(path, world) -> None:
    with pytest.raises(JournalError, match="is whole: there is nothing to accept"):
        accept_damage(path, now_s=NOW_S, policy_epoch=1)
    holder = SqliteJournal(path, owner_of(world.robot))
    with pytest.raises(JournalError, match="is held by another process"):
        accept_damage(path, now_s=NOW_S, policy_epoch=1)
    holder.close()
    path.with_name("wallet.sqlite.head").unlink()
    with pytest.raises(ConfigError, match="belongs to 0x.*, given was 0xother"):
        accept_damage(path, now_s=NOW_S, policy_epoch=1, owner="0xother")
    with pytest.raises(ConfigError, match="is a robot's, given was station"):
        accept_damage(path, now_s=NOW_S, role="station")
    import sqlite3

    database = sqlite3.connect(path.with_name("songs.sqlite"))
    database.execute("CREATE TABLE song (name)")
    database.close()
    with pytest.raises(JournalError, match="is an SQLite database, but no journal"):
        accept_damage(path.with_name("songs.sqlite"), now_s=NOW_S, policy_epoch=1)


STEPS = 6


@pytest.mark.parametrize("number", range(1, STEPS + 1))
def test_a_kill_in_the_midst_of_it_never_leaves_a_journal_that_forgets(path, world, number: int) -> None:
    """After each file operation: a start refuses, or finds the accepted journal; saying it again goes on."""
    kept = len(world.robot.journal) - 12
    overwrite(path, kept + 1)
    child = (
        "import os, signal, sys; from pathlib import Path\n"
        "from depai_robot.app import salvage\n"
        "left = int(sys.argv[2])\n"
        "def mortal(act):\n"
        "    def acting(*given, **how):\n"
        "        global left\n"
        "        done = act(*given, **how)\n"
        "        left -= 1\n"
        "        if not left: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return done\n"
        "    return acting\n"
        "salvage._make_aside, salvage._write_new = mortal(salvage._make_aside), mortal(salvage._write_new)\n"
        "Path.replace = mortal(Path.replace)\n"
        f"salvage.accept_damage(Path(sys.argv[1]), now_s={NOW_S}, policy_epoch=1)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", child, str(path), str(number)],
        check=False,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert ended.returncode in (-9, 0), ended.stderr
    assert (ended.returncode == 0) == (number == STEPS), "the number of steps has changed"
    if number < STEPS - 1:
        with pytest.raises(JournalError):
            SqliteJournal(path, owner_of(world.robot))
        done = accept_damage(path, now_s=NOW_S + 1, policy_epoch=1)
        assert (done.rows_kept, done.rows_lost) == (kept, 12)
    verdict = check_journal(path)
    assert verdict.ok, verdict.checks
    runner, _ = start(path, world)
    assert runner.state.settle_only_epoch == 1
    assert runner.state.session.id == "s-2"
    runner.stop()


def test_a_disk_without_room_leaves_the_damaged_journal_as_it_was(path, world, monkeypatch) -> None:
    overwrite(path, 20)
    before = path.read_bytes()

    def full(*_given, **_how):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(JournalError, match="No space left on device; half put aside in"):
        accept_damage(path, now_s=NOW_S, policy_epoch=1)
    assert path.read_bytes() == before
    monkeypatch.undo()
    assert salvage.accept_damage(path, now_s=NOW_S + 1, policy_epoch=1).rows_kept == 19
