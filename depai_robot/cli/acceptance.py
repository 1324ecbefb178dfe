"""``depai-robot acceptance``: one suite against whatever it is pointed at, and a signed report."""

import subprocess
import sys
from pathlib import Path

import click

from depai_robot.app.acceptance import STEPS, open_report, render
from depai_robot.values.identity import address_to_hex


@click.command()
@click.option(
    "--target",
    type=click.Choice(["embedded", "gazebo", "jetson"]),
    default="embedded",
    show_default=True,
    help="embedded: everything is started here. The others: the robot runs already.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("out"), show_default=True
)
@click.option(
    "--seed", type=click.IntRange(0, 2**31), default=1, show_default=True, help="Of the embedded world."
)
@click.option(
    "--step",
    "steps",
    type=click.Choice(list(STEPS)),
    multiple=True,
    help="Only these; may be given again. Default: all.",
)
@click.option("--robot", default="robot", show_default=True, help="Its id, for the report.")
@click.option("--namespace", default="", help="Of its nodes, where several robots share a domain.")
@click.option("--station", default="", help="The honest station to buy from; any, if empty.")
@click.option("--cheat-station", default="", help="A station that over-counts on purpose.")
@click.option("--cut-command", default="", help="Shell command that cuts the broker.")
@click.option("--restore-command", default="", help="Shell command that brings it back.")
@click.option(
    "--kill-command", default="", help="Shell command that kills the wallet (it must be started again)."
)
@click.option(
    "--timeout", type=click.FloatRange(10, 7200), default=240.0, show_default=True, help="Seconds a session."
)
@click.option(
    "--keystore", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="Tester's key."
)
@click.option("--passphrase-file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--show",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Do not run: check a report's signature and print it.",
)
def acceptance(*, show: Path | None, steps: tuple[str, ...], **options: object) -> None:
    """Let a robot find, dock, pay and leave; meet a cheat; lose its broker; lose its wallet.

    \b
    embedded  starts world, robot, stations, broker and chain here: minutes
    gazebo    after: ros2 launch depai_robot gazebo.launch.py
    jetson    after: ros2 launch depai_robot robot.launch.py ..., on the robot

    Steps that there is no means for are reported as not run, never as passed. The
    report is signed (OUT/acceptance-<target>.jws); without a keystore by a
    development key, which proves nothing about who tested. Needs depai_interfaces.
    """  # noqa: D301
    if show is not None:
        signer, report = open_report(show.read_text(encoding="utf-8"))
        click.echo(f"{render(report)}\nsigned by {address_to_hex(signer)}")
        sys.exit(0 if report.passed else 1)
    command = [sys.executable, "-m", "depai_robot.nodes.acceptance"]
    for name, value in options.items():
        if value not in (None, ""):
            command += [f"--{name.replace('_', '-')}", str(value)]
    if steps:
        command += ["--steps", *steps]
    sys.exit(subprocess.run(command, check=False).returncode)
