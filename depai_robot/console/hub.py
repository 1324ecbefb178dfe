"""Joins the broker's messages, the picture of the fleet and the history; one thread (the screen's) turns the crank.

:meth:`Hub.pump` takes what has come, for a bounded time, so a burst never freezes a screen.
"""

import getpass
import secrets
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from depai_robot.adapters.paho_broker import BrokerAddress
from depai_robot.adapters.paho_feed import PahoFeed
from depai_robot.app.journal_told import TOLD_WITHIN_S, Collection, Telling
from depai_robot.console.command import Command, Role, instant_action
from depai_robot.console.fleet import DAY_S, IDLE_PHASES, Fleet, Robot
from depai_robot.console.history import AuditRow, History, Sample
from depai_robot.console.order import (
    ANSWERS,
    JOURNALS,
    Answer,
    Order,
    OrderDesk,
    is_answer,
    is_journal,
    make_order,
    read_answer,
)
from depai_robot.console.vda import clean
from depai_robot.fleet.command import Command as SignedCommand
from depai_robot.values.error import ConfigError, DepaiError

INTERFACES = ("uagv/v2",)
OFFERS = "depai/v1/+/stations/+/offer"
SAMPLE_EVERY_S = 300
BATCH = 250
RESTORE_SESSIONS_MAX = 5_000
ANSWER_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class HubSettings:
    """What a console listens to and where it keeps things.

    Attributes:
        broker: address.
        interfaces: ``<interface>/<major>`` of the robots' topics.
        history: file; None keeps nothing.
        role: what may be done from here.
        who: name in the audit log.
        manufacturer: only this one's robots; ``+`` for all.
    """

    broker: BrokerAddress
    interfaces: tuple[str, ...] = INTERFACES
    history: Path | None = None
    role: Role = Role.VIEWER
    who: str = ""
    manufacturer: str = "+"


