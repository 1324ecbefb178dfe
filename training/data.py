"""Turns drawn frames into what the networks learn from: arrays in memory, a function of seed and count."""

import hashlib
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from depai_robot.perception.dock import DockModel
from depai_robot.perception.gate import YAW_TOLERANCE_RAD, position_tolerance_m
from depai_robot.perception.region import (
    CROP_PX,
    FINDER_STRIDE_PX,
    GreyImage,
    Region,
    crop_pixels,
    finder_pixels,
    region_of,
)
from training.degrade import HEIGHT_PX, WIDTH_PX
from training.scene import DockTruth, Painter, Request, Sample

CROPS_PER_FRAME = 3
HARD_SPLIT = "hard"
HARD_SHARE = 0.7
HARD = Request("hard", far_share=0.6)
"""What the keypoint network's second part of training has most of: long streaks, little light, far docks."""


@dataclass
class FinderData:
    """(N, 240, 320) uint8; boxes (N, 2, 5): present, centre x, y, width, height in finder pixels."""

    images: NDArray[np.uint8]
    boxes: NDArray[np.float32]


@dataclass
class CropData:
    """(M, 128, 128) uint8; (M, 12, 4): x, y in crop pixels, location counts, visible; (M,) presence.

    ``slopes`` (M, 12, 2, 6): crop pixels per tolerance of the pose (:func:`pose_slopes`), zeros without a dock; only
    of :data:`HARD_SPLIT`, else empty.
    """

    images: NDArray[np.uint8]
    points: NDArray[np.float32]
    presence: NDArray[np.float32]
    slopes: NDArray[np.float32]


def shaken(region: Region, rng: np.random.Generator) -> Region:
    """A region as a finder errs, or as an earlier look does, which is less."""
    spread, shift = (0.18, 0.07) if rng.random() < 0.5 else (0.07, 0.025)
    side = region.side_px * np.exp(rng.normal(0, spread))
    x, y = np.array([region.x_px, region.y_px]) + rng.normal(0, shift, 2) * region.side_px
    return Region(float(x), float(y), float(max(side, 16)))


