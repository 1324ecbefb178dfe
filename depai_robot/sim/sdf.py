"""The same room, docks and robot as SDF for Gazebo (gz sim), made from the same YAML files as the MuJoCo scene.

SDF 1.9, which Debian's checker and every Gazebo since Fortress read. Plugin names are those of gz-sim 8 to 10
(Harmonic, Ionic, Jetty). Source of plugins' parameters: gz-sim's system documentation.
"""

import math
from xml.sax.saxutils import escape

from depai_robot.perception.dock import DockModel
from depai_robot.sim.scene import DockPlace, RobotModel, WorldModel

ROBOT = "depai_robot"
BATTERY = "pack"
NOMINAL_CELL_V = 3.2
OPEN_CELL_V = (3.36, -0.15)
"""Gazebo's battery is a line: volts a cell when full, and what is added at empty; fitted to 10 to 95 % of LiFePO4."""
STEP_S = 0.004


def face_obj() -> str:
    """Wavefront OBJ of a picture's face: 1 m x 1 m in the y-z plane, seen along +x, its left at +y."""
    corners = ((0.5, 0.5, 0, 1), (-0.5, 0.5, 1, 1), (-0.5, -0.5, 1, 0), (0.5, -0.5, 0, 0))
    lines = [f"v 0 {y} {z}" for y, z, _, _ in corners]
    lines += [f"vt {u} {v}" for _, _, u, v in corners]
    # Counter-clockwise as seen from the front, so that it faces the robot.
    return "\n".join([*lines, "vn -1 0 0", "f 1/1/1 4/4/1 3/3/1 2/2/1"]) + "\n"


def make_sdf(robot: RobotModel, world: WorldModel, dock: DockModel, *, textures: str, face: str) -> str:
    """The world file.

    Args:
        robot: config/robot.yaml.
        world: config/world.yaml.
        dock: config/dock.yaml.
        textures: URI of the folder of ``panel_<marker id>.png`` and ``base_front.png``.
        face: URI of :func:`face_obj`'s file.
    """
    parts = [
        _physics(),
        *_lights(world),
        _floor(),
        *_walls(world),
        *(_dock(place, dock, textures, face) for place in world.docks),
        _robot(robot, world),
    ]
    body = "\n".join(parts)
    return f'<?xml version="1.0"?>\n<sdf version="1.9">\n<world name="depai">\n{body}\n</world>\n</sdf>\n'


def _physics() -> str:
    systems = "".join(
        f'  <plugin filename="gz-sim-{name}-system" name="gz::sim::systems::{kind}">{inner}</plugin>\n'
        for name, kind, inner in (
            ("physics", "Physics", ""),
            ("user-commands", "UserCommands", ""),
            ("scene-broadcaster", "SceneBroadcaster", ""),
            ("sensors", "Sensors", "<render_engine>ogre2</render_engine>"),
        )
    )
    return (
        f'  <physics name="step" type="ignored">\n    <max_step_size>{STEP_S}</max_step_size>\n'
        f"    <real_time_factor>1.0</real_time_factor>\n  </physics>\n{systems}"
    ).rstrip()


def _lights(world: WorldModel) -> list[str]:
    room = world.room
    x, y = (room.x_min_m + room.x_max_m) / 2, (room.y_min_m + room.y_max_m) / 2
    sun = (
        f'<light name="sun" type="directional"><pose>{x - 1:g} {y - 1:g} 4 0 0 0</pose>'
        "<cast_shadows>true</cast_shadows><diffuse>.8 .8 .78 1</diffuse><specular>.1 .1 .1 1</specular>"
        "<direction>.25 .25 -1</direction></light>"
    )
    lamp = (
        f'<light name="lamp" type="point"><pose>{x + 2:g} {y + 1:g} 3 0 0 0</pose><diffuse>.4 .4 .42 1</diffuse>'
        "<attenuation><range>12</range><constant>.6</constant><linear>.05</linear></attenuation></light>"
    )
    return [f"  {sun}", f"  {lamp}"]


def _material(rgb: str) -> str:
    return f"<material><ambient>{rgb} 1</ambient><diffuse>{rgb} 1</diffuse><specular>0 0 0 1</specular></material>"


def _box(size: tuple[float, float, float]) -> str:
    return f"<geometry><box><size>{size[0]:g} {size[1]:g} {size[2]:g}</size></box></geometry>"


def _floor() -> str:
    plane = "<geometry><plane><normal>0 0 1</normal><size>40 40</size></plane></geometry>"
    return (
        f'  <model name="floor"><static>true</static><link name="link"><collision name="ground">{plane}</collision>'
        f'<visual name="ground_face">{plane}{_material(".48 .47 .44")}</visual></link></model>'
    )


