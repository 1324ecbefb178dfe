"""Real damage to real files: flipped bytes, kills in the midst of a commit, disks that are full or read-only."""

import contextlib
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
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


def flip(chance: random.Random, data: bytearray) -> str:
    at, bits = chance.randrange(len(data)), chance.randrange(1, 256)
    data[at] ^= bits
    return f"byte {at} ^ {bits}"


def lose_page(chance: random.Random, data: bytearray) -> str:
    at = chance.randrange(len(data)) // 4096 * 4096
    data[at : at + 4096] = bytes(len(data[at : at + 4096]))
    return f"4096 zeros at {at}"


def write_elsewhere(chance: random.Random, data: bytearray) -> str:
    source, at = (chance.randrange(len(data)) // 4096 * 4096 for _ in range(2))
    block = data[source : source + 4096][: len(data) - at]
    data[at : at + len(block)] = block
    return f"block {source} over {at}"


def cut(chance: random.Random, data: bytearray) -> str:
    size = chance.randrange(len(data))
    del data[size:]
    return f"cut to {size}"


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize(
    ("damage", "times"),
    [(flip, FLIPS), (lose_page, FLIPS // 5), (write_elsewhere, FLIPS // 5), (cut, FLIPS // 5)],
)
def test_damage_is_found_or_changes_nothing(tmp_path, killed: bool, damage, times: int) -> None:
    """Each in a fresh copy: what opens has every row and the snapshot as they were written."""
    whole = tmp_path / "whole"
    whole.mkdir()
    make_files(whole, killed=killed)
    names = sorted(file.name for file in whole.iterdir() if not file.name.endswith((".lock", "-shm")))
    wanted = [(n + 1, 1, data) for n, data in enumerate(random_rows(random.Random(7), 300))]
    chance = random.Random(int(os.environ.get("DEPAI_SEED", "11")))
    found = silent = 0
    copy = tmp_path / "copy"
    for _ in range(times):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy, ignore=shutil.ignore_patterns("*-shm"))
        name = chance.choice(names)
        data = bytearray((copy / name).read_bytes())
        done = f"{name}: {damage(chance, data)}"
        (copy / name).write_bytes(data)
        told = survey(copy / "wallet.sqlite").findings
        said = ""
        try:
            rows, snapshot = read_all(copy / "wallet.sqlite")
        except JournalError as error:
            said = str(error)
        if said:
            found += 1
            assert "\n" not in said, done
            assert told, f"{done}: the survey finds nothing, a start says {said}"
        else:
            silent += 1
            assert rows == wanted, done
            assert snapshot == (250, b"state" * 400), done
    assert found > times // 3, f"{found} found, {silent} without effect"


# --- disks --------------------------------------------------------------------------------------------------

REPOSITORY = Path(__file__).parents[2]
SIGNING = """
import os, sys, time
from pathlib import Path
from depai_robot.adapters.sqlite_journal import SqliteJournal
from depai_robot.app.part import SystemClock
from depai_robot.app.runner import Runner
from depai_robot.charging.effect import CallForHelp
from depai_robot.charging.fact import Restarted, StopRequested

# A machine that wants one signature for each wish: what the runner performs is what would have left.
def step(state, fact):
    return state, () if isinstance(fact, Restarted) else (CallForHelp(fact.reason[:8]),)

journal = SqliteJournal(Path(sys.argv[1]), sys.argv[2])
runner = Runner(journal=journal, step=step, step_version=1, state=0, clock=SystemClock(), entropy=lambda: bytes(32))
runner.start(lambda effect: os.write(1, f"{effect.message}\\n".encode()))
number, end = journal.length, time.monotonic() + 30
wanted = number + int(sys.argv[3])
while runner.running and number < wanted and time.monotonic() < end:
    number += 1
    try:
        runner.post(StopRequested(runner.instant(), f"{number:08}" + "x" * 2000))
    except Exception:
        break
    time.sleep(0.0005)
runner.stop()
sys.exit(f"stopped: {runner.failure}" if runner.failure else 0)
"""


def sign(path: Path, count: int, **how) -> tuple[list[str], int, str]:
    """(signatures that left, exit code, what it said at its end) of a program that signs ``count`` times."""
    done = subprocess.run(
        [sys.executable, "-c", SIGNING, str(path), OWNER, str(count)],
        check=False,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=60,
        **how,
    )
    return done.stdout.split(), done.returncode, done.stderr.strip()


def on_disk(path: Path) -> list[str]:
    rows, _ = read_all(path)
    return [part.decode() for _, _, data in rows if (part := data.partition(b'"reason":"')[2][:8])]


def limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))


