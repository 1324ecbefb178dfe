"""``depai-robot operator``: grants of owners to operators, and operators' signed commands to a robot."""

import json
import secrets
import threading
import time
from pathlib import Path
from typing import get_args

import click

from depai_robot.adapters.paho_broker import BrokerAddress, PahoBroker, Tls
from depai_robot.app.fleet_guard import answer_topic, command_topic, seal_document
from depai_robot.cli.passphrase import open_key, passphrase_options
from depai_robot.fleet.command import LIFETIME_MAX_S, LIMITS, OPERATOR_KINDS, Command, Grant, Kind
from depai_robot.values.error import ConfigError, DeviceTimeoutError
from depai_robot.values.identity import address_from_hex, address_to_hex, require_id

DAY_S = 86_400
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
        "docs/fleet.md has topics and bodies."
    )
)
def operator() -> None:
    """Allow an operator, and order a robot: pause, resume, bar or allow a station, tighten a limit.

    An operator's key can only take away. Raising a limit again (widen), up to the signed policy, takes the owner's key.
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


@operator.command()
@click.argument("robot")
@click.argument("kind", type=click.Choice(get_args(Kind)))
@_KEY
@passphrase_options
@_CHAIN
@click.option("--limit", "limits", multiple=True, help="NAME=ATOMIC for tighten and widen; repeatable.")
@click.option("--station", default="", help="Identity address, for bar and allow.")
@click.option("--reason", default="", help="For the audit log.")
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
    host: str,
    port: int,
    ca: Path | None,
    certificate: Path | None,
    tls_key: Path | None,
    timeout: float,
) -> None:
    """Send ROBOT a signed command, and print its answer. Exit code 2 when it refuses or does not answer."""
    signer = open_key(key, password_file, password_fd)
    now_s = int(time.time())
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
    )
    tls = None if ca is None else Tls(ca, certificate, tls_key)
    broker = PahoBroker(BrokerAddress(host, port, tls=tls), f"operator-{secrets.token_hex(4)}")
    answered = threading.Event()
    answers = []

    def take(_topic: str, payload: bytes) -> None:
        try:
            answer = json.loads(payload)
        except ValueError:
            return
        if isinstance(answer, dict) and answer.get("id") == command.id:
            answers.append(answer)
            answered.set()

    broker.connect()
    try:
        broker.subscribe(answer_topic(robot), take)
        broker.publish(command_topic(robot), seal_document(command, signer, chain_id).encode())
        if not answered.wait(timeout):
            raise DeviceTimeoutError(
                f"{robot} does not answer within {timeout:g} s; the command may still be obeyed"
            )
    finally:
        broker.close()
    click.echo(json.dumps(answers[0], indent=2))
    if not answers[0].get("accepted"):
        raise ConfigError(f"{robot} refuses: {answers[0].get('words')}")
