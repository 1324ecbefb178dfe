"""Both machines under loss, repetition, reordering, delay and crashes at any point: the invariants always hold.

After every single step: ceilings never fall nor exceed the escrow; what is signed ahead of reconciled energy is at
most one tranche; power stays below what was paid for; every atomic unit has its place. When the world heals,
every session ends settled. Good rules have siblings with one field spoiled.
"""

import random
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from depai_robot.charging import fact as ft
from depai_robot.charging.envelope import open_token
from depai_robot.charging.message import (
    Draft,
    EventType,
    NeedVoucher,
    Offer,
    PaymentResult,
    QuoteCounter,
    QuoteReject,
    ReceiptMessage,
    SessionEvent,
    SessionStop,
)
from depai_robot.charging.reconciliation import upper_bound_milliwh
from depai_robot.charging.terms import tranche_price_atomic
from depai_robot.payment.receipt import parse_receipt
from depai_robot.payment.x402 import SettleResponse
from depai_robot.values.identity import did_pkh
from test.builders import CHAIN_ID, make_key, make_robot_settings, make_station_settings
from test.pretend import World

FREE = ("IDLE", "SETTLED", "WITHDRAWING")
PHASES = ("FUNDING", "APPROACHING", "PRESENTING", "CHARGING", "STOPPING", "UNDOCKING", "SETTLING")
SIGNING = ("APPROACHING", "PRESENTING", "CHARGING")


