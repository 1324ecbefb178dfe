"""A broker on loopback as a process of its own: mosquitto where it is installed, else amqtt (pip only).

For the demo, tests and small sites; a fleet brings its own broker.
"""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from depai_robot.values.error import ConfigError, DeviceAbsentError, DeviceFailedError

Kind = Literal["auto", "mosquitto", "amqtt"]
START_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 5.0
PACKET_BYTES_MAX = 128 * 1024
HOST = "127.0.0.1"
PORT_TRIES = 3
_CONNECT = b"\x10\x11\x00\x04MQTT\x04\x02\x00\x05\x00\x05probe"
"""MQTT 3.1.1 CONNECT: clean session, keepalive 5 s, client id ``probe``. Source: OASIS MQTT 3.1.1, § 3.1."""
_DISCONNECT = b"\xe0\x00"
_CONNACK = b"\x20"

ACL = """\
# Roles by user name: the robot's or station's id. Signatures alone carry authority; this keeps the topics tidy.
pattern read depai/v1/+/stations/+/offer
pattern write depai/v1/+/stations/+/inbox
pattern write depai/v1/+/robots/+/inbox
pattern readwrite depai/v1/+/stations/%u/offer
pattern read depai/v1/+/stations/%u/inbox
pattern read depai/v1/+/robots/%u/inbox
"""


@dataclass(slots=True)
class BrokerProcess:
    """A running broker.

    Attributes:
        host: loopback.
        port: TCP.
        kind: which program it is.
        process: its process.
        log: where it writes.
    """

    host: str
    port: int
    kind: str
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def pid(self) -> int:
        """Of the process."""
        return self.process.pid

    def stop(self) -> None:
        """Ends it in an orderly way, or kills it after a while."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(STOP_TIMEOUT_S)

    def kill(self) -> None:
        """As a power cut would."""
        self.process.kill()
        self.process.wait(STOP_TIMEOUT_S)


def find_mosquitto() -> str | None:
    """Path of the program, or None. Debian keeps it in /usr/sbin, which is not on every user's PATH."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def start_broker(
    folder: Path, kind: Kind = "auto", *, port: int | None = None, acl: bool = False
) -> BrokerProcess:
    """Starts a broker that keeps its store, configuration and log in ``folder``; returns when it accepts.

    Args:
        folder: made when it is missing. A broker started again with the same folder has its store back (mosquitto).
        kind: ``auto`` takes mosquitto where it is installed.
        port: on loopback; a free one when None.
        acl: each user may read and write only what :data:`ACL` gives its name (mosquitto only).

    Raises:
        ConfigError: an access list was asked of amqtt.
        DeviceAbsentError: the program asked for is not installed.
        DeviceFailedError: it ended, or did not listen in time; the message has the end of its log.
    """
    mosquitto = find_mosquitto()
    if kind == "auto":
        kind = "mosquitto" if mosquitto else "amqtt"
    if kind == "mosquitto" and mosquitto is None:
        raise DeviceAbsentError("mosquitto is not installed: apt-get install mosquitto, or use amqtt")
    if kind == "amqtt" and importlib.util.find_spec("amqtt") is None:
        raise DeviceAbsentError("amqtt is not installed: pip install 'depai_robot[sim]', or use mosquitto")
    if kind == "amqtt" and acl:
        raise ConfigError("an access list needs mosquitto; amqtt is for simulations")
    folder.mkdir(parents=True, exist_ok=True)
    if port is not None:
        return _start(folder, kind, mosquitto, port, acl=acl)
    for _ in range(PORT_TRIES - 1):
        # Between finding a free port and listening on it another program may take it.
        with contextlib.suppress(DeviceFailedError):
            return _start(folder, kind, mosquitto, free_port(), acl=acl)
    return _start(folder, kind, mosquitto, free_port(), acl=acl)


def _start(folder: Path, kind: Kind, mosquitto: str | None, port: int, *, acl: bool) -> BrokerProcess:
    log = folder / "broker.log"
    with socket.socket() as probe:
        # Asked first: otherwise the one that has the port could be taken for ours.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise DeviceFailedError(f"no {kind} can listen at {HOST}:{port}: {error.strerror}") from error
    if kind == "mosquitto":
        command = [str(mosquitto), "-c", str(_write_mosquitto_config(folder, port, acl=acl))]
    else:
        command = [sys.executable, "-m", "depai_robot.adapters.amqtt_broker", str(port)]
    with log.open("ab") as output:
        # A session of its own: Ctrl-C in a terminal reaches those who still want to say good-bye, not the broker.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    broker = BrokerProcess(HOST, port, kind, process, log)
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if _speaks_mqtt(port) and process.poll() is None:
            return broker
        time.sleep(0.02)
    broker.stop()
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-8:]) or "its log is empty"
    raise DeviceFailedError(f"{kind} does not listen at {HOST}:{port}:\n{tail}")


def _speaks_mqtt(port: int) -> bool:
    # Accepting is not enough: amqtt listens before it serves.
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=0.5) as probe:
        probe.settimeout(2.0)
        probe.sendall(_CONNECT)
        answer = probe.recv(4)
        probe.sendall(_DISCONNECT)
        return answer[:1] == _CONNACK
    return False


def _write_mosquitto_config(folder: Path, port: int, *, acl: bool) -> Path:
    lines = [
        f"listener {port} {HOST}",
        "allow_anonymous true",
        "set_tcp_nodelay true",
        f"max_packet_size {PACKET_BYTES_MAX}",
        "max_inflight_messages 0",
        "max_queued_messages 10000",
        "persistence true",
        f"persistence_location {folder.resolve()}/",
        "autosave_interval 1",
        "log_type error",
        "log_type warning",
        "log_type notice",
        # As root mosquitto changes to its own user, which may not write into our folder.
        *(["user root"] if os.geteuid() == 0 else []),
    ]
    if acl:
        acl_file = folder / "acl"
        acl_file.write_text(ACL, encoding="utf-8")
        lines.append(f"acl_file {acl_file.resolve()}")
    config = folder / "mosquitto.conf"
    config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return config
