"""Time of the dock detector on one core, beside OpenCV's ArUco on the same frames: ``python -m bench.detector``.

Frames are rendered by the simulator over a drive-in from 4 m to 0.5 m. Times are CPU time of the process.
"""

import math
import statistics
import time
from typing import Any

import cv2
import numpy as np

from depai_robot.app.dock_observer import make_observer
from depai_robot.app.resource import resource_path
from depai_robot.perception.dock import parse_dock
from depai_robot.perception.frame import Frame
from depai_robot.sim.camera import SimulatedCamera, choose_backend
from depai_robot.sim.scene import parse_robot, parse_world
from depai_robot.sim.world import IDEAL, World
from depai_robot.values.geometry import Pose2

FRAMES = 40
RATE_HZ = 10.0


def render_frames(count: int = FRAMES) -> list[Frame]:
    """Frames of a dock from 4 m to 0.5 m, a little beside and askew."""
    backend, reason = choose_backend("auto")
    robot = parse_robot(resource_path("config", "robot.yaml").read_text(encoding="utf-8"))
    layout = parse_world(resource_path("config", "world.yaml").read_text(encoding="utf-8"))
    dock = parse_dock(resource_path("config", "dock.yaml").read_text(encoding="utf-8"))
    place = next(item for item in layout.docks if item.id == "dock_far").pose()
    frames = []
    for number in range(count):
        ahead = 4.0 + (0.5 - 4.0) * number / (count - 1)
        start = place.compose(Pose2(-ahead, 0.15 * math.sin(number), 0.1 * math.cos(number)))
        world = World(robot, layout, dock, resource_path("config", "dock"), disturbance=IDEAL, start=start)
        camera = SimulatedCamera(world, backend, reason)
        frames.append(camera.read())
        camera.close()
    return frames


def _per_frame_ms(work: Any, frames: list[Frame]) -> list[float]:
    times = []
    for frame in frames:
        begin = time.process_time()
        work(frame)
        times.append((time.process_time() - begin) * 1000)
    return times


def measure() -> dict[str, Any]:
    """Median CPU milliseconds per 640x480 frame, one thread."""
    cv2.setNumThreads(1)
    frames = render_frames()
    models, dock_file = resource_path("models"), resource_path("config", "dock.yaml")
    tracking = make_observer(models, dock_file)
    searches = []
    for frame in frames:
        searching = make_observer(models, dock_file)  # has seen nothing, so it searches the whole frame
        searches += _per_frame_ms(searching, [frame])
    stamped = [Frame(f.image, number * 100_000_000, f.intrinsics) for number, f in enumerate(frames)]
    tracks = _per_frame_ms(tracking, stamped)[3:]
    detector = cv2.aruco.ArucoDetector(cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11))
    found = [0]

    def aruco(frame: Frame) -> None:
        corners, _, _ = detector.detectMarkers(cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY))
        found[0] += bool(len(corners))

    peers = _per_frame_ms(aruco, frames)
    seen = sum(make_observer(models, dock_file)(f)[0] is not None for f in frames)
    tracked_ms = statistics.median(tracks)
    return {
        "full search with pose, ms": round(statistics.median(searches), 2),
        "tracked, with pose, ms": round(tracked_ms, 2),
        "share of a core at 10 Hz, tracked": f"{tracked_ms * RATE_HZ / 10:.1f} %",
        "OpenCV ArUco on the same frames, ms": round(statistics.median(peers), 2),
        "tracked against ArUco, ratio of times": round(tracked_ms / statistics.median(peers), 2),
        "dock found in frames, ours": f"{seen} of {len(frames)}",
        "tag found in frames, ArUco": f"{found[0]} of {len(frames)}",
        "frames": f"{len(frames)} rendered, {np.array(frames[0].image).shape[1]}x{frames[0].image.shape[0]}",
    }


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name}: {value}")
