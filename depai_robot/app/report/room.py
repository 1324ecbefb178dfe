"""The room from above as SVG text: docks, the way that was driven, where the shown pictures were taken."""

import math
from collections.abc import Callable, Sequence
from html import escape

from depai_robot.app.report.run import Dock, TrackPoint, World

WIDTH = 520.0
MARGIN = 14.0
ROBOT_LENGTH_M, ROBOT_WIDTH_M = 0.50, 0.36
STEP_M = 0.02
"""Points of the way nearer together than this are one."""


def draw_room(
    world: World,
    track: Sequence[TrackPoint],
    *,
    chosen: str = "",
    contact_s: float | None = None,
    views: Sequence[tuple[str, TrackPoint]] = (),
) -> str:
    """SVG text.

    Args:
        world: room and docks.
        track: the robot over time.
        chosen: id of the station that was bought from.
        contact_s: session time of contact, where the way there ends and the way back begins.
        views: (label, where) of pictures that are shown elsewhere on the page.
    """
    scale = (WIDTH - 2 * MARGIN) / (world.x_max_m - world.x_min_m)
    height = (world.y_max_m - world.y_min_m) * scale + 2 * MARGIN

    def at(x_m: float, y_m: float) -> tuple[float, float]:
        return MARGIN + (x_m - world.x_min_m) * scale, height - MARGIN - (y_m - world.y_min_m) * scale

    out = [f'<svg viewBox="0 0 {WIDTH:g} {height:.0f}" class="map" role="img"><title>Map of the room</title>']
    out += _floor(world, at)
    for dock in world.docks:
        out += _dock(dock, at, scale, chosen=bool(chosen) and dock.station == chosen)
    there = [p for p in track if contact_s is None or p.at_s <= contact_s]
    back = [p for p in track if contact_s is not None and p.at_s >= contact_s]
    out += [_way(points, style, at) for points, style in ((there, "there"), (back, "back"))]
    if track:
        out += _robot(track[0], "start", at, scale)
        if len(track) > 1:
            out += _robot(track[-1], "end", at, scale)
    for _, point in views:
        x, y = at(point.x_m, point.y_m)
        ahead, spread = 0.55 * scale, 0.6
        corners = " ".join(
            f"L{x + ahead * math.cos(a):.1f} {y - ahead * math.sin(a):.1f}"
            for a in (point.yaw_rad - spread, point.yaw_rad + spread)
        )
        out.append(f'<path class="gaze" d="M{x:.1f} {y:.1f}{corners}Z"/>')
    for label, point in views:
        x, y = at(point.x_m, point.y_m)
        out.append(
            f'<circle class="view" cx="{x:.1f}" cy="{y:.1f}" r="8"/>'
            f'<text class="viewn" x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle">{escape(label)}</text>'
        )
    out.append("</svg>")
    return "".join(out)


def _floor(world: World, at: Callable[[float, float], tuple[float, float]]) -> list[str]:
    x0, y0 = at(world.x_min_m, world.y_max_m)
    x1, y1 = at(world.x_max_m, world.y_min_m)
    out = []
    for metre in range(math.ceil(world.x_min_m), math.floor(world.x_max_m) + 1):
        x, _ = at(metre, 0)
        out.append(f'<path class="grid" d="M{x:.1f} {y0:.1f}V{y1:.1f}"/>')
    for metre in range(math.ceil(world.y_min_m), math.floor(world.y_max_m) + 1):
        _, y = at(0, metre)
        out.append(f'<path class="grid" d="M{x0:.1f} {y:.1f}H{x1:.1f}"/>')
    out.append(f'<rect class="room" x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}"/>')
    x, y = x0 + 10, y1 - 10
    metre_px = (x1 - x0) / (world.x_max_m - world.x_min_m)
    out.append(f'<path class="scale" d="M{x:.1f} {y - 4:.1f}v4h{metre_px:.1f}v-4"/>')
    out.append(
        f'<text class="label" x="{x + metre_px / 2:.1f}" y="{y - 4:.1f}" text-anchor="middle">1 m</text>'
    )
    return out


def _dock(
    dock: Dock, at: Callable[[float, float], tuple[float, float]], scale: float, *, chosen: bool
) -> list[str]:
    x, y = at(dock.x_m, dock.y_m)
    half = 0.2 * scale
    # The label stands before the dock, towards the room.
    label_x = x - 0.62 * scale * math.cos(dock.yaw_rad)
    label_y = y + 0.42 * scale * math.sin(dock.yaw_rad) + 4
    on = " on" if chosen else ""
    out = [
        f'<g class="dock{on}" transform="translate({x:.1f} {y:.1f}) rotate({-math.degrees(dock.yaw_rad):.1f})">'
    ]
    out.append(f'<rect x="0" y="{-half:.1f}" width="{0.1 * scale:.1f}" height="{2 * half:.1f}"/>')
    depth = 0.15 * scale
    out.append(
        f'<rect class="base" x="{-depth:.1f}" y="{-half:.1f}" width="{depth:.1f}" height="{2 * half:.1f}"/>'
    )
    out.append(f"<title>{escape(dock.id)}</title></g>")
    out.append(
        f'<text class="label{on}" x="{label_x:.1f}" y="{label_y:.1f}" text-anchor="middle">'
        f"{escape(dock.station or dock.id)}</text>"
    )
    return out


def _way(points: Sequence[TrackPoint], style: str, at: Callable[[float, float], tuple[float, float]]) -> str:
    kept: list[TrackPoint] = []
    for point in points:
        if not kept or math.hypot(point.x_m - kept[-1].x_m, point.y_m - kept[-1].y_m) >= STEP_M:
            kept.append(point)
    if len(kept) < 2:
        return ""
    words = "L".join(f"{x:.1f} {y:.1f}" for x, y in (at(p.x_m, p.y_m) for p in kept))
    return f'<path class="way {style}" d="M{words}"/>'


def _robot(
    point: TrackPoint, name: str, at: Callable[[float, float], tuple[float, float]], scale: float
) -> list[str]:
    x, y = at(point.x_m, point.y_m)
    length, width = ROBOT_LENGTH_M * scale, ROBOT_WIDTH_M * scale
    turn = -math.degrees(point.yaw_rad)
    out = [f'<g class="robot {name}" transform="translate({x:.1f} {y:.1f}) rotate({turn:.1f})">']
    out.append(
        f'<rect x="{-length / 2:.1f}" y="{-width / 2:.1f}" width="{length:.1f}" height="{width:.1f}" rx="5"/>'
    )
    out.append(f'<path d="M{length * 0.18:.1f} -5L{length * 0.4:.1f} 0L{length * 0.18:.1f} 5Z"/></g>')
    out.append(
        f'<text class="label" x="{x:.1f}" y="{y + width / 2 + 15:.1f}" text-anchor="middle">{name}</text>'
    )
    return out
