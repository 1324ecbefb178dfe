"""Reads a journal's file for people: nothing in it or beside it is changed, whatever state it is in.

A running program may hold the journal meanwhile. For what a program itself reads, see :mod:`sqlite_journal`.
"""

import contextlib
import itertools
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from depai_robot.adapters import journal_form
from depai_robot.adapters.journal_form import SCHEMA_VERSION, ForeignFileError, Form, Snapshot
from depai_robot.adapters.journal_head import Head, check_head, head_path, read_head
from depai_robot.ports import JournalRow
from depai_robot.values.error import JournalError


@dataclass(frozen=True, slots=True)
class Survey:
    """What is left of a file.

    Attributes:
        owner: whose journal it is, None when it does not say any more.
        sound_rows: so many rows from the first on are as they were appended.
        noted_rows: how many the head file says there were, None when it does not.
        snapshot: that stands after one of the sound rows, None when there is none.
        findings: what is wrong, one line each; empty when the file is whole.
    """

    owner: str | None
    sound_rows: int
    noted_rows: int | None
    snapshot: Snapshot | None
    findings: tuple[str, ...]


def _open(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise JournalError("is not there" if not path.exists() else "is not a file")
    # Whoever writes has a log beside the file. Without one SQLite would make it; a file at rest needs none.
    quiet = not path.with_name(path.name + "-wal").exists()
    name = path.absolute().as_uri() + ("?immutable=1" if quiet else "?mode=ro")
    database = sqlite3.connect(name, uri=True, isolation_level=None)
    try:
        # One moment of a file that may be growing, for everything that is read of it.
        database.execute("BEGIN")
    except sqlite3.Error:
        database.close()
        raise
    return database


def _require_form(database: sqlite3.Connection) -> Form:
    form = journal_form.identify(database)
    if form is None:
        raise JournalError("is empty: no journal was ever written here")
    return form


class JournalReader:
    """A journal to look at; :meth:`close` it.

    Raises:
        JournalError: it is not there, none of ours, of a later version, or can't be read at all.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._database = _open(path)
            try:
                self.form = _require_form(self._database)
                self.length = journal_form.read_length(self._database)
            except BaseException:
                self._database.close()
                raise
        except (sqlite3.Error, OSError) as error:
            raise JournalError(f"journal {path} can't be read: {error}") from error
        except JournalError as error:
            raise JournalError(f"journal {path} {error}") from error

    def close(self) -> None:
        """Closes the file."""
        self._database.close()

    def rows(self, after: int = 0) -> Iterator[JournalRow]:
        """Every row behind row ``after``, checked against the chain. Raises JournalError at the first that fails."""
        with self._telling():
            yield from journal_form.walk(self._database, self.form, after)

    def snapshot(self) -> Snapshot | None:
        """The snapshot, checked. Raises JournalError."""
        with self._telling():
            return journal_form.read_snapshot(self._database, self.form)

    def head(self) -> Head:
        """Number and hash of the last row. Raises JournalError."""
        with self._telling():
            return Head(self.length, journal_form.read_hash(self._database, self.form, self.length))

    def hash_at(self, number: int) -> bytes:
        """The hash of a row. Raises JournalError."""
        with self._telling():
            return journal_form.read_hash(self._database, self.form, number)

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise JournalError(f"journal {self.path} can't be read: {error}") from error
        except JournalError as error:
            raise JournalError(f"journal {self.path} {error}") from error


def read_sound_rows(path: Path, count: int) -> Iterator[JournalRow]:
    """The first rows of a file that may be damaged behind them.

    Raises:
        JournalError: there are not as many sound ones.
    """
    if count:
        with contextlib.closing(JournalReader(path)) as reader:
            yield from itertools.islice(reader.rows(), count)


def survey(path: Path) -> Survey:
    """Looks at everything in a file, and goes on behind what is wrong.

    Raises:
        ForeignFileError: it is no journal of ours to judge: another program's, or a later version's.
    """
    findings: list[str] = []
    form: Form | None = None
    noted: Head | None = None
    snapshot: Snapshot | None = None
    sound = 0

    @contextlib.contextmanager
    def noting() -> Iterator[None]:
        try:
            yield
        except ForeignFileError as error:
            raise ForeignFileError(f"journal {path} {error}") from error
        except (JournalError, sqlite3.Error, OSError) as error:
            findings.append(str(error).replace("\n", " "))

    with noting():
        noted = read_head(head_path(path))
    if not path.exists():
        findings.append("the journal's file is not there")
        return Survey(None, 0, noted.number if noted else None, None, tuple(findings))
    with contextlib.ExitStack() as closing:
        database: sqlite3.Connection | None = None
        with noting():
            database = closing.enter_context(contextlib.closing(_open(path)))
            form = journal_form.identify(database)
        if database is not None and form is not None:
            with noting():
                journal_form.check_pages(database)
            if form.schema == SCHEMA_VERSION:
                with noting():
                    journal_form.check_objects(database)
                with noting():
                    check_head(noted, database, form, journal_form.read_length(database))
            with noting():
                for row in journal_form.walk(database, form):
                    sound = row.number
            with noting():
                snapshot = journal_form.read_snapshot(database, form)
    if snapshot is not None and snapshot.number > sound:
        snapshot = None
    if form is None and not findings:
        findings.append("the file is empty")
    return Survey(
        form.owner if form else None, sound, noted.number if noted else None, snapshot, tuple(findings)
    )
