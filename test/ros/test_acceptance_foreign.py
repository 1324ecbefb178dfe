"""The acceptance suite against nodes that it did not start and may not harm, below a namespace."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy", reason="pip install 'depai_robot[ros]', or source a ROS 2 installation")
pytest.importorskip("mujoco", reason="pip install 'depai_robot[sim]'")

from depai_robot.adapters.anvil import find_anvil
from depai_robot.app.acceptance import NOT_RUN, PASSED, open_report
from depai_robot.app.demo_plan import DemoPlan
from depai_robot.app.site import Site
from test.ros.conftest import Ros

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(find_anvil() is None, reason="no anvil: depai-robot setup chain"),
]
NAMESPACE = "robot_1"


@pytest.fixture
def site(ros: Ros, tmp_path: Path) -> Iterator[Site]:
    """A robot that stands in front of its dock and buys nothing unasked."""
    folder = tmp_path / "site"
    folder.mkdir()
    plan = DemoPlan(
        folder=folder,
        stations=1,
        speed_driving=4.0,
        speed_docked=3.0,
        energy_milliwh=700,
        namespace=NAMESPACE,
    )
    with Site(plan, print) as site:
        site._world["start"] = {"x_m": 1.9, "y_m": 0.2, "yaw_rad": 0.1}
        site.open()
        wallet = yaml.safe_load((folder / "wallet.yaml").read_text())
        wallet["charge"]["below_permille"] = 0
        (folder / "wallet.yaml").write_text(yaml.safe_dump(wallet))
        site.start_node("simulation", "simulation")
        ros.until(site.has_link, 40)
        site.start_stations()
        site.start_node("robot", "robot", "use_sim_time:=true")
        site.start_node("wallet", "wallet", "use_sim_time:=true", f"initial_pose:={site.start_pose}")
        yield site


def run_suite(out: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "depai_robot.cli.main", "acceptance", "--target", "gazebo"]
    command += ["--out", str(out), "--timeout", "120", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=220, env=dict(os.environ), check=False
    )


def test_what_it_has_no_means_for_is_not_run_and_the_rest_is(site: Site, tmp_path: Path) -> None:
    named = ("--robot", "rover-1", "--namespace", NAMESPACE, "--station", site.stations[0].id)
    # A means without its other half is none: nobody would bring the broker back.
    done = run_suite(tmp_path / "out", *named, "--cut-command", "false")
    assert done.returncode == 0, done.stdout + done.stderr
    token = (tmp_path / "out" / "acceptance-gazebo.jws").read_text()
    _, report = open_report(token)
    assert (report.target, report.robot, report.passed) == ("gazebo", "rover-1", True)
    outcome_by_step = {step.name: step.outcome for step in report.steps}
    assert outcome_by_step == {
        "find": PASSED,
        "dock": PASSED,
        "pay": PASSED,
        "undock": PASSED,
        "cheat": NOT_RUN,
        "cut": NOT_RUN,
        "kill": NOT_RUN,
    }
    why = {step.name: step.detail for step in report.steps}
    assert why["cheat"] == "no station that cheats was named: --cheat-station ID"
    assert why["cut"] == "no way to do it: --restore-command"
    assert why["kill"] == "no way to do it: --kill-command"
    assert "mWh for" in why["pay"]
    # Nothing of the site was harmed: every process that was there still is.
    site.check_processes()
