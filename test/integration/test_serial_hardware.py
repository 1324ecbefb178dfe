"""Serial devices on a pty, driven by pyserial: what they say, and every fault of the field."""

import math
import threading
import time

import pytest

from depai_robot.adapters import daly
from depai_robot.adapters.jbd import BASIC, BAUD, TIMEOUT_S, JbdBms, find_answer
from depai_robot.adapters.mcu import McuBoard
from depai_robot.adapters.serial_line import SerialLine, find_port
from depai_robot.app.resource import resource_path
from depai_robot.app.robot_hardware import (
    BasePart,
    BatteryPart,
    HardwareFile,
    RobotHardware,
    open_board,
    read_hardware,
)
from depai_robot.sim.link import LinkServer
from depai_robot.sim.link_hardware import LinkRobotHardware
from depai_robot.values.error import (
    ConfigError,
    DeviceAbsentError,
    DeviceError,
    DeviceFailedError,
    DeviceTimeoutError,
)
from depai_robot.values.geometry import DriveCommand
from test.serial_device import JbdDevice, McuDevice, PtyDevice
from test.unit.test_serial_frames import MONITOR, RECORDED, block, daly_answer

DATA = find_answer(RECORDED, BASIC)[0]


def until(condition, timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.02)


@pytest.fixture
def board(tmp_path):
    device = JbdDevice(DATA, tmp_path / "bms")
    bms = JbdBms(SerialLine(str(tmp_path / "bms"), BAUD, TIMEOUT_S))
    yield device, bms
    bms.close()
    device.close()


def test_a_battery_board_is_read(board):
    _, bms = board
    info = bms.read()
    assert (info.voltage_v, info.state_of_charge) == (58.88, 0.72)


def test_a_sleeping_board_is_asked_twice(board):
    device, bms = board
    device.sleeps = 1
    assert bms.read().voltage_v == 58.88
    assert device.asked == 2


def test_a_silent_board_is_a_timeout_and_comes_back(board):
    device, bms = board
    device.silent = True
    with pytest.raises(DeviceTimeoutError, match="does not answer"):
        bms.read()
    device.silent = False
    assert bms.read().voltage_v == 58.88


@pytest.mark.parametrize(
    "fault", [{"noise": b"\xdd\x03\x00\x50garbage"}, {"noise": b"\x77\xdd\xdd"}, {"slow_s": 0.004}]
)
def test_misaligned_noisy_and_slow_answers_are_read(board, fault):
    device, bms = board
    for name, value in fault.items():
        setattr(device, name, value)
    assert bms.read().voltage_v == 58.88


def test_garbage_is_no_reading(board):
    device, bms = board
    device.garble = 0x55
    with pytest.raises(DeviceTimeoutError):
        bms.read()


def test_a_board_that_can_not_says_so(board):
    device, bms = board
    device.status = 0x80
    with pytest.raises(DeviceFailedError, match="status 0x80"):
        bms.read()


def test_unplugged_and_back_under_another_name(board):
    device, bms = board
    assert bms.read()
    before = device.path
    device.unplug()
    with pytest.raises(DeviceError):
        bms.read()
    keep = [JbdDevice(DATA) for _ in range(2)]  # somebody else takes the old number
    device.plug()

    def back() -> bool:
        try:
            return bms.read().voltage_v == 58.88
        except DeviceError:
            return False

    until(back, 8)
    assert device.path
    assert before
    for other in keep:
        other.close()


def test_a_second_master_is_refused(board, tmp_path):
    _, bms = board
    assert bms.read()
    other = SerialLine(str(tmp_path / "bms"), BAUD, TIMEOUT_S)
    with pytest.raises(DeviceFailedError, match="another program has it"):
        other.open()


def test_ports_by_what_they_are():
    with pytest.raises(DeviceAbsentError, match="serial ports here"):
        find_port("usb:dead:beef:")
    with pytest.raises(ConfigError, match="usb:VID:PID:SERIAL"):
        find_port("usb:1")
    with pytest.raises(ConfigError, match="hexadecimal"):
        find_port("usb:xyz:1:")
    line = SerialLine("/dev/does-not-exist", 9600, 0.1)
    with pytest.raises(DeviceAbsentError, match="not there"):
        line.open()
    with pytest.raises(DeviceAbsentError, match="tried a moment ago"):
        line.open()


