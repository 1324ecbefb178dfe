"""Distances, speeds and patience of docking, checked when they are made."""

import math
from dataclasses import dataclass, field, fields

from depai_robot.docking.law import LawSettings
from depai_robot.values.error import ConfigError


@dataclass(frozen=True, slots=True)
class DockingSettings:
    """Distances in metres, angles in radians, times in seconds.

    Attributes:
        law: of travel, staging and approach.
        pads_x_m: of the robot's pads in its own frame.
        dock_pads_x_m: of the dock's pads in the dock's frame (negative: in front of the panel).
        camera_x_m: of the camera in the robot's frame.
        view_half_rad: a dock farther than this from the camera's axis is not expected to be seen.
        look_distance_m: how far in front of the dock's expected place to look for it.
        look_aside_m: to which side of that place the second and third try go.
        look_s: for a first look at where the dock should be, before turning all around.
        search_turn_radps: while turning around.
        gate_m: a first detection farther than this from where the map says is of another dock; a later one half.
        gate_rad: the same for its direction.
        filter_gain: weight of a new detection, 0..1.
        staging_distance_m: robot's origin to panel, where the straight approach begins.
        staging_tolerance_m, staging_tolerance_rad: near enough to the staging pose.
        approach_rate_per_s: speed of the approach as a share of the pads gap.
        touch_distance_m: pads gap from which the robot drives straight and slowly.
        touch_speed_mps: of that.
        touch_over_m: how far it pushes past where contact was expected.
        lateral_max_m: beside the dock's axis at touch distance: back off instead of scraping.
        yaw_max_rad: off the dock's axis at touch distance.
        sight_timeout_s: without a detection while the dock should be in view; in approach half of it.
        blind_distance_m: pads gap below which no detection is needed any more.
        contact_hold_s: the pads must touch for this long to be docked.
        contact_grace_s: docked pads may bounce for this long.
        clear_m: pads gap below which the robot does not turn on the spot.
        back_off_m: before the next try.
        undock_m: straight back when leaving.
        reverse_mps: of both.
        tries: before giving up.
        phase_timeout_s: for travel, staging and approach each.
        undock_timeout_s: to leave.
        total_timeout_s: for everything.
    """

    law: LawSettings = field(default_factory=LawSettings)
    pads_x_m: float = 0.25
    dock_pads_x_m: float = -0.15
    camera_x_m: float = 0.02
    view_half_rad: float = 0.45
    look_distance_m: float = 1.6
    look_aside_m: float = 0.6
    look_s: float = 1.5
    search_turn_radps: float = 0.6
    gate_m: float = 1.0
    gate_rad: float = 1.0
    filter_gain: float = 0.35
    staging_distance_m: float = 0.95
    staging_tolerance_m: float = 0.06
    staging_tolerance_rad: float = 0.12
    approach_rate_per_s: float = 0.45
    touch_distance_m: float = 0.10
    touch_speed_mps: float = 0.06
    touch_over_m: float = 0.05
    lateral_max_m: float = 0.035
    yaw_max_rad: float = 0.11
    sight_timeout_s: float = 2.5
    blind_distance_m: float = 0.12
    contact_hold_s: float = 0.4
    contact_grace_s: float = 0.5
    clear_m: float = 0.15
    back_off_m: float = 0.5
    undock_m: float = 0.5
    reverse_mps: float = 0.15
    tries: int = 4
    phase_timeout_s: float = 60.0
    undock_timeout_s: float = 15.0
    total_timeout_s: float = 240.0

    def __post_init__(self) -> None:
        for item in fields(self):
            if item.name in ("law", "tries", "filter_gain", "pads_x_m", "dock_pads_x_m", "camera_x_m"):
                continue
            value = getattr(self, item.name)
            if not 0 < value < 10_000:
                raise ConfigError(f"docking {item.name} must be positive and below 10000, got {value}")
        for name in ("pads_x_m", "dock_pads_x_m", "camera_x_m"):
            if not (math.isfinite(getattr(self, name)) and abs(getattr(self, name)) < 10):
                raise ConfigError(f"docking {name} must be within 10 m, got {getattr(self, name)}")
        if not 0 < self.filter_gain <= 1:
            raise ConfigError(f"docking filter_gain must be above 0 and at most 1, got {self.filter_gain}")
        if not 1 <= self.tries <= 20:
            raise ConfigError(f"docking tries must be 1 to 20, got {self.tries}")
        contact_m = self.pads_x_m - self.dock_pads_x_m
        if self.staging_distance_m <= contact_m + self.touch_distance_m:
            raise ConfigError(
                f"docking staging_distance_m must be beyond contact and touch distance,"
                f" {contact_m + self.touch_distance_m:.3f} m, got {self.staging_distance_m}"
            )
        if self.blind_distance_m < self.touch_distance_m:
            raise ConfigError(
                f"docking blind_distance_m must not be below touch_distance_m {self.touch_distance_m},"
                f" got {self.blind_distance_m}"
            )
