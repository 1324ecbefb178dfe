"""What the newest status, the wallet's answer and the time mean for the order and the actions under way."""

from depai_robot.fleet.agent_state import ENDED, ORDER_KEY, AgentState, ChargeAnswered, Doing, change
from depai_robot.fleet.turn import end_action, end_task, fail_task, give_session, mark_running

SESSION_WAIT_MS = 60_000
"""A session that the wallet took and that nobody sees after this time will not come."""
STOP_WAIT_MS = 900_000
PAUSE_WAIT_MS = 30_000


def take_answer(state: AgentState, fact: ChargeAnswered) -> AgentState:
    """The wallet has begun a session for an intent, or refused it."""
    if fact.session:
        return give_session(state, fact.key, fact.session)
    if fact.key == ORDER_KEY + state.task.order_id and state.task.phase == "active":
        return fail_task(state, fact.words, fact.at_ms)
    for item in state.actions:
        if fact.key in (item.id, item.session) and item.status not in ENDED and item.instant:
            state = end_action(state, item, "FAILED", fact.words, fact.at_ms)
    return state


def go_on(state: AgentState, at_ms: int) -> AgentState:
    """What the newest status and the time mean for actions and order."""
    state = _progress_task(state, at_ms)
    for doing in state.actions:
        if doing.instant and doing.status not in ENDED:
            state = _progress_action(state, doing, at_ms)
    return state


def _progress_task(state: AgentState, at_ms: int) -> AgentState:
    task, status = state.task, state.status
    charge = status.charge
    if task.phase != "active" or not task.session:
        return state
    if charge.session == task.session:
        if status.charging:
            state = change(state, last_node_id=task.node_id, last_node_sequence_id=task.sequence_id)
            return end_task(state, "done", "FINISHED")
        if charge.ended:
            return fail_task(state, charge.fault or f"the session ended in {charge.phase}", at_ms)
        if charge.station:
            return mark_running(state, instant=False)
        return state
    if any(not item.instant and at_ms - item.since_ms > SESSION_WAIT_MS for item in state.actions):
        return fail_task(state, "the wallet did not begin a session", at_ms)
    return state


def _progress_action(state: AgentState, doing: Doing, at_ms: int) -> AgentState:
    status = state.status
    charge = status.charge
    age_ms = at_ms - doing.since_ms
    if doing.kind == "startCharging":
        if charge.session and charge.session == doing.session:
            if status.charging:
                return end_action(state, doing, "FINISHED", "", at_ms)
            if charge.ended:
                return end_action(
                    state, doing, "FAILED", charge.fault or f"the session ended in {charge.phase}", at_ms
                )
            return mark_running(state, instant=True, doing=doing) if charge.station else state
        if age_ms > SESSION_WAIT_MS:
            return end_action(state, doing, "FAILED", "the wallet did not begin a session", at_ms)
        return state
    if doing.kind in ("stopCharging", "cancelOrder"):
        if charge.ended and not status.charging and (doing.kind != "cancelOrder" or not status.driving):
            return end_action(state, doing, "FINISHED", "", at_ms)
        if age_ms > STOP_WAIT_MS:
            return end_action(state, doing, "FAILED", f"the session is still {charge.phase}", at_ms)
        return state
    if status.paused == (doing.kind == "startPause"):
        return end_action(state, doing, "FINISHED", "", at_ms)
    if age_ms > PAUSE_WAIT_MS:
        return end_action(state, doing, "FAILED", "the base did not follow", at_ms)
    return state
