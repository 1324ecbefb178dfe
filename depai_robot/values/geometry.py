"""Poses and velocities. SI units, right-handed; x forward, y left, z up (REP-103).

Optical frames are the exception: z forward, x right, y down. Names say the frame: ``dock_in_camera`` is the
pose of the dock in the camera's frame.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from depai_robot.values.error import BugError

Vector3 = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]


def wrap_angle_rad(angle_rad: float) -> float:
    """The same angle in (-pi, pi]."""
    wrapped = math.remainder(angle_rad, math.tau)
    return math.pi if wrapped == -math.pi else wrapped


@dataclass(frozen=True, slots=True)
class Pose2:
    """A pose in the plane.

    Attributes:
        x_m: along the parent frame's x axis.
        y_m: along the parent frame's y axis.
        yaw_rad: rotation about z, counter-clockwise.
    """

    x_m: float
    y_m: float
    yaw_rad: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(v) for v in (self.x_m, self.y_m, self.yaw_rad)):
            raise BugError(f"a pose must be finite, got {self.x_m}, {self.y_m}, {self.yaw_rad}")

    def compose(self, child: "Pose2") -> "Pose2":
        """``a_in_world.compose(b_in_a)`` is b in the world."""
        cos, sin = math.cos(self.yaw_rad), math.sin(self.yaw_rad)
        return Pose2(
            self.x_m + cos * child.x_m - sin * child.y_m,
            self.y_m + sin * child.x_m + cos * child.y_m,
            wrap_angle_rad(self.yaw_rad + child.yaw_rad),
        )

    def inverse(self) -> "Pose2":
        """``a_in_b.inverse()`` is b in a."""
        cos, sin = math.cos(self.yaw_rad), math.sin(self.yaw_rad)
        return Pose2(
            -cos * self.x_m - sin * self.y_m, sin * self.x_m - cos * self.y_m, wrap_angle_rad(-self.yaw_rad)
        )

    def distance_m(self, other: "Pose2") -> float:
        """Straight-line distance between the two origins."""
        return math.hypot(self.x_m - other.x_m, self.y_m - other.y_m)


@dataclass(frozen=True, slots=True)
class Pose3:
    """A pose in space.

    Attributes:
        position_m: of the child's origin in the parent frame.
        quaternion_xyzw: rotation of child axes into the parent frame, unit length within 1e-6.
    """

    position_m: Vector3
    quaternion_xyzw: Quaternion

    def __post_init__(self) -> None:
        if not all(math.isfinite(v) for v in (*self.position_m, *self.quaternion_xyzw)):
            raise BugError(f"a pose must be finite, got {self.position_m}, {self.quaternion_xyzw}")
        norm = math.sqrt(sum(q * q for q in self.quaternion_xyzw))
        if abs(norm - 1.0) > 1e-6:
            raise BugError(f"a rotation quaternion has length 1, got {norm}")

    @staticmethod
    def from_matrix(rotation: NDArray[np.float64], position_m: Vector3) -> "Pose3":
        """From a (3, 3) rotation matrix whose columns are the child's axes in the parent frame."""
        return Pose3(position_m, matrix_to_quaternion_xyzw(rotation))

    def rotation(self) -> NDArray[np.float64]:
        """(3, 3) float64 rotation matrix, child to parent."""
        x, y, z, w = self.quaternion_xyzw
        return np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )

    def compose(self, child: "Pose3") -> "Pose3":
        """``a_in_world.compose(b_in_a)`` is b in the world."""
        rotation = self.rotation()
        position = rotation @ np.array(child.position_m) + np.array(self.position_m)
        return Pose3.from_matrix(
            rotation @ child.rotation(), (float(position[0]), float(position[1]), float(position[2]))
        )

    def inverse(self) -> "Pose3":
        """``a_in_b.inverse()`` is b in a."""
        rotation = self.rotation().T
        position = -(rotation @ np.array(self.position_m))
        return Pose3.from_matrix(rotation, (float(position[0]), float(position[1]), float(position[2])))

    def to_pose2(self) -> Pose2:
        """Its shadow on the x-y plane of the parent frame; yaw is that of the child's x axis."""
        rotation = self.rotation()
        return Pose2(
            self.position_m[0], self.position_m[1], math.atan2(float(rotation[1, 0]), float(rotation[0, 0]))
        )


def matrix_to_quaternion_xyzw(rotation: NDArray[np.float64]) -> Quaternion:
    """Quaternion of a (3, 3) rotation matrix, w >= 0.

    Source: S. W. Shepperd, "Quaternion from rotation matrix", Journal of Guidance and Control 1(3), 1978.
    """
    m = rotation
    trace = float(m[0, 0] + m[1, 1] + m[2, 2])
    choice = int(np.argmax([m[0, 0], m[1, 1], m[2, 2], trace]))
    q = [0.0, 0.0, 0.0, 0.0]
    if choice == 3:
        q = [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], 1 + trace]
    else:
        i, j, k = choice, (choice + 1) % 3, (choice + 2) % 3
        q[i] = 1 - trace + 2 * m[i, i]
        q[j] = m[j, i] + m[i, j]
        q[k] = m[k, i] + m[i, k]
        q[3] = m[k, j] - m[j, k]
    norm = math.sqrt(sum(float(v) ** 2 for v in q))
    sign = -1.0 if q[3] < 0 else 1.0
    return (
        sign * float(q[0]) / norm,
        sign * float(q[1]) / norm,
        sign * float(q[2]) / norm,
        sign * float(q[3]) / norm,
    )


@dataclass(frozen=True, slots=True)
class DriveCommand:
    """A differential-drive velocity in the robot's base frame.

    Attributes:
        linear_mps: forward speed.
        angular_radps: turn rate, counter-clockwise.
    """

    linear_mps: float
    angular_radps: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.linear_mps) and math.isfinite(self.angular_radps)):
            raise BugError(f"a drive command must be finite, got {self.linear_mps}, {self.angular_radps}")


STOP = DriveCommand(0.0, 0.0)
