"""What the wallet and the docking node say to each other, as JSON in std_msgs/String.

Standard messages carry no dock id, and an interface package of our own comes with the ROS interfaces
(docs/decisions/0003); until then these two topics do, decoded as strictly as a message from outside:

``docking/command``: {"id": 7, "verb": "dock" | "undock" | "stop", "dock": "dock_a", "pose": [x_m, y_m, yaw_rad]}
``docking/state``: {"id": 7, "phase": "APPROACHING", "result": "" or "docked" and so on, "reason": ""}

A command is latched and has a number that rises; the state names the command it answers, so a lost or repeated
message changes nothing.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from depai_robot.values.error import RemoteError

Metres = Annotated[float, Meta(ge=-10_000, le=10_000)]
Radians = Annotated[float, Meta(ge=-7, le=7)]


class DockingCommand(Struct, frozen=True, forbid_unknown_fields=True):
    """What the docking node shall do.

    Attributes:
        id: rises with each command of one wallet process; begins at its start time so that a restart rises too.
        verb: dock, undock or stop.
        dock: id of the dock; empty for stop.
        pose: expected pose of the dock in the map frame, x_m, y_m, yaw_rad (x into the dock).
    """

    id: int
    verb: Literal["dock", "undock", "stop"]
    dock: str = ""
    pose: tuple[Metres, Metres, Radians] = (0.0, 0.0, 0.0)


class DockingState(Struct, frozen=True, forbid_unknown_fields=True):
    """How far it is.

    Attributes:
        id: of the command it is about, 0 before the first.
        phase: of the docking machine.
        result: empty while under way.
        reason: of a failure.
    """

    id: int
    phase: str
    result: Literal["", "docked", "undocked", "failed", "stopped"] = ""
    reason: str = ""


def encode(message: DockingCommand | DockingState) -> str:
    """JSON text."""
    return msgspec.json.encode(message).decode()


def decode_command(text: str) -> DockingCommand:
    """Raises RemoteError, saying what was wrong."""
    try:
        return msgspec.json.decode(text, type=DockingCommand)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise RemoteError(f"docking/command refused: {error}") from error


def decode_state(text: str) -> DockingState:
    """Raises RemoteError, saying what was wrong."""
    try:
        return msgspec.json.decode(text, type=DockingState)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise RemoteError(f"docking/state refused: {error}") from error
