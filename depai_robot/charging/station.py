"""The station's machine: ``step(state, fact) -> (state, effects)``; many sessions, one to a connector.

Nothing here cheats: a dishonest station is simulated around this machine, never inside it.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from depai_robot.charging import (
    station_batch,
    station_block,
    station_charging,
    station_selling,
    station_settlement,
)
from depai_robot.charging.effect import Deenergise, Effects, WriteProbe
from depai_robot.charging.envelope import open_token
from depai_robot.charging.fact import (
    BadRowsFound,
    ChainFailed,
    ChainHeadObserved,
    ChannelObserved,
    ContactorFailed,
    Fact,
    JournalAccepted,
    MessageReceived,
    MessageSealed,
    PresenceChanged,
    Restarted,
    StatementMade,
    StopRequested,
    TimerFired,
    TransactionConfirmed,
    TransactionSigned,
    WithdrawalsObserved,
)
from depai_robot.charging.message import (
    BlockPayment,
    Draft,
    Payment,
    QuoteCounter,
    QuoteRequest,
    SessionEvent,
    SessionStop,
)
from depai_robot.charging.setting import StationSettings
from depai_robot.charging.station_state import (
    LOBBY,
    Connector,
    StationSession,
    StationState,
    summarise,
)
from depai_robot.charging.station_turn import StationTurn, forget, post_offer, speaker_of
from depai_robot.charging.terms import channel_key, read_channel
from depai_robot.charging.transition import StationPhase
from depai_robot.charging.turn import Turn
from depai_robot.payment.x402 import RefundPayload
from depai_robot.values.error import BugError, DepaiError, JournalError

STEP_VERSION = 3
"""Rises when a change of the machine would fold an old journal to another state."""

RESERVED_SESSIONS = (LOBBY, "offer")
"""Letters, timers and chain jobs under these names are the station's own: a session of a robot may not have them."""

_POWERED = (StationPhase.BINDING, StationPhase.CHARGING)
_SETTLING = (StationPhase.CLAIMING, StationPhase.REFUNDING, StationPhase.PAYING)
_OVER = (StationPhase.SETTLED, StationPhase.LAPSED)


def initial_state(settings: StationSettings) -> StationState:
    """A station that has never sold."""
    return StationState(
        settings=settings, connectors={n: Connector() for n in range(1, len(settings.meters) + 1)}
    )


def summary(state: StationState) -> dict[str, Any]:
    """What a screen shows: plain values only."""
    return summarise(state)


def is_at_rest(state: StationState) -> bool:
    """Whether nothing is open: a snapshot may be taken."""
    return not state.sessions and not state.lobby.letters and not state.lobby.jobs


def encode_state(state: StationState) -> bytes:
    """A snapshot. Raises BugError unless the station is at rest."""
    if not is_at_rest(state):
        raise BugError(f"a snapshot needs a station at rest, open are {sorted(state.sessions)}")
    return msgspec.msgpack.encode(state)


def decode_state(data: bytes, settings: StationSettings) -> StationState:
    """A snapshot under the settings of now. Raises JournalError when it is none."""
    try:
        return replace(msgspec.msgpack.decode(data, type=StationState), settings=settings)
    except msgspec.MsgspecError as error:
        raise JournalError(f"the snapshot is not one of step version {STEP_VERSION}: {error}") from error


def step(state: StationState, fact: Fact) -> tuple[StationState, Effects]:
    """One fact in, the new state and the wishes out. Pure and deterministic.

    Raises:
        BugError: the fact is none of a station's, or leads to a move that is not in the table; the state stays.
    """
    before = state
    state, effects = _step(state, fact)
    # Thousands of channels may be kept: they are looked over only when something about them has changed.
    changed = state.channels is not before.channels or state.lobby is not before.lobby
    if state.channels and changed:
        batch = station_batch.BatchTurn(state, fact)
        station_batch.consider(batch)
        state, effects = batch.store(), effects + batch.finish()
    if _is_available(before) != _is_available(state) and not isinstance(fact, Restarted):
        turn = Turn(speaker_of(state.settings), fact, type(fact).__name__, state.lobby)
        post_offer(turn, state)
        return replace(state, lobby=turn.session), effects + turn.finish()
    return state, effects


