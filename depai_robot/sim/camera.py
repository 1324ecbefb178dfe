"""The simulated camera: MuJoCo's renderer through EGL, then OSMesa, then rays; chosen automatically and said aloud.

MuJoCo binds to a GL library when it is first imported, so a backend is tried in a child process before that.
Does not model: lens distortion, exposure, motion blur, noise, rolling shutter.
"""

import os
import subprocess
import sys
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from depai_robot.perception.frame import CameraIntrinsics, Frame
from depai_robot.sim.world import World
from depai_robot.values.error import DeviceFailedError

Backend = Literal["egl", "osmesa", "rays"]
PROBE_TIMEOUT_S = 30.0
_PROBE = (
    "import mujoco; m = mujoco.MjModel.from_xml_string('<mujoco><worldbody><geom size=\"1\"/></worldbody></mujoco>');"
    "r = mujoco.Renderer(m, 16, 16); d = mujoco.MjData(m); mujoco.mj_forward(m, d); r.update_scene(d); r.render();"
    "r.close()"
)
RAYS_SHRINK = 2
"""The ray camera renders every second pixel each way and doubles it."""


def choose_backend(wanted: str = "auto") -> tuple[Backend, str]:
    """The first backend that renders, and why; sets ``MUJOCO_GL`` for it. Call before MuJoCo is imported.

    Raises:
        DeviceFailedError: the one that was asked for does not render.
    """
    reasons: list[str] = []
    order: tuple[Backend, ...] = ("egl", "osmesa", "rays")
    for backend in order:
        if wanted not in ("auto", backend):
            continue
        if backend == "rays":
            os.environ["MUJOCO_GL"] = "disabled"
            return backend, "; ".join(reasons) or "asked for"
        failure = _probe(backend)
        if failure is None:
            os.environ["MUJOCO_GL"] = backend
            return backend, "; ".join(reasons) or "renders here"
        reasons.append(f"{backend}: {failure}")
    raise DeviceFailedError(
        f"camera backend {wanted!r} does not render here: {'; '.join(reasons) or 'unknown name'}"
    )


def _probe(backend: str) -> str | None:
    if "mujoco" in sys.modules:
        # Bound already: only what it is bound to can be used.
        return None if os.environ.get("MUJOCO_GL") == backend else "MuJoCo is bound to another backend"
    environment = {**os.environ, "MUJOCO_GL": backend}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no frame in {PROBE_TIMEOUT_S:.0f} s"
    return (
        None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no reason given"])[-1][:120]
    )


class SimulatedCamera:
    """ports.Camera on a World. Render and close it on the thread that made it.

    Args:
        world: to look at.
        backend: from :func:`choose_backend`.
        reason: why that one.
        shadows: hard shadows, at half the speed.
    """

    def __init__(self, world: World, backend: Backend, reason: str = "", *, shadows: bool = True) -> None:
        self._world = world
        self.backend, self.reason = backend, reason
        mount = world.robot.camera
        self.intrinsics = CameraIntrinsics(
            mount.width_px,
            mount.height_px,
            mount.focal_px,
            mount.focal_px,
            # MuJoCo's optical axis goes through the middle of the image; pixel centres are at integers.
            (mount.width_px - 1) / 2,
            (mount.height_px - 1) / 2,
        )
        self._closed = False
        self._renderer: Any = None
        if backend == "rays":
            self._rays = _Rays(world, self.intrinsics)
        else:
            import mujoco

            self._renderer = mujoco.Renderer(world.model, mount.height_px, mount.width_px)
            self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = shadows

    def read(self) -> Frame:
        """See ports.Camera."""
        if self._closed:
            raise DeviceFailedError("the simulated camera is closed")
        if self._renderer is None:
            image = self._rays.render()
        else:
            self._renderer.update_scene(self._world.data, camera="eye")
            image = self._renderer.render()
        return Frame(np.ascontiguousarray(image), self._world.time_ns, self.intrinsics)

    def close(self) -> None:
        """Frees the GL context."""
        self._closed = True
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


