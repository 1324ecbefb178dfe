"""The demo's screen: what happens, live, from the story's lines; :mod:`depai_robot.app.view` folds them.

In a terminal it is drawn by rich, and fits itself into the terminal's height. Where the output is no terminal (a log,
CI), each event is one plain line instead.
"""

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from depai_robot.app.story import StoryTail
from depai_robot.app.view import View, describe, dock_errors, energy, fold, length, price, usdc, verdict
from depai_robot.charging.transition import RobotPhase

TRANCHES_SHOWN = 8
EVENTS_SHOWN = 8
ROOMY_ROWS = 52
"""From this height on nothing is folded together."""
FRAMES_PER_S = 8

USUAL_WAY = (
    RobotPhase.QUOTING,
    RobotPhase.FUNDING,
    RobotPhase.APPROACHING,
    RobotPhase.PRESENTING,
    RobotPhase.CHARGING,
    RobotPhase.STOPPING,
    RobotPhase.UNDOCKING,
    RobotPhase.SETTLING,
    RobotPhase.SETTLED,
)


def render(view: View, events: Sequence[str], elapsed_s: float, rows: int = ROOMY_ROWS) -> RenderableType:
    """The screen as rich sees it.

    Args:
        view: of the run.
        events: lines of what happened so far; shown until there is something better to show.
        elapsed_s: since the screen was opened.
        rows: of the terminal: with few, what is over is told in one line.
    """
    roomy = rows >= ROOMY_ROWS
    parts: list[RenderableType] = [_head(view, elapsed_s)]
    if view.phase:
        parts.append(_way(view))
    if view.quotes:
        parts.append(_quotes(view) if roomy or not view.tranches else _quotes_in_one_line(view))
    if view.docking.kind and not view.receipt.kind:
        parts.append(_docking(view))
    if view.tranches:
        over = bool(view.receipt.kind) and not roomy
        parts.append(_tranches_in_one_line(view) if over else _tranches(view, TRANCHES_SHOWN if roomy else 4))
    if view.transactions:
        parts.append(_transactions(view))
    if view.fault:
        parts.append(Text(f"noticed  {view.fault}", style="bold red"))
    if view.receipt.kind:
        parts.append(_receipt(view))
    if view.checks:
        parts.append(_checks(view, roomy=roomy))
    if not view.tranches and events:
        parts.append(Text("\n".join(events[-EVENTS_SHOWN:]), style="dim", no_wrap=True, overflow="ellipsis"))
    return Panel(Group(*parts), title="depai_robot", title_align="left", border_style="cyan")


def _head(view: View, elapsed_s: float) -> RenderableType:
    text = Text()
    text.append(f"{elapsed_s:5.1f} s  ", style="dim")
    text.append(view.phase or view.setup or "starting", style="bold cyan")
    battery = view.battery
    charge = battery.number("state_of_charge")
    charge = battery.number("soc") if charge is None else charge
    voltage_v, current_a = battery.number("voltage_v"), battery.number("current_a")
    if charge is not None:
        text.append(f"   battery {charge * 100:.1f} %", style="bold" if charge >= 0.2 else "bold yellow")
    if voltage_v is not None and current_a is not None:
        text.append(f"  {voltage_v:.1f} V {current_a:+.1f} A")
    for docked, factor in sorted(view.speed.items()):
        text.append(f"   {'docked' if docked else 'driving'} {factor:.1f}x", style="dim")
    text.append(" real time" if view.speed else "", style="dim")
    if view.notes and not view.phase:
        text.append("   " + ", ".join(f"{name} {what}" for name, what in view.notes.items()), style="dim")
    if view.ready or view.phase:
        return text
    row = Table.grid(padding=(0, 1))
    row.add_row(Spinner("dots"), text)
    return row


def _way(view: View) -> Text:
    """The procedure: what is done, where it stands, what is to come; another way is told as it was taken."""
    usual = [phase.value for phase in USUAL_WAY]
    if any(phase not in usual for phase in view.path):
        return Text(" > ".join(view.path), style="yellow")
    text = Text()
    for number, phase in enumerate(usual):
        style = "dim"
        if phase == view.phase:
            style = "bold green" if phase == RobotPhase.SETTLED.value else "bold cyan reverse"
        elif phase in view.path:
            style = "green"
        elif phase in usual[: usual.index(view.phase)] if view.phase in usual else False:
            style = "dim strike"
        text.append(" " if number else "")
        text.append(phase.lower(), style=style)
    return text


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        expand=True,
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )


