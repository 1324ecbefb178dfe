"""A dock that is not built as its file says: how often it is found, and how often a right one is blamed.

    python -m bench.dock_scale --approaches 40

Part 1, approaches in the simulator's renderer with the shipped models: the decal 5 % too large or too small for its
panel, the panel 5 % too wide, and right docks. Flagged or not is asked once, after the approach from 1.1 to 0.45 m.
Part 2, many approaches by geometry and noise alone: a dock that is wrong as a whole by 5 %, against wheels whose scale
and slip are each off by 1 % (one standard deviation) as in the simulator.
"""

import argparse
import dataclasses
import math
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from depai_robot.app.dock_observer import make_observer
from depai_robot.app.model_eval import wilson
from depai_robot.app.resource import resource_path
from depai_robot.docking.scale import ScaleFit
from depai_robot.perception.dock import parse_dock
from depai_robot.perception.frame import Frame
from depai_robot.sim.camera import SimulatedCamera, choose_backend
from depai_robot.sim.scene import parse_robot, parse_world
from depai_robot.sim.world import IDEAL, World
from depai_robot.values.geometry import Pose2

FRAMES = 16
NEAR_M, FAR_M = 0.45, 1.1
WHEEL_SIGMA = 0.01
SLIP_SIGMA = 0.01
TRACK_M = 0.34
YAW_SIGMA_RAD = 0.006
PIXEL_SIGMA_M = (0.001, 0.0012)
"""Of a published position: near, and per square metre of range (docs/perception.md)."""

CASES = {
    "right": (1.0, 1.0, 1.0),
    "decal 5 % too large": (1.05, 1.05, 1.0),
    "decal 5 % too small": (0.95, 0.95, 1.0),
    "panel 5 % too wide": (1.0, 1.0, 1.05),
    "panel 5 % too narrow": (1.0, 1.0, 0.95),
}
"""Decal's width and height, and the panel's width, as shares of what the file says."""


def share(hits: int, count: int) -> str:
    """In % with its 95 % interval."""
    low, high = wilson(hits, count)
    return f"{100 * hits / max(count, 1):.1f} % of {count} ({100 * low:.1f} to {100 * high:.1f})"


def draw_textures(folder: Path, decal_width: float, decal_height: float, panel_width: float) -> None:
    """The shipped pictures with the decal drawn anew; a picture is stretched over the whole panel."""
    source = resource_path("config", "dock")
    dock = parse_dock(resource_path("config", "dock.yaml").read_text(encoding="utf-8"))
    folder.mkdir(exist_ok=True)
    (folder / "base_front.png").write_bytes((source / "base_front.png").read_bytes())
    for path in source.glob("panel_*.png"):
        image = cv2.imread(str(path))
        height, width = image.shape[:2]
        px_per_m = width / dock.panel.width_m
        size = round(dock.decal.size_m * px_per_m)
        left, top = (width - size) // 2, (height - size) // 2
        tag = image[top : top + size, left : left + size].copy()
        image[top - 2 : top + size + 2, left - 2 : left + size + 2] = image[top - 8, left - 8]
        w, h = round(size * decal_width / panel_width), round(size * decal_height)
        left, top = (width - w) // 2, (height - h) // 2
        image[top : top + h, left : left + w] = cv2.resize(tag, (w, h), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / path.name), image)


def approach(
    world: World, camera: SimulatedCamera, place: Pose2, models: Path, rng: np.random.Generator
) -> tuple[bool, float, int]:
    """Whether one approach ends with the dock flagged, the misfit that was seen, and the frames that saw it."""
    observe = make_observer(models, resource_path("config", "dock.yaml"))
    angle = float(rng.uniform(-0.25, 0.25))
    for number in range(FRAMES):
        ahead = FAR_M + (NEAR_M - FAR_M) * number / (FRAMES - 1)
        beside = -ahead * math.sin(angle) * (ahead - NEAR_M)
        world._place(
            place.compose(Pose2(-ahead * math.cos(angle), beside, angle * 0.5 + float(rng.normal(0, 0.03))))
        )
        frame = camera.read()
        gain = float(rng.uniform(0.4, 1.2))
        image = cv2.GaussianBlur(frame.image.astype(np.float32), (0, 0), float(rng.uniform(0.4, 1.2))) * gain
        image += rng.normal(0, 2.0, image.shape[:2])[:, :, None]
        observe(Frame(np.clip(image, 0, 255).astype(np.uint8), number * 100_000_000, frame.intrinsics))
    return observe.fit.is_wrong, observe.fit.misfit, observe.fit.count


