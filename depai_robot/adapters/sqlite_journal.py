"""ports.Journal on SQLite: append-only, on disk before append returns, one process at a time.

WAL with ``synchronous=FULL``: a commit is one fsync of the log. Triggers refuse to change or delete a row, so that an
accident in our own code is an error too. Each row's hash covers the rows before it (:mod:`journal_form`), and the head
is noted beside (:mod:`journal_head`): what is torn, edited, missing or put back from a copy is found at open, before
anything is signed.
"""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from depai_robot.adapters import journal_form
from depai_robot.adapters.journal_form import SCHEMA_VERSION, Form, chain_hash
from depai_robot.adapters.journal_head import Head, HeadFile, check_head, head_path, read_head, refuse_lost
from depai_robot.ports import JournalRow
from depai_robot.values.error import JournalError

OPEN_CHECK_BYTES_MAX = 96 * 1024 * 1024
"""A file up to this size is checked whole at every open (0.4 s measured on a desktop core); of a larger one what the
state is made from: the snapshot and the rows behind it. ``depai-robot journal verify`` checks any size."""


def hold(path: Path) -> int:
    """Takes the lock of a journal; closing the file that is returned lets it go.

    Raises:
        JournalError: another process holds it, or it can't be made.
    """
    path = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise JournalError(f"journal lock {path}: {error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if isinstance(error, BlockingIOError):
            raise JournalError(
                f"journal lock {path} is held by another process: two must never sign"
            ) from error
        raise JournalError(f"journal lock {path}: {error}") from error
    return lock


class SqliteJournal:
    """See ports.Journal.

    Args:
        path: of the database file; made when it is not there.
        owner: names whose journal it is (a key's address); another owner's file is refused.

    Raises:
        JournalError: held by another process, damaged, of another owner or schema, or not writable. The message says
            what was seen and what to do; nothing may be signed.
    """

    def __init__(self, path: Path, owner: str) -> None:
        self.path = path
        self._head: HeadFile | None = None
        self._database: sqlite3.Connection | None = None
        self._lock_file = hold(path)
        try:
            self._open(owner)
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise JournalError(f"journal {path} can't be opened: {error}; {self._advice}") from error
        except JournalError as error:
            self.close()
            raise JournalError(f"journal {path} {error}; {self._advice}") from error

    @property
    def _advice(self) -> str:
        return f"nothing is signed: look with 'depai-robot journal verify {self.path}'"

    @property
    def _db(self) -> sqlite3.Connection:
        if self._database is None:
            raise JournalError(f"journal {self.path} is closed")
        return self._database

    # --- open ----------------------------------------------------------------------------------------------

    def _open(self, owner: str) -> None:
        if not self._check_file():
            refuse_lost(read_head(head_path(self.path)), 0)  # before SQLite makes an empty file
        # The runner's thread uses it after another has opened it; never two at once.
        database = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        self._database = database
        form = journal_form.identify(database)
        if form is not None and form.owner != owner:
            raise JournalError(
                f"belongs to {form.owner}, expected {owner}: another robot's file, or another key's; put the"
                " right one in its place"
            )
        noted = read_head(head_path(self.path))
        # Only now is it sure whose file it is: nothing of a stranger's was changed.
        self.path.chmod(0o600)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("PRAGMA wal_autocheckpoint=4000")
        if form is None:
            refuse_lost(noted, 0)
            self._form, self._number, self._hash = Form(SCHEMA_VERSION, owner), 0, b""
            self._hash = self._form.genesis
            # The head first: rows without a head are refused.
            self._head = HeadFile(head_path(self.path), Head(0, self._hash))
            journal_form.create(database, owner)
            return
        if form.schema < SCHEMA_VERSION:
            refuse_lost(noted, journal_form.read_length(database))
            form = self._migrate(form)
            noted = read_head(head_path(self.path))
        self._form = form
        self._check(noted)
        self._head = HeadFile(head_path(self.path), Head(self._number, self._hash))

    def _check_file(self) -> bool:
        """Whether there is a file."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return False
        if found.st_uid != os.geteuid():
            raise JournalError(
                f"belongs to user {found.st_uid}, this program runs as {os.geteuid()}: run it as that user, or"
                " change the owner of the file and of those beside it"
            )
        return True

    def _check(self, noted: Head | None) -> None:
        """Everything that the state will be made from; all of a file that is not too large."""
        database, form = self._db, self._form
        journal_form.check_objects(database)
        small = self.path.stat().st_size <= OPEN_CHECK_BYTES_MAX
        if small:
            journal_form.check_pages(database)
        length = journal_form.read_length(database)
        check_head(noted, database, form, length)
        snapshot = journal_form.read_snapshot(database, form)
        for _ in journal_form.walk(database, form, 0 if small or snapshot is None else snapshot.number):
            pass
        self._number, self._hash = length, journal_form.read_hash(database, form, length)

    def _migrate(self, form: Form) -> Form:
        """Makes a file of schema 1 one of today; a copy of the old one stays beside."""
        kept = self.path.with_name(f"{self.path.name}.schema-{form.schema}")
        if not kept.exists():
            part = kept.with_name(kept.name + ".part")
            part.unlink(missing_ok=True)
            with contextlib.closing(sqlite3.connect(part)) as copy:
                self._db.backup(copy)
            part.chmod(0o600)
            part.replace(kept)
        self._db.execute("BEGIN IMMEDIATE")
        try:
            number, hashed = journal_form.migrate(self._db, form)
            HeadFile(head_path(self.path), Head(number, hashed)).close()
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        return Form(SCHEMA_VERSION, form.owner)

    # --- rows ----------------------------------------------------------------------------------------------

    @property
    def length(self) -> int:
        """How many rows there are."""
        return self._number

    @property
    def head(self) -> Head:
        """The last row's number and hash."""
        return Head(self._number, self._hash)

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
        database = self._db
        try:
            database.execute("BEGIN IMMEDIATE")
            try:
                database.executemany("INSERT INTO row VALUES (?, ?, ?, ?)", values)
                database.execute("COMMIT")
            except sqlite3.Error:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise JournalError(
                f"journal {self.path} can't be written: {error}; nothing was appended"
            ) from error
        self._number, self._hash = number, previous
        if self._head is not None:
            # Should this fail, the rows are there and will be folded; nothing is signed on them before.
            self._head.write(Head(number, previous))

    def rows(self, after: int = 0) -> Iterator[JournalRow]:
        """See ports.Journal.rows; only those behind row ``after``."""
        number = after
        try:
            for row in journal_form.walk(self._db, self._form, after):
                number = row.number
                yield row
        except sqlite3.Error as error:
            raise JournalError(
                f"journal {self.path} can't be read after row {number}: {error}; {self._advice}"
            ) from error
        except JournalError as error:
            raise JournalError(f"journal {self.path} {error}; {self._advice}") from error

    def write_snapshot(self, data: bytes, step_version: int) -> None:
        """Keeps the state after the last row, so that a recovery need not fold the rows before it.

        The snapshot carries the hash of the last row: one of another history is not used.
        """
        hashed = chain_hash(self._hash, self._number, step_version, data)
        database = self._db
        try:
            database.execute("BEGIN IMMEDIATE")
            try:
                database.execute(
                    "INSERT OR REPLACE INTO snapshot VALUES (?, ?, ?, ?)",
                    (self._number, step_version, data, hashed),
                )
                database.execute("DELETE FROM snapshot WHERE number < ?", (self._number,))
                database.execute("COMMIT")
            except sqlite3.Error:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise JournalError(f"journal {self.path}: snapshot can't be written: {error}") from error

    def read_snapshot(self, step_version: int) -> tuple[int, bytes] | None:
        """(number of the row it stands after, state), or None when there is none of this step version."""
        try:
            found = journal_form.read_snapshot(self._db, self._form)
        except sqlite3.Error as error:
            raise JournalError(f"journal {self.path}: snapshot can't be read: {error}") from error
        except JournalError as error:
            raise JournalError(f"journal {self.path} {error}; {self._advice}") from error
        if found is None or found.step_version != step_version:
            return None
        return found.number, found.data

    def close(self) -> None:
        """See ports.Journal.close."""
        if self._database is not None:
            self._database.close()
            self._database = None
        if self._head is not None:
            self._head.close()
            self._head = None
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1
