"""``depai-robot channel``: an owner's view of a robot's channels, and its way to get the money out."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from depai_robot.app.channel import KnownChannel
    from depai_robot.app.config import NetworkFile, WalletFile
    from depai_robot.values.identity import ChannelId

_WALLET = click.option(
    "--config",
    "config",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    required=True,
    help="The robot's wallet.yaml.",
)


@click.group()
def channel() -> None:
    """Payment channels of a robot: look, close, withdraw.

    \b
    What is in them:           depai-robot channel list --config wallet.yaml
    Back through the station:  depai-robot channel close --config wallet.yaml 0x41828f
    Back without anybody:      depai-robot channel withdraw --config wallet.yaml 0x41828f --key owner.json ...

    A channel is named by the first digits of its id. Closing costs the robot no gas and takes as long as the
    station takes to answer; withdrawing costs gas and the channel's delay (15 minutes to 30 days), and needs
    nobody's help.
    """  # noqa: D301 (click wants the character itself)


def _known(config: Path) -> "tuple[WalletFile, NetworkFile, Path, dict[ChannelId, KnownChannel]]":
    from depai_robot.app.channel import channels_in_journal
    from depai_robot.app.config import read_network, read_wallet, resolve

    file = read_wallet(config)
    network = read_network(file.chain, config)
    folder = resolve(config, file.folder)
    return file, network, folder, channels_in_journal(folder / "wallet.sqlite", network.network())


@channel.command(name="list")
@_WALLET
@click.option("--offline", is_flag=True, help="Only what the journal says; asks no chain.")
def list_channels(config: Path, *, offline: bool) -> None:
    """Every channel that the wallet has signed for, and what the chain says of it."""
    from depai_robot.app.channel import look
    from depai_robot.app.part import open_chain
    from depai_robot.values.money import format_usdc

    _, network, _, known = _known(config)
    if not known:
        click.echo("no channel was ever signed for")
        return
    chain = None if offline else open_chain(network, None, config)
    for item in known.values():
        line = (
            f"0x{item.channel_id.hex()}  to 0x{bytes(item.config.receiver).hex()}"
            f"  signed {format_usdc(item.ceiling_atomic)} in {item.vouchers} vouchers"
        )
        if chain is not None:
            seen = look(chain, item)
            line += f"  claimed {format_usdc(seen.state.total_claimed_atomic)}  rest {format_usdc(seen.rest_atomic)}"
            if seen.ready_at_s:
                left = max(0, seen.ready_at_s - seen.head_s)
                line += f"  withdrawal pending, {left} s to go" if left else "  withdrawal ready: --finalize"
        click.echo(line)


@channel.command()
@_WALLET
@click.argument("which")
def close(config: Path, which: str) -> None:
    """Ask the running wallet to get the rest of a kept channel back from its station.

    The wallet takes the wish from its folder within a second. When the station does not answer, it withdraws.
    """
    from depai_robot.app.channel import leave_close_intent, pick_channel

    _, _, folder, known = _known(config)
    item = pick_channel(known, which)
    leave_close_intent(folder, item.channel_id)
    click.echo(f"asked for the rest of 0x{item.channel_id.hex()}; see it with: depai-robot channel list")


@channel.command()
@_WALLET
@click.argument("which")
@click.option(
    "--key",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Keystore V3 of the payer (the owner's treasury) or of the voucher key; it pays the gas."
    " Left out: the payer key of wallet.yaml.",
)
@click.option(
    "--password-file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Its passphrase, mode 0600.",
)
@click.option("--finalize", is_flag=True, help="Take the money out, after the delay.")
@click.option("--wait", is_flag=True, help="Ask, wait for the delay, take it out.")
def withdraw(
    config: Path, which: str, key: Path | None, password_file: Path | None, *, finalize: bool, wait: bool
) -> None:
    """Take the rest out of a channel without the station.

    The first call asks the contract; after the channel's delay a second one with --finalize brings the money to
    the payer. Until then the station can still claim what was signed, and nothing more.
    """
    import time

    from depai_robot.app import channel as work
    from depai_robot.app.config import KeyPart
    from depai_robot.app.part import open_chain, open_signer
    from depai_robot.values.error import ConfigError
    from depai_robot.values.identity import address_to_hex
    from depai_robot.values.money import format_usdc

    file, network, _, known = _known(config)
    item = work.pick_channel(known, which)
    part = file.keys.payer
    if key is not None:
        if password_file is None:
            raise ConfigError("--key needs --password-file")
        part = KeyPart(keystore=str(key.absolute()), password_file=str(password_file.absolute()))
    if part is None:
        raise ConfigError("the payer's key is not on this robot: say --key and --password-file")
    signer = open_signer("the payer's key", part, config, network.chain_id)
    able = (bytes(item.config.payer), bytes(item.config.payer_authorizer))
    if bytes(signer.address) not in able:
        names = " or ".join(address_to_hex(address) for address in able)  # type: ignore[arg-type]
        raise ConfigError(f"key {address_to_hex(signer.address)} may not withdraw: expected {names}")
    chain = open_chain(network, signer, config)
    chain.check_pins()
    settings = network.network()
    if not finalize:
        seen = work.initiate(chain, settings, item, click.echo)
        if not seen.ready_at_s:
            click.echo("nothing is left in this channel")
            return
        left = max(0, seen.ready_at_s - seen.head_s)
        click.echo(f"{format_usdc(seen.rest_atomic)} can be taken out in {left} s")
        if not wait:
            click.echo("then: the same command with --finalize")
            return
        while (seen := work.look(chain, item)).head_s <= seen.ready_at_s:
            time.sleep(min(10.0, max(0.5, seen.ready_at_s - seen.head_s)))
    before = work.look(chain, item).rest_atomic
    work.finalize(chain, settings, item, click.echo)
    click.echo(f"{format_usdc(before)} went back to {address_to_hex(item.config.payer)}")  # type: ignore[arg-type]
