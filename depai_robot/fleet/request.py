"""What a fleet control sends: orders and instant actions, decoded strictly in what is used, tolerant in the rest.

Source: VDA 5050 2.1.0 and 3.0.0, JSON schemas of order and instantActions.
"""

from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from depai_robot.values.error import RemoteError

MESSAGE_BYTES_MAX = 256 * 1024
BRACKETS_MAX = 20_000
ACTIONS_MAX = 32
TEXT_MAX = 256


class RefusedRequestError(RemoteError):
    """A message from fleet control is not what the standard says.

    Attributes:
        references: of what could be read of it, for the error that is reported.
    """

    def __init__(self, text: str, references: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(text)
        self.references = references


class _Part(Struct, frozen=True, rename="camel", kw_only=True):
    pass


class Parameter(_Part, frozen=True, kw_only=True):
    """Of an action."""

    key: str
    value: Any


class Action(_Part, frozen=True, kw_only=True):
    """Something to do, at a node or at once."""

    action_type: str
    action_id: str
    blocking_type: Literal["NONE", "SOFT", "SINGLE", "HARD"]
    action_parameters: tuple[Parameter, ...] = ()


class _Header(_Part, frozen=True, kw_only=True):
    header_id: int
    timestamp: str
    version: str
    manufacturer: str
    serial_number: str


class InstantActions(_Header, frozen=True, kw_only=True):
    """Actions that are done at once."""

    actions: tuple[Action, ...]


class Node(_Part, frozen=True, kw_only=True):
    """A place of an order; where it lies in the map the robot knows better."""

    node_id: str
    sequence_id: int
    released: bool
    actions: tuple[Action, ...]
    zone_set_id: str | UnsetType = UNSET


class Edge(_Part, frozen=True, kw_only=True):
    """A way between nodes; this robot finds its own."""

    edge_id: str
    sequence_id: int


class Order(_Header, frozen=True, kw_only=True):
    """Where to go and what to do there."""

    order_id: str
    order_update_id: int
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    zone_set_id: str | UnsetType = UNSET


class _Names(Struct, rename="camel"):
    order_id: Any = ""
    order_update_id: Any = ""


_ORDER = msgspec.json.Decoder(Order)
_INSTANT = msgspec.json.Decoder(InstantActions)
_NAMES = msgspec.json.Decoder(_Names)
_REFUSED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def _check(payload: bytes, what: str) -> None:
    if len(payload) > MESSAGE_BYTES_MAX:
        raise RefusedRequestError(f"{what}: {len(payload)} bytes, at most {MESSAGE_BYTES_MAX} are read")
    if payload.count(b"[") + payload.count(b"{") > BRACKETS_MAX:
        raise RefusedRequestError(f"{what}: more than {BRACKETS_MAX} brackets")


def _check_texts(what: str, *texts: str) -> None:
    for text in texts:
        if not text or len(text) > TEXT_MAX or not text.isprintable():
            raise RefusedRequestError(
                f"{what}: an id or type must be 1 to {TEXT_MAX} printable characters, got {text[:40]!r}"
            )


def _check_actions(what: str, actions: tuple[Action, ...]) -> None:
    if len(actions) > ACTIONS_MAX:
        raise RefusedRequestError(f"{what}: {len(actions)} actions, at most {ACTIONS_MAX}")
    for action in actions:
        _check_texts(what, action.action_id, action.action_type)


def read_order(payload: bytes) -> Order:
    """Decodes an order.

    Raises:
        RefusedRequestError: malformed; ``references`` name the order where they could be read.
    """
    _check(payload, "order")
    try:
        order = _ORDER.decode(payload)
        _check_texts("order", order.order_id)
        for node in order.nodes:
            _check_texts("order", node.node_id)
            _check_actions("order", node.actions)
    except _REFUSED as error:
        raise RefusedRequestError(f"order: {error}", _names(payload)) from error
    except RefusedRequestError as error:
        raise RefusedRequestError(str(error), _names(payload)) from error
    return order


def _names(payload: bytes) -> tuple[tuple[str, str], ...]:
    try:
        names = _NAMES.decode(payload)
    except _REFUSED:
        return ()
    pairs = (("orderId", names.order_id), ("orderUpdateId", names.order_update_id))
    return tuple(
        (key, str(value)[:TEXT_MAX]) for key, value in pairs if isinstance(value, str | int) and value != ""
    )


def read_instant_actions(payload: bytes) -> InstantActions:
    """Decodes instant actions.

    Raises:
        RefusedRequestError: malformed.
    """
    _check(payload, "instantActions")
    try:
        request = _INSTANT.decode(payload)
    except _REFUSED as error:
        raise RefusedRequestError(f"instantActions: {error}") from error
    _check_actions("instantActions", request.actions)
    return request
