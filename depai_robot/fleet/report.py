"""What the robot says of itself, as VDA 5050 writes it: 2.1.0 and 3.0.0 side by side, encoded by msgspec.

Fields without a default are required by the standard; UNSET is left out. Source: JSON schemas of connection, state and
visualization of both versions; names are theirs, in snake case here.
"""

from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

Version = Literal["2.1.0", "3.0.0"]
Level = Literal["WARNING", "URGENT", "CRITICAL", "FATAL"]


class _Part(Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True):
    pass


class Header(_Part, frozen=True, kw_only=True):
    """First keys of every message."""

    header_id: int
    timestamp: str
    version: str
    manufacturer: str
    serial_number: str


class Connection(Header, frozen=True, kw_only=True):
    """Both versions; the word for a lost connection differs."""

    connection_state: str


class Reference(_Part, frozen=True, kw_only=True):
    """Beside an error or an information."""

    reference_key: str
    reference_value: str


class Error(_Part, frozen=True, kw_only=True):
    """Both versions; 2.1.0 knows the levels WARNING and FATAL only."""

    error_type: str
    error_references: tuple[Reference, ...]
    error_description: str
    error_level: Level


class Information2(_Part, frozen=True, kw_only=True):
    """2.1.0."""

    info_type: str
    info_references: tuple[Reference, ...]
    info_description: str | UnsetType = UNSET
    info_level: str


class Information3(_Part, frozen=True, kw_only=True):
    """3.0.0."""

    info_type: str
    info_references: tuple[Reference, ...]
    info_descriptor: str | UnsetType = UNSET
    info_level: str


class ActionState2(_Part, frozen=True, kw_only=True):
    """2.1.0."""

    action_id: str
    action_type: str
    action_status: str
    result_description: str | UnsetType = UNSET


class ActionState3(_Part, frozen=True, kw_only=True):
    """3.0.0."""

    action_id: str
    action_type: str
    action_status: str
    action_result: str | UnsetType = UNSET


class NodeState(_Part, frozen=True, kw_only=True):
    """A node that is not reached yet."""

    node_id: str
    sequence_id: int
    released: bool


class Position2(_Part, frozen=True, kw_only=True):
    """2.1.0: metres and radians in the map's frame."""

    x: float
    y: float
    theta: float
    map_id: str
    position_initialized: bool


class Position3(_Part, frozen=True, kw_only=True):
    """3.0.0."""

    x: float
    y: float
    theta: float
    map_id: str
    localized: bool


class Velocity(_Part, frozen=True, kw_only=True):
    """In the robot's frame, m/s and rad/s."""

    vx: float
    vy: float
    omega: float


class Battery2(_Part, frozen=True, kw_only=True):
    """2.1.0: percent, volts."""

    battery_charge: float
    battery_voltage: float | UnsetType = UNSET
    charging: bool


class Power3(_Part, frozen=True, kw_only=True):
    """3.0.0: percent, volts, amperes."""

    state_of_charge: float
    battery_voltage: float | UnsetType = UNSET
    battery_current: float | UnsetType = UNSET
    charging: bool


class Safety2(_Part, frozen=True, kw_only=True):
    """2.1.0."""

    e_stop: str
    field_violation: bool


class Safety3(_Part, frozen=True, kw_only=True):
    """3.0.0."""

    active_emergency_stop: str
    field_violation: bool


class _State(Header, frozen=True, kw_only=True):
    order_id: str
    order_update_id: int
    last_node_id: str
    last_node_sequence_id: int
    driving: bool
    paused: bool
    operating_mode: str
    node_states: tuple[NodeState, ...]
    edge_states: tuple[()]
    errors: tuple[Error, ...]
    velocity: Velocity | UnsetType = UNSET


class State2(_State, frozen=True, kw_only=True):
    """2.1.0."""

    agv_position: Position2 | UnsetType = UNSET
    action_states: tuple[ActionState2, ...]
    battery_state: Battery2
    information: tuple[Information2, ...]
    safety_state: Safety2


class State3(_State, frozen=True, kw_only=True):
    """3.0.0."""

    mobile_robot_position: Position3 | UnsetType = UNSET
    action_states: tuple[ActionState3, ...]
    instant_action_states: tuple[ActionState3, ...]
    power_supply: Power3
    information: tuple[Information3, ...]
    safety_state: Safety3


class Visualization2(Header, frozen=True, kw_only=True):
    """2.1.0."""

    agv_position: Position2 | UnsetType = UNSET
    velocity: Velocity | UnsetType = UNSET


class Visualization3(Header, frozen=True, kw_only=True):
    """3.0.0."""

    reference_state_header_id: int
    mobile_robot_position: Position3 | UnsetType = UNSET
    velocity: Velocity | UnsetType = UNSET


def encode(message: Struct) -> bytes:
    """JSON as it is published."""
    return msgspec.json.encode(message)
