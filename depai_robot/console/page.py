"""The pages about one robot, as text. Pure: the app shows them, tests read them."""

import json
from collections.abc import Sequence
from typing import Any

from rich.text import Text

from depai_robot.console.alert import SYMBOL
from depai_robot.console.diff import compare, pretty
from depai_robot.console.fleet import DAY_S, Fleet, Robot, Session
from depai_robot.console.history import Sample
from depai_robot.console.look import (
    BAD,
    DIM,
    GOOD,
    PLAIN,
    POWER,
    STYLE_BY_LEVEL,
    STYLE_BY_STATUS,
    WARN,
    age,
    battery,
    budget,
    clock,
    kwh,
    money,
    session_line,
    stamp,
)
from depai_robot.console.plot import plot, resample
from depai_robot.console.vda import clean

PAGES = ("now", "curves", "sessions", "changes", "state", "diagnostics")
AXIS = 9
SESSIONS_SHOWN = 200
_SIGN_STYLE = {"+": GOOD, "-": BAD, "~": WARN}


def _row(text: Text, name: str, value: str, style: str = PLAIN) -> None:
    text.append(f"  {name:<12}", style=DIM)
    text.append(f"{value or '-'}\n", style=style)


def now_page(robot: Robot, fleet: Fleet, now_s: float) -> Text:
    """State, session and open alerts."""
    text = Text(no_wrap=True, overflow="ellipsis")
    status = robot.status()
    reading, said = robot.reading, robot.charging
    _row(text, "status", status, STYLE_BY_STATUS.get(status, PLAIN))
    seen = f"{age(now_s - robot.seen_s)} ago, state {robot.states}" if robot.seen_s else "no state yet"
    _row(text, "last state", seen, WARN if robot.stale else PLAIN)
    kept = " (kept by the broker)" if robot.connection_retained else ""
    _row(text, "connection", f"{robot.connection or 'unknown'}{kept}")
    if reading is not None:
        cell = battery(reading.battery_percent, charging=reading.charging_now)
        _row(text, "battery", f"{cell[0]}{' charging' if reading.charging_now else ''}", cell[1])
        _row(text, "task", reading.task)
        drive = "driving" if reading.driving else "standing"
        _row(text, "mode", f"{reading.mode}, {drive}{', paused' if reading.paused else ''}")
    if robot.position is not None:
        where = robot.position
        place = f"x {where.x:.2f} m  y {where.y:.2f} m  heading {where.theta:.2f} rad  map {clean(where.mapId, 24)}"
        _row(text, "position", place)
    if said is not None:
        text.append("\nCharging\n", style="bold")
        _row(text, "phase", said.phase)
        _row(text, "station", said.station, POWER)
        _row(text, "session", said.session)
        _row(text, "energy", f"{kwh(said.energy_milliwh)} kWh for {money(said.cost_atomic)} USDC")
        _row(text, "price", f"{money(said.price_atomic_per_kwh)} USDC per kWh")
        spent = budget(robot.spent_today_atomic(now_s), said.budget_today_atomic)
        _row(text, "today", f"{spent[0]} of {money(said.budget_today_atomic)} USDC", spent[1])
        if said.receipt:
            _row(text, "receipt", said.receipt)
        if said.fault:
            _row(text, "fault", said.fault, BAD)
    kinds = fleet.alerts.of(robot.key)
    text.append(f"\nAlerts ({len(kinds)})\n", style="bold")
    for kind, level in kinds.items():
        alert = fleet.alerts.open[robot.key, kind]
        seen = f"  seen by {alert.by}" if alert.by else ""
        text.append(
            f"  {SYMBOL[level]} {clock(alert.since_s)} {alert.text}{seen}\n", style=STYLE_BY_LEVEL[level]
        )
    for fault in reading.faults if reading else ():
        text.append(f"    {fault.level:8} {fault.kind}: {fault.text}\n", style=DIM)
    return text


