"""What happened: the inputs of both machines, in the past tense. Each is one row of the journal.

Facts are written by callbacks and adapters, never by a machine. They carry all that is not deterministic:
times, random bytes, readings, chain state.
"""

from typing import Any

import msgspec
from msgspec import Struct


class Instant(Struct, frozen=True, array_like=True):
    """When a fact entered the queue.

    Attributes:
        session_ns: ROS time; session timers use it.
        wall_s: Unix time; expiries use it.
    """

    session_ns: int
    wall_s: int


class _Fact(Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    at: Instant


class Restarted(_Fact, frozen=True):
    """The program came up and has folded its journal (also the very first start).

    Attributes:
        entropy: 32 fresh random bytes.
    """

    entropy: bytes


class TimerFired(_Fact, frozen=True):
    """A timer set by the machine ran out."""

    name: str


class MessageReceived(_Fact, frozen=True):
    """A message whose signature, address, version, size and expiry were checked before it came in.

    Attributes:
        sender: 20 bytes, the signer.
        token: the JWS as it came: evidence, and the source of the body on replay.
        reading: the robot's own meter at that moment; None at a station.
    """

    sender: bytes
    token: str
    reading: "BatteryRead | None" = None


class MessageSealed(_Fact, frozen=True):
    """A draft was signed; these exact bytes are sent, now and after a restart.

    Attributes:
        id: of the draft.
        token: the JWS.
    """

    id: str
    token: str


class BatteryRead(Struct, frozen=True, forbid_unknown_fields=True):
    """The robot's own measurement (ports.BatteryReading as integers).

    Attributes:
        stamp_ns: session clock.
        voltage_mv: at the battery.
        current_ma: into the battery.
        state_of_charge_permille: 0 to 1000.
        pads_energy_milliwh: taken in at the pads since start-up.
        pads_power_mw: at the pads now.
    """

    stamp_ns: int
    voltage_mv: int
    current_ma: int
    state_of_charge_permille: int
    pads_energy_milliwh: int
    pads_power_mw: int


class ChainHeadObserved(_Fact, frozen=True):
    """The newest block. Nothing is signed while its time and the wall clock disagree."""

    number: int
    timestamp_s: int


class ChannelObserved(_Fact, frozen=True):
    """The channel on chain, at the confirmations asked for.

    Attributes:
        channel_id: 32 bytes.
        balance_atomic, total_claimed_atomic, withdraw_requested_at_s, refund_nonce, block_number:
            as in payment.channel.ChannelState.
    """

    channel_id: bytes
    balance_atomic: int
    total_claimed_atomic: int
    withdraw_requested_at_s: int
    refund_nonce: int
    block_number: int


class FundsObserved(_Fact, frozen=True):
    """What the holder has of the token now.

    Attributes:
        purpose: of the effect that asked.
        balance_atomic: at the head.
    """

    purpose: str
    balance_atomic: int


class AuthorizationObserved(_Fact, frozen=True):
    """Whether a signed transfer was sent by somebody.

    Attributes:
        purpose: of the effect that asked.
        used: its nonce is used.
        block_number: of the block that says so.
    """

    purpose: str
    used: bool
    block_number: int


class WithdrawalsObserved(_Fact, frozen=True):
    """Channels from which somebody wants to withdraw: read them, and claim what is due.

    Attributes:
        purpose: of the effect that asked.
        until_block: what was asked for up to this block is in here.
        channel_ids: 32 bytes each; some may have been finalised or cancelled since, none is missing.
    """

    purpose: str
    until_block: int
    channel_ids: tuple[bytes, ...]


class ChainFailed(_Fact, frozen=True):
    """A chain effect came to nothing.

    Attributes:
        purpose: of the effect.
        final: True when the chain said no; False when nobody answered (unknown is not failed).
        message: what was seen.
    """

    purpose: str
    final: bool
    message: str


class TransactionSigned(_Fact, frozen=True):
    """Signed bytes that were not sent yet.

    Attributes:
        purpose: of the effect that asked, e.g. ``<session>:deposit``.
        raw: the transaction.
        tx_hash: 32 bytes.
        nonce: of the sender.
    """

    purpose: str
    raw: bytes
    tx_hash: bytes
    nonce: int


class TransactionConfirmed(_Fact, frozen=True):
    """A transaction is deep enough, and its events say what it did.

    Attributes:
        purpose: as above.
        tx_hash: 32 bytes.
        block_number: where.
        gas_used: by it.
        events: (name, channel id or empty, amount) of each event of the settlement contract.
    """

    purpose: str
    tx_hash: bytes
    block_number: int
    gas_used: int
    events: tuple[tuple[str, bytes, int], ...]


class BadRowsFound(_Fact, frozen=True):
    """The rows that make a batch of claims fail.

    Attributes:
        purpose: of the effect that asked.
        channel_ids: 32 bytes each; empty when every row would pass now.
        reason: the contract's, for people.
    """

    purpose: str
    channel_ids: tuple[bytes, ...]
    reason: str


class StopRequested(_Fact, frozen=True):
    """An operator, a limit or a safety part wants the session to end."""

    reason: str


class JournalAccepted(_Fact, frozen=True):
    """Rows were lost, and a person has decided to go on from those that are left.

    What is open ends. A robot then only settles: what it signed in the lost rows is unknown, so it counts as all that
    its policy allows, until the owner signs a policy with a later epoch.

    Attributes:
        rows_kept: sound rows before this one.
        rows_lost: how many are known to be missing; -1 when nobody knows.
        policy_epoch: of the policy that may have been in force; -1 for a station.
        reason: what was found, for people.
    """

    rows_kept: int
    rows_lost: int
    policy_epoch: int
    reason: str


# --- Robot only -------------------------------------------------------------------------------------------


class ChargeRequested(_Fact, frozen=True):
    """The battery fell below its threshold, or a task asked for energy.

    Attributes:
        session: a fresh id for the session.
        salt: 32 fresh random bytes for the channel.
        energy_milliwh: wanted at the pads.
        x_mm, y_mm: where the robot is in the map frame.
        reading: of the battery.
        price_max_atomic_per_kwh, cost_max_atomic: limits of this task, beside the policy's; 0 for none.
        station: the only one that may be asked; empty for any.
    """

    session: str
    salt: bytes
    energy_milliwh: int
    x_mm: int
    y_mm: int
    reading: BatteryRead
    price_max_atomic_per_kwh: int = 0
    cost_max_atomic: int = 0
    station: str = ""


class ChannelCloseRequested(_Fact, frozen=True):
    """The owner wants the rest of a kept channel back.

    Attributes:
        session: a fresh id for the correspondence about it.
        channel_id: 32 bytes.
        reason: for people.
    """

    session: str
    channel_id: bytes
    reason: str


class DockingEnded(_Fact, frozen=True):
    """The docking part is done with what StartDocking asked.

    Attributes:
        docked: in contact.
        dock: which one.
        reason: why not, else empty.
        reading: of the battery at contact.
    """

    docked: bool
    dock: str
    reason: str
    reading: BatteryRead | None = None


class BatteryObserved(_Fact, frozen=True):
    """The answer to ReadBattery; None when the meter does not answer."""

    reading: BatteryRead | None


class ProbeRead(_Fact, frozen=True):
    """A nonce was read on the pads. 32 bytes."""

    nonce: bytes


class UndockingEnded(_Fact, frozen=True):
    """The robot has left the dock, or could not."""

    undocked: bool
    reason: str


# --- Station only -----------------------------------------------------------------------------------------


class PresenceChanged(_Fact, frozen=True):
    """Something sits on the connector, or left it. ``nonce`` is 32 fresh random bytes for the probe."""

    connector: int
    present: bool
    nonce: bytes


class StatementMade(_Fact, frozen=True):
    """The meter signed its register.

    Attributes:
        connector: number.
        statement: OCMF text.
        energy_milliwh: the register.
        power_mw: now.
    """

    connector: int
    statement: str
    energy_milliwh: int
    power_mw: int


class ContactorFailed(_Fact, frozen=True):
    """The contactor or supply does not do what it was told."""

    connector: int
    message: str


Fact = (
    Restarted
    | TimerFired
    | MessageReceived
    | MessageSealed
    | ChainHeadObserved
    | ChannelObserved
    | FundsObserved
    | AuthorizationObserved
    | WithdrawalsObserved
    | ChainFailed
    | TransactionSigned
    | TransactionConfirmed
    | BadRowsFound
    | StopRequested
    | JournalAccepted
    | ChargeRequested
    | ChannelCloseRequested
    | DockingEnded
    | BatteryObserved
    | ProbeRead
    | UndockingEnded
    | PresenceChanged
    | StatementMade
    | ContactorFailed
)

_DECODER: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Fact)


def encode_fact(fact: Fact) -> bytes:
    """One row of the journal."""
    return msgspec.json.encode(fact)


def decode_fact(data: bytes) -> Fact:
    """The fact of a journal's row. Raises msgspec.ValidationError or DecodeError when it is not one."""
    fact: Fact = _DECODER.decode(data)
    return fact
