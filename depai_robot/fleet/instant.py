"""What instant actions do. Source: VDA 5050 2.1.0 § 6.8, 3.0.0 § 6.2."""

from depai_robot.fleet.agent_state import (
    ENDED,
    READY,
    SEEN_MAX,
    ActionsReceived,
    ActionStatus,
    AgentState,
    Doing,
    Effect,
    RequestCharge,
    SetPause,
    Step,
    StopCharge,
    change,
)
from depai_robot.fleet.profile import actions_known
from depai_robot.fleet.progress import go_on
from depai_robot.fleet.request import Action
from depai_robot.fleet.turn import (
    bound_actions,
    end_task,
    is_addressed,
    is_asking,
    report_fault,
    send_factsheet,
)


def take_actions(state: AgentState, fact: ActionsReceived) -> tuple[AgentState, tuple[Effect, ...], bool]:
    """One message of instant actions; each id is done once. True when a state was asked for."""
    request = fact.request
    if not is_addressed(state.profile, request.manufacturer, request.serial_number):
        words = f"addressed to {request.manufacturer}/{request.serial_number}"
        return report_fault(state, "malformed", words, (), fact.at_ms, of_order=False), (), False
    effects: tuple[Effect, ...] = ()
    force = False
    for action in request.actions:
        if action.action_id in state.seen:
            continue  # at-least-once, and the standard's idempotence
        force = force or action.action_type == "stateRequest"
        state = change(state, seen=(*state.seen, action.action_id)[-SEEN_MAX:])
        state, more = _take_action(state, action, fact.at_ms)
        effects = (*effects, *more)
    return go_on(state, fact.at_ms), effects, force


def _add(
    state: AgentState,
    action: Action,
    status: ActionStatus,
    at_ms: int,
    *,
    result: str = "",
    session: str = "",
) -> AgentState:
    doing = Doing(action.action_id, action.action_type, status, True, at_ms, result[:512], session)
    if status != "FAILED":
        # Reported until a new instant action is accepted.
        state = change(state, faults=tuple(item for item in state.faults if item.of_order))
    return change(state, actions=bound_actions((*state.actions, doing)))


def _refuse_action(state: AgentState, action: Action, kind: str, words: str, at_ms: int) -> AgentState:
    state = _add(state, action, "FAILED", at_ms, result=words)
    references = (("actionId", action.action_id), ("actionType", action.action_type))
    return report_fault(state, kind, words, references, at_ms, of_order=kind == "no-order")


def _take_action(state: AgentState, action: Action, at_ms: int) -> Step:
    kind, profile = action.action_type, state.profile
    if kind not in actions_known(profile):
        return _refuse_action(
            state, action, "action", f"{kind[:64]} is not known or not possible here", at_ms
        ), ()
    if action.action_parameters and kind != "cancelOrder":
        return _refuse_action(state, action, "action", f"{kind} takes no parameters", at_ms), ()
    if kind == "startCharging":
        return _start_charging(state, action, at_ms)
    if kind == "stopCharging":
        if state.status.charge.ended and not state.status.charging and not is_asking(state):
            return _add(state, action, "FINISHED", at_ms), ()
        return _add(state, action, "RUNNING", at_ms), (StopCharge(),)
    if kind == "cancelOrder":
        return _cancel(state, action, at_ms)
    if kind in ("startPause", "stopPause"):
        wanted = kind == "startPause"
        if state.status.paused == wanted:
            return _add(state, action, "FINISHED", at_ms), ()
        return _add(state, action, "RUNNING", at_ms), (SetPause(wanted),)
    if kind == "factsheetRequest":
        state, sheet = send_factsheet(_add(state, action, "FINISHED", at_ms), at_ms)
        return state, (sheet,)
    if kind == "clearInstantActions":
        kept = tuple(item for item in state.actions if not item.instant or item.status not in ENDED)
        return _add(change(state, actions=kept), action, "FINISHED", at_ms), ()
    return _add(state, action, "FINISHED", at_ms), ()


def _start_charging(state: AgentState, action: Action, at_ms: int) -> Step:
    status = state.status
    if not state.known:
        return _refuse_action(state, action, "action-failed", "the robot is starting", at_ms), ()
    if status.charging:
        return _add(state, action, "FINISHED", at_ms), ()
    if status.mode not in READY:
        words = f"the robot is in mode {status.mode}"
        return _refuse_action(state, action, "action-failed", words, at_ms), ()
    if not status.charge.ended:
        return _add(state, action, "INITIALIZING", at_ms, session=status.charge.session), ()
    asked = next(
        (item for item in state.actions if item.kind == "startCharging" and item.status not in ENDED), None
    )
    if asked is not None:
        # Shares the fate of the one that is under way.
        return _add(state, action, "INITIALIZING", at_ms, session=asked.session or asked.id), ()
    state = _add(state, action, "INITIALIZING", at_ms, session="")
    return state, (RequestCharge(action.action_id),)


def _cancel(state: AgentState, action: Action, at_ms: int) -> Step:
    named = next((item.value for item in action.action_parameters if item.key == "orderId"), None)
    if state.task.phase != "active" or named not in (None, state.task.order_id):
        return _refuse_action(state, action, "no-order", "there is no such order to cancel", at_ms), ()
    state = end_task(state, "cancelled", "FAILED", "the order was cancelled")
    return _add(state, action, "RUNNING", at_ms), (StopCharge(),)
