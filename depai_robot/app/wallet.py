"""The robot's wallet: the Robot machine on its journal, keys, broker and chain. No ROS here.

Whoever hosts it (the wallet node, a test) gives the clock, the battery, the connector and a way to dock, and says when
docking or undocking has ended. It offers intents (charge, stop), never a transfer or a signature.
"""

import logging
import queue
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from depai_robot.app.admission import Admit, RobotAdmission
from depai_robot.app.channel import take_close_intents
from depai_robot.app.config import (
    ChargePart,
    WalletFile,
    addresses,
    read_network,
    read_wallet,
    resolve,
)
from depai_robot.app.fleet_guard import NAME as RESTRICTIONS
from depai_robot.app.fleet_guard import (
    FleetGuard,
    GuardedAdmission,
    answer_topic,
    command_topic,
    read_grants,
)
from depai_robot.app.journal_share import JournalShare, journal_topic
from depai_robot.app.part import (
    KeyLock,
    open_broker,
    open_chain,
    open_locked_journal,
    open_signer,
    random_entropy,
)
from depai_robot.app.performer import DockingLink, RobotBody
from depai_robot.app.policy_epoch import note_seen
from depai_robot.app.program import Program, WrapPerform, make_worker, state_codec
from depai_robot.app.runner import Runner, Snapshots
from depai_robot.app.sealing import Keeper, Sealer
from depai_robot.app.story import StoryWriter
from depai_robot.app.telling import WalletTeller
from depai_robot.charging import robot
from depai_robot.charging.fact import ChannelCloseRequested, ChargeRequested, DockingEnded, UndockingEnded
from depai_robot.charging.robot_state import RobotState
from depai_robot.charging.setting import Network, PresignedDeposit, RobotSettings
from depai_robot.charging.terms import channel_json
from depai_robot.charging.transition import RobotPhase
from depai_robot.payment.policy import SpendPolicy, parse_policy
from depai_robot.payment.presigned import DepositPlace, parse_presigned
from depai_robot.ports import Battery, Broker, Chain, Clock, Connector, Journal, Signer
from depai_robot.values.error import ConfigError, DeviceTimeoutError
from depai_robot.values.identity import Address, ChannelId, require_id

LOG = logging.getLogger(__name__)

BATTERY_PERIOD_S = 0.25
INTENTS_PERIOD_S = 1.0
ORDERS_PERIOD_S = 0.1
JOURNAL = "wallet.sqlite"
ORDERS_MAX = 64
"""Operators' commands that wait; of more, the newest are dropped."""
FIRST_OFFERS_S = 10.0
"""A robot that just started waits so long for retained offers before it asks."""
_FREE = (RobotPhase.IDLE.value, RobotPhase.SETTLED.value)


def _log_help(message: str) -> None:
    LOG.warning("HELP: %s", message)


def _log_shutdown(message: str) -> None:
    LOG.critical("SHUT DOWN: %s", message)


def _nowhere() -> tuple[float, float]:
    return 0.0, 0.0


@dataclass(slots=True)
class WalletParts:
    """Everything that a wallet is made of.

    Attributes:
        settings: the owner's, policy checked.
        identity, voucher, payer: its keys; no payer's in delegated mode.
        journal, broker, chain, clock, battery, connector: ports.
        docking: how it asks for motion.
        folder: for receipts, evidence and story.
        charge: when it buys by itself.
        position_m: where the robot is in the map frame.
        call_for_help, shut_down: what to do then.
        key_lock: held as long as the wallet runs.
        guard: what operators have ordered; None where nobody may.
    """

    settings: RobotSettings
    identity: Signer
    voucher: Signer
    payer: Signer | None
    journal: Journal
    broker: Broker
    chain: Chain
    clock: Clock
    battery: Battery
    connector: Connector
    docking: DockingLink
    folder: Path
    charge: ChargePart = field(default_factory=lambda: ChargePart(below_permille=0))
    position_m: Callable[[], tuple[float, float]] = _nowhere
    call_for_help: Callable[[str], None] = _log_help
    shut_down: Callable[[str], None] = _log_shutdown
    key_lock: KeyLock | None = None
    guard: FleetGuard | None = None


