"""The simulated physical world between processes: what would be wires, over a local socket, one JSON object a line.

The simulation hosts a :class:`LinkServer`; stations and the wallet connect with ``link_hardware``. Physics,
and with it the energy limit of a supply, stays in the simulation, as it would stay in a supply's firmware. A station
that is gone without a word has its connector switched off. Only processes of the same user are let in
(SO_PEERCRED), so the readings that authorise money come from a peer that is known.
"""

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import msgspec
from msgspec import Struct

from depai_robot.ports import BatteryReading, MeterReading
from depai_robot.values.error import (
    BugError,
    ConfigError,
    DepaiError,
    DeviceFailedError,
)

PUSH_PERIOD_S = 0.02
PUSH_PAUSE_S = 0.01
"""Two pushes are at least this far apart, however fast the world steps."""
PATH_BYTES_MAX = 100
"""Source: unix(7), sun_path has 108 bytes."""
LINE_BYTES_MAX = 64 * 1024

T = TypeVar("T")


# --- what the simulation provides ---------------------------------------------------------------------------


class RobotBodyInWorld(Protocol):
    """A robot's battery and pads in the simulated world; called under the world's lock."""

    def read(self) -> BatteryReading:
        """The robot's own meters now."""

    def in_contact(self) -> bool:
        """Whether its pads touch a dock's."""

    def read_probe(self) -> bytes | None:
        """The nonce on the pads, or None."""


class ConnectorInWorld(Protocol):
    """A station's contactor, supply and meter on one connector; called under the world's lock."""

    def read(self) -> MeterReading:
        """The meter now."""

    def present(self) -> bool:
        """Whether a robot is on it and the checks pass."""

    def write_probe(self, nonce: bytes) -> None:
        """Puts a nonce on the pads."""

    def energise(self, power_max_w: float, until_energy_milliwh: int) -> None:
        """As ports.Contactor."""

    def deenergise(self) -> None:
        """As ports.Contactor."""

    def open(self) -> None:
        """As ports.Contactor."""


class LinkedWorld(Protocol):
    """What a simulation shows to the processes that live in it."""

    def time_ns(self) -> int:
        """Simulated time; stands still while paused."""

    def robot_body(self, robot: str) -> RobotBodyInWorld:
        """Raises DeviceAbsentError when there is no such robot."""

    def connector(self, station: str, number: int) -> ConnectorInWorld:
        """Raises DeviceAbsentError when there is no such connector."""


# --- lines --------------------------------------------------------------------------------------------------


class Hello(Struct, frozen=True, forbid_unknown_fields=True):
    """The first line of a client.

    Attributes:
        role: what it is.
        id: robot's or station's.
        connector: of a station.
    """

    role: Literal["robot", "station"]
    id: str
    connector: int = 0


