"""A flat floor with one dock and a differential-drive robot, by kinematics alone: what docking's tests drive on."""

import math
import random
from collections import deque

from depai_robot.docking.fact import ContactChanged, DockAsked, DockSeen, OdometryRead
from depai_robot.docking.machine import State, step
from depai_robot.docking.phase import Phase
from depai_robot.docking.setting import DockingSettings
from depai_robot.values.geometry import STOP, DriveCommand, Pose2

TICK_NS = 20_000_000
FRAME_NS = 100_000_000
LATENCY_NS = 100_000_000
SIGHT_DELAY_NS = 50_000_000
TRACK_M = 0.34
CONTACT_M = 0.40
"""Robot's origin to panel when the pads touch."""


class Floor:
    """The dock stands at the map's origin and looks back along -x; odometry begins at the robot's start.

    Attributes:
        sees: switches the camera.
        pads_work: switches contact.
        base_in_map: the truth.
        phases: every phase since the start.
        commands: every command since the start.
    """

    def __init__(self, start, *, seed=0, ideal=False, settings=None):
        self.random = random.Random(seed)
        self.noise = 0.0 if ideal else 1.0
        self.settings = settings or DockingSettings()
        self.state = State()
        self.base_in_map = start
        self.start = start
        self.base_in_odom = Pose2(0.0, 0.0, 0.0)
        self.now_ns = 0
        self.sees = self.pads_work = True
        self.phases, self.commands = [self.state.phase], []
        self.command, self.linear, self.angular = STOP, 0.0, 0.0
        self.slip = [1 + self.random.gauss(0, 0.01) * self.noise for _ in range(2)]
        self.under_way, self.pending = deque(), deque()
        self.touching = False
        self.feed(OdometryRead(0, self.base_in_odom))

    def feed(self, fact):
        before = self.state.phase
        self.state, command = step(self.state, fact, self.settings)
        if self.state.phase is not before:
            self.phases.append(self.state.phase)
        if command is not None:
            self.command = command
            self.commands.append(command)
        return command

    def expected_in_odom(self):
        """The dock by a map that is a little wrong."""
        error = [self.random.gauss(0, s) * self.noise for s in (0.15, 0.15, 0.1)]
        return self.start.inverse().compose(Pose2(*error))

    def ask(self, dock="dock_a"):
        self.feed(DockAsked(self.now_ns, dock, self.expected_in_odom()))

    def pads_in_dock(self):
        return self.base_in_map.compose(Pose2(0.25, 0.0, 0.0))

    def tick(self):
        self.now_ns += TICK_NS
        self._roll()
        pads = self.pads_in_dock()
        touching = (
            self.pads_work
            and abs(pads.x_m + 0.15) < 0.006
            and abs(pads.y_m) < 0.06
            and abs(pads.yaw_rad) < 0.14
        )
        if touching != self.touching:
            self.touching = touching
            self.feed(ContactChanged(self.now_ns, touching))
        if self.now_ns % FRAME_NS == 0:
            self._look()
        while self.pending and self.pending[0][0] <= self.now_ns:
            self.feed(self.pending.popleft()[1])
        self.feed(OdometryRead(self.now_ns, self.base_in_odom))

    def _roll(self):
        dt = TICK_NS / 1e9
        self.under_way.append((self.now_ns + LATENCY_NS, self.command))
        while self.under_way and self.under_way[0][0] <= self.now_ns:
            wanted = self.under_way.popleft()[1]
            self.linear += max(-0.8 * dt, min(0.8 * dt, wanted.linear_mps - self.linear))
            self.angular += max(-3 * dt, min(3 * dt, wanted.angular_radps - self.angular))
        left = (self.linear - self.angular * TRACK_M / 2) * self.slip[0]
        right = (self.linear + self.angular * TRACK_M / 2) * self.slip[1]
        moved = self.base_in_map.compose(Pose2((left + right) / 2 * dt, 0.0, (right - left) / TRACK_M * dt))
        # The dock's front stops the robot; its wheels go on turning.
        blocked = moved.compose(Pose2(0.25, 0.0, 0.0)).x_m > -0.15 + 0.002 and abs(moved.y_m) < 0.3
        if not blocked or left + right < 0:
            self.base_in_map = moved
        self.base_in_odom = self.base_in_odom.compose(Pose2(self.linear * dt, 0.0, self.angular * dt))

    def _look(self):
        eye = self.base_in_map.compose(Pose2(0.02, 0.0, 0.0))
        dock_in_eye = eye.inverse()
        distance = math.hypot(dock_in_eye.x_m, dock_in_eye.y_m)
        bearing = math.atan2(dock_in_eye.y_m, dock_in_eye.x_m)
        face_on = abs(dock_in_eye.yaw_rad - bearing) < 1.2
        if not (self.sees and abs(bearing) < 0.5 and distance < 5.0 and face_on):
            return
        if self.noise and self.random.random() < 0.05:
            return
        dock = self.base_in_map.inverse()
        sigmas = (0.01 * distance, 0.005 * distance, 0.02)
        off = [self.random.gauss(0, s) * self.noise for s in sigmas]
        seen = Pose2(dock.x_m + off[0], dock.y_m + off[1], dock.yaw_rad + off[2])
        self.pending.append((self.now_ns + SIGHT_DELAY_NS, DockSeen(self.now_ns, seen)))

    def run(self, *ends, limit_s=260.0):
        """Until a phase of ``ends``; returns it."""
        until_ns = self.now_ns + int(limit_s * 1e9)
        while self.state.phase not in ends:
            assert self.now_ns < until_ns, (self.state.phase, self.state.reason, self.phases)
            self.tick()
        return self.state.phase

    def run_for(self, seconds):
        until_ns = self.now_ns + int(seconds * 1e9)
        while self.now_ns < until_ns:
            self.tick()


def start_at(distance_m, angle_deg=0.0, heading_deg=0.0):
    """A start so far from the dock, off its axis, and turned from looking at it."""
    angle = math.radians(angle_deg)
    return Pose2(
        -distance_m * math.cos(angle), -distance_m * math.sin(angle), angle + math.radians(heading_deg)
    )


def docked_floor(**changes):
    """An ideal floor with the robot on the dock."""
    floor = Floor(start_at(1.5), ideal=True, **changes)
    floor.ask()
    floor.run(Phase.DOCKED)
    return floor


def is_moving(command):
    return command not in (None, STOP, DriveCommand(0.0, 0.0))
