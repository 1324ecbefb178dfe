"""Two embedded robots side by side: one domain, broker and chain, two worlds; nothing of one reaches the other."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy", reason="pip install 'depai_robot[ros]', or source a ROS 2 installation")
pytest.importorskip("mujoco", reason="pip install 'depai_robot[sim]'")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from rosgraph_msgs.msg import Clock

from depai_robot.adapters.anvil import find_anvil
from depai_robot.app.demo_plan import DemoPlan
from depai_robot.app.site import Site
from depai_robot.nodes.convert import stamp_to_ns
from depai_robot.nodes.quality import STATE
from depai_robot.payment.receipt import parse_receipt
from depai_robot.values.error import ConfigError
from test.ros.conftest import Ros, take_domain

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(find_anvil() is None, reason="no anvil: depai-robot setup chain"),
]

SHARED = {"/diagnostics", "/parameter_events", "/rosout"}
"""By ROS's own convention; every other topic of a robot is below its namespace, the clock of its world too."""
MINIMUM = {"/clock", "/odom", "/camera/image_raw"}
START = {"x_m": 1.9, "y_m": 0.2, "yaw_rad": 0.1}
"""1.8 m in front of the dock, looking at it."""
ENERGY_MILLIWH = 700
TIMEOUT_S = 150.0


def make_plan(folder: Path, name: str, robot: str, join: Path | None = None) -> DemoPlan:
    (folder / name).mkdir(exist_ok=True)
    return DemoPlan(
        folder=folder / name,
        stations=1,
        speed_driving=4.0,
        speed_docked=3.0,
        energy_milliwh=ENERGY_MILLIWH,
        robot=robot,
        namespace=name,
        join=join,
    )


class Robot:
    """One of the two: its processes, and what is heard of it."""

    def __init__(self, ros: Ros, plan: DemoPlan) -> None:
        self.ros, self.plan, self.site = ros, plan, Site(plan, lambda step: None)
        self.site._world["start"] = START
        self.clock_ns: list[int] = []
        self.poses: list[PoseStamped] = []
        node = ros.node(f"listener_{plan.namespace}")
        name = plan.namespace
        node.create_subscription(Clock, f"/{name}/clock", self._take_clock, 10)
        node.create_subscription(PoseStamped, f"/{name}/detected_dock_pose", self.poses.append, STATE)

    def _take_clock(self, message: Clock) -> None:
        self.clock_ns.append(stamp_to_ns(message.clock))

    def open(self) -> None:
        self.site.open()
        self.site.start_node("simulation", "simulation")

    def start(self) -> None:
        self.ros.until(self.site.has_link, 40)
        self.site.start_stations()
        self.site.start_node("robot", "robot", "use_sim_time:=true")
        self.site.start_node(
            "wallet", "wallet", "use_sim_time:=true", f"initial_pose:={self.site.start_pose}"
        )

    def receipts(self) -> list[Path]:
        self.site.check_processes()
        return sorted(self.plan.folder.glob("receipt-*.json"))


@pytest.fixture
def ros() -> Iterator[Ros]:
    """In a domain of its own: what earlier tests of this process left lingers in the graph of theirs."""
    with take_domain() as domain:
        rclpy.init(domain_id=domain)
        made = Ros(rclpy.get_default_context())
        try:
            yield made
        finally:
            made.close()
            rclpy.try_shutdown()


@pytest.fixture
def robots(ros: Ros, tmp_path: Path) -> Iterator[list[Robot]]:
    first = Robot(ros, make_plan(tmp_path, "robot_1", "rover-1"))
    second = Robot(ros, make_plan(tmp_path, "robot_2", "rover-2", join=tmp_path / "robot_1"))
    with first.site, second.site:  # the second ends first: broker and chain are the first's
        for robot in (first, second):
            robot.open()
        for robot in (first, second):
            robot.start()
        yield [first, second]


def below(names: set[str], namespace: str) -> set[str]:
    return {name.removeprefix(f"/{namespace}") for name in names if name.startswith(f"/{namespace}/")}


def outsiders(watcher: Any, names: set[str]) -> set[tuple[str, str]]:
    """Topics of one robot that a node of another namespace writes or reads; a node's name may come after its topics."""
    found = set()
    for name in names:
        for info in (
            *watcher.get_publishers_info_by_topic(name),
            *watcher.get_subscriptions_info_by_topic(name),
        ):
            place = info.node_namespace
            if place != "/" + name.split("/")[1] and not info.node_name.startswith("listener_"):
                found.add((name, place))
    return found


def test_each_finds_its_own_dock_and_pays_its_own_station(
    robots: list[Robot], tmp_path: Path, ros: Ros
) -> None:
    first, second = robots
    told: set[str] = set()

    def take_diagnostics(message: DiagnosticArray) -> None:
        told.update(status.name for status in message.status)

    watcher = ros.node("watcher")
    watcher.create_subscription(DiagnosticArray, "/diagnostics", take_diagnostics, STATE)
    ros.until(lambda: first.poses and second.poses, 60)

    # What two robots may not share is refused, while both go about their business.
    with Site(first.plan, print) as site, pytest.raises(ConfigError, match="in use by another run"):
        site.open()
    third = make_plan(tmp_path, "robot_3", "rover-2", join=tmp_path / "robot_1")
    with Site(third, print) as site, pytest.raises(ConfigError, match="rover-2, too; give this one another"):
        site.open()

    def see() -> set[str]:
        return {name for name, _ in watcher.get_topic_names_and_types()}

    # Discovery takes its time.
    ros.until(lambda: below(see(), "robot_1") == below(see(), "robot_2") > MINIMUM, 40)
    names = see()
    ours = {name for name in names if not name.startswith(("/robot_1/", "/robot_2/"))}
    assert ours <= SHARED
    ros.until(lambda: not outsiders(watcher, names - SHARED), 20)
    nodes = [f"{space}/{name}" for name, space in watcher.get_node_names_and_namespaces()]
    assert len(nodes) == len(set(nodes))

    deadline_s = time.monotonic() + TIMEOUT_S
    while not (first.receipts() and second.receipts()):
        assert time.monotonic() < deadline_s, [robot.site.link for robot in robots]
        ros.spin_for(0.2)
    stations = set()
    for robot in robots:
        assert robot.clock_ns == sorted(robot.clock_ns), "one world's clock reached the other's topic"
        (path,) = robot.receipts()
        receipt = parse_receipt(path.read_bytes())
        assert receipt.robot == robot.plan.robot
        assert receipt.station == robot.site.stations[0].id
        assert 0 < receipt.robot_energy_milliwh <= ENERGY_MILLIWH + 300
        assert receipt.claimed_atomic == receipt.owed_atomic > 0
        assert receipt.fault == ""
        stations.add(receipt.station)
        wallet = yaml.safe_load((robot.plan.folder / "wallet.yaml").read_text())
        assert wallet["robot"] == robot.plan.robot
    assert len(stations) == 2
    assert {"robot_1/wallet", "robot_2/wallet", "robot_1/battery", "robot_2/battery"} <= told
    assert {f"{robot.plan.namespace}/dock_detector" for robot in robots} <= told
    assert first.site.keys["voucher"].address != second.site.keys["voucher"].address
