"""Recorder node: chosen topics into ``run.mcap``, which Foxglove opens.

Messages are stored as the middleware serialised them (CDR) with their ROS definitions, profile ``ros2``. Images are
thinned and kept as JPEG. The file is finished on SIGTERM and SIGINT; of one cut short by a crash everything up to its
last chunk can still be read. The recorder only listens: nothing depends on it, and it stops at a size limit.

Source: MCAP specification and its registry of well-known profiles (mcap.dev).
"""

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from ament_index_python.packages import get_package_prefix
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, Twist, TwistStamped
from mcap.well_known import MessageEncoding, Profile, SchemaEncoding
from mcap.writer import CompressionType, Writer
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import BatteryState, CameraInfo, CompressedImage, Image
from std_msgs.msg import Bool, String

from depai_robot.nodes.process import run
from depai_robot.nodes.quality import LATCHED, image_quality
from depai_robot.values.error import ConfigError, DeviceFailedError

CLOCK_PERIOD_NS = 100_000_000
INFO_PERIOD_NS = 500_000_000
JPEG_QUALITY = 80
CHUNK_BYTES = 128 * 1024
"""What a crash may cost; the file is flushed with every chunk's worth or every ``FLUSH_PERIOD_S``."""
FLUSH_PERIOD_S = 2.0
SEPARATOR = "=" * 80
EVERY = QoSProfile(depth=100, reliability=QoSReliabilityPolicy.RELIABLE)
"""Deep enough for what comes while a picture is compressed or the disk is slow."""
CLOCK = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)
"""As rclpy itself listens to it: whoever publishes, reliable or not, is heard."""


@dataclass(frozen=True, slots=True)
class RecordedTopic:
    """One topic to be recorded as it is.

    Attributes:
        name: relative names follow the node's namespace.
        kind: message class.
        quality: of the subscription.
        period_ns: one message in this time at most, 0 for all.
    """

    name: str
    kind: Any
    quality: QoSProfile
    period_ns: int = 0


def recorded_topics(*, stamped_cmd_vel: bool) -> list[RecordedTopic]:
    """All but the camera's picture, which is thinned and compressed."""
    topics = [
        RecordedTopic("/clock", Clock, CLOCK, CLOCK_PERIOD_NS),
        RecordedTopic("odom", Odometry, EVERY),
        RecordedTopic("cmd_vel", TwistStamped if stamped_cmd_vel else Twist, EVERY),
        RecordedTopic("battery_state", BatteryState, EVERY),
        RecordedTopic("charging_contact", Bool, LATCHED),
        RecordedTopic("detected_dock_pose", PoseStamped, EVERY),
        RecordedTopic("dock_detector/detection", DiagnosticArray, EVERY),
        RecordedTopic("camera/camera_info", CameraInfo, EVERY, INFO_PERIOD_NS),
        RecordedTopic("docking/command", String, LATCHED),
        RecordedTopic("docking/state", String, LATCHED),
        RecordedTopic("wallet/phase", String, LATCHED),
        RecordedTopic("/diagnostics", DiagnosticArray, EVERY),
    ]
    with contextlib.suppress(ImportError):  # not among the wheels; there wherever ROS comes from apt
        from tf2_msgs.msg import TFMessage

        topics += [RecordedTopic("/tf", TFMessage, EVERY), RecordedTopic("/tf_static", TFMessage, LATCHED)]
    return topics


def find_definition(package: str, name: str) -> str:
    """Text of ``share/<package>/msg/<name>.msg``. Raises ConfigError when it is not installed."""
    roots = []
    with contextlib.suppress(LookupError, OSError):  # not set with the wheels
        roots.append(Path(get_package_prefix(package)))
    # The PyPI wheels do not set AMENT_PREFIX_PATH; their files lie below the environment's prefix.
    roots += [Path(sys.prefix), *(Path(entry) for entry in sys.path if entry)]
    for root in roots:
        path = root / "share" / package / "msg" / f"{name}.msg"
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise ConfigError(
        f"recorder: {package}/msg/{name}.msg is not installed: looked below {[str(r) for r in roots]}"
    )


