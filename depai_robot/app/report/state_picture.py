"""A machine's states as a picture, drawn from its table of legal moves; the path that was taken stands out."""

import itertools
from collections.abc import Iterable, Sequence
from html import escape

BOX_W, BOX_H, GAP_Y, MARGIN, LANE = 170, 34, 26, 20, 16
"""Pixels. Main phases stand in one column; moves that skip rows run in lanes beside it."""


_STYLE = """<style>
.st{fill:#eef3f7;stroke:#7a93a8}.st.on{fill:#d9f0e3;stroke:#1d8a56;stroke-width:2}
.mv{fill:none;stroke:#9fb2c1;stroke-width:1.2}.mv.on{stroke:#1d8a56;stroke-width:2.6}
.tx{font-size:12px;fill:#17324a}.ah{fill:#9fb2c1}.ah.on{fill:#1d8a56}
</style>"""


def state_picture(
    moves: Iterable[tuple[str, str, str]], order: Sequence[str], path: Sequence[str] = (), title: str = ""
) -> str:
    """SVG text.

    Args:
        moves: (from, cause, to).
        order: phases from top to bottom; "failure never goes back a row" is then to be seen.
        path: phases in the order they were taken, empty for none.
        title: for screen readers.
    """
    row_by_phase = {phase: row for row, phase in enumerate(order)}
    causes: dict[tuple[str, str], list[str]] = {}
    for before, cause, after in moves:
        if before in row_by_phase and after in row_by_phase and before != after:
            causes.setdefault((before, after), []).append(cause)
    taken = set(itertools.pairwise(path))
    down = sorted(
        (pair for pair in causes if row_by_phase[pair[1]] > row_by_phase[pair[0]] + 1),
        key=lambda pair: row_by_phase[pair[1]] - row_by_phase[pair[0]],
    )
    up = sorted(
        (pair for pair in causes if row_by_phase[pair[1]] < row_by_phase[pair[0]]),
        key=lambda pair: row_by_phase[pair[0]] - row_by_phase[pair[1]],
    )
    left = MARGIN + (len(up) + 1) * LANE
    width = left + BOX_W + (len(down) + 1) * LANE + MARGIN
    height = 2 * MARGIN + len(order) * (BOX_H + GAP_Y) - GAP_Y
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" class="states"',
        f' style="max-width:{width}px" font-family="ui-sans-serif,sans-serif"><title>{escape(title)}</title>',
        _STYLE,
    ]

    def top(phase: str) -> float:
        return MARGIN + row_by_phase[phase] * (BOX_H + GAP_Y)

    def arrow(x: float, y: float, direction: str, on: str) -> str:
        points = {
            "down": f"{x},{y} {x - 4},{y - 7} {x + 4},{y - 7}",
            "left": f"{x},{y} {x + 7},{y - 4} {x + 7},{y + 4}",
            "right": f"{x},{y} {x - 7},{y - 4} {x - 7},{y + 4}",
        }[direction]
        return f'<polygon class="ah{on}" points="{points}"/>'

    for pair, words in causes.items():
        before, after = pair
        on = " on" if pair in taken else ""
        hint = (
            f"<title>{escape(before)} to {escape(after)}: {escape(', '.join(dict.fromkeys(words)))}</title>"
        )
        if row_by_phase[after] == row_by_phase[before] + 1:
            x = left + BOX_W / 2
            y1, y2 = top(before) + BOX_H, top(after)
            parts.append(f'<path class="mv{on}" d="M{x} {y1}V{y2}">{hint}</path>{arrow(x, y2, "down", on)}')
        elif pair in down:
            x = left + BOX_W + (down.index(pair) + 1) * LANE
            y1, y2 = top(before) + BOX_H * 0.65, top(after) + BOX_H * 0.35
            edge = left + BOX_W
            parts.append(
                f'<path class="mv{on}" d="M{edge} {y1}H{x}V{y2}H{edge}">{hint}</path>{arrow(edge, y2, "left", on)}'
            )
        else:
            x = left - (up.index(pair) + 1) * LANE
            y1, y2 = top(before) + BOX_H * 0.35, top(after) + BOX_H * 0.65
            parts.append(
                f'<path class="mv{on}" d="M{left} {y1}H{x}V{y2}H{left}">{hint}</path>{arrow(left, y2, "right", on)}'
            )
    visited = set(path)
    for phase in order:
        on = " on" if phase in visited else ""
        y = top(phase)
        parts.append(f'<rect class="st{on}" x="{left}" y="{y}" width="{BOX_W}" height="{BOX_H}" rx="7"/>')
        parts.append(
            f'<text class="tx" x="{left + BOX_W / 2}" y="{y + BOX_H / 2 + 4}" text-anchor="middle">'
            f"{escape(phase)}</text>"
        )
    parts.append("</svg>")
    return "\n".join(parts)
