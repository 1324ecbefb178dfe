"""A world in memory: robot and stations joined by a pretend wire, a pretend chain, meters and a dock.

Keys, signatures, envelopes and statements are the real ones; only the transport, the chain and the physics are
pretended, in one thread and on one clock. Every fact is journalled before its step, so a crash is a fold of the
journal and Restarted. Faults of the wire, the chain and the stations are hooks.
"""

import hashlib
import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from depai_robot.charging import effect as fx
from depai_robot.charging import envelope, ocmf, robot, station
from depai_robot.charging import fact as ft
from depai_robot.charging.message import BlockPayment, Payment
from depai_robot.charging.setting import RobotSettings, StationSettings
from depai_robot.charging.terms import channel_key, digest_deposit, token_domain
from depai_robot.payment.channel import DepositAuthorization
from depai_robot.payment.eip712 import settlement_domain, voucher_digest
from depai_robot.payment.exact import TransferAuthorization, transfer_digest
from depai_robot.payment.signature import SignatureError, recover
from depai_robot.payment.x402 import DepositPayload, bytes_to_text
from depai_robot.values.identity import keccak256
from test.builders import CHAIN_ID, WALL_S, make_key, make_network, make_robot_settings, make_station_settings

SECOND = 1_000_000_000
LATENCY_NS = 5_000_000


