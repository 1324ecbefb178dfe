"""What the recorder writes is read back by a decoder that knows nothing of us, and equals what was published."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="pip install 'depai_robot[ros]', or source a ROS 2 installation")
pytest.importorskip("mcap_ros2", reason="pip install 'depai_robot[sim]'")

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import PoseStamped, Twist
from mcap.exceptions import EndOfFile
from mcap.reader import NonSeekingReader, make_reader
from mcap_ros2.decoder import DecoderFactory
from nav_msgs.msg import Odometry
from rclpy.serialization import deserialize_message, serialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import BatteryState, CameraInfo, CompressedImage, Image
from std_msgs.msg import Bool, Header, String

from depai_robot.nodes import recorder
from depai_robot.nodes.quality import LATCHED, STATE
from depai_robot.values.error import ConfigError, DeviceFailedError


def read_back(path: Path) -> dict[str, list]:
    """Decoded messages by topic."""
    found: dict[str, list] = {}
    with path.open("rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        assert reader.get_header().profile == "ros2"
        for schema, channel, message, decoded in reader.iter_decoded_messages():
            assert schema.encoding == "ros2msg"
            assert channel.message_encoding == "cdr"
            found.setdefault(channel.topic, []).append((message, decoded))
    return found


def picture(value: int) -> Image:
    """A small rgb8 image of one colour."""
    pixels = np.full((6, 8, 3), (value, 40, 200), np.uint8)
    return Image(
        header=Header(stamp=Time(sec=7), frame_id="camera_optical"),
        height=6, width=8, encoding="rgb8", step=24, data=pixels.tobytes(),
    )  # fmt: skip


def test_every_topic_is_read_back_equal(ros, tmp_path: Path) -> None:
    node = ros.add(recorder.RecorderNode(tmp_path / "sub" / "run.mcap"))
    other = ros.node()
    odometry = Odometry(
        header=Header(stamp=Time(sec=3, nanosec=5), frame_id="odom"), child_frame_id="base_link"
    )
    odometry.pose.pose.position.x, odometry.pose.covariance[7] = 1.25, 0.5
    twist = Twist()
    twist.linear.x, twist.angular.z = 0.3, -0.1
    status = DiagnosticStatus(level=b"\x01", name="detector", values=[KeyValue(key="seen", value="5")])
    sent = {
        "/odom": odometry,
        "/cmd_vel": twist,
        "/battery_state": BatteryState(voltage=25.5, current=-1.5, cell_voltage=[3.3, 3.4]),
        "/charging_contact": Bool(data=True),
        "/detected_dock_pose": PoseStamped(header=Header(frame_id="camera_optical")),
        "/dock_detector/detection": DiagnosticArray(status=[status]),
        "/camera/camera_info": CameraInfo(width=640, height=480, d=[0.1] * 5),
        "/docking/command": String(data="{}"),
        "/docking/state": String(data="{}"),
        "/wallet/phase": String(data="CHARGING ✓"),
        "/diagnostics": DiagnosticArray(status=[status]),
        "/clock": Clock(clock=Time(sec=9)),
    }
    publishers = {
        topic: other.create_publisher(
            type(message), topic, LATCHED if "docking/" in topic or "phase" in topic or "contact" in topic else STATE
        )
        for topic, message in sent.items()
    }  # fmt: skip
    images = other.create_publisher(Image, "/camera/image_raw", 1)
    ros.until(lambda: all(p.get_subscription_count() for p in [*publishers.values(), images]))
    for topic, publisher in publishers.items():
        publisher.publish(sent[topic])
    images.publish(picture(250))
    ros.until(lambda: node.mcap.count >= len(sent) + 1)
    node.close()

    found = read_back(tmp_path / "sub" / "run.mcap")
    jpeg = found.pop("/camera/image_raw/compressed")[0][1]
    assert set(found) == set(sent)
    # Fields one by one: the decoder makes classes of its own.
    assert found["/odom"][0][1].pose.pose.position.x == 1.25
    assert found["/odom"][0][1].pose.covariance[7] == 0.5
    assert found["/odom"][0][1].child_frame_id == "base_link"
    assert found["/cmd_vel"][0][1].angular.z == -0.1
    assert found["/battery_state"][0][1].cell_voltage[0] == pytest.approx(3.3)
    assert found["/diagnostics"][0][1].status[0].values[0].key == "seen"
    assert found["/wallet/phase"][0][1].data == "CHARGING ✓"
    assert found["/clock"][0][1].clock.sec == 9
    # And the bytes are those of the middleware.
    for topic, message in sent.items():
        assert deserialize_message(found[topic][0][0].data, type(message)) == message, topic
    assert (jpeg.header.stamp.sec, jpeg.header.frame_id, jpeg.format) == (7, "camera_optical", "jpeg")
    pixels = cv2.imdecode(np.frombuffer(jpeg.data, np.uint8), cv2.IMREAD_COLOR)
    assert pixels.shape == (6, 8, 3)
    assert abs(int(pixels[2, 2, 2]) - 250) < 6, "red is red"


def test_images_are_thinned_and_strange_ones_left_out(ros, tmp_path: Path) -> None:
    node = ros.add(recorder.RecorderNode(tmp_path / "run.mcap"))
    for value in range(5):
        node._take_picture(serialize_message(picture(value)))
    assert node.mcap.count == 1
    node._next_ns.clear()
    strange = picture(1)
    strange.encoding = "bayer_rggb8"
    node._take_picture(serialize_message(strange))
    assert node.mcap.count == 1


def test_it_stops_at_its_limit(tmp_path: Path) -> None:
    file = recorder.McapFile(tmp_path / "run.mcap", size_max_bytes=300_000)
    channel = file.add_channel("/noise", CompressedImage)
    noise = np.random.default_rng(1).integers(0, 256, 50_000, np.uint8).tobytes()
    message = serialize_message(CompressedImage(data=noise))
    for now_ns in range(50):
        file.write(channel, message, now_ns)
    assert file.full
    file.close()
    assert (tmp_path / "run.mcap").stat().st_size < 600_000
    assert 3 <= len(read_back(tmp_path / "run.mcap")["/noise"]) == file.count < 20


def test_a_full_disk_is_said_once_and_does_not_break_the_end() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is not on this system")
    file = recorder.McapFile(Path("/dev/full"), size_max_bytes=2**30)
    channel = file.add_channel("/phase", String)

    def fill() -> None:
        for now_ns in range(10_000):
            file.write(channel, os.urandom(1000), now_ns)

    with pytest.raises(DeviceFailedError, match="No space left"):
        fill()
    file.write(channel, b"more", 1)
    file.close()


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        recorder.McapFile(tmp_path, 1)


def test_definitions_hold_all_they_are_made_of() -> None:
    text = recorder.full_definition("nav_msgs", "Odometry")
    for part in (
        "std_msgs/Header",
        "geometry_msgs/PoseWithCovariance",
        "geometry_msgs/Quaternion",
        "builtin_interfaces/Time",
    ):
        assert text.count(f"MSG: {part}\n") == 1
    with pytest.raises(ConfigError, match="no_such_msgs"):
        recorder.full_definition("no_such_msgs", "Thing")


@pytest.mark.parametrize(
    ("definition", "kinds"),
    [
        ("uint8 DEBUG=0\nuint8 A = 1\nfloat64[36] covariance\n", []),
        ("std_msgs/Header header # a/b c\nPoint[] points\nstring<=5 name 'x'", ["std_msgs/Header", "Point"]),
        ('string a "x=y"\nwstring<=3[] b\ngeometry_msgs/Pose[<=4] p', ["geometry_msgs/Pose"]),
    ],
)
def test_field_kinds(definition: str, kinds: list[str]) -> None:
    assert recorder.field_kinds(definition) == kinds


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_process_ends_its_file_in_order(ros, tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "run.mcap"
    command = [sys.executable, "-m", "depai_robot.nodes.recorder", "--ros-args", "-p", f"path:={path}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        publisher = ros.node().create_publisher(DiagnosticArray, "/diagnostics", 200)
        ros.until(lambda: publisher.get_subscription_count() == 1, 30)
        # Discovery takes longer on the other side: what is sent before it is over is lost, nothing after it.
        deadline_s, count = time.monotonic() + 30, 0
        while path.stat().st_size < 250_000 and time.monotonic() < deadline_s:
            noise = DiagnosticStatus(name=str(count), message=os.urandom(2000).hex())
            publisher.publish(DiagnosticArray(status=[noise]))
            count += 1
            ros.executor.spin_once(timeout_sec=0.01)
        ros.spin_for(0.5)
        process.send_signal(number)
        _, error = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    if number is signal.SIGKILL:
        with path.open("rb") as file:
            reader = NonSeekingReader(file)
            messages = []
            with pytest.raises(EndOfFile):  # the end is missing, and the reader says so
                messages += (m for _, _, m in reader.iter_messages(log_time_order=False))
        assert len(messages) >= 30
    else:
        assert process.returncode == 0, error
        assert error == b""
        names = [decoded.status[0].name for _, decoded in read_back(path)["/diagnostics"]]
        assert len(names) > 50
        assert names == [str(number) for number in range(count - len(names), count)]
