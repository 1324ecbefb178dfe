"""The robot: dock detector, docking and battery in one process, the wallet in its own.

    ros2 launch depai_robot robot.launch.py robot_config:=/etc/depai/robot.yaml wallet_config:=/etc/depai/wallet.yaml

The camera is the robot's own driver (camera/image_raw, camera/camera_info). So are battery, pads and base (odom,
cmd_vel), unless hardware_config:=/etc/depai/hardware.yaml starts ours, whose socket robot and wallet read from.

The nodes are lifecycle nodes that bring themselves up; with autostart:=false a lifecycle manager does (bond_timeout:
0.0, for they are Python). Two robots side by side: start this file twice, with two namespaces and two sets of files.
"""

from launch.actions import DeclareLaunchArgument
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution, PythonExpression
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription


def argument(name, text, default=None):
    return DeclareLaunchArgument(name, description=text, default_value=default)


def node(executable, config, **more):
    return Node(
        package="depai_robot",
        executable=executable,
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            LaunchConfiguration("params_file"),
            {
                "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
                "autostart": ParameterValue(LaunchConfiguration("autostart"), value_type=bool),
                "config": ParameterValue(LaunchConfiguration(config), value_type=str),
            },
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
            argument("namespace", "of every node and topic", ""),
            argument("use_sim_time", "take time from /clock", "false"),
            argument("params_file", "parameters of the nodes", params),
            argument("log_level", "debug, info, warn or error", "info"),
            argument("autostart", "configure and activate the nodes; false under a manager", "true"),
            argument("robot_config", "the robot process's configuration file"),
            argument("wallet_config", "the wallet's configuration file"),
            argument("hardware_config", "hardware.yaml of our serial drivers; empty for other drivers", ""),
            # The ports' only owner. After a fault it opens them anew; meanwhile the wheels stand and nobody pays.
            node(
                "hardware",
                "hardware_config",
                condition=IfCondition(
                    PythonExpression(["'", LaunchConfiguration("hardware_config"), "' != ''"])
                ),
                respawn=True,
                respawn_delay=2.0,
            ),
            # The robot's process has no memory to lose: after a fault it starts anew and stands still.
            node("robot", "robot_config", respawn=True, respawn_delay=2.0),
            # Nor has the wallet outside its journal, which is folded, and everything goes on with the same bytes.
            node("wallet", "wallet_config", respawn=True, respawn_delay=2.0),
        ]
    )
