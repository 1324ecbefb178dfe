"""The running nodes offer what docs/ros_api.md says: no more, no less."""

import subprocess
import sys

import pytest

pytest.importorskip("rclpy", reason="pip install 'depai_robot[ros]', or source a ROS 2 installation")

import rclpy
import yaml

from depai_robot.docking.machine import DockingSettings
from depai_robot.nodes.battery import BatteryNode
from depai_robot.nodes.dock_detector import DockDetector
from depai_robot.nodes.docking import DockingNode
from depai_robot.nodes.gazebo_relay import GazeboRelay
from depai_robot.nodes.interface import INTERFACES, PUBLISHES, SERVES, TAKES
from depai_robot.nodes.quality import LATCHED, STATE, image_quality
from depai_robot.values.geometry import Pose2
from test.ros.conftest import Ros
from test.ros.test_nodes_lifecycle import Hardware

QUALITIES = {"state": STATE, "latched": LATCHED, "image": image_quality(reliable=True)}
OF_ROS = ("/rosout", "/parameter_events", "transition_event")


def type_name(kind: type) -> str:
    package, where, *_ = kind.__module__.split(".")
    return f"{package}/{where}/{kind.__name__}"


def resolve(node, name: str) -> str:
    if name.startswith("~/"):
        return f"/{node.get_name()}/{name[2:]}"
    return name if name.startswith("/") else f"/{name}"


def compare(node, name: str, ignore: tuple[str, ...] = ()) -> None:
    """Topics with their types and quality, and services, of a configured node."""
    said = {(e.kind, resolve(node, e.name)): e for e in INTERFACES[name] if e.kind != "acts"}
    found = {}
    for kind, entities in ((PUBLISHES, node.publishers), (TAKES, node.subscriptions)):
        for entity in entities:
            topic = node.resolve_topic_name(entity.topic_name)
            if topic.endswith(OF_ROS) or topic in ignore:
                continue
            found[kind, topic] = (type_name(entity.msg_type), entity.qos_profile)
    for service in node.services:
        where = node.resolve_service_name(service.srv_name)
        kind = type_name(service.srv_type)
        if (
            not kind.startswith(("rcl_interfaces", "lifecycle_msgs", "type_description"))
            and "_action" not in where
        ):
            found[SERVES, where] = (kind, None)
    assert set(found) == set(said)
    for key, (kind, quality) in found.items():
        assert said[key].type == kind, key
        if quality is not None:
            wanted = QUALITIES[said[key].quality]
            assert (quality.depth, quality.reliability, quality.durability) == (
                wanted.depth,
                wanted.reliability,
                wanted.durability,
            ), key


def test_the_robots_nodes(ros):
    compare(ros.add(DockDetector(lambda frame: (None, None), model="none")), "dock_detector")
    compare(ros.add(DockingNode(DockingSettings(), (0.2, 0.0, 0.3), Pose2(0, 0, 0))), "docking")
    compare(ros.add(BatteryNode(Hardware(), Hardware())), "battery")


def test_the_gazebo_relay(ros, ros_domain_id, tmp_path):
    file = tmp_path / "simulation.yaml"
    file.write_text(yaml.safe_dump({"robot": "r", "link": str(tmp_path / "link"), "connectors": []}))
    rclpy.try_shutdown()
    rclpy.init(args=["--ros-args", "-p", f"config:={file}"], domain_id=ros_domain_id)
    made = Ros(rclpy.get_default_context())
    try:
        compare(made.add(GazeboRelay()), "gazebo_relay", ignore=("/clock",))
    finally:
        made.close()
        rclpy.try_shutdown()


def test_the_page_is_made_from_the_code():
    done = subprocess.run(
        [sys.executable, "-m", "docs.ros_api", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
