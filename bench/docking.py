"""Docking over the whole chain: physics, rendered camera, ONNX, pose, docking machine.

    python -m bench.docking --runs 100 --seed 1
    python -m bench.all --only docking --runs 1000      (writes docs/benchmarks.md)

Each run starts 1 to 4 m from the dock and up to 60 degrees off its axis, looking anywhere, with wheel slip, odometry
noise and 100 ms of latency, and ends in contact or in failure. Prints successes and the errors at contact.

Each run has its own light and sensor: exposure from a tenth to one and a half, noise, soft focus, and an exposure time
of 2 to 25 ms, during which a turning robot smears its picture. ``--plain`` leaves that out.
"""

import argparse
import math
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from depai_robot.app.dock_observer import make_observer
from depai_robot.app.model_eval import wilson
from depai_robot.app.resource import resource_path
from depai_robot.docking.fact import ContactChanged, DockAsked, DockSeen, Input, OdometryRead
from depai_robot.docking.machine import State, step
from depai_robot.docking.phase import Phase
from depai_robot.docking.setting import DockingSettings
from depai_robot.perception.dock import parse_dock
from depai_robot.perception.frame import Frame
from depai_robot.sim.camera import Backend, SimulatedCamera, choose_backend
from depai_robot.sim.scene import parse_robot, parse_world
from depai_robot.sim.world import STEP_NS, World
from depai_robot.values.geometry import Pose2, Pose3, wrap_angle_rad
from training import degrade

ODOMETRY_EVERY = 5
DOCK = "dock_far"
MAP_ERROR_M, MAP_ERROR_RAD = 0.15, 0.1
OTHER_DOCK_M = 0.9
HOLD_S = 1.0
"""A run counts when the pads still touch this long after the machine says docked."""


@dataclass
class Outcome:
    """One run."""

    docked: bool
    reason: str
    sim_s: float
    wall_s: float
    lateral_m: float
    yaw_rad: float
    attempts: int


