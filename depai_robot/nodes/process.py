"""One process: its nodes, one single-threaded executor, and an orderly end on SIGINT or SIGTERM."""

import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import FrameType

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from depai_robot.nodes.lifecycle import ManagedNode, bring_up
from depai_robot.values.error import DepaiError


def run(make_nodes: Callable[[], Sequence[Node]], args: list[str] | None = None) -> None:
    """Spins the nodes until a signal ends the process; a DepaiError is one line and exit code 2.

    A single-threaded executor: rclpy's multi-threaded one is many times slower, and slow work has threads of
    its own. Managed nodes are brought up unless their parameter ``autostart`` is false. Each node's ``close()`` is
    called, if it has one, before it is destroyed.
    """
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    executor = SingleThreadedExecutor()
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        nonlocal stopping
        stopping = True
        executor.wake()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    status = 0
    try:
        # One end that fails must not keep the others from theirs: a journal still wants to be closed.
        with ExitStack() as ends:
            ends.callback(rclpy.try_shutdown)
            ends.callback(executor.shutdown)
            for node in make_nodes():
                ends.callback(_end, node, executor)
                executor.add_node(node)
                if isinstance(node, ManagedNode) and node.value("autostart"):
                    bring_up(node)
            while not stopping:
                executor.spin_once(timeout_sec=0.2)
    except ExternalShutdownException:
        pass
    except DepaiError as error:
        sys.stderr.write(f"error: {error}\n")
        status = 2
    if status:
        sys.exit(status)


def _end(node: Node, executor: SingleThreadedExecutor) -> None:
    try:
        close = getattr(node, "close", None)
        if close is not None:
            close()
    finally:
        executor.remove_node(node)
        node.destroy_node()
