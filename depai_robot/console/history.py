"""What a restarted console still knows: samples of each robot, sessions, alerts, and the audit log. SQLite.

A thread of its own writes in groups; losing its last second in a crash costs a point of a curve. The audit log is
another matter: a row is on disk before the command that it tells of leaves, and no row can be changed or deleted.
"""

import contextlib
import logging
import queue
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from depai_robot.console.alert import Alert, Level
from depai_robot.console.fleet import DAY_S, Session
from depai_robot.console.vda import Address
from depai_robot.values.error import ConfigError, DeviceFailedError

LOG = logging.getLogger(__name__)
SCHEMA_VERSION = 1
SAMPLES_KEPT_S = DAY_S
SESSIONS_KEPT_S = 92 * DAY_S
ALERTS_KEPT_S = 31 * DAY_S
AUDIT_SHOWN = 1_000
SESSIONS_READ_MAX = 200_000
QUEUE_MAX = 2_000
PRUNE_EVERY_S = 300
PRUNE_ROWS = 20_000
"""Deleted at a time, so that a reader never waits long."""
BUSY_TIMEOUT_S = 5.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS robot (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, interface TEXT NOT NULL, major TEXT NOT NULL,
  manufacturer TEXT NOT NULL, serial TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sample (
  robot INTEGER NOT NULL, at_s INTEGER NOT NULL, battery REAL, energy_milliwh INTEGER, cost_atomic INTEGER,
  spent_atomic INTEGER, status TEXT, PRIMARY KEY (robot, at_s)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS sample_at ON sample (at_s);
CREATE TABLE IF NOT EXISTS session (
  robot TEXT NOT NULL, session TEXT NOT NULL, station TEXT NOT NULL, begun_s REAL NOT NULL, seen_s REAL NOT NULL,
  energy_milliwh INTEGER NOT NULL, cost_atomic INTEGER NOT NULL, price_atomic_per_kwh INTEGER, phase TEXT NOT NULL,
  fault TEXT NOT NULL, receipt TEXT NOT NULL, PRIMARY KEY (robot, session)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS session_seen ON session (seen_s);
CREATE TABLE IF NOT EXISTS alert (
  subject TEXT NOT NULL, kind TEXT NOT NULL, since_s REAL NOT NULL, level INTEGER NOT NULL, text TEXT NOT NULL,
  until_s REAL, by TEXT NOT NULL, acknowledged_s REAL NOT NULL, PRIMARY KEY (subject, kind, since_s)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS alert_since ON alert (since_s);
CREATE TABLE IF NOT EXISTS audit (
  id INTEGER PRIMARY KEY, at_s REAL NOT NULL, who TEXT NOT NULL, role TEXT NOT NULL, what TEXT NOT NULL,
  subject TEXT NOT NULL, detail TEXT NOT NULL);
CREATE TRIGGER IF NOT EXISTS audit_no_update BEFORE UPDATE ON audit
  BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER IF NOT EXISTS audit_no_delete BEFORE DELETE ON audit
  BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
"""

_ADD_ROBOT = "INSERT OR IGNORE INTO robot (key, interface, major, manufacturer, serial) VALUES (?,?,?,?,?)"
_ADD_SAMPLE = "INSERT OR REPLACE INTO sample SELECT id,?,?,?,?,?,? FROM robot WHERE key=?"
_PRUNE_SAMPLES = """
DELETE FROM sample WHERE (robot, at_s) IN (SELECT robot, at_s FROM sample WHERE at_s < ? LIMIT ?)
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """One point of a robot's curves; None where it did not say.

    Attributes:
        at_s: Unix seconds.
        battery_percent: 0 to 100.
        energy_milliwh, cost_atomic: of the session at that time.
        spent_atomic: that day.
        status: word of the fleet table.
    """

    at_s: int
    battery_percent: float | None
    energy_milliwh: int | None
    cost_atomic: int | None
    spent_atomic: int | None
    status: str


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One thing that somebody did, or tried to.

    Attributes:
        at_s: Unix seconds.
        who, role: as the console was started.
        what: ``command startCharging``, ``acknowledge``, ``refused``, ``result``…
        subject: key of the robot or station.
        detail: in words.
    """

    at_s: float
    who: str
    role: str
    what: str
    subject: str
    detail: str


class History:
    """The file. Writers may come from any thread; :meth:`close` waits for what is queued."""

    def __init__(self, path: Path | None) -> None:
        """Opens or makes it.

        Args:
            path: of the file; None keeps nothing (memory).

        Raises:
            ConfigError: it can't be opened, or is another program's or a newer console's.
        """
        self.path = path
        self.dropped_count = 0
        self._name = str(path) if path else "file:depai-console?mode=memory"
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._reader = self._open()
        self._lock = threading.Lock()
        self._known: set[str] = set()
        self._queue: queue.Queue[list[tuple[str, Sequence[object]]] | None] = queue.Queue(QUEUE_MAX)
        self._pruned_s = 0.0
        self._thread = threading.Thread(target=self._write_on, name="history", daemon=True)
        self._thread.start()

    def _open(self) -> sqlite3.Connection:
        try:
            # One connection, guarded by a lock: reads are short, and groups of writes take milliseconds.
            base = sqlite3.connect(
                self._name,
                timeout=BUSY_TIMEOUT_S,
                check_same_thread=False,
                uri=self.path is None,
                isolation_level=None,
            )
            version = base.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise ConfigError(f"{self._name} has version {version}, this console knows {SCHEMA_VERSION}")
            base.execute("PRAGMA journal_mode=WAL")
            base.execute("PRAGMA synchronous=NORMAL")
            base.executescript(_SCHEMA)
            base.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        except sqlite3.Error as error:
            raise ConfigError(f"history {self._name}: {error}") from error
        return base

    def close(self) -> None:
        """Writes what is queued and closes."""
        self._queue.put(None)
        self._thread.join(BUSY_TIMEOUT_S)
        with self._lock:
            self._reader.close()

    # Writing.

    def add_samples(self, samples: Iterable[tuple[Address, Sample]]) -> None:
        """Queues points of curves."""
        rows: list[tuple[str, Sequence[object]]] = []
        named = set()
        for address, sample in samples:
            if address.key not in self._known:
                named.add(address.key)
                rows.append((_ADD_ROBOT, (address.key, *astuple(address))))
            rows.append((_ADD_SAMPLE, (*astuple(sample), address.key)))
        if self._put(rows):
            self._known |= named

    def add_sessions(self, sessions: Iterable[Session]) -> None:
        """Queues finished (or newly known) sessions; a session known before is replaced."""
        self._put(
            [
                (
                    "INSERT OR REPLACE INTO session VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                    (
                        s.robot,
                        s.session,
                        s.station,
                        s.begun_s,
                        s.seen_s,
                        s.energy_milliwh,
                        s.cost_atomic,
                        s.price_atomic_per_kwh,
                        s.phase,
                        s.fault,
                        s.receipt,
                    ),
                )
                for s in sessions
            ]
        )

    def add_alerts(self, alerts: Iterable[Alert]) -> None:
        """Queues alerts as they are now."""
        self._put(
            [
                (
                    "INSERT OR REPLACE INTO alert VALUES (?,?,?,?,?,?,?,?)",
                    (a.subject, a.kind, a.since_s, int(a.level), a.text, a.until_s, a.by, a.acknowledged_s),
                )
                for a in alerts
            ]
        )

    def prune(self, now_s: float) -> None:
        """Queues the deletion of what is too old, a bounded number of rows a time."""
        if now_s - self._pruned_s < PRUNE_EVERY_S:
            return
        self._pruned_s = now_s
        self._put(
            [
                (_PRUNE_SAMPLES, (int(now_s) - SAMPLES_KEPT_S, PRUNE_ROWS)),
                ("DELETE FROM session WHERE seen_s < ?", (now_s - SESSIONS_KEPT_S,)),
                ("DELETE FROM alert WHERE since_s < ?", (now_s - ALERTS_KEPT_S,)),
            ]
        )

    def audit(self, row: AuditRow) -> None:
        """Writes at once: when this returns, the row is on disk.

        Raises:
            DeviceFailedError: it can't be written; what it tells of must not be done.
        """
        try:
            with self._lock:
                self._reader.execute("PRAGMA synchronous=FULL")
                try:
                    self._reader.execute(
                        "INSERT INTO audit (at_s, who, role, what, subject, detail) VALUES (?,?,?,?,?,?)",
                        astuple(row),
                    )
                finally:
                    self._reader.execute("PRAGMA synchronous=NORMAL")
        except sqlite3.Error as error:
            raise DeviceFailedError(f"audit log {self._name}: {error}") from error

    # Reading.

    def robots(self) -> list[Address]:
        """Every robot that has a sample."""
        return [
            Address(*row) for row in self._read("SELECT interface, major, manufacturer, serial FROM robot")
        ]

    def samples(self, key: str, since_s: float) -> list[Sample]:
        """Points of a robot's curves, oldest first."""
        rows = self._read(
            "SELECT at_s, battery, energy_milliwh, cost_atomic, spent_atomic, status FROM sample "
            "WHERE robot = (SELECT id FROM robot WHERE key = ?) AND at_s >= ? ORDER BY at_s",
            (key, int(since_s)),
        )
        return [Sample(*row) for row in rows]

    def sessions(self, since_s: float, until_s: float = 1e12, robot: str | None = None) -> list[Session]:
        """Sessions last seen in the time, oldest first."""
        query = (
            "SELECT robot, station, session, begun_s, seen_s, energy_milliwh, cost_atomic, price_atomic_per_kwh, "
            "phase, fault, receipt FROM session WHERE seen_s >= ? AND seen_s < ?"
        )
        values: list[object] = [since_s, until_s]
        if robot is not None:
            query += " AND robot = ?"
            values.append(robot)
        rows = self._read(f"{query} ORDER BY seen_s LIMIT {SESSIONS_READ_MAX}", values)
        found = [Session(*row) for row in rows]
        for session in found:
            session.ended = True
        return found

    def alerts(self, since_s: float, until_s: float = 1e12) -> list[Alert]:
        """Alerts that were raised in the time, oldest first."""
        rows = self._read(
            "SELECT subject, kind, level, text, since_s, until_s, by, acknowledged_s FROM alert "
            "WHERE since_s >= ? AND since_s < ? ORDER BY since_s",
            (since_s, until_s),
        )
        return [Alert(row[0], row[1], Level(row[2]), *row[3:]) for row in rows]

    def audit_rows(self, count_max: int = AUDIT_SHOWN) -> list[AuditRow]:
        """The newest rows of the audit log, newest first."""
        rows = self._read(
            "SELECT at_s, who, role, what, subject, detail FROM audit ORDER BY id DESC LIMIT ?", (count_max,)
        )
        return [AuditRow(*row) for row in rows]

    def flush(self) -> None:
        """Blocks until everything queued so far is written."""
        self._queue.join()

    def _read(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        try:
            with self._lock:
                return self._reader.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise DeviceFailedError(f"history {self._name}: {error}") from error

    def _put(self, rows: list[tuple[str, Sequence[object]]]) -> bool:
        try:
            if rows:
                self._queue.put_nowait(rows)
        except queue.Full:
            self.dropped_count += len(rows)  # a slow disk must not stop the console
            return False
        return True

    def _write_on(self) -> None:
        while True:
            rows = self._queue.get()
            try:
                if rows is None:
                    return
                self._write(rows)
            finally:
                self._queue.task_done()

    def _write(self, rows: list[tuple[str, Sequence[object]]]) -> None:
        try:
            with self._lock:
                self._reader.execute("BEGIN IMMEDIATE")
                try:
                    for statement, values in rows:
                        self._reader.execute(statement, values)
                    self._reader.execute("COMMIT")
                except sqlite3.Error:
                    with contextlib.suppress(sqlite3.Error):
                        self._reader.execute("ROLLBACK")
                    raise
        except sqlite3.Error as error:
            self.dropped_count += len(rows)
            LOG.warning("history: %s", error)
