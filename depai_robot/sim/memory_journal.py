"""ports.Journal in memory. Does not model: disks that fill, tear or lie, and a second process."""

from collections.abc import Iterator, Sequence

from depai_robot.ports import JournalRow
from depai_robot.values.error import JournalError


class MemoryJournal:
    """Rows in a list; a test may keep it over a crash of what used it."""

    def __init__(self) -> None:
        self._rows: list[JournalRow] = []
        self._snapshot: tuple[int, int, bytes] | None = None

    @property
    def length(self) -> int:
        """How many rows there are."""
        return len(self._rows)

    def append(self, rows: Sequence[bytes], step_version: int) -> None:
        """See ports.Journal.append."""
        for data in rows:
            self._rows.append(JournalRow(len(self._rows) + 1, step_version, bytes(data)))

    def rows(self, after: int = 0) -> Iterator[JournalRow]:
        """See ports.Journal.rows."""
        if after > len(self._rows):
            raise JournalError(f"journal has no row {after}")
        yield from list(self._rows)[after:]

    def write_snapshot(self, data: bytes, step_version: int) -> None:
        """Keeps the state after the last row."""
        self._snapshot = (len(self._rows), step_version, data)

    def read_snapshot(self, step_version: int) -> tuple[int, bytes] | None:
        """(number of the row it stands after, state), or None."""
        if self._snapshot is None or self._snapshot[1] != step_version:
            return None
        return self._snapshot[0], self._snapshot[2]

    def close(self) -> None:
        """See ports.Journal.close."""
