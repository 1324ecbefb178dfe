"""Trains the two networks, fits the gate and writes ``models/``: ``python -m training.train --seed 1``.

Schedules count iterations, never time, and one thread does it all, so one machine makes the same files again.
The keypoint network learns in two parts: all kinds of frames first, then hard ones with the pose's own error in the
loss, in runs of their own whose weights are averaged. ``--part finder``, ``keypoints`` and ``hard`` train one of these
(so that two cores can be used at once) and ``--part export`` does the rest; without it all run in order.
"""

import argparse
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training import data
from training.heap import keep_freed_memory
from training.network import Finder, Keypoints
from training.textures import ROOT

RUNS = ROOT / "training" / "runs"
NAME = "dock-7"
FIRST_RATE = 2e-3
HARD_RATE = 8e-4
RESUME_SAMPLE = 512


@contextmanager
def measured(what: str) -> Iterator[None]:
    """Says at the end how long it took."""
    started = time.process_time()
    yield
    print(f"  {what}: {(time.process_time() - started) / 60:.1f} CPU minutes", flush=True)


def schedule(step: int, steps: int, rate: float) -> float:
    """Warm-up over 3 %, then a cosine to a hundredth."""
    warm = max(1, round(steps * 0.03))
    if step < warm:
        return rate * (step + 1) / warm
    share = (step - warm) / max(1, steps - warm)
    return rate * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * share)))


def normalise(images: Tensor) -> Tensor:
    """As ``perception.region.normalise``, for a batch of uint8."""
    values = images.to(torch.float32, copy=True).unsqueeze(1)
    values -= values.mean(dim=(2, 3), keepdim=True)
    # torch's own deviation over two axes takes ten times as long.
    deviation = values.square().mean(dim=(2, 3), keepdim=True).sqrt().clamp(min=4.0)
    return (values / deviation).contiguous(memory_format=torch.channels_last)


def finder_loss(output: Tensor, target: Tensor) -> Tensor:
    """Penalty-reduced focal loss on the heat, L1 on the rest.

    Source: Zhou, Wang, Kraehenbuehl, "Objects as Points", 2019, eq. 1 to 3.
    """
    logit, heat = output[:, 0].float(), target[:, 0]
    positive = heat > 0.999
    log_p, log_q = functional.logsigmoid(logit), functional.logsigmoid(-logit)
    p = logit.sigmoid()
    focal = torch.where(positive, (1 - p) ** 2 * log_p, (1 - heat) ** 4 * p**2 * log_q)
    count = positive.sum().clamp(min=1)
    weight = target[:, 5:6]
    error = (output[:, 1:5].float() - target[:, 1:5]).abs() * weight
    return -focal.sum() / count + error.sum() / weight.sum().clamp(min=1)


def keypoint_loss(output: Tensor, presence: Tensor, points: Tensor, there: Tensor) -> Tensor:
    """Laplace likelihood of the positions, cross entropy of visibility and presence."""
    error = (output[:, :, :2] - points[:, :, :2]).abs().sum(dim=2)
    log_scale = output[:, :, 2].clamp(-4, 4.85)
    counted = points[:, :, 2]
    # A covered keypoint can be inferred; it teaches less about where pixels lead.
    weight = counted * (0.3 + 0.7 * points[:, :, 3])
    likelihood = (error * torch.exp(-log_scale) + 2 * log_scale) * weight
    positives = there.sum().clamp(min=1)
    visible = functional.binary_cross_entropy_with_logits(output[:, :, 3], points[:, :, 3], reduction="none")
    visible = (visible * there[:, None]).mean(dim=1).sum() / positives
    exists = functional.binary_cross_entropy_with_logits(presence[:, 0], there)
    # A plain L1 part keeps early gradients alive while scales are still wide.
    plain = (error * weight).sum() / weight.sum().clamp(min=1)
    return likelihood.sum() / weight.sum().clamp(min=1) + 0.1 * plain + visible + exists


PRIOR = (0.01, 0.01, 0.01, 25.0, 25.0, 0.01)
"""Of a pose's errors in tolerances, inverse variances: the dock stands upright to two degrees, the rest is open."""


