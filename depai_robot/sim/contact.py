"""Whether the robot's pads touch a dock's: one rule for every simulation."""

from depai_robot.perception.dock import DockModel
from depai_robot.sim.scene import RobotModel, WorldModel
from depai_robot.values.geometry import Pose2

CONTACT_GAP_M = 0.006
"""Spring travel of the pads: nearer than this they touch."""


def find_contact(base_in_map: Pose2, robot: RobotModel, world: WorldModel, dock: DockModel) -> str | None:
    """The dock whose pads the robot's touch: near enough, straight enough, and not beside them.

    Args:
        base_in_map: where the robot really is.
        robot: config/robot.yaml.
        world: config/world.yaml.
        dock: config/dock.yaml.
    """
    pads_in_map = base_in_map.compose(Pose2(robot.pads.x_m, 0.0, 0.0))
    for place in world.docks:
        front = place.pose().inverse().compose(pads_in_map)
        if (
            abs(front.x_m - dock.pads.x_m) <= CONTACT_GAP_M
            and abs(front.y_m) <= dock.pads.half_width_m
            and abs(front.yaw_rad) <= dock.pads.angle_tolerance_rad
        ):
            return place.id
    return None
