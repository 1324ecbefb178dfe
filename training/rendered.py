"""Frames of another renderer: MuJoCo's, as the simulator uses it. Its frames train nothing, they only measure.

Rooms, light and look-alikes are random, the dock comes from ``config/dock``; what lens, dirt and sensor do is
``training.degrade``, as for the other renderer. Half of the rooms are drawn at twice the size and averaged, half as
the simulator's camera does it, with edges as MuJoCo leaves them. Needs the ``sim`` extra and GL.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from depai_robot.sim.camera import choose_backend
from depai_robot.values.error import DeviceFailedError
from training import degrade
from training.degrade import HEIGHT_PX, WIDTH_PX
from training.scene import (
    FOCAL_PX,
    RANGE_MAX_M,
    RANGE_MIN_M,
    Camera,
    Request,
    Sample,
    draw_decoy,
    load_dock,
    load_tags,
    make_truth,
)
from training.textures import ROOT, TAG_IDS

CAMERA_HEIGHT_M = (0.26, 0.30)
DOCK_X_M = 2.0
FRAMES_PER_ROOM = 10
DRIVE_ROOMS = 1_000_000
"""Number of the first room of a drive: none that single frames have."""

SHAKE_RAD = 0.005
FOLDER = ROOT / "config" / "dock"
Array = NDArray[np.float64]


def _words(values: Any) -> str:
    return " ".join(f"{v:.4f}" for v in values)


def _plate(name: str, centre: tuple, right: tuple, down: tuple) -> str:
    """A mesh of half a millimetre with a texture on its front; right and down as the viewer sees them."""
    c, r, d = (np.array(v, float) for v in (centre, right, down))
    front = [c - r - d, c + r - d, c + r + d, c - r + d]
    back = np.cross(d, r)
    back *= 0.0005 / np.linalg.norm(back)
    vertices = _words(np.concatenate([*front, *(v - back for v in front)]))
    corners = "0 0 1 0 1 1 0 1"
    faces = "0 2 1 0 3 2 4 5 6 4 6 7 0 1 5 0 5 4 2 3 7 2 7 6"
    return f'<mesh name="{name}" vertex="{vertices}" texcoord="{corners} {corners}" face="{faces}"/>'


def _decoys(rng: np.random.Generator, tags: list, assets: dict[str, bytes]) -> tuple[str, str]:
    """Things that are like a dock, beside and behind its place: MJCF of their assets and of themselves."""
    made, placed = "", ""
    for i in range(int(rng.poisson(1.6))):
        image, kind = draw_decoy(rng, tags)
        _, png = cv2.imencode(".png", (image * 255).astype(np.uint8))
        assets[f"decoy{i}.png"] = png.tobytes()
        turn = rng.uniform(-0.6, 0.6)
        wide, tall = rng.uniform(0.06, 0.4), rng.uniform(0.06, 0.35)
        if kind == "tag":
            tall = wide
        right = wide * np.array([-np.sin(turn), -np.cos(turn), 0])
        made += f'<texture name="decoy{i}" type="2d" file="decoy{i}.png"/>'
        made += f'<material name="decoy{i}" texture="decoy{i}"/>'
        made += _plate(f"decoy{i}", (0, 0, 0), tuple(right), (0, 0, -tall))
        x, y = rng.uniform(2.3, 3.2), rng.uniform(-2.2, 2.2)
        z = tall + rng.uniform(0.0, 0.9)
        placed += f'<geom type="mesh" mesh="decoy{i}" material="decoy{i}" pos="{x:.3f} {y:.3f} {z:.3f}"/>'
        if kind in ("board", "screen") and rng.random() < 0.6:
            height = min(tall * rng.uniform(0.1, 0.4), z - tall + 0.02) / 2
            tone = _words(np.full(3, rng.uniform(0.05, 0.3)))
            placed += (
                f'<geom type="box" pos="{x - 0.05:.3f} {y:.3f} {z - tall - height:.3f}" '
                f'size="0.08 {wide * rng.uniform(0.3, 1.1):.3f} {max(height, 0.01):.3f}" rgba="{tone} 1"/>'
            )
    return made, placed


def make_room(rng: np.random.Generator, tags: list, assets: dict[str, bytes]) -> str:
    """MJCF of a room with walls, boxes, look-alikes and, as a body that can be moved, the dock."""
    dock = load_dock()
    panel, base = dock.panel, dock.base
    fovy_deg = np.degrees(2 * np.arctan(HEIGHT_PX / 2 / FOCAL_PX))
    kinds = ("checker", "flat", "gradient")
    colours = [_words(rng.uniform(0.1, 0.9, 3)) for _ in range(6)]
    wall_m = rng.uniform(2.6, 4.5)
    side_m = rng.uniform(6.2, 8.0)
    z_base = -(panel.height_m + base.height_m) / 2
    boxes = "".join(
        f'<geom type="box" pos="{rng.uniform(2.6, 3.5):.3f} {rng.uniform(-2, 2):.3f} .2" size=".2 .2 .2" '
        f'rgba="{_words(rng.uniform(0.1, 0.9, 3))} 1"/>'
        for _ in range(int(rng.integers(4)))
    )
    decoys_made, decoys = _decoys(rng, tags, assets)
    size = 2 if rng.random() < 0.5 else 1
    body = f"""
    <body name="dock" mocap="true" pos="{DOCK_X_M} 0 {panel.centre_height_m}">
      <geom type="box" pos="{panel.thickness_m / 2 + 0.0005} 0 0" rgba=".3 .3 .3 1"
        size="{panel.thickness_m / 2} {panel.width_m / 2} {panel.height_m / 2}"/>
      <geom type="mesh" mesh="panel" material="panel" contype="0" conaffinity="0"/>
      <geom type="box" pos="{-base.depth_m / 2} 0 {z_base}" rgba=".2 .22 .25 1"
        size="{base.depth_m / 2} {base.width_m / 2} {base.height_m / 2}"/>
      <geom type="mesh" mesh="front" material="front" contype="0" conaffinity="0"/>
    </body>"""
    # znear is a share of the model's extent (some 10 m): at contact the dock is 0.2 m away.
    return f"""<mujoco>
  <visual>
    <headlight ambient="{_words(np.full(3, rng.uniform(0.1, 0.4)))}"
      diffuse="{_words(np.full(3, rng.uniform(0.1, 0.5)))}"/>
    <quality offsamples="0" shadowsize="1024"/>
    <global offwidth="{WIDTH_PX * size}" offheight="{HEIGHT_PX * size}"/>
    <map znear="0.0005"/>
  </visual>
  <asset>
    <texture name="floor" type="2d" builtin="{rng.choice(kinds)}" rgb1="{colours[0]}" rgb2="{colours[1]}"
      width="300" height="300"/>
    <material name="floor" texture="floor" texrepeat="{_words(rng.uniform(1, 8, 2))}"
      reflectance="{rng.choice([0, 0.2])}"/>
    <texture name="wall" type="2d" builtin="{rng.choice(kinds)}" rgb1="{colours[2]}" rgb2="{colours[3]}"
      width="300" height="300" mark="random" random="{rng.choice([0, 0.1])}"/>
    <material name="wall" texture="wall" texrepeat="{_words(rng.uniform(1, 6, 2))}" texuniform="true"/>
    <texture name="panel" type="2d" file="{FOLDER / f"panel_{rng.choice(TAG_IDS)}.png"}"/>
    <texture name="front" type="2d" file="{FOLDER / "base_front.png"}"/>
    <material name="panel" texture="panel"/><material name="front" texture="front"/>
    {_plate("panel", (0, 0, 0), (0, -panel.width_m / 2, 0), (0, 0, -panel.height_m / 2))}
    {_plate("front", (-base.depth_m - 0.0005, 0, z_base), (0, -base.width_m / 2, 0), (0, 0, -base.height_m / 2))}
    {decoys_made}
  </asset>
  <worldbody>
    <light pos="{_words(rng.uniform(-2, 2, 2))} 2.5" dir="0 0 -1" diffuse="{_words(np.full(3, rng.uniform(0.3, 0.9)))}"
      castshadow="{rng.choice(["true", "false"])}" cutoff="90"/>
    <geom type="plane" size="12 12 .1" material="floor"/>
    <geom type="box" pos="{wall_m} 0 1" size=".05 9 {rng.uniform(0.5, 1.5)}" material="wall"/>
    <geom type="box" pos="-9 0 1" size=".05 9 1" material="wall"/>
    <geom type="box" pos="0 {side_m} 1" size="10 .05 1" material="wall"/>
    <geom type="box" pos="0 {-side_m} 1" size="10 .05 1" material="wall"/>
    {boxes}{decoys}{body}
    <body name="eye" mocap="true" pos="0 0 {CAMERA_HEIGHT_M[0]}">
      <camera name="eye" fovy="{fovy_deg}" xyaxes="0 -1 0 0 0 1"/>
    </body>
  </worldbody>
