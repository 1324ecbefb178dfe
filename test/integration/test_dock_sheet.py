"""The dock on paper, in its file, in its pictures and in the simulators is one and the same."""

import json
import re
import shutil
import xml.etree.ElementTree as ET

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from depai_robot.app.dock_sheet import PT_PER_MM, sheet_faces, tag_cells, write_sheet
from depai_robot.app.resource import resource_path
from depai_robot.cli.dock import dock as dock_command
from depai_robot.perception.dock import parse_dock
from depai_robot.sim.scene import parse_robot, parse_world
from depai_robot.sim.sdf import make_sdf
from depai_robot.sim.world import World
from depai_robot.values.error import ConfigError
from training.textures import draw_all

pytest.importorskip("reportlab", reason="pip install 'depai_robot[drawing]'")

CONFIG = resource_path("config", "dock.yaml").parent
TEXTURES = CONFIG / "dock"
DOCK = parse_dock((CONFIG / "dock.yaml").read_text(encoding="utf-8"))
PX_PER_MM = 2
NUMBER = r"(-?[\d.]+(?:e-?\d+)?)"


@pytest.fixture(scope="module")
def pdf(tmp_path_factory):
    path = tmp_path_factory.mktemp("sheet") / "dock.pdf"
    result = CliRunner().invoke(dock_command, ["sheet", "--out", str(path), "--marker", "2"])
    assert result.exit_code == 0, result.output
    assert "panel: 400 x 300 mm" in result.output
    return path.read_bytes().decode("latin-1")


def test_panel_and_base_are_printed_in_their_true_size(pdf):
    sizes = re.findall(rf"{NUMBER} 0 0 {NUMBER} {NUMBER} {NUMBER} cm\s*\n?\s*/", pdf)
    millimetres = {(round(float(w), 3), round(float(h), 3)) for w, h, _, _ in sizes}
    assert (DOCK.panel.width_m * 1000, DOCK.panel.height_m * 1000) in millimetres
    assert (DOCK.base.width_m * 1000, DOCK.base.height_m * 1000) in millimetres
    # The drawing on the first page is at 1 : 5.
    assert (DOCK.panel.width_m * 200, DOCK.panel.height_m * 200) in millimetres
    boxes = re.findall(rf"/MediaBox \[\s*0 0 {NUMBER} {NUMBER}\s*\]", pdf)
    widths = [float(w) / PT_PER_MM for w, _ in boxes]
    assert len(boxes) == 4
    assert max(widths) == pytest.approx(DOCK.panel.width_m * 1000 + 40, abs=0.1)


def test_the_decal_is_printed_as_cells_of_its_true_size(pdf):
    cells = re.findall(rf"n {NUMBER} {NUMBER} {NUMBER} {NUMBER} re f", pdf)
    squares = np.array([[float(v) for v in cell] for cell in cells])
    side_mm = DOCK.decal.size_m * 1000 / 8
    assert np.allclose(squares[:, 2:], side_mm)
    picture = cv2.imread(str(TEXTURES / "tag36h11_2.png"))
    assert len(squares) == tag_cells(picture).sum()
    low, high = squares[:, :2].min(axis=0), (squares[:, :2] + squares[:, 2:]).max(axis=0)
    assert high - low == pytest.approx([DOCK.decal.size_m * 1000] * 2)


def test_the_pictures_have_the_files_dimensions_and_the_tag_where_it_belongs():
    detector = cv2.aruco.ArucoDetector(cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11))
    for marker in range(5):
        for face in sheet_faces(DOCK, marker):
            picture = cv2.imread(str(TEXTURES / face.picture))
            assert picture.shape[:2] == (face.height_mm * PX_PER_MM, face.width_mm * PX_PER_MM)
        panel = cv2.imread(str(TEXTURES / f"panel_{marker}.png"), cv2.IMREAD_GRAYSCALE)
        corners, ids, _ = detector.detectMarkers(panel)
        assert ids.ravel().tolist() == [marker]
        centre, size = np.array(panel.shape[::-1]) / 2, DOCK.decal.size_m * 1000 * PX_PER_MM
        expected = centre + size / 2 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
        assert np.abs(corners[0][0] - expected).max() <= 1.5


