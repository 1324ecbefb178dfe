"""The console's main screen: fleet, stations, alerts, map, audit log. Textual draws; the hub knows.

One timer takes in messages for a few milliseconds at a time and draws the cells that changed; a second one, slower,
orders the tables. Keys are answered between, so a burst of messages is never felt at the keyboard.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import ContentSwitcher, Input, Static

from depai_robot.app.journal_told import Telling
from depai_robot.console.alert import SYMBOL, Alert, Level
from depai_robot.console.command import Command, Role
from depai_robot.console.export import write_export
from depai_robot.console.fleet import Robot
from depai_robot.console.grid import Grid
from depai_robot.console.hub import Hub
from depai_robot.console.look import (
    BAD,
    DIM,
    GOOD,
    POWER,
    STYLE_BY_LEVEL,
    WARN,
    alert_sheet,
    audit_sheet,
    robot_sheet,
    stamp,
    station_sheet,
)
from depai_robot.console.mapview import MapView
from depai_robot.console.order import Order, describe
from depai_robot.console.pace import Collector
from depai_robot.console.page import robot_as_json
from depai_robot.console.query import FILTERS, SEARCH_MAX, Query, select
from depai_robot.console.screen import CommandScreen, ConfirmScreen, HelpScreen, OrderScreen, RobotScreen
from depai_robot.console.station import Station
from depai_robot.fleet.command import Command as SignedCommand
from depai_robot.values.error import DepaiError

PUMP_S = 0.05
BURST = 500
PUMP_BUDGET_S = 0.01
BURST_BUDGET_S = 0.03
"""While a burst waits, as at the start, and nobody types."""
TYPING_S = 0.3
ORDER_AT_LAST_S = 3.0
"""While somebody types, the tables are ordered anew as rarely as this."""
ORDER_S = 1.0
BELL_S = 5.0
"""Between two sounds, however many alerts come."""
VIEWS = ("fleet", "stations", "alerts", "map", "audit")
HINTS = {
    "fleet": "Enter open  / search  f filter  s sort  c command  x export  ? help  q quit",
    "stations": "x export   1 fleet 2 stations 3 alerts 4 map 5 audit   ? help   q quit",
    "alerts": "Enter open  a acknowledge  A all  o over too  b bell  x export  ? help  q quit",
    "map": "+ - closer wider   arrows move   0 everything   m next map   ? help   q quit",
    "audit": "x export   1 fleet 2 stations 3 alerts 4 map 5 audit   ? help   q quit",
}

CSS = """
Screen { layout: vertical; overflow: hidden; }
ContentSwitcher { height: 1fr; }
#top, #sub, #hint, #robot-head, #robot-keys { height: 1; }
#hint { text-style: reverse; }
#search { height: 1; border: none; padding: 0; display: none; }
#search.open { display: block; }
HelpScreen, ConfirmScreen, CommandScreen, OrderScreen { align: center middle; }
#help { width: 76; max-width: 100%; height: auto; max-height: 100%; border: round $primary; padding: 0 1;
  background: $surface; }
#confirm, #command, #order { width: 64; max-width: 100%; height: auto; border: heavy $warning; padding: 1 2;
  background: $surface; }
