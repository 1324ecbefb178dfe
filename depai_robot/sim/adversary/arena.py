"""Robots and stations in one thread on one clock: real machines, keys, envelopes and statements; pretended world.

A run takes milliseconds and is a function of its seed. Each agent's facts are journalled before its step, as in the
programs. One agent may be a cheat: then a :class:`~depai_robot.sim.adversary.behaviour.Behaviour` stands at each seam
between its honest machine and the world. Power flows in straight lines between events. Not modelled: ramps, contact
resistance, a broker that loses messages (the machines' property tests do that), gas.
"""

import hashlib
import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from depai_robot.charging import effect as fx
from depai_robot.charging import envelope, ocmf, robot, station
from depai_robot.charging import fact as ft
from depai_robot.charging.message import BlockPayment, Draft, Payment
from depai_robot.charging.setting import RobotSettings, StationSettings
from depai_robot.payment.x402 import DepositPayload, bytes_to_text
from depai_robot.sim.adversary.agent import Agent, Body, Connector
from depai_robot.sim.adversary.behaviour import ROBOT, STATION, Behaviour
from depai_robot.sim.adversary.cast import (
    CHAIN_ID,
    FUNDS_ATOMIC,
    NAMES,
    TOKEN,
    WALL_S,
    robot_settings,
    seal,
    signer,
    station_settings,
)
from depai_robot.sim.adversary.chain import ArenaChain, wish_to_call
from depai_robot.sim.memory_settlement import RevertError
from depai_robot.values.error import BugError
from depai_robot.values.identity import Address, ChannelId, did_pkh

SECOND = 1_000_000_000
EVENTS_MAX = 60_000
OFFER_LATENCY_NS = 5_000_000


