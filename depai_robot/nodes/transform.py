"""Transforms for whoever uses tf2: odom to base_link as it moves, and where the camera sits.

tf2_msgs comes with every ROS installation, but not with the PyPI wheels; without it nothing is published, and our own
nodes miss nothing.
"""

from typing import Any

from builtin_interfaces.msg import Time
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry as OdometryMessage
from rclpy.node import Node

from depai_robot.nodes.quality import LATCHED
from depai_robot.values.geometry import Pose3

try:
    from tf2_msgs.msg import TFMessage
except ImportError:
    TFMessage = None

TF_DEPTH = 100
"""Source: tf2_ros, qos.hpp: DynamicBroadcasterQoS keeps the last 100."""
OPTICAL_XYZW = (-0.5, 0.5, -0.5, 0.5)
"""A level camera that looks along the robot's x axis: its optical frame in the robot's (REP-103)."""


class Transforms:
    """Publishes ``/tf`` and ``/tf_static``; remapped to ``tf`` and ``tf_static`` under a namespace.

    Args:
        node: that publishes.
        camera: in base_link, its optical frame.
        camera_frame: name of that frame.
    """

    def __init__(self, node: Node, camera: Pose3, camera_frame: str) -> None:
        self._moving: Any = None
        if TFMessage is None:
            return
        self._moving = node.create_publisher(TFMessage, "/tf", TF_DEPTH)
        static = node.create_publisher(TFMessage, "/tf_static", LATCHED)
        fixed = TransformStamped()
        fixed.header.stamp = Time()
        fixed.header.frame_id, fixed.child_frame_id = "base_link", camera_frame
        place, turn = fixed.transform.translation, fixed.transform.rotation
        place.x, place.y, place.z = camera.position_m
        turn.x, turn.y, turn.z, turn.w = camera.quaternion_xyzw
        static.publish(TFMessage(transforms=[fixed]))

    def tell(self, odometry: OdometryMessage) -> None:
        """The same pose as the odometry's, for tf2."""
        if self._moving is None:
            return
        moved = TransformStamped(header=odometry.header, child_frame_id=odometry.child_frame_id)
        at, turn = odometry.pose.pose.position, odometry.pose.pose.orientation
        moved.transform.translation.x, moved.transform.translation.y = at.x, at.y
        moved.transform.rotation = turn
        self._moving.publish(TFMessage(transforms=[moved]))
