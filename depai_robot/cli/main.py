"""The root of the command line; each command is loaded when it is called, so ``--help`` is quick."""

import importlib
import sys

import click

from depai_robot import __version__
from depai_robot.values.error import DepaiError

# name -> (module, attribute, one line of help)
_COMMANDS: dict[str, tuple[str, str, str]] = {
    "acceptance": (
        "depai_robot.cli.acceptance",
        "acceptance",
        "Run the acceptance suite against a robot, and sign what was found.",
    ),
    "adversaries": (
        "depai_robot.cli.adversaries",
        "adversaries",
        "List the cheats by name, and let each meet the honest other side.",
    ),
    "broker": (
        "depai_robot.cli.broker",
        "broker",
        "A site's MQTT broker: certificates, access list, configuration.",
    ),
    "channel": ("depai_robot.cli.channel", "channel", "A robot's payment channels: list, close, withdraw."),
    "demo": ("depai_robot.cli.demo", "demo", "Run the whole loop in simulation, and leave a report."),
    "dock": ("depai_robot.cli.dock", "dock", "Drawings and printable faces of the charging dock."),
    "doctor": (
        "depai_robot.cli.doctor",
        "doctor",
        "Is this machine fit to run a robot? Checks it, and says how to mend.",
    ),
    "hw": ("depai_robot.cli.hw", "hw", "What is on the robot's serial ports."),
    "journal": (
        "depai_robot.cli.journal",
        "journal",
        "Look at a journal: show, verify, export, accept damage.",
    ),
    "key": (
        "depai_robot.cli.key",
        "key",
        "Make, show and change the keys of a robot, a station or an owner.",
    ),
    "model": (
        "depai_robot.cli.model",
        "model",
        "The models that find the dock: check them on this machine, evaluate, gate.",
    ),
    "operator": (
        "depai_robot.cli.operator",
        "operator",
        "Allow operators, and order a robot: pause, bar a station, tighten a limit.",
    ),
    "policy": (
        "depai_robot.cli.policy",
        "policy",
        "The owner's desk: write, sign, show and check what a robot may spend.",
    ),
    "report": ("depai_robot.cli.report", "report", "Write report.html again from a run's folder."),
    "setup": ("depai_robot.cli.setup", "setup", "Install parts that pip can't (the development chain)."),
    "site": (
        "depai_robot.cli.site",
        "site",
        "Run chain, broker and stations for nodes that you start yourself.",
    ),
    "station": ("depai_robot.cli.station", "station", "Run a charging station."),
    "vectors": ("depai_robot.cli.vectors", "vectors", "Recompute a file of x402 golden vectors."),
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][2]) for name in self.list_commands(ctx)])


@click.command(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=(
        "\b\n"
        "See it:        depai-robot demo\n"
        "With a cheat:  depai-robot demo --dishonest over-meter\n"
        "Check money:   depai-robot vectors test/data/x402.json\n"
        "A command's own --help teaches it."
    ),
)
@click.version_option(__version__, prog_name="depai-robot")
def cli() -> None:
    """Agent firmware of a robot that keeps itself powered and pays its own way.

    Its camera finds the charging dock (ONNX), its wallet asks stations for quotes over MQTT, picks one under
    its owner's signed spending policy, opens a USDC payment channel, docks, and pays in small tranches only
    as its own meter confirms the energy. Then it takes back the rest and keeps a signed receipt.
    """


def main() -> None:
    """Entry point: an expected error is one line and exit code 2, never a traceback."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.Abort:
        click.echo("stopped", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except DepaiError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
