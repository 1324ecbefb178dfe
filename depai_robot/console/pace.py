"""Keeps the interpreter out of a person's way: short turns of threads, and the long garbage collection when idle.

Measured with 10,000 robots: a full collection stops everything for 130 ms, which a key press must not meet.
"""

import gc
import os
import sys
import time

SWITCH_S = 0.001
"""A thread that has the interpreter gives it up after this long; the input, the broker's and the screen's share it."""
FRAMES_PER_S = 120
YOUNG, MIDDLE, NEVER = 20_000, 50, 1_000_000
IDLE_S = 3.0
COLLECT_EVERY_S = 120.0
COLLECT_AT_LAST_S = 900.0


def prepare() -> None:
    """To be called before Textual is imported: it reads the frame rate once."""
    if sys.stdout.isatty():
        # An exported size would be taken for the terminal's for ever, however its window is drawn.
        for name in ("COLUMNS", "LINES"):
            os.environ.pop(name, None)
    os.environ.setdefault("TEXTUAL_FPS", str(FRAMES_PER_S))
    sys.setswitchinterval(SWITCH_S)
    gc.set_threshold(YOUNG, MIDDLE, NEVER)


class Collector:
    """Full collections, when nobody has pressed a key for a while; at the latest after a quarter of an hour."""

    def __init__(self) -> None:
        now_s = time.monotonic()
        self._key_s = now_s
        self._done_s = now_s

    def key(self) -> None:
        """A key was pressed."""
        self._key_s = time.monotonic()

    @property
    def quiet_s(self) -> float:
        """Since the last key."""
        return time.monotonic() - self._key_s

    def turn(self) -> bool:
        """Collects if it is time; True if it did."""
        now_s = time.monotonic()
        since_s = now_s - self._done_s
        if since_s < COLLECT_EVERY_S or (now_s - self._key_s < IDLE_S and since_s < COLLECT_AT_LAST_S):
            return False
        gc.collect()
        # What lives on is not looked through again by the next one.
        gc.freeze()
        self._done_s = now_s
        return True
