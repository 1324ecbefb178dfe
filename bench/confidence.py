"""Whether the confidence means what it says, and what the decal's edges add near the dock.

    python -m bench.confidence --frames 5000

Frames of the training renderer from a split of their own (seeds that trained and fitted nothing; in-domain, synthetic):
every pose that could be solved, published or not, with the confidence that the gate gave it. Of those that were given
0.9, nine in ten must be usable. Draws docs/confidence.svg. Then near frames, with and without the decal's edges.
"""

import argparse
import itertools
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from depai_robot.adapters.onnx_detector import OnnxDetector
from depai_robot.app.model_eval import wilson
from depai_robot.app.resource import resource_path
from depai_robot.perception.dock import DockModel
from depai_robot.perception.looks import surest_look
from depai_robot.perception.pose import refine_pose, solve_pose
from depai_robot.perception.subpixel import find_decal_corners, sharpen
from training.evaluate import errors, frame_of, usable
from training.scene import Painter, Request, load_dock

BINS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0 + 1e-9)
PLOT = Path(__file__).resolve().parent.parent / "docs" / "confidence.svg"
NEAR_RANGES_M = (0.35, 0.42, 0.5, 0.65, 0.85, 1.0)


@dataclass(frozen=True)
class Seen:
    """A solved pose: its confidence, and whether it was usable."""

    confidence: float
    usable: bool


def look(detector: OnnxDetector, painter: Painter, dock: DockModel, frames: int) -> list[Seen]:
    gate = detector.manifest.make_gate()
    seen = []
    for index in range(frames):
        sample = painter.sample(index, Request(negative=index % 6 == 5))
        frame = frame_of(sample)
        keypoints = detector.detect(frame)
        if keypoints is None:
            continue
        looked = surest_look(keypoints, partial(detector.detect_in, frame), frame.intrinsics, dock, gate=gate)
        if looked.solution is not None:
            seen.append(
                Seen(looked.confidence, any(usable(looked.solution, truth) for truth in sample.docks))
            )
    return seen


def reliability(seen: list[Seen]) -> list[tuple[float, float, int]]:
    """Of each bin that is not empty: mean confidence, share usable, count."""
    rows = []
    for low, high in itertools.pairwise(BINS):
        inside = [s for s in seen if low <= s.confidence < high]
        if inside:
            confidence = float(np.mean([s.confidence for s in inside]))
            rows.append((confidence, float(np.mean([s.usable for s in inside])), len(inside)))
    return rows


