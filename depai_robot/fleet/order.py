"""Whether an order is taken. Source: VDA 5050 2.1.0 § 6.6.4, 3.0.0 § 6.1.4."""

import msgspec

from depai_robot.fleet.agent_state import (
    ACTIONS_MAX,
    ENDED,
    ORDER_KEY,
    READY,
    SEEN_MAX,
    AgentState,
    Doing,
    RequestCharge,
    Step,
    Task,
    change,
)
from depai_robot.fleet.progress import go_on
from depai_robot.fleet.request import Order
from depai_robot.fleet.turn import fingerprint, give_session, is_addressed, is_cancelling, report_fault


def _order_references(order: Order, *more: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    return (("orderId", order.order_id), ("orderUpdateId", str(order.order_update_id)), *more)


def take_order(state: AgentState, order: Order, at_ms: int) -> Step:
    """Takes an order over, or reports why not and keeps the one it has."""
    task = state.task
    is_again = (order.order_id, order.order_update_id) == (
        task.order_id,
        task.update_id,
    ) and task.phase != "none"
    # 2.1.0 ignores the second; 3.0.0 wants to hear of it when it differs.
    if is_again and (not state.profile.is_v3 or fingerprint(order) == task.fingerprint):
        return state, ()
    refusal = _refuse_order(state, order)
    if refusal is not None:
        kind, words, *more = refusal
        references = _order_references(order, *more)  # type: ignore[arg-type]
        return report_fault(state, kind, words, references, at_ms, of_order=True), ()  # type: ignore[arg-type]
    node = order.nodes[0]
    if order.order_id == task.order_id:
        # The same node again with a higher number: only the number changes.
        return change(state, task=msgspec.structs.replace(task, update_id=order.order_update_id)), ()
    kept = tuple(
        item for item in state.actions if item.status not in ENDED or (state.profile.is_v3 and item.instant)
    )
    actions = tuple(Doing(item.action_id, item.action_type, "WAITING", False, at_ms) for item in node.actions)
    state = change(
        state,
        task=Task(
            order_id=order.order_id,
            update_id=order.order_update_id,
            node_id=node.node_id,
            sequence_id=node.sequence_id,
            phase="active",
            fingerprint=fingerprint(order),
        ),
        actions=(*kept, *actions)[-ACTIONS_MAX:],
        seen=(*state.seen, *(item.action_id for item in node.actions))[-SEEN_MAX:],
        faults=tuple(item for item in state.faults if not item.of_order),
    )
    charge = state.status.charge
    if not charge.ended:
        return go_on(give_session(state, ORDER_KEY + order.order_id, charge.session), at_ms), ()
    station = state.profile.stations_by_node[node.node_id]
    return state, (RequestCharge(ORDER_KEY + order.order_id, station),)


def _refuse_order(state: AgentState, order: Order) -> tuple[object, ...] | None:
    """Kind of the fault, words, references; None when the order can be taken."""
    profile, task = state.profile, state.task
    if not is_addressed(profile, order.manufacturer, order.serial_number):
        return "malformed", f"addressed to {order.manufacturer}/{order.serial_number}"
    if order.order_id == task.order_id and task.phase != "none":
        if order.order_update_id < task.update_id:
            return "outdated", f"update {order.order_update_id}, update {task.update_id} is known"
        if order.order_update_id == task.update_id:
            return "same", f"another order with the number {order.order_update_id}"
        if task.phase == "cancelled":
            return "after-cancel", "the order was cancelled"
        if fingerprint(order) != task.fingerprint:
            return (
                "order",
                "an order of one node can't be changed or lengthened",
                ("nodes", str(len(order.nodes))),
            )
        return None
    if task.phase == "active" or is_cancelling(state):
        return "busy", f"order {task.order_id} is not finished"
    if state.status.mode not in READY or not state.known:
        return "mode", f"the robot is in mode {state.status.mode}" if state.known else "the robot is starting"
    if len(order.nodes) != 1 or order.edges:
        return (
            "order",
            f"{len(order.nodes)} nodes and {len(order.edges)} edges; this robot takes orders of one node, a dock",
            ("nodes", str(len(order.nodes))),
            ("edges", str(len(order.edges))),
        )
    node = order.nodes[0]
    if not node.released:
        return "order", "its only node is not released", ("nodeId", node.node_id)
    if order.zone_set_id is not msgspec.UNSET and order.zone_set_id:
        return "parameter", "zone sets are not known here", ("zoneSetId", order.zone_set_id)
    if node.node_id not in profile.stations_by_node:
        return "no-route", "no dock of that name is known", ("nodeId", node.node_id)
    return _refuse_node(state, order)


def _refuse_node(state: AgentState, order: Order) -> tuple[object, ...] | None:
    node, charge = order.nodes[0], state.status.charge
    for action in node.actions:
        if action.action_type != "startCharging" or action.action_parameters:
            return (
                "order-action",
                f"{action.action_type}: only startCharging without parameters can be done at a dock",
                ("actionId", action.action_id),
            )
        if action.action_id in state.seen:
            return "order-action", "an action of that id was taken before", ("actionId", action.action_id)
    if len(node.actions) != 1:
        return (
            "order-action",
            f"{len(node.actions)} actions; a dock is for charging: expected one startCharging",
            ("nodeId", node.node_id),
        )
    if not charge.ended and charge.station != state.profile.stations_by_node[node.node_id]:
        return "busy", f"session {charge.session} at {charge.station or 'no station yet'} is open"
    return None
