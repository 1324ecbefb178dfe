"""Draws the pictures of docs/ from the code, and Gazebo's world: ``make docs`` (``--check`` only compares).

Architecture: the layers come from the import contract in pyproject.toml, the arrows from the imports that are
really there. States: from the machines' tables of legal moves.
"""

import argparse
import sys
from enum import Enum
from pathlib import Path

import grimp

from depai_robot.app.report.state_picture import state_picture
from depai_robot.charging.transition import (
    ROBOT_TRANSITIONS,
    STATION_TRANSITIONS,
    RobotPhase,
    StationPhase,
    Transition,
)
from depai_robot.docking.machine import MOVES, Phase
from depai_robot.perception.dock import parse_dock
from depai_robot.sim.scene import parse_robot, parse_world
from depai_robot.sim.sdf import face_obj, make_sdf

if sys.version_info >= (3, 11):
    import tomllib
else:
    raise SystemExit("make docs wants Python 3.11 or newer")

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PACKAGE = "depai_robot"
BOX_W, BOX_H, GAP_X, GAP_Y, MARGIN = 150, 54, 26, 44, 24

STYLE = """<style>
.b{fill:#fff;stroke:#2a6f97;stroke-width:1.5}.n{font-size:15px;font-weight:600;fill:#013a63}
.s{font-size:10px;fill:#456}.a{stroke:#61a5c2;fill:none;opacity:.55}
</style>"""

SUMMARY = {
    "nodes": "ROS 2 nodes (rclpy)",
    "cli": "command line, screen",
    "app": "runner, programs, report",
    "adapters": "the world: one library a file",
    "sim": "the same ports in software",
    "ports": "every Protocol on one page",
    "perception": "pixels to dock pose",
    "docking": "dock pose to motion",
    "fleet": "VDA 5050, operators' orders",
    "console": "operators' console",
    "charging": "Robot and Station machines",
    "payment": "x402, vouchers, policy",
    "values": "money, energy, geometry",
}


def read_layers() -> list[list[str]]:
    """Rows of siblings, highest first, of the first import contract."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ][0]
    rows = [[name.strip() for name in row.split("|")] for row in contract["layers"]]
    return [[name for name in row if not name.startswith("(")] for row in rows]


def read_imports(names: list[str]) -> dict[tuple[str, str], int]:
    """(importer, imported) -> number of import statements between the two folders."""
    graph = grimp.build_graph(PACKAGE)
    count: dict[tuple[str, str], int] = {}
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            pair = (module.split(".")[1:2], imported.split(".")[1:2])
            if pair[0] and pair[1] and pair[0] != pair[1] and pair[0][0] in names and pair[1][0] in names:
                key = (pair[0][0], pair[1][0])
                count[key] = count.get(key, 0) + 1
    return count


def draw_architecture() -> str:
    """SVG text: one row a layer, an arrow where a folder imports another, thicker for more imports."""
    rows = read_layers()
    names = [name for row in rows for name in row]
    imports = read_imports(names)
    width = MARGIN * 2 + max(len(row) for row in rows) * (BOX_W + GAP_X) - GAP_X
    height = MARGIN * 2 + len(rows) * (BOX_H + GAP_Y) - GAP_Y
    place: dict[str, tuple[float, float]] = {}
    for number, row in enumerate(rows):
        row_width = len(row) * (BOX_W + GAP_X) - GAP_X
        for column, name in enumerate(row):
            place[name] = (
                (width - row_width) / 2 + column * (BOX_W + GAP_X),
                MARGIN + number * (BOX_H + GAP_Y),
            )
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" font-family="sans-serif">',
        STYLE,
        '<rect width="100%" height="100%" fill="#f7fafc"/>',
    ]
    for (importer, imported), number in sorted(imports.items()):
        x1, y1 = place[importer][0] + BOX_W / 2, place[importer][1] + BOX_H
        x2, y2 = place[imported][0] + BOX_W / 2, place[imported][1]
        middle = (y1 + y2) / 2
        thick = min(6.0, 0.8 + number**0.5 / 2)
        out.append(
            f'<path class="a" stroke-width="{thick:.1f}" '
            f'd="M{x1:g} {y1:g}C{x1:g} {middle:g} {x2:g} {middle:g} {x2:g} {y2:g}">'
            f"<title>{importer} imports {imported}: {number}</title></path>"
        )
    for name, (x, y) in place.items():
        out.append(f'<rect class="b" x="{x:g}" y="{y:g}" width="{BOX_W}" height="{BOX_H}" rx="8"/>')
        out.append(f'<text class="n" x="{x + BOX_W / 2:g}" y="{y + 24:g}" text-anchor="middle">{name}</text>')
        out.append(
            f'<text class="s" x="{x + BOX_W / 2:g}" y="{y + 41:g}" text-anchor="middle">{SUMMARY[name]}</text>'
        )
    out.append("</svg>\n")
    return "\n".join(out)


def pictures() -> dict[str, str]:
    """File name -> SVG text of every picture."""
    return {
        "architecture.svg": draw_architecture(),
        "states-robot.svg": _states(ROBOT_TRANSITIONS, RobotPhase, "The robot's session"),
        "states-station.svg": _states(STATION_TRANSITIONS, StationPhase, "A session at a station"),
        "states-docking.svg": state_picture(
            [(before.value, why, after.value) for before, why, after in MOVES],
            [p.value for p in Phase],
            (),
            "Docking",
        ),
    }


def worlds() -> dict[str, str]:
    """File name -> text of what Gazebo reads, made from the YAML files."""
    config = ROOT / "config"
    robot = parse_robot((config / "robot.yaml").read_text(encoding="utf-8"))
    world = parse_world((config / "world.yaml").read_text(encoding="utf-8"))
    dock = parse_dock((config / "dock.yaml").read_text(encoding="utf-8"))
    return {
        "depai.sdf": make_sdf(robot, world, dock, textures="../config/dock", face="meshes/face.obj"),
        "meshes/face.obj": face_obj(),
    }


def _states(transitions: tuple[Transition, ...], phases: type[Enum], title: str) -> str:
    moves = [(row.before, row.cause, row.after) for row in transitions]
    return state_picture(moves, [str(phase.value) for phase in phases], (), title)


def main() -> int:
    """Writes the pictures, or compares them; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    status = 0
    drawn = {DOCS / name: text for name, text in pictures().items()}
    made = {ROOT / "worlds" / name: text for name, text in worlds().items()}
    for path, text in (drawn | made).items():
        if not check:
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(ROOT))
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            print(f"{path.relative_to(ROOT)} is not what the code draws: run make docs", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
