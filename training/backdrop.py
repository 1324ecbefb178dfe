"""Made-up rooms to put the dock into: floor, walls, and what hangs and stands there. Seeded, grey, linear light."""

import cv2
import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.float32]
_WIDTH, _HEIGHT = 704, 528
"""A tenth larger than a frame, so that each use can be shifted."""

_FRAME_WIDTH, _FRAME_HEIGHT = 640, 480
_PATTERNS = 60
_PATTERN_PX = 512
_PATTERN_SPAN = 511.0


def draw_pattern(rng: np.random.Generator, size_px: int) -> Grey:
    """A square texture in 0..1: plain, noise, checks, bricks, stripes or speckle."""
    low, high = np.sort(rng.uniform(0.05, 0.95, 2))
    kind = rng.integers(7)
    rows, columns = np.mgrid[:size_px, :size_px].astype(np.float32) / size_px
    count = float(rng.integers(2, 14))
    if kind == 0:
        mask = np.full((size_px, size_px), 0.5, np.float32)
    elif kind == 1:
        mask = ((np.floor(rows * count) + np.floor(columns * count)) % 2).astype(np.float32)
    elif kind == 2:
        shift = np.floor(rows * count) % 2 * 0.5
        gap = rng.uniform(0.04, 0.15)
        mask = ((rows * count % 1 > gap) & ((columns * count / 2 + shift) % 1 > gap / 2)).astype(np.float32)
    elif kind == 3:
        angle = rng.uniform(0, np.pi)
        mask = ((np.cos(angle) * rows + np.sin(angle) * columns) * count % 1 > rng.uniform(0.2, 0.8)).astype(
            np.float32
        )
    elif kind == 4:
        gap = rng.uniform(0.02, 0.1)
        mask = ((rows * count % 1 > gap) & (columns * count % 1 > gap)).astype(np.float32)
    else:
        mask = np.zeros((size_px, size_px), np.float32)
        weight = 1.0
        for octave in range(2, 7):
            cells = 2**octave
            if cells > size_px:
                break
            noise = rng.random((cells, cells), dtype=np.float32)
            mask += weight * cv2.resize(noise, (size_px, size_px), interpolation=cv2.INTER_CUBIC)
            weight *= 0.8 if kind == 5 else 0.5
        mask = (mask - mask.min()) / max(float(np.ptp(mask)), 1e-6)
        if rng.random() < 0.2:
            mask = (mask > 0.5).astype(np.float32)
    grain = rng.random((size_px, size_px), dtype=np.float32) - 0.5
    return np.clip(low + (high - low) * mask + grain * rng.uniform(0, 0.1), 0, 1).astype(np.float32)


