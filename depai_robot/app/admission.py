"""Which checked messages become rows of the journal: those that somebody has a business with, at a bounded pace.

Anybody who may write to an inbox can sign well-formed messages. Each one that is admitted costs a row and an fsync, so
what belongs to no open session is dropped here, and nobody may talk faster than a session ever needs.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from depai_robot.charging.message import Draft, Offer, Payment, QuoteRequest
from depai_robot.charging.robot_state import RobotState
from depai_robot.charging.station_state import StationState
from depai_robot.payment.x402 import RefundPayload

SENDERS_MAX = 4096
"""Senders whose pace is remembered; the one that was silent for longest is forgotten first."""


class Bucket:
    """A token bucket: ``burst`` at once, ``rate_per_s`` in the long run."""

    __slots__ = ("_level", "_seen_s", "burst", "rate_per_s")

    def __init__(self, rate_per_s: float, burst: float) -> None:
        self.rate_per_s, self.burst = rate_per_s, burst
        self._level = burst
        self._seen_s: float | None = None

    def take(self, now_s: float) -> bool:
        """Whether one more is within the pace."""
        if self._seen_s is not None:
            gained = max(0.0, now_s - self._seen_s) * self.rate_per_s
            self._level = min(self.burst, self._level + gained)
        self._seen_s = now_s
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True


class Pace:
    """One bucket for each sender, and one for all of them together.

    Args:
        each: (rate per second, burst) of one sender.
        together: (rate per second, burst) of all.
    """

    def __init__(self, each: tuple[float, float], together: tuple[float, float]) -> None:
        self._each = each
        self._together = Bucket(*together)
        self._buckets: OrderedDict[bytes, Bucket] = OrderedDict()

    def take(self, sender: bytes, now_s: float) -> bool:
        """Whether one more of that sender is within the pace."""
        bucket = self._buckets.get(sender)
        if bucket is None:
            bucket = self._buckets[sender] = Bucket(*self._each)
            if len(self._buckets) > SENDERS_MAX:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(sender)
        return bucket.take(now_s) and self._together.take(now_s)


Admit = Callable[[bytes, Draft, float], str]
"""(sender, checked message, monotonic seconds) -> why it is dropped, or empty."""


class StationAdmission:
    """Quote requests at a slow pace; everything else only from the other side of an open session or kept channel."""

    def __init__(self, state: Callable[[], StationState]) -> None:
        self._state = state
        self._strangers = Pace((1.0, 10.0), (50.0, 200.0))
        self._customers = Pace((100.0, 400.0), (5000.0, 10_000.0))

    def __call__(self, sender: bytes, draft: Draft, now_s: float) -> str:
        """See Admit."""
        body: Any = draft.body
        if isinstance(body, QuoteRequest):
            return "" if self._strangers.take(sender, now_s) else "pace"
        state = self._state()
        session = state.sessions.get(draft.session)
        known = session is not None and session.identity == sender
        if not known and isinstance(body, Payment) and isinstance(body.payload.payload, RefundPayload):
            known = any(kept.identity == sender for kept in state.channels.values())
        if not known:
            return "no open session"
        return "" if self._customers.take(sender, now_s) else "pace"


class RobotAdmission:
    """Offers at a slow pace; everything else only when it belongs to a session of the robot's own."""

    def __init__(self, state: Callable[[], RobotState]) -> None:
        self._state = state
        self._offers = Pace((1.0, 10.0), (100.0, 2000.0))
        self._stations = Pace((100.0, 400.0), (1000.0, 2000.0))

    def __call__(self, sender: bytes, draft: Draft, now_s: float) -> str:
        """See Admit."""
        if isinstance(draft.body, Offer):
            return "" if self._offers.take(sender, now_s) else "pace"
        session = self._state().sessions.get(draft.session)
        if session is None:
            return "no open session"
        agreement = session.agreement
        knows = sender.hex() in session.asked or (agreement is not None and agreement.offer.sender == sender)
        if not knows and sender.hex() not in session.answers:
            return "not asked"
        return "" if self._stations.take(sender, now_s) else "pace"
