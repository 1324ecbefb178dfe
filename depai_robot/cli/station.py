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


@station.command()
@click.option(
    "--config",
    "config",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    required=True,
    help="The station's configuration, a YAML file; settings.block_milliwh must be set.",
)
@click.option("--listen", default="127.0.0.1:8402", show_default=True, help="Address and port.")
@click.option("--base-url", help="Where buyers see it, when that is another address (a proxy with TLS).")
@click.option("-v", "--verbose", is_flag=True, help="Say more.")
def http(config: Path, listen: str, base_url: str | None, *, verbose: bool) -> None:
    """Sell blocks of energy over HTTP (x402, scheme exact) until SIGINT or SIGTERM.

    For buyers that speak no MQTT: GET /connectors/1/block answers 402 with what a block costs; the same
    request with a payment lets power flow for it. Takes the connectors for itself, so it runs instead of
    `station run`. Put TLS in front of it. Needs the extra: pip install 'depai_robot[http]'.
    """
    import waitress

    from depai_robot.adapters.sqlite_journal import SqliteJournal
    from depai_robot.app.http_service import make_service
    from depai_robot.app.http_shop import BlockShop, require_shop_url
    from depai_robot.app.station import open_station
    from depai_robot.values.identity import address_to_hex

    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    parts = open_station(config)
    settings = parts.settings
    journal = SqliteJournal(
        parts.folder / f"shop-{settings.station}.sqlite", address_to_hex(settings.identity)
    )
    try:
        shop = BlockShop(
            settings,
            dict(parts.connectors),
            parts.chain,
            journal,
            require_shop_url(base_url or f"http://{listen}"),
        )
        resumed = shop.resume()
        server = waitress.create_server(make_service(shop), listen=listen, threads=8)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda _number, _frame: server.close())
        click.echo(
            f"{settings.station} sells blocks at {shop.url_of(1)} ({resumed} interrupted sales were ended)"
        )
        server.run()
    finally:
        for contactor in parts.connectors.values():
            contactor.deenergise()
        journal.close()
        parts.journal.close()
        if parts.key_lock is not None:
            parts.key_lock.release()
