"""A listener to many topics on paho-mqtt: QoS 0, a clean session, every message with its retained flag into one queue.

Made for a console: it holds thousands of messages a second, bounded, and loses the oldest rather than the newest when
its owner does not keep up. The agents' own connection, which loses nothing, is ``paho_broker``.
"""

import logging
import threading
from collections import deque
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from depai_robot.adapters.paho_broker import BrokerAddress, _no_delay, _set_tls
from depai_robot.values.error import BugError, DeviceFailedError

LOG = logging.getLogger(__name__)
QUEUE_MESSAGES_MAX = 200_000
QUEUE_BYTES_MAX = 256 * 1024 * 1024
RECONNECT_MIN_S = 1
RECONNECT_MAX_S = 8

Arrival = tuple[str, bytes, bool]
"""Topic, payload, retained."""


class PahoFeed:
    """Connects in the background and keeps at it; what comes waits for :meth:`take`. Thread-safe.

    Args:
        address: of the broker.
        client_id: empty: the broker gives one. A clean session needs no name, and two consoles may run.
        queue_max: messages that wait at most; of more, the oldest are dropped and counted.
    """

    def __init__(
        self, address: BrokerAddress, client_id: str = "", queue_max: int = QUEUE_MESSAGES_MAX
    ) -> None:
        self.dropped_count = 0
        self.connections_count = 0
        self.refusal = ""
        self._address = address
        self._queue: deque[Arrival] = deque()
        self._queue_max = queue_max
        self._queue_bytes = 0
        self._filters: dict[str, None] = {}
        self._refused: dict[str, str] = {}
        self._asked: dict[int, list[str]] = {}
        self._lock = threading.Lock()
        self._connected = threading.Event()
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=mqtt.MQTTv5 if address.mqtt5 else mqtt.MQTTv311,
            clean_session=None if address.mqtt5 else True,
        )
        client.reconnect_delay_set(RECONNECT_MIN_S, RECONNECT_MAX_S)
        client.on_socket_open = _no_delay
        client.on_connect = self._connect_answered
        client.on_disconnect = self._disconnected
        client.on_message = self._message_came
        client.on_subscribe = self._subscribed
        if address.username is not None:
            client.username_pw_set(address.username, address.password)
        if address.tls is not None:
            _set_tls(client, address.tls)
        self._client = client

    @property
    def connected(self) -> bool:
        """Whether the broker has let us in and the connection stands."""
        return self._connected.is_set()

    @property
    def waiting_count(self) -> int:
        """Messages that wait to be taken."""
        return len(self._queue)

    @property
    def refused_filters(self) -> dict[str, str]:
        """Subscriptions that the broker did not grant, and its reason."""
        with self._lock:
            return dict(self._refused)

    def start(self) -> None:
        """Begins to connect; returns at once, also when the broker is away."""
        self._client.connect_async(self._address.host, self._address.port, self._address.keepalive_s)
        self._client.loop_start()

    def wait_connected(self, timeout_s: float) -> bool:
        """Blocks until the connection stands, at most ``timeout_s``."""
        return self._connected.wait(timeout_s)

    def close(self) -> None:
        """Says good-bye; blocks for a second at most."""
        self._client.disconnect()
        self._client.loop_stop()
        self._connected.clear()

    def subscribe(self, *filters: str) -> None:
        """Asks for topics, now and after each reconnection. Retained messages come again.

        Raises:
            BugError: a filter is for everything: a console names what it reads.
        """
        for topic in filters:
            if topic == "#" or topic.startswith(("#", "+/#")):
                raise BugError(f"{topic!r} would bring every message of the broker; name the topics")
        with self._lock:
            self._filters.update(dict.fromkeys(filters))
            if self._connected.is_set():
                self._ask(list(filters))

    def unsubscribe(self, *filters: str) -> None:
        """No longer wanted."""
        with self._lock:
            for topic in filters:
                self._filters.pop(topic, None)
            if self._connected.is_set() and filters:
                self._client.unsubscribe(list(filters))

    def publish(self, topic: str, payload: bytes, *, qos: int = 0) -> None:
        """Sends one message, at once or not at all: a command that waits for a broker would surprise somebody.

        Raises:
            DeviceFailedError: there is no connection.
        """
        if not self._connected.is_set():
            raise DeviceFailedError("not sent: no connection to the MQTT broker")
        info = self._client.publish(topic, payload, qos=qos)
        if info.rc != mqtt.MQTT_ERR_SUCCESS:
            raise DeviceFailedError(f"not sent: {mqtt.error_string(info.rc)}")

    def take(self, count_max: int) -> list[Arrival]:
        """Oldest messages that wait, at most ``count_max``. Does not block."""
        queue, out = self._queue, []
        with self._lock:
            for _ in range(min(count_max, len(queue))):
                arrival = queue.popleft()
                self._queue_bytes -= len(arrival[1])
                out.append(arrival)
        return out

    # What follows runs on paho's thread.

    def _ask(self, filters: list[str]) -> None:
        result, number = self._client.subscribe([(topic, 0) for topic in filters])
        if result == mqtt.MQTT_ERR_SUCCESS and number is not None:
            self._asked[number] = filters

    def _connect_answered(self, _c: Any, _u: Any, _flags: Any, reason: Any, _p: Any) -> None:
        if reason.is_failure:
            self.refusal = str(reason)
            return
        self.refusal = ""
        with self._lock:
            self.connections_count += 1
            self._connected.set()
            self._asked.clear()
            if self._filters:
                self._ask(list(self._filters))

    def _disconnected(self, _c: Any, _u: Any, _flags: Any, _reason: Any, _p: Any) -> None:
        self._connected.clear()

    def _subscribed(self, _c: Any, _u: Any, number: int, reasons: Any, _p: Any) -> None:
        with self._lock:
            filters = self._asked.pop(number, [])
            for topic, reason in zip(filters, reasons, strict=False):
                if reason.is_failure:
                    self._refused[topic] = str(reason)
                    LOG.error("the MQTT broker refuses a subscription to %r: %s", topic, reason)
                else:
                    self._refused.pop(topic, None)

    def _message_came(self, _c: Any, _u: Any, message: Any) -> None:
        try:
            arrival = (message.topic, bytes(message.payload), bool(message.retain))
        except UnicodeDecodeError:
            return
        with self._lock:
            self._queue.append(arrival)
            self._queue_bytes += len(arrival[1])
            while len(self._queue) > self._queue_max or self._queue_bytes > QUEUE_BYTES_MAX:
                self._queue_bytes -= len(self._queue.popleft()[1])
                self.dropped_count += 1
