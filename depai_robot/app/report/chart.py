"""Charts over time as SVG text; colours come from the page's style. Several panels share one axis of time."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH = 520
LEFT, RIGHT, TOP, BOTTOM, GAP, LEGEND = 54, 10, 8, 22, 16, 20
"""Pixels of the view box. Small enough that the words can be read on a phone."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a panel.

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


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart of a column.

    Attributes:
        title: what and in which unit.
        series: lines.
        band: (x, low, high) of what is allowed, filled behind the lines.
        band_name: in the legend.
        limits: (name, y) of horizontal lines.
        height: pixels of the view box.
    """

    title: str
    series: Sequence[Series]
    band: Sequence[tuple[float, float, float]] = ()
    band_name: str = ""
    limits: Sequence[tuple[str, float]] = ()
    height: int = 150

    def values(self) -> list[float]:
        """Every y that must be seen."""
        found = [y for item in self.series for _, y in item.points]
        if found:
            found += [y for _, low, high in self.band for y in (low, high)] + [y for _, y in self.limits]
        return found


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """What the panels share.

    Attributes:
        from_x, until_x: seconds.
        shades: (name, from x, until x) of stretches to be told apart.
        marks: (name, x) of events.
    """

    from_x: float
    until_x: float
    shades: Sequence[tuple[str, float, float]] = field(default_factory=tuple)
    marks: Sequence[tuple[str, float]] = field(default_factory=tuple)

    def at(self, x: float) -> float:
        """Pixels from the left."""
        share = (x - self.from_x) / ((self.until_x - self.from_x) or 1.0)
        return LEFT + min(1.0, max(0.0, share)) * (WIDTH - LEFT - RIGHT)


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between two values."""
    if not math.isfinite(high - low) or high <= low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((m * power for m in (1, 2, 2.5, 5) if m * power >= raw * (1 - 1e-9)), 10 * power)
    first = math.ceil(low / step - 1e-9)
    return [(first + n) * step for n in range(int(high / step - first + 1e-6) + 1)]


def draw_panels(panels: Sequence[Panel], axis: TimeAxis, label: str) -> str:
    """One SVG with the panels below each other; empty text when none has a line of two points."""
    panels = [panel for panel in panels if any(len(item.points) > 1 for item in panel.series)]
    if not panels or axis.until_x <= axis.from_x:
        return ""
    total = sum(panel.height + LEGEND + GAP for panel in panels) + BOTTOM
    out = [
        f'<svg viewBox="0 0 {WIDTH} {total}" class="chart" role="img"><title>{escape(label)}</title>',
    ]
    top = 0.0
    for panel in panels:
        out += _panel(panel, axis, top + LEGEND + TOP)
        top += panel.height + LEGEND + GAP
    base = top - GAP + TOP
    for tick in nice_ticks(axis.from_x, axis.until_x, 8):
        out.append(
            f'<text class="tick" x="{axis.at(tick):.1f}" y="{base + 14:.1f}" text-anchor="middle">{tick:g}</text>'
        )
    out.append("</svg>")
    return "".join(out)


def _panel(panel: Panel, axis: TimeAxis, top: float) -> list[str]:
    values = panel.values()
    low, high = min(values), max(values)
    pad = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    low, high = low - pad, high + pad
    height = panel.height - TOP

    def y_at(y: float) -> float:
        return top + height - (y - low) / (high - low) * height

    out = [f'<g><text class="title" x="{LEFT}" y="{top - 9:.1f}">{escape(panel.title)}</text>']
    for number, (name, begin, end) in enumerate(axis.shades):
        x = axis.at(begin)
        out.append(
            f'<rect class="shade s{number % 2}" x="{x:.1f}" y="{top:.1f}" width="{max(0.0, axis.at(end) - x):.1f}" '
            f'height="{height:.1f}"><title>{escape(name)}</title></rect>'
        )
    for tick in nice_ticks(low, high, 4):
        y = y_at(tick)
        out.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        out.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    if panel.band:
        upper = "L".join(f"{axis.at(x):.1f} {y_at(top_y):.1f}" for x, _, top_y in panel.band)
        lower = "L".join(f"{axis.at(x):.1f} {y_at(low_y):.1f}" for x, low_y, _ in reversed(panel.band))
        out.append(f'<path class="band" d="M{upper}L{lower}Z"/>')
    for name, y in panel.limits:
        out.append(f'<path class="limit" d="M{LEFT} {y_at(y):.1f}H{WIDTH - RIGHT}"/>')
        out.append(f'<text class="tick" x="{LEFT + 4}" y="{y_at(y) + 13:.1f}">{escape(name)}</text>')
    for name, x in axis.marks:
        out.append(
            f'<path class="mark" d="M{axis.at(x):.1f} {top:.1f}v{height:.1f}"><title>{escape(name)}</title></path>'
        )
    out += [f'<path class="line {item.style}" d="{_path(item, axis, y_at)}"/>' for item in panel.series]
    out += _legend(panel, top)
    out.append("</g>")
    return out


