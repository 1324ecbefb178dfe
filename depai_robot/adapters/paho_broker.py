"""ports.Broker on paho-mqtt: QoS 1, reconnects by itself, keeps its subscriptions, small messages leave at once."""

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from depai_robot.ports import MessageCallback
from depai_robot.values.error import ConfigError, DeviceAbsentError

QOS = 1
QUEUE_MESSAGES_MAX = 10_000
"""Outgoing messages kept while the broker is away; more are refused by paho."""
CLOSE_TIMEOUT_S = 2.0
SESSION_EXPIRY_S = 3600


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificates for a broker that wants them.

    Attributes:
        ca: certificate authority of the broker.
        certificate: ours; None when the broker wants a password or nothing.
        key: of the certificate.
    """

    ca: Path
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where the broker is and how to be let in.

    Attributes:
        host: name or address.
        port: TCP.
        username: None for anonymous.
        password: for the username.
        tls: None for plain TCP (loopback, or a tunnel).
        keepalive_s: a silent connection is given up after 1.5 times this.
        mqtt5: speak 5.0 instead of 3.1.1; nothing of ours needs it.
    """

    host: str
    port: int
    username: str | None = None
    password: str | None = None
    tls: Tls | None = None
    keepalive_s: int = 15
    mqtt5: bool = False


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes for us when we are gone without a word."""

    topic: str
    payload: bytes = b""
    retain: bool = True


class PahoBroker:
    """See ports.Broker. Thread-safe; callbacks come on paho's thread."""

    def __init__(
        self,
        address: BrokerAddress,
        client_id: str,
        *,
        will: Will | None = None,
        connect_timeout_s: float = 5.0,
        on_connection: Callable[[bool], None] | None = None,
    ) -> None:
        self._address = address
        self._timeout_s = connect_timeout_s
        self._callback_by_filter: dict[str, MessageCallback] = {}
        self._lock = threading.Lock()
        self._connected = threading.Event()
        self._granted: dict[int, threading.Event] = {}
        self._refusal = ""
        self._started = False
        self._on_connection = on_connection
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=mqtt.MQTTv5 if address.mqtt5 else mqtt.MQTTv311,
            # A session that outlives the connection keeps what arrives meanwhile (5.0 says so in connect()).
            clean_session=None if address.mqtt5 else False,
        )
        client.max_queued_messages_set(QUEUE_MESSAGES_MAX)
        client.reconnect_delay_set(min_delay=1, max_delay=16)
        client.on_socket_open = _no_delay
        client.on_connect = self._connect_answered
        client.on_disconnect = self._disconnected
        client.on_message = self._message_came
        client.on_subscribe = self._subscribed
        if address.username is not None:
            client.username_pw_set(address.username, address.password)
        if address.tls is not None:
            _set_tls(client, address.tls)
        if will is not None:
            client.will_set(will.topic, will.payload, qos=QOS, retain=will.retain)
        self._client = client

    def connect(self) -> None:
        """See ports.Broker.connect."""
        properties = None
        if self._address.mqtt5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = SESSION_EXPIRY_S
        where = f"{self._address.host}:{self._address.port}"
        try:
            self._client.connect(
                self._address.host, self._address.port, self._address.keepalive_s, properties=properties
            )
        except (OSError, ValueError) as error:
            raise DeviceAbsentError(f"no MQTT broker answers at {where}: {error}") from error
        self._client.loop_start()
        self._started = True
        if not self._connected.wait(self._timeout_s):
            self._client.loop_stop()
            reason = self._refusal or "no answer"
            raise DeviceAbsentError(
                f"MQTT broker at {where} let nobody in within {self._timeout_s} s: {reason}"
            )

    def subscribe(self, topic: str, callback: MessageCallback) -> None:
        """See ports.Broker.subscribe. Blocks until the broker has granted it, or for the connect time-out."""
        with self._lock:
            self._callback_by_filter[topic] = callback
            if not self._connected.is_set():
                return  # made when the connection is there
            _, number = self._client.subscribe(topic, QOS)
            granted = self._granted.setdefault(number or 0, threading.Event())
        granted.wait(self._timeout_s)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """See ports.Broker.publish."""
        self._client.publish(topic, payload, qos=QOS, retain=retain)

    def close(self) -> None:
        """See ports.Broker.close."""
        if not self._started:
            return
        self._client.disconnect()
        # paho's thread ends when the queue is sent; it is not joined for longer than this.
        thread = self._client._thread  # noqa: SLF001
        if thread is not None:
            thread.join(CLOSE_TIMEOUT_S)
        self._client.loop_stop()
        self._started = False

    def _connect_answered(self, _c: Any, _u: Any, _flags: Any, reason: Any, _p: Any) -> None:
        if reason.is_failure:
            self._refusal = str(reason)
            return
        with self._lock:
            for topic in self._callback_by_filter:
                self._client.subscribe(topic, QOS)
            self._connected.set()
        if self._on_connection is not None:
            self._on_connection(True)

    def _disconnected(self, _c: Any, _u: Any, _flags: Any, _reason: Any, _p: Any) -> None:
        self._connected.clear()
        if self._on_connection is not None:
            self._on_connection(False)

    def _subscribed(self, _c: Any, _u: Any, number: int, _reasons: Any, _p: Any) -> None:
        with self._lock:
            self._granted.setdefault(number, threading.Event()).set()

    def _message_came(self, _c: Any, _u: Any, message: Any) -> None:
        with self._lock:
            callbacks = [
                callback
                for topic, callback in self._callback_by_filter.items()
                if mqtt.topic_matches_sub(topic, message.topic)
            ]
        for callback in callbacks:
            callback(message.topic, bytes(message.payload))


def _no_delay(_client: Any, _userdata: Any, sock: Any) -> None:
    # Without TCP_NODELAY at both ends a QoS 1 round trip waits for delayed ACKs: 44 to 88 ms instead of 0.3.
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _set_tls(client: mqtt.Client, tls: Tls) -> None:
    try:
        client.tls_set(
            str(tls.ca),
            str(tls.certificate) if tls.certificate else None,
            str(tls.key) if tls.key else None,
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"MQTT certificates: {error}") from error
