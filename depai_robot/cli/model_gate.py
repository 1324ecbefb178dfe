"""``depai-robot model gate`` and ``model report``: whether new dock models may replace the ones in use."""

import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import click

from depai_robot.cli.passphrase import open_key, passphrase_options

if TYPE_CHECKING:
    from depai_robot.app.model_gate import Report

_FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)
_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.command()
@click.option("--candidate", type=_FOLDER, required=True, help="Folder of the new models.")
@click.option("--current", type=_FOLDER, help="Folder of the models in use.  [default: the package's own]")
@click.option("--data", type=_FOLDER, required=True, help="Folder with labels.jsonl and its images.")
@click.option(
    "--key", type=_FILE, help="Keystore V3 of whoever vouches for the result; without it nothing is signed."
)
@passphrase_options
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="[default: CANDIDATE/report.jws]"
)
@click.option("--provider", default="cpu", show_default=True, help="Execution provider that measures.")
@click.option("--usable-min", type=float, help="Least share of usable poses.  [default: 0.9]")
@click.option("--wrong-max", type=float, help="Largest share of wrong poses.  [default: 0.005]")
@click.option("--false-max", type=float, help="Largest share of docks seen in empty rooms.  [default: 0.002]")
@click.option("--frames-min", type=int, help="Least number of frames with a dock.  [default: 100]")
def gate(
    *,
    candidate: Path,
    current: Path | None,
    data: Path,
    key: Path | None,
    password_file: Path | None,
    password_fd: int | None,
    output: Path | None,
    provider: str,
    usable_min: float | None,
    wrong_max: float | None,
    false_max: float | None,
    frames_min: int | None,
) -> None:
    r"""Measure new models against the ones in use, frame by frame, and sign what came out.

    \b
    depai-robot model gate --candidate new/ --data frames/ --key inspector.json
    depai-robot model report new/report.jws

    One thread, one provider, fixed seeds: who has the same data, models and versions gets the same figures. The exit
    code is 0 when the candidate passed and 1 when not; a report is written either way. A robot whose file lists
    model_report_keys loads only models with a passing report of one of these keys. A set of frames is PNG files and
    labels.jsonl, one object a line:

    \b
    {"image": "1.png", "fx": 465, "fy": 465, "cx": 319.5, "cy": 239.5, "distortion": [0, 0, 0, 0, 0],
     "condition": "clean", "dock": null | {"position_m": [x, y, z], "quaternion_xyzw": [x, y, z, w]}}
    """
    from depai_robot.adapters.onnx_session import RuntimeSettings
    from depai_robot.app.model_data import DataSet
    from depai_robot.app.model_gate import REPORT_NAME, Limits, make_report, seal_report
    from depai_robot.app.owner import write_file
    from depai_robot.app.resource import resource_path
    from depai_robot.perception.dock import parse_dock
    from depai_robot.values.error import ConfigError
    from depai_robot.values.identity import address_to_hex

    given = {
        "usable_min": usable_min,
        "wrong_max": wrong_max,
        "false_max": false_max,
        "frames_min": frames_min,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    for name, value in chosen.items():
        if not (value >= 1 if name == "frames_min" else 0 <= value <= 1):
            raise ConfigError(f"--{name.replace('_', '-')} is out of range: {value}")
    limits = Limits(**chosen)  # type: ignore[arg-type]
    signer = open_key(key, password_file, password_fd) if key is not None else None
    report = make_report(
        candidate,
        current or resource_path("models"),
        DataSet(data),
        dock=parse_dock(resource_path("config", "dock.yaml").read_text(encoding="utf-8")),
        data_name=data.resolve().name,
        limits=limits,
        settings=RuntimeSettings(providers=(provider,), fallback="fail"),
        now_s=int(time.time()),
    )
    _show(report)
    if signer is None:
        click.echo("not signed: no --key")
    else:
        target = output or candidate / REPORT_NAME
        write_file(target, seal_report(report, signer).encode() + b"\n")
        click.echo(f"signed by {address_to_hex(signer.address)}: {target}")
    sys.exit(0 if report.passed else 1)


@click.command()
@click.argument("file", type=_FILE)
def report(file: Path) -> None:
    """Say what a report of the gate says, and who signed it."""
    from depai_robot.app.model_gate import open_report
    from depai_robot.values.identity import address_to_hex

    signer, read = open_report(file.read_bytes().strip())
    _show(read)
    click.echo(f"signed by {address_to_hex(signer)}; check that you trust this key")


def _show(report: "Report") -> None:
    made = datetime.fromtimestamp(report.made_s, tz=timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    click.echo(f"data {report.data_name}, {report.data_sha256}")
    click.echo(f"made {made} on {report.machine}, {report.provider}, {report.threads} thread")
    click.echo(", ".join(f"{name} {version}" for name, version in report.versions.items()))
    for role, metrics in (("candidate", report.candidate), ("current", report.current)):
        click.echo(
            f"{role:9s} {metrics.name} {metrics.models_sha256[:16]}...: usable {metrics.usable} of {metrics.docks}, "
            f"wrong {metrics.wrong}, false {metrics.false} of {metrics.rooms}, position p95 "
            f"{metrics.position_p95_mm:.1f} mm, yaw p95 {metrics.yaw_p95_deg:.2f} deg"
        )
    for check in report.checks:
        click.echo(
            f"{'ok  ' if check.passed else 'FAIL'} {check.name}: {check.seen:g}, limit {check.limit:g}"
        )
    click.echo("PASSED" if report.passed else "NOT PASSED")
