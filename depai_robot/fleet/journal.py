"""What a robot tells of its journal when an operator asks: sessions and day totals, in signed parts. Pure.

Each part is a JWS of the robot's identity key, so whoever keeps the parts can show later what the robot said of its
money, and at which head of its journal. A head noted elsewhere is also what shows a journal that is shortened later.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from depai_robot.fleet.command import Command, Id, Seconds
from depai_robot.values.error import RemoteError

PART_BYTES_MAX = 40 * 1024
"""Of a part before base64: with header and signature it stays below the 64 KiB that a message may have."""
FIELDS_BYTES = 128
"""Of the names and brackets that an empty part leaves out."""
PARTS_MAX = 128
SESSIONS_MAX = 2000
ERROR_CHARACTERS_MAX = 512

Cell = str | int | None
Row = dict[str, Cell]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Place = Annotated[int, Meta(ge=1, le=PARTS_MAX)]


class UnreadablePartError(RemoteError):
    """A part of a journal is none, or does not belong to the others; the message says why."""


class JournalPart(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The payload of a JWS by the robot's identity key.

    Attributes:
        document: tells it from every other signed document.
        command: id of the operator's command.
        robot: who answers.
        part, parts: this one, of so many; from 1.
        since_s, until_s: as asked, Unix time: sessions that ended in between.
        rows, head: number and hash (0x...) of the journal's last row when it was read.
        sessions: rows of the table ``sessions`` that ``depai-robot journal export`` writes.
        days: rows of its table ``days``.
        error: why there are none; empty when all is well.
    """

    document: Literal["depai.fleet.journal/1"]
    command: Id
    robot: Id
    part: Place
    parts: Place
    since_s: Seconds
    until_s: Seconds
    rows: Count = 0
    head: Annotated[str, Meta(pattern=r"^(0x[0-9a-f]{64})?\Z")] = ""
    sessions: tuple[Row, ...] = ()
    days: tuple[Row, ...] = ()
    error: Annotated[str, Meta(max_length=ERROR_CHARACTERS_MAX)] = ""


class Extract(Struct, frozen=True, kw_only=True):
    """A journal between two times, whole.

    Attributes:
        rows, head, sessions, days: see JournalPart.
    """

    rows: int
    head: str
    sessions: tuple[Row, ...]
    days: tuple[Row, ...]


_PART = msgspec.json.Decoder(JournalPart)


def read_part(data: bytes) -> JournalPart:
    """Decodes a part strictly. Raises UnreadablePartError."""
    try:
        part = _PART.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadablePartError(f"no part of a journal: {error}") from error
    if part.part > part.parts:
        raise UnreadablePartError(f"part {part.part} of {part.parts}")
    return part


def split_extract(extract: Extract, command: Command) -> list[JournalPart]:
    """The parts of an extract, each of at most PART_BYTES_MAX as JSON.

    Raises:
        UnreadablePartError: it takes more than SESSIONS_MAX sessions or PARTS_MAX parts.
    """
    if len(extract.sessions) > SESSIONS_MAX:
        raise UnreadablePartError(
            f"{len(extract.sessions)} sessions in that time, at most {SESSIONS_MAX} are told: ask for less"
        )
    room_max = PART_BYTES_MAX - len(msgspec.json.encode(_part(command, extract))) - FIELDS_BYTES
    groups: list[tuple[list[Row], list[Row]]] = [([], [])]
    room = room_max
    for kind, rows in enumerate((extract.sessions, extract.days)):
        for row in rows:
            size = len(msgspec.json.encode(row)) + 1
            if size > room and any(groups[-1]):
                groups.append(([], []))
                room = room_max
            groups[-1][kind].append(row)
            room -= size
    if len(groups) > PARTS_MAX:
        raise UnreadablePartError(f"{len(groups)} parts, at most {PARTS_MAX} are told: ask for less")
    return [
        _part(command, extract, sessions=tuple(sessions), days=tuple(days), part=number, parts=len(groups))
        for number, (sessions, days) in enumerate(groups, 1)
    ]


def refuse_extract(command: Command, words: str) -> JournalPart:
    """The one part that says why there is no journal."""
    return _part(command, None, error=words[:ERROR_CHARACTERS_MAX] or "no reason")


def _part(
    command: Command,
    extract: Extract | None,
    *,
    sessions: tuple[Row, ...] = (),
    days: tuple[Row, ...] = (),
    part: int = 1,
    parts: int = 1,
    error: str = "",
) -> JournalPart:
    return JournalPart(
        document="depai.fleet.journal/1",
        command=command.id,
        robot=command.robot,
        part=part,
        parts=parts,
        since_s=command.since_s,
        until_s=command.until_s,
        rows=0 if extract is None else extract.rows,
        head="" if extract is None else extract.head,
        sessions=sessions,
        days=days,
        error=error,
    )


def missing_parts(parts: Iterable[JournalPart]) -> list[int]:
    """Which numbers have not come yet; [1] before any."""
    known = {part.part: part.parts for part in parts}
    return [number for number in range(1, max(known.values(), default=1) + 1) if number not in known]


def join_parts(parts: Sequence[JournalPart]) -> Extract:
    """The extract that its parts tell, in any order.

    Raises:
        UnreadablePartError: one is missing, twice there and not the same, or of another extract; or the robot said why
            there is none.
    """
    if not parts:
        raise UnreadablePartError("no part has come")
    first = parts[0]
    by_number: dict[int, JournalPart] = {}
    for part in parts:
        for name in ("command", "robot", "parts", "since_s", "until_s", "rows", "head"):
            if getattr(part, name) != getattr(first, name):
                raise UnreadablePartError(
                    f"part {part.part} has {name} {getattr(part, name)!r}, part {first.part} has"
                    f" {getattr(first, name)!r}: they are of two journals"
                )
        if by_number.setdefault(part.part, part) != part:
            raise UnreadablePartError(f"part {part.part} came twice, and is not the same")
        if part.error:
            raise UnreadablePartError(f"{part.robot} says: {part.error}")
    missing = missing_parts(parts)
    if missing:
        raise UnreadablePartError(
            f"{len(missing)} of {first.parts} parts are missing, the first is {missing[0]}"
        )
    ordered = [by_number[number] for number in sorted(by_number)]
    return Extract(
        rows=first.rows,
        head=first.head,
        sessions=tuple(row for part in ordered for row in part.sessions),
        days=tuple(row for part in ordered for row in part.days),
    )
