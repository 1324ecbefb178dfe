"""The robot on its fleet's bus: VDA 5050 over MQTT, in a process that holds no key.

    ros2 launch depai_robot fleet.launch.py fleet_config:=/etc/depai/fleet.yaml

Beside robot.launch.py, on the robot; docs/vda5050.md says what it takes and tells.
"""

from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription


def argument(name, text, default=None):
    return DeclareLaunchArgument(name, description=text, default_value=default)


def generate_launch_description():
    return LaunchDescription(
        [
            argument("namespace", "of every node and topic", ""),
            argument("use_sim_time", "take time from /clock", "false"),
            argument("log_level", "debug, info, warn or error", "info"),
            argument("autostart", "configure and activate the node; false under a manager", "true"),
            argument("fleet_config", "the robot's identity and broker on the fleet's bus"),
            Node(
                package="depai_robot",
                executable="fleet_bridge",
                namespace=LaunchConfiguration("namespace"),
                parameters=[
                    {
                        "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
                        "autostart": ParameterValue(LaunchConfiguration("autostart"), value_type=bool),
                        "config": ParameterValue(LaunchConfiguration("fleet_config"), value_type=str),
                    }
                ],
                ros_arguments=["--log-level", LaunchConfiguration("log_level")],
                output="screen",
                respawn=True,
                respawn_delay=2.0,
            ),
        ]
    )
