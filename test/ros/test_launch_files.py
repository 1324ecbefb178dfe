"""Launch files: conventional arguments, executables and parameters that exist, files that read alike."""

from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy", reason="pip install 'depai_robot[ros]', or source a ROS 2 installation")

from depai_robot.app.resource import resource_path
from depai_robot.nodes.battery import BatteryNode
from depai_robot.nodes.dock_detector import DockDetector
from depai_robot.nodes.docking import DockingNode
from depai_robot.nodes.fleet_bridge import FleetBridgeNode
from depai_robot.nodes.gazebo_relay import GazeboRelay
from depai_robot.nodes.hardware import HardwareNode
from depai_robot.nodes.lifecycle import ManagedNode
from depai_robot.nodes.wallet import WalletNode
from test.launch_stand_in import Said, load

FILES = sorted(resource_path("launch").glob("*.launch.py"))
NODES: dict[str, list[type[ManagedNode]]] = {
    "robot": [DockDetector, DockingNode, BatteryNode],
    "wallet": [WalletNode],
    "hardware": [HardwareNode],
    "gazebo_relay": [GazeboRelay],
    "fleet_bridge": [FleetBridgeNode],
    "simulation": [],
}
EVERYBODYS = {"config", "autostart", "use_sim_time"}


def kind(entity: Said) -> str:
    return type(entity).__name__


def arguments(entities: list[Said]) -> dict[str, Said]:
    return {entity.args[0]: entity for entity in entities if kind(entity) == "DeclareLaunchArgument"}


def test_there_are_the_five():
    assert [path.name for path in FILES] == [
        "fleet.launch.py",
        "gazebo.launch.py",
        "robot.launch.py",
        "sim.launch.py",
        "station.launch.py",
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_argument_says_what_it_is_and_every_one_that_is_used_is_declared(path: Path):
    entities = load(path)
    declared = arguments(entities)
    assert all(len(entity.kwargs["description"]) > 5 for entity in declared.values())
    used: set[str] = set()

    def walk(item: object) -> None:
        if isinstance(item, Said):
            if kind(item) == "LaunchConfiguration":
                used.add(item.args[0])
            walk(item.args)
            walk(item.kwargs)
        elif isinstance(item, dict):
            walk(list(item.items()))
        elif isinstance(item, list | tuple) or type(item).__name__ == "dict_items":
            for part in item:
                walk(part)

    walk(entities)
    assert used == set(declared)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_node_of_ours_is_installed_and_has_the_parameters_that_it_is_given(path: Path):
    for node in (entity for entity in load(path) if kind(entity) == "Node"):
        if node.kwargs["package"] != "depai_robot":
            continue
        name = node.kwargs["executable"]
        script = resource_path("scripts", name)
        assert f"depai_robot.nodes.{name}" in script.read_text(), script
        known = EVERYBODYS.union(*({setting.name for setting in node.settings} for node in NODES[name]))
        for given in node.kwargs["parameters"]:
            if isinstance(given, dict):
                assert set(given) <= known, (name, given)


def test_the_robot_has_the_conventional_arguments_and_comes_up_alone():
    declared = arguments(load(resource_path("launch", "robot.launch.py")))
    conventional = {"namespace", "use_sim_time", "params_file", "log_level", "autostart"}
    assert conventional <= set(declared)
    needed = {name for name, entity in declared.items() if entity.kwargs["default_value"] is None}
    assert needed == {"robot_config", "wallet_config"}


def test_our_serial_drivers_start_only_when_they_are_configured_and_before_who_reads_from_them():
    entities = load(resource_path("launch", "robot.launch.py"))
    assert arguments(entities)["hardware_config"].kwargs["default_value"] == ""
    nodes = {node.kwargs["executable"]: node.kwargs for node in entities if kind(node) == "Node"}
    assert list(nodes) == ["hardware", "robot", "wallet"]
    parts = nodes["hardware"]["condition"].args[0].args[0]
    assert {name: nodes[name].get("condition") for name in ("robot", "wallet")} == dict.fromkeys(
        ("robot", "wallet")
    )
    for value, starts in (("", False), ("/etc/depai/hardware.yaml", True)):
        expression = "".join(part if isinstance(part, str) else value for part in parts)
        assert eval(expression) is starts
    assert nodes["hardware"]["respawn"] is True


@pytest.mark.parametrize("name", ["sim", "gazebo"])
def test_what_is_included_is_given_what_it_needs_and_nothing_else(name):
    entities = load(resource_path("launch", f"{name}.launch.py"))
    declared = arguments(load(resource_path("launch", "robot.launch.py")))
    includes = [entity for entity in entities if kind(entity) == "IncludeLaunchDescription"]
    robots = [item for item in includes if "robot.launch.py" in repr(item.args)]
    assert len(robots) == 1
    given = dict(robots[0].kwargs["launch_arguments"])
    assert set(given) <= set(declared)
    assert {"robot_config", "wallet_config"} <= set(given)
    assert given["use_sim_time"] == "true"


def test_the_parameter_file_names_parameters_that_exist():
    file = yaml.safe_load(resource_path("config", "robot_params.yaml").read_text(encoding="utf-8"))
    by_name = {
        "dock_detector": DockDetector,
        "docking": DockingNode,
        "battery": BatteryNode,
        "wallet": WalletNode,
    }
    for key, entry in file.items():
        node = by_name[key.rpartition("/")[2]]
        known = {setting.name: setting for setting in node.settings}
        for name, value in entry["ros__parameters"].items():
            assert name in known, (key, name)
            assert type(value) is type(known[name].default), (key, name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_real_launch_reads_it(path: Path):
    pytest.importorskip("launch_ros", reason="ros2/launch is on no package registry; it comes with ROS 2")
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    import launch

    source = PythonLaunchDescriptionSource(str(path))
    description = source.get_launch_description(launch.LaunchContext())
    names = {argument.name for argument in description.get_launch_arguments()}
    assert names == set(arguments(load(path)))
