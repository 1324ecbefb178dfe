"""The doctor on hardware.yaml: ports of devices on ptys, and every way in which a port may not serve."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from depai_robot.adapters.jbd import BASIC, find_answer
from depai_robot.app import doctor_hardware
from depai_robot.app.doctor_hardware import Use, check_hardware, check_port, modem_manager_may_take
from depai_robot.cli.main import cli
from test.serial_device import CreateDevice, JbdDevice, McuDevice, PtyDevice
from test.unit.test_serial_frames import RECORDED


@pytest.fixture
def file(tmp_path):
    """A healthy robot's hardware.yaml."""
    bms, mcu = JbdDevice(find_answer(RECORDED, BASIC)[0], tmp_path / "bms"), McuDevice(link=tmp_path / "mcu")
    path = tmp_path / "hardware.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "version": 1,
                "robot": "rover-1",
                "link": str(tmp_path / "link"),
                "battery": {"port": str(tmp_path / "bms")},
                "base": {"port": str(tmp_path / "mcu"), "track_m": 0.34},
            }
        )
    )
    yield path
    bms.close()
    mcu.close()


def statuses(path: Path) -> dict[str, str]:
    return {finding.name: finding.status for finding in check_hardware(path)}


def test_a_healthy_robot(file):
    found = check_hardware(file)
    assert [(finding.name, finding.status) for finding in found] == [
        ("hardware", "ok"),
        ("base", "ok"),
        ("battery", "ok"),
    ]
    assert "58.88 V" in found[2].seen


def test_the_command_says_it(file):
    done = CliRunner().invoke(cli, ["doctor", "--hardware", str(file)])
    assert "58.88 V" in done.output


def test_a_file_that_is_wrong_is_one_finding(file):
    file.write_text(file.read_text() + "speed: 9\n")
    (found,) = check_hardware(file)
    assert (found.status, "speed" in found.seen, "example" in found.mend) == ("fail", True, True)


def test_a_port_that_is_not_there_or_is_none(file, tmp_path):
    for port, words in (
        (tmp_path / "none", "is not there"),
        (tmp_path / "hardware.yaml", "no serial port"),
        ("usb:dead:beef:", "no such device"),
    ):
        found = check_port(Use("base", str(port), "depai-mcu", 115_200))
        assert (found.status, words in found.seen, "hw probe" in found.mend) == ("fail", True, True), found


def test_a_port_without_the_right_to_it(file, monkeypatch):
    monkeypatch.setattr(doctor_hardware.os, "access", lambda *_: False)
    found = check_hardware(file)[1]
    assert found.status == "fail"
    assert "usermod -aG" in found.mend


def test_another_driver_than_configured_does_not_answer(tmp_path):
    device = PtyDevice(tmp_path / "line")
    try:
        for driver in ("depai-mcu", "create-oi"):
            found = check_port(Use("base", str(tmp_path / "line"), driver, 115_200))
            assert found.status == "fail"
            assert f"does not answer as {driver}" in found.seen
            assert "hw probe" in found.mend
    finally:
        device.close()


def test_a_create_is_asked(tmp_path):
    device = CreateDevice(tmp_path / "line")
    try:
        found = check_port(Use("base", str(tmp_path / "line"), "create-oi", 115_200))
        assert (found.status, "15.20 V" in found.seen) == ("ok", True)
    finally:
        device.close()


HOLD = "import os, sys, time; os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY); print('held', flush=True); time.sleep(60)"


@pytest.mark.parametrize(("ours", "status"), [("", "fail"), ("depai_robot.nodes.hardware", "ok")])
def test_a_port_that_somebody_holds_is_not_opened(file, ours, status):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file.parent / "mcu"), ours], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "held\n"
        found = check_hardware(file)[1]
        assert found.status == status
        assert str(other.pid) in found.seen
        assert ("one master" in found.mend) is (status == "fail")
    finally:
        other.kill()
        other.wait(5)
        other.stdout.close()


def process(proc: Path, number: int, name: str, held: str = "") -> None:
    folder = proc / str(number)
    (folder / "fd").mkdir(parents=True)
    (folder / "comm").write_text(name + "\n")
    (folder / "cmdline").write_bytes(b"/usr/sbin/" + name.encode() + b"\0")
    if held:
        (folder / "fd" / "7").symlink_to(held)


def test_modem_manager_and_brltty_are_known_by_name(file, tmp_path):
    port = str(file.parent / "mcu")
    for number, (name, words) in enumerate((("ModemManager", "udev"), ("brltty", "apt remove"))):
        proc = tmp_path / f"proc-{name}"
        process(proc, 900 + number, name, os.path.realpath(port))
        found = check_port(Use("base", port, "depai-mcu", 115_200), proc)
        assert (found.status, name in found.seen, words in found.mend) == ("fail", True, True)


def test_modem_manager_that_was_not_told_to_stay_away_is_a_warning(file, tmp_path):
    port, proc, udev = file.parent / "mcu", tmp_path / "proc", tmp_path / "udev"
    process(proc, 901, "ModemManager")
    udev.mkdir()
    device = os.stat(port).st_rdev
    entry = udev / f"c{os.major(device)}:{os.minor(device)}"
    entry.write_text("E:ID_BUS=usb\n")
    found = check_port(Use("base", str(port), "depai-mcu", 115_200), proc, udev)
    assert (found.status, "99-depai.rules" in found.mend) == ("warn", True)
    entry.write_text("E:ID_BUS=usb\nE:ID_MM_DEVICE_IGNORE=1\n")
    assert not modem_manager_may_take(port, proc, udev)
    entry.write_text("E:ID_BUS=pci\n")
    assert not modem_manager_may_take(port, proc, udev)


def test_it_takes_seconds(file):
    begin_s = time.monotonic()
    assert set(statuses(file).values()) == {"ok"}
    assert time.monotonic() - begin_s < 5
