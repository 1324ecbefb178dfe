"""The legal moves of both machines, as data: the docs and the report draw the state pictures from these tables.

Two rules stand over the tables. Failure never goes back a row: once something was signed, every way leads forward
to settlement. And a move that is not written here is a bug: the step raises and the state stays as it was.
May import values only.
"""

from dataclasses import dataclass
from enum import Enum

from depai_robot.values.error import BugError


class RobotPhase(str, Enum):
    """Where a robot's session stands; rows of the procedure, top to bottom."""

    IDLE = "IDLE"
    QUOTING = "QUOTING"
    FUNDING = "FUNDING"
    APPROACHING = "APPROACHING"
    PRESENTING = "PRESENTING"
    CHARGING = "CHARGING"
    STOPPING = "STOPPING"
    UNDOCKING = "UNDOCKING"
    SETTLING = "SETTLING"
    WITHDRAWING = "WITHDRAWING"
    SETTLED = "SETTLED"
    BACKING_OFF = "BACKING_OFF"
    CALLING_FOR_HELP = "CALLING_FOR_HELP"
    SHUT_DOWN = "SHUT_DOWN"


class StationPhase(str, Enum):
    """Where one session stands at a station."""

    QUOTED = "QUOTED"
    FUNDING = "FUNDING"
    FUNDED = "FUNDED"
    BINDING = "BINDING"
    CHARGING = "CHARGING"
    STOPPING = "STOPPING"
    ENDED = "ENDED"
    CLAIMING = "CLAIMING"
    REFUNDING = "REFUNDING"
    PAYING = "PAYING"
    SETTLED = "SETTLED"
    LAPSED = "LAPSED"


@dataclass(frozen=True, slots=True)
class Transition:
    """One legal move.

    Attributes:
        before: phase, by name.
        cause: name of the fact, for messages the name of the body: ``Quote``, ``NeedVoucher``.
        after: phase, by name.
    """

    before: str
    cause: str
    after: str


def _rows(table: str) -> tuple[Transition, ...]:
    rows = []
    for line in table.strip().splitlines():
        before, causes, after = (part.strip() for part in line.split(">"))
        rows += [Transition(before, cause.strip(), after) for cause in causes.split("|")]
    return tuple(rows)


ROBOT_TRANSITIONS = _rows(
    """
    IDLE > ChargeRequested > QUOTING
    IDLE > ChargeRequested > BACKING_OFF
    IDLE > ChannelCloseRequested | ChargeRequested > SETTLING
    SETTLED > ChargeRequested > QUOTING
    SETTLED > ChargeRequested > BACKING_OFF
    WITHDRAWING > ChargeRequested > QUOTING
    WITHDRAWING > ChargeRequested > BACKING_OFF
    QUOTING > Quote | QuoteReject | TimerFired > FUNDING
    QUOTING > Quote | QuoteReject | TimerFired > BACKING_OFF
    QUOTING > Quote | QuoteReject | TimerFired > CALLING_FOR_HELP
    QUOTING > StopRequested > IDLE
    FUNDING > ChainHeadObserved | ChannelObserved | FundsObserved | ChainFailed > BACKING_OFF
    FUNDING > ChainHeadObserved | ChannelObserved | FundsObserved | ChainFailed > CALLING_FOR_HELP
    FUNDING > TimerFired | SessionStop | SessionEvent > BACKING_OFF
    FUNDING > TimerFired | SessionStop | SessionEvent > CALLING_FOR_HELP
    FUNDING > StopRequested > IDLE
    FUNDING > ChannelObserved | PaymentResult | ChainHeadObserved | FundsObserved > APPROACHING
    FUNDING > PaymentResult | SessionStop | SessionEvent | StopRequested | TimerFired | ChannelObserved > STOPPING
    APPROACHING > DockingEnded > PRESENTING
    APPROACHING > DockingEnded | SessionStop | SessionEvent | StopRequested | TimerFired > STOPPING
    PRESENTING > NeedVoucher | SessionEvent > CHARGING
    PRESENTING > NeedVoucher | SessionEvent | SessionStop | StopRequested | TimerFired > STOPPING
    CHARGING > NeedVoucher | SessionEvent | PaymentResult | SessionStop > STOPPING
    CHARGING > StopRequested | TimerFired | ChainHeadObserved > STOPPING
    STOPPING > BatteryObserved > UNDOCKING
    STOPPING > SessionEvent | PaymentResult | SessionStop | StopRequested > SETTLING
    STOPPING > DockingEnded | TimerFired | ChannelObserved > SETTLING
    UNDOCKING > UndockingEnded > SETTLING
    SETTLING > ChannelObserved | ReceiptMessage | TimerFired | PaymentResult | AuthorizationObserved > SETTLED
    SETTLING > TimerFired > WITHDRAWING
    WITHDRAWING > ChannelObserved > SETTLED
    BACKING_OFF > TimerFired > QUOTING
    BACKING_OFF > TimerFired > BACKING_OFF
    BACKING_OFF > TimerFired > CALLING_FOR_HELP
    BACKING_OFF > BatteryObserved | ChargeRequested > SHUT_DOWN
    BACKING_OFF > StopRequested > IDLE
    CALLING_FOR_HELP > TimerFired > QUOTING
    CALLING_FOR_HELP > TimerFired > CALLING_FOR_HELP
    CALLING_FOR_HELP > BatteryObserved | ChargeRequested > SHUT_DOWN
    CALLING_FOR_HELP > StopRequested > IDLE
    SHUT_DOWN > Restarted > IDLE
    """
)

STATION_TRANSITIONS = _rows(
    """
    QUOTED > Payment > FUNDING
    QUOTED > TimerFired | SessionStop | QuoteRequest | StopRequested > LAPSED
    FUNDING > ChannelObserved > FUNDED
    FUNDING > ChainFailed | TimerFired | ChannelObserved > LAPSED
    FUNDED > SessionEvent | PresenceChanged > BINDING
    QUOTED > SessionEvent | PresenceChanged > BINDING
    FUNDED > Payment | TimerFired | SessionStop | StopRequested | ContactorFailed | ChannelObserved > ENDED
    BINDING > Payment | TransactionConfirmed > CHARGING
    BINDING > Payment | SessionStop | StopRequested | TimerFired | ContactorFailed | PresenceChanged > STOPPING
    BINDING > ChannelObserved | ChainFailed > STOPPING
    CHARGING > Payment | SessionStop | StopRequested | TimerFired | ContactorFailed | PresenceChanged > STOPPING
    CHARGING > StatementMade | ChannelObserved | ChainFailed > STOPPING
    STOPPING > StatementMade | TimerFired > ENDED
    ENDED > Payment | TimerFired | ChannelObserved > CLAIMING
    ENDED > Payment | TimerFired > SETTLED
    CLAIMING > ChannelObserved > REFUNDING
    CLAIMING > ChannelObserved > PAYING
    REFUNDING > ChannelObserved > PAYING
    PAYING > ChannelObserved > SETTLED
    """
)

_LEGAL = {
    "robot": frozenset((row.before, row.cause, row.after) for row in ROBOT_TRANSITIONS),
    "station": frozenset((row.before, row.cause, row.after) for row in STATION_TRANSITIONS),
}


def require_move(role: str, before: str, cause: str, after: str) -> None:
    """Passes when the move is in the role's table.

    Args:
        role: ``robot`` or ``station``.
        before: phase.
        cause: name of the fact or body.
        after: phase.

    Raises:
        BugError: it is not.
    """
    if (before, cause, after) not in _LEGAL[role]:
        raise BugError(f"{role}: no move from {before} to {after} by {cause} in the table of legal moves")
