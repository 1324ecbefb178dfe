"""Alerts: raised once, told once, cleared by what raised them, acknowledged by a person. Bounded; pure."""

from collections import OrderedDict
from dataclasses import dataclass
from enum import IntEnum

OPEN_MAX = 20_000
CLOSED_MAX = 2_000
"""Closed alerts that are kept in memory; the history on disk has the day."""


class Level(IntEnum):
    """How bad: the higher, the worse."""

    NOTICE = 1
    WARNING = 2
    CRITICAL = 3


SYMBOL = {Level.NOTICE: "i", Level.WARNING: "!", Level.CRITICAL: "X"}
"""Readable without colour."""


@dataclass(slots=True)
class Alert:
    """One trouble of one robot or station.

    Attributes:
        subject: key of the robot or ``station <id>``.
        kind: ``broken``, ``stale``, ``battery``…
        level: how bad.
        text: in words.
        since_s: Unix seconds.
        until_s: when it went away; None while it lasts.
        by: who acknowledged it; empty when nobody did.
        acknowledged_s: when; 0 when not.
    """

    subject: str
    kind: str
    level: Level
    text: str
    since_s: float
    until_s: float | None = None
    by: str = ""
    acknowledged_s: float = 0.0

    @property
    def key(self) -> tuple[str, str]:
        """What makes two of them the same trouble."""
        return self.subject, self.kind


class AlertBook:
    """Open alerts by (subject, kind), and the last closed ones. Changes are handed out once by :meth:`take_changes`."""

    def __init__(self, open_max: int = OPEN_MAX, closed_max: int = CLOSED_MAX) -> None:
        self.open: dict[tuple[str, str], Alert] = {}
        self.closed: OrderedDict[tuple[str, str, float], Alert] = OrderedDict()
        self.dropped_count = 0
        self.version = 0
        self.raised_count = 0
        self._kinds_by_subject: dict[str, dict[str, Level]] = {}
        self._open_max = open_max
        self._closed_max = closed_max
        self._changes: list[Alert] = []
        self._remembered: dict[tuple[str, str], Alert] = {}

    def remember(self, alert: Alert) -> None:
        """An alert that was acknowledged before a restart: if it comes again, nobody need look again."""
        self._remembered[alert.key] = alert

    def raise_alert(self, subject: str, kind: str, level: Level, text: str, now_s: float) -> bool:
        """Opens it, or changes the words of the one that is open. True when it is new or got worse."""
        alert = self.open.get((subject, kind))
        if alert is not None:
            worse = level > alert.level
            if alert.text != text or alert.level != level:
                alert.text, alert.level = text, level
                if worse:
                    alert.by, alert.acknowledged_s = "", 0.0
                self._kinds_by_subject[subject][kind] = level
                self._note(alert)
            return worse
        if len(self.open) >= self._open_max:
            self.dropped_count += 1
            return False
        alert = Alert(subject, kind, level, text, now_s)
        known = self._remembered.pop((subject, kind), None)
        if known is not None and known.level >= level:
            alert.since_s, alert.by, alert.acknowledged_s = known.since_s, known.by, known.acknowledged_s
        self.open[subject, kind] = alert
        self._kinds_by_subject.setdefault(subject, {})[kind] = level
        self.raised_count += 1
        self._note(alert)
        return True

    def clear(self, subject: str, kind: str, now_s: float) -> None:
        """Closes it, if it is open."""
        kinds = self._kinds_by_subject.get(subject)
        if kinds is None or kind not in kinds:
            return
        del kinds[kind]
        if not kinds:
            del self._kinds_by_subject[subject]
        alert = self.open.pop((subject, kind))
        alert.until_s = now_s
        self.closed[subject, kind, alert.since_s] = alert
        if len(self.closed) > self._closed_max:
            self.closed.popitem(last=False)
        self._note(alert)

    def set_alert(self, subject: str, kind: str, level: Level, text: str, now_s: float) -> None:
        """Raises it where there is a text, and clears it where there is none."""
        if text:
            self.raise_alert(subject, kind, level, text, now_s)
        else:
            self.clear(subject, kind, now_s)

    def acknowledge(self, subject: str, kind: str, by: str, now_s: float) -> bool:
        """Somebody has seen it. False when it is not open, or was acknowledged before."""
        alert = self.open.get((subject, kind))
        if alert is None or alert.by:
            return False
        alert.by, alert.acknowledged_s = by, now_s
        self._note(alert)
        return True

    def of(self, subject: str) -> dict[str, Level]:
        """Kinds and levels of what is open for a subject."""
        return self._kinds_by_subject.get(subject, {})

    def worst(self, subject: str) -> int:
        """Highest open level of a subject, 0 for none."""
        kinds = self._kinds_by_subject.get(subject)
        return max(kinds.values()) if kinds else 0

    def count(self, *, unseen: bool = False) -> int:
        """How many are open; with ``unseen``, how many nobody has acknowledged."""
        return sum(1 for alert in self.open.values() if not alert.by) if unseen else len(self.open)

    def take_changes(self) -> list[Alert]:
        """What changed since the last call, for the history; at most OPEN_MAX of them."""
        changes, self._changes = self._changes, []
        return changes

    def _note(self, alert: Alert) -> None:
        self.version += 1
        if len(self._changes) < self._open_max:
            self._changes.append(alert)
