"""Where a passphrase or PIN comes from: a file, a line of an env file, an inherited descriptor, a systemd credential.

Never an argument (others see it in the process list) and never a variable of the environment (children inherit it).
Nothing here says a secret in a message.
"""

import os
import stat
from pathlib import Path

from depai_robot.app.config import PassphrasePart, resolve
from depai_robot.values.error import ConfigError

PASSPHRASE_BYTES_MAX = 1024
ENV_FILE_BYTES_MAX = 65_536
CREDENTIALS_DIRECTORY = "CREDENTIALS_DIRECTORY"
"""Set by systemd for LoadCredential= and LoadCredentialEncrypted=. Source: systemd.exec(5), Credentials."""


def read_password(path: Path) -> str:
    """The first line of a file that only its owner can read.

    Raises:
        ConfigError: others can read it, it is not there, or it is empty.
    """
    return _first_line(_read_private(path, PASSPHRASE_BYTES_MAX), str(path))


def read_passphrase(part: PassphrasePart, beside: Path, place: str) -> str:
    """The passphrase of a key.

    Args:
        part: says where it is, in exactly one way.
        beside: the configuration file.
        place: of the key in it, for messages.

    Raises:
        ConfigError: no way or several, or it can't be read in the one that is named.
    """
    named = [
        name
        for name in ("password_file", "password_env_file", "password_fd", "password_credential")
        if getattr(part, name) is not None
    ]
    if len(named) != 1:
        raise ConfigError(
            f"{beside}: {place}: a key needs a password_file, or password_env_file and password_name, password_fd or"
            f" password_credential; it names {', '.join(named) or 'none'}"
        )
    if (part.password_name is None) != (part.password_env_file is None):
        raise ConfigError(f"{beside}: {place}: password_name and password_env_file go together")
    if part.password_file is not None:
        return read_password(resolve(beside, part.password_file))
    if part.password_env_file is not None:
        return _read_env(resolve(beside, part.password_env_file), part.password_name or "")
    if part.password_fd is not None:
        return _read_descriptor(part.password_fd)
    return _read_credential(part.password_credential or "")


def _first_line(data: bytes, place: str) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        # The error would carry the bytes.
        raise ConfigError(f"{place}: expected UTF-8 text") from None
    line = text.splitlines()[0] if text else ""
    if not line or len(data) > PASSPHRASE_BYTES_MAX:
        raise ConfigError(f"{place}: expected one line of 1 to {PASSPHRASE_BYTES_MAX} characters")
    return line


def _read_private(path: Path, bytes_max: int, *, others: int = stat.S_IRWXG | stat.S_IRWXO) -> bytes:
    """A file without the bits ``others``; the mode is that of the file which is read, not of its name."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise ConfigError(f"{path}: expected a file")
            if mode & others:
                raise ConfigError(
                    f"{path} has mode {stat.S_IMODE(mode):04o}, expected 0600: others can read it"
                )
            return file.read(bytes_max + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def _read_env(path: Path, name: str) -> str:
    """``NAME=value`` lines; ``#`` begins a comment line; a value may stand in quotes, which are taken off."""
    data = _read_private(path, ENV_FILE_BYTES_MAX)
    if len(data) > ENV_FILE_BYTES_MAX:
        raise ConfigError(f"{path}: more than {ENV_FILE_BYTES_MAX} bytes")
    found = []
    for raw in data.split(b"\n"):
        line = raw.strip().removeprefix(b"export ")
        key, equals, value = line.partition(b"=")
        if line.startswith(b"#") or not equals or key.strip() != name.encode():
            continue
        value = value.strip()
        if len(value) >= 2 and value[:1] == value[-1:] and value[:1] in (b'"', b"'"):
            value = value[1:-1]
        found.append(value)
    if len(found) != 1:
        raise ConfigError(f"{path}: expected one line {name}=..., found {len(found)}")
    return _first_line(found[0], f"{path}: {name}")


def _read_descriptor(number: int) -> str:
    """All of an inherited descriptor, which is then closed: nobody reads it twice, no child inherits it."""
    place = f"file descriptor {number}"
    data = b""
    try:
        while len(data) <= PASSPHRASE_BYTES_MAX and (more := os.read(number, PASSPHRASE_BYTES_MAX + 1)):
            data += more
        os.close(number)
    except OSError as error:
        raise ConfigError(f"{place}: {error.strerror}") from error
    return _first_line(data, place)


def _read_credential(name: str) -> str:
    folder = os.environ.get(CREDENTIALS_DIRECTORY)
    if not folder:
        raise ConfigError(
            f"password_credential {name}: ${CREDENTIALS_DIRECTORY} is not set; start the program by a systemd unit with"
            f" LoadCredential={name}:/path"
        )
    # systemd grants a service its credentials by an access list, which shows as bits of the group.
    return _first_line(_read_private(Path(folder) / name, PASSPHRASE_BYTES_MAX, others=stat.S_IRWXO), name)
