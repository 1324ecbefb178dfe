"""The physical world in MuJoCo: a room, docks with pads, and a differential-drive robot.

Imports MuJoCo when a world is made. Physics steps of 4 ms. What the base is told passes the same limits, command
time-out and emergency stop as hardware would apply, then a latency and the slip of each wheel.
"""

import math
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from depai_robot.perception.dock import DockModel
from depai_robot.ports import Odometry
from depai_robot.sim.contact import find_contact
from depai_robot.sim.scene import RobotModel, WorldModel
from depai_robot.values.error import ConfigError
from depai_robot.values.geometry import STOP, DriveCommand, Pose2, wrap_angle_rad

STEP_NS = 4_000_000
NS_PER_S = 1_000_000_000
SLIP_MEMORY_S = 0.2
"""Time constant of momentary slip: a seam of the floor, not a fresh draw each step."""
SERVO_RATE_PER_S = 10.0
SERVO_WINDUP_RADPS = 0.5


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What is not ideal, drawn from the seed.

    Attributes:
        latency_s: from a command to the wheels.
        slip_fraction: standard deviation of each wheel's lasting slip: what its encoder says and the floor does
            not get. 0.01 on each of two wheels 0.34 m apart bends the odometry by 2.4 degrees a metre.
        slip_noise: standard deviation of each wheel's momentary slip.
        odometry_fraction: standard deviation of the odometry's scale errors.
        odometry_noise: momentary, as a fraction of the speed.
        friction_min: least friction between wheels and floor; the seed draws from there to 1.
    """

    latency_s: float = 0.1
    slip_fraction: float = 0.01
    slip_noise: float = 0.03
    odometry_fraction: float = 0.01
    odometry_noise: float = 0.02
    friction_min: float = 0.5


IDEAL = Disturbance(0.0, 0.0, 0.0, 0.0, 0.0, 1.0)


class World:
    """One robot in one room.

    Args:
        robot: config/robot.yaml.
        world: config/world.yaml.
        dock: config/dock.yaml.
        textures: folder of ``panel_<marker id>.png`` and ``base_front.png``.
        seed: of the disturbance.
        disturbance: how far from ideal.
        start: overrides the world's start pose.

    Raises:
        ConfigError: a dock's picture is missing, or MuJoCo is not installed.
    """

    def __init__(
        self,
        robot: RobotModel,
        world: WorldModel,
        dock: DockModel,
        textures: Path,
        *,
        seed: int = 0,
        disturbance: Disturbance | None = None,
        start: Pose2 | None = None,
    ) -> None:
        try:
            import mujoco
        except ImportError as error:
            raise ConfigError(
                f"the simulator needs MuJoCo, got {error}: pip install 'depai_robot[sim]'"
            ) from error

        self.robot, self.layout, self.dock = robot, world, dock
        self._mujoco = mujoco
        self._disturbance = disturbance or Disturbance()
        self._random = np.random.default_rng([seed, 0x0B07])
        noise = self._disturbance
        self._slip = 1.0 + self._random.normal(0, noise.slip_fraction, 2)
        self._slip_wander = np.zeros(2)
        self._servo = np.zeros(2)
        self._odometry_scale = 1.0 + self._random.normal(0, noise.odometry_fraction, 2)
        self.start = start or world.start.pose()
        self.model: Any = mujoco.MjModel.from_xml_string(self._xml(textures))
        grip = float(self._random.uniform(noise.friction_min, 1.0))
        for side in ("left", "right"):
            self.model.geom(f"tyre_{side}").friction[0] = grip
        self.data: Any = mujoco.MjData(self.model)
        self._place(self.start)
        self._wheels = [self.model.actuator(name).id for name in ("left", "right")]
        self._wheel_dofs = [self.model.joint(name).dofadr[0] for name in ("wheel_left", "wheel_right")]
        self._skipped_ns = 0
        self._steps = 0
        self._base_in_odom = Pose2(0.0, 0.0, 0.0)
        self._measured = STOP
        self._command, self._command_ns = STOP, -NS_PER_S
        self._applied = STOP
        self._delay: deque[tuple[int, DriveCommand]] = deque()
        self._delayed = STOP
        self.stopped_for_emergency = False

    # --- scene ---------------------------------------------------------------------------------------------

    def _xml(self, textures: Path) -> str:
        room, body, wheels = self.layout.room, self.robot.body, self.robot.wheels
        camera = self.robot.camera
        fovy = math.degrees(2 * math.atan(camera.height_px / 2 / camera.focal_px))
        width, depth = room.x_max_m - room.x_min_m, room.y_max_m - room.y_min_m
        centre_x, centre_y = (room.x_max_m + room.x_min_m) / 2, (room.y_max_m + room.y_min_m) / 2
        high = room.wall_height_m
        assets, docks = [], []
        for place in self.layout.docks:
            asset, dock = self._dock_xml(place.id, place.marker_id, place.pose(), textures)
            assets.append(asset)
            docks.append(dock)
        walls = "".join(
            f'<geom type="box" material="wall" pos="{x} {y} {high / 2}" size="{sx} {sy} {high / 2}"/>'
            for x, y, sx, sy in (
                (room.x_min_m - 0.05, centre_y, 0.05, depth / 2),
                (room.x_max_m + 0.05, centre_y, 0.05, depth / 2),
                (centre_x, room.y_min_m - 0.05, width / 2, 0.05),
                (centre_x, room.y_max_m + 0.05, width / 2, 0.05),
            )
        )
        wheel = "".join(
            f'<body name="{side}" pos="0 {sign * wheels.track_m / 2} {wheels.radius_m}">'
            f'<joint name="wheel_{side}" type="hinge" axis="0 1 0" damping="0.02" armature="0.05"/>'
            f'<geom name="tyre_{side}" type="cylinder" size="{wheels.radius_m} 0.018" euler="1.5707963 0 0" mass="0.8" '
            f'friction="1.0 0.01 0.0005" priority="2" rgba=".1 .1 .1 1"/></body>'
            for side, sign in (("left", 1), ("right", -1))
        )
        casters = "".join(
            f'<geom type="sphere" size="0.025" pos="{x} 0 0.025" mass="0.2" condim="1" priority="1" '
            f'rgba=".3 .3 .3 1"/>'
            for x in (-0.18, 0.18)
        )
        half_h = body.height_m / 2
        return f"""
