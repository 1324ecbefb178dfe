"""The dock on paper: a dimensioned drawing, and panel, base front and decal in their true size, as one PDF.

Everything comes from ``config/dock.yaml`` and the pictures beside it, like the simulators' docks and the models'
training frames. Each full-size page has a rule of 100 mm: print, measure, and only then build.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from depai_robot.perception.dock import DockModel
from depai_robot.values.error import ConfigError

PT_PER_MM = 72 / 25.4
MARGIN_MM = 20.0
RULE_MM = 100.0
_A4_MM = (210.0, 297.0)
_CELLS = 8
_QUIET_MM = 20.0
_SCALE = 0.2
"""Of the drawing: 1 : 5."""

_GREY, _BLUE = (0.35, 0.35, 0.35), (0.0, 0.23, 0.39)


@dataclass(frozen=True, slots=True)
class Face:
    """A face that is printed in its true size.

    Attributes:
        name: for its page.
        width_mm, height_mm: of the cut sheet.
        picture: file beside ``dock.yaml``.
    """

    name: str
    width_mm: float
    height_mm: float
    picture: str


def sheet_faces(dock: DockModel, marker_id: int) -> tuple[Face, ...]:
    """What is printed, largest first."""
    return (
        Face("panel", dock.panel.width_m * 1000, dock.panel.height_m * 1000, f"panel_{marker_id}.png"),
        Face("base front", dock.base.width_m * 1000, dock.base.height_m * 1000, "base_front.png"),
        Face("decal", dock.decal.size_m * 1000, dock.decal.size_m * 1000, f"tag36h11_{marker_id}.png"),
    )


def tag_cells(picture: np.ndarray) -> np.ndarray:
    """(8, 8) bool, True where a decal's picture is black."""
    rows, columns = picture.shape[:2]
    centres = (np.arange(_CELLS) + 0.5) / _CELLS
    grey = picture if picture.ndim == 2 else picture[:, :, 0]
    return np.asarray(grey[np.ix_((centres * rows).astype(int), (centres * columns).astype(int))] < 128)


def write_sheet(
    path: Path, dock: DockModel, textures: Path, *, marker_id: int, pages: Sequence[str] = ()
) -> None:
    """Writes the PDF.

    Args:
        path: of the PDF.
        dock: its dimensions.
        textures: folder of the pictures.
        marker_id: whose panel and decal.
        pages: names of faces to print; none prints the drawing and all of them.

    Raises:
        ConfigError: no such marker, or the file can't be written, or reportlab is not installed.
    """
    try:
        from reportlab.pdfgen.canvas import Canvas  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigError(
            f"a dock sheet needs reportlab ({error}): pip install 'depai_robot[drawing]'"
        ) from error

    faces = sheet_faces(dock, marker_id)
    for face in faces:
        if not (textures / face.picture).is_file():
            there = sorted(p.stem.removeprefix("panel_") for p in textures.glob("panel_*.png"))
            raise ConfigError(
                f"no picture {face.picture} in {textures}; there are markers {', '.join(there)}"
            )
    # Invariant: the same dock gives the same bytes.
    canvas = Canvas(str(path), pageCompression=0, invariant=1)
    canvas.setTitle(f"Charging dock, marker {marker_id}")
    canvas.setCreator("depai-robot dock sheet")
    if not pages:
        _draw_views(canvas, dock, marker_id, textures)
    for face in faces:
        if not pages or face.name in pages:
            _draw_face(canvas, face, textures, marker_id)
    try:
        canvas.save()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error


