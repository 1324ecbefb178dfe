"""WSGI applications on a free port of loopback, and the network that tests of HTTP use."""

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from depai_robot.app.config import ChainPart, read_network
from depai_robot.charging.setting import Network


def development_network() -> Network:
    """Of the local chain with the development contracts."""
    return read_network(ChainPart(network="development"), Path("none.yaml")).network()


class Served:
    """A WSGI application, made once its address is known."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        import waitress

        self._listen = socket.socket()
        self._listen.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listen.getsockname()[1]}"
        self._server = waitress.create_server(make(self.url), sockets=[self._listen], threads=4)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # its socket is closed under it
            self._server.run()

    def close(self) -> None:
        def end() -> None:
            for part in list(self._server._map.values()):
                part.close()

        with contextlib.suppress(OSError):  # its loop has ended already
            self._server.trigger.pull_trigger(end)
        self._thread.join(5)
        self._server.task_dispatcher.shutdown(timeout=1)
