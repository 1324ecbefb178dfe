"""Draws seeded frames of a dock in a made-up room, with the truth that goes with them.

Frame i of a split is a function of (seed, split, i) alone. Surfaces are textured rectangles warped by their
homographies, drawn from far to near; light, lens and sensor follow in that order. Conventions are those of
``depai_robot.perception``: optical frame, pixel centres at integers.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from depai_robot.perception.dock import DockModel, parse_dock
from training import degrade
from training.backdrop import Backdrop, draw_pattern
from training.degrade import HEIGHT_PX, WIDTH_PX, Strengths
from training.textures import ROOT, TAG_IDS

FOCAL_PX = 465.0
RANGE_MIN_M, RANGE_MAX_M = 0.33, 9.0
ROOMS = 1500
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Camera:
    """The principal point is the image's centre; ``distortion`` is OpenCV's k1, k2, p1, p2, k3."""

    focal_px: float = FOCAL_PX
    distortion: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)

    def matrix(self) -> Array:
        return np.array(
            [
                [self.focal_px, 0, (WIDTH_PX - 1) / 2],
                [0, self.focal_px, (HEIGHT_PX - 1) / 2],
                [0, 0, 1.0],
            ]
        )


@dataclass(frozen=True)
class DockTruth:
    """A dock in a frame.

    Attributes:
        rotation: (3, 3), dock to camera.
        position_m: (3,) of the dock's origin in the camera's optical frame.
        points_px: (12, 2) of the keypoints, seen or not.
        visible: (12,) bool, in the image and not covered.
        box_px: left, top, right, bottom of what is in the image.
    """

    rotation: Array
    position_m: Array
    points_px: Array
    visible: NDArray[np.bool_]
    box_px: tuple[float, float, float, float]


@dataclass(frozen=True)
class Sample:
    """A frame: (480, 640) uint8 grey, its camera, its docks (none in a negative), and boxes of what is like one."""

    image: NDArray[np.uint8]
    camera: Camera
    docks: tuple[DockTruth, ...]
    condition: str
    decoys_px: tuple[tuple[float, float, float, float], ...] = ()


@dataclass(frozen=True)
class Request:
    """What a frame shall show; None leaves it to chance. ``far_share``: of such frames, beyond 2.5 m for sure."""

    condition: str | None = None
    range_m: float | None = None
    yaw_max_deg: float = 65.0
    bearing_max_deg: float = 31.0
    negative: bool = False
    far_share: float = 0.3


def load_dock() -> DockModel:
    return parse_dock((ROOT / "config" / "dock.yaml").read_text(encoding="utf-8"))


def _grey(path: Path) -> NDArray[np.float32]:
    return cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.float32) / 255.0


def flat_pyramid(image: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Halved again and again, with alpha, each with a clear rim so that warped edges are soft."""
    levels = []
    while min(image.shape) >= 4:
        rgba = np.dstack([image, np.ones_like(image)])
        levels.append(np.pad(rgba, ((1, 1), (1, 1), (0, 0))))
        image = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
    return levels


