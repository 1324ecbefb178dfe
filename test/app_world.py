"""A whole small world in one process: stations and a wallet as they run, on simulated pads at many times real time.

Physics and link are the simulation's; broker and chain are whatever a test gives. Docking is teleportation.
"""

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from depai_robot.adapters.sqlite_journal import SqliteJournal
from depai_robot.app.resource import resource_path
from depai_robot.app.station import StationParts, StationProgram
from depai_robot.app.wallet import WalletParts, WalletProgram
from depai_robot.charging.message import MeterIdentity
from depai_robot.charging.ocmf import public_key_to_did_key
from depai_robot.charging.setting import Network, RobotSettings, StationSettings
from depai_robot.payment.policy import SpendPolicy
from depai_robot.payment.receipt import Receipt, parse_receipt
from depai_robot.ports import Broker, Chain
from depai_robot.sim.battery import SimulatedBattery
from depai_robot.sim.dishonest import make_cheat
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.sim.link import LinkServer
from depai_robot.sim.link_hardware import LinkRobotHardware, LinkStationHardware
from depai_robot.sim.pads import ChargingPads, PadsClockwork
from depai_robot.sim.scene import parse_robot
from depai_robot.sim.supply import SimulatedSupply, SupplyModel
from depai_robot.values.identity import address_to_hex

ROBOT = "robot-1"
ZONE = "lab"
FACTOR = 20.0

MakeBroker = Callable[[str, str | None], Broker]
"""(client id, topic of the will or None)."""
MakeChain = Callable[[Any], Chain]
"""(signer of its account)."""


def robot_key(robot: str, role: str) -> DevelopmentSigner:
    return DevelopmentSigner(f"{robot} {role}")


def station_key(station: str, role: str) -> DevelopmentSigner:
    return DevelopmentSigner(f"{station} {role}")


def make_policy(robot: str, stations: tuple[str, ...], **changes: Any) -> SpendPolicy:
    values: dict[str, Any] = {
        "robot": robot_key(robot, "voucher").address,
        "epoch": 1,
        "valid_after_s": 0,
        "valid_before_s": int(time.time()) + 10**7,
        "tranche_max_atomic": 5_000,
        "session_max_atomic": 100_000,
        "day_max_atomic": 1_000_000,
        "escrow_channel_max_atomic": 100_000,
        "escrow_unknown_max_atomic": 50_000,
        "escrow_total_max_atomic": 300_000,
        "withdraw_delay_max_s": 3600,
        "price_max_atomic_per_kwh": 800_000,
        "start_fee_max_atomic": 10_000,
        "payees": tuple(station_key(name, "receiver").address for name in stations),
    }
    return SpendPolicy(**(values | changes))


def robot_settings(
    network: Network, stations: tuple[str, ...] = ("a",), robot: str = ROBOT, **changes: Any
) -> RobotSettings:
    values: dict[str, Any] = {
        "robot": robot,
        "zone": ZONE,
        "identity": robot_key(robot, "identity").address,
        "payer": robot_key(robot, "payer").address,
        "voucher_key": robot_key(robot, "voucher").address,
        "network": network,
        "policy": make_policy(robot, stations),
        "stations": tuple(station_key(name, "identity").address for name in stations),
        # Session time runs FACTOR times faster than a loaded machine answers.
        "reading_age_max_ms": 60_000,
        "meter_slack_ms": 60_000,
        "retry_ms": 10_000,
        "quote_window_ms": 20_000,
        "poll_ms": 1000,
        "chain_retry_ms": 10_000,
        "funding_timeout_ms": 600_000,
        "presenting_timeout_ms": 300_000,
        "stop_timeout_ms": 300_000,
        "settle_timeout_ms": 2_000_000,
        "receipt_wait_ms": 100_000,
    }
    return RobotSettings(**(values | changes))


def station_settings(network: Network, name: str, place: int = 0, **changes: Any) -> StationSettings:
    receiver = station_key(name, "receiver").address
    key = public_key_to_did_key(station_key(name, "meter").public_key)
    values: dict[str, Any] = {
        "station": name,
        "zone": ZONE,
        "name": f"Station {name}",
        "identity": station_key(name, "identity").address,
        "receiver": receiver,
        "receiver_authorizer": receiver,
        "network": network,
        "meters": (MeterIdentity(serial=f"M-{name}", key=key, accuracy_permille=10),),
        "dock": f"dock-{name}",
        "pose_mm_mrad": (2000 + 1000 * place, 0, 0),
        "tranche_milliwh": 3000,
        "report_interval_ms": 2000,
        "voucher_timeout_ms": 30_000,
        "retry_ms": 10_000,
        "chain_retry_ms": 10_000,
        "binding_timeout_ms": 300_000,
    }
    return StationSettings(**(values | changes))


class TeleportingDock:
    """app.performer.DockingLink: the robot is at once where it wants to be."""

    def __init__(self, pads: ChargingPads) -> None:
        self._pads = pads
        self.wallet: WalletProgram | None = None

    def start_docking(self, dock: str, marker_id: int, pose_mm_mrad: tuple[int, int, int]) -> None:
        def dock_now() -> None:
            self._pads.touch((dock.removeprefix("dock-"), 1))
            self.wallet.docking_ended(dock, docked=True)

        threading.Thread(target=dock_now, daemon=True).start()

    def cancel_docking(self) -> None:
        threading.Thread(
            target=lambda: self.wallet.docking_ended("", docked=False, reason="cancelled"), daemon=True
        ).start()

    def start_undocking(self) -> None:
        def leave_now() -> None:
            self._pads.touch(None)
            self.wallet.undocking_ended(undocked=True)

        threading.Thread(target=leave_now, daemon=True).start()