def test_a_write_does_not_wait_for_a_silent_board(tmp_path):
    """A stop behind a reader that waits came half a second late."""
    device = PtyDevice(tmp_path / "line")
    line = SerialLine(str(tmp_path / "line"), 115_200, 0.2)
    line.open()
    closing = threading.Event()

    def listen() -> None:
        while not closing.is_set():
            line.read(512, 1.0)

    reader = threading.Thread(target=listen)
    reader.start()
    try:
        waited_s = []
        for _ in range(10):
            begin_s = time.monotonic()
            line.write(b"x")
            waited_s.append(time.monotonic() - begin_s)
            time.sleep(0.01)
        assert sorted(waited_s)[7] < 0.05, waited_s
    finally:
        closing.set()
        device.say(b"x")
        reader.join(3)
        line.close()
        device.close()


def test_a_write_that_fails_opens_the_line_anew(tmp_path):
    device = PtyDevice(tmp_path / "line")
    line = SerialLine(str(tmp_path / "line"), 115_200, 0.2)
    line.write(b"x")
    device.unplug()
    with pytest.raises(DeviceAbsentError, match="gone"):
        line.write(b"x")
    device.plug()
    until(lambda: not _fails(lambda: line.write(b"y")))
    device.say(b"z")
    assert line.read(8, 1.0) == b"z"
    line.close()
    device.close()


# --- microcontroller -------------------------------------------------------------------------------------------------


@pytest.fixture
def base(tmp_path):
    device = McuDevice(link=tmp_path / "mcu")
    board = McuBoard(SerialLine(str(tmp_path / "mcu"), 115_200, 0.2), 0.34, time.time_ns)
    until(lambda: not board.trouble)
    yield device, board
    board.close()
    device.close()


def test_wheels_turn_are_counted_and_stop_without_commands(base):
    device, board = base
    end = time.monotonic() + 0.6
    while time.monotonic() < end:
        board.send(DriveCommand(0.3, 0.0))
        time.sleep(0.02)
    assert board.odometry().base_in_odom.x_m > 0.1
    until(lambda: device.linear_mps == 0.0, 1)
    there = board.odometry().base_in_odom.x_m
    time.sleep(0.3)
    assert board.odometry().base_in_odom.x_m == pytest.approx(there, abs=0.005)


def test_turning_on_the_spot(base):
    _, board = base
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        board.send(DriveCommand(0.0, 1.0))
        time.sleep(0.02)
    pose = board.odometry().base_in_odom
    assert pose.yaw_rad > 0.2
    assert math.hypot(pose.x_m, pose.y_m) < 0.01


def test_an_emergency_stop_is_the_boards(base):
    device, board = base
    board.stop_for_emergency(stop=True)
    until(lambda: device.stopped)
    for _ in range(5):
        board.send(DriveCommand(0.3, 0.0))
        time.sleep(0.02)
    assert device.linear_mps == 0.0
    board.stop_for_emergency(stop=False)
    until(lambda: not device.stopped)
    board.send(DriveCommand(0.3, 0.0))
    until(lambda: device.linear_mps > 0)


def test_a_board_that_starts_anew_is_stopped_again(base):
    device, board = base
    board.stop_for_emergency(stop=True)
    until(lambda: device.stopped)
    device.stopped = False  # it was reset, and has forgotten
    until(lambda: device.stopped, 2)
    board.stop_for_emergency(stop=False)
    until(lambda: not device.stopped)
    time.sleep(0.1)
    assert not device.stopped


def test_silence_is_unknown_and_garbage_is_counted(base):
    device, board = base
    device.contact = True
    until(board.in_contact)
    device.garble = 0x11
    until(lambda: board._splitter.damaged > 3)
    until(lambda: _fails(board.in_contact))
    with pytest.raises(DeviceTimeoutError, match="nothing heard"):
        board.in_contact()
    with pytest.raises(DeviceTimeoutError):
        board.odometry()
    device.garble = 0
    until(lambda: not _fails(board.odometry))


def _fails(call) -> bool:
    try:
        call()
    except DeviceError:
        return True
    return False


def test_a_board_that_starts_anew_moves_nothing_and_forgets_no_energy(base):
    device, board = base
    device.energy_milliwh, device.voltage_mv, device.current_ma = 5000, 26_000, 4000
    device._ways_m = [2.0, 2.0]
    until(lambda: board.pads()[0] == 5000)
    assert board.pads()[1] == pytest.approx(104.0)
    x_m = board.odometry().base_in_odom.x_m
    device._ways_m = [0.0, 0.0]
    device.energy_milliwh = 10
    until(lambda: board.pads()[0] == 5010)
    assert board.odometry().base_in_odom.x_m == pytest.approx(x_m, abs=0.01)


