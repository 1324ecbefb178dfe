"""The robot's machine: ``step(state, fact) -> (state, effects)``.

Every fact is dispatched by the phase of the session it belongs to. What is normal noise of an at-least-once world
(repeated, late, stale) is counted and changes nothing; a move that is not in the table raises and the state stays.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from depai_robot.charging import (
    robot_block,
    robot_channel,
    robot_charging,
    robot_ending,
    robot_quoting,
    robot_settlement,
)
from depai_robot.charging.effect import (
    CallForHelp,
    CancelDocking,
    Effects,
    ReadHead,
    StartUndocking,
    WatchProbe,
)
from depai_robot.charging.envelope import open_token
from depai_robot.charging.fact import (
    AuthorizationObserved,
    BatteryObserved,
    ChainFailed,
    ChainHeadObserved,
    ChannelCloseRequested,
    ChannelObserved,
    ChargeRequested,
    DockingEnded,
    Fact,
    FundsObserved,
    JournalAccepted,
    MessageReceived,
    MessageSealed,
    ProbeRead,
    Restarted,
    StopRequested,
    TimerFired,
    TransactionConfirmed,
    TransactionSigned,
    UndockingEnded,
)
from depai_robot.charging.message import (
    Draft,
    NeedVoucher,
    Offer,
    PaymentResult,
    Quote,
    QuoteReject,
    ReceiptMessage,
    SessionEvent,
    SessionStop,
)
from depai_robot.charging.robot_state import Head, KnownOffer, RobotState, Session, summarise
from depai_robot.charging.robot_turn import RobotTurn
from depai_robot.charging.selection import Wanted
from depai_robot.charging.setting import RobotSettings
from depai_robot.charging.transition import RobotPhase
from depai_robot.payment.x402 import EXACT
from depai_robot.values.error import BugError, JournalError
from depai_robot.values.identity import require_id

STEP_VERSION = 2
"""Rises when a change of the machine would fold an old journal to another state."""

_BEFORE_SIGNATURE = (RobotPhase.QUOTING, RobotPhase.BACKING_OFF, RobotPhase.CALLING_FOR_HELP)
_AT_STATION = (RobotPhase.FUNDING, RobotPhase.APPROACHING, RobotPhase.PRESENTING, RobotPhase.CHARGING)
_SETTLING = (RobotPhase.SETTLING, RobotPhase.WITHDRAWING, RobotPhase.SETTLED)
_FREE = (RobotPhase.SETTLED, RobotPhase.WITHDRAWING)


def initial_state(settings: RobotSettings) -> RobotState:
    """A robot that has never charged."""
    return RobotState(settings=settings)


def summary(state: RobotState) -> dict[str, Any]:
    """What a screen shows: plain values only."""
    return summarise(state)


def is_at_rest(state: RobotState) -> bool:
    """Whether nothing is open: a snapshot may be taken."""
    return not state.background and state.phase in (RobotPhase.IDLE.value, RobotPhase.SETTLED.value)


def encode_state(state: RobotState) -> bytes:
    """A snapshot. Raises BugError unless the robot is at rest."""
    if not is_at_rest(state):
        raise BugError(f"a snapshot needs a robot at rest, it is {state.phase}")
    return msgspec.msgpack.encode(state)


def decode_state(data: bytes, settings: RobotSettings) -> RobotState:
    """A snapshot under the settings of now. Raises JournalError when it is none."""
    try:
        return replace(msgspec.msgpack.decode(data, type=RobotState), settings=settings)
    except msgspec.MsgspecError as error:
        raise JournalError(f"the snapshot is not one of step version {STEP_VERSION}: {error}") from error


def step(state: RobotState, fact: Fact) -> tuple[RobotState, Effects]:
    """One fact in, the new state and the wishes out. Pure and deterministic.

    Raises:
        BugError: the fact is none of a robot's, or leads to a move that is not in the table; the state stays.
    """
    now_ns = fact.at.session_ns
    if isinstance(fact, Restarted):
        return _restart(state, fact)
    state = replace(state, now_ns=now_ns)
    if isinstance(fact, ChargeRequested):
        return _request(state, fact)
    if isinstance(fact, ChannelCloseRequested):
        return _close(state, fact)
    if isinstance(fact, JournalAccepted):
        return _accept_loss(state, fact)
    if isinstance(fact, MessageReceived):
        return _receive(state, fact)
    if isinstance(fact, ChainHeadObserved):
        head = Head(fact.number, fact.timestamp_s, now_ns, fact.timestamp_s - fact.at.wall_s)
        return _each(replace(state, head=head), fact, list(state.sessions))
    if isinstance(fact, ChannelObserved):
        ids = [
            s.id for s in state.sessions.values() if s.agreement and s.agreement.channel_id == fact.channel_id
        ]
        return _each(state, fact, ids)
    if isinstance(fact, TimerFired):
        return _each(state, fact, [fact.name.partition("/")[0]])
    if isinstance(fact, MessageSealed):
        return _each(state, fact, [fact.id.rpartition(".r.")[0]])
    if isinstance(
        fact,
        ChainFailed | TransactionSigned | TransactionConfirmed | FundsObserved | AuthorizationObserved,
    ):
        return _each(state, fact, [fact.purpose.rpartition(":")[0]])
    if isinstance(fact, BatteryObserved) and fact.reading is not None:
        state = replace(state, reading=fact.reading)
    if isinstance(fact, StopRequested | DockingEnded | ProbeRead | UndockingEnded | BatteryObserved):
        return _each(state, fact, [state.session.id] if state.session else [])
    raise BugError(f"{type(fact).__name__} is not a fact of a robot")


def _each(state: RobotState, fact: Fact, ids: list[str]) -> tuple[RobotState, Effects]:
    """The fact for every session that it concerns."""
    effects: Effects = ()
    sessions = [state.sessions[key] for key in ids if key in state.sessions]
    if not sessions:
        return _ignore(state, f"{type(fact).__name__} of no open session"), ()
    for session in sessions:
        turn = RobotTurn(state, fact, type(fact).__name__, session)
        _HANDLER[type(fact)](turn, fact)
        state = turn.store()
        effects += turn.finish()
    return state, effects


def _ignore(state: RobotState, reason: str) -> RobotState:
    return replace(state, ignored={**state.ignored, reason: state.ignored.get(reason, 0) + 1})


# --- begin and restart --------------------------------------------------------------------------------------


def _request(state: RobotState, fact: ChargeRequested) -> tuple[RobotState, Effects]:
    state = replace(state, reading=fact.reading)
    session = state.session
    if session is not None and session.phase not in [phase.value for phase in _FREE]:
        turn = RobotTurn(state, fact, "ChargeRequested", session)
        if turn.at_phase(RobotPhase.BACKING_OFF, RobotPhase.CALLING_FOR_HELP):
            robot_quoting.on_waiting_reading(turn, fact.reading)
        else:
            turn.ignore("charge requested while one is going on")
        return turn.store(), turn.finish()
    if session is not None and session.dock in ("held", "leaving"):
        return _ignore(state, "charge requested while a dock holds the robot"), ()
    if fact.session in state.sessions:
        return _ignore(state, "charge requested twice"), ()
    epoch = state.settings.policy.epoch
    if epoch <= state.settle_only_epoch:
        help_me = CallForHelp(
            f"rows of the journal are lost: nothing is bought under a policy of epoch {epoch}, expected one that the"
            f" owner has signed since, of epoch {state.settle_only_epoch + 1} or later"
        )
        return _ignore(state, "charge requested, and rows of the journal are lost"), (help_me,)
    require_id("session", fact.session)
    if session is not None and session.phase == RobotPhase.WITHDRAWING.value:
        state = replace(state, background={**state.background, session.id: session})
    before = session.phase if session is not None else RobotPhase.IDLE.value
    wanted = Wanted(
        fact.energy_milliwh,
        fact.x_mm,
        fact.y_mm,
        fact.reading.state_of_charge_permille,
        fact.price_max_atomic_per_kwh,
        fact.cost_max_atomic,
        fact.station,
    )
    fresh = Session(id=fact.session, phase=before, salt=fact.salt, wanted=wanted, opened_s=fact.at.wall_s)
    turn = RobotTurn(state, fact, "ChargeRequested", fresh)
    robot_quoting.start_quoting(turn)
    state, effects = turn.store(), turn.finish()
    for number, channel_id in enumerate(robot_channel.stale_channels(state, fact.at.wall_s)):
        wish = ChannelCloseRequested(
            fact.at, f"{fact.session[:80]}.close{number}", channel_id, "kept for too long"
        )
        state, more = _close(state, wish)
        effects += more
    return state, effects


def _close(state: RobotState, fact: ChannelCloseRequested) -> tuple[RobotState, Effects]:
    """The rest of a kept channel comes back beside whatever else goes on."""
    session = robot_channel.closing_session(state, fact)
    if session is None:
        return _ignore(state, "no such kept channel with anything in it"), ()
    state = robot_channel.mark_closing(state, fact.channel_id, session.id)
    state = replace(state, background={**state.background, session.id: session})
    turn = RobotTurn(state, fact, "ChannelCloseRequested", session)
    robot_settlement.start_settling(turn)
    return turn.store(), turn.finish()


def _accept_loss(state: RobotState, fact: JournalAccepted) -> tuple[RobotState, Effects]:
    """What is open ends, kept channels are closed: what was signed on them since is unknown."""
    in_force = fact.policy_epoch if fact.policy_epoch >= 0 else state.settings.policy.epoch
    epoch = max(state.settle_only_epoch, in_force)
    state = replace(state, settle_only_epoch=epoch)
    stop = StopRequested(fact.at, fact.reason)
    state, effects = _each(state, stop, [state.session.id] if state.session else [])
    for number, key in enumerate(sorted(state.channels)):
        wish = ChannelCloseRequested(
            fact.at,
            f"lost-{fact.rows_kept}.close{number}",
            bytes.fromhex(key),
            "rows of the journal are lost",
        )
        state, more = _close(state, wish)
        effects += more
    return state, effects


def _restart(state: RobotState, fact: Restarted) -> tuple[RobotState, Effects]:
    back_ns = max(0, state.now_ns - fact.at.session_ns)
    effects: Effects = ()
    state = replace(state, now_ns=fact.at.session_ns, head=Head())
    for session in state.sessions.values():
        turn = RobotTurn(state, fact, "Restarted", session)
        if turn.at_phase(RobotPhase.SHUT_DOWN):
            turn.move(RobotPhase.IDLE)
        turn.update(restarted=True)
        if session.ended_ns:
            turn.update(ended_ns=max(1, session.ended_ns - back_ns))
        turn.resume(back_ns)
        if turn.at_phase(RobotPhase.CHARGING):
            # the time that the robot itself was away is not the station's fault
            robot_charging.watch_meter(turn)
            robot_charging.watch_flow(turn)
        if session.dock == "leaving":
            turn.emit(StartUndocking())
        elif session.dock == "docked" and turn.at_phase(RobotPhase.PRESENTING):
            turn.emit(WatchProbe())
        elif session.dock == "driving" and turn.at_phase(RobotPhase.APPROACHING):
            turn.emit(robot_quoting.start_docking(turn))
        elif session.dock == "driving":
            turn.emit(CancelDocking())
        state = turn.store()
        effects += turn.finish()
    return state, effects


# --- messages -----------------------------------------------------------------------------------------------


def _receive(state: RobotState, fact: MessageReceived) -> tuple[RobotState, Effects]:
    draft = open_token(fact.token)
    if isinstance(draft.body, Offer):
        return _learn(state, fact, draft, draft.body), ()
    session = state.sessions.get(draft.session)
    if session is None:
        return _ignore(state, "message of no open session"), ()
    turn = RobotTurn(state, fact, type(draft.body).__name__, session)
    _on_message(turn, fact, draft)
    return turn.store(), turn.finish()


def _learn(state: RobotState, fact: MessageReceived, draft: Draft, offer: Offer) -> RobotState:
    """A signed offer, in any phase; the newest of each station counts."""
    key = fact.sender.hex()
    known = state.offers.get(key)
    if known is not None and (known.ts, known.token) >= (draft.ts, fact.token):
        return _ignore(state, "old offer")
    offers = {k: v for k, v in state.offers.items() if v.until_s >= fact.at.wall_s}
    if key not in offers and len(offers) >= state.settings.offers_max:
        strange = [k for k, v in offers.items() if not _is_named(state, v.sender, v.offer)]
        if not strange or not _is_named(state, fact.sender, offer):
            return _ignore(state, "too many offers")
        del offers[min(strange, key=lambda k: (offers[k].ts, k))]
    fresh = KnownOffer(offer, fact.sender, fact.token, draft.ts, draft.exp)
    return replace(state, offers={**offers, key: fresh})


def _is_named(state: RobotState, sender: bytes, offer: Offer) -> bool:
    """Whether the owner named that station: strangers can make any number of offers."""
    return (
        sender in state.settings.stations or bytes.fromhex(offer.receiver[2:]) in state.settings.policy.payees
    )


def _on_message(turn: RobotTurn, fact: MessageReceived, draft: Draft) -> None:
    body = draft.body
    if turn.at_phase(RobotPhase.QUOTING):
        if isinstance(body, Quote):
            robot_quoting.on_quote(turn, body, fact.sender, fact.token)
        elif isinstance(body, QuoteReject):
            robot_quoting.on_reject(turn, body, fact.sender, fact.token)
        else:
            turn.ignore("message out of phase")
        return
    agreement = turn.session.agreement
    if agreement is None or fact.sender != agreement.offer.sender:
        turn.ignore("message of another station")
        return
    if turn.at_phase(RobotPhase.FUNDING) and not turn.session.money.vouchers:
        if isinstance(body, SessionStop | SessionEvent):
            robot_quoting.leave(turn, "the station withdrew its quote")
        else:
            turn.ignore("message out of phase")
    elif isinstance(body, PaymentResult):
        _on_result(turn, body, fact.token)
    elif isinstance(body, NeedVoucher) and turn.at_phase(RobotPhase.PRESENTING, RobotPhase.CHARGING):
        robot_charging.on_need(
            turn, body, draft.id, sender=fact.sender, token=fact.token, reading=fact.reading
        )
    elif isinstance(body, SessionEvent) and turn.at_phase(
        *_AT_STATION, RobotPhase.STOPPING, RobotPhase.UNDOCKING
    ):
        robot_charging.on_event(turn, body, fact.token, fact.reading)
    elif isinstance(body, SessionStop) and turn.at_phase(*_AT_STATION):
        robot_ending.stop(turn, body.reason, f"the station stops: {body.detail}")
    elif isinstance(body, ReceiptMessage) and turn.at_phase(RobotPhase.SETTLING):
        robot_settlement.on_receipt(turn, body)
    else:
        turn.ignore("message out of phase")


def _on_result(turn: RobotTurn, body: PaymentResult, token: str) -> None:
    if turn.at_phase(RobotPhase.FUNDING):
        robot_quoting.on_deposit_answer(turn, body, token)
    elif turn.at_phase(RobotPhase.CHARGING):
        robot_charging.on_voucher_answer(turn, body, token)
    elif turn.at_phase(RobotPhase.SETTLING):
        robot_settlement.on_closing_answer(turn, body, token)
    else:
        turn.ignore("late payment result")


# --- timers -------------------------------------------------------------------------------------------------


def _on_timer(turn: RobotTurn, fact: TimerFired) -> None:
    what = fact.name.partition("/")[2]
    if not turn.take_timer(what):
        return
    if what == "retry":
        turn.retry()
    elif what.startswith("chain:"):
        turn.retry_job(what.removeprefix("chain:"))
    else:
        _TIMER[what](turn)


def _on_funding_timer(turn: RobotTurn) -> None:
    if turn.session.money.vouchers:
        robot_ending.stop(turn, "Timeout", "the deposit was not seen on chain in time", fault="failed")
    else:
        robot_quoting.leave(turn, "the head of the chain was not seen in time")


def _on_docking_timer(turn: RobotTurn) -> None:
    robot_ending.stop(turn, "Timeout", "no contact in time")


def _on_presenting_timer(turn: RobotTurn) -> None:
    robot_ending.stop(turn, "Timeout", "the station did not begin in time", fault="failed")


def _on_poll_timer(turn: RobotTurn) -> None:
    if turn.at_phase(RobotPhase.FUNDING):
        robot_quoting.on_funding_poll(turn)
    elif turn.session.rail == EXACT:
        turn.set_timer("poll", 4 * turn.settings.poll_ms)
        if turn.purpose("head") not in turn.session.jobs:
            turn.start(ReadHead(turn.purpose("head")))
        robot_block.poll(turn)
    else:
        robot_settlement.poll(turn)


_TIMER: dict[str, Callable[[RobotTurn], None]] = {
    "quotes": robot_quoting.decide,
    "again": robot_quoting.on_again,
    "funding": _on_funding_timer,
    "poll": _on_poll_timer,
    "docking": _on_docking_timer,
    "presenting": _on_presenting_timer,
    "probe": robot_charging.on_probe_timer,
    "meter": robot_charging.on_meter_timer,
    "stall": robot_charging.on_stall_timer,
    "head": robot_charging.on_head_timer,
    "stop": robot_ending.on_stop_timer,
    "battery": robot_ending.on_battery_timer,
    "held": robot_ending.on_held_timer,
    "settle": robot_settlement.give_up_on_station,
    "receipt": robot_settlement.settle,
}


# --- chain --------------------------------------------------------------------------------------------------


def _on_head(turn: RobotTurn, _fact: ChainHeadObserved) -> None:
    waited = turn.end(turn.purpose("head"))
    if not waited:
        return
    if turn.at_phase(RobotPhase.FUNDING) and not turn.session.money.vouchers:
        robot_quoting.sign_deposit(turn)
    elif turn.at_phase(RobotPhase.CHARGING):
        disagrees = turn.head_disagrees()
        deferred = turn.session.deferred
        if disagrees:
            robot_ending.stop(turn, "Other", disagrees)
        elif deferred is not None:
            draft = open_token(deferred.token)
            robot_charging.sign_voucher(turn, draft.body, draft.id, deferred.token)
    elif turn.at_phase(RobotPhase.SETTLING, RobotPhase.WITHDRAWING):
        robot_settlement.on_head(turn, _fact)


def _on_channel(turn: RobotTurn, fact: ChannelObserved) -> None:
    if turn.at_phase(RobotPhase.FUNDING) and turn.session.money.vouchers:
        robot_quoting.on_funding_channel(turn, fact)
    elif turn.at_phase(RobotPhase.FUNDING):
        robot_quoting.on_kept_channel(turn, fact)
    elif turn.at_phase(RobotPhase.SETTLING, RobotPhase.WITHDRAWING):
        robot_settlement.on_channel(turn, fact)
    else:
        turn.end_reads(fact.channel_id)
        turn.ignore("channel read late")


def _on_funds(turn: RobotTurn, fact: FundsObserved) -> None:
    if turn.at_phase(RobotPhase.FUNDING) and not turn.session.money.vouchers:
        robot_quoting.on_funds(turn, fact)
    else:
        turn.end(fact.purpose)
        turn.ignore("funds read late")


def _on_chain_failed(turn: RobotTurn, fact: ChainFailed) -> None:
    unsigned = turn.at_phase(RobotPhase.FUNDING) and not turn.session.money.vouchers
    if turn.failed(fact) and unsigned:
        robot_quoting.leave(turn, f"the chain does not serve: {fact.message}")


def _on_signed(turn: RobotTurn, fact: TransactionSigned) -> None:
    turn.signed(fact, turn.session.contract().agreed.terms.confirmations)


# --- body and operator --------------------------------------------------------------------------------------


def _on_stop(turn: RobotTurn, fact: StopRequested) -> None:
    session = turn.session
    if turn.at_phase(*_BEFORE_SIGNATURE) or (
        turn.at_phase(RobotPhase.FUNDING) and not session.money.vouchers
    ):
        robot_quoting.cancel(turn)
    elif turn.at_phase(*_AT_STATION):
        robot_ending.stop(turn, "Remote", fact.reason)
    else:
        turn.ignore("stop requested while ending")


def _on_docking(turn: RobotTurn, fact: DockingEnded) -> None:
    if turn.at_phase(RobotPhase.APPROACHING):
        robot_charging.on_docked(turn, fact)
    elif turn.at_phase(RobotPhase.STOPPING):
        robot_ending.on_docking_ended(turn, fact)
    else:
        turn.ignore("docking ended out of phase")


def _on_probe(turn: RobotTurn, fact: ProbeRead) -> None:
    if turn.at_phase(RobotPhase.PRESENTING):
        robot_charging.on_probe(turn, fact)
    else:
        turn.ignore("probe read out of phase")


def _on_undocking(turn: RobotTurn, fact: UndockingEnded) -> None:
    if turn.at_phase(RobotPhase.UNDOCKING):
        robot_ending.on_undocked(turn, fact)
    elif turn.at_phase(*_SETTLING):
        robot_ending.on_held_undocked(turn, fact)
    else:
        turn.ignore("undocking ended out of phase")


def _on_battery(turn: RobotTurn, fact: BatteryObserved) -> None:
    if turn.at_phase(RobotPhase.STOPPING):
        robot_ending.on_battery(turn, fact)
    elif turn.at_phase(*_SETTLING):
        robot_ending.on_held_battery(turn, fact)
    elif turn.at_phase(*_BEFORE_SIGNATURE):
        robot_quoting.on_waiting_battery(turn, fact)
    else:
        turn.ignore("battery read out of phase")


_HANDLER: dict[type, Callable[[RobotTurn, Any], object]] = {
    TimerFired: _on_timer,
    MessageSealed: RobotTurn.sealed,
    ChainHeadObserved: _on_head,
    ChannelObserved: _on_channel,
    FundsObserved: _on_funds,
    AuthorizationObserved: robot_block.on_authorization,
    ChainFailed: _on_chain_failed,
    TransactionSigned: _on_signed,
    TransactionConfirmed: robot_settlement.on_confirmed,
    StopRequested: _on_stop,
    DockingEnded: _on_docking,
    ProbeRead: _on_probe,
    UndockingEnded: _on_undocking,
    BatteryObserved: _on_battery,
}
