"""Simulation node: the MuJoCo world on the topics of hardware, and the link for what is wired.

One thread steps, renders and publishes; the executor only takes commands. Simulated time runs faster than the wall's:
as fast as ``speed_driving`` while anything moves, as fast as ``speed_docked`` while the robot stands docked, when
physics and rendering pause and only power flows. It never runs away from a detector that is still at an older image:
on a machine that is too slow the simulation is slow, not the robot blind.

Publishes ``/clock``, ``odom``, ``camera/image_raw``, ``camera/camera_info``; takes ``cmd_vel``; ``~/emergency_stop``.
"""

import contextlib
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml
from geometry_msgs.msg import Twist, TwistStamped
from msgspec import Meta, Struct
from nav_msgs.msg import Odometry as OdometryMessage
from rclpy.node import Node
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from std_srvs.srv import SetBool

from depai_robot.app.resource import resource_path
from depai_robot.app.story import StoryWriter
from depai_robot.nodes.convert import (
    frame_to_image,
    intrinsics_to_info,
    ns_to_stamp,
    odometry_to_message,
    stamp_to_ns,
)
from depai_robot.nodes.process import run
from depai_robot.nodes.quality import STATE, image_quality
from depai_robot.nodes.transform import OPTICAL_XYZW, Transforms
from depai_robot.perception.dock import parse_dock
from depai_robot.sim.battery import SimulatedBattery
from depai_robot.sim.camera import Backend, SimulatedCamera, choose_backend
from depai_robot.sim.link import LinkServer
from depai_robot.sim.pads import ChargingPads
from depai_robot.sim.scene import parse_robot, parse_world
from depai_robot.sim.supply import SimulatedSupply, SupplyModel
from depai_robot.sim.world import IDEAL, STEP_NS, Disturbance, World
from depai_robot.values.error import ConfigError, DepaiError, DeviceFailedError
from depai_robot.values.geometry import STOP, DriveCommand, Pose3

TICK_NS = 5 * STEP_NS
"""20 ms of simulated time: clock, odometry and power step together."""
DETECTOR_LAG_NS = 160_000_000
"""How old an image may be before simulated time waits for the detector to be done with it."""
DETECTOR_WAIT_S = 2.0
"""... and for how long it waits at most: a detector that has died must not stop the world."""
PARKED_TICK_NS = 50_000_000
PARK_AFTER_NS = 400_000_000
"""Docked, and no wheel told to turn for this long: physics pauses."""
POSE_STORY_NS = 200_000_000
CAMERA_FRAME = "camera_optical"


class ConnectorPlace(Struct, frozen=True, forbid_unknown_fields=True):
    """A dock's station.

    Attributes:
        dock: id in the world file.
        station: id; it has this one connector, number 1.
        power_max_w: of the supply.
    """

    dock: str
    station: str
    power_max_w: Annotated[float, Meta(gt=0, le=100_000)] = 300.0


class SimulationConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The simulation's file.

    Attributes:
        robot: its id.
        world: path of the world file; empty for the one of the package.
        link: path of the socket.
        story: folder for story lines, empty for none.
        connectors: of every dock that sells.
        state_of_charge: of the battery at the start.
        seed: of everything random.
        speed_driving, speed_docked: simulated seconds a second, at most.
        camera: ``auto``, ``egl``, ``osmesa`` or ``rays``.
        shadows: in the camera's picture.
        ideal: no slip, noise or latency.
    """

    robot: str
    link: str
    connectors: list[ConnectorPlace]
    world: str = ""
    story: str = ""
    state_of_charge: Annotated[float, Meta(ge=0, le=1)] = 0.18
    seed: int = 1
    speed_driving: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    speed_docked: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    camera: str = "auto"
    shadows: bool = True
    ideal: bool = False


def read_config(path: Path) -> SimulationConfig:
    """Raises ConfigError, saying where and what was expected."""
    try:
        return msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), SimulationConfig)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {error}") from error


class SimulationNode(Node):
    """Hosts the world."""

    def __init__(self, config: SimulationConfig) -> None:
        super().__init__("simulation")
        self._config = config
        robot = parse_robot(resource_path("config", "robot.yaml").read_text(encoding="utf-8"))
        world_path = Path(config.world) if config.world else resource_path("config", "world.yaml")
        layout = parse_world(world_path.read_text(encoding="utf-8"), str(world_path))
        dock = parse_dock(resource_path("config", "dock.yaml").read_text(encoding="utf-8"))
        known = {place.id for place in layout.docks}
        for place in config.connectors:
            if place.dock not in known:
                raise ConfigError(f"connector at dock {place.dock!r}: the world has {sorted(known)}")
        self._key_by_dock = {place.dock: (place.station, 1) for place in config.connectors}
        backend, reason = choose_backend(config.camera)
        self.get_logger().info(f"camera: {backend} ({reason})")
        self._backend: Backend = backend
        self._reason = reason
        self._world = World(
            robot,
            layout,
            dock,
            resource_path("config", "dock"),
            seed=config.seed,
            disturbance=IDEAL if config.ideal else Disturbance(),
        )
        self._pads = ChargingPads(
            config.robot,
            SimulatedBattery(robot.battery, config.state_of_charge, seed=config.seed),
            {
                (place.station, 1): SimulatedSupply(
                    SupplyModel(power_max_w=place.power_max_w), seed=config.seed + number
                )
                for number, place in enumerate(config.connectors)
            },
        )
        self._link = LinkServer(Path(config.link), self._pads, self._pads.lock)
        self._story = StoryWriter(Path(config.story), "sim", self) if config.story else None
        self._commands = threading.Lock()
        self._command: DriveCommand | None = None
        self._emergency: bool | None = None
        self._moved_ns = 0
        self._sent_ns = self._processed_ns = 0
        self._processed = threading.Condition()
        self._speed: dict[bool, tuple[float, float]] = {False: (0.0, 0.0), True: (0.0, 0.0)}
        self._closing = threading.Event()
        self._failure = ""
        self._clock_out = self.create_publisher(ClockMessage, "/clock", 10)
        self._odometry = self.create_publisher(OdometryMessage, "odom", STATE)
        self._images = self.create_publisher(Image, "camera/image_raw", image_quality(reliable=True))
        eye = Pose3((robot.camera.x_m, 0.0, robot.camera.z_m), OPTICAL_XYZW)
        self._transforms = Transforms(self, eye, CAMERA_FRAME)
        self._infos = self.create_publisher(CameraInfo, "camera/camera_info", STATE)
        self.create_subscription(Twist, "cmd_vel", self._take_velocity, STATE)
        self.create_subscription(
            TwistStamped, "cmd_vel_stamped", lambda m: self._take_velocity(m.twist), STATE
        )
        self.create_subscription(Header, "dock_detector/processed", self._take_processed, STATE)
        self.create_service(SetBool, "~/emergency_stop", self._take_emergency)
        self.create_timer(0.2, self._check_world)
        self._tell_world()
        self._thread = threading.Thread(target=self._work, name="world", daemon=True)
        self._thread.start()

    def session_ns(self) -> int:
        """For the story's clock."""
        return self._world.time_ns

    # --- commands ------------------------------------------------------------------------------------------

    def _take_velocity(self, twist: Any) -> None:
        try:
            command = DriveCommand(float(twist.linear.x), float(twist.angular.z))
        except DepaiError as error:
            self.get_logger().warning(f"cmd_vel refused: {error}")
            return
        with self._commands:
            self._command = command

    def _take_emergency(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        with self._commands:
            self._emergency = bool(request.data)
        response.success = True
        response.message = "stopped" if request.data else "released"
        return response

    def _apply_commands(self) -> None:
        with self._commands:
            command, self._command = self._command, None
            emergency, self._emergency = self._emergency, None
        if emergency is not None:
            (self._world.stop_for_emergency if emergency else self._world.release_emergency)()
        if command is not None and self._world.command(command) != STOP:
            self._moved_ns = self._world.time_ns

    def _take_processed(self, header: Header) -> None:
        with self._processed:
            self._processed_ns = max(self._processed_ns, stamp_to_ns(header.stamp))
            self._processed.notify()

    def _wait_for_detector(self, now_ns: int) -> None:
        """Returns when the newest image that is old enough has been looked at, or nobody looks."""
        with self._processed:
            if self._processed_ns == 0 or self._sent_ns <= self._processed_ns:
                return
            if now_ns - self._sent_ns < DETECTOR_LAG_NS - round(1e9 / self._world.robot.camera.rate_hz):
                return
            wanted_ns = self._sent_ns
            if not self._processed.wait_for(lambda: self._processed_ns >= wanted_ns, DETECTOR_WAIT_S):
                self._processed_ns = 0  # gone: time goes on without it until it is heard again

    # --- the world's thread --------------------------------------------------------------------------------

    def _work(self) -> None:
        doing = "camera"
        try:
            camera = SimulatedCamera(self._world, self._backend, self._reason, shadows=self._config.shadows)
            with contextlib.closing(camera):
                doing = "world"
                self._run(camera)
        except Exception as error:  # noqa: BLE001
            # A GL library can fail in many ways, and the others must not wait for a time that stands still.
            self._failure = f"simulation: {doing}: {type(error).__name__}: {error}"

    def _check_world(self) -> None:
        if self._failure:
            raise DeviceFailedError(self._failure)

    def _run(self, camera: SimulatedCamera) -> None:
        frame_ns = round(1e9 / self._world.robot.camera.rate_hz)
        next_frame_ns = next_story_ns = 0
        parked = False
        began_s, began_ns = time.monotonic(), 0
        while not self._closing.is_set():
            self._apply_commands()
            now_ns = self._world.time_ns
            if not parked:
                self._wait_for_detector(now_ns)
            touched = self._pads.touched is not None
            if (touched and now_ns - self._moved_ns > PARK_AFTER_NS) != parked:
                self._count_speed(parked, now_ns - began_ns, time.monotonic() - began_s)
                self._tell_speed()
                parked = not parked
                began_s, began_ns = time.monotonic(), now_ns
            if parked:
                self._world.skip(PARKED_TICK_NS)
                for _ in range(PARKED_TICK_NS // 10_000_000):
                    self._pads.step(10_000_000)
            else:
                for _ in range(TICK_NS // STEP_NS):
                    self._world.step()
                self._pads.step(TICK_NS, self._world.drive_fraction)
                self._look_for_contact()
            now_ns = self._world.time_ns
            self._publish(now_ns)
            if not parked and now_ns >= next_frame_ns:
                next_frame_ns = now_ns + frame_ns
                self._publish_frame(camera)
            if now_ns >= next_story_ns:
                next_story_ns = now_ns + POSE_STORY_NS
                self._tell_pose()
            factor = self._config.speed_docked if parked else self._config.speed_driving
            ahead_s = (now_ns - began_ns) / 1e9 / factor - (time.monotonic() - began_s)
            if ahead_s > 0:
                self._closing.wait(ahead_s)
            elif ahead_s < -0.2:
                # Held up: go on from here rather than race after lost time.
                self._count_speed(parked, now_ns - began_ns, time.monotonic() - began_s)
                began_s, began_ns = time.monotonic(), now_ns
        self._count_speed(parked, self._world.time_ns - began_ns, time.monotonic() - began_s)

    def _look_for_contact(self) -> None:
        dock = self._world.contact_dock()
        key = None if dock is None else self._key_by_dock.get(dock)
        if key != self._pads.touched:
            self._pads.touch(key)
            self._link.push()
            if self._story is not None:
                self._story.tell("contact", dock=dock)

    def _publish(self, now_ns: int) -> None:
        self._clock_out.publish(ClockMessage(clock=ns_to_stamp(now_ns)))
        odometry = odometry_to_message(self._world.odometry(), "odom", "base_link")
        self._odometry.publish(odometry)
        self._transforms.tell(odometry)
        self._link.push()

    def _publish_frame(self, camera: SimulatedCamera) -> None:
        if self._images.get_subscription_count() == 0:
            return
        frame = camera.read()
        self._sent_ns = frame.stamp_ns
        self._infos.publish(intrinsics_to_info(frame.intrinsics, frame.stamp_ns, CAMERA_FRAME))
        self._images.publish(frame_to_image(frame, CAMERA_FRAME))

    # --- story ---------------------------------------------------------------------------------------------

    def _tell_world(self) -> None:
        if self._story is None:
            return
        layout = self._world.layout
        stations = {dock: key[0] for dock, key in self._key_by_dock.items()}
        self._story.tell(
            "world",
            room=msgspec.structs.asdict(layout.room),
            docks=[
                {**msgspec.structs.asdict(dock), "station": stations.get(dock.id, "")}
                for dock in layout.docks
            ],
            start=msgspec.structs.asdict(layout.start),
        )
        self._story.tell("camera", backend=self._backend, reason=self._reason)

    def _tell_pose(self) -> None:
        if self._story is None:
            return
        pose = self._world.base_in_map
        reading = self._pads.battery.reading(self._world.time_ns)
        self._story.tell(
            "pose",
            x_m=round(pose.x_m, 3),
            y_m=round(pose.y_m, 3),
            yaw_rad=round(pose.yaw_rad, 4),
            state_of_charge=round(reading.state_of_charge, 4),
            voltage_v=round(reading.voltage_v, 2),
            current_a=round(reading.current_a, 2),
            pads_w=round(reading.pads_power_w, 1),
        )

    def _count_speed(self, docked: bool, simulated_ns: int, wall_s: float) -> None:
        simulated_s, wall_before_s = self._speed[docked]
        self._speed[docked] = (simulated_s + simulated_ns / 1e9, wall_before_s + wall_s)

    def _tell_speed(self) -> None:
        """Totals so far, docked and not: simulated seconds in so many seconds of the wall."""
        if self._story is None:
            return
        for docked, (simulated_s, wall_s) in self._speed.items():
            self._story.tell(
                "speed", docked=docked, simulated_s=round(simulated_s, 2), wall_s=round(wall_s, 2)
            )

    def close(self) -> None:
        """Time stands still; the link hangs up. The truth of every supply goes into the story."""
        self._closing.set()
        self._thread.join(5.0)
        self._tell_speed()
        if self._story is not None:
            for (station, number), supply in self._pads.supplies.items():
                self._story.tell(
                    "supply",
                    station=station,
                    connector=number,
                    register_milliwh=supply.register_milliwh,
                    delivered_milliwh=round(supply.delivered_milliwh),
                )
            self._story.close()
        self._link.close()


def _make() -> list[Node]:
    probe = Node("simulation_config")
    probe.declare_parameter("config", value="")
    path = str(probe.get_parameter("config").value)
    probe.destroy_node()
    if not path:
        raise ConfigError("simulation: the parameter config must name a file: --ros-args -p config:=FILE")
    return [SimulationNode(read_config(Path(path)))]


def main() -> None:
    """Entry point."""
    run(_make)


if __name__ == "__main__":
    main()