def _walls(world: WorldModel) -> list[str]:
    room = world.room
    width, depth = room.x_max_m - room.x_min_m, room.y_max_m - room.y_min_m
    x, y, high = (room.x_max_m + room.x_min_m) / 2, (room.y_max_m + room.y_min_m) / 2, room.wall_height_m
    walls = (
        ("west", room.x_min_m - 0.05, y, 0.1, depth),
        ("east", room.x_max_m + 0.05, y, 0.1, depth),
        ("south", x, room.y_min_m - 0.05, width, 0.1),
        ("north", x, room.y_max_m + 0.05, width, 0.1),
    )
    return [
        f'  <model name="wall_{name}"><static>true</static><pose>{wx:g} {wy:g} {high / 2:g} 0 0 0</pose>'
        f'<link name="link"><collision name="wall">{_box((sx, sy, high))}</collision>'
        f'<visual name="wall_face">{_box((sx, sy, high))}{_material(".74 .73 .69")}</visual></link></model>'
        for name, wx, wy, sx, sy in walls
    ]


def _picture(name: str, pose: str, size: tuple[float, float], uri: str, face: str) -> str:
    return (
        f'<visual name="{name}"><pose>{pose}</pose><geometry><mesh><uri>{escape(face)}</uri>'
        f"<scale>1 {size[0]:g} {size[1]:g}</scale></mesh></geometry><material><diffuse>1 1 1 1</diffuse><pbr><metal>"
        f"<albedo_map>{escape(uri)}</albedo_map><roughness>.9</roughness><metalness>0</metalness></metal></pbr></material>"
        "</visual>"
    )


def _dock(place: DockPlace, dock: DockModel, textures: str, face: str) -> str:
    panel, base = dock.panel, dock.base
    middle = -panel.height_m / 2 - base.height_m / 2
    foot = panel.centre_height_m - panel.height_m / 2
    dark = _material(".22 .23 .25")
    boxes = (
        ("panel", panel.thickness_m / 2 + 0.001, 0.0, (panel.thickness_m, panel.width_m, panel.height_m)),
        ("pads", -base.depth_m / 2 + 0.001, middle, (base.depth_m, base.width_m, base.height_m)),
        ("foot", 0.06, foot / 2 - panel.centre_height_m, (0.08, panel.width_m, foot)),
    )
    solid = "".join(
        f'      <collision name="{name}"><pose>{x:g} 0 {z:g} 0 0 0</pose>{_box(size)}</collision>\n'
        f'      <visual name="{name}_body"><pose>{x:g} 0 {z:g} 0 0 0</pose>{_box(size)}{dark}</visual>\n'
        for name, x, z, size in boxes
    )
    seen = "".join(
        f"      {_picture(name, f'{x:g} 0 {z:g} 0 0 0', size, f'{textures}/{file}', face)}\n"
        for name, x, z, size, file in (
            ("panel_face", 0.0, 0.0, (panel.width_m, panel.height_m), f"panel_{place.marker_id}.png"),
            ("base_face", -base.depth_m, middle, (base.width_m, base.height_m), "base_front.png"),
        )
    )
    return (
        f'  <model name="{place.id}"><static>true</static>'
        f"<pose>{place.x_m:g} {place.y_m:g} {panel.centre_height_m:g} 0 0 {place.yaw_rad:g}</pose>\n"
        f'    <link name="link">\n{seen}{solid}    </link>\n  </model>'
    )


def _inertia(mass: float, x: float, y: float, z: float) -> str:
    xx, yy, zz = (mass / 12 * (a * a + b * b) for a, b in ((y, z), (x, z), (x, y)))
    return (
        f"<inertial><mass>{mass:g}</mass><inertia><ixx>{xx:.6g}</ixx><iyy>{yy:.6g}</iyy><izz>{zz:.6g}</izz>"
        "<ixy>0</ixy><ixz>0</ixz><iyz>0</iyz></inertia></inertial>"
    )


def _robot(robot: RobotModel, world: WorldModel) -> str:
    body, wheels, camera, start = robot.body, robot.wheels, robot.camera, world.start
    height = body.clearance_m + body.height_m / 2
    box = _box((body.length_m, body.width_m, body.height_m))
    slippery = "<surface><friction><ode><mu>0.0</mu><mu2>0.0</mu2></ode></friction></surface>"
    casters = "".join(
        f'      <collision name="caster_{name}"><pose>{x} 0 0.025 0 0 0</pose>'
        f"<geometry><sphere><radius>0.025</radius></sphere></geometry>{slippery}</collision>\n"
        for name, x in (("front", 0.18), ("rear", -0.18))
    )
    fov = 2 * math.atan(camera.width_px / 2 / camera.focal_px)
    sensor = (
        '      <sensor name="camera" type="camera">'
        f"<pose>{camera.x_m:g} 0 {camera.z_m:g} 0 0 0</pose><topic>camera/image_raw</topic>"
        f"<update_rate>{camera.rate_hz:g}</update_rate><always_on>true</always_on>"
        "<gz_frame_id>camera_optical</gz_frame_id>"
        f"<camera><camera_info_topic>camera/camera_info</camera_info_topic><horizontal_fov>{fov:.6f}</horizontal_fov>"
        f"<image><width>{camera.width_px}</width><height>{camera.height_px}</height><format>R8G8B8</format></image>"
        "<clip><near>0.02</near><far>30</far></clip>"
        "<noise><type>gaussian</type><mean>0</mean><stddev>0.007</stddev></noise></camera></sensor>\n"
    )
    sides = "".join(_wheel(robot, name, sign) for name, sign in (("left", 1), ("right", -1)))
    return (
        f'  <model name="{ROBOT}">\n    <pose>{start.x_m:g} {start.y_m:g} 0 0 0 {start.yaw_rad:g}</pose>\n'
        f'    <link name="base_link">\n      <pose>0 0 0 0 0 0</pose>\n'
        f"      {_inertia(body.mass_kg, body.length_m, body.width_m, body.height_m)}\n"
        f'      <collision name="chassis"><pose>0 0 {height:g} 0 0 0</pose>{box}</collision>\n'
        f'      <visual name="chassis_body"><pose>0 0 {height:g} 0 0 0</pose>{box}{_material(".16 .42 .59")}</visual>\n'
        f"{casters}{sensor}    </link>\n{sides}{_plugins(robot, wheels.radius_m)}  </model>"
    )


