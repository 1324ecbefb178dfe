"""Nav2's docking sequence against our detector and battery node: rendered frames, ONNX, physics, real rclpy."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy", reason="pip install 'depai_robot[ros]', or source a ROS 2 installation")
pytest.importorskip("mujoco", reason="pip install 'depai_robot[sim]'")
pytest.importorskip("onnxruntime", reason="pip install 'depai_robot[onnx]'")

from std_srvs.srv import SetBool

from depai_robot.app.resource import resource_path
from depai_robot.sim.link_hardware import LinkStationHardware
from depai_robot.sim.scene import parse_robot, parse_world
from test.ros.nav2_stand_in import FAILED_CHARGE, FAILED_DETECTION, DockingServer

PARAMETERS = yaml.safe_load(resource_path("config", "nav2_docking.yaml").read_text())["docking_server"][
    "ros__parameters"
]


class Room:
    """World and robot as processes of their own, Nav2's stand-in and a station's supply here."""

    def __init__(self, ros: Any, folder: Path) -> None:
        world = yaml.safe_load(resource_path("config", "world.yaml").read_text())
        world["start"] = {"x_m": 2.35, "y_m": 0.75, "yaw_rad": 0.1}
        link = folder / "link"
        files = {
            "world": world,
            "simulation": {
                "robot": "r",
                "world": str(folder / "world.yaml"),
                "link": str(link),
                "connectors": [{"dock": "dock_far", "station": "far"}],
                "speed_driving": 4.0,
                "speed_docked": 8.0,
                "shadows": False,
            },
            "robot": {"robot": "r", "link": str(link), "initial_pose": [2.35, 0.75, 0.1]},
        }
        for name, tree in files.items():
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree))
        self.processes = []
        self._log = (folder / "log").open("wb")
        for node in ("simulation", "robot"):
            parameters = [
                "-p",
                f"config:={folder / f'{node}.yaml'}",
                "-p",
                f"use_sim_time:={node != 'simulation'}",
            ]
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", f"depai_robot.nodes.{node}", "--ros-args", *parameters],
                    stdout=self._log,
                    stderr=subprocess.STDOUT,
                    env=os.environ | {"OMP_NUM_THREADS": "1"},
                )
            )
        camera = parse_robot(resource_path("config", "robot.yaml").read_text()).camera
        self.ros = ros
        self.server = DockingServer(ros, PARAMETERS, (camera.x_m, camera.z_m))
        ros.until(
            lambda: self.server.odometry and self.server.detected is not None and self.server.now_ns, 40
        )
        self.station = LinkStationHardware(link, "far", 1)

    def give_power_on_contact(self) -> None:
        """What a station does in a session that was agreed and funded before the robot drove."""
        given = []

        def look() -> None:
            if self.station.present() and not given:
                given.append(True)
                self.station.energise(300.0, self.station.read().energy_milliwh + 5000)

        self.server.node.create_timer(0.02, look)

    def close(self) -> None:
        self.station.close()
        for process in reversed(self.processes):
            process.send_signal(signal.SIGINT)
        for process in self.processes:
            assert process.wait(20) == 0
        self._log.close()


@pytest.fixture
def room(ros) -> Iterator[Room]:
    with tempfile.TemporaryDirectory(prefix="nav2-") as name:
        made = Room(ros, Path(name))
        try:
            yield made
        finally:
            made.close()


@pytest.mark.slow
def test_it_docks_charges_and_undocks_once_the_current_has_fallen(room: Room) -> None:
    room.give_power_on_contact()
    assert room.server.dock_robot() == 0
    assert room.server.retries == 0
    assert room.server.charges
    assert room.server.undock_robot() == 905, "not while it charges"
    room.station.deenergise()
    room.ros.until(lambda: not room.server.charges)
    assert room.server.undock_robot() == 0
    room.ros.until(lambda: not room.station.present())


@pytest.mark.slow
def test_without_power_it_tries_again_and_gives_up_with_nav2s_code(room: Room) -> None:
    room.server.parameters = {**PARAMETERS, "wait_charge_timeout": 5.0}
    assert room.server.dock_robot(max_retries=1) == FAILED_CHARGE
    assert room.server.retries == 2


@pytest.mark.slow
def test_a_detector_that_is_switched_off_is_noticed_within_a_second_and_a_cancelled_goal_stands_still(
    room: Room,
) -> None:
    begun = room.server.now_ns
    ends = []

    def look() -> None:
        if not ends and room.server.said and room.server.now_ns - begun > 1e9:
            ends.append(room.server.now_ns)
            room.server.cancelled = True

    timer = room.server.node.create_timer(0.02, look)
    assert room.server.dock_robot() == -1
    assert ends
    assert room.server.said[-1].linear.x == 0.0
    room.server.node.destroy_timer(timer)

    detector = room.server.node.create_client(SetBool, "dock_detector/set_enabled")
    room.ros.until(detector.service_is_ready)
    said_before = len(room.server.said)
    asked: list[Any] = []
    off_ns: list[int] = []

    def switch_off() -> None:
        if not asked and len(room.server.said) > said_before + 5:
            asked.append(detector.call_async(SetBool.Request(data=False)))
            asked[0].add_done_callback(lambda _: off_ns.append(room.server.now_ns))

    timer = room.server.node.create_timer(0.02, switch_off)
    assert room.server.dock_robot(max_retries=0) == FAILED_DETECTION
    assert off_ns, "it drove on detections until then"
    assert room.server.now_ns - off_ns[0] < 3e9
    last = room.server.detected.header.stamp
    assert last.sec + last.nanosec / 1e9 < off_ns[0] / 1e9 + 1, "no pose is said again"


def test_parameters_and_database_are_those_of_the_world() -> None:
    docks = yaml.safe_load(resource_path("config", "nav2_docks.yaml").read_text())["docks"]
    world = parse_world(resource_path("config", "world.yaml").read_text())
    assert set(docks) == {place.id for place in world.docks}
    for place in world.docks:
        entry = docks[place.id]
        assert entry["pose"] == [place.x_m, place.y_m, place.yaw_rad]
        assert entry["type"] in PARAMETERS["dock_plugins"]
        assert entry["id"] == str(place.marker_id)
    dock = PARAMETERS["depai_dock"]
    robot = parse_robot(resource_path("config", "robot.yaml").read_text())
    yaml_dock = yaml.safe_load(resource_path("config", "dock.yaml").read_text())
    contact = yaml_dock["pads"]["x_m"] - robot.pads.x_m
    beyond = dock["external_detection_translation_x"] - contact
    assert 0 < beyond < dock["docking_threshold"], "it pushes onto the pads, and contact counts as docked"
