"""ports.Broker in one process, with seeded faults: an exchange, and a client of it per participant.

Does not model: a network that is slow for everybody, packet limits, access lists, two clients with one id, brokers
that forget. Models what the contract suite asks of a real broker, and what an honest broker may do worst: lose
(which QoS 1 forbids it, and a crash of a broker without a disk does), repeat, delay and reorder.
"""

import heapq
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from depai_robot.ports import MessageCallback
from depai_robot.values.error import BugError, DeviceAbsentError, DeviceFailedError

LOG = logging.getLogger(__name__)

QUEUE_MESSAGES_MAX = 10_000
CLOSE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class BrokerFaults:
    """What goes wrong, per message and receiver.

    Attributes:
        drop_permille: lost.
        duplicate_permille: delivered twice.
        delay_max_ms: each copy is late by 0 to this.
        reorder: late messages may be overtaken; False keeps the order of each sender.
    """

    drop_permille: int = 0
    duplicate_permille: int = 0
    delay_max_ms: int = 0
    reorder: bool = False

    def __post_init__(self) -> None:
        for name in ("drop_permille", "duplicate_permille"):
            if not 0 <= getattr(self, name) <= 1000:
                raise BugError(f"{name} must be 0 to 1000, got {getattr(self, name)}")
        if self.delay_max_ms < 0:
            raise BugError(f"delay_max_ms must not be negative, got {self.delay_max_ms}")


NO_FAULTS = BrokerFaults()


def topic_matches(topic_filter: str, topic: str) -> bool:
    """Whether a topic falls under a filter. Source: OASIS MQTT 3.1.1, § 4.7."""
    if topic.startswith("$") != topic_filter.startswith("$"):
        return False
    levels, wanted = topic.split("/"), topic_filter.split("/")
    if wanted[-1] == "#":
        wanted.pop()
        if len(levels) < len(wanted):
            return False
        levels = levels[: len(wanted)]
    return len(levels) == len(wanted) and all(
        w in ("+", level) for w, level in zip(wanted, levels, strict=True)
    )