def _draw_face(canvas: Any, face: Face, textures: Path, marker_id: int) -> None:
    """One page: the face, marks where to cut, and a rule that shows whether the printer kept the scale."""
    quiet_mm = _QUIET_MM if face.name == "decal" else 0.0
    width_mm = max(face.width_mm + 2 * quiet_mm, RULE_MM) + 2 * MARGIN_MM
    height_mm = face.height_mm + 2 * quiet_mm + 2 * MARGIN_MM + 12
    canvas.setPageSize((width_mm * PT_PER_MM, height_mm * PT_PER_MM))
    canvas.scale(PT_PER_MM, PT_PER_MM)
    left_mm, low_mm = (width_mm - face.width_mm) / 2, MARGIN_MM + quiet_mm + 12
    picture = cv2.imread(str(textures / face.picture))
    if picture is None:
        raise ConfigError(f"{textures / face.picture} is not an image")
    if face.name == "decal":
        # Cells as areas, not as pixels: edges are sharp on any printer.
        cell_mm = face.width_mm / _CELLS
        canvas.setFillGray(0)
        for row, cells in enumerate(tag_cells(picture)):
            for column, black in enumerate(cells):
                if black:
                    top_mm = low_mm + face.height_mm - row * cell_mm
                    canvas.rect(
                        left_mm + column * cell_mm, top_mm - cell_mm, cell_mm, cell_mm, stroke=0, fill=1
                    )
    else:
        canvas.drawImage(str(textures / face.picture), left_mm, low_mm, face.width_mm, face.height_mm)
    cut_mm = (left_mm - quiet_mm, low_mm - quiet_mm, left_mm + face.width_mm + quiet_mm)
    _cut_marks(canvas, cut_mm[0], cut_mm[1], cut_mm[2], low_mm + face.height_mm + quiet_mm)
    _rule(canvas, (width_mm - RULE_MM) / 2, 12.0)
    canvas.setFont("Helvetica", 3.2)
    canvas.setFillGray(0)
    size = f"{face.width_mm:g} x {face.height_mm:g} mm"
    note = f"{face.name}, marker {marker_id}: {size}. Print at 100 %, no fitting to the page; matt."
    canvas.drawCentredString(width_mm / 2, 4.5, note)
    canvas.showPage()


def _cut_marks(canvas: Any, left: float, low: float, right: float, high: float) -> None:
    canvas.setLineWidth(0.15)
    canvas.setStrokeGray(0)
    for x, outwards in ((left, -1), (right, 1)):
        for y, upwards in ((low, -1), (high, 1)):
            canvas.line(x + outwards * 2, y, x + outwards * 8, y)
            canvas.line(x, y + upwards * 2, x, y + upwards * 8)


def _rule(canvas: Any, left: float, low: float) -> None:
    canvas.setLineWidth(0.2)
    canvas.setStrokeGray(0)
    canvas.line(left, low, left + RULE_MM, low)
    for number in range(11):
        canvas.line(left + 10 * number, low, left + 10 * number, low + (4 if number % 10 == 0 else 2))
    canvas.setFont("Helvetica", 3)
    canvas.setFillGray(0)
    canvas.drawString(left + RULE_MM + 1.5, low, "100 mm")


# --- drawing ------------------------------------------------------------------------------------------------


def _draw_views(canvas: Any, dock: DockModel, marker_id: int, textures: Path) -> None:
    """Front and side view with dimensions, on A4."""
    width_mm, height_mm = _A4_MM
    canvas.setPageSize((width_mm * PT_PER_MM, height_mm * PT_PER_MM))
    canvas.scale(PT_PER_MM, PT_PER_MM)
    canvas.setFillColorRGB(*_BLUE)
    canvas.setFont("Helvetica-Bold", 6)
    canvas.drawString(20, 275, f"Charging dock, marker {marker_id} (tag36h11)")
    canvas.setFont("Helvetica", 3.5)
    canvas.setFillGray(0)
    canvas.drawString(
        20, 268, "Scale 1 : 5, dimensions in mm, from config/dock.yaml. The marker tells which dock it is;"
    )
    canvas.drawString(20, 263, "who it belongs to is proven by the station's signature, never by the marker.")
    centre = (75.0, 180.0)
    panel, base, _ = sheet_faces(dock, marker_id)
    for face, low_mm in ((panel, -panel.height_mm / 2), (base, -panel.height_mm / 2 - base.height_mm)):
        left, low = centre[0] - face.width_mm * _SCALE / 2, centre[1] + low_mm * _SCALE
        canvas.drawImage(
            str(textures / face.picture), left, low, face.width_mm * _SCALE, face.height_mm * _SCALE
        )
    _front_view(canvas, dock, centre)
    _side_view(canvas, dock, (168.0, 180.0))
    canvas.setFont("Helvetica", 3.5)
    canvas.setFillGray(0)
    pads = dock.pads
    contact = f"Contact plane at x = {pads.x_m * 1000:g}, pads' centre at z = {pads.z_m * 1000:g}; contact tolerates "
    contact += (
        f"{pads.half_width_m * 1000:g} sideways and {np.degrees(pads.angle_tolerance_rad):.1f} degrees."
    )
    lines = (
        "Dock frame: origin at the centre of the panel's front face, x into the dock, y left as the robot sees it,",
        f"z up. {contact}",
        "Build within 1 mm. Decal and panel are measured against each other by every robot that comes near;",
        "more than 2.5 % off is reported. Surfaces matt: gloss hides corners.",
    )
    for number, line in enumerate(lines):
        canvas.drawString(20, 95 - 5.5 * number, line)
    canvas.showPage()