def pose_loss(output: Tensor, points: Tensor, slopes: Tensor) -> Tensor:
    """How wrong a pose would be that is fitted to the keypoints, to first order, in tolerances: yaw and position.

    The keypoints' errors have parts in common that a pose feels little of, and parts that turn it: a likelihood of
    each keypoint by itself does not tell these apart.

    Source: F. Liu, Y. Hu, M. Salzmann, "Linear-Covariance Loss for End-to-End Learning of 6D Pose Estimation", 2023.
    """
    error = (output[:, :, :2] - points[:, :, :2]).double()
    scale = torch.exp(output[:, :, 2].clamp(-4, 4.85)).double()
    weight = (points[:, :, 2] * (0.1 + 0.9 * points[:, :, 3])).double() / (2 * scale**2)
    weighted = (slopes.double() * weight[:, :, None, None]).flatten(1, 2)
    flat = slopes.double().flatten(1, 2)
    information = flat.transpose(1, 2) @ weighted + torch.diag(torch.tensor(PRIOR, dtype=torch.float64))
    wrong = torch.linalg.solve(information, weighted.transpose(1, 2) @ error.flatten(1)[:, :, None])[:, :, 0]
    yaw, position = wrong[:, 5], wrong[:, :3].square().sum(dim=1)
    there = (slopes.abs().sum(dim=(1, 2, 3)) > 0).double()
    total = torch.sqrt(1 + 9 * yaw**2) + torch.sqrt(1 + 4 * position) - 2
    return ((total * there).sum() / there.sum().clamp(min=1)).float()


def run(
    name: str, net: nn.Module, count: int, batch: int, steps: int, rate: float, seed: int, loss_of
) -> None:
    net = net.to(memory_format=torch.channels_last)
    decay = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}], lr=rate
    )
    # The weights that ship are an average over the last steps: steadier than any one of them.
    average = torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.997), use_buffers=True
    )
    rng = np.random.default_rng([seed, 7])
    order = np.array([], np.int64)
    net.train()
    started, mean = time.process_time(), 0.0
    for step in range(steps):
        if len(order) < batch:
            order = np.concatenate([order, rng.permutation(count)])
        chosen, order = order[:batch], order[batch:]
        for group in optimiser.param_groups:
            group["lr"] = schedule(step, steps, rate)
        optimiser.zero_grad(set_to_none=True)
        loss = loss_of(net, chosen, rng)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimiser.step()
        if step > steps // 20:
            average.update_parameters(net)
        mean += (float(loss.detach()) - mean) * 0.02 if step else float(loss.detach())
        if step % 100 == 99 or step == steps - 1:
            spent = time.process_time() - started
            print(
                f"  {name}: step {step + 1} of {steps}, loss {mean:.3f}, {spent / (step + 1) * 1e3:.0f} CPU ms a step",
                flush=True,
            )
    print(f"  {name}: {steps} steps, {(time.process_time() - started) / 60:.1f} CPU minutes", flush=True)
    torch.save(average.module.state_dict(), RUNS / f"{name}.pt")


def cutout(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Photometric change of stored crops, so that a second pass sees something new. The grain is torch's own chance."""
    values = images.float()
    size = len(images)
    gain = torch.from_numpy(np.exp(rng.normal(0, 0.2, (size, 1, 1))).astype(np.float32))
    noise = torch.from_numpy((rng.random((size, 1, 1)) ** 3 * 8).astype(np.float32))
    grain = torch.randn(values.shape)  # three times as fast as numpy's
    return (values * gain + grain * noise).clamp(0, 255)


def half_precision() -> Any:
    """Products in bfloat16 where the CPU multiplies such numbers; elsewhere that would take fifteen times as long."""
    has_products = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001 torch has no public word for it
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=has_products)


def train_finder(finder: data.FinderData, steps: int, seed: int) -> None:
    torch.manual_seed(seed)
    net = Finder()
    images = torch.from_numpy(finder.images)

    def loss_of(net: nn.Module, chosen: np.ndarray, rng: np.random.Generator) -> Tensor:
        batch = cutout(images[chosen], rng)
        target = torch.from_numpy(data.finder_targets(finder.boxes[chosen]))
        with half_precision():
            output = net(normalise(batch))
        return finder_loss(output, target)

    run("finder", net, len(images), 16, steps, FIRST_RATE, seed, loss_of)


def train_keypoints(
    name: str, net: nn.Module, crops: data.CropData, steps: int, rate: float, seed: int, *, pose: bool
) -> None:
    images = torch.from_numpy(crops.images)
    points, there = torch.from_numpy(crops.points), torch.from_numpy(crops.presence)
    slopes = torch.from_numpy(crops.slopes)

    def loss_of(net: nn.Module, chosen: np.ndarray, rng: np.random.Generator) -> Tensor:
        batch = cutout(images[chosen], rng)
        with half_precision():
            output, presence = net(normalise(batch))
        output, presence = output.float(), presence.float()
        loss = keypoint_loss(output, presence, points[chosen], there[chosen])
        return loss + pose_loss(output, points[chosen], slopes[chosen]) if pose else loss

    run(name, net, len(images), 32, steps, rate, seed, loss_of)


