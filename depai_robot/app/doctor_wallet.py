"""The doctor's checks of a wallet's file: keys, policy, journal, disk, broker, chain and clock.

No key is opened and no key's passphrase is read; endpoints are named by host alone, since their URLs may hold a key.
"""

import json
import os
import stat
import time
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from depai_robot.adapters.keystore_signer import read_keystore_address
from depai_robot.app.config import (
    DEVELOPMENT_CHAINS,
    KeyPart,
    NetworkFile,
    WalletFile,
    read_network,
    read_wallet,
    resolve,
)
from depai_robot.app.doctor import Finding, check_disk, guarded, nearest_existing
from depai_robot.app.journal_check import check_journal
from depai_robot.app.owner import expectation_of, key_address, verify_policy
from depai_robot.app.part import open_broker, open_chain
from depai_robot.values.error import ChainError, ConfigError, DepaiError, RetryableChainError
from depai_robot.values.identity import address_to_hex

SKEW_MAX_S = 120
"""Messages and quotes expire within minutes; a chain's head is some seconds old."""
_NAMES = ("wallet", "keys", "policy", "journal", "disk", "broker", "chain", "clock")


def check_wallet(path: Path | None) -> list[Finding]:
    """All of them; skipped where there is no file, or it does not read."""
    if path is None:
        return [Finding(name, "skipped", "name the wallet's file: --wallet wallet.yaml") for name in _NAMES]
    path = path.resolve()
    try:
        file = read_wallet(path)
        network = read_network(file.chain, path)
    except DepaiError as error:
        bad = Finding(
            "wallet", "fail", str(error), "config/wallet.yaml in the package is a commented example"
        )
        return [bad, *(Finding(name, "skipped", "the wallet's file does not read") for name in _NAMES[1:])]
    folder = resolve(path, file.folder)
    chain, head_s = look_at_chain(network, path)
    return [
        Finding("wallet", "ok", f"{path}: robot {file.robot} on chain {network.chain_id}"),
        check_keys(file, path, network.chain_id),
        guarded(
            "policy",
            f"the owner signs a new one: depai-robot policy sign; then: depai-robot policy verify --config {path}",
            lambda: check_policy(file, path),
        ),
        guarded(
            "journal",
            f"depai-robot journal verify {folder}",
            lambda: check_kept(file, path, network.chain_id),
        ),
        guarded("disk", "", lambda: check_disk(folder)),
        guarded(
            "broker",
            "host, port, username, password_file and tls below broker; is the broker running?",
            lambda: check_broker(file, path),
        ),
        chain,
        check_clock(head_s, int(time.time()), network.chain_id),
    ]


# --- keys and policy ----------------------------------------------------------------------------------------


def _keys(file: WalletFile) -> list[tuple[str, KeyPart]]:
    roles = (("identity", file.keys.identity), ("voucher", file.keys.voucher), ("payer", file.keys.payer))
    return [(f"keys.{role}", key) for role, key in roles if key is not None]


def check_keys(file: WalletFile, beside: Path, chain_id: int) -> Finding:
    """Files are there, for their owner alone, and keystores have their form."""
    seen, wrong = [], []
    for name, key in _keys(file):
        try:
            seen.append(f"{name} {_look_at_key(name, key, beside, chain_id)}")
        except ConfigError as error:
            wrong.append(str(error))
    if wrong:
        return Finding(
            "keys",
            "fail",
            "; ".join(wrong),
            "chmod 600 the files; a new key: depai-robot key new; docs/keys.md",
        )
    return Finding("keys", "ok", "; ".join(seen))


def _look_at_key(name: str, key: KeyPart, beside: Path, chain_id: int) -> str:
    ways = [way for way in ("keystore", "pkcs11", "development") if getattr(key, way) is not None]
    if len(ways) != 1:
        raise ConfigError(
            f"{name}: expected one of keystore, pkcs11, development; got {' and '.join(ways) or 'none'}"
        )
    if key.development is not None:
        if chain_id not in DEVELOPMENT_CHAINS:
            raise ConfigError(f"{name}: a development key on chain {chain_id}: anybody can spend its money")
        return "development key"
    _look_at_passphrase(name, key, beside)
    if key.pkcs11 is not None:
        module = resolve(beside, key.pkcs11.module)
        if not module.is_file():
            raise ConfigError(f"{name}: no PKCS#11 library {module}")
        return f"in token {key.pkcs11.token!r}, not opened"
    path = resolve(beside, key.keystore or "")
    address = read_keystore_address(path)
    tree = json.loads(path.read_bytes())
    if tree.get("version") != 3 or "crypto" not in {str(part).lower() for part in tree}:
        raise ConfigError(f"{name}: {path}: expected a keystore of version 3, got {tree.get('version')!r}")
    return address_to_hex(address)


def _look_at_passphrase(name: str, key: KeyPart, beside: Path) -> None:
    """Is it where the file says? Its bytes are not read."""
    ways = [key.password_file, key.password_env_file, key.password_fd, key.password_credential]
    if sum(way is not None for way in ways) != 1:
        raise ConfigError(f"{name}: expected its passphrase in exactly one password_* way; docs/keys.md")
    place = key.password_file or key.password_env_file
    if place is None:
        return  # given to the service at its start
    path = resolve(beside, place)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"{name}: {path}: {error.strerror}") from error
    if not stat.S_ISREG(mode) or mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{name}: {path} has mode {stat.S_IMODE(mode):04o}, expected a file of mode 0600")
    if not os.access(path, os.R_OK):
        raise ConfigError(f"{name}: {path} is not this user's to read")


