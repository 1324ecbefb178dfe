"""A charging station's program, which needs no ROS; the launch file is for people who start everything so.

ros2 launch depai_robot station.launch.py config:=/etc/depai/station.yaml
"""

from launch.actions import DeclareLaunchArgument, ExecuteProcess
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription


def generate_launch_description():
    return LaunchDescription(
        [
            DeclareLaunchArgument("config", description="the station's configuration file"),
            ExecuteProcess(
                cmd=["depai-robot", "station", "run", "--config", LaunchConfiguration("config")],
                output="screen",
                respawn=True,
                respawn_delay=2.0,
            ),
        ]
    )
