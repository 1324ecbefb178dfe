"""The whole chain once: rendered frames, ONNX, pose, docking machine, physics, contact."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import dataclasses, json
from bench.docking import run_once
from depai_robot.sim.camera import choose_backend
backend, reason = choose_backend()
print(json.dumps({"camera": backend, **dataclasses.asdict(run_once(1009, backend))}))
"""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_robot_finds_its_dock_by_camera_and_touches_it():
    # Its own process: MuJoCo binds to one GL library for good.
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["docked"], outcome
    assert outcome["lateral_m"] < 0.03
    assert outcome["yaw_rad"] < 0.05
