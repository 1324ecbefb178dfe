"""Another key in the place of one: what must be closed first, and the files, so that a cut at any moment fails closed.

Vouchers bind a channel to a voucher key, a journal to one owner, a policy to one robot. So a key goes only when nothing
is open under it. The old keystore is kept beside the new one: what was signed with it may have to be shown, and a
channel that somebody still finds can only be closed with it.
"""

import os
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from depai_robot.adapters.core_dump import forbid_core_dumps
from depai_robot.adapters.journal_head import head_path
from depai_robot.adapters.journal_reader import JournalReader
from depai_robot.adapters.keystore_signer import KeystoreSigner, new_secret, write_keystore
from depai_robot.app.config import (
    KeyPart,
    StationFile,
    WalletFile,
    read_network,
    read_station,
    read_wallet,
    resolve,
)
from depai_robot.app.owner import key_address
from depai_robot.app.part import KeyLock, open_locked_journal
from depai_robot.app.passphrase import read_passphrase
from depai_robot.charging import robot, station
from depai_robot.charging.fact import decode_fact
from depai_robot.charging.robot_state import RobotState
from depai_robot.charging.station_state import StationState
from depai_robot.values.error import ConfigError, JournalError
from depai_robot.values.identity import Address, address_to_hex
from depai_robot.values.money import format_usdc

RETIRED = ".retired-"


@dataclass(frozen=True, slots=True)
class Place:
    """A key in a configuration.

    Attributes:
        config: the file.
        name: ``keys.voucher`` and so on.
        key: as configured.
        address: of the key that is there now.
        journal: of the program.
        owner: address that the journal is bound to.
        robots: whether it is a wallet's.
        moves_journal: the journal is bound to this very key.
    """

    config: Path
    name: str
    key: KeyPart
    address: Address
    journal: Path
    owner: Address
    robots: bool
    moves_journal: bool


def read_program(config: Path) -> WalletFile | StationFile:
    """A wallet's or a station's configuration, whichever the file is. Raises ConfigError."""
    try:
        text = config.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{config}: {error}") from error
    return read_station(config) if re.search(r"^station\s*:", text, re.MULTILINE) else read_wallet(config)


def find_place(config: Path, file: WalletFile | StationFile, role: str) -> Place:
    """The key of a role.

    Args:
        config: path of wallet.yaml or station.yaml.
        file: read from it.
        role: identity, voucher or payer of a robot; identity, receiver or meter-<connector> of a station.

    Raises:
        ConfigError: no such role, or no key there.
    """
    chain_id = read_network(file.chain, config).chain_id
    robots = isinstance(file, WalletFile)
    keys: dict[str, tuple[str, KeyPart | None]]
    if isinstance(file, WalletFile):
        keys = {role: (f"keys.{role}", getattr(file.keys, role)) for role in ("identity", "voucher", "payer")}
        bound, journal = "voucher", resolve(config, file.folder) / "wallet.sqlite"
    else:
        keys = {role: (f"keys.{role}", getattr(file.keys, role)) for role in ("identity", "receiver")}
        keys |= {f"meter-{n}": (f"meters[{n - 1}].key", item.key) for n, item in enumerate(file.meters, 1)}
        bound, journal = "identity", resolve(config, file.folder) / f"station-{file.station}.sqlite"
    if role not in keys:
        raise ConfigError(f"{config}: no key {role!r}, expected one of {', '.join(keys)}")
    name, key = keys[role]
    if key is None:
        raise ConfigError(f"{config}: {name} is not on this robot (delegated mode): its owner changes it")
    bound_name, bound_key = keys[bound]
    if bound_key is None:
        raise ConfigError(f"{config}: {bound_name} is missing")
    return Place(
        config=config,
        name=name,
        key=key,
        address=key_address(name, key, config, chain_id),
        journal=journal,
        owner=key_address(bound_name, bound_key, config, chain_id),
        robots=robots,
        moves_journal=role == bound,
    )


