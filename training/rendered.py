"""A second opinion: the models on frames of another renderer (MuJoCo), ``python -m training.rendered``.

Nothing here trains anything. The rooms are random, the dock comes from ``config/dock``; no blur, noise or
occlusion is added, and edges are not smoothed (MSAA off), as in the simulator. Needs the ``sim`` extra and GL.
"""

import argparse
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from depai_robot.adapters.onnx_detector import OnnxDetector
from depai_robot.perception.frame import CameraIntrinsics, Frame
from depai_robot.perception.pose import solve_pose
from depai_robot.perception.tag import read_tag
from training.evaluate import errors, usable
from training.scene import FOCAL_PX, HEIGHT_PX, WIDTH_PX, DockTruth, load_dock
from training.textures import ROOT, TAG_IDS

CAMERA_HEIGHT_M = 0.28
DOCK_X_M = 2.0
FRAMES_PER_ROOM = 20
FOLDER = ROOT / "config" / "dock"
Array = NDArray[np.float64]


def _words(values: Array) -> str:
    return " ".join(f"{v:.4f}" for v in values)


def _plate(name: str, centre: tuple, right: tuple, down: tuple) -> str:
    """A mesh of half a millimetre with a texture on its front; right and down as the viewer sees them."""
    c, r, d = (np.array(v, float) for v in (centre, right, down))
    front = [c - r - d, c + r - d, c + r + d, c - r + d]
    vertices = _words(np.concatenate([*front, *(v + np.array((0.0005, 0.0, 0.0)) for v in front)]))
    corners = "0 0 1 0 1 1 0 1"
    faces = "0 2 1 0 3 2 4 5 6 4 6 7 0 1 5 0 5 4 2 3 7 2 7 6"
    return f'<mesh name="{name}" vertex="{vertices}" texcoord="{corners} {corners}" face="{faces}"/>'


def make_room(rng: np.random.Generator, *, dock_there: bool) -> str:
    """MJCF of a room with walls, a few boxes and, at (2, 0), the dock."""
    dock = load_dock()
    panel, base = dock.panel, dock.base
    fovy_deg = np.degrees(2 * np.arctan(HEIGHT_PX / 2 / FOCAL_PX))
    kinds = ("checker", "flat", "gradient")
    colours = [_words(rng.uniform(0.1, 0.9, 3)) for _ in range(6)]
    wall_m = rng.uniform(2.3, 4.0)
    side_m = wall_m + 2.5
    z_base = -(panel.height_m + base.height_m) / 2
    boxes = "".join(
        f'<geom type="box" pos="{rng.uniform(2.3, 3):.3f} {rng.uniform(-2, 2):.3f} .2" size=".2 .2 .2" '
        f'rgba="{_words(rng.uniform(0.1, 0.9, 3))} 1"/>'
        for _ in range(int(rng.integers(3)))
    )
    body = f"""
    <body name="dock" pos="{DOCK_X_M} 0 {panel.centre_height_m}">
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
    <quality offsamples="0" shadowsize="512"/><global offwidth="{WIDTH_PX}" offheight="{HEIGHT_PX}"/>
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
  </asset>
  <worldbody>
    <light pos="{_words(rng.uniform(-2, 2, 2))} 2.5" dir="0 0 -1" diffuse="{_words(np.full(3, rng.uniform(0.3, 0.9)))}"
      castshadow="{rng.choice(["true", "false"])}" cutoff="90"/>
    <geom type="plane" size="8 8 .1" material="floor"/>
    <geom type="box" pos="{wall_m} 0 1" size=".05 8 {rng.uniform(0.5, 1.5)}" material="wall"/>
    <geom type="box" pos="-6 0 1" size=".05 8 1" material="wall"/>
    <geom type="box" pos="0 {side_m} 1" size="8 .05 1" material="wall"/>
    <geom type="box" pos="0 {-side_m} 1" size="8 .05 1" material="wall"/>
    {boxes}{body if dock_there else ""}
    <body name="eye" mocap="true" pos="0 0 {CAMERA_HEIGHT_M}">
      <camera name="eye" fovy="{fovy_deg}" xyaxes="0 -1 0 0 0 1"/>
    </body>
  </worldbody>
</mujoco>"""


