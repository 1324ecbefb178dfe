"""The robot in Gazebo (gz sim): server, bridge and the charging relay, then the robot on top.

    ros2 launch depai_robot gazebo.launch.py site:=/tmp/depai headless:=true

Chain, broker and stations are those of `depai-robot site`, as in sim.launch.py; the world, the wheels, the camera and
the battery are Gazebo's. docs/gazebo.md says which versions belong together, and what was run.
"""

from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    RegisterEventHandler,
    Shutdown,
)
from launch.event_handlers import OnProcessExit, OnProcessIO
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import IfElseSubstitution, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription

SITE = LaunchConfiguration("site")
SHARE = FindPackageShare("depai_robot")


def argument(name, text, default):
    return DeclareLaunchArgument(name, description=text, default_value=default)


def file(name):
    return PathJoinSubstitution([SITE, name])


def include(package, name, **arguments):
    source = PathJoinSubstitution([FindPackageShare(package), "launch", name])
    return IncludeLaunchDescription(PythonLaunchDescriptionSource(source), launch_arguments=arguments.items())


def gazebo():
    server = IfElseSubstitution(LaunchConfiguration("headless"), "-s -r --headless-rendering ", "-r ")
    return include("ros_gz_sim", "gz_sim.launch.py", gz_args=[server, file("world.sdf")])


def bridge():
    return Node(
        package="ros_gz_bridge",
        executable="parameter_bridge",
        parameters=[{"config_file": PathJoinSubstitution([SHARE, "config", "gazebo_bridge.yaml"])}],
        output="screen",
    )


def relay():
    return Node(
        package="depai_robot",
        executable="gazebo_relay",
        parameters=[{"use_sim_time": True, "config": file("simulation.yaml")}],
        output="screen",
    )


def robot():
    return include(
        "depai_robot",
        "robot.launch.py",
        log_level=LaunchConfiguration("log_level"),
        params_file=file("nodes.yaml"),
        robot_config=file("robot.yaml"),
        wallet_config=file("wallet.yaml"),
        use_sim_time="true",
    )


def generate_launch_description():
    site = ExecuteProcess(
        cmd=["depai-robot", "site", "--out", SITE]
        + [word for name in ("seed", "dishonest") for word in (f"--{name}", LaunchConfiguration(name))],
        output="screen",
        name="site",
    )
    begun = []

    def begin(event):
        """Gazebo and robot, as soon as their files are written."""
        if b"files are in" not in event.text or begun:
            return None
        begun.append(True)
        return [gazebo(), bridge(), relay(), robot()]

    return LaunchDescription(
        [
            argument("log_level", "debug, info, warn or error", "info"),
            argument("site", "folder of the run: files, journals, logs", "depai_site"),
            argument("seed", "of everything random", "1"),
            argument("dishonest", "none, over-meter, no-power, over-claim, bad-signature or vanish", "none"),
            argument("headless", "no window; renders on the GPU, or slowly without", "false"),
            site,
            RegisterEventHandler(OnProcessIO(target_action=site, on_stdout=begin)),
            RegisterEventHandler(
                OnProcessExit(target_action=site, on_exit=[Shutdown(reason="the site ended")])
            ),
        ]
    )
