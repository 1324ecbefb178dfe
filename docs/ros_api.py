"""Writes docs/ros_api.md from the nodes' tables: ``make docs`` (``--check`` only compares). Needs rclpy."""

import argparse
import sys
from pathlib import Path

from depai_robot.nodes.battery import BatteryNode
from depai_robot.nodes.dock_detector import DockDetector
from depai_robot.nodes.docking import DockingNode
from depai_robot.nodes.fleet_bridge import FleetBridgeNode
from depai_robot.nodes.gazebo_relay import GazeboRelay
from depai_robot.nodes.hardware import HardwareNode
from depai_robot.nodes.interface import DRIVERS, INTERFACES, PUBLISHES, TAKES, TARGETS, Endpoint
from depai_robot.nodes.lifecycle import AUTOSTART, ManagedNode
from depai_robot.nodes.object_detector import ObjectDetectorNode
from depai_robot.nodes.wallet import WalletNode

PATH = Path(__file__).with_name("ros_api.md")
NODES: dict[str, type[ManagedNode]] = {
    "dock_detector": DockDetector,
    "docking": DockingNode,
    "object_detector": ObjectDetectorNode,
    "battery": BatteryNode,
    "wallet": WalletNode,
    "fleet_bridge": FleetBridgeNode,
    "hardware": HardwareNode,
    "gazebo_relay": GazeboRelay,
}

HEAD = """# ROS API

Made from the code by `make docs`; tests hold the running nodes to it. Names are relative: a namespace goes before
them. QoS: *state* is reliable, depth 10; *latched* is reliable and transient local, depth 1; *image* keeps the newest
only, reliable unless `image_reliable: false`. Units are SI, angles in radians, frames as in REP-103 and REP-105.
Nodes are lifecycle nodes (`~/change_state`, `~/get_state`), but for the simulation, which is the world; with
`autostart: true`, the default, they bring themselves up. An unknown parameter, one of another type or out of range is
refused at the start.

No service and no topic transfers money or signs on demand: the wallet takes intents.
"""


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |\n"


def _topics() -> str:
    """Which topic is there on which target."""
    names: dict[str, Endpoint] = {}
    for endpoints in INTERFACES.values():
        for item in endpoints:
            if item.kind in (PUBLISHES, TAKES) and not item.name.startswith("~/"):
                names.setdefault(item.name, item)
    out = "\n## Topics, by target\n\nA tick: one of our nodes, or the robot's driver, publishes or takes it there.\n\n"
    out += _row("topic", "type", *TARGETS) + _row(*["---"] * (2 + len(TARGETS)))
    for name in sorted(names, key=lambda key: key.lstrip("/")):
        ticks = []
        for target, nodes in TARGETS.items():
            offered = {
                f"{n}/{e.name[2:]}" if e.name.startswith("~/") else e.name
                for n in nodes
                for e in INTERFACES[n]
            }
            there = (
                name in offered
                or (target == "hardware" and name in DRIVERS)
                or (target, name) == ("Gazebo", "/clock")
            )
            ticks.append("✓" if there else "")
        out += _row(f"`{name}`", names[name].type, *ticks)
    return out


def _node(name: str) -> str:
    out = f"\n## {name}\n\n" + _row("", "name", "type", "QoS", "what it says") + _row(*["---"] * 5)
    for item in INTERFACES[name]:
        out += _row(item.kind, f"`{item.name}`", item.type, item.quality, item.text)
    node = NODES.get(name)
    if node is None:
        return out
    out += "\n" + _row("parameter", "default", "range", "what it does") + _row(*["---"] * 4)
    for setting in (*node.settings, AUTOSTART):
        span = f"{setting.least:g} to {setting.most:g}" if setting.least is not None and setting.most else ""
        default = str(setting.default).lower() if isinstance(setting.default, bool) else str(setting.default)
        out += _row(f"`{setting.name}`", f"`{default}`" if default else "", span, setting.text)
    return out


def render() -> str:
    """The page."""
    return HEAD + _topics() + "".join(_node(name) for name in INTERFACES)


def main() -> int:
    """Writes, or compares; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    if not parser.parse_args().check:
        PATH.write_text(render(), encoding="utf-8")
        print(f"docs/{PATH.name}")
        return 0
    if not PATH.is_file() or PATH.read_text(encoding="utf-8") != render():
        print("docs/ros_api.md is not what the code says: run make docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