def _is_available(state: StationState) -> bool:
    return state.settings.in_service and state.free_connector() is not None


def _step(state: StationState, fact: Fact) -> tuple[StationState, Effects]:
    if isinstance(fact, Restarted):
        return _restart(state, fact)
    state = replace(state, now_ns=fact.at.session_ns)
    if isinstance(fact, MessageReceived):
        return _receive(state, fact)
    if isinstance(fact, PresenceChanged):
        return _on_presence(state, fact)
    if isinstance(fact, ContactorFailed):
        return _on_contactor(state, fact)
    if isinstance(fact, ChannelObserved):
        ids = [
            s.id for s in state.sessions.values() if s.channel is not None and s.channel.id == fact.channel_id
        ]
        if fact.channel_id.hex() not in state.channels:
            return _each(state, fact, ids)
        state, effects = _on_lobby(state, fact)
        if not ids:
            return state, effects
        state, more = _each(state, fact, ids)
        return state, effects + more
    if isinstance(fact, StatementMade):
        holder = state.holder(fact.connector)
        return _each(state, fact, [holder.id] if holder else [])
    if isinstance(fact, TimerFired):
        session_id = fact.name.partition("/")[0]
        return _lobby_timer(state, fact) if session_id == LOBBY else _each(state, fact, [session_id])
    if isinstance(fact, MessageSealed):
        session_id = fact.id.rpartition(".s.")[0]
        return _lobby_sealed(state, fact) if session_id == "offer" else _each(state, fact, [session_id])
    if isinstance(
        fact, ChainFailed | TransactionSigned | TransactionConfirmed | BadRowsFound | WithdrawalsObserved
    ):
        session_id = fact.purpose.rpartition(":")[0]
        return _on_lobby(state, fact) if session_id == LOBBY else _each(state, fact, [session_id])
    if isinstance(fact, StopRequested):
        return _each(state, fact, list(state.sessions))
    if isinstance(fact, JournalAccepted):
        return _each(state, StopRequested(fact.at, fact.reason), list(state.sessions))
    if isinstance(fact, ChainHeadObserved):
        return state, ()
    raise BugError(f"{type(fact).__name__} is not a fact of a station")


def _each(state: StationState, fact: Fact, ids: list[str]) -> tuple[StationState, Effects]:
    """The fact for every session that it concerns."""
    effects: Effects = ()
    known = [key for key in ids if key in state.sessions]
    if not known:
        return _ignore(state, f"{type(fact).__name__} of no open session"), ()
    for key in known:
        turn = StationTurn(state, fact, type(fact).__name__, state.sessions[key])
        _HANDLER[type(fact)](turn, fact)
        state = _after(turn)
        effects += turn.finish()
    return state, effects


def _after(turn: StationTurn) -> StationState:
    """Stores the session; one that was forgotten is dropped, one that settled is counted."""
    before = turn.state.sessions.get(turn.session.id)
    state = turn.store()
    session = turn.session
    if session.phase == StationPhase.SETTLED.value and before is not None and before.phase != session.phase:
        state = replace(
            state,
            count=state.count + 1,
            sold_milliwh=state.sold_milliwh + session.delivered_milliwh,
            earned_atomic=state.earned_atomic + max(0, session.paid_by().charged - session.paid_by().base),
        )
    if turn.cause == "TimerFired" and turn.at_phase(*_OVER) and "forget" not in session.timers:
        return forget(state, session.id, turn.at.wall_s)
    return state


def _ignore(state: StationState, reason: str) -> StationState:
    return replace(state, ignored={**state.ignored, reason: state.ignored.get(reason, 0) + 1})


# --- start and restart --------------------------------------------------------------------------------------


