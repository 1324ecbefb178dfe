"""Does the effects of both machines on the ports; outcomes go back as facts.

Signing and publishing are quick and happen on the runner's thread. The chain blocks, so it has a thread of its own
(:mod:`chain_worker`). What a role does not have (a robot has no contactor, a station no docking) is a bug when asked.
"""

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from depai_robot.app.chain_worker import ChainWorker, Now, Post
from depai_robot.app.sealing import Keeper, Sealer
from depai_robot.charging import effect as wish
from depai_robot.charging import ocmf
from depai_robot.charging.fact import (
    BatteryObserved,
    BatteryRead,
    ContactorFailed,
    MessageSealed,
    ProbeRead,
    StatementMade,
)
from depai_robot.ports import Battery, BatteryReading, Broker, Connector, Contactor, Meter, Signer
from depai_robot.values.error import BugError, DeviceError

LOG = logging.getLogger(__name__)

PROBE_POLL_S = 0.01


def reading_to_fact(reading: BatteryReading) -> BatteryRead:
    """The port's reading as the integers that are journalled."""
    return BatteryRead(
        stamp_ns=reading.stamp_ns,
        voltage_mv=round(reading.voltage_v * 1000),
        current_ma=round(reading.current_a * 1000),
        state_of_charge_permille=min(1000, max(0, round(reading.state_of_charge * 1000))),
        pads_energy_milliwh=reading.pads_energy_milliwh,
        pads_power_mw=round(reading.pads_power_w * 1000),
    )


class DockingLink(Protocol):
    """How the wallet asks for motion; outcomes are posted as DockingEnded and UndockingEnded by its owner."""

    def start_docking(self, dock: str, marker_id: int, pose_mm_mrad: tuple[int, int, int]) -> None:
        """Drive to that dock and make contact."""

    def cancel_docking(self) -> None:
        """Stop where the robot is."""

    def start_undocking(self) -> None:
        """Leave the dock."""


@dataclass(slots=True)
class RobotBody:
    """What only a robot has."""

    battery: Battery
    connector: Connector
    docking: DockingLink
    call_for_help: Callable[[str], None]
    shut_down: Callable[[str], None]


@dataclass(slots=True)
class StationBody:
    """What only a station has, by connector number.

    Attributes:
        contactor, meter: of each connector.
        meter_signer: of each connector's meter.
        meter_serial: of each connector's meter.
        station: its id, for statements.
        current_type: AC or DC.
    """

    contactor: dict[int, Contactor]
    meter: dict[int, Meter]
    meter_signer: dict[int, Signer]
    meter_serial: dict[int, str]
    station: str
    current_type: str


