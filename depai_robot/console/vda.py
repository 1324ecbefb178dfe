"""What the console reads of VDA 5050 (2.x and 3.x): only the fields it shows, and never more text than it can keep.

Tolerant on purpose: unknown keys pass, since a console also watches robots that others built. A known key of another
type refuses the message. Nothing here sends.
Source: VDA 5050 2.1.0 and 3.0.0, JSON schemas of connection, state, factsheet and visualization.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
from msgspec import Struct

from depai_robot.values.error import RemoteError

MESSAGE_BYTES_MAX = 128 * 1024
"""A state of a robot on a long order has a few tens of kB; more is refused."""
TEXT_MAX = 96
LIST_MAX = 16
"""Errors kept of a state; the others are counted."""
SUBTOPICS = ("connection", "state", "factsheet", "visualization")
ONLINE, OFFLINE, BROKEN = "ONLINE", "OFFLINE", "CONNECTIONBROKEN"


class UnreadableMessageError(RemoteError):
    """A message is not what VDA 5050 says; it was counted and dropped."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a robot's topics are.

    Attributes:
        interface: first level, ``uagv`` by custom of 2.x.
        major: second level, ``v2``.
        manufacturer, serial: of the robot.
    """

    interface: str
    major: str
    manufacturer: str
    serial: str

    @property
    def key(self) -> str:
        """Names a robot in the whole console: ``manufacturer/serial``."""
        return f"{self.manufacturer}/{self.serial}"

    def topic(self, name: str) -> str:
        """Topic of one of its messages."""
        return f"{self.interface}/{self.major}/{self.manufacturer}/{self.serial}/{name}"


def clean(text: str, length_max: int = TEXT_MAX) -> str:
    """Without what a terminal would obey, and not longer than the limit."""
    if len(text) > length_max:
        text = text[: length_max - 1] + "…"
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def parse_topic(topic: str) -> tuple[Address, str] | None:
    """Address and message name, or None when the topic is none of VDA 5050's."""
    parts = topic.split("/")
    if len(parts) != 5 or parts[4] not in SUBTOPICS or not all(parts):
        return None
    if not topic.isprintable() or len(topic) > 4 * TEXT_MAX:
        return None
    return Address(*parts[:4]), parts[4]


class Reference(Struct):
    """Key and value beside an error or an information."""

    referenceKey: str = ""  # noqa: N815 - names of the standard
    referenceValue: str = ""  # noqa: N815


class ErrorEntry(Struct):
    """One of ``errors``."""

    errorType: str = ""  # noqa: N815
    errorLevel: str = ""  # noqa: N815
    errorDescription: str = ""  # noqa: N815
    errorReferences: list[Reference] = msgspec.field(default_factory=list)  # noqa: N815


class InfoEntry(Struct):
    """One of ``information``."""

    infoType: str = ""  # noqa: N815
    infoReferences: list[Reference] = msgspec.field(default_factory=list)  # noqa: N815
    infoDescription: str = ""  # noqa: N815


class Battery(Struct):
    """``batteryState`` (2.x): percent."""

    batteryCharge: float = -1.0  # noqa: N815
    charging: bool = False
    batteryVoltage: float | None = None  # noqa: N815
    batteryHealth: float | None = None  # noqa: N815


class Power(Struct):
    """``powerSupply`` (3.x): percent."""

    stateOfCharge: float = -1.0  # noqa: N815
    charging: bool = False


class Position(Struct):
    """``agvPosition`` (2.x), ``mobileRobotPosition`` (3.x): metres and radians in the map."""

    x: float = 0.0
    y: float = 0.0
    theta: float = 0.0
    mapId: str = ""  # noqa: N815


class Safety(Struct):
    """``safetyState`` of both versions."""

    eStop: str = ""  # noqa: N815
    activeEmergencyStop: str = ""  # noqa: N815
    fieldViolation: bool = False  # noqa: N815


class ActionState(Struct):
    """One of ``actionStates`` or ``instantActionStates``."""

    actionId: str = ""  # noqa: N815
    actionType: str = ""  # noqa: N815
    actionStatus: str = ""  # noqa: N815
    resultDescription: str = ""  # noqa: N815
    actionResult: str = ""  # noqa: N815


