"""What a robot gets to know of the dock on its way there: detector, gate and tracker over whole approaches.

    python -m bench.approach

From 8 m to 0.4 m at 0.3 m/s, ten frames a second, drawn by the simulator's renderer, which trained nothing; each begins
up to 45 degrees off the dock's axis. The conditions are those of ``make bench-perception`` and last all the way: a
robot that is under 16 px of blur in every frame, or in the dark with a quarter of the dock covered. Counted is what the
detector node would publish. Frames of one approach are not independent: mind how many approaches there are.
"""

import argparse
import math
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bench.perception import labelled
from depai_robot.app.dock_observer import make_observer
from depai_robot.app.model_eval import OPENCV_SEED, compare
from depai_robot.app.resource import resource_path
from training.degrade import CONDITIONS
from training.heap import keep_freed_memory
from training.make_set import BEARING_MAX_DEG, YAW_MAX_DEG
from training.scene import Request

SEED, SPLIT = 2027, "approach"
START_M, END_M = 8.0, 0.4
RATE_HZ, SPEED_MPS = 10.0, 0.3
NEAR_M = 3.0
APPROACHES = 20


@dataclass(frozen=True)
class Approach:
    """One way to the dock, frame by frame.

    Attributes:
        range_m: of each frame.
        outcome: of each frame: None without a pose, else whether it is usable.
    """

    condition: str
    range_m: tuple[float, ...]
    outcome: tuple[bool | None, ...]

    @property
    def first(self) -> int | None:
        """The first frame with a pose."""
        return next((i for i, outcome in enumerate(self.outcome) if outcome is not None), None)

    def gap_s(self) -> float:
        """The longest time without a pose after the first."""
        longest = now = 0
        for outcome in self.outcome[self.first or 0 :]:
            now = now + 1 if outcome is None else 0
            longest = max(longest, now)
        return longest / RATE_HZ


def ranges() -> list[float]:
    """Of the frames, from the farthest on."""
    step_m = SPEED_MPS / RATE_HZ
    return [START_M - step_m * i for i in range(round((START_M - END_M) / step_m) + 1)]


@cache
def kept_simulator() -> Any:
    """One a process."""
    from training.rendered import Simulator

    return Simulator(SEED, SPLIT)


def drive(index: int, condition: str, models: str) -> Approach:
    """The observer as the node runs it, over one approach."""
    keep_freed_memory()
    cv2.setNumThreads(1)
    cv2.setRNGSeed(OPENCV_SEED)
    observe = make_observer(Path(models), resource_path("config", "dock.yaml"))
    request = Request(condition, yaw_max_deg=YAW_MAX_DEG, bearing_max_deg=BEARING_MAX_DEG)
    outcomes: list[bool | None] = []
    for number, sample in enumerate(kept_simulator().drive(index, request, ranges())):
        item = labelled(sample, round((number + 1) * 1e9 / RATE_HZ))
        _, published = observe(item.frame)
        if published is None or item.dock_in_camera is None:
            outcomes.append(None)
            continue
        pose = published.dock_in_camera
        judged = compare(condition, item.dock_in_camera, pose.rotation(), np.array(pose.position_m))
        outcomes.append(judged.usable)
    return Approach(condition, tuple(ranges()), tuple(outcomes))


def figures(approaches: Sequence[Approach]) -> dict[str, object]:
    """Of some approaches, for docs/benchmarks.md."""
    firsts = [a.first for a in approaches]
    waits_s = [math.inf if first is None else first / RATE_HZ for first in firsts]
    places_m = [a.range_m[-1] if a.first is None else a.range_m[a.first] for a in approaches]
    after = [
        (range_m, outcome)
        for a in approaches
        if a.first is not None
        for range_m, outcome in zip(a.range_m[a.first :], a.outcome[a.first :], strict=True)
    ]

    def shares(low_m: float, high_m: float) -> str:
        own = [outcome for range_m, outcome in after if low_m <= range_m < high_m]
        usable, wrong = (100 * sum(o is kind for o in own) / max(len(own), 1) for kind in (True, False))
        return f"{usable:.2f} % usable, {wrong:.2f} % wrong"

    def spread(values: Sequence[float]) -> str:
        middle, most = (np.quantile(values, q, method="higher") for q in (0.5, 0.95))
        return f"{middle:.1f} / {most:.1f}"

    return {
        "seconds until the first pose, p50 / p95": spread(waits_s),
        "metres from the dock then, p50 / least": f"{np.median(places_m):.1f} / {min(places_m):.1f}",
        f"frames after it, beyond {NEAR_M:g} m": shares(NEAR_M, math.inf),
        f"frames after it, within {NEAR_M:g} m": shares(0.0, NEAR_M),
        "approaches with a wrong pose": sum(False in a.outcome for a in approaches),
        "longest gap in seconds, p50 / p95": spread([a.gap_s() for a in approaches]),
    }


def measure(
    count: int = APPROACHES, jobs: int | None = None, models: Path | None = None
) -> dict[str, object]:
    """Figures for docs/benchmarks.md: each condition, then all of them."""
    folder = str(models or resource_path("models"))
    work = [condition for condition in CONDITIONS for _ in range(count)]
    began = time.monotonic()
    found: dict[str, object] = {"approaches in each condition": count}
    done: list[Approach] = []
    with ProcessPoolExecutor(jobs or os.cpu_count() or 1, mp_context=get_context("spawn")) as pool:
        # The index is the room's: each approach has one of its own.
        running = [pool.submit(drive, index, condition, folder) for index, condition in enumerate(work)]
        for number, future in enumerate(running, 1):
            done.append(future.result())
            if number % count == 0:
                condition = work[number - 1]
                found[condition] = figures(done[-count:])
                print(
                    f"  [{number} of {len(work)}] {condition}, {time.monotonic() - began:.0f} s", flush=True
                )
    found["all"] = figures(done)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--count", type=int, default=APPROACHES, help=f"approaches in each condition (default {APPROACHES})"
    )
    parser.add_argument("--jobs", type=int, help="processes (default: one a core)")
    parser.add_argument("--models", type=Path, help="folder of the dock models, instead of the package's")
    options = parser.parse_args()
    for name, value in measure(options.count, options.jobs, options.models).items():
        print(name, value)


if __name__ == "__main__":
    main()
