"""The dock detector node: what comes in and goes out, with a pretend detector between."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="pip install 'depai_robot[ros]', or source a ROS 2 installation")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from std_srvs.srv import SetBool

from depai_robot.app.dock_observer import Health
from depai_robot.nodes.convert import frame_to_image, intrinsics_to_info, stamp_to_ns
from depai_robot.nodes.dock_detector import DockDetector
from depai_robot.nodes.quality import STATE, image_quality
from depai_robot.perception.frame import CameraIntrinsics, Frame
from depai_robot.perception.observation import DockObservation
from depai_robot.values.error import DeviceFailedError
from depai_robot.values.geometry import Pose3

INTRINSICS = CameraIntrinsics(8, 6, 5.0, 5.0, 3.5, 2.5)
POSE = Pose3((0.1, -0.2, 1.5), (0.5, -0.5, 0.5, -0.5))


def observed(frame: Frame) -> tuple[None, DockObservation]:
    """A dock that is always there."""
    return None, DockObservation(frame.stamp_ns, POSE, np.eye(6), 0.9, "ab" * 32)


class Bench:
    """The node under test between a camera and a listener."""

    def __init__(self, ros: Any, observe: Callable[[Frame], Any], **changes: Any) -> None:
        self.ros = ros
        self.node = ros.add(DockDetector(observe, model="ab" * 32, **changes))
        self.other = ros.node()
        self.poses: list[PoseStamped] = []
        self.detections: list[DiagnosticArray] = []
        self.processed: list[int] = []
        self.statuses: list[DiagnosticStatus] = []
        listen = self.other.create_subscription
        listen(PoseStamped, "detected_dock_pose", self.poses.append, STATE)
        listen(DiagnosticArray, "dock_detector/detection", self.detections.append, STATE)
        listen(
            Header,
            "dock_detector/processed",
            lambda header: self.processed.append(stamp_to_ns(header.stamp)),
            STATE,
        )
        listen(DiagnosticArray, "/diagnostics", lambda message: self.statuses.extend(message.status), STATE)
        self.images = self.other.create_publisher(Image, "camera/image_raw", image_quality(reliable=True))
        self.infos = self.other.create_publisher(CameraInfo, "camera/camera_info", STATE)
        ros.until(
            lambda: (
                self.images.get_subscription_count()
                and self.infos.get_subscription_count()
                and all(
                    self.other.count_publishers(topic)
                    for topic in (
                        "/detected_dock_pose",
                        "/dock_detector/detection",
                        "/dock_detector/processed",
                        "/diagnostics",
                    )
                )
            )
        )

    def calibrate(self) -> None:
        self.infos.publish(intrinsics_to_info(INTRINSICS, 0, "camera_optical"))
        self.ros.until(lambda: self.node._intrinsics is not None)

    def show(self, stamp_ns: int, *, encoding: str = "rgb8") -> None:
        frame = Frame(np.zeros((6, 8, 3), np.uint8), stamp_ns, INTRINSICS)
        image = frame_to_image(frame, "camera_optical")
        image.encoding = encoding
        self.images.publish(image)

    def show_and_wait(self, stamp_ns: int, **changes: str) -> None:
        self.show(stamp_ns, **changes)
        self.ros.until(lambda: stamp_ns in self.processed)


def test_a_pose_has_the_stamp_and_frame_of_its_image(ros) -> None:
    bench = Bench(ros, observed)
    bench.calibrate()
    bench.show(12_345_678_901)
    ros.until(lambda: bench.poses)
    (pose,) = bench.poses
    assert stamp_to_ns(pose.header.stamp) == 12_345_678_901
    assert pose.header.frame_id == "camera_optical"
    position, q = pose.pose.position, pose.pose.orientation
    assert (position.x, position.y, position.z) == POSE.position_m
    assert (q.x, q.y, q.z, q.w) == POSE.quaternion_xyzw


def test_a_detection_names_what_made_it_and_how_sure_it_is(ros) -> None:
    bench = Bench(ros, observed, health=lambda: Health((("provider", "CPUExecutionProvider"),)))
    bench.calibrate()
    bench.show(7)
    ros.until(lambda: bench.detections)
    (detection,) = bench.detections
    assert stamp_to_ns(detection.header.stamp) == 7
    values = {v.key: v.value for v in detection.status[0].values}
    assert values["model_sha256"] == "ab" * 32
    assert values["confidence"] == "0.9000"
    assert values["sigma_z_m"] == values["sigma_turn_y_rad"] == "1"
    assert values["provider"] == "CPUExecutionProvider"


def test_a_provider_that_was_refused_is_a_warning(ros) -> None:
    health = Health((("provider", "CPUExecutionProvider"),), "runs on CPUExecutionProvider; CUDA: no driver")
    bench = Bench(ros, observed, health=lambda: health)
    bench.calibrate()
    ros.until(lambda: any("no driver" in s.message for s in bench.statuses))
    status = next(s for s in bench.statuses if "no driver" in s.message)
    assert status.level == DiagnosticStatus.WARN
    assert {v.key: v.value for v in status.values}["provider"] == "CPUExecutionProvider"


def test_nothing_is_published_when_nothing_is_seen(ros) -> None:
    seen: list[int] = []

    def observe(frame: Frame) -> tuple[None, DockObservation | None]:
        seen.append(frame.stamp_ns)
        return observed(frame) if frame.stamp_ns == 1 else (None, None)

    bench = Bench(ros, observe)
    bench.calibrate()
    for stamp_ns in (1, 2, 3):
        bench.show_and_wait(stamp_ns)
    assert seen == [1, 2, 3]
    ros.spin_for(0.2)
    assert [stamp_to_ns(pose.header.stamp) for pose in bench.poses] == [1], "an old pose is not said again"


def test_without_camera_info_no_image_is_looked_at(ros) -> None:
    bench = Bench(ros, observed)
    bench.show_and_wait(5)
    ros.until(lambda: bench.statuses)
    assert bench.poses == []
    assert bench.statuses[-1].level == DiagnosticStatus.WARN
    assert bench.statuses[-1].message == "no camera_info yet"


def test_a_slow_detector_goes_on_with_the_newest_image(ros) -> None:
    seen: list[int] = []
    go_on, working = threading.Event(), threading.Event()

    def observe(frame: Frame) -> tuple[None, DockObservation]:
        seen.append(frame.stamp_ns)
        working.set()
        assert go_on.wait(10)
        return observed(frame)

    bench = Bench(ros, observe)
    bench.calibrate()
    bench.show(1)
    ros.until(working.is_set)
    for stamp_ns in (2, 3, 4):
        bench.show(stamp_ns)
        ros.until(
            lambda wanted=stamp_ns: (
                bench.node._newest and stamp_to_ns(bench.node._newest.header.stamp) == wanted
            )
        )
    go_on.set()
    ros.until(lambda: 4 in bench.processed)
    assert seen == [1, 4]


def test_it_can_be_switched_off_and_on(ros) -> None:
    bench = Bench(ros, observed)
    bench.calibrate()
    client = bench.other.create_client(SetBool, "dock_detector/set_enabled")
    ros.until(client.service_is_ready)

    def ask(on: bool) -> str:
        future = client.call_async(SetBool.Request(data=on))
        ros.until(future.done)
        assert future.result().success
        return str(future.result().message)

    assert ask(False) == "idle"
    bench.show_and_wait(1)
    assert bench.poses == []
    assert ask(True) == "detecting"
    bench.show_and_wait(2)
    ros.until(lambda: bench.poses)
    assert stamp_to_ns(bench.poses[0].header.stamp) == 2


@pytest.mark.parametrize(
    "error", [DeviceFailedError("runtime fell over"), ValueError("a library's surprise")]
)
def test_a_failure_is_shown_and_the_next_image_is_looked_at(ros, error: Exception) -> None:
    def observe(frame: Frame) -> tuple[None, DockObservation]:
        if frame.stamp_ns == 1:
            raise error
        return observed(frame)

    bench = Bench(ros, observe)
    bench.calibrate()
    bench.show_and_wait(1)
    ros.until(lambda: any(s.level == DiagnosticStatus.ERROR for s in bench.statuses))
    status = next(s for s in bench.statuses if s.level == DiagnosticStatus.ERROR)
    assert str(error) in status.message
    assert {v.key: v.value for v in status.values}["frames_failed"] == "1"
    bench.show_and_wait(2)
    ros.until(lambda: bench.poses)
    assert stamp_to_ns(bench.poses[0].header.stamp) == 2
    ros.until(lambda: bench.statuses[-1].level == DiagnosticStatus.OK)


def test_an_unknown_encoding_is_named(ros) -> None:
    bench = Bench(ros, observed)
    bench.calibrate()
    bench.show_and_wait(1, encoding="yuv422")
    ros.until(lambda: bench.statuses and bench.statuses[-1].level == DiagnosticStatus.ERROR)
    assert "yuv422" in bench.statuses[-1].message
    assert bench.poses == []


def test_a_camera_info_that_is_no_good_stops_poses_by_the_old_one(ros) -> None:
    bench = Bench(ros, observed)
    bench.calibrate()
    info = intrinsics_to_info(INTRINSICS, 0, "camera_optical")
    info.distortion_model = "equidistant"
    bench.infos.publish(info)
    ros.until(lambda: bench.node._intrinsics is None)
    bench.show_and_wait(1)
    ros.until(lambda: bench.statuses and "equidistant" in bench.statuses[-1].message)
    assert bench.poses == []
