"""Docks that are not built as their file says, through renderer, models and both checks: one approach of each kind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.dock_scale import CASES, measure_scales

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import json
from bench.dock_scale import measure_decals
from depai_robot.app.resource import resource_path
print(json.dumps(measure_decals(1, 3, resource_path("models"))))
"""


@pytest.mark.slow
def test_a_wrong_decal_or_panel_is_flagged_and_a_right_dock_is_not():
    # Its own process: MuJoCo binds to one GL library for good.
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=160,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    for case in CASES:
        expected = "0.0 %" if case == "right" else "100.0 %"
        assert figures[f"{case}: flagged"].startswith(expected), figures
        assert figures[f"{case}: frames that measured it, median"] >= 6


def test_a_dock_that_is_wrong_as_a_whole_is_mostly_found_by_the_wheels():
    figures = measure_scales(120, seed=4)
    shares = {name: float(text.split(" %")[0]) for name, text in figures.items() if name.endswith("flagged")}
    assert shares["whole dock right: flagged"] <= 3
    assert shares["whole dock 5 % too large: flagged"] >= 92
    assert shares["whole dock 5 % too small: flagged"] >= 92
