"""Reads a journal between two times, in a process of its own: the wallet's own goes on signing meanwhile.

``python -m depai_robot.app.journal_extract PATH SINCE_S UNTIL_S`` prints an Extract as JSON, or says on the standard
error why it can't and exits with 1.
"""

import contextlib
import os
import sys
from pathlib import Path

import msgspec

from depai_robot.adapters.journal_reader import JournalReader
from depai_robot.app.book import day_of
from depai_robot.app.book_table import day_row, session_row
from depai_robot.app.bookkeeping import make_book
from depai_robot.fleet.journal import Extract
from depai_robot.values.error import DepaiError

NICENESS = 10


def read_extract(path: Path, since_s: int, until_s: int) -> Extract:
    """Sessions that ended from ``since_s`` on and before ``until_s``, and the days they ended on.

    All rows are read: what a session moved on its channel is known only from those before it.

    Raises:
        JournalError: it can't be read, or is damaged.
    """
    with contextlib.closing(JournalReader(path)) as reader:
        book = make_book(reader.rows())
        head = reader.head()
    told = [entry for entry in book.sessions.values() if since_s <= entry.ended_s < until_s]
    days = {day_of(entry.ended_s) for entry in told}
    return Extract(
        rows=head.number,
        head="0x" + head.hash.hex(),
        sessions=tuple(session_row(entry) for entry in told),
        days=tuple(day_row(entry) for day, entry in book.days.items() if day in days),
    )


def main(arguments: list[str]) -> int:
    """See the module."""
    path, since_s, until_s = arguments
    os.nice(NICENESS)
    try:
        extract = read_extract(Path(path), int(since_s), int(until_s))
    except (DepaiError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(extract))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
