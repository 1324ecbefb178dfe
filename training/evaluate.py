"""Measures the models in ``models/`` on frames of their own split: ``python -m training.evaluate``.

Usable: published, position within max(5 cm, 5 % of the range) and yaw within 10 degrees. Wrong: published and not
usable. False: published on a frame without a dock. Times are process CPU milliseconds, one thread.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from depai_robot.adapters.onnx_detector import OnnxDetector
from depai_robot.perception.frame import CameraIntrinsics, Frame
from depai_robot.perception.gate import YAW_TOLERANCE_RAD, position_tolerance_m
from depai_robot.perception.pose import PoseSolution, solve_pose
from depai_robot.perception.tag import read_tag
from training.scene import (
    CONDITIONS,
    HEIGHT_PX,
    WIDTH_PX,
    Camera,
    DockTruth,
    Painter,
    Request,
    Sample,
    load_dock,
)
from training.textures import ROOT

RANGES_M = (0.35, 0.42, 0.5, 0.65, 0.85, 1.1, 1.5, 2.0, 2.6, 3.3, 4.1, 5.0)


def intrinsics_of(camera: Camera) -> CameraIntrinsics:
    return CameraIntrinsics(
        WIDTH_PX, HEIGHT_PX, camera.focal_px, camera.focal_px, (WIDTH_PX - 1) / 2, (HEIGHT_PX - 1) / 2
    )


def frame_of(sample: Sample) -> Frame:
    return Frame(np.repeat(sample.image[:, :, None], 3, axis=2), 1, intrinsics_of(sample.camera))


def errors(solution: PoseSolution, truth: DockTruth) -> tuple[float, float]:
    """Position error in m and yaw error in rad (about the dock's own upward axis)."""
    between = truth.rotation.T @ solution.rotation
    yaw = float(np.arctan2(between[1, 0], between[0, 0]))
    return float(np.linalg.norm(solution.position_m - truth.position_m)), yaw


def usable(solution: PoseSolution, truth: DockTruth) -> bool:
    position_m, yaw_rad = errors(solution, truth)
    tolerance_m = position_tolerance_m(float(np.linalg.norm(truth.position_m)))
    return position_m < tolerance_m and abs(yaw_rad) < YAW_TOLERANCE_RAD


def grid(painter: Painter, frames: int) -> Iterator[tuple[float, Sample]]:
    """Every condition at every range, yaw within 45 and bearing within 28 degrees."""
    index = 0
    for condition in CONDITIONS:
        for range_m in RANGES_M:
            for _ in range(frames):
                request = Request(condition, range_m, 45.0, 28.0)
                yield range_m, painter.sample(index, request)
                index += 1


@dataclass
class Outcome:
    published: bool
    usable: bool
    position_m: float = np.nan
    yaw_rad: float = np.nan
    tag: bool = False
    whitened: float = np.nan


def judge(detector: OnnxDetector, sample: Sample, threshold: float) -> Outcome:
    frame = frame_of(sample)
    keypoints = detector.detect(frame)
    solution = solve_pose(keypoints, frame.intrinsics, load_dock_once()) if keypoints else None
    if solution is None or detector.manifest.make_gate().probability(solution.evidence) < threshold:
        return Outcome(published=False, usable=False)
    if not sample.docks:
        return Outcome(published=True, usable=False)
    # With two docks in view either will do.
    truth = min(sample.docks, key=lambda d: errors(solution, d)[0])
    position_m, yaw_rad = errors(solution, truth)
    difference = np.concatenate(
        [solution.position_m - truth.position_m, cv2.Rodrigues(solution.rotation @ truth.rotation.T)[0][:, 0]]
    )
    whitened = float(difference @ np.linalg.solve(solution.covariance, difference))
    tag = read_tag(sample.image, keypoints) is not None
    return Outcome(True, usable(solution, truth), position_m, yaw_rad, tag, whitened)


_DOCK = []


def load_dock_once():
    if not _DOCK:
        _DOCK.append(load_dock())
    return _DOCK[0]


def wilson(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a share. Source: E. B. Wilson, JASA 22, 1927."""
    z, n = 1.96, max(count, 1)
    p = hits / n
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


def evaluate(models: Path, seed: int, frames: int, negatives: int) -> dict[str, object]:
    detector = OnnxDetector(models)
    gate = detector.manifest.make_gate()
    painter = Painter(seed, "test")
    by_condition, by_range = defaultdict(list), defaultdict(list)
    for range_m, sample in grid(painter, frames):
        outcome = judge(detector, sample, gate.threshold)
        by_condition[sample.condition].append(outcome)
        by_range[range_m].append(outcome)
    every = [o for outcomes in by_condition.values() for o in outcomes]
    false = sum(
        judge(detector, painter.sample(10**6 + i, Request(negative=True)), gate.threshold).published
        for i in range(negatives)
    )

    def share(outcomes: list[Outcome], name: str) -> float:
        hits = sum(o.usable if name == "usable" else o.published and not o.usable for o in outcomes)
        return round(100 * hits / len(outcomes), 2)

    def spread(outcomes: list[Outcome]) -> dict[str, float]:
        position = [o.position_m for o in outcomes if o.published]
        yaw = np.degrees(np.abs([o.yaw_rad for o in outcomes if o.published]))
        if not position:
            return {}
        return {
            "usable_percent": share(outcomes, "usable"),
            "wrong_percent": share(outcomes, "wrong"),
            "position_p50_mm": round(float(np.percentile(position, 50)) * 1e3, 1),
            "position_p95_mm": round(float(np.percentile(position, 95)) * 1e3, 1),
            "yaw_p95_deg": round(float(np.percentile(yaw, 95)), 2),
            "tag_read_percent": round(100 * sum(o.tag for o in outcomes) / len(outcomes), 1),
        }

    low, high = wilson(false, negatives)
    wrong = [o for o in every if o.published and not o.usable]
    return {
        "frames": len(every),
        "usable_percent": share(every, "usable"),
        "wrong_percent": share(every, "wrong"),
        "wrong_interval_percent": [round(100 * v, 2) for v in wilson(len(wrong), len(every))],
        "negatives": negatives,
        "false": false,
        "false_interval_percent": [round(100 * low, 2), round(100 * high, 2)],
        "whitened_error_median": round(float(np.nanmedian([o.whitened for o in every])), 2),
        "by_condition": {name: spread(outcomes) for name, outcomes in by_condition.items()},
        "by_range_m": {str(name): spread(outcomes) for name, outcomes in by_range.items()},
        "cpu_ms": measure_cpu(detector, painter),
    }


def measure_cpu(detector: OnnxDetector, painter: Painter) -> dict[str, float]:
    """Median process CPU ms of a search, of a pose, and of a look where the dock is expected."""
    from depai_robot.perception.network import next_region

    frames = [frame_of(painter.sample(2 * 10**6 + i, Request("clean", 2.0))) for i in range(20)]
    whole, pose, look = [], [], []
    for frame in frames * 5:
        start = time.process_time()
        keypoints = detector.detect(frame)
        middle = time.process_time()
        whole.append(middle - start)
        if keypoints is None:
            continue
        solve_pose(keypoints, frame.intrinsics, load_dock_once())
        pose.append(time.process_time() - middle)
        region = next_region(keypoints)
        if region is not None:
            start = time.process_time()
            detector.detect_in(frame, region)
            look.append(time.process_time() - start)
    return {
        name: round(float(np.median(values)) * 1e3, 2)
        for name, values in (("search", whole), ("pose", pose), ("look_in_region", look))
        if values
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=ROOT / "models")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--frames", type=int, default=10, help="for each of 7 conditions at 12 ranges")
    parser.add_argument("--negatives", type=int, default=600)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    print(json.dumps(evaluate(options.models, options.seed, options.frames, options.negatives), indent=1))


if __name__ == "__main__":
    main()
