"""``depai-robot policy``: the owner's desk. Writes, signs, shows and checks policies, and pre-signs deposits."""

import json
import sys
from pathlib import Path

import click

from depai_robot.cli.passphrase import open_key, passphrase_options

_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
_NEW_FILE = click.Path(path_type=Path, dir_okay=False)
_KEY = click.option("--key", type=_FILE, help="Keystore V3 of the signing key. It stays off the robot.")


@click.group()
def policy() -> None:
    """What a robot may spend, signed by its owner, off the robot.

    \b
    1. A draft with comments:   depai-robot policy init draft.yaml --robot 0x...
    2. Fill it in, sign it:     depai-robot policy sign draft.yaml --key owner.json --output policy.json
    3. Read what it allows:     depai-robot policy show policy.json
    4. As the robot will:       depai-robot policy verify policy.json --config wallet.yaml

    Where the robot shall hold no payer's key, the treasury signs deposits beforehand (presign), each for one
    station, and takes back what was not sent (cancel).
    """  # noqa: D301 (click wants the character itself)


@policy.command()
@click.argument("draft", type=_NEW_FILE)
@click.option("--robot", default="0x" + "0" * 40, help="Address of the robot's voucher key.")
@click.option("--network", default="base-sepolia", show_default=True, help="Name of its network.")
def init(draft: Path, robot: str, network: str) -> None:
    """Write a commented draft; an existing file is left alone."""
    from depai_robot.app.policy_draft import template
    from depai_robot.values.error import ConfigError
    from depai_robot.values.identity import address_from_hex, address_to_hex

    text = template(draft.name, address_to_hex(address_from_hex(robot)), network)
    try:
        with draft.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"{draft}: {error.strerror}") from error
    click.echo(f"{draft} is written. Fill it in; then: depai-robot policy sign {draft} --key owner.json")


@policy.command()
@click.argument("draft", type=_FILE)
@_KEY
@passphrase_options
@click.option("--output", type=_NEW_FILE, default=Path("policy.json"), show_default=True, help="Signed file.")
@click.option("--typed-data", is_flag=True, help="Print what an external wallet signs (EIP-712), and end.")
@click.option("--owner", help="With --signature: the address of the external wallet.")
@click.option("--signature", help="Of the external wallet over --typed-data, 0x and 130 digits.")
@click.option("--yes", is_flag=True, help="Do not ask before signing.")
def sign(
    *,
    draft: Path,
    key: Path | None,
    password_file: Path | None,
    password_fd: int | None,
    output: Path,
    owner: str | None,
    signature: str | None,
    typed_data: bool,
    yes: bool,
) -> None:
    """Sign a draft with the owner's key, or put an external wallet's signature to it.

    What it allows is shown first, and what it widens against the file that it replaces.
    """
    from depai_robot.app.owner import replace_policy, write_file
    from depai_robot.app.policy_draft import policy_to_words, read_draft
    from depai_robot.payment.policy import format_policy, policy_digest, policy_typed_data
    from depai_robot.payment.signature import SignatureError, verify
    from depai_robot.values.error import ConfigError
    from depai_robot.values.identity import address_from_hex, address_to_hex

    made, chain_id = read_draft(draft)
    if typed_data:
        click.echo(json.dumps(policy_typed_data(made, chain_id), indent=2))
        return
    if (key is None) == (signature is None) or (owner is None) != (signature is None):
        raise ConfigError("expected either --key, or --owner and --signature of an external wallet")
    click.echo("\n".join(policy_to_words(made, chain_id)))
    replaced = replace_policy(output, made)
    for line in replaced:
        click.echo(line)
    if key is not None:
        if not yes and sys.stdin.isatty():
            click.confirm("Sign this?", abort=True)
        signer = open_key(key, password_file, password_fd)
        by, raw = signer.address, signer.sign(policy_digest(made, chain_id))
    else:
        by = address_from_hex(owner or "")
        try:
            raw = bytes.fromhex((signature or "").removeprefix("0x"))
            verify(policy_digest(made, chain_id), raw, by)
        except (ValueError, SignatureError) as error:
            raise ConfigError(f"that is no signature of {owner} over this draft: {error}") from error
    if by == made.robot:
        raise ConfigError(
            "the robot's own key can't sign its policy: the owner's key is another, off the robot"
        )
    write_file(output, format_policy(made, chain_id, by, raw))
    click.echo(f"signed by {address_to_hex(by)}: {output}")


@policy.command()
@click.argument("file", type=_FILE)
def show(file: Path) -> None:
    """Say in plain words what a policy file allows, and who signed it."""
    from depai_robot.app.owner import signer_of
    from depai_robot.app.policy_draft import policy_to_words
    from depai_robot.payment.policy import read_policy_file

    read, text = read_policy_file(file.read_bytes())
    click.echo("\n".join(policy_to_words(read, text.chain_id)))
    click.echo(f"signed by      {signer_of(read, text)}")