class Eye:
    """What light, lens and exposure time do to a run's frames."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._exposure_s = float(random.uniform(0.002, 0.025))
        self._light = float(np.exp(random.uniform(math.log(0.1), math.log(1.5))))
        self._noise = float(np.exp(random.uniform(math.log(0.002), math.log(0.04))))
        self._focus_px = float(random.uniform(0.5, 2.5)) if random.random() < 0.3 else 0.0

    def see(self, frame: Frame, turn_rad: float, period_s: float) -> Frame:
        """The frame as this eye has it, after a turn of the robot since the last one."""
        lens = frame.intrinsics
        grey = cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255.0
        strengths = degrade.Strengths(
            motion_px=abs(turn_rad) / period_s * self._exposure_s * lens.fx_px,
            focus_px=self._focus_px,
            noise=self._noise,
        )
        image = degrade.sense(
            grey * np.float32(self._light), self._random, strengths, lens.matrix(), lens.cy_px
        )
        return Frame(np.repeat(image[:, :, None], 3, axis=2), frame.stamp_ns, lens)


def optical_in_base(x_m: float, z_m: float) -> Pose3:
    """A level camera that looks forward."""
    return Pose3((x_m, 0.0, z_m), (-0.5, 0.5, -0.5, 0.5))


def run_once(
    seed: int,
    backend: Backend,
    *,
    limit_s: float = 240.0,
    shadows: bool = True,
    models: Path | None = None,
    trace: bool = False,
    varied: bool = False,
) -> Outcome:
    random = np.random.default_rng([seed, 77])
    eye = Eye(np.random.default_rng([seed, 78])) if varied else None
    robot = parse_robot(resource_path("config", "robot.yaml").read_text())
    layout = parse_world(resource_path("config", "world.yaml").read_text())
    dock = parse_dock(resource_path("config", "dock.yaml").read_text())
    place = next(p for p in layout.docks if p.id == DOCK).pose()
    room = layout.room
    others = [other.pose() for other in layout.docks if other.id != DOCK]
    while True:
        distance, angle = random.uniform(1.0, 4.0), random.uniform(-math.pi / 3, math.pi / 3)
        start = place.compose(Pose2(-distance * math.cos(angle), -distance * math.sin(angle), 0.0))
        if (
            room.x_min_m + 0.5 < start.x_m < room.x_max_m - 0.5
            and room.y_min_m + 0.5 < start.y_m < room.y_max_m - 0.5
            # Not inside another dock.
            and all(start.distance_m(other) > OTHER_DOCK_M for other in others)
        ):
            break
    start = Pose2(start.x_m, start.y_m, float(random.uniform(-math.pi, math.pi)))
    world = World(robot, layout, dock, resource_path("config", "dock"), seed=seed, start=start)
    camera = SimulatedCamera(world, backend, shadows=shadows)
    observe = make_observer(models or resource_path("models"), resource_path("config", "dock.yaml"))
    optical = optical_in_base(robot.camera.x_m, robot.camera.z_m)
    # The map is a little wrong, as maps are.
    expected = (
        start.inverse()
        .compose(place)
        .compose(
            Pose2(
                float(random.normal(0, MAP_ERROR_M)),
                float(random.normal(0, MAP_ERROR_M)),
                float(random.normal(0, MAP_ERROR_RAD)),
            )
        )
    )
    settings = DockingSettings(pads_x_m=robot.pads.x_m, dock_pads_x_m=dock.pads.x_m)
    begin = time.perf_counter()
    state = State()
    phases: list[str] = []

    def feed(fact: Input) -> None:
        nonlocal state
        before = state
        state, command = step(state, fact, settings)
        if state.phase is not before.phase:
            phases.append(f"{world.time_ns / 1e9:.1f} s {state.phase.value} {state.reason}".rstrip())
        if command is not None:
            world.command(command)

    feed(OdometryRead(0, world.odometry().base_in_odom))
    feed(DockAsked(0, DOCK, expected))
    frame_every = round(1e9 / robot.camera.rate_hz / STEP_NS)
    count, touching, pending, docked_ns = 0, False, None, None
    heading_rad = start.yaw_rad
    try:
        while world.time_ns < limit_s * 1e9 and state.phase is not Phase.FAILED:
            if state.phase is Phase.DOCKED:
                docked_ns = world.time_ns if docked_ns is None else docked_ns
                if world.time_ns - docked_ns >= HOLD_S * 1e9:
                    break
            world.step()
            count += 1
            if count % frame_every == 0 and docked_ns is None:
                frame = camera.read()
                if eye is not None:
                    turn_rad = wrap_angle_rad(world.base_in_map.yaw_rad - heading_rad)
                    heading_rad = world.base_in_map.yaw_rad
                    frame = eye.see(frame, turn_rad, 1 / robot.camera.rate_hz)
                _, seen = observe(frame)
                if seen is not None:
                    pose = optical.compose(seen.dock_in_camera).to_pose2()
                    # Detection and transport take time: it arrives 50 ms later.
                    pending = (world.time_ns + 50_000_000, DockSeen(frame.stamp_ns, pose))
            if pending is not None and pending[0] <= world.time_ns:
                feed(pending[1])
                pending = None
            if (world.contact_dock() == DOCK) != touching:
                touching = not touching
                feed(ContactChanged(world.time_ns, touching))
            if count % ODOMETRY_EVERY == 0:
                odometry = world.odometry()
                feed(OdometryRead(odometry.stamp_ns, odometry.base_in_odom))
    finally:
        camera.close()
    if trace:
        print("    " + " | ".join(phases))
    in_dock = place.inverse().compose(world.base_in_map.compose(Pose2(robot.pads.x_m, 0, 0)))
    return Outcome(
        state.phase is Phase.DOCKED and touching,
        state.reason or state.phase.value,
        world.time_ns / 1e9,
        time.perf_counter() - begin,
        abs(in_dock.y_m),
        abs(wrap_angle_rad(in_dock.yaw_rad)),
        state.attempt,
    )


def measure(
    runs: int = 100,
    seed: int = 1,
    *,
    backend: str = "auto",
    models: Path | None = None,
    verbose: bool = False,
    trace: bool = False,
    varied: bool = True,
    jobs: int = 0,
) -> dict[str, object]:
    """Figures for docs/benchmarks.md; 0 jobs are as many as there are cores."""
    jobs = jobs or os.cpu_count() or 1
    chosen, _ = choose_backend(backend)
    work = partial(run_once, backend=chosen, models=models, trace=trace, varied=varied)
    seeds = range(seed * 1000, seed * 1000 + runs)
    outcomes: list[Outcome] = []
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for number, outcome in enumerate(pool.map(work, seeds) if jobs > 1 else map(work, seeds)):
            outcomes.append(outcome)
            if verbose:
                print(
                    f"{number:3d} {'docked' if outcome.docked else 'FAILED ' + outcome.reason} "
                    f"in {outcome.sim_s:.0f} s, try {outcome.attempts}, {outcome.lateral_m * 1e3:.0f} mm, "
                    f"{math.degrees(outcome.yaw_rad):.1f} deg, {outcome.sim_s / outcome.wall_s:.1f}x real time",
                    flush=True,
                )
    good = [o for o in outcomes if o.docked]
    lateral_mm = [o.lateral_m * 1e3 for o in good] or [math.nan]
    yaw_deg = [math.degrees(o.yaw_rad) for o in good] or [math.nan]
    low, high = wilson(len(good), runs)
    return {
        "runs": runs,
        "docked": len(good),
        "docked %, 95 % interval": f"{100 * low:.2f} to {100 * high:.2f}",
        "first try": sum(o.attempts == 1 for o in good),
        "camera": chosen,
        "lateral error median mm": round(statistics.median(lateral_mm), 1),
        "lateral error p95 mm": round(float(np.percentile(lateral_mm, 95)), 1),
        "lateral error max mm": round(max(lateral_mm), 1),
        "yaw error p95 deg": round(float(np.percentile(yaw_deg, 95)), 2),
        "yaw error max deg": round(max(yaw_deg), 1),
        "sim seconds median": round(statistics.median([o.sim_s for o in good]), 1) if good else None,
        "times real time": round(sum(o.sim_s for o in outcomes) / sum(o.wall_s for o in outcomes), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--camera", default="auto", choices=["auto", "egl", "osmesa", "rays"])
    parser.add_argument("--models", type=Path, help="folder of the dock models, instead of the package's")
    parser.add_argument("--plain", action="store_true", help="the simulator's frames as they are")
    parser.add_argument("--jobs", type=int, default=0, help="processes (default: one a core)")
    parser.add_argument("--trace", action="store_true", help="print the phases of each run")
    arguments = parser.parse_args()
    figures = measure(
        arguments.runs,
        arguments.seed,
        backend=arguments.camera,
        models=arguments.models,
        verbose=True,
        trace=arguments.trace,
        varied=not arguments.plain,
        jobs=arguments.jobs,
    )
    for name, value in figures.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
