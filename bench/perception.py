"""The dock models against ArUco and AprilTag 3 on the same frames, by condition and range; writes docs/perception.md.

    make bench-perception                 (python -m bench.perception; hours of one core, it can be cut and goes on)
    python -m bench.perception --quick    (minutes; writes below out/ only)
    python -m bench.perception --page     (writes the page again from what was measured)

Seven conditions, six distance bands from 0.35 to 5 m and 8 m, at least 300 frames in each, from two renderers: the one
that trained the models (other seeds and rooms) and the simulator's, which trained nothing: the headline. Then rooms
without a dock, with things that are like one, and the same conditions and bands once more, as mild as in the experiment
that the targets come from. Outcomes lie in out/perception/, a line a frame.
"""

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from depai_robot.adapters.onnx_detector import OnnxDetector
from depai_robot.app.model_data import LabelledFrame
from depai_robot.app.model_eval import OPENCV_SEED, Judged, judge_frame
from depai_robot.app.resource import resource_path
from depai_robot.values.geometry import Pose3
from training.degrade import CONDITIONS, PLAIN_CONDITIONS
from training.evaluate import frame_of
from training.heap import keep_freed_memory
from training.make_set import BANDS_M, BEARING_MAX_DEG, RENDERERS, YAW_MAX_DEG, open_renderer
from training.scene import Request, Sample, load_dock

ROOT = Path(__file__).resolve().parent.parent
SEED, SPLIT = 2026, "bench"
ALL_BANDS_M = (*BANDS_M, (8.0, 8.0))
PER_CELL, ROOMS, ROOMS_PER_CELL = 300, {"homography": 14_000, "simulator": 6_000}, 500
QUICK = 30
RESTARTS = 10
OURS, SMALL = "models", "int8"


@dataclass(frozen=True)
class Cell:
    """A piece of work: frames of one renderer, condition and band, or rooms when there is no band."""

    renderer: str
    number: int
    condition: str
    band_m: tuple[float, float] | None
    frames: int

    @property
    def name(self) -> str:
        return f"{self.renderer}-{self.number:03d}"


class Line(msgspec.Struct):
    """A frame that one detector has judged."""

    renderer: str
    index: int
    detector: str
    judged: Judged


def cells(per_cell: int, rooms: dict[str, int]) -> list[Cell]:
    found = []
    for renderer in RENDERERS:
        grid = [(condition, band) for condition in CONDITIONS for band in ALL_BANDS_M]
        found += [Cell(renderer, i, *pair, per_cell) for i, pair in enumerate(grid)]
        left, number = rooms[renderer], len(grid)
        while left > 0:
            count = min(left, ROOMS_PER_CELL)
            found.append(Cell(renderer, number, CONDITIONS[number % len(CONDITIONS)], None, count))
            left, number = left - count, number + 1
        grid = [(condition, band) for condition in PLAIN_CONDITIONS for band in ALL_BANDS_M]
        found += [Cell(renderer, number + i, *pair, per_cell) for i, pair in enumerate(grid)]
    return found


def requests(cell: Cell) -> Iterator[tuple[int, Request]]:
    """Index and request of each frame; ranges are spread over the band."""
    rng = np.random.default_rng([SEED, cell.number, cell.renderer == "simulator"])
    for i in range(cell.frames):
        share = (i + rng.random()) / cell.frames
        index = cell.number * 10_000 + i
        if cell.band_m is None:
            yield index, Request(cell.condition, negative=True)
        else:
            low, high = cell.band_m
            yield index, Request(cell.condition, low + share * (high - low), YAW_MAX_DEG, BEARING_MAX_DEG)


def labelled(sample: Sample, stamp_ns: int) -> LabelledFrame:
    truth = None
    if sample.docks:
        dock = sample.docks[0]
        x, y, z = map(float, dock.position_m)
        truth = Pose3.from_matrix(dock.rotation, (x, y, z))
    return LabelledFrame(frame_of(sample, stamp_ns), sample.condition, truth)