# --- what must be closed first ------------------------------------------------------------------------------


def open_things(state: RobotState | StationState) -> list[str]:
    """What is still open under the keys of that state, one line each with what to do about it."""
    return list(_open_robot(state) if isinstance(state, RobotState) else _open_station(state))


def _open_robot(state: RobotState) -> Iterator[str]:
    if not robot.is_at_rest(state):
        names = ", ".join(state.sessions) or state.phase
        yield f"session {names} is open: let the wallet run until it is settled"
    told = set()
    for key, kept in state.channels.items():
        if kept.rest_atomic:
            told.add(key)
            yield (
                f"channel 0x{key} still holds {format_usdc(kept.rest_atomic)}: depai-robot channel close --config ..."
                f" 0x{key[:12]}"
            )
    for channel, account in state.ledger.account_by_channel.items():
        left = account.locked_atomic
        if left and channel.hex() not in told:
            yield (
                f"channel 0x{channel.hex()} may still hold {format_usdc(left)}: depai-robot channel withdraw"
                f" --config ... 0x{channel.hex()[:12]}"
            )


def _open_station(state: StationState) -> Iterator[str]:
    if not station.is_at_rest(state):
        names = ", ".join(state.sessions) or "correspondence"
        yield f"{names} open: let the station run until it is settled"
    for key, kept in state.channels.items():
        if kept.due_atomic:
            yield f"channel 0x{key} owes {format_usdc(kept.due_atomic)}: let the station run until it has claimed"
        elif kept.rest_atomic and not kept.bad:
            yield (
                f"channel 0x{key} holds {format_usdc(kept.rest_atomic)} of a robot, which only this key can give back:"
                " wait until the robot closes it"
            )


def fold(path: Path, *, robots: bool) -> RobotState | StationState | None:
    """The state that a journal stands for, as a start would have it; None when there is no journal.

    Raises:
        JournalError: it is damaged, or of another version: let that program settle first.
    """
    if not path.exists():
        return None
    reader = JournalReader(path)
    form: type[Any] = RobotState if robots else StationState
    machine = robot if robots else station
    try:
        snapshot = reader.snapshot()
        if snapshot is None or snapshot.step_version != machine.STEP_VERSION:
            raise JournalError(
                f"journal {path} has no snapshot of this version: start and stop the program once"
            )
        state = msgspec.msgpack.decode(snapshot.data, type=form)
        for row in reader.rows(snapshot.number):
            if row.step_version != machine.STEP_VERSION:
                raise JournalError(f"journal {path}: row {row.number} is of another version")
            state, _ = machine.step(state, decode_fact(row.data))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise JournalError(f"journal {path}: its snapshot can't be read: {error}") from error
    finally:
        reader.close()
    return state  # type: ignore[no-any-return]


def what_blocks(place: Place) -> list[str]:
    """Why the key can't go yet, line by line; empty when it can. The program must not run.

    Raises:
        JournalError: it runs, or its journal is damaged.
    """
    lock = KeyLock(place.owner)
    try:
        state = fold(place.journal, robots=place.robots)
    finally:
        lock.release()
    return [] if state is None else open_things(state)


# --- the change ---------------------------------------------------------------------------------------------


