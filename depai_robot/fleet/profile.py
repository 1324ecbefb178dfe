"""Who the robot is to a fleet: names, topics, what it can do; and the factsheet made of that."""

import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from depai_robot.fleet.report import Version
from depai_robot.values.error import ConfigError

STATE_PERIOD_MAX_S = 30.0
"""VDA 5050 2.1.0 § 6.10: at the latest every 30 s."""
_ELEMENT = re.compile(r"[A-Za-z0-9_.:-]{1,64}\Z")
"""Characters of a serial number, VDA 5050 2.1.0 § 6.4; kept for every topic level."""
_INTERFACE_BY_VERSION = {"2.1.0": "uagv", "3.0.0": "vda5050"}

Positive = Annotated[float, Meta(gt=0, le=1000)]


class Shape(Struct, frozen=True, forbid_unknown_fields=True):
    """Of the robot, for the factsheet.

    Attributes:
        series: name of the model.
        speed_max_mps, acceleration_max_mps2, deceleration_max_mps2: of the base.
        height_m, width_m, length_m: outside.
    """

    series: str = "depai robot"
    speed_max_mps: Positive = 0.5
    acceleration_max_mps2: Positive = 0.5
    deceleration_max_mps2: Positive = 1.0
    height_m: Positive = 0.3
    width_m: Positive = 0.4
    length_m: Positive = 0.5


