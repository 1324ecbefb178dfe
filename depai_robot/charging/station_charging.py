"""At the connector: who is on it, power against vouchers, statements, and the end of charging.

Power flows only while less was delivered than the highest accepted ceiling buys, and no ceiling above the confirmed
escrow is ever accepted; so a robot that stops paying has taken nothing that is not paid.
"""

from depai_robot.charging import station_block
from depai_robot.charging.effect import Energise, WriteProbe
from depai_robot.charging.fact import (
    ChainFailed,
    ChannelObserved,
    PresenceChanged,
    StatementMade,
    TransactionConfirmed,
)
from depai_robot.charging.message import EventType, NeedVoucher, PaymentResult, SessionEvent
from depai_robot.charging.message import Payment as PaymentBody
from depai_robot.charging.ocmf import BEGIN, END, RUNNING
from depai_robot.charging.station_state import Need
from depai_robot.charging.station_turn import StationTurn
from depai_robot.charging.terms import (
    REASON_PREFIX,
    build_need,
    build_success,
    channel_config,
    read_channel,
    tranche_price_atomic,
)
from depai_robot.charging.transition import StationPhase
from depai_robot.payment.channel import Voucher
from depai_robot.payment.eip712 import settlement_domain
from depai_robot.payment.voucher import VoucherLimits, VoucherRefusedError, check_voucher
from depai_robot.payment.x402 import RefundPayload, VoucherPayload, json_to_voucher
from depai_robot.values.error import DepaiError

STOP_TRIES_MAX = 20


# --- who is on the connector --------------------------------------------------------------------------------


def on_presence(turn: StationTurn, fact: PresenceChanged) -> None:
    """The connector of this session was taken or left."""
    if fact.present:
        turn.emit(WriteProbe(fact.connector, fact.nonce))
        bind(turn)
        station_block.bind(turn)
        return
    if turn.at_phase(StationPhase.BINDING, StationPhase.CHARGING):
        stop(turn, "EVDisconnected")
    if turn.session.ended_ns and not turn.session.left_ns:
        turn.update(left_ns=turn.at.session_ns)
    # A kept channel settles while the robot still stands there: the connector is free once it has left, not before.
    if turn.at_phase(
        StationPhase.ENDED,
        StationPhase.CLAIMING,
        StationPhase.REFUNDING,
        StationPhase.PAYING,
        StationPhase.SETTLED,
    ):
        turn.release()


def on_probe(turn: StationTurn, probe: bytes) -> None:
    """A robot says which nonce it reads on its pads."""
    turn.update(probe=probe)
    bind(turn)


def bind(turn: StationTurn) -> None:
    """Payer and connector belong together once the robot returned the nonce that is on the connector."""
    session = turn.session
    connector = turn.state.connectors[session.connector]
    if not turn.at_phase(StationPhase.FUNDED) or not session.probe:
        return
    if not connector.present or connector.nonce != session.probe:
        turn.ignore("probe does not match the connector")
        return
    turn.clear_timer("arrival")
    turn.move(StationPhase.BINDING)
    turn.set_timer("binding", turn.settings.binding_timeout_ms)
    turn.read_meter(BEGIN)


# --- statements ---------------------------------------------------------------------------------------------


def on_statement(turn: StationTurn, fact: StatementMade) -> None:
    """A signed reading of the meter, as asked."""
    session = turn.session
    asked = session.meter.reading
    if not asked:
        turn.ignore("statement twice")
        return
    turn.clear_timer("meter")
    turn.meter(
        reading="",
        statement=fact.statement,
        last_milliwh=max(fact.energy_milliwh, session.meter.last_milliwh),
    )
    if turn.at_phase(StationPhase.BINDING) and asked == BEGIN:
        turn.meter(begin_milliwh=fact.energy_milliwh, begin_statement=fact.statement)
        turn.tell(event(turn, EventType.STARTED, "CablePluggedIn", "EVConnected", fact.statement))
        if session.blocks_only:
            station_block.ask(turn, fact.statement)
        else:
            ask_voucher(turn, fact.statement)
    elif turn.at_phase(StationPhase.CHARGING):
        _on_running(turn, fact)
    elif turn.at_phase(StationPhase.STOPPING) and asked == END:
        _on_final(turn, fact)
    elif turn.at_phase(StationPhase.STOPPING):
        turn.set_timer_once("final", turn.settings.stop_time_ms)