class Checks:
    """The invariants of the design, looked at after every step."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.signed: dict[str, int] = {}
        self.total = sum(world.chain.balances.values())

    def __call__(self) -> None:
        self.robot()
        for agent in self.world.stations.values():
            self.station(agent)
        self.chain()

    def robot(self) -> None:
        state = self.world.robot.state
        policy = state.settings.policy
        for session in state.sessions.values():
            money = session.money
            # 1: a signed ceiling never falls and never exceeds the confirmed escrow (the start fee: the deposit)
            if money.vouchers:
                assert money.signed >= self.signed.get(session.id, 0)
                self.signed[session.id] = money.signed
            if session.agreement is None:
                assert money.signed == 0
                continue
            terms = session.agreement.agreed.terms
            if session.rail == "exact":
                self.blocks(session)
                continue
            assert money.signed <= max(money.escrow, money.base + terms.start_fee_atomic)
            # 3: at most one tranche ahead of reconciled energy and agreed fees
            if session.phase in SIGNING:
                owed = session.owed_for(session.meter.reconciled.station_milliwh)
                assert money.signed - owed <= tranche_price_atomic(terms)
            if session.meter.begin_milliwh >= 0:
                own = session.meter.own_last_milliwh
                assert session.meter.reconciled.own_milliwh <= own
                assert session.meter.reconciled.station_milliwh <= upper_bound_milliwh(
                    state.settings.band, own
                )
        # 2: what is signed and not settled stays within the owner's policy
        now_s = self.world.wall_s
        assert state.ledger.day_atomic(now_s) <= policy.day_max_atomic
        assert state.ledger.escrow_total_atomic <= policy.escrow_total_max_atomic
        assert state.ledger.unsettled_total_atomic <= policy.day_max_atomic

    def blocks(self, session: Any) -> None:
        """3 on the second rail: a block is paid only when the one before it was delivered."""
        block = session.agreement.agreed.block
        assert session.money.signed == len(session.blocks) * block.price_atomic
        slack = max(100, block.block_milliwh // 20)
        delivered = (session.meter.reconciled.station_milliwh + slack) // block.block_milliwh
        assert len(session.blocks) <= delivered + 1
        assert not session.blocks or session.meter.begin_milliwh >= 0, "nothing is paid before contact"

    def station(self, agent: Any) -> None:
        supply = self.world.supplies[agent.name]
        for session in agent.state.sessions.values():
            channel = session.channel
            if channel is None or session.phase in ("FUNDING", "LAPSED"):
                continue
            assert channel.charged <= max(channel.ceiling, channel.charged if session.phase == "ENDED" else 0)
            if session.phase in ("FUNDED", "BINDING", "CHARGING", "STOPPING"):
                assert channel.ceiling <= channel.balance
            if supply.power_w and session.holding and session.phase == "CHARGING":
                # power flows only while less was delivered than the ceiling buys
                assert supply.until_milliwh <= session.meter.begin_milliwh + session.limit_milliwh()

    def chain(self) -> None:
        # 6: deposit = claimed + refunded + withdrawn + balance, over all accounts
        chain = self.world.chain
        held = sum(row["balance"] - row["settled"] for row in chain.channels.values())
        assert sum(chain.balances.values()) + held == self.total


def spoil(draft: Any, field: str) -> Any:
    """A message of a station with one field changed to what must not pass."""
    body = draft.body
    if field == "session":
        return replace(draft, session="s-other")
    if isinstance(body, NeedVoucher):
        required = body.payment_required
        item = required.accepts[0]
        if field == "amount":
            item = replace(item, amount=str(10 * int(item.amount) + 5000))
        elif field == "payee":
            item = replace(item, pay_to="0x" + "22" * 20)
        elif field == "charged" and item.scheme == "exact":
            item = replace(item, max_timeout_seconds=3)
        elif field == "charged":
            state = replace(item.extra.channel_state, charged_cumulative_amount="999999")
            item = replace(item, extra=replace(item.extra, channel_state=state))
        body = replace(body, payment_required=replace(required, accepts=[item]))
        if field == "statement":
            body = replace(body, statement=body.statement.replace('"RV":0', '"RV":1'))
    elif isinstance(body, SessionEvent) and body.statement is not None:
        body = replace(
            body, statement=body.statement.replace('"TX":"C"', '"TX":"E"').replace('"RV":0', '"RV":1')
        )
    elif isinstance(body, PaymentResult) and body.settle.success and body.settle.extra:
        extra = replace(body.settle.extra, charged_amount="123456")
        body = replace(body, settle=replace(body.settle, extra=extra))
    return replace(draft, body=body)


class Machines(RuleBasedStateMachine):
    """Rules do things to the world; the world runs on between them."""

    honest = True

    @initialize(
        seed=st.integers(0, 2**32),
        stations=st.integers(1, 2),
        idle_fee=st.sampled_from([0, 50]),
        keep=st.sampled_from([0, 900, 10_000]),
        block=st.sampled_from([0, 0, 1200]),
    )
    def begin(self, seed: int, stations: int, idle_fee: int, keep: int, block: int) -> None:
        self.random = random.Random(seed)
        quick = {
            "arrival_timeout_ms": 60_000,
            "refund_wait_ms": 30_000,
            "idle_fee_atomic_per_min": idle_fee,
            "reuse_fee_atomic": 100 if keep else 0,
            "block_milliwh": block,
            "block_fee_atomic": 100,
            "claim_interval_ms": 60_000,
            "claim_at_atomic": 4000,
        }
        self.world = World(
            make_robot_settings(
                funding_timeout_ms=20_000,
                docking_timeout_ms=30_000,
                settle_timeout_ms=60_000,
                bar_s=30,
                keep_max_atomic=keep,
            ),
            [
                make_station_settings(name, pose_mm_mrad=(3000 + 1000 * n, 0, 0), **quick)
                for n, name in enumerate("ab"[:stations])
            ],
        )
        self.checks = Checks(self.world)
        self.world.after_step.append(self.checks)
        self.sessions = self.said = 0
        self.world.run(lambda: len(self.world.robot.state.offers) == stations, 5)
        self.go(1500, "CHARGING")

    # --- good rules ---------------------------------------------------------------------------------------

    def request(self, energy: int) -> None:
        self.sessions += 1
        self.world.request(f"s-{self.sessions}", energy)

    @precondition(lambda self: self.world.robot.alive and self.world.phase in FREE)
    @rule(energy=st.integers(200, 3000), phase=st.sampled_from(PHASES))
    def go(self, energy: int, phase: str) -> None:
        self.request(energy)
        self.world.run(lambda: self.world.phase == phase, 20)

    @rule(seconds=st.sampled_from([0.01, 0.05, 0.3, 1, 4, 15, 60]))
    def wait(self, seconds: float) -> None:
        self.world.run(seconds=seconds)

    @rule(phase=st.sampled_from(PHASES))
    def wait_for(self, phase: str) -> None:
        self.world.run(lambda: self.world.phase == phase, 30)

    @precondition(lambda self: self.world.phase not in FREE)
    @rule()
    def stop_robot(self) -> None:
        self.world.give(self.world.robot, ft.StopRequested(self.world.at, "operator"))

    @rule(loss=st.integers(0, 60), repeat=st.integers(0, 60), delay_ms=st.integers(0, 3000))
    def charge_over_a_bad_wire(self, loss: int, repeat: int, delay_ms: int) -> None:
        self.bad_wire(loss, repeat, delay_ms)
        if self.world.robot.alive and self.world.phase in FREE:
            self.request(1000)
        self.world.run(seconds=15)

    @rule()
    def stop_station(self) -> None:
        agent = self.random.choice(list(self.world.stations.values()))
        self.world.give(agent, ft.StopRequested(self.world.at, "operator"))

    # --- faults of the wire, the chain and the processes --------------------------------------------------

    def bad_wire(self, loss: int, repeat: int, delay_ms: int) -> None:
        dice = self.random

        def on_wire(_topic: str, _token: str) -> list[int]:
            if dice.randrange(100) < loss:
                return []
            times = 1 + (dice.randrange(100) < repeat)
            return [dice.randrange(1 + delay_ms) * 1_000_000 + 1_000_000 for _ in range(times)]

        self.world.on_wire = on_wire

    @rule()
    def good_wire(self) -> None:
        self.world.on_wire = lambda _topic, _token: [5_000_000]

    @rule(down=st.booleans())
    def chain(self, down: bool) -> None:
        self.world.chain.down = down

    @rule(skew_s=st.sampled_from([0, 0, 100, -100, 300, -300]))
    def skew(self, skew_s: int) -> None:
        self.world.chain.skew_s = skew_s

    @rule(who=st.integers(0, 2), down_s=st.sampled_from([0.05, 0.5, 5]))
    def crash(self, who: int, down_s: float) -> None:
        agent = self.world.agents[who % len(self.world.agents)]
        if agent.alive:
            self.world.crash(agent, down_s)

    @rule(who=st.integers(0, 2), rows=st.integers(1, 40))
    def crash_at_a_row(self, who: int, rows: int) -> None:
        """After the row is on disk and before any of its effects."""
        agent = self.world.agents[who % len(self.world.agents)]
        row = len(agent.journal) + rows
        self.world.crash_before_effects = lambda other, _fact: other is agent and len(agent.journal) == row

    @rule(fails=st.integers(0, 2))
    def body_fails(self, fails: int) -> None:
        self.world.docking_fails = fails
        self.world.undocking_fails = fails

    # --- spoiled siblings ---------------------------------------------------------------------------------

    @precondition(lambda self: self.world.published)
    @rule(back=st.integers(1, 200))
    def replay_an_old_message(self, back: int) -> None:
        sender, token = self.world.published[-min(back, len(self.world.published))]
        if not token:
            return
        for agent in self.world.agents:
            if agent.name != sender:
                self.world.deliver(agent.settings.inbox, token, 1_000_000)

    @precondition(lambda self: self.world.published)
    @rule(back=st.integers(1, 50))
    def the_same_by_a_stranger(self, back: int) -> None:
        _, token = self.world.published[-min(back, len(self.world.published))]
        if not token:
            return
        forged = make_key("stranger").seal(open_token(token))
        for agent in self.world.agents:
            self.world.deliver(agent.settings.inbox, forged, 1_000_000)

    @precondition(lambda self: self.world.robot.alive and self.world.phase in SIGNING)
    @rule(field=st.sampled_from(["session", "amount", "payee", "charged", "statement"]))
    def the_station_spoils_one_field(self, field: str) -> None:
        agreement = self.world.robot.state.session.agreement
        name = agreement.offer.offer.station.removeprefix("station-")
        mine = [token for sender, token in self.world.published if sender == name and token]
        kinds = (NeedVoucher, PaymentResult, SessionEvent)
        drafts = [open_token(token) for token in mine[-10:]]
        good = [draft for draft in drafts if isinstance(draft.body, kinds)]
        if not good:
            return
        draft = spoil(replace(good[-1], id=good[-1].id + ".x"), field)
        token = make_key(f"station-{name}").seal(draft)
        self.world.deliver(self.world.robot.settings.inbox, token, 1_000_000)

    @precondition(lambda self: self.world.robot.alive and self.world.robot.state.session is not None)
    @rule(kind=st.integers(0, 8), answers=st.booleans())
    def the_station_speaks_out_of_place(self, kind: int, answers: bool) -> None:
        session = self.world.robot.state.session
        if session.agreement is None:
            return
        name = session.agreement.offer.offer.station.removeprefix("station-")
        letter = session.payment.letter if answers and session.payment else "nothing"
        copies = [open_token(t).body for sender, t in self.world.published if sender == name and t]
        old = self.random.choice(
            [body for body in copies if not isinstance(body, Offer)] or [SessionStop("Other")]
        )
        settle = SettleResponse(success=True, transaction="", network="eip155:31337")
        refused = SettleResponse(
            success=False, transaction="", network="eip155:31337", error_reason="because"
        )
        body = [
            SessionStop("Other", "out of place"),
            SessionEvent(EventType.ENDED, 99, "Trigger", "Idle", None, None, "Other"),
            SessionEvent(EventType.UPDATED, 99, "Trigger", "Charging"),
            PaymentResult(letter, settle),
            PaymentResult(letter, refused),
            QuoteReject("occupied"),
            ReceiptMessage("{}"),
            old,
            old,
        ][kind]
        self.say(f"station-{name}", body, session.agreement.offer.sender, self.world.robot)

    @precondition(lambda self: self.world.robot.alive and self.world.robot.state.session is not None)
    @rule(kind=st.integers(0, 7))
    def the_robot_speaks_out_of_place(self, kind: int) -> None:
        session = self.world.robot.state.session
        if session.agreement is None:
            return
        agent = self.world.stations[session.agreement.offer.offer.station.removeprefix("station-")]
        copies = [open_token(t).body for sender, t in self.world.published if sender == "robot"]
        old = self.random.choice(copies)
        body = [
            SessionStop("Other", "out of place"),
            SessionEvent(EventType.UPDATED, 99, "CablePluggedIn", "EVConnected", probe="0x" + "77" * 32),
            SessionEvent(EventType.ENDED, 99, "Trigger", "Idle"),
            QuoteCounter(1, 1),
            QuoteReject("occupied"),
            old,
            old,
            old,
        ][kind]
        self.say("robot", body, self.world.robot.settings.identity, agent)

    def say(self, key: str, body: Any, sender: bytes, to: Any) -> None:
        """A message that the machine itself did not write, under its name."""
        self.said += 1
        draft = Draft(
            id=f"said.{self.said}",
            session=self.world.robot.state.session.id,
            seq=1000 + self.said,
            ts=self.world.wall_s,
            exp=self.world.wall_s + 300,
            to=did_pkh(CHAIN_ID, to.settings.identity),
            body=body,
        )
        assert make_key(key).address == sender
        self.world.deliver(to.settings.inbox, make_key(key).seal(draft), 1_000_000)

    # --- always -------------------------------------------------------------------------------------------

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "checks"):
            self.checks()

    def teardown(self) -> None:
        """The world heals: every session ends, and every atomic unit has its place."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.on_wire = lambda _topic, _token: [5_000_000]
        world.chain.down = False
        world.chain.skew_s = 0
        world.docking_fails = world.undocking_fails = 0
        world.crash_before_effects = lambda _agent, _fact: False
        world.run(lambda: all(agent.alive for agent in world.agents), 60)
        world.give(world.robot, ft.StopRequested(world.at, "end of the test"))
        world.run(lambda: world.phase in ("IDLE", "SETTLED", "WITHDRAWING", "SHUT_DOWN"), 600)

        def settled() -> bool:
            world.chain.number += 1  # blocks go on by themselves
            for kept in world.robot.state.channels.values():
                if kept.rest_atomic and not kept.closing and world.phase in ("IDLE", "SETTLED", "SHUT_DOWN"):
                    self.sessions += 1
                    wish = (f"close-{self.sessions}", kept.agreement.channel_id, "end of the test")
                    world.give(world.robot, ft.ChannelCloseRequested(world.at, *wish))
            robot = world.robot.state
            done = robot.phase in ("IDLE", "SETTLED", "SHUT_DOWN") and not robot.background
            stations = [s for a in world.stations.values() for s in a.state.sessions.values()]
            due = [k for a in world.stations.values() for k in a.state.channels.values() if k.due_atomic]
            return done and not due and all(s.phase in ("SETTLED", "LAPSED") for s in stations)

        assert world.run(settled, 3000), world.story()
        self.checks()
        assert world.robot.state.ledger.escrow_total_atomic == 0, world.story()
        for row in world.chain.channels.values():
            assert row["balance"] == row["claimed"] == row["settled"], world.story()
        seen = set()
        for text in world.receipts:
            receipt = parse_receipt(text)
            assert receipt.session not in seen, "two receipts for one session"
            seen.add(receipt.session)
            if receipt.scheme == "exact":
                assert receipt.claimed_atomic == receipt.owed_atomic == receipt.blocks * receipt.block_atomic
                continue
            row = world.chain.channel(bytes.fromhex(receipt.channel[2:]))
            assert receipt.claimed_atomic <= row["claimed"]
            in_channel = receipt.claimed_atomic + receipt.left_atomic
            assert receipt.deposited_atomic == in_channel + receipt.returned_atomic
            highest = max((c for key, c in world.vouchers if key.hex() == receipt.channel[2:]), default=0)
            assert receipt.claimed_atomic <= highest <= max(receipt.ceiling_atomic, highest)
            # an honest station is never called a cheat, unless a rule above spoke in its name
            owed = receipt.base_atomic + receipt.owed_atomic
            assert receipt.claimed_atomic <= owed or receipt.fault, world.story()


class HonestMachines(Machines):
    """Without spoiled messages in the station's own name nobody is ever called a cheat."""

    the_station_spoils_one_field = None
    the_station_speaks_out_of_place = None

    def teardown(self) -> None:
        """As above, and no evidence against anybody."""
        super().teardown()
        assert not self.world.evidence, self.world.story()


_LIMITS = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
TestMachines = Machines.TestCase
TestMachines.settings = _LIMITS
TestHonestMachines = HonestMachines.TestCase
TestHonestMachines.settings = _LIMITS