class State(Struct):
    """What is read of ``state``, 2.x and 3.x."""

    headerId: int = -1  # noqa: N815
    timestamp: str = ""
    version: str = ""
    serialNumber: str = ""  # noqa: N815
    orderId: str = ""  # noqa: N815
    lastNodeId: str = ""  # noqa: N815
    driving: bool = False
    paused: bool = False
    operatingMode: str = ""  # noqa: N815
    batteryState: Battery | None = None  # noqa: N815
    powerSupply: Power | None = None  # noqa: N815
    agvPosition: Position | None = None  # noqa: N815
    mobileRobotPosition: Position | None = None  # noqa: N815
    safetyState: Safety | None = None  # noqa: N815
    errors: list[ErrorEntry] = msgspec.field(default_factory=list)
    information: list[InfoEntry] = msgspec.field(default_factory=list)
    actionStates: list[ActionState] = msgspec.field(default_factory=list)  # noqa: N815
    instantActionStates: list[ActionState] = msgspec.field(default_factory=list)  # noqa: N815


class Connection(Struct):
    """What is read of ``connection``."""

    connectionState: str = ""  # noqa: N815
    headerId: int = -1  # noqa: N815
    timestamp: str = ""
    serialNumber: str = ""  # noqa: N815


class Visualization(Struct):
    """What is read of ``visualization``."""

    agvPosition: Position | None = None  # noqa: N815
    mobileRobotPosition: Position | None = None  # noqa: N815


_STATE = msgspec.json.Decoder(State)
_CONNECTION = msgspec.json.Decoder(Connection)
_VISUALIZATION = msgspec.json.Decoder(Visualization)


def _check_size(payload: bytes) -> None:
    if len(payload) > MESSAGE_BYTES_MAX:
        raise UnreadableMessageError(f"{len(payload)} bytes, at most {MESSAGE_BYTES_MAX} are read")


def read_state(payload: bytes) -> State:
    """Decodes a state.

    Raises:
        UnreadableMessageError: not JSON, another type in a field that is read, or too long.
    """
    _check_size(payload)
    try:
        return _STATE.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableMessageError(f"state: {error}") from error


def read_connection(payload: bytes) -> Connection:
    """Decodes a connection message; the 3.x word for a broken connection becomes that of 2.x.

    Raises:
        UnreadableMessageError: as :func:`read_state`, or an unknown word.
    """
    _check_size(payload)
    try:
        found = _CONNECTION.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableMessageError(f"connection: {error}") from error
    found.connectionState = found.connectionState.replace("_", "")
    if found.connectionState not in (ONLINE, OFFLINE, BROKEN, "HIBERNATING"):
        raise UnreadableMessageError(
            f"connectionState {clean(found.connectionState)!r}, expected {ONLINE}, {OFFLINE} or {BROKEN}"
        )
    return found


def read_position(payload: bytes) -> Position | None:
    """Position out of a visualization message, if it has one.

    Raises:
        UnreadableMessageError: as :func:`read_state`.
    """
    _check_size(payload)
    try:
        found = _VISUALIZATION.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableMessageError(f"visualization: {error}") from error
    return found.agvPosition or found.mobileRobotPosition


@dataclass(frozen=True, slots=True)
class Charging:
    """What ``information`` says of buying energy. Numbers are None where the robot does not say.

    Attributes:
        phase: of the wallet's session, ``CHARGING``.
        station: id.
        session: id.
        energy_milliwh: of the session, reconciled.
        cost_atomic: owed for the session so far.
        price_atomic_per_kwh: agreed.
        spent_today_atomic: by the robot's own ledger.
        budget_today_atomic: what its owner's policy allows a day.
        fault: which rule the station broke, or why charging failed.
        receipt: id or file of the last receipt.
    """

    phase: str = ""
    station: str = ""
    session: str = ""
    energy_milliwh: int | None = None
    cost_atomic: int | None = None
    price_atomic_per_kwh: int | None = None
    spent_today_atomic: int | None = None
    budget_today_atomic: int | None = None
    fault: str = ""
    receipt: str = ""