def _restart(state: StationState, fact: Restarted) -> tuple[StationState, Effects]:
    """Power off first; then everything that is open goes on as it was."""
    back_ns = max(0, state.now_ns - fact.at.session_ns)
    state = replace(state, now_ns=fact.at.session_ns)
    effects: Effects = tuple(Deenergise(number) for number in state.connectors)
    effects += tuple(WriteProbe(n, item.nonce) for n, item in state.connectors.items() if item.present)
    for key in list(state.sessions):
        turn = StationTurn(state, fact, "Restarted", state.sessions[key])
        session = turn.session
        if session.ended_ns:
            turn.update(
                ended_ns=max(1, session.ended_ns - back_ns),
                left_ns=max(1, session.left_ns - back_ns) if session.left_ns else 0,
            )
        turn.resume(back_ns)
        if turn.at_phase(StationPhase.SETTLED):
            turn.reply_again(station_settlement.RECEIPT)
        if turn.at_phase(StationPhase.CHARGING):
            turn.update(resuming=True)
            turn.read_meter("C")
        elif session.meter.reading:
            turn.read_meter(session.meter.reading)
        state = turn.store()
        effects += turn.finish()
    lobby = station_batch.BatchTurn(state, fact)
    lobby.answer(*(item.id for item in lobby.session.letters))
    lobby.resume(back_ns)
    post_offer(lobby, state)
    return lobby.store(), effects + lobby.finish()


def _lobby_timer(state: StationState, fact: TimerFired) -> tuple[StationState, Effects]:
    turn = station_batch.BatchTurn(state, fact)
    what = fact.name.partition("/")[2]
    if not turn.take_timer(what):
        return turn.store(), turn.finish()
    if what == "offer":
        post_offer(turn, state)
    elif what == "claim":
        station_batch.start_claim(turn)
    elif what == "watch":
        station_batch.on_watch_timer(turn)
    elif what == "retry":
        turn.retry()
    else:
        turn.retry_job(what.removeprefix("chain:"))
    return turn.store(), turn.finish()


_ON_LOBBY: dict[type, Callable[[station_batch.BatchTurn, Any], object]] = {
    ChannelObserved: station_batch.on_channel,
    ChainFailed: station_batch.on_failed,
    TransactionSigned: station_batch.on_signed,
    TransactionConfirmed: station_batch.on_confirmed,
    BadRowsFound: station_batch.on_blamed,
    WithdrawalsObserved: station_batch.on_withdrawals,
}


def _on_lobby(state: StationState, fact: Fact) -> tuple[StationState, Effects]:
    """A fact about kept channels."""
    turn = station_batch.BatchTurn(state, fact)
    _ON_LOBBY[type(fact)](turn, fact)
    return turn.store(), turn.finish()


def _lobby_sealed(state: StationState, fact: MessageSealed) -> tuple[StationState, Effects]:
    turn = Turn(speaker_of(state.settings), fact, "MessageSealed", state.lobby)
    turn.sealed(fact)
    return replace(state, lobby=turn.session), turn.finish()


# --- messages -----------------------------------------------------------------------------------------------


def _receive(state: StationState, fact: MessageReceived) -> tuple[StationState, Effects]:
    draft = open_token(fact.token)
    if draft.session in RESERVED_SESSIONS:
        return _ignore(state, "session id is reserved"), ()
    if isinstance(draft.body, QuoteRequest):
        return _on_request(state, fact, draft, draft.body)
    session = state.sessions.get(draft.session)
    if session is None and isinstance(draft.body, Payment):
        session = _closing_session(state, fact, draft, draft.body)
    if session is None or session.identity != fact.sender:
        return _ignore(state, "message of no open session"), ()
    turn = StationTurn(state, fact, type(draft.body).__name__, session)
    if session.id not in state.sessions:
        turn.set_patient_timer("refund", state.settings.refund_wait_ms)
    _on_message(turn, draft)
    return _after(turn), turn.finish()