def make_wallet_parts(
    folder: Path,
    socket: Path,
    settings: RobotSettings,
    make_broker: MakeBroker,
    make_chain: MakeChain,
    docking: Any,
) -> tuple[WalletParts, LinkRobotHardware]:
    """A wallet on simulated hardware."""
    robot = settings.robot
    hardware = LinkRobotHardware(socket, robot)
    parts = WalletParts(
        settings=settings,
        identity=robot_key(robot, "identity"),
        voucher=robot_key(robot, "voucher"),
        payer=None if settings.delegated else robot_key(robot, "payer"),
        journal=SqliteJournal(folder / "wallet.sqlite", address_to_hex(settings.voucher_key)),
        broker=make_broker(f"robot-{robot}", None),
        chain=make_chain(robot_key(robot, "payer")),
        clock=hardware.clock,
        battery=hardware,
        connector=hardware,
        docking=docking,
        folder=folder,
    )
    return parts, hardware


def make_station_parts(
    folder: Path,
    socket: Path,
    settings: StationSettings,
    make_broker: MakeBroker,
    make_chain: MakeChain,
    dishonest: str = "none",
) -> tuple[StationParts, LinkStationHardware]:
    """A station on simulated hardware."""
    name = settings.station
    hardware = LinkStationHardware(socket, name, 1)
    cheat = make_cheat(dishonest, settings.network.chain_id)
    meter = station_key(name, "meter")
    parts = StationParts(
        settings=settings,
        identity=station_key(name, "identity"),
        receiver=station_key(name, "receiver"),
        meters={1: cheat.signer(meter) if cheat else meter},
        journal=SqliteJournal(folder / f"station-{name}.sqlite", address_to_hex(settings.identity)),
        broker=make_broker(f"station-{name}", settings.offer_topic),
        chain=make_chain(station_key(name, "receiver")),
        clock=hardware.clock,
        connectors={1: cheat.hardware(hardware) if cheat else hardware},
        folder=folder,
        cheat=cheat,
    )
    return parts, hardware


class AppWorld:
    """Pads, link, stations and, when wanted, the wallet."""

    def __init__(
        self,
        folder: Path,
        network: Network,
        make_broker: MakeBroker,
        make_chain: MakeChain,
        *,
        stations: tuple[str, ...] = ("a",),
        robot: str = ROBOT,
        factor: float = FACTOR,
        power_w: float = 300.0,
        dishonest: str = "none",
        station_changes: dict[str, dict[str, Any]] | None = None,
        robot_changes: dict[str, Any] | None = None,
        start_stations: bool = True,
    ) -> None:
        self.folder, self.network = folder, network
        self._make_broker, self._make_chain = make_broker, make_chain
        self.robot = robot
        self.robot_changes = robot_changes or {}
        self.station_names = stations
        model = parse_robot(resource_path("config", "robot.yaml").read_text()).battery
        battery = SimulatedBattery(model, 0.18, seed=1)
        supply = SupplyModel(power_max_w=power_w)
        self.pads = ChargingPads(
            robot, battery, {(name, 1): SimulatedSupply(supply, seed=n) for n, name in enumerate(stations)}
        )
        # A socket's path is short, a test's folder need not be.
        self._socket_folder = tempfile.TemporaryDirectory(prefix="depai-")
        self.socket = Path(self._socket_folder.name) / "sim.sock"
        self.server = LinkServer(self.socket, self.pads, self.pads.lock)
        self.clockwork = PadsClockwork(self.pads, factor, self.server.push, step_ns=40_000_000)
        self.charge: Any = None  # a ChargePart: then the wallet asks by itself
        self.guard: Any = None  # a FleetGuard: then operators may order it
        self.stations: dict[str, StationProgram] = {}
        self._open: list[Any] = []
        for place, name in enumerate(stations if start_stations else ()):
            changes = (station_changes or {}).get(name, {})
            self.start_station(name, place, dishonest if place == 0 else "none", changes)
        self.wallet: WalletProgram | None = None

    def start_station(self, name: str, place: int, dishonest: str, changes: dict[str, Any]) -> StationProgram:
        settings = station_settings(self.network, name, place, **changes)
        parts, hardware = make_station_parts(
            self.folder, self.socket, settings, self._make_broker, self._make_chain, dishonest
        )
        self._open.append(hardware)
        program = StationProgram(parts)
        program.start()
        self.stations[name] = program
        return program

    def start_wallet(self) -> WalletProgram:
        parts, hardware = make_wallet_parts(
            self.folder,
            self.socket,
            robot_settings(self.network, self.station_names, self.robot, **self.robot_changes),
            self._make_broker,
            self._make_chain,
            TeleportingDock(self.pads),
        )
        self._open.append(hardware)
        if self.charge is not None:
            parts.charge = self.charge
        parts.guard = self.guard
        self.wallet = WalletProgram(parts)
        parts.docking.wallet = self.wallet
        self.wallet.start()
        until(lambda: len(self.wallet.state.offers) == len(self.station_names), "offers of all stations")
        return self.wallet

    def receipt(self) -> Receipt:
        (path,) = self.folder.glob("receipt-*.json")
        return parse_receipt(path.read_bytes())

    def close(self) -> None:
        if self.wallet is not None:
            self.wallet.stop()
        for program in self.stations.values():
            program.stop()
        for item in self._open:
            item.close()
        self.clockwork.close()
        self.server.close()
        self._socket_folder.cleanup()


def until(condition: Callable[[], Any], what: str, timeout_s: float = 20.0) -> Any:
    """Waits; a condition of several programs has no other way."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.005)
    raise AssertionError(f"not within {timeout_s} s: {what}")
