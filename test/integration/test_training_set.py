"""Sets of frames as the generator writes them: the form, the same bytes again, truth that fits the picture."""

import json

import cv2
import numpy as np
import pytest

from depai_robot.app.model_data import DataSet
from depai_robot.app.resource import resource_path
from depai_robot.perception.dock import parse_dock
from training import make_set

ARGUMENTS = ["--conditions", "clean", "distorted", "--bands", "0.8-1.2", "--per-cell", "2", "--rooms", "2"]


def write(folder, *extra):
    make_set.main(["--seed", "3", *ARGUMENTS, "--out", str(folder), *extra])
    return DataSet(folder)


def require_gl():
    from depai_robot.sim.camera import choose_backend
    from depai_robot.values.error import DeviceFailedError

    for backend in ("egl", "osmesa"):
        try:
            choose_backend(backend)
        except DeviceFailedError:
            continue
        return
    pytest.skip("no GL here that MuJoCo can render with")


@pytest.mark.parametrize("renderer", ["homography", "simulator"])
def test_a_set_reads_back_and_is_made_again_with_the_same_bytes(tmp_path, renderer):
    if renderer == "simulator":
        require_gl()
    first = write(tmp_path / "a", "--renderer", renderer)
    about = json.loads((tmp_path / "a" / "set.json").read_text(encoding="utf-8"))
    assert about["sha256"] == first.sha256 == write(tmp_path / "b", "--renderer", renderer).sha256
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
    if renderer == "simulator":
        require_gl()
    dock = parse_dock(resource_path("config", "dock.yaml").read_text(encoding="utf-8"))
    aruco = cv2.aruco.ArucoDetector(cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11))
    compared = 0
    for item in write(tmp_path / "a", "--renderer", renderer, "--per-cell", "4"):
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
