"""The simulation link over a real socket: same-user check, commands, loss of either end."""

import contextlib
import os
import socket
import threading
import time

import pytest

from depai_robot.app.resource import resource_path
from depai_robot.sim import link as link_module
from depai_robot.sim.battery import SimulatedBattery
from depai_robot.sim.link import LinkServer
from depai_robot.sim.link_hardware import LinkRobotHardware, LinkStationHardware
from depai_robot.sim.pads import ChargingPads
from depai_robot.sim.scene import parse_robot
from depai_robot.sim.supply import SimulatedSupply, SupplyModel
from depai_robot.values.error import ConfigError, DeviceAbsentError, DeviceFailedError, DeviceTimeoutError
from test.app_world import until

KEY = ("a", 1)


@pytest.fixture
def pads():
    model = parse_robot(resource_path("config", "robot.yaml").read_text()).battery
    supply = SimulatedSupply(SupplyModel(), seed=1)
    return ChargingPads("r", SimulatedBattery(model, 0.2, seed=1), {KEY: supply})


@pytest.fixture
def server(pads, tmp_path):
    made = LinkServer(tmp_path / "s", pads, pads.lock)
    yield made
    made.close()


@pytest.fixture
def robot(server):
    made = LinkRobotHardware(server.path, "r", 5)
    yield made
    made.close()


@pytest.fixture
def station(server):
    made = LinkStationHardware(server.path, "a", 1, 5)
    yield made
    made.close()


def run(pads, seconds: float) -> None:
    for _ in range(int(seconds * 100)):
        pads.step()


def test_contact_probe_power_and_both_meters(pads, server, robot, station) -> None:
    assert not robot.in_contact()
    pads.touch(KEY)
    until(lambda: station.present() and robot.in_contact(), "contact is seen")
    station.write_probe(b"n" * 32)
    until(lambda: robot.read_probe() == b"n" * 32, "probe is read")
    station.energise(300.0, 100)
    run(pads, 10)
    meter, own = station.read(), robot.read()
    assert 95 <= meter.energy_milliwh <= 100
    assert 90 <= own.pads_energy_milliwh <= meter.energy_milliwh
    assert meter.stamp_ns == own.stamp_ns == pads.time_ns()
    assert own.pads_power_w == 0.0  # the limit was kept by the physics, without any further message
    assert robot.clock.session_ns() == pads.time_ns()
    pads.touch(None)
    until(lambda: not station.present() and robot.read_probe() is None, "contact is lost")
    with pytest.raises(DeviceFailedError, match="nobody is on the connector"):
        station.energise(300.0, 200)


def test_a_station_that_is_gone_has_its_connector_switched_off(pads, server, station) -> None:
    pads.touch(KEY)
    station.energise(300.0, 100_000)
    run(pads, 1)
    assert pads.supplies[KEY].power_w > 100
    station.close()
    until(lambda: pads.supplies[KEY]._wanted_w == 0.0, "the simulation has noticed")
    run(pads, 1)
    assert pads.supplies[KEY].power_w == 0.0


def test_a_simulation_that_is_gone_is_an_error_and_comes_back(pads, server, robot, monkeypatch) -> None:
    server.close()
    until(lambda: _fails(robot.read), "the loss is noticed")
    with pytest.raises(DeviceAbsentError, match="lost the simulation"):
        robot.read()
    time.sleep(1.1)
    with pytest.raises(DeviceTimeoutError, match="heard nothing for 1"):
        robot.in_contact()
    again = LinkServer(server.path, pads, pads.lock)
    until(lambda: not _fails(robot.read), "it reconnects by itself")
    again.close()


def _fails(call) -> bool:
    try:
        call()
    except (DeviceAbsentError, DeviceTimeoutError):
        return True
    return False


def test_a_stuck_simulation_is_a_timeout(pads, server, robot) -> None:
    held = threading.Event()
    release = threading.Event()

    def hold() -> None:
        with pads.lock:
            held.set()
            release.wait(5)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(5)
    with pytest.raises(DeviceTimeoutError, match="no answer to read of r"):
        robot.read()
    release.set()
    thread.join()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda path: LinkRobotHardware(path, "x", 5), "no robot 'x' in this world, it is 'r'"),
        (lambda path: LinkStationHardware(path, "a", 2, 5), "no connector 2 of station 'a'"),
    ],
)
def test_hardware_that_is_not_there_is_said_at_once(server, make, match: str) -> None:
    with pytest.raises(DeviceAbsentError, match=match):
        make(server.path)


def test_no_simulation_is_said_after_the_time_given(tmp_path) -> None:
    with pytest.raises(DeviceAbsentError, match="finds no simulation"):
        LinkRobotHardware(tmp_path / "none", "r", 0.3)


def test_only_the_same_user_is_let_in(server, monkeypatch) -> None:
    monkeypatch.setattr(link_module, "_peer_uid", lambda connection: os.getuid() + 1)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(5)
        stranger.connect(str(server.path))
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            stranger.sendall(b'{"role":"robot","id":"r"}\n')
            assert stranger.recv(100) == b""
    assert server.path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "line", [b"nonsense\n", b'{"role":"king","id":"r"}\n', b"\xff" * 70_000 + b"\n", b"\n"]
)
def test_nonsense_ends_the_connection_and_nothing_else(pads, server, robot, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(5)
        stranger.connect(str(server.path))
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            stranger.sendall(line)
            while stranger.recv(100_000):
                pass
    assert robot.read().state_of_charge > 0.1


def test_a_path_that_no_socket_can_have_is_refused(pads, tmp_path) -> None:
    with pytest.raises(ConfigError, match="at most 100 bytes"):
        LinkServer(tmp_path / ("x" * 120), pads, pads.lock)
