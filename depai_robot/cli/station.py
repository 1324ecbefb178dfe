"""``depai-robot station``: a charging station's program, over MQTT or HTTP."""

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


@station.command()
@click.option(
    "--config",
    "config",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    required=True,
    help="The station's configuration, a YAML file.",
)
@click.option("--listen", default="127.0.0.1:8402", show_default=True, help="Address and port.")
@click.option("--base-url", help="Where buyers see it, when that is another address (a proxy with TLS).")
@click.option("-v", "--verbose", is_flag=True, help="Say more.")
def http(config: Path, listen: str, base_url: str | None, *, verbose: bool) -> None:
    """Sell energy over HTTP (x402) until SIGINT or SIGTERM.

    \b
    For buyers that speak no MQTT. A GET answers 402 with what it costs; the same
    request with a payment lets power flow:
      /connectors/1/energy  up to a tranche, charged by the meter (batch-settlement)
      /connectors/1/block   one block (exact), when settings.block_milliwh is set
    Takes the connectors for itself, so it runs instead of `station run`. Put TLS
    in front of it. Needs the extra: pip install 'depai_robot[http]'.
    """  # noqa: D301
    from depai_robot.app.http_station import HttpStation
    from depai_robot.app.station import open_station

    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    station = HttpStation(open_station(config), listen, base_url)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: station.stop())
    try:
        ended = station.resume()
        click.echo(
            f"{station.name} sells at {', '.join(station.urls)} ({ended} interrupted sales were ended)"
        )
        station.serve()
    finally:
        station.close()
