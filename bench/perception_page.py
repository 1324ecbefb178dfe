"""The measured part of docs/perception.md: tables, plots and the contact sheet of ``bench.perception``."""

import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from bench.perception import ALL_BANDS_M, OURS, SMALL, Cell, Line, measured_when, redraw
from depai_robot.adapters.onnx_detector import OnnxDetector
from depai_robot.app.model_eval import Judged, Row, band_of, group_rows, summarise, wilson
from depai_robot.perception.gate import position_tolerance_m
from training.degrade import CONDITIONS, PLAIN_CONDITIONS
from training.make_set import RENDERERS, open_renderer

BEGIN, END = "<!-- measured -->", "<!-- end of what was measured -->"
DETECTORS = (OURS, SMALL, "apriltag", "aruco")
NAMES = {OURS: "ours", SMALL: "ours in eight bits", "apriltag": "AprilTag 3, tuned", "aruco": "OpenCV ArUco"}
HELD_OUT = "simulator"
COLOURS = ("#013a63", "#2a6f97", "#61a5c2", "#d1495b", "#edae49", "#66a182", "#8d5a97")
FAR_M = 7.0
NONE = "-"
WORST = 100
THRESHOLDS = (0.9, 0.95, 0.98, 0.99)
THUMB_PX = (192, 144)

HEAD = ["", "target", *(NAMES[d] for d in DETECTORS)]

Pick = Callable[[Line], bool]


def select(lines: Sequence[Line], *picks: Pick) -> list[Judged]:
    return [line.judged for line in lines if all(pick(line) for pick in picks)]


def by(detector: str, renderer: str | None = None) -> Pick:
    return lambda line: line.detector == detector and renderer in (None, line.renderer)


def has_dock(line: Line) -> bool:
    return line.judged.range_m is not None


def within(low: float, high: float) -> Pick:
    return lambda line: line.judged.range_m is not None and low < line.judged.range_m <= high


def under(*conditions: str) -> Pick:
    return lambda line: line.judged.condition in conditions


def share(hits: int, count: int, digits: int = 2) -> str:
    """Percent with its interval."""
    if not count:
        return NONE
    low, high = wilson(hits, count)
    return f"{100 * hits / count:.{digits}f} ({100 * low:.{digits}f} to {100 * high:.{digits}f})"


def usable(outcomes: Sequence[Judged]) -> str:
    return share(sum(o.usable for o in outcomes), len(outcomes))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(r)} |" for r in rows), ""]


def split(lines: Sequence[Line]) -> tuple[list[Line], list[Line]]:
    """Those of the harder set, and those of the plain one with its conditions named as in the other."""
    hard, plain = [], []
    for line in lines:
        if line.judged.condition in PLAIN_CONDITIONS:
            judged = msgspec.structs.replace(
                line.judged, condition=line.judged.condition.removeprefix("plain_")
            )
            plain.append(Line(line.renderer, line.index, line.detector, judged))
        else:
            hard.append(line)
    return hard, plain


def accuracy(lines: list[Line]) -> list[list[str]]:
    """What both sets are measured by, one row each."""
    rows = []

    def row(name: str, target: str, *picks: Pick) -> None:
        seen = [usable(select(lines, by(d), has_dock, *picks)) for d in DETECTORS]
        rows.append([name, target, *seen])

    near = within(0, 5.0)
    blurred = under("blur16")
    row("usable %, all conditions, 0.35 to 5 m", "≥ 99.5", near)
    row("… homography, the renderer of the training frames", "", near, lambda x: x.renderer != HELD_OUT)
    row(
        "**… simulator, a renderer that trained nothing: the headline**",
        "≥ 97",
        near,
        lambda x: x.renderer == HELD_OUT,
    )
    row("usable % at 4 to 5 m without 16 px blur", "≥ 99", within(4, 5.0), lambda x: not blurred(x))
    row("usable % at 8 m without 16 px blur", "≥ 90", within(FAR_M, 9.0), lambda x: not blurred(x))
    row("usable % under 16 px blur, to 5 m", "≥ 98", near, blurred)
    wrong = [select(lines, by(d), near) for d in DETECTORS]
    counts = [share(sum(o.published and not o.usable for o in w), len(w), 3) for w in wrong]
    rows.append(["wrong poses published, % of frames, to 5 m", "≤ 0.05", *counts])
    frames = [summarise(d, select(lines, by(d), has_dock)).cpu_p50_ms for d in DETECTORS]
    rows.append(["full frame with pose, ms of one core, p50 here", "≤ 4", *(f"{v:.1f}" for v in frames)])
    return rows


