"""What an operator may ask of a robot: roles, commands, and the VDA 5050 message that carries one. Pure.

A role here keeps people from accidents. What keeps strangers out is the broker's access list and, for money, the
signature of a key that the robot's owner has allowed: a viewer's console should have neither.
"""

from dataclasses import dataclass
from datetime import datetime, timezone
from enum import IntEnum

import msgspec

from depai_robot.console.fleet import Robot
from depai_robot.console.vda import Address
from depai_robot.values.error import ConfigError

VERSION_BY_MAJOR = {"v2": "2.1.0", "v3": "3.0.0"}


class Role(IntEnum):
    """Each may do what those below it may.

    VIEWER looks, filters, exports. OPERATOR acknowledges alerts and sends commands that move or charge a robot.
    """

    VIEWER = 0
    OPERATOR = 1


def parse_role(name: str) -> Role:
    """``viewer`` or ``operator``.

    Raises:
        ConfigError: another word.
    """
    try:
        return Role[name.upper()]
    except KeyError as error:
        raise ConfigError(
            f"role {name!r}, expected {' or '.join(role.name.lower() for role in Role)}"
        ) from error


@dataclass(frozen=True, slots=True)
class Command:
    """One instant action.

    Attributes:
        name: VDA 5050 actionType.
        label: in words.
        warning: what the person who confirms should know.
    """

    name: str
    label: str
    warning: str


COMMANDS: tuple[Command, ...] = (
    Command("startCharging", "Charge now", "It will spend its owner's money, within its owner's policy."),
    Command("stopCharging", "Stop charging", "It stops buying, settles what it has signed, and leaves."),
    Command("cancelOrder", "Cancel its order", "It stops as soon as it safely can and forgets the order."),
    Command("startPause", "Pause", "It stands still until somebody resumes it. This is no emergency stop."),
    Command("stopPause", "Resume", "It may begin to MOVE at once. Make sure that nobody stands before it."),
    Command("stateRequest", "Ask for its state", "Nothing else happens."),
    Command("factsheetRequest", "Ask for its factsheet", "Nothing else happens."),
)


def header(address: Address, header_id: int, now_s: float) -> dict[str, object]:
    """The first keys of every message to a robot. Source: VDA 5050, protocol header."""
    moment = datetime.fromtimestamp(now_s, tz=timezone.utc)
    return {
        "headerId": header_id,
        "timestamp": moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z",
        "version": VERSION_BY_MAJOR.get(address.major, f"{address.major.lstrip('v')}.0.0"),
        "manufacturer": address.manufacturer,
        "serialNumber": address.serial,
    }


def instant_action(
    robot: Robot, command: Command, *, action_id: str, header_id: int, now_s: float
) -> tuple[str, bytes]:
    """Topic and payload of an instantActions message with one action; QoS 0, as the standard wants."""
    body = header(robot.address, header_id, now_s) | {
        "actions": [
            {
                "actionType": command.name,
                "actionId": action_id,
                "blockingType": "NONE",  # the only one that 3.0.0 allows here
                "actionParameters": [],
            }
        ]
    }
    return robot.address.topic("instantActions"), msgspec.json.encode(body)
