"""What the simulated world is made of: the robot and the room, read strictly from config/robot.yaml and world.yaml."""

import re
from typing import Annotated, Any, TypeVar

import msgspec
import yaml
from msgspec import Meta, Struct

from depai_robot.values.error import ConfigError
from depai_robot.values.geometry import Pose2

T = TypeVar("T")

PADS_PROUD_M = 0.02
"""Pads stand out from the body's front by this at most, or lie so deep in it."""

Length = Annotated[float, Meta(gt=0, le=100)]
Coordinate = Annotated[float, Meta(ge=-1000, le=1000)]
Positive = Annotated[float, Meta(gt=0, le=1e6)]
NotNegative = Annotated[float, Meta(ge=0, le=1e6)]
Angle = Annotated[float, Meta(ge=-6.2832, le=6.2832)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")]


class _Strict(Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Body(_Strict, frozen=True):
    """The robot's box, in metres and kilograms."""

    length_m: Length
    width_m: Length
    height_m: Length
    clearance_m: NotNegative
    mass_kg: Positive


class Wheels(_Strict, frozen=True):
    """Two driven wheels; casters carry the rest."""

    radius_m: Length
    track_m: Length


class CameraMount(_Strict, frozen=True):
    """A level camera that looks forward."""

    x_m: Coordinate
    z_m: Length
    width_px: Annotated[int, Meta(ge=16, le=4096)]
    height_px: Annotated[int, Meta(ge=16, le=4096)]
    focal_px: Positive
    rate_hz: Annotated[float, Meta(gt=0, le=120)]


class PadsMount(_Strict, frozen=True):
    """Charging pads on the robot's front."""

    x_m: Coordinate


class Limits(_Strict, frozen=True):
    """What the base does at most, whatever it is told."""

    linear_max_mps: Annotated[float, Meta(gt=0, le=5)]
    angular_max_radps: Annotated[float, Meta(gt=0, le=10)]
    linear_accel_max_mps2: Annotated[float, Meta(gt=0, le=20)]
    angular_accel_max_radps2: Annotated[float, Meta(gt=0, le=50)]
    command_timeout_s: Annotated[float, Meta(gt=0, le=5)]


class BatteryModel(_Strict, frozen=True):
    """The pack; see sim.battery for the equations."""

    capacity_wh: Positive
    cells: Annotated[int, Meta(ge=1, le=200)]
    internal_resistance_ohm: NotNegative
    charge_current_max_a: Positive
    charge_voltage_max_v: Positive
    onboard_load_w: NotNegative
    drive_load_w: NotNegative
    charge_efficiency: Annotated[float, Meta(gt=0.5, le=1)]


class RobotModel(_Strict, frozen=True):
    """config/robot.yaml."""

    version: Annotated[int, Meta(ge=1, le=1)]
    body: Body
    wheels: Wheels
    camera: CameraMount
    pads: PadsMount
    limits: Limits
    battery: BatteryModel


class Room(_Strict, frozen=True):
    """Four walls."""

    x_min_m: Coordinate
    x_max_m: Coordinate
    y_min_m: Coordinate
    y_max_m: Coordinate
    wall_height_m: Length


class Place(_Strict, frozen=True):
    """A pose on the floor."""

    x_m: Coordinate
    y_m: Coordinate
    yaw_rad: Angle

    def pose(self) -> Pose2:
        """As a value."""
        return Pose2(self.x_m, self.y_m, self.yaw_rad)


class DockPlace(_Strict, frozen=True):
    """Where a dock stands; x points into it."""

    id: Name
    marker_id: Annotated[int, Meta(ge=0, le=586)]
    x_m: Coordinate
    y_m: Coordinate
    yaw_rad: Angle

    def pose(self) -> Pose2:
        """As a value."""
        return Pose2(self.x_m, self.y_m, self.yaw_rad)


class WorldModel(_Strict, frozen=True):
    """config/world.yaml."""

    version: Annotated[int, Meta(ge=1, le=1)]
    room: Room
    start: Place
    docks: Annotated[list[DockPlace], Meta(min_length=1, max_length=32)]


def _parse(text: str, kind: type[T], name: str) -> T:
    try:
        data: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not YAML: {' '.join(str(error).split())}") from error
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        expected, _, place = str(error).partition(" - at `$")
        path = place.rstrip("`").lstrip(".")
        seen = _seen_at(data, path)
        raise ConfigError(f"{name}: {path + ': ' if path else ''}{expected}{seen}") from error


def _seen_at(data: Any, path: str) -> str:
    """What stands at a path such as ``docks[1].yaw_rad``, for a message."""
    for key in re.findall(r"[A-Za-z_]\w*|\d+", path):
        try:
            data = data[int(key)] if key.isdigit() else data[key]
        except (KeyError, IndexError, TypeError):
            return ""
    return "" if isinstance(data, dict) else f", got {data!r}"


def parse_robot(text: str, name: str = "robot.yaml") -> RobotModel:
    """Raises ConfigError, saying where and what was expected."""
    robot = _parse(text, RobotModel, name)
    body, pads = robot.body, robot.pads
    if abs(pads.x_m - body.length_m / 2) > PADS_PROUD_M:
        raise ConfigError(
            f"{name}: pads.x_m must be on the body's front, {body.length_m / 2} m, got {pads.x_m}"
        )
    if robot.camera.z_m <= body.clearance_m + body.height_m:
        raise ConfigError(
            f"{name}: camera.z_m must be above the body's top, {body.clearance_m + body.height_m:.3f} m,"
            f" got {robot.camera.z_m}"
        )
    return robot


def parse_world(text: str, name: str = "world.yaml") -> WorldModel:
    """Raises ConfigError, saying where and what was expected."""
    world = _parse(text, WorldModel, name)
    room = world.room
    if room.x_min_m >= room.x_max_m or room.y_min_m >= room.y_max_m:
        raise ConfigError(f"{name}: the room has no inside: {room}")
    ids = [dock.id for dock in world.docks]
    if len(set(ids)) != len(ids):
        raise ConfigError(f"{name}: dock ids must differ, got {ids}")
    for where, pose in (("start", world.start.pose()), *((dock.id, dock.pose()) for dock in world.docks)):
        if not (room.x_min_m < pose.x_m < room.x_max_m and room.y_min_m < pose.y_m < room.y_max_m):
            raise ConfigError(f"{name}: {where} at {pose.x_m}, {pose.y_m} is not in the room")
    return world
