"""Where the package's data lies: beside the package in a source tree, under ``share/`` once installed."""

import os
import sys
import sysconfig
from pathlib import Path

from depai_robot.values.error import ConfigError

_PACKAGE = "depai_robot"
_TREE = Path(__file__).resolve().parents[2]


def resource_roots() -> tuple[Path, ...]:
    """Folders that may hold ``config``, ``models``, ``launch`` and ``contracts``, most specific first."""
    roots = []
    if (_TREE / "package.xml").is_file() and (_TREE / "config").is_dir():
        roots.append(_TREE)
    # A colcon workspace names its install folders here; the package's own comes before others.
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    # pip puts data_files under the scheme's data path: the venv, the user base or the target.
    prefixes += [str(_TREE.parents[2]) if len(_TREE.parents) > 2 else "", sys.prefix]
    prefixes.append(sysconfig.get_path("data"))
    for prefix in prefixes:
        root = Path(prefix) / "share" / _PACKAGE
        if prefix and root.is_dir() and root not in roots:
            roots.append(root)
    return tuple(roots)


def resource_path(*parts: str) -> Path:
    """The path of a data file or folder of this package, such as ``resource_path("config", "dock.yaml")``.

    Raises:
        ConfigError: it is in none of the places; the message lists them.
    """
    roots = resource_roots()
    for root in roots:
        path = root.joinpath(*parts)
        if path.exists():
            return path
    wanted = Path(*parts)
    raise ConfigError(
        f"{wanted} of {_PACKAGE} is missing: looked in {[str(r) for r in roots]}; install the package anew"
    )
