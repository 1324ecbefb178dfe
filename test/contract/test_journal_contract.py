"""One suite for ports.Journal, in memory and on SQLite; then what only a file can do wrong."""

import contextlib
import hashlib
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


def test_reading_goes_no_further_back_than_there_are_rows(journal) -> None:
    journal.append([b"a"], 1)
    assert read(journal, 1) == []
    with pytest.raises(JournalError, match="has no row 2"):
        read(journal, 2)


def test_what_is_read_is_what_was_there_when_the_reading_began_and_bytes_are_copied(journal) -> None:
    data = bytearray(b"one")
    journal.append([bytes(data), b"two"], 1)
    data[:] = b"xxx"
    assert read(journal)[0] == (1, 1, b"one")


@pytest.mark.parametrize("group", [1, 7, 400])
def test_many_rows_in_groups_are_all_there(journal, group: int) -> None:
    rows = [b"%d" % number * (number % 50) for number in range(400)]
    for begin in range(0, len(rows), group):
        journal.append(rows[begin : begin + group], 1 + begin // 200)
    assert [data for _, _, data in read(journal)] == rows
    assert journal.length == 400
    assert read(journal, 399)[0][2] == rows[399]


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


def ask(path, query: str) -> tuple:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return database.execute(query).fetchone()


def edit(path, *statements: str) -> None:
    """What somebody with an editor of databases does, append-only triggers put back afterwards."""
    database = sqlite3.connect(path, isolation_level=None)
    triggers = database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        database.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        database.execute(statement)
    for _, sql in triggers:
        database.execute(sql)
    database.close()


SWAP = (
    "UPDATE row SET number = 99 WHERE number = 7",
    "UPDATE row SET number = 7 WHERE number = 8",
    "UPDATE row SET number = 8 WHERE number = 99",
)
COUNT_ON = "UPDATE row SET number = number - 1 WHERE number > 7"


@pytest.mark.parametrize(
    ("statements", "match"),
    [
        (["UPDATE row SET data = CAST('row 99' AS BLOB) WHERE number = 7"], "damaged or edited at row 7"),
        (["UPDATE row SET data = 'row 6' WHERE number = 7"], "damaged or edited at row 7"),
        (["UPDATE row SET step_version = 2 WHERE number = 7"], "damaged or edited at row 7"),
        (["UPDATE row SET step_version = 'x' WHERE number = 7"], "damaged or edited at row 7"),
        (["UPDATE row SET hash = zeroblob(32) WHERE number = 7"], "damaged or edited at row 7"),
        (["UPDATE row SET hash = 7 WHERE number = 20"], "damaged or edited at row 20"),
        (["DELETE FROM row WHERE number = 7"], "lacks row 7"),
        (["DELETE FROM row WHERE number = 7", COUNT_ON], "has 19 rows, its head file noted 20"),
        (["INSERT INTO row VALUES (21, 1, 'more', 'more')"], "damaged or edited at row 21"),
        (SWAP, "damaged or edited at row 7"),
        (["DELETE FROM row WHERE number > 15"], "has 15 rows, its head file noted 20: 5 rows are lost"),
        (["DELETE FROM row"], "has 0 rows, its head file noted 20: 20 rows are lost"),
        (["UPDATE meta SET value = '0xother' WHERE key = 'owner'"], "belongs to 0xother, expected 0x0+1"),
        (["UPDATE meta SET value = '1' WHERE key = 'schema'"], "schema 1 under version 2"),
        (["UPDATE meta SET value = 'new' WHERE key = 'schema'"], "its schema is 'new', expected 1 to 2"),
        (["DELETE FROM meta"], "its schema is None, expected 1 to 2"),
        (["CREATE TABLE note (text)"], "was edited: note was added"),
        (["ALTER TABLE row ADD COLUMN note"], "was edited: row was changed"),
        (["DROP TABLE snapshot"], "no journal: it holds meta, row"),
        (["PRAGMA user_version = 3", "UPDATE meta SET value = '3' WHERE key = 'schema'"], "has schema 3, this program"),
        (["PRAGMA application_id = 7"], "application id 0x00000007"),
    ],
)  # fmt: skip
def test_an_edit_is_found_at_open(path, statements: list[str], match: str) -> None:
    fill(path)
    edit(path, *statements)
    with pytest.raises(JournalError, match=match) as found:
        SqliteJournal(path, OWNER)
    assert "\n" not in str(found.value)
    assert "nothing is signed: look with 'depai-robot journal verify" in str(found.value)
    edit(path)  # it is not locked


def test_a_dropped_trigger_is_found_at_open(path) -> None:
    fill(path)
    database = sqlite3.connect(path)
    database.execute("DROP TRIGGER row_keep_update")
    database.close()
    with pytest.raises(JournalError, match="was edited: row_keep_update is missing in its schema"):
        SqliteJournal(path, OWNER)


def test_a_clean_up_by_an_administrator_is_no_edit(path) -> None:
    fill(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("ANALYZE")
        database.execute("VACUUM")
    assert len(read_file(path)) == 20


def test_an_edit_while_it_is_open_is_found_by_the_next_reading(path) -> None:
    fill(path)
    journal = SqliteJournal(path, OWNER)
    edit(path, "UPDATE row SET data = CAST('row 99' AS BLOB) WHERE number = 7")
    with pytest.raises(JournalError, match="damaged or edited at row 7"):
        read(journal)
    journal.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE snapshot SET data = CAST('rich!' AS BLOB)",
        "UPDATE snapshot SET number = 19",
        "UPDATE snapshot SET step_version = 2",
        "UPDATE snapshot SET number = 21",
    ],
)
def test_a_snapshot_of_another_history_is_found(path, statement: str) -> None:
    fill(path)
    journal = SqliteJournal(path, OWNER)
    journal.write_snapshot(b"state", 1)
    journal.close()
    edit(path, statement)
    with pytest.raises(JournalError, match=r"the snapshot after row|has no row 21"):
        SqliteJournal(path, OWNER)


