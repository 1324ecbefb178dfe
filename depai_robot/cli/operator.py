"""``depai-robot operator``: grants of owners to operators, and operators' signed commands to a robot."""

import datetime as dt
import json
import secrets
import threading
import time
from pathlib import Path
from typing import get_args

import click

from depai_robot.adapters.paho_broker import BrokerAddress, PahoBroker, Tls
from depai_robot.app.fleet_guard import answer_topic, command_topic, seal_document
from depai_robot.app.journal_share import journal_topic
from depai_robot.app.journal_told import FILE_BYTES_MAX, TOLD_WITHIN_S, Collection, Telling, read_told
from depai_robot.cli.passphrase import open_key, passphrase_options
from depai_robot.fleet.command import LIFETIME_MAX_S, LIMITS, OPERATOR_KINDS, Command, Grant, Kind
from depai_robot.values.error import ConfigError, DeviceTimeoutError
from depai_robot.values.identity import address_from_hex, address_to_hex, require_id

DAY_S = 86_400
_SHOWN = {
    "ended": "<20",
    "outcome": "<14",
    "billed_usdc": ">10",
    "station_energy_milliwh": ">8",
    "station": "<12",
    "session": "",
}
_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
_KEY = click.option("--key", type=_FILE, required=True, help="Keystore of who signs.")
_CHAIN = click.option(
    "--chain-id", type=int, default=31337, show_default=True, help="That identities live on."
)


@click.group(
    epilog=(
        "\b\n"
        "The owner, once:   depai-robot operator grant robot-1 0x… --key owner.json >> grants.jws\n"
        "On the robot:      grants: grants.jws      (in wallet.yaml)\n"
        "The operator:      depai-robot operator order robot-1 pause --key ada.json --reason 'a strange bill'\n"
        "Its books:         depai-robot operator order robot-1 journal --days 7 --key ada.json --reason 'November'\n"
        "Read them again:   depai-robot operator read robot-1-….jws --format csv\n"
        "docs/fleet.md has topics and bodies."
    )
)
def operator() -> None:
    """Allow an operator, and order a robot: pause, resume, bar or allow a station, tighten a limit, tell its journal.

    An operator's key can only take away, and ask. Raising a limit again (widen), up to the signed policy, takes the
    owner's key.
    """


@operator.command()
@click.argument("robot")
@click.argument("address")
@_KEY
@passphrase_options
@_CHAIN
@click.option("--kind", "kinds", multiple=True, type=click.Choice(OPERATOR_KINDS), help="Default: all.")
@click.option("--days", default=90, show_default=True, type=click.IntRange(1, 3650))
def grant(
    *,
    robot: str,
    address: str,
    key: Path,
    password_file: Path | None,
    password_fd: int | None,
    chain_id: int,
    kinds: tuple[Kind, ...],
    days: int,
) -> None:
    """Print a grant for the operator at ADDRESS on ROBOT, signed by the owner's key: one line for its grants file."""
    signer = open_key(key, password_file, password_fd)
    now_s = int(time.time())
    made = Grant(
        document="depai.fleet.grant/1",
        operator=address_to_hex(address_from_hex(address)),
        robot=require_id("robot", robot),
        kinds=kinds or OPERATOR_KINDS,
        valid_after_s=now_s,
        valid_before_s=now_s + days * DAY_S,
    )
    click.echo(seal_document(made, signer, chain_id))


def _parse_limits(texts: tuple[str, ...]) -> dict[str, int]:
    limits = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in LIMITS or not value.isdecimal():
            raise ConfigError(f"--limit {text!r}: expected NAME=ATOMIC with a name of {', '.join(LIMITS)}")
        limits[name] = int(value)
    return limits


def _parse_day(name: str, text: str) -> int:
    """2026-11-24, or with a time; UTC unless it says otherwise."""
    try:
        parsed = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(
            f"--{name} {text!r}: expected a day or time as 2026-11-24 or 2026-11-24T08:00"
        ) from error
    zoned = parsed if parsed.tzinfo else parsed.replace(tzinfo=dt.timezone.utc)
    return int(zoned.timestamp())


class _Ear:
    """Hears what the robot says to one command."""

    def __init__(self, command: Command, told: Collection) -> None:
        self.answer: dict[str, object] = {}
        self.told = told
        self._command = command
        self._answered, self._over = threading.Event(), threading.Event()

    def take_answer(self, _topic: str, payload: bytes) -> None:
        try:
            answer = json.loads(payload)
        except (ValueError, RecursionError):
            return
        if isinstance(answer, dict) and answer.get("id") == self._command.id:
            self.answer = answer
            self._answered.set()

    def take_part(self, _topic: str, payload: bytes) -> None:
        self.told.take(payload)
        if self.told.is_over:
            self._over.set()

    def wait_answer(self, timeout_s: float) -> None:
        if not self._answered.wait(timeout_s):
            raise DeviceTimeoutError(
                f"{self._command.robot} does not answer within {timeout_s:g} s; the command may still be obeyed"
            )

    def wait_told(self, timeout_s: float) -> Telling:
        self._over.wait(timeout_s)
        if self.told.refusal:
            raise ConfigError(f"{self._command.robot} tells no journal: {self.told.refusal}")
        if self.told.told is None:
            raise DeviceTimeoutError(
                f"{self._command.robot} told {self.told.progress} of its journal within {timeout_s:g} s"
            )
        return self.told.told


