"""The running VDA 5050 agent: the pure machine on a real connection and a robot. No ROS here.

Whoever hosts it says what the robot knows of itself and takes its intents. What a fleet asks is an intent: the wallet's
policy decides whether money is spent.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from depai_robot.adapters.paho_broker import BrokerAddress
from depai_robot.adapters.paho_vda import PahoVda
from depai_robot.app.config import BrokerPart, read_yaml
from depai_robot.app.part import broker_address
from depai_robot.fleet.agent import initial_state, step
from depai_robot.fleet.agent_state import (
    ActionsReceived,
    AgentState,
    ChargeAnswered,
    Connected,
    ConnectionLost,
    ConnectionTried,
    Effect,
    Fact,
    OrderReceived,
    Publish,
    RequestCharge,
    RequestRefused,
    SetPause,
    SetWill,
    StatusObserved,
    StopAsked,
    StopCharge,
    TimePassed,
)
from depai_robot.fleet.profile import Profile
from depai_robot.fleet.request import RefusedRequestError, read_instant_actions, read_order
from depai_robot.fleet.status import Status
from depai_robot.values.error import DepaiError, DeviceError

LOG = logging.getLogger(__name__)
LOOK_PERIOD_S = 0.25
ERRANDS_MAX = 64


class FleetRobot(Protocol):
    """What the agent knows and wants of its robot. Calls may block for a second or two."""

    def look(self) -> Status:
        """What the robot knows of itself now. Raises DeviceError when that is nothing."""

    def request_charge(self, station: str) -> str:
        """Begins to buy energy, at that station if one is named; returns the session's id.

        Raises:
            DepaiError: it will not; the message says why.
        """

    def stop_charge(self) -> None:
        """Buys no more. Raises DepaiError when nobody can be told."""

    def set_pause(self, *, paused: bool) -> None:
        """The base stands still, or goes on. Raises DepaiError when nobody can be told."""


class FleetFile(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``fleet.yaml``.

    Attributes:
        v: of the file's form.
        broker: of the fleet.
        robot: who it is there.
    """

    v: int
    broker: BrokerPart
    robot: Profile


def read_fleet(path: Path) -> tuple[BrokerAddress, Profile]:
    """Where the fleet's broker is, and who we are there.

    Raises:
        ConfigError: the file is not as it must be.
    """
    file = read_yaml(path, FleetFile)
    return broker_address(file.broker, path), file.robot


class FleetAgent:
    """Runs the agent of one robot.

    Args:
        address: of the fleet's broker.
        profile: of the robot.
        robot: see there.
        wall_ms: Unix milliseconds.
    """

    def __init__(
        self,
        address: BrokerAddress,
        profile: Profile,
        robot: FleetRobot,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._robot, self._wall_ms = robot, wall_ms
        self._state = initial_state(profile)
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._errands: queue.Queue[Effect | None] = queue.Queue(ERRANDS_MAX)
        self._goodbye: Publish | None = None
        self._trouble = ""
        self._threads = [
            threading.Thread(target=self._watch, name="fleet-look", daemon=True),
            threading.Thread(target=self._run_errands, name="fleet-errands", daemon=True),
        ]
        self._link = PahoVda(
            address,
            f"vda5050-{profile.manufacturer}-{profile.serial}",
            on_try=lambda: self._tell(ConnectionTried(self._wall_ms())),
            on_connected=lambda: self._tell(Connected(self._wall_ms())),
            on_lost=lambda: self._tell(ConnectionLost(self._wall_ms())),
            on_message=self._take_message,
        )

    @property
    def state(self) -> AgentState:
        """The machine's state now: an immutable value."""
        return self._state

    @property
    def connected(self) -> bool:
        """Whether the fleet's broker has us."""
        return self._link.connected

    def start(self) -> None:
        """Begins to look and to connect; returns at once, also when the broker is away."""
        for thread in self._threads:
            thread.start()
        profile = self._state.profile
        self._link.start([profile.topic("order"), profile.topic("instantActions")])

    def stop(self) -> None:
        """Says OFFLINE and ends; blocks for a few seconds at most."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._errands.put(None)
        for thread in self._threads:
            thread.join(5.0)
        self._tell(StopAsked(self._wall_ms()))
        last = self._goodbye
        self._link.close(last.topic if last else "", last.payload if last else b"")

    def _tell(self, fact: Fact) -> None:
        # The lock makes one line of what paho's thread and ours have to say; what blocks is done elsewhere.
        with self._lock:
            self._state, effects = step(self._state, fact)
            for effect in effects:
                self._perform(effect, last=isinstance(fact, StopAsked))

    def _perform(self, effect: Effect, *, last: bool) -> None:
        if isinstance(effect, SetWill):
            self._link.set_will(effect.topic, effect.payload)
        elif isinstance(effect, Publish):
            if last:
                self._goodbye = effect
            else:
                self._link.publish(
                    effect.topic, effect.payload, reliable=effect.reliable, retain=effect.retain
                )
        else:
            try:
                self._errands.put_nowait(effect)
            except queue.Full:
                LOG.warning("%s is dropped: %d others wait", type(effect).__name__, ERRANDS_MAX)

    def _take_message(self, topic: str, payload: bytes) -> None:
        try:
            if topic.endswith("/order"):
                self._tell(OrderReceived(self._wall_ms(), read_order(payload)))
            else:
                self._tell(ActionsReceived(self._wall_ms(), read_instant_actions(payload)))
        except RefusedRequestError as error:
            LOG.warning("refused: %s", error)
            self._tell(RequestRefused(self._wall_ms(), topic, str(error), error.references))

    def _watch(self) -> None:
        while not self._closing.wait(LOOK_PERIOD_S):
            try:
                status = self._robot.look()
                self._trouble = ""
            except DeviceError as error:
                if str(error) != self._trouble:
                    self._trouble = str(error)
                    LOG.warning("the robot does not know its state: %s", error)
                self._tell(TimePassed(self._wall_ms()))
            else:
                self._tell(StatusObserved(self._wall_ms(), status))

    def _run_errands(self) -> None:
        while (errand := self._errands.get()) is not None:
            try:
                self._run_errand(errand)
            except DepaiError as error:
                # What was asked is seen not to have happened in the next states, and fails there by its time limit.
                LOG.warning("%s: %s", type(errand).__name__, error)

    def _run_errand(self, errand: Effect) -> None:
        if isinstance(errand, RequestCharge):
            try:
                session, words = self._robot.request_charge(errand.station), ""
            except DepaiError as error:
                session, words = "", str(error)
            self._tell(ChargeAnswered(self._wall_ms(), errand.key, session, words))
        elif isinstance(errand, StopCharge):
            self._robot.stop_charge()
        elif isinstance(errand, SetPause):
            self._robot.set_pause(paused=errand.paused)
