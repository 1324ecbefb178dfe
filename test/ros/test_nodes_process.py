"""A process of nodes ends in order: on a signal, on an error of ours, and with every node closed."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="pip install 'depai_robot[ros]', or source a ROS 2 installation")

PROGRAM = """
import sys
from pathlib import Path
from rclpy.node import Node
from depai_robot.nodes.process import run
from depai_robot.values.error import ConfigError

class Told(Node):
    def __init__(self, name):
        super().__init__(name)
        self.create_timer(0.05, self.tick)

    def tick(self):
        Path("ready").touch()
        {tick}

    def close(self):
        with open("closed", "a") as file:
            file.write(self.get_name() + " ")

def make():
    {make}
    return [Told("one"), Told("two")]

run(make)
Path("after").touch()
"""


def start(folder: Path, tick: str = "pass", make: str = "pass") -> "subprocess.Popen[str]":
    code = PROGRAM.replace("{tick}", tick).replace("{make}", make)
    return subprocess.Popen([sys.executable, "-c", code], cwd=folder, stderr=subprocess.PIPE, text=True)


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    try:
        _, error = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    return process.returncode, error


def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order(ros_domain_id: int, tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path)
    try:
        until((tmp_path / "ready").exists)
        process.send_signal(number)
    finally:
        status, error = finish(process)
    assert (status, error) == (0, "")
    assert (tmp_path / "closed").read_text().split() == ["two", "one"]
    assert (tmp_path / "after").exists()


def test_an_error_at_the_start_is_one_line(ros_domain_id: int, tmp_path: Path) -> None:
    status, error = finish(start(tmp_path, make='raise ConfigError("link: expected a path, got nothing")'))
    assert (status, error) == (2, "error: link: expected a path, got nothing\n")


def test_an_error_of_ours_on_the_way_closes_every_node(ros_domain_id: int, tmp_path: Path) -> None:
    status, error = finish(start(tmp_path, tick='raise ConfigError("gone")'))
    assert (status, error) == (2, "error: gone\n")
    assert (tmp_path / "closed").read_text().split() == ["two", "one"]


def test_a_bug_on_the_way_closes_every_node_and_keeps_its_traceback(
    ros_domain_id: int, tmp_path: Path
) -> None:
    status, error = finish(start(tmp_path, tick='raise ZeroDivisionError("a surprise")'))
    assert status == 1
    assert "ZeroDivisionError: a surprise" in error
    assert (tmp_path / "closed").read_text().split() == ["two", "one"]


def test_a_node_that_does_not_close_does_not_keep_the_others_open(ros_domain_id: int, tmp_path: Path) -> None:
    raising = "def fail(): raise ConfigError('stuck')"
    code = f"{raising}\n    two = Told('two'); two.close = fail\n    return [Told('one'), two]"
    process = start(tmp_path, make=code)
    try:
        until((tmp_path / "ready").exists)
        process.send_signal(signal.SIGTERM)
    finally:
        status, error = finish(process)
    assert (status, error) == (2, "error: stuck\n")
    assert (tmp_path / "closed").read_text().split() == ["one"]