def event(
    turn: StationTurn, kind: EventType, trigger: str, state: str, statement: str | None
) -> SessionEvent:
    """An event in OCPP's words; an ended one says why."""
    stopped = turn.session.stop_reason or None if kind is EventType.ENDED else None
    return SessionEvent(kind, turn.session.seq, trigger, state, statement, None, stopped)


def _on_running(turn: StationTurn, fact: StatementMade) -> None:
    session = turn.session
    turn.set_timer("report", turn.settings.report_interval_ms)
    if session.resuming:
        turn.update(resuming=False)
        energise(turn)
    delivered = session.delivered_milliwh
    if session.blocks_only:
        _on_running_block(turn, fact)
        return
    due = 2 * (delivered - session.meter.sold_milliwh) >= session.terms.tranche_milliwh
    if (due or delivered >= session.limit_milliwh()) and session.need is None:
        if ask_voucher(turn, fact.statement):
            return
        if delivered >= session.limit_milliwh() or fact.power_mw <= turn.settings.no_power_mw:
            stop(turn, "EnergyLimitReached")  # all that was asked for, or all that the escrow holds
            return
    turn.tell(event(turn, EventType.UPDATED, "MeterValuePeriodic", "Charging", fact.statement))


def _on_running_block(turn: StationTurn, fact: StatementMade) -> None:
    """The next block is asked for when the last was delivered; meanwhile no power flows."""
    session = turn.session
    empty = session.delivered_milliwh >= session.limit_milliwh()
    if empty and session.need is None and not station_block.is_waiting(turn):
        if station_block.ask(turn, fact.statement):
            return
        stop(turn, "EnergyLimitReached")
        return
    turn.tell(event(turn, EventType.UPDATED, "MeterValuePeriodic", "Charging", fact.statement))


def on_block_paid(turn: StationTurn, fact: TransactionConfirmed) -> None:
    """A transfer is confirmed: power for its block."""
    if not station_block.on_confirmed(turn, fact):
        return
    if turn.at_phase(StationPhase.BINDING):
        turn.move(StationPhase.CHARGING)
        turn.set_timer("report", turn.settings.report_interval_ms)
    energise(turn)


def on_block_failed(turn: StationTurn, fact: ChainFailed) -> None:
    """A transfer is refused by the chain: no power for it."""
    if station_block.on_failed(turn, fact):
        stop(turn, "DeAuthorized")


def on_block_timer(turn: StationTurn) -> None:
    """The chain does not confirm a transfer in its time."""
    if turn.at_phase(StationPhase.BINDING, StationPhase.CHARGING):
        stop(turn, "Timeout")


def on_meter_timer(turn: StationTurn) -> None:
    """The own meter is silent: no statement, no power."""
    turn.ignore("meter silent")
    if turn.at_phase(StationPhase.BINDING, StationPhase.CHARGING):
        stop(turn, "Other")
    elif turn.session.stop_tries < STOP_TRIES_MAX:
        turn.update(stop_tries=turn.session.stop_tries + 1)
        turn.power_off()
        turn.read_meter(END)
    else:
        turn.connector(fault="meter silent")
        end(turn)


# --- vouchers -----------------------------------------------------------------------------------------------


def ask_voucher(turn: StationTurn, statement: str) -> bool:
    """Asks for the voucher that brings the ceiling one tranche ahead; False when there is nothing to add."""
    session = turn.session
    channel = session.paid_by()
    terms = session.terms
    target = session.owed_for(session.delivered_milliwh) + tranche_price_atomic(terms)
    target = min(target, session.owed_for(session.request.energy_milliwh), channel.balance)
    if target <= channel.ceiling:
        return False
    amount = target - channel.charged
    required = build_need(turn.settings, session.connector, amount, turn.channel_state())
    letter = turn.tell(NeedVoucher(required, statement), keep=True)
    turn.update(need=Need(letter, amount))
    turn.set_timer("voucher", turn.settings.voucher_timeout_ms)
    return True


