"""Orders: operators' commands to a robot's wallet, signed with a key that its owner has allowed. Pure.

VDA 5050 knows nothing of money. These go beside it (docs/fleet.md), to the robot whose id is its serial number, and are
signed on this machine: a broker, or whoever sits on it, can neither make one nor change one.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from depai_robot.fleet.command import JOURNAL_SPAN_MAX_S, LIFETIME_MAX_S, LIMITS, Command, Kind
from depai_robot.values.error import ConfigError
from depai_robot.values.identity import address_from_hex, address_to_hex, require_id

ANSWERS = "depai/v1/fleet/+/answer"
JOURNALS = "depai/v1/fleet/+/journal"
_PREFIX, _SUFFIX, _JOURNAL_SUFFIX = "depai/v1/fleet/", "/answer", "/journal"
_ANSWER_BYTES_MAX = 256 * 1024
REASON_MAX = 256
STATION = "station"
DAYS = "days"
DAY_S = 86_400
DAYS_DEFAULT, DAYS_MAX = 7, JOURNAL_SPAN_MAX_S // DAY_S


@dataclass(frozen=True, slots=True)
class Order:
    """One kind of command.

    Attributes:
        kind: as the wire has it.
        label: in words.
        warning: what the person who confirms should know.
        fields: what must be said besides the reason: ``station``, ``days``, or names of limits of which one is enough.
    """

    kind: Kind
    label: str
    warning: str
    fields: tuple[str, ...] = ()


ORDERS: tuple[Order, ...] = (
    Order("pause", "Pause spending", "No new session; an open one ends in order and is settled."),
    Order("resume", "Resume spending", "It may buy again, within its policy and what operators ordered."),
    Order(
        "tighten",
        "Lower a limit",
        "For sessions that begin from now on. Raising it again takes the owner's signature.",
        LIMITS,
    ),
    Order("bar", "Bar a station", "Nothing more is agreed with it; a session is settled.", (STATION,)),
    Order("allow", "Allow a station again", "The robot may deal with it again.", (STATION,)),
    Order("report", "Ask what is in force", "Nothing changes."),
    Order(
        "journal",
        "Ask for its journal",
        "Nothing changes. Its sessions and day totals come in parts that it signs, into a file.",
        (DAYS,),
    ),
)


@dataclass(frozen=True, slots=True)
class OrderDesk:
    """Who signs here.

    Attributes:
        operator: address of the key, as the owner's grant names it.
        seal: a command as a compact JWS.
        chain_id: that identities live on.
    """

    operator: str
    seal: Callable[[Command], str]
    chain_id: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a robot said to an order. Unsigned: the record is the audit log on the robot.

    Attributes:
        robot: its id, from the topic.
        id: of the order.
        accepted: it is in force.
        words: why not.
        paused: no new session.
        limits: operators' bounds in force.
        barred: stations.
    """

    robot: str
    id: str
    accepted: bool
    words: str
    paused: bool
    limits: Mapping[str, int]
    barred: tuple[str, ...]

    def text(self) -> str:
        """One line for people."""
        if not self.accepted:
            return f"{self.robot} refuses: {self.words}"
        parts = ["spending paused" if self.paused else "spending allowed"]
        parts += [f"{name} <= {value}" for name, value in sorted(self.limits.items())]
        if self.barred:
            parts.append(f"{len(self.barred)} barred")
        return f"{self.robot} obeys: {', '.join(parts)}"


def make_order(
    robot: str, order: Order, values: Mapping[str, str], reason: str, *, order_id: str, now_s: int
) -> Command:
    """The command as it will be signed, of what a person has typed.

    Raises:
        ConfigError: a field is missing or no number or no address, or there is no reason; the message names it.
    """
    words = reason.strip()
    if not words or len(words) > REASON_MAX:
        raise ConfigError(
            f"a reason of 1 to {REASON_MAX} characters is kept with the order, got {len(words)}"
        )
    limits: dict[str, int] = {}
    station, span_s = "", 0
    for name in order.fields:
        text = values.get(name, "").strip()
        if name == STATION:
            station = address_to_hex(address_from_hex(text))
        elif name == DAYS:
            span_s = _read_days(text) * DAY_S
        elif text:
            if not (text.isascii() and text.isdecimal()) or int(text) >= 2**63:
                raise ConfigError(
                    f"{name} is a whole number of atomic units (1 USDC = 1000000), got {text!r}"
                )
            limits[name] = int(text)
    if order.kind == "tighten" and not limits:
        raise ConfigError("say at least one limit")
    return Command(
        document="depai.fleet.command/1",
        id=order_id,
        robot=require_id("robot", robot),
        kind=order.kind,
        issued_s=now_s,
        expires_s=now_s + LIFETIME_MAX_S,
        limits=limits,
        station=station,
        reason=words,
        since_s=now_s + 1 - span_s if span_s else 0,
        until_s=now_s + 1 if span_s else 0,
    )


def _read_days(text: str) -> int:
    if not text:
        return DAYS_DEFAULT
    if not (text.isascii() and text.isdecimal()) or len(text) > 3 or not 1 <= int(text) <= DAYS_MAX:
        raise ConfigError(f"days is a whole number from 1 to {DAYS_MAX}, got {text!r}")
    return int(text)


def describe(command: Command) -> str:
    """What will be signed, line by line."""
    lines = [f"robot     {command.robot}", f"command   {command.kind}"]
    lines += [f"{name}  {value} ({value / 1e6:g} USDC)" for name, value in sorted(command.limits.items())]
    if command.station:
        lines.append(f"station   {command.station}")
    if command.until_s:
        lines.append(f"sessions  that ended in the last {(command.until_s - command.since_s) // DAY_S} days")
    lines += [f"reason    {command.reason}", f"valid     {command.expires_s - command.issued_s} s, once"]
    return "\n".join(lines)


def is_answer(topic: str) -> bool:
    """Whether a robot answers an order there."""
    return topic.startswith(_PREFIX) and topic.endswith(_SUFFIX)


def is_journal(topic: str) -> bool:
    """Whether a robot tells of its journal there."""
    return topic.startswith(_PREFIX) and topic.endswith(_JOURNAL_SUFFIX)


def read_answer(topic: str, payload: bytes) -> Answer | None:
    """An answer, or None when it is none: robots' words are strangers' words."""
    if len(payload) > _ANSWER_BYTES_MAX:
        return None
    try:
        tree = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    if not isinstance(tree, dict):
        return None
    identity, words = tree.get("id"), tree.get("words", "")
    limits, barred = tree.get("limits"), tree.get("barred")
    if not isinstance(identity, str) or not isinstance(words, str) or not identity:
        return None
    if not isinstance(limits, dict) or not isinstance(barred, list):
        return None
    known = {
        n: v for n, v in limits.items() if n in LIMITS and isinstance(v, int) and not isinstance(v, bool)
    }
    return Answer(
        topic[len(_PREFIX) : -len(_SUFFIX)],
        identity,
        tree.get("accepted") is True,
        words,
        tree.get("paused") is True,
        known,
        tuple(item for item in barred if isinstance(item, str)),
    )