class PretendChain:
    """The settlement contract's rules on a dictionary; every transaction is a block of its own."""

    def __init__(self, now_s: Callable[[], int]) -> None:
        self.now_s = now_s
        self.network = make_network()
        self.channels: dict[bytes, dict[str, Any]] = {}
        self.balances: dict[bytes, int] = {}
        self.used: set[bytes] = set()
        self.mined: dict[bytes, tuple[int, tuple]] = {}
        self.number = 100
        self.nonce = itertools.count()
        self.down = False
        self.skew_s = 0

    def head(self) -> tuple[int, int]:
        return self.number, self.now_s() + self.skew_s

    def channel(self, key: bytes) -> dict[str, Any]:
        empty = {
            "balance": 0,
            "claimed": 0,
            "settled": 0,
            "withdraw_at": 0,
            "withdraw": 0,
            "nonce": 0,
            "config": None,
        }
        return self.channels.setdefault(key, empty)

    def check(self, call: Any) -> None:
        """Raises ValueError with the contract's error."""
        if isinstance(call, fx.SettleWish):
            return
        if isinstance(call, fx.TransferWish):
            self.check_transfer(call)
            return
        if isinstance(call, fx.ClaimBatchWish):
            for row in call.rows:
                self.check(row)
            return
        key = channel_key(self.network, call.channel)
        row = self.channel(key)
        if isinstance(call, fx.DepositWish):
            deposit = DepositAuthorization(
                call.amount_atomic, call.valid_after_s, call.valid_before_s, call.salt, call.signature
            )
            digest = digest_deposit(self.network, call.channel.payer, key, deposit)
            if digest in self.used:
                raise ValueError("authorization is used")
            if not call.valid_after_s < self.now_s() < call.valid_before_s:
                raise ValueError("authorization is expired")
            if recover(digest, call.signature) != call.channel.payer:
                raise ValueError("invalid signature")
            if self.balances.get(call.channel.payer, 0) < call.amount_atomic:
                raise ValueError("transfer amount exceeds balance")
        elif isinstance(call, fx.ClaimWish):
            if call.total_claimed_atomic <= row["claimed"]:
                return
            domain = settlement_domain(CHAIN_ID, self.network.settlement)
            digest = voucher_digest(key, call.ceiling_atomic, domain)
            if recover(digest, call.signature) != call.channel.payer_authorizer:
                raise ValueError("InvalidSignature")
            if call.total_claimed_atomic > call.ceiling_atomic:
                raise ValueError("ClaimExceedsCeiling")
            if call.total_claimed_atomic > row["balance"]:
                raise ValueError("ClaimExceedsBalance")
        elif isinstance(call, fx.RefundWish):
            if call.amount_atomic <= 0 or row["balance"] == row["claimed"]:
                raise ValueError("ZeroRefund")
        elif isinstance(call, fx.InitiateWithdrawWish):
            if row["withdraw_at"]:
                raise ValueError("WithdrawalAlreadyPending")
            if call.amount_atomic > row["balance"] - row["claimed"]:
                raise ValueError("WithdrawAmountExceedsAvailable")
        elif isinstance(call, fx.FinalizeWithdrawWish):
            if not row["withdraw_at"]:
                raise ValueError("WithdrawalNotPending")
            if self.now_s() < row["withdraw_at"] + call.channel.withdraw_delay_s:
                raise ValueError("WithdrawDelayNotElapsed")

    def mine(self, call: Any) -> tuple:
        self.check(call)
        self.number += 1
        if isinstance(call, fx.SettleWish):
            amount = 0
            for row in self.channels.values():
                if row["config"] is not None and row["config"].receiver == call.receiver:
                    amount += row["claimed"] - row["settled"]
                    row["settled"] = row["claimed"]
            self.balances[call.receiver] = self.balances.get(call.receiver, 0) + amount
            return (("Settled", b"", amount),)
        if isinstance(call, fx.TransferWish):
            self.used.add(call.nonce)
            self.balances[call.payer] -= call.amount_atomic
            self.balances[call.receiver] = self.balances.get(call.receiver, 0) + call.amount_atomic
            return (("AuthorizationUsed", b"", call.amount_atomic),)
        if isinstance(call, fx.ClaimBatchWish):
            return tuple(event for row in call.rows for event in self._claim(row))
        key = channel_key(self.network, call.channel)
        row = self.channel(key)
        row["config"] = call.channel
        if isinstance(call, fx.DepositWish):
            deposit = DepositAuthorization(
                call.amount_atomic, call.valid_after_s, call.valid_before_s, call.salt, call.signature
            )
            self.used.add(digest_deposit(self.network, call.channel.payer, key, deposit))
            self.balances[call.channel.payer] -= call.amount_atomic
            row["balance"] += call.amount_atomic
            return (("Deposited", key, call.amount_atomic),)
        if isinstance(call, fx.ClaimWish):
            return self._claim(call)
        if isinstance(call, fx.RefundWish):
            amount = min(call.amount_atomic, row["balance"] - row["claimed"])
            row["balance"] -= amount
            row["withdraw_at"] = 0
            self.balances[call.channel.payer] += amount
            return (("Refunded", key, amount),)
        if isinstance(call, fx.InitiateWithdrawWish):
            row["withdraw_at"] = self.now_s()
            row["withdraw"] = call.amount_atomic
            return (("WithdrawInitiated", key, call.amount_atomic),)
        amount = min(row["withdraw"], row["balance"] - row["claimed"])
        row["balance"] -= amount
        row["withdraw_at"] = 0
        self.balances[call.channel.payer] += amount
        return (("WithdrawFinalized", key, amount),)

    def check_transfer(self, call: fx.TransferWish) -> None:
        transfer = TransferAuthorization(
            call.payer,
            call.receiver,
            call.amount_atomic,
            call.valid_after_s,
            call.valid_before_s,
            call.nonce,
        )
        if call.nonce in self.used:
            raise ValueError("authorization is used")
        if not call.valid_after_s < self.now_s() < call.valid_before_s:
            raise ValueError("authorization is expired")
        if recover(transfer_digest(token_domain(self.network), transfer), call.signature) != call.payer:
            raise ValueError("invalid signature")
        if self.balances.get(call.payer, 0) < call.amount_atomic:
            raise ValueError("transfer amount exceeds balance")

    def _claim(self, call: fx.ClaimWish) -> tuple:
        key = channel_key(self.network, call.channel)
        row = self.channel(key)
        row["claimed"] = max(row["claimed"], call.total_claimed_atomic)
        return (("Claimed", key, row["claimed"]),)

    def bad_rows(self, rows: tuple) -> dict[bytes, str]:
        bad = {}
        for row in rows:
            try:
                self.check(row)
            except (ValueError, SignatureError) as error:
                bad[channel_key(self.network, row.channel)] = str(error)
        return bad


@dataclass
class Supply:
    """A station's switch and meter on its one connector; power moves in a straight line."""

    name: str
    power_w: int = 0
    until_milliwh: int = 0
    register_uwh: int = 7_000_000
    over_permille: int = 1000
    dead: bool = False
    stuck: bool = False
    nonce: bytes = b""
    break_statements_after: int = 10**9
    statements: int = 0


