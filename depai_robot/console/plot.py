"""Curves as text: blocks of eighths, or plain ASCII for terminals that have no others. Pure."""

import math
from collections.abc import Sequence

BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII = " .:-=+*#@"


def resample(
    points: Sequence[tuple[float, float]], from_x: float, until_x: float, columns: int
) -> list[float | None]:
    """The last value in each of ``columns`` equal stretches; a stretch without one keeps the value before it.

    Args:
        points: (x, y), x rising.
        from_x: left end.
        until_x: right end.
        columns: how many.
    """
    out: list[float | None] = [None] * columns
    width = (until_x - from_x) / columns if columns and until_x > from_x else 0.0
    before: float | None = None
    for x, y in points:
        if not math.isfinite(y) or width <= 0 or x > until_x:
            continue
        if x < from_x:
            before = y
            continue
        out[min(columns - 1, int((x - from_x) / width))] = y
    last = points[-1][0] if points else from_x
    for number, value in enumerate(out):
        if value is not None:
            before = value
        elif width and from_x + number * width <= last:
            out[number] = before
    return out


def plot(
    values: Sequence[float | None],
    height: int,
    low: float | None = None,
    high: float | None = None,
    *,
    ascii_only: bool = False,
) -> tuple[list[str], float, float]:
    """Lines of text from top to bottom, and the lowest and highest value of the axis.

    Args:
        values: one a column; None leaves the column empty.
        height: lines.
        low: bottom of the axis; the smallest value if None.
        high: top of the axis; the largest value if None.
        ascii_only: no block characters.
    """
    known = [value for value in values if value is not None]
    low = low if low is not None else min(known, default=0.0)
    high = high if high is not None else max(known, default=1.0)
    if high <= low:
        high = low + 1.0
    steps = ASCII if ascii_only else BLOCKS
    eighths = [
        -1 if v is None else max(1, round((min(high, max(low, v)) - low) / (high - low) * height * 8))
        for v in values
    ]
    lines = [
        "".join(" " if e < 0 else steps[min(8, max(0, e - row * 8))] for e in eighths)
        for row in range(height - 1, -1, -1)
    ]
    return lines, low, high
