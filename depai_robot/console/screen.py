"""The screens over the main one: help, a robot's page, the choice of a command, and the question before it is sent."""

import os
import time
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from depai_robot.console.command import COMMANDS, Command, Role
from depai_robot.console.fleet import DAY_S, Robot
from depai_robot.console.hub import Hub, sample_of
from depai_robot.console.look import DIM
from depai_robot.console.order import DAYS, DAYS_DEFAULT, DAYS_MAX, ORDERS, REASON_MAX, STATION, Order
from depai_robot.console.page import (
    PAGES,
    changes_page,
    curves_page,
    diagnostics_page,
    now_page,
    sessions_page,
    state_page,
)
from depai_robot.console.vda import clean

_HINTS = {STATION: "0x and 40 digits", DAYS: f"1 to {DAYS_MAX}; empty: {DAYS_DEFAULT}"}
HELP = """\
depai-fleet: the fleet at a glance. Everything has a key; nothing needs a mouse.

 1 2 3 4 5    fleet, stations, alerts, map, audit log
 up down j k  move        PgUp PgDn Home End  further
 Enter        open the robot (fleet, alerts); Esc goes back
 /            search: every word must stand in name, status, task,
              station, mode or trouble. Enter keeps it, Esc clears it
 f            filter: all, alerts, charging, away, low, manual
 s  S         order by the next column; the other way round
 c            command to the robot under the cursor (operator); with
              --operator-key also signed orders about its money, and
              its journal, signed by the robot, into a file
 a  A         acknowledge this alert; all that are shown (operator)
 o            alerts: also those that are over
 x            export what is shown, as CSV and JSON
 b            bell at new critical alerts (off at the start)
 + - arrows 0 map: closer, wider, move, everything;  m next map
 ?  q         this page; leave

Signs, readable without colour
 X critical   ! warning   i notice   reverse: nobody has seen it yet
 45%+ charging   9%! low   > the cursor
 map: o drives . stands + charges p paused ? stale X broken E e-stop
      F fault - offline 2..9 several robots D dock @ selected

A robot is STALE when no state came for 65 s (the standard wants one
every 30 s), BROKEN when the broker lost it, SILENT when none came yet.
"""


class HelpScreen(ModalScreen[None]):
    """One page of keys and signs."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark,enter", "close", "Close")]

    def compose(self) -> ComposeResult:
        """See Textual."""
        with VerticalScroll(id="help"):
            yield Static(HELP, markup=False)

    def on_mount(self) -> None:
        """Keys scroll it."""
        self.query_one("#help").focus()

    def action_close(self) -> None:
        """Back."""
        self.dismiss(None)


class ConfirmScreen(ModalScreen[bool]):
    """A question that only ``y`` says yes to; Enter alone does nothing, so a reflex does no harm."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes"),
        Binding("n,escape,q", "answer(False)", "No"),
    ]

    def __init__(self, question: str, warning: str) -> None:
        super().__init__()
        self._question = question
        self._warning = warning

    def compose(self) -> ComposeResult:
        """See Textual."""
        text = Text()
        text.append(f"{self._question}\n\n", style="bold")
        text.append(f"{self._warning}\n\n")
        text.append(" y ", style="bold reverse")
        text.append(" yes, send it    ")
        text.append(" n ", style="bold reverse")
        text.append(" no (Esc)")
        yield Static(text, id="confirm")

    def action_answer(self, answer: bool) -> None:
        """Back with the answer."""
        self.dismiss(answer)


class CommandScreen(ModalScreen[Command | Order | None]):
    """Which command, or which signed order where there is a key."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "close", "Back")]

    def __init__(self, robot: Robot, *, orders: bool = False) -> None:
        super().__init__()
        self._robot = robot
        self._choices: list[Command | Order] = [*COMMANDS, *(ORDERS if orders else ())]

    def compose(self) -> ComposeResult:
        """See Textual."""
        with Vertical(id="command"):
            yield Static(Text(f"Command to {self._robot.name} ({self._robot.status()})", style="bold"))
            yield OptionList(
                *(
                    Option(Text(f"{number} {c.label}" if isinstance(c, Command) else f"  {c.label} (signed)"))
                    for number, c in enumerate(self._choices, start=1)
                )
            )
            yield Static(Text("Enter or its number; Esc: none", style=DIM))

    def on_key(self, event: object) -> None:
        """A digit chooses at once (and is asked about all the same)."""
        key = getattr(event, "key", "")
        if key.isdecimal() and 1 <= int(key) <= len(COMMANDS):
            self.dismiss(COMMANDS[int(key) - 1])

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Enter or a click."""
        self.dismiss(self._choices[event.option_index])

    def action_close(self) -> None:
        """Back without one."""
        self.dismiss(None)


class OrderScreen(ModalScreen[tuple[dict[str, str], str] | None]):
    """What an order says: its fields, and a reason, which is always wanted. Enter goes on; in the last one it ends."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "close", "Back")]

    def __init__(self, robot: Robot, order: Order) -> None:
        super().__init__()
        self._robot, self._order = robot, order

    def compose(self) -> ComposeResult:
        """See Textual."""
        with Vertical(id="order"):
            yield Static(Text(f"{self._order.label}: {self._robot.name}", style="bold"))
            for name in self._order.fields:
                hint = _HINTS.get(name, "atomic units (1 USDC = 1000000), or empty")
                yield Static(Text(name))
                yield Input(placeholder=hint, id=f"field-{name}", compact=True)
            yield Static(Text("reason, kept in both audit logs"))
            yield Input(max_length=REASON_MAX, id="reason", compact=True)
            yield Static(Text("Enter: next, then what will be signed; Esc: none", style=DIM))

    def on_input_changed(self, event: Input.Changed) -> None:
        """Nobody else's business."""
        event.stop()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """On to the next field, or back with all of them."""
        event.stop()  # the main screen's search listens too
        inputs = list(self.query(Input))
        place = inputs.index(event.input)
        if place + 1 < len(inputs):
            inputs[place + 1].focus()
            return
        values = {name: self.query_one(f"#field-{name}", Input).value for name in self._order.fields}
        self.dismiss((values, event.input.value))

    def action_close(self) -> None:
        """Back without an order."""
        self.dismiss(None)


