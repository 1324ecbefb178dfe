"""Keeps single wrong poses from the robot: a pose must follow from the one before, at the speed a robot has.

``step(state, observation, stamp) -> (state, observation to publish or None)``. An old pose is never published
again: what comes out is the observation that went in, or nothing.
"""

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from depai_robot.perception.dock import DockModel
from depai_robot.perception.frame import CameraIntrinsics
from depai_robot.perception.observation import DockObservation
from depai_robot.perception.region import Region, region_of
from depai_robot.values.error import ConfigError

_NS_PER_S = 1_000_000_000
_SIGMA_MAX_M = 0.5
_SIGMA_MAX_RAD = 0.5
_SEEN_MIN = 4


@dataclass(frozen=True, slots=True)
class TrackLimits:
    """How the dock may move in the camera's eye.

    Attributes:
        speed_max_mps: of the robot, > 0.
        turn_max_radps: of the robot, > 0.
        timeout_s: without an accepted pose the track is forgotten, > 0.
        slack_m: besides motion and sigmas, >= 0.
        slack_rad: besides motion and sigmas, >= 0.
        sigmas: of both poses together that are still believed, > 0.
        confirm_count: poses that must agree before the first is published, >= 1.
        jump_count: poses that must agree with each other, and not with the track, to replace it,
            >= confirm_count.
    """

    speed_max_mps: float = 1.0
    turn_max_radps: float = 1.5
    timeout_s: float = 1.0
    slack_m: float = 0.05
    slack_rad: float = 0.15
    sigmas: float = 3.0
    confirm_count: int = 2
    jump_count: int = 3

    def __post_init__(self) -> None:
        positive = (self.speed_max_mps, self.turn_max_radps, self.timeout_s, self.sigmas)
        slacks = (self.slack_m, self.slack_rad)
        if not all(math.isfinite(v) and v > 0 for v in positive) or not all(v >= 0 for v in slacks):
            raise ConfigError(f"track limits must be positive and finite, got {self}")
        if not 1 <= self.confirm_count <= self.jump_count:
            raise ConfigError(f"expected 1 <= confirm_count <= jump_count, got {self}")


@dataclass(frozen=True, slots=True)
class TrackState:
    """What the tracker remembers.

    Attributes:
        stamp_ns: of the newest image.
        accepted: the last pose that was published, while it is fresh.
        tentative: a pose that waits for others that agree.
        tentative_count: how many agree so far.
    """

    stamp_ns: int | None = None
    accepted: DockObservation | None = None
    tentative: DockObservation | None = None
    tentative_count: int = 0


def step(
    state: TrackState,
    observation: DockObservation | None,
    stamp_ns: int,
    limits: TrackLimits = TrackLimits(),
) -> tuple[TrackState, DockObservation | None]:
    """One image's outcome. What comes back second is to be published; it is ``observation`` or None.

    An image that is not newer than the last is ignored, unless it is so much older that time was set back
    (a simulation restarted): then the track begins anew.
    """
    timeout_ns = int(limits.timeout_s * _NS_PER_S)
    if state.stamp_ns is not None and stamp_ns <= state.stamp_ns:
        if state.stamp_ns - stamp_ns < timeout_ns:
            return state, None
        state = TrackState()
    state = replace(state, stamp_ns=stamp_ns)
    if state.accepted is not None and stamp_ns - state.accepted.stamp_ns > timeout_ns:
        state = replace(state, accepted=None)
    if state.tentative is not None and stamp_ns - state.tentative.stamp_ns > timeout_ns:
        state = replace(state, tentative=None, tentative_count=0)
    if observation is None or observation.stamp_ns != stamp_ns:
        return state, None
    if state.accepted is not None and agree(state.accepted, observation, limits):
        return TrackState(stamp_ns, observation), observation
    count = 1
    if state.tentative is not None and agree(state.tentative, observation, limits):
        count = state.tentative_count + 1
    if count >= (limits.confirm_count if state.accepted is None else limits.jump_count):
        return TrackState(stamp_ns, observation), observation
    return replace(state, tentative=observation, tentative_count=count), None


def agree(before: DockObservation, after: DockObservation, limits: TrackLimits) -> bool:
    """Whether a robot within the limits can have seen both."""
    elapsed_s = (after.stamp_ns - before.stamp_ns) / _NS_PER_S
    old, new = np.array(before.dock_in_camera.position_m), np.array(after.dock_in_camera.position_m)
    range_m = max(float(np.linalg.norm(old)), float(np.linalg.norm(new)))
    variance = np.diag(before.covariance) + np.diag(after.covariance)
    sigma_m = min(math.sqrt(float(variance[:3].sum())), _SIGMA_MAX_M)
    sigma_rad = min(math.sqrt(float(variance[3:].sum())), _SIGMA_MAX_RAD)
    turn_rad = limits.turn_max_radps * elapsed_s
    reach_m = limits.speed_max_mps * elapsed_s + range_m * turn_rad + limits.slack_m + limits.sigmas * sigma_m
    if float(np.linalg.norm(new - old)) > reach_m:
        return False
    between = before.dock_in_camera.rotation().T @ after.dock_in_camera.rotation()
    angle_rad = math.acos(min(max((float(np.trace(between)) - 1) / 2, -1.0), 1.0))
    return angle_rad <= turn_rad + limits.slack_rad + limits.sigmas * sigma_rad


def expected_region(
    observation: DockObservation, intrinsics: CameraIntrinsics, dock: DockModel
) -> Region | None:
    """Where a dock with the last pose would be looked at; None when too little of it would be in the image."""
    pose = observation.dock_in_camera
    seen = dock.points_m() @ pose.rotation().T + np.array(pose.position_m)
    if not (seen[:, 2] > 0).all():
        return None
    pixels = cv2.projectPoints(
        seen, np.zeros(3), np.zeros(3), intrinsics.matrix(), np.array(intrinsics.distortion)
    )[0]
    points = np.asarray(pixels, dtype=np.float64)[:, 0]
    size = np.array([intrinsics.width_px, intrinsics.height_px])
    inside = ((points > -0.5) & (points < size - 0.5)).all(axis=1)
    return region_of(points[inside]) if int(inside.sum()) >= _SEEN_MIN else None
