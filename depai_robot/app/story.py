"""What happens, as lines that a screen, a report and a person can read: ``story-<source>.jsonl`` in a run's folder.

Each process appends its own file: {"wall": Unix seconds, "ros": session seconds, "source", "kind", "data"}. The story
is told for people; the journals are what counts. So a story never stops its teller, is bounded in size, and its
readers take nothing in it for granted: other parties' words are in it.
"""

import contextlib
import json
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from depai_robot.values.error import ConfigError

SIZE_MAX_BYTES = 64 * 1024 * 1024
"""A file that is longer becomes ``<name>.old``, in the place of the one before: at most twice this per source."""
BRACKETS_MAX = 2000
"""Objects and arrays in a line, nested or not."""
LINE_MAX_BYTES = 256 * 1024


class SessionClock(Protocol):
    """Anything that tells ROS time."""

    def session_ns(self) -> int:
        """Nanoseconds."""


class StoryWriter:
    """Appends lines; a write that fails is dropped, since a story must never stop the money. Thread-safe.

    Args:
        folder: of the run.
        source: ``wallet``, ``station:<id>``, ``docking``, ``detector``, ``sim`` or ``demo``.
        clock: for session time; None writes 0.
        size_max_bytes: of a file, before it makes room.

    Raises:
        ConfigError: the file can't be opened.
    """

    def __init__(
        self,
        folder: Path,
        source: str,
        clock: SessionClock | None = None,
        *,
        size_max_bytes: int = SIZE_MAX_BYTES,
    ) -> None:
        self._source, self._clock, self._size_max_bytes = source, clock, size_max_bytes
        self._path = folder / f"story-{source.replace(':', '-').replace('/', '-')}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a+b")
            self._size_bytes = self._file.tell()
            if self._size_bytes:
                # A process that was killed may have left half a line: what follows must not be glued to it.
                self._file.seek(-1, 2)
                if self._file.read(1) != b"\n":
                    self._file.write(b"\n")
                    self._file.flush()
        except OSError as error:
            raise ConfigError(f"story {self._path}: {error.strerror}") from error
        self._lock = threading.Lock()

    def tell(self, kind: str, **data: Any) -> None:
        """One line, handed to the system before this returns. Bytes become hexadecimal."""
        # Whatever goes wrong here, down to a device's clock, is of no concern to the caller.
        with contextlib.suppress(Exception):
            ros_s = self._clock.session_ns() / 1e9 if self._clock is not None else 0.0
            line = {
                "wall": time.time(),
                "ros": ros_s,
                "source": self._source,
                "kind": kind,
                "data": data,
            }
            text = json.dumps(line, default=_to_text).encode() + b"\n"
            with self._lock:
                if self._size_bytes and self._size_bytes + len(text) > self._size_max_bytes:
                    self._make_room()
                self._file.write(text)
                self._file.flush()
                self._size_bytes += len(text)

    def _make_room(self) -> None:
        self._file.close()
        self._path.replace(self._path.with_name(self._path.name + ".old"))
        self._file = self._path.open("a+b")
        self._size_bytes = 0

    def close(self) -> None:
        """Closes the file; what is told afterwards is dropped."""
        with self._lock, contextlib.suppress(OSError):
            self._file.close()


def _to_text(value: object) -> str:
    return "0x" + value.hex() if isinstance(value, bytes) else str(value)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a story. The accessors give None, or a default, for what is absent or of another type.

    Attributes:
        wall_s: Unix time.
        ros_s: session time, seconds.
        source: who tells it.
        kind: of line.
        data: what was told.
    """

    wall_s: float
    ros_s: float
    source: str
    kind: str
    data: dict[str, Any]

    def number(self, name: str) -> float | None:
        """A finite number."""
        value = self.data.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return float(value) if math.isfinite(value) else None

    def count(self, name: str) -> int | None:
        """An integer: money, energy."""
        value = self.data.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def text(self, name: str) -> str:
        """Words, without control characters; empty when there are none."""
        value = self.data.get(name)
        return "" if value is None else clean(str(value))


def clean(text: str, length_max: int = 400) -> str:
    """Text of others, fit for a terminal: nothing in it moves the cursor, changes a colour or fills the screen."""
    printable = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return (
        printable if len(printable) <= length_max else printable[: length_max - 1] + "\N{HORIZONTAL ELLIPSIS}"
    )


class StoryTail:
    """Reads what is new in all stories of a folder, also while they are written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, tuple[int, int]] = {}

    def new_lines(self) -> list[Line]:
        """Whole lines since the last call, in the order of the wall clock.

        A half-written last line waits for its end; a broken one is left out, and so is a file that can't be read.
        """
        lines: list[Line] = []
        for path in sorted(self._folder.glob("story-*.jsonl")):
            with contextlib.suppress(OSError), path.open("rb") as file:
                stat = path.stat()
                inode, begin = self._read.get(path, (stat.st_ino, 0))
                if inode != stat.st_ino or stat.st_size < begin:
                    begin = 0  # it made room, and began anew
                file.seek(begin)
                data = file.read()
                end = data.rfind(b"\n") + 1
                self._read[path] = (stat.st_ino, begin + end)
                lines.extend(_parse(data[:end]))
        return sorted(lines, key=lambda line: line.wall_s)


def _parse(data: bytes) -> Iterator[Line]:
    for raw in data.split(b"\n"):
        # The parser recurses, and a library that raises the interpreter's limit turns nesting into a crash.
        if not raw or len(raw) > LINE_MAX_BYTES or raw.count(b"[") + raw.count(b"{") > BRACKETS_MAX:
            continue
        try:
            line = json.loads(raw)
            wall_s, ros_s = float(line["wall"]), float(line["ros"])
            if math.isfinite(wall_s) and math.isfinite(ros_s):
                yield Line(wall_s, ros_s, str(line["source"]), str(line["kind"]), dict(line["data"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            continue


def read_story(folder: Path) -> list[Line]:
    """Every line of a run, in order."""
    return StoryTail(folder).new_lines()
