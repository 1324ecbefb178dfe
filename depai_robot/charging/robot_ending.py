"""From any phase forward to the settlement: stop, see the current fall, undock.

Failure never goes back a row. Nothing is signed here; the last statement only says what is owed.
"""

from msgspec.structs import replace

from depai_robot.charging.effect import CallForHelp, CancelDocking, ReadBattery, StartUndocking
from depai_robot.charging.fact import BatteryObserved, BatteryRead, DockingEnded, UndockingEnded
from depai_robot.charging.message import SessionStop
from depai_robot.charging.ocmf import END, StatementError, check_statement
from depai_robot.charging.reconciliation import reconcile
from depai_robot.charging.robot_settlement import convict, start_settling
from depai_robot.charging.robot_state import Stop
from depai_robot.charging.robot_turn import CHEATED, FAILED, RobotTurn
from depai_robot.charging.transition import RobotPhase


def stop(turn: RobotTurn, reason: str, detail: str, *, fault: str = "", tokens: tuple[str, ...] = ()) -> None:
    """Ends a session that has signed something: sign no more, tell the station, go forward.

    Args:
        turn: in any phase from FUNDING to CHARGING.
        reason: OCPP stoppedReason word.
        detail: for people.
        fault: of the station: ``failed``, ``cheated`` or empty.
        tokens: messages that convict it.
    """
    session = turn.session
    turn.answer(*(letter.id for letter in session.letters if letter.keep))
    turn.clear_timers()
    turn.update(
        stop=Stop(reason, detail[:512], fault, turn.at.wall_s),
        payment=None,
        deferred=None,
        ended=not session.dock,
    )
    turn.move(RobotPhase.STOPPING)
    if fault:
        turn.bar(session.contract().offer.sender, detail, fault)
    if fault == CHEATED:
        turn.keep_evidence(detail, tokens)
    turn.tell(SessionStop(reason[:40], detail[:512]), keep=True)
    if session.dock == "driving":
        turn.emit(CancelDocking())
    if session.dock == "docked":
        turn.emit(ReadBattery())
        turn.set_timer("battery", turn.settings.poll_ms)
    if session.dock:
        turn.set_patient_timer("stop", turn.settings.stop_timeout_ms)
    else:
        start_settling(turn)


def on_final_statement(turn: RobotTurn, text: str, token: str, reading: BatteryRead | None) -> None:
    """The station's last word on the energy: believed within the band, else it convicts."""
    session = turn.session
    meter = session.meter
    if meter.begin_milliwh < 0 or meter.final:
        return
    terms = session.contract().agreed.terms
    reading = turn.fresh(reading)
    if reading is None:
        turn.ignore("final statement without an own reading")
        return
    note_reading(turn, reading)
    meter = turn.session.meter
    try:
        statement = check_statement(text, key=terms.meter.key, serial=terms.meter.serial, session=session.id)
    except StatementError as error:
        convict(turn, str(error), token)
        return
    if statement.transaction != END or (statement.pagination <= meter.pagination and text != meter.statement):
        turn.ignore("late statement")
        return
    claim = statement.energy_milliwh - meter.begin_milliwh
    after, complaint = reconcile(
        meter.reconciled,
        turn.settings.band,
        station_milliwh=max(0, claim),
        own_milliwh=meter.own_last_milliwh,
        lag_milliwh=terms.tranche_milliwh,
    )
    turn.update(meter=replace(meter, station_claim_milliwh=max(meter.station_claim_milliwh, claim)))
    if complaint:
        convict(turn, complaint, token)
        return
    turn.update(
        meter=replace(
            turn.session.meter,
            reconciled=after,
            pagination=statement.pagination,
            statement=text,
            last_token=token,
            final=True,
        )
    )


def note_reading(turn: RobotTurn, reading: BatteryRead) -> None:
    """The own meter's newest word, for what is owed; a counter that fell is not believed."""
    meter = turn.session.meter
    own = reading.pads_energy_milliwh - meter.own_begin_milliwh
    if meter.begin_milliwh >= 0 and own > meter.own_last_milliwh:
        turn.update(meter=replace(meter, own_last_milliwh=own))


def on_ended(turn: RobotTurn) -> None:
    """The station confirmed the end of charging."""
    session = turn.session
    turn.answer(*(letter.id for letter in session.letters if isinstance(letter.seal.draft.body, SessionStop)))
    if not session.ended:
        turn.update(ended=True, ended_ns=turn.at.session_ns)
        turn.emit(ReadBattery())
        turn.set_timer("battery", turn.settings.poll_ms)


