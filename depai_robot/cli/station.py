"""``depai-robot station run``: a charging station's program."""

import logging
import signal
import sys
import threading
from pathlib import Path

import click


@click.group()
def station() -> None:
    """Run a charging station."""


@station.command()
@click.option(
    "--config",
    "config",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    required=True,
    help="The station's configuration, a YAML file.",
)
@click.option("-v", "--verbose", is_flag=True, help="Say more.")
def run(config: Path, *, verbose: bool) -> None:
    """Sell energy until SIGINT or SIGTERM.

    The station publishes a signed offer, answers quote requests, relays a robot's deposit, switches its contactor on as
    vouchers come in, and claims exactly what it is owed. A restart at any moment goes on where it stopped.
    """
    from depai_robot.app.station import StationProgram, open_station

    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stopping.set())
    program = StationProgram(open_station(config))
    try:
        program.start()
        name, folded_s = program.state.settings.station, program.runner.recovery_s
        click.echo(f"station {name} serves (journal folded in {folded_s:.3f} s)")
        while not stopping.wait(0.2):
            if program.failure is not None:
                raise program.failure
    finally:
        program.stop()