def targets(lines: list[Line], models: Path, times: dict[str, Any]) -> list[str]:
    """Every target that frames alone can show, one row each."""
    rows = accuracy(lines)
    rooms = [select(lines, by(d), lambda line: not has_dock(line)) for d in DETECTORS]
    false = [f"{sum(o.published for o in r)} of {len(r)}" if r else NONE for r in rooms]
    rows.append([f"false docks in {len(rooms[0]):,} rooms without one", "≤ 1 of 20,000", *false])

    def high(values: list[float]) -> str:
        return f"{np.percentile(np.abs(values), 95):.2f}" if values else NONE

    clean_1m = [select(lines, by(d), within(0, 1.0), under("clean")) for d in DETECTORS]
    yaws = [high([float(np.degrees(o.yaw_rad)) for o in c if o.published]) for c in clean_1m]
    rows.append(["yaw p95 at ≤ 1 m, clean, degrees", "≤ 0.5", *yaws])
    clean_half = [select(lines, by(d), within(0, 0.5), under("clean")) for d in DETECTORS]
    laterals = [high([o.lateral_m * 1000 for o in c if o.published]) for c in clean_half]
    rows.append(["lateral p95 at ≤ 0.5 m, clean, mm", "≤ 0.5", *laterals])
    for name, value in times.items():
        rows.append([name, "≤ 2" if "track" in name else "", str(value), NONE, NONE, NONE])
    sizes = [sum(p.stat().st_size for p in f.glob("*.onnx")) / 1e6 for f in (models, models / "int8")]
    rows.append(["models together, MB", "≤ 3", *(f"{size:.2f}" for size in sizes), NONE, NONE])
    return table(HEAD, rows)


def matrix(lines: list[Line], renderer: str, key: Callable[[Judged], str], names: Sequence[str]) -> list[str]:
    rows = []
    for detector in DETECTORS:
        found = group_rows(select(lines, by(detector, renderer), has_dock), key)
        by_name: dict[str, Row] = {row.name: row for row in found}
        shares = [by_name.get(name) for name in names]
        rows.append([NAMES[detector], *(f"{100 * r.usable / r.docks:.1f}" if r else NONE for r in shares)])
    return table(["usable %", *names], rows)


def errors(lines: list[Line]) -> list[str]:
    rows = []
    for row in group_rows(
        sorted(select(lines, by(OURS), has_dock), key=lambda o: o.range_m or 0),
        lambda o: band_of(o.range_m or 0),
    ):
        figures = [row.position_p50_mm, row.position_p95_mm, row.lateral_p95_mm]
        yaws = [row.yaw_p50_deg, row.yaw_p95_deg]
        cells = [*(f"{v:.1f}" for v in figures), *(f"{v:.2f}" for v in yaws)]
        rows.append([row.name, str(row.docks), share(row.wrong, row.docks, 3), *cells])
    head = ["range", "frames", "wrong %", "position p50 mm", "p95 mm", "lateral p95 mm", "yaw p50 °", "p95 °"]
    return table(head, rows)


def thresholds(lines: list[Line]) -> list[str]:
    """What a stricter gate would publish, from the confidence that each pose came with."""
    near = select(lines, by(OURS), has_dock, within(0, 5.0))
    rooms = select(lines, by(OURS), lambda line: not has_dock(line))
    rows = []
    for threshold in THRESHOLDS:
        kept = [o for o in near if o.published and o.confidence >= threshold]
        good = sum(o.usable for o in kept)
        false = sum(o.published and o.confidence >= threshold for o in rooms)
        rows.append(
            [f"{threshold:g}", share(good, len(near)), share(len(kept) - good, len(near), 3), str(false)]
        )
    return table(
        ["gate's threshold", "usable %, to 5 m", "wrong %, to 5 m", f"false of {len(rooms):,}"], rows
    )


