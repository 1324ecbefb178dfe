"""The robot: dock detector, docking and battery in one process, the wallet in its own.

    ros2 launch depai_robot robot.launch.py robot_config:=/etc/depai/robot.yaml wallet_config:=/etc/depai/wallet.yaml

The camera and the base are the robot's own drivers (camera/image_raw, camera/camera_info, odom, cmd_vel).
"""

from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription


def node(executable, config, **more):
    return Node(
        package="depai_robot",
        executable=executable,
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            LaunchConfiguration("params_file"),
            {"use_sim_time": LaunchConfiguration("use_sim_time"), "config": LaunchConfiguration(config)},
        ],
        ros_arguments=["--log-level", LaunchConfiguration("log_level")],
        remappings=[("/tf", "tf"), ("/tf_static", "tf_static")],
        output="screen",
        **more,
    )


def generate_launch_description():
    params = PathJoinSubstitution([FindPackageShare("depai_robot"), "config", "robot_params.yaml"])
    return LaunchDescription(
        [
            DeclareLaunchArgument("namespace", default_value="", description="of every node and topic"),
            DeclareLaunchArgument("use_sim_time", default_value="false", description="take time from /clock"),
            DeclareLaunchArgument("params_file", default_value=params, description="parameters of the nodes"),
            DeclareLaunchArgument(
                "log_level", default_value="info", description="debug, info, warn or error"
            ),
            DeclareLaunchArgument("robot_config", description="the robot process's configuration file"),
            DeclareLaunchArgument("wallet_config", description="the wallet's configuration file"),
            node("robot", "robot_config"),
            # A restart is safe: the journal is folded, and everything goes on with the same bytes.
            node("wallet", "wallet_config", respawn=True, respawn_delay=2.0),
        ]
    )
