"""Starts child processes, keeps their output in files, and ends each of them by its pid, whatever happens."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

from depai_robot.values.error import DeviceAbsentError, DeviceFailedError

STOP_TIMEOUT_S = 6.0


@dataclass(slots=True)
class Child:
    """One process of ours.

    Attributes:
        name: for messages and its log's name.
        process: the running process, leader of a group of its own.
        log: where its output goes.
        started_s: monotonic time of its start.
    """

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path
    started_s: float

    def tail(self, lines: int = 12) -> str:
        """The end of its log."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return "\n".join(text.strip().splitlines()[-lines:])


class Supervisor:
    """A context whose end is the end of every process it started, the last first."""

    def __init__(self, log_folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self._folder = log_folder
        self._folder.mkdir(parents=True, exist_ok=True)
        self._environment = {**os.environ, **(environment or {})}
        self.children: list[Child] = []

    def start(self, name: str, command: Sequence[str]) -> Child:
        """Starts a process in a group of its own, so that a Ctrl-C reaches us first.

        Raises:
            DeviceAbsentError: there is no such program, or it may not be run.
        """
        log = self._folder / f"{name}.log"
        try:
            with log.open("wb") as output:
                process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    start_new_session=True,
                )
        except OSError as error:
            raise DeviceAbsentError(f"{name} can't be started: {command[0]}: {error.strerror}") from error
        child = Child(name, process, log, time.monotonic())
        self.children.append(child)
        return child

    def start_python(self, name: str, module: str, *arguments: str) -> Child:
        """Starts ``python -m module`` with this interpreter."""
        return self.start(name, [sys.executable, "-m", module, *arguments])

    def check(self, expected_to_end: Sequence[str] = ()) -> None:
        """Raises DeviceFailedError when a process is gone that should be there, with the end of its log."""
        for child in self.children:
            status = child.process.poll()
            if status is not None and child.name not in expected_to_end:
                raise DeviceFailedError(f"{child.name} ended with status {status}:\n{child.tail()}")

    def stop(self, child: Child) -> int:
        """SIGTERM, after a while SIGKILL; then what it left in its group is killed too. Returns its exit status."""
        if child.process.poll() is None:
            child.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(STOP_TIMEOUT_S)
        # It leads a session of its own: whatever is left in the group is a child that it did not end itself.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.process.pid, signal.SIGKILL)
        child.process.wait(STOP_TIMEOUT_S)
        if child in self.children:
            self.children.remove(child)
        return int(child.process.returncode)

    def stop_all(self) -> dict[str, int]:
        """Ends every process; returns exit status by name."""
        running = list(reversed(self.children))
        for child in running:
            if child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)
        return {child.name: self.stop(child) for child in running}

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_all()
