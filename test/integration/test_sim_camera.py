"""Every camera backend that renders here shows the dock where geometry says it is, upright and not mirrored."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from depai_robot.sim import camera as camera_module
from depai_robot.sim.camera import SimulatedCamera, choose_backend
from depai_robot.values.error import DeviceFailedError
from test.panel_fit import before_dock, make_world, measure

ROOT = Path(__file__).resolve().parents[2]
TREE = {**os.environ, "PYTHONPATH": str(ROOT)}


def assert_fits(rows, *, alike, shift_px):
    assert len(rows) == 5
    for row in rows:
        assert row["alike"] > alike, row
        assert max(row["flipped"], row["mirrored"]) < row["alike"] - 0.15, row
        assert row["shift_px"] < shift_px, row


@pytest.mark.parametrize("backend", ["egl", "osmesa"])
def test_gl_shows_the_dock_where_it_is(backend):
    # A process can be bound to one GL library only.
    done = subprocess.run(
        [sys.executable, "-m", "test.panel_fit", backend],
        cwd=ROOT,
        env=TREE,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode != 0 and "does not render here" in done.stderr:
        package = {"egl": "libegl1 libgl1", "osmesa": "libosmesa6"}[backend]
        pytest.skip(f"no {backend} here: apt-get install {package}; {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert_fits(rows, alike=0.97, shift_px=0.5)


def test_rays_show_the_dock_where_it_is():
    assert_fits(measure("rays"), alike=0.88, shift_px=1.0)


def test_rays_are_the_same_each_time_and_stamped():
    world = make_world()
    world._place(before_dock(world, 1.0))
    one, two = (SimulatedCamera(world, "rays").read() for _ in range(2))
    np.testing.assert_array_equal(one.image, two.image)
    assert one.image.dtype == np.uint8
    world.skip(5)
    assert SimulatedCamera(world, "rays").read().stamp_ns == one.stamp_ns + 5
    assert one.intrinsics.fx_px == 465.0
    assert (one.intrinsics.cx_px, one.intrinsics.cy_px) == (319.5, 239.5)


def test_a_closed_camera_says_so():
    camera = SimulatedCamera(make_world(), "rays")
    camera.close()
    with pytest.raises(DeviceFailedError, match="camera is closed"):
        camera.read()


# --- choice ---------------------------------------------------------------------------------------------------


@pytest.fixture
def probe(monkeypatch):
    """Decides which backends render."""
    works = {"egl": None, "osmesa": None}
    monkeypatch.setattr(camera_module, "_probe", lambda backend: works[backend])
    monkeypatch.setenv("MUJOCO_GL", "before")
    return works


def test_egl_comes_first(probe):
    assert choose_backend() == ("egl", "renders here")
    assert os.environ["MUJOCO_GL"] == "egl"


def test_the_next_is_taken_and_the_reason_said(probe):
    probe["egl"] = "no libEGL"
    assert choose_backend() == ("osmesa", "egl: no libEGL")
    probe["osmesa"] = "no libOSMesa"
    assert choose_backend() == ("rays", "egl: no libEGL; osmesa: no libOSMesa")
    assert os.environ["MUJOCO_GL"] == "disabled"


def test_what_is_asked_for_is_not_replaced(probe):
    probe["egl"] = "no libEGL"
    with pytest.raises(DeviceFailedError, match="'egl' does not render here: egl: no libEGL"):
        choose_backend("egl")
    with pytest.raises(DeviceFailedError, match="'vulkan' does not render here: unknown name"):
        choose_backend("vulkan")
    assert choose_backend("rays") == ("rays", "asked for")


def test_a_library_that_is_not_there_is_found_out_in_a_child_process():
    code = (
        "import depai_robot.sim.camera as c, sys; print(c._probe('glx-of-nowhere'));"
        "print('mujoco' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=TREE,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    reason, imported = done.stdout.splitlines()
    assert reason not in ("None", "")
    assert imported == "False"