def open_wallet(
    path: Path,
    *,
    clock: Clock,
    battery: Battery,
    connector: Connector,
    docking: DockingLink,
) -> WalletParts:
    """The parts of a configured wallet; keys are opened, the journal is locked, nothing is connected yet.

    Args:
        path: of wallet.yaml.
        clock: session time (ROS) and wall time.
        battery: whose readings authorise money.
        connector: the robot's pads.
        docking: how it asks for motion.

    Raises:
        ConfigError: the file, a key, the policy or the network is not as it must be, or a later policy was seen.
        JournalError: another process holds journal or key, or the journal is damaged.
    """
    file = read_wallet(path)
    network = read_network(file.chain, path)
    chain_id = network.chain_id
    identity = open_signer("keys.identity", file.keys.identity, path, chain_id)
    voucher = open_signer("keys.voucher", file.keys.voucher, path, chain_id)
    part = file.keys.payer
    payer = None if part is None else open_signer("keys.payer", part, path, chain_id)
    settings = _settings(
        file, path, network=network.network(), identity=identity, voucher=voucher, payer=payer
    )
    folder = resolve(path, file.folder)
    # A withdrawal's gas is paid by the payer; in delegated mode by the voucher key, if its owner put some there.
    chain = open_chain(network, payer or voucher, path, folder / "outbox.sqlite")
    broker = open_broker(file.broker, path, f"robot-{file.robot}")
    lock, journal = open_locked_journal(folder / JOURNAL, voucher.address)
    try:
        note_seen(folder, settings.policy, chain_id)
        guard = _open_guard(file, path, settings, clock)
    except ConfigError as error:
        journal.close()
        lock.release()
        raise ConfigError(f"{path}: {error}") from error
    return WalletParts(
        settings=settings,
        identity=identity,
        voucher=voucher,
        payer=payer,
        journal=journal,
        broker=broker,
        chain=chain,
        clock=clock,
        battery=battery,
        connector=connector,
        docking=docking,
        folder=folder,
        charge=file.charge,
        key_lock=lock,
        guard=guard,
    )


def _open_guard(file: WalletFile, path: Path, settings: RobotSettings, clock: Clock) -> FleetGuard | None:
    """Also without grants when something was ordered before: taking the file away must not lift a pause."""
    folder, chain_id = resolve(path, file.folder), settings.network.chain_id
    (owner,) = addresses([file.owner])
    if file.grants is None and not (folder / RESTRICTIONS).exists():
        return None
    grants = (
        ()
        if file.grants is None
        else read_grants(resolve(path, file.grants), owner=owner, robot=file.robot, chain_id=chain_id)
    )
    return FleetGuard(
        folder,
        robot=file.robot,
        chain_id=chain_id,
        owner=owner,
        grants=grants,
        policy=settings.policy,
        wall_s=clock.wall_s,
    )


def _settings(
    file: WalletFile, path: Path, *, network: Network, identity: Signer, voucher: Signer, payer: Signer | None
) -> RobotSettings:
    (owner,) = addresses([file.owner])
    policy_path = resolve(path, file.policy)
    try:
        data = policy_path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: policy {policy_path}: {error.strerror}") from error
    treasury = payer.address if payer is not None else _treasury(file, path)
    values = {
        "robot": file.robot,
        "zone": file.zone,
        "identity": identity.address,
        "payer": treasury,
        "voucher_key": voucher.address,
        "network": network,
        "band": file.band,
        "stations": addresses(file.stations),
    }
    try:
        policy = parse_policy(
            data,
            chain_id=network.chain_id,
            owner=owner,
            robot=voucher.address,
        )
        presigned = () if payer is not None else _read_presigned(file, path, network, treasury, policy)
        values |= {"policy": policy, "delegated": payer is None, "presigned": presigned}
        return RobotSettings(**values, **file.settings)  # type: ignore[arg-type]
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _treasury(file: WalletFile, path: Path) -> Address:
    if file.payer is None or file.presigned is None:
        raise ConfigError(
            f"{path}: without keys.payer (delegated mode) the address of the payer and a file of presigned deposits"
            " are needed"
        )
    (treasury,) = addresses([file.payer])
    return treasury


def _read_presigned(
    file: WalletFile, path: Path, network: Network, treasury: Address, policy: SpendPolicy
) -> tuple[PresignedDeposit, ...]:
    """The treasury's deposits, each checked as if a stranger had sent the file."""
    presigned_path = resolve(path, file.presigned or "")
    try:
        data = presigned_path.read_bytes()
    except OSError as error:
        raise ConfigError(f"presigned {presigned_path}: {error.strerror}") from error
    place = DepositPlace(
        network.chain_id,
        Address(network.token),
        network.token_name,
        network.token_version,
        Address(network.settlement),
        Address(network.collector),
    )
    items = parse_presigned(data, place=place, payer=treasury, voucher_key=policy.robot, policy=policy)
    return tuple(
        PresignedDeposit(
            channel=channel_json(item.channel),
            amount_atomic=item.deposit.amount_atomic,
            valid_after_s=item.deposit.valid_after_s,
            valid_before_s=item.deposit.valid_before_s,
            salt=item.deposit.salt,
            signature=item.deposit.signature,
        )
        for item in items
    )


