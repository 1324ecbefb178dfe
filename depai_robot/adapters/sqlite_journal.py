"""ports.Journal on SQLite: append-only, on disk before append returns, one process at a time.

WAL with ``synchronous=FULL``: a commit is one fsync of the log. Triggers refuse to change or delete a row, so that an
accident in our own code is an error too. Each row's hash covers the row before it: a torn, edited or missing row is
found at open, and nothing is signed until a person has looked.
"""

import fcntl
import hashlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from depai_robot.ports import JournalRow
from depai_robot.values.error import JournalError

SCHEMA_VERSION = 1
_GENESIS = bytes(32)

_SCHEMA = """
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


def chain_hash(previous: bytes, number: int, step_version: int, data: bytes) -> bytes:
    """Hash of a row that covers every row before it."""
    head = previous + number.to_bytes(8, "big") + step_version.to_bytes(4, "big")
    return hashlib.sha256(head + data).digest()


class SqliteJournal:
    """See ports.Journal.

    Args:
        path: of the database file; made when it is not there.
        owner: names whose journal it is (a key's address); another owner's file is refused.

    Raises:
        JournalError: held by another process, damaged, of another owner or schema, or not writable.
    """

    def __init__(self, path: Path, owner: str) -> None:
        self.path = path
        self._lock_file = -1
        self._lock(path.with_name(path.name + ".lock"))
        try:
            self._open(path, owner)
        except sqlite3.Error as error:
            self._unlock()
            raise JournalError(f"journal {path} can't be opened: {error}") from error
        except JournalError:
            self._unlock()
            raise

    def _lock(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock_file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock_file)
            raise JournalError(
                f"journal lock {path} is held by another process: two must never sign"
            ) from error
        except OSError as error:
            raise JournalError(f"journal lock {path}: {error}") from error

    def _unlock(self) -> None:
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1

    def _open(self, path: Path, owner: str) -> None:
        # The runner's thread uses it after another has opened it; never two at once.
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        path.chmod(0o600)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA wal_autocheckpoint=4000")
        if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'row'").fetchone():
            self._db.executescript("BEGIN IMMEDIATE;" + _SCHEMA + "COMMIT;")
            self._db.execute(
                "INSERT INTO meta VALUES ('schema', ?), ('owner', ?)", (str(SCHEMA_VERSION), owner)
            )
        meta = dict(self._db.execute("SELECT key, value FROM meta").fetchall())
        if meta.get("schema") != str(SCHEMA_VERSION):
            raise JournalError(f"journal {path} has schema {meta.get('schema')}, expected {SCHEMA_VERSION}")
        if meta.get("owner") != owner:
            raise JournalError(f"journal {path} belongs to {meta.get('owner')}, expected {owner}")
        last = self._db.execute("SELECT number, hash FROM row ORDER BY number DESC LIMIT 1").fetchone()
        self._number, self._hash = (int(last[0]), bytes(last[1])) if last else (0, _GENESIS)

    @property
    def length(self) -> int:
        """How many rows there are."""
        return self._number

    def append(self, rows: Sequence[bytes], step_version: int) -> None:
        """See ports.Journal.append."""
        if not rows:
            return
        number, previous = self._number, self._hash
        values = []
        for data in rows:
            number += 1
            previous = chain_hash(previous, number, step_version, data)
            values.append((number, step_version, data, previous))
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany("INSERT INTO row VALUES (?, ?, ?, ?)", values)
                self._db.execute("COMMIT")
            except sqlite3.Error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise JournalError(
                f"journal {self.path} can't be written: {error}; nothing was appended"
            ) from error
        self._number, self._hash = number, previous

    def rows(self, after: int = 0) -> Iterator[JournalRow]:
        """See ports.Journal.rows; only those behind row ``after``."""
        previous = self._hash_of(after)
        expected = after
        try:
            for number, step_version, data, stored in self._db.execute(
                "SELECT number, step_version, data, hash FROM row WHERE number > ? ORDER BY number", (after,)
            ):
                expected += 1
                if number != expected:
                    raise JournalError(f"journal {self.path} lacks row {expected}, the next one is {number}")
                previous = chain_hash(previous, number, step_version, bytes(data))
                if previous != stored:
                    raise JournalError(f"journal {self.path} was damaged or edited at row {number}")
                yield JournalRow(number, step_version, bytes(data))
        except sqlite3.Error as error:
            raise JournalError(f"journal {self.path} can't be read after row {expected}: {error}") from error

    def _hash_of(self, number: int) -> bytes:
        if number == 0:
            return _GENESIS
        found = self._db.execute("SELECT hash FROM row WHERE number = ?", (number,)).fetchone()
        if found is None:
            raise JournalError(f"journal {self.path} has no row {number}")
        return bytes(found[0])

    def write_snapshot(self, data: bytes, step_version: int) -> None:
        """Keeps the state after the last row, so that a recovery need not fold the rows before it.

        The snapshot carries the hash of the last row: one of another history is not used.
        """
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(
                "INSERT OR REPLACE INTO snapshot VALUES (?, ?, ?, ?)",
                (self._number, step_version, data, chain_hash(self._hash, self._number, step_version, data)),
            )
            self._db.execute("DELETE FROM snapshot WHERE number < ?", (self._number,))
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise JournalError(f"journal {self.path}: snapshot can't be written: {error}") from error

    def read_snapshot(self, step_version: int) -> tuple[int, bytes] | None:
        """(number of the row it stands after, state), or None when there is none of this step version."""
        try:
            found = self._db.execute("SELECT number, step_version, data, hash FROM snapshot").fetchone()
        except sqlite3.Error as error:
            raise JournalError(f"journal {self.path}: snapshot can't be read: {error}") from error
        if found is None or found[1] != step_version:
            return None
        number, data = int(found[0]), bytes(found[2])
        if chain_hash(self._hash_of(number), number, step_version, data) != bytes(found[3]):
            raise JournalError(f"journal {self.path}: the snapshot after row {number} was damaged or edited")
        return number, data

    def close(self) -> None:
        """See ports.Journal.close."""
        self._db.close()
        self._unlock()
