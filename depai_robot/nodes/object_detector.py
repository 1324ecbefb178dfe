"""Object detector node: any detector with a card, camera images in, boxes out; and whether the robot's way is clear.

Subscribes ``camera/image_raw``; publishes ``~/detections`` (vision_msgs/Detection2DArray, with the image's stamp and
frame) where vision_msgs is installed, and ``path_clear`` (Bool) ten times a second, which pauses docking when
something of the card's chosen classes stands in the way, or when no image came for a while. Inference runs on a thread
of its own, always on the newest image.

    object_detector --ros-args -p card:=/etc/depai_robot/person/card.yaml -p stops:=person
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import Bool, Header

from depai_robot.adapters.onnx_objects import OnnxObjectDetector
from depai_robot.adapters.onnx_session import RuntimeSettings
from depai_robot.nodes.convert import image_to_frame, stamp_to_ns
from depai_robot.nodes.lifecycle import ManagedNode, Setting
from depai_robot.nodes.process import run
from depai_robot.nodes.quality import STATE, image_quality
from depai_robot.perception.frame import CameraIntrinsics, Frame
from depai_robot.perception.objects import SeenObject
from depai_robot.perception.way import WaySettings, WayState, is_clear, is_in_way, look
from depai_robot.values.error import ConfigError, DepaiError

PERIOD_S = 0.1


class ObjectFinder(Protocol):
    """What the node runs: an OnnxObjectDetector, or anything like it."""

    @property
    def model_sha256(self) -> str:
        """Of the model."""

    @property
    def provider(self) -> str:
        """That runs it."""

    @property
    def refusals(self) -> tuple[str, ...]:
        """Why others do not."""

    def detect(self, frame: Frame) -> tuple[SeenObject, ...]:
        """Objects in a frame. Raises DeviceFailedError."""


def objects_to_message(objects: Sequence[SeenObject], header: Header, messages: Any) -> Any:
    """vision_msgs/Detection2DArray.

    Args:
        objects: seen.
        header: of the image.
        messages: the module ``vision_msgs.msg``.
    """
    array = messages.Detection2DArray(header=header)
    for seen in objects:
        detection = messages.Detection2D(header=header)
        box = detection.bbox
        box.center.position.x = (seen.left_px + seen.right_px) / 2
        box.center.position.y = (seen.top_px + seen.bottom_px) / 2
        box.size_x, box.size_y = seen.right_px - seen.left_px, seen.bottom_px - seen.top_px
        result = messages.ObjectHypothesisWithPose()
        result.hypothesis.class_id, result.hypothesis.score = seen.name, seen.score
        detection.results.append(result)
        array.detections.append(detection)
    return array


def find_vision_messages() -> Any:
    """The module ``vision_msgs.msg``, or None where it is not installed."""
    try:
        import vision_msgs.msg  # type: ignore[import-not-found]
    except ImportError:
        return None
    return vision_msgs.msg


class ObjectDetectorNode(ManagedNode):
    """Runs a detector on each image that arrives while the last one is done."""

    settings: ClassVar[tuple[Setting, ...]] = (
        Setting("card", "", "card.yaml of the detector, beside its model"),
        Setting(
            "providers", "cpu", "tensorrt, cuda, cpu or onnxruntime's own names, with commas, tried in order"
        ),
        Setting("threads", 1, "of one inference", 1, 64),
        Setting("image_reliable", True, "false when the camera driver publishes best effort"),
        Setting("stops", "", "classes that pause docking, with commas; empty: path_clear is not published"),
        Setting("corridor_share", 0.6, "middle share of the image's width that counts as the way", 0.01, 1.0),
        Setting("height_share_min", 0.25, "lower boxes are far away, share of the image's height", 0.0, 1.0),
        Setting("score_min", 0.4, "less is not believed", 0.0, 1.0),
        Setting("clear_s", 1.0, "the way must look clear for so long, s", 0.0, 59.0),
        Setting("stale_s", 1.0, "without an image for so long the way is not clear, s", 0.05, 59.0),
    )

    def __init__(self, make: Callable[[Path, RuntimeSettings], ObjectFinder] | None = None) -> None:
        super().__init__("object_detector")
        self._make = make or (lambda card, settings: OnnxObjectDetector(card, settings=settings))
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None

    def set_up(self) -> None:
        """See ManagedNode."""
        card = str(self.value("card"))
        if not card:
            raise ConfigError("object_detector: the parameter card must name a detector's card.yaml")
        providers = tuple(name.strip() for name in str(self.value("providers")).split(",") if name.strip())
        self._finder = self._make(
            Path(card), RuntimeSettings(providers=providers, threads=int(self.value("threads")))
        )
        names = tuple(name.strip() for name in str(self.value("stops")).split(",") if name.strip())
        shares = {
            name: float(self.value(name)) for name in ("corridor_share", "height_share_min", "score_min")
        }
        times = {name: float(self.value(name)) for name in ("clear_s", "stale_s")}
        self._way_settings = WaySettings(names=names, **shares, **times) if names else None
        self._way = WayState()
        self._newest: Image | None = None
        self._closing = False
        self._seen = self._failed = 0
        self._error = ""
        self._messages = find_vision_messages()
        self._arrays = None
        if self._messages is not None:
            self._arrays = self.create_output(self._messages.Detection2DArray, "~/detections", STATE)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", STATE)
        reliable = bool(self.value("image_reliable"))
        self.create_subscription(
            Image, "camera/image_raw", self._take_image, image_quality(reliable=reliable)
        )
        if self._way_settings is not None:
            self._clear = self.create_publisher(Bool, "path_clear", STATE)
            self.create_timer(PERIOD_S, self._say_way)
        self.create_timer(1.0, self._report)
        self._thread = threading.Thread(target=self._work, name="objects", daemon=True)
        self._thread.start()

    def pause(self) -> None:
        """An inactive watch does not let anybody drive."""
        with self._condition:
            self._newest = None
            self._way = WayState()

    def tear_down(self) -> None:
        """Ends the inference thread."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        with self._condition:
            self._closing = True
            self._condition.notify()
        thread.join(timeout=5.0)

    def _take_image(self, image: Image) -> None:
        if not self.is_active:
            return
        with self._condition:
            self._newest = image
            self._condition.notify()

    def _work(self) -> None:
        while True:
            with self._condition:
                while self._newest is None and not self._closing:
                    self._condition.wait()
                if self._closing:
                    return
                image, self._newest = self._newest, None
            if image is not None:
                self._look(image)

    def _look(self, image: Image) -> None:
        self._seen += 1
        try:
            # Boxes are in pixels: where the lens looks does not matter.
            lens = CameraIntrinsics(max(image.width, 1), max(image.height, 1), 1.0, 1.0, 0.0, 0.0)
            objects = self._finder.detect(image_to_frame(image, lens))
            self._error = ""
        except DepaiError as error:
            self._failed += 1
            self._error = str(error)
            return  # the way stays as it was seen last, and grows stale
        except Exception as error:  # noqa: BLE001
            # A library's surprise costs one image; without this thread nothing would be watched.
            self._failed += 1
            self._error = f"{type(error).__name__}: {error}"
            return
        if not self.is_active:
            return
        if self._arrays is not None:
            self._arrays.publish(objects_to_message(objects, image.header, self._messages))
        if self._way_settings is not None:
            blocked = is_in_way(objects, image.width, image.height, self._way_settings)
            with self._condition:
                self._way = look(self._way, blocked=blocked, stamp_ns=stamp_to_ns(image.header.stamp))

    def _say_way(self) -> None:
        if self._way_settings is None:
            return
        now_ns = int(self.get_clock().now().nanoseconds)
        with self._condition:
            clear = self.is_active and is_clear(self._way, now_ns, self._way_settings)
        self._clear.publish(Bool(data=clear))

    def _report(self) -> None:
        status = DiagnosticStatus(name=self.status_name("object_detector"), hardware_id="camera")
        refusals = "; ".join(self._finder.refusals)
        if self._error:
            status.level, status.message = DiagnosticStatus.ERROR, self._error
        elif refusals:
            status.level, status.message = (
                DiagnosticStatus.WARN,
                f"runs on {self._finder.provider}; {refusals}",
            )
        elif self._arrays is None and self._way_settings is None:
            status.level = DiagnosticStatus.WARN
            status.message = "vision_msgs is not installed and stops is empty: nobody hears what is seen"
        else:
            status.level, status.message = DiagnosticStatus.OK, "detecting" if self.is_active else "idle"
        values = {
            "model_sha256": self._finder.model_sha256,
            "provider": self._finder.provider,
            "images": str(self._seen),
            "images_failed": str(self._failed),
        }
        status.values = [KeyValue(key=key, value=value) for key, value in values.items()]
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


def _make() -> list[Node]:
    return [ObjectDetectorNode()]


def main() -> None:
    """Entry point."""
    run(_make)


if __name__ == "__main__":
    main()
