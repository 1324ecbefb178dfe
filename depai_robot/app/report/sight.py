"""What the camera saw: a handful of pictures over the approach, with the detector's keypoints, and how true it was."""

import base64
import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from depai_robot.app.report.run import Dock, Run, TrackPoint
from depai_robot.app.resource import resource_path
from depai_robot.app.story import Line
from depai_robot.sim.scene import CameraMount, parse_robot
from depai_robot.values.error import ConfigError

FRAMES_SHOWN = 6
VISIBLE_MIN = 0.5
CORNERS = 4
"""Keypoints come as rectangles, corner by corner (config/dock.yaml)."""
FILE_BYTES_MAX = 2_000_000
SAME_DOCK_M = 1.0
"""A dock farther than this from where the detector put it is not the one that it saw."""


@dataclass(frozen=True, slots=True)
class Sight:
    """One picture of the page.

    Attributes:
        number: label, also on the map.
        uri: the JPEG as a data URI.
        overlay: SVG of keypoints and outlines.
        words: range and confidence.
        truth: how far off that was, empty when nobody knows.
        place: where the robot was.
        range_m: as measured, None when no pose was published.
    """

    number: int
    uri: str
    overlay: str
    words: str
    truth: str
    place: TrackPoint | None
    range_m: float | None


def choose_sights(run: Run) -> list[Sight]:
    """Pictures of the wanted dock before contact, spread evenly over the distance; others when there are none."""
    until_s = run.contact_s if run.contact_s is not None else math.inf
    seen = [line for line in run.of("detection", "detector") if line.text("frame")]
    before = [line for line in seen if line.ros_s <= until_s]
    measured = [line for line in before if line.number("range_m") is not None]
    wanted = [line for line in measured if _is_wanted(run, line)]
    chosen = _spread(wanted or measured or before or seen)
    sights: list[Sight] = []
    for line in chosen:
        sight = _sight(run, line, len(sights) + 1)
        if sight is not None:
            sights.append(sight)
    return sights


def error_statistics(run: Run) -> tuple[int, float, float] | None:
    """(pictures, median, greatest) of |measured - true range| in metres, of the wanted dock; None when unknown."""
    errors = []
    for line in run.of("detection", "detector"):
        match, range_m = _match(run, line), line.number("range_m")
        if match is not None and range_m is not None and match[0].station == run.station:
            errors.append(abs(range_m - match[1]))
    return (len(errors), float(np.median(errors)), max(errors)) if errors else None


def _spread(lines: Sequence[Line]) -> list[Line]:
    """A handful, evenly over the logarithm of the range, or over time where no range is known."""
    if len(lines) <= FRAMES_SHOWN:
        return list(lines)
    keys = [math.log(max(0.05, line.number("range_m") or 1.0)) for line in lines]
    if max(keys) - min(keys) < 0.1:
        keys = [float(number) for number in range(len(lines))]
    wanted = np.linspace(max(keys), min(keys), FRAMES_SHOWN)
    chosen = {min(range(len(lines)), key=lambda n, w=w: abs(keys[n] - w)) for w in wanted}  # type: ignore[misc]
    return [lines[number] for number in sorted(chosen)]


@functools.cache
def _camera() -> CameraMount | None:
    try:
        return parse_robot(resource_path("config", "robot.yaml").read_text(encoding="utf-8")).camera
    except (ConfigError, OSError):
        return None


