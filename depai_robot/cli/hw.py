"""``depai-robot hw``: what is plugged in."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from depai_robot.app.hardware_probe import list_serial_ports, probe


@click.group()
def hw() -> None:
    """A robot's own hardware on serial ports."""


@hw.command("probe")
@click.argument("ports", nargs=-1, type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def probe_command(ports: tuple[str, ...], *, as_json: bool) -> None:
    """Find out what is on the serial ports, and name it.

    \b
    Without PORTS every USB port is looked at. Listens for our base board, asks as
    a Create 2 is asked, listens for Victron's monitors, asks as JBD and Daly boards and
    Modbus meters (address 1; extra: modbus) are asked: about 9 s where nothing answers.
    Nothing that could move or change anything is sent; a Create that is in use stops.
    Stop the hardware process first: a port has one master.

    Exit code 0 when everything was named, 1 when something was not, 2 without ports.
    """  # noqa: D301
    listed = [(port, "") for port in ports] or list_serial_ports()
    if not listed:
        click.echo("error: no serial ports here; is the adapter plugged in, and its driver loaded?", err=True)
        sys.exit(2)
    found = probe(listed)
    if as_json:
        click.echo(json.dumps([asdict(item) for item in found], indent=2))
    else:
        for item in found:
            about = f"  ({item.about})" if item.about else ""
            click.echo(f"{item.port:20} {item.device or 'unknown':10} {item.detail}{about}")
    sys.exit(0 if all(item.device for item in found) else 1)


@hw.command("stop")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    required=True,
    help="The robot's hardware.yaml.",
)
def stop_command(config: Path) -> None:
    """Tell the wheels to stand, after the hardware process has ended.

    For bases that drive on when nobody speaks to them (create-oi); a systemd unit runs
    it whenever the robot's service ends, however that came about. Our own board
    (depai-mcu) stops by itself, and nothing is sent to it. While the hardware process
    runs the port is its own, and this is refused.

    Exit code 0 when the wheels were told or stop by themselves, 1 when not.
    """
    from depai_robot.app.robot_hardware import read_hardware, stop_wheels
    from depai_robot.values.error import DepaiError

    try:
        click.echo(stop_wheels(read_hardware(config)))
    except DepaiError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
