"""The form of a journal's file: tables, versions, the hash chain, and how an older file becomes one of today.

Knows SQL and bytes only. Nothing here locks, opens or writes a file beside; see :mod:`sqlite_journal` and
:mod:`journal_reader`.

The chain: ``h_0 = SHA-256("depai_robot journal 2" || 0x00 || owner)`` and
``h_n = SHA-256(h_{n-1} || n (8 bytes) || step version (4 bytes) || data)``, integers big-endian, owner in UTF-8. So a
row stands for every row before it, for its place, and for whose journal it is.
"""

import hashlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from depai_robot.ports import JournalRow
from depai_robot.values.error import JournalError

SCHEMA_VERSION = 2
APPLICATION_ID = 0x64504A31
"""Of SQLite's header: tells a journal from any other database."""
UINT32_MAX = 2**32 - 1
_HASH_BYTES = 32
_MIGRATION_ROWS = 1000

_TABLES = {
    "meta": "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "row": (
        "CREATE TABLE row (number INTEGER PRIMARY KEY, step_version INTEGER NOT NULL,"
        " data BLOB NOT NULL, hash BLOB NOT NULL)"
    ),
    "snapshot": (
        "CREATE TABLE snapshot (number INTEGER PRIMARY KEY, step_version INTEGER NOT NULL,"
        " data BLOB NOT NULL, hash BLOB NOT NULL)"
    ),
}
_TRIGGERS = {
    f"row_keep_{verb.lower()}": (
        f"CREATE TRIGGER row_keep_{verb.lower()} BEFORE {verb} ON row"
        " BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END"
    )
    for verb in ("UPDATE", "DELETE")
}


class ForeignFileError(JournalError):
    """A file that is not damaged, but none of ours: another program's, or a later version's."""


@dataclass(frozen=True, slots=True)
class Form:
    """What a file says of itself.

    Attributes:
        schema: version of its form, 1 or 2.
        owner: whose journal it is.
    """

    schema: int
    owner: str

    @property
    def genesis(self) -> bytes:
        """The hash before the first row."""
        if self.schema == 1:
            return bytes(_HASH_BYTES)
        return hashlib.sha256(b"depai_robot journal 2\x00" + self.owner.encode()).digest()


def chain_hash(previous: bytes, number: int, step_version: int, data: bytes) -> bytes:
    """Hash of a row that covers every row before it."""
    head = previous + number.to_bytes(8, "big") + step_version.to_bytes(4, "big")
    return hashlib.sha256(head + data).digest()


def create(database: sqlite3.Connection, owner: str) -> Form:
    """Makes the tables of an empty database, in one transaction. Raises sqlite3.Error."""
    database.execute("BEGIN IMMEDIATE")
    for statement in (*_TABLES.values(), *_TRIGGERS.values()):
        database.execute(statement)
    database.execute("INSERT INTO meta VALUES ('schema', ?), ('owner', ?)", (str(SCHEMA_VERSION), owner))
    database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    database.execute("COMMIT")
    return Form(SCHEMA_VERSION, owner)


def identify(database: sqlite3.Connection) -> Form | None:
    """What a database is; None when it is empty. Changes nothing.

    Raises:
        ForeignFileError: it is none of ours, or of a later version.
        JournalError: what it says of itself does not fit together.
        sqlite3.Error: it can't be read.
    """
    found = dict(database.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall())
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if not found and not application and not version:
        return None
    # Files of schema 1 were written before there was an application id.
    first = application == 0 and version == 0
    if not {"meta", "row", "snapshot"} <= set(found):
        raise ForeignFileError(
            f"is an SQLite database, but no journal: it holds {_name_some(found)}, expected meta, row, snapshot"
        )
    meta = dict(database.execute("SELECT key, value FROM meta").fetchall())
    schema = _parse_schema(meta.get("schema"))
    if schema > SCHEMA_VERSION:
        raise ForeignFileError(
            f"has schema {schema}, this program knows 1 to {SCHEMA_VERSION}: a later version has written it,"
            " install that version again"
        )
    if not first and application != APPLICATION_ID:
        raise JournalError(
            f"is damaged or edited: application id 0x{application:08x}, expected 0x{APPLICATION_ID:08x}"
        )
    if schema != (version or 1) or not isinstance(meta.get("owner"), str):
        raise JournalError(
            f"is damaged or edited: schema {schema} under version {version}, owner {meta.get('owner')!r}"
        )
    return Form(schema, meta["owner"])


def _parse_schema(text: object) -> int:
    if (
        not isinstance(text, str)
        or not text.isascii()
        or not text.isdigit()
        or len(text) > 9
        or int(text) < 1
    ):
        raise JournalError(f"is damaged or edited: its schema is {text!r}, expected 1 to {SCHEMA_VERSION}")
    return int(text)


def _name_some(names: dict[str, str]) -> str:
    shown = ", ".join(sorted(names)[:5])
    return f"{shown}, ..." if len(names) > 5 else shown or "nothing"


def check_objects(database: sqlite3.Connection) -> None:
    """Tables and triggers of a file of today are as they were made. Raises JournalError or sqlite3.Error."""
    found = dict(
        database.execute(
            # Statistics that somebody had SQLite make (ANALYZE) are no edit.
            "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite~_%' ESCAPE '~'"
        ).fetchall()
    )
    expected = _TABLES | _TRIGGERS
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            what = (
                "was added" if name not in expected else "is missing" if name not in found else "was changed"
            )
            raise JournalError(f"was edited: {name} {what} in its schema")


