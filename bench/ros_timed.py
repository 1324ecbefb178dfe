"""A process of our nodes with a clock around every callback: ``python -m bench.ros_timed MODULE FILE [ROS arguments]``.

For bench.ros_nodes. Subscriptions, timers and services are wrapped as they are made; the product knows nothing of it.
At its end the process writes FILE: by node, milliseconds of each callback. What an action server and rclpy itself do
between the callbacks is not in it.
"""

import functools
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import rclpy.node

CALLBACK_AT = {"create_subscription": 2, "create_timer": 1, "create_service": 2}
"""Where each of rclpy's calls takes its callback, after the node."""


class Stopwatch:
    """Times, by node."""

    def __init__(self) -> None:
        self.times_ms: dict[str, list[float]] = {}

    def wrap(self, node: Any, callback: Any) -> Any:
        """The callback, timed; its signature stays, since rclpy looks at it."""

        @functools.wraps(callback)
        def timed(*arguments: Any) -> Any:
            begun = time.perf_counter()
            try:
                return callback(*arguments)
            finally:
                self.times_ms.setdefault(node.get_name(), []).append(1000 * (time.perf_counter() - begun))

        return timed

    def patch(self, name: str, place: int) -> None:
        """One way of making a callback known."""
        original = getattr(rclpy.node.Node, name)

        @functools.wraps(original)
        def create(node: Any, *arguments: Any, **named: Any) -> Any:
            given = list(arguments)
            if len(given) > place:
                given[place] = self.wrap(node, given[place])
            elif "callback" in named:
                named["callback"] = self.wrap(node, named["callback"])
            return original(node, *given, **named)

        setattr(rclpy.node.Node, name, create)


def main() -> None:
    """Runs the module's own main."""
    module, target = sys.argv[1], Path(sys.argv[2])
    del sys.argv[1:3]
    watch = Stopwatch()
    for name, place in CALLBACK_AT.items():
        watch.patch(name, place)
    begun = time.monotonic()
    try:
        importlib.import_module(f"depai_robot.nodes.{module}").main()
    finally:
        data = {"seconds": time.monotonic() - begun, "times_ms": watch.times_ms}
        target.write_text(json.dumps(data), encoding="utf-8")


if __name__ == "__main__":
    main()