def render(
    seed: int, count: int, *, dock_there: bool = True
) -> Iterator[tuple[NDArray[np.uint8], DockTruth]]:
    """(480, 640, 3) uint8 RGB frames with the truth, which tells of no keypoints."""
    os.environ.setdefault("MUJOCO_GL", "egl")
    import mujoco

    rng = np.random.default_rng([seed, 11])
    centre = np.array([DOCK_X_M, 0.0, load_dock().panel.centre_height_m])
    for first in range(0, count, FRAMES_PER_ROOM):
        model = mujoco.MjModel.from_xml_string(make_room(rng, dock_there=dock_there))
        state = mujoco.MjData(model)
        renderer = mujoco.Renderer(model, HEIGHT_PX, WIDTH_PX)
        try:
            for _ in range(first, min(first + FRAMES_PER_ROOM, count)):
                range_m = float(np.exp(rng.uniform(np.log(0.37), np.log(5))))
                yaw = rng.uniform(-1, 1) * np.radians(60) * float(np.clip((range_m - 0.3) / 0.7, 0.25, 1))
                heading = yaw + rng.uniform(-1, 1) * np.radians(28) * (1.0 if range_m > 0.6 else 0.4)
                state.mocap_pos[0] = (
                    centre[0] - range_m * np.cos(yaw),
                    -range_m * np.sin(yaw),
                    CAMERA_HEIGHT_M,
                )
                state.mocap_quat[0] = (np.cos(heading / 2), 0, 0, np.sin(heading / 2))
                mujoco.mj_forward(model, state)
                renderer.update_scene(state, "eye")
                # MuJoCo's cameras look along -z with y up.
                rotation = np.diag([1.0, -1.0, -1.0]) @ state.cam_xmat[0].reshape(3, 3).T
                position_m = rotation @ (centre - state.cam_xpos[0])
                truth = DockTruth(rotation, position_m, np.zeros((12, 2)), np.zeros(12, bool), (0, 0, 0, 0))
                yield renderer.render().copy(), truth
        finally:
            renderer.close()


def evaluate(models: Path, seed: int, count: int, negatives: int) -> dict[str, object]:
    detector, dock = OnnxDetector(models), load_dock()
    gate = detector.manifest.make_gate()
    lens = CameraIntrinsics(WIDTH_PX, HEIGHT_PX, FOCAL_PX, FOCAL_PX, (WIDTH_PX - 1) / 2, (HEIGHT_PX - 1) / 2)
    found = defaultdict(list)
    tags = published = good = false = 0
    for image, truth in render(seed, count):
        keypoints = detector.detect(Frame(image, 1, lens))
        solution = solve_pose(keypoints, lens, dock) if keypoints else None
        if solution is None or gate.probability(solution.evidence) < gate.threshold:
            continue
        published += 1
        good += usable(solution, truth)
        tags += read_tag(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), keypoints) is not None
        near = float(np.linalg.norm(truth.position_m)) < 0.6
        found["below 0.6 m" if near else "from 0.6 m"].append(errors(solution, truth))
    for image, _ in render(seed + 1, negatives, dock_there=False):
        keypoints = detector.detect(Frame(image, 1, lens))
        solution = solve_pose(keypoints, lens, dock) if keypoints else None
        false += solution is not None and gate.probability(solution.evidence) >= gate.threshold
    spread = {}
    for name, pairs in found.items():
        position_m, yaw_rad = np.abs(np.array(pairs)).T
        spread[name] = {
            "frames": len(pairs),
            "position_p50_mm": round(float(np.percentile(position_m, 50)) * 1e3, 1),
            "position_p95_mm": round(float(np.percentile(position_m, 95)) * 1e3, 1),
            "yaw_p95_deg": round(float(np.degrees(np.percentile(yaw_rad, 95))), 2),
        }
    return {
        "frames": count,
        "usable_percent": round(100 * good / count, 2),
        "wrong": published - good,
        "tag_read_percent": round(100 * tags / count, 1),
        "negatives": negatives,
        "false": false,
        "errors": spread,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=ROOT / "models")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--negatives", type=int, default=200)
    options = parser.parse_args()
    print(json.dumps(evaluate(options.models, options.seed, options.frames, options.negatives), indent=1))


if __name__ == "__main__":
    main()