class MemoryExchange:
    """The broker's side. Retained messages and sessions outlive :meth:`stop`, as a broker's with a disk do.

    With ``threaded`` messages are delivered by a thread of its own, in real time, as a real broker's are. Without,
    nothing happens until :meth:`pump`: a test decides when, and the same seed gives the same course.
    """

    def __init__(self, faults: BrokerFaults = NO_FAULTS, seed: int = 0, *, threaded: bool = True) -> None:
        self.faults = faults
        self._rng = random.Random(seed)  # noqa: S311 - faults, not secrets
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._clients: dict[str, MemoryBroker] = {}
        self._retained: dict[str, bytes] = {}
        # (when due in virtual or real seconds, order of entry, receiver, topic, payload)
        self._due: list[tuple[float, int, MemoryBroker, str, bytes]] = []
        self._entry = 0
        self._latest_s: dict[tuple[str, str], float] = {}
        self._up = True
        self._closed = False
        self._busy = False
        self._thread: threading.Thread | None = None
        if threaded:
            self._thread = threading.Thread(target=self._run, name="memory-exchange", daemon=True)
            self._thread.start()

    def client(
        self,
        client_id: str,
        *,
        will: tuple[str, bytes, bool] | None = None,
        on_connection: Callable[[bool], None] | None = None,
    ) -> "MemoryBroker":
        """A participant. A second one with the same id takes over the session of the first.

        Args:
            client_id: names the session.
            will: (topic, payload, retain), published when the connection is cut.
            on_connection: told True and False as the connection comes and goes.
        """
        return MemoryBroker(self, client_id, will, on_connection)

    def stop(self) -> None:
        """The broker goes away; everybody loses the connection."""
        with self._lock:
            self._up = False
            clients = list(self._clients.values())
        for client in clients:
            client.tell_connection(up=False)

    def start(self) -> None:
        """The broker is back; everybody reconnects, and what waited is sent."""
        with self._lock:
            self._up = True
            clients = list(self._clients.values())
        for client in clients:
            client.resume()

    def cut(self, client: "MemoryBroker") -> None:
        """The participant dies without a word: its will is published, its session stays."""
        client.die()

    def pump(self) -> int:
        """Delivers all that is on its way, in the order it is due, and what follows from it. Returns how many."""
        count = 0
        while self._deliver_next(float("inf")):
            count += 1
        return count

    def wait_idle(self, timeout_s: float = 2.0) -> bool:
        """Blocks until nothing is on its way; False when that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._due and not self._busy, timeout_s)

    def close(self) -> None:
        """Ends the thread; what is on its way is lost."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    # What follows is for MemoryBroker.

    @property
    def up(self) -> bool:
        """Whether the broker is there."""
        return self._up

    def join(self, client: "MemoryBroker") -> None:
        """A session begins or goes on."""
        with self._lock:
            former = self._clients.get(client.client_id)
            self._clients[client.client_id] = client
        if former is not None and former is not client:
            client.inherit(former)

    def route(self, sender_id: str, topic: str, payload: bytes, *, retain: bool) -> None:
        """To every session with a filter that fits, and into the store."""
        with self._lock:
            if retain and payload:
                self._retained[topic] = payload
            elif retain:
                self._retained.pop(topic, None)
            for client in self._clients.values():
                if client.wants(topic):
                    self._enter(client, sender_id, topic, payload)

    def repeat_retained(self, client: "MemoryBroker", topic_filter: str) -> None:
        """What is retained under a filter, to one session."""
        with self._lock:
            for topic, payload in self._retained.items():
                if topic_matches(topic_filter, topic):
                    self._enter(client, "", topic, payload)

    def _enter(self, client: "MemoryBroker", sender_id: str, topic: str, payload: bytes) -> None:
        faults, rng = self.faults, self._rng
        if rng.randrange(1000) < faults.drop_permille:
            return
        copies = 2 if rng.randrange(1000) < faults.duplicate_permille else 1
        for _ in range(copies):
            delay_s = rng.randint(0, faults.delay_max_ms) / 1000
            due_s = (time.monotonic() if self._thread else 0.0) + delay_s
            if not faults.reorder:
                way = (sender_id, client.client_id)
                due_s = self._latest_s[way] = max(due_s, self._latest_s.get(way, 0.0))
            self._entry += 1
            heapq.heappush(self._due, (due_s, self._entry, client, topic, payload))
        self._changed.notify_all()

    def _deliver_next(self, now_s: float) -> bool:
        with self._lock:
            if not self._due or self._due[0][0] > now_s:
                return False
            _, _, client, topic, payload = heapq.heappop(self._due)
            self._busy = True
        try:
            client.deliver(topic, payload)
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                now_s = time.monotonic()
                if not self._due or self._due[0][0] > now_s:
                    self._changed.wait(self._due[0][0] - now_s if self._due else None)
                    continue
            self._deliver_next(now_s)


