"""From trained weights to ``models/``: ONNX files in floats and in eight bits, gate, golden vector, manifest."""

import hashlib
import io
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from depai_robot.adapters.onnx_detector import OPSET, OnnxDetector
from depai_robot.perception.gate import FEATURES, OPINION_FEATURES
from depai_robot.perception.looks import surest_look
from depai_robot.perception.manifest import (
    FINDER_NAME,
    GOLDEN_NAME,
    KEYPOINTS_NAME,
    MANIFEST_NAME,
    MANIFEST_VERSION,
    dock_sha256,
)
from depai_robot.perception.network import FINDER_SHAPE, KEYPOINTS_SHAPE, PRESENCE_SHAPE, next_region
from depai_robot.perception.pose import solve_pose
from depai_robot.perception.region import GreyImage, crop_pixels, finder_pixels, normalise, region_of
from training.degrade import CONDITIONS
from training.evaluate import frame_of, usable
from training.logistic import fit_logistic
from training.network import Finder, Keypoints
from training.scene import Painter, Request, Sample, load_dock
from training.train import RUNS

GOLDEN_TOLERANCE = 2e-3
GOLDEN_TOLERANCE_INT8 = 0.05
"""Of outputs in crop pixels and logits: a value on the other side of a rounding moves them by a part of a step."""

CALIBRATION_FRAMES = 4000
OPINION_FRAMES = 2400
COVARIANCE_FRAMES = 1500
THRESHOLD, ASK_BELOW = 0.9, 0.97
"""Chosen on frames that no bench shows (docs/decisions/0015)."""

TILT_MAX_RAD = 0.35
ERROR_CLIP, ERROR_RIDGE = 3.0, 0.1
"""Sigmas: what is farther off is Huber's business, not the covariance's; and what is added to its diagonal."""

HARD = ("blur8", "blur16", "occluded", "combined")
"""Conditions in which one look is often not sure."""

QUANTISE_FRAMES = 150
FLOAT_LAYERS = ("head", "heat", "local")
"""Convolutions that stay in 32-bit floats."""


@dataclass(frozen=True)
class Making:
    """Where a set of models comes from: what the manifest says of it."""

    name: str
    seed: int
    command: str
    data_sha256: str


@dataclass(frozen=True)
class Fits:
    """What is fitted to the networks' answers: weights of gate and opinions, covariance of the keypoints' errors."""

    gate: tuple[float, ...]
    opinions: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...] = ()


SIGNATURES = {
    FINDER_NAME: ((1, 1, 240, 320), {"maps": FINDER_SHAPE}),
    KEYPOINTS_NAME: ((1, 1, 128, 128), {"keypoints": KEYPOINTS_SHAPE, "presence": PRESENCE_SHAPE}),
}


def to_onnx(net: nn.Module, name: str, path: Path) -> None:
    shape, outputs = SIGNATURES[name]
    net.eval()
    torch.onnx.export(
        net,
        (torch.zeros(shape),),
        str(path),
        input_names=["image"],
        output_names=list(outputs),
        opset_version=OPSET,
        dynamo=False,
    )


def golden(nets: dict[str, nn.Module], seed: int) -> bytes:
    """A frame of its own through the torch networks: what every machine must compute again."""
    sample = Painter(seed, "golden").sample(0, Request("clean", 1.5))
    grey = GreyImage(sample.image)
    finder_image = finder_pixels(grey)
    keypoints_image = crop_pixels(grey, region_of(sample.docks[0].points_px))
    with torch.inference_mode():
        maps = nets[FINDER_NAME](torch.from_numpy(normalise(finder_image)))
        keypoints, presence = nets[KEYPOINTS_NAME](torch.from_numpy(normalise(keypoints_image)))
    store = io.BytesIO()
    np.savez_compressed(
        store,
        finder_image=finder_image,
        keypoints_image=keypoints_image,
        maps=maps.numpy(),
        keypoints=keypoints.numpy(),
        presence=presence.numpy(),
    )
    return store.getvalue()