def on_payment(turn: StationTurn, body: PaymentBody, message_id: str) -> None:
    """A payment on a session with a channel: the next voucher, or the wish to end."""
    if turn.reply_again(message_id):
        return
    payload = body.payload.payload
    last = isinstance(payload, VoucherPayload) and body.payload.accepted.amount == "0"
    if isinstance(payload, RefundPayload) or last:
        turn.ignore("refund asked before the end")
        _end_by_robot(turn)
        return
    session = turn.session
    need = session.need
    if not isinstance(payload, VoucherPayload) or need is None:
        turn.refuse_payment(message_id, REASON_PREFIX + "channel_busy")
        return
    try:
        voucher = _judge_voucher(turn, body, payload, need)
    except VoucherRefusedError as error:
        turn.ignore(error.reason)
        turn.refuse_payment(message_id, error.reason, amount=need.amount)
        return
    _accept(turn, message_id, voucher.ceiling_atomic, voucher.signature)


def _judge_voucher(turn: StationTurn, body: PaymentBody, payload: VoucherPayload, need: Need) -> Voucher:
    session = turn.session
    channel = session.paid_by()
    expected = build_need(turn.settings, session.connector, need.amount, turn.channel_state()).accepts[0]
    if body.payload.accepted != expected:
        raise VoucherRefusedError("cumulative_amount_mismatch", f"accepted {body.payload.accepted}")
    try:
        config, voucher = read_channel(payload), json_to_voucher(payload.voucher)
    except DepaiError as error:
        raise VoucherRefusedError("payload_invalid", str(error)) from error
    if config != channel.config:
        raise VoucherRefusedError("channel_id_mismatch", "another channel")
    check_voucher(
        channel_config(channel.config),
        voucher,
        settlement_domain(turn.settings.network.chain_id, turn.settings.network.settlement),
        VoucherLimits(
            channel.balance,
            channel.claimed,
            withdraw_pending=session.hurry,
            charged_atomic=channel.charged,
            amount_atomic=need.amount,
        ),
    )
    return voucher


def _end_by_robot(turn: StationTurn) -> None:
    if turn.at_phase(StationPhase.FUNDED):
        end(turn)
    elif turn.at_phase(StationPhase.BINDING, StationPhase.CHARGING):
        stop(turn, "StoppedByEV")


def _accept(turn: StationTurn, message_id: str, ceiling: int, signature: bytes) -> None:
    """The voucher is good: bill what was delivered, let power flow up to the new ceiling."""
    session = turn.session
    channel = session.paid_by()
    need = session.need
    billed = min(session.owed_for(session.delivered_milliwh), ceiling)
    charged = max(0, billed - channel.charged)
    turn.channel(
        ceiling=max(ceiling, channel.ceiling), signature=signature, charged=channel.charged + charged
    )
    turn.meter(sold_milliwh=session.delivered_milliwh)
    turn.update(need=None, vouchers=session.vouchers + 1)
    if need is not None:
        turn.answer(need.letter)
    turn.clear_timer("voucher", "binding")
    settle = build_success(
        turn.settings.network, channel.config.payer, turn.channel_state(), charged_atomic=charged
    )
    turn.tell(PaymentResult(message_id, settle), answers=message_id)
    if turn.at_phase(StationPhase.BINDING):
        turn.move(StationPhase.CHARGING)
        turn.set_timer("report", turn.settings.report_interval_ms)
    energise(turn)


def energise(turn: StationTurn) -> None:
    """Power until the register reads what the ceiling buys; the supply ramps to zero before that by itself."""
    session = turn.session
    turn.emit(
        Energise(
            session.connector,
            session.terms.power_max_w,
            session.meter.begin_milliwh + session.limit_milliwh(),
        )
    )


def on_voucher_timer(turn: StationTurn) -> None:
    """No voucher in its time."""
    stop(turn, "LocalOutOfCredit")


def on_report_timer(turn: StationTurn) -> None:
    """Time for the next statement."""
    turn.read_meter(RUNNING)


# --- watching the channel -----------------------------------------------------------------------------------


