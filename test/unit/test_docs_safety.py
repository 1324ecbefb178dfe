"""The tables of docs/safety.md and docs/security.md name tests that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = {path.name: path for path in (ROOT / "test").rglob("test_*.py")}


@pytest.mark.parametrize("page", ["safety.md", "security.md", "gazebo.md", "nav2.md", "hardware.md"])
def test_every_test_that_a_page_names_exists(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    names = set(re.findall(r"`(?:test/\w+/)?(test_\w+\.py)(?:::(\w+))?`", text))
    assert names
    for file, function in names:
        assert file in FILES, f"{page}: {file}"
        if function:
            assert f"def {function}(" in FILES[file].read_text(encoding="utf-8"), (
                f"{page}: {file}::{function}"
            )
