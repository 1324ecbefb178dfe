"""A person's decision about a damaged journal: keep what is sound, put the rest aside, and go on settling only.

Nothing is deleted: every file of the damaged journal goes into a folder beside it, as it was. The new journal holds the
sound rows from the first on, then a row that says how many were lost. What was signed in the lost rows is unknown, so a
robot counts it as all that its policy allows: it settles what is open and buys nothing until its owner has signed a
policy with a later epoch (see charging.robot).
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from depai_robot.adapters.journal_form import Snapshot
from depai_robot.adapters.journal_head import head_path
from depai_robot.adapters.journal_reader import JournalReader, Survey, read_sound_rows, survey
from depai_robot.adapters.sqlite_journal import SqliteJournal, hold
from depai_robot.app.bookkeeping import read_fact
from depai_robot.app.journal_check import Settings, read_settings
from depai_robot.charging import robot, station
from depai_robot.charging.fact import Instant, JournalAccepted, encode_fact
from depai_robot.ports import JournalRow
from depai_robot.values.error import ConfigError, JournalError

_NEW = "accepted.sqlite"
_BATCH_ROWS = 500


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What became of a damaged journal.

    Attributes:
        kept_in: folder that holds the damaged files.
        rows_kept: sound rows that the new journal begins with.
        rows_lost: known to be missing; -1 when nobody knows.
        role: ``robot`` or ``station``.
        policy_epoch: nothing is bought until a later one is in force; -1 for a station.
        findings: what was wrong.
    """

    kept_in: Path
    rows_kept: int
    rows_lost: int
    role: str
    policy_epoch: int
    findings: tuple[str, ...]


def accept_damage(
    path: Path,
    *,
    now_s: int,
    owner: str | None = None,
    role: str | None = None,
    policy_epoch: int | None = None,
) -> Acceptance:
    """Puts a damaged journal aside and makes one of its sound rows.

    A crash in the midst of it leaves a journal that still refuses to open; saying it again goes on.

    Args:
        path: of the journal.
        now_s: wall clock, Unix seconds.
        owner: address of its key; needed when the file does not say it any more.
        role: ``robot`` or ``station``; needed when no sound snapshot says it.
        policy_epoch: of the policy that the robot uses now; needed for a robot.

    Raises:
        ConfigError: something is needed that the file does not say, or what it says is not what was given.
        JournalError: the journal is whole, in use, of another program, or a disk can't be written.
    """
    lock = hold(path)
    try:
        resumed = _resume(path)
        if resumed is not None:
            return resumed
        found = survey(path)
        found = replace(found, findings=(*found.findings, *_unfoldable(path, found)))
        if not found.findings:
            raise JournalError(f"journal {path} is whole: there is nothing to accept")
        if owner is not None and found.owner is not None and owner != found.owner:
            raise ConfigError(f"journal {path} belongs to {found.owner}, given was {owner}")
        keeper = owner or found.owner
        if keeper is None:
            raise ConfigError(f"journal {path} does not say any more whose it is: give --owner 0x...")
        settings = _settle_settings(path, found, role, policy_epoch)
        aside = _make_aside(path, now_s)
        try:
            fact = _write_new(path, aside / _NEW, replace(found, owner=keeper), settings, now_s)
            _swap(path, aside)
        except OSError as error:
            raise JournalError(f"journal {path}: {error}; half put aside in {aside}") from error
    finally:
        os.close(lock)
    return Acceptance(aside, fact.rows_kept, fact.rows_lost, settings.role, fact.policy_epoch, found.findings)


def _resume(path: Path) -> Acceptance | None:
    """Ends what a crash has cut off: the old file has left, the new one has not come."""
    if path.exists():
        return None
    for new in sorted(path.parent.glob(f"{path.name}.damaged-*/{_NEW}")):
        if (new.parent / path.name).exists():
            with contextlib.closing(JournalReader(new)) as reader:
                fact = read_fact(next(iter(reader.rows(reader.length - 1))))
            if isinstance(fact, JournalAccepted):
                _swap(path, new.parent)
                role = "station" if fact.policy_epoch < 0 else "robot"
                return Acceptance(
                    new.parent, fact.rows_kept, fact.rows_lost, role, fact.policy_epoch, (fact.reason,)
                )
    return None