# --- both, over the link --------------------------------------------------------------------------------------------


def test_the_wallets_link_shows_the_robots_own_hardware(tmp_path):
    bms, mcu = JbdDevice(DATA, tmp_path / "bms"), McuDevice(link=tmp_path / "mcu")
    file = HardwareFile(
        version=1,
        robot="rover-1",
        link=str(tmp_path / "link"),
        battery=BatteryPart(port=str(tmp_path / "bms")),
        base=BasePart(port=str(tmp_path / "mcu"), track_m=0.34),
    )
    hardware = RobotHardware(file)
    with pytest.raises(DeviceTimeoutError, match="no reading"):
        hardware.read()
    until(lambda: (hardware.poll(), not hardware.trouble)[1])
    server = LinkServer(tmp_path / "link", hardware, threading.RLock())
    client = LinkRobotHardware(tmp_path / "link", "rover-1")
    try:
        mcu.contact, mcu.nonce, mcu.energy_milliwh = True, bytes(range(1, 33)), 777
        until(hardware.in_contact)
        until(lambda: (hardware.poll(), client.read().pads_energy_milliwh == 777)[1])
        server.push()
        until(client.in_contact)
        assert client.read_probe() == bytes(range(1, 33))
        reading = client.read()
        assert (reading.voltage_v, reading.state_of_charge) == (58.88, 0.72)
        bms.silent = True
        until(lambda: (hardware.poll(), _fails(client.read))[1], 8)
    finally:
        client.close()
        server.close()
        hardware.close()
        bms.close()
        mcu.close()


def test_the_example_file_is_good_and_an_unknown_key_is_refused(tmp_path):
    file = read_hardware(resource_path("config", "hardware.yaml"))
    assert (file.battery.driver, file.base.driver) == ("jbd", "depai-mcu")
    bad = tmp_path / "hardware.yaml"
    bad.write_text(resource_path("config", "hardware.yaml").read_text() + "speed: 9\n")
    with pytest.raises(ConfigError, match="speed"):
        read_hardware(bad)


def test_what_is_plugged_in_is_named(tmp_path):
    from click.testing import CliRunner

    from depai_robot.cli.hw import hw

    bms, mcu, other, asked, speaks = JbdDevice(DATA), McuDevice(), PtyDevice(), DalyDevice(), Monitor()
    devices = (bms, mcu, other, asked, speaks)
    try:
        paths = [bms.path, mcu.path, other.path, "/dev/none", asked.path, speaks.path]
        done = CliRunner().invoke(hw, ["probe", *paths])
        lines = done.output.splitlines()
        assert done.exit_code == 1
        assert "jbd" in lines[0]
        assert "58.88 V, 0.00 A, 72%" in lines[0]
        assert "depai-mcu" in lines[1]
        assert "unknown" in lines[2]
        assert "nothing that we know answers" in lines[2]
        assert "not there" in lines[3]
        assert "daly" in lines[4]
        assert "26.40 V, 1.20 A, 42%" in lines[4]
        assert "vedirect" in lines[5]
        assert "26.20 V, -1.50 A, 88%" in lines[5]
    finally:
        for device in devices:
            device.close()


class DalyDevice(PtyDevice):
    """Answers its one question."""

    def hear(self, data: bytes) -> None:
        if data.endswith(daly.QUESTION):
            self.say(daly_answer(26.4, 30_000 - 12, 0.42))


class Monitor(PtyDevice):
    """Speaks by itself."""

    count = 0

    def tick(self) -> None:
        self.count += 1
        if self.count % 10 == 0:
            self.say(block(**MONITOR) if self.count % 20 else block(H1="1"))


@pytest.mark.parametrize(
    ("driver", "device", "wanted"),
    [("daly", DalyDevice, (26.4, 1.2, 0.42)), ("vedirect", Monitor, (26.201, -1.5, 0.876))],
)
def test_other_boards_by_configuration(driver, device, wanted):
    there = device()
    board = open_board(BatteryPart(port=there.path, driver=driver))
    try:
        info = board.read()
        assert (info.voltage_v, info.current_a, info.state_of_charge) == wanted
        there.silent = True
        with pytest.raises(DeviceTimeoutError):
            board.read()
        there.silent = False
        there.noise = b"\xa5\x01\x90\x08\x00" if driver == "daly" else b":5F\n"
        assert board.read().voltage_v == wanted[0]
    finally:
        board.close()
        there.close()
