"""SDF for Gazebo: the checked-in world is what the YAML files say, and says what the MuJoCo scene says."""

import math
import re
import xml.etree.ElementTree as ET

import pytest
import yaml

from depai_robot.app.resource import resource_path
from depai_robot.perception.dock import parse_dock
from depai_robot.sim.scene import parse_robot, parse_world
from depai_robot.sim.sdf import ROBOT, face_obj, make_sdf

KNOWN_PLUGINS = {
    # Source: gz-sim's systems, branches gz-sim8 to gz-sim10; a wrong file name passes the parser.
    "gz-sim-physics-system": "gz::sim::systems::Physics",
    "gz-sim-user-commands-system": "gz::sim::systems::UserCommands",
    "gz-sim-scene-broadcaster-system": "gz::sim::systems::SceneBroadcaster",
    "gz-sim-sensors-system": "gz::sim::systems::Sensors",
    "gz-sim-diff-drive-system": "gz::sim::systems::DiffDrive",
    "gz-sim-odometry-publisher-system": "gz::sim::systems::OdometryPublisher",
    "gz-sim-linearbatteryplugin-system": "gz::sim::systems::LinearBatteryPlugin",
}


def text(*parts: str) -> str:
    return resource_path(*parts).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def parts():
    robot, world, dock = (
        parse_robot(text("config", "robot.yaml")),
        parse_world(text("config", "world.yaml")),
        parse_dock(text("config", "dock.yaml")),
    )
    made = make_sdf(robot, world, dock, textures="../config/dock", face="meshes/face.obj")
    return robot, world, dock, made


def test_the_checked_in_world_is_made_from_the_yaml_files(parts):
    assert text("worlds", "depai.sdf") == parts[3], "make docs writes it"
    assert text("worlds", "meshes", "face.obj") == face_obj()


def numbers(element: ET.Element, path: str) -> list[float]:
    found = element.find(path)
    assert found is not None, path
    assert found.text, path
    return [float(word) for word in found.text.split()]


def test_docks_stand_where_the_world_file_says(parts):
    _, world, dock, made = parts
    models = {model.get("name"): model for model in ET.fromstring(made).iter("model")}
    for place in world.docks:
        x, y, z, roll, pitch, yaw = numbers(models[place.id], "pose")
        assert (x, y, z) == (place.x_m, place.y_m, dock.panel.centre_height_m)
        assert (roll, pitch) == (0, 0)
        assert yaw == pytest.approx(place.yaw_rad)
        uris = [uri.text for uri in models[place.id].iter("albedo_map")]
        assert f"../config/dock/panel_{place.marker_id}.png" in uris


def test_the_scene_is_that_of_the_embedded_simulation(parts):
    mujoco = pytest.importorskip("mujoco", reason="pip install 'depai_robot[sim]'")
    from depai_robot.sim.world import World

    robot, world, dock, made = parts
    scene = World(robot, world, dock, resource_path("config", "dock"))
    models = {model.get("name"): model for model in ET.fromstring(made).iter("model")}
    for place in world.docks:
        geom = scene.model.geom(f"{place.id}_pads")
        box = models[place.id].find("link/collision[@name='pads']")
        assert numbers(box, "geometry/box/size") == pytest.approx([2 * float(half) for half in geom.size])
        assert numbers(box, "pose")[:3] == pytest.approx([float(v) for v in geom.pos], abs=1e-6)
    chassis = scene.model.geom("chassis")
    box = models[ROBOT].find("link[@name='base_link']/collision[@name='chassis']")
    assert numbers(box, "geometry/box/size") == pytest.approx([2 * float(half) for half in chassis.size])
    camera = models[ROBOT].find("link/sensor[@name='camera']")
    assert numbers(camera, "pose")[:3] == pytest.approx([float(v) for v in scene.model.camera("eye").pos])
    width, height = (numbers(camera, f"camera/image/{side}")[0] for side in ("width", "height"))
    focal = width / 2 / math.tan(numbers(camera, "camera/horizontal_fov")[0] / 2)
    assert focal == pytest.approx(robot.camera.focal_px, rel=1e-5)
    fovy = math.degrees(2 * math.atan(height / 2 / focal))
    assert fovy == pytest.approx(float(scene.model.camera("eye").fovy[0]), rel=1e-5)
    assert mujoco is not None


def test_every_plugin_is_one_of_gazebos(parts):
    plugins = list(ET.fromstring(parts[3]).iter("plugin"))
    assert {(p.get("filename"), p.get("name")) for p in plugins} == set(KNOWN_PLUGINS.items())


def test_the_batterys_traps_are_handled(parts):
    root = ET.fromstring(parts[3])
    pack = next(
        p for p in root.iter("plugin") if p.get("name") == KNOWN_PLUGINS["gz-sim-linearbatteryplugin-system"]
    )
    value = {child.tag: child.text for child in pack}
    assert value["recharge_by_topic"] == value["enable_recharge"] == value["invert_current_sign"] == "true"
    full, slope = (float(value[f"open_circuit_voltage_{name}_coef"]) for name in ("constant", "linear"))
    assert 25.5 < full + slope * 0.8 < 26.5, "at 20 %, as the embedded battery"
    assert full < 8 * 3.55


def test_the_face_is_upright_and_looks_at_the_robot():
    rows = [line.split() for line in face_obj().splitlines()]
    points = [[float(v) for v in row[1:]] for row in rows if row[0] == "v"]
    pictures = [[float(v) for v in row[1:]] for row in rows if row[0] == "vt"]
    for (_, y, z), (u, v) in zip(points, pictures, strict=True):
        assert (u == 0) == (y > 0), "the picture's left at +y"
        assert (v == 1) == (z > 0), "its top up"
    first, second, third = (points[int(word.split("/")[0]) - 1] for word in rows[-1][1:4])
    a, b = ([q - p for p, q in zip(first, other, strict=True)] for other in (second, third))
    assert a[1] * b[2] - a[2] * b[1] < 0, "its normal is along -x"


def test_the_bridge_names_what_the_world_has(parts):
    bridge = yaml.safe_load(text("config", "gazebo_bridge.yaml"))
    topics = {entry["gz_topic_name"] for entry in bridge}
    made = parts[3]
    for kind in ("topic", "odom_topic", "tf_topic"):
        for name in re.findall(rf"<{kind}>(/[^<]*)</{kind}>", made):
            assert name in topics, name
    assert "/camera/image_raw" in topics
    assert f"/model/{ROBOT}/battery/pack/state" in topics
    assert {entry["direction"] for entry in bridge} == {"GZ_TO_ROS", "ROS_TO_GZ"}
    keys = {"ros_topic_name", "gz_topic_name", "ros_type_name", "gz_type_name", "direction"}
    assert all(set(entry) == keys for entry in bridge)
