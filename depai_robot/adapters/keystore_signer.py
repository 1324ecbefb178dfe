"""ports.Signer from a Keystore V3 file, with coincurve. The secret stays in this process, and in no log.

Python can't wipe memory: a core dump of the process holds the key. The wallet therefore runs on its own.
"""

import json
import os
import secrets
import stat
from pathlib import Path
from typing import Any

from coincurve import PrivateKey

from depai_robot.payment.signature import CURVE_ORDER
from depai_robot.values.error import BugError, ConfigError
from depai_robot.values.identity import Address, address_from_hex, address_to_hex, public_key_to_address

DIGEST_BYTES = SECRET_BYTES = 32
KEYSTORE_BYTES_MAX = 65536
LIGHT_SCRYPT_N = 16384
"""scrypt work factor for small boards: 0.03 s and 16 MiB instead of 0.5 s and 300 MiB."""


class KeystoreSigner:
    """Opens a keystore once and signs with it.

    Args:
        path: of the keystore V3 file.
        password: that it was made with.

    Raises:
        ConfigError: no such file, others may read it, not a keystore, or a wrong password.
    """

    def __init__(self, path: Path, password: str) -> None:
        self._key = PrivateKey(_read_secret(path, password))
        self._public_key = bytes(self._key.public_key.format(compressed=False)[1:])
        self._address = public_key_to_address(self._public_key)

    def __repr__(self) -> str:
        """Names the address only."""
        return f"KeystoreSigner({address_to_hex(self._address)})"

    def __reduce__(self) -> Any:
        """A key is never pickled. Raises ConfigError."""
        raise ConfigError("a signer can't be copied to another process")

    @property
    def address(self) -> Address:
        """See ports.Signer."""
        return self._address

    @property
    def public_key(self) -> bytes:
        """See ports.Signer."""
        return self._public_key

    def sign(self, digest: bytes) -> bytes:
        """See ports.Signer."""
        if len(digest) != DIGEST_BYTES:
            raise BugError(f"a digest has {DIGEST_BYTES} bytes, got {len(digest)}")
        signature = bytes(self._key.sign_recoverable(digest, hasher=None))
        return signature[:64] + bytes([signature[64] + 27])


def new_secret() -> bytes:
    """A key from the system's randomness."""
    while True:
        secret = secrets.token_bytes(SECRET_BYTES)
        if 0 < int.from_bytes(secret, "big") < CURVE_ORDER:
            return secret


def write_keystore(path: Path, secret: bytes, password: str, *, light: bool = True) -> Address:
    """Writes a keystore V3 file that only its owner can read, and never over another one.

    Returns:
        The key's address.

    Raises:
        ConfigError: the file exists or can't be written, or the password is empty.
    """
    from eth_account import Account

    if not password:
        raise ConfigError(f"keystore {path}: expected a password, got none")
    address = public_key_to_address(PrivateKey(secret).public_key.format(compressed=False))
    keystore = Account.encrypt(secret, password, kdf="scrypt", iterations=LIGHT_SCRYPT_N if light else None)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(keystore, file)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as error:
        raise ConfigError(f"keystore {path} exists: a key is never overwritten") from error
    except OSError as error:
        raise ConfigError(f"keystore {path}: {error.strerror}") from error
    return address


def read_keystore_address(path: Path) -> Address:
    """The address that a keystore names, without its password: a claim until the key is opened.

    Raises:
        ConfigError: no such file, others may read it, or it names none.
    """
    try:
        return address_from_hex("0x" + json.loads(_read_private(path))["address"].lower().removeprefix("0x"))
    except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        if isinstance(error, ConfigError) and str(path) in str(error):
            raise
        raise ConfigError(f"keystore {path}: names no address; open it with its password") from None


def _read_secret(path: Path, password: str) -> bytes:
    from eth_account import Account  # 0.4 s and 39 MiB that only key holders pay

    text = _read_private(path)
    try:
        keystore = json.loads(text)
        secret = bytes(Account.decrypt(keystore, password))
        named = str(keystore.get("address", "")).lower().removeprefix("0x")
    except ValueError as error:
        word = "wrong password" if "MAC" in str(error) else "not a keystore V3 file"
        # Neither the file's text nor the password may travel in a chained error.
        raise ConfigError(f"keystore {path}: {word}") from None
    except (KeyError, TypeError, AttributeError, NotImplementedError) as error:
        raise ConfigError(f"keystore {path}: not a keystore V3 file: wrong or without {error}") from None
    if len(secret) != SECRET_BYTES:
        raise ConfigError(f"keystore {path}: holds {len(secret)} bytes, expected a key of {SECRET_BYTES}")
    address = public_key_to_address(PrivateKey(secret).public_key.format(compressed=False))
    if named and named != address.hex():
        raise ConfigError(f"keystore {path}: says address 0x{named}, but its key has 0x{address.hex()}")
    return secret


def _read_private(path: Path) -> str:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise ConfigError(f"keystore {path}: expected a file")
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise ConfigError(
                    f"keystore {path} has mode {stat.S_IMODE(mode):04o}, expected 0600: others can read it"
                )
            data = file.read(KEYSTORE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"keystore {path}: {error.strerror}") from error
    if len(data) > KEYSTORE_BYTES_MAX:
        raise ConfigError(f"keystore {path}: more than {KEYSTORE_BYTES_MAX} bytes, not a keystore V3 file")
    return data.decode("utf-8", errors="replace")
