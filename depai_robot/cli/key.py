"""``depai-robot key``: makes, shows and changes keys. No command prints a secret."""

import stat
from pathlib import Path

import click

from depai_robot.cli.passphrase import get_passphrase, open_key, passphrase_options

_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
_KDF = click.option(
    "--kdf",
    type=click.Choice(["light", "standard"]),
    default="standard",
    show_default=True,
    help="Work of the passphrase: standard 0.5 s and 300 MiB at each start, light 0.03 s and 16 MiB (small boards;"
    " choose a long random passphrase).",
)


@click.group()
def key() -> None:
    r"""Keys of a robot, a station or an owner, in Keystore V3 files of mode 0600.

    \b
    A new one:             depai-robot key new keys/voucher.json
    Whose is it:           depai-robot key show keys/voucher.json
    Another in its place:  depai-robot key rotate --config wallet.yaml voucher

    Back a keystore and its passphrase up before money is near it: nobody can make it again.
    """


@key.command()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@_KDF
@passphrase_options
def new(path: Path, kdf: str, password_file: Path | None, password_fd: int | None) -> None:
    """Make a key from the system's randomness. An existing file is never overwritten."""
    from depai_robot.adapters.core_dump import forbid_core_dumps
    from depai_robot.adapters.keystore_signer import new_secret, write_keystore
    from depai_robot.values.identity import address_to_hex

    forbid_core_dumps()
    passphrase = get_passphrase(password_file, password_fd, what=str(path), twice=True)
    address = write_keystore(path, new_secret(), passphrase, light=kdf == "light")
    click.echo(f"{address_to_hex(address)}  {path} (mode 0600)")


@key.command()
@click.argument("path", type=_FILE)
@click.option("--open", "opened", is_flag=True, help="Open it, so that the address is sure.")
@passphrase_options
def show(path: Path, password_file: Path | None, password_fd: int | None, *, opened: bool) -> None:
    """Say the address of a keystore, and how it is protected. The secret is never shown."""
    import json

    from depai_robot.adapters.keystore_signer import read_keystore_address
    from depai_robot.values.identity import address_to_hex

    if opened:
        signer = open_key(path, password_file, password_fd)
        click.echo(f"{address_to_hex(signer.address)}  {path} (opened: sure)")
    else:
        click.echo(f"{address_to_hex(read_keystore_address(path))}  {path} (as the file names it)")
    crypto = json.loads(path.read_text(encoding="utf-8")).get("crypto", {})
    work = crypto.get("kdfparams", {})
    cost = ", ".join(f"{name} {work[name]}" for name in ("n", "r", "p", "c") if name in work)
    click.echo(f"mode {stat.S_IMODE(path.stat().st_mode):04o}, {crypto.get('kdf')} ({cost})")


@key.command()
@click.argument("role")
@click.option("--config", type=_FILE, required=True, help="wallet.yaml or station.yaml.")
@click.option("--check", is_flag=True, help="Only say whether the key may go, and what is open under it.")
@_KDF
def rotate(role: str, config: Path, kdf: str, *, check: bool) -> None:
    """Put a fresh key in the place of ROLE, once nothing is open under the old one.

    ROLE is identity, voucher or payer of a robot; identity, receiver or meter-1 of a station. The program must be
    stopped. The old keystore stays beside the new one, which has the same passphrase. What the owner must do then
    is said.
    """
    import sys

    from depai_robot.app.rotation import find_place, read_program, what_blocks
    from depai_robot.app.rotation import rotate as rotate_key
    from depai_robot.values.identity import address_to_hex

    place = find_place(config, read_program(config), role)
    if check:
        blocks = what_blocks(place)
        for line in blocks:
            click.echo(line)
        if blocks:
            sys.exit(1)
        click.echo(f"{place.name} {address_to_hex(place.address)} may go: nothing is open under it")
        return
    address, old, advice = rotate_key(place, light=kdf == "light")
    click.echo(f"{place.name} is now {address_to_hex(address)}; the old key is kept: {old}")
    for line in advice:
        click.echo(f"next: {line}")
