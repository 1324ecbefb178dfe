"""Operators' commands on a wallet: signatures checked, kept on disk before they count, each one in an audit log.

Fails closed: restrictions that can't be read pause all spending, and a command that can't be kept is not obeyed.
"""

import json
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from depai_robot.app.admission import Admit
from depai_robot.app.sealing import Sealer
from depai_robot.charging.envelope import open_bytes
from depai_robot.charging.message import Draft
from depai_robot.charging.robot_state import RobotState
from depai_robot.fleet.command import (
    LIMITS,
    Command,
    Grant,
    RefusedCommandError,
    Restrictions,
    authorise,
    obey,
    read_command,
    read_grant,
)
from depai_robot.payment.policy import SpendPolicy
from depai_robot.ports import Signer
from depai_robot.values.error import ConfigError, RemoteError
from depai_robot.values.identity import Address, address_to_hex

LOG = logging.getLogger(__name__)
NAME = "restrictions.json"
AUDIT = "fleet-audit.jsonl"
GRANTS_MAX = 256
GRANT_BYTES_MAX = 16 * 1024
TOKEN_BYTES_MAX = 16 * 1024


def command_topic(robot: str) -> str:
    """Where operators write."""
    return f"depai/v1/fleet/{robot}/command"


def answer_topic(robot: str) -> str:
    """Where the robot answers."""
    return f"depai/v1/fleet/{robot}/answer"


def seal_document(document: Grant | Command, signer: Signer, chain_id: int) -> str:
    """A grant (by the owner's key) or a command (by an operator's) as a compact JWS."""
    return Sealer(chain_id, signer, None, None).seal_bytes(msgspec.json.encode(document))


def read_grants(path: Path, *, owner: Address, robot: str, chain_id: int) -> tuple[Grant, ...]:
    """Grants of a file with one JWS a line.

    Raises:
        ConfigError: it can't be read, or one is not the owner's, or is for another robot.
    """
    try:
        lines = path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"grants {path}: {error}") from error
    if len(lines) > GRANTS_MAX:
        raise ConfigError(f"grants {path}: {len(lines)}, at most {GRANTS_MAX}")
    grants = []
    for number, token in enumerate(lines, 1):
        try:
            signer, data = open_bytes(token, chain_id=chain_id)
            grant = read_grant(data)
        except RemoteError as error:
            raise ConfigError(f"grants {path}: line {number}: {error}") from error
        if signer != owner:
            raise ConfigError(
                f"grants {path}: line {number} is signed by {address_to_hex(signer)}, not by the owner"
            )
        if grant.robot != robot:
            raise ConfigError(f"grants {path}: line {number} is for {grant.robot}, this is {robot}")
        grants.append(grant)
    return tuple(grants)


