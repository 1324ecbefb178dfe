"""The highest policy epoch that a robot was ever given, kept on disk: an older policy may have been wider.

The journal's snapshots know the policy that was in force; this file knows it from the moment it was accepted, also when
a session is open and nothing was signed under it yet.
"""

import os
from pathlib import Path

import msgspec
from msgspec import Struct

from depai_robot.payment.policy import SpendPolicy, policy_digest
from depai_robot.values.error import ConfigError

NAME = "policy-seen.json"


class Seen(Struct, frozen=True, forbid_unknown_fields=True):
    """The latest policy.

    Attributes:
        epoch: of it.
        digest: what its owner signed, ``0x`` and 64 digits.
    """

    epoch: int
    digest: str


def read_seen(folder: Path) -> Seen | None:
    """What was noted; None before the first policy.

    Raises:
        ConfigError: the note can't be read: then no policy is trusted until a person looks.
    """
    path = folder / NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Seen)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ConfigError(
            f"{path} is damaged: {error}; it holds the epoch of the latest policy. Remove it only when the policy in"
            " use is the latest that the owner has signed"
        ) from error


def note_seen(folder: Path, policy: SpendPolicy, chain_id: int) -> None:
    """Refuses a policy that is not the latest, and notes it durably if it is. Before anything is signed under it.

    Raises:
        ConfigError: a lower epoch than was seen, or another policy of the same epoch.
    """
    seen = read_seen(folder)
    now = Seen(policy.epoch, "0x" + policy_digest(policy, chain_id).hex())
    if seen == now:
        return
    if seen is not None and policy.epoch < seen.epoch:
        raise ConfigError(f"policy has epoch {policy.epoch}, one of {seen.epoch} was seen before")
    if seen is not None and policy.epoch == seen.epoch:
        raise ConfigError(
            f"another policy of epoch {policy.epoch} was seen before: the owner signs each change with a higher epoch"
        )
    path = folder / NAME
    temporary = folder / f".{NAME}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(msgspec.json.encode(now) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