def _wheel(robot: RobotModel, name: str, sign: int) -> str:
    wheels = robot.wheels
    pose = f"0 {sign * wheels.track_m / 2:g} {wheels.radius_m:g}"
    shape = f"<geometry><cylinder><radius>{wheels.radius_m:g}</radius><length>0.036</length></cylinder></geometry>"
    grip = "<surface><friction><ode><mu>1.0</mu><mu2>1.0</mu2></ode></friction></surface>"
    return (
        f'    <link name="wheel_{name}"><pose>{pose} -1.5707963 0 0</pose>'
        f"{_inertia(0.8, 2 * wheels.radius_m, 2 * wheels.radius_m, 0.036)}"
        f'<collision name="tyre">{shape}{grip}</collision>'
        f'<visual name="tyre_body">{shape}{_material(".1 .1 .1")}</visual></link>\n'
        f'    <joint name="wheel_{name}_joint" type="revolute"><parent>base_link</parent><child>wheel_{name}</child>'
        "<axis><xyz>0 0 1</xyz></axis></joint>\n"
    )


def _plugin(file: str, kind: str, values: dict[str, object]) -> str:
    inner = "".join(f"\n      <{key}>{value}</{key}>" for key, value in values.items())
    return f'    <plugin filename="gz-sim-{file}-system" name="gz::sim::systems::{kind}">{inner}\n    </plugin>\n'


def _plugins(robot: RobotModel, wheel_radius_m: float) -> str:
    limits, battery = robot.limits, robot.battery
    nominal_v = battery.cells * NOMINAL_CELL_V
    capacity_ah = battery.capacity_wh / nominal_v
    drive = {
        "left_joint": "wheel_left_joint",
        "right_joint": "wheel_right_joint",
        "wheel_separation": f"{robot.wheels.track_m:g}",
        "wheel_radius": f"{wheel_radius_m:g}",
        "max_linear_velocity": f"{limits.linear_max_mps:g}",
        "max_angular_velocity": f"{limits.angular_max_radps:g}",
        "max_linear_acceleration": f"{limits.linear_accel_max_mps2:g}",
        "max_angular_acceleration": f"{limits.angular_accel_max_radps2:g}",
        "odom_publish_frequency": 50,
        "topic": f"/model/{ROBOT}/cmd_vel",
        "odom_topic": f"/model/{ROBOT}/odometry",
        "tf_topic": f"/model/{ROBOT}/tf",
        "frame_id": "odom",
        "child_frame_id": "base_link",
    }
    truth = {
        "odom_frame": "map",
        "robot_base_frame": "base_link",
        "odom_topic": f"/model/{ROBOT}/ground_truth",
        "odom_publish_frequency": 50,
        "dimensions": 2,
    }
    pack = {
        "battery_name": BATTERY,
        "voltage": f"{nominal_v:g}",
        "open_circuit_voltage_constant_coef": f"{battery.cells * OPEN_CELL_V[0]:g}",
        "open_circuit_voltage_linear_coef": f"{battery.cells * OPEN_CELL_V[1]:g}",
        "initial_charge": f"{0.18 * capacity_ah:.4f}",
        "capacity": f"{capacity_ah:.4f}",
        "resistance": f"{battery.internal_resistance_ohm:g}",
        "smooth_current_tau": 1.0,
        "power_load": f"{battery.onboard_load_w:g}",
        "enable_recharge": "true",
        "recharge_by_topic": "true",
        "charging_time": f"{capacity_ah / battery.charge_current_max_a:.4f}",
        # Percentage in 0..100 and units in SI; the relay takes charge and capacity, which need no such switch.
        "fix_issue_225": "true",
        # ROS: negative when it discharges (REP: sensor_msgs/BatteryState).
        "invert_current_sign": "true",
    }
    return (
        _plugin("diff-drive", "DiffDrive", drive)
        + _plugin("odometry-publisher", "OdometryPublisher", truth)
        + _plugin("linearbatteryplugin", "LinearBatteryPlugin", pack)
    )