def draw(rows: list[tuple[float, float, int]]) -> str:
    """The reliability plot as SVG."""
    side, left, top = 300, 56, 16

    def x(share: float) -> float:
        return left + side * share

    def y(share: float) -> float:
        return top + side * (1 - share)

    box = f'viewBox="0 0 {left + side + 24} {top + side + 50}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} font-family="sans-serif" font-size="11">',
        f'<rect width="{left + side + 24}" height="{top + side + 50}" fill="#fff"/>',
        f'<rect x="{left}" y="{top}" width="{side}" height="{side}" fill="none" stroke="#89a"/>',
        f'<path d="M{x(0)} {y(0)}L{x(1)} {y(1)}" stroke="#89a" stroke-dasharray="4 4"/>',
    ]
    for tick in range(0, 11, 2):
        share = tick / 10
        parts.append(f'<text x="{x(share):.1f}" y="{top + side + 16}" text-anchor="middle">{share:g}</text>')
        parts.append(f'<text x="{left - 6}" y="{y(share) + 4:.1f}" text-anchor="end">{share:g}</text>')
    for confidence, share, count in rows:
        low, high = wilson(round(share * count), count)
        parts.append(
            f'<path d="M{x(confidence):.1f} {y(low):.1f}V{y(high):.1f}" stroke="#2a6f97" stroke-width="2"/>'
        )
        parts.append(
            f'<circle cx="{x(confidence):.1f}" cy="{y(share):.1f}" r="4" fill="#013a63">'
            f"<title>{count} poses</title></circle>"
        )
    middle = left + side / 2
    parts += [
        f'<text x="{middle}" y="{top + side + 38}" text-anchor="middle">confidence that was given</text>',
        f'<text transform="translate(16 {top + side / 2}) rotate(-90)" text-anchor="middle">share usable</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def measure_near(detector: OnnxDetector, painter: Painter, dock: DockModel, frames: int) -> dict[str, Any]:
    """95th percentiles near the dock, of clean frames, by the keypoints alone and with the decal's edges."""
    lateral: dict[str, list[float]] = {"keypoints": [], "edges": []}
    yaw: dict[str, list[float]] = {"keypoints": [], "edges": []}
    sharpened = count = 0
    for number, range_m in enumerate(NEAR_RANGES_M):
        for index in range(frames):
            sample = painter.sample(10**6 + number * frames + index, Request("clean", range_m, 45.0, 28.0))
            frame, truth = frame_of(sample), sample.docks[0]
            keypoints = detector.detect(frame)
            plain = solve_pose(keypoints, frame.intrinsics, dock) if keypoints is not None else None
            if keypoints is None or plain is None:
                continue
            count += 1
            corners = find_decal_corners(sample.image, keypoints, frame.intrinsics)
            sharp = plain
            if corners is not None:
                sharpened += 1
                sharp = refine_pose(plain, sharpen(keypoints, corners), frame.intrinsics, dock)
            for name, solution in (("keypoints", plain), ("edges", sharp)):
                yaw[name].append(abs(math.degrees(errors(solution, truth)[1])))
                if range_m <= 0.5:
                    lateral[name].append(abs(solution.position_m[0] - truth.position_m[0]) * 1000)
    figures: dict[str, Any] = {"near frames, decal's edges followed": f"{sharpened} of {count}"}
    for name in ("keypoints", "edges"):
        words = "keypoints alone" if name == "keypoints" else "with the decal's edges"
        figures[f"lateral p95 at 0.5 m and less, mm, {words}"] = round(
            float(np.percentile(lateral[name], 95)), 2
        )
        figures[f"yaw p95 at 1 m and less, degrees, {words}"] = round(float(np.percentile(yaw[name], 95)), 2)
    return figures


def measure(frames: int = 5000, seed: int = 9, near: int = 60, models: Path | None = None) -> dict[str, Any]:
    """Figures for docs/benchmarks.md; writes the plot."""
    cv2.setNumThreads(1)
    detector = OnnxDetector(models or resource_path("models"))
    painter, dock = Painter(seed, "reliability"), load_dock()
    seen = look(detector, painter, dock, frames)
    rows = reliability(seen)
    PLOT.write_text(draw(rows), encoding="utf-8")
    gap = sum(count * abs(confidence - share) for confidence, share, count in rows) / max(len(seen), 1)
    brier = float(np.mean([(s.confidence - s.usable) ** 2 for s in seen]))
    figures: dict[str, Any] = {"frames, one in six without a dock": frames, "poses solved": len(seen)}
    for confidence, share, count in rows:
        low, high = wilson(round(share * count), count)
        figures[f"confidence {confidence:.3f}: usable"] = (
            f"{100 * share:.1f} % of {count} ({100 * low:.1f} to {100 * high:.1f})"
        )
    figures["mean gap between confidence and share"] = round(gap, 4)
    figures["Brier score"] = round(brier, 4)
    figures["picture"] = "[confidence.svg](confidence.svg)"
    return figures | measure_near(detector, painter, dock, near)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=5000)
    parser.add_argument("--near", type=int, default=60, help="clean frames at each near range (default 60)")
    parser.add_argument("--models", type=Path, help="folder of the dock models, instead of the package's")
    arguments = parser.parse_args()
    for name, value in measure(arguments.frames, near=arguments.near, models=arguments.models).items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
