"""Draws the dock's textures beside ``config/dock.yaml``: ``python -m training.textures``.

The panel's face is light with a dark frame up to its edge, so a corner has contrast against a light wall (frame)
and against a dark one (face). The marks left and right of the decal are large, so that they survive blur, and
differ, so that left and right do too. The base's front is dark at its ends and light in its middle: on a dark floor
the middle shows where it is, on a light one the ends. Everything is drawn at :data:`PX_PER_M`, edges on pixel
boundaries: the textures are as true as the geometry. The tags are OpenCV's ``DICT_APRILTAG_36h11``.
"""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from depai_robot.perception.dock import DockModel, parse_dock

PX_PER_M = 2000
TAG_IDS = range(5)
FACE_RGB = (236, 238, 234)
FRAME_RGB = (22, 34, 46)
MARK_RGB = (14, 92, 74)
PAD_RGB = (196, 138, 78)
FRAME_WIDTH_M = 0.016
LINE_WIDTH_M = 0.006
"""A light line set into the base's front, this wide and this far from its edge."""
MIDDLE_WIDTH_M = 0.20
"""Of the base's light middle."""

ROOT = Path(__file__).resolve().parent.parent
Image = NDArray[np.uint8]


def _px(length_m: float) -> int:
    return round(length_m * PX_PER_M)


def _blank(width_m: float, height_m: float, rgb: tuple[int, int, int]) -> Image:
    image = np.empty((_px(height_m), _px(width_m), 3), np.uint8)
    image[:] = rgb
    return image


def draw_tag(tag_id: int, size_m: float) -> Image:
    """(S, S, 3) uint8 RGB tag36h11, black border up to the edge."""
    dictionary = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11)
    tag = cv2.aruco.generateImageMarker(dictionary, tag_id, _px(size_m))
    return np.repeat(tag[:, :, None], 3, axis=2)


def draw_panel(dock: DockModel, tag_id: int) -> Image:
    """The panel's whole front face as seen from the front, (H, W, 3) uint8 RGB."""
    image = _blank(dock.panel.width_m, dock.panel.height_m, FRAME_RGB)
    height, width = image.shape[:2]
    frame = _px(FRAME_WIDTH_M)
    image[frame:-frame, frame:-frame] = FACE_RGB
    # A bolt on the left: one polygon in units of the free strip's width and the panel's height.
    strip = (width - _px(dock.decal.size_m * 1.25)) / 2 - frame
    bolt = np.array([(0.62, 0.14), (0.12, 0.54), (0.44, 0.54), (0.30, 0.86), (0.86, 0.42), (0.52, 0.42)])
    cv2.fillPoly(image, [np.round(bolt * (strip, height) + (frame, 0)).astype(np.int32)], MARK_RGB)
    # Rising bars on the right.
    for row, share in enumerate((0.35, 0.55, 0.75, 0.95)):
        top = round(height * (0.74 - 0.17 * row))
        left = width - frame - round(strip * 0.92)
        image[top : top + round(height * 0.09), left : left + round(strip * 0.85 * share)] = MARK_RGB
    tag = draw_tag(tag_id, dock.decal.size_m)
    y, x = (height - tag.shape[0]) // 2, (width - tag.shape[1]) // 2
    image[y : y + tag.shape[0], x : x + tag.shape[1]] = tag
    return image


def draw_base_front(dock: DockModel) -> Image:
    """The base's front face with its two contact pads, (H, W, 3) uint8 RGB."""
    image = _blank(dock.base.width_m, dock.base.height_m, FRAME_RGB)
    height, width = image.shape[:2]
    line = _px(LINE_WIDTH_M)
    image[line : height - line, line : width - line] = FACE_RGB
    image[2 * line : height - 2 * line, 2 * line : width - 2 * line] = FRAME_RGB
    half = _px(MIDDLE_WIDTH_M) // 2
    image[line : height - line, width // 2 - half : width // 2 + half] = FACE_RGB
    for side in (-1, 1):
        centre = width // 2 + side * width // 8
        image[height // 3 : height - height // 3, centre - width // 16 : centre + width // 16] = PAD_RGB
    return image


def draw_all(dock: DockModel) -> dict[str, Image]:
    """Every texture of a dock by its file's stem, uint8 RGB."""
    images = {"base_front": draw_base_front(dock)}
    for tag_id in TAG_IDS:
        images[f"tag36h11_{tag_id}"] = draw_tag(tag_id, dock.decal.size_m)
        images[f"panel_{tag_id}"] = draw_panel(dock, tag_id)
    return images


def main() -> None:
    """Writes all textures."""
    folder = ROOT / "config" / "dock"
    folder.mkdir(exist_ok=True)
    dock = parse_dock((ROOT / "config" / "dock.yaml").read_text(encoding="utf-8"))
    for name, image in draw_all(dock).items():
        path = folder / f"{name}.png"
        cv2.imwrite(str(path), image[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
        print(path.relative_to(ROOT), f"{image.shape[1]}x{image.shape[0]}")


if __name__ == "__main__":
    main()
