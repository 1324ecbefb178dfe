"""The demo's screen: what happens, live, from the story's lines. ``fold`` is pure; the terminal is rich's.

Where the output is no terminal (a log, CI), each event is one plain line instead.
"""

import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from depai_robot.app.story import Line, StoryTail
from depai_robot.values.money import format_energy, format_usdc

TRANCHES_SHOWN = 8
EVENTS_SHOWN = 8


@dataclass(frozen=True)
class View:
    """What is on the screen.

    Attributes:
        phase: of the wallet's session.
        path: of phases so far.
        quotes: newest by station.
        docking: newest docking line.
        battery: newest battery line.
        tranches: all so far.
        agreement: station, channel and escrow.
        transactions: (source, purpose, gas).
        speed: of simulated time by docked or not: (simulated s, wall s).
        stop: why charging ended.
        fault: what was noticed about the station.
        receipt: of the session.
        checks: of the audit.
        setup: newest step.
        contact: dock in contact.
    """

    phase: str = ""
    path: tuple[str, ...] = ()
    quotes: dict[str, dict[str, Any]] = field(default_factory=dict)
    docking: dict[str, Any] = field(default_factory=dict)
    battery: dict[str, Any] = field(default_factory=dict)
    tranches: tuple[dict[str, Any], ...] = ()
    agreement: dict[str, Any] = field(default_factory=dict)
    transactions: tuple[tuple[str, str, int], ...] = ()
    speed: dict[bool, tuple[float, float]] = field(default_factory=dict)
    stop: str = ""
    fault: str = ""
    receipt: dict[str, Any] = field(default_factory=dict)
    checks: tuple[dict[str, Any], ...] = ()
    setup: str = ""
    contact: str = ""


def fold(view: View, line: Line) -> View:
    """The view after one line; unknown kinds change nothing."""
    data, kind = line.data, line.kind
    if kind == "state" and line.source == "wallet":
        return replace(view, phase=str(data.get("to", "")), path=(*view.path, str(data.get("to", ""))))
    if kind == "quote":
        return replace(view, quotes={**view.quotes, str(data.get("station")): data})
    if kind == "docking":
        return replace(view, docking=data)
    if kind == "pose":
        return replace(view, battery=data)
    if kind == "tranche":
        return replace(view, tranches=(*view.tranches, data))
    if kind == "agreement":
        return replace(view, agreement=data)
    if kind == "tx":
        entry = (line.source, str(data.get("purpose", "")).rpartition(":")[2], int(data.get("gas") or 0))
        return replace(view, transactions=(*view.transactions, entry))
    if kind == "speed":
        pair = (float(data["simulated_s"]), float(data["wall_s"]))
        return replace(view, speed={**view.speed, bool(data["docked"]): pair})
    if kind == "stop":
        return replace(view, stop=str(data.get("reason", "")), fault=str(data.get("fault") or view.fault))
    if kind == "evidence":
        return replace(view, fault=str(data.get("reason", "")))
    if kind == "receipt":
        return replace(view, receipt=data)
    if kind == "check":
        return replace(view, checks=(*view.checks, data))
    if kind == "contact":
        return replace(view, contact=str(data.get("dock") or ""))
    if kind == "setup":
        return replace(view, setup=str(data.get("step", "")))
    return view


