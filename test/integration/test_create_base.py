"""A base with the Create 2 Open Interface on a pty: wheels, the stop that the interface lacks, faults of the field."""

import math
import signal
import statistics
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from depai_robot.adapters import create_oi_frame as oi
from depai_robot.adapters.create_oi import COMMAND_TIMEOUT_S, CreateBase, CreateBattery, open_create
from depai_robot.adapters.serial_line import SerialLine
from depai_robot.adapters.wheel_guard import BEAT_TIMEOUT_S
from depai_robot.app.hardware_probe import probe_port
from depai_robot.app.robot_hardware import BasePart, BatteryPart, HardwareFile, PadsPart, RobotHardware
from depai_robot.cli.hw import hw
from depai_robot.values.error import (
    ConfigError,
    DeviceAbsentError,
    DeviceError,
    DeviceFailedError,
    DeviceTimeoutError,
)
from depai_robot.values.geometry import STOP, DriveCommand
from test.serial_device import CreateDevice, McuDevice

FORWARD = DriveCommand(0.3, 0.0)


def until(condition, timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.01)


def fails(call) -> bool:
    try:
        call()
    except DeviceError:
        return True
    return False


def drive(base: CreateBase, command: DriveCommand, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        base.send(command)
        time.sleep(0.02)


@pytest.fixture
def pair(tmp_path):
    device = CreateDevice(tmp_path / "create")
    base = CreateBase(SerialLine(str(tmp_path / "create"), oi.BAUD, 0.2), time.time_ns)
    until(lambda: device.mode == oi.SAFE_MODE and not base.trouble)
    yield device, base
    base.close()
    device.close()


def test_wheels_turn_are_counted_over_the_wrap_and_stop_without_commands(pair):
    device, base = pair
    speeds = []
    for _ in range(15):  # 65,000 counts at first, some 1,000 more
        drive(base, FORWARD, 0.1)
        speeds.append(base.odometry().linear_mps)
    assert device.counts[0] > 0x10000
    assert device.wheels_mmps == (300, 300)
    assert base.odometry().base_in_odom.x_m > 0.3
    assert statistics.median(speeds) == pytest.approx(0.3, abs=0.1)
    told_s = time.monotonic()
    until(lambda: device.wheels_mmps == (0, 0), 2)
    assert time.monotonic() - told_s < COMMAND_TIMEOUT_S + 0.4
    until(lambda: base.odometry().linear_mps == 0.0)
    # Nothing was lost on the way: the odometry is what the wheels have done.
    way_m = (device.counts[0] - 65_000) * oi.M_PER_COUNT
    assert base.odometry().base_in_odom.x_m == pytest.approx(way_m, abs=0.002)


def test_turning_on_the_spot_and_clipping_that_keeps_the_curve(pair):
    device, base = pair
    drive(base, DriveCommand(0.0, 1.0), 0.5)
    pose = base.odometry().base_in_odom
    assert pose.yaw_rad > 0.2
    assert math.hypot(pose.x_m, pose.y_m) < 0.01
    applied = base.send(DriveCommand(2.0, 1.0))
    assert applied.linear_mps < 0.5
    assert applied.linear_mps / applied.angular_radps == pytest.approx(2.0, rel=0.02)
    assert base.send(STOP) == STOP


def test_an_emergency_stop_holds_until_released(pair):
    device, base = pair
    drive(base, FORWARD, 0.2)
    base.stop_for_emergency(stop=True)
    until(lambda: device.wheels_mmps == (0, 0), 1)
    for _ in range(5):
        assert base.send(FORWARD) == STOP
        time.sleep(0.02)
    assert device.wheels_mmps == (0, 0)
    base.stop_for_emergency(stop=False)
    base.send(FORWARD)
    until(lambda: device.wheels_mmps == (300, 300), 1)


def test_after_a_wheel_drop_nobody_drives_on_by_chance(pair):
    device, base = pair
    drive(base, FORWARD, 0.2)
    device.dropped = True
    until(lambda: device.mode == oi.PASSIVE_MODE and base.trouble == "a wheel hangs")
    with pytest.raises(DeviceFailedError, match="a wheel hangs"):
        base.send(FORWARD)
    device.dropped = False
    end = time.monotonic() + 1.3
    while time.monotonic() < end:  # who goes on commanding is refused
        assert fails(lambda: base.send(FORWARD))
        time.sleep(0.05)
    assert device.mode == oi.PASSIVE_MODE
    until(lambda: device.mode == oi.SAFE_MODE and not base.trouble)
    base.send(FORWARD)
    until(lambda: device.wheels_mmps == (300, 300), 1)


@pytest.mark.parametrize(("flag", "words"), [("bumped", "bumper"), ("cliff", "no floor")])
def test_what_is_in_front_lets_only_backwards(pair, flag, words):
    device, base = pair
    setattr(device, flag, True)
    until(lambda: words in base.trouble)
    with pytest.raises(DeviceFailedError, match=words):
        base.send(FORWARD)
    base.send(DriveCommand(-0.1, 0.0))
    until(lambda: device.wheels_mmps == (-100, -100), 1)


def test_a_charger_makes_it_passive_without_a_fault_and_it_leaves_when_power_is_off(pair):
    device, base = pair
    device.charger = True
    until(lambda: device.mode == oi.PASSIVE_MODE)
    until(lambda: fails(lambda: base.send(DriveCommand(-0.1, 0.0))))
    with pytest.raises(DeviceFailedError, match="charger"):
        base.send(DriveCommand(-0.1, 0.0))
    assert base.trouble == ""
    device.charger = False
    until(lambda: not fails(lambda: base.send(DriveCommand(-0.1, 0.0))), 2)


def test_a_base_that_was_reset_is_started_again_and_no_way_is_made_up(pair):
    device, base = pair
    drive(base, FORWARD, 0.2)
    until(lambda: device.wheels_mmps == (0, 0), 2)
    before, starts = base.odometry().base_in_odom, device.starts
    device.deaf = True
    device._enter(oi.OFF_MODE)
    device.streams, device.counts = False, [0.0, 0.0]
    until(lambda: fails(base.odometry))
    with pytest.raises(DeviceTimeoutError, match="silent"):
        base.send(FORWARD)
    device.deaf = False
    until(lambda: device.starts > starts and device.mode == oi.SAFE_MODE and not fails(base.odometry), 3)
    assert base.odometry().base_in_odom.x_m == pytest.approx(before.x_m, abs=1e-6)


def test_silence_and_garbage_stop_the_wheels(pair):
    device, base = pair
    device.garble = 0x11
    count = base.damaged
    deadline = time.monotonic() + 3
    while not fails(lambda: base.send(FORWARD)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    until(lambda: device.wheels_mmps == (0, 0), 1)
    device.garble, device.noise = 0, bytes((oi.HEADER, oi.BODY_BYTES, 1, 2, 3))
    until(lambda: not fails(base.odometry), 3)
    until(lambda: base.damaged > count)
    device.noise, device.slow_s = b"", 0.0005
    until(lambda: device.mode == oi.SAFE_MODE and not base.trouble, 4)  # after a standstill
    base.send(FORWARD)
    until(lambda: device.wheels_mmps == (300, 300), 1)


def test_unplugged_and_back_under_another_name_begins_with_a_stop(pair):
    device, base = pair
    drive(base, FORWARD, 0.2)
    device.unplug()
    until(lambda: fails(base.odometry))
    assert device.wheels_mmps != (0, 0), (
        "the interface has no time-out: it drives on, as docs/hardware.md says"
    )
    device.plug()
    until(lambda: device.wheels_mmps == (0, 0), 6)
    until(lambda: not fails(base.odometry), 6)


def test_closing_stands_still_and_leaves_it_passive(tmp_path):
    device = CreateDevice(tmp_path / "create")
    base = CreateBase(SerialLine(str(tmp_path / "create"), oi.BAUD, 0.2), time.time_ns)
    until(lambda: device.mode == oi.SAFE_MODE)
    until(lambda: not fails(lambda: base.send(FORWARD)))
    until(lambda: device.wheels_mmps != (0, 0))
    base.close()
    until(lambda: device.mode == oi.PASSIVE_MODE, 1)
    assert device.wheels_mmps == (0, 0)
    assert not device.streams
    device.close()


DRIVER = """
import sys, time
from depai_robot.adapters.create_oi import open_create
from depai_robot.values.error import DeviceError
from depai_robot.values.geometry import DriveCommand
base = open_create(sys.argv[1], time.time_ns)
while True:
    try:
        base.send(DriveCommand(0.3, 0.0))
        print("drives", flush=True)
    except DeviceError:
        time.sleep(1.2)
    time.sleep(0.02)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_driver_that_is_killed_or_hangs_leaves_wheels_that_stand(number, tmp_path):
    device = CreateDevice(tmp_path / "create")
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path / "create")], stdout=subprocess.DEVNULL
    )
    try:
        until(lambda: device.wheels_mmps == (300, 300), 20)
        driver.send_signal(number)
        told_s = time.monotonic()
        until(lambda: device.wheels_mmps == (0, 0), 3)
        assert time.monotonic() - told_s < BEAT_TIMEOUT_S + 1.0
        driver.kill()
        driver.wait(5)
        line = SerialLine(str(tmp_path / "create"), oi.BAUD, 0.2)  # its guard has let go of the line
        until(lambda: not fails(line.open), 3)
        line.close()
    finally:
        driver.kill()
        driver.wait(5)
        device.close()


def test_a_guard_that_has_died_is_replaced(tmp_path):
    device = CreateDevice(tmp_path / "create")
    base = open_create(str(tmp_path / "create"), time.time_ns)
    try:
        until(lambda: device.mode == oi.SAFE_MODE)
        first = base._guard._child
        first.kill()
        until(lambda: (now := base._guard._child) is not None and now.pid != first.pid and now.poll() is None)
    finally:
        base.close()
        device.close()


def test_its_battery(pair):
    device, base = pair
    info = CreateBattery(base).read()
    assert (info.voltage_v, info.current_a, info.state_of_charge) == (15.2, -0.31, 0.75)
    device.capacity_mah = 0
    until(lambda: fails(base.pack))
    with pytest.raises(DeviceFailedError, match="of no battery"):
        base.pack()


def test_a_unit_that_ends_has_the_wheels_told_once_more(tmp_path):
    device = CreateDevice(tmp_path / "create")
    file = tmp_path / "hardware.yaml"
    port = tmp_path / "create"
    file.write_text(
        f"""version: 1
robot: rover-1
link: {tmp_path}/link
battery: {{driver: create-oi, port: {port}}}
base: {{driver: create-oi, port: {port}, track_m: 0.235}}
pads: {{port: {tmp_path}/pads}}
"""
    )
    try:
        device.hear(bytes((oi.START, oi.SAFE)) + oi.make_drive(300, 300))
        assert device.wheels_mmps == (300, 300)
        done = CliRunner().invoke(hw, ["stop", "--config", str(file)])
        assert (done.exit_code, "told to stand" in done.output) == (0, True), done.output
        until(lambda: device.wheels_mmps == (0, 0) and device.mode == oi.PASSIVE_MODE, 1)
        device.unplug()
        assert CliRunner().invoke(hw, ["stop", "--config", str(file)]).exit_code == 1
    finally:
        device.close()


def test_the_probe_names_it_and_moves_nothing():
    device = CreateDevice()
    try:
        found = probe_port(device.path)
        assert found.device == "create-oi"
        assert "15.20 V, 2400 mAh" in found.detail
        until(lambda: device.mode == oi.OFF_MODE, 1)
    finally:
        device.close()


def test_by_configuration_with_pads_on_a_board_of_their_own(tmp_path):
    create, mcu = CreateDevice(tmp_path / "create"), McuDevice(link=tmp_path / "pads")
    base = BasePart(port=str(tmp_path / "create"), track_m=0.235, driver="create-oi")
    battery = BatteryPart(port=base.port, driver="create-oi")
    pads = PadsPart(port=str(tmp_path / "pads"))
    hardware = RobotHardware(HardwareFile(1, "rover-1", str(tmp_path / "link"), battery, base, pads))
    try:
        mcu.contact, mcu.energy_milliwh = True, 42
        until(lambda: (hardware.poll(), not hardware.trouble)[1])
        until(hardware.in_contact)
        until(lambda: (hardware.poll(), hardware.read().pads_energy_milliwh == 42)[1])
        assert hardware.read().state_of_charge == 0.75
        until(lambda: not fails(lambda: hardware.base.send(FORWARD)))
    finally:
        hardware.close()
        create.close()
        mcu.close()


def test_parts_that_do_not_go_together_are_refused():
    create, mcu = BasePart("/dev/a", 0.2, "create-oi"), BasePart("/dev/a", 0.2)
    jbd, inside, pads = BatteryPart("/dev/b"), BatteryPart("/dev/b", "create-oi"), PadsPart("/dev/c")
    for parts, words in (
        ((jbd, create, None), "no meter at the pads"),
        ((inside, mcu, None), "inside a base create-oi"),
        ((inside, create, pads), "expected the base's, /dev/a"),
        ((jbd, create, PadsPart("/dev/b")), "a port of its own"),
        ((jbd, BasePart("/dev/a", 0.2, "create-oi", 9600), pads), "expected 115200"),
    ):
        with pytest.raises(ConfigError, match=words):
            HardwareFile(1, "rover-1", "/run/x", *parts)


class KeptLine:
    """Remembers what was written."""

    name = "/dev/slow"

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def read(self, most: int, timeout_s: float) -> bytes:
        raise DeviceAbsentError("nobody reads in this test")

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        pass


def test_a_repetition_says_what_is_wanted_when_it_is_written():
    line = KeptLine()
    base = CreateBase(line, lambda: 0)
    base._closing.set()
    base._thread.join(2)
    with base._lock:
        base._wheels_mmps = (300, 300)
    base.stop_for_emergency(stop=True)
    base._tell()
    assert line.written[-2:] == [oi.make_drive(0, 0)] * 2
    base.close()