def on_battery(turn: RobotTurn, fact: BatteryObserved) -> None:
    """Undock as soon as the end is confirmed and no current flows."""
    session = turn.session
    reading = turn.fresh(fact.reading)
    if reading is not None:
        note_reading(turn, reading)
    if session.dock != "docked" or not session.ended:
        return
    if reading is not None and reading.pads_power_mw <= turn.settings.no_current_mw:
        turn.move(RobotPhase.UNDOCKING)
        turn.clear_timers()
        if not session.ended_ns:
            turn.update(ended_ns=turn.at.session_ns)
        undock(turn)


def on_battery_timer(turn: RobotTurn) -> None:
    """Look again."""
    turn.emit(ReadBattery())
    turn.set_timer("battery", turn.settings.poll_ms)


def on_stop_timer(turn: RobotTurn) -> None:
    """The end was not confirmed in time, or current still flows: go on without the word, call for help once."""
    session = turn.session
    if session.dock == "driving":
        # The docking part did not answer: the wheels are its business, the money is ours.
        turn.update(dock="")
        start_settling(turn)
        return
    if not session.ended:
        turn.update(ended=True, ended_ns=turn.at.session_ns)
        if session.stop is not None and not session.stop.fault:
            turn.bar(session.contract().offer.sender, "did not confirm the end of charging", FAILED)
            turn.update(stop=replace(session.stop, fault=FAILED))
    elif not session.helped:
        turn.update(helped=True)
        turn.emit(
            CallForHelp(
                "charging was stopped and current still flows, or the own meter is silent: not undocking"
            )
        )
    else:
        # Nobody leaves a dock under current; the money need not wait for that.
        turn.update(dock="held")
        start_settling(turn)
        on_held_timer(turn)
        return
    turn.emit(ReadBattery())
    turn.set_patient_timer("stop", turn.settings.stop_timeout_ms)


def on_held_timer(turn: RobotTurn) -> None:
    """Still held by current while the money is settled: look again."""
    if turn.session.dock == "held":
        turn.emit(ReadBattery())
        turn.set_timer("held", turn.settings.poll_ms)


def on_held_battery(turn: RobotTurn, fact: BatteryObserved) -> None:
    """Leave as soon as no current flows, whatever became of the money."""
    reading = turn.fresh(fact.reading)
    if turn.session.dock != "held" or reading is None:
        return
    if reading.pads_power_mw <= turn.settings.no_current_mw:
        turn.clear_timer("held")
        undock(turn)


def on_held_undocked(turn: RobotTurn, fact: UndockingEnded) -> None:
    """Left at last, or stuck."""
    if turn.session.dock != "leaving":
        turn.ignore("undocking ended twice")
    elif not fact.undocked and turn.session.undockings < turn.settings.undocking_tries:
        undock(turn)
    else:
        turn.update(dock="" if fact.undocked else "stuck")
        if not fact.undocked:
            turn.emit(CallForHelp(f"can not leave the dock: {fact.reason}"))


def undock(turn: RobotTurn) -> None:
    """Wishes to leave the dock."""
    turn.update(dock="leaving", undockings=turn.session.undockings + 1)
    turn.emit(StartUndocking())


def on_undocked(turn: RobotTurn, fact: UndockingEnded) -> None:
    """Left, or stuck: the money is settled in either case."""
    session = turn.session
    if session.dock != "leaving":
        turn.ignore("undocking ended twice")
        return
    if not fact.undocked and session.undockings < turn.settings.undocking_tries:
        undock(turn)
        return
    idle_ms = max(0, turn.at.session_ns - session.ended_ns) // 1_000_000
    turn.update(dock="" if fact.undocked else "stuck", idle_ms=idle_ms)
    if not fact.undocked:
        turn.emit(CallForHelp(f"can not leave the dock: {fact.reason}"))
    start_settling(turn)


def on_docking_ended(turn: RobotTurn, fact: DockingEnded) -> None:
    """Docking ended while the session was stopping already."""
    if turn.session.dock != "driving":
        turn.ignore("docking ended twice")
        return
    if not fact.docked:
        turn.update(dock="")
        start_settling(turn)
        return
    turn.update(dock="docked", ended=True)
    turn.emit(ReadBattery())
    turn.set_timer("battery", turn.settings.poll_ms)
