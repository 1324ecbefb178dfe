import copy

import numpy as np
import pytest
import yaml

from depai_robot.perception.dock import parse_dock
from depai_robot.values.error import ConfigError


def rectangle(x, half_width, top, bottom):
    return [[x, half_width, top], [x, -half_width, top], [x, -half_width, bottom], [x, half_width, bottom]]


DOCUMENT = {
    "version": 1,
    "panel": {"width_m": 0.4, "height_m": 0.3, "thickness_m": 0.02, "centre_height_m": 0.25},
    "base": {"width_m": 0.4, "height_m": 0.08, "depth_m": 0.15},
    "decal": {"size_m": 0.16, "family": "tag36h11"},
    "pads": {"x_m": -0.15, "z_m": -0.19, "half_width_m": 0.06, "angle_tolerance_rad": 0.14},
    "keypoints": [
        *rectangle(0.0, 0.2, 0.15, -0.15),
        *rectangle(-0.15, 0.2, -0.15, -0.23),
        *rectangle(0.0, 0.08, 0.08, -0.08),
    ],
}


def changed(path, value):
    document = copy.deepcopy(DOCUMENT)
    *folders, leaf = path
    place = document
    for folder in folders:
        place = place[folder]
    if value is ...:
        del place[leaf]
    else:
        place[leaf] = value
    return yaml.safe_dump(document)


def test_a_dock_is_read():
    dock = parse_dock(yaml.safe_dump(DOCUMENT))
    assert dock.panel.width_m == 0.4
    assert dock.points_m().shape == (12, 3)
    assert dock.points_m().dtype == np.float64
    assert dock.keypoints_m[5] == (-0.15, -0.2, -0.15)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("version",), 2, "version must be 1, got 2"),
        (("version",), True, "version must be 1, got True"),
        (("panel", "width_m"), -0.4, r"panel.width_m must be in \(0"),
        (("panel", "width_m"), "0.4", "panel.width_m must be a finite number, got '0.4'"),
        (("panel", "width_m"), float("nan"), "panel.width_m must be a finite number, got nan"),
        (("panel", "width_m"), True, "panel.width_m must be a finite number, got True"),
        (("panel", "width_m"), ..., r"panel: missing \['width_m'\]"),
        (("panel", "colour"), "red", r"unknown \['colour'\]"),
        (("panel",), 3, "panel must be a mapping, got int"),
        (("panel", "centre_height_m"), 0.2, "puts the base below the floor"),
        (("decal", "family"), "tag16h5", "decal.family must be tag36h11, got 'tag16h5'"),
        (("decal", "size_m"), 0.31, "larger than the panel"),
        (("pads", "angle_tolerance_rad"), 2.0, "pads.angle_tolerance_rad"),
        (("keypoints",), [[0, 0, 0]], "list of 12 points"),
        (("keypoints", 3), [0, 0], r"keypoints\[3\] must be \[x, y, z\]"),
        (("keypoints", 8), [0.0, 0.084, 0.08], r"keypoints\[8\] is .*expected \(0.0, 0.08, 0.08\)"),
        (("base", "depth_m"), 0.16, r"keypoints\[4\]"),
    ],
)
def test_what_is_not_a_dock_is_refused_by_name(path, value, words):
    with pytest.raises(ConfigError, match=words):
        parse_dock(changed(path, value))


@pytest.mark.parametrize(
    "text", ["", "[1, 2", "- 1", "version: 1\nversion: 1", "{[1]: 2}", "a: !!python/name:os.system"]
)
def test_other_text_is_refused(text):
    with pytest.raises(ConfigError, match=r"dock\.yaml"):
        parse_dock(text)
