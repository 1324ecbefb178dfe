"""The embedded simulation: world, camera, base and battery in one process, then the robot on top.

    ros2 launch depai_robot sim.launch.py world_config:=SIM.yaml robot_config:=ROBOT.yaml wallet_config:=WALLET.yaml

`depai-robot demo` does all of it, with a broker, a chain and stations.
"""

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription


def generate_launch_description():
    share = FindPackageShare("depai_robot")
    return LaunchDescription(
        [
            DeclareLaunchArgument("namespace", default_value="", description="of every node and topic"),
            DeclareLaunchArgument("robot_config", description="the robot process's configuration file"),
            DeclareLaunchArgument("wallet_config", description="the wallet's configuration file"),
            DeclareLaunchArgument("world_config", description="the simulation's configuration file"),
            Node(
                package="depai_robot",
                executable="simulation",
                namespace=LaunchConfiguration("namespace"),
                parameters=[{"config": LaunchConfiguration("world_config")}],
                output="screen",
            ),
            IncludeLaunchDescription(
                PathJoinSubstitution([share, "launch", "robot.launch.py"]),
                launch_arguments={
                    "namespace": LaunchConfiguration("namespace"),
                    "robot_config": LaunchConfiguration("robot_config"),
                    "wallet_config": LaunchConfiguration("wallet_config"),
                    "use_sim_time": "true",
                }.items(),
            ),
        ]
    )
