"""What a robot told of its journal, at whoever asked: parts collected, checked, kept in a file, read again.

The file has one JWS a line, as they came: whoever gets it can check it without having been there.
"""

from pathlib import Path

import msgspec

from depai_robot.charging.envelope import open_bytes
from depai_robot.fleet.journal import Extract, JournalPart, join_parts, missing_parts, read_part
from depai_robot.values.error import ConfigError, RemoteError
from depai_robot.values.identity import Address, address_to_hex
from depai_robot.values.money import USDC_DECIMALS

FILE_BYTES_MAX = 8 * 1024 * 1024
SIGNERS_MAX = 4
TOLD_WITHIN_S = 150.0
"""A robot reads its journal in a process of its own, and gives up after two minutes."""


class Telling(msgspec.Struct, frozen=True, kw_only=True):
    """A journal that was told, whole and checked.

    Attributes:
        signer: whose identity key signed every part.
        robot: its id.
        since_s, until_s: as asked, Unix time.
        extract: what is in it.
        lines: the parts as they came.
    """

    signer: Address
    robot: str
    since_s: int
    until_s: int
    extract: Extract
    lines: tuple[str, ...]

    def text(self) -> str:
        """One line for people."""
        rows = self.extract.sessions
        billed = sum(value for row in rows if isinstance(value := row.get("billed_atomic"), int))
        return (
            f"{self.robot}: {len(rows)} sessions, {billed / 10**USDC_DECIMALS:.6f} USDC billed; journal at row"
            f" {self.extract.rows}; signed by {address_to_hex(self.signer)}"
        )

    def write(self, path: Path) -> None:
        """One part a line. Raises ConfigError."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(line + "\n" for line in self.lines), encoding="ascii")
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error


class Collection:
    """Takes the parts that answer one command, in any order, from a topic where others may write too.

    Args:
        robot: who is asked.
        command: its id.
        chain_id: that identities live on.
        identity: whose signature counts; None for whoever completes the journal first.

    Attributes:
        told: the journal, once it is whole.
        refusal: why there is none, as the robot says.
    """

    def __init__(self, robot: str, command: str, chain_id: int, identity: Address | None = None) -> None:
        self._robot, self._command, self._chain_id, self._identity = robot, command, chain_id, identity
        self._by_signer: dict[Address, list[tuple[JournalPart, str]]] = {}
        self.told: Telling | None = None
        self.refusal = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be expected."""
        return self.told is not None or bool(self.refusal)

    @property
    def progress(self) -> str:
        """How many parts have come, in words."""
        known = max(self._by_signer.values(), key=len, default=[])
        return f"{len(known)} of {known[0][0].parts} parts" if known else "no part"

    def take(self, token: bytes) -> None:
        """A message from the topic. What is none, or answers something else, changes nothing."""
        if self.is_over:
            return
        try:
            signer, part = _open(token, self._chain_id)
        except RemoteError:
            return
        if (part.robot, part.command) != (self._robot, self._command):
            return
        if self._identity is not None and signer != self._identity:
            return
        if signer not in self._by_signer and len(self._by_signer) >= SIGNERS_MAX:
            return
        known = self._by_signer.setdefault(signer, [])
        if any(before == part for before, _ in known):
            return
        known.append((part, token.decode("ascii")))
        if part.error:
            self.refusal = part.error
        elif not missing_parts(part for part, _ in known):
            try:
                self.told = _tell(signer, known)
            except RemoteError as error:
                self.refusal = str(error)


def read_told(data: bytes, chain_id: int, identity: Address | None = None) -> Telling:
    """A journal from a file that was kept.

    Args:
        data: of the file.
        chain_id: that identities live on.
        identity: whose signature is expected; None for any.

    Raises:
        ConfigError: a signature, a part or the whole is not what it must be.
    """
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"{len(data)} bytes, at most {FILE_BYTES_MAX}")
    known: list[tuple[JournalPart, str]] = []
    signers: set[Address] = set()
    for number, line in enumerate(data.split(), 1):
        try:
            signer, part = _open(line, chain_id)
        except RemoteError as error:
            raise ConfigError(f"line {number}: {error}") from error
        signers.add(signer)
        known.append((part, line.decode("ascii")))
    if len(signers) != 1:
        raise ConfigError(f"signed by {len(signers)} keys, expected one")
    signer = signers.pop()
    if identity is not None and signer != identity:
        raise ConfigError(f"signed by {address_to_hex(signer)}, expected {address_to_hex(identity)}")
    try:
        return _tell(signer, known)
    except RemoteError as error:
        raise ConfigError(str(error)) from error


def _open(token: bytes, chain_id: int) -> tuple[Address, JournalPart]:
    signer, data = open_bytes(token, chain_id=chain_id)
    return signer, read_part(data)


def _tell(signer: Address, known: list[tuple[JournalPart, str]]) -> Telling:
    extract = join_parts([part for part, _ in known])
    first = known[0][0]
    ordered = sorted(known, key=lambda item: item[0].part)
    return Telling(
        signer=signer,
        robot=first.robot,
        since_s=first.since_s,
        until_s=first.until_s,
        extract=extract,
        lines=tuple(line for _, line in ordered),
    )
