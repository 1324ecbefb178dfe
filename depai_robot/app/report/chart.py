"""Small charts and the map as SVG text; colours come from the page's style."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

WIDTH, HEIGHT = 640, 220
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 14, 34

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart.

    Attributes:
        name: in the legend.
        style: class of the page's style: ``a``, ``b`` or ``c``.
        points: (x, y), x rising.
        stairs: hold each value until the next.
    """

    name: str
    style: str
    points: Points
    stairs: bool = False


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between two values."""
    if high <= low:
        return [low]
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw)
    first = math.ceil(low / step) * step
    return [first + n * step for n in range(int((high - first) / step + 1e-9) + 1)]


def line_chart(series: Sequence[Series], x_label: str, y_label: str) -> str:
    """An SVG line chart with a legend; empty text when there is nothing to draw."""
    points = [point for item in series for point in item.points]
    if len(points) < 2:
        return ""
    x_low, x_high = min(p[0] for p in points), max(p[0] for p in points)
    y_low, y_high = min(p[1] for p in points), max(p[1] for p in points)
    pad = (y_high - y_low) * 0.06 or 1.0
    y_low, y_high = y_low - pad, y_high + pad
    x_span = (x_high - x_low) or 1.0

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (x - x_low) / x_span * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM),
        )

    out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" class="chart" role="img"><title>{escape(y_label)}</title>']
    for tick in nice_ticks(y_low, y_high):
        _, y = at(x_low, tick)
        out.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        out.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in nice_ticks(x_low, x_high, 8):
        x, _ = at(tick, y_low)
        out.append(
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{tick:g}</text>'
        )
    for item in series:
        words = []
        for number, (x, y) in enumerate(item.points):
            px, py = at(x, y)
            if number and item.stairs:
                words.append(f"H{px:.1f}V{py:.1f}")
            else:
                words.append(f"{'L' if number else 'M'}{px:.1f} {py:.1f}")
        out.append(f'<path class="line {item.style}" d="{"".join(words)}"/>')
    x = float(LEFT)
    for item in series:
        out.append(f'<path class="line {item.style}" d="M{x} {HEIGHT - 7}h18"/>')
        out.append(f'<text class="tick" x="{x + 23}" y="{HEIGHT - 3}">{escape(item.name)}</text>')
        x += 34 + 6.6 * len(item.name)
    out.append(
        f'<text class="tick" x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end">{escape(x_label)}</text>'
    )
    out.append("</svg>")
    return "".join(out)


def world_map(world: dict[str, Any], track: Sequence[tuple[float, float, float]], chosen: str) -> str:
    """The room from above: docks, the way that was driven, the robot at both ends.

    Args:
        world: the story's ``world`` line.
        track: (x_m, y_m, yaw_rad) over time.
        chosen: id of the station that was bought from.
    """
    room = world["room"]
    scale = 80.0
    width = (room["x_max_m"] - room["x_min_m"]) * scale + 40
    height = (room["y_max_m"] - room["y_min_m"]) * scale + 40

    def at(x_m: float, y_m: float) -> tuple[float, float]:
        return 20 + (x_m - room["x_min_m"]) * scale, height - 20 - (y_m - room["y_min_m"]) * scale

    out = [f'<svg viewBox="0 0 {width:.0f} {height:.0f}" class="map" role="img"><title>Map</title>']
    x0, y0 = at(room["x_min_m"], room["y_max_m"])
    out.append(f'<rect class="room" x="{x0}" y="{y0}" width="{width - 40:.0f}" height="{height - 40:.0f}"/>')
    for dock in world["docks"]:
        x, y = at(dock["x_m"], dock["y_m"])
        turn = -math.degrees(dock["yaw_rad"])
        kind = "dock on" if dock["station"] == chosen else "dock"
        out.append(
            f'<g class="{kind}" transform="translate({x:.1f} {y:.1f}) rotate({turn:.1f})">'
            f'<rect x="0" y="-16" width="5" height="32"/><rect x="-12" y="-16" width="12" height="32"/></g>'
        )
        label_x = x - 50 * math.cos(dock["yaw_rad"])
        label_y = y + 34 * math.sin(dock["yaw_rad"]) + 4
        out.append(
            f'<text class="label" x="{label_x:.1f}" y="{label_y:.1f}" text-anchor="middle">'
            f"{escape(str(dock['station'] or dock['id']))}</text>"
        )
    if track:
        words = [
            f"{'L' if n else 'M'}{x:.1f} {y:.1f}" for n, (x, y) in enumerate(at(t[0], t[1]) for t in track)
        ]
        out.append(f'<path class="track" d="{"".join(words)}"/>')
        for name, pose in (("start", track[0]), ("end", track[-1])):
            x, y = at(pose[0], pose[1])
            out.append(
                f'<g class="robot" transform="translate({x:.1f} {y:.1f}) rotate({-math.degrees(pose[2]):.1f})">'
                f'<rect x="-20" y="-14" width="40" height="28" rx="6"/><path d="M8 -6L17 0L8 6Z"/></g>'
                f'<text class="label" x="{x:.1f}" y="{y + 30:.1f}" text-anchor="middle">{name}</text>'
            )
    out.append("</svg>")
    return "".join(out)
