"""``depai-fleet``: the command line of the operators' console."""

import contextlib
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from depai_robot import __version__
from depai_robot.adapters.paho_broker import BrokerAddress, Tls
from depai_robot.console import pace
from depai_robot.console.command import Role, parse_role
from depai_robot.console.dayreport import parse_day, write_day
from depai_robot.console.history import History
from depai_robot.console.hub import INTERFACES, Hub, HubSettings
from depai_robot.console.order import OrderDesk
from depai_robot.console.query import FILTERS, SORTS, Query
from depai_robot.values.error import ConfigError, DepaiError

SETTINGS = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
    "auto_envvar_prefix": "DEPAI_FLEET",
}
BROKER_ERROR = "install the console's parts: pip install 'depai_robot[console]'"


def default_history() -> Path:
    """Of this user: ``$XDG_STATE_HOME/depai/fleet.sqlite``."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "depai" / "fleet.sqlite"


def _address(
    broker: str,
    *,
    username: str | None,
    password_file: Path | None,
    ca: Path | None,
    cert: Path | None,
    key: Path | None,
) -> BrokerAddress:
    host, colon, port = broker.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65536 or not host:
        raise ConfigError(f"broker {broker!r}, expected host:port, as localhost:1883")
    if (cert is None) != (key is None):
        raise ConfigError("--cert and --key belong together")
    if cert is not None and ca is None:
        raise ConfigError("--cert needs --ca: without it the broker does not prove who it is")
    password = None
    if password_file is not None:
        try:
            password = password_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(f"{password_file}: {error.strerror}") from error
    tls = Tls(ca, cert, key) if ca is not None else None
    return BrokerAddress(host.strip("[]"), int(port), username, password, tls)


@click.group(invoke_without_command=True, context_settings=SETTINGS)
@click.option("--broker", default="localhost:1883", show_default=True, help="MQTT broker, host:port.")
@click.option("--username", help="For a broker that wants one.")
@click.option("--password-file", type=click.Path(path_type=Path, dir_okay=False), help="Its first line.")
@click.option("--ca", type=click.Path(path_type=Path, dir_okay=False), help="TLS: authority of the broker.")
@click.option("--cert", type=click.Path(path_type=Path, dir_okay=False), help="TLS: our certificate.")
@click.option("--key", type=click.Path(path_type=Path, dir_okay=False), help="TLS: its key.")
@click.option(
    "--interface",
    multiple=True,
    default=INTERFACES,
    show_default=True,
    help="VDA 5050 topics: <name>/<major>.",
)
@click.option("--manufacturer", default="+", help="Only robots of this one (default: all).")
@click.option(
    "--role",
    default="viewer",
    show_default=True,
    help="viewer looks; operator also commands and acknowledges.",
)
@click.option("--who", default="", help="Your name in the audit log (default: the user).")
@click.option(
    "--operator-key",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Your keystore, for signed orders: pause spending, lower a limit, bar a station. Needs --role operator.",
)
@click.option(
    "--operator-password-file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="File of its passphrase, mode 0600. Without it you are asked.",
)
@click.option(
    "--chain-id", type=int, default=31337, show_default=True, help="That the robots' identities live on."
)
@click.option(
    "--history",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="SQLite file: a restarted console shows the last day. [default: ~/.local/state/depai/fleet.sqlite]",
)
@click.option("--no-history", is_flag=True, help="Keep nothing on disk (no audit log either: viewer only).")
@click.option("--metrics-port", type=click.IntRange(0, 65535), help="Prometheus at 127.0.0.1:PORT/metrics.")
@click.option(
    "--export-folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Where x writes.",
)
@click.version_option(__version__, prog_name="depai-fleet")
@click.pass_context
def cli(
    context: click.Context,
    *,
    broker: str,
    username: str | None,
    password_file: Path | None,
    ca: Path | None,
    cert: Path | None,
    key: Path | None,
    interface: tuple[str, ...],
    manufacturer: str,
    role: str,
    who: str,
    operator_key: Path | None,
    operator_password_file: Path | None,
    chain_id: int,
    history: Path | None,
    no_history: bool,
    metrics_port: int | None,
    export_folder: Path,
) -> None:
    """The operators' console of a fleet that speaks VDA 5050 over MQTT.

    Without a command it opens the screen: robots, stations, alerts, a map, an audit log. Press ? there.

    \b
      depai-fleet --broker mqtt.example:8883 --ca ca.crt --cert ann.crt --key ann.key
      depai-fleet --role operator --who ann     may send commands, each after a question
      depai-fleet --role operator --operator-key ann.json    also signed orders about a robot's money
      depai-fleet watch --json | jq .           for scripts
      depai-fleet report --day yesterday        spend, energy, failures: HTML and CSV
      depai-fleet serve                         the same screen in a browser
    Every option may stand in the environment: DEPAI_FLEET_BROKER, DEPAI_FLEET_CA, ...
    """  # noqa: D301
    right = parse_role(role)
    if no_history and right > 0:
        raise ConfigError("an operator's console keeps an audit log: leave out --no-history")
    address = _address(broker, username=username, password_file=password_file, ca=ca, cert=cert, key=key)
    path = None if no_history else history or default_history()
    context.obj = HubSettings(address, interface, path, right, who, manufacturer)
    context.meta["metrics_port"] = metrics_port
    if context.invoked_subcommand is None:
        desk = None
        if operator_key is not None:
            if right < Role.OPERATOR:
                raise ConfigError("--operator-key is of no use to a viewer: say --role operator")
            desk = open_desk(operator_key, operator_password_file, chain_id)
        _open_screen(context.obj, export_folder, metrics_port, desk)


def open_desk(key: Path, password_file: Path | None, chain_id: int) -> OrderDesk:
    """Opens an operator's keystore; the passphrase comes from a file or is asked before the screen opens.

    Raises:
        ConfigError: no such key, a wrong passphrase, or nobody to ask.
    """
    from depai_robot.adapters.core_dump import forbid_core_dumps
    from depai_robot.adapters.keystore_signer import KeystoreSigner
    from depai_robot.app.config import PassphrasePart
    from depai_robot.app.fleet_guard import seal_document
    from depai_robot.app.passphrase import read_passphrase
    from depai_robot.values.identity import address_to_hex

    forbid_core_dumps()
    if password_file is not None:
        part = PassphrasePart(password_file=str(password_file.absolute()))
        passphrase = read_passphrase(part, Path("command line"), str(key))
    elif sys.stdin.isatty():
        passphrase = str(click.prompt(f"Passphrase of {key}", hide_input=True))
    else:
        raise ConfigError("no terminal to ask for the passphrase: say --operator-password-file")
    signer = KeystoreSigner(key, passphrase)
    return OrderDesk(
        address_to_hex(signer.address), lambda command: seal_document(command, signer, chain_id), chain_id
    )


def _open_screen(
    settings: HubSettings, export_folder: Path, metrics_port: int | None, desk: OrderDesk | None
) -> None:
    pace.prepare()
    from depai_robot.console.app import FleetApp

    # A library's warning would be written across the screen.
    logging.getLogger().addHandler(logging.NullHandler())
    hub = Hub(settings, desk=desk)
    _metrics(hub, metrics_port)
    FleetApp(hub, export_folder).run()


def _metrics(hub: Hub, port: int | None, host: str = "127.0.0.1", *, per_robot: bool = False) -> None:
    if port is None:
        return
    from depai_robot.console.metrics import serve_metrics

    taken = serve_metrics(hub, port, host, per_robot=per_robot)
    if not sys.stderr.isatty():
        click.echo(f"metrics at http://{host}:{taken}/metrics", err=True)


@contextlib.contextmanager
def _running(settings: HubSettings) -> Iterator[Hub]:
    hub = Hub(settings)
    hub.start()
    try:
        yield hub
    finally:
        hub.close()


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option(
    "--once", is_flag=True, help="What is known now, then end (retained words, and states for --for)."
)
@click.option("--for", "seconds", type=click.FloatRange(0), help="End after this many seconds.")
@click.option("--alerts", is_flag=True, help="Alerts as they are raised, seen and cleared; no robots.")
@click.option("--filter", "name", type=click.Choice(list(FILTERS)), default="all", show_default=True)
@click.option(
    "--sort", type=click.Choice(list(SORTS)), default="name", show_default=True, help="With --once."
)
@click.option("--search", default="", help="Words that must stand in a robot's row.")
@click.pass_context
def watch(
    context: click.Context,
    *,
    as_json: bool,
    once: bool,
    seconds: float | None,
    alerts: bool,
    name: str,
    sort: str,
    search: str,
) -> None:
    """Follow the fleet line by line: one line for each change of a robot, or for each alert.

    \b
      depai-fleet watch --json --filter low      robots below 30 %, as they report
      depai-fleet watch --alerts                 a log of troubles
      depai-fleet watch --json --once --for 35   every robot once (each reports within 30 s)
    """  # noqa: D301
    from depai_robot.console.watch import follow, snapshot, write_line

    query = Query(name=name, sort=sort, search=search)
    with _running(context.obj) as hub, _quiet_pipe():
        if once:
            settle_s = seconds if seconds is not None else 2.0
            for robot in snapshot(hub, query, max(settle_s + 5.0, 10.0), settle_s):
                print(write_line(robot, hub, as_json=as_json))
            if not hub.feed.connected:
                raise ConfigError("the broker did not answer")
            return
        until_s = time.monotonic() + seconds if seconds is not None else float("inf")
        for item in follow(hub, query, alerts_only=alerts, until_s=until_s):
            print(write_line(item, hub, as_json=as_json), flush=True)


@contextlib.contextmanager
def _quiet_pipe() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        # `| head` has what it wanted; Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@cli.command()
@click.option("--day", default="today", show_default=True, help="UTC: YYYY-MM-DD, today or yesterday.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("out/fleet"), show_default=True
)
@click.pass_context
def report(context: click.Context, *, day: str, out: Path) -> None:
    """Write a day as a page with plots and CSV: spend per robot and station, energy, price, failures."""
    settings: HubSettings = context.obj
    if settings.history is None or not settings.history.is_file():
        raise ConfigError(f"no history at {settings.history}: a console or watch must have run with it")
    begin_s, name = parse_day(day, time.time())
    history = History(settings.history)
    try:
        click.echo(write_day(history, begin_s, name, out))
    finally:
        history.close()


@cli.command()
@click.option("--port", type=click.IntRange(0, 65535), default=9464, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--per-robot", is_flag=True, help="Two series for each robot, too.")
@click.pass_context
def metrics(context: click.Context, *, port: int, host: str, per_robot: bool) -> None:
    """Run without a screen: Prometheus at /metrics, and the history kept."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with _running(context.obj) as hub:
        _metrics(hub, port, host, per_robot=per_robot)
        while not stop.wait(0.05):
            hub.pump()


