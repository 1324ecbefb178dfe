"""The head of a journal in a small file beside it: how many rows were on disk, and the last one's hash.

A hash chain alone can't show that its end is missing: when a file is put back from a copy, its log is deleted, or a
bit of the log rots (SQLite then drops every commit behind it without a word), what is left is a whole, shorter chain.
So the head is noted here before an append returns: no row that something was signed on can vanish unnoticed.

Two slots are written in turn, so a power cut in the midst of one leaves the other. Writing is one ``pwrite`` without
fsync: after a power cut the head may lag behind the rows, never run ahead of them, since rows are synced first.
"""

import hashlib
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from depai_robot.adapters.journal_form import Form, read_hash
from depai_robot.values.error import JournalError

_MAGIC = b"dPhead02"
_SLOT_BYTES = 512
"""A sector of its own for each slot."""
_CHECK_BYTES = 16
_RECORD_BYTES = len(_MAGIC) + 8 + 32 + _CHECK_BYTES


@dataclass(frozen=True, slots=True)
class Head:
    """Where a journal ended.

    Attributes:
        number: of its last row.
        hash: of that row.
    """

    number: int
    hash: bytes


def head_path(journal: Path) -> Path:
    """The file beside a journal."""
    return journal.with_name(journal.name + ".head")


def _encode(head: Head) -> bytes:
    body = _MAGIC + head.number.to_bytes(8, "big") + head.hash
    return body + hashlib.sha256(body).digest()[:_CHECK_BYTES]


def _decode(record: bytes) -> Head | None:
    body, check = record[:-_CHECK_BYTES], record[-_CHECK_BYTES:]
    if len(record) != _RECORD_BYTES or not body.startswith(_MAGIC):
        return None
    if hashlib.sha256(body).digest()[:_CHECK_BYTES] != check:
        return None
    return Head(int.from_bytes(body[8:16], "big"), body[16:48])


def read_head(path: Path) -> Head | None:
    """The newest whole slot; None when there is no file.

    Raises:
        JournalError: there is a file, and no slot of it is whole or it can't be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise JournalError(f"head {path}: {error.strerror}") from error
    slots = [_decode(data[at : at + _RECORD_BYTES]) for at in (0, _SLOT_BYTES)]
    whole = [slot for slot in slots if slot is not None]
    if not whole:
        raise JournalError(f"head {path} is damaged: neither of its two slots is whole")
    return max(whole, key=lambda slot: slot.number)


def refuse_lost(noted: Head | None, length: int) -> None:
    """Whether there are as many rows as were noted. Raises JournalError."""
    if noted is not None and noted.number > length:
        raise JournalError(
            f"has {length} rows, its head file noted {noted.number}: {noted.number - length} rows are lost"
        )


def check_head(noted: Head | None, database: sqlite3.Connection, form: Form, length: int) -> None:
    """Whether the rows reach at least to the noted head, by the same chain. Raises JournalError or sqlite3.Error."""
    if noted is None:
        if length:
            raise JournalError(
                f"has {length} rows, and no head file beside it: it was put here from a copy, or the head was"
                " removed, so rows may be lost"
            )
        return
    refuse_lost(noted, length)
    if read_hash(database, form, noted.number) != noted.hash:
        raise JournalError(f"is another history than its head file noted at row {noted.number}")


class HeadFile:
    """Writes the head. Both slots are written at once when it is made, and synced.

    Raises:
        JournalError: it can't be written.
    """

    def __init__(self, path: Path, head: Head) -> None:
        self._path = path
        self._turn = 0
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalError(f"head {path}: {error.strerror}") from error
        try:
            self.write(head)
            self.write(head)
            os.fsync(self._file)
        except OSError as error:
            self.close()
            raise JournalError(f"head {path}: {error.strerror}") from error
        except JournalError:
            self.close()
            raise

    def write(self, head: Head) -> None:
        """Notes it in the older slot.

        Raises:
            JournalError: it was not written.
        """
        try:
            written = os.pwrite(self._file, _encode(head), self._turn * _SLOT_BYTES)
        except OSError as error:
            raise JournalError(f"head {self._path} can't be written: {error.strerror}") from error
        if written != _RECORD_BYTES:
            raise JournalError(f"head {self._path} can't be written: {written} of {_RECORD_BYTES} bytes")
        self._turn = 1 - self._turn

    def close(self) -> None:
        """Closes the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
