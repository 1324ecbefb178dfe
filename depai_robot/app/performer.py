"""Does the effects of both machines on the ports; outcomes go back as facts.

Signing and publishing are quick and happen on the runner's thread. The chain blocks, so it has a thread of its own
(:class:`ChainWorker`). What a role does not have (a robot has no contactor, a station no docking) is a bug when asked.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import msgspec

from depai_robot.charging import effect as wish
from depai_robot.charging import envelope, ocmf
from depai_robot.charging.fact import (
    BatteryObserved,
    BatteryRead,
    ChainFailed,
    ChainHeadObserved,
    ChannelObserved,
    ContactorFailed,
    Fact,
    Instant,
    MessageSealed,
    ProbeRead,
    StatementMade,
    TransactionConfirmed,
    TransactionSigned,
)
from depai_robot.charging.message import Draft, Payment
from depai_robot.payment.channel import ChannelConfig, DepositAuthorization, Voucher
from depai_robot.payment.eip712 import channel_id
from depai_robot.payment.x402 import DepositPayload, bytes_to_text
from depai_robot.ports import (
    Battery,
    BatteryReading,
    Broker,
    Chain,
    ChainCall,
    ClaimCall,
    ClaimRow,
    Connector,
    Contactor,
    DepositCall,
    FinalizeWithdrawCall,
    InitiateWithdrawCall,
    Meter,
    RefundCall,
    SettleCall,
    SignedTransaction,
    Signer,
    TransactionStatus,
)
from depai_robot.values.error import BugError, ChainError, DepaiError, DeviceError, RetryableChainError
from depai_robot.values.identity import Address, ChannelId

LOG = logging.getLogger(__name__)

Post = Callable[[Fact], None]
Now = Callable[[], Instant]

CHAIN_POLL_S = 0.1
CHAIN_TRIES = 3
PROBE_POLL_S = 0.05


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


class Sealer:
    """Signs messages with the identity key, and payments with the voucher and payer keys besides."""

    def __init__(self, chain_id: int, identity: Signer, voucher: Signer | None, payer: Signer | None) -> None:
        self._header = envelope.encode_header(identity.public_key, chain_id)
        self._identity, self._voucher, self._payer = identity, voucher, payer

    def seal(self, draft: Draft) -> str:
        """The token of a draft."""
        signing_input = envelope.encode_signing_input(draft, self._header)
        return envelope.assemble(signing_input, self._identity.sign(envelope.signing_digest(signing_input)))

    def seal_payment(self, payment: wish.SealPayment) -> str:
        """The token of a payment, with its voucher (and deposit) signed.

        Raises:
            BugError: there is no key for it, or the draft is no payment.
        """
        body = payment.draft.body
        if not isinstance(body, Payment) or self._voucher is None:
            raise BugError("a payment is sealed by whoever holds a voucher key")
        inner = body.payload.payload
        signature = bytes_to_text(self._voucher.sign(payment.voucher_digest))
        signed: Any = msgspec.structs.replace(
            inner, voucher=msgspec.structs.replace(inner.voucher, signature=signature)
        )
        if payment.deposit_digest is not None:
            signed = self._with_deposit(signed, payment.deposit_digest)
        payload = msgspec.structs.replace(body.payload, payload=signed)
        return self.seal(msgspec.structs.replace(payment.draft, body=Payment(payload)))

    def _with_deposit(self, payload: Any, digest: bytes) -> DepositPayload:
        if not isinstance(payload, DepositPayload) or self._payer is None:
            raise BugError("a deposit is sealed by whoever holds the payer key")
        authorization = payload.deposit.authorization
        inner = msgspec.structs.replace(
            authorization.erc3009_authorization, signature=bytes_to_text(self._payer.sign(digest))
        )
        deposit = msgspec.structs.replace(
            payload.deposit,
            authorization=msgspec.structs.replace(authorization, erc3009_authorization=inner),
        )
        return msgspec.structs.replace(payload, deposit=deposit)


class Keeper:
    """Writes receipts and evidence where people find them; each file whole or not at all."""

    def __init__(self, folder: Path, sealer: Sealer) -> None:
        self._folder = folder
        self._sealer = sealer

    def keep_receipt(self, receipt: wish.KeepReceipt) -> None:
        """``receipt-<session>.json`` with the canonical JSON."""
        self._write(f"receipt-{receipt.session}.json", receipt.receipt.encode() + b"\n")

    def keep_evidence(self, evidence: wish.KeepEvidence) -> None:
        """``evidence-<session>-<reason>.json``: the rule and the signed messages."""
        body = {"session": evidence.session, "reason": evidence.reason, "tokens": list(evidence.tokens)}
        word = "".join(c if c.isalnum() else "-" for c in evidence.reason)[:40]
        self._write(
            f"evidence-{evidence.session}-{word}.json",
            msgspec.json.format(msgspec.json.encode(body), indent=2),
        )

    def _write(self, name: str, data: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f".{name}.part"
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._folder / name)


def _config(channel: wish.ChannelJson) -> ChannelConfig:
    return ChannelConfig(
        Address(channel.payer),
        Address(channel.payer_authorizer),
        Address(channel.receiver),
        Address(channel.receiver_authorizer),
        Address(channel.token),
        channel.withdraw_delay_s,
        channel.salt,
    )


def wish_to_call(call: Any, domain: bytes) -> ChainCall:
    """The port's call of a machine's wish."""
    if isinstance(call, wish.DepositWish):
        authorization = DepositAuthorization(
            call.amount_atomic, call.valid_after_s, call.valid_before_s, call.salt, call.signature
        )
        return DepositCall(_config(call.channel), authorization)
    if isinstance(call, wish.ClaimWish):
        config = _config(call.channel)
        voucher = Voucher(channel_id(config, domain), call.ceiling_atomic, call.signature)
        return ClaimCall((ClaimRow(config, voucher, call.total_claimed_atomic),))
    if isinstance(call, wish.SettleWish):
        return SettleCall(Address(call.receiver), Address(call.token))
    if isinstance(call, wish.RefundWish):
        return RefundCall(_config(call.channel), call.amount_atomic)
    if isinstance(call, wish.InitiateWithdrawWish):
        return InitiateWithdrawCall(_config(call.channel), call.amount_atomic)
    if isinstance(call, wish.FinalizeWithdrawWish):
        return FinalizeWithdrawCall(_config(call.channel))
    raise BugError(f"{type(call).__name__} is no call on the settlement contract")


@dataclass(frozen=True, slots=True)
class _Watched:
    effect: wish.BroadcastTransaction
    sent_s: float


class ChainWorker:
    """One thread that talks to the chain in the order asked, and watches what was broadcast."""

    def __init__(self, chain: Chain, domain: bytes, post: Post, now: Now) -> None:
        self._chain = chain
        self._domain = domain
        self._post, self._now = post, now
        self._queue: queue.Queue[Any] = queue.Queue()
        self._watched: dict[str, _Watched] = {}
        self._thread = threading.Thread(target=self._run, name="chain", daemon=True)
        self._thread.start()

    def ask(self, effect: Any) -> None:
        """Queues a chain effect."""
        self._queue.put(effect)

    def stop(self) -> None:
        """Ends the thread after what it is at."""
        self._queue.put(None)
        self._thread.join(10.0)

    def _run(self) -> None:
        while True:
            try:
                effect = self._queue.get(timeout=CHAIN_POLL_S if self._watched else None)
            except queue.Empty:
                self._look()
                continue
            if effect is None:
                return
            self._attempt(effect)

    def _attempt(self, effect: Any) -> None:
        for number in range(1, CHAIN_TRIES + 1):
            try:
                self._do(effect)
            except RetryableChainError as error:
                if number == CHAIN_TRIES:
                    self._fail(effect.purpose, error, final=False)
                    return
                time.sleep(CHAIN_POLL_S * number)
            except ChainError as error:
                self._fail(effect.purpose, error, final=True)
                return
            else:
                return

    def _fail(self, purpose: str, error: DepaiError, *, final: bool) -> None:
        LOG.warning("%s: %s", purpose, error)
        self._post(ChainFailed(self._now(), purpose, final, str(error)[:500]))

    def _do(self, effect: Any) -> None:
        if isinstance(effect, wish.ReadHead):
            head = self._chain.head()
            self._post(ChainHeadObserved(self._now(), head.number, head.timestamp_s))
        elif isinstance(effect, wish.ReadChannel):
            state = self._chain.channel(ChannelId(effect.channel_id), effect.confirmations)
            self._post(
                ChannelObserved(
                    self._now(),
                    effect.channel_id,
                    state.balance_atomic,
                    state.total_claimed_atomic,
                    state.withdraw_requested_at_s,
                    state.refund_nonce,
                    state.block_number,
                )
            )
        elif isinstance(effect, wish.PrepareTransaction):
            signed = self._chain.prepare(wish_to_call(effect.call, self._domain))
            self._post(
                TransactionSigned(self._now(), effect.purpose, signed.raw, signed.tx_hash, signed.nonce)
            )
        elif isinstance(effect, wish.BroadcastTransaction):
            self._chain.broadcast(SignedTransaction(effect.raw, effect.tx_hash, effect.nonce))
            self._watched[effect.purpose] = _Watched(effect, time.monotonic())
        else:
            raise BugError(f"{type(effect).__name__} is no effect of the chain")

    def _look(self) -> None:
        for purpose, watched in list(self._watched.items()):
            effect = watched.effect
            try:
                outcome = self._chain.outcome(effect.tx_hash, effect.confirmations)
            except ChainError as error:
                LOG.info("%s: %s", purpose, error)
                continue
            if outcome.status is TransactionStatus.CONFIRMED:
                del self._watched[purpose]
                events = tuple(
                    (event.name, bytes(event.channel_id or b""), event.amount_atomic)
                    for event in outcome.events
                )
                self._post(
                    TransactionConfirmed(
                        self._now(), purpose, effect.tx_hash, outcome.block_number, outcome.gas_used, events
                    )
                )
            elif outcome.status is TransactionStatus.REVERTED:
                del self._watched[purpose]
                reason = BugError(
                    f"transaction 0x{effect.tx_hash.hex()} reverted in block {outcome.block_number}"
                )
                self._fail(purpose, reason, final=True)
            elif outcome.status is TransactionStatus.UNKNOWN and time.monotonic() - watched.sent_s > 1.0:
                # A reorganisation drops transactions from the pool: the same bytes again.
                self._watched[purpose] = replace(watched, sent_s=time.monotonic())
                self._queue.put(effect)


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
    pagination: int = 0


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
        elif isinstance(effect, wish.Publish):
            self._broker.publish(effect.topic, effect.token.encode(), retain=effect.retain)
        elif isinstance(
            effect, wish.ReadHead | wish.ReadChannel | wish.PrepareTransaction | wish.BroadcastTransaction
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
        body.pagination += 1
        payload = ocmf.encode_payload(
            ocmf.Statement(
                gateway=body.station,
                serial=body.meter_serial[effect.connector],
                pagination=body.pagination,
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
