import sys

import pytest

from depai_robot.app import resource
from depai_robot.app.resource import resource_path
from depai_robot.values.error import ConfigError


def test_a_source_tree_has_its_own_data():
    assert resource_path("config", "dock.yaml").is_file()
    assert resource_path("models").is_dir()


def test_what_is_missing_is_named():
    with pytest.raises(ConfigError, match=r"config/nowhere\.yaml of depai_robot is missing: looked in"):
        resource_path("config", "nowhere.yaml")


def test_an_installed_package_finds_its_share(tmp_path, monkeypatch):
    share = tmp_path / "share" / "depai_robot" / "config"
    share.mkdir(parents=True)
    (share / "dock.yaml").write_text("version: 1", encoding="utf-8")
    monkeypatch.setattr(resource, "_TREE", tmp_path / "lib" / "python3.11" / "site-packages")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "elsewhere"))
    assert resource_path("config", "dock.yaml") == share / "dock.yaml"


def test_a_colcon_install_folder_is_found(tmp_path, monkeypatch):
    share = tmp_path / "install" / "share" / "depai_robot" / "models"
    share.mkdir(parents=True)
    monkeypatch.setattr(resource, "_TREE", tmp_path / "lib" / "python3.11" / "site-packages")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"/nowhere:{tmp_path / 'install'}")
    assert resource_path("models") == share
