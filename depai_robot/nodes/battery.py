"""Battery node: the robot's own readings out as ``battery_state``.

The topic is a copy for people and planners. It authorises no money: anybody in the ROS domain can publish it.
"""

from typing import ClassVar

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from sensor_msgs.msg import BatteryState
from std_msgs.msg import Bool

from depai_robot.nodes.convert import reading_to_battery_state
from depai_robot.nodes.lifecycle import ManagedNode, Setting
from depai_robot.nodes.quality import LATCHED, STATE
from depai_robot.ports import Battery, BatteryReading, Connector
from depai_robot.values.error import DeviceError


class BatteryNode(ManagedNode):
    """Publishes ``battery_state`` (UNKNOWN and NaN without a fresh reading) and ``charging_contact``."""

    settings: ClassVar[tuple[Setting, ...]] = (
        Setting("rate_hz", 10.0, "of battery_state; Nav2's docking server wants it fresh", 0.5, 100.0),
    )

    def __init__(self, battery: Battery, connector: Connector) -> None:
        super().__init__("battery")
        self._battery = battery
        self._connector = connector

    def set_up(self) -> None:
        """See ManagedNode."""
        self._contact: bool | None = None
        self._error = "no reading yet"
        self._states = self.create_output(BatteryState, "battery_state", STATE)
        self._contacts = self.create_output(Bool, "charging_contact", LATCHED)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", STATE)
        self.create_timer(1.0 / float(self.value("rate_hz")), self._publish)
        self.create_timer(1.0, self._report)

    def go(self) -> None:
        """What is latched is said anew."""
        self._contact = None

    def _publish(self) -> None:
        if not self.is_active:
            return
        reading: BatteryReading | None = None
        try:
            reading = self._battery.read()
            contact = self._connector.in_contact()
            self._error = ""
        except DeviceError as error:
            self._error = str(error)
            contact = False
        self._states.publish(reading_to_battery_state(reading, self.get_clock().now().nanoseconds))
        if contact is not self._contact:
            self._contact = contact
            self._contacts.publish(Bool(data=contact))

    def _report(self) -> None:
        level = DiagnosticStatus.ERROR if self._error else DiagnosticStatus.OK
        status = DiagnosticStatus(
            level=level,
            name=self.status_name("battery"),
            message=self._error or "reading",
            hardware_id="battery",
            values=[KeyValue(key="contact", value=str(self._contact))],
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)