<mujoco model="depai">
  <compiler angle="radian" meshdir="{textures}" texturedir="{textures}"/>
  <option timestep="{STEP_NS / NS_PER_S}" integrator="Euler" cone="elliptic"/>
  <visual>
    <global offwidth="{camera.width_px}" offheight="{camera.height_px}"/>
    <quality shadowsize="512" offsamples="0"/>
    <map znear="0.005" zfar="40"/>
    <headlight ambient=".35 .35 .35" diffuse=".25 .25 .25" specular="0 0 0"/>
  </visual>
  <asset>
    <texture name="sky" type="skybox" builtin="flat" rgb1=".45 .45 .45" rgb2=".45 .45 .45" width="8" height="48"/>
    <texture name="floor" type="2d" builtin="checker" rgb1=".52 .50 .47" rgb2=".44 .43 .41" width="256" height="256"/>
    <material name="floor" texture="floor" texrepeat="{width * 1.3:.2f} {depth * 1.3:.2f}" reflectance="0"/>
    <material name="wall" rgba=".74 .73 .69 1"/>
    {"".join(assets)}
  </asset>
  <worldbody>
    <light pos="{centre_x - 1} {centre_y - 1} 4" dir=".25 .25 -1" diffuse=".55 .55 .52" castshadow="true"/>
    <light pos="{centre_x + 2} {centre_y + 1} 4" dir="-.3 -.1 -1" diffuse=".25 .25 .28" castshadow="false"/>
    <geom name="floor" type="plane" pos="{centre_x} {centre_y} 0" size="{width} {depth} .1" material="floor"
      friction="1.0 0.005 0.0001"/>
    {walls}{"".join(docks)}
    <body name="robot" pos="0 0 0">
      <freejoint name="free"/>
      <geom name="chassis" type="box" pos="0 0 {body.clearance_m + half_h}" mass="{body.mass_kg}"
        size="{body.length_m / 2} {body.width_m / 2} {half_h}" friction="0.1" rgba=".16 .42 .59 1"/>
      {wheel}{casters}
      <camera name="eye" pos="{camera.x_m} 0 {camera.z_m}" xyaxes="0 -1 0 0 0 1" fovy="{fovy}"/>
    </body>
  </worldbody>
  <actuator>
    <velocity name="left" joint="wheel_left" kv="6" forcerange="-12 12"/>
    <velocity name="right" joint="wheel_right" kv="6" forcerange="-12 12"/>
  </actuator>
