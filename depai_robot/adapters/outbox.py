"""What an account has signed and a chain may still take: on disk before it leaves, until it lies deep in the chain.

One row is one transaction. Rows of one nonce that carry the same call are a transaction and its replacements: whichever
is mined counts. A nonce that was given out is not given out again while its row lives, also after a restart.
"""

import sqlite3
import threading
import time
import weakref
from dataclasses import dataclass
from pathlib import Path

from depai_robot.values.error import JournalError
from depai_robot.values.identity import Address

SCHEMA_VERSION = 1
KEPT_BELOW = 1000
"""Nonces that are kept below the account's count: old transactions can still be looked up with their replacements."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS kept (
    number INTEGER PRIMARY KEY,
    chain_id INTEGER NOT NULL,
    sender BLOB NOT NULL,
    nonce INTEGER NOT NULL,
    tx_hash BLOB NOT NULL UNIQUE,
    raw BLOB NOT NULL,
    call_hash BLOB NOT NULL,
    sent INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS kept_by_nonce ON kept (chain_id, sender, nonce);
"""


@dataclass(frozen=True, slots=True)
class Kept:
    """One signed transaction.

    Attributes:
        nonce: of the account.
        tx_hash: 32 bytes.
        raw: signed bytes.
        call_hash: keccak-256 of target and data; replacements share it.
        sent: it may have left.
        since_s: monotonic; when it was added, or this process opened the outbox.
    """

    nonce: int
    tx_hash: bytes
    raw: bytes
    call_hash: bytes
    sent: bool
    since_s: float


class Outbox:
    """See the module. Thread-safe; of one account on one chain, held by one process (the account's key lock).

    Args:
        path: of the file; None keeps it in memory, for who never sends.
        chain_id: EIP-155.
        sender: the account.

    Raises:
        JournalError: the file can't be used; sign nothing.
    """

    def __init__(self, path: Path | None, chain_id: int, sender: Address) -> None:
        self._chain_id, self._sender = chain_id, sender
        self._lock = threading.Lock()
        self._since: dict[bytes, float] = {}
        self._opened_s = time.monotonic()
        self._name = "outbox in memory" if path is None else str(path)
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(":memory:" if path is None else path, check_same_thread=False)
            weakref.finalize(self, self._file.close)
            self._file.execute("PRAGMA synchronous=FULL")
            (version,) = self._file.execute("PRAGMA user_version").fetchone()
            if version not in (0, SCHEMA_VERSION):
                raise JournalError(
                    f"{self._name} is of outbox schema {version}, this program reads {SCHEMA_VERSION}"
                )
            with self._file:
                self._file.executescript(_SCHEMA + f"PRAGMA user_version={SCHEMA_VERSION};")
        except (sqlite3.Error, OSError) as error:
            raise JournalError(f"{self._name}: {error}") from error

    def add(self, nonce: int, tx_hash: bytes, raw: bytes, call_hash: bytes, *, sent: bool = False) -> None:
        """Keeps a transaction; on disk when this returns. Adding it again changes nothing.

        Raises:
            JournalError: it could not be kept, so it must not leave.
        """
        with self._lock:
            self._change(
                "INSERT OR IGNORE INTO kept (chain_id, sender, nonce, tx_hash, raw, call_hash, sent)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (self._chain_id, self._sender, nonce, tx_hash, raw, call_hash, int(sent)),
            )
            self._since.setdefault(tx_hash, time.monotonic())

    def mark_sent(self, tx_hash: bytes) -> None:
        """It may have left. Raises JournalError."""
        with self._lock:
            self._change("UPDATE kept SET sent=1 WHERE tx_hash=? AND sent=0", (tx_hash,))

    def forget(self, tx_hash: bytes) -> None:
        """Gives the nonce of one that never left back. Raises JournalError."""
        with self._lock:
            self._change("DELETE FROM kept WHERE tx_hash=? AND sent=0", (tx_hash,))

    def prune(self, count: int) -> None:
        """Drops what lies far below the account's count. Raises JournalError."""
        with self._lock:
            self._change(
                "DELETE FROM kept WHERE chain_id=? AND sender=? AND nonce<?",
                (self._chain_id, self._sender, count - KEPT_BELOW),
            )

    def find(self, tx_hash: bytes) -> Kept | None:
        """One transaction."""
        rows = self._read("tx_hash=?", (tx_hash,))
        return rows[0] if rows else None

    def alike(self, tx_hash: bytes) -> list[Kept]:
        """A transaction and its replacements, in the order of signing; empty when it is not known."""
        kept = self.find(tx_hash)
        if kept is None:
            return []
        return self._read(
            "chain_id=? AND sender=? AND nonce=? AND call_hash=?",
            (self._chain_id, self._sender, kept.nonce, kept.call_hash),
        )

    def live(self, count: int) -> list[Kept]:
        """All that is at or above the account's count, in the order of nonce and signing."""
        return self._read(
            "chain_id=? AND sender=? AND nonce>=?", (self._chain_id, self._sender, max(0, count))
        )

    def _read(self, where: str, values: tuple[object, ...]) -> list[Kept]:
        query = f"SELECT nonce, tx_hash, raw, call_hash, sent FROM kept WHERE {where} ORDER BY nonce, number"  # noqa: S608 (constants)
        with self._lock:
            try:
                rows = self._file.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise JournalError(f"{self._name}: {error}") from error
            return [
                Kept(nonce, tx_hash, raw, call_hash, bool(sent), self._since.get(tx_hash, self._opened_s))
                for nonce, tx_hash, raw, call_hash, sent in rows
            ]

    def _change(self, statement: str, values: tuple[object, ...]) -> None:
        try:
            with self._file:
                self._file.execute(statement, values)
        except sqlite3.Error as error:
            raise JournalError(f"{self._name}: {error}") from error