@dataclass(frozen=True)
class HardRun:
    """One run of the second part: its seed, frames to draw, steps."""

    seed: int
    frames: int
    steps: int

    @staticmethod
    def parse(text: str) -> "HardRun":
        """``SEED:FRAMES:STEPS``."""
        try:
            seed, frames, steps = (int(part) for part in text.split(":"))
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"a run is SEED:FRAMES:STEPS, got {text!r}") from error
        return HardRun(seed, frames, steps)

    def __str__(self) -> str:
        return f"{self.seed}:{self.frames}:{self.steps}"

    @property
    def name(self) -> str:
        """Of its files."""
        return f"keypoints-hard-{self.seed}"


HARD_RUNS = (HardRun(1, 20000, 6000), HardRun(2, 18000, 6000))


def train_hard(start: Path, wanted: HardRun) -> None:
    """Goes on from an exported keypoint network on hard frames, with the pose in the loss."""
    from training.resume import network_from

    with measured(f"{wanted.frames} hard frames drawn"):
        finder, crops = data.make(wanted.seed, data.HARD_SPLIT, wanted.frames)
        (RUNS / f"{wanted.name}.sha256").write_text(data.sha256_of(finder, crops), encoding="ascii")
    torch.manual_seed(wanted.seed)
    net = network_from(start, Keypoints(), normalise(torch.from_numpy(crops.images[:RESUME_SAMPLE])))
    train_keypoints(wanted.name, net, crops, wanted.steps, HARD_RATE, wanted.seed, pose=True)


def train_first(options: argparse.Namespace) -> None:
    """The finder, the first part of the keypoints, or both, on frames of all kinds."""
    with measured(f"{options.frames} frames drawn"):
        finder, crops = data.make(options.seed, "train", options.frames)
        (RUNS / "data.sha256").write_text(data.sha256_of(finder, crops), encoding="ascii")
    if options.part in (None, "finder"):
        train_finder(finder, options.finder_steps, options.seed)
    if options.part in (None, "keypoints"):
        torch.manual_seed(options.seed)
        steps, seed = options.keypoint_steps, options.seed
        train_keypoints("keypoints", Keypoints(), crops, steps, FIRST_RATE, seed, pose=False)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--frames", type=int, default=36000, help="training frames to draw")
    parser.add_argument("--finder-steps", type=int, default=6000)
    parser.add_argument("--keypoint-steps", type=int, default=9500)
    parser.add_argument(
        "--hard",
        type=HardRun.parse,
        nargs="+",
        default=HARD_RUNS,
        metavar="SEED:FRAMES:STEPS",
        help=f"runs of the second part, whose weights are averaged (default {' '.join(map(str, HARD_RUNS))})",
    )
    parser.add_argument("--part", choices=("finder", "keypoints", "hard", "export"))
    parser.add_argument(
        "--start",
        type=Path,
        help="keypoints.onnx that the second part goes on from (default: of the first part)",
    )
    parser.add_argument("--models", type=Path, default=ROOT / "models")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)  # waking others for such small images takes a tenth of drawing, a third of detecting
    torch.use_deterministic_algorithms(mode=True)
    # Nothing here reads memory before it is written; filling it takes a tenth of the time.
    torch.utils.deterministic.fill_uninitialized_memory = False
    keep_freed_memory()
    RUNS.mkdir(parents=True, exist_ok=True)
    if options.part in (None, "finder", "keypoints"):
        train_first(options)
    from training import export

    if options.part in (None, "hard"):
        start = options.start or export.first_part()
        for wanted in options.hard:
            train_hard(start, wanted)
    if options.part in (None, "export"):
        command = f"python -m training.train --seed {options.seed} --frames {options.frames}"
        command += f" --finder-steps {options.finder_steps} --keypoint-steps {options.keypoint_steps}"
        command += f" --hard {' '.join(map(str, options.hard))}"
        runs = [wanted.name for wanted in options.hard]
        hashes = [(RUNS / f"{name}.sha256").read_text(encoding="ascii") for name in ("data", *runs)]
        # Of several sets: the hash of their hashes, a line each.
        data_sha256 = hashlib.sha256("\n".join(hashes).encode("ascii")).hexdigest()
        with measured("export, covariances and gates"):
            export.export(options.models, export.Making(NAME, options.seed, command, data_sha256), runs)
    print(f"  in all: {time.process_time() / 60:.1f} CPU minutes", flush=True)


if __name__ == "__main__":
    main()
