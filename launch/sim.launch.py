"""The whole loop in the embedded simulation: chain, broker and stations, the world, then the robot on top.

    ros2 launch depai_robot sim.launch.py site:=/tmp/depai seed:=7 dishonest:=over-meter

`depai-robot demo` does the same without ROS's launch, and audits the receipt at the end.

Two robots side by side, in two terminals (the second has a world, stations and keys of its own, on the first's broker
and chain):

    ros2 launch depai_robot sim.launch.py namespace:=robot_1 site:=/tmp/one
    ros2 launch depai_robot sim.launch.py namespace:=robot_2 site:=/tmp/two robot:=rover-2 join:=/tmp/one

Each world has a time of its own, so the clock is below the namespace, as the transforms are: /robot_1/clock.
"""

from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    GroupAction,
    IncludeLaunchDescription,
    RegisterEventHandler,
    Shutdown,
)
from launch.event_handlers import OnProcessExit, OnProcessIO
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node, SetRemap
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription

SITE = LaunchConfiguration("site")


def argument(name, text, default):
    return DeclareLaunchArgument(name, description=text, default_value=default)


def file(name):
    return PathJoinSubstitution([SITE, name])


def robot():
    return IncludeLaunchDescription(
        PythonLaunchDescriptionSource(
            PathJoinSubstitution([FindPackageShare("depai_robot"), "launch", "robot.launch.py"])
        ),
        launch_arguments={
            "namespace": LaunchConfiguration("namespace"),
            "log_level": LaunchConfiguration("log_level"),
            "params_file": file("nodes.yaml"),
            "robot_config": file("robot.yaml"),
            "wallet_config": file("wallet.yaml"),
            "use_sim_time": "true",
        }.items(),
    )


def world():
    return Node(
        package="depai_robot",
        executable="simulation",
        namespace=LaunchConfiguration("namespace"),
        parameters=[{"config": file("simulation.yaml")}],
        output="screen",
    )


def generate_launch_description():
    options = ("seed", "stations", "dishonest", "speed", "camera", "robot", "join")
    site = ExecuteProcess(
        cmd=["depai-robot", "site", "--out", SITE]
        + [word for name in options for word in (f"--{name}", LaunchConfiguration(name))],
        output="screen",
        name="site",
    )
    begun = []

    def begin(event):
        """World and robot, as soon as their files are written."""
        if b"files are in" not in event.text or begun:
            return None
        begun.append(True)
        below_the_namespace = [SetRemap(f"/{name}", name) for name in ("clock", "tf", "tf_static")]
        return [GroupAction([*below_the_namespace, world(), robot()])]

    return LaunchDescription(
        [
            argument("namespace", "of every node and topic", ""),
            argument("log_level", "debug, info, warn or error", "info"),
            argument("site", "folder of the run: files, journals, logs", "depai_site"),
            argument("seed", "of everything random", "1"),
            argument("stations", "how many", "3"),
            argument("dishonest", "none, over-meter, no-power, over-claim, bad-signature or vanish", "none"),
            argument("speed", "times real time, where the machine keeps up", "1.0"),
            argument("robot", "its id", "rover-1"),
            argument(
                "join", "site folder of a first robot, whose broker and chain are used; empty: its own", ""
            ),
            argument("camera", "auto, egl, osmesa or rays", "auto"),
            site,
            RegisterEventHandler(OnProcessIO(target_action=site, on_stdout=begin)),
            RegisterEventHandler(
                OnProcessExit(target_action=site, on_exit=[Shutdown(reason="the site ended")])
            ),
        ]
    )
