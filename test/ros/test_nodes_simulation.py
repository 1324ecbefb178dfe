"""The simulation node: hardware's topics from a MuJoCo world, and the link for what is wired."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="pip install 'depai_robot[ros]', or source a ROS 2 installation")
pytest.importorskip("mujoco", reason="pip install 'depai_robot[sim]'")

from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry as OdometryMessage
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import SetBool

from depai_robot.app.resource import resource_path
from depai_robot.app.story import read_story
from depai_robot.nodes import simulation
from depai_robot.nodes.convert import image_to_frame, info_to_intrinsics, message_to_odometry, stamp_to_ns
from depai_robot.nodes.quality import STATE, image_quality
from depai_robot.nodes.simulation import ConnectorPlace, SimulationConfig, SimulationNode, read_config
from depai_robot.sim.link_hardware import LinkRobotHardware, LinkStationHardware
from depai_robot.values.error import ConfigError, DeviceFailedError


class Bench:
    """The node, and who listens to it and drives."""

    def __init__(self, ros: Any, folder: Path, **changes: Any) -> None:
        self.ros = ros
        config = SimulationConfig(
            robot="r",
            link=str(folder / "link"),
            connectors=[ConnectorPlace("dock_far", "far")],
            ideal=True,
            **{"speed_driving": 5.0, "speed_docked": 20.0, **changes},
        )
        self.link = Path(config.link)
        self.other = ros.node()
        self.clock_ns: list[int] = []
        self.odometry: list[OdometryMessage] = []
        listen = self.other.create_subscription
        listen(ClockMessage, "/clock", lambda message: self.clock_ns.append(stamp_to_ns(message.clock)), 10)
        listen(OdometryMessage, "odom", self.odometry.append, STATE)
        self.velocities = self.other.create_publisher(Twist, "cmd_vel", STATE)
        self.node = ros.add(SimulationNode(config))
        ros.until(lambda: self.odometry and self.clock_ns and self.velocities.get_subscription_count())

    @property
    def x_m(self) -> float:
        return float(self.odometry[-1].pose.pose.position.x)

    def wait_simulated(self, seconds: float) -> None:
        end_ns = self.clock_ns[-1] + int(seconds * 1e9)
        self.ros.until(lambda: self.clock_ns[-1] >= end_ns, 30)

    def drive_until(self, condition: Any) -> None:
        """A command with each new odometry, as whoever drives does.

        One in each turn of the executor would keep it busy with commands alone: both sides share it here.
        """
        twist = Twist()
        twist.linear.x = 0.2
        answered = 0

        def step() -> bool:
            nonlocal answered
            if len(self.odometry) > answered:
                answered = len(self.odometry)
                self.velocities.publish(twist)
            return bool(condition())

        self.ros.until(step, 30)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A socket's path is short, a test's folder need not be."""
    with tempfile.TemporaryDirectory(prefix="sim-") as name:
        yield Path(name)


def test_time_rises_and_a_command_moves_the_robot_until_none_follows(ros, folder: Path) -> None:
    bench = Bench(ros, folder)
    assert bench.x_m == pytest.approx(0.0, abs=0.005), "odometry begins where the robot starts"
    bench.drive_until(lambda: bench.x_m > 0.1)
    bench.wait_simulated(1.5)
    there_m = bench.x_m
    bench.wait_simulated(1.0)
    assert bench.x_m == pytest.approx(there_m, abs=0.002), "the base stops by itself when commands end"
    assert bench.clock_ns == sorted(bench.clock_ns)
    stamps_ns = [stamp_to_ns(message.header.stamp) for message in bench.odometry]
    assert stamps_ns == sorted(set(stamps_ns))
    assert message_to_odometry(bench.odometry[-1]).base_in_odom.yaw_rad == pytest.approx(0.0, abs=0.02)


def test_an_emergency_stop_holds_against_commands(ros, folder: Path) -> None:
    bench = Bench(ros, folder)
    client = bench.other.create_client(SetBool, "simulation/emergency_stop")
    ros.until(client.service_is_ready)
    bench.drive_until(lambda: bench.x_m > 0.05)
    future = client.call_async(SetBool.Request(data=True))
    ros.until(future.done)
    bench.wait_simulated(0.5)
    there_m, end_ns = bench.x_m, bench.clock_ns[-1] + 1_000_000_000
    bench.drive_until(lambda: bench.clock_ns[-1] > end_ns)
    assert bench.x_m == pytest.approx(there_m, abs=0.002)


