"""Sets of frames as the generator writes them: the form, the same bytes again, truth that fits the picture."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from depai_robot.app.model_data import DataSet
from depai_robot.app.resource import resource_path
from depai_robot.perception.dock import parse_dock
from training import make_set

ROOT = Path(__file__).resolve().parents[2]
TREE = {**os.environ, "PYTHONPATH": str(ROOT)}
ARGUMENTS = ["--conditions", "clean", "distorted", "--bands", "0.8-1.2", "--per-cell", "2", "--rooms", "2"]


def run_simulator(command):
    """What a process of its own prints: a process is bound to one GL library, and this one may be bound to none."""
    done = subprocess.run(
        command, cwd=ROOT, env=TREE, capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode != 0 and "does not render here" in done.stderr:
        pytest.skip("no GL here that MuJoCo can render with: apt-get install libegl1 libgl1")
    assert done.returncode == 0, done.stderr
    return done.stdout


def write(folder, renderer="homography", *extra):
    arguments = ["--seed", "3", *ARGUMENTS, "--out", str(folder), "--renderer", renderer, *extra]
    if renderer == "homography":
        make_set.main(arguments)
        return DataSet(folder)
    command = [sys.executable, "-m", "training.make_set", *arguments]
    run_simulator(command)
    return DataSet(folder)


@pytest.mark.parametrize("renderer", ["homography", "simulator"])
def test_a_set_reads_back_and_is_made_again_with_the_same_bytes(tmp_path, renderer):
    first = write(tmp_path / "a", renderer)
    about = json.loads((tmp_path / "a" / "set.json").read_text(encoding="utf-8"))
    assert about["sha256"] == first.sha256 == write(tmp_path / "b", renderer).sha256
    assert [label.condition for label in first.labels] == ["clean"] * 2 + ["distorted"] * 2 + [
        "clean",
        "distorted",
    ]
    docks = [item.dock_in_camera for item in first]
    assert [dock is None for dock in docks] == [False] * 4 + [True] * 2
    assert all(0.8 <= float(np.linalg.norm(dock.position_m)) <= 1.2 for dock in docks if dock)
    assert not any(first.labels[0].distortion)
    assert any(first.labels[2].distortion)


@pytest.mark.parametrize("renderer", ["homography", "simulator"])
def test_the_truth_is_where_the_tag_is_seen(tmp_path, renderer):
    """OpenCV's detector, which knows nothing of the renderer, finds the decal where the label puts it."""
    dock = parse_dock(resource_path("config", "dock.yaml").read_text(encoding="utf-8"))
    aruco = cv2.aruco.ArucoDetector(cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11))
    compared = 0
    for item in write(tmp_path / "a", renderer, "--per-cell", "4"):
        pose, lens = item.dock_in_camera, item.frame.intrinsics
        if pose is None:
            continue
        decal = dock.points_m()[8:] @ pose.rotation().T + np.array(pose.position_m)
        pixels = cv2.projectPoints(decal, np.zeros(3), np.zeros(3), lens.matrix(), np.array(lens.distortion))[
            0
        ]
        expected = pixels[:, 0]
        for seen in aruco.detectMarkers(np.ascontiguousarray(item.frame.image[:, :, 0]))[0]:
            if np.abs(seen[0] - expected).max() < 8:
                compared += 1
                assert np.abs(seen[0] - expected).mean() < 1.2
    assert compared >= 4


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(SystemExit, match="not empty"):
        write(tmp_path)


DRIVE = """
import hashlib, numpy as np
from training.rendered import Simulator
from training.scene import Request
simulator, request = Simulator(3, "test"), Request("combined", yaw_max_deg=40.0)
digest = hashlib.sha256()
for number, sample in enumerate(simulator.drive(int(INDEX), request, [4.0, 3.0, 3.0])):
    digest.update(sample.image.tobytes())
    dock = sample.docks[0]
    print(round(float(np.linalg.norm(dock.position_m[[0, 2]])), 3), int(dock.visible.sum()))
print(digest.hexdigest())
"""


def drive(index):
    command = [sys.executable, "-c", f"INDEX = {index}\n{DRIVE}"]
    *frames, digest = run_simulator(command).split("\n")[:-1]
    return [tuple(map(float, line.split())) for line in frames], digest


def test_a_drive_comes_nearer_to_a_dock_that_stays_covered_as_it_is():
    frames, digest = drive(5)
    assert [range_m for range_m, _ in frames] == pytest.approx([4.0, 3.0, 3.0], abs=0.01)
    assert len({visible for _, visible in frames}) == 1
    assert drive(5) == (frames, digest)
    assert drive(6)[1] != digest