PRIMITIVES: Final = frozenset(
    {
        *("bool", "byte", "char", "float32", "float64", "string", "wstring"),
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    }
)


def field_kinds(definition: str) -> list[str]:
    """Types of a definition's fields that are messages themselves: ``Header``, ``geometry_msgs/Pose``."""
    kinds = []
    for raw in definition.splitlines():
        words = raw.split("#", 1)[0].split()
        # "uint8 DEBUG=0" and "uint8 DEBUG = 0" are constants, and constants are primitives.
        kind = words[0].split("[", 1)[0].split("<=", 1)[0] if words else ""
        if kind and kind not in PRIMITIVES:
            kinds.append(kind)
    return kinds


def full_definition(package: str, name: str) -> str:
    """A message's definition with those of all it is made of, as the ``ros2msg`` encoding wants it.

    Raises:
        ConfigError: a definition is not installed.
    """
    parts: list[str] = []
    seen: set[tuple[str, str]] = {(package, name)}
    waiting = [(package, name)]
    while waiting:
        here = waiting.pop(0)
        text = find_definition(*here)
        parts.append(text if not parts else f"{SEPARATOR}\nMSG: {here[0]}/{here[1]}\n{text}")
        for kind in field_kinds(text):
            child_package, _, child = kind.rpartition("/")
            key = (child_package.removesuffix("/msg") or here[0], child)
            if key not in seen:
                seen.add(key)
                waiting.append(key)
    return "\n".join(parts)


class McapFile:
    """A file of ROS messages that is being written.

    Args:
        path: replaced when it is there.
        size_max_bytes: beyond which nothing more is taken.

    Raises:
        ConfigError: the file can't be opened.
    """

    def __init__(self, path: Path, size_max_bytes: int) -> None:
        self.path, self._size_max_bytes = path, size_max_bytes
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb")
        except OSError as error:
            raise ConfigError(f"recorder: {path}: {error.strerror}") from error
        self._writer = Writer(self._file, compression=CompressionType.ZSTD, chunk_size=CHUNK_BYTES)
        self._writer.start(profile=Profile.ROS2, library="depai_robot")
        self._schema_by_type: dict[str, int] = {}
        self.count = 0
        self.full = self._failed = False

    def add_channel(self, topic: str, kind: Any) -> int:
        """Its number. Raises ConfigError when the message's definition is not installed."""
        package, name = kind.__module__.split(".")[0], kind.__name__
        full = f"{package}/msg/{name}"
        if full not in self._schema_by_type:
            self._schema_by_type[full] = self._writer.register_schema(
                name=full, encoding=SchemaEncoding.ROS2, data=full_definition(package, name).encode()
            )
        return self._writer.register_channel(
            topic=topic, message_encoding=MessageEncoding.CDR, schema_id=self._schema_by_type[full]
        )

    def write(self, channel: int, data: bytes, now_ns: int) -> None:
        """One message. Raises DeviceFailedError when the disk refuses it."""
        if self.full or self._failed:
            return
        with self._disk():
            self._writer.add_message(channel, log_time=now_ns, data=data, publish_time=now_ns)
            self.full = self._file.tell() >= self._size_max_bytes
        self.count += 1

    def flush(self) -> None:
        """What is in whole chunks goes to the system. Raises DeviceFailedError."""
        with self._disk():
            self._file.flush()

    def close(self) -> None:
        """Writes the index and closes. Raises DeviceFailedError; a second call does nothing."""
        if self._file.closed:
            return
        try:
            with self._disk():
                if not self._failed:
                    self._writer.finish()
        finally:
            with contextlib.suppress(OSError):
                self._file.close()

    @contextlib.contextmanager
    def _disk(self) -> Any:
        try:
            yield
        except OSError as error:
            self._failed = True
            raise DeviceFailedError(f"recorder: {self.path}: {error.strerror}") from error


