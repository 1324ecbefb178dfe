"""One process: its nodes, one single-threaded executor, and an orderly end on SIGINT or SIGTERM."""

import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from depai_robot.values.error import DepaiError


def run(make_nodes: Callable[[], Sequence[Node]], args: list[str] | None = None) -> None:
    """Spins the nodes until a signal ends the process; a DepaiError is one line and exit code 2.

    A single-threaded executor: rclpy's multi-threaded one is many times slower, and slow work has threads of
    its own. Each node's ``close()`` is called, if it has one, before it is destroyed.
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
    nodes: Sequence[Node] = ()
    status = 0
    try:
        nodes = make_nodes()
        for node in nodes:
            executor.add_node(node)
        while not stopping:
            executor.spin_once(timeout_sec=0.2)
    except ExternalShutdownException:
        pass
    except DepaiError as error:
        sys.stderr.write(f"error: {error}\n")
        status = 2
    finally:
        for node in nodes:
            close = getattr(node, "close", None)
            if close is not None:
                close()
            executor.remove_node(node)
            node.destroy_node()
        executor.shutdown()
        rclpy.try_shutdown()
    if status:
        sys.exit(status)
