"""Robots and docks on a map of characters. Pure."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from depai_robot.console.fleet import Fleet, Robot
from depai_robot.console.look import BAD, DIM, GOOD, PLAIN, POWER, WARN, Cell

SIGN_BY_STATUS: dict[str, tuple[str, str, int]] = {
    # letter, style, which wins where several share a character
    "BROKEN": ("X", BAD, 9),
    "E-STOP": ("E", BAD, 8),
    "FAULT": ("F", BAD, 7),
    "STALE": ("?", WARN, 6),
    "PAUSED": ("p", WARN, 5),
    "CHARGING": ("+", POWER, 4),
    "DRIVING": ("o", GOOD, 3),
    "IDLE": (".", PLAIN, 2),
    "OFFLINE": ("-", DIM, 1),
    "SILENT": ("-", DIM, 0),
}
DOCK = ("D", "bold reverse")
ASPECT = 2.0
"""A character is about twice as high as wide."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What part of the map is on the screen: centre and metres a column."""

    x: float
    y: float
    metres: float

    def moved(self, columns: float, lines: float) -> "Frame":
        """Panned."""
        return Frame(self.x + columns * self.metres, self.y + lines * self.metres * ASPECT, self.metres)

    def zoomed(self, factor: float) -> "Frame":
        """Closer (factor below 1) or wider; between a millimetre and a kilometre a column."""
        return Frame(self.x, self.y, min(1000.0, max(0.001, self.metres * factor)))


def maps(fleet: Fleet) -> list[str]:
    """Ids of the maps that robots say they are on."""
    return sorted({robot.position.mapId for robot in fleet.robots.values() if robot.position is not None})


def docks(fleet: Fleet) -> list[tuple[float, float, str]]:
    """(x, y, station) of the docks that offers name, in metres."""
    return [
        (row.offer.pose_mm_mrad[0] / 1000, row.offer.pose_mm_mrad[1] / 1000, row.station)
        for row in fleet.stations.rows.values()
        if row.offer is not None
    ]


def on_map(fleet: Fleet, name: str) -> list[Robot]:
    """Robots with a position on this map."""
    return [r for r in fleet.robots.values() if r.position is not None and r.position.mapId == name]


def frame_all(
    robots: Iterable[Robot], points: Iterable[tuple[float, float, str]], columns: int, lines: int
) -> Frame:
    """A frame with everything in it."""
    xs = [r.position.x for r in robots if r.position is not None]
    ys = [r.position.y for r in robots if r.position is not None]
    for x, y, _ in points:
        xs.append(x)
        ys.append(y)
    if not xs:
        return Frame(0.0, 0.0, 0.5)
    width, height = max(xs) - min(xs), max(ys) - min(ys)
    metres = max(width / max(1, columns - 4), height / max(1, lines - 2) / ASPECT, 0.05)
    return Frame((max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2, metres)


def sketch(
    robots: Iterable[Robot],
    points: Iterable[tuple[float, float, str]],
    frame: Frame,
    columns: int,
    lines: int,
    *,
    selected: str = "",
) -> dict[tuple[int, int], Cell]:
    """(line, column) -> sign and style. Several robots in one place are a digit, of the worst one's colour."""
    rank: dict[tuple[int, int], int] = {}
    count: dict[tuple[int, int], int] = {}
    out: dict[tuple[int, int], Cell] = {}
    left = frame.x - frame.metres * columns / 2
    upper = frame.y + frame.metres * ASPECT * lines / 2

    def place(x: float, y: float) -> tuple[int, int] | None:
        column = math.floor((x - left) / frame.metres)
        line = math.floor((upper - y) / frame.metres / ASPECT)
        return (line, column) if 0 <= column < columns and 0 <= line < lines else None

    for robot in robots:
        position = robot.position
        spot = place(position.x, position.y) if position is not None else None
        if spot is None:
            continue
        letter, style, weight = SIGN_BY_STATUS[robot.status()]
        count[spot] = count.get(spot, 0) + 1
        if weight >= rank.get(spot, -1):
            rank[spot] = weight
            out[spot] = (letter, style)
        if robot.key == selected:
            rank[spot] = 99
            out[spot] = ("@", f"{style} bold reverse")
    for spot, number in count.items():
        if number > 1 and rank[spot] < 6:
            out[spot] = (str(min(9, number)), out[spot][1])
    for x, y, _ in points:
        spot = place(x, y)
        if spot is not None and spot not in out:
            out[spot] = DOCK
    return out