@cache
def kept_renderer(name: str) -> Any:
    """One a process: its rooms are drawn once, and serve cell after cell."""
    return open_renderer(name, SEED, SPLIT)


def measure_cell(cell: Cell, models: str, folder: str) -> str:
    """One cell, written as a file of its own when it is done."""
    from bench.tag_peer import judge_peer, make_peers

    keep_freed_memory()  # frames are drawn in two thirds of the time; the detectors take as long as without
    cv2.setNumThreads(1)
    cv2.setRNGSeed(OPENCV_SEED)
    ours = {OURS: OnnxDetector(Path(models)), SMALL: OnnxDetector(Path(models) / "int8")}
    dock = load_dock()
    peers = make_peers() if cell.band_m is not None else ()
    renderer = kept_renderer(cell.renderer)
    lines = []
    for index, request in requests(cell):
        item = labelled(renderer.sample(index, request), index)
        lines += [Line(cell.renderer, index, name, judge_frame(d, dock, item)) for name, d in ours.items()]
        lines += [Line(cell.renderer, index, p.name, judge_peer(p, dock, item)) for p in peers]
    target = Path(folder) / f"{cell.name}.jsonl"
    part = target.with_suffix(".part")
    part.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    part.rename(target)
    return cell.name


def measure_all(work: list[Cell], models: Path, folder: Path, jobs: int) -> None:
    """Everything that is not there yet; a change of models wants another folder."""
    for _ in range(RESTARTS):
        left = [cell for cell in work if not (folder / f"{cell.name}.jsonl").is_file()]
        print(f"{len(left)} of {len(work)} cells to measure, into {folder}", flush=True)
        try:
            with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
                running = [pool.submit(measure_cell, cell, str(models), str(folder)) for cell in left]
                for count, done in enumerate(as_completed(running), 1):
                    print(f"[{count} of {len(left)}] {done.result()}", flush=True)
        except BrokenProcessPool:
            # A peer's native code was seen to corrupt its heap; what is measured is kept.
            print("a process died; going on with what is left", flush=True)
        else:
            return
    raise SystemExit(f"processes died {RESTARTS} times; run it again to go on")


def read_lines(work: list[Cell], folder: Path) -> list[Line]:
    """All that was measured, in order."""
    decoder = msgspec.json.Decoder(Line)
    found = []
    for cell in work:
        path = folder / f"{cell.name}.jsonl"
        if path.is_file():
            found += [decoder.decode(line) for line in path.read_bytes().splitlines()]
    return found


def measured_when(work: list[Cell], folder: Path) -> str:
    """When the first and the last of some cells were measured, UTC: a run that was cut goes on days later."""
    times = [path.stat().st_mtime for cell in work if (path := folder / f"{cell.name}.jsonl").is_file()]
    if not times:
        return "never"
    first, last = (time.strftime("%Y-%m-%d %H:%M", time.gmtime(t)) for t in (min(times), max(times)))
    return f"{first} to {last} UTC"


def redraw(renderer: Any, work: list[Cell], index: int) -> Sample:
    """A frame again, for the contact sheet."""
    cell = next(cell for cell in work if cell.number == index // 10_000)
    request = next(request for i, request in requests(cell) if i == index)
    return renderer.sample(index, request)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, default=resource_path("models"))
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} frames a cell, few rooms, no page")
    parser.add_argument(
        "--page", action="store_true", help="write the page from what is there, measure nothing"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    options = parser.parse_args()
    sha256 = OnnxDetector(options.models).model_sha256
    folder = ROOT / "out" / "perception" / f"{sha256[:12]}{'-quick' if options.quick else ''}"
    folder.mkdir(parents=True, exist_ok=True)
    work = cells(PER_CELL, ROOMS)
    if options.quick:
        work = cells(QUICK, dict.fromkeys(RENDERERS, 500))
    if not options.page:
        measure_all(work, options.models, folder, options.jobs)
    from bench.perception_page import write_page

    target = ROOT / "docs" if not options.quick else folder
    write_page(read_lines(work, folder), work, options.models, folder, target)


if __name__ == "__main__":
    main()
