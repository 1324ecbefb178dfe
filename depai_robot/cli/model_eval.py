"""``depai-robot model eval``: what the dock models make of anyone's labelled frames."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from depai_robot.app.model_eval import Row

_FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)


@click.command("eval")
@click.option("--data", type=_FOLDER, required=True, help="Folder with labels.jsonl and its images.")
@click.option("--models", type=_FOLDER, help="Folder of the models.  [default: the package's own]")
@click.option("--provider", default="cpu", show_default=True, help="Execution provider: cpu, cuda, tensorrt.")
@click.option("--cells", is_flag=True, help="Also every distance band of every condition.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of tables.")
def evaluate(*, data: Path, models: Path | None, provider: str, cells: bool, as_json: bool) -> None:
    r"""Run the dock models over labelled frames and count what is usable, wrong and false.

    \b
    depai-robot model eval --data frames/
    depai-robot model eval --data frames/ --models new/ --cells
    depai-robot model eval --data frames/ --json > figures.json

    Usable: published, position within max(5 cm, 5 % of the range) and yaw within 10 degrees. Wrong: published with a
    dock in view and not usable. False: published without a dock in view. In brackets: 95 % intervals (Wilson). Each
    frame by itself, one thread; times are processor milliseconds from image to pose. A set of frames is PNG files and
    labels.jsonl, one object a line:

    \b
    {"image": "1.png", "fx": 465, "fy": 465, "cx": 319.5, "cy": 239.5, "distortion": [k1, k2, p1, p2, k3],
     "condition": "clean", "dock": null | {"position_m": [x, y, z], "quaternion_xyzw": [x, y, z, w]}}

    "dock" is the pose of the dock frame (origin at the centre of the panel's front face, x into the dock, z up) in the
    camera's optical frame (x right, y down, z forward); pixel centres are at integers. Which dock: config/dock.yaml,
    with its textures beside it. Where the models' confidence is to be compared: depai-robot model gate.
    """
    import msgspec

    from depai_robot.adapters.onnx_detector import OnnxDetector
    from depai_robot.adapters.onnx_session import RuntimeSettings
    from depai_robot.app import model_eval
    from depai_robot.app.model_data import DataSet
    from depai_robot.app.resource import resource_path
    from depai_robot.perception.dock import parse_dock
    from depai_robot.perception.manifest import require_dock

    detector = OnnxDetector(
        models or resource_path("models"), settings=RuntimeSettings(providers=(provider,), fallback="fail")
    )
    dock = parse_dock(resource_path("config", "dock.yaml").read_text(encoding="utf-8"))
    require_dock(detector.manifest, dock)
    frames = DataSet(data)
    found, _ = model_eval.evaluate(detector, dock, frames, frames.sha256)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
        return
    click.echo(f"models {found.models}, {found.models_sha256}, on {found.provider}")
    click.echo(f"data {data.resolve().name}, {found.data_sha256}")
    _show("condition", [*found.conditions, found.total])
    if found.bands:
        _show("range", found.bands)
    if cells and found.cells:
        _show("condition, range", found.cells)


def _share(hits: int, count: int) -> str:
    from depai_robot.app.model_eval import wilson

    if not count:
        return "-"
    low, high = wilson(hits, count)
    return f"{100 * hits / count:.2f} ({100 * low:.2f} to {100 * high:.2f})"


def _show(title: str, rows: list["Row"]) -> None:
    head = [title, "docks", "usable %", "wrong %", "rooms", "false %"]
    head += ["mm p50", "mm p95", "deg p50", "deg p95", "ms p50", "ms p95"]
    lines = [head]
    for row in rows:
        shares = [_share(row.usable, row.docks), _share(row.wrong, row.docks)]
        errors = [row.position_p50_mm, row.position_p95_mm, row.yaw_p50_deg, row.yaw_p95_deg]
        times = [row.cpu_p50_ms, row.cpu_p95_ms]
        lines.append(
            [row.name, str(row.docks), *shares, str(row.rooms), _share(row.false, row.rooms)]
            + ([f"{v:.2f}" for v in errors] if row.usable + row.wrong else ["-"] * 4)
            + [f"{v:.1f}" for v in times]
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    click.echo()
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)]
        click.echo("  ".join(cells).rstrip())
