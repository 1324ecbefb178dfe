"""Small changes of the agent's state that several of its rules share."""

import hashlib

import msgspec

from depai_robot.fleet import statement
from depai_robot.fleet.agent_state import (
    ACTIONS_MAX,
    ENDED,
    ORDER_KEY,
    ActionStatus,
    AgentState,
    Doing,
    Fault,
    Publish,
    change,
)
from depai_robot.fleet.profile import Profile, factsheet
from depai_robot.fleet.report import Header
from depai_robot.fleet.request import Order

FAULTS_MAX = 16


def report_fault(
    state: AgentState,
    kind: str,
    words: str,
    references: tuple[tuple[str, str], ...],
    at_ms: int,
    *,
    of_order: bool,
) -> AgentState:
    """Adds an entry to ``errors``; the same one again replaces the older."""
    fault = Fault(kind, words[:512], references, at_ms, of_order)
    rest = tuple(item for item in state.faults if (item.kind, item.references) != (kind, references))
    return change(state, faults=(*rest, fault)[-FAULTS_MAX:])


def end_action(state: AgentState, doing: Doing, status: ActionStatus, words: str, at_ms: int) -> AgentState:
    """FINISHED or FAILED; a failure is reported in ``errors`` with the action as reference."""
    actions = tuple(
        msgspec.structs.replace(item, status=status, result=words[:512]) if item is doing else item
        for item in state.actions
    )
    state = change(state, actions=actions)
    if status != "FAILED":
        return state
    references: tuple[tuple[str, str], ...] = (("actionId", doing.id), ("actionType", doing.kind))
    charge = state.status.charge
    if doing.session and charge.session == doing.session and charge.station:
        references = (*references, ("station", charge.station))
    return report_fault(
        state, "action-failed", words or "failed", references, at_ms, of_order=not doing.instant
    )


def end_task(state: AgentState, phase: str, status: ActionStatus, words: str = "") -> AgentState:
    """The order is over, and with it what was to be done at its node."""
    actions = tuple(
        msgspec.structs.replace(item, status=status, result=words)
        if not item.instant and item.status not in ENDED
        else item
        for item in state.actions
    )
    return change(state, task=msgspec.structs.replace(state.task, phase=phase), actions=actions)


def fail_task(state: AgentState, words: str, at_ms: int) -> AgentState:
    """The order can't be fulfilled; reported with order and node as references."""
    task = state.task
    state = end_task(state, "cancelled", "FAILED", words)
    references = (
        ("orderId", task.order_id),
        ("orderUpdateId", str(task.update_id)),
        ("nodeId", task.node_id),
    )
    return report_fault(
        state, "unreached", words or "no charge at that dock", references, at_ms, of_order=True
    )


def give_session(state: AgentState, key: str, session: str) -> AgentState:
    """Ties an intent to the session that the wallet began for it."""
    if key == ORDER_KEY + state.task.order_id:
        if state.task.phase != "active":
            return state
        task = msgspec.structs.replace(state.task, session=session)
        actions = tuple(
            msgspec.structs.replace(item, session=session, status="INITIALIZING")
            if not item.instant and item.status == "WAITING"
            else item
            for item in state.actions
        )
        return change(state, task=task, actions=actions)
    actions = tuple(
        msgspec.structs.replace(item, session=session)
        if item.kind == "startCharging" and item.instant and key in (item.id, item.session)
        else item
        for item in state.actions
    )
    return change(state, actions=actions)


def mark_running(state: AgentState, *, instant: bool, doing: Doing | None = None) -> AgentState:
    """INITIALIZING becomes RUNNING: of the order (``doing`` None) or of one instant action."""
    actions = tuple(
        msgspec.structs.replace(item, status="RUNNING")
        if item.instant == instant and item.status == "INITIALIZING" and doing in (None, item)
        else item
        for item in state.actions
    )
    return change(state, actions=actions)


def is_addressed(profile: Profile, manufacturer: str, serial: str) -> bool:
    """Whether a message is for this robot."""
    return (manufacturer, serial) == (profile.manufacturer, profile.serial)


def is_asking(state: AgentState) -> bool:
    """Whether a startCharging is under way."""
    return any(item.kind == "startCharging" and item.status not in ENDED for item in state.actions)


def is_cancelling(state: AgentState) -> bool:
    """Whether a cancelOrder is under way."""
    return any(item.kind == "cancelOrder" and item.status not in ENDED for item in state.actions)


def fingerprint(order: Order) -> str:
    """Of what an order says."""
    return hashlib.sha256(msgspec.json.encode((order.nodes, order.edges))).hexdigest()


def bound_actions(actions: tuple[Doing, ...]) -> tuple[Doing, ...]:
    """Ended ones go first when there are too many."""
    surplus = len(actions) - ACTIONS_MAX
    kept = []
    for item in actions:
        if surplus > 0 and item.status in ENDED:
            surplus -= 1
        else:
            kept.append(item)
    return tuple(kept[-ACTIONS_MAX:])


def send_factsheet(state: AgentState, at_ms: int) -> tuple[AgentState, Publish]:
    """The factsheet with its next header id."""
    number = next_id(state, "factsheet", at_ms)
    head = Header(**statement.header(state.profile, number, at_ms))  # type: ignore[arg-type]
    state = change(state, header_ids=state.header_ids | {"factsheet": number + 1})
    return state, Publish(state.profile.topic("factsheet"), factsheet(state.profile, head), retain=True)


def next_id(state: AgentState, topic: str, at_ms: int) -> int:
    """Header id that a topic's next message takes."""
    # The first id is the Unix second: so a program started anew does not repeat the id of a retained message.
    return state.header_ids.get(topic, at_ms // 1000)