class Painter:
    """Holds the textures and draws frames."""

    def __init__(self, seed: int, split: str) -> None:
        folder = ROOT / "config" / "dock"
        self.dock = load_dock()
        self.key = [seed, *split.encode()]
        self.panels = [flat_pyramid(_grey(folder / f"panel_{i}.png")) for i in TAG_IDS]
        self.base_front = flat_pyramid(_grey(folder / "base_front.png"))
        self.tag_faces = load_tags()
        self.plain = flat_pyramid(np.ones((64, 64), np.float32))
        self.backdrop = Backdrop([*self.key, 1], ROOMS)

    def sample(self, index: int, request: Request | None = None) -> Sample:
        rng = np.random.default_rng([*self.key, 2, index])
        request = request or Request()
        condition = request.condition or "mixed"
        strengths = degrade.draw_strengths(rng, condition)
        focal_px = FOCAL_PX * (1.0 if request.range_m else rng.uniform(0.92, 1.08))
        camera = Camera(focal_px, strengths.distortion)
        canvas = self.backdrop.pick(rng)
        covered = np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8)
        hard = rng.random() < 0.4
        decoys = [self._distractor(canvas, rng, camera, hard) for _ in range(rng.poisson(1.2))]
        docks: list[tuple[Array, Array]] = []
        if not (request.negative or (request.range_m is None and rng.random() < 0.12)):
            docks.append(self._place(rng, camera, request))
            if request.range_m is None and rng.random() < 0.08:
                other = self._place(rng, camera, Request(range_m=float(rng.uniform(1.5, 5.0))))
                if abs(other[1][0] / other[1][2] - docks[0][1][0] / docks[0][1][2]) > 0.55:
                    docks.append(other)
        for rotation, position in docks:
            self.draw_dock(canvas, rng, camera, rotation, position, strengths, hard=hard)
        if docks and strengths.occlusion:
            degrade.cover(canvas, covered, rng, self._box(camera, *docks[0]), strengths.occlusion)
        if docks and strengths.side:
            degrade.cover_side(canvas, covered, rng, self._box(camera, *docks[0]), strengths.side)
        degrade.add_light(canvas, rng, strengths)
        row_px = (HEIGHT_PX - 1) / 2
        if docks:
            row_px = float(self._project(camera, docks[0][1][None])[0, 1])
        image = degrade.sense(canvas, rng, strengths, camera.matrix(), row_px)
        truths = tuple(make_truth(self.dock, camera, r, p, covered, strengths, row_px) for r, p in docks)
        return Sample(image, camera, truths, condition, tuple(d for d in decoys if d is not None))

    # --- geometry -------------------------------------------------------------------------------------

    def _place(self, rng: np.random.Generator, camera: Camera, request: Request) -> tuple[Array, Array]:
        """A pose of the dock on the floor in front of the camera with its centre in view."""
        while True:
            range_m = request.range_m or float(np.exp(rng.uniform(np.log(RANGE_MIN_M), np.log(RANGE_MAX_M))))
            if request.range_m is None and rng.random() < request.far_share:  # few pixels need many examples
                range_m = float(rng.uniform(2.5, RANGE_MAX_M))
            near = float(np.clip((range_m - 0.3) / 0.7, 0.25, 1.0))
            yaw = np.radians(rng.uniform(-1, 1) * request.yaw_max_deg * near)
            bearing = np.radians(rng.uniform(-1, 1) * request.bearing_max_deg * (1 if range_m > 0.6 else 0.4))
            height = rng.uniform(0.18, 0.42) if request.range_m is None else rng.uniform(0.26, 0.30)
            # Optical frame of a level camera: x right, y down, z forward. Dock x points away from the camera.
            x, z = range_m * np.sin(bearing), range_m * np.cos(bearing)
            heading = yaw + bearing if rng.random() < 0.5 or request.range_m else yaw
            forward = np.array([np.sin(heading), 0.0, np.cos(heading)])
            up = np.array([0.0, -1.0, 0.0])
            left = np.cross(up, forward)
            rotation = np.stack([forward, left, up], axis=1)
            position = np.array([x, height - self.dock.panel.centre_height_m, z])
            tilt = np.radians(rng.normal(0, 1.5, 2) if request.range_m is None else rng.normal(0, 0.3, 2))
            lean = cv2.Rodrigues(np.array([tilt[0], 0.0, tilt[1]]))[0]
            rotation, position = lean @ rotation, lean @ position
            if (self._corners(rotation, position)[:, 2] > 0.06).all():
                centre = camera.matrix() @ position
                if abs(centre[0] / centre[2] - WIDTH_PX / 2) < WIDTH_PX * 0.46:
                    return rotation, position

    def _corners(self, rotation: Array, position: Array) -> Array:
        return self.dock.points_m() @ rotation.T + position

    def _project(self, camera: Camera, points: Array) -> Array:
        image = points @ camera.matrix().T
        return image[:, :2] / image[:, 2:]

    def _box(self, camera: Camera, rotation: Array, position: Array) -> tuple[float, float, float, float]:
        pixels = self._project(camera, self._corners(rotation, position))
        low = np.clip(pixels.min(axis=0), 0, [WIDTH_PX - 1, HEIGHT_PX - 1])
        high = np.clip(pixels.max(axis=0), 0, [WIDTH_PX - 1, HEIGHT_PX - 1])
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])

    # --- surfaces -------------------------------------------------------------------------------------

    def _warp(
        self,
        canvas: NDArray[np.float32],
        levels: list[NDArray[np.float32]],
        quad_px: Array,
        shade: tuple[float, float],
        slope: Array,
        *,
        hard: bool,
        bias: float = 0.0,
    ) -> None:
        """Warps a texture into a quad (top left, top right, bottom right, bottom left), in place.

        ``shade`` is gain and offset; ``slope`` grades the light over the quad.
        """
        edges = np.linalg.norm(np.roll(quad_px, -1, axis=0) - quad_px, axis=1)
        long_px = max(edges[0], edges[2], 1.0)
        tall_px = max(edges[1], edges[3], 1.0)
        full = levels[0].shape
        thinning = np.sqrt((full[1] / long_px) * (full[0] / tall_px))
        level = int(np.clip(np.floor(np.log2(max(thinning, 1e-3)) + 0.3 + bias), 0, len(levels) - 1))
        texture = levels[level]
        height, width = texture.shape[0] - 2, texture.shape[1] - 2
        low = np.floor(quad_px.min(axis=0)).astype(int) - 2
        high = np.ceil(quad_px.max(axis=0)).astype(int) + 3
        low = np.clip(low, 0, [WIDTH_PX, HEIGHT_PX])
        high = np.clip(high, 0, [WIDTH_PX, HEIGHT_PX])
        if (high - low <= 0).any():
            return
        # The rim of one clear pixel shifts the texture by one; its edge lies between two pixel centres.
        source = np.array([[0, 0], [width, 0], [width, height], [0, height]]) + 0.5
        matrix = cv2.getPerspectiveTransform(source.astype(np.float32), (quad_px - low).astype(np.float32))
        warped = cv2.warpPerspective(
            texture, matrix, (int(high[0] - low[0]), int(high[1] - low[1])), flags=cv2.INTER_LINEAR
        )
        value, alpha = warped[:, :, 0], warped[:, :, 1]
        if hard:
            value = value / np.maximum(alpha, 0.05)
            alpha = (alpha > 0.5).astype(np.float32)
            value = value * alpha
        gain = np.float32(shade[0])
        if slope.any():
            rows = np.linspace(-0.5, 0.5, warped.shape[0], dtype=np.float32)[:, None]
            columns = np.linspace(-0.5, 0.5, warped.shape[1], dtype=np.float32)[None]
            gain = gain * (1 + rows * np.float32(slope[0]) + columns * np.float32(slope[1]))
        part = canvas[low[1] : high[1], low[0] : high[0]]
        part *= 1 - alpha
        part += value * gain + alpha * np.float32(shade[1])

    def draw_flat(
        self,
        canvas: NDArray[np.float32],
        camera: Camera,
        levels: list[NDArray[np.float32]],
        corners_m: Array,
    ) -> None:
        """A picture in the scene: (4, 3) corners in the camera's frame, from the top left on, clockwise."""
        if (corners_m[:, 2] > 0.03).all():
            self._warp(canvas, levels, self._project(camera, corners_m), (1.0, 0.0), np.zeros(2), hard=False)

    def draw_dock(
        self,
        canvas: NDArray[np.float32],
        rng: np.random.Generator,
        camera: Camera,
        rotation: Array,
        position: Array,
        strengths: Strengths,
        *,
        hard: bool = False,
    ) -> None:
        dock = self.dock
        light = rng.normal(size=3)
        light[1] = -abs(light[1]) - 0.3
        light /= np.linalg.norm(light)
        ambient = rng.uniform(0.35, 0.95)
        diffuse = rng.uniform(0.1, 0.9)
        lift = rng.uniform(0.0, 0.12)
        bias = rng.uniform(-0.3, 0.7)

        def face(levels, centre, across, down, albedo=1.0) -> None:
            """One rectangle: centre, half vector to the viewer's right, half vector down, in the dock frame."""
            centre, across, down = (np.array(v, float) for v in (centre, across, down))
            corners = np.array(
                [
                    centre - across - down,
                    centre + across - down,
                    centre + across + down,
                    centre - across + down,
                ]
            )
            seen = corners @ rotation.T + position
            normal = rotation @ np.cross(down, across)
            if normal @ seen.mean(axis=0) >= 0 or (seen[:, 2] < 0.03).any():
                return
            normal /= np.linalg.norm(normal)
            gain = albedo * (ambient + diffuse * max(0.0, float(-normal @ -light)))
            slope = rng.normal(0, 0.15, 2) if rng.random() < 0.5 else np.zeros(2)
            self._warp(
                canvas,
                levels,
                self._project(camera, seen),
                (gain * (1 - lift), lift),
                slope,
                hard=hard,
                bias=bias,
            )

        panel, base = dock.panel, dock.base
        w, h, t = panel.width_m / 2, panel.height_m / 2, panel.thickness_m
        floor = -panel.centre_height_m
        tone = rng.uniform(0.05, 0.5)
        if rng.random() < 0.5:  # a soft shadow on the floor around the dock
            spread = rng.uniform(0.05, 0.3)
            face(
                self.plain,
                (-0.1, 0, floor),
                (0, -w - spread, 0),
                (-0.15 - spread, 0, 0),
                rng.uniform(0.02, 0.2),
            )
        if rng.random() < 0.3:  # legs under the panel
            face(
                self.plain,
                (t, 0, (floor - h) / 2),
                (0, -w * rng.uniform(0.2, 1), 0),
                (0, 0, (floor + h) / 2),
                tone,
            )
        face(self.plain, (t / 2, w, 0), (t / 2, 0, 0), (0, 0, -h), tone)
        face(self.plain, (t / 2, -w, 0), (-t / 2, 0, 0), (0, 0, -h), tone)
        face(self.plain, (t / 2, 0, h), (0, -w, 0), (-t / 2, 0, 0), tone)
        face(self.panels[int(rng.integers(len(self.panels)))], (0, 0, 0), (0, -w, 0), (0, 0, -h))
        quad_px = self._project(camera, self._corners(rotation, position)[:4])
        if strengths.dirt:
            degrade.add_dirt(canvas, rng, quad_px, strengths.dirt)
        for _ in range(strengths.glare):
            degrade.add_glare(canvas, rng, quad_px)
        w, d, top = base.width_m / 2, base.depth_m, -h
        middle = top - base.height_m / 2
        grey = rng.uniform(0.08, 0.4)
        face(self.plain, (-d / 2, w, middle), (d / 2, 0, 0), (0, 0, -base.height_m / 2), grey)
        face(self.plain, (-d / 2, -w, middle), (-d / 2, 0, 0), (0, 0, -base.height_m / 2), grey)
        face(self.plain, (-d / 2, 0, top), (0, -w, 0), (-d / 2, 0, 0), grey)
        face(self.base_front, (-d, 0, middle), (0, -w, 0), (0, 0, -base.height_m / 2))

    def _distractor(
        self, canvas: NDArray[np.float32], rng: np.random.Generator, camera: Camera, hard: bool
    ) -> tuple[float, float, float, float] | None:
        """Something that is not a dock; its box in the image, or None when it is out of sight.

        A lone tag, a framed board, one with a tag, a poster, a screen on its foot, a box, noise.
        """
        z = _between(rng, 0.7, 8)
        centre = np.array([z * rng.uniform(-0.65, 0.65), rng.uniform(-0.6, 0.25), z])
        heading = np.radians(rng.uniform(-60, 60))
        across = np.array([np.cos(heading), 0, -np.sin(heading)]) * rng.uniform(0.06, 0.4)
        down = np.array([0, 1.0, 0]) * rng.uniform(0.06, 0.35)
        image, kind = draw_decoy(rng, self.tag_faces)
        if kind == "tag":
            down = np.array([0, 1.0, 0]) * np.linalg.norm(across)
        levels = flat_pyramid(image)
        corners = np.array(
            [centre - across - down, centre + across - down, centre + across + down, centre - across + down]
        )
        if not (corners[:, 2] > 0.1).all():
            return None
        shade = (rng.uniform(0.3, 1.2), rng.uniform(0, 0.1))
        quad = self._project(camera, corners)
        self._warp(canvas, levels, quad, shade, np.zeros(2), hard=hard)
        if kind in ("board", "screen") and rng.random() < 0.6:  # something dark below, as a dock has its base
            foot = centre + down * (1 + rng.uniform(0.1, 0.6)) - np.array([0, 0, rng.uniform(0, 0.15)])
            wide, tall = across * rng.uniform(0.3, 1.1), down * rng.uniform(0.08, 0.4)
            below = np.array([foot - wide - tall, foot + wide - tall, foot + wide + tall, foot - wide + tall])
            if (below[:, 2] > 0.1).all():
                tone = (rng.uniform(0.05, 0.4), 0.0)
                self._warp(canvas, self.plain, self._project(camera, below), tone, np.zeros(2), hard=hard)
        low, high = (
            np.clip(edge, 0, [WIDTH_PX - 1, HEIGHT_PX - 1]) for edge in (quad.min(axis=0), quad.max(axis=0))
        )
        if (high - low < 8).any():
            return None
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def make_truth(
    dock: DockModel,
    camera: Camera,
    rotation: Array,
    position_m: Array,
    covered: NDArray[np.uint8],
    strengths: Strengths,
    row_px: float,
) -> DockTruth:
    """Where a dock's keypoints are in the finished image. Covers are in the scene, before the lens."""
    pixels = (dock.points_m() @ rotation.T + position_m) @ camera.matrix().T
    points = pixels[:, :2] / pixels[:, 2:]
    seen = degrade.roll(
        degrade.bend(points, camera.matrix(), camera.distortion), strengths.rolling_px, row_px
    )
    limits = np.array([WIDTH_PX, HEIGHT_PX])
    inside = ((np.round(seen) >= 0) & (np.round(seen) < limits)).all(axis=1)
    places = np.clip(np.round(points), 0, limits - 1).astype(int)
    visible = inside & (covered[places[:, 1], places[:, 0]] == 0)
    low, high = (np.clip(edge, 0, limits - 1) for edge in (seen.min(axis=0), seen.max(axis=0)))
    box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    return DockTruth(rotation, position_m, seen, visible, box)


