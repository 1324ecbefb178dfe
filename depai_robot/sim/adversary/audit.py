"""The invariants of the design, looked at after every step of an honest machine. A breach raises at once.

It reads the machines' states, their journals and the chain, and believes none of them alone.
"""

from depai_robot.charging import fact as ft
from depai_robot.charging.reconciliation import upper_bound_milliwh
from depai_robot.charging.robot_block import SLACK_MIN_MILLIWH
from depai_robot.charging.terms import tranche_price_atomic
from depai_robot.sim.adversary.agent import Agent
from depai_robot.sim.adversary.arena import Arena
from depai_robot.sim.adversary.behaviour import ROBOT
from depai_robot.values.error import BugError
from depai_robot.values.money import cost_atomic

_SIGNING = ("APPROACHING", "PRESENTING", "CHARGING")
_POWERED = ("FUNDED", "BINDING", "CHARGING", "STOPPING")


class InvariantError(BugError):
    """An invariant of the design does not hold: the number is the design's."""

    def __init__(self, number: int, detail: str) -> None:
        super().__init__(f"invariant {number}: {detail}")


def _require(number: int, condition: bool, detail: str) -> None:
    if not condition:
        raise InvariantError(number, detail)


class Auditor:
    """Attach once to an arena, before time begins."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._total_atomic = arena.chain.total_atomic()
        self._signed: dict[tuple[str, str], int] = {}
        arena.after_step.append(self._check)

    def _check(self, agent: Agent) -> None:
        if agent.cheat is None:
            if agent.role == ROBOT:
                self._robot(agent)
            else:
                self._station(agent)
        # 6: deposit = claimed + refunded + withdrawn + balance, over all accounts
        total = self._arena.chain.total_atomic()
        _require(6, total == self._total_atomic, f"{total} of {self._total_atomic} tokens are left")

    def _robot(self, agent: Agent) -> None:
        state = agent.state
        policy = state.settings.policy
        for session in state.sessions.values():
            money = session.money
            if session.agreement is None:
                _require(1, money.signed == 0, f"{money.signed} signed without an agreement")
                continue
            # 1: a ceiling never falls and never exceeds the confirmed escrow (the start fee: the deposit)
            terms = session.agreement.agreed.terms
            key = agent.name, session.id
            before = self._signed.get(key, 0)
            if money.vouchers:
                _require(1, money.signed >= before, f"the ceiling fell from {before} to {money.signed}")
                self._signed[key] = money.signed
            block = session.agreement.agreed.block if session.blocks else None
            if block is not None:
                # 3 for blocks: at most one is paid and not delivered, but for what the machine lets be missing
                slack = max(SLACK_MIN_MILLIWH, block.block_milliwh // 20)
                delivered = (session.meter.reconciled.station_milliwh + slack) // block.block_milliwh
                ahead = len(session.blocks) - delivered
                _require(3, ahead <= 1, f"{ahead} blocks are paid ahead")
                continue
            most = max(money.escrow, money.base + terms.start_fee_atomic)
            _require(1, money.signed <= most, f"ceiling {money.signed}, escrow {most}")
            # 3: at most one tranche ahead of reconciled energy and agreed fees; that lies within the band
            reconciled = session.meter.reconciled.station_milliwh
            if session.phase in _SIGNING:
                ahead = money.signed - session.owed_for(reconciled)
                _require(3, ahead <= tranche_price_atomic(terms), f"{ahead} ahead of reconciled energy")
            if session.meter.begin_milliwh >= 0:
                most = upper_bound_milliwh(state.settings.band, session.meter.own_last_milliwh)
                _require(3, reconciled <= most, f"{reconciled} mWh reconciled, at most {most} is explained")
            # 9: the wallet signs only for channels of its own agreements
            channel = session.agreement.channel
            _require(9, channel.payer == state.settings.payer, "a channel of another payer")
        # 2: what is signed and not settled stays within the owner's policy
        ledger = state.ledger
        day = ledger.day_atomic(self._arena.wall_s)
        _require(2, day <= policy.day_max_atomic, f"{day} signed in a day")
        _require(2, ledger.escrow_total_atomic <= policy.escrow_total_max_atomic, "too much is locked")
        # 7: integers only
        _require(7, isinstance(day, int), "money that is no integer")

    def _station(self, agent: Agent) -> None:
        for session in agent.state.sessions.values():
            channel = session.channel
            if channel is None or session.phase in ("FUNDING", "LAPSED"):
                continue
            if session.phase in _POWERED:
                held = channel.balance
                _require(3, channel.ceiling <= held, f"a ceiling of {channel.ceiling} on escrow of {held}")
            item = self._arena.connectors[agent.name, session.connector]
            if item.power_w and session.holding and session.phase == "CHARGING":
                # 3: power flows only while less was delivered than the ceiling buys
                bought = session.meter.begin_milliwh + session.limit_milliwh()
                _require(3, item.until_milliwh <= bought, f"power until {item.until_milliwh}, paid {bought}")

    def finish(self) -> None:
        """After the run: 4 and 5, by folding each honest journal again; 6 and 7 on every channel.

        Raises:
            InvariantError: naming what does not hold.
        """
        arena = self._arena
        for agent in arena.agents.values():
            if agent.cheat is not None:
                continue
            state = agent.module.initial_state(agent.settings)
            folded: set[int] = set()
            for row in agent.journal:
                state, effects = agent.module.step(state, ft.decode_fact(row))
                for wish in effects:
                    body = getattr(getattr(wish, "draft", None), "body", None)
                    payload = getattr(getattr(body, "payload", None), "payload", None)
                    if payload is not None and hasattr(payload, "voucher"):
                        folded.add(int(payload.voucher.max_claimable_amount))
            _require(5, state == agent.state, f"{agent.name}: a fold of the journal gives another state")
            unknown = {ceiling for _, ceiling in agent.vouchers} - folded
            _require(4, not unknown, f"{agent.name} signed {sorted(unknown)} that its journal does not know")
            for _, ceiling in agent.vouchers:
                _require(7, isinstance(ceiling, int), "a ceiling that is no integer")
        for channel, held in arena.chain.state.channels.items():
            _require(6, 0 <= held.claimed <= held.balance, f"0x{channel.hex()}: {held}")
        _require(7, cost_atomic(1, 999_999) == 0, "what is owed is rounded down")