#command OptionList { height: auto; max-height: 14; border: none; }
#robot-scroll { height: 1fr; }
#robot-body { height: auto; }
"""

_OTHER_ACTIONS = frozenset(("help", "quit", "focus_next", "focus_previous", "copy_text", "help_quit"))
"""Of the app, that work on every screen."""


class FleetApp(App[None]):
    """``depai-fleet``.

    Args:
        hub: started by the app.
        export_folder: where ``x`` writes.
    """

    CSS = CSS
    TITLE = "depai-fleet"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(n), f"view('{name}')", name) for n, name in enumerate(VIEWS, start=1)),
        Binding("slash", "search", "Search"),
        Binding("escape", "clear", "Clear", show=False),
        Binding("f", "filter", "Filter"),
        Binding("s", "sort", "Sort"),
        Binding("S", "backwards", "Other way", show=False),
        Binding("c", "command", "Command"),
        Binding("a", "acknowledge", "Acknowledge"),
        Binding("A", "acknowledge_all", "Acknowledge all", show=False),
        Binding("o", "over", "Over too", show=False),
        Binding("x", "export", "Export"),
        Binding("b", "sound", "Bell", show=False),
        Binding("question_mark", "help", "Help"),
        Binding("q,ctrl+q,ctrl+c", "leave", "Quit"),
    ]

    def __init__(self, hub: Hub, export_folder: Path = Path()) -> None:
        super().__init__()
        self.hub = hub
        self.fleet = hub.fleet
        self.query_now = Query()
        self.view_name = "fleet"
        self.sound = False
        self.over_too = False
        self._export_folder = export_folder
        self._ordered_version = -1
        self._ordered_s = 0.0
        self._collector = Collector()
        self._critical_count = 0
        self._bell_s = 0.0
        self._top = Text()
        self._sub = ""
        # Held, not looked up: a timer may come once more while the screen is being taken down.
        self._grids = {
            "fleet": Grid(robot_sheet(self.fleet, time.time), id="fleet"),
            "stations": Grid(station_sheet(), id="stations"),
            "alerts": Grid(alert_sheet(time.time), id="alerts"),
            "audit": Grid(audit_sheet(), id="audit"),
        }
        for grid in self._grids.values():
            grid.on_moved = self._draw_sub
        self._map = MapView(self.fleet, id="map")
        self._views = {**self._grids, "map": self._map}
        self._switcher = ContentSwitcher(*(self._views[name] for name in VIEWS), initial="fleet")
        self._top_line, self._sub_line = Static(id="top"), Static(id="sub")
        self._hint_line = Static(Text(HINTS["fleet"]), id="hint")
        self._search = Input(placeholder="search", id="search", max_length=SEARCH_MAX)

    def compose(self) -> ComposeResult:
        """See Textual."""
        yield from (self._top_line, self._sub_line, self._switcher, self._search, self._hint_line)

    def on_mount(self) -> None:
        """Begins to listen."""
        self.hub.start()
        self.grid("fleet").focus()
        self.set_interval(PUMP_S, self._pump)
        self.set_interval(ORDER_S, self._order)
        self._order()

    def on_unmount(self) -> None:
        """Says good-bye to the broker."""
        self.hub.close()

    def grid(self, name: str) -> Grid:
        """A table of the main screen."""
        return self._grids[name]

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """The main screen's keys work on the main screen only."""
        del parameters
        return len(self.screen_stack) == 1 or action in _OTHER_ACTIONS

    # What the timers do.

    def _pump(self) -> None:
        burst = self.hub.feed.waiting_count > BURST and self._collector.quiet_s > TYPING_S
        self.hub.pump(BURST_BUDGET_S if burst else PUMP_BUDGET_S)
        for words, well in self.hub.take_words():
            self.notify(words, severity="information" if well else "warning", markup=False)
        for told in self.hub.take_told():
            self._keep_told(told)
        if len(self.screen_stack) > 1:
            return
        if len(self.fleet.robots) and not self.grid("fleet").rows:
            self._order(force=True)
        if self.view_name in ("fleet", "alerts", "stations"):
            self.grid(self.view_name).sync()

    def _order(self, *, force: bool = False) -> None:
        now_s = time.monotonic()
        if not force and self._collector.quiet_s < TYPING_S and now_s - self._ordered_s < ORDER_AT_LAST_S:
            return
        self._ordered_s = now_s
        self._ring()
        self._collector.turn()
        if len(self.screen_stack) > 1 and not force:
            return
        self._draw_top()
        if self.fleet.version != self._ordered_version or force:
            self._ordered_version = self.fleet.version
            self._fill()
        self._draw_sub()

    def draw_all(self) -> None:
        """Draws what there is now, without waiting for the next second."""
        self._order(force=len(self.screen_stack) == 1)

    def _fill(self) -> None:
        name, now_s = self.view_name, time.time()
        if name == "fleet":
            self.grid(name).set_rows(select(self.fleet, self.query_now, now_s))
        elif name == "stations":
            self.grid(name).set_rows(self._stations())
        elif name == "alerts":
            self.grid(name).set_rows(self._alerts())
        elif name == "audit":
            self.grid(name).set_rows(self.hub.history.audit_rows())
        else:
            chosen = self.grid("fleet").selected
            self._map.selected_key = chosen.key if chosen is not None else ""
            self._map.sync()

    def _stations(self) -> list[Station]:
        words = self.query_now.search.lower().split()
        rows = [
            row
            for row in self.fleet.stations.rows.values()
            if all(word in f"{row.station} {row.zone} {row.last_fault}".lower() for word in words)
        ]
        return sorted(rows, key=lambda row: row.station)

    def _alerts(self) -> list[Alert]:
        words = self.query_now.search.lower().split()
        rows = list(self.fleet.alerts.open.values())
        if self.over_too:
            rows += self.fleet.alerts.closed.values()
        if words:
            rows = [
                a for a in rows if all(w in f"{a.subject} {a.kind} {a.text} {a.by}".lower() for w in words)
            ]
        return sorted(rows, key=lambda a: (a.until_s is not None, bool(a.by), -a.level, -a.since_s))

    def _draw_top(self) -> None:
        statuses: dict[str, int] = {}
        for robot in self.fleet.robots.values():
            status = robot.status()
            statuses[status] = statuses.get(status, 0) + 1
        alerts = self.fleet.alerts
        unseen = alerts.count(unseen=True)
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append("depai-fleet ", style="bold")
        if self.hub.feed.connected:
            text.append("* live ", style=GOOD)
        else:
            reason = self.hub.feed.refusal or "no connection to the broker"
            text.append(f"X {reason} ", style=f"{BAD} reverse")
        text.append(f" {self.hub.settings.role.name.lower()} ", style=DIM)
        text.append(
            f" alerts {alerts.count()}", style=STYLE_BY_LEVEL[Level.WARNING] if alerts.count() else DIM
        )
        text.append(f" ({unseen} new)" if unseen else "", style=f"{WARN} reverse")
        text.append(" bell" if self.sound else "", style=WARN)
        text.append(f"  {len(self.fleet.robots):,} robots ")
        for name, style in (("BROKEN", BAD), ("STALE", WARN), ("CHARGING", POWER)):
            if statuses.get(name):
                text.append(f" {statuses[name]} {name.lower()}", style=style)
        lost = self.hub.feed.dropped_count + self.hub.history.dropped_count
        text.append(f"  {lost} dropped" if lost else "", style=BAD)
        if text != self._top:
            self._top = text
            self._top_line.update(text, layout=False)

    def _draw_sub(self) -> None:
        name, query = self.view_name, self.query_now
        if name == "map":
            line = "map of robots and docks"
        else:
            grid = self.grid(name)
            total = f"{grid.cursor + 1 if grid.rows else 0}/{len(grid.rows)}"
            if name == "fleet":
                way = " backwards" if query.backwards else ""
                line = f"{total}  {FILTERS[query.name][0]}, by {query.sort}{way}"
            elif name == "alerts":
                line = f"{total}  open alerts{' and those that are over' if self.over_too else ''}"
            else:
                line = f"{total}  {'stations' if name == 'stations' else 'audit log, newest first'}"
        if query.search and name != "map":
            line += f'  search "{query.search}" (Esc clears)'
        if line != self._sub:
            self._sub = line
            self._sub_line.update(Text(line, style="bold", no_wrap=True), layout=False)

    def _ring(self) -> None:
        count = sum(1 for a in self.fleet.alerts.open.values() if a.level == Level.CRITICAL and not a.by)
        now_s = time.monotonic()
        if count > self._critical_count and self.sound and now_s - self._bell_s >= BELL_S:
            self._bell_s = now_s
            self.bell()
        self._critical_count = count

    # Keys.

    def on_key(self) -> None:
        """Somebody is there."""
        self._collector.key()

    def on_grid_chosen(self, event: Grid.Chosen) -> None:
        """Enter: the robot's page."""
        row = event.row
        if isinstance(row, Alert):
            row = self.fleet.robots.get(row.subject)
        if isinstance(row, Robot):
            self.push_screen(RobotScreen(self.hub, row), lambda _: self._order(force=True))

    def action_view(self, name: str) -> None:
        """Another view."""
        self.view_name = name
        self._switcher.current = name
        self._views[name].focus()
        self._hint_line.update(Text(HINTS[name]), layout=False)
        self._order(force=True)

    def action_search(self) -> None:
        """Opens the line to type in."""
        box = self._search
        box.add_class("open")
        box.value = self.query_now.search
        box.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Each letter narrows the table."""
        self.query_now = replace(self.query_now, search=event.value)
        self._order(force=True)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter keeps the search."""
        event.input.remove_class("open")
        self._views[self.view_name].focus()

    def action_clear(self) -> None:
        """Escape: no search."""
        box = self._search
        box.value = ""
        box.remove_class("open")
        self.query_now = replace(self.query_now, search="")
        self._views[self.view_name].focus()
        self._order(force=True)

    def action_filter(self) -> None:
        """The next filter."""
        self._ask(self.query_now.next_filter())

    def action_sort(self) -> None:
        """The next order."""
        self._ask(self.query_now.next_sort())

    def action_backwards(self) -> None:
        """The other way round."""
        self._ask(replace(self.query_now, backwards=not self.query_now.backwards))

    def _ask(self, query: Query) -> None:
        if self.view_name == "fleet":
            self.query_now = query
            grid = self.grid("fleet")
            grid.cursor = grid.top = 0
            self._order(force=True)

    def action_over(self) -> None:
        """Alerts that are over, too."""
        self.over_too = not self.over_too
        self._order(force=True)

    def action_sound(self) -> None:
        """Sound on or off."""
        self.sound = not self.sound
        self.notify(f"bell {'on: one sound for new critical alerts' if self.sound else 'off'}")
        self._draw_top()

    def action_help(self) -> None:
        """Keys and signs."""
        self.push_screen(HelpScreen())

    def action_leave(self) -> None:
        """Ends the console; robots go on without it."""
        self.exit()

    def action_command(self) -> None:
        """A command to the robot under the cursor."""
        row = self.grid(self.view_name).selected if self.view_name in ("fleet", "alerts") else None
        robot = self.fleet.robots.get(row.subject) if isinstance(row, Alert) else row
        if not self.hub.may(Role.OPERATOR):
            self.notify("a viewer sends no commands: start with --role operator", severity="warning")
        elif isinstance(robot, Robot):
            self.ask_command(robot)

    def ask_command(self, robot: Robot) -> None:
        """Which command, whether really, and off it goes."""

        def chosen(command: Command | Order | None) -> None:
            if command is None:
                return
            if isinstance(command, Order):
                self._ask_order(robot, command)
                return
            question = f"{command.label}: {robot.key}?"
            self.push_screen(ConfirmScreen(question, command.warning), lambda yes: confirmed(command, yes))

        def confirmed(command: Command, yes: bool | None) -> None:
            if yes:
                self._try(lambda: self.hub.command(robot, command), f"sent: {command.label} to {robot.name}")

        self.push_screen(CommandScreen(robot, orders=self.hub.desk is not None), chosen)

    def _ask_order(self, robot: Robot, order: Order) -> None:
        """What it says, what will be signed, and off it goes; the answer is shown when it comes."""

        def filled(form: tuple[dict[str, str], str] | None) -> None:
            if form is None:
                return
            prepared: list[SignedCommand] = []
            if self._try(lambda: prepared.append(self.hub.prepare(robot, order, *form)), ""):
                question = f"Sign and send?\n\n{describe(prepared[0])}"
                self.push_screen(
                    ConfirmScreen(question, order.warning), lambda yes: confirmed(prepared[0], yes)
                )

        def confirmed(command: SignedCommand, yes: bool | None) -> None:
            if yes:
                self._try(lambda: self.hub.order(robot, command), f"signed and sent: {order.label}")

        self.push_screen(OrderScreen(robot, order), filled)

    def action_acknowledge(self) -> None:
        """This alert has been seen."""
        row = self.grid("alerts").selected if self.view_name == "alerts" else None
        if isinstance(row, Alert):
            self._try(lambda: self.hub.acknowledge(row.subject, row.kind), "")
            self._order(force=True)

    def action_acknowledge_all(self) -> None:
        """Every alert that is shown, after a question."""
        if self.view_name != "alerts":
            return
        rows: Sequence[Alert] = [a for a in self.grid("alerts").rows if a.until_s is None and not a.by]

        def confirmed(yes: bool | None) -> None:
            for row in rows if yes else ():
                if not self._try(lambda row=row: self.hub.acknowledge(row.subject, row.kind), ""):  # type: ignore[misc]
                    break
            self._order(force=True)

        if rows and self.hub.may(Role.OPERATOR):
            self.push_screen(
                ConfirmScreen(f"Acknowledge {len(rows)} alerts?", "Nobody will be called for them again."),
                confirmed,
            )
        elif rows:
            self.notify("a viewer acknowledges nothing: start with --role operator", severity="warning")

    def action_export(self) -> None:
        """What is shown, as CSV and JSON."""
        name = self.view_name
        rows = self._rows_to_export(name)
        if not rows:
            self.notify("nothing to export", severity="warning")
            return

        def write() -> None:
            table, _ = write_export(self._export_folder, name, rows, time.time())
            self.notify(f"{len(rows)} rows: {table} and .json")

        self._try(write, "")

    def _keep_told(self, told: Telling) -> None:
        """A robot's journal, as it signed it, into a file: ``depai-robot operator read`` checks and shows it."""
        stamp_text = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        path = self._export_folder / f"journal-{told.robot}-{stamp_text}.jws"

        def write() -> None:
            told.write(path)
            self.notify(f"{told.text()}; {path}", markup=False)

        self._try(write, "")

    def _rows_to_export(self, name: str) -> list[dict[str, Any]]:
        now_s = time.time()
        if name in ("fleet", "map"):
            return [
                robot_as_json(robot, self.fleet, now_s) for robot in select(self.fleet, self.query_now, now_s)
            ]
        if name == "stations":
            return [station_as_json(row) for row in self._stations()]
        if name == "alerts":
            return [alert_as_json(alert) for alert in self._alerts()]
        return [
            {
                "at": stamp(r.at_s),
                "who": r.who,
                "role": r.role,
                "what": r.what,
                "subject": r.subject,
                "detail": r.detail,
            }
            for r in self.hub.history.audit_rows()
        ]

    def _try(self, action: Callable[[], object], done: str) -> bool:
        try:
            action()
        except DepaiError as error:
            self.notify(str(error), severity="error")
            return False
        if done:
            self.notify(done)
        return True


def station_as_json(row: Station) -> dict[str, Any]:
    """One station for scripts and exports."""
    return {
        "station": row.station,
        "zone": row.zone,
        "offered": row.offer is not None and row.offer_s > 0,
        "available": bool(row.offer and row.offer.available and row.offer_s > 0),
        "price_atomic_per_kwh": row.offer.price_atomic_per_kwh if row.offer else None,
        "power_max_w": row.offer.power_max_w if row.offer else None,
        "charging_now": len(row.charging),
        "sessions": row.sessions,
        "faults": row.faults,
        "meter_faults": row.meter_faults,
        "energy_milliwh": row.energy_milliwh,
        "cost_atomic": row.cost_atomic,
        "last_fault": row.last_fault,
    }


def alert_as_json(alert: Alert) -> dict[str, Any]:
    """One alert for scripts and exports."""
    return {
        "subject": alert.subject,
        "kind": alert.kind,
        "level": alert.level.name.lower(),
        "sign": SYMBOL[alert.level],
        "text": alert.text,
        "since_s": round(alert.since_s, 3),
        "until_s": round(alert.until_s, 3) if alert.until_s is not None else None,
        "acknowledged_by": alert.by,
    }
