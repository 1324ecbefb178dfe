"""At the dock: proof of presence, statements, vouchers. The one place where energy is paid for.

A voucher is signed only when the station's signed statement agrees with the robot's own meter, only one tranche
ahead of it, only within confirmed escrow and the owner's policy, and only on a fresh head of the chain.
"""

from msgspec.structs import replace

from depai_robot.charging import robot_block
from depai_robot.charging.effect import ReadHead, WatchProbe
from depai_robot.charging.fact import BatteryRead, DockingEnded, ProbeRead
from depai_robot.charging.message import EventType, NeedVoucher, PaymentResult, SessionEvent
from depai_robot.charging.message import Payment as PaymentBody
from depai_robot.charging.ocmf import BEGIN, Statement, StatementError, check_statement
from depai_robot.charging.reconciliation import reconcile
from depai_robot.charging.robot_ending import note_reading, on_ended, on_final_statement, stop
from depai_robot.charging.robot_state import Deferred, MeterLog, Pending, Tranche
from depai_robot.charging.robot_turn import CHEATED, FAILED, RobotTurn
from depai_robot.charging.terms import (
    REASON_PREFIX,
    Need,
    build_voucher,
    digest_voucher,
    read_charge,
    read_need,
    tranche_price_atomic,
)
from depai_robot.charging.transition import RobotPhase
from depai_robot.payment.policy import refuse_signature
from depai_robot.payment.x402 import EXACT
from depai_robot.values.error import RemoteError

TRANCHES_KEPT = 1000
BUSY = REASON_PREFIX + "channel_busy"


# --- at the dock --------------------------------------------------------------------------------------------


def on_docked(turn: RobotTurn, fact: DockingEnded) -> None:
    """In contact, or not: then the session goes forward to its settlement."""
    session = turn.session
    offer = session.contract().offer.offer
    if not fact.docked:
        turn.update(dock="")
        stop(turn, "Other", f"docking failed: {fact.reason}")
        return
    turn.update(dock="docked")
    if fact.dock != offer.dock:
        stop(turn, "Other", f"docked at {fact.dock!r}, agreed was {offer.dock!r}")
        return
    turn.clear_timers()
    turn.move(RobotPhase.PRESENTING)
    turn.set_patient_timer("presenting", turn.settings.presenting_timeout_ms)
    turn.emit(WatchProbe())


def on_probe(turn: RobotTurn, fact: ProbeRead) -> None:
    """The nonce on the pads, said back under the robot's signature, binds payer and connector."""
    session = turn.session
    turn.set_timer("probe", turn.settings.retry_ms)
    if fact.nonce == session.probe:
        return
    turn.answer(*(item.id for item in session.letters if isinstance(item.seal.draft.body, SessionEvent)))
    turn.update(probe=fact.nonce)
    turn.tell(
        SessionEvent(
            EventType.UPDATED, session.seq, "CablePluggedIn", "EVConnected", probe="0x" + fact.nonce.hex()
        ),
        keep=True,
    )


def on_probe_timer(turn: RobotTurn) -> None:
    """Not begun yet: a station that restarted puts another nonce on the pads."""
    turn.emit(WatchProbe())


# --- statements ---------------------------------------------------------------------------------------------


def on_event(turn: RobotTurn, body: SessionEvent, token: str, reading: BatteryRead | None) -> None:
    """A station's event, with or without a statement."""
    if body.event_type is EventType.ENDED:
        on_station_ended(turn, body, token, reading)
        return
    if body.statement is None:
        turn.ignore("event without a statement")
        return
    if turn.at_phase(RobotPhase.PRESENTING):
        begin(turn, body.statement, token, reading)
    elif turn.at_phase(RobotPhase.CHARGING):
        take_statement(turn, body.statement, token, reading)
    else:
        turn.ignore("late statement")


def on_station_ended(turn: RobotTurn, body: SessionEvent, token: str, reading: BatteryRead | None) -> None:
    """The station ended the charging: go on with what the robot itself does then."""
    if not turn.at_phase(RobotPhase.STOPPING, RobotPhase.UNDOCKING):
        stop(turn, body.stopped_reason or "Other", "the station ended the session")
    if not turn.at_phase(RobotPhase.STOPPING, RobotPhase.UNDOCKING):
        return
    if body.statement is not None:
        on_final_statement(turn, body.statement, token, reading)
    if turn.at_phase(RobotPhase.STOPPING):
        on_ended(turn)