class Profile(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of one robot.

    Attributes:
        manufacturer, serial: levels of its topics; the serial is the robot's id.
        version: of VDA 5050.
        interface: first level of the topics; empty for the custom of the version.
        map_id: of the map that its positions are in.
        stations_by_node: node id of a dock -> id of the station that sells there. Orders to other nodes are refused.
        can_pause: whether the base obeys startPause and stopPause.
        state_period_s: between states while nothing happens.
        visualization_period_s: between positions; 0 sends none.
        shape: for the factsheet.
    """

    manufacturer: str
    serial: str
    version: Version = "2.1.0"
    interface: str = ""
    map_id: str = "map"
    stations_by_node: dict[str, str] = {}
    can_pause: bool = False
    state_period_s: Annotated[float, Meta(ge=0.2, le=STATE_PERIOD_MAX_S)] = STATE_PERIOD_MAX_S
    visualization_period_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    shape: Shape = Shape()

    def __post_init__(self) -> None:
        levels = {"manufacturer": self.manufacturer, "serial": self.serial}
        if self.interface:
            levels["interface"] = self.interface
        for name, text in levels.items():
            if _ELEMENT.match(text) is None:
                raise ConfigError(f"{name}: expected 1 to 64 of A-Z a-z 0-9 _ . : -, got {text!r}")

    @property
    def is_v3(self) -> bool:
        """Whether it speaks 3.0.0."""
        return self.version == "3.0.0"

    def topic(self, name: str) -> str:
        """Of one of its messages, ``uagv/v2/<manufacturer>/<serial>/<name>``."""
        interface = self.interface or _INTERFACE_BY_VERSION[self.version]
        return f"{interface}/v{self.version[0]}/{self.manufacturer}/{self.serial}/{name}"


INSTANT_ACTIONS = ("startCharging", "stopCharging", "stateRequest", "factsheetRequest", "cancelOrder")


def actions_known(profile: Profile) -> tuple[str, ...]:
    """Instant actions that this robot does."""
    pause = ("startPause", "stopPause") if profile.can_pause else ()
    return INSTANT_ACTIONS + pause + (("clearInstantActions",) if profile.is_v3 else ())


_WORDS = {
    "startCharging": "Buys energy at a station of its choice, within its owner's policy; at a node: there.",
    "stopCharging": "Buys no more, settles what was signed, leaves the dock.",
    "stateRequest": "Sends a state.",
    "factsheetRequest": "Sends this.",
    "cancelOrder": "Gives the order up.",
    "startPause": "Stands still.",
    "stopPause": "Goes on.",
    "clearInstantActions": "Forgets instant actions that have ended.",
}


def factsheet(profile: Profile, header: Struct) -> bytes:
    """The factsheet message, encoded. Source: JSON schemas of factsheet, 2.1.0 and 3.0.0."""
    body: dict[str, Any] = msgspec.to_builtins(header)
    body |= _factsheet_3(profile) if profile.is_v3 else _factsheet_2(profile)
    return msgspec.json.encode(body)


def _actions(profile: Profile) -> list[dict[str, Any]]:
    actions = []
    for name in actions_known(profile):
        scopes = ["INSTANT", "NODE"] if name == "startCharging" else ["INSTANT"]
        item: dict[str, Any] = {
            "actionType": name,
            "actionDescription": _WORDS[name],
            "actionScopes": scopes,
            "actionParameters": [],
        }
        if profile.is_v3:
            # The schema of 2.1.0 has an enum at the array where its items were meant: no list passes, so it has none.
            item |= {
                "blockingTypes": ["NONE"],
                "pauseAllowed": False,
                "cancelAllowed": name == "startCharging",
            }
        actions.append(item)
    return actions


_ARRAYS = {"order.nodes": 1, "order.edges": 0, "node.actions": 1, "instantActions": 32}


def _factsheet_2(profile: Profile) -> dict[str, Any]:
    shape = profile.shape
    return {
        "typeSpecification": {
            "seriesName": shape.series,
            "agvKinematic": "DIFF",
            "agvClass": "CARRIER",
            "maxLoadMass": 0,
            "localizationTypes": ["NATURAL"],
            "navigationTypes": ["AUTONOMOUS"],
        },
        "physicalParameters": {
            "speedMin": 0.0,
            "speedMax": shape.speed_max_mps,
            "accelerationMax": shape.acceleration_max_mps2,
            "decelerationMax": shape.deceleration_max_mps2,
            "heightMax": shape.height_m,
            "width": shape.width_m,
            "length": shape.length_m,
        },
        "protocolLimits": {
            "maxStringLens": {"idLen": 256},
            "maxArrayLens": _ARRAYS,
            "timing": {
                "minOrderInterval": 1.0,
                "minStateInterval": 0.1,
                "defaultStateInterval": profile.state_period_s,
                "visualizationInterval": profile.visualization_period_s,
            },
        },
        "protocolFeatures": {"optionalParameters": [], "agvActions": _actions(profile)},
        "agvGeometry": {},
        "loadSpecification": {},
    }


def _factsheet_3(profile: Profile) -> dict[str, Any]:
    shape = profile.shape
    return {
        "typeSpecification": {
            "seriesName": shape.series,
            "mobileRobotKinematics": "DIFFERENTIAL",
            "mobileRobotClass": "CARRIER",
            "maximumLoadMass": 0,
            "localizationTypes": ["NATURAL"],
            "navigationTypes": ["AUTONOMOUS"],
        },
        "physicalParameters": {
            "minimumSpeed": 0.0,
            "maximumSpeed": shape.speed_max_mps,
            "maximumAcceleration": shape.acceleration_max_mps2,
            "maximumDeceleration": shape.deceleration_max_mps2,
            "minimumHeight": shape.height_m,
            "maximumHeight": shape.height_m,
            "width": shape.width_m,
            "length": shape.length_m,
        },
        "protocolLimits": {
            "maximumStringLengths": {"maximumIdLength": 256},
            "maximumArrayLengths": _ARRAYS,
            "timing": {
                "minimumOrderInterval": 1.0,
                "minimumStateInterval": 0.1,
                "defaultStateInterval": profile.state_period_s,
                "visualizationInterval": profile.visualization_period_s,
            },
        },
        "protocolFeatures": {"optionalParameters": [], "mobileRobotActions": _actions(profile)},
        "mobileRobotGeometry": {},
        "loadSpecification": {},
    }