@dataclass
class Agent:
    """One machine with its journal, its timers and its keys."""

    name: str
    module: Any
    settings: RobotSettings | StationSettings
    keys: dict[str, Any]
    state: Any = None
    journal: list[bytes] = field(default_factory=list)
    timers: dict[str, int] = field(default_factory=dict)
    queue: deque = field(default_factory=deque)
    effects: list[Any] = field(default_factory=list)
    alive: bool = True
    epoch: int = 0


class World:
    """Everything together. ``run`` until a condition or a time."""

    def __init__(
        self, robot_settings: RobotSettings | None = None, stations: list[StationSettings] | None = None
    ) -> None:
        self.now_ns = SECOND
        self.chain = PretendChain(lambda: self.wall_s)
        self.events: list[tuple[int, int, Callable[[], None]]] = []
        self.tick = itertools.count()
        settings = robot_settings or make_robot_settings()
        self.robot = Agent(
            "robot",
            robot,
            settings,
            {"identity": make_key("robot"), "voucher": make_key("voucher"), "payer": make_key("payer")},
            robot.initial_state(settings),
        )
        self.chain.balances[settings.payer] = 10_000_000
        self.stations: dict[str, Agent] = {}
        self.supplies: dict[str, Supply] = {}
        for item in stations if stations is not None else [make_station_settings("a")]:
            name = item.station.removeprefix("station-")
            keys = {"identity": make_key(f"station-{name}"), "meter": make_key(f"meter-{name}")}
            self.stations[name] = Agent(name, station, item, keys, station.initial_state(item))
            self.supplies[name] = Supply(name)
        # the robot's body
        self.docked: str = ""
        self.pads_uwh = 0
        self.efficiency_permille = 980
        self.own_scale_permille = 1000
        self.soc_permille = 180
        self.docking_fails = 0
        self.undocking_fails = 0
        self.leaving_seen_ns = 0
        self.travel_s = 4
        self.charge_power_w = 300
        # hooks and records
        self.on_wire: Callable[[str, str], list[int]] = lambda _topic, _token: [LATENCY_NS]
        self.distort: Callable[[str, Any], list[Any]] = lambda _name, effect: [effect]
        self.published: list[tuple[str, str]] = []
        self.receipts: list[str] = []
        self.evidence: list[tuple[str, str, tuple[str, ...]]] = []
        self.calls: list[str] = []
        self.vouchers: list[tuple[bytes, int]] = []
        self.sealed: dict[tuple[str, str], str] = {}
        self.retained: dict[str, str] = {}
        self.transactions: dict[bytes, Any] = {}
        self.after_step: list[Callable[[], None]] = []
        self.crash_before_effects: Callable[[Agent, Any], bool] = lambda _agent, _fact: False
        for agent in self.agents:
            self.restart(agent, first=True)

    # --- time ---------------------------------------------------------------------------------------------

    @property
    def agents(self) -> list[Agent]:
        return [self.robot, *self.stations.values()]

    @property
    def wall_s(self) -> int:
        return WALL_S + self.now_ns // SECOND

    @property
    def at(self) -> ft.Instant:
        return ft.Instant(self.now_ns, self.wall_s)

    def later(self, delay_ns: int, call: Callable[[], None]) -> None:
        heapq.heappush(self.events, (self.now_ns + delay_ns, next(self.tick), call))

    def put(self, agent: Agent, make: Callable[[], Any], delay_ns: int = 0) -> None:
        """A fact for an agent; lost when the agent crashed in between."""
        epoch = agent.epoch

        def deliver() -> None:
            if agent.alive and agent.epoch == epoch:
                self.give(agent, make())

        self.later(delay_ns, deliver)

    def run(self, until: Callable[[], bool] = lambda: False, seconds: float = 600) -> bool:
        """Runs events in order until the condition holds (True) or the time is over (False)."""
        end_ns = self.now_ns + int(seconds * SECOND)
        for _ in range(500_000):
            if until():
                return True
            due = min(
                (
                    (at, agent, name)
                    for agent in self.agents
                    if agent.alive
                    for name, at in agent.timers.items()
                ),
                default=None,
                key=lambda item: (item[0], item[2]),
            )
            event_ns = self.events[0][0] if self.events else None
            next_ns = min(x for x in (event_ns, due[0] if due else None, end_ns) if x is not None)
            if next_ns >= end_ns:
                self.advance(end_ns)
                return until()
            self.advance(max(next_ns, self.now_ns))
            if event_ns is not None and event_ns <= next_ns:
                heapq.heappop(self.events)[2]()
            else:
                _, agent, name = due
                del agent.timers[name]
                self.give(agent, ft.TimerFired(self.at, name))
        raise AssertionError("the world does not come to rest")

    def advance(self, to_ns: int) -> None:
        """Physics: power flows into the docked robot up to the supply's limit."""
        dt_ns = to_ns - self.now_ns
        self.now_ns = to_ns
        if dt_ns <= 0 or not self.docked:
            return
        supply = self.supplies[self.docked]
        if not supply.power_w:
            return
        room_uwh = max(0, supply.until_milliwh * 1000 - supply.register_uwh)
        if supply.stuck:
            room_uwh = 10**12
        flow_uwh = min(min(supply.power_w, self.charge_power_w) * dt_ns // 3_600_000, room_uwh)
        supply.register_uwh += flow_uwh * supply.over_permille // 1000
        if not supply.dead:
            self.pads_uwh += flow_uwh * self.efficiency_permille * self.own_scale_permille // 1_000_000

    def flowing_w(self) -> int:
        if not self.docked:
            return 0
        supply = self.supplies[self.docked]
        if supply.dead or (supply.register_uwh >= supply.until_milliwh * 1000 and not supply.stuck):
            return 0
        return min(supply.power_w, self.charge_power_w)

    def reading(self) -> ft.BatteryRead:
        return ft.BatteryRead(
            self.now_ns, 25_600, 0, self.soc_permille, self.pads_uwh // 1000, self.flowing_w() * 980
        )

    # --- machines -----------------------------------------------------------------------------------------

    def give(self, agent: Agent, item: Any) -> None:
        """Journal, step, effects."""
        if not agent.alive:
            return
        agent.journal.append(ft.encode_fact(item))
        agent.state, effects = agent.module.step(agent.state, item)
        for call in self.after_step:
            call()
        if self.crash_before_effects(agent, item):
            self.crash(agent)
            return
        for wish in effects:
            for distorted in self.distort(agent.name, wish):
                self.perform(agent, distorted)

    def crash(self, agent: Agent, down_s: float = 0.2) -> None:
        """The process is gone: queue, timers and unperformed effects with it."""
        agent.alive = False
        agent.epoch += 1
        agent.timers.clear()
        epoch = agent.epoch

        def up() -> None:
            if agent.epoch == epoch:
                self.restart(agent)

        self.later(int(down_s * SECOND), up)

    def restart(self, agent: Agent, *, first: bool = False) -> None:
        """Folds the journal and goes on."""
        state = agent.module.initial_state(agent.settings)
        for row in agent.journal:
            state, _ = agent.module.step(state, ft.decode_fact(row))
        assert first or state == agent.state, "a fold of the journal gives another state"
        agent.state = state
        agent.alive = True
        entropy = hashlib.sha256(f"{agent.name}{agent.epoch}".encode()).digest()
        self.put(agent, lambda: ft.Restarted(self.at, entropy))
        if agent is self.robot:
            for topic, token in self.retained.items():
                self.deliver(topic, token, LATENCY_NS)
        elif not first:
            # hardware tells its state when the program comes up
            self.put(agent, lambda: self.presence(agent, present=self.docked == agent.name), 20_000_000)

    def presence(self, agent: Agent, *, present: bool) -> ft.PresenceChanged:
        nonce = hashlib.sha256(f"{agent.name}{self.now_ns}".encode()).digest()
        return ft.PresenceChanged(self.at, 1, present, nonce)

    # --- the wire -----------------------------------------------------------------------------------------

    def publish(self, agent: Agent, wish: fx.Publish) -> None:
        self.published.append((agent.name, wish.token))
        if wish.retain:
            self.retained[wish.topic] = wish.token
        for delay_ns in self.on_wire(wish.topic, wish.token):
            self.deliver(wish.topic, wish.token, delay_ns)

    def deliver(self, topic: str, token: str, delay_ns: int) -> None:
        def arrive() -> None:
            for agent in self.agents:
                everybody = agent is self.robot and topic.endswith("/offer")
                if not agent.alive or not (topic == agent.settings.inbox or everybody):
                    continue
                identity = agent.keys["identity"].address
                try:
                    verified = envelope.verify_token(
                        token, now_s=self.wall_s, chain_id=CHAIN_ID, recipient=identity
                    )
                except envelope.RefusedMessageError:
                    continue
                reading = self.reading() if agent is self.robot else None
                self.give(agent, ft.MessageReceived(self.at, verified.sender, token, reading))

        self.later(delay_ns, arrive)

    # --- effects ------------------------------------------------------------------------------------------

    def perform(self, agent: Agent, wish: Any) -> None:
        if isinstance(wish, fx.SealMessage | fx.SealPayment | fx.SealTransfer):
            self.seal(agent, wish)
        elif isinstance(wish, fx.Publish):
            self.publish(agent, wish)
        elif isinstance(wish, fx.SetTimer):
            agent.timers[wish.name] = max(wish.at_session_ns, self.now_ns)
        elif isinstance(wish, fx.ClearTimer):
            agent.timers.pop(wish.name, None)
        elif isinstance(
            wish,
            fx.ReadHead
            | fx.ReadChannel
            | fx.ReadFunds
            | fx.ReadAuthorization
            | fx.ReadWithdrawals
            | fx.PrepareTransaction
            | fx.BroadcastTransaction
            | fx.FindBadRows,
        ):
            self.chain_effect(agent, wish)
        elif isinstance(wish, fx.KeepReceipt):
            self.receipts.append(wish.receipt)
        elif isinstance(wish, fx.KeepEvidence):
            self.evidence.append((wish.session, wish.reason, wish.tokens))
        elif isinstance(wish, fx.CallForHelp | fx.ShutDownSafely):
            self.calls.append(wish.message)
        elif agent is self.robot:
            self.body_effect(wish)
        else:
            self.station_effect(agent, self.supplies[agent.name], wish)

    def seal(self, agent: Agent, wish: fx.SealMessage | fx.SealPayment) -> None:
        draft = wish.draft
        if isinstance(wish, fx.SealPayment):
            payload = draft.body.payload.payload
            voucher = replace(
                payload.voucher, signature=bytes_to_text(agent.keys["voucher"].sign(wish.voucher_digest))
            )
            self.vouchers.append((bytes.fromhex(voucher.channel_id[2:]), int(voucher.max_claimable_amount)))
            payload = replace(payload, voucher=voucher)
            if isinstance(payload, DepositPayload) and wish.deposit_digest:
                inner = payload.deposit.authorization.erc3009_authorization
                signature = bytes_to_text(agent.keys["payer"].sign(wish.deposit_digest))
                inner = replace(inner, signature=signature)
                authorization = replace(payload.deposit.authorization, erc3009_authorization=inner)
                payload = replace(payload, deposit=replace(payload.deposit, authorization=authorization))
            draft = replace(draft, body=Payment(replace(draft.body.payload, payload=payload)))
        if isinstance(wish, fx.SealTransfer):
            payment = draft.body.payload
            inner = replace(
                payment.payload, signature=bytes_to_text(agent.keys["payer"].sign(wish.transfer_digest))
            )
            draft = replace(draft, body=BlockPayment(replace(payment, payload=inner)))
        token = agent.keys["identity"].seal(draft)
        known = self.sealed.setdefault((agent.name, draft.id), token)
        assert known == token, f"{draft.id} was sealed with other bytes"
        self.put(agent, lambda: ft.MessageSealed(self.at, draft.id, token))

    def chain_effect(self, agent: Agent, wish: Any) -> None:
        if self.chain.down:
            self.put(
                agent, lambda: ft.ChainFailed(self.at, wish.purpose, False, "no endpoint answers"), SECOND
            )
        elif isinstance(wish, fx.ReadHead):
            self.put(agent, lambda: ft.ChainHeadObserved(self.at, *self.chain.head()), 10_000_000)
        elif isinstance(wish, fx.ReadChannel):
            self.put(agent, lambda: self.read_channel(wish), 10_000_000)
        elif isinstance(wish, fx.ReadWithdrawals):
            self.put(agent, lambda: self.read_withdrawals(wish), 10_000_000)
        elif isinstance(wish, fx.ReadAuthorization):
            self.put(agent, lambda: self.read_authorization(wish), 10_000_000)
        elif isinstance(wish, fx.ReadFunds):
            funds = self.chain.balances.get(wish.holder, 0)
            self.put(agent, lambda: ft.FundsObserved(self.at, wish.purpose, funds), 10_000_000)
        elif isinstance(wish, fx.FindBadRows):
            self.put(agent, lambda: self.blame(wish), 10_000_000)
        elif isinstance(wish, fx.PrepareTransaction):
            self.put(agent, lambda: self.prepare(wish), 10_000_000)
        else:
            self.put(agent, lambda: self.broadcast(wish), 300_000_000)

    def read_channel(self, wish: fx.ReadChannel) -> Any:
        row = self.chain.channel(wish.channel_id)
        return ft.ChannelObserved(
            self.at,
            wish.channel_id,
            row["balance"],
            row["claimed"],
            row["withdraw_at"],
            row["nonce"],
            self.chain.number,
        )

    def read_withdrawals(self, wish: fx.ReadWithdrawals) -> Any:
        pending = tuple(key for key in wish.channel_ids if self.chain.channel(key)["withdraw_at"])
        return ft.WithdrawalsObserved(self.at, wish.purpose, self.chain.number, pending)

    def read_authorization(self, wish: fx.ReadAuthorization) -> Any:
        used = wish.nonce in self.chain.used
        return ft.AuthorizationObserved(self.at, wish.purpose, used, self.chain.number)

    def blame(self, wish: fx.FindBadRows) -> Any:
        bad = self.chain.bad_rows(wish.rows)
        return ft.BadRowsFound(self.at, wish.purpose, tuple(bad), next(iter(bad.values()), ""))

    def prepare(self, wish: fx.PrepareTransaction) -> Any:
        try:
            self.chain.check(wish.call)
        except (ValueError, SignatureError) as error:
            return ft.ChainFailed(self.at, wish.purpose, True, str(error))
        nonce = next(self.chain.nonce)
        raw = f"{wish.purpose}#{nonce}".encode()
        tx_hash = keccak256(raw)
        self.transactions[tx_hash] = wish.call
        return ft.TransactionSigned(self.at, wish.purpose, raw, tx_hash, nonce)

    def broadcast(self, wish: fx.BroadcastTransaction) -> Any:
        if wish.tx_hash not in self.chain.mined:
            try:
                events = self.chain.mine(self.transactions[wish.tx_hash])
            except (ValueError, SignatureError) as error:
                return ft.ChainFailed(self.at, wish.purpose, True, f"reverted: {error}")
            self.chain.mined[wish.tx_hash] = (self.chain.number, events)
        number, events = self.chain.mined[wish.tx_hash]
        return ft.TransactionConfirmed(self.at, wish.purpose, wish.tx_hash, number, 60_000, events)

    def body_effect(self, wish: Any) -> None:
        agent = self.robot
        if isinstance(wish, fx.StartDocking):
            self.put(agent, lambda: self.dock(wish.dock), self.travel_s * SECOND)
        elif isinstance(wish, fx.CancelDocking):
            self.put(agent, lambda: ft.DockingEnded(self.at, bool(self.docked), self.docked, "cancelled"))
        elif isinstance(wish, fx.WatchProbe):
            supply = self.supplies.get(self.docked)
            if supply is not None and supply.nonce:
                self.put(agent, lambda: ft.ProbeRead(self.at, supply.nonce), 30_000_000)
        elif isinstance(wish, fx.ReadBattery):
            self.put(agent, lambda: ft.BatteryObserved(self.at, self.reading()), 1_000_000)
        elif isinstance(wish, fx.StartUndocking):
            self.put(agent, self.undock, 2 * SECOND)
        else:
            raise AssertionError(f"no robot performs {wish}")

    def dock(self, dock: str) -> Any:
        if self.docking_fails:
            self.docking_fails -= 1
            return ft.DockingEnded(self.at, False, dock, "no dock seen")
        name = dock.removeprefix("dock-")
        if self.docked != name:
            self.docked = name
            other = self.stations[name]
            self.put(other, lambda: self.presence(other, present=True), 20_000_000)
        return ft.DockingEnded(self.at, True, dock, "", self.reading())

    def undock(self) -> Any:
        if self.undocking_fails:
            self.undocking_fails -= 1
            return ft.UndockingEnded(self.at, False, "wheels blocked")
        name, self.docked = self.docked, ""
        if name:
            supply = self.supplies[name]
            supply.nonce = b""
            other = self.stations[name]
            self.put(other, lambda: self.presence(other, present=False), self.leaving_seen_ns)
        return ft.UndockingEnded(self.at, True, "")

    def station_effect(self, agent: Agent, supply: Supply, wish: Any) -> None:
        if isinstance(wish, fx.WriteProbe):
            supply.nonce = wish.nonce
            self.put(self.robot, lambda: ft.ProbeRead(self.at, wish.nonce), 30_000_000)
        elif isinstance(wish, fx.Energise):
            supply.power_w = wish.power_max_w
            supply.until_milliwh = wish.until_energy_milliwh
        elif isinstance(wish, fx.Deenergise):
            if not supply.stuck:
                supply.power_w = 0
        elif isinstance(wish, fx.ReadMeter):
            self.put(agent, lambda: self.state_meter(agent, supply, wish), 2_000_000)
        else:
            raise AssertionError(f"no station performs {wish}")

    def state_meter(self, agent: Agent, supply: Supply, wish: fx.ReadMeter) -> Any:
        settings = agent.settings
        register = supply.register_uwh // 1000
        payload = ocmf.encode_payload(
            ocmf.Statement(
                gateway=settings.station,
                serial=settings.meters[0].serial,
                pagination=wish.pagination,
                session=wish.session,
                transaction=wish.transaction,
                energy_milliwh=register,
                current_type="DC",
                time=ocmf.format_time(self.wall_s),
            )
        )
        supply.statements += 1
        key = agent.keys["meter"]
        if supply.statements > supply.break_statements_after:
            key = make_key("somebody else")
        text = ocmf.assemble(payload, key.sign(ocmf.digest_payload(payload)))
        power = self.flowing_w() * 1000 if self.docked == supply.name else 0
        return ft.StatementMade(self.at, wish.connector, text, register, power)

    # --- shorthands ---------------------------------------------------------------------------------------

    def request(self, session: str = "s-1", energy_milliwh: int = 10_000, **limits: Any) -> None:
        """The battery is low, or a task wants energy under limits of its own."""
        salt = hashlib.sha256(f"salt {session}".encode()).digest()
        wish = ft.ChargeRequested(self.at, session, salt, energy_milliwh, 0, 0, self.reading(), **limits)
        self.give(self.robot, wish)

    @property
    def phase(self) -> str:
        return self.robot.state.phase

    def run_session(self, session: str = "s-1", energy_milliwh: int = 10_000, seconds: float = 900) -> None:
        """From the offers to the receipt."""
        self.run(lambda: len(self.robot.state.offers) == len(self.stations), 5)
        self.request(session, energy_milliwh)
        assert self.run(lambda: self.phase == "SETTLED", seconds), self.story()

    def story(self) -> str:
        """For assertion messages."""
        session = self.robot.state.session
        lines = [f"t={self.now_ns / 1e9:.2f} robot {self.phase} ignored {self.robot.state.ignored}"]
        if session is not None:
            lines += [
                f"  {session.path}",
                f"  stop {session.stop}",
                f"  {session.money}",
                f"  {session.ignored}",
            ]
            lines += [f"  {item}" for item in session.ranking]
        for name, agent in self.stations.items():
            lines.append(f"station {name} ignored {agent.state.ignored}")
            for item in agent.state.sessions.values():
                lines += [
                    f"  {item.id} {item.phase} {item.path} {item.stop_reason} {item.channel} {item.ignored}"
                ]
        return "\n".join(lines)