def plot(
    title: str, series: dict[str, list[tuple[float, float]]], top: float, unit: str, low: float = 0.0
) -> str:
    """Lines over range as SVG; names that begin with a tilde are dashed."""
    width, height, left, above = 620, 300, 52, 28
    far = 8.4

    def at(x: float, y: float) -> str:
        y = min(max(y, low), top)
        return f"{left + width * x / far:.1f} {above + height * (1 - (y - low) / (top - low)):.1f}"

    box = f"0 0 {left + width + 170} {above + height + 44}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" font-family="sans-serif" font-size="11">',
        f'<rect width="{left + width + 170}" height="{above + height + 44}" fill="#fff"/>',
        f'<text x="{left}" y="16" font-size="13">{title}</text>',
        f'<rect x="{left}" y="{above}" width="{width}" height="{height}" fill="none" stroke="#89a"/>',
    ]
    for metre in range(1, 9):
        x = left + width * metre / far
        parts.append(f'<path d="M{x:.1f} {above}v{height}" stroke="#dde5ea"/>')
        parts.append(f'<text x="{x:.1f}" y="{above + height + 16}" text-anchor="middle">{metre}</text>')
    for i in range(5):
        value = low + (top - low) * i / 4
        y = above + height * (1 - i / 4)
        parts.append(f'<path d="M{left} {y:.1f}h{width}" stroke="#dde5ea"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for number, (name, points) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        dash = ' stroke-dasharray="5 4"' if name.startswith("~") else ""
        path = "M" + "L".join(at(x, y) for x, y in points) if points else ""
        parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        y = above + 12 + 18 * number
        parts.append(
            f'<path d="M{left + width + 12} {y - 4}h22" stroke="{colour}" stroke-width="2"{dash}/>'
            f'<text x="{left + width + 40}" y="{y}">{name.lstrip("~")}</text>'
        )
    parts.append(
        f'<text x="{left + width / 2}" y="{above + height + 34}" text-anchor="middle">range, m</text>'
    )
    parts.append(
        f'<text transform="translate(14 {above + height / 2}) rotate(-90)" text-anchor="middle">{unit}</text></svg>'
    )
    return "\n".join(parts) + "\n"


def over_range(outcomes: Sequence[Judged], value: Callable[[Row], float]) -> list[tuple[float, float]]:
    found = []
    for low, high in ALL_BANDS_M:
        inside = [o for o in outcomes if o.range_m is not None and low - 0.01 < o.range_m <= high + 0.01]
        if inside:
            found.append(((low + high) / 2, value(summarise("", inside))))
    return found


def draw_plots(lines: list[Line], folder: Path) -> None:
    def usable_share(row: Row) -> float:
        return 100 * row.usable / max(row.docks, 1)

    held = [line for line in lines if line.renderer == HELD_OUT]
    series = {c: over_range(select(held, by(OURS), under(c), has_dock), usable_share) for c in CONDITIONS}
    title = "Usable poses by condition, frames of the simulator"
    (folder / "perception-usable.svg").write_text(plot(title, series, 100, "usable %"), encoding="utf-8")
    series = {
        ("" if d == OURS else "~") + NAMES[d]: over_range(select(held, by(d), has_dock), usable_share)
        for d in DETECTORS
    }
    title = "Usable poses, all conditions, frames of the simulator"
    (folder / "perception-peers.svg").write_text(plot(title, series, 100, "usable %"), encoding="utf-8")
    ours, tag = select(held, by(OURS), has_dock), select(held, by("apriltag"), has_dock)
    series = {
        "ours, p50": over_range(ours, lambda r: r.position_p50_mm),
        "ours, p95": over_range(ours, lambda r: r.position_p95_mm),
        "~AprilTag 3, p50": over_range(tag, lambda r: r.position_p50_mm),
        "~AprilTag 3, p95": over_range(tag, lambda r: r.position_p95_mm),
    }
    title = "Position error of published poses, all conditions, frames of the simulator"
    (folder / "perception-error.svg").write_text(plot(title, series, 200, "mm"), encoding="utf-8")


def badness(judged: Judged) -> tuple[int, float]:
    """False docks first, then wrong poses by how wrong, then misses, the nearest first."""
    if judged.range_m is None:
        return (3 if judged.published else 0), judged.confidence
    if judged.published and not judged.usable:
        return 2, judged.position_m / position_tolerance_m(judged.range_m)
    return (0, 0.0) if judged.published else (1, -judged.range_m)


def draw_worst(lines: list[Line], work: list[Cell], target: Path) -> int:
    """The contact sheet; says how many are not misses but wrong or false."""
    ours = sorted((x for x in lines if x.detector == OURS), key=lambda x: badness(x.judged), reverse=True)
    worst = [line for line in ours[:WORST] if badness(line.judged)[0]]
    from bench.perception import SEED, SPLIT

    thumbs = [np.zeros((THUMB_PX[1], THUMB_PX[0]), np.uint8)] * WORST
    for renderer in RENDERERS:
        source = open_renderer(renderer, SEED, SPLIT)
        mine = [cell for cell in work if cell.renderer == renderer]
        # One room of the simulator after the other.
        for place in sorted(range(len(worst)), key=lambda i: worst[i].index):
            if worst[place].renderer != renderer:
                continue
            line = worst[place]
            image = redraw(source, mine, line.index).image.astype(np.float32)
            # As a person would turn the light up.
            image *= 235 / max(float(np.percentile(image, 99)), 1.0)
            thumb = cv2.resize(
                np.clip(image, 0, 255).astype(np.uint8), THUMB_PX, interpolation=cv2.INTER_AREA
            )
            kind = ("", "missed", "wrong", "false")[badness(line.judged)[0]]
            range_m = f" {line.judged.range_m:.1f} m" if line.judged.range_m is not None else ""
            text = f"{kind} {line.judged.condition}{range_m}"
            cv2.rectangle(thumb, (0, THUMB_PX[1] - 15), (THUMB_PX[0], THUMB_PX[1]), 0, -1)
            cv2.putText(thumb, text, (3, THUMB_PX[1] - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 255, 1, cv2.LINE_AA)
            thumbs[place] = thumb
        if hasattr(source, "close"):
            source.close()
    sheet = np.vstack([np.hstack(thumbs[row * 10 : row * 10 + 10]) for row in range(10)])
    cv2.imwrite(str(target), sheet, [cv2.IMWRITE_JPEG_QUALITY, 60])
    return sum(badness(line.judged)[0] > 1 for line in worst)


def write_plain(lines: list[Line], when: str) -> list[str]:
    """The section about the frames that are as mild as the experiment's."""
    if not lines:
        return []
    count = sum(line.detector == OURS for line in lines)
    about = [
        f"{count:,} more frames of the same conditions and bands, measured {when}: no glare or shadows, 15 to 30 % of",
        "the light in low light, and what covers a quarter of the dock stands before one side of it. How mild they are",
        "was chosen by what AprilTag 3 reads of other frames ([decision](decisions/0012-two-sets-of-frames.md)).",
    ]
    text = [
        "### Frames as mild as those that the targets come from",
        "",
        *about,
        "",
        *table(HEAD, accuracy(lines)),
    ]
    near = [x for x in lines if within(0, 5.0)(x)]
    for renderer in RENDERERS:
        text += [f"Frames of the {renderer} renderer, to 5 m:", ""]
        text += matrix(near, renderer, lambda o: o.condition, CONDITIONS)
    return text


def write_page(lines: list[Line], work: list[Cell], models: Path, outcomes: Path, folder: Path) -> None:
    """Replaces the measured part of perception.md in a folder, and the pictures beside it.

    Args:
        lines: what was measured.
        work: the cells that it is of.
        models: that it is about.
        outcomes: folder of the cells' files.
        folder: of the page.
    """
    from bench import detector

    found = OnnxDetector(models)
    lines, plain = split(lines)
    bands = [band_of(high) for _, high in ALL_BANDS_M]
    measured = {k: v for k, v in detector.measure().items() if k == "tracked, with pose, ms"}
    count = sum(has_dock(line) for line in lines if line.detector == OURS)
    is_plain = [cell.condition in PLAIN_CONDITIONS for cell in work]
    when, plain_when = (
        measured_when([cell for cell, mine in zip(work, is_plain, strict=True) if mine == wanted], outcomes)
        for wanted in (False, True)
    )
    origin = f"{found.manifest.name} `{found.model_sha256[:16]}`, {found.runtime}, OpenCV {cv2.__version__}"
    text = [
        BEGIN,
        f"Measured {when} on {platform.machine()}, models {origin}.",
        f"{count:,} frames with a dock; in brackets 95 % intervals (Wilson).",
        "",
        *targets(lines, models, measured),
    ]
    for renderer in RENDERERS:
        words = "which trained nothing" if renderer == HELD_OUT else "other seeds and rooms than in training"
        text += [f"### Frames of the {renderer} renderer, {words}", ""]
        text += matrix([x for x in lines if within(0, 5.0)(x)], renderer, lambda o: o.condition, CONDITIONS)
        text += ["All conditions, by range:", ""]
        text += matrix(lines, renderer, lambda o: band_of(o.range_m or 0), bands)
    text += write_plain(plain, plain_when)
    text += ["### Errors of what we publish, both renderers, all conditions", "", *errors(lines)]
    text += ["### What a stricter gate would publish", "", *thresholds(lines)]
    draw_plots(lines, folder)
    serious = draw_worst(lines, work, folder / "perception-worst.jpg")
    text += [
        "![usable over range by condition](perception-usable.svg)",
        "![usable over range beside the peers](perception-peers.svg)",
        "![position error over range](perception-error.svg)",
        "",
        f"The hundred worst frames, light turned up: {serious} false or wrong, then misses from the nearest on.",
        "",
        "![the hundred worst frames](perception-worst.jpg)",
        END,
    ]
    page = folder / "perception.md"
    old = page.read_text(encoding="utf-8") if page.is_file() else f"{BEGIN}\n{END}\n"
    before, rest = old.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    page.write_text(before + "\n".join(text) + after, encoding="utf-8")
    print(f"wrote {page}")