def test_a_file_that_may_not_grow_lets_no_signature_leave(tmp_path) -> None:
    path = tmp_path / "wallet.sqlite"
    signed, code, said = sign(path, 20)
    assert (len(signed), code, said) == (20, 0, "")
    signed, code, said = sign(path, 2000, preexec_fn=limit_file_size)
    assert code == 1
    assert "stopped: journal" in said
    assert "can't be written" in said
    assert 0 < len(signed) < 2000
    assert set(signed) <= set(on_disk(path))
    again, code, said = sign(path, 20)
    assert (len(again), code, said) == (20, 0, "")
    assert set(again) <= set(on_disk(path))


def as_root(*command: str) -> bool:
    """Whether it could be done."""
    root = () if os.geteuid() == 0 else ("sudo", "-n")
    if root and shutil.which("sudo") is None:
        return False
    return subprocess.run([*root, *command], check=False, capture_output=True).returncode == 0


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of its own, where the user may mount one."""
    options = f"size={size},uid={os.getuid()},gid={os.getgid()},mode=700"
    if not as_root("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)):
        pytest.skip("no right to mount a small disk")
    try:
        yield
    finally:
        assert as_root("umount", "-l", str(folder))


def test_a_full_disk_lets_no_signature_leave_and_room_sets_it_free(tmp_path) -> None:
    with small_disk(tmp_path, "1m"):
        path = tmp_path / "wallet.sqlite"
        ballast = tmp_path / "ballast"
        ballast.write_bytes(bytes(300_000))
        signed, code, said = sign(path, 2000)
        assert code == 1
        assert "can't be written: database or disk is full" in said
        assert 0 < len(signed) < 2000
        assert set(signed) <= set(on_disk(path))
        # Still full: it does not even start, or ends again without a signature that is not on disk.
        before = len(on_disk(path))
        more, code, said = sign(path, 500)
        assert code == 1
        assert "can't be" in said
        assert set(more) <= set(on_disk(path))
        ballast.unlink()
        free, code, said = sign(path, 5)
        assert (len(free), code, said) == (5, 0, "")
        assert len(on_disk(path)) >= before + 5


def test_a_read_only_disk_is_said_at_open_and_signs_nothing(tmp_path) -> None:
    with small_disk(tmp_path, "2m"):
        path = tmp_path / "wallet.sqlite"
        sign(path, 5)
        assert as_root("mount", "-o", "remount,ro", str(tmp_path))
        signed, code, said = sign(path, 5)
        assert (signed, code) == ([], 1)
        assert "JournalError: journal" in said.splitlines()[-1]
        assert "ead-only" in said.splitlines()[-1]
        assert as_root("mount", "-o", "remount,rw", str(tmp_path))
        assert len(sign(path, 5)[0]) == 5


def test_a_disk_that_becomes_read_only_in_the_midst_signs_nothing_more(tmp_path) -> None:
    with small_disk(tmp_path, "16m"):
        path = tmp_path / "wallet.sqlite"
        with subprocess.Popen(
            [sys.executable, "-c", SIGNING, str(path), OWNER, "100000"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        ) as process:
            signed = [process.stdout.readline().strip() for _ in range(50)]
            # An error of the disk makes the kernel do this; a remount is refused while files are open for writing.
            if not as_root("mount", "-o", "remount,ro", str(tmp_path)):
                # Fill it instead: the next commit finds no room.
                with contextlib.suppress(OSError), (tmp_path / "ballast").open("wb") as file:
                    while True:
                        file.write(bytes(65536))
                        file.flush()
            rest, said = process.communicate(timeout=60)
        signed += rest.split()
        assert process.returncode == 1
        assert "stopped: journal" in said
        (tmp_path / "ballast").unlink(missing_ok=True)
        assert set(signed) <= set(on_disk(path))


# --- kills --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after_s", [0.002, 0.01, 0.03, 0.08, 0.15, 0.4])
def test_a_kill_at_any_moment_forgets_nothing_that_left(tmp_path, after_s: float) -> None:
    """kill -9 wherever the program happens to be: in a commit, between commit and signature, in a checkpoint."""
    path = tmp_path / "wallet.sqlite"
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-c", SIGNING, str(path), OWNER, "100000"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=REPOSITORY,
        ) as process:
            first = process.stdout.readline().strip()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(after_s)
            process.kill()
            signed = [first, *process.stdout.read().split()]
            assert process.wait() == -9
        assert set(signed) <= set(on_disk(path))
        assert survey(path).findings == ()
