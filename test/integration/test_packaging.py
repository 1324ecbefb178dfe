"""The same tree installs with pip and builds with colcon, and both find what is not Python."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = (
    "share/ament_index/resource_index/packages/depai_robot",
    "share/depai_robot/package.xml",
    "share/depai_robot/config/dock.yaml",
    "share/depai_robot/models/manifest.json",
    "share/depai_robot/launch/robot.launch.py",
    "lib/depai_robot/wallet",
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git would ship, so that a build leaves nothing in the checkout."""
    target = tmp_path_factory.mktemp("source") / "depai_robot"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def run(command: list[str], cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def test_pip_install_ships_everything(source: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "--ignore-installed",
            "--prefix",
            str(prefix),
            str(source),
        ],
        cwd=tmp_path,
    )
    for name in SHIPPED:
        assert (prefix / name).is_file(), name
    assert os.access(prefix / "lib/depai_robot/wallet", os.X_OK)
    site = next(prefix.glob("lib/python*/site-packages"))
    assert not list(site.glob("test")), "tests must not be installed"
    assert (prefix / "bin/depai-robot").is_file()


def test_colcon_build_ships_everything(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("colcon_core", reason="pip install colcon-common-extensions")
    run(
        [
            sys.executable,
            "-m",
            "colcon",
            "--log-base",
            str(tmp_path / "log"),
            "build",
            "--base-paths",
            str(source),
            "--build-base",
            str(tmp_path / "build"),
            "--install-base",
            str(tmp_path / "install"),
        ],
        cwd=tmp_path,
    )
    for name in SHIPPED:
        assert (tmp_path / "install/depai_robot" / name).is_file(), name
    assert (tmp_path / "install/depai_robot/lib/depai_robot/depai-robot").is_file()