def measure_decals(approaches: int, seed: int, models: Path) -> dict[str, Any]:
    backend, reason = choose_backend("auto")
    robot = parse_robot(resource_path("config", "robot.yaml").read_text(encoding="utf-8"))
    layout = parse_world(resource_path("config", "world.yaml").read_text(encoding="utf-8"))
    dock = parse_dock(resource_path("config", "dock.yaml").read_text(encoding="utf-8"))
    figures: dict[str, Any] = {}
    for case, (width, height, panel) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            draw_textures(Path(folder), width, height, panel)
            built = dataclasses.replace(
                dock,
                panel=dataclasses.replace(dock.panel, width_m=dock.panel.width_m * panel),
                base=dataclasses.replace(dock.base, width_m=dock.base.width_m * panel),
            )
            world = World(robot, layout, built, Path(folder), disturbance=IDEAL)
            camera = SimulatedCamera(world, backend, reason)
            flagged, misfits, counts = 0, [], []
            for number in range(approaches):
                rng = np.random.default_rng([seed, number])
                place = layout.docks[number % len(layout.docks)].pose()
                wrong, misfit, count = approach(world, camera, place, models, rng)
                flagged += wrong
                misfits.append(misfit)
                counts.append(count)
            camera.close()
        figures[f"{case}: flagged"] = share(flagged, approaches)
        figures[f"{case}: misfit seen, 5th, 50th and 95th percentile"] = " ".join(
            f"{v:.3f}" for v in np.percentile(misfits, (5, 50, 95))
        )
        figures[f"{case}: frames that measured it, median"] = float(np.median(counts))
    return figures


def drive(rng: np.random.Generator, true_scale: float) -> ScaleFit:
    """An approach by wheels that are not ideal, with sights of a dock that is ``true_scale`` of its model."""
    wheel = 1.0 + rng.normal(0, WHEEL_SIGMA, 2)  # what the odometry says of both wheels
    slip = 1.0 + rng.normal(0, SLIP_SIGMA, 2)  # what the floor gets of them
    camera_x_m = 0.02
    real = np.array([0.0, 0.0, 0.0])
    odom = real.copy()
    begin, angle = rng.uniform(1.6, 3.5), rng.uniform(-0.6, 0.6)
    dock = Pose2(begin * math.cos(angle), begin * math.sin(angle), angle * float(rng.uniform(0.2, 1.2)))
    fit = ScaleFit()
    for tick in range(600):
        base = Pose2(*(float(v) for v in real))
        seen = base.inverse().compose(dock)
        ahead = math.hypot(seen.x_m, seen.y_m)
        if ahead < 0.5:
            break
        if tick % 5 == 0:
            range_m = ahead - camera_x_m
            sigma = PIXEL_SIGMA_M[0] + PIXEL_SIGMA_M[1] * range_m**2
            # A dock of another size looks nearer or farther from the camera by that share.
            x = camera_x_m + (seen.x_m - camera_x_m) / true_scale + rng.normal(0, sigma)
            y = seen.y_m / true_scale + rng.normal(0, sigma / 2)
            fit = fit.add(
                Pose2(*(float(v) for v in odom)),
                Pose2(float(x), float(y), seen.yaw_rad + float(rng.normal(0, YAW_SIGMA_RAD))),
                camera_x_m,
            )
        speed = min(0.3, 0.45 * (ahead - 0.4))
        turn = 1.2 * math.atan2(seen.y_m, seen.x_m)
        wheels = np.array([speed - turn * TRACK_M / 2, speed + turn * TRACK_M / 2]) * 0.02
        for pose, scale in ((real, slip * (1 + rng.normal(0, 0.03, 2))), (odom, wheel)):
            left, right = wheels * scale
            pose[2] += (right - left) / TRACK_M
            pose[:2] += (left + right) / 2 * np.array([math.cos(pose[2]), math.sin(pose[2])])
    return fit


def measure_scales(drives: int, seed: int) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for name, scale in (("right", 1.0), ("5 % too large", 1.05), ("5 % too small", 0.95)):
        fits = [drive(np.random.default_rng([seed, 7, number]), scale) for number in range(drives)]
        scales = [fit.scale for fit in fits if fit.scale is not None]
        figures[f"whole dock {name}: flagged"] = share(sum(fit.is_wrong for fit in fits), drives)
        figures[f"whole dock {name}: scale found, 5th, 50th and 95th percentile"] = " ".join(
            f"{v:.3f}" for v in np.percentile(scales, (5, 50, 95))
        )
    return figures


def measure(
    approaches: int = 100, seed: int = 1, drives: int = 4000, models: Path | None = None
) -> dict[str, Any]:
    """Figures for docs/benchmarks.md."""
    cv2.setNumThreads(1)
    return measure_decals(approaches, seed, models or resource_path("models")) | measure_scales(drives, seed)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--approaches", type=int, default=100, help="rendered approaches of each case (default 100)"
    )
    parser.add_argument(
        "--drives", type=int, default=4000, help="approaches by geometry alone (default 4000)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--models", type=Path, help="folder of the dock models, instead of the package's")
    arguments = parser.parse_args()
    for name, value in measure(
        arguments.approaches, arguments.seed, arguments.drives, arguments.models
    ).items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