def test_a_copy_put_back_is_found(path) -> None:
    fill(path, 10)
    old = path.read_bytes()
    fill(path, 10)
    path.write_bytes(old)
    with pytest.raises(JournalError, match="has 10 rows, its head file noted 20: 10 rows are lost"):
        SqliteJournal(path, OWNER)
    path.unlink()
    with pytest.raises(JournalError, match="has 0 rows, its head file noted 20: 20 rows are lost"):
        SqliteJournal(path, OWNER)


def test_a_journal_without_its_head_is_refused_and_so_is_another_history(path) -> None:
    fill(path, 3)
    head = path.with_name(path.name + ".head")
    kept = head.read_bytes()
    head.unlink()
    with pytest.raises(JournalError, match="has 3 rows, and no head file beside it"):
        SqliteJournal(path, OWNER)
    head.write_bytes(bytes(len(kept)))
    with pytest.raises(JournalError, match="is damaged: neither of its two slots is whole"):
        SqliteJournal(path, OWNER)
    other = path.with_name("other.sqlite")
    journal = SqliteJournal(other, OWNER)
    journal.append([b"a", b"b", b"c"], 1)
    journal.close()
    head.write_bytes(other.with_name("other.sqlite.head").read_bytes())
    with pytest.raises(JournalError, match="is another history than its head file noted at row 3"):
        SqliteJournal(path, OWNER)
    head.write_bytes(kept)
    SqliteJournal(path, OWNER).close()


@pytest.mark.parametrize("slot", [0, 1])
def test_a_head_torn_in_one_slot_still_counts(path, slot: int) -> None:
    fill(path, 3)
    head = path.with_name(path.name + ".head")
    data = bytearray(head.read_bytes())
    data[slot * 512 + 20] ^= 1
    head.write_bytes(data)
    assert len(read_file(path)) == 3


def test_a_strangers_database_is_left_as_it_is(path) -> None:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE song (name)")
    database.close()
    path.chmod(0o644)
    before = path.read_bytes()
    with pytest.raises(
        JournalError, match="an SQLite database, but no journal: it holds song, expected meta, row"
    ):
        SqliteJournal(path, OWNER)
    assert path.read_bytes() == before
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_file_of_another_user_is_refused(path, monkeypatch) -> None:
    fill(path, 1)
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    with pytest.raises(
        JournalError, match=f"belongs to user {user}, this program runs as {user + 1}: run it as"
    ):
        SqliteJournal(path, OWNER)


# --- schema 1 -----------------------------------------------------------------------------------------------

SCHEMA_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE row (
    number INTEGER PRIMARY KEY,
    step_version INTEGER NOT NULL,
    data BLOB NOT NULL,
    hash BLOB NOT NULL
);
CREATE TABLE snapshot (
    number INTEGER PRIMARY KEY,
    step_version INTEGER NOT NULL,
    data BLOB NOT NULL,
    hash BLOB NOT NULL
);
CREATE TRIGGER row_keep_update BEFORE UPDATE ON row BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER row_keep_delete BEFORE DELETE ON row BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
"""


def fill_schema_1(path, count: int, snapshot_after: int | None = None) -> None:
    """A file as version 0.1 wrote it: no application id, no head file, a chain that begins with zeros."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.executescript("BEGIN IMMEDIATE;" + SCHEMA_1 + "COMMIT;")
    database.execute("INSERT INTO meta VALUES ('schema', '1'), ('owner', ?)", (OWNER,))
    previous = bytes(32)

    def hashed(number: int, data: bytes) -> bytes:
        return hashlib.sha256(previous + number.to_bytes(8, "big") + (1).to_bytes(4, "big") + data).digest()

    if snapshot_after == 0:
        database.execute("INSERT INTO snapshot VALUES (0, 1, ?, ?)", (b"state", hashed(0, b"state")))
    for number in range(1, count + 1):
        data = b"row %d" % (number - 1)
        previous = hashed(number, data)
        database.execute("INSERT INTO row VALUES (?, 1, ?, ?)", (number, data, previous))
        if snapshot_after == number:
            database.execute(
                "INSERT INTO snapshot VALUES (?, 1, ?, ?)", (number, b"state", hashed(number, b"state"))
            )
    database.close()


