"""The battery node: what the robot measures, shown; what it can't measure, shown as unknown."""

import math
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="pip install 'depai_robot[ros]', or source a ROS 2 installation")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from sensor_msgs.msg import BatteryState
from std_msgs.msg import Bool

from depai_robot.nodes.battery import BatteryNode
from depai_robot.nodes.convert import stamp_to_ns
from depai_robot.nodes.quality import LATCHED, STATE
from depai_robot.ports import BatteryReading
from depai_robot.values.error import DeviceTimeoutError


class Hardware:
    """Battery and connector of a robot, as the test wants them."""

    def __init__(self) -> None:
        self.reading: BatteryReading | None = BatteryReading(7_000_000_005, 25.5, -1.5, 0.42, 0, 0.0)
        self.touching = False

    def read(self) -> BatteryReading:
        if self.reading is None:
            raise DeviceTimeoutError("battery: no reading for 0.5 s")
        return self.reading

    def in_contact(self) -> bool:
        return self.touching

    def read_probe(self) -> bytes | None:
        return None


class Bench:
    """The node and a listener that was there from the start."""

    def __init__(self, ros: Any) -> None:
        self.hardware = Hardware()
        self.other = ros.node()
        self.states: list[BatteryState] = []
        self.contacts: list[bool] = []
        self.statuses: list[DiagnosticStatus] = []
        self.other.create_subscription(BatteryState, "battery_state", self.states.append, STATE)
        self.other.create_subscription(
            Bool, "charging_contact", lambda message: self.contacts.append(message.data), LATCHED
        )
        self.other.create_subscription(
            DiagnosticArray, "/diagnostics", lambda message: self.statuses.extend(message.status), STATE
        )
        ros.add(BatteryNode(self.hardware, self.hardware))
        ros.until(lambda: self.states and self.contacts)


def test_a_reading_is_shown_with_its_own_stamp(ros) -> None:
    bench = Bench(ros)
    state = bench.states[-1]
    assert stamp_to_ns(state.header.stamp) == 7_000_000_005
    assert state.voltage == pytest.approx(25.5)
    assert state.current == pytest.approx(-1.5)
    assert state.percentage == pytest.approx(0.42)
    assert state.present
    assert state.power_supply_status == BatteryState.POWER_SUPPLY_STATUS_DISCHARGING
    ros.until(lambda: bench.statuses)
    assert bench.statuses[-1].level == DiagnosticStatus.OK


def test_without_a_reading_everything_is_unknown_until_it_is_back(ros) -> None:
    bench = Bench(ros)
    bench.hardware.touching, reading = True, bench.hardware.reading
    ros.until(lambda: bench.contacts[-1])
    bench.hardware.reading = None
    ros.until(lambda: math.isnan(bench.states[-1].voltage))
    state = bench.states[-1]
    assert all(math.isnan(v) for v in (state.current, state.percentage, state.charge, state.temperature))
    assert state.power_supply_status == BatteryState.POWER_SUPPLY_STATUS_UNKNOWN
    assert not state.present
    ros.until(lambda: bench.contacts[-1] is False)
    ros.until(lambda: bench.statuses and bench.statuses[-1].level == DiagnosticStatus.ERROR)
    assert bench.statuses[-1].message == "battery: no reading for 0.5 s"
    bench.hardware.reading = reading
    ros.until(lambda: bench.states[-1].voltage == pytest.approx(25.5))
    ros.until(lambda: bench.contacts[-1] and bench.statuses[-1].level == DiagnosticStatus.OK)


def test_contact_is_said_when_it_changes_and_known_to_who_comes_late(ros) -> None:
    bench = Bench(ros)
    count = len(bench.states)
    ros.until(lambda: len(bench.states) > count + 3)
    assert bench.contacts == [False], "said once, not with every reading"
    bench.hardware.touching = True
    ros.until(lambda: bench.contacts == [False, True])
    late: list[bool] = []
    ros.node("late").create_subscription(
        Bool, "charging_contact", lambda message: late.append(message.data), LATCHED
    )
    ros.until(lambda: late)
    assert late == [True]
