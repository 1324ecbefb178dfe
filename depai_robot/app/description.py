"""Which robot this is: its description (as config/robot.yaml), the deployment's own or the package's example."""

from pathlib import Path

from depai_robot.app.resource import resource_path
from depai_robot.sim.scene import RobotModel, parse_robot
from depai_robot.values.error import ConfigError


def read_description(name: str, beside: Path) -> RobotModel:
    """Sizes, camera and limits.

    Args:
        name: path, relative to the file that names it; empty for the package's example.
        beside: that file.

    Raises:
        ConfigError: it can't be read, or is not as it must be.
    """
    path = beside.parent / name if name else resource_path("config", "robot.yaml")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return parse_robot(text, str(path))
