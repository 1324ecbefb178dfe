"""ports.Broker on paho-mqtt: QoS 1, reconnects by itself, keeps its subscriptions, small messages leave at once.

Knows nothing of what the messages mean. Callbacks run on paho's thread and must only hand over.
"""

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from depai_robot.ports import MessageCallback
from depai_robot.values.error import BugError, ConfigError, DeviceAbsentError, DeviceFailedError

LOG = logging.getLogger(__name__)

QOS = 1
QUEUE_MESSAGES_MAX = 10_000
"""Outgoing messages kept while the broker is away; more are refused."""
UNCLAIMED_MESSAGES_MAX = 1000
"""Messages of an earlier session that came before anybody subscribed; of more, the oldest are dropped."""
CLOSE_TIMEOUT_S = 2.0
SESSION_EXPIRY_S = 3600
RECONNECT_MIN_S = 1
RECONNECT_MAX_S = 16
_RETRY_S = 0.1
_PAUSE_AFTER_FAULT_S = 1.0


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
    """See ports.Broker. Thread-safe; callbacks come on paho's thread.

    The session outlives the connection: what is sent to our subscriptions while we are away comes later, if it is
    the same ``client_id`` that comes back. Two processes must not share one.
    """

    def __init__(
        self,
        address: BrokerAddress,
        client_id: str,
        *,
        will: Will | None = None,
        connect_timeout_s: float = 5.0,
        on_connection: Callable[[bool], None] | None = None,
    ) -> None:
        """Makes the client; nothing goes over the network before :meth:`connect`.

        Args:
            address: of the broker.
            client_id: names the session at the broker; ours for ever.
            will: published by the broker when the connection is lost without a good-bye.
            connect_timeout_s: the longest that connect() and subscribe() block.
            on_connection: told True and False on paho's thread as the connection comes and goes.

        Raises:
            ConfigError: certificates can't be read.
        """
        self._address = address
        self._timeout_s = connect_timeout_s
        self._callbacks_by_filter: dict[str, list[MessageCallback]] = {}
        self._unclaimed: deque[tuple[str, bytes]] = deque(maxlen=UNCLAIMED_MESSAGES_MAX)
        self._lock = threading.Lock()
        self._connected = threading.Event()
        self._answered = threading.Event()
        self._refusal = ""
        self._grants: dict[int, _Grant] = {}
        self._unsent_count = 0
        self._all_sent = threading.Condition(self._lock)
        self._started = False
        self._on_connection = on_connection
        client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=mqtt.MQTTv5 if address.mqtt5 else mqtt.MQTTv311,
            # A session that outlives the connection keeps what arrives meanwhile (5.0 says so in connect()).
            clean_session=None if address.mqtt5 else False,
        )
        client.connect_timeout = connect_timeout_s
        client.max_queued_messages_set(QUEUE_MESSAGES_MAX)
        client.reconnect_delay_set(min_delay=RECONNECT_MIN_S, max_delay=RECONNECT_MAX_S)
        client.on_socket_open = _no_delay
        client.on_connect = self._connect_answered
        client.on_disconnect = self._disconnected
        client.on_message = self._message_came
        client.on_subscribe = self._subscribed
        client.on_publish = self._published
        if address.username is not None:
            client.username_pw_set(address.username, address.password)
        if address.tls is not None:
            _set_tls(client, address.tls)
        if will is not None:
            client.will_set(will.topic, will.payload, qos=QOS, retain=will.retain)
        self._client = client

    @property
    def connected(self) -> bool:
        """Whether the broker has let us in and the connection stands."""
        return self._connected.is_set()

    def connect(self) -> None:
        """See ports.Broker.connect. A broker that is still starting is tried until the time is over.

        Raises:
            DeviceAbsentError: nobody answers there.
            DeviceFailedError: somebody does, and refuses us, or can't prove to be our broker (TLS).
        """
        where = f"{self._address.host}:{self._address.port}"
        deadline_s = time.monotonic() + self._timeout_s
        self._answered.clear()
        self._open(where, deadline_s)
        self._client.loop_start()
        self._started = True
        answered = self._answered.wait(max(0.0, deadline_s - time.monotonic()))
        if answered and not self._refusal:
            return  # even if the connection is lost again by now: paho is at it
        self._stop()
        if self._refusal:
            raise DeviceFailedError(f"the MQTT broker at {where} refuses us: {self._refusal}")
        raise DeviceAbsentError(
            f"no MQTT broker answers at {where} within {self._timeout_s:g} s: "
            "something listens there, but does not speak MQTT"
        )

    def subscribe(self, topic: str, callback: MessageCallback) -> None:
        """See ports.Broker.subscribe. Blocks until the broker has granted it, or for the connect time-out.

        May come before :meth:`connect`. Several callbacks may share a filter. On paho's own thread (in a callback) it
        does not wait.

        Raises:
            BugError: the filter is not one.
            DeviceFailedError: the broker refuses it (its access list).
        """
        grant = None
        with self._lock:
            if self._connected.is_set():
                # Again for a known filter too: the broker then repeats what it retains, for the new callback.
                try:
                    _, number = self._client.subscribe(topic, QOS)
                except ValueError as error:
                    raise BugError(f"{topic!r} is no topic filter: {error}") from error
                if number is not None:
                    grant = self._grants.setdefault(number, _Grant(topic))
            self._callbacks_by_filter.setdefault(topic, []).append(callback)
            claimed = [item for item in self._unclaimed if mqtt.topic_matches_sub(topic, item[0])]
            for item in claimed:
                self._unclaimed.remove(item)
        for name, payload in claimed:
            _call(callback, name, payload)
        if grant is None or threading.get_ident() == self._client.thread_id:
            return
        if grant.done.wait(self._timeout_s) and grant.refusal:
            with self._lock:
                self._callbacks_by_filter.pop(topic, None)
            raise DeviceFailedError(f"the MQTT broker refuses a subscription to {topic!r}: {grant.refusal}")

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """See ports.Broker.publish.

        Raises:
            BugError: the topic is none to publish to.
            DeviceFailedError: the broker is away, and as much is waiting as is kept.
        """
        if not topic:
            # paho lets it pass in MQTT 5, where it means an alias; the broker would hang up on us, for ever.
            raise BugError("'' is no topic to publish to")
        with self._lock:
            self._unsent_count += 1
        queued = False
        try:
            info = self._client.publish(topic, payload, qos=QOS, retain=retain)
            queued = info.rc != MQTTErrorCode.MQTT_ERR_QUEUE_SIZE
        except ValueError as error:
            raise BugError(f"{topic!r} is no topic to publish to: {error}") from error
        finally:
            if not queued:
                self._one_sent()
        if not queued:
            raise DeviceFailedError(
                f"MQTT: {QUEUE_MESSAGES_MAX} messages wait for the broker, a further one is not kept"
            )

    def close(self) -> None:
        """See ports.Broker.close. The will is not published."""
        if not self._started:
            return
        with self._lock:
            self._all_sent.wait_for(lambda: self._unsent_count == 0, CLOSE_TIMEOUT_S)
        self._stop()

    def _open(self, where: str, deadline_s: float) -> None:
        properties = None
        if self._address.mqtt5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = SESSION_EXPIRY_S
        options: dict[str, Any] = {"clean_start": False, "properties": properties} if properties else {}
        while True:
            try:
                self._client.connect(
                    self._address.host, self._address.port, self._address.keepalive_s, **options
                )
            except ssl.SSLCertVerificationError as error:
                raise DeviceFailedError(
                    f"the MQTT broker at {where} does not prove who it is: {error.verify_message}"
                ) from error
            except (OSError, ValueError) as error:
                if time.monotonic() + _RETRY_S > deadline_s:
                    reason = getattr(error, "strerror", None) or str(error)
                    raise DeviceAbsentError(
                        f"no MQTT broker answers at {where} within {self._timeout_s:g} s: {reason.lower()}"
                    ) from error
                time.sleep(_RETRY_S)
            else:
                return

    def _stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self._connected.clear()
        self._started = False

    # What follows runs on paho's thread.

    def _connect_answered(self, _c: Any, _u: Any, _flags: Any, reason: Any, _p: Any) -> None:
        if reason.is_failure:
            self._refusal = str(reason)
            LOG.warning("the MQTT broker refuses us: %s", reason)
            self._answered.set()
            return
        self._refusal = ""
        with self._lock:
            for topic in self._callbacks_by_filter:
                self._client.subscribe(topic, QOS)
            self._connected.set()
        self._answered.set()
        self._tell_connection(up=True)

    def _disconnected(self, _c: Any, _u: Any, _flags: Any, _reason: Any, _p: Any) -> None:
        with self._lock:
            was_connected = self._connected.is_set()
            self._connected.clear()
            waiting, self._grants = list(self._grants.values()), {}
        for grant in waiting:
            grant.done.set()  # asked for again with the next connection
        if was_connected:
            self._tell_connection(up=False)

    def _tell_connection(self, *, up: bool) -> None:
        if self._on_connection is None:
            return
        try:
            self._on_connection(up)
        except Exception:
            LOG.exception("the connection callback failed")

    def _subscribed(self, _c: Any, _u: Any, number: int, reasons: Any, _p: Any) -> None:
        refusals = [str(reason) for reason in reasons if reason.is_failure]
        with self._lock:
            grant = self._grants.pop(number, None)
        if grant is not None:
            grant.refusal = ", ".join(refusals)
            grant.done.set()
        elif refusals:
            LOG.error("the MQTT broker refuses a subscription: %s", ", ".join(refusals))

    def _published(self, _c: Any, _u: Any, _number: int, _reason: Any, _p: Any) -> None:
        self._one_sent()

    def _one_sent(self) -> None:
        with self._lock:
            self._unsent_count -= 1
            if self._unsent_count == 0:
                self._all_sent.notify_all()

    def _message_came(self, _c: Any, _u: Any, message: Any) -> None:
        try:
            topic, payload = message.topic, bytes(message.payload)
        except UnicodeDecodeError:
            LOG.warning("a message whose topic is not UTF-8 was dropped")
            return
        with self._lock:
            callbacks = [
                callback
                for name, callbacks in self._callbacks_by_filter.items()
                if mqtt.topic_matches_sub(name, topic)
                for callback in callbacks
            ]
            if not callbacks:
                self._unclaimed.append((topic, payload))
        for callback in callbacks:
            _call(callback, topic, payload)


class _Grant:
    """A subscription that waits for the broker's word."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.done = threading.Event()
        self.refusal = ""


class _Client(mqtt.Client):
    """paho's client, whose thread does not end when a broker sends what the parser chokes on."""

    thread_id = 0

    def loop_forever(self, timeout: float = 1.0, retry_first_connection: bool = False) -> MQTTErrorCode:
        self.thread_id = threading.get_ident()
        while True:
            try:
                return super().loop_forever(timeout, retry_first_connection)
            except Exception:
                LOG.exception("the MQTT connection broke in the middle of a packet; connecting anew")
            time.sleep(_PAUSE_AFTER_FAULT_S)
            with contextlib.suppress(OSError):
                self.reconnect()


def _call(callback: MessageCallback, topic: str, payload: bytes) -> None:
    try:
        callback(topic, payload)
    except Exception:
        # An exception would end paho's thread, and with it every message after this one.
        LOG.exception("the callback of %r failed", topic)


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