@operator.command()
@click.argument("robot")
@click.argument("kind", type=click.Choice(get_args(Kind)))
@_KEY
@passphrase_options
@_CHAIN
@click.option("--limit", "limits", multiple=True, help="NAME=ATOMIC for tighten and widen; repeatable.")
@click.option("--station", default="", help="Identity address, for bar and allow.")
@click.option("--reason", default="", help="For the audit log.")
@click.option(
    "--days", default=7, show_default=True, type=click.IntRange(1, 366), help="For journal: up to now."
)
@click.option("--since", help="For journal, instead of --days: as 2026-11-24, UTC.")
@click.option("--until", help="For journal: before then; now when left out.")
@click.option("--identity", help="For journal: address of the robot's identity key, whose signature counts.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="For journal: file; ROBOT-<id>.jws when left out.",
)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=1883, show_default=True, type=click.IntRange(1, 65535))
@click.option("--ca", type=_FILE, help="Certificate authority of the broker: then TLS is spoken.")
@click.option("--certificate", type=_FILE, help="Ours.")
@click.option("--tls-key", type=_FILE, help="Of the certificate.")
@click.option("--timeout", default=10.0, show_default=True, help="Seconds to wait for the robot's answer.")
def order(
    *,
    robot: str,
    kind: Kind,
    key: Path,
    password_file: Path | None,
    password_fd: int | None,
    chain_id: int,
    limits: tuple[str, ...],
    station: str,
    reason: str,
    days: int,
    since: str | None,
    until: str | None,
    identity: str | None,
    out: Path | None,
    host: str,
    port: int,
    ca: Path | None,
    certificate: Path | None,
    tls_key: Path | None,
    timeout: float,
) -> None:
    """Send ROBOT a signed command, and print its answer. Exit code 2 when it refuses or does not answer.

    journal asks for the sessions that ended between two times: the robot tells them in parts that it signs, which are
    kept in a file. Only sessions and day totals are told, never a key or a message.
    """
    signer = open_key(key, password_file, password_fd)
    now_s = int(time.time())
    span = {}
    if kind == "journal":
        until_s = now_s + 1 if until is None else _parse_day("until", until)
        span = {
            "until_s": until_s,
            "since_s": until_s - days * DAY_S if since is None else _parse_day("since", since),
        }
    command = Command(
        document="depai.fleet.command/1",
        id=secrets.token_hex(8),
        robot=require_id("robot", robot),
        kind=kind,
        issued_s=now_s,
        expires_s=now_s + LIFETIME_MAX_S,
        limits=_parse_limits(limits),
        station=address_to_hex(address_from_hex(station)) if station else "",
        reason=reason,
        **span,
    )
    expected = address_from_hex(identity) if identity else None
    ear = _Ear(command, Collection(robot, command.id, chain_id, expected))
    tls = None if ca is None else Tls(ca, certificate, tls_key)
    broker = PahoBroker(BrokerAddress(host, port, tls=tls), f"operator-{secrets.token_hex(4)}")
    broker.connect()
    try:
        broker.subscribe(answer_topic(robot), ear.take_answer)
        if kind == "journal":
            broker.subscribe(journal_topic(robot), ear.take_part)
        broker.publish(command_topic(robot), seal_document(command, signer, chain_id).encode())
        ear.wait_answer(timeout)
        click.echo(json.dumps(ear.answer, indent=2))
        if not ear.answer.get("accepted"):
            raise ConfigError(f"{robot} refuses: {ear.answer.get('words')}")
        if kind == "journal":
            told = ear.wait_told(TOLD_WITHIN_S)
            path = Path(f"{robot}-{command.id}.jws") if out is None else out
            told.write(path)
            click.echo(f"{told.text()}; kept in {path}")
    finally:
        broker.close()


@operator.command()
@click.argument("path", type=_FILE)
@_CHAIN
@click.option("--identity", help="Address of the robot's identity key: anybody else's signature is refused.")
@click.option(
    "--format", "form", type=click.Choice(["text", "csv", "json", "head"]), default="text", show_default=True
)
def read(*, path: Path, chain_id: int, identity: str | None, form: str) -> None:
    """Check a journal that a robot told, and print it. Exit code 2 when a signature or a part is not as it must be.

    \b
    csv   the table of sessions, as 'journal export' writes it
    json  sessions and days
    head  where the robot's journal ended then. Whoever has the robot's file later checks it against that:
          depai-robot journal verify wallet.sqlite --head head.json
    """  # noqa: D301 (click wants the character itself)
    from depai_robot.app.book_table import format_csv
    from depai_robot.app.story import clean

    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    try:
        told = read_told(data, chain_id, address_from_hex(identity) if identity else None)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if form == "text":
        click.echo(told.text())
        for row in told.extract.sessions:
            cells = {name: clean(str("-" if row.get(name) is None else row[name])) for name in _SHOWN}
            click.echo("  ".join(f"{cells[name]:{form}}" for name, form in _SHOWN.items()))
    elif form == "csv":
        click.echo(format_csv("sessions", told.extract.sessions), nl=False)
    elif form == "head":
        click.echo(json.dumps({"rows": told.extract.rows, "hash": told.extract.head}))
    else:
        document = {"robot": told.robot, "sessions": told.extract.sessions, "days": told.extract.days}
        click.echo(json.dumps(document, indent=1))