def begin(turn: RobotTurn, text: str, token: str, reading: BatteryRead | None) -> bool:
    """The first statement: both meters start from here. False when there is nothing to go on with."""
    session = turn.session
    terms = session.contract().agreed.terms
    reading = turn.fresh(reading)
    if reading is None:
        turn.ignore("statement without an own reading")
        return False
    try:
        statement = check_statement(text, key=terms.meter.key, serial=terms.meter.serial, session=session.id)
    except StatementError as error:
        stop(turn, "Other", str(error), fault=CHEATED, tokens=(token,))
        return False
    if statement.transaction != BEGIN:
        turn.ignore("statement before the begin")  # the request for the first voucher carries the begin again
        return False
    turn.answer(*(item.id for item in session.letters if isinstance(item.seal.draft.body, SessionEvent)))
    turn.clear_timer("presenting", "probe")
    turn.update(
        meter=MeterLog(
            begin_milliwh=statement.energy_milliwh,
            own_begin_milliwh=reading.pads_energy_milliwh,
            pagination=statement.pagination,
            begin_statement=text,
            statement=text,
            begin_token=token,
            last_token=token,
        )
    )
    turn.move(RobotPhase.CHARGING)
    watch_meter(turn)
    watch_flow(turn)
    turn.set_timer("head", turn.settings.head_interval_ms)
    return True


def watch_flow(turn: RobotTurn) -> None:
    """Energy must go on coming in: a station may say for ever, and truly, that it gives nothing."""
    turn.update(meter=replace(turn.session.meter, moved_milliwh=turn.session.meter.own_last_milliwh))
    turn.set_patient_timer("stall", turn.settings.stall_timeout_ms)


def watch_meter(turn: RobotTurn) -> None:
    """The next statement must come in time."""
    terms = turn.session.contract().agreed.terms
    delay_ms = terms.report_interval_ms + terms.voucher_timeout_ms + turn.settings.meter_slack_ms
    turn.set_timer("meter", delay_ms)


def take_statement(turn: RobotTurn, text: str, token: str, reading: BatteryRead | None) -> bool:
    """Checks a statement against agreement and own meter. False when nothing may be signed.

    A late one (a newer was reconciled before) is no obstacle: what is signed stands on the newest.
    """
    session = turn.session
    meter = session.meter
    terms = session.contract().agreed.terms
    reading = turn.fresh(reading)
    if reading is None:
        turn.ignore("statement without an own reading")
        return False
    if text == meter.statement:
        return _go_on(turn, reading)
    try:
        statement = check_statement(text, key=terms.meter.key, serial=terms.meter.serial, session=session.id)
    except StatementError as error:
        stop(turn, "Other", str(error), fault=CHEATED, tokens=(token,))
        return False
    if statement.pagination < meter.pagination:
        turn.ignore("late statement")
        return True
    if statement.pagination == meter.pagination:
        detail = f"two statements with pagination T{statement.pagination}"
        stop(turn, "Other", detail, fault=CHEATED, tokens=(meter.last_token, token))
        return False
    return _reconcile(turn, statement, text, token, reading)


