"""A TCP proxy on loopback between a program and its broker: forwards, resets, swallows or delays, as it is told.

What a radio link and a router do to a connection. Bytes are forwarded in order and unchanged; a black hole keeps what
it took and gives it out when it is healed, as a network that comes back does. Not modelled: reordering within a
connection (TCP repairs it), bandwidth, TLS.
"""

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Callable

HOST = "127.0.0.1"
CHUNK_BYTES = 65_536
CONNECT_TIMEOUT_S = 5.0
POLL_S = 0.05


class FaultProxy:
    """See the module. Thread-safe; every fault can be put on and taken off while it runs.

    Args:
        port_behind: on loopback, where the real server listens.

    Attributes:
        port: where this listens.
        connections: how many there were.
    """

    def __init__(self, port_behind: int) -> None:
        self._behind = port_behind
        self._flows = threading.Event()
        self._flows.set()
        self._refuses = False
        self._delay_s = 0.0
        self._closing = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.connections = 0
        self._listener = socket.create_server((HOST, 0), backlog=64)
        self._listener.settimeout(POLL_S)
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, name="fault-proxy", daemon=True)
        self._thread.start()

    # --- faults --------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Resets every connection, and each new one, until :meth:`heal`."""
        self._refuses = True
        self.reset()

    def reset(self) -> None:
        """Resets every connection once; new ones are served."""
        with self._lock:
            sockets, self._open = self._open, set()
        for item in sockets:
            _reset(item)

    def black_hole(self) -> None:
        """Keeps connections open and lets no byte through, either way, until :meth:`heal`."""
        self._flows.clear()

    def delay(self, seconds: float) -> None:
        """Each piece of data waits for so long."""
        self._delay_s = seconds

    def heal(self) -> None:
        """Takes every fault off."""
        self._refuses, self._delay_s = False, 0.0
        self._flows.set()

    def stop(self) -> None:
        """Ends it; open connections are reset."""
        self._closing.set()
        self._flows.set()
        self._thread.join(2.0)
        self._listener.close()
        self.reset()

    # --- work ----------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                near, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            self.connections += 1
            if self._refuses:
                _reset(near)
                continue
            try:
                far = socket.create_connection((HOST, self._behind), CONNECT_TIMEOUT_S)
            except OSError:
                _reset(near)
                continue
            for item in (near, far):
                item.settimeout(None)
                item.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {near, far}
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while True:
                # Never blocked in recv: a socket that is closed meanwhile must really go, with its reset.
                if not select.select([source], [], [], POLL_S)[0]:
                    continue
                data = source.recv(CHUNK_BYTES)
                if not data:
                    break
                self._wait(self._flows.wait)
                if self._delay_s:
                    time.sleep(self._delay_s)
                target.sendall(data)
        except (OSError, ValueError):
            pass  # it was closed
        finally:
            with self._lock:
                self._open -= {source, target}
            for item in (source, target):
                _close(item)

    def _wait(self, wait: Callable[[float], bool]) -> None:
        while not wait(POLL_S) and not self._closing.is_set():
            pass


def _reset(item: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # Zero seconds of lingering makes the kernel send a reset.
        item.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    _close(item)


def _close(item: socket.socket) -> None:
    with contextlib.suppress(OSError):
        item.close()
