"""``depai-robot journal`` as people call it: what it prints, what it writes, how it exits."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from depai_robot.adapters.sqlite_journal import SqliteJournal
from depai_robot.cli.main import main
from test.journal_world import owner_of, run_world, write_journal
from test.pretend import World


@pytest.fixture(scope="module")
def world() -> World:
    return run_world(2)


@pytest.fixture
def path(tmp_path, world) -> Path:
    return write_journal(tmp_path / "wallet.sqlite", world.robot)


@pytest.fixture
def call(capsys, monkeypatch):
    """(exit code, standard output, standard error) of a command."""

    def calling(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["depai-robot", "journal", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as leave:
            code = int(leave.code or 0)
        out = capsys.readouterr()
        return code, out.out, out.err

    return calling


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    at = data.find(b'"QuoteRequest') if b'"QuoteRequest' in data else data.find(b'"MessageSealed"')
    data[at + 3] ^= 1
    path.write_bytes(data)


def test_show_tells_the_sessions(call, path, world) -> None:
    code, out, err = call("show", path)
    assert (code, err) == (0, "")
    assert f"{path}: robot 0x" in out
    assert "s-1: paid" in out
    assert "s-2: paid" in out
    assert "in all: 2 sessions" in out
    code, out, _ = call("show", path, "--session", "s-2")
    assert code == 0
    assert "s-1" not in out
    assert out.count("payment.voucher") >= 1
    code, out, err = call("show", path, "--session", "s-9")
    assert (code, out) == (2, "")
    assert "has no session 's-9'; it has s-1, s-2" in err


def test_verify_says_what_holds_and_exits_by_it(call, path) -> None:
    before = {file.name: file.stat().st_mtime_ns for file in path.parent.iterdir()}
    code, out, err = call("verify", path)
    assert (code, err) == (0, "")
    assert out.count("ok  ") == len(out.splitlines()) == 10
    assert {file.name: file.stat().st_mtime_ns for file in path.parent.iterdir()} == before
    damage(path)
    code, out, err = call("verify", path)
    assert code == 1
    assert out.startswith(
        "FAIL  the file is whole, and its chain of rows holds: was damaged or edited at row "
    )
    assert "signs nothing" in err
    assert "journal accept --help" in err


def test_a_head_noted_elsewhere_shows_a_shorter_journal(call, path, world, tmp_path) -> None:
    code, out, _ = call("head", path)
    assert code == 0
    noted = tmp_path / "head.json"
    noted.write_text(out)
    assert json.loads(out)["rows"] == len(world.robot.journal)
    code, out, _ = call("verify", path, "--head", noted)
    assert code == 0
    assert "ok    the head that was noted before is still in it" in out
    short = write_journal(tmp_path / "short" / "wallet.sqlite", world.robot, world.robot.journal[:20])
    code, out, _ = call("verify", short, "--head", noted)
    assert code == 1
    assert "FAIL  the head that was noted before is still in it: it has 20 rows" in out
    noted.write_text("{}")
    code, _, err = call("verify", path, "--head", noted)
    assert code == 2
    assert "is not what 'journal head' prints" in err


def test_export_writes_the_books(call, path, tmp_path, world) -> None:
    code, out, err = call("export", path, "--out", tmp_path / "books")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 4
    with (tmp_path / "books" / "sessions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["session"] for row in rows] == ["s-1", "s-2"]
    receipts = {json.loads(text)["session"]: json.loads(text) for text in world.receipts}
    for row in rows:
        receipt = receipts[row["session"]]
        assert int(row["billed_atomic"]) == receipt["owed_atomic"]
        assert row["billed_usdc"] == f"{receipt['owed_atomic'] / 10**6:.6f}"
        assert int(row["vouchers"]) == receipt["vouchers"]
        assert int(row["ceiling_atomic"]) == receipt["ceiling_atomic"]
        assert row["channel"] == receipt["channel"]
        assert row["tx_deposit"] == receipt["transactions"].get("deposit", "")
    code, out, _ = call("export", path, "--format", "json")
    document = json.loads(out)
    assert (code, [row["session"] for row in document["sessions"]]) == (0, ["s-1", "s-2"])
    code, out, _ = call("export", path, "--format", "json", "--out", tmp_path / "book.json")
    assert json.loads((tmp_path / "book.json").read_text()) == document
    assert call("export", path)[0] == 2
    (tmp_path / "file").write_text("")
    code, _, err = call("export", path, "--out", tmp_path / "file")
    assert code == 2
    assert str(tmp_path / "file") in err


@pytest.mark.parametrize("command", ["show", "export", "head", "verify", "accept"])
@pytest.mark.parametrize("what", ["absent", "text", "folder", "song"])
def test_what_is_no_journal_is_one_clear_line(call, tmp_path, command: str, what: str) -> None:
    path = tmp_path / "file"
    if what == "text":
        path.write_text("no database\n" * 1000)
    elif what == "song":
        import sqlite3

        database = sqlite3.connect(path)
        database.execute("CREATE TABLE song (name)")
        database.close()
    elif what == "folder":
        path.mkdir()
    words = {"export": ("--format", "json"), "accept": ("--i-know-rows-are-lost",)}.get(command, ())
    code, _, err = call(command, path, *words)
    assert code == (1 if command == "verify" and what in ("absent", "text") else 2)
    assert "Traceback" not in err
    assert str(path) in err


def test_accept_needs_a_person_and_says_what_comes_of_it(call, path, tmp_path) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text('{"epoch": 4}')
    damage(path)
    code, _, err = call("accept", path)
    assert code == 2
    assert "nothing was changed: say --i-know-rows-are-lost" in err
    code, _, err = call("accept", path, "--i-know-rows-are-lost")
    assert code == 2
    assert "--policy FILE" in err
    code, out, err = call("accept", path, "--i-know-rows-are-lost", "--policy", policy)
    assert (code, err) == (0, "")
    assert "found: was damaged or edited at row" in out
    assert f"the damaged files are in {path}.damaged-" in out
    assert "signs a policy of epoch 5 or later" in out
    assert call("verify", path)[0] == 0
    for text in ("{}", "[]", '{"epoch": true}', '{"epoch": -1}', "no"):
        policy.write_text(text)
        assert call("accept", path, "--i-know-rows-are-lost", "--policy", policy)[0] == 2


def test_a_journal_in_use_can_be_looked_at(call, path, world) -> None:
    journal = SqliteJournal(path, owner_of(world.robot))
    for number in range(50):
        journal.append([world.robot.journal[0]] * (number % 3 + 1), world.robot.module.STEP_VERSION)
    assert call("show", path)[0] == 0
    assert call("head", path)[0] == 0
    assert (
        f"ok    the file is whole, and its chain of rows holds: {journal.length} rows"
        in call("verify", path)[1]
    )
    journal.append([world.robot.journal[0]], world.robot.module.STEP_VERSION)
    journal.close()


def test_looking_while_it_is_written_sees_one_moment(path, world) -> None:
    """An auditor reads again and again while a program appends: never a wrong alarm."""
    child = (
        "import sys; from pathlib import Path\n"
        "from depai_robot.adapters.sqlite_journal import SqliteJournal\n"
        "journal = SqliteJournal(Path(sys.argv[1]), sys.argv[2])\n"
        "row = next(iter(journal.rows())).data\n"
        "print('up', flush=True)\n"
        "for _ in range(4000): journal.append([row], 1)\n"
        "journal.close()\n"
    )
    from depai_robot.adapters.journal_reader import survey

    with subprocess.Popen(
        [sys.executable, "-c", child, str(path), owner_of(world.robot)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as process:
        process.stdout.readline()
        looks = 0
        while process.poll() is None and looks < 60:
            found = survey(path)
            assert found.findings == ()
            looks += 1
        assert process.wait(60) == 0
    assert looks > 1


@pytest.mark.parametrize("command", ["", "show", "verify", "export", "head", "accept"])
def test_help_teaches(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "depai_robot.cli.main", "journal", *command.split(), "--help"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    assert len(done.stdout.splitlines()) > 7
    assert max(map(len, done.stdout.splitlines())) <= 110