def test_the_pictures_are_what_the_training_draws():
    drawn = draw_all(DOCK)
    assert sorted(drawn) == sorted(path.stem for path in TEXTURES.glob("*.png"))
    for name, image in drawn.items():
        kept = cv2.imread(str(TEXTURES / f"{name}.png"))[:, :, ::-1]
        np.testing.assert_array_equal(kept, image, err_msg=f"{name}: python -m training.textures")


@pytest.fixture(scope="module")
def scene():
    robot = parse_robot((CONFIG / "robot.yaml").read_text(encoding="utf-8"))
    return robot, parse_world((CONFIG / "world.yaml").read_text(encoding="utf-8"))


def test_the_physics_simulators_dock_is_the_files(scene):
    robot, layout = scene
    model = World(robot, layout, DOCK, TEXTURES).model
    place = layout.docks[0].id
    mesh = model.mesh(f"{place}_panel")
    first, count = int(mesh.vertadr[0]), int(mesh.vertnum[0])
    extent = np.ptp(model.mesh_vert[first : first + count], axis=0)
    assert sorted(extent)[1:] == pytest.approx(sorted([DOCK.panel.height_m, DOCK.panel.width_m]), abs=1e-4)
    pads = 2 * model.geom(f"{place}_pads").size
    assert pads == pytest.approx([DOCK.base.depth_m, DOCK.base.width_m, DOCK.base.height_m], abs=2e-3)
    assert model.body(place).pos[2] == pytest.approx(DOCK.panel.centre_height_m)


def test_gazebos_dock_is_the_files(scene):
    robot, layout = scene
    text = make_sdf(robot, layout, DOCK, textures="textures", face="face.obj")
    boxes = {
        tuple(round(float(v), 4) for v in box.text.split())
        for box in ET.fromstring(text).iter("size")
        if box.text
    }
    panel = (DOCK.panel.thickness_m, DOCK.panel.width_m, DOCK.panel.height_m)
    base = (DOCK.base.depth_m, DOCK.base.width_m, DOCK.base.height_m)
    assert any(np.allclose(box, panel, atol=2e-3) for box in boxes if len(box) == 3), boxes
    assert any(np.allclose(box, base, atol=2e-3) for box in boxes if len(box) == 3), boxes


def test_the_same_dock_gives_the_same_sheet_and_pages_can_be_chosen(tmp_path):
    one, two, decal = tmp_path / "1.pdf", tmp_path / "2.pdf", tmp_path / "decal.pdf"
    write_sheet(one, DOCK, TEXTURES, marker_id=0)
    write_sheet(two, DOCK, TEXTURES, marker_id=0)
    assert one.read_bytes() == two.read_bytes()
    write_sheet(decal, DOCK, TEXTURES, marker_id=0, pages=["decal"])
    assert decal.read_bytes().count(b"/MediaBox") == 1


def test_another_dock_is_drawn_from_its_own_folder(tmp_path):
    shutil.copytree(TEXTURES, tmp_path / "dock")
    text = (
        (CONFIG / "dock.yaml").read_text(encoding="utf-8").replace("thickness_m: 0.02", "thickness_m: 0.03")
    )
    (tmp_path / "dock.yaml").write_text(text, encoding="utf-8")
    out = tmp_path / "out.pdf"
    result = CliRunner().invoke(dock_command, ["sheet", "--out", str(out), "--config", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "(30)" in out.read_bytes().decode("latin-1"), "the dimension of the thicker panel"


def test_a_marker_without_a_picture_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no picture panel_99.png .* markers 0, 1, 2, 3, 4"):
        write_sheet(tmp_path / "x.pdf", DOCK, TEXTURES, marker_id=99)


def test_the_models_were_trained_for_this_dock():
    manifest = json.loads(resource_path("models", "manifest.json").read_text(encoding="utf-8"))
    from depai_robot.perception.manifest import dock_sha256

    assert manifest["dock_sha256"] == dock_sha256(DOCK)
