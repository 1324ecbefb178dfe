"""``depai-robot report``: writes report.html again from what a run left."""

from pathlib import Path

import click

from depai_robot.app.report import write_report


@click.command()
@click.argument("run", type=click.Path(path_type=Path, file_okay=False, exists=True))
def report(run: Path) -> None:
    """Write RUN/report.html from the story, the journals and the receipt in RUN (a folder below out/)."""
    click.echo(write_report(run))