def _on_request(
    state: StationState, fact: MessageReceived, draft: Draft, body: QuoteRequest
) -> tuple[StationState, Effects]:
    session = state.sessions.get(draft.session)
    if session is not None and (session.identity != fact.sender or not _may_ask_again(session, draft)):
        turn = StationTurn(state, fact, "QuoteRequest", session)
        if session.identity != fact.sender or not turn.reply_again(draft.id):
            turn.ignore("quote request repeated")
        return turn.store(), turn.finish()
    finished = state.finished.get(draft.session)
    if finished is not None and finished.funded:
        return _ignore(state, "quote request of a finished session"), ()
    effects: Effects = ()
    for other in list(state.sessions.values()):
        # One hold for a robot: a new question replaces the old one.
        if other.identity == fact.sender and other.phase == StationPhase.QUOTED.value:
            turn = StationTurn(state, fact, "QuoteRequest", other)
            station_selling.lapse(turn)
            state = turn.store()
            effects += turn.finish()
    seq = max(
        state.sessions[draft.session].seq if draft.session in state.sessions else 0,
        finished.seq if finished else 0,
    )
    if len(state.sessions) >= state.settings.sessions_max:
        # Questions that came to nothing must not keep paying robots out.
        lapsed = [
            s for s in state.sessions.values() if s.phase == StationPhase.LAPSED.value and not s.channel
        ]
        if not lapsed:
            return _ignore(state, "too many sessions"), effects
        state = forget(state, min(lapsed, key=lambda s: s.opened_s).id, fact.at.wall_s)
    fresh = StationSession(
        id=draft.session,
        phase=StationPhase.QUOTED.value,
        seq=seq,
        identity=fact.sender,
        request=body,
        request_id=draft.id,
        connector=1,
        terms=station_selling.make_terms(
            state.settings,
            draft.session,
            body,
            connector=1,
            price=state.settings.price_atomic_per_kwh,
            hold_until_s=fact.at.wall_s,
        ),
        opened_s=fact.at.wall_s,
        holding=False,
    )
    turn = StationTurn(state, fact, "QuoteRequest", fresh)
    station_selling.open_session(turn, body)
    return turn.store(), effects + turn.finish()


def _closing_session(
    state: StationState, fact: MessageReceived, draft: Draft, body: Payment
) -> StationSession | None:
    """A robot asks for the rest of a kept channel, outside any session: then there is one without energy."""
    payload = body.payload.payload
    if not isinstance(payload, RefundPayload) or draft.session in state.finished:
        return None
    try:
        key = channel_key(state.settings.network, read_channel(payload))
    except DepaiError:
        return None
    kept = state.channels.get(key.hex())
    if kept is None or kept.identity != fact.sender or state.paying_with(key) is not None:
        return None
    if len(state.sessions) >= state.settings.sessions_max:
        return None
    channel = replace(kept.channel, base=kept.channel.charged, escrow=kept.channel.balance)
    return StationSession(
        id=draft.session,
        phase=StationPhase.ENDED.value,
        identity=kept.identity,
        request=kept.request,
        request_id="",
        connector=kept.terms.connector,
        terms=kept.terms,
        opened_s=fact.at.wall_s,
        ended_s=fact.at.wall_s,
        ended_ns=max(1, fact.at.session_ns),
        holding=False,
        channel=channel,
        stop_reason="Remote",
        closing=True,
    )


def _may_ask_again(session: StationSession, draft: Draft) -> bool:
    fresh = (
        session.phase in (StationPhase.QUOTED.value, StationPhase.LAPSED.value) and session.channel is None
    )
    return fresh and draft.id != session.request_id


