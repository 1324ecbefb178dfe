"""``depai-robot broker``: a mosquitto for a real site."""

from pathlib import Path

import click

from depai_robot.adapters.broker_site import PORT, ROLES, add_client, init_site, revoke_client

FOLDER = click.argument("folder", type=click.Path(path_type=Path, file_okay=False))


@click.group(
    epilog=(
        "\b\n"
        "depai-robot broker init /etc/mosquitto/depai --host broker.site --host 10.0.0.5\n"
        "depai-robot broker add /etc/mosquitto/depai robot-1\n"
        "depai-robot broker add /etc/mosquitto/depai ada --role operator\n"
        "depai-robot broker revoke /etc/mosquitto/depai robot-1        (lost or sold)\n"
        "mosquitto -c /etc/mosquitto/depai/mosquitto.conf"
    )
)
def broker() -> None:
    """Certificates, access list and configuration of a site's MQTT broker (mosquitto).

    docs/fleet.md and deploy/mosquitto say more.
    """


@broker.command()
@FOLDER
@click.option(
    "--host", "hosts", multiple=True, required=True, help="Name or address of the broker; repeatable."
)
@click.option("--manufacturer", default="depai", show_default=True, help="Level of VDA 5050's topics.")
@click.option("--port", default=PORT, show_default=True, type=click.IntRange(1, 65535))
def init(folder: Path, hosts: tuple[str, ...], manufacturer: str, port: int) -> None:
    """Make the certificate authority, the server's certificate, acl and mosquitto.conf.

    ca.key signs everybody: keep it off the broker once all clients have their certificates. The server's key, acl and
    store must belong to the user that mosquitto runs as.
    """
    init_site(folder, hosts, manufacturer, port=port)
    click.echo(f"mosquitto -c {folder.resolve() / 'mosquitto.conf'}")


@broker.command()
@FOLDER
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), default="robot", show_default=True)
def add(folder: Path, name: str, role: str) -> None:
    """Issue a client certificate to NAME (a robot's or station's id, or a person).

    A viewer's certificate lets its holder read; an operator's lets it command. Robots and stations have their own
    topics by name. Reload mosquitto after adding people.
    """
    certificate, key = add_client(folder, name, role)  # type: ignore[arg-type]
    click.echo(f"{certificate}\n{key}\n{folder / 'ca.pem'}")


@broker.command()
@FOLDER
@click.argument("name")
def revoke(folder: Path, name: str) -> None:
    """Shut the certificate of NAME out: a robot that was lost or sold, a person who left.

    Counts from mosquitto's next start on: restart it, which also cuts the connection that is there. Needs ca.key. The
    name may have a new certificate after that.
    """
    click.echo(f"{revoke_client(folder, name)}: now restart mosquitto")
