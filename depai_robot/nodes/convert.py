"""Between ROS messages and our values. Pure; imports message classes only."""

import math

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped, Quaternion
from nav_msgs.msg import Odometry as OdometryMessage
from sensor_msgs.msg import BatteryState, CameraInfo, Image

from depai_robot.perception.frame import CameraIntrinsics, Frame
from depai_robot.ports import BatteryReading, Odometry
from depai_robot.values.error import ConfigError, DeviceFailedError
from depai_robot.values.geometry import Pose2, Pose3, matrix_to_quaternion_xyzw

NS_PER_S = 1_000_000_000


def stamp_to_ns(stamp: Time) -> int:
    """Nanoseconds of a builtin_interfaces/Time."""
    return int(stamp.sec) * NS_PER_S + int(stamp.nanosec)


def ns_to_stamp(stamp_ns: int) -> Time:
    """builtin_interfaces/Time of nanoseconds."""
    return Time(sec=stamp_ns // NS_PER_S, nanosec=stamp_ns % NS_PER_S)


def yaw_to_quaternion(yaw_rad: float) -> Quaternion:
    """Rotation about z."""
    return Quaternion(x=0.0, y=0.0, z=math.sin(yaw_rad / 2), w=math.cos(yaw_rad / 2))


def quaternion_to_yaw(q: Quaternion) -> float:
    """Yaw of a rotation whose x axis lies near the x-y plane."""
    return math.atan2(2 * (q.w * q.z + q.x * q.y), 1 - 2 * (q.y * q.y + q.z * q.z))


def frame_to_image(frame: Frame, frame_id: str) -> Image:
    """sensor_msgs/Image, rgb8."""
    image = Image()
    image.header.stamp = ns_to_stamp(frame.stamp_ns)
    image.header.frame_id = frame_id
    image.height, image.width = frame.image.shape[:2]
    image.encoding = "rgb8"
    image.step = int(image.width) * 3
    image.data = frame.image.tobytes()
    return image


def image_to_frame(image: Image, intrinsics: CameraIntrinsics) -> Frame:
    """Our Frame of an rgb8, bgr8 or mono8 image.

    Raises:
        ConfigError: another encoding, or sizes that do not fit together.
    """
    channels = {"rgb8": 3, "bgr8": 3, "mono8": 1}.get(image.encoding)
    if channels is None:
        raise ConfigError(f"camera image must be rgb8, bgr8 or mono8, got {image.encoding!r}")
    if image.step < image.width * channels or len(image.data) < image.step * image.height:
        raise ConfigError(
            f"camera image of {image.width} x {image.height} {image.encoding} has step {image.step} "
            f"and {len(image.data)} bytes: too few"
        )
    rows = np.frombuffer(image.data, dtype=np.uint8)[: image.step * image.height].reshape(
        image.height, image.step
    )
    pixels = rows[:, : image.width * channels].reshape(image.height, image.width, channels)
    if image.encoding == "bgr8":
        pixels = pixels[:, :, ::-1]
    elif image.encoding == "mono8":
        pixels = np.repeat(pixels, 3, axis=2)
    return Frame(np.ascontiguousarray(pixels), stamp_to_ns(image.header.stamp), intrinsics)


def intrinsics_to_info(intrinsics: CameraIntrinsics, stamp_ns: int, frame_id: str) -> CameraInfo:
    """sensor_msgs/CameraInfo with the plumb_bob model."""
    info = CameraInfo()
    info.header.stamp = ns_to_stamp(stamp_ns)
    info.header.frame_id = frame_id
    info.width, info.height = intrinsics.width_px, intrinsics.height_px
    info.distortion_model = "plumb_bob"
    info.d = list(intrinsics.distortion)
    info.k = [float(v) for v in intrinsics.matrix().reshape(-1)]
    info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    fx, fy, cx, cy = intrinsics.fx_px, intrinsics.fy_px, intrinsics.cx_px, intrinsics.cy_px
    info.p = [fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return info


def info_to_intrinsics(info: CameraInfo) -> CameraIntrinsics:
    """Our intrinsics of a plumb_bob camera.

    Raises:
        ConfigError: another distortion model, or an uncalibrated camera (k is zero).
    """
    if info.distortion_model not in ("", "plumb_bob"):
        raise ConfigError(f"camera_info must use the plumb_bob model, got {info.distortion_model!r}")
    d = [float(v) for v in info.d][:5] + [0.0] * 5
    return CameraIntrinsics(
        int(info.width),
        int(info.height),
        float(info.k[0]),
        float(info.k[4]),
        float(info.k[2]),
        float(info.k[5]),
        (d[0], d[1], d[2], d[3], d[4]),
    )


def pose3_to_stamped(pose: Pose3, stamp_ns: int, frame_id: str) -> PoseStamped:
    """geometry_msgs/PoseStamped."""
    message = PoseStamped()
    message.header.stamp = ns_to_stamp(stamp_ns)
    message.header.frame_id = frame_id
    message.pose.position.x, message.pose.position.y, message.pose.position.z = pose.position_m
    q = message.pose.orientation
    q.x, q.y, q.z, q.w = pose.quaternion_xyzw
    return message


def stamped_to_pose3(message: PoseStamped) -> Pose3:
    """Our Pose3; the quaternion is normalised. Raises BugError when it is not finite or is zero."""
    p, q = message.pose.position, message.pose.orientation
    norm = math.sqrt(q.x * q.x + q.y * q.y + q.z * q.z + q.w * q.w) or math.nan
    return Pose3((p.x, p.y, p.z), (q.x / norm, q.y / norm, q.z / norm, q.w / norm))


def odometry_to_message(odometry: Odometry, frame_id: str, child_frame_id: str) -> OdometryMessage:
    """nav_msgs/Odometry."""
    message = OdometryMessage()
    message.header.stamp = ns_to_stamp(odometry.stamp_ns)
    message.header.frame_id = frame_id
    message.child_frame_id = child_frame_id
    message.pose.pose.position.x = odometry.base_in_odom.x_m
    message.pose.pose.position.y = odometry.base_in_odom.y_m
    message.pose.pose.orientation = yaw_to_quaternion(odometry.base_in_odom.yaw_rad)
    message.twist.twist.linear.x = odometry.linear_mps
    message.twist.twist.angular.z = odometry.angular_radps
    return message


SQUARE_TOLERANCE = 0.01
"""Of a unit quaternion's square. Source: QUATERNION_NORMALIZATION_TOLERANCE in tf2's buffer_core.cpp."""


def message_to_odometry(message: OdometryMessage) -> Odometry:
    """Our Odometry.

    Raises:
        DeviceFailedError: a number that is not finite, or an orientation that is no rotation.
    """
    p, q = message.pose.pose.position, message.pose.pose.orientation
    twist = message.twist.twist
    if not all(math.isfinite(v) for v in (p.x, p.y, q.x, q.y, q.z, q.w, twist.linear.x, twist.angular.z)):
        raise DeviceFailedError(
            f"odometry must be finite, got position ({p.x}, {p.y}), orientation ({q.x}, {q.y}, {q.z}, {q.w}), "
            f"speed {twist.linear.x}, turn {twist.angular.z}"
        )
    square = q.x * q.x + q.y * q.y + q.z * q.z + q.w * q.w
    if abs(square - 1) > SQUARE_TOLERANCE:
        raise DeviceFailedError(f"odometry's orientation must be a unit quaternion, got |q|^2 = {square:g}")
    return Odometry(
        stamp_to_ns(message.header.stamp),
        Pose2(p.x, p.y, quaternion_to_yaw(q)),
        twist.linear.x,
        twist.angular.z,
    )


CHARGING_CURRENT_MIN_A = 0.05
"""Below this a battery neither charges nor discharges, as Nav2's docking server judges before it undocks."""


def reading_to_battery_state(reading: BatteryReading | None, stamp_ns: int) -> BatteryState:
    """sensor_msgs/BatteryState; unmeasured fields are NaN, and without a reading everything is UNKNOWN."""
    state = BatteryState()
    state.header.stamp = ns_to_stamp(stamp_ns if reading is None else reading.stamp_ns)
    for name in ("voltage", "temperature", "current", "charge", "capacity", "design_capacity", "percentage"):
        setattr(state, name, math.nan)
    state.power_supply_status = BatteryState.POWER_SUPPLY_STATUS_UNKNOWN
    state.power_supply_health = BatteryState.POWER_SUPPLY_HEALTH_UNKNOWN
    state.power_supply_technology = BatteryState.POWER_SUPPLY_TECHNOLOGY_UNKNOWN
    if reading is None:
        return state
    state.present = True
    state.voltage = reading.voltage_v
    state.current = reading.current_a
    state.percentage = reading.state_of_charge
    if reading.current_a > CHARGING_CURRENT_MIN_A:
        state.power_supply_status = BatteryState.POWER_SUPPLY_STATUS_CHARGING
    elif reading.current_a < -CHARGING_CURRENT_MIN_A:
        state.power_supply_status = BatteryState.POWER_SUPPLY_STATUS_DISCHARGING
    else:
        state.power_supply_status = BatteryState.POWER_SUPPLY_STATUS_NOT_CHARGING
    return state


OPTICAL_IN_CAMERA = matrix_to_quaternion_xyzw(np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]))
"""An optical frame (z forward, x right, y down) in a body frame (x forward, y left, z up); REP-103."""
