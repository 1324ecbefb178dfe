"""The robot: dock detector, docking and battery in one process, the wallet in its own.

    ros2 launch depai_robot robot.launch.py namespace:=robot1 wallet_config:=/etc/depai/wallet.yaml

The camera and the base are the robot's own drivers (camera/image_raw, camera/camera_info, odom, cmd_vel).
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare


def generate_launch_description():
    share = FindPackageShare("depai_robot")
    common = {
        "package": "depai_robot",
        "namespace": LaunchConfiguration("namespace"),
        "parameters": [
            LaunchConfiguration("params_file"),
            {"use_sim_time": LaunchConfiguration("use_sim_time")},
        ],
        "arguments": ["--ros-args", "--log-level", LaunchConfiguration("log_level")],
        "remappings": [("/tf", "tf"), ("/tf_static", "tf_static")],
        "output": "screen",
    }
    return LaunchDescription(
        [
            DeclareLaunchArgument("namespace", default_value="", description="of every node and topic"),
            DeclareLaunchArgument("use_sim_time", default_value="false", description="take time from /clock"),
            DeclareLaunchArgument(
                "params_file",
                default_value=PathJoinSubstitution([share, "config", "robot_params.yaml"]),
                description="parameters of the nodes",
            ),
            DeclareLaunchArgument(
                "log_level", default_value="info", description="debug, info, warn or error"
            ),
            DeclareLaunchArgument("wallet_config", description="the wallet's configuration file"),
            Node(executable="robot", **common),
            Node(
                executable="wallet",
                **{
                    **common,
                    "parameters": [*common["parameters"], {"config": LaunchConfiguration("wallet_config")}],
                },
                respawn=True,  # a restart is safe: the journal is folded and everything goes on
                respawn_delay=2.0,
            ),
        ]
    )