def _on_message(turn: StationTurn, draft: Draft) -> None:
    body = draft.body
    if isinstance(body, Payment):
        _on_payment(turn, body, draft.id)
    elif isinstance(body, QuoteCounter) and turn.at_phase(StationPhase.QUOTED):
        station_selling.on_counter(turn, body, draft.id)
    elif isinstance(body, BlockPayment):
        station_block.on_payment(turn, body, draft.id)
    elif isinstance(body, SessionEvent) and body.probe is not None and turn.at_phase(StationPhase.QUOTED):
        station_block.on_probe(turn, bytes.fromhex(body.probe[2:]))
    elif isinstance(body, SessionEvent) and body.probe is not None and turn.at_phase(StationPhase.FUNDED):
        station_charging.on_probe(turn, bytes.fromhex(body.probe[2:]))
    elif isinstance(body, SessionStop):
        _on_stop_message(turn, body)
    else:
        turn.ignore("message out of phase")


def _on_payment(turn: StationTurn, body: Payment, message_id: str) -> None:
    if turn.at_phase(StationPhase.QUOTED, StationPhase.FUNDING, StationPhase.LAPSED):
        station_selling.on_deposit(turn, body, message_id)
    elif turn.at_phase(StationPhase.FUNDED, *_POWERED, StationPhase.STOPPING):
        station_charging.on_payment(turn, body, message_id)
    else:
        station_settlement.on_refund(turn, body, message_id)


def _on_stop_message(turn: StationTurn, body: SessionStop) -> None:
    if turn.at_phase(StationPhase.QUOTED):
        station_selling.lapse(turn)
    elif turn.at_phase(StationPhase.FUNDING):
        turn.update(stop_reason=body.reason)
    elif turn.at_phase(StationPhase.FUNDED):
        turn.update(stop_reason=body.reason)
        station_charging.end(turn)
    elif turn.at_phase(*_POWERED):
        station_charging.stop(turn, body.reason)
    else:
        turn.ignore("stop repeated")


# --- timers -------------------------------------------------------------------------------------------------


def _on_timer(turn: StationTurn, fact: TimerFired) -> None:
    what = fact.name.partition("/")[2]
    if not turn.take_timer(what):
        return
    if what == "retry":
        turn.retry()
    elif what == "chain:again":
        turn.read_channel(turn.settings.confirmations)
    elif what.startswith("chain:"):
        turn.retry_job(what.removeprefix("chain:"))
    else:
        _TIMER[what](turn)


def _on_arrival_timer(turn: StationTurn) -> None:
    turn.update(stop_reason="Timeout")
    station_charging.end(turn)


def _on_binding_timer(turn: StationTurn) -> None:
    station_charging.stop(turn, "Timeout")


def _on_funding_timer(turn: StationTurn) -> None:
    # The authorisation has lapsed; a deposit that is under way is still seen by its transaction.
    if turn.purpose("deposit") in turn.session.jobs or "deposit" in turn.session.transactions:
        turn.set_timer("funding", turn.settings.chain_retry_ms * 10)
        return
    station_selling.lapse(turn)


def _nothing(_turn: StationTurn) -> None:
    """The session is dropped after the step."""


_TIMER: dict[str, Callable[[StationTurn], None]] = {
    "hold": station_selling.lapse,
    "funding": _on_funding_timer,
    "arrival": _on_arrival_timer,
    "binding": _on_binding_timer,
    "voucher": station_charging.on_voucher_timer,
    "block": station_charging.on_block_timer,
    "report": station_charging.on_report_timer,
    "meter": station_charging.on_meter_timer,
    "final": station_charging.on_final_timer,
    "watch": station_charging.on_watch_timer,
    "refund": station_settlement.start_claiming,
    "look": station_settlement.on_look_timer,
    "forget": _nothing,
}


# --- chain --------------------------------------------------------------------------------------------------


def _on_channel(turn: StationTurn, fact: ChannelObserved) -> None:
    if turn.at_phase(StationPhase.FUNDING):
        station_selling.on_funding_channel(turn, fact)
    elif turn.at_phase(*_SETTLING):
        station_settlement.on_channel(turn, fact)
    elif turn.at_phase(*_OVER):
        turn.end_reads(fact.channel_id)
    else:
        station_charging.on_watched_channel(turn, fact)
        if turn.at_phase(StationPhase.ENDED) and turn.session.hurry:
            station_settlement.start_claiming(turn)


