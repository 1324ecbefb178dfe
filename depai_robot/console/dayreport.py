"""``depai-fleet report``: one day of the history as a page with plots, and the tables behind it as CSV."""

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from html import escape
from pathlib import Path
from typing import Any

from depai_robot.console.export import to_csv
from depai_robot.console.fleet import DAY_S, Session
from depai_robot.console.history import History
from depai_robot.console.look import kwh, money
from depai_robot.console.station import METER_FAULTS
from depai_robot.values.error import ConfigError

BARS_MAX = 20
ROWS_MAX = 500
"""Of a table on the page; the CSV has all."""
WIDTH, HEIGHT = 640, 150

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--dim:#5b6672;--line:#d5dbe1;--bar:#0072b2;--bad:#b0440a;--paper:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ec;--dim:#98a4b0;--line:#38424c;--bar:#67c3f3;--bad:#ff8a5c;
--paper:#12161a}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;margin:2rem auto;
padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}
.sums{display:flex;flex-wrap:wrap;gap:1rem}.sums div{border:1px solid var(--line);border-radius:6px;padding:.5rem 1rem}
.sums b{display:block;font-size:1.3rem}.dim{color:var(--dim)}.bad{color:var(--bad)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:.2rem .6rem;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{text-align:left}.scroll{overflow-x:auto}
svg{width:100%;height:auto}svg text{fill:var(--dim);font-size:11px}svg rect{fill:var(--bar)}
svg line{stroke:var(--line)}
"""


@dataclass(slots=True)
class Sums:
    """Of one robot, one station, or the day."""

    sessions: int = 0
    energy_milliwh: int = 0
    cost_atomic: int = 0
    faults: int = 0
    meter_faults: int = 0

    def add(self, session: Session) -> None:
        """One session more."""
        self.sessions += 1
        self.energy_milliwh += session.energy_milliwh
        self.cost_atomic += session.cost_atomic
        self.faults += bool(session.fault)
        self.meter_faults += any(word in session.fault.lower() for word in METER_FAULTS)

    @property
    def price_atomic_per_kwh(self) -> int | None:
        """What a kWh has cost, fees included; None where none was bought."""
        return self.cost_atomic * 1_000_000 // self.energy_milliwh if self.energy_milliwh else None


def parse_day(text: str, now_s: float) -> tuple[float, str]:
    """Begin of a UTC day in Unix seconds, and its name: ``today``, ``yesterday`` or ``YYYY-MM-DD``.

    Raises:
        ConfigError: another word.
    """
    words = {"today": 0, "yesterday": 1}
    if text in words:
        begin_s = now_s // DAY_S * DAY_S - words[text] * DAY_S
    else:
        try:
            begin_s = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=timezone.utc).timestamp()
        except ValueError as error:
            raise ConfigError(f"day {text!r}, expected YYYY-MM-DD (UTC), today or yesterday") from error
    return begin_s, time.strftime("%Y-%m-%d", time.gmtime(begin_s))


def write_day(history: History, begin_s: float, name: str, folder: Path) -> Path:
    """Writes ``fleet-<day>.html`` and three CSV files beside it; returns the page's path.

    Raises:
        ConfigError: they can't be written.
    """
    sessions = history.sessions(begin_s, begin_s + DAY_S)
    alerts = history.alerts(begin_s, begin_s + DAY_S)
    robots: dict[str, Sums] = defaultdict(Sums)
    stations: dict[str, Sums] = defaultdict(Sums)
    hours = [Sums() for _ in range(24)]
    day = Sums()
    for session in sessions:
        hour = min(23, int((session.seen_s - begin_s) // 3600))
        for sums in (day, robots[session.robot], stations[session.station or "(unknown)"], hours[hour]):
            sums.add(session)
    kinds: dict[str, int] = defaultdict(int)
    for alert in alerts:
        kinds[alert.kind] += 1
    stem = f"fleet-{name}"
    tables = {
        f"{stem}-robots.csv": to_csv(_rows("robot", robots), _sum_names("robot")),
        f"{stem}-stations.csv": to_csv(_rows("station", stations), _sum_names("station")),
        f"{stem}-sessions.csv": to_csv((_session_row(s) for s in sessions), _SESSION_NAMES),
    }
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Fleet, {name}</title>",
        f'<meta name=viewport content="width=device-width"><style>{STYLE}</style>',
        f"<h1>Fleet on {name} <span class=dim>(UTC)</span></h1>",
        _sums(day, len(robots), len(stations), len(alerts)),
        "<h2>Spent, by the hour (USDC)</h2>",
        _bars([(f"{n:02d}", h.cost_atomic / 1e6) for n, h in enumerate(hours)]),
        "<h2>Energy, by the hour (kWh)</h2>",
        _bars([(f"{n:02d}", h.energy_milliwh / 1e6) for n, h in enumerate(hours)]),
        "<h2>Stations</h2>",
        _bars(_top(stations, "energy_milliwh"), "kWh sold by the largest"),
        _table("station", stations),
        "<h2>Robots</h2>",
        _bars(_top(robots, "cost_atomic"), "USDC spent by the largest"),
        _table("robot", robots),
        "<h2>What went wrong</h2>",
        _faults(sessions),
        f"<p>Alerts: {_words(kinds)}</p>",
        f"<p class=dim>Tables: {', '.join(f'<a href={escape(t)}>{escape(t)}</a>' for t in tables)}.</p>",
        "<p class=dim>Sums are what the robots told the console; their signed receipts are what counts.</p>",
    ]
    page = folder / f"{stem}.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in tables.items():
            (folder / file).write_text(text, encoding="utf-8")
        page.write_text("\n".join(parts) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"report in {folder}: {error.strerror or error}") from error
    return page


_SESSION_NAMES = (
    "robot",
    "station",
    "session",
    "begun",
    "ended",
    "energy_milliwh",
    "cost_atomic",
    "price_atomic_per_kwh",
    "phase",
    "fault",
    "receipt",
)


def _sum_names(first: str) -> tuple[str, ...]:
    return (
        first,
        "sessions",
        "energy_milliwh",
        "cost_atomic",
        "price_atomic_per_kwh",
        "faults",
        "meter_faults",
    )


def _rows(first: str, rows: dict[str, Sums]) -> Iterable[dict[str, Any]]:
    for name, sums in sorted(rows.items()):
        yield {first: name, **{key: getattr(sums, key) for key in _sum_names(first)[1:]}}


def _session_row(session: Session) -> dict[str, Any]:
    return {
        "robot": session.robot,
        "station": session.station,
        "session": session.session,
        "begun": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(session.begun_s)),
        "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(session.seen_s)),
        "energy_milliwh": session.energy_milliwh,
        "cost_atomic": session.cost_atomic,
        "price_atomic_per_kwh": session.price_atomic_per_kwh,
        "phase": session.phase,
        "fault": session.fault,
        "receipt": session.receipt,
    }


def _sums(day: Sums, robots: int, stations: int, alerts: int) -> str:
    figures = (
        (money(day.cost_atomic), "USDC spent"),
        (kwh(day.energy_milliwh), "kWh bought"),
        (money(day.price_atomic_per_kwh), "USDC per kWh"),
        (str(day.sessions), f"sessions of {robots} robots at {stations} stations"),
        (str(day.faults), "sessions with a fault"),
        (str(alerts), "alerts"),
    )
    return "<div class=sums>" + "".join(f"<div><b>{a}</b>{b}</div>" for a, b in figures) + "</div>"


def _top(rows: dict[str, Sums], key: str) -> list[tuple[str, float]]:
    ordered = sorted(rows.items(), key=lambda item: -getattr(item[1], key))[:BARS_MAX]
    return [(name.rpartition("/")[2], getattr(sums, key) / 1e6) for name, sums in ordered]


def _bars(bars: Sequence[tuple[str, float]], title: str = "") -> str:
    if not any(value for _, value in bars):
        return "<p class=dim>nothing</p>"
    high = max(value for _, value in bars)
    step = WIDTH / len(bars)
    out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 40}" role=img aria-label="{escape(title or "bars")}">']
    out.append(f"<text x=2 y=11>{high:.4g}</text><line x1=0 x2={WIDTH} y1={HEIGHT} y2={HEIGHT} />")
    for number, (name, value) in enumerate(bars):
        height = value / high * (HEIGHT - 18)
        left = number * step
        out.append(
            f"<rect x={left + 1:.1f} y={HEIGHT - height:.1f} width={max(1.0, step - 2):.1f} height={height:.1f}>"
            f"<title>{escape(name)}: {value:.6g}</title></rect>"
        )
        out.append(
            f"<text x={left + step / 2:.1f} y={HEIGHT + 14} text-anchor=middle>{escape(name[-8:])}</text>"
        )
    return "".join(out) + "</svg>"


def _table(first: str, rows: dict[str, Sums]) -> str:
    head = (first, "sessions", "kWh", "USDC", "USDC/kWh", "failures", "meter honest")
    out = ["<div class=scroll><table><tr>", *(f"<th>{name}</th>" for name in head), "</tr>"]
    for name, s in sorted(rows.items(), key=lambda item: -item[1].cost_atomic)[:ROWS_MAX]:
        honest = f"{100 * (s.sessions - s.meter_faults) / s.sessions:.1f} %" if s.sessions else "-"
        bad = " class=bad" if s.faults else ""
        out.append(
            f"<tr><td>{escape(name)}</td><td>{s.sessions}</td><td>{kwh(s.energy_milliwh)}</td>"
            f"<td>{money(s.cost_atomic)}</td><td>{money(s.price_atomic_per_kwh)}</td>"
            f"<td{bad}>{s.faults}</td><td>{honest}</td></tr>"
        )
    return "".join(out) + "</table></div>"


def _faults(sessions: Sequence[Session]) -> str:
    rows = [s for s in sessions if s.fault][:ROWS_MAX]
    if not rows:
        return "<p>No session had a fault.</p>"
    items = "".join(
        f"<li>{escape(s.robot)} at {escape(s.station)}: <span class=bad>{escape(s.fault)}</span> "
        f"({kwh(s.energy_milliwh)} kWh, {money(s.cost_atomic)} USDC)</li>"
        for s in rows
    )
    return f"<ul>{items}</ul>"


def _words(kinds: dict[str, int]) -> str:
    return (
        ", ".join(f"{count} {escape(kind)}" for kind, count in sorted(kinds.items(), key=lambda i: -i[1]))
        or "none"
    )