class Performer:
    """See runner.Perform."""

    def __init__(
        self,
        *,
        sealer: Sealer,
        broker: Broker,
        chain: ChainWorker,
        keeper: Keeper,
        post: Post,
        now: Now,
        robot: RobotBody | None = None,
        station: StationBody | None = None,
    ) -> None:
        self._sealer, self._broker, self._chain, self._keeper = sealer, broker, chain, keeper
        self._post, self._now = post, now
        self._robot, self._station = robot, station
        self._probe: threading.Thread | None = None
        self._closing = threading.Event()

    def close(self) -> None:
        """Ends its threads."""
        self._closing.set()
        self._chain.stop()

    def __call__(self, effect: Any) -> None:
        """Does one effect."""
        if isinstance(effect, wish.SealMessage):
            self._post(MessageSealed(self._now(), effect.draft.id, self._sealer.seal(effect.draft)))
        elif isinstance(effect, wish.SealPayment):
            self._post(MessageSealed(self._now(), effect.draft.id, self._sealer.seal_payment(effect)))
        elif isinstance(effect, wish.SealTransfer):
            self._post(MessageSealed(self._now(), effect.draft.id, self._sealer.seal_transfer(effect)))
        elif isinstance(effect, wish.Publish):
            self._broker.publish(effect.topic, effect.token.encode(), retain=effect.retain)
        elif isinstance(
            effect,
            wish.ReadHead
            | wish.ReadChannel
            | wish.ReadFunds
            | wish.ReadAuthorization
            | wish.ReadWithdrawals
            | wish.PrepareTransaction
            | wish.BroadcastTransaction
            | wish.FindBadRows,
        ):
            self._chain.ask(effect)
        elif isinstance(effect, wish.KeepReceipt):
            self._keeper.keep_receipt(effect)
        elif isinstance(effect, wish.KeepEvidence):
            self._keeper.keep_evidence(effect)
        elif self._robot is not None:
            self._do_robot(self._robot, effect)
        elif self._station is not None:
            self._do_station(self._station, effect)
        else:
            raise BugError(f"nobody does {type(effect).__name__}")

    # --- robot ---------------------------------------------------------------------------------------------

    def _do_robot(self, body: RobotBody, effect: Any) -> None:
        if isinstance(effect, wish.StartDocking):
            body.docking.start_docking(effect.dock, effect.marker_id, effect.pose_mm_mrad)
        elif isinstance(effect, wish.CancelDocking):
            body.docking.cancel_docking()
        elif isinstance(effect, wish.StartUndocking):
            body.docking.start_undocking()
        elif isinstance(effect, wish.WatchProbe):
            self._watch_probe(body.connector)
        elif isinstance(effect, wish.ReadBattery):
            self._post(BatteryObserved(self._now(), self.read_battery()))
        elif isinstance(effect, wish.CallForHelp):
            body.call_for_help(effect.message)
        elif isinstance(effect, wish.ShutDownSafely):
            body.shut_down(effect.message)
        else:
            raise BugError(f"a robot does not do {type(effect).__name__}")

    def read_battery(self) -> BatteryRead | None:
        """The robot's own reading now; None when the meter does not answer (then nothing is authorised)."""
        if self._robot is None:
            return None
        try:
            return reading_to_fact(self._robot.battery.read())
        except DeviceError as error:
            LOG.warning("battery: %s", error)
            return None

    def _watch_probe(self, connector: Connector) -> None:
        if self._probe is not None and self._probe.is_alive():
            return

        def watch() -> None:
            while not self._closing.wait(PROBE_POLL_S):
                try:
                    nonce = connector.read_probe()
                except DeviceError:
                    continue
                if nonce is not None:
                    with contextlib.suppress(BugError):  # the runner has stopped
                        self._post(ProbeRead(self._now(), nonce))
                    return

        self._probe = threading.Thread(target=watch, name="probe", daemon=True)
        self._probe.start()

    # --- station -------------------------------------------------------------------------------------------

    def _do_station(self, body: StationBody, effect: Any) -> None:
        try:
            if isinstance(effect, wish.WriteProbe):
                body.contactor[effect.connector].write_probe(effect.nonce)
            elif isinstance(effect, wish.Energise):
                body.contactor[effect.connector].energise(
                    float(effect.power_max_w), effect.until_energy_milliwh
                )
            elif isinstance(effect, wish.Deenergise):
                body.contactor[effect.connector].deenergise()
            elif isinstance(effect, wish.ReadMeter):
                self._read_meter(body, effect)
            else:
                raise BugError(f"a station does not do {type(effect).__name__}")
        except DeviceError as error:
            LOG.warning("connector %s: %s", effect.connector, error)
            self._post(ContactorFailed(self._now(), effect.connector, str(error)[:500]))

    def _read_meter(self, body: StationBody, effect: wish.ReadMeter) -> None:
        reading = body.meter[effect.connector].read()
        now = self._now()
        payload = ocmf.encode_payload(
            ocmf.Statement(
                gateway=body.station,
                serial=body.meter_serial[effect.connector],
                pagination=effect.pagination,
                session=effect.session,
                transaction=effect.transaction,
                energy_milliwh=reading.energy_milliwh,
                current_type=body.current_type,
                time=ocmf.format_time(now.wall_s),
            )
        )
        signature = body.meter_signer[effect.connector].sign(ocmf.digest_payload(payload))
        self._post(
            StatementMade(
                now,
                effect.connector,
                ocmf.assemble(payload, signature),
                reading.energy_milliwh,
                round(reading.power_w * 1000),
            )
        )