class FleetGuard:
    """What operators have ordered. Thread-safe.

    Args:
        folder: for restrictions and audit log.
        robot: its id.
        chain_id: that identities live on.
        owner: whose word is above all operators'.
        grants: by the owner, checked.
        policy: in force.
        wall_s: Unix seconds.

    Attributes:
        tell_journal: takes an authorised command that asks for the journal; None where nobody tells it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        robot: str,
        chain_id: int,
        owner: Address,
        grants: tuple[Grant, ...],
        policy: SpendPolicy,
        wall_s: Callable[[], int],
    ) -> None:
        self._folder, self._robot, self._chain_id = folder, robot, chain_id
        self._owner, self._grants, self._wall_s = owner, grants, wall_s
        self._policy_limits = {name: int(getattr(policy, name)) for name in LIMITS}
        self.tell_journal: Callable[[Command], None] | None = None
        self._lock = threading.Lock()
        self._damage = ""
        self._restrictions = self._read()

    @property
    def restrictions(self) -> Restrictions:
        """In force now."""
        return self._restrictions

    def refusal(self) -> str:
        """Why nothing may be bought now, or empty."""
        if self._damage:
            return self._damage
        return "an operator has paused spending" if self._restrictions.paused else ""

    def limit(self, name: str) -> int | None:
        """An operator's upper bound, None for none."""
        return self._restrictions.limits.get(name)

    def bound(self, price_atomic: int, cost_atomic: int, *, spent_today_atomic: int) -> tuple[int, int]:
        """Price and cost limits of a new session under what operators have ordered; 0 stands for none.

        Args:
            price_atomic: limit of whoever asks for the session, per kWh; 0 for none.
            cost_atomic: the same, for all of it.
            spent_today_atomic: what the day's limit has gone to.

        Raises:
            ConfigError: nothing may be bought now.
        """
        if words := self.refusal():
            raise ConfigError(words)
        prices = [price_atomic, self.limit("price_max_atomic_per_kwh")]
        costs = [cost_atomic, self.limit("session_max_atomic")]
        day = self.limit("day_max_atomic")
        if day is not None:
            costs.append(day - spent_today_atomic)
        limits = []
        # A caller's 0 is no limit; an operator's is one that nothing fits.
        for (asked, *ordered), name in ((prices, "price"), (costs, "cost")):
            known = [value for value in ordered if value is not None] + ([asked] if asked else [])
            if known and min(known) <= 0:
                raise ConfigError(f"an operator's limit leaves nothing to spend: {name}")
            limits.append(min(known) if known else 0)
        return limits[0], limits[1]

    def is_barred(self, identity: bytes) -> bool:
        """Whether a station may not be dealt with."""
        return "0x" + identity.hex() in self._restrictions.barred

    def take(self, token: bytes) -> bytes:
        """Obeys a command, or refuses; returns the answer's JSON. Writes the audit log in any case. Never raises."""
        sender, command, words = "", None, ""
        with self._lock:
            try:
                if len(token) > TOKEN_BYTES_MAX:
                    raise RefusedCommandError(f"{len(token)} bytes, at most {TOKEN_BYTES_MAX}")
                address, data = open_bytes(token, chain_id=self._chain_id)
                sender = address_to_hex(address)
                command = read_command(data)
                self._obey(command, address)
            except (RemoteError, ConfigError) as error:
                words = str(error)[:512]
        now = self._restrictions
        return json.dumps(
            {
                "v": 1,
                "id": command.id if command is not None else "",
                "by": sender,
                "kind": command.kind if command is not None else "",
                "accepted": not words,
                "words": words,
                "paused": now.paused or bool(self._damage),
                "limits": now.limits,
                "barred": list(now.barred),
                "at_s": self._wall_s(),
            }
        ).encode()

    def _obey(self, command: Command, sender: Address) -> None:
        now_s = self._wall_s()
        try:
            self._refuse_damage()
            authorise(command, sender, owner=self._owner, grants=self._grants, robot=self._robot, now_s=now_s)
            self._refuse_untold(command)
            after = obey(self._restrictions, command, self._policy_limits, now_s)
        except RefusedCommandError as error:
            # What strangers write must not fill the disk: only those who are known get a line.
            if self._is_known(sender):
                self._audit(command, sender, now_s, str(error))
            raise
        # The log first, so that nothing is in force of which it does not know.
        self._audit(command, sender, now_s, "")
        self._write(after)
        self._restrictions = after
        if command.kind == "journal" and self.tell_journal is not None:
            self.tell_journal(command)

    def _refuse_damage(self) -> None:
        if self._damage:
            raise RefusedCommandError(self._damage)

    def _refuse_untold(self, command: Command) -> None:
        if command.kind == "journal" and self.tell_journal is None:
            raise RefusedCommandError("nobody tells the journal here")

    def _is_known(self, sender: Address) -> bool:
        name = address_to_hex(sender).lower()
        return sender == self._owner or any(grant.operator.lower() == name for grant in self._grants)

    def _read(self) -> Restrictions:
        path = self._folder / NAME
        try:
            return msgspec.json.decode(path.read_bytes(), type=Restrictions)
        except FileNotFoundError:
            return Restrictions()
        except (OSError, msgspec.MsgspecError, RecursionError) as error:
            self._damage = f"{path} can't be read ({error}): nothing is bought until a person has looked"
            LOG.critical("%s", self._damage)
            return Restrictions(paused=True)

    def _write(self, restrictions: Restrictions) -> None:
        path, temporary = self._folder / NAME, self._folder / f".{NAME}.part"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(msgspec.json.encode(restrictions))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            descriptor = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}; the command is not in force") from error

    def _audit(self, command: Command, sender: Address, now_s: int, refused: str) -> None:
        path = self._folder / AUDIT
        row = {"at_s": now_s, "by": address_to_hex(sender), "refused": refused} | msgspec.to_builtins(command)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(msgspec.json.encode(row) + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}; the command is not obeyed") from error


class GuardedAdmission:
    """Messages of barred stations are dropped, but for a session that is agreed: it must be settled.

    Args:
        inner: what is admitted besides.
        guard: who knows the bars.
        state: of the wallet's machine.
    """

    def __init__(self, inner: Admit, guard: FleetGuard, state: Callable[[], RobotState]) -> None:
        self._inner, self._guard, self._state = inner, guard, state

    def __call__(self, sender: bytes, draft: Draft, now_s: float) -> str:
        """See Admit."""
        if self._guard.is_barred(sender):
            session = self._state().sessions.get(draft.session)
            agreement = session.agreement if session is not None else None
            if agreement is None or agreement.offer.sender != sender:
                return "barred by an operator"
        return self._inner(sender, draft, now_s)
