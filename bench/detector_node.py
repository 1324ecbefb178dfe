"""What the dock detector node takes of a core and of memory at 10 Hz: ``python -m bench.detector_node``.

The node alone in a process of its own, real rclpy, images of 640 x 480 over loopback: while it tracks a dock from 4 m
to 0.5 m, then while it searches rooms without one. Peers, in the same node in place of our observer, one after the
other: OpenCV's ArUco with its pose, and nothing at all, which is what rclpy and the images cost by themselves. The
processor time of the process is what the system says of it, so the middleware's threads count.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import cv2
import psutil
import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from bench.tag_peer import Aruco, tag_poses
from depai_robot.app.dock_observer import make_observer
from depai_robot.app.resource import resource_path
from depai_robot.nodes.convert import frame_to_image, intrinsics_to_info
from depai_robot.nodes.dock_detector import DockDetector
from depai_robot.nodes.process import run
from depai_robot.nodes.quality import STATE, image_quality
from depai_robot.perception.frame import Frame
from training.evaluate import frame_of
from training.scene import Request, load_dock

RATE_HZ = 10.0
SPEED_MPS = 0.3
START_M, END_M = 4.0, 0.5
ROOMS = 100
START_TIMEOUT_S = 60.0
OBSERVERS = ("dock", "aruco", "nothing")


def make_node(kind: str) -> DockDetector:
    """The node under test."""
    cv2.setNumThreads(1)  # as the robot's process does
    if kind == "dock":
        observer = make_observer(resource_path("models"), resource_path("config", "dock.yaml"))
        return DockDetector(observer, model=observer.model_sha256, health=observer.health)
    aruco, dock = Aruco(), load_dock()

    def observe(frame: Frame) -> tuple[None, None]:
        if kind == "aruco":
            tag_poses(aruco, dock, frame)
        return None, None

    return DockDetector(observe, model=kind)


class Camera:
    """Publishes frames as a camera driver does, and counts what comes of them."""

    def __init__(self) -> None:
        self.node = Node("camera")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.poses = self.processed = self._sent = 0
        self._images = self.node.create_publisher(Image, "camera/image_raw", image_quality(reliable=True))
        self._infos = self.node.create_publisher(CameraInfo, "camera/camera_info", STATE)
        self.node.create_subscription(PoseStamped, "detected_dock_pose", self._pose, STATE)
        self.node.create_subscription(Header, "dock_detector/processed", self._done, STATE)

    def _pose(self, message: PoseStamped) -> None:
        del message
        self.poses += 1

    def _done(self, message: Header) -> None:
        del message
        self.processed += 1

    def publish(self, frame: Frame) -> None:
        """One frame, and a tenth of a second of listening."""
        end = time.monotonic() + 1 / RATE_HZ
        self._sent += 1
        stamp_ns = round(self._sent * 1e9 / RATE_HZ)
        self._infos.publish(intrinsics_to_info(frame.intrinsics, stamp_ns, "camera"))
        self._images.publish(frame_to_image(Frame(frame.image, stamp_ns, frame.intrinsics), "camera"))
        while (left_s := end - time.monotonic()) > 0:
            self.executor.spin_once(timeout_sec=left_s)

    def show(self, frames: Sequence[Frame], process: psutil.Process) -> dict[str, float]:
        """All frames, and what the process took meanwhile."""
        poses, processed = self.poses, self.processed
        spent_s, begun = sum(process.cpu_times()[:2]), time.monotonic()
        for frame in frames:
            self.publish(frame)
        share = (sum(process.cpu_times()[:2]) - spent_s) / (time.monotonic() - begun)
        memory = process.memory_full_info()
        return {
            "share_of_a_core_percent": round(100 * share, 1),
            "memory_mib": round(memory.rss / 2**20, 1),
            "of_which_its_own_mib": round(memory.uss / 2**20, 1),
            "frames_done_percent": round(100 * (self.processed - processed) / len(frames), 1),
            "frames_with_a_pose_percent": round(100 * (self.poses - poses) / len(frames), 1),
        }


def measure(
    observers: Sequence[str] = OBSERVERS, drawn: tuple[list[Frame], list[Frame]] | None = None
) -> Any:
    """By observer: tracking a dock, and searching where there is none."""
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    drive, rooms = drawn or draw()
    rclpy.init()
    camera = Camera()
    figures: dict[str, Any] = {}
    try:
        for kind in observers:
            child = subprocess.Popen([sys.executable, "-m", "bench.detector_node", kind])
            try:
                process, before, begun = psutil.Process(child.pid), camera.processed, time.monotonic()
                while camera.processed < before + 5:
                    if child.poll() is not None or time.monotonic() > begun + START_TIMEOUT_S:
                        raise RuntimeError(f"the node with {kind} does not work, exit status {child.poll()}")
                    camera.publish(rooms[0])
                figures[kind] = {
                    "tracking": camera.show(drive, process),
                    "searching": camera.show(rooms, process),
                }
            finally:
                child.terminate()
                try:
                    child.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    child.kill()
                    raise
    finally:
        camera.node.destroy_node()
        rclpy.try_shutdown()
    return figures


def draw() -> tuple[list[Frame], list[Frame]]:
    """A drive to a dock in clear light, and rooms without one, by the simulator's renderer."""
    from training.rendered import Simulator

    simulator = Simulator(2028, "node")
    step_m = SPEED_MPS / RATE_HZ
    ranges_m = [START_M - step_m * i for i in range(round((START_M - END_M) / step_m) + 1)]
    drive = simulator.drive(0, Request("clean", yaw_max_deg=20, bearing_max_deg=10), ranges_m)
    rooms = [simulator.sample(index, Request("clean", negative=True)) for index in range(ROOMS)]
    return [frame_of(sample) for sample in drive], [frame_of(sample) for sample in rooms]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run(lambda: [make_node(sys.argv[1])], args=[])
    else:
        print(json.dumps(measure(), indent=2))