def _reconcile(turn: RobotTurn, statement: Statement, text: str, token: str, reading: BatteryRead) -> bool:
    session = turn.session
    meter = session.meter
    own = reading.pads_energy_milliwh - meter.own_begin_milliwh
    claim = statement.energy_milliwh - meter.begin_milliwh
    note_reading(turn, reading)
    if own < 0:
        stop(turn, "Other", f"own meter fell to {own} mWh since the begin: it can not authorise money")
        return False
    if claim < 0:
        detail = f"register fell to {claim} mWh since the begin"
        stop(turn, "Other", detail, fault=CHEATED, tokens=(meter.last_token, token))
        return False
    after, complaint = reconcile(
        meter.reconciled,
        turn.settings.band,
        station_milliwh=claim,
        own_milliwh=own,
        lag_milliwh=session.contract().agreed.terms.tranche_milliwh,
    )
    meter = replace(turn.session.meter, station_claim_milliwh=max(meter.station_claim_milliwh, claim))
    if complaint:
        turn.update(meter=meter)
        fault = "" if complaint.startswith("own meter") else CHEATED
        stop(turn, "Other", complaint, fault=fault, tokens=(meter.last_token, token))
        return False
    turn.update(
        meter=replace(
            meter, reconciled=after, pagination=statement.pagination, statement=text, last_token=token
        )
    )
    watch_meter(turn)
    if turn.session.meter.own_last_milliwh - meter.moved_milliwh >= turn.settings.stall_milliwh:
        watch_flow(turn)
    return _go_on(turn, reading)


def _go_on(turn: RobotTurn, reading: BatteryRead) -> bool:
    """Whether more energy is wanted; otherwise the session ends here."""
    session = turn.session
    if session.meter.own_last_milliwh >= session.wanted.energy_milliwh:
        stop(turn, "EnergyLimitReached", "the wanted energy is in")
        return False
    if reading.state_of_charge_permille >= turn.settings.full_permille:
        stop(turn, "SOCLimitReached", f"battery at {reading.state_of_charge_permille / 10} %")
        return False
    return True


# --- vouchers -----------------------------------------------------------------------------------------------


def on_need(
    turn: RobotTurn,
    body: NeedVoucher,
    need_id: str,
    *,
    sender: bytes,
    token: str,
    reading: BatteryRead | None,
) -> None:
    """The station asks for the next voucher."""
    session = turn.session
    if session.payment is not None and session.payment.need == need_id:
        turn.ignore("need-voucher repeated")
        turn.resend(session.payment.letter)
        return
    if need_id == session.last_need:
        turn.ignore("need-voucher repeated")
        return
    if turn.at_phase(RobotPhase.PRESENTING):
        going = begin(turn, body.statement, token, reading)
    else:
        going = take_statement(turn, body.statement, token, reading)
    if not going:
        return
    if not turn.head_is_known():
        turn.update(deferred=Deferred(token, sender, reading))
        if turn.purpose("head") not in turn.session.jobs:
            turn.start(ReadHead(turn.purpose("head")))
        return
    sign_voucher(turn, body, need_id, token)


def sign_voucher(turn: RobotTurn, body: NeedVoucher, need_id: str, token: str) -> None:
    """Every rule that a voucher must pass, then the wish to sign it."""
    session = turn.session
    if session.rail == EXACT:
        robot_block.on_need(turn, body, need_id, token)
        return
    agreement = session.contract()
    money = session.money
    try:
        need = read_need(body.payment_required, agreement.agreed, agreement.channel_id)
    except RemoteError as error:
        stop(turn, "Other", str(error), fault=CHEATED, tokens=(token,))
        return
    ceiling = need.charged_atomic + need.amount_atomic
    if need.charged_atomic < money.charged or ceiling < money.signed:
        turn.ignore("late need-voucher")
        return
    refused, fault = refuse_voucher(turn, need, ceiling)
    if refused:
        stop(turn, "DeAuthorized", refused, fault=fault, tokens=(token,))
        return
    if session.payment is not None:
        turn.answer(session.payment.letter)
    if ceiling > money.signed:
        turn.record_signature(ceiling)
    turn.money(charged=need.charged_atomic)
    payload = build_voucher(agreement.agreed, need, agreement.channel, agreement.channel_id, ceiling)
    letter = turn.tell(
        PaymentBody(payload),
        keep=True,
        voucher_digest=digest_voucher(turn.settings.network, agreement.channel_id, ceiling),
    )
    meter = turn.session.meter
    tranche = Tranche(
        number=len(session.tranches) + 1 if not session.tranches else session.tranches[-1].number + 1,
        station_milliwh=meter.reconciled.station_milliwh,
        own_milliwh=meter.reconciled.own_milliwh,
        ceiling_atomic=ceiling - money.base,
        cost_atomic=session.owed_for(meter.reconciled.station_milliwh) - money.base,
    )
    turn.update(
        payment=Pending(letter, need_id, need.amount_atomic, need.charged_atomic),
        last_need=need_id,
        deferred=None,
        tranches=(*session.tranches, tranche)[-TRANCHES_KEPT:],
    )


