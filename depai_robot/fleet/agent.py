"""The agent: ``step(state, fact) -> (state, effects)``. What fleet control asks, and when the robot reports.

An order is accepted when it is one released node, a dock that the robot knows, with the action startCharging: its pads
are dead until they are paid for, so it never drives to a dock for nothing. Source: VDA 5050 2.1.0 § 6.6 to 6.10 and
3.0.0 § 6.1 to 6.6.
"""

from depai_robot.fleet import statement
from depai_robot.fleet.agent_state import (
    ActionsReceived,
    AgentState,
    ChargeAnswered,
    Connected,
    ConnectionLost,
    ConnectionTried,
    Effect,
    Fact,
    OrderReceived,
    Publish,
    RequestRefused,
    SetWill,
    StatusObserved,
    Step,
    StopAsked,
    change,
)
from depai_robot.fleet.instant import take_actions
from depai_robot.fleet.order import take_order
from depai_robot.fleet.profile import Profile
from depai_robot.fleet.progress import go_on, take_answer
from depai_robot.fleet.turn import next_id, report_fault, send_factsheet


def initial_state(profile: Profile) -> AgentState:
    """Nothing known yet."""
    return AgentState(profile=profile)


def step(state: AgentState, fact: Fact) -> Step:
    """One fact further. Publishes a state when something that matters has changed, or when it is time."""
    before = _essence(state)
    force = False
    if isinstance(fact, ConnectionTried):
        return state, (_will(state, fact.at_ms),)
    if isinstance(fact, Connected):
        state, effects = _greet(state, fact.at_ms)
        force = True
    elif isinstance(fact, ConnectionLost):
        return change(state, connected=False), ()
    elif isinstance(fact, StopAsked):
        return _leave(state, fact.at_ms)
    elif isinstance(fact, StatusObserved):
        force = not state.known
        state, effects = go_on(change(state, status=fact.status, known=True), fact.at_ms), ()
    elif isinstance(fact, OrderReceived):
        state, effects = take_order(state, fact.order, fact.at_ms)
    elif isinstance(fact, ActionsReceived):
        state, effects, force = take_actions(state, fact)
    elif isinstance(fact, RequestRefused):
        of_order = fact.topic.endswith("/order")
        state, effects = (
            report_fault(state, "malformed", fact.words, fact.references, fact.at_ms, of_order=of_order),
            (),
        )
    elif isinstance(fact, ChargeAnswered):
        state, effects = go_on(take_answer(state, fact), fact.at_ms), ()
    else:
        state, effects = go_on(state, fact.at_ms), ()
    return _report(state, effects, fact.at_ms, force=force or _essence(state) != before)


def _essence(state: AgentState) -> tuple[object, ...]:
    """What a change of which is an event (2.1.0 § 6.10.1, and our phases of charging)."""
    status = state.status
    return (
        state.task,
        state.actions,
        state.faults,
        state.last_node_id,
        status.charging,
        status.driving,
        status.paused,
        status.mode,
        status.e_stop,
        status.field_violation,
        status.troubles,
        (status.charge.session, status.charge.phase, status.charge.station),
        (status.charge.fault, status.charge.receipt),
    )


def _will(state: AgentState, at_ms: int) -> SetWill:
    # ONLINE will take the next id, so this is the one after.
    number = next_id(state, "connection", at_ms) + 1
    payload = statement.connection(state.profile, "CONNECTIONBROKEN", number, at_ms)
    return SetWill(state.profile.topic("connection"), payload)


def _greet(state: AgentState, at_ms: int) -> Step:
    number = next_id(state, "connection", at_ms)
    ids = state.header_ids | {"connection": number + 2}
    online = statement.connection(state.profile, "ONLINE", number, at_ms)
    state = change(state, connected=True, header_ids=ids)
    state, sheet = send_factsheet(state, at_ms)
    topic = state.profile.topic("connection")
    return state, (Publish(topic, online, reliable=True, retain=True), sheet)


def _leave(state: AgentState, at_ms: int) -> Step:
    if not state.connected:
        return state, ()
    number = next_id(state, "connection", at_ms) - 1  # the will's, which is not sent
    offline = statement.connection(state.profile, "OFFLINE", number, at_ms)
    topic = state.profile.topic("connection")
    return change(state, connected=False), (Publish(topic, offline, reliable=True, retain=True),)


def _report(state: AgentState, effects: tuple[Effect, ...], at_ms: int, *, force: bool) -> Step:
    if not state.connected or not state.known:
        return state, effects
    profile = state.profile
    # A clock that went back must not silence the robot.
    due = not 0 <= at_ms - state.stated_ms < profile.state_period_s * 1000
    if force or due:
        number = next_id(state, "state", at_ms)
        payload = statement.state_message(state, number, at_ms)
        ids = state.header_ids | {"state": number + 1}
        state = change(state, header_ids=ids, stated_ms=at_ms)
        effects = (*effects, Publish(profile.topic("state"), payload))
    period_ms = profile.visualization_period_s * 1000
    if period_ms and state.status.place is not None and not 0 <= at_ms - state.shown_ms < period_ms:
        number = next_id(state, "visualization", at_ms)
        last = next_id(state, "state", at_ms) - 1
        payload = statement.visualization_message(state, number, at_ms, last)
        ids = state.header_ids | {"visualization": number + 1}
        state = change(state, header_ids=ids, shown_ms=at_ms)
        effects = (*effects, Publish(profile.topic("visualization"), payload))
    return state, effects
