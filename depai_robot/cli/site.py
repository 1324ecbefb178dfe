"""``depai-robot site``: what stands around the robot of a demo, for nodes that somebody else starts."""

import signal
import threading
from pathlib import Path

import click

from depai_robot.app.demo_plan import FIRST_ROBOT, DemoPlan, describe
from depai_robot.app.site import Site
from depai_robot.values.identity import require_id

POLL_S = 0.5


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("out/site"),
    show_default=True,
    help="Folder of the run: files, journals, logs. Made, if it is not there.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**31), default=1, show_default=True, help="Of everything random."
)
@click.option(
    "--stations", type=click.IntRange(1, 16), default=3, show_default=True, help="How many stations."
)
@click.option(
    "--dishonest",
    type=click.Choice(["none", "over-meter", "no-power", "over-claim", "bad-signature", "vanish"]),
    default="none",
    show_default=True,
    help="How the best offer's station cheats.",
)
@click.option(
    "--speed", type=click.FloatRange(0.1, 20), default=1.0, show_default=True, help="Times real time."
)
@click.option(
    "--broker", type=click.Choice(["auto", "mosquitto", "amqtt"]), default="auto", show_default=True
)
@click.option(
    "--camera", type=click.Choice(["auto", "egl", "osmesa", "rays"]), default="auto", show_default=True
)
@click.option("--robot", default=FIRST_ROBOT, show_default=True, help="Its id.")
@click.option(
    "--join",
    default="",
    metavar="FOLDER",
    help="--out of a site that runs: its chain and broker are used, for a second robot.",
)
def site(
    *,
    out: Path,
    seed: int,
    stations: int,
    dishonest: str,
    speed: float,
    broker: str,
    camera: str,
    robot: str,
    join: str,
) -> None:
    """Run a chain, a broker and stations on loopback, and write the files of a robot's nodes.

    \b
    The nodes themselves are started by others, as on a robot:
      ros2 launch depai_robot sim.launch.py
    runs this command, then the simulated world, the robot and its wallet. Runs until SIGINT or SIGTERM.

    \b
    A second robot, in a world of its own, with other stations on the same broker and chain:
      depai-robot site --out out/site-2 --robot rover-2 --join out/site
    """  # noqa: D301
    out.mkdir(parents=True, exist_ok=True)
    plan = DemoPlan(
        folder=out.resolve(),
        seed=seed,
        stations=stations,
        dishonest=dishonest,
        speed_driving=speed,
        speed_docked=2 * speed,
        broker=broker,  # type: ignore[arg-type]
        camera=camera,
        robot=require_id("--robot", robot),
        join=Path(join).resolve() if join else None,
    )
    (out / "plan.json").write_text(describe(plan), encoding="utf-8")
    ends = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: ends.set())
    with Site(plan, lambda step: click.echo(f"site: {step}")) as run:
        run.open()
        click.echo(f"site: files are in {plan.folder}")
        while not ends.wait(POLL_S) and not run.has_link():
            pass
        if not ends.is_set():
            run.start_stations()
            click.echo(f"site: {len(run.stations)} stations sell")
        while not ends.wait(POLL_S):
            run.check_processes()
