"""Tells operators who ask, and may, what is in the robot's journal: signed parts on a topic of their own."""

import logging
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from depai_robot.fleet.command import Command
from depai_robot.fleet.journal import Extract, JournalPart, refuse_extract, split_extract
from depai_robot.values.error import DepaiError

LOG = logging.getLogger(__name__)
EXTRACT_MODULE = "depai_robot.app.journal_extract"
WAITING_MAX = 4
READ_WITHIN_S = 120.0
PAUSE_S = 0.05
"""Between two parts: what is paid for energy meanwhile goes out between them."""


class UntoldError(DepaiError):
    """The journal can't be told now; the message may be read by the operator."""


def journal_topic(robot: str) -> str:
    """Where the robot tells."""
    return f"depai/v1/fleet/{robot}/journal"


class JournalShare:
    """Reads, signs and tells, one command after another.

    Args:
        path: of the journal.
        seal: bytes as a compact JWS of the robot's identity key.
        tell: publishes a part.
    """

    def __init__(self, path: Path, seal: Callable[[bytes], str], tell: Callable[[bytes], None]) -> None:
        self._path, self._seal, self._tell = path, seal, tell
        self._asked: queue.Queue[Command] = queue.Queue(WAITING_MAX)
        self._closing = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def ask(self, command: Command) -> None:
        """Takes an authorised command; at once, :meth:`look` does the work."""
        try:
            self._asked.put_nowait(command)
        except queue.Full:
            words = f"{WAITING_MAX} others have asked for the journal: try again in a minute"
            self._say(refuse_extract(command, words))

    def look(self) -> None:
        """Serves whoever waits. Takes as long as the journal is long."""
        while not self._closing.is_set():
            try:
                command = self._asked.get_nowait()
            except queue.Empty:
                return
            try:
                parts = split_extract(self._read(command), command)
            except DepaiError as error:
                parts = [refuse_extract(command, str(error))]
            for part in parts:
                if self._closing.wait(PAUSE_S):
                    return
                self._say(part)

    def close(self) -> None:
        """Ends a reading that is under way."""
        self._closing.set()
        with self._lock:
            if self._child is not None:
                self._child.kill()

    def _say(self, part: JournalPart) -> None:
        self._tell(self._seal(msgspec.json.encode(part)).encode())

    def _read(self, command: Command) -> Extract:
        arguments = [str(self._path), str(command.since_s), str(command.until_s)]
        with self._lock:
            if self._closing.is_set():
                raise UntoldError("the wallet ends")
            child = self._child = subprocess.Popen(
                [sys.executable, "-m", EXTRACT_MODULE, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        try:
            out, words = child.communicate(timeout=READ_WITHIN_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            raise UntoldError(f"the journal could not be read within {READ_WITHIN_S:g} s") from None
        finally:
            with self._lock:
                self._child = None
        if child.returncode != 0:
            LOG.warning("the journal could not be told: %s", words.decode(errors="replace").strip())
            # Paths and stack frames are nobody's business on the wire.
            raise UntoldError("the journal can't be read; the robot's log says why")
        return msgspec.json.decode(out, type=Extract)
