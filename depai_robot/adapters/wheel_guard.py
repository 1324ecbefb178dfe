"""Tells wheels to stop when the process that drives them dies or hangs, for bases that do not notice it themselves.

A small process of its own holds the same serial line open and hears a beat over a pipe. Without one for
:data:`BEAT_TIMEOUT_S`, and when the pipe ends (the driver was killed), it writes the stop. It ends with the line, so
that the next owner can open it. It is no safety function: a host without power, or a whole group of processes that is
killed at once, writes nothing.
"""

import contextlib
import os
import subprocess
import sys
import threading

BEAT_TIMEOUT_S = 0.5
END_TIMEOUT_S = 1.0
_PROGRAM = """
import os, select, sys
line, stop, limit_s = int(sys.argv[1]), bytes.fromhex(sys.argv[2]), float(sys.argv[3])
beats = True
while beats:
    ready = select.select([0], [], [], limit_s)[0]
    beats = not ready or bool(os.read(0, 4096))
    if not ready or not beats:
        try:
            os.write(line, stop)
        except OSError:
            beats = False
"""


class WheelGuard:
    """One line's guard.

    Args:
        stop: bytes that stop the wheels, whatever was being said.
    """

    def __init__(self, stop: bytes) -> None:
        self._stop = stop
        self._line = -1
        self._lock = threading.RLock()
        self._child: subprocess.Popen[bytes] | None = None

    def opened(self, descriptor: int) -> None:
        """The line is open; from now on beats are expected."""
        with self._lock:
            self.closed()
            self._line = descriptor
            # Isolated, without site: it starts in a moment and imports nothing of anybody's. A session of its own:
            # Ctrl-C is for the driver.
            self._child = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    "-c",
                    _PROGRAM,
                    str(descriptor),
                    self._stop.hex(),
                    str(BEAT_TIMEOUT_S),
                ],
                stdin=subprocess.PIPE,
                pass_fds=(descriptor,),
                start_new_session=True,
            )
            if self._child.stdin is not None:
                os.set_blocking(self._child.stdin.fileno(), False)

    def beat(self) -> None:
        """The driver lives. A guard that has ended is started again."""
        with self._lock:
            child = self._child
            if child is None or child.stdin is None:
                return
            if child.poll() is not None:
                self.opened(self._line)
                return
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                os.write(child.stdin.fileno(), b".")

    def closed(self) -> None:
        """The line is about to be closed: a last stop, and the guard lets go of it. Waits for a second at most."""
        with self._lock:
            child, self._child = self._child, None
        if child is None or child.stdin is None:
            return
        child.stdin.close()
        try:
            child.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:  # it hangs in the line's driver
            child.kill()
            child.wait()
