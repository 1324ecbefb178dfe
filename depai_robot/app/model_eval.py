"""What models make of labelled frames, each by itself: usable, wrong, false, errors and times.

*Usable*: published, position within max(5 cm, 5 % of the range) and yaw within 10 degrees. *Wrong*: published with a
dock in view, and not usable. *False*: published on a frame without a dock. No tracker, which would hide single errors.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from depai_robot.adapters.onnx_detector import OnnxDetector
from depai_robot.app.model_data import LabelledFrame
from depai_robot.perception.dock import DockModel
from depai_robot.perception.gate import YAW_TOLERANCE_RAD, position_tolerance_m
from depai_robot.perception.looks import publish, surest_look
from depai_robot.perception.subpixel import find_decal_corners
from depai_robot.values.geometry import Pose3

OPENCV_SEED = 1
BAND_EDGES_M = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 7.0)
"""Distance bands of the tables; the upper edge belongs to a band. What is farther makes one more."""

_Z = 1.959964
"""Of a two-sided 95 % interval."""


class Judged(Struct, frozen=True):
    """A frame's outcome.

    Attributes:
        condition: of the frame.
        range_m: to the dock; None without one.
        published: a pose came out.
        usable: and it can be used.
        position_m: length of its error; 0 when there is none.
        lateral_m: across the dock's axis, in the dock's own frame.
        yaw_rad: about the dock's upward axis.
        confidence: that came with it; 0 when nothing did.
        cpu_ms: processor time of everything from the image to the pose.
    """

    condition: str
    range_m: float | None
    published: bool
    usable: bool = False
    position_m: float = 0.0
    lateral_m: float = 0.0
    yaw_rad: float = 0.0
    confidence: float = 0.0
    cpu_ms: float = 0.0


class Row(Struct, frozen=True, forbid_unknown_fields=True):
    """One line of a table: counts, and percentiles of the published poses (0 when there are none).

    Attributes:
        name: condition, band, or "all".
        docks: frames with a dock.
        usable: of these.
        wrong: of these.
        rooms: frames without a dock.
        false: of these.
        position_p50_mm: error of the position.
        position_p95_mm: likewise.
        lateral_p95_mm: its part across the dock's axis.
        yaw_p50_deg: error of the yaw.
        yaw_p95_deg: likewise.
        cpu_p50_ms: processor time of a frame.
        cpu_p95_ms: likewise.
    """

    name: str
    docks: int
    usable: int
    wrong: int
    rooms: int
    false: int
    position_p50_mm: float
    position_p95_mm: float
    lateral_p95_mm: float
    yaw_p50_deg: float
    yaw_p95_deg: float
    cpu_p50_ms: float
    cpu_p95_ms: float


class Evaluation(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that ``depai-robot model eval`` says.

    Attributes:
        models: name of the set.
        models_sha256: of the manifest.
        data_sha256: of the set of frames.
        provider: execution provider.
        total: all frames.
        conditions: one row each.
        bands: one row each, docks only.
        cells: one row each band of each condition, named ``condition, band``.
    """

    models: str
    models_sha256: str
    data_sha256: str
    provider: str
    total: Row
    conditions: list[Row]
    bands: list[Row]
    cells: list[Row]