def inside(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    return (points > -0.5).all(axis=1) & (points < [WIDTH_PX - 0.5, HEIGHT_PX - 0.5]).all(axis=1)


def look_at(truth: DockTruth, rng: np.random.Generator) -> Region:
    """Where a crop of this dock is taken: its box in the image, or its visible keypoints."""
    seen = truth.points_px[inside(truth.points_px)]
    if rng.random() < 0.5 or len(seen) < 4:
        seen = np.array(truth.box_px).reshape(2, 2)
    return shaken(region_of(seen), rng)


def pose_slopes(dock: DockModel, truth: DockTruth, focal_px: float, region: Region) -> NDArray[np.float64]:
    """(12, 2, 6): by how many crop pixels each keypoint moves when the pose is wrong by as much as is still usable.

    Three translations along the camera's axes, three turns about the dock's own; the last is the yaw. Straight lens.
    """
    points_m = dock.points_m()
    seen = points_m @ truth.rotation.T + truth.position_m
    x, y, z = seen.T
    zero = np.zeros_like(z)
    projection = np.array([[1 / z, zero, -x / z**2], [zero, 1 / z, -y / z**2]]).transpose(2, 0, 1)
    turned = np.cross(np.eye(3)[None], points_m[:, None]).transpose(0, 2, 1)
    moved = np.concatenate(
        [
            np.broadcast_to(np.eye(3), (len(z), 3, 3))
            * position_tolerance_m(float(np.linalg.norm(truth.position_m))),
            truth.rotation @ turned * YAW_TOLERANCE_RAD,
        ],
        axis=2,
    )
    return focal_px * CROP_PX / region.side_px * (projection @ moved)


def make(seed: int, split: str, count: int, first: int = 0) -> tuple[FinderData, CropData]:
    """Frames ``first`` and following of a split; most of those of :data:`HARD_SPLIT` are hard."""
    painter = Painter(seed, split)
    finder = FinderData(np.zeros((count, 240, 320), np.uint8), np.zeros((count, 2, 5), np.float32))
    crops = CropData(
        np.zeros((count * CROPS_PER_FRAME, CROP_PX, CROP_PX), np.uint8),
        np.zeros((count * CROPS_PER_FRAME, 12, 4), np.float32),
        np.zeros(count * CROPS_PER_FRAME, np.float32),
        np.zeros((count * CROPS_PER_FRAME if split == HARD_SPLIT else 0, 12, 2, 6), np.float32),
    )
    start = time.monotonic()
    for i in range(count):
        rng = np.random.default_rng([seed, *split.encode(), 3, first + i])
        hard = split == HARD_SPLIT and rng.random() < HARD_SHARE
        sample = painter.sample(first + i, HARD if hard else None)
        grey = GreyImage(sample.image)
        finder.images[i] = finder_pixels(grey)
        for k, truth in enumerate(sample.docks):
            left, top, right, bottom = ((v + 0.5) / 2 - 0.5 for v in truth.box_px)
            finder.boxes[i, k] = (1, (left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
        for j in range(CROPS_PER_FRAME):
            row = i * CROPS_PER_FRAME + j
            if sample.docks and (j < CROPS_PER_FRAME - 1 or rng.random() < 0.4):
                truth = sample.docks[0]
                region = look_at(truth, rng)
                points = region.to_crop(truth.points_px)
                counted = (points > 0).all(axis=1) & (points < CROP_PX - 1).all(axis=1)
                crops.points[row, :, :2] = points
                crops.points[row, :, 2] = counted
                crops.points[row, :, 3] = counted & truth.visible
                crops.presence[row] = 1
                if split == HARD_SPLIT:
                    crops.slopes[row] = pose_slopes(painter.dock, truth, sample.camera.focal_px, region)
            else:
                region = _elsewhere(sample, rng)
            crops.images[row] = crop_pixels(grey, region)
        if i % 2000 == 1999:
            print(
                f"  {split}: {i + 1} of {count} frames, {(time.monotonic() - start) / (i + 1) * 1e3:.1f} ms each",
                flush=True,
            )
    return finder, crops


def sha256_of(finder: FinderData, crops: CropData) -> str:
    """Of everything that the networks learn from, bytes and labels."""
    digest = hashlib.sha256()
    for array in (finder.images, finder.boxes, crops.images, crops.points, crops.presence, crops.slopes):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _elsewhere(sample: Sample, rng: np.random.Generator) -> Region:
    """A region without a dock in it (at most a corner of one); every second one is of something that is like it."""
    for _ in range(20):
        if sample.decoys_px and rng.random() < 0.5:
            left, top, right, bottom = sample.decoys_px[int(rng.integers(len(sample.decoys_px)))]
            region = shaken(region_of(np.array([[left, top], [right, bottom]])), rng)
        else:
            side = float(np.exp(rng.uniform(np.log(24), np.log(400))))
            x, y = rng.uniform((0, 0), (WIDTH_PX, HEIGHT_PX))
            region = Region(float(x), float(y), side)
        if not any(_touches(region, dock.box_px) for dock in sample.docks):
            return region
    return Region(-400.0, -400.0, 100.0)


def _touches(region: Region, box: tuple[float, float, float, float]) -> bool:
    half = region.side_px / 2
    rim = 0.15 * (box[2] - box[0])
    return (
        region.x_px + half > box[0] + rim
        and region.x_px - half < box[2] - rim
        and region.y_px + half > box[1]
        and region.y_px - half < box[3]
    )


def finder_targets(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """(B, 2, 5) boxes to (B, 6, 30, 40): heat, dx, dy, log width, log height, and where the last four count."""
    target = np.zeros((len(boxes), 6, 30, 40), np.float32)
    rows, columns = np.mgrid[:30, :40].astype(np.float32)
    for i, pair in enumerate(boxes):
        for present, x, y, width, height in pair:
            if not present:
                continue
            cx, cy = (x + 0.5) / FINDER_STRIDE_PX - 0.5, (y + 0.5) / FINDER_STRIDE_PX - 0.5
            sigma = max(0.7, 0.08 * max(width, height) / FINDER_STRIDE_PX)
            heat = np.exp(-((columns - cx) ** 2 + (rows - cy) ** 2) / (2 * sigma**2))
            centre = (int(np.clip(round(float(cy)), 0, 29)), int(np.clip(round(float(cx)), 0, 39)))
            heat[centre] = 1.0
            target[i, 0] = np.maximum(target[i, 0], heat)
            near = (np.abs(columns - cx) <= 1.5) & (np.abs(rows - cy) <= 1.5)
            target[i, 1][near] = (cx - columns)[near]
            target[i, 2][near] = (cy - rows)[near]
            target[i, 3][near] = np.log(max(float(width), 2.0))
            target[i, 4][near] = np.log(max(float(height), 2.0))
            target[i, 5][near] = 1
    return target