class RecorderNode(Node):
    """Writes until it is closed.

    Args:
        path: of the file.

    Raises:
        ConfigError: the file can't be opened, or a message's definition is not installed.
    """

    def __init__(self, path: Path) -> None:
        super().__init__("recorder")
        self.declare_parameter("image_reliable", value=True)
        self.declare_parameter("image_period_s", value=0.5)
        self.declare_parameter("stamped_cmd_vel", value=False)
        self.declare_parameter("size_max_mib", value=2048)
        size_max_mib, period_s = (
            float(self.get_parameter(name).value) for name in ("size_max_mib", "image_period_s")
        )
        if not size_max_mib > 0 or not period_s >= 0:
            raise ConfigError(
                f"recorder: expected size_max_mib > 0 and image_period_s >= 0, got {size_max_mib}, {period_s}"
            )
        self._image_period_ns = round(period_s * 1e9)
        self._next_ns: dict[int, int] = {}
        self._said_full = False
        self.mcap = McapFile(path, int(size_max_mib * 2**20))
        for topic in recorded_topics(stamped_cmd_vel=bool(self.get_parameter("stamped_cmd_vel").value)):
            channel = self.mcap.add_channel(self.resolve_topic_name(topic.name), topic.kind)
            self.create_subscription(
                topic.kind,
                topic.name,
                lambda data, c=channel, p=topic.period_ns: self._take(c, data, p),
                topic.quality,
                raw=True,  # as it came: nothing is decoded and encoded again
            )
        self._picture = self.mcap.add_channel(
            self.resolve_topic_name("camera/image_raw/compressed"), CompressedImage
        )
        quality = image_quality(reliable=bool(self.get_parameter("image_reliable").value))
        self.create_subscription(Image, "camera/image_raw", self._take_picture, quality, raw=True)
        self.create_timer(FLUSH_PERIOD_S, self.mcap.flush)

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _is_due(self, channel: int, now_ns: int, period_ns: int) -> bool:
        """At most one in a period; a clock that was set back begins anew."""
        next_ns = self._next_ns.get(channel, now_ns)
        if now_ns < next_ns <= now_ns + period_ns:
            return False
        self._next_ns[channel] = now_ns + period_ns
        return True

    def _take(self, channel: int, data: bytes, period_ns: int) -> None:
        now_ns = self._now_ns()
        if not period_ns or self._is_due(channel, now_ns, period_ns):
            self._write(channel, data, now_ns)

    def _take_picture(self, data: bytes) -> None:
        now_ns = self._now_ns()
        if not self._is_due(self._picture, now_ns, self._image_period_ns):
            return
        image = deserialize_message(data, Image)
        if image.encoding != "rgb8" or len(image.data) != image.height * image.width * 3:
            self.get_logger().warning(
                f"not recorded: expected rgb8 without padding, got {image.encoding}, {len(image.data)} bytes for "
                f"{image.width}x{image.height}",
                once=True,
            )
            return
        pixels = np.frombuffer(image.data, dtype=np.uint8).reshape(image.height, image.width, 3)
        ok, jpeg = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if ok:
            picture = CompressedImage(header=image.header, format="jpeg")
            picture.data = jpeg.tobytes()
            self._write(self._picture, serialize_message(picture), now_ns)

    def _write(self, channel: int, data: bytes, now_ns: int) -> None:
        self.mcap.write(channel, bytes(data), now_ns)
        if self.mcap.full and not self._said_full:
            self._said_full = True
            self.get_logger().warning(f"{self.mcap.path} is at size_max_mib: nothing more is recorded")

    def close(self) -> None:
        """Finishes the file."""
        try:
            self.mcap.close()
        except DeviceFailedError as error:
            self.get_logger().error(str(error))


def _make() -> list[Node]:
    probe = Node("recorder_config")
    probe.declare_parameter("path", value="run.mcap")
    path = str(probe.get_parameter("path").value)
    probe.destroy_node()
    return [RecorderNode(Path(path))]


def main() -> None:
    """Entry point."""
    run(_make)


if __name__ == "__main__":
    main()