class RobotScreen(Screen[None]):
    """One robot: now, curves, sessions, changes, state, diagnostics."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,backspace", "back", "Back"),
        Binding("right,tab,l", "turn(1)", "Next page"),
        Binding("left,shift+tab,h", "turn(-1)", "Page before"),
        *(Binding(str(n), f"page({n - 1})", name) for n, name in enumerate(PAGES, start=1)),
        Binding("c", "command", "Command"),
        Binding("z", "freeze", "Freeze"),
        Binding("plus,equals_sign", "hours(0.5)", "Shorter"),
        Binding("minus", "hours(2)", "Longer"),
        Binding("question_mark", "app.help", "Help"),
    ]

    def __init__(self, hub: Hub, robot: Robot) -> None:
        super().__init__()
        self.hub = hub
        self.robot = robot
        self.page = 0
        self.hours = 24.0
        self.frozen = False
        self._drawn: tuple[object, ...] = ()

    def compose(self) -> ComposeResult:
        """See Textual."""
        yield Static(id="robot-head")
        with VerticalScroll(id="robot-scroll"):
            yield Static(id="robot-body")
        yield Static(
            Text(
                " Esc back   1-6 or Left Right pages   c command   z freeze   +/- hours   ? help",
                style="reverse",
            ),
            id="robot-keys",
        )

    def on_mount(self) -> None:
        """Begins to listen to this robot more closely."""
        self.hub.open_robot(self.robot)
        self.query_one("#robot-scroll").focus()
        self.draw()
        self.set_interval(0.2, self.draw)

    def on_unmount(self) -> None:
        """Nobody looks any more."""
        self.hub.close_robot(self.robot)

    def on_resize(self) -> None:
        """Curves fit the window."""
        self._drawn = ()
        self.draw()

    def draw(self) -> None:
        """Draws if anything on the page may have changed: each second for ages, at once for a new state."""
        if not self.is_mounted or self.frozen:
            return
        now_s = time.time()
        wanted = (self.page, self.robot.version, int(now_s), self.hours, self.size)
        if wanted == self._drawn:
            return
        only_time = self._drawn[:2] == wanted[:2] and self._drawn[3:] == wanted[3:]
        if only_time and PAGES[self.page] not in ("now", "curves"):
            return
        self._drawn = wanted
        self.query_one("#robot-head", Static).update(self._head(), layout=False)
        self.query_one("#robot-body", Static).update(self._body(now_s))

    def _head(self) -> Text:
        text = Text(no_wrap=True, overflow="ellipsis")
        if self.frozen:
            text.append("FROZEN ", style="bold reverse")
        text.append(f"{clean(self.robot.key, 24)} ", style="bold")
        for number, name in enumerate(PAGES):
            text.append(f" {number + 1} {name} ", style="reverse" if number == self.page else DIM)
        return text

    def _body(self, now_s: float) -> Text:
        name, robot = PAGES[self.page], self.robot
        if name == "now":
            return now_page(robot, self.hub.fleet, now_s)
        if name == "curves":
            samples = self.hub.history.samples(robot.key, now_s - min(self.hours * 3600, DAY_S))
            if robot.reading is not None:
                samples.append(sample_of(robot, now_s))
            size = self.query_one("#robot-scroll").size
            plain = "UTF" not in (os.environ.get("LC_ALL") or os.environ.get("LANG") or "UTF-8").upper()
            return curves_page(samples, now_s, size.width, size.height, ascii_only=plain, hours=self.hours)
        if name == "sessions":
            return sessions_page(self.hub.history.sessions(now_s - 31 * DAY_S, robot=robot.key), robot)
        if name == "changes":
            return changes_page(robot)
        return state_page(robot) if name == "state" else diagnostics_page(robot)

    def action_back(self) -> None:
        """To the table."""
        self.dismiss(None)

    def action_turn(self, by: int) -> None:
        """Next page or the one before."""
        self.action_page((self.page + by) % len(PAGES))

    def action_page(self, number: int) -> None:
        """This page."""
        self.page, self.frozen = number, False
        self.query_one("#robot-scroll").scroll_home(animate=False)
        self.draw()

    def action_freeze(self) -> None:
        """Holds the page still, to read or copy."""
        self.frozen = not self.frozen
        self.query_one("#robot-head", Static).update(self._head(), layout=False)

    def action_hours(self, factor: float) -> None:
        """Shorter or longer curves: from a quarter of an hour to a day."""
        self.hours = min(24.0, max(0.25, self.hours * factor))
        self.draw()

    def action_command(self) -> None:
        """A command to this robot."""
        if not self.hub.may(Role.OPERATOR):
            self.notify("a viewer sends no commands: start with --role operator", severity="warning")
            return
        self.app.ask_command(self.robot)  # type: ignore[attr-defined]
