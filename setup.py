"""ament_python build of the package; ``pip install .`` and ``colcon build`` both end here.

pyproject.toml has the dependencies and the console script; here is what ROS wants besides: the resource index
marker, package.xml, launch and config files, the models, and executables where ``ros2 run`` looks for them.
"""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "depai_robot"
SHARE = f"share/{PACKAGE}"
ROOT = Path(__file__).parent


def tree(folder: str) -> list[tuple[str, list[str]]]:
    """data_files entries for every file below a folder, folders kept."""
    entries: dict[str, list[str]] = {}
    for path in sorted((ROOT / folder).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
            relative = path.relative_to(ROOT)
            entries.setdefault(f"{SHARE}/{relative.parent.as_posix()}", []).append(relative.as_posix())
    return sorted(entries.items())


setup(
    name=PACKAGE,
    version="0.1.0",
    python_requires=">=3.10",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={PACKAGE: ["py.typed"], f"{PACKAGE}.app.report": ["template/*.j2"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (SHARE, ["package.xml"]),
        (f"lib/{PACKAGE}", sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "scripts").glob("*"))),
        *tree("launch"),
        *tree("config"),
        *tree("models"),
        *tree("worlds"),
        *tree("contracts/artifacts"),
    ],
    zip_safe=False,
)
