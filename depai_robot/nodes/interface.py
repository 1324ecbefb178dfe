"""Every topic, service and action of our nodes, as a table: docs/ros_api.md is made from it, tests hold nodes to it."""

from dataclasses import dataclass

PUBLISHES, TAKES, SERVES, ACTS = "publishes", "takes", "serves", "acts"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One of a node's.

    Attributes:
        kind: publishes, takes (a topic), serves (a service), acts (an action).
        name: relative, private with ``~/``, or absolute.
        type: such as ``geometry_msgs/msg/Twist``.
        text: what it says, with units and frames.
        quality: ``state`` (reliable, 10), ``latched`` (reliable, transient local, 1), ``image`` (newest only).
    """

    kind: str
    name: str
    type: str
    text: str
    quality: str = "state"


DIAGNOSTICS = Endpoint(
    PUBLISHES,
    "/diagnostics",
    "diagnostic_msgs/msg/DiagnosticArray",
    "OK, WARN or ERROR with the reason, about once a second",
)
EMERGENCY = Endpoint(
    SERVES, "~/emergency_stop", "std_srvs/srv/SetBool", "true: wheels stop and stay so; false: released", ""
)

INTERFACES: dict[str, tuple[Endpoint, ...]] = {
    "dock_detector": (
        Endpoint(
            TAKES,
            "camera/image_raw",
            "sensor_msgs/msg/Image",
            "rgb8, bgr8 or mono8; the newest is looked at",
            "image",
        ),
        Endpoint(
            TAKES, "camera/camera_info", "sensor_msgs/msg/CameraInfo", "intrinsics and plumb_bob distortion"
        ),
        Endpoint(
            PUBLISHES,
            "detected_dock_pose",
            "geometry_msgs/msg/PoseStamped",
            "of the dock in the camera's optical frame, stamped with the image's time; x into the dock, z up; nothing"
            " when unsure",
        ),
        Endpoint(
            PUBLISHES,
            "~/detection",
            "diagnostic_msgs/msg/DiagnosticArray",
            "with each pose: confidence, standard deviations, sha256 of the model, provider",
        ),
        Endpoint(PUBLISHES, "~/processed", "std_msgs/msg/Header", "of each image that is done with"),
        Endpoint(SERVES, "~/set_enabled", "std_srvs/srv/SetBool", "whether images are looked at", ""),
        DIAGNOSTICS,
    ),
    "docking": (
        Endpoint(TAKES, "odom", "nav_msgs/msg/Odometry", "of base_link in odom, m and rad"),
        Endpoint(TAKES, "detected_dock_pose", "geometry_msgs/msg/PoseStamped", "see dock_detector"),
        Endpoint(TAKES, "charging_contact", "std_msgs/msg/Bool", "whether the pads touch", "latched"),
        Endpoint(
            TAKES, "path_clear", "std_msgs/msg/Bool", "false: stands until it is true (a watch of the way)"
        ),
        Endpoint(
            TAKES,
            "docking/command",
            "std_msgs/msg/String",
            "dock, undock, stop; JSON, of the wallet",
            "latched",
        ),
        Endpoint(
            PUBLISHES,
            "docking/state",
            "std_msgs/msg/String",
            "phase and result of that command; JSON",
            "latched",
        ),
        Endpoint(
            PUBLISHES,
            "cmd_vel",
            "geometry_msgs/msg/Twist",
            "m/s and rad/s with each odometry while it drives; TwistStamped by stamped_cmd_vel; silent otherwise",
        ),
        EMERGENCY,
        DIAGNOSTICS,
    ),
    "object_detector": (
        Endpoint(TAKES, "camera/image_raw", "sensor_msgs/msg/Image", "the newest is looked at", "image"),
        Endpoint(
            PUBLISHES,
            "~/detections",
            "vision_msgs/msg/Detection2DArray",
            "boxes, scores, classes; stamp of the image",
        ),
        Endpoint(
            PUBLISHES,
            "path_clear",
            "std_msgs/msg/Bool",
            "whether nothing of the watched classes is in the way",
        ),
        DIAGNOSTICS,
    ),
    "battery": (
        Endpoint(
            PUBLISHES,
            "battery_state",
            "sensor_msgs/msg/BatteryState",
            "current negative when it discharges, percentage 0..1; UNKNOWN and NaN without a fresh reading; a copy that"
            " authorises nothing",
        ),
        Endpoint(PUBLISHES, "charging_contact", "std_msgs/msg/Bool", "whether the pads touch", "latched"),
        DIAGNOSTICS,
    ),
    "wallet": (
        Endpoint(
            ACTS,
            "~/charge_battery",
            "depai_interfaces/action/Charge",
            "buy a charge within the owner's policy and the goal's own limits",
            "",
        ),
        Endpoint(SERVES, "~/charge", "std_srvs/srv/Trigger", "buy the configured amount", ""),
        Endpoint(
            SERVES,
            "~/stop",
            "std_srvs/srv/Trigger",
            "end the session in order; what was signed is settled",
            "",
        ),
        Endpoint(SERVES, "~/get_budget", "depai_interfaces/srv/GetBudget", "what the policy leaves", ""),
        Endpoint(SERVES, "~/get_policy", "depai_interfaces/srv/GetPolicy", "the policy that is in force", ""),
        Endpoint(
            PUBLISHES,
            "~/session",
            "depai_interfaces/msg/ChargingSession",
            "when something changes",
            "latched",
        ),
        Endpoint(
            PUBLISHES, "~/receipt", "depai_interfaces/msg/ChargingReceipt", "of a finished session", "latched"
        ),
        Endpoint(PUBLISHES, "wallet/phase", "std_msgs/msg/String", "of the wallet's machine", "latched"),
        Endpoint(PUBLISHES, "docking/command", "std_msgs/msg/String", "see docking", "latched"),
        Endpoint(TAKES, "docking/state", "std_msgs/msg/String", "see docking", "latched"),
        Endpoint(
            TAKES, "odom", "nav_msgs/msg/Odometry", "where the robot is ranks offers; it authorises nothing"
        ),
        DIAGNOSTICS,
    ),
    "fleet_bridge": (
        Endpoint(TAKES, "battery_state", "sensor_msgs/msg/BatteryState", "for the fleet's state"),
        Endpoint(TAKES, "odom", "nav_msgs/msg/Odometry", "for the fleet's state"),
        Endpoint(TAKES, "wallet/phase", "std_msgs/msg/String", "for the fleet's state", "latched"),
        Endpoint(
            TAKES,
            "wallet/session",
            "depai_interfaces/msg/ChargingSession",
            "for the fleet's state",
            "latched",
        ),
        Endpoint(
            TAKES,
            "wallet/receipt",
            "depai_interfaces/msg/ChargingReceipt",
            "for the fleet's state",
            "latched",
        ),
    ),
    "hardware": (
        Endpoint(TAKES, "cmd_vel", "geometry_msgs/msg/Twist", "m/s and rad/s; zero after 0.5 s of silence"),
        Endpoint(TAKES, "cmd_vel_stamped", "geometry_msgs/msg/TwistStamped", "the same, for whoever stamps"),
        Endpoint(
            TAKES,
            "emergency_stop",
            "std_msgs/msg/Bool",
            "true: wheels stop on the board and stay so",
            "latched",
        ),
        Endpoint(
            PUBLISHES, "odom", "nav_msgs/msg/Odometry", "by the wheels' counts; silent when the board is"
        ),
        EMERGENCY,
        DIAGNOSTICS,
    ),
    "simulation": (
        Endpoint(PUBLISHES, "/clock", "rosgraph_msgs/msg/Clock", "simulated time, 50 times a second of it"),
        Endpoint(PUBLISHES, "odom", "nav_msgs/msg/Odometry", "of the wheels, with slip and noise"),
        Endpoint(PUBLISHES, "camera/image_raw", "sensor_msgs/msg/Image", "rgb8, rendered", "image"),
        Endpoint(PUBLISHES, "camera/camera_info", "sensor_msgs/msg/CameraInfo", "of that camera"),
        Endpoint(TAKES, "cmd_vel", "geometry_msgs/msg/Twist", "m/s and rad/s; zero after 0.5 s of silence"),
        Endpoint(TAKES, "cmd_vel_stamped", "geometry_msgs/msg/TwistStamped", "the same, for whoever stamps"),
        Endpoint(
            TAKES,
            "dock_detector/processed",
            "std_msgs/msg/Header",
            "simulated time waits for a slow detector",
        ),
        EMERGENCY,
    ),
    "gazebo_relay": (
        Endpoint(TAKES, "cmd_vel", "geometry_msgs/msg/Twist", "m/s and rad/s; zero after 0.5 s of silence"),
        Endpoint(TAKES, "cmd_vel_stamped", "geometry_msgs/msg/TwistStamped", "the same, for whoever stamps"),
        Endpoint(PUBLISHES, "gazebo/cmd_vel", "geometry_msgs/msg/Twist", "within the base's limits"),
        Endpoint(
            TAKES, "gazebo/ground_truth", "nav_msgs/msg/Odometry", "the true pose in the map, for contact"
        ),
        Endpoint(TAKES, "gazebo/battery", "sensor_msgs/msg/BatteryState", "of LinearBatteryPlugin"),
        Endpoint(PUBLISHES, "gazebo/recharge_start", "std_msgs/msg/Bool", "on contact, in a paid session"),
        Endpoint(PUBLISHES, "gazebo/recharge_stop", "std_msgs/msg/Bool", "when either ends"),
        EMERGENCY,
    ),
}

ROBOT_NODES = ("dock_detector", "docking", "object_detector", "battery", "wallet", "fleet_bridge")
TARGETS: dict[str, tuple[str, ...]] = {
    "hardware": (*ROBOT_NODES, "hardware"),
    "embedded": (*ROBOT_NODES, "simulation"),
    "Gazebo": (*ROBOT_NODES, "gazebo_relay"),
}
"""Our nodes by what they run on."""

DRIVERS: tuple[str, ...] = ("camera/image_raw", "camera/camera_info")
"""What a driver of the camera publishes on hardware."""