def describe(line: Line) -> str | None:
    """One event in words, for the plain mode; None for lines that are only for curves."""
    data = line.data
    if line.kind == "quote":
        word = _verdict(data)
        price = _price(data.get("price_atomic_per_kwh"))
        return f"quote    {data.get('station')}: {price}, {data.get('distance_m')} m, score {data.get('score')}: {word}"
    if line.kind == "state" and line.source == "wallet":
        return f"wallet   {data.get('from') or '-'} -> {data.get('to')} ({data.get('cause')})"
    if line.kind == "agreement":
        return f"channel  escrow {format_usdc(int(data['escrow_atomic']))} at {data['station']}"
    if line.kind == "tranche":
        return (
            f"tranche  {data['number']:3d}: station {format_energy(data['station_milliwh'])}, own meter "
            f"{format_energy(data['own_milliwh'])}, owed {format_usdc(data['cost_atomic'])}, signed up to "
            f"{format_usdc(data['ceiling_atomic'])}"
        )
    if line.kind == "tx":
        return (
            f"chain    {line.source}: {str(data.get('purpose')).rpartition(':')[2]} ({data.get('gas')} gas)"
        )
    if line.kind == "contact":
        return f"contact  {data.get('dock') or 'none'}"
    if line.kind == "stop":
        return f"stop     {data.get('reason')}: {data.get('detail')} {data.get('fault') or ''}".rstrip()
    if line.kind == "evidence":
        return f"evidence {data.get('reason')}"
    if line.kind == "camera":
        return f"camera   {data.get('backend')} ({data.get('reason')})"
    if line.kind == "check":
        return f"{'ok      ' if data.get('ok') else 'FAILED  '} {data.get('name')} ({data.get('detail')})"
    if line.kind == "receipt":
        return f"receipt  {format_usdc(int(data['claimed_atomic']))} for {format_energy(data['robot_energy_milliwh'])}"
    if line.kind == "setup":
        return f"set-up   {data.get('step')}"
    return None


def _verdict(quote: dict[str, Any]) -> str:
    if quote.get("chosen"):
        return "CHOSEN"
    return f"refused: {quote['refused']}" if quote.get("refused") else "dearer than the chosen one"


def _price(atomic_per_kwh: Any) -> str:
    return "-" if not atomic_per_kwh else f"{int(atomic_per_kwh) / 1e6:.3f} USDC/kWh"


def render(view: View, events: list[str], elapsed_s: float) -> RenderableType:
    """The screen as rich sees it."""
    parts: list[RenderableType] = [_head(view, elapsed_s)]
    if view.quotes:
        parts.append(_quotes(view))
    if view.docking and view.phase in ("APPROACHING", "PRESENTING", "CHARGING", "UNDOCKING", ""):
        parts.append(_docking(view))
    if view.tranches:
        parts.append(_tranches(view))
    if view.transactions:
        names = ", ".join(f"{purpose} ({gas} gas)" for _, purpose, gas in view.transactions)
        parts.append(Text(f"on chain: {names}"))
    if view.fault:
        parts.append(Text(f"noticed: {view.fault}", style="bold red"))
    if view.receipt:
        parts.append(_receipt(view))
    for check in view.checks:
        mark, style = ("ok", "green") if check.get("ok") else ("FAILED", "bold red")
        parts.append(Text(f"{mark:6} {check.get('name')}  ({check.get('detail')})", style=style))
    if not view.receipt and events:
        parts.append(Text("\n".join(events[-EVENTS_SHOWN:]), style="dim"))
    return Panel(Group(*parts), title="depai_robot", border_style="cyan")


def _head(view: View, elapsed_s: float) -> Text:
    battery = view.battery
    text = Text()
    text.append(f"{elapsed_s:5.1f} s  ", style="dim")
    text.append(view.phase or view.setup or "starting", style="bold cyan")
    if "state_of_charge" in battery:
        text.append(f"   battery {battery['state_of_charge'] * 100:.1f} %  {battery['voltage_v']:.1f} V ")
        text.append(f"{battery['current_a']:+.1f} A")
    for docked, (simulated_s, wall_s) in sorted(view.speed.items()):
        if wall_s > 0:
            text.append(f"   {'docked' if docked else 'driving'} {simulated_s / wall_s:.1f}x", style="dim")
    return text