def refuse_voucher(turn: RobotTurn, need: Need, ceiling: int) -> tuple[str, str]:
    """Why a voucher must not be signed, and whose fault that is; two empty texts when it may be."""
    session = turn.session
    agreement = session.contract()
    money = session.money
    terms = agreement.agreed.terms
    owed = session.owed_for(session.meter.reconciled.station_milliwh)
    if need.charged_atomic > owed:
        return f"station charges {need.charged_atomic}, reconciled energy and fees are {owed}", CHEATED
    ahead = ceiling - owed
    if ahead > tranche_price_atomic(terms):
        return (
            f"asked {ahead} ahead of reconciled energy, a tranche is {tranche_price_atomic(terms)}",
            CHEATED,
        )
    # What went back already is no escrow any more, even while charging: the ledger would refuse the signature.
    held = min(money.escrow, money.balance)
    if ceiling > held:
        return f"asked a ceiling of {ceiling}, confirmed escrow is {held}", FAILED
    disagrees = turn.head_disagrees()
    if disagrees:
        return disagrees, ""
    refused = refuse_signature(
        turn.policy,
        turn.exposure(),
        rise_atomic=max(0, ceiling - money.signed),
        ahead_atomic=max(0, ahead),
        now_s=turn.at.wall_s,
    )
    return (refused or "", "")


def on_voucher_answer(turn: RobotTurn, body: PaymentResult, token: str) -> None:
    """The station's answer to a voucher: charged at most the amount, and the sum must be right."""
    session = turn.session
    if session.rail == EXACT:
        robot_block.on_answer(turn, body, token)
        return
    pending = session.payment
    if pending is None or body.answers != pending.letter:
        turn.ignore("late payment result")
        return
    if not body.settle.success:
        reason = str(body.settle.error_reason)
        # After an absence of the robot itself the station has rightly stopped: that is nobody's fault.
        missed = session.restarted and reason == BUSY
        fault = "" if missed else FAILED
        stop(turn, "DeAuthorized", f"voucher refused: {reason}", fault=fault, tokens=(token,))
        return
    try:
        charged, cumulative = read_charge(body.settle, session.contract().channel_id)
    except RemoteError as error:
        stop(turn, "Other", str(error), fault=CHEATED, tokens=(token,))
        return
    if charged > pending.amount:
        detail = f"station charged {charged}, the voucher added {pending.amount}"
        stop(turn, "Other", detail, fault=CHEATED, tokens=(token,))
        return
    if cumulative != pending.charged + charged:
        detail = f"station's sum is {cumulative}, expected {pending.charged} + {charged}"
        stop(turn, "Other", detail, fault=CHEATED, tokens=(token,))
        return
    turn.answer(pending.letter)
    turn.update(payment=None)
    turn.money(charged=cumulative)


def on_head_timer(turn: RobotTurn) -> None:
    """Time to look at the head of the chain again."""
    turn.set_timer("head", turn.settings.head_interval_ms)
    if turn.purpose("head") not in turn.session.jobs:
        turn.start(ReadHead(turn.purpose("head")))


def on_stall_timer(turn: RobotTurn) -> None:
    """Hardly anything came in for a while."""
    meter = turn.session.meter
    gained = meter.own_last_milliwh - meter.moved_milliwh
    if gained >= turn.settings.stall_milliwh or robot_block.waits_for_transfer(turn):
        watch_flow(turn)
        return
    detail = (
        f"{gained} mWh in {turn.settings.stall_timeout_ms // 1000} s, expected {turn.settings.stall_milliwh}"
    )
    stop(turn, "Timeout", detail, fault=FAILED)


def on_meter_timer(turn: RobotTurn) -> None:
    """No statement, or none that can be believed, in time."""
    if robot_block.waits_for_transfer(turn):
        watch_meter(turn)
        return
    stop(turn, "Timeout", "no meter statement in time", fault=FAILED)
