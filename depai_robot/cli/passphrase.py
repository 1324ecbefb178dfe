"""How a command gets the passphrase of a key: from a file, a descriptor, or by asking at a terminal."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from depai_robot.values.error import ConfigError

if TYPE_CHECKING:
    from depai_robot.adapters.keystore_signer import KeystoreSigner

F = TypeVar("F", bound=Callable[..., Any])


def passphrase_options(command: F) -> F:
    """Adds --password-file and --password-fd."""
    command = click.option(
        "--password-fd", type=click.IntRange(0, 1023), help="Read the passphrase from this descriptor."
    )(command)
    return click.option(
        "--password-file",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        help="File of the passphrase, mode 0600. Without it you are asked.",
    )(command)


def get_passphrase(
    password_file: Path | None, password_fd: int | None, *, what: str, twice: bool = False
) -> str:
    """The passphrase.

    Args:
        password_file: as given.
        password_fd: as given.
        what: key that it is of, for the question.
        twice: for a new key: asks again, so that a slip does not lock it away.

    Raises:
        ConfigError: both ways, or nobody to ask.
    """
    from depai_robot.app.config import PassphrasePart
    from depai_robot.app.passphrase import read_passphrase

    if password_file is None and password_fd is None:
        if not sys.stdin.isatty():
            raise ConfigError("no terminal to ask for the passphrase: say --password-file or --password-fd")
        return str(click.prompt(f"Passphrase of {what}", hide_input=True, confirmation_prompt=twice))
    part = PassphrasePart(
        password_file=None if password_file is None else str(password_file.absolute()),
        password_fd=password_fd,
    )
    return read_passphrase(part, Path("command line"), what)


def open_key(path: Path, password_file: Path | None, password_fd: int | None) -> "KeystoreSigner":
    """A keystore, with core dumps of this process turned off before. Raises ConfigError."""
    from depai_robot.adapters.core_dump import forbid_core_dumps
    from depai_robot.adapters.keystore_signer import KeystoreSigner

    forbid_core_dumps()
    return KeystoreSigner(path, get_passphrase(password_file, password_fd, what=str(path)))