def entry(path: Path) -> dict[str, object]:
    data = path.read_bytes()
    found: dict[str, object] = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    if path.name in SIGNATURES:
        shape, outputs = SIGNATURES[path.name]
        found["opset"] = OPSET
        found["inputs"] = [{"name": "image", "shape": shape, "type": "tensor(float)"}]
        found["outputs"] = [{"name": n, "shape": s, "type": "tensor(float)"} for n, s in outputs.items()]
    return found


class _Calibration:
    """Inputs of one network for the runtime's quantiser: what the detector would give it."""

    def __init__(self, name: str, seed: int, count: int) -> None:
        painter = Painter(seed, "quantise")
        self._inputs = (self._input(name, painter.sample(index)) for index in range(count))

    @staticmethod
    def _input(name: str, sample: Sample) -> np.ndarray:
        grey = GreyImage(sample.image)
        if name == FINDER_NAME:
            return normalise(finder_pixels(grey))
        points = sample.docks[0].points_px if sample.docks else np.array([[200.0, 150.0], [400.0, 330.0]])
        return normalise(crop_pixels(grey, region_of(points)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._inputs, None)
        return None if image is None else {"image": image}


def quantise(source: Path, target: Path, seed: int) -> None:
    """Eight-bit integers for every convolution but the last ones, whose answers need more steps.

    Weights have a scale per channel, activations one between the extremes of the calibration frames (QDQ form).
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / source.name
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        nodes = [node.name for node in onnx.load(prepared).graph.node if node.op_type == "Conv"]
        quantize_static(
            str(prepared),
            str(target),
            _Calibration(source.name, seed, QUANTISE_FRAMES),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Add", "Relu", "Resize"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # Seven bits of weight: a pair of products fits into sixteen bits, so CPUs without VNNI compute the same.
            reduce_range=True,
            nodes_to_exclude=[name for name in nodes if any(f"/{last}/" in name for last in FLOAT_LAYERS)],
            calibrate_method=CalibrationMethod.MinMax,
        )


def write_manifest(models: Path, made: Making, tolerance: float, fits: Fits) -> None:
    manifest = {
        "version": MANIFEST_VERSION,
        "name": made.name,
        "files": {name: entry(models / name) for name in (FINDER_NAME, KEYPOINTS_NAME, GOLDEN_NAME)},
        "gate": {
            "features": FEATURES,
            "weights": fits.gate,
            "threshold": THRESHOLD,
            "tilt_max_rad": TILT_MAX_RAD,
            "opinions": {
                "features": OPINION_FEATURES,
                "weights": fits.opinions,
                "ask_below": ASK_BELOW,
            },
        },
        "golden_tolerance": tolerance,
        "keypoint_covariance": fits.covariance,
        "dock_sha256": dock_sha256(load_dock()),
        "data_sha256": made.data_sha256,
        "seed": made.seed,
        "command": made.command,
    }
    (models / MANIFEST_NAME).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


@cache
def calibration(seed: int, split: str, count: int) -> tuple[Sample, ...]:
    """Frames as hard as the test is: half of its conditions, half mixed, a third without a dock.

    Kept, 0.3 MB each: the models in floats and in eight bits are fitted to the same.
    """
    wanted = [CONDITIONS[index % len(CONDITIONS)] if index % 2 else None for index in range(count)]
    return _drawn(seed, split, [Request(c, negative=i % 3 == 0) for i, c in enumerate(wanted)])


@cache
def hard_frames(seed: int, split: str, count: int) -> tuple[Sample, ...]:
    """Frames of :data:`HARD`, all with a dock; kept as well."""
    return _drawn(seed, split, [Request(HARD[index % len(HARD)]) for index in range(count)])


def _drawn(seed: int, split: str, requests: Sequence[Request]) -> tuple[Sample, ...]:
    painter = Painter(seed, split)
    return tuple(painter.sample(index, request) for index, request in enumerate(requests))


def fit_covariance(models: Path, seed: int, count: int = COVARIANCE_FRAMES) -> tuple[tuple[float, ...], ...]:
    """What the keypoints' errors, each in its own sigma, have in common; over frames of a split of its own."""
    detector = OnnxDetector(models)
    errors = []
    for sample in calibration(seed, "errors", count):
        for keypoints in detector.detect_all(frame_of(sample)):
            for truth in sample.docks:
                error_px = keypoints.points_px - truth.points_px
                size_px = float(np.ptp(truth.points_px, axis=0).max())
                if float(np.median(np.abs(error_px))) < size_px / 4:  # else it is of something else
                    errors.append((error_px / keypoints.sigma_px[:, None]).reshape(-1))
    if not errors:
        raise ValueError(
            f"{models} finds no dock in {count} frames: its networks need more training than this"
        )
    clipped = np.clip(errors, -ERROR_CLIP, ERROR_CLIP)
    covariance = clipped.T @ clipped / len(clipped) + ERROR_RIDGE * np.eye(clipped.shape[1])
    print(f"  covariance of the keypoints: of {len(clipped)} docks")
    return tuple(tuple(round(float(v), 4) for v in row) for row in covariance)


def fit_gate(models: Path, seed: int, count: int = CALIBRATION_FRAMES) -> tuple[float, ...]:
    """Logistic regression of "usable" on the evidence, over frames of the calibration split."""
    detector, dock = OnnxDetector(models), load_dock()
    rows, labels = [], []
    for sample in calibration(seed, "calibrate", count):
        frame = frame_of(sample)
        for keypoints in detector.detect_all(frame):
            solution = solve_pose(keypoints, frame.intrinsics, dock)
            if solution is None or solution.evidence.tilt_rad > TILT_MAX_RAD:
                continue
            rows.append(solution.evidence.features())
            labels.append(any(usable(solution, truth) for truth in sample.docks))
    return _fit("gate", models, rows, labels)


def fit_opinions(models: Path, seed: int, count: int = OPINION_FRAMES) -> tuple[float, ...]:
    """Logistic regression of "the surest is usable" on what several looks say, where the first is not sure.

    The folder's gate, which has opinions of any weights, judges the single looks.
    """
    detector, dock = OnnxDetector(models), load_dock()
    gate = detector.manifest.make_gate()
    rows, labels = [], []
    for sample in hard_frames(seed, "opinions", count):
        frame = frame_of(sample)
        keypoints = detector.detect(frame)
        if keypoints is None or next_region(keypoints) is None:
            continue  # with nowhere to look again there is nothing to learn of looks
        look = partial(detector.detect_in, frame)
        seen = surest_look(keypoints, look, frame.intrinsics, dock, gate=gate)
        if seen.agreement is None or seen.solution is None or not seen.agreement.surest > 0:
            continue
        rows.append(seen.agreement.features())
        labels.append(any(usable(seen.solution, truth) for truth in sample.docks))
    return _fit("opinions", models, rows, labels)


def _fit(
    what: str, models: Path, rows: Sequence[tuple[float, ...]], labels: Sequence[bool]
) -> tuple[float, ...]:
    """Weights, rounded as the manifest has them; says what they are of."""
    print(f"  {what}: {len(labels)} poses, {sum(labels)} usable")
    try:
        return tuple(round(weight, 6) for weight in fit_logistic(rows, labels))
    except ValueError as error:
        raise ValueError(f"{models}, {what}: {error}") from error


def _closed(features: Sequence[str]) -> tuple[float, ...]:
    """Weights that let nothing through."""
    return (-20.0, *[0.0] * (len(features) - 1))


def finish(models: Path, made: Making, tolerance: float) -> None:
    """Covariance, gate and manifest of a folder that has its networks and golden vector."""
    # The detector loads nothing without a gate; this one lets nothing through until the fit is done.
    fits = Fits(_closed(FEATURES), _closed(OPINION_FEATURES))
    write_manifest(models, made, tolerance, fits)
    fits = replace(fits, covariance=fit_covariance(models, made.seed))
    write_manifest(models, made, tolerance, fits)
    fits = replace(fits, gate=fit_gate(models, made.seed))
    write_manifest(models, made, tolerance, fits)
    fits = replace(fits, opinions=fit_opinions(models, made.seed))
    write_manifest(models, made, tolerance, fits)
    for path in sorted(models.glob("*.*")):
        print(f"  {path.name}: {path.stat().st_size} bytes")


def rerun_golden(models: Path, source: bytes) -> bytes:
    """A golden vector with the answers of the networks in a folder, on this machine's CPU."""
    import onnxruntime

    with np.load(io.BytesIO(source)) as archive:
        arrays = {name: archive[name] for name in archive.files}
    for name, image in ((FINDER_NAME, "finder_image"), (KEYPOINTS_NAME, "keypoints_image")):
        session = onnxruntime.InferenceSession(str(models / name), providers=["CPUExecutionProvider"])
        wanted = list(SIGNATURES[name][1])
        answers = session.run(wanted, {"image": normalise(arrays[image])})
        arrays |= dict(zip(wanted, answers, strict=True))
    store = io.BytesIO()
    np.savez_compressed(store, **arrays)
    return store.getvalue()


def export_run(run: str, net: nn.Module, path: Path) -> None:
    """What a run of training ended with, as the ONNX file of its kind (finder or keypoints, by the file's name)."""
    net.load_state_dict(torch.load(RUNS / f"{run}.pt", weights_only=True))
    to_onnx(net, path.name, path)


def first_part() -> Path:
    """The keypoint network as its first part of training left it, exported, in a file of its own."""
    folder = RUNS / "first"
    folder.mkdir(exist_ok=True)
    export_run("keypoints", Keypoints(), folder / KEYPOINTS_NAME)
    return folder / KEYPOINTS_NAME


def average(runs: Sequence[str], target: Path) -> None:
    """Writes the network whose weights are the mean of some that began as one; normalisations are folded first.

    Source: M. Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy
    without increasing inference time", 2022.
    """
    import onnx
    from onnx import numpy_helper

    graphs = []
    with tempfile.TemporaryDirectory() as folder:
        for name in runs:
            export_run(name, Keypoints(), Path(folder) / KEYPOINTS_NAME)
            graphs.append(onnx.load(Path(folder) / KEYPOINTS_NAME))
    tensors = [[numpy_helper.to_array(t) for t in g.graph.initializer] for g in graphs]
    for index, tensor in enumerate(graphs[0].graph.initializer):
        mean = np.mean([t[index] for t in tensors], axis=0, dtype=np.float64)
        tensor.CopyFrom(numpy_helper.from_array(mean.astype(tensors[0][index].dtype), tensor.name))
    onnx.save(graphs[0], target)


def export(models: Path, made: Making, runs: Sequence[str]) -> None:
    """``models/`` in 32-bit floats, and ``models/int8/``, a set of its own.

    A finder that was not trained anew (there is no ``finder.pt``) stays as it is.
    """
    from training.resume import network_from

    small = models / "int8"
    small.mkdir(parents=True, exist_ok=True)
    if (RUNS / "finder.pt").is_file():
        export_run("finder", Finder(), models / FINDER_NAME)
    average(runs, models / KEYPOINTS_NAME)
    nets = {
        name: network_from(models / name, kind(), torch.zeros(SIGNATURES[name][0]))
        for name, kind in ((FINDER_NAME, Finder), (KEYPOINTS_NAME, Keypoints))
    }
    for name in nets:
        quantise(models / name, small / name, made.seed)
    (models / GOLDEN_NAME).write_bytes(golden(nets, made.seed))
    finish(models, made, GOLDEN_TOLERANCE)
    (small / GOLDEN_NAME).write_bytes(rerun_golden(small, (models / GOLDEN_NAME).read_bytes()))
    finish(small, replace(made, name=f"{made.name}-int8"), GOLDEN_TOLERANCE_INT8)
