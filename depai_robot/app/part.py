"""Parts of a program, built from its configuration: keys, broker, chain, journal. One place opens them all."""

import fcntl
import os
import secrets
import socket
import sys
import time
from pathlib import Path

from depai_robot.adapters.core_dump import forbid_core_dumps
from depai_robot.adapters.keystore_signer import KeystoreSigner
from depai_robot.adapters.paho_broker import BrokerAddress, PahoBroker, Tls, Will
from depai_robot.adapters.sqlite_journal import SqliteJournal
from depai_robot.app.config import DEVELOPMENT_CHAINS, BrokerPart, KeyPart, NetworkFile, resolve
from depai_robot.app.passphrase import read_passphrase, read_password
from depai_robot.ports import Chain, Signer
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.error import ConfigError, JournalError
from depai_robot.values.identity import Address, address_from_hex, address_to_hex


class SystemClock:
    """ports.Clock of a robot or station without ROS: monotonic time for sessions, the wall for expiries."""

    def session_ns(self) -> int:
        """See ports.Clock."""
        return time.monotonic_ns()

    def wall_s(self) -> int:
        """See ports.Clock."""
        return int(time.time())


def random_entropy() -> bytes:
    """32 bytes from the system."""
    return secrets.token_bytes(32)


def open_signer(name: str, key: KeyPart, beside: Path, chain_id: int) -> Signer:
    """A key of a file. Before a real one is opened, core dumps of this process are turned off.

    Args:
        name: the key's place in the file, for messages.
        key: as configured.
        beside: the file.
        chain_id: development keys work on development chains only.

    Raises:
        ConfigError: not exactly one kind, or it does not open.
    """
    ways = [way for way in ("keystore", "pkcs11", "development") if getattr(key, way) is not None]
    if len(ways) != 1:
        raise ConfigError(
            f"{beside}: {name}: expected either keystore or pkcs11 with a password_file (or another password_*), or"
            f" development; it names {' and '.join(ways) or 'none'}"
        )
    if key.development is not None:
        if chain_id not in DEVELOPMENT_CHAINS:
            raise ConfigError(
                f"{beside}: {name}: development keys are known to everybody; chain {chain_id} is not one of"
                f" {DEVELOPMENT_CHAINS}"
            )
        return DevelopmentSigner(key.development)
    forbid_core_dumps()
    passphrase = read_passphrase(key, beside, name)
    if key.pkcs11 is not None:
        from depai_robot.adapters.pkcs11_signer import Pkcs11Signer  # an optional extra

        module = resolve(beside, key.pkcs11.module)
        return Pkcs11Signer(module, key.pkcs11.token, key.pkcs11.key, passphrase)
    return KeystoreSigner(resolve(beside, key.keystore or ""), passphrase)


def broker_address(part: BrokerPart, beside: Path) -> BrokerAddress:
    """Where a broker of a file is, and how to be let in.

    Raises:
        ConfigError: the password can't be read.
    """
    password = None if part.password_file is None else read_password(resolve(beside, part.password_file))
    tls = None
    if part.tls is not None:
        tls = Tls(
            ca=resolve(beside, part.tls.ca),
            certificate=resolve(beside, part.tls.certificate) if part.tls.certificate else None,
            key=resolve(beside, part.tls.key) if part.tls.key else None,
        )
    return BrokerAddress(
        part.host, part.port, part.username, password, tls, part.keepalive_s, mqtt5=part.mqtt5
    )


def open_broker(part: BrokerPart, beside: Path, client_id: str, will_topic: str | None = None) -> PahoBroker:
    """The broker of a file, not connected yet.

    Args:
        part: as configured.
        beside: the file.
        client_id: of this program.
        will_topic: retained topic that is cleared when the program is gone.

    Raises:
        ConfigError: password or certificates can't be read.
    """
    address = broker_address(part, beside)
    return PahoBroker(address, client_id, will=None if will_topic is None else Will(will_topic))


def open_chain(
    network: NetworkFile, signer: Signer | None, beside: Path, outbox: Path | None = None
) -> Chain:
    """The chain of a file; asks nothing yet.

    Args:
        network: pinned.
        signer: of the account that sends; None only reads.
        beside: the configuration file, for messages.
        outbox: where what is signed is kept until it lies deep, beside the journal; None keeps it in memory.

    Raises:
        ConfigError: no endpoints, or contracts that are not pinned.
        JournalError: the outbox can't be used.
    """
    from depai_robot.adapters.web3_chain import NetworkConfig, Web3Chain  # 0.6 s and 61 MiB

    for name in ("settlement_code_hash", "collector_code_hash"):
        if getattr(network, name) is None:
            raise ConfigError(
                f"{beside}: the network's {name} is not pinned: expected keccak-256 of the contract's code"
            )
    return Web3Chain(
        NetworkConfig(
            rpc_urls=tuple(network.rpc_urls),
            chain_id=network.chain_id,
            token=address_from_hex(network.token),
            token_name=network.token_name,
            token_version=network.token_version,
            settlement_code_hash=bytes.fromhex((network.settlement_code_hash or "")[2:]),
            collector_code_hash=bytes.fromhex((network.collector_code_hash or "")[2:]),
            settlement=address_from_hex(network.settlement),
            collector=address_from_hex(network.collector),
            fee_max_wei=network.fee_max_wei,
            agree=network.agree,
            rpc_timeout_s=network.rpc_timeout_s,
        ),
        signer,
        outbox,
    )


class KeyLock:
    """One process per key on this machine, whatever folder its journal is in: two must never sign.

    A file's lock, and on Linux a name in the abstract socket namespace besides: that one is the same for every user,
    folder and environment (a service and a shell have other runtime folders). Both go with the process, however it
    ends. Other machines, and containers with a network of their own, are out of reach: one key is for one robot.

    Raises:
        JournalError: another process holds it.
    """

    def __init__(self, address: Address) -> None:
        runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/depai-{os.getuid()}"  # noqa: S108 (0700, checked)
        folder = Path(runtime)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            if folder.stat().st_uid != os.getuid():
                raise JournalError(f"{folder} belongs to user {folder.stat().st_uid}, expected {os.getuid()}")
            path = folder / f"depai-{address_to_hex(address)}.lock"
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise JournalError(f"key lock in {folder}: {error}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._file)
            raise JournalError(
                f"key {address_to_hex(address)} is in use by another process: two must never sign"
            ) from error
        self._name: socket.socket | None = None
        if sys.platform != "linux":
            return
        self._name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._name.bind(f"\0depai-{address_to_hex(address)}")
        except OSError as error:
            self.release()
            raise JournalError(
                f"key {address_to_hex(address)} is in use by another process, perhaps another user's: two must never"
                " sign"
            ) from error

    def release(self) -> None:
        """Lets another process sign."""
        os.close(self._file)
        if self._name is not None:
            self._name.close()


def open_locked_journal(path: Path, owner: Address) -> tuple[KeyLock, SqliteJournal]:
    """The journal of a key, and the lock on the key.

    Raises:
        JournalError: key or journal is held, or the journal is damaged, of another key, or not writable.
    """
    lock = KeyLock(owner)
    try:
        return lock, SqliteJournal(path, address_to_hex(owner))
    except JournalError:
        lock.release()
        raise