</mujoco>"""


def choose_gl() -> None:
    """Binds MuJoCo to a GL library that renders; rays are too coarse for this.

    Raises:
        DeviceFailedError: neither EGL nor OSMesa does.
    """
    try:
        choose_backend("egl")
    except DeviceFailedError:
        choose_backend("osmesa")


@dataclass(frozen=True)
class _View:
    """Where the camera stands: range and yaw of the dock's plane polar, heading against the dock's axis."""

    strengths: degrade.Strengths
    range_m: float
    yaw_rad: float
    heading_rad: float
    height_m: float


class Simulator:
    """Draws frames like ``scene.Painter``: a frame is a function of (seed, split, index, request) alone."""

    def __init__(self, seed: int, split: str) -> None:
        choose_gl()
        self.key = [seed, *split.encode(), 11]
        self.dock = load_dock()
        self.centre = np.array([DOCK_X_M, 0.0, self.dock.panel.centre_height_m])
        self.tags = load_tags()
        self._number: int | None = None
        self._renderer: Any = None

    def close(self) -> None:
        """Gives the renderer's memory back."""
        if self._renderer is not None:
            self._renderer.close()
        self._renderer, self._number = None, None

    def _open(self, number: int) -> None:
        import mujoco

        if self._number == number:
            return
        self.close()
        assets: dict[str, bytes] = {}
        xml = make_room(np.random.default_rng([*self.key, 1, number]), self.tags, assets)
        self._model = mujoco.MjModel.from_xml_string(xml, assets)
        self._state = mujoco.MjData(self._model)
        screen = self._model.vis.global_
        self._renderer = mujoco.Renderer(self._model, int(screen.offheight), int(screen.offwidth))
        self._number = number

    def sample(self, index: int, request: Request | None = None) -> Sample:
        request = request or Request()
        rng = np.random.default_rng([*self.key, 2, index])
        self._open(index // FRAMES_PER_ROOM)
        view = self._choose(rng, request)
        return self._draw(view, request, rng, rng)

    def drive(self, index: int, request: Request, ranges_m: Sequence[float]) -> Iterator[Sample]:
        """What a robot sees that comes to the dock: a frame at each range; each drive has a room of its own.

        It lines up as it comes: its bearings from the dock and of the dock shrink with the range. Light, dirt and what
        covers the dock stay as they are; streak and noise are each frame's own, and the camera shakes a little.
        """
        self._open(DRIVE_ROOMS + index)
        for number, range_m in enumerate(ranges_m):
            rng = np.random.default_rng([*self.key, 3, index])
            own = np.random.default_rng([*self.key, 4, index, number])
            view = self._choose(rng, replace(request, range_m=ranges_m[0]))
            share = range_m / ranges_m[0]
            view = replace(
                view,
                range_m=range_m,
                yaw_rad=view.yaw_rad * share,
                heading_rad=view.heading_rad * share + float(own.normal(0, SHAKE_RAD)),
            )
            yield self._draw(view, request, rng, own)

    def _choose(self, rng: np.random.Generator, request: Request) -> "_View":
        strengths = degrade.draw_strengths(rng, request.condition or "mixed")
        range_m = request.range_m or float(np.exp(rng.uniform(np.log(RANGE_MIN_M), np.log(RANGE_MAX_M))))
        near = float(np.clip((range_m - 0.3) / 0.7, 0.25, 1.0))
        yaw_rad = np.radians(rng.uniform(-1, 1) * request.yaw_max_deg * near)
        bearing_rad = np.radians(
            rng.uniform(-1, 1) * request.bearing_max_deg * (1.0 if range_m > 0.6 else 0.4)
        )
        return _View(strengths, range_m, yaw_rad, yaw_rad + bearing_rad, rng.uniform(*CAMERA_HEIGHT_M))

    def _draw(
        self, view: "_View", request: Request, rng: np.random.Generator, sensor_rng: np.random.Generator
    ) -> Sample:
        """``rng`` decides on what is in the room, ``sensor_rng`` on what lens and sensor do."""
        import mujoco

        strengths = view.strengths
        camera = Camera(FOCAL_PX, strengths.distortion)
        state = self._state
        flat_m = np.array([view.range_m * np.cos(view.yaw_rad), view.range_m * np.sin(view.yaw_rad)])
        state.mocap_pos[1] = (*(self.centre[:2] - flat_m), view.height_m)
        state.mocap_quat[1] = (np.cos(view.heading_rad / 2), 0, 0, np.sin(view.heading_rad / 2))
        state.mocap_pos[0] = self.centre - np.array([0, 0, 50.0 if request.negative else 0.0])
        mujoco.mj_forward(self._model, state)
        self._renderer.update_scene(state, "eye")
        picture = cv2.cvtColor(self._renderer.render(), cv2.COLOR_RGB2GRAY)
        if picture.shape[0] != HEIGHT_PX:
            picture = cv2.resize(picture, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_AREA)
        canvas = picture.astype(np.float32) / 255.0
        # MuJoCo's cameras look along -z with y up.
        rotation = np.diag([1.0, -1.0, -1.0]) @ state.cam_xmat[0].reshape(3, 3).T
        position_m = rotation @ (self.centre - state.cam_xpos[0])
        covered = np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8)
        row_px = (HEIGHT_PX - 1) / 2
        if not request.negative:
            seen = self.dock.points_m() @ rotation.T + position_m
            pixels = seen @ camera.matrix().T
            pixels = pixels[:, :2] / pixels[:, 2:]
            row_px += FOCAL_PX * float(position_m[1] / position_m[2])
            if strengths.dirt:
                degrade.add_dirt(canvas, rng, pixels[:4], strengths.dirt)
            for _ in range(strengths.glare):
                degrade.add_glare(canvas, rng, pixels[:4])
            limits = [WIDTH_PX - 1, HEIGHT_PX - 1]
            low, high = (np.clip(v, 0, limits) for v in (pixels.min(axis=0), pixels.max(axis=0)))
            box_px = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
            if strengths.occlusion:
                degrade.cover(canvas, covered, rng, box_px, strengths.occlusion)
            if strengths.side:
                degrade.cover_side(canvas, covered, rng, box_px, strengths.side)
        degrade.add_light(canvas, rng, strengths)
        image = degrade.sense(canvas, sensor_rng, strengths, camera.matrix(), row_px)
        docks = ()
        if not request.negative:
            docks = (make_truth(self.dock, camera, rotation, position_m, covered, strengths, row_px),)
        return Sample(image, camera, docks, request.condition or "mixed")