class Command(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A client asks for something; the answer carries its number."""

    number: int
    verb: Literal["read", "probe", "energise", "deenergise", "open"]
    power_max_w: float = 0.0
    until_milliwh: int = 0
    nonce: bytes = b""


class View(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the client's hardware sees now: pushed (number 0) or in answer to a command.

    Attributes:
        number: of the command, 0 when pushed.
        time_ns: simulated.
        error: why the command failed.
        robot: for robots.
        contact: robot or station sees the other's pads.
        probe: nonce on the pads, for robots.
        meter: for stations.
    """

    number: int
    time_ns: int
    error: str = ""
    robot: BatteryReading | None = None
    contact: bool = False
    probe: bytes | None = None
    meter: MeterReading | None = None


def decode_line(line: bytes, form: type[T]) -> T:
    """One line, strictly. Raises DeviceFailedError."""
    try:
        return msgspec.json.decode(line, type=form)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise DeviceFailedError(f"link: expected a {form.__name__}, got {line[:120]!r}: {error}") from error


def check_path(path: Path) -> str:
    """The path as text. Raises ConfigError when no socket can have it."""
    text = str(path)
    if len(os.fsencode(text)) > PATH_BYTES_MAX:
        raise ConfigError(
            f"link: a socket's path has at most {PATH_BYTES_MAX} bytes, got {len(text)}: {text}"
        )
    return text


def _peer_uid(connection: socket.socket) -> int:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", raw)
    return int(uid)


# --- server -------------------------------------------------------------------------------------------------


class LinkServer:
    """Hosted by the simulation's process.

    Args:
        path: of the socket; a stale one is replaced.
        world: what is shown.
        lock: the world's own; held while the world is looked at or changed.
    """

    def __init__(self, path: Path, world: LinkedWorld, lock: Any) -> None:
        text = check_path(path)
        self.path = path
        self._world, self._lock = world, lock
        self._connections: set[_Served] = set()
        self._changes = threading.Lock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listener.bind(text)
            path.chmod(0o600)
            self._listener.listen(64)
        except OSError as error:
            self._listener.close()
            raise DeviceFailedError(f"link: can't listen at {path}: {error}") from error
        self._threads = [
            threading.Thread(target=self._accept, name="link-accept", daemon=True),
            threading.Thread(target=self._push, name="link-push", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def push(self) -> None:
        """Tells every client at once; after a control step. Does not block."""
        self._wake.set()

    def close(self) -> None:
        """Ends every connection."""
        self._closing.set()
        self._wake.set()
        # A blocked accept() is not woken by close(); shutdown() does it.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._changes:
            connections = list(self._connections)
        for served in connections:
            served.close()
        for thread in self._threads:
            thread.join(2.0)
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if _peer_uid(connection) not in (os.getuid(), 0):
                connection.close()
                continue
            connection.settimeout(None)
            served = _Served(connection, self._world, self._lock, self._leave)
            with self._changes:
                self._connections.add(served)
            served.start()

    def _leave(self, served: "_Served") -> None:
        with self._changes:
            self._connections.discard(served)

    def _push(self) -> None:
        while not self._closing.is_set():
            self._wake.wait(PUSH_PERIOD_S)
            self._wake.clear()
            with self._changes:
                connections = list(self._connections)
            for served in connections:
                served.push()
            self._closing.wait(PUSH_PAUSE_S)


class _Served:
    """One client of the server."""

    def __init__(
        self, connection: socket.socket, world: LinkedWorld, lock: Any, leave: Callable[["_Served"], None]
    ) -> None:
        self._connection = connection
        self._world, self._lock, self._leave = world, lock, leave
        self._sending = threading.Lock()
        self._hello: Hello | None = None
        self._robot: RobotBodyInWorld | None = None
        self._connector: ConnectorInWorld | None = None
        self._thread = threading.Thread(target=self._serve, name="link-client", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def push(self) -> None:
        if self._hello is not None:
            with contextlib.suppress(DepaiError, OSError):
                self._send(self._look(0))

    def _serve(self) -> None:
        try:
            with self._connection, self._connection.makefile("rb") as lines:
                try:
                    self._greet(lines.readline(LINE_BYTES_MAX))
                    while line := lines.readline(LINE_BYTES_MAX):
                        self._send(self._do(decode_line(line, Command)))
                except DepaiError as error:
                    self._send(View(0, 0, error=str(error)))
        except OSError:
            return  # the other end is gone
        finally:
            self._leave(self)
            if self._connector is not None:
                # Whoever held this connector is gone: no power without somebody who can stop it.
                with self._lock, contextlib.suppress(DepaiError):
                    self._connector.deenergise()

    def _greet(self, line: bytes) -> None:
        hello = decode_line(line, Hello)
        with self._lock:
            if hello.role == "robot":
                self._robot = self._world.robot_body(hello.id)
            else:
                self._connector = self._world.connector(hello.id, hello.connector)
        self._hello = hello
        self._send(self._look(0))

    def _look(self, number: int, error: str = "") -> View:
        with self._lock:
            now = self._world.time_ns()
            if self._robot is not None:
                body = self._robot
                return View(
                    number,
                    now,
                    error,
                    robot=body.read(),
                    contact=body.in_contact(),
                    probe=body.read_probe(),
                )
            if self._connector is not None:
                return View(
                    number, now, error, contact=self._connector.present(), meter=self._connector.read()
                )
        raise BugError("link: a client without hardware")

    def _do(self, command: Command) -> View:
        error = ""
        connector = self._connector
        try:
            if connector is None:
                if command.verb != "read":
                    error = f"a robot can't {command.verb}"
            else:
                with self._lock:
                    if command.verb == "probe":
                        connector.write_probe(command.nonce)
                    elif command.verb == "energise":
                        connector.energise(command.power_max_w, command.until_milliwh)
                    elif command.verb == "deenergise":
                        connector.deenergise()
                    elif command.verb == "open":
                        connector.open()
        except DepaiError as failure:
            error = str(failure)
        return self._look(command.number, error)

    def _send(self, view: View) -> None:
        data = msgspec.json.encode(view) + b"\n"
        with self._sending:
            self._connection.settimeout(None)
            self._connection.sendall(data)
