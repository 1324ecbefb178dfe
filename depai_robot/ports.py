"""Every door to the world, on one page.

An adapter (one library per file) or a simulation implements each of these; one contract suite per port
decides whether the simulation may be trusted. Nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    # A process that only sees or drives need not hold the libraries that payment stands on.
    from depai_robot.payment.channel import ChannelConfig, ChannelState, DepositAuthorization, Voucher
    from depai_robot.payment.exact import TransferAuthorization
    from depai_robot.perception.frame import Frame
    from depai_robot.perception.observation import DockKeypoints
    from depai_robot.values.geometry import DriveCommand, Pose2
    from depai_robot.values.identity import Address, ChannelId

# --- perception and motion -------------------------------------------------------------------------------


class Camera(Protocol):
    """Gives the newest image."""

    def read(self) -> Frame:
        """The newest frame; blocks for one frame period at most.

        Raises:
            DeviceError: absent, failed or timed out.
        """


class Detector(Protocol):
    """Finds the dock's keypoints in an image."""

    @property
    def model_sha256(self) -> str:
        """Hash of the model set in use."""

    def detect(self, frame: Frame) -> DockKeypoints | None:
        """Keypoints of the best candidate, or None when there is none.

        Raises:
            DeviceFailedError: the runtime failed or gave a value that is not finite.
        """


@dataclass(frozen=True, slots=True)
class Odometry:
    """Where the wheels say the robot is.

    Attributes:
        stamp_ns: ROS time.
        base_in_odom: drifts, never jumps.
        linear_mps: measured forward speed.
        angular_radps: measured turn rate.
    """

    stamp_ns: int
    base_in_odom: Pose2
    linear_mps: float
    angular_radps: float


class Base(Protocol):
    """A differential-drive base."""

    def send(self, command: DriveCommand) -> DriveCommand:
        """Returns the command actually applied after the limits; the base stops when none follows."""

    def odometry(self) -> Odometry:
        """The newest odometry."""


# --- energy -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BatteryReading:
    """What the robot measures of itself.

    Attributes:
        stamp_ns: session clock (ROS time).
        voltage_v: at the battery's terminals.
        current_a: into the battery; negative when discharging.
        state_of_charge: 0..1.
        pads_energy_milliwh: energy taken in at the charging pads since start-up, metered there; never falls.
        pads_power_w: power at the pads now.
    """

    stamp_ns: int
    voltage_v: float
    current_a: float
    state_of_charge: float
    pads_energy_milliwh: int
    pads_power_w: float


class Battery(Protocol):
    """The robot's battery and the meter at its charging pads. These readings authorise money."""

    def read(self) -> BatteryReading:
        """The newest reading.

        Raises:
            DeviceError: no fresh reading; nothing may be signed on an old one.
        """


@dataclass(frozen=True, slots=True)
class MeterReading:
    """What a station's meter says.

    Attributes:
        stamp_ns: session clock.
        energy_milliwh: cumulative register, never falls.
        power_w: now.
    """

    stamp_ns: int
    energy_milliwh: int
    power_w: float


class Meter(Protocol):
    """A station's energy meter on one connector."""

    def read(self) -> MeterReading:
        """The newest reading. Raises DeviceError when there is none."""


class Contactor(Protocol):
    """A station's switch and supply on one connector. Pads are dead until presence is proven."""

    def present(self) -> bool:
        """Presence, polarity and pre-charge checks all pass."""

    def write_probe(self, nonce: bytes) -> None:
        """Modulates a nonce onto the connector for whoever is on it to read."""

    def energise(self, power_max_w: float, until_energy_milliwh: int) -> None:
        """Closes if needed and lets power flow until the meter's register reads that, never beyond.

        The supply ramps to zero before it opens, so no contact breaks a current. Saying it again with a
        higher limit goes on without a gap; a lower one counts at once.

        Raises:
            DeviceFailedError: no presence, or the switch does not follow.
        """

    def deenergise(self) -> None:
        """Ramps to zero, then opens. Returns at once."""

    def open(self) -> None:
        """Opens at once, under load if need be: for emergencies."""


class Connector(Protocol):
    """The robot's side of the pads: reads the nonce that a station puts on its connector."""

    def in_contact(self) -> bool:
        """Whether the pads touch a dock's."""

    def read_probe(self) -> bytes | None:
        """The nonce on the pads now, or None without contact."""


# --- messages ---------------------------------------------------------------------------------------------