def _path(item: Series, axis: TimeAxis, y_at: Callable[[float], float]) -> str:
    words = []
    for number, (x, y) in enumerate(item.points):
        px, py = axis.at(x), y_at(y)
        if number and item.stairs:
            words.append(f"H{px:.1f}V{py:.1f}")
        else:
            words.append(f"{'L' if number else 'M'}{px:.1f} {py:.1f}")
    return "".join(words)


def _legend(panel: Panel, top: float) -> list[str]:
    """Right of the title, from the right edge inwards; one line needs none."""
    entries = [(item.name, f"line {item.style}") for item in panel.series if item.name]
    entries += [(panel.band_name, "bandkey")] if panel.band and panel.band_name else []
    if len(entries) < 2:
        return []
    out, x = [], WIDTH - RIGHT
    for name, style in reversed(entries):
        x -= round(6.1 * len(name))
        out.append(f'<text class="tick" x="{x}" y="{top - 9:.1f}">{escape(name)}</text>')
        x -= 20
        out.append(f'<path class="{style}" d="M{x} {top - 13:.1f}h15"/>')
        x -= 10
    return out


def draw_timeline(axis: TimeAxis, marks: Sequence[tuple[str, float]]) -> str:
    """The phases as one bar in proportion to their time, with named events below; empty when there is no time."""
    if axis.until_x <= axis.from_x or not axis.shades:
        return ""
    width, height = 1000.0, 66
    span = axis.until_x - axis.from_x
    out = [
        f'<svg viewBox="0 0 {width:g} {height}" class="timeline" role="img"><title>Phases over time</title>'
    ]
    for number, (name, begin, end) in enumerate(axis.shades):
        x, w = (begin - axis.from_x) / span * width, max(1.5, (end - begin) / span * width)
        out.append(
            f'<g><rect class="phase p{number % 4}" x="{x:.1f}" y="0" width="{w:.1f}" height="26">'
            f"<title>{escape(name)}: {end - begin:.1f} s</title></rect>"
        )
        if w > 8.2 * len(name):
            out.append(
                f'<text class="in" x="{x + w / 2:.1f}" y="18" text-anchor="middle">{escape(name)}</text>'
            )
        out.append("</g>")
    edge = [-1e9, -1e9]
    for name, at in marks:
        x = (at - axis.from_x) / span * width
        half = 3.4 * len(name)
        place = min(max(x, half), width - half)
        row = 0 if place - half > edge[0] else 1 if place - half > edge[1] else None
        out.append(
            f'<path class="pin" d="M{x:.1f} 26v7"><title>{escape(name)} at {at - axis.from_x:.1f} s</title></path>'
        )
        if row is not None:
            edge[row] = place + half + 6
            out.append(
                f'<text class="tick" x="{place:.1f}" y="{45 + 15 * row}" text-anchor="middle">{escape(name)}</text>'
            )
    out.append("</svg>")
    return "".join(out)


def draw_flow(parts: Sequence[tuple[str, str, int]], label: str) -> str:
    """One bar cut into named parts in proportion to their amounts.

    Args:
        parts: (words, style class, amount).
        label: for screen readers.
    """
    total = sum(amount for _, _, amount in parts)
    if total <= 0:
        return ""
    out = [f'<svg viewBox="0 0 {WIDTH} 30" class="flow" role="img"><title>{escape(label)}</title>']
    x = 0.0
    for words, style, amount in parts:
        width = amount / total * WIDTH
        if amount > 0:
            out.append(
                f'<rect class="{style}" x="{x:.1f}" y="0" width="{max(1.0, width - 1.5):.1f}" height="30" rx="3">'
                f"<title>{escape(words)}</title></rect>"
            )
        x += width
    out.append("</svg>")
    return "".join(out)