def check_pages(database: sqlite3.Connection) -> None:
    """Whether SQLite finds its own pages in order. Raises JournalError or sqlite3.Error."""
    found = [str(line) for (line,) in database.execute("PRAGMA quick_check(3)")]
    if found != ["ok"]:
        raise JournalError("has damaged pages: " + "; ".join(found).replace("\n", " "))


def read_length(database: sqlite3.Connection) -> int:
    """Number of the last row. Raises JournalError or sqlite3.Error."""
    (last,) = database.execute("SELECT max(number) FROM row").fetchone()
    if last is None:
        return 0
    if not isinstance(last, int) or last < 1:
        raise JournalError(f"is damaged or edited: its last row has number {last!r}")
    return last


def read_hash(database: sqlite3.Connection, form: Form, number: int) -> bytes:
    """The stored hash of a row; of row 0 the one before the first. Raises JournalError or sqlite3.Error."""
    if number == 0:
        return form.genesis
    found = database.execute("SELECT hash FROM row WHERE number = ?", (number,)).fetchone()
    if found is None:
        raise JournalError(f"has no row {number}")
    if not isinstance(found[0], bytes) or len(found[0]) != _HASH_BYTES:
        raise JournalError(f"was damaged or edited at row {number}: its hash is not 32 bytes")
    return found[0]


def walk(database: sqlite3.Connection, form: Form, after: int = 0) -> Iterator[JournalRow]:
    """Every row behind row ``after`` up to the last, each against the chain.

    Raises:
        JournalError: at the first row that is missing, out of its place, or not what was appended.
        sqlite3.Error: the file can't be read.
    """
    length = read_length(database)
    previous, expected = read_hash(database, form, after), after
    for number, step_version, data, stored in database.execute(
        "SELECT number, step_version, data, hash FROM row WHERE number > ? ORDER BY number", (after,)
    ):
        expected += 1
        if number != expected:
            raise JournalError(f"lacks row {expected}, the next one is {number}")
        if (
            not isinstance(step_version, int)
            or not 0 <= step_version <= UINT32_MAX
            or not isinstance(data, bytes)
            or (previous := chain_hash(previous, number, step_version, data)) != stored
        ):
            raise JournalError(f"was damaged or edited at row {number}")
        yield JournalRow(number, step_version, data)
    if expected != length:
        raise JournalError(f"ends at row {expected}, expected {length}")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A state that stands for the rows before it.

    Attributes:
        number: of the row it stands after.
        step_version: of the machine that made it.
        data: the state, encoded.
    """

    number: int
    step_version: int
    data: bytes


def read_snapshot(database: sqlite3.Connection, form: Form) -> Snapshot | None:
    """The snapshot, checked against the row it stands after.

    Raises:
        JournalError: it is not the one that was written, or stands in another history.
        sqlite3.Error: the file can't be read.
    """
    found = database.execute(
        "SELECT number, step_version, data, hash FROM snapshot ORDER BY number DESC LIMIT 1"
    ).fetchone()
    if found is None:
        return None
    number, step_version, data, stored = found
    if (
        not isinstance(step_version, int)
        or not 0 <= step_version <= UINT32_MAX
        or not isinstance(data, bytes)
        or not isinstance(number, int)
        or number < 0
        or chain_hash(read_hash(database, form, number), number, step_version, data) != stored
    ):
        raise JournalError(
            f"was damaged or edited: the snapshot after row {number} is not the one that was written"
        )
    return Snapshot(number, step_version, data)


def migrate(database: sqlite3.Connection, form: Form) -> tuple[int, bytes]:
    """Rewrites a file of schema 1 as one of today, inside a transaction that the caller began.

    Its old chain is checked first, whole. Rows keep number, version and data; only hashes change, since those of
    schema 1 did not say whose journal it is.

    Returns:
        Number and new hash of the last row.

    Raises:
        JournalError: the old chain does not hold; nothing was changed.
        sqlite3.Error: the file can't be read or written.
    """
    snapshot = read_snapshot(database, form)
    for _ in walk(database, form):
        pass
    for name in _TRIGGERS:
        database.execute(f"DROP TRIGGER IF EXISTS {name}")
    for name in ("row", "snapshot"):
        database.execute(f"ALTER TABLE {name} RENAME TO old_{name}")
    for name in ("row", "snapshot"):
        database.execute(_TABLES[name])
    made = Form(SCHEMA_VERSION, form.owner)
    number, previous = 0, made.genesis
    while True:
        batch = database.execute(
            "SELECT number, step_version, data FROM old_row WHERE number > ? ORDER BY number LIMIT ?",
            (number, _MIGRATION_ROWS),
        ).fetchall()
        if not batch:
            break
        rows = []
        for number, step_version, data in batch:
            previous = chain_hash(previous, number, step_version, data)
            rows.append((number, step_version, data, previous))
        database.executemany("INSERT INTO row VALUES (?, ?, ?, ?)", rows)
    if snapshot is not None:
        hashed = chain_hash(
            read_hash(database, made, snapshot.number), snapshot.number, snapshot.step_version, snapshot.data
        )
        database.execute(
            "INSERT INTO snapshot VALUES (?, ?, ?, ?)",
            (snapshot.number, snapshot.step_version, snapshot.data, hashed),
        )
    database.execute("DROP TABLE old_row")
    database.execute("DROP TABLE old_snapshot")
    database.execute("DROP TABLE meta")
    database.execute(_TABLES["meta"])
    database.execute("INSERT INTO meta VALUES ('schema', ?), ('owner', ?)", (str(SCHEMA_VERSION), form.owner))
    for statement in _TRIGGERS.values():
        database.execute(statement)
    database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    return number, previous
