"""The dock's geometry: what ``config/dock.yaml`` says, checked and frozen. Callers read the file."""

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from depai_robot.perception.observation import KEYPOINT_COUNT
from depai_robot.values.error import ConfigError
from depai_robot.values.geometry import Vector3

DOCK_VERSION = 1
_LENGTH_MAX_M = 10.0
_CORNER_TOLERANCE_M = 1e-6


@dataclass(frozen=True, slots=True)
class Panel:
    """The upright plate that the camera looks for.

    Attributes:
        width_m: along y, > 0.
        height_m: along z, > 0.
        thickness_m: along x behind the front face, > 0.
        centre_height_m: of the face's centre above the floor, at least half the height.
    """

    width_m: float
    height_m: float
    thickness_m: float
    centre_height_m: float


@dataclass(frozen=True, slots=True)
class Base:
    """The box in front of the panel, from its lower edge down; carries the contact pads.

    Attributes:
        width_m: along y, > 0.
        height_m: along z, > 0.
        depth_m: from the panel's face towards the robot, > 0.
    """

    width_m: float
    height_m: float
    depth_m: float


@dataclass(frozen=True, slots=True)
class Decal:
    """The mark at the panel's centre.

    Attributes:
        size_m: outer edge of its black border, > 0.
        family: ``tag36h11``; a hint for which dock this is, never a proof.
    """

    size_m: float
    family: str


@dataclass(frozen=True, slots=True)
class Pads:
    """Where the robot's pads must touch.

    Attributes:
        x_m: of the contact plane in the dock frame.
        z_m: of the pads' centre in the dock frame.
        half_width_m: largest lateral error that still makes contact, > 0.
        angle_tolerance_rad: largest yaw error that still makes contact, in (0, pi/2).
    """

    x_m: float
    z_m: float
    half_width_m: float
    angle_tolerance_rad: float


@dataclass(frozen=True, slots=True)
class DockModel:
    """The dock. Frame: origin at the centre of the panel's face, x into the dock, y left, z up.

    Attributes:
        panel: the plate.
        base: the box in front of it.
        decal: the mark on the plate.
        pads: where it is touched.
        keypoints_m: 12 points: corners of panel, base front and decal; of each: top left, top right, bottom
            right, bottom left as seen from the front.
    """

    panel: Panel
    base: Base
    decal: Decal
    pads: Pads
    keypoints_m: tuple[Vector3, ...]

    def points_m(self) -> NDArray[np.float64]:
        """(12, 3) float64 keypoints in the dock frame."""
        return np.array(self.keypoints_m, dtype=np.float64)


def parse_dock(text: str) -> DockModel:
    """Reads the text of ``dock.yaml``; unknown, missing, doubled and impossible entries are refused.

    The keypoints are listed for whoever reads only them; they must be the corners of the other entries.

    Raises:
        ConfigError: the text is not YAML, or not a dock; the message names the entry.
    """
    document = _mapping("dock.yaml", _load(text), {"version", "panel", "base", "decal", "pads", "keypoints"})
    if document["version"] != DOCK_VERSION or isinstance(document["version"], bool):
        raise ConfigError(f"dock.yaml: version must be {DOCK_VERSION}, got {document['version']!r}")
    panel = Panel(**_lengths("panel", document["panel"], {f.name for f in fields(Panel)}))
    base = Base(**_lengths("base", document["base"], {f.name for f in fields(Base)}))
    decal_entries = _mapping("decal", document["decal"], {"size_m", "family"})
    decal = Decal(_length("decal.size_m", decal_entries["size_m"]), decal_entries["family"])
    if decal.family != "tag36h11":
        raise ConfigError(f"dock.yaml: decal.family must be tag36h11, got {decal.family!r}")
    pads = _pads(document["pads"])
    if panel.centre_height_m < panel.height_m / 2 + base.height_m:
        raise ConfigError(
            f"dock.yaml: panel.centre_height_m {panel.centre_height_m} puts the base below the floor; "
            f"expected at least {panel.height_m / 2 + base.height_m}"
        )
    if decal.size_m > min(panel.width_m, panel.height_m):
        raise ConfigError(f"dock.yaml: decal.size_m {decal.size_m} is larger than the panel")
    dock = DockModel(panel, base, decal, pads, _keypoints(document["keypoints"]))
    _require_corners(dock)
    return dock


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML keeps the last of two equal keys in silence; a geometry must not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise ConfigError(f"dock.yaml: {key!r} is given twice, expected once")
        return super().construct_mapping(node, deep)


