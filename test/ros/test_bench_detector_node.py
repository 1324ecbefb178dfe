"""``bench.detector_node``: the child is a node that works, and its figures are of it."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json
import numpy as np
from bench.detector_node import measure
from depai_robot.perception.frame import CameraIntrinsics, Frame

lens = CameraIntrinsics(640, 480, 465.0, 465.0, 319.5, 239.5)
dark = [Frame(np.zeros((480, 640, 3), np.uint8), 1, lens)] * 20
print(json.dumps(measure(("dock", "nothing"), drawn=(dark, dark))))
"""


@pytest.mark.usefixtures("ros")
def test_the_node_alone_is_measured_while_it_works():
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, env=dict(os.environ)
    )
    assert run.returncode == 0, run.stderr
    figures = json.loads(run.stdout)
    assert set(figures) == {"dock", "nothing"}
    for phase in ("tracking", "searching"):
        dock, nothing = figures["dock"][phase], figures["nothing"][phase]
        assert dock["frames_done_percent"] > 0
        assert dock["frames_with_a_pose_percent"] == nothing["frames_with_a_pose_percent"] == 0
        assert dock["memory_mib"] > dock["of_which_its_own_mib"] > 0
        assert dock["memory_mib"] > nothing["memory_mib"], "the models are in it"
