"""``depai-robot doctor``: what is wrong on this machine, and how to mend it."""

import json
import sys
from pathlib import Path

import click
import msgspec

_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
_COLOUR = {"ok": "green", "warn": "yellow", "fail": "red", "skipped": "bright_black"}


@click.command()
@click.option(
    "--wallet", type=_FILE, help="The wallet's file: also checks keys, policy, journal, broker, chain."
)
@click.option(
    "--robot", type=_FILE, help="The robot's file: checks its models, their report and their providers."
)
@click.option("--hardware", type=_FILE, help="hardware.yaml: asks each of its ports.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def doctor(*, wallet: Path | None, robot: Path | None, hardware: Path | None, as_json: bool) -> None:
    r"""Check this machine before a robot runs on it, and say how to mend what is wrong.

    \b
    depai-robot doctor                                    the machine: packages, ROS, ports, camera, models
    depai-robot doctor --wallet wallet.yaml               also keys, policy, journal, broker, chain, clock
    depai-robot doctor --hardware hardware.yaml           also each serial port: there, ours, free, answering
    sudo -u depai depai-robot doctor --wallet /etc/depai/wallet.yaml --robot /etc/depai/robot.yaml

    Run it as the user that will run the robot: rights are part of the answer.
    It changes nothing, asks for no passphrase, opens no key and shows no secret.
    It asks the battery's board and the base as `hw probe` does, unless another program has them.
    It connects to the broker (under a name of its own) and reads from the chain's endpoints.
    A robot's file that names tensorrt builds its engines now, which takes minutes.

    \b
    ok       as it should be          warn     works, but read the line
    fail     mend it first            skipped  could not be asked

    Exit code: 0 without a fail, 1 with one, 2 for wrong usage.
    """
    from depai_robot.app.doctor import examine

    findings = examine(wallet, robot, hardware)
    failed = any(finding.status == "fail" for finding in findings)
    if as_json:
        click.echo(json.dumps({"ok": not failed, "checks": msgspec.to_builtins(findings)}, indent=2))
    else:
        for finding in findings:
            mark = click.style(f"{finding.status:<8}", fg=_COLOUR[finding.status])
            click.echo(f"{mark} {finding.name:<10} {finding.seen}")
            if finding.mend:
                click.echo(f"{'':<20}-> {finding.mend}")
    if failed:
        sys.exit(1)
