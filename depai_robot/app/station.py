"""A charging station's program: the Station machine on its journal, keys, broker, chain and hardware.

The same program runs a real station and a simulated one; only contactor and meter differ. A simulated one may be told
to cheat (sim.dishonest), to show what a robot does about it.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from depai_robot.app.admission import StationAdmission
from depai_robot.app.config import StationFile, addresses, read_network, read_station, resolve
from depai_robot.app.part import (
    KeyLock,
    open_broker,
    open_chain,
    open_locked_journal,
    open_signer,
    random_entropy,
)
from depai_robot.app.performer import StationBody
from depai_robot.app.program import Program, WrapPerform, make_worker, state_codec
from depai_robot.app.runner import Runner, Snapshots
from depai_robot.app.sealing import Keeper, Sealer
from depai_robot.app.station_hardware import check_connectors, open_connectors
from depai_robot.app.story import StoryWriter
from depai_robot.app.telling import StationTeller
from depai_robot.charging import station
from depai_robot.charging.fact import PresenceChanged
from depai_robot.charging.message import MeterIdentity
from depai_robot.charging.ocmf import public_key_to_did_key
from depai_robot.charging.setting import Network, StationSettings
from depai_robot.charging.station_state import StationState
from depai_robot.ports import Broker, Chain, Clock, Journal, Signer
from depai_robot.sim.dishonest import Cheat, Hardware, make_cheat
from depai_robot.sim.link_hardware import LinkStationHardware
from depai_robot.values.error import ConfigError, DepaiError, DeviceError

LOG = logging.getLogger(__name__)

PRESENCE_PERIOD_S = 0.01


@dataclass(slots=True)
class StationParts:
    """Everything that a station is made of.

    Attributes:
        settings: the owner's.
        identity, receiver: its keys.
        meters: key of each connector's meter, by number.
        journal, broker, chain, clock: ports.
        connectors: hardware by number.
        folder: for receipts and story.
        cheat: None for an honest station.
        key_lock: held as long as the station runs.
    """

    settings: StationSettings
    identity: Signer
    receiver: Signer
    meters: dict[int, Signer]
    journal: Journal
    broker: Broker
    chain: Chain
    clock: Clock
    connectors: dict[int, Hardware]
    folder: Path
    cheat: Cheat | None = None
    key_lock: KeyLock | None = None


def open_station(path: Path) -> StationParts:
    """The parts of a configured station; keys are opened, the journal is locked, hardware is connected.

    Raises:
        ConfigError: the file, a key or the network is not as it must be.
        JournalError: another process holds journal or key, or the journal is damaged.
        DeviceAbsentError: no hardware.
    """
    file = read_station(path)
    network = read_network(file.chain, path)
    chain_id = network.chain_id
    identity = open_signer("keys.identity", file.keys.identity, path, chain_id)
    receiver = open_signer("keys.receiver", file.keys.receiver, path, chain_id)
    meters = {
        number: open_signer(f"meters[{number - 1}].key", meter.key, path, chain_id)
        for number, meter in enumerate(file.meters, start=1)
    }
    settings = _settings(
        file, path, network=network.network(), identity=identity, receiver=receiver, meters=meters
    )
    cheat = make_cheat(file.dishonest, chain_id)
    if cheat is not None:
        LOG.warning("this station cheats on purpose: %s", file.dishonest)
    _check_hardware(file, path)
    folder = resolve(path, file.folder)
    chain = open_chain(network, receiver, path, folder / f"outbox-station-{file.station}.sqlite")
    broker = open_broker(file.broker, path, f"station-{file.station}", will_topic=settings.offer_topic)
    lock, journal = open_locked_journal(folder / f"station-{file.station}.sqlite", identity.address)
    try:
        hardware = _connect_hardware(file, path, settings.power_max_w)
    except DepaiError:
        journal.close()
        lock.release()
        raise
    clock = hardware[1].clock
    if cheat is not None:
        hardware = {number: cheat.hardware(item) for number, item in hardware.items()}
        meters = {number: cheat.signer(item) for number, item in meters.items()}
    return StationParts(
        settings=settings,
        identity=identity,
        receiver=receiver,
        meters=meters,
        journal=journal,
        broker=broker,
        chain=chain,
        clock=clock,
        connectors=hardware,
        folder=folder,
        cheat=cheat,
        key_lock=lock,
    )


def _check_hardware(file: StationFile, path: Path) -> None:
    if (file.link is None) is (file.modbus is None):
        raise ConfigError(
            f"{path}: expected either link, the socket of a simulation, or modbus, real connectors"
        )
    if file.modbus is None:
        return
    if len(file.modbus) != len(file.meters):
        raise ConfigError(
            f"{path}: modbus: expected one for each of {len(file.meters)} meters, got {len(file.modbus)}"
        )
    if file.dishonest != "none":
        raise ConfigError(f"{path}: dishonest: {file.dishonest} is for simulated connectors only")
    try:
        check_connectors(file.modbus)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _connect_hardware(file: StationFile, path: Path, power_max_w: float) -> dict[int, Hardware]:
    if file.modbus is not None:
        return open_connectors(file.modbus, power_max_w)
    link = resolve(path, file.link or "")
    return {
        number: LinkStationHardware(link, file.station, number) for number in range(1, len(file.meters) + 1)
    }


def _settings(
    file: StationFile,
    path: Path,
    *,
    network: Network,
    identity: Signer,
    receiver: Signer,
    meters: dict[int, Signer],
) -> StationSettings:
    values: dict[str, Any] = {
        "station": file.station,
        "zone": file.zone,
        "name": file.name,
        "identity": identity.address,
        "receiver": receiver.address,
        "receiver_authorizer": receiver.address,
        "network": network,
        "meters": tuple(
            MeterIdentity(
                serial=meter.serial,
                key=public_key_to_did_key(meters[number].public_key),
                accuracy_permille=meter.accuracy_permille,
            )
            for number, meter in enumerate(file.meters, start=1)
        ),
        "dock": file.dock,
        "marker_id": file.marker_id,
        "pose_mm_mrad": (
            round(file.pose.x_m * 1000),
            round(file.pose.y_m * 1000),
            round(file.pose.yaw_rad * 1000),
        ),
        "served": None if file.served is None else addresses(file.served),
    }
    try:
        return StationSettings(**(values | file.settings))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _snapshots(settings: StationSettings) -> Snapshots[StationState]:
    def adopt(state: StationState) -> StationState:
        if state.settings == settings:
            return state
        fresh = station.initial_state(settings).connectors
        return msgspec.structs.replace(
            state,
            settings=settings,
            connectors={number: state.connectors.get(number, fresh[number]) for number in fresh},
        )

    encode, decode = state_codec(StationState)
    return Snapshots(encode, decode, station.is_at_rest, adopt)


class StationProgram(Program[StationState]):
    """Runs a station.

    Args:
        parts: see there.
        wrap_perform: for tests.
    """

    def __init__(self, parts: StationParts, *, wrap_perform: WrapPerform | None = None) -> None:
        settings = parts.settings
        self._parts = parts
        self._present: dict[int, bool] = {}
        runner: Runner[StationState] = Runner(
            journal=parts.journal,
            step=station.step,
            step_version=station.STEP_VERSION,
            state=station.initial_state(settings),
            clock=parts.clock,
            entropy=random_entropy,
            snapshots=_snapshots(settings),
        )
        sealer = Sealer(settings.network.chain_id, parts.identity, None, None)
        if parts.cheat is not None:
            wrap_perform = parts.cheat.wrap
        super().__init__(
            runner=runner,
            broker=parts.broker,
            chain=make_worker(parts.chain, settings.network.chain_id, settings.network.settlement, runner),
            sealer=sealer,
            keeper=Keeper(parts.folder / f"station-{settings.station}", sealer),
            chain_id=settings.network.chain_id,
            identity=parts.identity.address,
            topics=(settings.inbox,),
            station=StationBody(
                contactor=dict(parts.connectors),
                meter=dict(parts.connectors),
                meter_signer=parts.meters,
                meter_serial={n: meter.serial for n, meter in enumerate(settings.meters, start=1)},
                station=settings.station,
                current_type=settings.current_type,
            ),
            wrap_perform=wrap_perform,
            admit=StationAdmission(lambda: runner.state),
        )
        self._story = StoryWriter(parts.folder, f"station:{settings.station}", parts.clock)
        self.observe(StationTeller(self._story))

    def start(self) -> None:
        """See Program.start; then presence on the connectors is watched."""
        super().start()
        self._present = {number: item.present for number, item in self.state.connectors.items()}
        self.watch("presence", self._look_at_connectors, PRESENCE_PERIOD_S)

    def stop(self) -> None:
        """Power off, offer cleared, then as Program.stop."""
        for number, hardware in self._parts.connectors.items():
            try:
                hardware.deenergise()
            except DeviceError as error:
                LOG.warning("connector %d: %s", number, error)
        self._broker.publish(self._parts.settings.offer_topic, b"", retain=True)
        super().stop()
        self._story.close()
        if self._parts.key_lock is not None:
            self._parts.key_lock.release()

    def _look_at_connectors(self) -> None:
        for number, hardware in self._parts.connectors.items():
            present = hardware.present()
            if present is not self._present.get(number):
                self._present[number] = present
                self.runner.post(PresenceChanged(self.runner.instant(), number, present, random_entropy()))