def _match(run: Run, line: Line) -> tuple[Dock, float] | None:
    """The dock that was in sight and its true distance from the camera in the plane, as the simulation knows them."""
    stamp_s, range_m = line.number("stamp_s"), line.number("range_m")
    place = run.place_at(stamp_s) if stamp_s is not None else None
    camera = _camera()
    if run.world is None or place is None or camera is None or range_m is None:
        return None
    x_m = place.x_m + camera.x_m * math.cos(place.yaw_rad)
    y_m = place.y_m + camera.x_m * math.sin(place.yaw_rad)
    points = np.asarray(_points(line), dtype=float)
    bearing = 0.0
    if len(points):
        bearing = math.atan2(camera.width_px / 2 - float(points[:, 0].mean()), camera.focal_px)
    seen_x = x_m + range_m * math.cos(place.yaw_rad + bearing)
    seen_y = y_m + range_m * math.sin(place.yaw_rad + bearing)
    found = min(run.world.docks, key=lambda d: math.hypot(d.x_m - seen_x, d.y_m - seen_y), default=None)
    if found is None or math.hypot(found.x_m - seen_x, found.y_m - seen_y) > SAME_DOCK_M:
        return None
    return found, math.hypot(found.x_m - x_m, found.y_m - y_m)


def _is_wanted(run: Run, line: Line) -> bool:
    match = _match(run, line)
    return match is not None and bool(run.station) and match[0].station == run.station


def _sight(run: Run, line: Line, number: int) -> Sight | None:
    data = _read_jpeg(run, line.text("frame"))
    if data is None:
        return None
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    if pixels is None:
        return None
    range_m, confidence, sigma_m = (line.number(name) for name in ("range_m", "confidence", "sigma_range_m"))
    if range_m is None:
        words = "the dock is in sight, but no pose was published"
    else:
        words = f"{range_m:.2f} m" + (f" ± {sigma_m * 1000:.0f} mm" if sigma_m is not None else "")
        words += f", confidence {confidence or 0:.2f}"
    stamp_s = line.number("stamp_s")
    return Sight(
        number,
        "data:image/jpeg;base64," + base64.b64encode(data).decode(),
        _overlay(line, pixels.shape[1], pixels.shape[0]),
        words,
        _truth(run, line),
        run.place_at(stamp_s) if stamp_s is not None else None,
        range_m,
    )


def _truth(run: Run, line: Line) -> str:
    match, range_m = _match(run, line), line.number("range_m")
    if match is None or range_m is None:
        return ""
    dock, true_m = match
    other = f"another dock, {dock.id}; " if run.station and dock.station != run.station else ""
    return f"{other}really {true_m:.2f} m ({(range_m - true_m) * 1000:+.0f} mm)"


def _read_jpeg(run: Run, name: str) -> bytes | None:
    """A picture within the run's folder, and nothing else."""
    try:
        path = (run.folder / name).resolve()
        if not path.is_relative_to(run.folder.resolve()) or path.stat().st_size > FILE_BYTES_MAX:
            return None
        data = path.read_bytes()
    except (OSError, ValueError):
        return None
    return data if data.startswith(b"\xff\xd8") else None


def _points(line: Line) -> list[tuple[float, float]]:
    """Keypoints in pixels; empty when the line has none that are numbers."""
    found: list[tuple[float, float]] = []
    points: Any = line.data.get("keypoints")
    for point in points if isinstance(points, list) else []:
        if not (isinstance(point, list) and len(point) == 2 and all(_is_number(v) for v in point)):
            return []
        found.append((float(point[0]), float(point[1])))
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _overlay(line: Line, width: int, height: int) -> str:
    points = _points(line)
    visibility: Any = line.data.get("visibility")
    sure = (
        visibility if isinstance(visibility, list) and len(visibility) == len(points) else [1.0] * len(points)
    )
    visible = [_is_number(value) and value > VISIBLE_MIN for value in sure]
    out = [f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">']
    for begin in range(0, len(points) - CORNERS + 1, CORNERS):
        corners = range(begin, begin + CORNERS)
        # A side is drawn where both its ends were seen.
        out += [
            f'<path d="M{points[a][0]:.1f} {points[a][1]:.1f}L{points[b][0]:.1f} {points[b][1]:.1f}"/>'
            for a, b in itertools.pairwise((*corners, begin))
            if visible[a] and visible[b]
        ]
    out += [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{max(3.0, width / 190):.1f}"/>'
        for (x, y), shown in zip(points, visible, strict=True)
        if shown
    ]
    out.append("</svg>")
    return "".join(out)
