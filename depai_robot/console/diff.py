"""What changed from one JSON document to the next, path by path. Pure; bounded."""

from dataclasses import dataclass
from typing import Any

import msgspec

from depai_robot.console.vda import clean

CHANGES_MAX = 400
PATHS_MAX = 20_000
DEPTH_MAX = 40
_NOTHING = object()


@dataclass(frozen=True, slots=True)
class Change:
    """One path.

    Attributes:
        path: ``batteryState.batteryCharge``, ``errors[0].errorType``.
        before, after: as JSON; empty when it was not, or is no longer there.
    """

    path: str
    before: str
    after: str

    @property
    def sign(self) -> str:
        """``+`` new, ``-`` gone, ``~`` another value."""
        return "+" if not self.before else "-" if not self.after else "~"


def compare(before: bytes, after: bytes) -> list[Change]:
    """Changes in the order of the newer document, then what is gone; documents that are no JSON are one change."""
    old, new = _flat(before), _flat(after)
    found: list[Change] = []
    for path, value in new.items():
        earlier = old.get(path, _NOTHING)
        if earlier is _NOTHING:
            found.append(Change(path, "", _text(value)))
        elif earlier != value or type(earlier) is not type(value):
            found.append(Change(path, _text(earlier), _text(value)))
    found += [Change(path, _text(value), "") for path, value in old.items() if path not in new]
    return found[:CHANGES_MAX]


def pretty(document: bytes) -> str:
    """The document laid out; what is no JSON comes as it is, cleaned."""
    try:
        return "\n".join(
            clean(line, 400)
            for line in msgspec.json.format(document, indent=2).decode("utf-8", "replace").splitlines()
        )
    except (msgspec.DecodeError, RecursionError):
        return clean(document.decode("utf-8", "replace"), 4000)


def _flat(document: bytes) -> dict[str, Any]:
    if not document:
        return {}
    try:
        value = msgspec.json.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {"(no JSON)": document.decode("utf-8", "replace")}
    found: dict[str, Any] = {}
    stack: list[tuple[str, Any, int]] = [("", value, 0)]
    while stack and len(found) < PATHS_MAX:
        path, value, depth = stack.pop()
        children: list[tuple[str, Any]] = []
        if isinstance(value, dict) and value and depth < DEPTH_MAX:
            children = [(f"{path}.{name}" if path else str(name), item) for name, item in value.items()]
        elif isinstance(value, list) and value and depth < DEPTH_MAX:
            children = [(f"{path}[{number}]", item) for number, item in enumerate(value)]
        if children:
            stack.extend((name, item, depth + 1) for name, item in reversed(children))
        else:
            found[clean(path, 160)] = value
    return found


def _text(value: Any) -> str:
    return clean(msgspec.json.encode(value).decode("utf-8", "replace"), 160)
