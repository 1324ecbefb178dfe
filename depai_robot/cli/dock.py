"""``depai-robot dock``: the charging dock as a thing to be built."""

from pathlib import Path

import click

_FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)


@click.group()
def dock() -> None:
    """Drawings and printable faces of the charging dock."""


@dock.command()
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), default=Path("dock.pdf"), show_default=True
)
@click.option("--marker", default=0, show_default=True, help="Number of the dock's tag (tag36h11).")
@click.option(
    "--page",
    "pages",
    multiple=True,
    type=click.Choice(["panel", "base front", "decal"]),
    help="Only this full-size page; may be said more than once.",
)
@click.option("--config", type=_FOLDER, help="Folder with dock.yaml and dock/.  [default: the package's own]")
def sheet(out: Path, marker: int, pages: tuple[str, ...], config: Path | None) -> None:
    r"""Write a PDF with a dimensioned drawing, and panel, base front and decal in their true size.

    \b
    depai-robot dock sheet --out dock.pdf --marker 3
    depai-robot dock sheet --out panel.pdf --page panel

    Each full-size page has its own paper size and a rule of 100 mm. Print at 100 %, measure the rule, and measure the
    decal: a print that is 2 % off makes every distance 2 % off.
    """
    from depai_robot.app.dock_sheet import sheet_faces, write_sheet
    from depai_robot.app.resource import resource_path
    from depai_robot.perception.dock import parse_dock
    from depai_robot.values.error import ConfigError

    path = config / "dock.yaml" if config else resource_path("config", "dock.yaml")
    textures = config / "dock" if config else resource_path("config", "dock")
    try:
        made = parse_dock(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}") from error
    write_sheet(out, made, textures, marker_id=marker, pages=pages)
    for face in sheet_faces(made, marker):
        click.echo(f"{face.name}: {face.width_mm:g} x {face.height_mm:g} mm")
    click.echo(f"wrote {out}; print at 100 % and measure the rule")
