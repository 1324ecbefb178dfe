"""What a demo is made of: which stations, where, at what price, and how fast time runs."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from depai_robot.adapters.broker_process import Kind
from depai_robot.app.resource import resource_path
from depai_robot.values.error import ConfigError

FIRST_ROBOT = "rover-1"


@dataclass(frozen=True, slots=True)
class StationPlan:
    """One station of the demo.

    Attributes:
        id: of the station.
        name: for people.
        dock: in the world.
        price_atomic_per_kwh: asked.
        start_fee_atomic: asked.
        serves: whether it serves our robot.
        dishonest: how it cheats.
    """

    id: str
    name: str
    dock: str
    price_atomic_per_kwh: int
    start_fee_atomic: int
    serves: bool = True
    dishonest: str = "none"


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """What is asked of the demo.

    Attributes:
        folder: of the run.
        seed: of everything random.
        stations: how many.
        dishonest: how the best station cheats.
        speed_driving, speed_docked: simulated seconds a second, at most.
        broker: which.
        camera: which backend.
        energy_milliwh: to buy.
        robot: its id. Another than the first's where two robots stand side by side.
        namespace: of every node of the robot and its world; its clock and transforms are below it, too.
        join: folder of another run, whose chain and broker this one uses; the stations' ids then end in the robot's.
    """

    folder: Path
    seed: int = 1
    stations: int = 3
    dishonest: str = "none"
    speed_driving: float = 4.0
    speed_docked: float = 8.0
    broker: Kind = "auto"
    camera: str = "auto"
    energy_milliwh: int = 10_500
    robot: str = FIRST_ROBOT
    namespace: str = ""
    join: Path | None = None


def make_world(plan: DemoPlan) -> dict[str, Any]:
    """The world file: the package's own for three stations, else docks along the walls."""
    world: dict[str, Any] = yaml.safe_load(resource_path("config", "world.yaml").read_text(encoding="utf-8"))
    if plan.stations == len(world["docks"]):
        return world
    room = world["room"]
    width, depth = room["x_max_m"] - room["x_min_m"], room["y_max_m"] - room["y_min_m"]
    per_wall = math.ceil(plan.stations / 4)
    if per_wall * 1.4 > min(width, depth):
        raise ConfigError(
            f"--stations {plan.stations}: this room holds at most {4 * int(min(width, depth) / 1.4)}"
        )
    docks = []
    for number in range(plan.stations):
        wall, place = number % 4, number // 4
        along = (place + 0.5) / per_wall - 0.5
        x, y, yaw = (
            (room["x_max_m"] - 0.35, along * depth * 0.7, 0.0),
            (along * width * 0.7 + 0.4, room["y_min_m"] + 0.35, -math.pi / 2),
            (along * width * 0.7 + 0.4, room["y_max_m"] - 0.35, math.pi / 2),
            (room["x_min_m"] + 0.35, along * depth * 0.7, math.pi),
        )[wall]
        docks.append(
            {
                "id": f"dock_{number}",
                "marker_id": number % 5,
                "x_m": round(x, 3),
                "y_m": round(y, 3),
                "yaw_rad": round(min(6.2, yaw), 4),
            }
        )
    return {**world, "docks": docks}


def plan_stations(plan: DemoPlan, docks: list[str]) -> list[StationPlan]:
    """One cheap and far, one dear and near, one that refuses; further ones dearer still. The cheapest may cheat."""
    if len(docks) == 3:
        by_role = {"near": docks[0], "far": docks[1], "shut": docks[2]}
    else:
        by_role = dict(zip(("far", "near", "shut"), docks, strict=False))
    made = [
        StationPlan("st-far", "Cheap and far", by_role["far"], 380_000, 1500, dishonest=plan.dishonest),
    ]
    if "near" in by_role:
        made.append(StationPlan("st-near", "Dear and near", by_role["near"], 620_000, 3000))
    if "shut" in by_role:
        made.append(StationPlan("st-shut", "Members only", by_role["shut"], 250_000, 1000, serves=False))
    for number, dock in enumerate(docks[3:], start=4):
        made.append(StationPlan(f"st-{number}", f"Station {number}", dock, 420_000 + 20_000 * number, 2000))
    if plan.join is None:
        return made
    # One broker, and one name for each station on it.
    return [replace(station, id=f"{station.id}-{plan.robot}") for station in made]


def describe(plan: DemoPlan) -> str:
    """The plan as JSON, kept in the run's folder."""
    values = {
        name: getattr(plan, name)
        for name in ("seed", "stations", "dishonest", "speed_driving", "speed_docked")
    }
    return json.dumps(values, indent=2) + "\n"
