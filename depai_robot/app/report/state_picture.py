"""A machine's states as a picture, drawn from its table of legal moves; the path that was taken stands out.

Phases stand in one column. A move to the next row is an arrow; moves that skip rows down run in lanes on the right,
one lane a target, moves up in lanes on the left. So "failure never goes back a row" can be seen.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

BOX_W, BOX_H, GAP_Y, MARGIN, LANE = 176, 34, 24, 12, 15
"""Pixels."""
HUES = 5

_LIGHT = {
    "sb": "#eef3f7",
    "sl": "#7a93a8",
    "st": "#17324a",
    "so": "#1d8a56",
    "sf": "#d9f0e3",
    "l0": "#8aa0b3",
    "l1": "#c08a4e",
    "l2": "#8f7fc0",
    "l3": "#4f9aa8",
    "l4": "#b8788f",
}
_DARK = {
    "sb": "#1f2b37",
    "sl": "#5d7387",
    "st": "#dce6ef",
    "so": "#4cc38a",
    "sf": "#1d3b2e",
    "l0": "#6f8496",
    "l1": "#a8793f",
    "l2": "#8577b8",
    "l3": "#468a97",
    "l4": "#a5687f",
}


def _style() -> str:
    light, dark = (
        ".states{" + ";".join(f"--{name}:{value}" for name, value in colours.items()) + "}"
        for colours in (_LIGHT, _DARK)
    )
    rules = [
        light,
        f"@media (prefers-color-scheme:dark){{{dark}}}",
        ".states .bx{fill:var(--sb);stroke:var(--sl)}",
        ".states .bx.on{fill:var(--sf);stroke:var(--so);stroke-width:2}",
        ".states .mv{fill:none;stroke-width:1.3}.states .mv.on{stroke:var(--so);stroke-width:3}",
        ".states .tx{font-size:12px;fill:var(--st)}",
        ".states .nt{font-size:10.5px;fill:var(--st);opacity:.75}.states .fo{fill:var(--so)}",
        *(f".states .h{n}{{stroke:var(--l{n})}}.states .f{n}{{fill:var(--l{n})}}" for n in range(HUES)),
    ]
    return "<style>\n" + "\n".join(rules) + "\n</style>"


@dataclass(frozen=True, slots=True)
class _Lane:
    """All moves to one target that go the same way."""

    target: str
    sources: tuple[str, ...]
    x: float
    hue: int
    side: int


def state_picture(
    moves: Iterable[tuple[str, str, str]],
    order: Sequence[str],
    path: Sequence[str] = (),
    title: str = "",
    notes: Mapping[str, str] | None = None,
) -> str:
    """SVG text, on its own or within a page.

    Args:
        moves: (from, cause, to).
        order: phases from top to bottom; "failure never goes back a row" is then to be seen.
        path: phases in the order they were taken, empty for none.
        title: for screen readers.
        notes: a few words below a phase's name.
    """
    row_by_phase = {phase: row for row, phase in enumerate(order)}
    causes: dict[tuple[str, str], list[str]] = {}
    for before, cause, after in moves:
        if before in row_by_phase and after in row_by_phase and before != after:
            causes.setdefault((before, after), []).append(cause)
    taken = set(itertools.pairwise(path))
    down = _targets(causes, row_by_phase, lambda here, there: there > here + 1)
    up = _targets(causes, row_by_phase, lambda here, there: there < here)
    left = MARGIN + (len(up) + 1) * LANE
    right = left + BOX_W
    width = right + (len(down) + 1) * LANE + MARGIN
    height = 2 * MARGIN + len(order) * (BOX_H + GAP_Y) - GAP_Y
    # Inner lanes lead to the nearest rows: to the upper ones on the right, to the lower ones on the left.
    lanes = [
        _Lane(target, sources, right + (n + 1) * LANE, n % HUES, 1)
        for n, (target, sources) in enumerate(sorted(down.items(), key=lambda item: row_by_phase[item[0]]))
    ] + [
        _Lane(target, sources, left - (n + 1) * LANE, n % HUES, -1)
        for n, (target, sources) in enumerate(sorted(up.items(), key=lambda item: -row_by_phase[item[0]]))
    ]

    def top(phase: str) -> float:
        return MARGIN + row_by_phase[phase] * (BOX_H + GAP_Y)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" class="states"',
        f' style="max-width:{width}px" font-family="ui-sans-serif,sans-serif"><title>{escape(title)}</title>',
        _style(),
    ]
    shown: list[str] = []
    for lane in lanes:
        edge = right if lane.side > 0 else left
        enter_y = top(lane.target) + BOX_H * (0.3 if lane.side > 0 else 0.7)
        for source in lane.sources:
            leave_y = top(source) + BOX_H * (0.7 if lane.side > 0 else 0.3)
            words = ", ".join(dict.fromkeys(causes[source, lane.target]))
            hint = f"<title>{escape(source)} to {escape(lane.target)}: {escape(words)}</title>"
            way = f"M{edge:g} {leave_y:g}H{lane.x:g}V{enter_y:g}H{edge:g}"
            if (source, lane.target) in taken:
                shown.append(
                    f'<path class="mv on" d="{way}">{hint}</path>{_tip(edge, enter_y, lane.side, "fo")}'
                )
            else:
                parts.append(f'<path class="mv h{lane.hue}" d="{way}">{hint}</path>')
                parts.append(f'<circle class="f{lane.hue}" cx="{lane.x:g}" cy="{leave_y:g}" r="2.2"/>')
        parts.append(_tip(edge, enter_y, lane.side, f"f{lane.hue}"))
    for (before, after), reasons in causes.items():
        if row_by_phase[after] != row_by_phase[before] + 1:
            continue
        x, y1, y2 = left + BOX_W / 2, top(before) + BOX_H, top(after)
        on = (before, after) in taken
        line, head = ("on", "fo") if on else ("h0", "f0")
        words = escape(", ".join(dict.fromkeys(reasons)))
        hint = f"<title>{escape(before)} to {escape(after)}: {words}</title>"
        parts.append(f'<path class="mv {line}" d="M{x:g} {y1:g}V{y2:g}">{hint}</path>')
        parts.append(
            f'<polygon class="{head}" points="{x:g},{y2:g} {x - 4:g},{y2 - 7:g} {x + 4:g},{y2 - 7:g}"/>'
        )
    parts += shown
    for phase in order:
        y, note = top(phase), (notes or {}).get(phase, "")
        parts.append(
            f'<rect class="bx{" on" if phase in path else ""}" x="{left}" y="{y}" width="{BOX_W}" height="{BOX_H}" '
            'rx="7"/>'
        )
        middle = left + BOX_W / 2
        parts.append(
            f'<text class="tx" x="{middle:g}" y="{y + BOX_H / 2 + (-1 if note else 4):g}" text-anchor="middle">'
            f"{escape(phase)}</text>"
        )
        if note:
            parts.append(
                f'<text class="nt" x="{middle:g}" y="{y + BOX_H - 6:g}" text-anchor="middle">{escape(note)}</text>'
            )
    parts.append("</svg>")
    return "\n".join(parts)


def _targets(
    causes: Mapping[tuple[str, str], object],
    row_by_phase: Mapping[str, int],
    wanted: Callable[[int, int], bool],
) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for before, after in causes:
        if wanted(row_by_phase[before], row_by_phase[after]):
            found[after] = (*found.get(after, ()), before)
    return found


def _tip(x: float, y: float, side: int, style: str) -> str:
    """An arrow's head at a box's edge, coming from that side."""
    return f'<polygon class="{style}" points="{x:g},{y:g} {x + 7 * side:g},{y - 4:g} {x + 7 * side:g},{y + 4:g}"/>'
