"""A VDA 5050 connection on paho-mqtt: a fresh will at every connect, QoS as the standard says, nothing old sent late.

Connects in the background, so a broker that is absent at start, cut or restarted changes nothing for the caller. What
would be sent while it is away is dropped: a state from before an outage is no state. Money goes over paho_broker, which
drops nothing.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from depai_robot.adapters.paho_broker import BrokerAddress, _no_delay, _set_tls

LOG = logging.getLogger(__name__)
RECONNECT_MIN_S = 1
RECONNECT_MAX_S = 8
SUBSCRIBE_QOS = 0
"""Orders and instant actions are QoS 0. Source: VDA 5050 2.1.0 § 6.2."""
CLOSE_TIMEOUT_S = 2.0


class PahoVda:
    """One robot's connection to its fleet. Callbacks come on paho's thread, one at a time.

    Args:
        address: of the broker.
        client_id: of this robot's fleet connection; no other program may use it.
        on_try: a connection is about to be made; :meth:`set_will` belongs here.
        on_connected, on_lost: it stands; it is gone.
        on_message: topic and payload. A retained message is dropped: an order of yesterday is no order.
    """

    def __init__(
        self,
        address: BrokerAddress,
        client_id: str,
        *,
        on_try: Callable[[], None],
        on_connected: Callable[[], None],
        on_lost: Callable[[], None],
        on_message: Callable[[str, bytes], None],
    ) -> None:
        self._address = address
        self._on_try, self._on_connected, self._on_lost = on_try, on_connected, on_lost
        self._on_message = on_message
        self._topics: list[str] = []
        self._connected = threading.Event()
        self.dropped_count = 0
        self.refusal = ""
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=mqtt.MQTTv5 if address.mqtt5 else mqtt.MQTTv311,
            # Nothing is kept for us while we are away: an old order must not start a robot.
            clean_session=None if address.mqtt5 else True,
        )
        client.reconnect_delay_set(RECONNECT_MIN_S, RECONNECT_MAX_S)
        client.on_socket_open = _no_delay
        client.on_pre_connect = self._pre_connect
        client.on_connect = self._connect_answered
        client.on_disconnect = self._disconnected
        client.on_message = self._message_came
        if address.username is not None:
            client.username_pw_set(address.username, address.password)
        if address.tls is not None:
            _set_tls(client, address.tls)
        self._client = client

    @property
    def connected(self) -> bool:
        """Whether the broker has let us in and the connection stands."""
        return self._connected.is_set()

    def set_will(self, topic: str, payload: bytes) -> None:
        """For the connection that is made next; QoS 1, retained."""
        self._client.will_set(topic, payload, qos=1, retain=True)

    def start(self, topics: list[str]) -> None:
        """Begins to connect and returns at once. ``topics`` are subscribed at each connection."""
        self._topics = topics
        self._client.connect_async(self._address.host, self._address.port, self._address.keepalive_s)
        self._client.loop_start()

    def publish(self, topic: str, payload: bytes, *, reliable: bool, retain: bool) -> None:
        """Sends now, or drops and counts."""
        if not self._connected.is_set():
            self.dropped_count += 1
            return
        self._client.publish(topic, payload, qos=1 if reliable else 0, retain=retain)

    def close(self, topic: str, payload: bytes) -> None:
        """Sends a last retained message, waits for the broker's word at most 2 s, and says good-bye: no will."""
        if self._connected.is_set() and payload:
            info = self._client.publish(topic, payload, qos=1, retain=True)
            try:
                info.wait_for_publish(CLOSE_TIMEOUT_S)
            except (RuntimeError, ValueError) as error:
                LOG.warning("the last message was not sent: %s", error)
        self._client.disconnect()
        self._client.loop_stop()
        self._connected.clear()

    # What follows runs on paho's thread.

    def _pre_connect(self, _client: Any, _userdata: Any) -> None:
        _guard(self._on_try)

    def _connect_answered(self, _c: Any, _u: Any, _flags: Any, reason: Any, _p: Any) -> None:
        if reason.is_failure:
            self.refusal = str(reason)
            LOG.warning("the fleet's MQTT broker refuses us: %s", reason)
            return
        self.refusal = ""
        for topic in self._topics:
            self._client.subscribe(topic, SUBSCRIBE_QOS)
        self._connected.set()
        _guard(self._on_connected)

    def _disconnected(self, _c: Any, _u: Any, _flags: Any, _reason: Any, _p: Any) -> None:
        if self._connected.is_set():
            self._connected.clear()
            _guard(self._on_lost)

    def _message_came(self, _c: Any, _u: Any, message: Any) -> None:
        if message.retain:
            LOG.warning("a retained message on %r was dropped", message.topic)
            return
        topic, payload = message.topic, bytes(message.payload)
        _guard(lambda: self._on_message(topic, payload))


def _guard(call: Callable[[], None]) -> None:
    try:
        call()
    except Exception:
        # An exception would end paho's thread, and with it the connection for good.
        LOG.exception("a callback of the fleet connection failed")
