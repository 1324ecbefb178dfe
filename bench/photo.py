"""A printed photo of the dock, in true size on a wall: how far does a robot believe it? ``python -m bench.photo``

In one frame, seen as the photographer saw it, a photo of the dock is the dock. So it is judged over the approach: from
4 m and up to 40 degrees off the axis, onto the axis by 1.2 m, then straight on to 0.45 m, ten frames a second at a
quarter of a metre a second, through detector, gate and tracker. The same approaches to the dock itself stand beside it.

What a photo can never do is close the pads' circuit and sign a nonce: whoever drives up to one pays nobody.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from depai_robot.app.dock_observer import make_observer
from depai_robot.app.resource import resource_path
from depai_robot.perception.frame import Frame
from training import degrade
from training.evaluate import intrinsics_of
from training.scene import Camera, Painter, Request, flat_pyramid

STEP_M, STEP_NS = 0.025, 100_000_000
FAR_M, ON_AXIS_M, LAST_M, NEAR_M = 4.0, 1.2, 0.8, 0.45
OFF_AXIS_MAX_DEG = 40.0
CAMERA_HEIGHT_M = 0.28
PHOTO_FROM_M = (1.2, 3.0)
MARGIN = 1.25


@dataclass(frozen=True)
class Photo:
    """A print: its picture, and its corners (top left, top right, bottom right, bottom left) in the dock frame."""

    levels: list[np.ndarray]
    corners_m: np.ndarray


def take_photo(painter: Painter, index: int, range_m: float) -> Photo:
    """Straight from the front, developed so that the panel has its true size."""
    request = Request("clean", range_m, yaw_max_deg=0.0, bearing_max_deg=0.0)
    sample = painter.sample(index, request)
    truth, focal_px = sample.docks[0], sample.camera.focal_px
    left, top, right, bottom = truth.box_px
    reach = MARGIN * max(right - left, bottom - top) / 2
    middle = np.array([(left + right) / 2, (top + bottom) / 2])
    low = np.clip(np.floor(middle - reach), 0, [degrade.WIDTH_PX, degrade.HEIGHT_PX]).astype(int)
    high = np.clip(np.ceil(middle + reach), 0, [degrade.WIDTH_PX, degrade.HEIGHT_PX]).astype(int)
    picture = sample.image[low[1] : high[1], low[0] : high[0]].astype(np.float32) / 255.0
    metre_per_px = float(truth.position_m[2]) / focal_px
    centre_px = (sample.camera.matrix() @ truth.position_m)[:2] / truth.position_m[2]
    # The dock's y points left, its z up; pixels have their edges at halves.
    y = -(np.array([low[0], high[0]]) - 0.5 - centre_px[0]) * metre_per_px
    z = -(np.array([low[1], high[1]]) - 0.5 - centre_px[1]) * metre_per_px
    corners = [(0, y[0], z[0]), (0, y[1], z[0]), (0, y[1], z[1]), (0, y[0], z[1])]
    return Photo(flat_pyramid(picture), np.array(corners))


def approach(rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Poses of the dock in a level camera, frame by frame: rotation and position in m."""
    angle = np.radians(rng.uniform(-OFF_AXIS_MAX_DEG, OFF_AXIS_MAX_DEG))
    poses = []
    for range_m in np.arange(FAR_M, NEAR_M, -STEP_M):
        share = np.clip((range_m - ON_AXIS_M) / (FAR_M - ON_AXIS_M), 0, 1)
        yaw = angle * share
        look = yaw + np.radians(rng.normal(0, 1.0))
        # The camera looks at the dock, a little beside it; the dock's x points away from a camera on its axis.
        forward = np.array([np.sin(look), 0.0, np.cos(look)])
        up = np.array([0.0, -1.0, 0.0])
        rotation = np.stack([forward, np.cross(up, forward), up], axis=1)
        aside = np.radians(rng.normal(0, 2.0))
        height = CAMERA_HEIGHT_M - 0.25
        poses.append((rotation, np.array([range_m * np.sin(aside), height, range_m * np.cos(aside)])))
    return poses


def draw(
    painter: Painter, rng: np.random.Generator, pose: Any, photo: Photo | None, room: np.ndarray
) -> Frame:
    """One frame of the photo, or of the dock where there is none."""
    camera = Camera()
    canvas, (rotation, position_m) = room.copy(), pose
    strengths = degrade.Strengths(motion_px=float(rng.uniform(0, 3)), noise=0.006)
    if photo is None:
        painter.draw_dock(canvas, np.random.default_rng(1), camera, rotation, position_m, strengths)
    else:
        seen = photo.corners_m @ rotation.T + position_m
        painter.draw_flat(canvas, camera, photo.levels, seen)
    image = degrade.sense(canvas, rng, strengths, camera.matrix(), degrade.HEIGHT_PX / 2)
    return Frame(np.repeat(image[:, :, None], 3, axis=2), 0, intrinsics_of(camera))


def measure(count: int = 60, models: Path | None = None) -> dict[str, object]:
    """Figures for docs/benchmarks.md."""
    cv2.setNumThreads(1)
    painter = Painter(2026, "photo")
    found = {}
    last = round((LAST_M - NEAR_M) / STEP_M)
    for kind in ("photo", "dock"):
        shares, near = [], 0
        for number in range(count):
            rng = np.random.default_rng([2026, number, 5])
            photo = (
                take_photo(painter, number, float(rng.uniform(*PHOTO_FROM_M))) if kind == "photo" else None
            )
            room = painter.backdrop.pick(rng)
            observe = make_observer(models or resource_path("models"), resource_path("config", "dock.yaml"))
            published = []
            for step, pose in enumerate(approach(rng)):
                frame = draw(painter, rng, pose, photo, room)
                _, seen = observe(Frame(frame.image, step * STEP_NS, frame.intrinsics))
                published.append(seen is not None)
            shares.append(float(np.mean(published)))
            near += any(published[-last:])
        found[kind] = {
            "approaches": count,
            "frames with a pose, mean %": round(100 * float(np.mean(shares)), 1),
            "approaches without any pose": sum(share == 0 for share in shares),
            f"approaches with a pose below {LAST_M} m": near,
        }
    return dict(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=60, help="approaches of each kind (default 60)")
    parser.add_argument("--models", type=Path, help="folder of the dock models, instead of the package's")
    options = parser.parse_args()
    for kind, figures in measure(options.count, options.models).items():
        print(kind, figures)


if __name__ == "__main__":
    main()
