"""Object detector node with a real model, and the docking node that it pauses."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="pip install 'depai_robot[ros]', or source a ROS 2 installation")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from sensor_msgs.msg import Image
from std_msgs.msg import Bool, Header

from depai_robot.nodes.convert import frame_to_image, ns_to_stamp
from depai_robot.nodes.lifecycle import bring_up
from depai_robot.nodes.object_detector import ObjectDetectorNode, find_vision_messages, objects_to_message
from depai_robot.nodes.quality import STATE, image_quality
from depai_robot.perception.frame import CameraIntrinsics, Frame
from depai_robot.perception.objects import SeenObject
from depai_robot.values.error import ConfigError, DeviceFailedError
from test.ros.conftest import Ros

BOXES = Path(__file__).parents[1] / "data" / "objects" / "boxes.onnx"
CARD = """
version: 1
name: boxes
model: boxes.onnx
sha256: {sha256}
input: {{name: image, width_px: 64, height_px: 64}}
output: {{form: boxes, boxes: boxes, scores: scores, classes: classes}}
classes: [person, cart]
"""


class Bench:
    """The node under test between a camera and listeners."""

    def __init__(self, ros: Ros, make: Any = None) -> None:
        self.ros = ros
        self.node = ros.add(ObjectDetectorNode(make))
        self.other = ros.node()
        self.clear: list[bool] = []
        self.statuses: list[DiagnosticStatus] = []
        self.other.create_subscription(
            Bool, "path_clear", lambda message: self.clear.append(message.data), STATE
        )
        self.other.create_subscription(
            DiagnosticArray, "/diagnostics", lambda message: self.statuses.extend(message.status), STATE
        )
        self.images = self.other.create_publisher(Image, "camera/image_raw", image_quality(reliable=True))
        ros.until(self.images.get_subscription_count)

    def show(self, grey: int) -> None:
        """A picture of one brightness: white has a person in the left half, black has nobody."""
        now_ns = self.other.get_clock().now().nanoseconds
        frame = Frame(
            np.full((64, 64, 3), grey, np.uint8), now_ns, CameraIntrinsics(64, 64, 1.0, 1.0, 0.0, 0.0)
        )
        self.images.publish(frame_to_image(frame, "camera_optical"))

    def show_until(self, grey: int, condition: Any) -> None:
        def shown() -> bool:
            self.show(grey)
            self.ros.spin_for(0.05)
            return bool(condition())

        self.ros.until(shown)


@pytest.fixture
def card(tmp_path: Path) -> Path:
    (tmp_path / "boxes.onnx").write_bytes(BOXES.read_bytes())
    path = tmp_path / "card.yaml"
    path.write_text(CARD.format(sha256=hashlib.sha256(BOXES.read_bytes()).hexdigest()), encoding="utf-8")
    return path


@pytest.fixture
def watching(ros_domain_id: int, card: Path) -> Iterator[Ros]:
    """A context whose nodes take the card and pause for people."""
    settings = {"card": card, "stops": "person", "clear_s": 0.2, "stale_s": 0.5}
    arguments = [word for name, value in settings.items() for word in ("-p", f"{name}:={value}")]
    rclpy.init(args=["--ros-args", *arguments], domain_id=ros_domain_id)
    ros = Ros(rclpy.get_default_context())
    try:
        yield ros
    finally:
        ros.close()
        rclpy.try_shutdown()


def test_a_person_in_the_way_is_said_and_an_empty_way_after_a_while(watching: Ros) -> None:
    bench = Bench(watching)
    watching.until(lambda: bench.clear)
    assert bench.clear[-1] is False, "nothing was seen yet"
    bench.show_until(0, lambda: bench.clear[-1])
    bench.show_until(255, lambda: not bench.clear[-1])
    bench.show_until(0, lambda: bench.clear[-1])
    # The camera falls silent: what was clear is not for ever.
    watching.until(lambda: not bench.clear[-1])


def test_the_diagnostics_name_model_and_provider(watching: Ros) -> None:
    bench = Bench(watching)
    bench.show(0)
    watching.until(lambda: bench.statuses and bench.statuses[-1].name == "object_detector")
    values = {v.key: v.value for v in bench.statuses[-1].values}
    assert values["model_sha256"] == hashlib.sha256(BOXES.read_bytes()).hexdigest()
    assert values["provider"] == "CPUExecutionProvider"


def test_a_detector_that_fails_is_an_error_and_the_way_is_not_clear(watching: Ros) -> None:
    class Broken:
        model_sha256, provider, refusals = "ab" * 32, "CPUExecutionProvider", ()
        works = True

        def detect(self, frame: Frame) -> tuple[SeenObject, ...]:
            if not self.works:
                raise DeviceFailedError("device lost")
            return ()

    broken = Broken()
    bench = Bench(watching, lambda card, settings: broken)
    watching.until(lambda: bench.clear)
    bench.show_until(0, lambda: bench.clear[-1])
    broken.works = False
    bench.show_until(0, lambda: not bench.clear[-1])
    watching.until(lambda: any(s.level == DiagnosticStatus.ERROR for s in bench.statuses))
    assert any("device lost" in s.message for s in bench.statuses)


def test_without_a_card_it_does_not_start(ros: Ros) -> None:
    node = ObjectDetectorNode()
    try:
        with pytest.raises(ConfigError, match="the parameter card must name"):
            bring_up(node)
    finally:
        node.destroy_node()


# --- vision_msgs --------------------------------------------------------------------------------------------


@dataclass
class Point:
    x: float = 0.0
    y: float = 0.0


@dataclass
class Pose:
    position: Point = field(default_factory=Point)
    theta: float = 0.0


@dataclass
class Box:
    center: Pose = field(default_factory=Pose)
    size_x: float = 0.0
    size_y: float = 0.0


@dataclass
class Hypothesis:
    class_id: str = ""
    score: float = 0.0


@dataclass
class HypothesisWithPose:
    hypothesis: Hypothesis = field(default_factory=Hypothesis)


@dataclass
class Detection:
    header: Header = field(default_factory=Header)
    results: list[Any] = field(default_factory=list)
    bbox: Box = field(default_factory=Box)
    id: str = ""


@dataclass
class DetectionArray:
    header: Header = field(default_factory=Header)
    detections: list[Any] = field(default_factory=list)


class StandIn:
    """vision_msgs.msg of version 4, the fields that are used. Source: ros-perception/vision_msgs, msg/."""

    Detection2DArray, Detection2D, ObjectHypothesisWithPose = DetectionArray, Detection, HypothesisWithPose


SEEN = (SeenObject("person", 0.75, 10.0, 20.0, 30.0, 60.0), SeenObject("cart", 0.5, 0.0, 0.0, 8.0, 4.0))


@pytest.mark.parametrize("real", [False, True], ids=["stand-in", "installed_vision_msgs"])
def test_boxes_become_a_detection_array(real: bool) -> None:
    messages: Any = find_vision_messages() if real else StandIn
    if messages is None:
        pytest.skip("vision_msgs is on no package registry")
    header = Header(stamp=ns_to_stamp(12_000_000_034), frame_id="camera_optical")
    array = objects_to_message(SEEN, header, messages)
    assert array.header == header
    person, cart = array.detections
    assert person.header == header
    assert (person.bbox.center.position.x, person.bbox.center.position.y) == (20.0, 40.0)
    assert (person.bbox.size_x, person.bbox.size_y) == (20.0, 40.0)
    assert [(r.hypothesis.class_id, r.hypothesis.score) for r in person.results] == [("person", 0.75)]
    assert cart.results[0].hypothesis.class_id == "cart"