class MemoryBroker:
    """See ports.Broker. Callbacks come on the exchange's thread, or on that of pump()."""

    def __init__(
        self,
        exchange: MemoryExchange,
        client_id: str,
        will: tuple[str, bytes, bool] | None,
        on_connection: Callable[[bool], None] | None,
    ) -> None:
        self.client_id = client_id
        self._exchange = exchange
        self._will = will
        self._on_connection = on_connection
        self._lock = threading.RLock()
        self._callbacks_by_filter: dict[str, list[MessageCallback]] = {}
        self._outbox: deque[tuple[str, bytes, bool]] = deque()
        self._inbox: deque[tuple[str, bytes]] = deque(maxlen=QUEUE_MESSAGES_MAX)
        self._alive = False

    @property
    def connected(self) -> bool:
        """Whether the exchange is there and we have joined it."""
        return self._alive and self._exchange.up

    def connect(self) -> None:
        """See ports.Broker.connect. Does not wait: an exchange that is away does not come back by waiting."""
        if not self._exchange.up:
            raise DeviceAbsentError("no MQTT broker answers in memory: it was stopped")
        self._alive = True
        self._exchange.join(self)
        self.resume()

    def subscribe(self, topic: str, callback: MessageCallback) -> None:
        """See ports.Broker.subscribe."""
        levels = topic.split("/")
        if not topic or "#" in levels[:-1] or any(len(x) > 1 and set(x) & {"+", "#"} for x in levels):
            raise BugError(f"{topic!r} is no topic filter")
        with self._lock:
            self._callbacks_by_filter.setdefault(topic, []).append(callback)
        if self.connected:
            self._exchange.repeat_retained(self, topic)
            self._drain_inbox()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """See ports.Broker.publish."""
        if not topic or "+" in topic or "#" in topic:
            raise BugError(f"{topic!r} is no topic to publish to")
        if self.connected:
            self._exchange.route(self.client_id, topic, bytes(payload), retain=retain)
            return
        with self._lock:
            if len(self._outbox) >= QUEUE_MESSAGES_MAX:
                raise DeviceFailedError(
                    f"MQTT: {QUEUE_MESSAGES_MAX} messages wait for the broker, a further one is not kept"
                )
            self._outbox.append((topic, bytes(payload), retain))

    def close(self) -> None:
        """See ports.Broker.close."""
        if self._alive:
            self._alive = False
            self._tell(up=False)

    # What follows is for MemoryExchange.

    def wants(self, topic: str) -> bool:
        """Whether the session has a filter for it."""
        with self._lock:
            return any(topic_matches(name, topic) for name in self._callbacks_by_filter)

    def deliver(self, topic: str, payload: bytes) -> None:
        """Calls back, or keeps the message for a session that is away."""
        with self._lock:
            callbacks = [
                callback
                for name, callbacks in self._callbacks_by_filter.items()
                if topic_matches(name, topic)
                for callback in callbacks
            ]
            if not (self.connected and callbacks):
                self._inbox.append((topic, payload))
                return
        for callback in callbacks:
            try:
                callback(topic, payload)
            except Exception:
                LOG.exception("the callback of %r failed", topic)

    def resume(self) -> None:
        """The connection is there: subscriptions hold, what waited on either side is sent."""
        if not self._alive:
            return
        self._tell(up=True)
        with self._lock:
            filters = list(self._callbacks_by_filter)
        for name in filters:
            self._exchange.repeat_retained(self, name)
        self._drain_inbox()
        while self._outbox:
            topic, payload, retain = self._outbox.popleft()
            self._exchange.route(self.client_id, topic, payload, retain=retain)

    def inherit(self, former: "MemoryBroker") -> None:
        """Takes over the session of an earlier client with this id."""
        with former._lock:  # noqa: SLF001 - the same class
            self._inbox.extend(former._inbox)  # noqa: SLF001
            filters = list(former._callbacks_by_filter)  # noqa: SLF001
        with self._lock:
            for name in filters:
                # The filter holds at the broker; whoever calls back subscribes again.
                self._callbacks_by_filter.setdefault(name, [])

    def die(self) -> None:
        """As a crash would: nothing more goes out, the will is published."""
        if not self._alive:
            return
        self._alive = False
        if self._will is not None:
            topic, payload, retain = self._will
            self._exchange.route(self.client_id, topic, payload, retain=retain)

    def tell_connection(self, *, up: bool) -> None:
        """The exchange comes or goes."""
        if self._alive:
            self._tell(up=up)

    def _drain_inbox(self) -> None:
        with self._lock:
            waiting, self._inbox = list(self._inbox), deque(maxlen=QUEUE_MESSAGES_MAX)
        for topic, payload in waiting:
            self.deliver(topic, payload)

    def _tell(self, *, up: bool) -> None:
        if self._on_connection is None:
            return
        try:
            self._on_connection(up)
        except Exception:
            LOG.exception("the connection callback failed")