def wrapped(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """To 0..511 of a pattern; numpy's own remainder takes three times as long."""
    return values - _PATTERN_SPAN * np.floor(values * (1 / _PATTERN_SPAN))


class Backdrop:
    """A store of rooms, each drawn when it is first used; each use mirrors, shifts and grades one."""

    def __init__(self, key: list[int], count: int) -> None:
        self.key, self.count = key, count
        self.patterns: dict[int, Grey] = {}
        self.rooms: dict[int, NDArray[np.uint8]] = {}

    def pick(self, rng: np.random.Generator) -> Grey:
        """A (480, 640) float32 copy."""
        number = int(rng.integers(self.count))
        if number not in self.rooms:
            self.rooms[number] = self._draw(np.random.default_rng([*self.key, 2, number]))
        room = self.rooms[number]
        if rng.random() < 0.5:
            room = room[:, ::-1]
        y = int(rng.integers(_HEIGHT - _FRAME_HEIGHT + 1))
        x = int(rng.integers(_WIDTH - _FRAME_WIDTH + 1))
        view = room[y : y + _FRAME_HEIGHT, x : x + _FRAME_WIDTH].astype(np.float32) / 255.0
        return np.ascontiguousarray(
            view * np.float32(rng.uniform(0.6, 1.4)) + np.float32(rng.uniform(0, 0.15))
        )

    def _surface(self, rng: np.random.Generator, a: Grey, b: Grey) -> Grey:
        """Texture at plane coordinates in metres."""
        number = int(rng.integers(_PATTERNS))
        if number not in self.patterns:
            self.patterns[number] = draw_pattern(np.random.default_rng([*self.key, 1, number]), _PATTERN_PX)
        pattern = self.patterns[number]
        scale = _PATTERN_PX / np.exp(rng.uniform(np.log(0.5), np.log(4)))
        u, v = (wrapped(plane * scale).astype(np.float32) for plane in (a, b))
        value = cv2.remap(pattern, u, v, cv2.INTER_LINEAR)
        contrast = rng.uniform(0.1, 1)
        return (value - 0.5) * contrast + rng.uniform(0.25, 0.75)

    def _draw(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """A box room seen from inside, by the nearest of its planes along each ray."""
        yaw, pitch = rng.uniform(-np.pi, np.pi), rng.normal(0, 0.03)
        columns = (np.arange(_WIDTH, dtype=np.float32) - _WIDTH / 2) / 465
        rows = (np.arange(_HEIGHT, dtype=np.float32) - _HEIGHT / 2) / 465 + np.float32(pitch)
        right, down = np.meshgrid(columns, rows)
        x = np.cos(yaw) * right + np.sin(yaw)
        z = -np.sin(yaw) * right + np.cos(yaw)
        height = rng.uniform(0.2, 0.5)
        wall_top = rng.uniform(0.6, 3.5)
        size = rng.uniform(1.5, 6, 4)
        with np.errstate(divide="ignore", invalid="ignore"):
            floor = np.where(down > 1e-4, height / down, np.inf).astype(np.float32)
            along_x = np.where(x > 0, size[0] / x, -size[1] / x).astype(np.float32)
            along_z = np.where(z > 0, size[2] / z, -size[3] / z).astype(np.float32)
        depth = np.minimum(np.minimum(floor, along_x), along_z)
        px, pz, py = x * depth, z * depth, down * depth
        image = self._surface(rng, px, pz)
        for plane, a in ((along_x, pz), (along_z, px)):
            wall = self._surface(rng, a, py)
            chosen = plane <= depth
            image[chosen] = wall[chosen]
        above = py < -wall_top
        image[above] = np.float32(rng.uniform(0, 1))
        image *= np.exp(-depth * np.float32(rng.uniform(0, 0.12)))
        # What hangs and stands there: flat shapes, lines, text-like clutter.
        for _ in range(rng.poisson(5)):
            centre = rng.uniform((0, 0), (_WIDTH, _HEIGHT))
            reach = np.exp(rng.uniform(np.log(8), np.log(160), 2))
            quad = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * reach + centre
            quad[1:3, 1] += rng.normal(0, 0.15) * reach[1]
            shape = np.round(quad).astype(np.int32)
            if rng.random() < 0.35:
                mask = np.zeros(image.shape, np.uint8)
                cv2.fillPoly(mask, [shape], 1)
                low = np.clip(shape.min(axis=0), 0, [_WIDTH - 1, _HEIGHT - 1])
                high = np.clip(shape.max(axis=0) + 1, low + 1, [_WIDTH, _HEIGHT])
                patch = cv2.resize(draw_pattern(rng, 64), (int(high[0] - low[0]), int(high[1] - low[1])))
                part = image[low[1] : high[1], low[0] : high[0]]
                chosen = mask[low[1] : high[1], low[0] : high[0]] > 0
                part[chosen] = patch[chosen]
            else:
                cv2.fillPoly(image, [shape], float(rng.uniform(0, 1)), cv2.LINE_AA)
            if rng.random() < 0.5:
                cv2.polylines(
                    image, [shape], True, float(rng.uniform(0, 1)), int(rng.integers(1, 9)), cv2.LINE_AA
                )
        for _ in range(rng.poisson(3)):
            a, b = rng.uniform((0, 0), (_WIDTH, _HEIGHT), (2, 2)).astype(int)
            cv2.line(
                image, a.tolist(), b.tolist(), float(rng.uniform(0, 1)), int(rng.integers(1, 6)), cv2.LINE_AA
            )
        if rng.random() < 0.5:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.5))
        return (np.clip(image, 0, 1) * 255).astype(np.uint8)