def curves_page(
    samples: Sequence[Sample],
    now_s: float,
    columns: int,
    lines: int,
    *,
    ascii_only: bool = False,
    hours: float = 24,
) -> Text:
    """Battery, energy and money over time."""
    text = Text(no_wrap=True, overflow="ellipsis")
    begin_s = now_s - hours * 3600
    width = max(10, columns - AXIS - 2)
    height = max(2, (lines - 7) // 3)
    panels: tuple[tuple[str, list[tuple[float, float]], float | None, str], ...] = (
        (
            "battery, %",
            [(s.at_s, s.battery_percent) for s in samples if s.battery_percent is not None],
            100.0,
            GOOD,
        ),
        (
            "energy of the session, kWh",
            [(s.at_s, s.energy_milliwh / 1e6) for s in samples if s.energy_milliwh is not None],
            None,
            POWER,
        ),
        (
            "spent that day, USDC",
            [(s.at_s, s.spent_atomic / 1e6) for s in samples if s.spent_atomic is not None],
            None,
            WARN,
        ),
    )
    for title, points, top, style in panels:
        newest = f"   now {points[-1][1]:.4g}" if points else "   nothing known"
        text.append(f"{title}{newest}\n", style="bold")
        values = resample(points, begin_s, now_s, width)
        drawn, low, high = plot(values, height, 0.0, top, ascii_only=ascii_only)
        for number, line in enumerate(drawn):
            label = f"{high:8.4g}" if number == 0 else f"{low:8.4g}" if number == len(drawn) - 1 else " " * 8
            text.append(f"{label}|", style=DIM)
            text.append(f"{line}\n", style=style)
    left, right = clock(begin_s)[:5], clock(now_s)[:5]
    text.append(f"{'':{AXIS}}{left}{f'{hours:g} h':^{max(1, width - 10)}}{right}\n", style=DIM)
    return text


def sessions_page(sessions: Sequence[Session], robot: Robot) -> Text:
    """Purchases, newest first, with their receipts."""
    text = Text(no_wrap=True, overflow="ellipsis")
    rows = {session.session: session for session in sessions}
    if robot.session is not None:
        rows[robot.session.session] = robot.session
    ordered = sorted(rows.values(), key=lambda session: -session.begun_s)[:SESSIONS_SHOWN]
    energy = sum(session.energy_milliwh for session in ordered)
    cost = sum(session.cost_atomic for session in ordered)
    text.append(f"{len(ordered)} sessions, {kwh(energy)} kWh, {money(cost)} USDC\n\n", style="bold")
    for session in ordered:
        style = BAD if session.fault else PLAIN if session.ended else POWER
        text.append(f"{session_line(session)}\n", style=style)
    if not ordered:
        text.append("none known\n", style=DIM)
    return text


def changes_page(robot: Robot) -> Text:
    """What is different in the newest state."""
    text = Text(no_wrap=True, overflow="ellipsis")
    if not robot.raw_before:
        return text.append("two states are needed to compare\n", style=DIM)
    changes = compare(robot.raw_before, robot.raw)
    text.append(f"{len(changes)} changes from the state before to the newest\n\n", style="bold")
    for change in changes:
        text.append(f"{change.sign} ", style=_SIGN_STYLE[change.sign])
        text.append(f"{change.path}  ")
        text.append(change.before, style=DIM)
        if change.before and change.after:
            text.append(" -> ", style=DIM)
        text.append(f"{change.after}\n", style=_SIGN_STYLE[change.sign])
    return text


def state_page(robot: Robot) -> Text:
    """The newest state as it came."""
    text = Text(no_wrap=True, overflow="ellipsis")
    return text.append(pretty(robot.raw) if robot.raw else "no state yet\n")


def diagnostics_page(robot: Robot) -> Text:
    """How well it keeps to the standard, and what it says it is."""
    text = Text(no_wrap=True, overflow="ellipsis")
    _row(text, "topics", robot.address.topic("…"))
    _row(text, "version", robot.reading.version if robot.reading else "")
    _row(text, "connection", f"{robot.connection or '-'} since {stamp(robot.connection_s)}")
    _row(text, "states", f"{robot.states} received, newest {stamp(robot.seen_s)}, {len(robot.raw)} bytes")
    own = robot.reading.timestamp if robot.reading else ""
    _row(text, "its clock", own)
    _row(text, "lost", f"{robot.lost} states, by header ids", WARN if robot.lost else PLAIN)
    _row(text, "repeated", str(robot.repeated), WARN if robot.repeated else PLAIN)
    _row(text, "unreadable", str(robot.unreadable), BAD if robot.unreadable else PLAIN)
    if robot.reading and robot.reading.actions:
        text.append("\nActions\n", style="bold")
        for action_id, status, result in robot.reading.actions:
            text.append(f"  {clean(status, 14):14} {clean(action_id, 40)}  {result}\n")
    text.append("\nFactsheet\n", style="bold")
    text.append(
        pretty(robot.factsheet) if robot.factsheet else "  none was sent (ask for it with c)\n", style=DIM
    )
    return text


def robot_as_json(robot: Robot, fleet: Fleet, now_s: float) -> dict[str, Any]:
    """One robot for scripts and exports: flat, units in the names."""
    reading, said, position = robot.reading, robot.charging, robot.position
    return {
        "robot": robot.key,
        "status": robot.status(),
        "connection": robot.connection,
        "state_age_s": round(now_s - robot.seen_s, 1) if robot.seen_s else None,
        "battery_percent": robot.battery_percent if robot.battery_percent >= 0 else None,
        "charging": bool(reading and reading.charging_now),
        "mode": reading.mode if reading else "",
        "task": reading.task if reading else "",
        "phase": said.phase if said else "",
        "station": said.station if said else "",
        "session": said.session if said else "",
        "energy_milliwh": said.energy_milliwh if said else None,
        "cost_atomic": said.cost_atomic if said else None,
        "spent_today_atomic": robot.spent_today_atomic(now_s),
        "budget_today_atomic": said.budget_today_atomic if said else None,
        "x_m": position.x if position else None,
        "y_m": position.y if position else None,
        "map": position.mapId if position else "",
        "alerts": sorted(fleet.alerts.of(robot.key)),
        "states_lost": robot.lost,
    }


def line_of_json(value: dict[str, Any]) -> str:
    """One line of JSON, for pipes."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def today_since(now_s: float) -> float:
    """Begin of the UTC day."""
    return now_s // DAY_S * DAY_S
