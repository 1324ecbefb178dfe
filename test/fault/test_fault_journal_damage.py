"""Real damage to real files: flipped bytes, kills in the midst of a commit, disks that are full or read-only."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from depai_robot.adapters.journal_reader import survey
from depai_robot.adapters.sqlite_journal import SqliteJournal
from depai_robot.values.error import JournalError

OWNER = "0x0000000000000000000000000000000000000001"
FLIPS = int(os.environ.get("DEPAI_FLIPS", "200"))

Rows = list[tuple[int, int, bytes]]


def read_all(path: Path) -> tuple[Rows, tuple[int, bytes] | None]:
    journal = SqliteJournal(path, OWNER)
    try:
        return [(row.number, row.step_version, row.data) for row in journal.rows()], journal.read_snapshot(1)
    finally:
        journal.close()


def random_rows(chance: random.Random, count: int) -> list[bytes]:
    return [chance.randbytes(chance.choice((20, 200, 900, 6000))) for _ in range(count)]


def make_files(folder: Path, *, killed: bool) -> Path:
    """A journal of 300 rows with a snapshot after 250; ``killed`` leaves part of it in the log."""
    path = folder / "wallet.sqlite"
    child = (
        "import os, random, signal, sys; from pathlib import Path\n"
        "from depai_robot.adapters.sqlite_journal import SqliteJournal\n"
        "from test.fault.test_fault_journal_damage import random_rows\n"
        f"journal = SqliteJournal(Path(sys.argv[1]), {OWNER!r})\n"
        "rows = random_rows(random.Random(7), 300)\n"
        "for n in range(0, 250, 10): journal.append(rows[n:n + 10], 1)\n"
        "journal.write_snapshot(b'state' * 400, 1)\n"
        "journal._db.execute('PRAGMA wal_checkpoint(TRUNCATE)')\n"
        "for n in range(250, 300, 10): journal.append(rows[n:n + 10], 1)\n"
        + ("os.kill(os.getpid(), signal.SIGKILL)\n" if killed else "journal.close()\n")
    )
    ended = subprocess.run(
        [sys.executable, "-c", child, str(path)], check=False, cwd=Path(__file__).parents[2]
    )
    assert ended.returncode == (-9 if killed else 0)
    return path


@pytest.mark.parametrize("killed", [False, True])
def test_a_flipped_byte_is_found_or_changes_nothing(tmp_path, killed: bool) -> None:
    """Each flip in a fresh copy: what opens has every row and the snapshot as they were written."""
    whole = tmp_path / "whole"
    whole.mkdir()
    make_files(whole, killed=killed)
    names = sorted(file.name for file in whole.iterdir() if not file.name.endswith((".lock", "-shm")))
    wanted = [(n + 1, 1, data) for n, data in enumerate(random_rows(random.Random(7), 300))]
    chance = random.Random(int(os.environ.get("DEPAI_SEED", "11")))
    found = silent = 0
    copy = tmp_path / "copy"
    for _ in range(FLIPS):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy, ignore=shutil.ignore_patterns("*-shm"))
        name = chance.choice(names)
        data = bytearray((copy / name).read_bytes())
        at, bits = chance.randrange(len(data)), chance.randrange(1, 256)
        data[at] ^= bits
        (copy / name).write_bytes(data)
        told = survey(copy / "wallet.sqlite").findings
        try:
            rows, snapshot = read_all(copy / "wallet.sqlite")
        except JournalError as error:
            found += 1
            assert "\n" not in str(error)
            assert told, f"{name} byte {at} ^ {bits}: the survey finds nothing, a start says {error}"
            continue
        silent += 1
        assert rows == wanted, f"{name} byte {at} ^ {bits}"
        assert snapshot == (250, b"state" * 400), f"{name} byte {at} ^ {bits}"
    assert found > FLIPS // 3, f"{found} found, {silent} without effect"
