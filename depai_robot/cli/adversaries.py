"""``depai-robot adversaries``: lists the cheats by name, and lets each meet the honest other side."""

from pathlib import Path

import click

from depai_robot.sim.adversary.gallery import SIDES, find, kinds, worst, write_page


@click.command()
@click.argument("names", nargs=-1)
@click.option("--side", type=click.Choice(SIDES), help="Only the cheats of that side.")
@click.option("--run", is_flag=True, help="Let each meet the honest other side, and say what was lost.")
@click.option("--seeds", type=click.IntRange(1, 1000), default=3, show_default=True, help="Runs of each.")
@click.option("--markdown", type=click.Path(dir_okay=False, path_type=Path), help="Write the table there.")
def adversaries(
    names: tuple[str, ...], side: str | None, run: bool, seeds: int, markdown: Path | None
) -> None:
    """List the cheats that the machines are tested against; NAMES picks some (`over-meter`, `robot/alg-none`).

    With --run each meets the honest other side in memory, in some hundredths of a second. Nothing real is touched:
    no chain, no broker, no money.
    """
    chosen = [kind for name in names for kind in find(name)] if names else kinds()
    chosen = [kind for kind in chosen if side in (None, kind.side)]
    if not run:
        for kind in chosen:
            click.echo(f"{kind.side + '/' + kind.name:40s} {kind.what()}")
        return
    outcomes = []
    for kind in chosen:
        outcome = worst(kind, range(1, seeds + 1))
        outcomes.append(outcome)
        verdict = "ok" if outcome.lost_atomic <= outcome.bound_atomic else "TOO MUCH"
        click.echo(
            f"{kind.side + '/' + kind.name:40s} lost {outcome.lost_atomic:5d} of {outcome.bound_atomic:5d} allowed  "
            f"{verdict:8s} {outcome.noticed[:80]}"
        )
    if markdown is not None:
        markdown.write_text(write_page(outcomes, seeds), encoding="utf-8")
        click.echo(f"wrote {markdown}")
    bad = [outcome.name for outcome in outcomes if outcome.lost_atomic > outcome.bound_atomic]
    if bad:
        raise click.ClickException(f"more was lost than the design allows: {', '.join(bad)}")
