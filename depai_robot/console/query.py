"""Filter, search and order of the fleet table. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from depai_robot.console.fleet import Fleet, Robot

SEARCH_MAX = 60
_AWAY = frozenset({"BROKEN", "OFFLINE", "STALE", "SILENT"})

FILTERS: dict[str, tuple[str, Callable[[Robot, Fleet], bool]]] = {
    "all": ("every robot", lambda _r, _f: True),
    "alerts": ("robots with an open alert", lambda r, f: f.alerts.worst(r.key) > 0),
    "charging": ("robots that charge or buy", lambda r, _f: r.reading is not None and r.reading.charging_now),
    "away": ("broken, offline, stale or silent", lambda r, _f: r.status() in _AWAY),
    "low": ("battery below 30 %", lambda r, _f: 0 <= r.battery_percent < 30),
    "manual": (
        "not in automatic mode",
        lambda r, _f: r.reading is not None and r.reading.mode not in ("AUTOMATIC", "SEMIAUTOMATIC"),
    ),
}


def _station(robot: Robot) -> str:
    return robot.charging.station if robot.charging else ""


def _cost(robot: Robot) -> int:
    return (robot.charging.cost_atomic or 0) if robot.charging else 0


# Sort keys by name; the robot's name decides between equals.
SORTS: dict[str, Callable[[Robot, Fleet, float], Any]] = {
    "alerts": lambda r, f, _t: -f.alerts.worst(r.key),
    "name": lambda _r, _f, _t: 0,
    "age": lambda r, _f, _t: r.seen_s,
    "battery": lambda r, _f, _t: r.battery_percent,
    "status": lambda r, _f, _t: r.status(),
    "station": lambda r, _f, _t: (not _station(r), _station(r)),
    "cost": lambda r, _f, _t: -_cost(r),
    "spent": lambda r, _f, t: -r.spent_today_atomic(t),
}


@dataclass(frozen=True, slots=True)
class Query:
    """What the fleet table shows.

    Attributes:
        name: key of FILTERS.
        sort: key of SORTS.
        backwards: the other way round.
        search: words; each must stand somewhere in name, status, task, station, mode or an alert's kind.
    """

    name: str = "all"
    sort: str = "alerts"
    backwards: bool = False
    search: str = ""

    def next_filter(self) -> "Query":
        """The filter after this one."""
        return replace(self, name=_after(FILTERS, self.name))

    def next_sort(self) -> "Query":
        """The order after this one."""
        return replace(self, sort=_after(SORTS, self.sort), backwards=False)


def _after(names: Iterable[str], name: str) -> str:
    order = list(names)
    return order[(order.index(name) + 1) % len(order)] if name in order else order[0]


def _words(robot: Robot, fleet: Fleet) -> str:
    reading = robot.reading
    parts = [robot.key, robot.status(), *fleet.alerts.of(robot.key)]
    if reading is not None:
        parts += [reading.task, reading.mode, reading.charging.station, reading.charging.phase]
        parts += [fault.kind for fault in reading.faults]
    return " ".join(parts).lower()


def matches(robot: Robot, fleet: Fleet, query: Query) -> bool:
    """Whether the query lets this robot through."""
    if not FILTERS.get(query.name, FILTERS["all"])[1](robot, fleet):
        return False
    words = query.search[:SEARCH_MAX].lower().split()
    if not words:
        return True
    text = _words(robot, fleet)
    return all(word in text for word in words)


def select(fleet: Fleet, query: Query, now_s: float) -> list[Robot]:
    """Robots that the query lets through, in its order."""
    found = [robot for robot in fleet.robots.values() if matches(robot, fleet, query)]
    found.sort(key=lambda robot: robot.name)
    if query.sort in SORTS and query.sort != "name":
        key = SORTS[query.sort]
        found.sort(key=lambda robot: key(robot, fleet, now_s))
    if query.backwards:
        found.reverse()
    return found