def _front_view(canvas: Any, dock: DockModel, centre: tuple[float, float]) -> None:
    x, y = centre
    panel_w, panel_h = (v * 1000 * _SCALE for v in (dock.panel.width_m, dock.panel.height_m))
    base_w, base_h = (v * 1000 * _SCALE for v in (dock.base.width_m, dock.base.height_m))
    decal, floor = (v * 1000 * _SCALE for v in (dock.decal.size_m, dock.panel.centre_height_m))
    _outline(canvas, x - panel_w / 2, y - panel_h / 2, panel_w, panel_h)
    _outline(canvas, x - decal / 2, y - decal / 2, decal, decal)
    _outline(canvas, x - base_w / 2, y - panel_h / 2 - base_h, base_w, base_h)
    canvas.setLineWidth(0.5)
    canvas.line(x - panel_w / 2 - 8, y - floor, x + panel_w / 2 + 8, y - floor)
    top, low = y + panel_h / 2, y - panel_h / 2 - base_h
    _across(canvas, (x - panel_w / 2, x + panel_w / 2), top + 12, dock.panel.width_m)
    _across(canvas, (x - decal / 2, x + decal / 2), y + decal / 2 + 4, dock.decal.size_m)
    _up(canvas, (y - panel_h / 2, top), x - panel_w / 2 - 6, dock.panel.height_m)
    _up(canvas, (low, y - panel_h / 2), x - panel_w / 2 - 6, dock.base.height_m)
    _up(canvas, (y - floor, y), x - panel_w / 2 - 18, dock.panel.centre_height_m)
    _across(canvas, (x - base_w / 2, x + base_w / 2), y - floor - 8, dock.base.width_m)


def _side_view(canvas: Any, dock: DockModel, face: tuple[float, float]) -> None:
    """From the dock's right: the panel's face at ``face``, the base towards the robot on the left."""
    x, y = face
    panel_h, thick = (v * 1000 * _SCALE for v in (dock.panel.height_m, dock.panel.thickness_m))
    depth, base_h = (v * 1000 * _SCALE for v in (dock.base.depth_m, dock.base.height_m))
    floor = dock.panel.centre_height_m * 1000 * _SCALE
    _outline(canvas, x, y - panel_h / 2, thick, panel_h)
    _outline(canvas, x - depth, y - panel_h / 2 - base_h, depth, base_h)
    canvas.setLineWidth(0.5)
    canvas.line(x - depth - 8, y - floor, x + thick + 12, y - floor)
    _across(canvas, (x - depth, x), y - floor - 8, dock.base.depth_m)
    _across(canvas, (x, x + thick), y + panel_h / 2 + 6, dock.panel.thickness_m)
    pads_y = y + dock.pads.z_m * 1000 * _SCALE
    canvas.setFillColorRGB(*_BLUE)
    canvas.circle(x + dock.pads.x_m * 1000 * _SCALE, pads_y, 0.8, stroke=0, fill=1)
    canvas.setFont("Helvetica", 3)
    canvas.drawRightString(x - depth - 3, pads_y - 1, "pads")


def _outline(canvas: Any, x: float, y: float, width: float, height: float) -> None:
    canvas.setLineWidth(0.35)
    canvas.setStrokeGray(0)
    canvas.rect(x, y, width, height, stroke=1, fill=0)


def _dimension_style(canvas: Any) -> None:
    canvas.setLineWidth(0.15)
    canvas.setStrokeColorRGB(*_GREY)
    canvas.setFillGray(0)
    canvas.setFont("Helvetica", 3)


def _across(canvas: Any, ends: tuple[float, float], y: float, length_m: float) -> None:
    _dimension_style(canvas)
    canvas.line(ends[0], y, ends[1], y)
    for x in ends:
        canvas.line(x, y - 1.2, x, y + 1.2)
    canvas.drawCentredString((ends[0] + ends[1]) / 2, y + 1, f"{length_m * 1000:g}")


def _up(canvas: Any, ends: tuple[float, float], x: float, length_m: float) -> None:
    _dimension_style(canvas)
    canvas.line(x, ends[0], x, ends[1])
    for y in ends:
        canvas.line(x - 1.2, y, x + 1.2, y)
    canvas.saveState()
    canvas.translate(x - 1, (ends[0] + ends[1]) / 2)
    canvas.rotate(90)
    canvas.drawCentredString(0, 0, f"{length_m * 1000:g}")
    canvas.restoreState()