class Hub:
    """Owner of the parts. Not thread-safe: one thread calls it.

    Args:
        settings: see there.
        feed: for tests; made from the settings if None.
        desk: who signs orders here; None gives none.
    """

    def __init__(
        self, settings: HubSettings, feed: PahoFeed | None = None, desk: OrderDesk | None = None
    ) -> None:
        for interface in settings.interfaces:
            if interface.count("/") != 1 or any(c in interface for c in "#+ "):
                raise ConfigError(f"interface {interface!r}, expected <name>/<major>, as uagv/v2")
        self.settings = settings
        self.who = settings.who or getpass.getuser()
        self.fleet = Fleet()
        self.history = History(settings.history)
        self.feed = feed if feed is not None else PahoFeed(settings.broker)
        self.started_s = time.time()
        self.pump_seconds = 0.0
        self._ticked_s = 0.0
        self._header_id = 0
        self._opened: dict[str, tuple[str, ...]] = {}
        self._results: dict[str, tuple[str, str, str]] = {}
        self.desk = desk
        self._orders: dict[str, tuple[str, SignedCommand, float]] = {}
        self._said: list[tuple[str, bool]] = []
        self._journals: dict[str, tuple[str, Collection, float]] = {}
        self._told: list[Telling] = []
        self._sampled_s: dict[str, int] = {}

    def start(self) -> None:
        """Restores the last day and begins to listen; returns at once."""
        self._restore(time.time())
        for interface in self.settings.interfaces:
            prefix = f"{interface}/{self.settings.manufacturer}/+"
            self.feed.subscribe(f"{prefix}/connection", f"{prefix}/state")
        self.feed.subscribe(OFFERS)
        if self.desk is not None:
            self.feed.subscribe(ANSWERS, JOURNALS)
        self.feed.start()

    def close(self) -> None:
        """Says good-bye to the broker and writes what is queued."""
        self.feed.close()
        self.keep(time.time())
        self.history.close()

    def pump(self, budget_s: float = 0.02) -> int:
        """Takes in what has come, for about ``budget_s`` at most; returns how many messages."""
        begin, count = time.perf_counter(), 0
        now_s = time.time()
        while time.perf_counter() - begin < budget_s:
            arrivals = self.feed.take(BATCH)
            for topic, payload, retained in arrivals:
                if is_answer(topic):
                    self._take_answer(read_answer(topic, payload))
                elif is_journal(topic):
                    self._take_journal(payload)
                else:
                    self.fleet.ingest(topic, payload, retained=retained, now_s=now_s)
            count += len(arrivals)
            if len(arrivals) < BATCH:
                break
        if now_s - self._ticked_s >= 1.0:
            self._ticked_s = now_s
            # While we were cut off nothing could come: that is our silence, not the robots'.
            if self.feed.connected:
                self.fleet.tick(now_s)
            self._follow_results(now_s)
            self._give_up_orders()
            self._give_up_journals()
            self.keep(now_s)
        self.pump_seconds += time.perf_counter() - begin
        return count

    def open_robot(self, robot: Robot) -> None:
        """Somebody looks at this robot: its factsheet and its positions are wanted too."""
        topics = (robot.address.topic("factsheet"), robot.address.topic("visualization"))
        self._opened[robot.key] = topics
        self.feed.subscribe(*topics)

    def close_robot(self, robot: Robot) -> None:
        """Nobody looks at it any more."""
        self.feed.unsubscribe(*self._opened.pop(robot.key, ()))

    def may(self, role: Role) -> bool:
        """Whether this console's role covers it."""
        return self.settings.role >= role

    def command(self, robot: Robot, command: Command) -> str:
        """Sends one instant action; returns its id. The audit row is on disk before.

        Raises:
            ConfigError: the role does not allow it.
            DeviceFailedError: no connection, or no audit row could be written: nothing was sent.
        """
        now_s = time.time()
        if not self.may(Role.OPERATOR):
            self.note("refused", robot.key, f"{command.name}: role {self.settings.role.name.lower()}")
            raise ConfigError("a viewer sends no commands; start the console with --role operator")
        action_id = str(uuid.uuid4())
        self._header_id += 1
        topic, payload = instant_action(
            robot, command, action_id=action_id, header_id=self._header_id, now_s=now_s
        )
        self.note(f"command {command.name}", robot.key, f"action {action_id}")
        self.fleet.watch_action(action_id)
        self._results[action_id] = (robot.key, command.name, "SENT")
        try:
            self.feed.publish(topic, payload)
        except DepaiError as error:
            del self._results[action_id]
            self.note("not sent", robot.key, f"{command.name}: {error}")
            raise
        return action_id

    def prepare(self, robot: Robot, order: Order, values: Mapping[str, str], reason: str) -> SignedCommand:
        """An order as it would be signed now, to be shown before it is.

        Raises:
            ConfigError: the role does not allow it, there is no key, or a field is not filled in well.
        """
        self._desk(order.kind, robot)
        return make_order(
            robot.address.serial,
            order,
            values,
            reason,
            order_id=secrets.token_hex(8),
            now_s=int(time.time()),
        )

    def order(self, robot: Robot, command: SignedCommand) -> None:
        """Signs and sends an order. The audit row is on disk before; the answer comes in :meth:`take_words`.

        Raises:
            ConfigError: the role does not allow it, or there is no key.
            DeviceFailedError: no connection, or no audit row could be written: nothing was sent.
        """
        desk = self._desk(command.kind, robot)
        token = desk.seal(command)
        detail = f"{command.id} by {desk.operator}: {command.reason}"
        self.note(f"order {command.kind}", robot.key, detail)
        self._orders[command.id] = (robot.key, command, time.monotonic() + ANSWER_WITHIN_S)
        if command.kind == "journal":
            collection = Collection(command.robot, command.id, desk.chain_id)
            self._journals[command.id] = (robot.key, collection, time.monotonic() + TOLD_WITHIN_S)
        try:
            self.feed.publish(f"depai/v1/fleet/{command.robot}/command", token.encode(), qos=1)
        except DepaiError as error:
            del self._orders[command.id]
            self._journals.pop(command.id, None)
            self.note("not sent", robot.key, f"order {command.kind}: {error}")
            raise

    def take_words(self) -> list[tuple[str, bool]]:
        """What robots said to our orders since the last call: a line, and whether all is well."""
        said, self._said = self._said, []
        return said

    def take_told(self) -> list[Telling]:
        """Journals that robots have told since the last call, whole and checked."""
        told, self._told = self._told, []
        return told

    def _take_journal(self, payload: bytes) -> None:
        for order_id, (key, collection, _) in list(self._journals.items()):
            collection.take(payload)
            if collection.told is not None:
                self.note("journal", key, f"{order_id}: {collection.told.text()}")
                self._told.append(collection.told)
            elif collection.refusal:
                text = clean(f"tells no journal: {collection.refusal}", 200)
                self.note("no journal", key, f"{order_id}: {text}")
                self._said.append((f"{key.rpartition('/')[2]} {text}", False))
            else:
                continue
            del self._journals[order_id]

    def _give_up_journals(self) -> None:
        for order_id, (key, collection, until_s) in list(self._journals.items()):
            if time.monotonic() >= until_s:
                del self._journals[order_id]
                text = f"{collection.progress} of the journal came within {TOLD_WITHIN_S:g} s"
                self.note("no journal", key, f"{order_id}: {text}")
                self._said.append((f"{key.rpartition('/')[2]}: {text}", False))

    def _desk(self, kind: str, robot: Robot) -> OrderDesk:
        if not self.may(Role.OPERATOR):
            self.note("refused", robot.key, f"order {kind}: role {self.settings.role.name.lower()}")
            raise ConfigError("a viewer sends no orders; start the console with --role operator")
        if self.desk is None:
            raise ConfigError("orders are signed: start the console with --operator-key")
        return self.desk

    def _take_answer(self, answer: Answer | None) -> None:
        waiting = self._orders.get(answer.id) if answer is not None else None
        if answer is None or waiting is None or waiting[1].robot != answer.robot:
            return  # to somebody else's order
        key, command, _ = self._orders.pop(answer.id)
        text = clean(answer.text(), 200)
        self.note("answer", key, f"order {command.kind} {answer.id}: {text}")
        self._said.append((text, answer.accepted))
        if not answer.accepted:
            self._journals.pop(answer.id, None)

    def _give_up_orders(self) -> None:
        for order_id, (key, command, until_s) in list(self._orders.items()):
            if time.monotonic() < until_s:
                continue
            del self._orders[order_id]
            text = f"{command.robot} does not answer within {ANSWER_WITHIN_S:g} s; it may still obey"
            self.note("no answer", key, f"order {command.kind} {order_id}")
            self._said.append((text, False))

    def acknowledge(self, subject: str, kind: str) -> bool:
        """An operator has seen an alert; False when there is nothing to acknowledge.

        Raises:
            ConfigError: the role does not allow it.
            DeviceFailedError: no audit row could be written.
        """
        if not self.may(Role.OPERATOR):
            raise ConfigError("a viewer acknowledges nothing; start the console with --role operator")
        alert = self.fleet.alerts.open.get((subject, kind))
        if alert is None or alert.by:
            return False
        self.note("acknowledge", subject, f"{kind}: {alert.text}")
        return self.fleet.alerts.acknowledge(subject, kind, self.who, time.time())

    def note(self, what: str, subject: str, detail: str) -> None:
        """A row of the audit log."""
        role = self.settings.role.name.lower()
        self.history.audit(AuditRow(time.time(), self.who, role, what, subject, detail))

    def _follow_results(self, now_s: float) -> None:
        del now_s
        for action_id, (key, name, before) in list(self._results.items()):
            status, result = self.fleet.action_status(action_id)
            if status == before:
                continue
            self.note("result", key, f"{name}: {status}{': ' + result if result else ''}")
            if status in ("FINISHED", "FAILED"):
                del self._results[action_id]
            else:
                self._results[action_id] = (key, name, status)

    def _restore(self, now_s: float) -> None:
        for address in self.history.robots():
            self.fleet.restore_robot(address)
        for session in self.history.sessions(now_s - DAY_S)[-RESTORE_SESSIONS_MAX:]:
            self.fleet.restore_session(session, now_s)
        acknowledged = [a for a in self.history.alerts(now_s - DAY_S) if a.until_s is None and a.by]
        for alert in acknowledged:
            self.fleet.alerts.remember(alert)

    def keep(self, now_s: float) -> None:
        """Hands what is new to the history: sessions that ended, alerts, points of curves."""
        self.history.add_sessions(self.fleet.take_finished())
        self.history.add_alerts(self.fleet.alerts.take_changes())
        samples = []
        slot = int(now_s // SAMPLE_EVERY_S) * SAMPLE_EVERY_S
        for key in self.fleet.take_changed():
            robot = self.fleet.robots[key]
            # One sample in five minutes, and one at each turn of a session: curves keep their corners.
            if robot.reading is None or (self._sampled_s.get(key) == slot and not self._turned(robot)):
                continue
            self._sampled_s[key] = slot
            samples.append((robot.address, sample_of(robot, now_s)))
        self.history.add_samples(samples)
        self.history.prune(now_s)

    def _turned(self, robot: Robot) -> bool:
        session = robot.session
        return session is not None and session.ended and session.seen_s >= self._ticked_s - 1.0


def sample_of(robot: Robot, now_s: float) -> Sample:
    """A point of the robot's curves as it stands now."""
    said = robot.charging
    buying = said is not None and said.phase not in IDLE_PHASES
    percent = robot.battery_percent
    return Sample(
        int(now_s),
        percent if percent >= 0 else None,
        said.energy_milliwh if said and buying else 0,
        said.cost_atomic if said and buying else 0,
        robot.spent_today_atomic(now_s),
        robot.status(),
    )
