"""What docking is told: wishes and facts, each with its time."""

from dataclasses import dataclass

from depai_robot.values.geometry import Pose2


@dataclass(frozen=True, slots=True)
class DockAsked:
    """Go to a dock.

    Attributes:
        stamp_ns: now.
        dock: its id.
        expected_in_odom: where the map says it is, x into the dock.
    """

    stamp_ns: int
    dock: str
    expected_in_odom: Pose2


@dataclass(frozen=True, slots=True)
class UndockAsked:
    """Leave."""

    stamp_ns: int


@dataclass(frozen=True, slots=True)
class StopAsked:
    """Stop where the robot is."""

    stamp_ns: int


@dataclass(frozen=True, slots=True)
class EmergencyStopped:
    """Stop and stay, until released."""

    stamp_ns: int


@dataclass(frozen=True, slots=True)
class EmergencyReleased:
    """A person has looked."""

    stamp_ns: int


@dataclass(frozen=True, slots=True)
class DockSeen:
    """The camera saw a dock.

    Attributes:
        stamp_ns: of the image.
        dock_in_base: its pose in the robot's frame at that time.
    """

    stamp_ns: int
    dock_in_base: Pose2


@dataclass(frozen=True, slots=True)
class OdometryRead:
    """Where the wheels say the robot is; also the tick that makes a command.

    Attributes:
        stamp_ns: now.
        base_in_odom: pose.
    """

    stamp_ns: int
    base_in_odom: Pose2


@dataclass(frozen=True, slots=True)
class ContactChanged:
    """The pads touch, or do not."""

    stamp_ns: int
    touching: bool


@dataclass(frozen=True, slots=True)
class WayWatched:
    """Whether something stands in the robot's way.

    Attributes:
        stamp_ns: now.
        clear: False pauses; True lets it go on.
    """

    stamp_ns: int
    clear: bool


Input = (
    DockAsked
    | UndockAsked
    | StopAsked
    | EmergencyStopped
    | EmergencyReleased
    | DockSeen
    | OdometryRead
    | ContactChanged
    | WayWatched
)
