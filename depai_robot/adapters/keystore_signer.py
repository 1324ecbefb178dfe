"""ports.Signer from a Keystore V3 file, with coincurve. The secret stays in this process, and in no log.

Python can't wipe memory: a core dump of the process holds the key. The wallet therefore runs on its own.
"""

import json
import os
import stat
from pathlib import Path
from typing import Any

from coincurve import PrivateKey

from depai_robot.values.error import ConfigError
from depai_robot.values.identity import Address, address_to_hex, public_key_to_address

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
        from eth_account import Account  # 0.4 s and 39 MiB that only key holders pay

        _require_private(path)
        try:
            keystore = json.loads(path.read_text(encoding="utf-8"))
            secret = bytes(Account.decrypt(keystore, password))
        except OSError as error:
            raise ConfigError(f"keystore {path}: {error.strerror}") from error
        except ValueError as error:
            word = "wrong password" if "MAC" in str(error) else "is not a keystore V3 file"
            raise ConfigError(f"keystore {path}: {word}") from error
        except (KeyError, TypeError, AttributeError, NotImplementedError) as error:
            raise ConfigError(
                f"keystore {path} is not a keystore V3 file: lacks or has a wrong {error}"
            ) from error
        self._key = PrivateKey(secret)
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
        signature = bytes(self._key.sign_recoverable(digest, hasher=None))
        return signature[:64] + bytes([signature[64] + 27])


def write_keystore(path: Path, secret: bytes, password: str, *, light: bool = True) -> Address:
    """Writes a keystore V3 file that only its owner can read, and never over another one.

    Returns:
        The key's address.

    Raises:
        ConfigError: the file exists or can't be written.
    """
    from eth_account import Account

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
    return public_key_to_address(PrivateKey(secret).public_key.format(compressed=False))


def _require_private(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"keystore {path}: {error.strerror}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(
            f"keystore {path} has mode {stat.S_IMODE(mode):04o}, expected 0600: others can read it"
        )