MessageCallback = Callable[[str, bytes], None]
"""(topic, payload); called on the broker's thread: put a fact on a queue and return."""


class Broker(Protocol):
    """An MQTT broker, at least once, any order between topics. Reconnects by itself."""

    def connect(self) -> None:
        """Blocks until connected. Raises DeviceError after the configured time."""

    def subscribe(self, topic: str, callback: MessageCallback) -> None:
        """Kept across reconnects. The callback sees every message of the topic filter, retained ones too."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Queues at QoS 1 and returns at once. An empty retained payload clears the topic."""

    def close(self) -> None:
        """Sends what is queued (for at most 2 s) and disconnects."""


# --- chain ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChainHead:
    """The newest block.

    Attributes:
        number: of the block.
        timestamp_s: chain time.
        block_hash: 32 bytes.
    """

    number: int
    timestamp_s: int
    block_hash: bytes


@dataclass(frozen=True, slots=True)
class DepositCall:
    """``deposit`` through the EIP-3009 collector; anybody may send it."""

    channel: ChannelConfig
    authorization: DepositAuthorization


@dataclass(frozen=True, slots=True)
class ClaimRow:
    """One channel's row of a claim: the voucher and what is claimed of it, cumulative."""

    channel: ChannelConfig
    voucher: Voucher
    total_claimed_atomic: int


@dataclass(frozen=True, slots=True)
class ClaimCall:
    """``claim`` by the receiver: records what it has earned; moves no token."""

    rows: tuple[ClaimRow, ...]


@dataclass(frozen=True, slots=True)
class SettleCall:
    """``settle``: pays the receiver all that is claimed and not yet paid."""

    receiver: Address
    token: Address


@dataclass(frozen=True, slots=True)
class RefundCall:
    """``refund`` by the receiver: gives the payer unclaimed escrow back."""

    channel: ChannelConfig
    amount_atomic: int


@dataclass(frozen=True, slots=True)
class InitiateWithdrawCall:
    """``initiateWithdraw`` by payer or payer authorizer, who pays the gas."""

    channel: ChannelConfig
    amount_atomic: int


@dataclass(frozen=True, slots=True)
class FinalizeWithdrawCall:
    """``finalizeWithdraw`` after the delay."""

    channel: ChannelConfig


@dataclass(frozen=True, slots=True)
class TransferCall:
    """``transferWithAuthorization`` on the token itself (x402 scheme exact); anybody may send it."""

    transfer: TransferAuthorization


@dataclass(frozen=True, slots=True)
class CancelCall:
    """``cancelAuthorization`` on the token: an EIP-3009 nonce that was not used never can be. Anybody may send it.

    Attributes:
        payer: who signed the authorization.
        nonce: of it, 32 bytes.
        signature: 65 bytes, by the payer, of :func:`payment.eip712.cancellation_digest`.
    """

    payer: Address
    nonce: bytes
    signature: bytes


ChainCall = (
    DepositCall
    | ClaimCall
    | SettleCall
    | RefundCall
    | TransferCall
    | CancelCall
    | InitiateWithdrawCall
    | FinalizeWithdrawCall
)


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """Bytes that may be broadcast any number of times.

    Attributes:
        raw: signed transaction.
        tx_hash: 32 bytes, known before it is sent.
        nonce: of the sending account.
    """

    raw: bytes
    tx_hash: bytes
    nonce: int


class TransactionStatus(Enum):
    """Unknown is not failed."""

    UNKNOWN = "unknown"
    PENDING = "pending"
    CONFIRMED = "confirmed"
    REVERTED = "reverted"


@dataclass(frozen=True, slots=True)
class ChainEvent:
    """An event of the settlement contract, or the token's AuthorizationUsed, decoded.

    Attributes:
        name: ``Deposited``, ``Claimed``, ``Settled``, ``Refunded``, ...
        channel_id: None for events that name no channel.
        amount_atomic: the event's amount (for Claimed, the channel's new total).
    """

    name: str
    channel_id: ChannelId | None
    amount_atomic: int


@dataclass(frozen=True, slots=True)
class TransactionOutcome:
    """What became of a transaction.

    Attributes:
        status: see :class:`TransactionStatus`.
        block_number: where it was mined, 0 when it was not.
        gas_used: 0 when it was not mined.
        events: decoded from the receipt's logs; a success is judged by these, never by the status flag alone.
        tx_hash: of what was mined; another than the one asked for when that was replaced with higher fees.
    """

    status: TransactionStatus
    block_number: int
    gas_used: int
    events: tuple[ChainEvent, ...]
    tx_hash: bytes = b""


