"""Hardware in the simulated world, from another process: the other end of ``link``."""

import contextlib
import socket
import threading
import time
from pathlib import Path
from typing import Literal

import msgspec

from depai_robot.ports import BatteryReading, MeterReading
from depai_robot.sim.link import LINE_BYTES_MAX, Command, Hello, View, check_path, decode_line
from depai_robot.values.error import (
    DepaiError,
    DeviceAbsentError,
    DeviceFailedError,
    DeviceTimeoutError,
)

ANSWER_TIMEOUT_S = 1.0
STALE_S = 1.0
"""Wall time after which an update that was pushed is no longer believed."""
CONNECT_TIMEOUT_S = 20.0
RECONNECT_S = 0.2


class LinkClient:
    """One process's end of the link: the newest view, and commands with answers. Reconnects by itself.

    Args:
        path: of the simulation's socket.
        hello: who connects.
        timeout_s: for the first connection.

    Raises:
        DeviceAbsentError: no simulation there in time, or none with such hardware.
    """

    def __init__(self, path: Path, hello: Hello, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        self._path = check_path(path)
        self._hello = hello
        self._view: View | None = None
        self._seen_s = 0.0
        self._time_ns = 0
        self._refusal = ""
        self._number = 0
        self._answers: dict[int, View] = {}
        self._state = threading.Condition()
        self._connection: socket.socket | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"link-{hello.id}", daemon=True)
        self._thread.start()
        with self._state:
            self._state.wait_for(lambda: self._view is not None or self._refusal, timeout_s)
            if self._view is not None:
                return
        self.close()
        raise DeviceAbsentError(
            f"link: {hello.role} {hello.id} finds no simulation at {path} within {timeout_s:g} s"
            + (f": {self._refusal}" if self._refusal else "")
        )

    def close(self) -> None:
        """Hangs up."""
        self._closing.set()
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        if self._thread is not threading.current_thread():
            self._thread.join(2.0)

    @property
    def time_ns(self) -> int:
        """Simulated time, as last heard; never goes back."""
        return self._time_ns

    def view(self) -> View:
        """The newest.

        Raises:
            DeviceTimeoutError: nothing was heard for a second.
        """
        view = self._view
        age_s = time.monotonic() - self._seen_s
        if view is None or age_s > STALE_S:
            raise DeviceTimeoutError(f"link: {self._hello.id} heard nothing for {age_s:.1f} s")
        return view

    def ask(
        self,
        verb: Literal["read", "probe", "energise", "deenergise", "open"],
        *,
        power_max_w: float = 0.0,
        until_milliwh: int = 0,
        nonce: bytes = b"",
    ) -> View:
        """Sends a command and waits for its answer, for a second at most.

        Raises:
            DeviceAbsentError: the simulation is gone.
            DeviceFailedError: it refused.
            DeviceTimeoutError: it did not answer.
        """
        with self._state:
            self._number += 1
            number = self._number
            connection = self._connection
        if connection is None:
            raise DeviceAbsentError(f"link: {self._hello.id} has lost the simulation at {self._path}")
        command = Command(number, verb, power_max_w, until_milliwh, nonce)
        try:
            connection.sendall(msgspec.json.encode(command) + b"\n")
        except OSError as error:
            raise DeviceAbsentError(f"link: {self._hello.id} has lost the simulation: {error}") from error
        with self._state:
            if not self._state.wait_for(lambda: number in self._answers, ANSWER_TIMEOUT_S):
                raise DeviceTimeoutError(
                    f"link: no answer to {verb} of {self._hello.id} in {ANSWER_TIMEOUT_S} s"
                )
            view = self._answers.pop(number)
        if view.error:
            raise DeviceFailedError(f"link: {verb} of {self._hello.id}: {view.error}")
        return view

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._listen()
            except (DepaiError, OSError) as error:
                if self._view is None and isinstance(error, DeviceAbsentError):
                    with self._state:
                        self._refusal = str(error)
                        self._state.notify_all()
                    return
            self._connection = None
            self._closing.wait(RECONNECT_S)

    def _listen(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(self._path)
            connection.sendall(msgspec.json.encode(self._hello) + b"\n")
            with connection.makefile("rb") as lines:
                while line := lines.readline(LINE_BYTES_MAX):
                    self._take(decode_line(line, View), connection)

    def _take(self, view: View, connection: socket.socket) -> None:
        if view.error and not view.number:
            raise DeviceAbsentError(view.error)
        with self._state:
            self._connection = connection
            self._view = view
            self._seen_s = time.monotonic()
            self._time_ns = max(self._time_ns, view.time_ns)
            if view.number:
                self._answers[view.number] = view
                for old in [n for n in self._answers if n < view.number - 64]:
                    del self._answers[old]  # whoever asked has given up
            self._state.notify_all()


class LinkClock:
    """ports.Clock: simulated time for sessions, the machine's clock for expiries."""

    def __init__(self, client: LinkClient) -> None:
        self._client = client

    def session_ns(self) -> int:
        """See ports.Clock."""
        return self._client.time_ns

    def wall_s(self) -> int:
        """See ports.Clock."""
        return int(time.time())


class LinkRobotHardware:
    """ports.Battery and ports.Connector of a simulated robot. Each reading is asked for afresh."""

    def __init__(self, path: Path, robot: str, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        self._client = LinkClient(path, Hello("robot", robot), timeout_s)
        self.clock = LinkClock(self._client)

    def read(self) -> BatteryReading:
        """See ports.Battery."""
        reading = self._client.ask("read").robot
        if reading is None:
            raise DeviceFailedError("link: no battery in the answer")
        return reading

    def in_contact(self) -> bool:
        """See ports.Connector."""
        return self._client.view().contact

    def read_probe(self) -> bytes | None:
        """See ports.Connector."""
        return self._client.view().probe

    def close(self) -> None:
        """Hangs up."""
        self._client.close()


class LinkStationHardware:
    """ports.Contactor and ports.Meter of one connector of a simulated station."""

    def __init__(
        self, path: Path, station: str, connector: int, timeout_s: float = CONNECT_TIMEOUT_S
    ) -> None:
        self._client = LinkClient(path, Hello("station", station, connector), timeout_s)

    @property
    def clock(self) -> LinkClock:
        """Simulated time."""
        return LinkClock(self._client)

    def read(self) -> MeterReading:
        """See ports.Meter."""
        reading = self._client.ask("read").meter
        if reading is None:
            raise DeviceFailedError("link: no meter in the answer")
        return reading

    def present(self) -> bool:
        """See ports.Contactor."""
        return self._client.view().contact

    def write_probe(self, nonce: bytes) -> None:
        """See ports.Contactor."""
        self._client.ask("probe", nonce=nonce)

    def energise(self, power_max_w: float, until_energy_milliwh: int) -> None:
        """See ports.Contactor."""
        self._client.ask("energise", power_max_w=power_max_w, until_milliwh=until_energy_milliwh)

    def deenergise(self) -> None:
        """See ports.Contactor."""
        self._client.ask("deenergise")

    def open(self) -> None:
        """See ports.Contactor."""
        self._client.ask("open")

    def close(self) -> None:
        """Hangs up; the simulation switches the connector off."""
        self._client.close()