def _unfoldable(path: Path, found: Survey) -> tuple[str, ...]:
    """Why this program can't fold the sound rows, empty when it can: another version's machine wrote them."""
    if found.snapshot is None:
        return ()
    role = read_settings(found.snapshot).role
    expected = _step_version(role)
    seen = {found.snapshot.step_version}
    with contextlib.closing(JournalReader(path)) as reader:
        behind = islice(reader.rows(found.snapshot.number), found.sound_rows - found.snapshot.number)
        seen |= {row.step_version for row in behind}
    if seen == {expected}:
        return ()
    versions = ", ".join(map(str, sorted(seen)))
    finding = (
        f"the rows behind the last snapshot are of step version {versions}, this program folds {expected}: settle what"
        " is open with the version that wrote them"
    )
    return (finding,)


def _step_version(role: str) -> int:
    return robot.STEP_VERSION if role == "robot" else station.STEP_VERSION


def _settle_settings(path: Path, found: Survey, role: str | None, policy_epoch: int | None) -> Settings:
    settings = None if found.snapshot is None else read_settings(found.snapshot)
    if settings is not None and role is not None and role != settings.role:
        raise ConfigError(f"journal {path} is a {settings.role}'s, given was {role}")
    role = role or (settings.role if settings is not None else None)
    if role is None:
        raise ConfigError(
            f"journal {path} does not say any more whether a robot or a station wrote it: give --role"
        )
    if role == "station":
        return Settings(role, b"")
    if policy_epoch is None:
        # A later snapshot may be among what was lost: the file alone can't say which policy was in force.
        raise ConfigError("give the policy file that the robot uses now, --policy FILE")
    return Settings(
        role, b"", policy_epoch=max(policy_epoch, settings.policy_epoch if settings is not None else 0)
    )


def _make_aside(path: Path, now_s: int) -> Path:
    aside = path.with_name(f"{path.name}.damaged-{now_s}")
    try:
        aside.mkdir(mode=0o700, parents=True, exist_ok=False)
    except OSError as error:
        raise JournalError(f"journal {path}: {aside}: {error.strerror}") from error
    return aside


def _write_new(path: Path, new: Path, found: Survey, settings: Settings, now_s: int) -> JournalAccepted:
    """The sound rows, the snapshot among them, and the decision."""
    # Without the settings that its rows were made under a history can't be folded: then it begins anew.
    snapshot = None if _unfoldable(path, found) else found.snapshot
    rows_kept = 0 if snapshot is None else found.sound_rows
    lost = -1 if found.noted_rows is None else max(0, found.noted_rows - rows_kept)
    journal = SqliteJournal(new, found.owner or "")
    try:
        _copy_snapshot(journal, snapshot)
        at_ns = 0
        for version, batch in _batches(read_sound_rows(path, rows_kept), snapshot):
            journal.append([row.data for row in batch], version)
            _copy_snapshot(journal, snapshot)
            at_ns = read_fact(batch[-1]).at.session_ns
        fact = JournalAccepted(
            Instant(at_ns, now_s),
            rows_kept,
            lost,
            settings.policy_epoch,
            f"rows of the journal are lost: {'; '.join(found.findings)}"[:512],
        )
        journal.append([encode_fact(fact)], _step_version(settings.role))
    finally:
        journal.close()
    return fact


def _copy_snapshot(journal: SqliteJournal, snapshot: Snapshot | None) -> None:
    if snapshot is not None and snapshot.number == journal.length:
        journal.write_snapshot(snapshot.data, snapshot.step_version)


def _batches(rows: Iterator[JournalRow], snapshot: Snapshot | None) -> Iterator[tuple[int, list[JournalRow]]]:
    """Groups of one step version each, cut where the snapshot stands."""
    batch: list[JournalRow] = []
    for row in rows:
        if batch and (row.step_version != batch[0].step_version or len(batch) == _BATCH_ROWS):
            yield batch[0].step_version, batch
            batch = []
        batch.append(row)
        if snapshot is not None and row.number == snapshot.number:
            yield row.step_version, batch
            batch = []
    if batch:
        yield batch[0].step_version, batch


def _swap(path: Path, aside: Path) -> None:
    """The old files go aside, the new ones come; each step may be the last before a crash.

    While there is no file, the head file names rows: a start refuses, and never begins anew.
    """
    new, head = aside / _NEW, head_path(path)
    if head.exists() and not (aside / head.name).exists():
        shutil.copy2(head, aside / head.name)
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        if path.with_name(name).exists():
            path.with_name(name).replace(aside / name)
    if head_path(new).exists():
        head_path(new).replace(head)
    new.replace(path)
    with contextlib.suppress(FileNotFoundError):
        new.with_name(new.name + ".lock").unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