def _bare(amount: str) -> str:
    """Without its unit, which stands in the column's head."""
    return amount.partition(" ")[0]


def _quotes(view: View) -> Table:
    table = _table("Quotes, in USDC")
    for name in ("station", "price/kWh", "start fee", "distance", "score: in all"):
        table.add_column(name, justify="left" if name == "station" else "right", no_wrap=True)
    table.add_column("verdict", ratio=1)
    for station, quote in sorted(view.quotes.items()):
        refused = quote.text("refused")
        score = quote.count("score") if not refused else None
        chosen = quote.data.get("chosen") is True
        cells = (
            station,
            _bare(price(quote.count("price_atomic_per_kwh"))),
            _bare(usdc(quote.count("start_fee_atomic"))),
            length(quote.number("distance_m")),
            _bare(usdc(score or None)),
            verdict(quote),
        )
        # Text, not strings: a station's words are no markup.
        table.add_row(
            *(Text(cell) for cell in cells), style="bold green" if chosen else "red" if refused else ""
        )
    return table


def _quotes_in_one_line(view: View) -> Text:
    text = Text("bought from  ", no_wrap=True, overflow="ellipsis")
    others = []
    for station, quote in sorted(view.quotes.items()):
        if quote.data.get("chosen") is True:
            text.append(f"{station} at {price(quote.count('price_atomic_per_kwh'))}", style="bold green")
        else:
            others.append(f"{station}: {'refused' if quote.text('refused') else 'dearer'}")
    return text.append(f"   ({', '.join(others)})", style="dim") if others else text


def _docking(view: View) -> Text:
    docking, seen = view.docking, view.seen
    text = Text("docking  ")
    text.append(docking.text("phase").lower(), style="bold")
    attempt = docking.count("attempt") or 1
    if attempt > 1:
        text.append(f" (attempt {attempt})", style="yellow")
    if docking.number("distance_m") is not None and not view.contact:
        text.append(f"   {length(docking.number('distance_m'))} to the dock")
        errors = dock_errors(docking)
        text.append(f"   {errors}" if errors else "")
    range_m = seen.number("range_m")
    if range_m is not None and not view.contact:
        text.append(f"   seen at {length(range_m)}", style="cyan")
        sigma_m = seen.number("sigma_range_m")
        text.append(f" +- {sigma_m * 1000:.0f} mm" if sigma_m is not None else "", style="cyan")
        text.append(f", confidence {seen.number('confidence') or 0:.2f}", style="cyan")
    if view.contact:
        text.append(f"   CONTACT {view.contact}", style="bold green")
    return text


def _tranches(view: View, shown: int) -> RenderableType:
    table = _table(f"Tranches ({len(view.tranches)}), in Wh and USDC")
    for name in ("#", "station's meter", "own meter", "owed", "signed up to", "at risk"):
        table.add_column(name, justify="right", no_wrap=True)
    for tranche in view.tranches[-shown:]:
        table.add_row(
            str(tranche.number),
            _bare(energy(tranche.station_milliwh)),
            _bare(energy(tranche.own_milliwh)),
            _bare(usdc(tranche.cost_atomic)),
            _bare(usdc(tranche.ceiling_atomic)),
            _bare(usdc(tranche.ceiling_atomic - tranche.cost_atomic)),
        )
    escrow = view.agreement.count("escrow_atomic")
    if not escrow:
        return table
    newest = view.tranches[-1]
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(no_wrap=True)
    row.add_column(ratio=1)
    row.add_column(no_wrap=True)
    bar = ProgressBar(total=escrow, completed=max(0, min(escrow, newest.ceiling_atomic)), pulse=False)
    row.add_row("signed", bar, f"of {usdc(escrow)} in escrow")
    return Group(table, row)