def test_images_come_with_the_camera_info_of_their_stamp(ros, folder: Path) -> None:
    bench = Bench(ros, folder, camera="auto")
    images: list[Image] = []
    infos: list[CameraInfo] = []
    bench.other.create_subscription(CameraInfo, "camera/camera_info", infos.append, STATE)
    bench.other.create_subscription(Image, "camera/image_raw", images.append, image_quality(reliable=True))
    ros.until(lambda: len(images) >= 2 and infos, 40)
    image = images[0]
    assert image.header.frame_id == "camera_optical"
    assert stamp_to_ns(images[1].header.stamp) > stamp_to_ns(image.header.stamp)
    assert image.header.stamp in [info.header.stamp for info in infos]
    frame = image_to_frame(image, info_to_intrinsics(infos[0]))
    assert frame.image.shape == (480, 640, 3)
    assert np.std(frame.image) > 5, "floor and walls differ"


def test_a_docked_robot_is_charged_over_the_link(ros, folder: Path) -> None:
    world = yaml.safe_load(resource_path("config", "world.yaml").read_text(encoding="utf-8"))
    dock = next(dock for dock in world["docks"] if dock["id"] == "dock_far")
    world["start"] = {"x_m": dock["x_m"] - 0.15 - 0.25, "y_m": dock["y_m"], "yaw_rad": dock["yaw_rad"]}
    (folder / "world.yaml").write_text(yaml.safe_dump(world), encoding="utf-8")
    bench = Bench(ros, folder, world=str(folder / "world.yaml"), story=str(folder / "run"))
    robot = LinkRobotHardware(bench.link, "r", 10)
    station = LinkStationHardware(bench.link, "far", 1, 10)
    try:
        ros.until(lambda: robot.in_contact() and station.present())
        nonce = b"n" * 16
        station.write_probe(nonce)
        ros.until(lambda: robot.read_probe() == nonce)
        before = robot.read()
        station.energise(120.0, 500)
        ros.until(lambda: station.read().energy_milliwh >= 400, 30)
        bench.wait_simulated(10)
        assert 400 <= station.read().energy_milliwh <= 500, "the supply keeps the limit by itself"
        gained = robot.read().pads_energy_milliwh - before.pads_energy_milliwh
        assert gained == pytest.approx(station.read().energy_milliwh, rel=0.1)
    finally:
        station.close()
        robot.close()
        bench.node.close()
    lines = {line.kind: line for line in read_story(folder / "run")}
    assert lines["contact"].data["dock"] == "dock_far"
    assert lines["supply"].data["register_milliwh"] <= 500
    assert lines["speed"].data["docked"] is True
    assert lines["camera"].data["backend"] in ("egl", "osmesa", "rays")
    assert not bench.link.exists()


@pytest.mark.parametrize(("place", "words"), [("__init__", "camera"), ("read", "world")])
def test_a_world_that_falls_over_ends_the_process(
    ros, folder: Path, monkeypatch: pytest.MonkeyPatch, place: str, words: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("libEGL is gone")

    monkeypatch.setattr(simulation.SimulatedCamera, place, fail)
    config = SimulationConfig(robot="r", link=str(folder / "link"), connectors=[])
    ros.node().create_subscription(Image, "camera/image_raw", lambda _: None, image_quality(reliable=True))
    ros.add(SimulationNode(config))
    with pytest.raises(DeviceFailedError, match=f"simulation: {words}: OSError: libEGL is gone"):
        ros.spin_for(10)


def test_a_connector_at_no_dock_is_refused(ros, folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"'dock_moon': the world has \['dock_far', 'dock_near', 'dock_shut'\]"
    ):
        SimulationNode(
            SimulationConfig(
                robot="r", link=str(folder / "link"), connectors=[ConnectorPlace("dock_moon", "far")]
            )
        )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("robot: r\nlink: l\n", "connectors"),
        ("robot: r\nlink: l\nconnectors: []\nspeed_driving: 0\n", "speed_driving"),
        ("robot: r\nlink: l\nconnectors: []\nwarp: 9\n", "warp"),
        ("robot: [", "flow"),
    ],
)
def test_a_wrong_file_is_named_with_its_mistake(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "simulation.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=words) as caught:
        read_config(path)
    assert str(path) in str(caught.value)
    with pytest.raises(ConfigError, match="No such file"):
        read_config(tmp_path / "absent.yaml")