@policy.command()
@click.argument("file", type=_FILE)
@click.option("--config", type=_FILE, help="The robot's wallet.yaml: its owner, chain, keys and journal.")
@click.option("--owner", help="Instead of --config: the owner's address.")
@click.option("--robot", help="Instead of --config: address of the robot's voucher key.")
@click.option("--network", help="Instead of --config: name of the network.")
def verify(
    file: Path, config: Path | None, owner: str | None, robot: str | None, network: str | None
) -> None:
    """Check a policy as the robot does at its start: pass, or fail with the reason (exit code 1)."""
    from depai_robot.app.owner import expectation, expectation_of, verify_policy
    from depai_robot.values.error import ConfigError

    if config is not None:
        expected = expectation_of(config)
    elif owner is not None and robot is not None and network is not None:
        expected = expectation(owner, robot, network)
    else:
        raise ConfigError("expected --config, or --owner, --robot and --network")
    try:
        for line in verify_policy(file.read_bytes(), expected):
            click.echo(line)
    except ConfigError as error:
        click.echo(f"fail: {error}")
        sys.exit(1)


@policy.command()
@click.option("--policy", "policy_file", type=_FILE, required=True, help="The robot's signed policy.")
@click.option("--network", required=True, help="Name of the network, or its file.")
@click.option("--station", required=True, help="Address that the station is paid at (its receiver).")
@click.option("--receiver-authorizer", help="Of the station's quotes. Left out: the same address.")
@click.option("--name", default="", help="Of the station, for people.")
@click.option("--withdraw-delay", type=click.IntRange(900, 2_592_000), default=900, show_default=True)
@click.option("--amount", required=True, help="Of each deposit, in USDC.")
@click.option("--count", type=click.IntRange(1, 100), default=1, show_default=True)
@click.option("--valid-days", type=click.IntRange(1, 366), default=30, show_default=True)
@click.option(
    "--one-channel",
    is_flag=True,
    help="All into one channel: for robots that keep channels (keep_max_atomic above 0). Left out: a channel each.",
)
@click.option("--key", type=_FILE, required=True, help="Keystore V3 of the treasury (the payer).")
@passphrase_options
@click.option("--output", type=_NEW_FILE, default=Path("presigned.json"), show_default=True)
def presign(
    *,
    policy_file: Path,
    network: str,
    station: str,
    receiver_authorizer: str | None,
    name: str,
    withdraw_delay: int,
    amount: str,
    count: int,
    valid_days: int,
    key: Path,
    password_file: Path | None,
    password_fd: int | None,
    output: Path,
    one_channel: bool,
) -> None:
    """Let the treasury sign deposits for one station beforehand; they are added to the file.

    A deposit can only go into that station's channel with that robot's key, whoever sends it. Until it expires or
    is cancelled, it is money that a stolen robot could still lock, and no more.
    """
    from depai_robot.app.owner import PresignOrder, add_presigned
    from depai_robot.app.policy_draft import parse_usdc
    from depai_robot.values.money import format_usdc

    order = PresignOrder(
        policy=policy_file.read_bytes(),
        network=network,
        station=station,
        receiver_authorizer=receiver_authorizer or station,
        name=name or station,
        withdraw_delay_s=withdraw_delay,
        amount_atomic=parse_usdc(amount, "--amount"),
        count=count,
        valid_days=valid_days,
        one_channel=one_channel,
    )
    total, risk = add_presigned(output, order, open_key(key, password_file, password_fd))
    click.echo(
        f"{output}: {count} more, {total} in all; {format_usdc(risk)} could be locked by whoever has it"
    )


@policy.command()
@click.argument("file", type=_FILE)
@click.option("--network", required=True, help="Name of the network, or its file.")
@click.option(
    "--number", type=click.IntRange(1), multiple=True, help="Of the deposit in the file; several times."
)
@click.option("--all", "every", is_flag=True, help="All of them.")
@click.option("--key", type=_FILE, required=True, help="Keystore V3 of the treasury (the payer).")
@passphrase_options
@click.option("--rpc-url", multiple=True, help="Endpoint to send by. Left out: print what anybody can send.")
@click.option("--gas-key", type=_FILE, help="Keystore that pays the gas. Left out: the treasury's.")
@click.option("--gas-password-file", type=_FILE, help="Its passphrase.")
def cancel(
    *,
    file: Path,
    network: str,
    number: tuple[int, ...],
    key: Path,
    password_file: Path | None,
    password_fd: int | None,
    rpc_url: tuple[str, ...],
    gas_key: Path | None,
    gas_password_file: Path | None,
    every: bool,
) -> None:
    """Take back deposits that were not sent yet, on chain: the only way before they expire.

    One that was sent in the meantime is said so: its money is in its channel, and comes back by
    depai-robot channel withdraw.
    """
    from depai_robot.app.owner import cancel_presigned, cancellations
    from depai_robot.values.error import ConfigError

    if every == bool(number):
        raise ConfigError("expected --number (see them with: depai-robot policy deposits), or --all")
    signer = open_key(key, password_file, password_fd)
    calls = cancellations(file, network, number, signer)
    if not rpc_url:
        for line in cancel_presigned(calls, network, (), None):
            click.echo(line)
        return
    payer = signer if gas_key is None else open_key(gas_key, gas_password_file, None)
    for line in cancel_presigned(calls, network, rpc_url, payer):
        click.echo(line)


@policy.command()
@click.argument("file", type=_FILE)
@click.option("--network", required=True, help="Name of the network, or its file.")
@click.option("--rpc-url", multiple=True, help="Endpoint to ask which were used. Left out: none is asked.")
def deposits(file: Path, network: str, rpc_url: tuple[str, ...]) -> None:
    """List pre-signed deposits: station, amount, until when, and whether they were used."""
    from depai_robot.app.owner import list_presigned

    for line in list_presigned(file, network, rpc_url):
        click.echo(line)