@pytest.mark.parametrize("count", [0, 1, 2500])
def test_a_file_of_schema_1_is_taken_over_with_its_rows(path, count: int) -> None:
    fill_schema_1(path, count, snapshot_after=count // 2)
    old = path.read_bytes()
    journal = SqliteJournal(path, OWNER)
    assert journal.length == count
    assert read(journal) == [(n + 1, 1, b"row %d" % n) for n in range(count)]
    assert journal.read_snapshot(1) == (count // 2, b"state")
    journal.append([b"next"], 1)
    journal.close()
    assert read_file(path)[-1] == (count + 1, 1, b"next")
    kept = path.with_name(path.name + ".schema-1")
    assert ask(kept, "SELECT count(*) FROM row") == (count,)
    assert len(kept.read_bytes()) == len(old)


def test_a_damaged_file_of_schema_1_stays_as_it_is(path) -> None:
    fill_schema_1(path, 20)
    edit(path, "UPDATE row SET data = CAST('row 99' AS BLOB) WHERE number = 7")
    for _ in range(2):
        with pytest.raises(JournalError, match="damaged or edited at row 7"):
            SqliteJournal(path, OWNER)
    assert ask(path, "SELECT value FROM meta WHERE key = 'schema'") == ("1",)


def test_a_kill_in_the_midst_of_a_migration_is_made_good_by_the_next_open(path) -> None:
    fill_schema_1(path, 2500)
    child = (
        "import os, signal, sys; from pathlib import Path\n"
        "from depai_robot.adapters import journal_form, sqlite_journal\n"
        "def die(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
        "after = journal_form.migrate\n"
        "journal_form.migrate = lambda *given: (after(*given), die())\n"
        f"sqlite_journal.SqliteJournal(Path(sys.argv[1]), {OWNER!r})\n"
    )
    assert subprocess.run([sys.executable, "-c", child, str(path)], check=False).returncode == -9
    assert len(read_file(path)) == 2500


# --- damage -------------------------------------------------------------------------------------------------


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


def write_and_die(path, count: int = 50, *, early: bool = False) -> None:
    """A process that appends, and is killed; ``early`` in the midst of its last commit."""
    child = (
        "import os, signal, sys; from pathlib import Path\n"
        "from depai_robot.adapters.sqlite_journal import SqliteJournal\n"
        f"journal = SqliteJournal(Path(sys.argv[1]), {OWNER!r})\n"
        f"for n in range({count}): journal.append([b'row %d' % n], 1)\n"
        "def die(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
        f"if {early}: journal._head.write = die; journal.append([b'row {count}'], 1)\n"
        "die()\n"
    )
    assert subprocess.run([sys.executable, "-c", child, str(path)], check=False).returncode == -9


def test_a_torn_end_of_the_log_is_dropped_when_nothing_was_signed_on_it(path) -> None:
    """A power cut in the midst of a commit: SQLite drops the unfinished transaction, the rest goes on."""
    write_and_die(path, 50, early=True)
    log = path.with_name(path.name + "-wal")
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size - 100)
    journal = SqliteJournal(path, OWNER)
    assert read(journal) == [(n + 1, 1, b"row %d" % n) for n in range(50)]
    journal.append([b"next"], 1)
    assert read(journal)[-1] == (51, 1, b"next")
    journal.close()


@pytest.mark.parametrize("damage", ["cut", "flipped", "removed"])
def test_a_log_that_lost_a_finished_commit_is_found(path, damage: str) -> None:
    """SQLite drops what follows a damaged frame of its log, and says nothing."""
    write_and_die(path)
    log = path.with_name(path.name + "-wal")
    data = bytearray(log.read_bytes())
    if damage == "cut":
        log.write_bytes(data[:-100])
    elif damage == "flipped":
        data[len(data) // 2] ^= 1
        log.write_bytes(data)
    else:
        log.unlink()
    with pytest.raises(
        JournalError, match=r"has \d+ rows, its head file noted 50: \d+ rows are lost|no journal|empty"
    ):
        SqliteJournal(path, OWNER)


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
