"""Trains the two networks, fits the gate and writes ``models/``: ``python -m training.train --seed 1``.

Schedules count iterations, never time, and one thread does it all, so one machine makes the same files again.
``--part finder`` and ``--part keypoints`` train one network each (so that two cores can be used at once) and
``--part export`` does the rest; without it all three run in order.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training import data
from training.network import Finder, Keypoints
from training.textures import ROOT

RUNS = ROOT / "training" / "runs"
NAME = "dock-2"


def schedule(step: int, steps: int, rate: float) -> float:
    """Warm-up over 3 %, then a cosine to a hundredth."""
    warm = max(1, round(steps * 0.03))
    if step < warm:
        return rate * (step + 1) / warm
    share = (step - warm) / max(1, steps - warm)
    return rate * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * share)))


def normalise(images: Tensor) -> Tensor:
    """As ``perception.region.normalise``, for a batch of uint8."""
    values = images.float().unsqueeze(1)
    mean = values.mean(dim=(2, 3), keepdim=True)
    deviation = values.std(dim=(2, 3), keepdim=True, unbiased=False).clamp(min=4.0)
    return ((values - mean) / deviation).contiguous(memory_format=torch.channels_last)


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
    RUNS.mkdir(parents=True, exist_ok=True)
    torch.save(average.module.state_dict(), RUNS / f"{name}.pt")


def cutout(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Photometric change of stored crops, so that a second pass sees something new."""
    values = images.float()
    size = len(images)
    gain = torch.from_numpy(np.exp(rng.normal(0, 0.2, (size, 1, 1))).astype(np.float32))
    noise = torch.from_numpy((rng.random((size, 1, 1)) ** 3 * 8).astype(np.float32))
    grain = torch.from_numpy(rng.standard_normal(values.shape, dtype=np.float32))
    return (values * gain + grain * noise).clamp(0, 255)


def train_finder(finder: data.FinderData, steps: int, seed: int) -> None:
    torch.manual_seed(seed)
    net = Finder()
    images = torch.from_numpy(finder.images)

    def loss_of(net: nn.Module, chosen: np.ndarray, rng: np.random.Generator) -> Tensor:
        batch = cutout(images[chosen], rng)
        target = torch.from_numpy(data.finder_targets(finder.boxes[chosen]))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = net(normalise(batch))
        return finder_loss(output, target)

    run("finder", net, len(images), 16, steps, 2e-3, seed, loss_of)


def train_keypoints(crops: data.CropData, steps: int, seed: int) -> None:
    torch.manual_seed(seed)
    net = Keypoints()
    images = torch.from_numpy(crops.images)
    points, there = torch.from_numpy(crops.points), torch.from_numpy(crops.presence)

    def loss_of(net: nn.Module, chosen: np.ndarray, rng: np.random.Generator) -> Tensor:
        batch = cutout(images[chosen], rng)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output, presence = net(normalise(batch))
        return keypoint_loss(output.float(), presence.float(), points[chosen], there[chosen])

    run("keypoints", net, len(images), 32, steps, 2e-3, seed, loss_of)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--frames", type=int, default=36000, help="training frames to draw")
    parser.add_argument("--finder-steps", type=int, default=6500)
    parser.add_argument("--keypoint-steps", type=int, default=10500)
    parser.add_argument("--part", choices=("finder", "keypoints", "export"))
    parser.add_argument("--models", type=Path, default=ROOT / "models")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    if options.part in (None, "finder", "keypoints"):
        finder, crops = data.make(options.seed, "train", options.frames)
        RUNS.mkdir(parents=True, exist_ok=True)
        (RUNS / "data.sha256").write_text(data.sha256_of(finder, crops), encoding="ascii")
        if options.part in (None, "finder"):
            train_finder(finder, options.finder_steps, options.seed)
        if options.part in (None, "keypoints"):
            train_keypoints(crops, options.keypoint_steps, options.seed)
    if options.part in (None, "export"):
        from training.export import Making, export

        command = f"python -m training.train --seed {options.seed} --frames {options.frames}"
        command += f" --finder-steps {options.finder_steps} --keypoint-steps {options.keypoint_steps}"
        data_sha256 = (RUNS / "data.sha256").read_text(encoding="ascii")
        export(options.models, Making(NAME, options.seed, command, data_sha256))


if __name__ == "__main__":
    main()
