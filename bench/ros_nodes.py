"""ROS figures of the loop: latencies, callbacks, starved topics, processor, memory. ``python -m bench.ros_nodes``.

The embedded site runs at real time; this process listens as any node would. Times end when a message is in this
process, so each holds one hop between processes besides what it measures. ``in process`` is the same with the robot's
nodes on this process's executor. Callbacks are timed by bench.ros_timed in a session.
"""

import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import rclpy
import yaml
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.srv import GetState
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import BatteryState, Image
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger

from depai_robot.app.demo_plan import DemoPlan
from depai_robot.app.site import Site
from depai_robot.nodes.convert import stamp_to_ns
from depai_robot.nodes.docking_protocol import DockingCommand, decode_state, encode
from depai_robot.nodes.lifecycle import bring_up
from depai_robot.nodes.quality import LATCHED, STATE, image_quality
from depai_robot.nodes.robot import make_nodes, read_config

NODES = ("dock_detector", "docking", "battery", "wallet")
PROCESSES = ("simulation", "robot", "wallet")
IDLE_S = 8.0
START = {"x_m": 1.9, "y_m": 0.2, "yaw_rad": 0.1}
"""1.8 m in front of the only dock, looking at it: poses at the camera's rate, and nothing drives."""
LOOK_S = 15.0
COMMANDS = 100


def percentiles(values_ms: list[float]) -> dict[str, float]:
    """p50, p99 and how many."""
    if not values_ms:
        return {"count": 0}
    ordered = sorted(values_ms)
    return {
        "p50_ms": round(statistics.median(ordered), 2),
        "p99_ms": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 2),
        "count": len(ordered),
    }