def load_tags() -> list[NDArray[np.float32]]:
    """Each dock's tag on white paper, as it hangs anywhere."""
    folder = ROOT / "config" / "dock"
    return [np.pad(_grey(folder / f"tag36h11_{i}.png"), 40, constant_values=1.0) for i in TAG_IDS]


DECOYS = ("tag", "panel", "board", "tagged board", "poster", "screen", "pattern", "pattern")


def draw_decoy(
    rng: np.random.Generator, tag_faces: list[NDArray[np.float32]]
) -> tuple[NDArray[np.float32], str]:
    """The face of something that a dock could be taken for, and what it is: of :data:`DECOYS`."""
    kind = str(rng.choice(DECOYS))
    if kind == "tag":
        return tag_faces[int(rng.integers(len(tag_faces)))], kind
    image = draw_pattern(rng, 96)
    if kind == "screen":  # dark rim, something bright in it
        image = image * rng.uniform(0.6, 1.2)
        image[:4] = image[-4:] = image[:, :4] = image[:, -4:] = 0.03
    elif kind != "pattern":  # dark frame, light face: nearly a panel
        face, edge = rng.uniform(0.6, 1.0), int(rng.integers(3, 14))
        image[edge:-edge, edge:-edge] = face
        if kind == "tagged board":
            side = int(rng.integers(24, 60))
            y, x = rng.integers(edge, max(edge + 1, 96 - edge - side), 2)
            part = image[y : y + side, x : x + side]
            tag = tag_faces[int(rng.integers(len(tag_faces)))]
            part[:] = cv2.resize(tag, part.shape[::-1], interpolation=cv2.INTER_AREA) * face
        for _ in range(rng.integers(0, 4)):
            a, b = np.sort(rng.integers(edge, 96 - edge, (2, 2)), axis=0)
            image[a[0] : b[0], a[1] : b[1]] = rng.uniform(0, 1)
        if kind == "poster":
            for y in range(edge + 4, 92 - edge, int(rng.integers(5, 12))):
                image[y : y + 2, edge + 4 : int(rng.integers(50, 92 - edge))] = rng.uniform(0, 0.4)
        image[:edge] = image[-edge:] = image[:, :edge] = image[:, -edge:] = rng.uniform(0, 0.4)
    return np.clip(image, 0, 1).astype(np.float32), kind


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
