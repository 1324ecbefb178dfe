"""What every test with real rclpy stands on: a domain of its own, a context of its own, and an orderly end."""

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HOW_TO_GET_ROS = "pip install 'depai_robot[ros]', or source a ROS 2 installation"

DOMAINS = range(1, 102)
"""Source: docs.ros.org, "The ROS_DOMAIN_ID": 0 to 101 is safe on every system; 0 is everybody's default."""


class Ros:
    """One context and its executor; what is added is destroyed at the end of the test, however it ends."""

    def __init__(self, context: Any) -> None:
        from rclpy.executors import SingleThreadedExecutor

        self.context = context
        self.executor = SingleThreadedExecutor(context=context)
        self._nodes: list[Any] = []

    def node(self, name: str = "test") -> Any:
        """A new plain node, for the test's own publishers and subscriptions."""
        from rclpy.node import Node

        return self.add(Node(name, context=self.context))

    def add(self, node: Any) -> Any:
        """A node to be spun and destroyed with the rest; a managed one is brought up."""
        from depai_robot.nodes.lifecycle import ManagedNode, bring_up

        self.executor.add_node(node)
        self._nodes.append(node)
        if isinstance(node, ManagedNode):
            bring_up(node)
        return node

    def until(self, condition: Callable[[], object], timeout_s: float = 15.0) -> None:
        """Spins until the condition is true.

        Raises:
            AssertionError: it was not, in the time.
        """
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline_s, f"not within {timeout_s} s"
            self.executor.spin_once(timeout_sec=0.05)

    def spin_for(self, duration_s: float) -> None:
        """Spins for a while, to see that something does not happen."""
        deadline_s = time.monotonic() + duration_s
        while time.monotonic() < deadline_s:
            self.executor.spin_once(timeout_sec=0.02)

    def close(self) -> None:
        """Ends every node, newest first."""
        for node in reversed(self._nodes):
            close = getattr(node, "close", None)
            if close is not None:
                close()
            self.executor.remove_node(node)
            node.destroy_node()
        self.executor.shutdown()


@contextlib.contextmanager
def take_domain() -> Iterator[int]:
    """A domain nobody else on this machine tests in; children inherit it by the environment."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    before = os.environ.get("ROS_DOMAIN_ID")
    for domain in DOMAINS:
        path = Path(tempfile.gettempdir()) / f"depai-ros-domain-{domain}.lock"
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            os.environ["ROS_DOMAIN_ID"] = str(domain)
            try:
                yield domain
            finally:
                if before is None:
                    os.environ.pop("ROS_DOMAIN_ID", None)
                else:
                    os.environ["ROS_DOMAIN_ID"] = before
            return
    pytest.fail(f"every ROS domain of {DOMAINS} is taken by another test run")


@pytest.fixture(scope="session")
def ros_domain_id() -> Iterator[int]:
    """The session's."""
    with take_domain() as domain:
        yield domain


@pytest.fixture
def ros(ros_domain_id: int) -> Iterator[Ros]:
    """A fresh context in the session's domain. It is the default one: nodes under test name no context."""
    rclpy = pytest.importorskip("rclpy", reason=HOW_TO_GET_ROS)
    rclpy.init(domain_id=ros_domain_id)
    ros = Ros(rclpy.get_default_context())
    try:
        yield ros
    finally:
        ros.close()
        rclpy.try_shutdown()  # without naming it: a default context is used once