def _snapshots(settings: RobotSettings) -> Snapshots[RobotState]:
    def adopt(state: RobotState) -> RobotState:
        if settings.policy.epoch < state.settings.policy.epoch:
            raise ConfigError(
                f"policy has epoch {settings.policy.epoch}, one of epoch {state.settings.policy.epoch} was in force:"
                " the owner has revoked this one"
            )
        return msgspec.structs.replace(state, settings=settings)

    encode, decode = state_codec(RobotState)
    return Snapshots(encode, decode, robot.is_at_rest, adopt)


def _admission(guard: FleetGuard | None, state: Callable[[], RobotState]) -> Admit:
    inner = RobotAdmission(state)
    return inner if guard is None else GuardedAdmission(inner, guard, state)


class WalletProgram(Program[RobotState]):
    """Runs a wallet.

    Args:
        parts: see there.
        wrap_perform: for simulations and tests.

    Attributes:
        buys: whether new sessions may begin; what is open goes on and is settled in any case.
    """

    def __init__(self, parts: WalletParts, *, wrap_perform: WrapPerform | None = None) -> None:
        settings = parts.settings
        self._parts = parts
        self._requested_ns: int | None = None
        self.buys = True
        self._started_s = 0.0
        self._orders: queue.Queue[bytes] = queue.Queue(ORDERS_MAX)
        self._share: JournalShare | None = None
        runner: Runner[RobotState] = Runner(
            journal=parts.journal,
            step=robot.step,
            step_version=robot.STEP_VERSION,
            state=robot.initial_state(settings),
            clock=parts.clock,
            entropy=random_entropy,
            snapshots=_snapshots(settings),
        )
        sealer = Sealer(settings.network.chain_id, parts.identity, parts.voucher, parts.payer)
        self._seal = sealer.seal_bytes
        super().__init__(
            runner=runner,
            broker=parts.broker,
            chain=make_worker(parts.chain, settings.network.chain_id, settings.network.settlement, runner),
            sealer=sealer,
            keeper=Keeper(parts.folder, sealer),
            chain_id=settings.network.chain_id,
            identity=parts.identity.address,
            topics=(settings.inbox, f"depai/v1/{settings.zone}/stations/+/offer"),
            robot=RobotBody(
                battery=parts.battery,
                connector=parts.connector,
                docking=parts.docking,
                call_for_help=parts.call_for_help,
                shut_down=parts.shut_down,
            ),
            wrap_perform=wrap_perform,
            admit=_admission(parts.guard, lambda: runner.state),
        )
        self._story = StoryWriter(parts.folder, "wallet", parts.clock)
        self.observe(WalletTeller(self._story))

    def start(self) -> None:
        """See Program.start; then the battery is watched."""
        super().start()
        self._started_s = time.monotonic()
        self.watch("battery", self._look_at_battery, BATTERY_PERIOD_S)
        self.watch("intents", self._take_intents, INTENTS_PERIOD_S)
        if self._parts.guard is not None:
            topic = journal_topic(self._parts.settings.robot)
            self._share = JournalShare(
                self._parts.folder / JOURNAL, self._seal, lambda part: self._broker.publish(topic, part)
            )
            self._parts.guard.tell_journal = self._share.ask
            self.watch("journal", self._share.look, ORDERS_PERIOD_S)
            self._broker.subscribe(command_topic(self._parts.settings.robot), self._keep_order)
            self.watch("orders", self._take_orders, ORDERS_PERIOD_S)

    def stop(self) -> None:
        """See Program.stop."""
        if self._share is not None:
            self._share.close()
        super().stop()
        self._story.close()
        if self._parts.key_lock is not None:
            self._parts.key_lock.release()

    @property
    def phase(self) -> str:
        """Of the session in the foreground."""
        return self.state.phase

    # --- intents -------------------------------------------------------------------------------------------

    def close_channel(self, channel_id: ChannelId, reason: str = "the owner wants the rest back") -> str:
        """Gets the rest of a kept channel back; returns the id of the correspondence about it."""
        session = f"close-{channel_id.hex()[:12]}-{secrets.token_hex(4)}"
        self.runner.post(ChannelCloseRequested(self.runner.instant(), session, bytes(channel_id), reason))
        return session

    def _take_intents(self) -> None:
        for channel_id in take_close_intents(self._parts.folder):
            self.close_channel(channel_id)

    def _keep_order(self, topic: str, payload: bytes) -> None:
        """On the broker's thread: hands over."""
        del topic
        try:
            self._orders.put_nowait(payload)
        except queue.Full:
            LOG.warning("an operator's command was dropped: %d wait", ORDERS_MAX)

    def _take_orders(self) -> None:
        guard = self._parts.guard
        while guard is not None and not self._orders.empty():
            answer = guard.take(self._orders.get_nowait())
            self._broker.publish(answer_topic(self._parts.settings.robot), answer)
            if guard.refusal() and self.phase not in _FREE:
                # What is open ends in order: what was signed is settled, nothing more is signed.
                self.stop_charging("Remote")

    def _refuse_or_limit(self, price_atomic: int, cost_atomic: int) -> tuple[int, int]:
        guard = self._parts.guard
        if guard is None:
            return price_atomic, cost_atomic
        spent_atomic = self.state.ledger.day_atomic(self._parts.clock.wall_s())
        return guard.bound(price_atomic, cost_atomic, spent_today_atomic=spent_atomic)

    def request_charge(
        self,
        energy_milliwh: int | None = None,
        session: str | None = None,
        *,
        price_max_atomic_per_kwh: int = 0,
        cost_max_atomic: int = 0,
        station: str = "",
    ) -> str:
        """Asks for energy; returns the session's id. Nothing happens while another session is open.

        Args:
            energy_milliwh: at the pads; None for the configured amount.
            session: a fresh id; None makes one.
            price_max_atomic_per_kwh: limit of this task, beside the policy's; 0 for none.
            cost_max_atomic: likewise, fees included.
            station: the only one that may be asked; empty for any.

        Raises:
            ConfigError: the wallet is not running, or buys nothing now.
            DeviceTimeoutError: the robot's own meter does not answer.
        """
        if not self.is_running:
            raise ConfigError("the wallet is not running: it connects, or folds its journal, or has ended")
        if not self.buys:
            raise ConfigError("the wallet is not active: it buys nothing now")
        price_max_atomic_per_kwh, cost_max_atomic = self._refuse_or_limit(
            price_max_atomic_per_kwh, cost_max_atomic
        )
        reading = self.performer.read_battery()
        if reading is None:
            raise DeviceTimeoutError("the battery does not answer: no energy is bought without an own meter")
        if session is None:
            session = f"{self._parts.settings.robot[:24]}-{int(time.time()):x}-{secrets.token_hex(4)}"
        x_m, y_m = self._parts.position_m()
        self.runner.post(
            ChargeRequested(
                self.runner.instant(),
                require_id("session", session),
                random_entropy(),
                self._parts.charge.energy_milliwh if energy_milliwh is None else energy_milliwh,
                round(x_m * 1000),
                round(y_m * 1000),
                reading,
                price_max_atomic_per_kwh,
                cost_max_atomic,
                station,
            )
        )
        return session

    def docking_ended(self, dock: str, *, docked: bool, reason: str = "") -> None:
        """The docking part is done with what was asked."""
        reading = self.performer.read_battery()
        self.runner.post(DockingEnded(self.runner.instant(), docked, dock, reason[:512], reading))

    def undocking_ended(self, *, undocked: bool, reason: str = "") -> None:
        """The robot has left the dock, or could not."""
        self.runner.post(UndockingEnded(self.runner.instant(), undocked, reason[:512]))

    # --- by itself -----------------------------------------------------------------------------------------

    def _look_at_battery(self) -> None:
        reading = self._parts.battery.read()
        self._story.tell(
            "battery",
            soc=round(reading.state_of_charge, 5),
            voltage_v=round(reading.voltage_v, 3),
            current_a=round(reading.current_a, 3),
        )
        charge = self._parts.charge
        if not self.buys:
            return
        if reading.state_of_charge * 1000 >= charge.below_permille or self.phase not in _FREE:
            return
        now_ns = self._parts.clock.session_ns()
        if self._requested_ns is None:
            if not self.state.offers and time.monotonic() - self._started_s < FIRST_OFFERS_S:
                return
        elif now_ns - self._requested_ns < charge.retry_s * 1_000_000_000:
            return
        self._requested_ns = now_ns
        self.request_charge()
