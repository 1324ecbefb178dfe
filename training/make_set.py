"""Draws a set of labelled frames: ``python -m training.make_set --renderer simulator --seed 7 --out frames``.

PNG files and ``labels.jsonl`` in the form that ``depai-robot model eval`` reads, and ``set.json``: how the set was made
and its hash. Frame i is a function of renderer, seed and i: with the same versions of what draws (numpy, OpenCV,
MuJoCo and its GL) the same command makes the same bytes. Frames without a dock show rooms with things that are like
one: tags, framed boards, posters, screens.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from depai_robot.app.model_data import LABELS_NAME, DataSet, DockLabel, Label
from depai_robot.values.geometry import Pose3
from training.degrade import CONDITIONS, HEIGHT_PX, PLAIN_CONDITIONS, SINGLE_CONDITIONS, WIDTH_PX
from training.scene import Painter, Request, Sample

RENDERERS = ("homography", "simulator")
SPLIT = "set"
ALL_CONDITIONS = (*CONDITIONS, *PLAIN_CONDITIONS, *SINGLE_CONDITIONS, "mixed")
BANDS_M = ((0.35, 0.5), (0.5, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, 4.0), (4.0, 5.0))
YAW_MAX_DEG, BEARING_MAX_DEG = 45.0, 28.0
_DIGITS = 9


def open_renderer(name: str, seed: int, split: str = SPLIT) -> Any:
    """What draws frames: ``sample(index, request)``."""
    if name == "homography":
        return Painter(seed, split)
    if name == "simulator":
        from training.rendered import Simulator

        return Simulator(seed, split)
    raise ValueError(f"a renderer is one of {RENDERERS}, got {name!r}")


def requests(
    conditions: Sequence[str],
    bands_m: Sequence[tuple[float, float]],
    per_cell: int,
    rooms: int,
    seed: int,
) -> Iterator[tuple[int, Request]]:
    """Index and request of every frame: each band of each condition, then rooms without a dock.

    Ranges are spread over their band; yaw within 45 and bearing within 28 degrees.
    """
    index = 0
    rng = np.random.default_rng([seed, 21])
    for condition in conditions:
        for low, high in bands_m:
            for number in range(per_cell):
                share = (number + rng.random()) / per_cell
                range_m = low + (high - low) * share
                yield index, Request(condition, range_m, YAW_MAX_DEG, BEARING_MAX_DEG)
                index += 1
    for number in range(rooms):
        yield index, Request(conditions[number % len(conditions)], negative=True)
        index += 1


def label_of(sample: Sample, image: str) -> Label:
    """One line of ``labels.jsonl``."""
    dock = None
    if sample.docks:
        truth = sample.docks[0]
        x, y, z = (round(float(v), _DIGITS) for v in truth.position_m)
        turn = Pose3.from_matrix(truth.rotation, (x, y, z)).quaternion_xyzw
        a, b, c, d = (round(v, _DIGITS) for v in turn)
        dock = DockLabel((x, y, z), (a, b, c, d))
    focal_px = round(sample.camera.focal_px, _DIGITS)
    return Label(
        image=image,
        fx=focal_px,
        fy=focal_px,
        cx=(WIDTH_PX - 1) / 2,
        cy=(HEIGHT_PX - 1) / 2,
        condition=sample.condition,
        dock=dock,
        distortion=sample.camera.distortion,
    )


def write_set(folder: Path, frames: Iterator[tuple[int, Sample]], origin: dict[str, Any]) -> str:
    """Writes a set and returns its hash. The folder must be new or empty."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty; a set is written into a folder of its own")
    count = 0
    with (folder / LABELS_NAME).open("wb") as labels:
        for index, sample in frames:
            name = f"{index:06d}.png"
            cv2.imwrite(str(folder / name), sample.image, [cv2.IMWRITE_PNG_COMPRESSION, 3])
            labels.write(msgspec.json.encode(label_of(sample, name)) + b"\n")
            count += 1
    sha256 = DataSet(folder).sha256
    about = {**origin, "frames": count, "sha256": sha256}
    (folder / "set.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return sha256


def _band(text: str) -> tuple[float, float]:
    low, high = (float(part) for part in text.split("-"))
    if not 0.3 <= low <= high <= 12:
        raise argparse.ArgumentTypeError(f"a band is LOW-HIGH in metres within 0.3 and 12, got {text}")
    return low, high


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--renderer", choices=RENDERERS, default="homography")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--conditions", nargs="+", choices=ALL_CONDITIONS, default=CONDITIONS, metavar="NAME")
    parser.add_argument("--bands", nargs="+", type=_band, default=BANDS_M, metavar="LOW-HIGH", help="metres")
    parser.add_argument("--per-cell", type=int, default=10, help="frames in each band of each condition")
    parser.add_argument("--rooms", type=int, default=100, help="frames without a dock")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.epilog = f"conditions: {', '.join(ALL_CONDITIONS)}"
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    renderer = open_renderer(options.renderer, options.seed)
    wanted = requests(options.conditions, options.bands, options.per_cell, options.rooms, options.seed)
    origin = {
        "renderer": options.renderer,
        "seed": options.seed,
        "conditions": list(options.conditions),
        "bands_m": [list(band) for band in options.bands],
        "per_cell": options.per_cell,
        "rooms": options.rooms,
    }
    frames = ((index, renderer.sample(index, request)) for index, request in wanted)
    sha256 = write_set(options.out, frames, origin)
    print(f"{options.out}: {sha256}")


if __name__ == "__main__":
    main()
