"""One suite for ports.Journal, in memory and on SQLite; then what only a file can do wrong."""

import os
import sqlite3
import subprocess
import sys

import pytest

from depai_robot.adapters.sqlite_journal import SqliteJournal
from depai_robot.sim.memory_journal import MemoryJournal
from depai_robot.values.error import JournalError

OWNER = "0x0000000000000000000000000000000000000001"


@pytest.fixture(params=["memory", "sqlite"])
def journal(request, tmp_path):
    made = MemoryJournal() if request.param == "memory" else SqliteJournal(tmp_path / "j.sqlite", OWNER)
    yield made
    made.close()


def read(journal, after: int = 0) -> list[tuple[int, int, bytes]]:
    return [(row.number, row.step_version, row.data) for row in journal.rows(after)]


def test_rows_come_back_in_order_with_their_version(journal) -> None:
    journal.append([b"one", b""], 1)
    journal.append([], 1)
    journal.append([b"\x00\xff"], 2)
    assert journal.length == 3
    assert read(journal) == [(1, 1, b"one"), (2, 1, b""), (3, 2, b"\x00\xff")]
    assert read(journal, 2) == [(3, 2, b"\x00\xff")]
    assert read(journal, 3) == []


def test_a_snapshot_stands_after_the_last_row_and_for_its_version_only(journal) -> None:
    assert journal.read_snapshot(1) is None
    journal.write_snapshot(b"empty", 1)
    assert journal.read_snapshot(1) == (0, b"empty")
    journal.append([b"a", b"b"], 1)
    journal.write_snapshot(b"state", 1)
    journal.append([b"c"], 1)
    assert journal.read_snapshot(1) == (2, b"state")
    assert journal.read_snapshot(2) is None
    assert read(journal, 2) == [(3, 1, b"c")]


# --- files --------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    return tmp_path / "wallet.sqlite"


def fill(path, count: int = 20) -> None:
    journal = SqliteJournal(path, OWNER)
    for number in range(count):
        journal.append([b"row %d" % number], 1)
    journal.close()


def read_file(path) -> list[tuple[int, int, bytes]]:
    journal = SqliteJournal(path, OWNER)
    try:
        return read(journal)
    finally:
        journal.close()


def test_rows_and_snapshot_survive_a_reopening(path) -> None:
    fill(path)
    journal = SqliteJournal(path, OWNER)
    assert journal.length == 20
    assert read(journal)[19] == (20, 1, b"row 19")
    journal.close()
    assert path.stat().st_mode & 0o077 == 0


def test_a_second_holder_is_refused_also_in_the_same_process(path) -> None:
    journal = SqliteJournal(path, OWNER)
    with pytest.raises(JournalError, match="held by another process: two must never sign"):
        SqliteJournal(path, OWNER)
    journal.close()
    SqliteJournal(path, OWNER).close()


def test_another_owners_journal_is_refused(path) -> None:
    fill(path)
    with pytest.raises(JournalError, match=r"belongs to 0x0+1, expected 0xother"):
        SqliteJournal(path, "0xother")
    SqliteJournal(path, OWNER).close()


@pytest.mark.parametrize("statement", ["UPDATE row SET data = 'x'", "DELETE FROM row WHERE number = 3"])
def test_rows_can_not_be_changed_by_accident(path, statement: str) -> None:
    fill(path)
    database = sqlite3.connect(path)
    with pytest.raises(sqlite3.DatabaseError, match="append-only"):
        database.execute(statement)
    database.close()


@pytest.mark.parametrize(
    ("statement", "match"),
    [
        ("UPDATE row SET data = CAST('row 99' AS BLOB) WHERE number = 7", "damaged or edited at row 7"),
        ("UPDATE row SET step_version = 2 WHERE number = 7", "damaged or edited at row 7"),
        ("DELETE FROM row WHERE number = 7", "lacks row 7"),
    ],
)
def test_an_edited_row_is_found(path, statement: str, match: str) -> None:
    fill(path)
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("DROP TRIGGER row_keep_update")
    database.execute("DROP TRIGGER row_keep_delete")
    database.execute(statement)
    database.close()
    journal = SqliteJournal(path, OWNER)
    with pytest.raises(JournalError, match=match):
        read(journal)
    journal.close()


def test_a_snapshot_of_another_history_is_found(path) -> None:
    fill(path)
    journal = SqliteJournal(path, OWNER)
    journal.write_snapshot(b"state", 1)
    journal.close()
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("UPDATE snapshot SET data = CAST('rich!' AS BLOB)")
    database.close()
    journal = SqliteJournal(path, OWNER)
    with pytest.raises(JournalError, match="snapshot after row 20 was damaged or edited"):
        journal.read_snapshot(1)
    journal.close()


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "text", "folder"])
def test_a_damaged_file_is_one_clear_line(path, damage: str) -> None:
    fill(path, 500)
    data = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "overwritten":
        middle = len(data) // 2 // 4096 * 4096
        path.write_bytes(data[:middle] + os.urandom(8192) + data[middle + 8192 :])
    elif damage == "text":
        path.write_text("this is not a database, whatever its name says\n" * 100)
    else:
        path.unlink()
        path.mkdir()
    with pytest.raises(JournalError) as found:
        read_file(path)
    assert "\n" not in str(found.value)
    assert str(path) in str(found.value)


def test_a_torn_end_of_the_log_loses_no_committed_row_before_it(path) -> None:
    """A power cut in the midst of a commit: SQLite drops the unfinished transaction, the hash chain holds."""
    child = (
        "import os, signal, sys; from pathlib import Path\n"
        "from depai_robot.adapters.sqlite_journal import SqliteJournal\n"
        f"journal = SqliteJournal(Path(sys.argv[1]), {OWNER!r})\n"
        "for n in range(50): journal.append([b'row %d' % n], 1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", child, str(path)], check=False).returncode == -9
    log = path.with_name(path.name + "-wal")
    assert log.stat().st_size > 0
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size - 100)
    journal = SqliteJournal(path, OWNER)
    rows = read(journal)
    assert rows == [(n + 1, 1, b"row %d" % n) for n in range(len(rows))]
    assert len(rows) in (49, 50)
    journal.append([b"next"], 1)
    assert read(journal)[-1] == (len(rows) + 1, 1, b"next")
    journal.close()


def test_a_full_disk_appends_nothing_and_says_so(path) -> None:
    journal = SqliteJournal(path, OWNER)
    journal.append([b"before"], 1)
    pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(
        JournalError, match="can't be written: database or disk is full; nothing was appended"
    ):
        journal.append([b"small", b"x" * 30_000], 1)
    length = journal.length
    assert length == len(read(journal)) == 1
    journal._db.execute("PRAGMA max_page_count = 100000")
    journal.append([b"after"], 1)
    assert read(journal)[-1] == (length + 1, 1, b"after")
    journal.close()


def test_a_path_that_can_not_be_written_is_one_clear_line(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="journal lock"):
        SqliteJournal(tmp_path / "file" / "wallet.sqlite", OWNER)