class Arena:
    """Everything together.

    Args:
        behaviour: of the first agent of its side.
        seed: of latencies and efficiencies.
    """

    def __init__(self, behaviour: Behaviour, seed: int = 1) -> None:
        self.random = random.Random(seed)  # noqa: S311 (latencies, not keys)
        self.behaviour = behaviour
        self.now_ns = SECOND
        self.chain = ArenaChain(CHAIN_ID, TOKEN, "USDC", "2", lambda: self.wall_s)
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._tick = itertools.count()
        self.retained: dict[str, tuple[str, str]] = {}
        self.published: list[tuple[str, str, str]] = []
        self.after_step: list[Callable[[Agent], None]] = []
        self.misdeed_ns = -1
        self.said = itertools.count()
        self.agents: dict[str, Agent] = {}
        self.bodies: dict[str, Body] = {}
        self.connectors: dict[tuple[str, int], Connector] = {}
        for name in NAMES[: behaviour.robots]:
            self._add_robot(name, behaviour.robot_settings(robot_settings(name)))
        for name in NAMES[: behaviour.stations]:
            self._add_station(name, behaviour.station_settings(station_settings(name)))
        behaviour.begin(self)

    def _add_robot(self, name: str, settings: RobotSettings) -> None:
        agent = Agent(f"robot-{name}", ROBOT, robot, settings, robot.initial_state(settings))
        agent.cheat = self.behaviour if self.behaviour.side == ROBOT and name == NAMES[0] else None
        self.agents[agent.name] = agent
        efficiency = self.random.randint(972, 990)
        self.bodies[agent.name] = Body(efficiency_permille=efficiency)
        self.chain.mint(Address(settings.payer), FUNDS_ATOMIC)
        self.put(agent, lambda: ft.Restarted(self.at, self.entropy(agent.name)))

    def _add_station(self, name: str, settings: StationSettings) -> None:
        agent = Agent(f"station-{name}", STATION, station, settings, station.initial_state(settings))
        agent.cheat = self.behaviour if self.behaviour.side == STATION and name == NAMES[0] else None
        self.agents[agent.name] = agent
        for number in range(1, len(settings.meters) + 1):
            self.connectors[agent.name, number] = Connector()
        self.put(agent, lambda: ft.Restarted(self.at, self.entropy(agent.name)))

    # --- who ----------------------------------------------------------------------------------------------

    @property
    def robots(self) -> list[Agent]:
        """In order of their names."""
        return [agent for agent in self.agents.values() if agent.role == ROBOT]

    @property
    def stations(self) -> list[Agent]:
        """In order of their names."""
        return [agent for agent in self.agents.values() if agent.role == STATION]

    @property
    def cheat(self) -> Agent:
        """The first of the cheat's side."""
        return self.robots[0] if self.behaviour.side == ROBOT else self.stations[0]

    @property
    def victim(self) -> Agent:
        """The first of the other side."""
        return self.stations[0] if self.behaviour.side == ROBOT else self.robots[0]

    def misdeed(self) -> None:
        """The first time that the cheat does what an honest one would not."""
        if self.misdeed_ns < 0:
            self.misdeed_ns = self.now_ns

    # --- time ---------------------------------------------------------------------------------------------

    @property
    def wall_s(self) -> int:
        """Unix seconds of the arena."""
        return WALL_S + self.now_ns // SECOND

    @property
    def at(self) -> ft.Instant:
        """Of a fact."""
        return ft.Instant(self.now_ns, self.wall_s)

    def entropy(self, name: str) -> bytes:
        """32 bytes that follow from name and time."""
        return hashlib.sha256(f"{name} {self.now_ns}".encode()).digest()

    def later(self, delay_ns: int, call: Callable[[], None]) -> None:
        """Does something after a while."""
        heapq.heappush(self._events, (self.now_ns + delay_ns, next(self._tick), call))

    def put(self, agent: Agent, make: Callable[[], Any], delay_ns: int = 0) -> None:
        """A fact for an agent after a while; None is none."""
        self.later(delay_ns, lambda: self.give(agent, make()))

    def run(self, until: Callable[[], bool] = lambda: False, seconds: float = 600.0) -> bool:
        """Runs until the condition holds (True) or the time is over (False)."""
        end_ns = self.now_ns + int(seconds * SECOND)
        for _ in range(EVENTS_MAX):
            if until():
                return True
            if not self._events or self._events[0][0] >= end_ns:
                self._advance(end_ns)
                return until()
            at_ns, _, call = heapq.heappop(self._events)
            self._advance(max(at_ns, self.now_ns))
            call()
        raise BugError(
            f"{self.behaviour.name}: more than {EVENTS_MAX} events, the arena does not come to rest"
        )

    def _advance(self, to_ns: int) -> None:
        """Power flows into whoever sits on a live connector, up to the limit of its register."""
        dt_ns = to_ns - self.now_ns
        self.now_ns = to_ns
        if dt_ns <= 0:
            return
        for (name, _), item in self.connectors.items():
            power = self.flowing_w(name, item)
            if not power:
                continue
            room = max(0, item.until_milliwh * 1000 - 1000 * self.stated_milliwh(name, item))
            flow = min(power * dt_ns // 3_600_000, room)
            item.true_uwh += flow
            body = self.bodies[item.robot]
            body.pads_uwh += flow * body.efficiency_permille // 1000

    def flowing_w(self, name: str, item: Connector) -> int:
        """Watts on a connector now."""
        if not item.robot or not item.power_w or self.stated_milliwh(name, item) >= item.until_milliwh:
            return 0
        agent = self.agents[name]
        if agent.cheat is not None and not agent.cheat.delivers(self):
            return 0
        sitting = self.agents[item.robot]
        draws = self.bodies[item.robot].draws_w
        if sitting.cheat is not None:
            draws = sitting.cheat.draws_w(self, draws)
        return min(item.power_w, draws)

    def stated_milliwh(self, name: str, item: Connector) -> int:
        """The register as its station says it is."""
        agent = self.agents[name]
        true = item.true_uwh // 1000
        return agent.cheat.register(self, true) if agent.cheat is not None else true

    # --- machines -----------------------------------------------------------------------------------------

    def give(self, agent: Agent, fact: Any) -> None:
        """Journal, step, effects."""
        if fact is not None and agent.cheat is not None:
            fact = agent.cheat.fact(self, agent, fact)
        if fact is None:
            return
        agent.journal.append(ft.encode_fact(fact))
        agent.state, effects = agent.module.step(agent.state, fact)
        for call in self.after_step:
            call(agent)
        for wish in effects:
            done = (wish,) if agent.cheat is None else agent.cheat.effect(self, agent, wish)
            for item in done:
                self.perform(agent, item)

    def deliver(self, topic: str, token: str, delay_ns: int = 0) -> None:
        """Brings bytes to whoever listens on the topic, who checks them as the program does."""
        latency = delay_ns or self.random.randint(2_000_000, 12_000_000)
        self.later(latency, lambda: self._arrive(topic, token))

    def _arrive(self, topic: str, token: str) -> None:
        for agent in self.agents.values():
            if topic != agent.settings.inbox and not (agent.role == ROBOT and topic.endswith("/offer")):
                continue
            try:
                seen = envelope.verify_token(
                    token, now_s=self.wall_s, chain_id=CHAIN_ID, recipient=agent.identity
                )
            except envelope.RefusedMessageError as error:
                agent.refused[error.code] += 1
                continue
            if agent.cheat is not None:
                agent.cheat.heard(self, agent, seen.draft)
            reading = self.reading(agent.name) if agent.role == ROBOT else None
            self.give(agent, ft.MessageReceived(self.at, bytes(seen.sender), token, reading))

    def say(
        self,
        key: str,
        to: Agent,
        body: Any,
        *,
        session: str,
        message_id: str = "",
        ts_s: int = 0,
        ttl_s: int = 300,
    ) -> str:
        """A message that no machine wrote, signed with the key of that name; returns its bytes."""
        number = next(self.said)
        now = self.wall_s + ts_s
        recipient = did_pkh(CHAIN_ID, to.identity)
        draft = Draft(
            message_id or f"said.{number}", session, 1000 + number, now, now + ttl_s, recipient, body
        )
        token = seal(key, draft)
        self.deliver(to.settings.inbox, token)
        return token

    def reading(self, name: str) -> ft.BatteryRead:
        """Of a robot's own meter."""
        body = self.bodies[name]
        flowing = 0
        if body.at is not None:
            item = self.connectors[body.at]
            flowing = self.flowing_w(body.at[0], item)
        return ft.BatteryRead(
            self.now_ns, 25_600, 0, 180, body.pads_uwh // 1000, flowing * body.efficiency_permille
        )

    # --- effects ------------------------------------------------------------------------------------------

    def perform(self, agent: Agent, wish: Any) -> None:
        """Does what a machine wishes."""
        if isinstance(wish, fx.SealMessage | fx.SealPayment | fx.SealTransfer):
            self._seal(agent, wish)
        elif isinstance(wish, fx.Publish):
            self._publish(agent, wish)
        elif isinstance(wish, fx.SetTimer):
            self._set_timer(agent, wish.name, max(wish.at_session_ns, self.now_ns))
        elif isinstance(wish, fx.ClearTimer):
            agent.timers.pop(wish.name, None)
        elif isinstance(wish, fx.KeepReceipt):
            agent.receipts.append(wish.receipt)
        elif isinstance(wish, fx.KeepEvidence):
            agent.evidence.append(wish)
        elif isinstance(wish, fx.CallForHelp | fx.ShutDownSafely):
            agent.calls.append(wish.message)
        elif agent.role == ROBOT and not hasattr(wish, "purpose"):
            self._move(agent, wish)
        elif agent.role == STATION and not hasattr(wish, "purpose"):
            self._switch(agent, wish)
        else:
            self._on_chain(agent, wish)

    def _set_timer(self, agent: Agent, name: str, due_ns: int) -> None:
        agent.timers[name] = due_ns

        def fire() -> None:
            if agent.timers.get(name) == due_ns:
                del agent.timers[name]
                self.give(agent, ft.TimerFired(self.at, name))

        self.later(due_ns - self.now_ns, fire)

    def _seal(self, agent: Agent, wish: fx.SealMessage | fx.SealPayment | fx.SealTransfer) -> None:
        draft: Draft | None = wish.draft
        if isinstance(wish, fx.SealPayment):
            draft = self._sign_payment(agent, wish)
        elif isinstance(wish, fx.SealTransfer):
            draft = self._sign_transfer(agent, wish)
        if agent.cheat is not None and draft is not None:
            draft = agent.cheat.draft(self, draft)
        if draft is None:
            return
        token = seal(agent.name, draft)
        if agent.cheat is None and agent.sealed.setdefault(wish.draft.id, token) != token:
            raise BugError(f"{agent.name}: {wish.draft.id} was sealed with other bytes")
        self.put(agent, lambda: ft.MessageSealed(self.at, wish.draft.id, token))

    def _sign_payment(self, agent: Agent, wish: fx.SealPayment) -> Draft:
        own = agent.name.removeprefix("robot-")
        payload = wish.draft.body.payload.payload
        signature = signer(f"voucher-{own}").sign(wish.voucher_digest)
        voucher = replace(payload.voucher, signature=bytes_to_text(signature))
        agent.vouchers.append((bytes.fromhex(voucher.channel_id[2:]), int(voucher.max_claimable_amount)))
        payload = replace(payload, voucher=voucher)
        if isinstance(payload, DepositPayload) and wish.deposit_digest:
            inner = payload.deposit.authorization.erc3009_authorization
            inner = replace(inner, signature=bytes_to_text(signer(f"payer-{own}").sign(wish.deposit_digest)))
            authorization = replace(payload.deposit.authorization, erc3009_authorization=inner)
            payload = replace(payload, deposit=replace(payload.deposit, authorization=authorization))
        return replace(wish.draft, body=Payment(replace(wish.draft.body.payload, payload=payload)))

    def _sign_transfer(self, agent: Agent, wish: fx.SealTransfer) -> Draft:
        payment = wish.draft.body.payload
        signature = signer(f"payer-{agent.name.removeprefix('robot-')}").sign(wish.transfer_digest)
        inner = replace(payment.payload, signature=bytes_to_text(signature))
        return replace(wish.draft, body=BlockPayment(replace(payment, payload=inner)))

    def _publish(self, agent: Agent, wish: fx.Publish) -> None:
        tokens: tuple[str, ...] = (wish.token,)
        if agent.cheat is not None:
            tokens = agent.cheat.token(self, envelope.open_token(wish.token), wish.token)
        for token in tokens:
            self.published.append((agent.name, wish.topic, token))
            if wish.retain:
                self.retained[wish.topic] = (agent.name, token)
            self.deliver(wish.topic, token)

    def _on_chain(self, agent: Agent, wish: Any) -> None:
        if isinstance(wish, fx.ReadHead):
            head_s = self.chain.skew_s
            self.put(
                agent,
                lambda: ft.ChainHeadObserved(self.at, self.chain.number, self.wall_s + head_s),
                10_000_000,
            )
        elif isinstance(wish, fx.ReadChannel):
            self.put(agent, lambda: self._read(wish), 10_000_000)
        elif isinstance(wish, fx.ReadFunds):
            funds = self.chain.state.balances.get(Address(wish.holder), 0)
            self.put(agent, lambda: ft.FundsObserved(self.at, wish.purpose, funds), 10_000_000)
        elif isinstance(wish, fx.ReadAuthorization):
            self.put(agent, lambda: self._read_authorization(wish), 10_000_000)
        elif isinstance(wish, fx.ReadWithdrawals):
            self.put(agent, lambda: self._read_withdrawals(wish), 10_000_000)
        elif isinstance(wish, fx.FindBadRows):
            self.put(agent, lambda: ft.BadRowsFound(self.at, wish.purpose, (), ""), 10_000_000)
        elif isinstance(wish, fx.PrepareTransaction):
            self.put(agent, lambda: self._prepare(agent, wish), 10_000_000)
        elif isinstance(wish, fx.BroadcastTransaction):
            self.put(agent, lambda: self._broadcast(agent, wish), 200_000_000)
        else:
            raise BugError(f"nobody performs {wish}")

    def _read(self, wish: fx.ReadChannel) -> ft.ChannelObserved:
        seen = self.chain.read(ChannelId(wish.channel_id), wish.confirmations)
        return ft.ChannelObserved(
            self.at,
            wish.channel_id,
            seen.balance_atomic,
            seen.total_claimed_atomic,
            seen.withdraw_requested_at_s,
            seen.refund_nonce,
            seen.block_number,
        )

    def _read_authorization(self, wish: fx.ReadAuthorization) -> ft.AuthorizationObserved:
        used = (Address(wish.payer), wish.nonce) in self.chain.state.used
        return ft.AuthorizationObserved(self.at, wish.purpose, used, self.chain.number)

    def _read_withdrawals(self, wish: fx.ReadWithdrawals) -> ft.WithdrawalsObserved:
        rows = self.chain.state.channels
        pending = tuple(
            key for key in wish.channel_ids if ChannelId(key) in rows and rows[ChannelId(key)].withdraw_at_s
        )
        return ft.WithdrawalsObserved(self.at, wish.purpose, self.chain.number, pending)

    def sender_of(self, agent: Agent) -> Address:
        """Whose gas it is."""
        return Address(agent.settings.payer if agent.role == ROBOT else agent.settings.receiver)

    def _prepare(self, agent: Agent, wish: fx.PrepareTransaction) -> Any:
        call = wish_to_call(wish.call, self.chain.state.domain)
        try:
            raw, tx_hash = self.chain.prepare(call, self.sender_of(agent), wish.purpose)
        except RevertError as error:
            return ft.ChainFailed(self.at, wish.purpose, True, str(error))
        return ft.TransactionSigned(self.at, wish.purpose, raw, tx_hash, 0)

    def _broadcast(self, agent: Agent, wish: fx.BroadcastTransaction) -> Any:
        fresh = wish.tx_hash not in self.chain.mined
        done = self.chain.send(wish.tx_hash)
        agent.transactions += fresh
        if done.error:
            return ft.ChainFailed(self.at, wish.purpose, True, f"reverted: {done.error}")
        if self.chain.number - done.block + 1 < wish.confirmations:
            self.later(SECOND, lambda: self.give(agent, self._broadcast(agent, wish)))
            return None
        events = tuple((e.name, bytes(e.channel_id or b""), e.amount_atomic) for e in done.events)
        return ft.TransactionConfirmed(self.at, wish.purpose, wish.tx_hash, done.block, 60_000, events)

    # --- bodies and connectors ----------------------------------------------------------------------------

    def _move(self, agent: Agent, wish: Any) -> None:
        if isinstance(wish, fx.StartDocking):
            self.put(agent, lambda: self._docked(agent, wish.dock), 4 * SECOND)
        elif isinstance(wish, fx.CancelDocking):
            body = self.bodies[agent.name]
            dock = "" if body.at is None else self.agents[body.at[0]].settings.dock
            self.put(agent, lambda: ft.DockingEnded(self.at, bool(dock), dock, "cancelled"))
        elif isinstance(wish, fx.WatchProbe):
            at = self.bodies[agent.name].at
            nonce = self.connectors[at].nonce if at is not None else b""
            if nonce:
                self.put(agent, lambda: ft.ProbeRead(self.at, nonce), 30_000_000)
        elif isinstance(wish, fx.ReadBattery):
            self.put(agent, lambda: ft.BatteryObserved(self.at, self.reading(agent.name)), 1_000_000)
        elif isinstance(wish, fx.StartUndocking):
            self.put(agent, lambda: self._undocked(agent), 2 * SECOND)
        else:
            raise BugError(f"no robot performs {wish}")

    def _docked(self, agent: Agent, dock: str) -> Any:
        station_agent = next(item for item in self.stations if item.settings.dock == dock)
        session = agent.state.session
        number = 1
        if session is not None and session.agreement is not None:
            number = session.agreement.agreed.terms.connector
        if not self.sit(agent, station_agent.name, number):
            return ft.DockingEnded(self.at, False, dock, "the dock is taken")
        return ft.DockingEnded(self.at, True, dock, "", self.reading(agent.name))

    def sit(self, agent: Agent, station_name: str, number: int) -> bool:
        """Puts a robot on a connector; False when somebody else is on it."""
        item = self.connectors.get((station_name, number))
        if item is None or item.robot not in ("", agent.name):
            return False
        if item.robot != agent.name:
            item.robot = agent.name
            self.bodies[agent.name].at = (station_name, number)
            other = self.agents[station_name]
            self.put(other, lambda: self._presence(other, number, present=True), 20_000_000)
        return True

    def leave(self, agent: Agent) -> None:
        """Takes a robot off its connector."""
        body = self.bodies[agent.name]
        if body.at is None:
            return
        name, number = body.at
        item = self.connectors[body.at]
        body.at, item.robot, item.nonce = None, "", b""
        other = self.agents[name]
        self.put(other, lambda: self._presence(other, number, present=False))

    def _undocked(self, agent: Agent) -> ft.UndockingEnded:
        self.leave(agent)
        return ft.UndockingEnded(self.at, True, "")

    def _presence(self, agent: Agent, number: int, *, present: bool) -> ft.PresenceChanged:
        return ft.PresenceChanged(self.at, number, present, self.entropy(f"{agent.name} {number}"))

    def _switch(self, agent: Agent, wish: Any) -> None:
        item = self.connectors[agent.name, wish.connector]
        if isinstance(wish, fx.WriteProbe):
            item.nonce = wish.nonce
            sitting = self.agents.get(item.robot)
            if sitting is not None:
                self.put(sitting, lambda: ft.ProbeRead(self.at, wish.nonce), 30_000_000)
        elif isinstance(wish, fx.Energise):
            item.power_w, item.until_milliwh = wish.power_max_w, wish.until_energy_milliwh
        elif isinstance(wish, fx.Deenergise):
            item.power_w = 0
        elif isinstance(wish, fx.ReadMeter):
            self.put(agent, lambda: self._state_meter(agent, wish), 2_000_000)
        else:
            raise BugError(f"no station performs {wish}")

    def _state_meter(self, agent: Agent, wish: fx.ReadMeter) -> ft.StatementMade:
        item = self.connectors[agent.name, wish.connector]
        statement = ocmf.Statement(
            gateway=agent.settings.station,
            serial=agent.settings.meters[wish.connector - 1].serial,
            pagination=wish.pagination,
            session=wish.session,
            transaction=wish.transaction,
            energy_milliwh=self.stated_milliwh(agent.name, item),
            current_type="DC",
            time=ocmf.format_time(self.wall_s),
        )
        key = f"meter-{agent.name.removeprefix('station-')}"
        if agent.cheat is not None:
            statement = agent.cheat.statement(self, statement)
            key = agent.cheat.meter_key(self)
        payload = ocmf.encode_payload(statement)
        text = ocmf.assemble(payload, signer(key).sign(ocmf.digest_payload(payload)))
        power = self.flowing_w(agent.name, item) * 1000
        return ft.StatementMade(self.at, wish.connector, text, statement.energy_milliwh, power)

    # --- shorthands ---------------------------------------------------------------------------------------

    def request(self, agent: Agent, session: str = "s-1", energy_milliwh: int = 2500) -> None:
        """A robot's battery is low."""
        salt = hashlib.sha256(f"{agent.name} {session}".encode()).digest()
        self.give(
            agent,
            ft.ChargeRequested(self.at, session, salt, energy_milliwh, 0, 0, self.reading(agent.name)),
        )
