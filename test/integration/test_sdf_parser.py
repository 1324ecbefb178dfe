"""The world file, read by SDFormat's own parser (Debian: ignition-tools libsdformat-dev sdformat-sdf)."""

import shutil
import subprocess

import pytest

from depai_robot.app.resource import resource_path


@pytest.fixture
def check():
    tool = shutil.which("ign") or shutil.which("gz")
    if tool is None:
        pytest.skip("no SDFormat parser: apt install ignition-tools libsdformat-dev sdformat-sdf")

    def run(path) -> tuple[int, str]:
        done = subprocess.run(
            [tool, "sdf", "--check", str(path)], capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_the_world_is_valid_sdf(check):
    _, said = check(resource_path("worlds", "depai.sdf"))
    assert "Valid." in said
    assert "Error" not in said
    assert "Warning" not in said


def test_the_parser_sees_a_mistake(check, tmp_path):
    text = resource_path("worlds", "depai.sdf").read_text(encoding="utf-8")
    bad = tmp_path / "bad.sdf"
    bad.write_text(text.replace('name="chassis_body"', 'name="chassis"'), encoding="utf-8")
    assert "Non-unique names" in check(bad)[1]
