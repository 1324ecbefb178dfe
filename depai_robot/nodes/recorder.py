"""Recorder node: chosen topics into ``run.mcap``, which Foxglove opens.

Messages are stored as the middleware serialises them (CDR) with their ROS definitions, profile ``ros2``. Images are
thinned. The file is finished on SIGTERM and SIGINT; one cut short by a crash is still readable up to its last chunk.
"""

import contextlib
import sys
from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_prefix
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, Twist
from mcap.well_known import MessageEncoding, Profile, SchemaEncoding
from mcap.writer import CompressionType, Writer
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import serialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import BatteryState, CameraInfo, CompressedImage, Image
from std_msgs.msg import Bool, String

from depai_robot.nodes.process import run
from depai_robot.nodes.quality import LATCHED, STATE, image_quality
from depai_robot.values.error import ConfigError

IMAGE_PERIOD_NS = 500_000_000
CLOCK_PERIOD_NS = 100_000_000
JPEG_QUALITY = 80
SEPARATOR = "=" * 80

TOPICS: tuple[tuple[str, Any, QoSProfile], ...] = (
    ("odom", Odometry, STATE),
    ("cmd_vel", Twist, STATE),
    ("battery_state", BatteryState, STATE),
    ("charging_contact", Bool, LATCHED),
    ("detected_dock_pose", PoseStamped, STATE),
    ("camera/camera_info", CameraInfo, STATE),
    ("docking/command", String, LATCHED),
    ("docking/state", String, LATCHED),
    ("wallet/phase", String, LATCHED),
    ("/diagnostics", DiagnosticArray, STATE),
)


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


PRIMITIVES = frozenset(
    "bool byte char float32 float64 int8 uint8 int16 uint16 int32 uint32 int64 uint64 string wstring".split()  # noqa: SIM905
)


def full_definition(package: str, name: str) -> str:
    """A message's definition with those of all it is made of, as the ``ros2msg`` encoding wants it."""
    parts: list[str] = []
    seen: set[tuple[str, str]] = {(package, name)}
    waiting = [(package, name)]
    while waiting:
        here = waiting.pop(0)
        text = find_definition(*here)
        head = "" if not parts else f"{SEPARATOR}\nMSG: {here[0]}/{here[1]}\n"
        parts.append(head + text)
        for raw in text.splitlines():
            line = raw.split("#", 1)[0].strip()
            if not line or "=" in line.split('"', 1)[0].split(" ", 1)[-1]:
                continue
            kind = line.split()[0].split("[", 1)[0].split("<=", 1)[0]
            if kind in PRIMITIVES:
                continue
            child_package, _, child = kind.rpartition("/")
            child_package = child_package.removesuffix("/msg") or here[0]
            if (child_package, child) not in seen:
                seen.add((child_package, child))
                waiting.append((child_package, child))
    return "\n".join(parts)


class RecorderNode(Node):
    """Writes until it is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__("recorder")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb")
        except OSError as error:
            raise ConfigError(f"recorder: {path}: {error.strerror}") from error
        self._writer = Writer(self._file, compression=CompressionType.ZSTD, chunk_size=512 * 1024)
        self._writer.start(profile=Profile.ROS2, library="depai_robot")
        self._schema_by_type: dict[str, int] = {}
        self._last_ns: dict[str, int] = {}
        self.count = 0
        for topic, kind, quality in TOPICS:
            channel = self._channel(self.resolve_topic_name(topic), kind)
            self.create_subscription(kind, topic, lambda m, c=channel: self._write(c, m), quality)
        clock = self._channel("/clock", Clock)
        self.create_subscription(Clock, "/clock", lambda m: self._write_clock(clock, m), 10)
        picture = self._channel(self.resolve_topic_name("camera/image_raw/compressed"), CompressedImage)
        self.create_subscription(
            Image, "camera/image_raw", lambda m: self._write_picture(picture, m), image_quality(reliable=True)
        )

    def _channel(self, topic: str, kind: Any) -> int:
        package, name = kind.__module__.split(".")[0], kind.__name__
        full = f"{package}/msg/{name}"
        if full not in self._schema_by_type:
            self._schema_by_type[full] = self._writer.register_schema(
                name=full, encoding=SchemaEncoding.ROS2, data=full_definition(package, name).encode()
            )
        return self._writer.register_channel(
            topic=topic, message_encoding=MessageEncoding.CDR, schema_id=self._schema_by_type[full]
        )

    def _thin(self, name: str, period_ns: int) -> bool:
        now_ns = int(self.get_clock().now().nanoseconds)
        if 0 <= now_ns - self._last_ns.get(name, -period_ns) < period_ns:
            return False
        self._last_ns[name] = now_ns
        return True

    def _write(self, channel: int, message: Any) -> None:
        now_ns = int(self.get_clock().now().nanoseconds)
        self._writer.add_message(
            channel, log_time=now_ns, data=serialize_message(message), publish_time=now_ns
        )
        self.count += 1

    def _write_clock(self, channel: int, message: Clock) -> None:
        if self._thin("clock", CLOCK_PERIOD_NS):
            self._write(channel, message)

    def _write_picture(self, channel: int, image: Image) -> None:
        if image.encoding != "rgb8" or not self._thin("image", IMAGE_PERIOD_NS):
            return
        import cv2
        import numpy as np

        pixels = np.frombuffer(image.data, dtype=np.uint8).reshape(image.height, image.width, 3)
        ok, data = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if ok:
            picture = CompressedImage(header=image.header, format="jpeg")
            picture.data = data.tobytes()
            self._write(channel, picture)

    def close(self) -> None:
        """Finishes the file."""
        self._writer.finish()
        self._file.close()


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