def _tranches_in_one_line(view: View) -> Text:
    newest = view.tranches[-1]
    return Text(
        f"{len(view.tranches)} tranches: station's meter {energy(newest.station_milliwh)}, own meter "
        f"{energy(newest.own_milliwh)}, signed up to {usdc(newest.ceiling_atomic)}"
    )


def _transactions(view: View) -> Text:
    text = Text("on chain  ")
    for number, (source, purpose, gas) in enumerate(view.transactions):
        text.append(", " if number else "")
        text.append(purpose, style="bold")
        text.append(f" by {source.removeprefix('station:')} ({gas:,} gas)", style="dim")
    return text


def _receipt(view: View) -> Panel:
    receipt = view.receipt
    own, theirs = (energy(receipt.count(f"{name}_energy_milliwh")) for name in ("robot", "station"))
    owed, claimed, deposited, returned = (
        usdc(receipt.count(f"{name}_atomic")) for name in ("owed", "claimed", "deposited", "returned")
    )
    lines = [
        f"{own} by own meter, {theirs} by the station's, from {receipt.text('station')}",
        f"owed {owed}, claimed {claimed} of {deposited} deposited; {returned} came back",
        f"stopped: {receipt.text('stop_reason')}   vouchers: {receipt.text('vouchers')}",
    ]
    if receipt.text("fault"):
        lines.append(f"fault: {receipt.text('fault')}")
    return Panel(Text("\n".join(lines)), title="Receipt", title_align="left", border_style="green")


def _checks(view: View, *, roomy: bool) -> Text:
    """Every check, or in a small terminal those that failed and how many passed."""
    failed = [check for check in view.checks if not check[1]]
    text = Text(no_wrap=True, overflow="ellipsis")
    for name, ok, detail in view.checks if roomy else failed:
        text.append(f"{'ok' if ok else 'FAILED':7}", style="green" if ok else "bold red")
        text.append(name, style="" if ok else "bold red")
        text.append(f"  {detail}\n", style="dim")
    passed = len(view.checks) - len(failed)
    text.append(f"{passed} of {len(view.checks)} checks passed", style="red" if failed else "bold green")
    return text


class Screen:
    """A context that shows a run. Call :meth:`refresh` often; between the calls the clock goes on by itself.

    Args:
        folder: of the run.
        plain: one line an event, also in a terminal.
        console: for tests; standard output if None.
    """

    def __init__(self, folder: Path, *, plain: bool = False, console: Console | None = None) -> None:
        self._tail = StoryTail(folder)
        self._console = console or Console()
        self._plain = plain or not self._console.is_terminal
        self._begun_s = time.monotonic()
        self._events: list[str] = []
        self._final = False
        self._lock = threading.Lock()
        self.view = View()
        self._live = (
            None
            if self._plain
            else Live(console=self._console, get_renderable=self._draw, refresh_per_second=FRAMES_PER_S)
        )

    def __enter__(self) -> "Screen":  # noqa: PYI034
        if self._live is not None:
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            # What stays in the terminal's history is the whole screen, however small the window is.
            self._final = True
            self._live.stop()

    def progress(self, step: str) -> None:
        """A step of set-up or audit."""
        self._say(f"set-up   {step}")
        with self._lock:
            self.view = replace(self.view, setup=step)

    def refresh(self) -> None:
        """Takes in what is new."""
        for line in self._tail.new_lines():
            words = describe(self.view, line)
            with self._lock:
                self.view = fold(self.view, line)
            # The demo says its steps before they begin, by progress(); their lines come too late.
            if words is not None and line.kind != "setup":
                self._say(words)

    def _say(self, words: str) -> None:
        stamped = f"{time.monotonic() - self._begun_s:6.1f} s  {words}"
        if self._plain:
            encoding = sys.stdout.encoding or "utf-8"
            sys.stdout.write(stamped.encode(encoding, "backslashreplace").decode(encoding) + "\n")
            sys.stdout.flush()
        else:
            with self._lock:
                self._events = [*self._events[-EVENTS_SHOWN + 1 :], stamped]

    def _draw(self) -> RenderableType:
        """By the thread that keeps the clock going."""
        with self._lock:
            view, events = self.view, self._events
        rows = ROOMY_ROWS if self._final else self._console.height
        return render(view, events, time.monotonic() - self._begun_s, rows)