def rotate(place: Place, *, light: bool) -> tuple[Address, Path, Sequence[str]]:
    """Puts a fresh key in the place of one that nothing is open under.

    Order, each step durable: the new keystore beside the old one, the old one's second name, the new one in its place,
    then the journal aside. A cut before the third leaves the old key in force; after it, a start refuses the old key's
    journal until this is called again, which then only moves the journal.

    Returns:
        The new address, the old keystore's path, and what the owner must do.

    Raises:
        ConfigError: no keystore, something is open (line by line), or a file can't be written.
        JournalError: the program runs, or its journal is damaged.
    """
    if place.key.keystore is None:
        kind = "a token's key" if place.key.pkcs11 is not None else "a development key"
        raise ConfigError(
            f"{place.config}: {place.name} is {kind}: make another there and name it here;"
            " depai-robot key rotate --check says whether the old one may go"
        )
    forbid_core_dumps()
    path = resolve(place.config, place.key.keystore)
    passphrase = read_passphrase(place.key, place.config, place.name)
    # The address that a keystore names is a claim: the key itself says who it is.
    if KeystoreSigner(path, passphrase).address != place.address:
        raise ConfigError(f"keystore {path} is not of {address_to_hex(place.address)}")
    _finish(place, path)
    lock, journal = open_locked_journal(place.journal, place.owner)
    journal.close()
    try:
        state = fold(place.journal, robots=place.robots)
        blocks = open_things(state) if state is not None else []
        if blocks:
            raise ConfigError(f"{place.name} can't go yet: " + "; ".join(blocks))
        old = path.with_name(f"{path.name}{RETIRED}{address_to_hex(place.address)}")
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
        address = write_keystore(fresh, new_secret(), passphrase, light=light)
        try:
            _give_second_name(path, old)
            fresh.replace(path)
            _sync(path.parent)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise ConfigError(f"{path}: {error.strerror}") from error
        if place.moves_journal:
            _put_aside(place.journal, place.owner)
    finally:
        lock.release()
    return address, old, _advice(place, address)


def _finish(place: Place, path: Path) -> None:
    """After a cut between the keystore and the journal: the journal of the retired key goes aside."""
    if not place.moves_journal or not place.journal.exists():
        return
    reader = JournalReader(place.journal)
    owner = reader.form.owner
    reader.close()
    if owner == address_to_hex(place.owner):
        return
    if not path.with_name(f"{path.name}{RETIRED}{owner}").exists():
        raise JournalError(f"journal {place.journal} belongs to {owner}, no retired keystore of it is here")
    _put_aside(place.journal, bytes.fromhex(owner[2:]))
    raise ConfigError(
        f"the change from {owner} to {address_to_hex(place.address)} was cut short and is now complete; nothing more"
        " was changed"
    )


def _give_second_name(path: Path, old: Path) -> None:
    if old.exists():
        return  # a cut came between here and the replacement
    os.link(path, old)
    _sync(path.parent)


def _put_aside(journal: Path, owner: bytes) -> None:
    """``wallet.sqlite`` becomes ``wallet-0x....sqlite``, with its head and log; it can still be shown and verified."""
    aside = journal.with_name(f"{journal.stem}-{address_to_hex(owner)}{journal.suffix}")
    try:
        for one, other in (
            (head_path(journal), head_path(aside)),
            (journal.with_name(journal.name + "-wal"), aside.with_name(aside.name + "-wal")),
            (journal.with_name(journal.name + "-shm"), aside.with_name(aside.name + "-shm")),
            (journal, aside),
        ):
            if one.exists() and not other.exists():
                one.rename(other)
        _sync(journal.parent)
    except OSError as error:
        raise JournalError(f"journal {journal} can't be put aside: {error.strerror}") from error


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _advice(place: Place, address: Address) -> list[str]:
    shown = address_to_hex(address)
    if place.name == "keys.voucher":
        return [
            f"the owner signs a policy for {shown}, with a higher epoch: depai-robot policy sign",
            "deposits that were pre-signed for the old key are of no use: depai-robot policy cancel",
            "the day's limit begins anew with the new key's journal",
        ]
    if place.name == "keys.payer":
        return [f"money that lies at {address_to_hex(place.address)} is moved by its owner to {shown}"]
    if place.name == "keys.receiver":
        return [
            f"{shown} needs gas; owners of robots that name payees sign policies with it",
            f"what was earned lies at {address_to_hex(place.address)}",
        ]
    if place.name == "keys.identity":
        return [f"whoever names this identity in a list (stations, served) changes it to {shown}"]
    return [f"the meter's new key is named in the next offer: {shown}"]