def watch_channel(turn: StationTurn) -> None:
    """Looks now and then whether somebody withdraws."""
    if turn.session.blocks_only:
        return
    turn.set_timer("watch", turn.settings.channel_watch_ms)


def on_watch_timer(turn: StationTurn) -> None:
    """Time to look."""
    watch_channel(turn)
    turn.read_channel(1)


def on_watched_channel(turn: StationTurn, fact: ChannelObserved) -> None:
    """The channel while it is in use: a pending withdrawal ends the session, and it is claimed at once."""
    turn.end_reads(fact.channel_id)
    turn.channel(claimed=fact.total_claimed_atomic)
    if fact.balance_atomic < turn.session.paid_by().balance:
        turn.channel(balance=fact.balance_atomic)
    elif not fact.withdraw_requested_at_s:
        return
    turn.update(hurry=True)
    if turn.at_phase(StationPhase.FUNDED):
        end(turn)
    elif turn.at_phase(StationPhase.BINDING, StationPhase.CHARGING):
        stop(turn, "DeAuthorized")


# --- the end of charging ------------------------------------------------------------------------------------


def stop(turn: StationTurn, reason: str) -> None:
    """Power off, then the last statement once no current flows."""
    session = turn.session
    turn.answer(*(item.id for item in session.letters if item.keep))
    turn.clear_timers()
    turn.update(stop_reason=session.stop_reason or reason, need=None, resuming=False)
    turn.move(StationPhase.STOPPING)
    turn.power_off()
    turn.set_timer("final", turn.settings.stop_time_ms)


def on_final_timer(turn: StationTurn) -> None:
    """The current had its time to fall."""
    if turn.session.meter.begin_milliwh < 0:
        end(turn)
        return
    turn.read_meter(END)


def _on_final(turn: StationTurn, fact: StatementMade) -> None:
    session = turn.session
    if fact.power_mw > turn.settings.no_power_mw and session.stop_tries < STOP_TRIES_MAX:
        turn.update(stop_tries=session.stop_tries + 1)
        turn.power_off()
        turn.set_timer("final", turn.settings.stop_time_ms)
        return
    if session.stop_tries >= STOP_TRIES_MAX:
        turn.connector(fault="current does not stop")
    # What flowed beyond the ceiling is the station's loss.
    channel = session.paid_by()
    turn.channel(
        charged=max(channel.charged, min(session.owed_for(session.delivered_milliwh), channel.ceiling))
    )
    end(turn, fact.statement)


def end(turn: StationTurn, statement: str | None = None) -> None:
    """Charging is over (or never was): say so until the robot asks for the rest, then settle in any case."""
    session = turn.session
    turn.answer(*(item.id for item in session.letters if item.keep))
    turn.clear_timers()
    reason = session.stop_reason or "StoppedByEV"
    turn.update(stop_reason=reason, ended_ns=turn.at.session_ns, ended_s=turn.at.wall_s)
    turn.move(StationPhase.ENDED)
    trigger = "EVDeparted" if statement is None else "StopAuthorized"
    turn.tell(event(turn, EventType.ENDED, trigger, "Idle", statement), keep=True)
    turn.set_patient_timer("refund", 1 if turn.session.hurry else turn.settings.refund_wait_ms)
    watch_channel(turn)
    if not turn.state.connectors[session.connector].present:
        turn.update(left_ns=turn.at.session_ns)
        turn.release()


def idle_fee_atomic(turn: StationTurn) -> int:
    """Full minutes on the connector after the end of charging."""
    session = turn.session
    if session.closing or session.blocks_only:
        return 0
    until_ns = session.left_ns or turn.at.session_ns
    minutes = max(0, until_ns - session.ended_ns) // 60_000_000_000
    return minutes * session.terms.idle_fee_atomic_per_min


def total_due_atomic(turn: StationTurn) -> int:
    """Fees and energy, never above what the highest voucher covers for the energy."""
    session = turn.session
    energy = min(session.delivered_milliwh, session.limit_milliwh())
    if session.blocks_only:
        return session.paid_by().charged
    return session.owed_for(energy) + idle_fee_atomic(turn)