NO_CHARGING = Charging()
# Keys of infoReferences, small letters without separators -> field.
_TEXTS: Mapping[str, str] = {
    "phase": "phase",
    "chargingphase": "phase",
    "station": "station",
    "stationid": "station",
    "session": "session",
    "sessionid": "session",
    "fault": "fault",
    "receipt": "receipt",
}
_NUMBERS: Mapping[str, str] = {
    "energymilliwh": "energy_milliwh",
    "costatomic": "cost_atomic",
    "priceatomicperkwh": "price_atomic_per_kwh",
    "spenttodayatomic": "spent_today_atomic",
    "spentdayatomic": "spent_today_atomic",
    "budgettodayatomic": "budget_today_atomic",
    "budgetdayatomic": "budget_today_atomic",
    "daymaxatomic": "budget_today_atomic",
}
_KEY_BY_SPELLING: dict[str, str] = {}
_SPELLINGS_MAX = 1000


def _plain_key(key: str) -> str:
    found = _KEY_BY_SPELLING.get(key)
    if found is None:
        found = "".join(c for c in key.lower() if c.isalnum())
        if len(_KEY_BY_SPELLING) < _SPELLINGS_MAX:
            _KEY_BY_SPELLING[key] = found
    return found


def read_charging(entries: list[InfoEntry]) -> Charging:
    """Folds every entry about charging (``infoType`` with ``charging`` or ``depai`` in it) into one value."""
    found: dict[str, str | int] = {}
    for entry in entries:
        kind = entry.infoType.lower()
        if "charging" not in kind and "depai" not in kind:
            continue
        for reference in entry.infoReferences:
            key = _plain_key(reference.referenceKey)
            if key in _TEXTS:
                found[_TEXTS[key]] = clean(reference.referenceValue)
            elif (
                key in _NUMBERS
                and reference.referenceValue.isdecimal()
                and len(reference.referenceValue) < 20
            ):
                found[_NUMBERS[key]] = int(reference.referenceValue)
    return Charging(**found) if found else NO_CHARGING  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Fault:
    """One entry of ``errors``, cleaned."""

    kind: str
    level: str
    text: str
    station: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """A state in the console's words.

    Attributes:
        battery_percent: -1 when unknown.
        task: order, or the instant action that runs.
        faults: at most LIST_MAX.
        fault_count: all of them.
        actions: (action id, status, result) of the instant actions, newest last.
    """

    header_id: int
    timestamp: str
    version: str
    battery_percent: float
    charging_now: bool
    mode: str
    driving: bool
    paused: bool
    task: str
    emergency: str
    field_violation: bool
    position: Position | None
    charging: Charging
    faults: tuple[Fault, ...]
    fault_count: int
    actions: tuple[tuple[str, str, str], ...] = field(default=())


def _running(state: State) -> str:
    for action in (*state.instantActionStates, *state.actionStates):
        if action.actionStatus in ("RUNNING", "INITIALIZING"):
            return action.actionType or action.actionId
    return ""


def to_reading(state: State) -> Reading:
    """The state in the console's words."""
    battery, power, safety = state.batteryState, state.powerSupply, state.safetyState
    emergency = (safety.eStop or safety.activeEmergencyStop) if safety else ""
    return Reading(
        header_id=state.headerId,
        timestamp=clean(state.timestamp, 32),
        version=clean(state.version, 16),
        battery_percent=battery.batteryCharge if battery else power.stateOfCharge if power else -1.0,
        charging_now=battery.charging if battery else power.charging if power else False,
        mode=clean(state.operatingMode, 16),
        driving=state.driving,
        paused=state.paused,
        task=clean(state.orderId or _running(state), 40),
        emergency="" if emergency == "NONE" else clean(emergency, 16),
        field_violation=safety.fieldViolation if safety else False,
        position=state.agvPosition or state.mobileRobotPosition,
        charging=read_charging(state.information) if state.information else NO_CHARGING,
        faults=tuple(
            Fault(
                clean(entry.errorType, 48),
                clean(entry.errorLevel, 12),
                clean(entry.errorDescription),
                next(
                    (clean(r.referenceValue) for r in entry.errorReferences if r.referenceKey == "station"),
                    "",
                ),
            )
            for entry in state.errors[:LIST_MAX]
        ),
        fault_count=len(state.errors),
        actions=tuple(
            (a.actionId, a.actionStatus, clean(a.resultDescription or a.actionResult))
            for a in (*state.instantActionStates, *state.actionStates)[-LIST_MAX:]
        ),
    )
