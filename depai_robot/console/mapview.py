"""The map on the screen; what it shows is made by ``sketch``."""

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from depai_robot.console.fleet import Fleet
from depai_robot.console.sketch import Frame, docks, frame_all, maps, on_map, sketch

ROBOTS_DRAWN_MAX = 20_000
_PLAIN = Style.null()


class MapView(Widget, can_focus=True):
    """Robots and docks of one map."""

    DEFAULT_CSS = "MapView { height: 1fr; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("plus,equals_sign", "zoom(0.7)", "Closer", show=False),
        Binding("minus", "zoom(1.4)", "Wider", show=False),
        Binding("left,h", "pan(-4,0)", show=False),
        Binding("right,l", "pan(4,0)", show=False),
        Binding("up,k", "pan(0,2)", show=False),
        Binding("down,j", "pan(0,-2)", show=False),
        Binding("0", "everything", "Everything", show=False),
        Binding("m", "next_map", "Next map", show=False),
    ]

    def __init__(self, fleet: Fleet, *, id: str | None = None) -> None:  # noqa: A002 - Textual's word
        super().__init__(id=id)
        self._fleet = fleet
        self.name_of_map = ""
        self.selected_key = ""
        self.frame: Frame | None = None
        self._cells: dict[tuple[int, int], tuple[str, str]] = {}

    def sync(self) -> None:
        """Draws the lines on which something moved."""
        width, height = self.size
        if not width or not height:
            return
        names = maps(self._fleet)
        if self.name_of_map not in names:
            self.name_of_map = names[0] if names else ""
            self.frame = None
        robots = on_map(self._fleet, self.name_of_map)[:ROBOTS_DRAWN_MAX]
        points = docks(self._fleet)
        if self.frame is None:
            if not robots and not points:
                return
            self.frame = frame_all(robots, points, width, height - 1)
        cells = sketch(robots, points, self.frame, width, height - 1, selected=self.selected_key)
        changed = {place[0] for place, cell in cells.items() if self._cells.get(place) != cell}
        changed |= {place[0] for place in self._cells if place not in cells}
        self._cells = cells
        for line in changed:
            self.refresh(Region(0, line, width, 1))

    def render_line(self, y: int) -> Strip:
        """See Textual's line API: the last line is the scale."""
        width, height = self.size
        if y == height - 1:
            return self._scale()
        segments: list[Segment] = []
        blank = 0
        for column in range(width):
            cell = self._cells.get((y, column))
            if cell is None:
                blank += 1
                continue
            if blank:
                segments.append(Segment(" " * blank, _PLAIN))
                blank = 0
            segments.append(Segment(cell[0], Style.parse(cell[1]) if cell[1] else _PLAIN))
        return Strip([*segments, Segment(" " * blank, _PLAIN)]).adjust_cell_length(width, _PLAIN)

    def on_resize(self, event: events.Resize) -> None:
        """Everything fits again."""
        del event
        self._anew(None)

    def action_zoom(self, factor: float) -> None:
        """Closer or wider."""
        if self.frame is not None:
            self._anew(self.frame.zoomed(factor))

    def action_pan(self, columns: int, lines: int) -> None:
        """Moves the window."""
        if self.frame is not None:
            self._anew(self.frame.moved(columns, lines))

    def action_everything(self) -> None:
        """All robots and docks."""
        self._anew(None)

    def action_next_map(self) -> None:
        """Another map id."""
        names = maps(self._fleet)
        if names:
            number = names.index(self.name_of_map) if self.name_of_map in names else -1
            self.name_of_map = names[(number + 1) % len(names)]
            self._anew(None)

    def _anew(self, frame: Frame | None) -> None:
        self.frame = frame
        self.sync()
        self.refresh()

    def _scale(self) -> Strip:
        metres = self.frame.metres if self.frame else 0.0
        text = (
            f" map {self.name_of_map or '-'}: 10 columns are {metres * 10:.3g} m |---------|   "
            "+ - arrows 0 all  m next map"
        )
        return Strip([Segment(text, Style.parse("dim"))]).adjust_cell_length(self.size.width, _PLAIN)
