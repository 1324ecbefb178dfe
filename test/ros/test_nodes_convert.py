"""Conversions between messages and values lose nothing and refuse what does not fit."""

import math

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="pip install 'depai_robot[ros]', or source a ROS 2 installation")

from sensor_msgs.msg import BatteryState, CameraInfo

from depai_robot.nodes import convert
from depai_robot.perception.frame import CameraIntrinsics, Frame
from depai_robot.ports import BatteryReading, Odometry
from depai_robot.values.error import ConfigError, DeviceFailedError
from depai_robot.values.geometry import Pose2, Pose3

INTRINSICS = CameraIntrinsics(8, 6, 5.0, 5.0, 3.5, 2.5, (0.1, -0.02, 0.001, 0.002, 0.003))


def frame() -> Frame:
    pixels = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    return Frame(pixels, 1_234_567_890_123, INTRINSICS)


def test_image_and_back() -> None:
    image = convert.frame_to_image(frame(), "camera_optical")
    back = convert.image_to_frame(image, INTRINSICS)
    assert np.array_equal(back.image, frame().image)
    assert back.stamp_ns == 1_234_567_890_123
    assert image.header.frame_id == "camera_optical"


def test_bgr_is_turned_and_mono_is_spread() -> None:
    image = convert.frame_to_image(frame(), "c")
    image.encoding = "bgr8"
    assert np.array_equal(convert.image_to_frame(image, INTRINSICS).image, frame().image[:, :, ::-1])
    image.encoding, image.step = "mono8", 8
    image.data = frame().image[:, :, 0].tobytes()
    assert np.array_equal(convert.image_to_frame(image, INTRINSICS).image[:, :, 2], frame().image[:, :, 0])


def test_padded_rows_are_cut() -> None:
    image = convert.frame_to_image(frame(), "c")
    padded = np.zeros((6, 30), dtype=np.uint8)
    padded[:, :24] = frame().image.reshape(6, 24)
    image.step, image.data = 30, padded.tobytes()
    assert np.array_equal(convert.image_to_frame(image, INTRINSICS).image, frame().image)


@pytest.mark.parametrize(
    ("field", "value"), [("encoding", "yuv422"), ("step", 4), ("height", 7), ("width", 9)]
)
def test_wrong_images_are_refused(field: str, value: object) -> None:
    image = convert.frame_to_image(frame(), "c")
    setattr(image, field, value)
    with pytest.raises(ConfigError):
        convert.image_to_frame(image, INTRINSICS)


def test_camera_info_and_back() -> None:
    info = convert.intrinsics_to_info(INTRINSICS, 5, "c")
    assert convert.info_to_intrinsics(info) == INTRINSICS
    info.distortion_model = "equidistant"
    with pytest.raises(ConfigError, match="plumb_bob"):
        convert.info_to_intrinsics(info)
    with pytest.raises(ConfigError, match="focal"):
        convert.info_to_intrinsics(CameraInfo(width=8, height=6))


def test_odometry_and_pose_and_back() -> None:
    odometry = Odometry(7_000_000_001, Pose2(1.0, -2.0, 2.5), 0.3, -0.1)
    back = convert.message_to_odometry(convert.odometry_to_message(odometry, "odom", "base_link"))
    assert back.stamp_ns == odometry.stamp_ns
    assert back.base_in_odom.yaw_rad == pytest.approx(2.5)
    assert (back.linear_mps, back.angular_radps) == (0.3, -0.1)
    pose = Pose3((1.0, 2.0, 3.0), (0.5, -0.5, 0.5, 0.5))
    assert convert.stamped_to_pose3(convert.pose3_to_stamped(pose, 9, "c")) == pose


def test_battery_state_is_coherent_and_unknown_without_a_reading() -> None:
    charging = convert.reading_to_battery_state(BatteryReading(3, 26.0, 4.0, 0.5, 12, 104.0), 0)
    assert charging.power_supply_status == BatteryState.POWER_SUPPLY_STATUS_CHARGING
    assert charging.percentage == 0.5
    assert math.isnan(charging.temperature)
    lost = convert.reading_to_battery_state(None, 99)
    assert lost.power_supply_status == BatteryState.POWER_SUPPLY_STATUS_UNKNOWN
    assert all(math.isnan(v) for v in (lost.voltage, lost.current, lost.percentage))
    assert not lost.current > 0.5  # what Nav2 asks: NaN is on the safe side


@pytest.mark.parametrize(("w", "x_m"), [(0.0, 0.0), (1.1, 0.0), (math.nan, 0.0), (1.0, math.inf)])
def test_odometry_that_is_no_pose_is_refused(w: float, x_m: float) -> None:
    message = convert.odometry_to_message(Odometry(5, Pose2(0.0, 0.0, 0.0), 0.0, 0.0), "odom", "base_link")
    message.pose.pose.orientation.w, message.pose.pose.position.x = w, x_m
    with pytest.raises(DeviceFailedError, match="odometry"):
        convert.message_to_odometry(message)
