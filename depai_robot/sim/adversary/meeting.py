"""A cheat meets the honest other side: what that one lost, how it noticed, what it can show, how long it took."""

import functools
from collections import Counter
from dataclasses import dataclass
from typing import Any

from depai_robot.charging import fact as ft
from depai_robot.charging.envelope import RefusedMessageError, open_token
from depai_robot.charging.message import TYPE_BY_BODY
from depai_robot.charging.reconciliation import upper_bound_milliwh
from depai_robot.charging.terms import tranche_price_atomic
from depai_robot.sim.adversary.agent import Agent
from depai_robot.sim.adversary.arena import SECOND, Arena
from depai_robot.sim.adversary.audit import Auditor
from depai_robot.sim.adversary.behaviour import STATION, Behaviour
from depai_robot.sim.adversary.cast import FUNDS_ATOMIC
from depai_robot.values.identity import Address
from depai_robot.values.money import cost_atomic

_AT_WORK = ("FUNDING", "APPROACHING", "PRESENTING", "CHARGING")
_OVER = ("SETTLED", "LAPSED")
_WAITING = ("BACKING_OFF", "CALLING_FOR_HELP", "SHUT_DOWN", "IDLE")
_ROUTINE = frozenset(
    (
        "sealed late",
        "sealed twice",
        "battery read out of phase",
        "message out of phase",
        "late payment result",
        "transaction signed twice",
        "channel read late",
        "channel read while a transaction is under way",
        "old offer",
        "ChainHeadObserved of no open session",
        "TimerFired of no open session",
        "message of no open session",
        "late statement",
        "MessageSealed of no open session",
        "TransactionConfirmed of no open session",
    )
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one meeting; money in atomic units.

    Attributes:
        side, name, seed: of the cheat.
        lost_atomic: paid (or not paid) beyond true energy and agreed fees, for good.
        bound_atomic: the most that the design allows: one tranche and the stated meter band.
        fee_atomic: start fees paid to a station that then gave no energy: agreed, and limited by the policy.
        locked_atomic: in channels at the end of the run.
        locked_s: from the misdeed until the honest side had settled everything.
        stopped_s: from the misdeed until the honest side signed (or gave) no more; -1 when it had not to.
        noticed: in the honest side's words.
        evidence: what it keeps, signed by the cheat.
        phase: of the honest side at the end.
        energy_milliwh: that truly flowed.
        bystander: what became of an honest robot beside the cheat, empty when there is none.
    """

    side: str
    name: str
    seed: int
    lost_atomic: int
    bound_atomic: int
    fee_atomic: int
    locked_atomic: int
    locked_s: float
    stopped_s: float
    noticed: str
    evidence: str
    phase: str
    energy_milliwh: int
    bystander: str = ""


class Witness:
    """Watches the honest side."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self.stopped_ns = -1
        self.worked = False
        self.reasons: Counter[str] = Counter()
        self.refusals: list[str] = []
        self.funded_fees: dict[str, int] = {}
        self.faults: list[str] = []
        self.bounds: dict[str, int] = {}
        arena.after_step.append(self._look)

    def _note_session(self, agent: Agent, session: Any) -> None:
        block = session.agreement.agreed.block
        if session.blocks and block is not None:
            # A block is paid before it flows: its energy is what may be lost, what it costs beyond that is a fee.
            energy = cost_atomic(session.agreement.agreed.terms.price_atomic_per_kwh, block.block_milliwh)
            self.funded_fees[session.id] = len(session.blocks) * (block.price_atomic - energy)
            tranche = tranche_price_atomic(session.agreement.agreed.terms)
            self.bounds[session.id] = energy + _band_atomic(agent, session) - tranche
            return
        self.funded_fees[session.id] = session.fees(session.idle_ms // 60_000)
        self.bounds[session.id] = _band_atomic(agent, session)

    def _look(self, agent: Agent) -> None:
        arena = self._arena
        if agent is not arena.victim:
            return
        robot = arena.behaviour.side == STATION
        sessions = agent.state.sessions.values()
        for session in sessions:
            for reason in session.ignored:
                self.reasons[reason] += 1
            if robot and session.stop is not None and session.stop.fault not in ("", *self.faults):
                self.faults.append(session.stop.detail)
            if robot:
                self.refusals += [
                    c.refused for c in session.ranking if c.refused and c.refused not in self.refusals
                ]
                if session.agreement is not None and session.money.vouchers and not session.closing:
                    self._note_session(agent, session)
            elif session.phase not in ("QUOTED", "FUNDING", "LAPSED") and session.channel is not None:
                fee = 0 if session.blocks_only else session.start_fee_atomic
                self.funded_fees[session.id] = fee
        for reason in agent.state.ignored:
            self.reasons[reason] += 1
        if self.stopped_ns >= 0:
            return
        if robot:
            busy = agent.state.phase in _AT_WORK
        else:
            busy = any(item.power_w for (name, _), item in arena.connectors.items() if name == agent.name)
        if arena.misdeed_ns < 0:
            self.worked = busy
            return
        self.worked = self.worked or busy
        if self.worked and not busy:
            self.stopped_ns = arena.now_ns


def _band_atomic(agent: Agent, session: Any) -> int:
    """One tranche, and what the band lets a station state beyond the energy that came in at nominal efficiency."""
    terms = session.agreement.agreed.terms
    own = session.meter.own_last_milliwh
    band = upper_bound_milliwh(agent.settings.band, own) - own
    return tranche_price_atomic(terms) + cost_atomic(terms.price_atomic_per_kwh, max(0, band))


def _at_rest(arena: Arena) -> bool:
    victim = arena.victim
    if arena.behaviour.side == STATION:
        state = victim.state
        return not state.background and (state.phase == "SETTLED" or state.phase in _WAITING)
    sessions = victim.state.sessions.values()
    due = any(kept.due_atomic for kept in victim.state.channels.values())
    return not due and all(session.phase in _OVER for session in sessions)


def meet(kind: type[Behaviour], seed: int = 1) -> Outcome:
    """One run. Raises InvariantError when the honest side breaks an invariant of the design."""
    arena = Arena(kind(), seed)
    auditor, witness = Auditor(arena), Witness(arena)
    arena.run(lambda: all(len(r.state.offers) >= len(arena.stations) for r in arena.robots), 3)
    for number, robot in enumerate(arena.robots):
        wish = functools.partial(arena.request, robot, energy_milliwh=arena.behaviour.energy_milliwh)
        arena.later(number * 2 * SECOND, wish)
    arena.run(lambda: False, arena.behaviour.least_s)
    arena.run(lambda: _at_rest(arena), arena.behaviour.seconds)
    rest_ns = arena.now_ns
    auditor.finish()
    robot_pays = arena.behaviour.side == STATION
    lost, bound, fee, locked = _robot_books(arena, witness) if robot_pays else _station_books(arena, witness)
    since = arena.misdeed_ns
    stopped = (witness.stopped_ns - since) / SECOND if since >= 0 <= witness.stopped_ns else -1.0
    return Outcome(
        side=arena.behaviour.side,
        name=arena.behaviour.name,
        seed=seed,
        lost_atomic=lost,
        bound_atomic=bound,
        fee_atomic=fee,
        locked_atomic=locked,
        locked_s=(rest_ns - since) / SECOND if since >= 0 else -1.0,
        stopped_s=stopped,
        noticed=_noticed(arena, witness),
        evidence=_evidence(arena),
        phase=_phase(arena),
        energy_milliwh=sum(_delivered(arena).values()),
        bystander=_bystander(arena),
    )


def _phase(arena: Arena) -> str:
    victim = arena.victim
    if arena.behaviour.side == STATION:
        return str(victim.state.phase)
    return ", ".join(sorted({session.phase for session in victim.state.sessions.values()})) or "at rest"


def _bystander(arena: Arena) -> str:
    if arena.behaviour.robots < 2:
        return ""
    session = arena.robots[1].state.session
    stop = session.stop if session is not None else None
    if stop is not None:
        return "charged" if stop.reason == "EnergyLimitReached" else f"not charged: {stop.detail[:80]}"
    refused = [c.refused for c in session.ranking if c.refused] if session is not None else []
    return f"not charged: {(refused or ['no offer'])[0][:80]}"


def _delivered(arena: Arena) -> dict[str, int]:
    """True energy by station, mWh."""
    out: dict[str, int] = {}
    for (name, _), item in arena.connectors.items():
        out[name] = out.get(name, 0) + (item.true_uwh - 7_000_000) // 1000
    return out


def _robot_books(arena: Arena, witness: Witness) -> tuple[int, int, int, int]:
    victim = arena.victim
    payer = Address(victim.settings.payer)
    chain = arena.chain
    locked = sum(row.balance - row.claimed for row in chain.channels_of(payer))
    paid = FUNDS_ATOMIC - chain.state.balances.get(payer, 0) - locked
    fair, energy = 0, 0
    fees = sum(witness.funded_fees.values())
    for name, milliwh in _delivered(arena).items():
        fair += cost_atomic(arena.agents[name].settings.price_atomic_per_kwh, milliwh)
        energy += milliwh
    fee_paid = min(paid, fees)
    lost = max(0, paid - fair - fee_paid)
    return lost, max(witness.bounds.values(), default=0), fee_paid if energy == 0 else 0, locked


def _station_books(arena: Arena, witness: Witness) -> tuple[int, int, int, int]:
    victim = arena.victim
    settings = victim.settings
    owed = sum(witness.funded_fees.values())
    owed += cost_atomic(settings.price_atomic_per_kwh, _delivered(arena)[victim.name])
    receiver = Address(settings.receiver)
    claimed, settled = arena.chain.state.receivers.get(receiver, (0, 0))
    got = arena.chain.state.balances.get(receiver, 0) + claimed - settled
    # The bound: what flows between the last statement and the switch is within what the ceiling buys: nothing.
    return max(0, owed - got - len(witness.funded_fees)), 0, 0, 0


def _noticed(arena: Arena, witness: Witness) -> str:
    victim = arena.victim
    parts = [item.reason for item in victim.evidence[:1]]
    parts += [detail for detail in witness.faults if detail not in parts][:1]
    if not parts:
        parts += [bar.reason for bar in getattr(victim.state, "bars", {}).values() if hasattr(bar, "reason")][
            :1
        ]
    if not parts:
        parts += [reason for reason in witness.refusals if "no answer" not in reason][:1] or witness.refusals[
            :1
        ]
    if not parts:
        parts += [
            reason for reason in witness.reasons if reason not in _ROUTINE and "repeated" not in reason
        ][:2]
    if victim.refused:
        parts += ["message refused: " + ", ".join(f"{code} x{n}" for code, n in victim.refused.items())]
    if not parts:
        stops = [
            s.stop_reason
            for s in getattr(victim.state, "sessions", {}).values()
            if getattr(s, "stop_reason", "")
        ]
        parts += stops[:1]
    return "; ".join(part[:160] for part in parts)


def _types(tokens: list[str]) -> str:
    kinds: Counter[str] = Counter()
    for token in tokens:
        try:
            kinds[TYPE_BY_BODY[type(open_token(token).body)]] += 1
        except RefusedMessageError:
            kinds["refused"] += 1
    return ", ".join(kind if n == 1 else f"{kind} x{n}" for kind, n in kinds.items())


def _evidence(arena: Arena) -> str:
    victim, cheat = arena.victim, arena.cheat
    if victim.evidence:
        return "kept: " + _types(list(victim.evidence[0].tokens))
    tokens = []
    for row in victim.journal:
        fact = ft.decode_fact(row)
        if isinstance(fact, ft.MessageReceived) and fact.sender == bytes(cheat.identity):
            tokens.append(fact.token)
    return "journal: " + (_types(tokens) or "nothing of the cheat came in")
