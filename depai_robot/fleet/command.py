"""Operators' commands beyond VDA 5050: who may order what, and what stays ordered. Pure; signatures are checked before.

An operator may only take away: lower a limit, bar a station, pause spending, and undo what operators did but for
limits. Raising a limit again, up to the policy and never above it, takes the owner's own signature.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from depai_robot.values.error import RemoteError
from depai_robot.values.identity import address_to_hex

Kind = Literal["tighten", "widen", "bar", "allow", "pause", "resume", "report", "journal"]
OPERATOR_KINDS: tuple[Kind, ...] = ("tighten", "bar", "allow", "pause", "resume", "report", "journal")
LIFETIME_MAX_S = 300
CLOCK_SKEW_MAX_S = 120
IDS_MAX = 4096
BARRED_MAX = 1024
JOURNAL_SPAN_MAX_S = 366 * 86_400
LIMITS = ("price_max_atomic_per_kwh", "session_max_atomic", "day_max_atomic")

AddressHex = Annotated[str, Meta(pattern=r"^0x[0-9a-fA-F]{40}\Z")]
Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")]
Seconds = Annotated[int, Meta(ge=0, le=2**40)]
Atomic = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class RefusedCommandError(RemoteError):
    """An operator's command is not obeyed; the message says why."""


class Grant(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an owner allows one operator. The payload of a JWS by the owner's key.

    Attributes:
        document: tells it from every other signed document.
        operator: address of the operator's key.
        robot: id of the one robot it is for.
        kinds: of commands.
        valid_after_s, valid_before_s: Unix time, from and until.
    """

    document: Literal["depai.fleet.grant/1"]
    operator: AddressHex
    robot: Id
    kinds: tuple[Kind, ...]
    valid_after_s: Seconds
    valid_before_s: Seconds


class Command(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The payload of a JWS by an operator's (or the owner's) key.

    What is not said is left out, so that a robot that knows fewer fields obeys what it knows.

    Attributes:
        document: as in Grant.
        id: new for each command; a repeated one is refused.
        robot: to which one it goes.
        kind: what to do.
        issued_s, expires_s: Unix time, at most five minutes apart.
        limits: for tighten and widen, by name, atomic units.
        station: for bar and allow, the station's identity address.
        reason: for the audit log.
        since_s, until_s: for journal: sessions that ended from then on and before then, Unix time.
    """

    document: Literal["depai.fleet.command/1"]
    id: Id
    robot: Id
    kind: Kind
    issued_s: Seconds
    expires_s: Seconds
    limits: dict[str, Atomic] = {}
    station: Annotated[str, Meta(pattern=r"^(0x[0-9a-fA-F]{40})?\Z")] = ""
    reason: Annotated[str, Meta(max_length=256)] = ""
    since_s: Seconds = 0
    until_s: Seconds = 0


class Restrictions(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What operators have ordered and is in force, beside the owner's policy.

    Attributes:
        paused: no new session.
        limits: upper bounds by name, atomic units; what is not there is the policy's.
        barred: identity addresses of stations, small letters.
        ids: commands that were taken, with the time from which they could not be taken anyway.
    """

    paused: bool = False
    limits: dict[str, Atomic] = {}
    barred: tuple[str, ...] = ()
    ids: dict[str, int] = {}


_COMMAND = msgspec.json.Decoder(Command)
_GRANT = msgspec.json.Decoder(Grant)


def read_command(data: bytes) -> Command:
    """Decodes a command strictly. Raises RefusedCommandError."""
    try:
        return _COMMAND.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedCommandError(f"no command: {error}") from error


def read_grant(data: bytes) -> Grant:
    """Decodes a grant strictly. Raises RefusedCommandError."""
    try:
        return _GRANT.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedCommandError(f"no grant: {error}") from error


def authorise(
    command: Command, sender: bytes, *, owner: bytes, grants: tuple[Grant, ...], robot: str, now_s: int
) -> None:
    """Whether the signer may order that, here and now.

    Args:
        command: its signature checked.
        sender: 20 bytes, who signed it.
        owner: 20 bytes; may order everything.
        grants: whose signatures by the owner were checked.
        robot: this one's id.
        now_s: wall clock.

    Raises:
        RefusedCommandError: it may not.
    """
    if command.robot != robot:
        raise RefusedCommandError(f"for {command.robot}, this is {robot}")
    if not 0 <= command.expires_s - command.issued_s <= LIFETIME_MAX_S:
        raise RefusedCommandError(f"must live 0 to {LIFETIME_MAX_S} s")
    if command.expires_s < now_s:
        raise RefusedCommandError(f"expired {now_s - command.expires_s} s ago")
    if command.issued_s > now_s + CLOCK_SKEW_MAX_S:
        raise RefusedCommandError(f"issued {command.issued_s - now_s} s in the future")
    if sender == owner:
        return
    if command.kind not in OPERATOR_KINDS:
        raise RefusedCommandError(f"{command.kind} takes the owner's signature")
    name = address_to_hex(sender).lower()  # type: ignore[arg-type]
    for grant in grants:
        if grant.operator.lower() == name and grant.robot == robot and command.kind in grant.kinds:
            if grant.valid_after_s <= now_s < grant.valid_before_s:
                return
            raise RefusedCommandError("the owner's grant is not valid now")
    raise RefusedCommandError(f"the owner has not allowed {name} to {command.kind}")


def obey(
    restrictions: Restrictions, command: Command, policy_limits: dict[str, int], now_s: int
) -> Restrictions:
    """What is in force after an authorised command.

    Args:
        restrictions: in force.
        command: authorised.
        policy_limits: of the owner's policy, by the names in LIMITS.
        now_s: wall clock.

    Raises:
        RefusedCommandError: it was taken before, or would not do what its kind says.
    """
    if command.id in restrictions.ids:
        raise RefusedCommandError(f"{command.id} was taken before")
    ids = {key: until_s for key, until_s in restrictions.ids.items() if until_s >= now_s}
    if len(ids) >= IDS_MAX:
        raise RefusedCommandError(f"{IDS_MAX} commands within {LIFETIME_MAX_S} s, a further one is not taken")
    ids[command.id] = command.expires_s + CLOCK_SKEW_MAX_S
    paused, limits, barred = restrictions.paused, restrictions.limits, restrictions.barred
    if command.kind in ("pause", "resume"):
        paused = command.kind == "pause"
    elif command.kind in ("bar", "allow"):
        barred = _barred(barred, command)
    elif command.kind in ("tighten", "widen"):
        limits = _limits(limits, command, policy_limits)
    elif command.kind == "journal":
        _require_span(command)
    return Restrictions(paused=paused, limits=limits, barred=barred, ids=ids)


def _require_span(command: Command) -> None:
    span_s = command.until_s - command.since_s
    if not 0 < span_s <= JOURNAL_SPAN_MAX_S:
        raise RefusedCommandError(
            f"a journal of {span_s} s, expected since_s before until_s, and at most {JOURNAL_SPAN_MAX_S} s between"
        )


def _barred(barred: tuple[str, ...], command: Command) -> tuple[str, ...]:
    station = command.station.lower()
    if not station:
        raise RefusedCommandError(f"{command.kind} must name a station")
    rest = tuple(item for item in barred if item != station)
    if command.kind == "allow":
        return rest
    if len(rest) >= BARRED_MAX:
        raise RefusedCommandError(f"{BARRED_MAX} stations are barred, no more are kept: pause instead")
    return (*rest, station)


def _limits(limits: dict[str, int], command: Command, policy_limits: dict[str, int]) -> dict[str, int]:
    if not command.limits:
        raise RefusedCommandError(f"{command.kind} must name a limit")
    changed = dict(limits)
    for name, value in command.limits.items():
        if name not in LIMITS:
            raise RefusedCommandError(f"limit {name!r}, expected one of {', '.join(LIMITS)}")
        now = min(changed.get(name, policy_limits[name]), policy_limits[name])
        if command.kind == "tighten" and value > now:
            raise RefusedCommandError(
                f"{name} would rise from {now} to {value}: that takes the owner's signature"
            )
        if value > policy_limits[name]:
            raise RefusedCommandError(f"{name} {value} is above the policy's {policy_limits[name]}")
        changed[name] = value
    return changed