def _quotes(view: View) -> Table:
    table = Table(title="Quotes", expand=True, title_justify="left")
    for name in ("station", "price", "start fee", "distance", "score", "verdict"):
        table.add_column(name)
    for station, quote in sorted(view.quotes.items()):
        chosen = bool(quote.get("chosen"))
        fee = quote.get("start_fee_atomic")
        table.add_row(
            station,
            _price(quote.get("price_atomic_per_kwh")),
            format_usdc(int(fee)) if fee else "-",
            f"{quote.get('distance_m', 0):.1f} m",
            str(quote.get("score")) if quote.get("score") is not None else "-",
            _verdict(quote),
            style="bold green" if chosen else "",
        )
    return table


def _docking(view: View) -> Text:
    docking = view.docking
    text = Text(f"docking  {docking.get('phase')}")
    if docking.get("distance_m") is not None:
        text.append(f"   {docking['distance_m']:.2f} m to the dock")
        text.append(
            f"   {docking['lateral_m'] * 1000:+.0f} mm beside, {docking['yaw_error_rad'] * 57.3:+.1f} deg off"
        )
    if view.contact:
        text.append(f"   CONTACT {view.contact}", style="bold green")
    return text


def _tranches(view: View) -> Table:
    table = Table(title=f"Tranches ({len(view.tranches)})", expand=True, title_justify="left")
    for name in ("#", "station's meter", "own meter", "owed", "signed up to"):
        table.add_column(name, justify="right")
    for tranche in view.tranches[-TRANCHES_SHOWN:]:
        table.add_row(
            str(tranche["number"]),
            format_energy(tranche["station_milliwh"]),
            format_energy(tranche["own_milliwh"]),
            format_usdc(tranche["cost_atomic"]),
            format_usdc(tranche["ceiling_atomic"]),
        )
    return table


def _receipt(view: View) -> Panel:
    receipt = view.receipt
    own, theirs = (
        format_energy(receipt["robot_energy_milliwh"]),
        format_energy(receipt["station_energy_milliwh"]),
    )
    owed, claimed, deposited, returned = (
        format_usdc(receipt[f"{name}_atomic"]) for name in ("owed", "claimed", "deposited", "returned")
    )
    lines = [
        f"{own} by own meter, {theirs} by the station's, from {receipt['station']}",
        f"owed {owed}, claimed {claimed} of {deposited} deposited; {returned} came back",
        f"stopped: {receipt['stop_reason']}   vouchers: {receipt['vouchers']}",
    ]
    if receipt.get("fault"):
        lines.append(f"fault: {receipt['fault']}")
    return Panel("\n".join(lines), title="Receipt", border_style="green")


class Screen:
    """A context that shows a run. Call :meth:`refresh` often.

    Args:
        folder: of the run.
        plain: one line an event, also in a terminal.
    """

    def __init__(self, folder: Path, *, plain: bool = False, console: Console | None = None) -> None:
        self._tail = StoryTail(folder)
        self._console = console or Console()
        self._plain = plain or not self._console.is_terminal
        self._live = None if self._plain else Live(console=self._console, auto_refresh=False, transient=False)
        self._begun_s = time.monotonic()
        self._events: list[str] = []
        self.view = View()

    def __enter__(self) -> "Screen":  # noqa: PYI034
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def progress(self, step: str) -> None:
        """A step of set-up or audit."""
        if self._plain:
            self._print(f"set-up   {step}")
        else:
            self._events.append(f"... {step}")
            self.view = replace(self.view, setup=step)
            self.refresh()

    def refresh(self) -> None:
        """Reads what is new, and draws it."""
        for line in self._tail.new_lines():
            self.view = fold(self.view, line)
            words = describe(line)
            if words is None or line.kind == "setup":
                continue
            self._events.append(words)
            if self._plain:
                self._print(words)
        if self._live is not None:
            self._live.update(render(self.view, self._events, time.monotonic() - self._begun_s), refresh=True)

    def _print(self, words: str) -> None:
        sys.stdout.write(f"{time.monotonic() - self._begun_s:6.1f} s  {words}\n")
        sys.stdout.flush()
