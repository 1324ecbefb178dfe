"""Values of the agent: its state, what comes in (past tense) and what it wants (imperative)."""

from typing import Literal

import msgspec
from msgspec import Struct

from depai_robot.fleet.profile import Profile
from depai_robot.fleet.request import InstantActions, Order
from depai_robot.fleet.status import Status

ActionStatus = Literal["WAITING", "INITIALIZING", "RUNNING", "FINISHED", "FAILED"]
ENDED = ("FINISHED", "FAILED")
READY = ("AUTOMATIC", "SEMIAUTOMATIC")
"""Modes in which it takes orders."""
ACTIONS_MAX = 32
SEEN_MAX = 512
ORDER_KEY = "order:"
"""Before an order's id in the key of its RequestCharge."""


class Doing(Struct, frozen=True):
    """An action under way or ended.

    Attributes:
        id, kind, status, result: as reported.
        instant: not of an order.
        session: of the wallet, once it has one.
        since_ms: when it was accepted.
    """

    id: str
    kind: str
    status: ActionStatus
    instant: bool
    since_ms: int
    result: str = ""
    session: str = ""


class Fault(Struct, frozen=True):
    """An error that is reported.

    Attributes:
        kind: key of the table of error types.
        words: for people.
        references: keys and values.
        at_ms: when it came up.
        of_order: reported until a new order is accepted; others until the next instant action is accepted.
    """

    kind: str
    words: str
    references: tuple[tuple[str, str], ...]
    at_ms: int
    of_order: bool


class Task(Struct, frozen=True):
    """The order in hand, or the last one.

    Attributes:
        order_id, update_id: empty and 0 before the first.
        node_id, sequence_id: its only node.
        phase: ``none``, ``active``, ``done``, ``cancelled``.
        session: of the wallet.
        fingerprint: of nodes and edges, to tell a repetition from another order with the same number.
    """

    order_id: str = ""
    update_id: int = 0
    node_id: str = ""
    sequence_id: int = 0
    phase: Literal["none", "active", "done", "cancelled"] = "none"
    session: str = ""
    fingerprint: str = ""


class AgentState(Struct, frozen=True, kw_only=True):
    """Of one agent.

    Attributes:
        profile: of the robot.
        status: newest.
        known: whether there was a status at all.
        connected: whether the broker has us.
        header_ids: next per topic.
        task: see there.
        actions: newest last, bounded.
        seen: ids of actions that were ever taken, newest last, bounded.
        faults: newest last, bounded.
        last_node_id, last_node_sequence_id: passed last.
        stated_ms, shown_ms: when the last state and visualization were sent.
    """

    profile: Profile
    status: Status = Status()
    known: bool = False
    connected: bool = False
    header_ids: dict[str, int] = {}
    task: Task = Task()
    actions: tuple[Doing, ...] = ()
    seen: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    last_node_id: str = ""
    last_node_sequence_id: int = 0
    stated_ms: int = -(10**15)
    shown_ms: int = -(10**15)


# --- inputs -------------------------------------------------------------------------------------------------


class _Fact(Struct, frozen=True, tag=True):
    at_ms: int
    """Wall clock, Unix milliseconds."""


class ConnectionTried(_Fact, frozen=True):
    """A connection is about to be made: the will must be fresh."""


class Connected(_Fact, frozen=True):
    """The broker has let us in."""


class ConnectionLost(_Fact, frozen=True):
    """It is gone; states are not sent until it is back."""


class StopAsked(_Fact, frozen=True):
    """The program ends in order."""


class TimePassed(_Fact, frozen=True):
    """Several times a second."""


class StatusObserved(_Fact, frozen=True):
    """The robot looked at itself."""

    status: Status


class OrderReceived(_Fact, frozen=True):
    """Well-formed."""

    order: Order


class ActionsReceived(_Fact, frozen=True):
    """Well-formed."""

    request: InstantActions


class RequestRefused(_Fact, frozen=True):
    """Not well-formed."""

    topic: str
    words: str
    references: tuple[tuple[str, str], ...]


class ChargeAnswered(_Fact, frozen=True):
    """The wallet took the intent, or did not.

    Attributes:
        key: of the effect.
        session: empty when refused.
        words: why.
    """

    key: str
    session: str
    words: str = ""


Fact = (
    ConnectionTried
    | Connected
    | ConnectionLost
    | StopAsked
    | TimePassed
    | StatusObserved
    | OrderReceived
    | ActionsReceived
    | RequestRefused
    | ChargeAnswered
)


# --- effects ------------------------------------------------------------------------------------------------


class SetWill(Struct, frozen=True):
    """What the broker shall say when the connection about to be made is lost."""

    topic: str
    payload: bytes


class Publish(Struct, frozen=True):
    """A message; reliable ones are QoS 1."""

    topic: str
    payload: bytes
    reliable: bool = False
    retain: bool = False


class RequestCharge(Struct, frozen=True):
    """The wallet shall buy energy, if its policy lets it.

    Attributes:
        key: comes back in ChargeAnswered.
        station: the only one; empty for any.
    """

    key: str
    station: str = ""


class StopCharge(Struct, frozen=True):
    """Buy no more, settle, leave."""


class SetPause(Struct, frozen=True):
    """The base shall stand still, or may go on."""

    paused: bool


Effect = SetWill | Publish | RequestCharge | StopCharge | SetPause
Step = tuple[AgentState, tuple[Effect, ...]]


def change(state: AgentState, **fields: object) -> AgentState:
    """A state with some fields replaced."""
    return msgspec.structs.replace(state, **fields)
