"""Managed nodes: ROS 2's lifecycle (unconfigured, inactive, active, finalized), and parameters that are refused early.

A node of ours says what it needs in :attr:`ManagedNode.settings`, builds its entities in :meth:`ManagedNode.set_up`,
works between :meth:`ManagedNode.go` and :meth:`ManagedNode.pause`, and lets go in :meth:`ManagedNode.tear_down`. With
the parameter ``autostart`` (the default) its process brings it up by itself; a launch file that manages the lifecycle
sets it to false. The states and their meaning are those of the design article "Managed nodes" at design.ros2.org.
"""

import difflib
from dataclasses import dataclass
from typing import Any, ClassVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile

from depai_robot.values.error import ConfigError, DepaiError

_EVERYBODYS = ("use_sim_time", "start_type_description_service", "qos_overrides", "config")
"""Parameters that rclpy itself takes, and the process's file: the command line names it to all nodes of a process."""

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


@dataclass(frozen=True, slots=True)
class Setting:
    """A parameter of a node, read once when it is configured.

    Attributes:
        name: as in the YAML file.
        default: whose type is the parameter's.
        text: what it does, with its unit.
        least, most: of a number; None for no bound.
    """

    name: str
    default: bool | int | float | str | list[float]
    text: str
    least: float | None = None
    most: float | None = None

    def describe(self) -> ParameterDescriptor:
        """For ``ros2 param describe``; rclpy refuses what is out of range."""
        about = ParameterDescriptor(description=self.text)
        if self.least is None or self.most is None:
            return about
        if isinstance(self.default, float):
            about.floating_point_range = [FloatingPointRange(from_value=self.least, to_value=self.most)]
        else:
            about.integer_range = [IntegerRange(from_value=int(self.least), to_value=int(self.most), step=1)]
        return about


AUTOSTART = Setting("autostart", True, "configure and activate without being told; false under a manager")


class ManagedNode(LifecycleNode):
    """A lifecycle node whose parameters are declared from a table.

    Raises:
        ConfigError: a parameter that the node does not have, or of another type, or out of its range.
    """

    settings: ClassVar[tuple[Setting, ...]] = ()

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.failure: DepaiError | None = None
        self.is_active = False
        self._entities: set[Any] = set()
        known = (AUTOSTART, *self.settings)
        self._refuse_unknown([setting.name for setting in known])
        for setting in known:
            try:
                self.declare_parameter(setting.name, setting.default, setting.describe())
            except Exception as error:
                # rclpy has an exception class of its own for each way of being wrong.
                raise ConfigError(f"{name}: parameter {setting.name}: {error}") from error

    def _refuse_unknown(self, known: list[str]) -> None:
        # There is no public way to what came by file and command line; the attribute is the same from Humble on.
        for key in self._parameter_overrides:
            if key in known or key.partition(".")[0] in _EVERYBODYS:
                continue
            close = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ConfigError(f"{self.get_name()}: no parameter {key!r}, there are {sorted(known)}{hint}")

    def value(self, name: str) -> Any:
        """A parameter's value."""
        return self.get_parameter(name).value

    def status_name(self, name: str) -> str:
        """For ``/diagnostics``, which all robots of a domain share: the namespace before the name, if there is one."""
        return f"{self.get_namespace()}/{name}".lstrip("/")

    def create_output(self, kind: type, topic: str, quality: QoSProfile) -> "LifecyclePublisher[Any]":
        """A publisher that says nothing unless the node is active."""
        publisher: LifecyclePublisher[Any] = self.create_lifecycle_publisher(kind, topic, quality)
        return publisher

    # --- what a node does --------------------------------------------------------------------------------------

    def set_up(self) -> None:
        """Opens what is needed. Raises DepaiError when it can't be had; the node stays unconfigured."""

    def go(self) -> None:
        """Begins to work. Raises DepaiError when it can't."""

    def pause(self) -> None:
        """Stops working, safely: nothing moves, nothing is bought."""

    def tear_down(self) -> None:
        """Lets go of what :meth:`set_up` opened, but for publishers, subscriptions, services and timers."""

    # --- transitions -----------------------------------------------------------------------------------------

    def _owned(self) -> set[Any]:
        return {*self.publishers, *self.subscriptions, *self.services, *self.clients, *self.timers}

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """See ManagedNode.set_up."""
        self.failure = None
        before = self._owned()
        try:
            self.set_up()
        except DepaiError as error:
            self._entities = self._owned() - before
            self._destroy()
            return self._fail("configure", error)
        self._entities = self._owned() - before
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """See ManagedNode.go."""
        done = super().on_activate(state)
        self.is_active = True
        try:
            self.go()
        except DepaiError as error:
            self.is_active = False
            super().on_deactivate(state)
            return self._fail("activate", error)
        return done

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """See ManagedNode.pause."""
        self._pause()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """See ManagedNode.tear_down."""
        self._end()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Pauses and lets go, from wherever it was."""
        self._end()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A surprise in a transition: lets go, and may be configured again."""
        self._end()
        return super().on_error(state)

    def _fail(self, what: str, error: DepaiError) -> TransitionCallbackReturn:
        self.failure = error
        self.get_logger().error(f"can not {what}: {error}")
        return FAILURE

    def _pause(self) -> None:
        if self.is_active:
            self.is_active = False
            self.pause()

    def _end(self) -> None:
        try:
            self._pause()
        finally:
            self.tear_down()
            self._destroy()

    def _destroy(self) -> None:
        for entity in self._entities:
            if isinstance(entity, LifecyclePublisher):
                self.destroy_lifecycle_publisher(entity)
            elif entity in set(self.publishers):
                self.destroy_publisher(entity)
            elif entity in set(self.subscriptions):
                self.destroy_subscription(entity)
            elif entity in set(self.services):
                self.destroy_service(entity)
            elif entity in set(self.clients):
                self.destroy_client(entity)
            else:
                self.destroy_timer(entity)
        self._entities = set()

    def close(self) -> None:
        """At the end of the process."""
        self._end()


def bring_up(node: ManagedNode) -> None:
    """Configures and activates.

    Raises:
        DepaiError: what was in the way.
    """
    for what, trigger in (("configured", node.trigger_configure), ("activated", node.trigger_activate)):
        if trigger() is not SUCCESS:
            raise node.failure or ConfigError(f"{node.get_name()} could not be {what}")
