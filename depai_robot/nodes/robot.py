"""The robot's process: dock detector, docking and battery on one executor. The wallet has a process of its own."""

import math
from pathlib import Path
from typing import Annotated, Literal

import cv2
import msgspec
import numpy as np
import yaml
from msgspec import Meta, Struct
from rclpy.node import Node

from depai_robot.adapters.onnx_session import RuntimeSettings
from depai_robot.app.description import read_description
from depai_robot.app.dock_observer import DockObserver, make_observer
from depai_robot.app.resource import resource_path
from depai_robot.app.story import StoryWriter
from depai_robot.docking.machine import DockingSettings
from depai_robot.nodes.battery import BatteryNode
from depai_robot.nodes.dock_detector import DockDetector
from depai_robot.nodes.docking import DockingNode
from depai_robot.nodes.nav2_docking import Nav2Docking
from depai_robot.nodes.process import run
from depai_robot.perception.dock import parse_dock
from depai_robot.perception.frame import Frame
from depai_robot.perception.observation import DockKeypoints, DockObservation
from depai_robot.sim.link_hardware import LinkRobotHardware
from depai_robot.values.error import ConfigError
from depai_robot.values.geometry import Pose2

FRAME_PERIOD_NS = 500_000_000
JPEG_QUALITY = 80


class RobotConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The robot process's file.

    Attributes:
        robot: its id.
        link: socket of the simulation, where battery and pads are.
        initial_pose: in the map at start-up: x_m, y_m, yaw_rad.
        models: folder of the dock models; empty for the package's own.
        model_report: file of ``depai-robot model gate``; empty for report.jws beside the models.
        model_report_keys: addresses of those whose report lets models run; empty demands no report.
        inference: providers, threads and the like; see adapters.onnx_session.RuntimeSettings.
        story: folder for story lines and frames, empty for none.
        description: of the robot (camera, pads), as config/robot.yaml; relative to this file, empty for that one.
        docking: ``own``, or ``nav2`` for Nav2's docking server.
    """

    robot: str
    link: str
    initial_pose: tuple[
        Annotated[float, Meta(ge=-1e4, le=1e4)],
        Annotated[float, Meta(ge=-1e4, le=1e4)],
        Annotated[float, Meta(ge=-7, le=7)],
    ] = (0.0, 0.0, 0.0)
    models: str = ""
    model_report: str = ""
    model_report_keys: tuple[str, ...] = ()
    inference: RuntimeSettings = RuntimeSettings()
    story: str = ""
    description: str = ""
    docking: Literal["own", "nav2"] = "own"


def read_config(path: Path) -> RobotConfig:
    """Raises ConfigError, saying where and what was expected."""
    try:
        return msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), RobotConfig)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {error}") from error


class FrameKeeper:
    """Keeps a picture now and then, with what the detector saw in it, for the report."""

    def __init__(self, folder: Path, story: StoryWriter) -> None:
        self._frames = folder / "frames"
        self._frames.mkdir(parents=True, exist_ok=True)
        self._story = story
        self._kept_ns = -FRAME_PERIOD_NS
        self._count = 0

    def __call__(
        self, frame: Frame, keypoints: DockKeypoints | None, observation: DockObservation | None
    ) -> None:
        """On the inference thread."""
        if keypoints is None or frame.stamp_ns - self._kept_ns < FRAME_PERIOD_NS:
            return
        self._kept_ns = frame.stamp_ns
        self._count += 1
        name = f"{self._count:06d}.jpg"
        picture = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(self._frames / name), picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        data: dict[str, object] = {
            "stamp_s": frame.stamp_ns / 1e9,
            "frame": f"frames/{name}",
            "score": round(keypoints.score, 3),
            "keypoints": np.round(keypoints.points_px, 1).tolist(),
            "visibility": np.round(keypoints.visibility, 2).tolist(),
            "confidence": None,
        }
        if observation is not None:
            x, _, z = observation.dock_in_camera.position_m
            data |= {
                "confidence": round(observation.confidence, 3),
                "range_m": round(math.hypot(x, z), 3),
                "sigma_range_m": round(float(np.sqrt(observation.covariance[2, 2])), 4),
                "model_sha256": observation.model_sha256,
            }
        self._story.tell("detection", **data)


def make_nodes(config: RobotConfig, path: Path = Path()) -> list[Node]:
    """The three nodes.

    Args:
        config: what to run.
        path: of its file.

    Raises:
        ConfigError: a file is missing or wrong.
        DeviceAbsentError: no simulation at the link.
    """
    robot = read_description(config.description, path)
    dock_file = resource_path("config", "dock.yaml")
    dock = parse_dock(dock_file.read_text(encoding="utf-8"))
    # Images of this size are done sooner than other threads are awake; all of OpenCV in this process is meant.
    cv2.setNumThreads(config.inference.threads)
    observer: DockObserver = make_observer(
        Path(config.models) if config.models else resource_path("models"),
        dock_file,
        settings=config.inference,
        report=Path(config.model_report) if config.model_report else None,
        report_keys=config.model_report_keys,
    )
    hardware = LinkRobotHardware(Path(config.link), config.robot)
    folder = Path(config.story) if config.story else None
    docking_story = StoryWriter(folder, "docking", hardware.clock) if folder else None
    keeper = FrameKeeper(folder, StoryWriter(folder, "detector", hardware.clock)) if folder else None
    settings = DockingSettings(pads_x_m=robot.pads.x_m, dock_pads_x_m=dock.pads.x_m)
    camera = (robot.camera.x_m, 0.0, robot.camera.z_m)
    docking: Node
    if config.docking == "nav2":
        docking = Nav2Docking()
    else:
        docking = DockingNode(settings, camera, Pose2(*config.initial_pose), docking_story)
    return [
        DockDetector(observer, model=observer.model_sha256, watcher=keeper, health=observer.health),
        docking,
        BatteryNode(hardware, hardware),
    ]


def _make() -> list[Node]:
    probe = Node("robot_config")
    probe.declare_parameter("config", value="")
    path = str(probe.get_parameter("config").value)
    probe.destroy_node()
    if not path:
        raise ConfigError("robot: the parameter config must name a file: --ros-args -p config:=FILE")
    return make_nodes(read_config(Path(path)), Path(path))


def main() -> None:
    """Entry point."""
    run(_make)


if __name__ == "__main__":
    main()
