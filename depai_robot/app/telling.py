"""Observers of the runner that tell the story of a session; pure reading of states, nothing is decided here."""

import json
from collections.abc import Sequence
from typing import Any

from depai_robot.app.story import StoryWriter
from depai_robot.charging.effect import KeepEvidence, KeepReceipt
from depai_robot.charging.fact import Fact, StatementMade, TransactionConfirmed
from depai_robot.charging.robot_state import RobotState, Session
from depai_robot.charging.station_state import StationSession, StationState


def _new_moves(
    before: Session | StationSession | None, after: Session | StationSession
) -> list[tuple[str, str, str]]:
    """(from, to, cause) of each move of the step. The path is cut at its begin, so phases are compared besides."""
    phase = before.phase if before is not None else ""
    known = before.path if before is not None else ()
    fresh = after.path[len(known) :] if len(after.path) > len(known) else ()
    if not fresh and phase != after.phase:
        fresh = after.path[-1:] or (("", after.phase),)
    moves = []
    for cause, to in fresh:
        moves.append((phase, to, cause))
        phase = to
    return moves


class WalletTeller:
    """Tells what the robot's machine does."""

    def __init__(self, story: StoryWriter) -> None:
        self._story = story

    def __call__(self, fact: Fact, before: RobotState, after: RobotState, effects: Sequence[Any]) -> None:
        """See runner.Observer."""
        if after.sessions != before.sessions:
            for session in after.sessions.values():
                self._tell_session(before.sessions.get(session.id), session)
            for gone in set(before.sessions) - set(after.sessions):
                self._story.tell(
                    "state",
                    session=gone,
                    **{"from": before.sessions[gone].phase},
                    to="IDLE",
                    cause=type(fact).__name__,
                )
        if isinstance(fact, TransactionConfirmed):
            tell_transaction(self._story, fact)
        for effect in effects:
            if isinstance(effect, KeepEvidence):
                self._story.tell("evidence", session=effect.session, reason=effect.reason)
            elif isinstance(effect, KeepReceipt):
                self._story.tell("receipt", **json.loads(effect.receipt))

    def _tell_session(self, before: Session | None, after: Session) -> None:
        if before is after:
            return
        tell = self._story.tell
        if after.ranking and (before is None or before.ranking != after.ranking):
            for item in after.ranking:
                tell(
                    "quote",
                    station=item.station,
                    price_atomic_per_kwh=item.price_atomic_per_kwh,
                    start_fee_atomic=item.start_fee_atomic,
                    distance_m=item.distance_mm / 1000,
                    power_w=item.power_w,
                    score=item.score_atomic,
                    chosen=item.chosen,
                    refused=item.refused or None,
                )
        if after.agreement is not None and (before is None or before.agreement is None):
            tell(
                "agreement",
                station=after.agreement.agreed.terms.station,
                channel_id=after.agreement.channel_id,
                escrow_atomic=after.agreement.escrow_atomic,
            )
        if after.stop is not None and (before is None or before.stop is None):
            tell("stop", reason=after.stop.reason, detail=after.stop.detail, fault=after.stop.fault)
        for origin, to, cause in _new_moves(before, after):
            tell("state", session=after.id, **{"from": origin}, to=to, cause=cause)
        last = before.tranches[-1].number if before is not None and before.tranches else 0
        for tranche in after.tranches:
            if tranche.number > last:
                tell(
                    "tranche",
                    number=tranche.number,
                    station_milliwh=tranche.station_milliwh,
                    own_milliwh=tranche.own_milliwh,
                    ceiling_atomic=tranche.ceiling_atomic,
                    cost_atomic=tranche.cost_atomic,
                )


class StationTeller:
    """Tells what a station's machine does."""

    def __init__(self, story: StoryWriter) -> None:
        self._story = story

    def __call__(self, fact: Fact, before: StationState, after: StationState, effects: Sequence[Any]) -> None:
        """See runner.Observer."""
        del effects
        if after.sessions is not before.sessions:
            for session in after.sessions.values():
                old = before.sessions.get(session.id)
                for origin, to, cause in _new_moves(old, session) if old is not session else ():
                    self._story.tell("state", session=session.id, **{"from": origin}, to=to, cause=cause)
        if isinstance(fact, TransactionConfirmed):
            tell_transaction(self._story, fact)
        elif isinstance(fact, StatementMade):
            self._story.tell(
                "statement",
                connector=fact.connector,
                energy_milliwh=fact.energy_milliwh,
                power_w=fact.power_mw / 1000,
            )


def tell_transaction(story: StoryWriter, fact: TransactionConfirmed) -> None:
    """A transaction is deep enough."""
    session, _, purpose = fact.purpose.rpartition(":")
    story.tell(
        "tx",
        session=session,
        purpose=purpose,
        hash=fact.tx_hash,
        block=fact.block_number,
        gas=fact.gas_used,
    )
