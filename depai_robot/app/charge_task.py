"""How far the charge is that somebody asked for, and how it ended: one view for actions, fleets and screens."""

import math
from dataclasses import dataclass

from depai_robot.charging.robot_state import RobotState, Session
from depai_robot.charging.transition import RobotPhase

NONE, NO_OFFER, DOCKING = "", "no-offer", "docking"
STATION_AT_FAULT, SETTLING, UNKNOWN = "station", "settling", "unknown"


@dataclass(frozen=True, slots=True)
class ChargeView:
    """One session, as whoever asked for it sees it.

    Attributes:
        session: its id.
        phase: of the machine.
        station: chosen; empty before.
        energy_milliwh: of the station's meter, as reconciled.
        cost_atomic: owed for it, fees included.
        distance_m: straight line to the dock when it was chosen; NaN before.
        stop_reason: OCPP stoppedReason word; empty while it goes on.
        done: nothing more will be bought in it.
        settled: the money is where it belongs, too.
        failure: "" or no-offer, docking, station, settling, unknown.
        message: for people.
    """

    session: str
    phase: str
    station: str = ""
    energy_milliwh: int = 0
    cost_atomic: int = 0
    distance_m: float = math.nan
    stop_reason: str = ""
    done: bool = False
    settled: bool = False
    failure: str = NONE
    message: str = ""


def find_session(state: RobotState, session_id: str) -> Session | None:
    """An open or just finished session by its id."""
    return state.sessions.get(session_id)


def view_charge(state: RobotState, session_id: str) -> ChargeView:
    """What became of a charge so far; one that is not known any more has ended.

    Args:
        state: of the wallet's machine.
        session_id: as ``request_charge`` gave it.
    """
    session = find_session(state, session_id)
    if session is None:
        return ChargeView(
            session_id, "IDLE", done=True, settled=True, failure=UNKNOWN, message="not known any more"
        )
    chosen = next((item for item in session.ranking if item.chosen), None)
    values = {
        "session": session.id,
        "phase": session.phase,
        "distance_m": chosen.distance_mm / 1000 if chosen is not None else math.nan,
        "stop_reason": session.stop.reason if session.stop is not None else "",
        "message": session.stop.detail if session.stop is not None else "",
    }
    if session.agreement is not None:
        energy = session.meter.reconciled.station_milliwh
        begun = bool(session.meter.begin_statement)
        values["station"] = session.agreement.agreed.terms.station
        values["energy_milliwh"] = energy
        values["cost_atomic"] = session.owed_for(energy) - session.money.base if begun else 0
    return ChargeView(**values, **_end(session))  # type: ignore[arg-type]


def _end(session: Session) -> dict[str, object]:
    phase, stop = session.phase, session.stop
    if phase == RobotPhase.CALLING_FOR_HELP.value:
        reasons = {item.station: item.refused for item in session.ranking if item.refused}
        said = "; ".join(f"{station}: {reason}" for station, reason in sorted(reasons.items()))
        return {"done": True, "failure": NO_OFFER, "message": said or "no station answers"}
    if phase == RobotPhase.SHUT_DOWN.value:
        return {"done": True, "failure": NO_OFFER, "message": "shut down before deep discharge"}
    if phase == RobotPhase.IDLE.value:
        return {"done": True, "settled": True, "message": "ended before anything was signed"}
    settled = phase == RobotPhase.SETTLED.value
    if not settled and phase != RobotPhase.WITHDRAWING.value:
        return {}
    failure = NONE if settled else SETTLING
    if stop is not None and stop.fault:
        failure = STATION_AT_FAULT
    if ("DockingEnded", RobotPhase.STOPPING.value) in session.path or session.dock in ("stuck", "held"):
        failure = DOCKING
    return {"done": True, "settled": settled, "failure": failure}