def check_policy(file: WalletFile, beside: Path) -> Finding:
    """As the robot does at its start: signature, robot, chain, epoch, validity."""
    if file.keys.voucher.pkcs11 is not None:
        return Finding("policy", "skipped", "the voucher key is in a token, which the doctor does not open")
    data = resolve(beside, file.policy).read_bytes()
    return Finding("policy", "ok", "; ".join(verify_policy(data, expectation_of(beside))))


# --- journal ------------------------------------------------------------------------------------------------


def check_kept(file: WalletFile, beside: Path, chain_id: int) -> Finding:
    """The journal is whole, and whoever starts the wallet may write it. Opened to read only; no lock is taken."""
    folder = resolve(beside, file.folder)
    place = nearest_existing(folder)
    if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
        return Finding(
            "journal",
            "fail",
            f"this user can't write in {place}",
            f"sudo chown -R $USER {folder}, or run as its user",
        )
    if file.keys.voucher.pkcs11 is None:
        voucher = key_address("keys.voucher", file.keys.voucher, beside, chain_id)
        if is_held(address_to_hex(voucher)):
            return Finding(
                "journal", "skipped", "a wallet is running with this key; stop it to verify its journal"
            )
    path = folder / "wallet.sqlite"
    if not path.exists() and not list(folder.glob("wallet.sqlite*")):
        return Finding("journal", "ok", f"none yet: the first start makes {path}")
    verdict = check_journal(path)
    wrong = [f"{check.name}: {check.detail}" for check in verdict.checks if not check.ok]
    if wrong:
        return Finding(
            "journal",
            "fail",
            "; ".join(wrong),
            f"Start nothing with these keys; depai-robot journal verify {path}; docs/journal.md",
        )
    return Finding("journal", "ok", f"{path}: {verdict.checks[0].detail}, every check passed")


def is_held(address_hex: str, sockets: Path = Path("/proc/net/unix")) -> bool:
    """Whether a process on this machine holds that key's name (app.part.KeyLock); takes nothing itself."""
    try:
        names = {line.rpartition(" ")[2] for line in sockets.read_text(encoding="utf-8").splitlines()}
    except OSError:
        return False
    return f"@depai-{address_hex}" in names


# --- servers ------------------------------------------------------------------------------------------------


def check_broker(file: WalletFile, beside: Path) -> Finding:
    """Connects under a name of its own, always the same: the wallet's would throw a running wallet out."""
    broker = open_broker(file.broker, beside, f"depai-doctor-{file.robot}")
    try:
        broker.connect()
    finally:
        broker.close()
    place = f"{file.broker.host}:{file.broker.port}"
    if file.broker.tls is None and file.broker.host not in ("127.0.0.1", "::1", "localhost"):
        return Finding(
            "broker",
            "warn",
            f"{place} lets us in, without TLS: everybody on the way sees and delays what is said",
            "deploy/mosquitto/README.md: a broker with certificates",
        )
    return Finding("broker", "ok", f"{place} lets us in")


def look_at_chain(network: NetworkFile, beside: Path) -> tuple[Finding, int | None]:
    """Each endpoint by itself: it answers, is on the chain, and has the pinned code; and the newest head's time."""
    if not network.rpc_urls:
        return Finding("chain", "fail", "no endpoints", "chain.rpc_urls in the wallet's file"), None
    good, silent, wrong, head_s = [], [], [], None
    for url in network.rpc_urls:
        host = urlsplit(url).hostname or "an endpoint without a host"
        try:
            chain = open_chain(msgspec.structs.replace(network, rpc_urls=[url], agree=1), None, beside)
            chain.check_pins()
            head = chain.head()
        except RetryableChainError as error:
            silent.append(str(error))
        except (ChainError, ConfigError) as error:
            wrong.append(f"{host}: {error}")
        else:
            good.append(f"{host} at block {head.number}")
            head_s = max(head_s or 0, head.timestamp_s)
    seen = "; ".join([*wrong, *silent, *good])
    if wrong:
        return Finding(
            "chain", "fail", seen, "chain.network, its chain_id, token and code hashes; docs/security.md"
        ), head_s
    if len(good) < network.agree:
        mend = f"{network.agree} endpoints must agree about money: check the network, or name others in chain.rpc_urls"
        return Finding("chain", "fail", seen, mend), head_s
    if silent:
        return Finding(
            "chain", "warn", seen, "enough answer; replace the silent one in chain.rpc_urls"
        ), head_s
    return Finding("chain", "ok", f"chain {network.chain_id}, pins agree: {seen}"), head_s


def check_clock(head_s: int | None, wall_s: int, chain_id: int) -> Finding:
    """The wall clock against the newest block."""
    if head_s is None:
        return Finding("clock", "skipped", "no chain to compare it with")
    skew_s = wall_s - head_s
    if abs(skew_s) <= SKEW_MAX_S:
        return Finding("clock", "ok", f"{skew_s:+d} s against the newest block")
    if skew_s > 0 and chain_id in DEVELOPMENT_CHAINS:
        return Finding(
            "clock", "warn", f"{skew_s:+d} s against the newest block: a development chain may stand still"
        )
    return Finding(
        "clock",
        "fail",
        f"{skew_s:+d} s against the newest block, expected at most {SKEW_MAX_S}: quotes and policies would be refused",
        "timedatectl set-ntp true (chrony or systemd-timesyncd); a board without a clock's battery starts in the past",
    )