</mujoco>"""

    def _dock_xml(self, name: str, marker_id: int, pose: Pose2, textures: Path) -> tuple[str, str]:
        panel, base = self.dock.panel, self.dock.base
        hw, hh = panel.width_m / 2, panel.height_m / 2
        bw, bz = base.width_m / 2, -hh - base.height_m / 2
        low = panel.centre_height_m - hh - base.height_m
        texture = f"panel_{marker_id}.png"
        if not (textures / texture).is_file():
            there = sorted(path.name for path in textures.glob("panel_*.png"))
            raise ConfigError(
                f"dock {name}: marker_id {marker_id} has no {texture} in {textures}, got {there}"
            )
        # A face is a mesh, since MuJoCo maps a picture onto a mesh's own coordinates and not onto a box's side.
        # Seen from the front (looking along +x) the picture's left is at +y.
        assets = (
            _face_xml(f"{name}_panel", texture, hw, hh)
            + _face_xml(f"{name}_base", "base_front.png", bw, base.height_m / 2)
            + f'<material name="{name}_body" rgba=".22 .23 .25 1"/>'
        )
        dock = (
            f'<body name="{name}" pos="{pose.x_m} {pose.y_m} {panel.centre_height_m}" euler="0 0 {pose.yaw_rad}">'
            f'<geom type="mesh" mesh="{name}_panel" material="{name}_panel" contype="0" conaffinity="0"/>'
            f'<geom type="box" material="{name}_body" pos="{panel.thickness_m / 2 + 0.001} 0 0" '
            f'size="{panel.thickness_m / 2} {hw} {hh}"/>'
            f'<geom type="mesh" mesh="{name}_base" material="{name}_base" contype="0" conaffinity="0" '
            f'pos="{-base.depth_m} 0 {bz}"/>'
            f'<geom name="{name}_pads" type="box" material="{name}_body" friction="0.2" '
            f'pos="{-base.depth_m / 2 + 0.001} 0 {bz}" size="{base.depth_m / 2} {bw} {base.height_m / 2}"/>'
            f'<geom type="box" material="{name}_body" pos="0.06 0 {(low - panel.centre_height_m) / 2 - hh / 2}" '
            f'size="0.04 {hw} {(panel.centre_height_m - hh) / 2}" contype="0" conaffinity="0"/>'
            f"</body>"
        )
        return assets, dock

    def _place(self, pose: Pose2) -> None:
        free = self.model.joint("free").qposadr[0]
        self.data.qpos[free : free + 7] = [
            pose.x_m,
            pose.y_m,
            0.0,
            math.cos(pose.yaw_rad / 2),
            0,
            0,
            math.sin(pose.yaw_rad / 2),
        ]
        self._mujoco.mj_forward(self.model, self.data)

    # --- time ----------------------------------------------------------------------------------------------

    @property
    def time_ns(self) -> int:
        """Simulated time since the start."""
        return self._steps * STEP_NS + self._skipped_ns

    def skip(self, duration_ns: int) -> None:
        """Time passes while nothing moves: for a robot that stands docked."""
        self._skipped_ns += duration_ns

    def step(self) -> None:
        """One physics step of 4 ms."""
        now_ns = self.time_ns
        self._shape_command(now_ns)
        self._drive()
        self._mujoco.mj_step(self.model, self.data)
        self._steps += 1
        self._integrate_odometry()

    # --- base ----------------------------------------------------------------------------------------------

    def send(self, command: DriveCommand) -> DriveCommand:
        """See ports.Base."""
        return self.command(command)

    def command(self, command: DriveCommand) -> DriveCommand:
        """What the base shall do until told otherwise or the command times out; returns it within the limits."""
        limits = self.robot.limits
        if self.stopped_for_emergency:
            command = STOP
        self._command = DriveCommand(
            float(np.clip(command.linear_mps, -limits.linear_max_mps, limits.linear_max_mps)),
            float(np.clip(command.angular_radps, -limits.angular_max_radps, limits.angular_max_radps)),
        )
        self._command_ns = self.time_ns
        return self._command

    def stop_for_emergency(self) -> None:
        """The wheels stop at once and stay so until :meth:`release_emergency`."""
        self.stopped_for_emergency = True
        self._command = self._applied = self._delayed = STOP
        self._delay.clear()

    def release_emergency(self) -> None:
        """A person has looked."""
        self.stopped_for_emergency = False

    def _shape_command(self, now_ns: int) -> None:
        limits = self.robot.limits
        fresh = now_ns - self._command_ns <= limits.command_timeout_s * NS_PER_S
        wanted = self._command if fresh and not self.stopped_for_emergency else STOP
        dt = STEP_NS / NS_PER_S
        linear = limits.linear_accel_max_mps2 * dt
        angular = limits.angular_accel_max_radps2 * dt
        self._applied = DriveCommand(
            self._applied.linear_mps
            + float(np.clip(wanted.linear_mps - self._applied.linear_mps, -linear, linear)),
            self._applied.angular_radps
            + float(np.clip(wanted.angular_radps - self._applied.angular_radps, -angular, angular)),
        )
        self._delay.append((now_ns + int(self._disturbance.latency_s * NS_PER_S), self._applied))
        while self._delay and self._delay[0][0] <= now_ns:
            self._delayed = self._delay.popleft()[1]

    def _drive(self) -> None:
        wheels = self.robot.wheels
        keep = math.exp(-STEP_NS / NS_PER_S / SLIP_MEMORY_S)
        fresh = self._random.normal(0, 1, 2) * self._disturbance.slip_noise
        self._slip_wander = keep * self._slip_wander + math.sqrt(1 - keep * keep) * fresh
        turn = self._delayed.angular_radps * wheels.track_m / 2
        speeds = (
            np.array([self._delayed.linear_mps - turn, self._delayed.linear_mps + turn]) / wheels.radius_m
        )
        wanted = speeds * self._slip * (1 + self._slip_wander)
        # A motor controller's integral part: without it the scrub of the tyres would eat a tenth of every turn.
        # It forgets while standing, so that nothing creeps.
        error = wanted - np.array([float(self.data.qvel[dof]) for dof in self._wheel_dofs])
        limit = SERVO_WINDUP_RADPS if wanted.any() else 0.0
        self._servo = np.clip(self._servo + SERVO_RATE_PER_S * STEP_NS / NS_PER_S * error, -limit, limit)
        self.data.ctrl[self._wheels] = wanted + self._servo

    def _integrate_odometry(self) -> None:
        wheels, dt = self.robot.wheels, STEP_NS / NS_PER_S
        # An encoder counts what the wheel turned, slip included; the physics' wheel is what reached the floor.
        left, right = (
            float(self.data.qvel[dof]) * wheels.radius_m / float(slip)
            for dof, slip in zip(self._wheel_dofs, self._slip * (1 + self._slip_wander), strict=True)
        )
        noise = 1 + self._random.normal(0, 1, 2) * self._disturbance.odometry_noise
        linear = (left + right) / 2 * float(self._odometry_scale[0] * noise[0])
        angular = (right - left) / wheels.track_m * float(self._odometry_scale[1] * noise[1])
        yaw = self._base_in_odom.yaw_rad + angular * dt / 2
        self._base_in_odom = Pose2(
            self._base_in_odom.x_m + linear * math.cos(yaw) * dt,
            self._base_in_odom.y_m + linear * math.sin(yaw) * dt,
            wrap_angle_rad(self._base_in_odom.yaw_rad + angular * dt),
        )
        self._measured = DriveCommand(linear, angular)

    def odometry(self) -> Odometry:
        """By the wheels' encoders, with their errors."""
        return Odometry(
            self.time_ns, self._base_in_odom, self._measured.linear_mps, self._measured.angular_radps
        )

    # --- truth ---------------------------------------------------------------------------------------------

    @property
    def base_in_map(self) -> Pose2:
        """Where the robot really is."""
        free = self.model.joint("free").qposadr[0]
        x, y, _, w, qx, qy, qz = (float(v) for v in self.data.qpos[free : free + 7])
        return Pose2(x, y, math.atan2(2 * (w * qz + qx * qy), 1 - 2 * (qy * qy + qz * qz)))

    @property
    def drive_fraction(self) -> float:
        """Of full speed, for the battery's load."""
        limits = self.robot.limits
        return min(
            1.0,
            abs(self._delayed.linear_mps) / limits.linear_max_mps
            + abs(self._delayed.angular_radps) / limits.angular_max_radps / 2,
        )

    def dock_in_base(self, dock_id: str) -> Pose2:
        """The true pose of a dock in the robot's frame."""
        place = next(place for place in self.layout.docks if place.id == dock_id)
        return self.base_in_map.inverse().compose(place.pose())

    def contact_dock(self) -> str | None:
        """The dock whose pads the robot's pads touch: near enough, straight enough, and not beside them."""
        return find_contact(self.base_in_map, self.robot, self.layout, self.dock)


def _face_xml(name: str, texture: str, half_width_m: float, half_height_m: float) -> str:
    """A rectangle in the y-z plane with its picture, upright and not mirrored when seen along +x."""
    corners = (
        (half_width_m, half_height_m),
        (-half_width_m, half_height_m),
        (-half_width_m, -half_height_m),
        (half_width_m, -half_height_m),
    )
    vertex = " ".join(f"0 {y} {z}" for y, z in corners)
    return (
        f'<texture name="{name}" type="2d" file="{texture}"/>'
        f'<material name="{name}" texture="{name}" specular="0" shininess="0"/>'
        f'<mesh name="{name}" inertia="shell" vertex="{vertex}" texcoord="0 0 1 0 1 1 0 1" face="0 2 1 0 3 2"/>'
    )
