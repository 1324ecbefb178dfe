"""A table of any length that draws what changed and nothing else: rows outside the window cost nothing."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from depai_robot.console.look import Cell, Column, Sheet

MARK = ">"
_SELECTED = Style.parse("reverse")
_HEAD = Style.parse("bold underline")
_PLAIN = Style.null()
"""Not None: without colours Textual asks every segment for its style."""
_GAP = 1


def fit(columns: Sequence[Column], width: int) -> list[int]:
    """Numbers of the columns that fit, lowest rank first; in the order of the table."""
    chosen: list[int] = []
    used = len(MARK)
    for number in sorted(range(len(columns)), key=lambda n: (columns[n].rank, n)):
        wanted = columns[number].width + _GAP
        if used + wanted > width and chosen:
            break
        used += wanted
        chosen.append(number)
    return sorted(chosen)


class Grid(Widget, can_focus=True):
    """Rows of one sheet, with a cursor that stays on its row when the order changes."""

    DEFAULT_CSS = "Grid { height: 1fr; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown,space", "page(1)", "Page down", show=False),
        Binding("home,g", "jump(0)", "First", show=False),
        Binding("end,G", "jump(-1)", "Last", show=False),
        Binding("enter", "choose", "Open", show=False),
    ]

    class Chosen(Message):
        """Enter, or a second click."""

        def __init__(self, grid: "Grid", row: Any) -> None:
            self.grid = grid
            self.row = row
            super().__init__()

    def __init__(self, sheet: Sheet, *, id: str | None = None) -> None:  # noqa: A002 - Textual's word
        super().__init__(id=id)
        self.sheet = sheet
        self.rows: Sequence[Any] = ()
        self.cursor = 0
        self.top = 0
        self.drawn_cells = 0
        self.on_moved: Callable[[], None] | None = None
        self._shown: list[int] = []
        self._lefts: list[int] = []
        self._widths: list[int] = []
        self._lines: dict[int, tuple[tuple[Cell, ...], bool]] = {}

    @property
    def selected(self) -> Any:
        """The row under the cursor, None when there is none."""
        return self.rows[self.cursor] if 0 <= self.cursor < len(self.rows) else None

    @property
    def window(self) -> int:
        """Rows that are on the screen."""
        return max(1, self.size.height - 1)

    def set_rows(self, rows: Sequence[Any]) -> None:
        """New order or new rows; the cursor stays on its row if that is still there."""
        before = self.selected
        count = len(self.rows)
        self.rows = rows
        if before is not None:
            key = self.sheet.key(before)
            inside = self.cursor < len(rows) and self.sheet.key(rows[self.cursor]) == key
            if not inside:
                offset = self.cursor - self.top
                found = next((n for n, row in enumerate(rows) if self.sheet.key(row) == key), None)
                if found is not None and self.cursor:
                    self.cursor, self.top = found, max(0, found - offset)
        self._clamp()
        self.sync()
        if count != len(rows):
            self._tell_moved()

    def sync(self) -> None:
        """Draws what has changed on the screen since it was drawn."""
        if not self.size.width:
            return
        for line in range(self.window):
            wanted = self._cells_at(line)
            before = self._lines.get(line)
            if before is None or wanted is None or before[1] != wanted[1]:
                if before != wanted:
                    self._put(line, wanted)
                    self.refresh(Region(0, line + 1, self.size.width, 1))
                continue
            if before[0] == wanted[0]:
                continue
            self._put(line, wanted)
            for place, number in enumerate(self._shown):
                if before[0][number] != wanted[0][number]:
                    self.drawn_cells += 1
                    self.refresh(Region(self._lefts[place], line + 1, self._widths[place], 1))

    def redraw(self) -> None:
        """Everything anew."""
        self._lines.clear()
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """See Textual's line API: line 0 is the head."""
        if not self._shown:
            self._lay_out()
        if y == 0:
            return self._head()
        line = y - 1
        if line not in self._lines:
            self._put(line, self._cells_at(line))
        found = self._lines.get(line)
        if found is None:
            return Strip.blank(self.size.width, _PLAIN)
        cells, selected = found
        style = _SELECTED if selected and self.has_focus else Style.parse("bold") if selected else _PLAIN
        segments = [Segment(MARK if selected else " ", style)]
        for place, number in enumerate(self._shown):
            text, name = cells[number]
            column, width = self.sheet.columns[number], self._widths[place]
            fitted = self._fit(text, width, right=column.right)
            own = Style.parse(name) if name and text else _PLAIN
            segments.append(Segment(fitted, own + style))
            segments.append(Segment(" " * _GAP, style))
        return Strip(segments).adjust_cell_length(self.size.width, style)

    def on_resize(self, event: events.Resize) -> None:
        """The window has another size."""
        del event
        self._lay_out()
        self._clamp()
        self.redraw()

    def on_focus(self) -> None:
        """The cursor is shown bright."""
        self.redraw()

    def on_blur(self) -> None:
        """The cursor is shown pale."""
        self.redraw()

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Wheel."""
        event.stop()
        self.action_move(3)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Wheel."""
        event.stop()
        self.action_move(-3)

    def on_click(self, event: events.Click) -> None:
        """First click: the cursor. Second: open."""
        row = self.top + event.y - 1
        if event.y < 1 or row >= len(self.rows):
            return
        if row == self.cursor:
            self.action_choose()
        else:
            self._go(row)

    def action_move(self, by: int) -> None:
        """Cursor up or down."""
        self._go(self.cursor + by)

    def action_page(self, by: int) -> None:
        """A window up or down."""
        self._go(self.cursor + by * self.window)

    def action_jump(self, to: int) -> None:
        """First (0) or last (-1) row."""
        self._go(0 if to == 0 else len(self.rows) - 1)

    def action_choose(self) -> None:
        """Tells who asked for this row."""
        if self.selected is not None:
            self.post_message(self.Chosen(self, self.selected))

    def _go(self, row: int) -> None:
        self.cursor = row
        self._clamp()
        self.sync()
        self._tell_moved()

    def _tell_moved(self) -> None:
        # At once, not by a message: the line above the table is drawn in the same frame.
        if self.on_moved is not None:
            self.on_moved()

    def _clamp(self) -> None:
        self.cursor = max(0, min(self.cursor, len(self.rows) - 1))
        if self.cursor < self.top:
            self.top = self.cursor
        elif self.cursor >= self.top + self.window:
            self.top = self.cursor - self.window + 1
        self.top = max(0, min(self.top, len(self.rows) - self.window))

    def _cells_at(self, line: int) -> tuple[tuple[Cell, ...], bool] | None:
        row = self.top + line
        if row >= len(self.rows):
            return None
        return self.sheet.cells(self.rows[row]), row == self.cursor

    def _put(self, line: int, wanted: tuple[tuple[Cell, ...], bool] | None) -> None:
        if wanted is None:
            self._lines.pop(line, None)
        else:
            self._lines[line] = wanted

    def _lay_out(self) -> None:
        columns = self.sheet.columns
        self._shown = fit(columns, self.size.width)
        self._widths = [columns[number].width for number in self._shown]
        spare = self.size.width - len(MARK) - sum(self._widths) - _GAP * len(self._widths)
        if spare > 0 and self._shown:
            # What is left goes to the last column of text: names and reasons are never too long.
            wide = max(range(len(self._shown)), key=lambda n: (not columns[self._shown[n]].right, n))
            self._widths[wide] += spare
        left, self._lefts = len(MARK), []
        for width in self._widths:
            self._lefts.append(left)
            left += width + _GAP

    def _head(self) -> Strip:
        segments = [Segment(" " * len(MARK), _HEAD)]
        for place, number in enumerate(self._shown):
            column = self.sheet.columns[number]
            segments.append(Segment(self._fit(column.title, self._widths[place], right=column.right), _HEAD))
            segments.append(Segment(" " * _GAP, _HEAD))
        return Strip(segments).adjust_cell_length(self.size.width, _HEAD)

    @staticmethod
    def _fit(text: str, width: int, *, right: bool) -> str:
        if text.isascii():
            if len(text) > width:
                return text[: width - 1] + "~" if width > 1 else text[:width]
            return text.rjust(width) if right else text.ljust(width)
        if right and cell_len(text) < width:
            text = " " * (width - cell_len(text)) + text
        return set_cell_size(text, width)