@dataclass(frozen=True, slots=True)
class Withdrawals:
    """Channels from which somebody wants to withdraw.

    Attributes:
        until_block: what was asked for up to this block is in here.
        channel_ids: some may have been finalised or cancelled since; none is missing.
    """

    until_block: int
    channel_ids: frozenset[ChannelId]


class Chain(Protocol):
    """A settlement chain. Every call blocks for its RPC time-out at most; call from a worker.

    Every method raises RetryableChainError when no endpoint answers, FinalChainError when the chain says no.
    """

    def check_pins(self) -> None:
        """The chain id, the contracts' code hashes and the token's domain are the pinned ones.

        Raises:
            FinalChainError: one is not; nothing may be signed.
        """

    def head(self) -> ChainHead:
        """The newest block."""

    def channel(self, channel_id: ChannelId, confirmations: int) -> ChannelState:
        """The channel as of ``confirmations - 1`` blocks below the head (1 = the head itself)."""

    def token_balance(self, holder: Address) -> int:
        """Atomic units of the token at the head."""

    def authorization_used(self, payer: Address, nonce: bytes) -> bool:
        """Whether an EIP-3009 nonce has been spent or cancelled."""

    def withdrawals(self, channel_ids: Sequence[ChannelId], after_block: int) -> Withdrawals:
        """On which of these channels a withdrawal was asked for in the blocks after that one.

        One question for all of them while ``after_block`` is near; far from the head (0 is) each channel's own state
        is read. Blocks that a reorganisation may have replaced are looked at again.
        """

    def simulate(self, call: ChainCall) -> int:
        """Gas that the call would take on the newest state, sent by the adapter's account. Signs and sends nothing.

        Raises:
            FinalChainError: it would revert; the message names the contract's error.
        """

    def prepare(self, call: ChainCall) -> SignedTransaction:
        """Simulates the call, then signs it with the adapter's account and its next nonce. Sends nothing.

        Raises:
            FinalChainError: the simulation reverts; the message names the contract's error.
        """

    def broadcast(self, transaction: SignedTransaction) -> None:
        """Sends the bytes; saying it again is harmless."""

    def outcome(self, tx_hash: bytes, confirmations: int) -> TransactionOutcome:
        """What is known of a transaction now; CONFIRMED needs ``confirmations`` blocks, its own included.

        Replacements of the transaction count as it does.
        """

    def tend(self) -> None:
        """Looks after what was broadcast and is not mined: sends it again, or replaces it with higher fees.

        To be called every few seconds while anything is under way, and after a restart; also for a while after a
        confirmation, since a reorganisation may undo it.
        """


class Signer(Protocol):
    """Holds one secp256k1 key. Deterministic (RFC 6979): the same digest gives the same bytes."""

    @property
    def address(self) -> Address:
        """Of the key."""

    @property
    def public_key(self) -> bytes:
        """64 bytes x || y."""

    def sign(self, digest: bytes) -> bytes:
        """65 bytes r || s || v over a 32-byte digest, s low, v 27 or 28."""


# --- journal and time -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JournalRow:
    """One input, as it was journalled.

    Attributes:
        number: 1, 2, 3, ... without gaps.
        step_version: version of the step function that first folded it.
        data: the input, encoded.
    """

    number: int
    step_version: int
    data: bytes


class Journal(Protocol):
    """Append-only store of inputs. One process may hold it; what was appended survives a power cut."""

    def append(self, rows: Sequence[bytes], step_version: int) -> None:
        """Appends in one transaction and returns when it is on disk.

        Raises:
            JournalError: nothing was appended; sign nothing more.
        """

    @property
    def length(self) -> int:
        """How many rows there are."""

    def rows(self, after: int = 0) -> Iterator[JournalRow]:
        """Every row behind row ``after``, in order. Raises JournalError at the first that is torn or damaged."""

    def write_snapshot(self, data: bytes, step_version: int) -> None:
        """Keeps the state after the last row, to shorten a recovery."""

    def read_snapshot(self, step_version: int) -> tuple[int, bytes] | None:
        """(number of the row it stands after, state), or None when there is none of this step version."""

    def close(self) -> None:
        """Releases the lock."""


class Clock(Protocol):
    """Two times: session timers use ROS time, expiries use the wall."""

    def session_ns(self) -> int:
        """ROS time; stands still when a simulation is paused."""

    def wall_s(self) -> int:
        """Unix time in seconds."""