def wilson(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a share.

    Source: E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22, 1927.
    """
    if not count:
        return 0.0, 1.0
    n, p = count, hits / count
    middle = p + _Z**2 / (2 * n)
    half = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n * n))
    return max(0.0, (middle - half) / (1 + _Z**2 / n)), min(1.0, (middle + half) / (1 + _Z**2 / n))


def band_of(range_m: float) -> str:
    """Name of the distance band of a range."""
    for low, high in itertools.pairwise(BAND_EDGES_M):
        if range_m <= high:
            return f"{low:g} to {high:g} m"
    return f"over {BAND_EDGES_M[-1]:g} m"


def judge_frame(detector: OnnxDetector, dock: DockModel, item: LabelledFrame) -> Judged:
    """Search, pose, gate, sharpening, and how far the outcome is from the truth.

    Raises:
        DeviceFailedError: the runtime failed.
    """
    # A frame of its own: what another detector has made of it already would cost this one nothing.
    frame, truth = replace(item.frame), item.dock_in_camera
    begin = time.process_time()
    keypoints = detector.detect(frame)
    seen = None
    if keypoints is not None:
        gate = detector.manifest.make_gate()
        look = surest_look(keypoints, partial(detector.detect_in, frame), frame.intrinsics, dock, gate=gate)
        seen = publish(
            look,
            frame.intrinsics,
            dock,
            gate=gate,
            stamp_ns=frame.stamp_ns,
            model_sha256=detector.model_sha256,
            corners=find_decal_corners(frame.grey, look.keypoints, frame.intrinsics),
        )
    cpu_ms = (time.process_time() - begin) * 1000
    range_m = float(np.linalg.norm(truth.position_m)) if truth is not None else None
    if seen is None:
        return Judged(item.condition, range_m, published=False, cpu_ms=cpu_ms)
    if truth is None or range_m is None:
        return Judged(item.condition, None, published=True, confidence=seen.confidence, cpu_ms=cpu_ms)
    pose = seen.dock_in_camera
    return compare(
        item.condition,
        truth,
        pose.rotation(),
        np.array(pose.position_m),
        confidence=seen.confidence,
        cpu_ms=cpu_ms,
    )


def compare(
    condition: str,
    truth: Pose3,
    rotation: NDArray[np.float64],
    position_m: NDArray[np.float64],
    *,
    confidence: float = 0.0,
    cpu_ms: float = 0.0,
) -> Judged:
    """How far a published pose, (3, 3) and (3,), is from the true one."""
    range_m = float(np.linalg.norm(truth.position_m))
    difference = position_m - np.array(truth.position_m)
    error_m = float(np.linalg.norm(difference))
    between = truth.rotation().T @ rotation
    yaw_rad = float(np.arctan2(between[1, 0], between[0, 0]))
    return Judged(
        condition=condition,
        range_m=range_m,
        published=True,
        usable=error_m < position_tolerance_m(range_m) and abs(yaw_rad) < YAW_TOLERANCE_RAD,
        position_m=error_m,
        lateral_m=float((truth.rotation().T @ difference)[1]),
        yaw_rad=yaw_rad,
        confidence=confidence,
        cpu_ms=cpu_ms,
    )


def summarise(name: str, outcomes: Sequence[Judged]) -> Row:
    """One row of a table."""
    docks = [o for o in outcomes if o.range_m is not None]
    rooms = [o for o in outcomes if o.range_m is None]
    published = [o for o in docks if o.published]

    def high(share: float, values: list[float], digits: int = 3) -> float:
        return round(float(np.percentile(np.abs(values), share)), digits) if values else 0.0

    position_mm = [o.position_m * 1000 for o in published]
    yaw_deg = [math.degrees(o.yaw_rad) for o in published]
    cpu_ms = [o.cpu_ms for o in outcomes]
    return Row(
        name=name,
        docks=len(docks),
        usable=sum(o.usable for o in docks),
        wrong=sum(not o.usable for o in published),
        rooms=len(rooms),
        false=sum(o.published for o in rooms),
        position_p50_mm=high(50, position_mm),
        position_p95_mm=high(95, position_mm),
        lateral_p95_mm=high(95, [o.lateral_m * 1000 for o in published]),
        yaw_p50_deg=high(50, yaw_deg),
        yaw_p95_deg=high(95, yaw_deg),
        cpu_p50_ms=high(50, cpu_ms),
        cpu_p95_ms=high(95, cpu_ms),
    )


def group_rows(outcomes: Iterable[Judged], key: Callable[[Judged], str]) -> list[Row]:
    """One row for each value of ``key``, in the order in which they are first met."""
    groups: dict[str, list[Judged]] = {}
    for outcome in outcomes:
        groups.setdefault(key(outcome), []).append(outcome)
    return [summarise(name, group) for name, group in groups.items()]


def evaluate(
    detector: OnnxDetector, dock: DockModel, frames: Iterable[LabelledFrame], data_sha256: str
) -> tuple[Evaluation, list[Judged]]:
    """All frames, and the tables of them; the outcomes come back in the order of the frames.

    Raises:
        ConfigError: an image is no image.
        DeviceFailedError: the runtime failed.
    """
    cv2.setNumThreads(1)
    cv2.setRNGSeed(OPENCV_SEED)
    outcomes = [judge_frame(detector, dock, item) for item in frames]
    return tabulate(detector, outcomes, data_sha256), outcomes


def tabulate(detector: OnnxDetector, outcomes: Sequence[Judged], data_sha256: str) -> Evaluation:
    """The tables of outcomes."""
    docks = sorted((o for o in outcomes if o.range_m is not None), key=lambda o: o.range_m or 0.0)
    by_condition = sorted(docks, key=lambda o: o.condition)

    def band(outcome: Judged) -> str:
        return band_of(outcome.range_m or 0.0)

    return Evaluation(
        models=detector.manifest.name,
        models_sha256=detector.model_sha256,
        data_sha256=data_sha256,
        provider=detector.provider,
        total=summarise("all", outcomes),
        conditions=group_rows(sorted(outcomes, key=lambda o: o.condition), lambda o: o.condition),
        bands=group_rows(docks, band),
        cells=group_rows(by_condition, lambda o: f"{o.condition}, {band(o)}"),
    )
