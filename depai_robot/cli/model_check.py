"""``depai-robot model check``: which provider runs the dock models on this machine, and how fast."""

import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np

from depai_robot.adapters.onnx_detector import OnnxDetector
from depai_robot.adapters.onnx_session import RuntimeSettings, available_providers, runtime_version
from depai_robot.app.resource import resource_path
from depai_robot.perception.frame import CameraIntrinsics, Frame
from depai_robot.perception.manifest import GOLDEN_NAME
from depai_robot.perception.region import Region

_RUNS = 20


@click.command()
@click.option(
    "--models",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder of the models.  [default: the package's own]",
)
@click.option(
    "--providers",
    default="cpu",
    show_default=True,
    help="tensorrt, cuda, cpu or onnxruntime's own names, with commas; tried one at a time in this order.",
)
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 64), help="Of one inference.")
@click.option("--io-binding", is_flag=True, help="Keep inputs and outputs in bound buffers.")
@click.option("--engine-cache", default="", help="Folder for TensorRT's engines, built now if absent.")
@click.option("--fail", is_flag=True, help="Exit with an error unless the first provider serves.")
def check(
    *, models: Path | None, providers: str, threads: int, io_binding: bool, engine_cache: str, fail: bool
) -> None:
    r"""Open the dock models as a robot would, prove them on the golden vector, and time them.

    \b
    depai-robot model check
    depai-robot model check --providers tensorrt,cuda,cpu --io-binding
    depai-robot model check --providers tensorrt --fail --engine-cache /var/lib/depai_robot/engines

    The last one builds TensorRT's engines before the robot's first start, which takes minutes.
    """
    settings = RuntimeSettings(
        providers=tuple(name.strip() for name in providers.split(",") if name.strip()),
        fallback="fail" if fail else "warn",
        threads=threads,
        io_binding=io_binding,
        engine_cache=engine_cache,
    )
    click.echo(f"onnxruntime {runtime_version()}, built with {', '.join(available_providers())}")
    folder = models or resource_path("models")
    begin = time.monotonic()
    detector = OnnxDetector(folder, settings=settings)
    opened_ms = (time.monotonic() - begin) * 1000
    for refusal in detector.refusals:
        click.echo(f"refused: {refusal}")
    click.echo(f"models {detector.manifest.name}, {detector.model_sha256}")
    click.echo(f"provider in use: {detector.provider}; opened and proven in {opened_ms:.0f} ms")
    frame = _golden_frame(folder)
    search_ms = _median_ms(lambda: detector.detect(frame))
    look_ms = _median_ms(lambda: detector.detect_in(frame, Region(320.0, 240.0, 200.0)))
    click.echo(f"one 640x480 frame, median of {_RUNS}: search {search_ms:.1f} ms, tracked {look_ms:.1f} ms")


def _golden_frame(folder: Path) -> Frame:
    with np.load(io.BytesIO((folder / GOLDEN_NAME).read_bytes()), allow_pickle=False) as archive:
        small = archive["finder_image"]
    grey = np.asarray(cv2.resize(small, (640, 480)), dtype=np.uint8)
    return Frame(
        np.repeat(grey[:, :, None], 3, axis=2), 0, CameraIntrinsics(640, 480, 465.0, 465.0, 319.5, 239.5)
    )


def _median_ms(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(_RUNS):
        begin = time.monotonic()
        work()
        times.append((time.monotonic() - begin) * 1000)
    return statistics.median(times)
