"""What happens, as lines that a screen, a report and a person can read: ``story-<source>.jsonl`` in a run's folder.

Each process appends its own file: {"wall": Unix seconds, "ros": session seconds, "source", "kind", "data"}. The story
is told for people; the journals are what counts.
"""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from depai_robot.values.error import ConfigError


class SessionClock(Protocol):
    """Anything that tells ROS time."""

    def session_ns(self) -> int:
        """Nanoseconds."""


class StoryWriter:
    """Appends lines; a write that fails is dropped, since a story must never stop the money.

    Args:
        folder: of the run.
        source: ``wallet``, ``station:<id>``, ``docking``, ``detector``, ``sim`` or ``demo``.
        clock: for session time; None writes 0.

    Raises:
        ConfigError: the file can't be opened.
    """

    def __init__(self, folder: Path, source: str, clock: SessionClock | None = None) -> None:
        self._source, self._clock = source, clock
        path = folder / f"story-{source.replace(':', '-')}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise ConfigError(f"story {path}: {error.strerror}") from error
        self._lock = threading.Lock()

    def tell(self, kind: str, **data: Any) -> None:
        """One line. Bytes become hexadecimal."""
        ros_s = self._clock.session_ns() / 1e9 if self._clock is not None else 0.0
        line = {"wall": time.time(), "ros": ros_s, "source": self._source, "kind": kind, "data": data}
        try:
            text = json.dumps(line, default=_to_text)
            with self._lock:
                self._file.write(text + "\n")
        except (OSError, ValueError, TypeError):
            return

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._file.close()


def _to_text(value: object) -> str:
    return "0x" + value.hex() if isinstance(value, bytes) else str(value)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a story."""

    wall_s: float
    ros_s: float
    source: str
    kind: str
    data: dict[str, Any]


class StoryTail:
    """Reads what is new in all stories of a folder, also while they are written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}

    def new_lines(self) -> list[Line]:
        """Whole lines since the last call, in the order of the wall clock; half-written and broken ones wait."""
        lines: list[Line] = []
        for path in sorted(self._folder.glob("story-*.jsonl")):
            begin = self._read.get(path, 0)
            with path.open("rb") as file:
                file.seek(begin)
                data = file.read()
            end = data.rfind(b"\n") + 1
            self._read[path] = begin + end
            lines.extend(_parse(data[:end]))
        return sorted(lines, key=lambda line: line.wall_s)


def _parse(data: bytes) -> Iterator[Line]:
    for raw in data.splitlines():
        try:
            line = json.loads(raw)
            yield Line(
                float(line["wall"]), float(line["ros"]), line["source"], line["kind"], dict(line["data"])
            )
        except (ValueError, KeyError, TypeError):
            continue


def read_story(folder: Path) -> list[Line]:
    """Every line of a run, in order."""
    return StoryTail(folder).new_lines()