class Listener:
    """What any node in the domain hears, with the time when it came."""

    def __init__(self) -> None:
        self.node = Node("bench")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.image_s: dict[int, float] = {}
        self.pose_ms: list[float] = []
        self.done_ms: list[float] = []
        self.battery_s: list[float] = []
        self.battery_ms: list[float] = []
        self.clock_ns = 0
        self.answered = 0
        self.commands = self.node.create_publisher(String, "docking/command", LATCHED)
        self.phase = ""
        listen = self.node.create_subscription
        listen(Image, "camera/image_raw", self._image, image_quality(reliable=True))
        listen(PoseStamped, "detected_dock_pose", self._pose, STATE)
        listen(Header, "dock_detector/processed", self._done, STATE)
        listen(BatteryState, "battery_state", self._battery, STATE)
        listen(Clock, "/clock", lambda message: setattr(self, "clock_ns", stamp_to_ns(message.clock)), 10)
        listen(String, "docking/state", self._answer, LATCHED)
        listen(String, "wallet/phase", lambda message: setattr(self, "phase", message.data), LATCHED)

    def _battery(self, message: BatteryState) -> None:
        self.battery_s.append(time.monotonic())
        # The stamp is the reading's, by the simulated clock, which comes in steps of 20 ms; at real time here.
        self.battery_ms.append((self.clock_ns - stamp_to_ns(message.header.stamp)) / 1e6)

    def _answer(self, message: String) -> None:
        self.answered = max(self.answered, decode_state(message.data).id)

    def command_ms(self, number: int) -> float:
        """From a command's publication to the docking node's answer; every second one takes the first back."""
        verb = "dock" if number % 2 else "stop"
        begun = time.monotonic()
        self.commands.publish(String(data=encode(DockingCommand(number, verb, "d", (3.6, 0.0, 0.0)))))
        if not self.until(lambda: self.answered >= number, 5.0):
            raise RuntimeError(f"command {number} was not answered")
        return 1000 * (time.monotonic() - begun)

    def _image(self, message: Image) -> None:
        self.image_s[stamp_to_ns(message.header.stamp)] = time.monotonic()

    def _since(self, stamp: Any, into: list[float]) -> None:
        came = self.image_s.get(stamp_to_ns(stamp))
        if came is not None:
            into.append(1000 * (time.monotonic() - came))

    def _pose(self, message: PoseStamped) -> None:
        self._since(message.header.stamp, self.pose_ms)

    def _done(self, message: Header) -> None:
        self._since(message.stamp, self.done_ms)

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.05)

    def until(self, condition: Any, timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if condition():
                return True
            self.executor.spin_once(timeout_sec=0.02)
        return False

    def reach(self, phase: str, timeout_s: float) -> None:
        """Raises RuntimeError: figures of another phase than their name says would be worse than none."""
        if not self.until(lambda: self.phase == phase, timeout_s):
            raise RuntimeError(f"the wallet is {self.phase}, expected {phase} within {timeout_s:g} s")

    def call(self, kind: Any, name: str, timeout_s: float = 20.0, **request: Any) -> Any:
        client = self.node.create_client(kind, name)
        if not self.until(client.service_is_ready, timeout_s):
            raise RuntimeError(f"no service {name}")
        future = client.call_async(kind.Request(**request))
        self.until(future.done, timeout_s)
        return future.result()


def usage(site: Site, listener: Listener, seconds: float) -> dict[str, dict[str, float]]:
    """Processor share and memory of each process over a while."""
    parts = {name: psutil.Process(site.process_id(name)) for name in PROCESSES}
    before = {name: sum(process.cpu_times()[:2]) for name, process in parts.items()}
    begun = time.monotonic()
    listener.spin(seconds)
    span = time.monotonic() - begun
    return {
        name: {
            "share_of_a_core_percent": round(100 * (sum(process.cpu_times()[:2]) - before[name]) / span, 1),
            "memory_mib": round(process.memory_info().rss / 2**20, 1),
        }
        for name, process in parts.items()
    }


def gaps(stamps_s: list[float]) -> dict[str, float]:
    """Between two messages."""
    return percentiles([1000 * (b - a) for a, b in itertools.pairwise(stamps_s)])


def measure_hops(*, composed: bool) -> dict[str, Any]:
    """The robot looks at a dock: its nodes in a process of their own, or on this one's executor."""
    with tempfile.TemporaryDirectory(prefix="bench-hops-") as name:
        plan = DemoPlan(folder=Path(name), stations=1, speed_driving=1.0, speed_docked=1.0)
        with Site(plan, lambda step: sys.stderr.write(f"set-up: {step}\n")) as site:
            site._world["start"] = START
            site.open()
            site.start_node("simulation", "simulation")
            while not site.has_link():
                time.sleep(0.05)
            rclpy.init(args=["--ros-args", "-p", "use_sim_time:=true"])
            listener = Listener()
            nodes: list[Any] = []
            try:
                if composed:
                    nodes = make_nodes(read_config(plan.folder / "robot.yaml"))
                    for node in nodes:
                        listener.executor.add_node(node)
                        bring_up(node)
                else:
                    site.start_node("robot", "robot", "use_sim_time:=true")
                if not listener.until(lambda: len(listener.pose_ms) > 20, 60):
                    raise RuntimeError("no poses of the dock")
                listener.pose_ms.clear()
                listener.battery_ms.clear()
                listener.spin(LOOK_S)
                figures = {
                    "image_in_to_pose_out": percentiles(listener.pose_ms),
                    "battery_reading_to_receipt_in_steps_of_20_ms": percentiles(listener.battery_ms),
                }
                commands = [listener.command_ms(number) for number in range(1, COMMANDS + 1)]
                figures["docking_command_to_its_answer"] = percentiles(commands)
            finally:
                for node in [*nodes, listener.node]:
                    getattr(node, "close", lambda: None)()
                    node.destroy_node()
                rclpy.try_shutdown()
    return figures


def buy_nothing_unasked(folder: Path) -> None:
    """Idle is idle: the demo's battery begins below the level at which its wallet buys by itself."""
    path = folder / "wallet.yaml"
    wallet = yaml.safe_load(path.read_text(encoding="utf-8"))
    wallet["charge"]["below_permille"] = 0
    path.write_text(yaml.safe_dump(wallet), encoding="utf-8")


def start_timed(site: Site, name: str, *parameters: str) -> None:
    """As Site.start_node, with every callback timed."""
    folder = site.plan.folder
    arguments = [name, str(folder / f"{name}-callbacks.json"), "--ros-args", "-p"]
    arguments.append(f"config:={folder / f'{name}.yaml'}")
    for parameter in parameters:
        arguments += ["-p", parameter]
    site._supervisor.start_python(name, "bench.ros_timed", *arguments)


def callbacks(folder: Path) -> dict[str, Any]:
    """By node: how long a callback keeps its executor, and its share of a core."""
    figures: dict[str, Any] = {}
    for process in ("robot", "wallet"):
        data = json.loads((folder / f"{process}-callbacks.json").read_text(encoding="utf-8"))
        for node, times_ms in sorted(data["times_ms"].items()):
            share = round(sum(times_ms) / data["seconds"] / 10, 2)
            figures[node] = percentiles(times_ms) | {
                "longest_ms": round(max(times_ms), 2),
                "share_of_the_executor_percent": share,
            }
    return figures


def measure() -> dict[str, Any]:
    """All of it: two minutes and a half."""
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    figures = measure_session()
    figures["in_process"] = measure_hops(composed=True)
    figures["across_processes"] = measure_hops(composed=False)
    return figures


def measure_session() -> dict[str, Any]:
    """A whole session, from the nodes' start to the receipt."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-ros-") as name:
        plan = DemoPlan(
            folder=Path(name), stations=2, speed_driving=1.0, speed_docked=1.0, energy_milliwh=2000
        )
        with Site(plan, lambda step: sys.stderr.write(f"set-up: {step}\n")) as site:
            site.open()
            buy_nothing_unasked(plan.folder)
            site.start_node("simulation", "simulation")
            while not site.has_link():
                time.sleep(0.05)
            site.start_stations()
            rclpy.init()
            listener = Listener()
            begun = time.monotonic()
            start_timed(site, "robot", "use_sim_time:=true")
            start_timed(site, "wallet", "use_sim_time:=true", f"initial_pose:={site.start_pose}")
            for node in NODES:
                while True:
                    state = listener.call(GetState, f"{node}/get_state")
                    if state is not None and state.current_state.label == "active":
                        break
                figures[f"bring_up_to_active_{node}_s"] = round(time.monotonic() - begun, 2)
            listener.reach("IDLE", 30)
            listener.spin(2)
            figures["idle"] = usage(site, listener, IDLE_S)
            listener.battery_s.clear()
            listener.call(Trigger, "wallet/charge")
            listener.reach("FUNDING", 30)
            funding = len(listener.battery_s)
            listener.until(lambda: listener.phase != "FUNDING", 60)
            figures["battery_state_gap_while_the_wallet_waits_for_the_chain"] = gaps(
                listener.battery_s[funding:]
            )
            listener.pose_ms.clear()
            listener.done_ms.clear()
            figures["driving"] = usage(site, listener, IDLE_S)
            listener.reach("CHARGING", 90)
            figures["image_in_to_pose_out"] = percentiles(listener.pose_ms)
            figures["image_in_to_processed"] = percentiles(listener.done_ms)
            figures["charging"] = usage(site, listener, IDLE_S)
            listener.reach("SETTLED", 120)
            figures["battery_state_gap_from_the_request_to_the_receipt"] = gaps(listener.battery_s)
            listener.node.destroy_node()
            rclpy.try_shutdown()
        # The processes have ended in order by now, and have written what they timed.
        figures["callbacks"] = callbacks(plan.folder)
    return figures


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
