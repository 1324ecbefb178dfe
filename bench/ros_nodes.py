"""ROS figures of the loop in processes: latencies, starved topics, processor, memory. ``python -m bench.ros_nodes``.

The embedded site runs at real time; this process listens as any node would. Times end when a message is in this
process, so each holds one hop between processes besides what it measures.
"""

import itertools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import rclpy
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.srv import GetState
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import BatteryState, Image
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger

from depai_robot.app.demo_plan import DemoPlan
from depai_robot.app.site import Site
from depai_robot.nodes.acceptance import start_wallet
from depai_robot.nodes.convert import stamp_to_ns
from depai_robot.nodes.quality import LATCHED, STATE, image_quality

NODES = ("dock_detector", "docking", "battery", "wallet")
PROCESSES = ("simulation", "robot", "wallet")
IDLE_S = 8.0


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
        self.phase = ""
        listen = self.node.create_subscription
        listen(Image, "camera/image_raw", self._image, image_quality(reliable=True))
        listen(PoseStamped, "detected_dock_pose", self._pose, STATE)
        listen(Header, "dock_detector/processed", self._done, STATE)
        listen(BatteryState, "battery_state", lambda _: self.battery_s.append(time.monotonic()), STATE)
        listen(String, "wallet/phase", lambda message: setattr(self, "phase", message.data), LATCHED)

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

    def call(self, kind: Any, name: str, timeout_s: float = 20.0) -> Any:
        client = self.node.create_client(kind, name)
        if not self.until(client.service_is_ready, timeout_s):
            raise RuntimeError(f"no service {name}")
        future = client.call_async(kind.Request())
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


def measure() -> dict[str, Any]:
    """All of it: a minute and a half."""
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-ros-") as name:
        plan = DemoPlan(
            folder=Path(name), stations=2, speed_driving=1.0, speed_docked=1.0, energy_milliwh=2000
        )
        with Site(plan, lambda step: sys.stderr.write(f"set-up: {step}\n")) as site:
            site.open()
            site.start_node("simulation", "simulation")
            while not site.has_link():
                time.sleep(0.05)
            site.start_stations()
            rclpy.init()
            listener = Listener()
            begun = time.monotonic()
            site.start_node("robot", "robot", "use_sim_time:=true")
            start_wallet(site)
            for node in NODES:
                while True:
                    state = listener.call(GetState, f"{node}/get_state")
                    if state is not None and state.current_state.label == "active":
                        break
                figures[f"bring_up_to_active_{node}_s"] = round(time.monotonic() - begun, 2)
            listener.until(lambda: listener.phase == "IDLE", 30)
            listener.spin(2)
            figures["idle"] = usage(site, listener, IDLE_S)
            listener.battery_s.clear()
            listener.call(Trigger, "wallet/charge")
            listener.until(lambda: listener.phase == "FUNDING", 30)
            funding = len(listener.battery_s)
            listener.until(lambda: listener.phase != "FUNDING", 60)
            figures["battery_state_gap_while_the_wallet_waits_for_the_chain"] = gaps(
                listener.battery_s[funding:]
            )
            listener.pose_ms.clear()
            listener.done_ms.clear()
            figures["driving"] = usage(site, listener, IDLE_S)
            listener.until(lambda: listener.phase == "CHARGING", 90)
            figures["image_in_to_pose_out"] = percentiles(listener.pose_ms)
            figures["image_in_to_processed"] = percentiles(listener.done_ms)
            figures["charging"] = usage(site, listener, IDLE_S)
            listener.until(lambda: listener.phase == "SETTLED", 120)
            figures["battery_state_gap_from_the_request_to_the_receipt"] = gaps(listener.battery_s)
            listener.node.destroy_node()
            rclpy.try_shutdown()
    return figures


if __name__ == "__main__":
    import json

    print(json.dumps(measure(), indent=2))