class _Rays:
    """A camera without GL: one ray a pixel by mj_multiRay, then colour from geom, texture and distance."""

    def __init__(self, world: World, intrinsics: CameraIntrinsics) -> None:
        import mujoco

        self._mujoco, self._world = mujoco, world
        self._height, self._width = intrinsics.height_px // RAYS_SHRINK, intrinsics.width_px // RAYS_SHRINK
        half = (RAYS_SHRINK - 1) / 2
        columns = np.arange(self._width) * RAYS_SHRINK + half
        rows = np.arange(self._height) * RAYS_SHRINK + half
        x = (columns - intrinsics.cx_px) / intrinsics.fx_px
        y = (rows - intrinsics.cy_px) / intrinsics.fy_px
        grid = np.stack(np.meshgrid(x, y), axis=-1)
        directions = np.concatenate([grid, np.ones((*grid.shape[:2], 1))], axis=2).reshape(-1, 3)
        self._directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
        model = world.model
        self._colour = np.array(
            [
                model.mat_rgba[model.geom_matid[i]][:3]
                if model.geom_matid[i] >= 0
                else model.geom_rgba[i][:3]
                for i in range(model.ngeom)
            ]
        )
        self._faces = [
            (i, self._picture(i))
            for i in range(model.ngeom)
            if model.geom_type[i] == mujoco.mjtGeom.mjGEOM_MESH
        ]
        self._floor = model.geom("floor").id

    def _picture(self, geom: int) -> NDArray[np.uint8]:
        """(H, W, 3) pixels of a face, upright."""
        model = self._world.model
        texture = model.mat_texid[model.geom_matid[geom]][self._mujoco.mjtTextureRole.mjTEXROLE_RGB]
        width, height = model.tex_width[texture], model.tex_height[texture]
        channels = model.tex_nchannel[texture]
        begin = model.tex_adr[texture]
        pixels = model.tex_data[begin : begin + width * height * channels].reshape(height, width, channels)
        upright: NDArray[np.uint8] = pixels[..., :3]
        return upright

    def render(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB of the full size."""
        model, data, mujoco = self._world.model, self._world.data, self._mujoco
        camera = model.camera("eye").id
        origin = np.array(data.cam_xpos[camera])
        # MuJoCo's camera looks along -z with y up; the optical frame along +z with y down.
        axes = np.array(data.cam_xmat[camera]).reshape(3, 3) * np.array([1.0, -1.0, -1.0])
        rays = self._directions @ axes.T
        count = len(rays)
        geoms = np.full(count, -1, dtype=np.int32)
        distances = np.zeros(count)
        body = model.body("robot").id
        mujoco.mj_multiRay(
            model, data, origin, rays.flatten(), None, 1, body, geoms, distances, None, count, 40.0
        )
        colours = np.full((count, 3), 0.45)
        hit = geoms >= 0
        colours[hit] = self._colour[geoms[hit]]
        points = origin + rays * distances[:, None]
        on_floor = geoms == self._floor
        checks = np.floor(points[on_floor, 0] * 2.6).astype(int) + np.floor(points[on_floor, 1] * 2.6).astype(
            int
        )
        colours[on_floor] = np.where((checks % 2 == 0)[:, None], [0.52, 0.50, 0.47], [0.44, 0.43, 0.41])
        # Light falls off with distance a little, so that edges of equal colour are seen.
        image = colours * (0.95 - 0.03 * np.clip(distances, 0, 10))[:, None] * 255.0
        for geom, pixels in self._faces:
            self._paint(image, points, geoms, geom, pixels)
        out = np.clip(image, 0, 255).astype(np.uint8).reshape(self._height, self._width, 3)
        return out.repeat(RAYS_SHRINK, axis=0).repeat(RAYS_SHRINK, axis=1)

    def _paint(
        self,
        image: NDArray[np.float64],
        points: NDArray[np.float64],
        geoms: NDArray[np.int32],
        geom: int,
        pixels: NDArray[np.uint8],
    ) -> None:
        mask = geoms == geom
        if not mask.any():
            return
        model, data = self._world.model, self._world.data
        body = model.geom_bodyid[geom]
        rotation = np.array(data.xmat[body]).reshape(3, 3)
        local = (points[mask] - data.xpos[body]) @ rotation
        name = model.mesh(model.geom_dataid[geom]).name
        dock = self._world.dock
        if name.endswith("_panel"):
            half_w, half_h, centre_z = dock.panel.width_m / 2, dock.panel.height_m / 2, 0.0
        else:
            half_w, half_h = dock.base.width_m / 2, dock.base.height_m / 2
            centre_z = -dock.panel.height_m / 2 - half_h
        u = (half_w - local[:, 1]) / (2 * half_w)
        v = (half_h - (local[:, 2] - centre_z)) / (2 * half_h)
        column = np.clip((u * pixels.shape[1]).astype(int), 0, pixels.shape[1] - 1)
        row = np.clip((v * pixels.shape[0]).astype(int), 0, pixels.shape[0] - 1)
        image[mask] = pixels[row, column]