@cli.command()
@click.option("--port", type=click.IntRange(1, 65535), default=8642, show_default=True)
@click.option("--host", default="localhost", show_default=True, help="Address to listen at.")
@click.option("--public-url", help="What browsers call it, where a proxy with log-in stands before it.")
@click.pass_context
def serve(context: click.Context, *, port: int, host: str, public_url: str | None) -> None:
    """The console in a browser: each window is a console of its own, with this command's options.

    It has no log-in. An operator's console is served to this machine only; to others through a proxy that asks who
    they are (and then for viewers: one name in the audit log must be one person).
    """
    from depai_robot.console import web

    settings: HubSettings = context.obj
    if settings.role > 0 and not web.is_loopback(host):
        raise ConfigError(f"an operator's console without a log-in at {host}: anybody could send commands")
    program = shutil.which("depai-fleet")
    begin = [program] if program else [sys.executable, "-m", "depai_robot.console.main"]
    web.serve([*begin, *_arguments(context.parent.params if context.parent else {})], host, port, public_url)


def _arguments(params: dict[str, Any]) -> list[str]:
    """The group's options again, as a command line."""
    out: list[str] = []
    for name, value in params.items():
        option = "--" + name.replace("_", "-")
        if value is None or value is False or value == "" or name == "metrics_port":
            continue
        if value is True:
            out.append(option)
        elif isinstance(value, tuple):
            for item in value:
                out += [option, str(item)]
        else:
            out += [option, str(value.resolve() if isinstance(value, Path) else value)]
    return out


def main() -> None:
    """Entry point: an expected error is one line and exit code 2, never a traceback."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except DepaiError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in (
            "textual",
            "textual_serve",
            "prometheus_client",
            "aiohttp",
        ):
            raise
        click.echo(f"error: {error.name} is missing; {BROKER_ERROR}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
