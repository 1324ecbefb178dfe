"""``depai-robot demo``: runs the loop, shows it live, leaves a report."""

import sys
import time
from pathlib import Path

import click

from depai_robot.app.demo import TIMEOUT_S, Demo, Outcome
from depai_robot.app.demo_plan import DemoPlan, describe
from depai_robot.app.report import write_report
from depai_robot.app.site import WITHDRAW_DELAY_S
from depai_robot.cli.screen import Screen
from depai_robot.values.error import DepaiError, DeviceTimeoutError

POLL_S = 0.1


@click.command()
@click.option(
    "--seed", type=click.IntRange(0, 2**31), default=1, show_default=True, help="Of everything random."
)
@click.option(
    "--stations", type=click.IntRange(1, 16), default=3, show_default=True, help="How many stations."
)
@click.option(
    "--dishonest",
    type=click.Choice(["over-meter", "no-power", "over-claim", "bad-signature", "vanish"]),
    help="How the best offer's station cheats.",
)
@click.option(
    "--speed",
    type=click.FloatRange(0.1, 20),
    default=4.0,
    show_default=True,
    help="Times real time, driving.",
)
@click.option(
    "--speed-docked",
    type=click.FloatRange(0.1, 40),
    default=8.0,
    show_default=True,
    help="Times real time, docked.",
)
@click.option(
    "--broker", type=click.Choice(["auto", "mosquitto", "amqtt"]), default="auto", show_default=True
)
@click.option(
    "--camera", type=click.Choice(["auto", "egl", "osmesa", "rays"]), default="auto", show_default=True
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("out"), show_default=True
)
@click.option("--plain", is_flag=True, help="One line an event, also in a terminal.")
def demo(
    *,
    seed: int,
    stations: int,
    dishonest: str | None,
    speed: float,
    speed_docked: float,
    broker: str,
    camera: str,
    out: Path,
    plain: bool,
) -> None:
    """Run the whole loop on this machine: find the dock, buy energy, keep the receipt.

    One robot at 18 % of its battery, stations that differ in price and place, a real MQTT broker, a real EVM with a
    development token, rendered camera frames through the ONNX detector, and a physics engine. Everything listens on
    loopback only.

    The run is left in OUT/<time>-seed<N>: report.html, receipt.json, statements.ocmf, the journals, run.mcap, logs.
    Exit code 0 only if the receipt reconciles with the journals, the chain and both meters.
    """
    name = time.strftime("%Y%m%d-%H%M%S") + f"-seed{seed}" + (f"-{dishonest}" if dishonest else "")
    folder = out / name
    folder.mkdir(parents=True, exist_ok=False)
    plan = DemoPlan(
        folder=folder,
        seed=seed,
        stations=stations,
        dishonest=dishonest or "none",
        speed_driving=speed,
        speed_docked=speed_docked,
        broker=broker,  # type: ignore[arg-type]
        camera=camera,
    )
    (folder / "plan.json").write_text(describe(plan), encoding="utf-8")
    outcome, failure = Outcome(), ""
    with Screen(folder, plain=plain) as screen:
        try:
            with Demo(plan, screen.progress) as run:
                outcome = _loop(run, screen)
        except (DepaiError, OSError) as error:
            failure = str(error)
        except KeyboardInterrupt:
            failure = "stopped by hand"
        screen.refresh()
    report = write_report(folder)
    click.echo(f"report   {report}")
    if failure:
        click.echo(f"error: {failure}", err=True)
        sys.exit(2)
    click.echo(f"receipt  {folder / 'receipt.json'}")
    click.echo(f"record   {folder / 'run.mcap'}")
    bad = [check for check in outcome.checks if not check.ok]
    for check in bad:
        click.echo(f"FAILED   {check.name}: {check.detail}", err=True)
    click.echo(
        f"{len(outcome.checks) - len(bad)} of {len(outcome.checks)} checks passed, the loop took {outcome.loop_s:.0f} s"
    )
    sys.exit(0 if outcome.ok else 1)


def _loop(run: Demo, screen: Screen) -> Outcome:
    run.start()
    begun = time.monotonic()
    advanced = False
    while (receipt := run.receipt()) is None:
        run.check_processes()
        screen.refresh()
        if not advanced and any(purpose == "initiate-withdraw" for _, purpose, _ in screen.view.transactions):
            # Nobody wants to sit out the withdraw delay: the development chain's clock is moved, and it is said.
            screen.progress(f"moving the chain's clock forward by {WITHDRAW_DELAY_S} s, the withdraw delay")
            run.advance_chain(WITHDRAW_DELAY_S + 5)
            advanced = True
        if time.monotonic() - begun > TIMEOUT_S:
            raise DeviceTimeoutError(
                f"no receipt after {TIMEOUT_S:.0f} s; the wallet is in {screen.view.phase or 'no phase'}: see "
                f"{run.plan.folder / 'logs'}"
            )
        time.sleep(POLL_S)
    loop_s = time.monotonic() - begun
    screen.refresh()
    screen.progress("audit: receipt against journals, chain and meters")
    outcome = run.judge(receipt)
    outcome.loop_s = loop_s
    return outcome