def _on_failed(turn: StationTurn, fact: ChainFailed) -> None:
    if not turn.failed(fact):
        return
    if ":block" in fact.purpose:
        station_charging.on_block_failed(turn, fact)
    elif turn.at_phase(StationPhase.FUNDING) and fact.purpose.endswith(":deposit"):
        station_selling.on_deposit_failed(turn, fact)
    elif turn.at_phase(*_SETTLING):
        station_settlement.on_failed(turn, fact)
    else:
        turn.ignore("chain read failed")
        if turn.at_phase(StationPhase.FUNDING):
            # A read is no verdict, however final it sounds (an endpoint of another chain): the robot is waiting.
            turn.set_timer_once("chain:again", turn.settings.chain_retry_ms)


def _on_signed(turn: StationTurn, fact: TransactionSigned) -> None:
    turn.signed(fact, turn.settings.confirmations)


def _on_confirmed(turn: StationTurn, fact: TransactionConfirmed) -> None:
    if ":block" in fact.purpose:
        station_charging.on_block_paid(turn, fact)
    elif turn.at_phase(StationPhase.FUNDING):
        station_selling.on_deposit_confirmed(turn, fact)
    else:
        station_settlement.on_confirmed(turn, fact)


# --- hardware and operator ----------------------------------------------------------------------------------


def _on_presence(state: StationState, fact: PresenceChanged) -> tuple[StationState, Effects]:
    if fact.connector not in state.connectors:
        raise BugError(f"connector {fact.connector} is not one of {sorted(state.connectors)}")
    item = replace(
        state.connectors[fact.connector], present=fact.present, nonce=fact.nonce if fact.present else b""
    )
    state = replace(state, connectors={**state.connectors, fact.connector: item})
    holder = state.holder(fact.connector)
    if holder is not None:
        return _each(state, fact, [holder.id])
    return state, (WriteProbe(fact.connector, fact.nonce),) if fact.present else ()


def _presence(turn: StationTurn, fact: PresenceChanged) -> None:
    station_charging.on_presence(turn, fact)


def _on_contactor(state: StationState, fact: ContactorFailed) -> tuple[StationState, Effects]:
    if fact.connector not in state.connectors:
        raise BugError(f"connector {fact.connector} is not one of {sorted(state.connectors)}")
    item = replace(state.connectors[fact.connector], fault=fact.message[:512] or "contactor failed")
    state = replace(state, connectors={**state.connectors, fact.connector: item})
    holder = state.holder(fact.connector)
    return _each(state, fact, [holder.id]) if holder else (state, ())


def _contactor(turn: StationTurn, _fact: ContactorFailed) -> None:
    if turn.at_phase(*_POWERED):
        station_charging.stop(turn, "Other")
    elif turn.at_phase(StationPhase.FUNDED):
        turn.update(stop_reason="Other")
        station_charging.end(turn)
    else:
        turn.ignore("contactor failed out of phase")


def _on_stop(turn: StationTurn, _fact: StopRequested) -> None:
    if turn.at_phase(StationPhase.QUOTED):
        station_selling.lapse(turn)
    elif turn.at_phase(StationPhase.FUNDING):
        turn.update(stop_reason="Remote")
    elif turn.at_phase(StationPhase.FUNDED):
        turn.update(stop_reason="Remote")
        station_charging.end(turn)
    elif turn.at_phase(*_POWERED):
        station_charging.stop(turn, "Remote")
    else:
        turn.ignore("stop requested while ending")


_HANDLER: dict[type, Callable[[StationTurn, Any], object]] = {
    TimerFired: _on_timer,
    MessageSealed: StationTurn.sealed,
    ChannelObserved: _on_channel,
    ChainFailed: _on_failed,
    TransactionSigned: _on_signed,
    TransactionConfirmed: _on_confirmed,
    StopRequested: _on_stop,
    PresenceChanged: _presence,
    StatementMade: station_charging.on_statement,
    ContactorFailed: _contactor,
}
