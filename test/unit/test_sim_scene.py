import copy
import math

import pytest
import yaml

from depai_robot.sim.scene import parse_robot, parse_world
from depai_robot.values.error import ConfigError

ROBOT = {
    "version": 1,
    "body": {"length_m": 0.5, "width_m": 0.36, "height_m": 0.14, "clearance_m": 0.03, "mass_kg": 18.0},
    "wheels": {"radius_m": 0.08, "track_m": 0.34},
    "camera": {
        "x_m": 0.02,
        "z_m": 0.28,
        "width_px": 640,
        "height_px": 480,
        "focal_px": 465.0,
        "rate_hz": 10.0,
    },
    "pads": {"x_m": 0.25},
    "limits": {
        "linear_max_mps": 0.45,
        "angular_max_radps": 1.2,
        "linear_accel_max_mps2": 0.8,
        "angular_accel_max_radps2": 3.0,
        "command_timeout_s": 0.5,
    },
    "battery": {
        "capacity_wh": 200.0,
        "cells": 8,
        "internal_resistance_ohm": 0.06,
        "charge_current_max_a": 15.0,
        "charge_voltage_max_v": 28.4,
        "onboard_load_w": 25.0,
        "drive_load_w": 40.0,
        "charge_efficiency": 0.96,
    },
}
WORLD = {
    "version": 1,
    "room": {"x_min_m": -4.0, "x_max_m": 4.0, "y_min_m": -3.0, "y_max_m": 3.0, "wall_height_m": 1.2},
    "start": {"x_m": -1.6, "y_m": -0.6, "yaw_rad": 2.4},
    "docks": [
        {"id": "a", "marker_id": 0, "x_m": 0.2, "y_m": -2.6, "yaw_rad": -1.57},
        {"id": "b", "marker_id": 1, "x_m": 3.6, "y_m": 0.9, "yaw_rad": 0.0},
    ],
}


def changed(document, path, value):
    document = copy.deepcopy(document)
    *folders, leaf = path
    place = document
    for folder in folders:
        place = place[folder]
    if value is ...:
        del place[leaf]
    else:
        place[leaf] = value
    return yaml.safe_dump(document)


def test_a_robot_and_a_world_are_read():
    robot, world = parse_robot(yaml.safe_dump(ROBOT)), parse_world(yaml.safe_dump(WORLD))
    assert robot.wheels.track_m == 0.34
    assert world.docks[1].pose().x_m == 3.6
    assert world.start.pose().yaw_rad == 2.4


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("version",), 2, r"robot.yaml: version: .*got 2"),
        (("body", "mass_kg"), -1, r"robot.yaml: body.mass_kg: Expected `float` > 0.0, got -1"),
        (("body", "mass_kg"), math.nan, r"body.mass_kg: .*got nan"),
        (("body", "mass_kg"), "18", r"body.mass_kg: Expected `float`, got `str`, got '18'"),
        (("body", "mass_kg"), ..., "missing required field `mass_kg`"),
        (("body", "colour"), "red", "unknown field `colour`"),
        (("camera", "width_px"), 0, r"camera.width_px: .*got 0"),
        (("limits", "command_timeout_s"), 60, r"limits.command_timeout_s: .*got 60"),
        (("pads", "x_m"), 0.4, r"pads.x_m must be on the body's front, 0.25 m, got 0.4"),
        (("camera", "z_m"), 0.1, r"camera.z_m must be above the body's top, 0.170 m, got 0.1"),
    ],
)
def test_a_wrong_robot_is_refused(path, value, words):
    with pytest.raises(ConfigError, match=words):
        parse_robot(changed(ROBOT, path, value))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("docks", 1, "yaw_rad"), 9.0, r"world.yaml: docks\[.*\].yaw_rad: Expected `float` <= 6.2832"),
        (("docks", 1, "id"), "a", r"dock ids must differ, got \['a', 'a'\]"),
        (("docks", 1, "id"), "../b", "id: Expected `str` matching"),
        (("docks", 1, "id"), "b\n", "id: Expected `str` matching"),
        (("docks", 1, "x_m"), 4.5, "b at 4.5, 0.9 is not in the room"),
        (("start", "y_m"), -3.0, "start at -1.6, -3.0 is not in the room"),
        (("room", "x_max_m"), -5.0, "the room has no inside"),
        (("docks",), [], "docks: Expected `array` of length >= 1"),
    ],
)
def test_a_wrong_world_is_refused(path, value, words):
    with pytest.raises(ConfigError, match=words):
        parse_world(changed(WORLD, path, value))


@pytest.mark.parametrize("text", ["{", "a: b: c", "- 1", "", "null"])
def test_what_is_no_document_is_refused_in_one_line(text):
    with pytest.raises(ConfigError) as caught:
        parse_world(text, "w.yaml")
    assert str(caught.value).startswith("w.yaml")
    assert "\n" not in str(caught.value)
