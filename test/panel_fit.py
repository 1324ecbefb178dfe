"""How well a rendered dock lies where the true pose says it must: run per camera backend, each in its own process.

    python -m test.panel_fit egl

prints one JSON object a pose.
"""

import json
import math
import sys

import cv2
import numpy as np

from depai_robot.app.resource import resource_path
from depai_robot.perception.dock import parse_dock
from depai_robot.sim.camera import SimulatedCamera, choose_backend
from depai_robot.sim.scene import parse_robot, parse_world
from depai_robot.sim.world import IDEAL, World
from depai_robot.values.geometry import Pose2

DOCK = "dock_far"
# Base to panel (m), off its axis, and turned from looking at it (degrees).
POSES = ((0.41, 0, 0), (0.8, 0, 5), (1.0, 35, 0), (1.6, -50, 6), (2.5, 10, -12))


def make_world(**changes):
    robot = parse_robot(resource_path("config", "robot.yaml").read_text(encoding="utf-8"))
    layout = parse_world(resource_path("config", "world.yaml").read_text(encoding="utf-8"))
    dock = parse_dock(resource_path("config", "dock.yaml").read_text(encoding="utf-8"))
    return World(robot, layout, dock, resource_path("config", "dock"), **changes)


def before_dock(world, distance_m, angle_deg=0.0, heading_deg=0.0):
    """A base pose in the map."""
    place = next(p for p in world.layout.docks if p.id == DOCK).pose()
    angle = math.radians(angle_deg)
    return place.compose(
        Pose2(-distance_m * math.cos(angle), -distance_m * math.sin(angle), angle + math.radians(heading_deg))
    )


def project(world, points_in_dock):
    """(N, 2) pixels of (N, 3) points in the dock's frame, by the true pose and pinhole geometry alone."""
    camera, dock = world.robot.camera, world.dock_in_base(DOCK)
    pixels = []
    for x, y, z in points_in_dock:
        in_base = dock.compose(Pose2(x, y, 0.0))
        ahead = in_base.x_m - camera.x_m
        up = z + world.dock.panel.centre_height_m - camera.z_m
        pixels.append(
            (
                (camera.width_px - 1) / 2 - camera.focal_px * in_base.y_m / ahead,
                (camera.height_px - 1) / 2 - camera.focal_px * up / ahead,
            )
        )
    return np.array(pixels)


def fit(world, camera, pose):
    """Of one face: correlation with its picture, with the picture upside down, and the shift between them."""
    world._place(pose)
    frame = camera.read()
    assert frame.image.shape == (480, 640, 3)
    corners = project(world, world.dock.keypoints_m[:4])
    marker = next(p for p in world.layout.docks if p.id == DOCK).marker_id
    picture = cv2.imread(str(resource_path("config", "dock") / f"panel_{marker}.png"), cv2.IMREAD_GRAYSCALE)
    # Compare at about the size that it has in the image.
    width = max(40, int(np.linalg.norm(corners[1] - corners[0])))
    height = max(30, int(np.linalg.norm(corners[3] - corners[0])))
    picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    flat = np.array([[-0.5, -0.5], [width - 0.5, -0.5], [width - 0.5, height - 0.5], [-0.5, height - 0.5]])
    turn = cv2.getPerspectiveTransform(corners.astype(np.float32), flat.astype(np.float32))
    grey = cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    seen = cv2.warpPerspective(grey, turn, (width, height), flags=cv2.INTER_LINEAR)
    shift, _ = cv2.phaseCorrelate(picture - picture.mean(), seen - seen.mean())
    return {
        "alike": float(np.corrcoef(picture.ravel(), seen.ravel())[0, 1]),
        "flipped": float(np.corrcoef(picture[::-1].ravel(), seen.ravel())[0, 1]),
        "mirrored": float(np.corrcoef(picture[:, ::-1].ravel(), seen.ravel())[0, 1]),
        "shift_px": math.hypot(*shift),
    }


def measure(backend):
    world = make_world(disturbance=IDEAL)
    camera = SimulatedCamera(world, backend)
    try:
        return [fit(world, camera, before_dock(world, *pose)) for pose in POSES]
    finally:
        camera.close()


if __name__ == "__main__":
    chosen, _ = choose_backend(sys.argv[1])
    for row in measure(chosen):
        print(json.dumps(row))