def _load(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise ConfigError(f"dock.yaml: not YAML: {error}") from error


def _mapping(name: str, value: Any, expected: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"dock.yaml: {name} must be a mapping, got {type(value).__name__}")
    seen = set(value)
    if seen != expected:
        missing, unknown = sorted(expected - seen), sorted(map(str, seen - expected))
        raise ConfigError(f"dock.yaml: {name}: missing {missing}, unknown {unknown}")
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"dock.yaml: {name} must be a finite number, got {value!r}")
    return float(value)


def _length(name: str, value: Any) -> float:
    length_m = _number(name, value)
    if not 0 < length_m <= _LENGTH_MAX_M:
        raise ConfigError(f"dock.yaml: {name} must be in (0, {_LENGTH_MAX_M}] m, got {length_m}")
    return length_m


def _lengths(name: str, value: Any, expected: set[str]) -> dict[str, float]:
    entries = _mapping(name, value, expected)
    return {key: _length(f"{name}.{key}", entry) for key, entry in entries.items()}


def _pads(value: Any) -> Pads:
    entries = _mapping("pads", value, {f.name for f in fields(Pads)})
    angle_rad = _number("pads.angle_tolerance_rad", entries["angle_tolerance_rad"])
    if not 0 < angle_rad < math.pi / 2:
        raise ConfigError(f"dock.yaml: pads.angle_tolerance_rad must be in (0, pi/2), got {angle_rad}")
    return Pads(
        _number("pads.x_m", entries["x_m"]),
        _number("pads.z_m", entries["z_m"]),
        _length("pads.half_width_m", entries["half_width_m"]),
        angle_rad,
    )


def _keypoints(value: Any) -> tuple[Vector3, ...]:
    if not isinstance(value, list) or len(value) != KEYPOINT_COUNT:
        raise ConfigError(f"dock.yaml: keypoints must be a list of {KEYPOINT_COUNT} points, got {value!r}")
    points: list[Vector3] = []
    for index, point in enumerate(value):
        if not isinstance(point, list) or len(point) != 3:
            raise ConfigError(f"dock.yaml: keypoints[{index}] must be [x, y, z], got {point!r}")
        x, y, z = (_number(f"keypoints[{index}]", v) for v in point)
        points.append((x, y, z))
    return tuple(points)


def _require_corners(dock: DockModel) -> None:
    """A pose solved on keypoints that are not where the texture puts them is wrong without a sign of it."""

    def rectangle(x_m: float, width_m: float, top_m: float, bottom_m: float) -> list[Vector3]:
        half_m = width_m / 2
        return [
            (x_m, half_m, top_m), (x_m, -half_m, top_m), (x_m, -half_m, bottom_m), (x_m, half_m, bottom_m),
        ]  # fmt: skip

    lower_m = -dock.panel.height_m / 2
    expected = (
        rectangle(0.0, dock.panel.width_m, -lower_m, lower_m)
        + rectangle(-dock.base.depth_m, dock.base.width_m, lower_m, lower_m - dock.base.height_m)
        + rectangle(0.0, dock.decal.size_m, dock.decal.size_m / 2, -dock.decal.size_m / 2)
    )
    for index, (seen, corner) in enumerate(zip(dock.keypoints_m, expected, strict=True)):
        if math.dist(seen, corner) > _CORNER_TOLERANCE_M:
            raise ConfigError(
                f"dock.yaml: keypoints[{index}] is {seen}, expected {corner} from panel, base and decal"
            )
