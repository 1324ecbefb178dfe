"""What a machine wants done: its outputs, in the imperative. The runner performs them after the journal's fsync.

An effect with an outcome names the fact that brings it. Performing one twice is harmless: a signature is
deterministic, a message has an id, a transaction has its bytes.
"""

from typing import Any

from msgspec import Struct

from depai_robot.charging.message import Draft


class _Effect(Struct, frozen=True, tag=True):
    pass


class SealMessage(_Effect):
    """Sign a draft with the identity key -> MessageSealed."""

    draft: Draft


class SealPayment(_Effect):
    """Sign a voucher (and a deposit) with the voucher (and payer) key, put it into the payment, seal -> MessageSealed.

    Attributes:
        draft: whose body is a Payment with empty signatures (65 zero bytes) in their places.
        voucher_digest: 32 bytes for the voucher key.
        deposit_digest: 32 bytes for the payer key, or None.
    """

    draft: Draft
    voucher_digest: bytes
    deposit_digest: bytes | None = None


class Publish(_Effect):
    """Send sealed bytes.

    Attributes:
        topic: full MQTT topic.
        token: the JWS; empty with ``retain`` clears the topic.
        retain: for offers.
    """

    topic: str
    token: str
    retain: bool = False


class SetTimer(_Effect):
    """Replace the timer of that name -> TimerFired. Session clock; not durable, set again on Restarted."""

    name: str
    at_session_ns: int


class ClearTimer(_Effect):
    """Forget the timer of that name."""

    name: str


class ReadHead(_Effect):
    """-> ChainHeadObserved or ChainFailed(purpose)."""

    purpose: str


class ReadChannel(_Effect):
    """-> ChannelObserved or ChainFailed(purpose)."""

    purpose: str
    channel_id: bytes
    confirmations: int


class PrepareTransaction(_Effect):
    """Simulate and sign, send nothing -> TransactionSigned or ChainFailed.

    Attributes:
        purpose: names the wish, the same after a restart.
        call: one of the calls below.
    """

    purpose: str
    call: "Call"


class BroadcastTransaction(_Effect):
    """Send the bytes and watch them -> TransactionConfirmed or ChainFailed."""

    purpose: str
    raw: bytes
    tx_hash: bytes
    nonce: int
    confirmations: int


class KeepReceipt(_Effect):
    """Write the receipt's canonical JSON, signed with the identity key, where people find it."""

    session: str
    receipt: str


class KeepEvidence(_Effect):
    """Keep what convicts the other side, beside the receipt.

    Attributes:
        session: whose.
        reason: which rule was broken.
        tokens: the signed messages and statements.
    """

    session: str
    reason: str
    tokens: tuple[str, ...]


# --- Robot only -------------------------------------------------------------------------------------------


class StartDocking(_Effect):
    """-> DockingEnded. Pose of the dock in the map frame: x mm, y mm, yaw mrad."""

    dock: str
    marker_id: int
    pose_mm_mrad: tuple[int, int, int]


class CancelDocking(_Effect):
    """Stop where you are -> DockingEnded(docked=False)."""


class WatchProbe(_Effect):
    """Report the nonce on the pads -> ProbeRead."""


class StartUndocking(_Effect):
    """-> UndockingEnded. Only with no current."""


class CallForHelp(_Effect):
    """Nobody sells: tell the operator."""

    message: str


class ShutDownSafely(_Effect):
    """Before deep discharge."""

    message: str


# --- Station only -----------------------------------------------------------------------------------------


class WriteProbe(_Effect):
    """Put the nonce on the connector."""

    connector: int
    nonce: bytes


class Energise(_Effect):
    """Let power flow until the register reads ``until_energy_milliwh``: the supply ramps down before and opens.

    Saying it again with a higher limit goes on without a gap.
    """

    connector: int
    power_max_w: int
    until_energy_milliwh: int


class Deenergise(_Effect):
    """Ramp to zero, then open."""

    connector: int


class ReadMeter(_Effect):
    """-> StatementMade.

    Attributes:
        connector: number.
        session: written into the statement (OCMF ID).
        transaction: OCMF TX letter: B begin, C running, E end.
    """

    connector: int
    session: str
    transaction: str


# --- calls on the settlement contract (mirrors of ports, in plain values) ----------------------------------


class ChannelJson(Struct, frozen=True):
    """payment.channel.ChannelConfig field by field, in bytes and integers."""

    payer: bytes
    payer_authorizer: bytes
    receiver: bytes
    receiver_authorizer: bytes
    token: bytes
    withdraw_delay_s: int
    salt: bytes


class DepositWish(_Effect):
    """Relay a payer's deposit."""

    channel: ChannelJson
    amount_atomic: int
    valid_after_s: int
    valid_before_s: int
    salt: bytes
    signature: bytes


class ClaimWish(_Effect):
    """Record what was earned on one channel."""

    channel: ChannelJson
    ceiling_atomic: int
    signature: bytes
    total_claimed_atomic: int


class SettleWish(_Effect):
    """Be paid."""

    receiver: bytes
    token: bytes


class RefundWish(_Effect):
    """Give the rest back."""

    channel: ChannelJson
    amount_atomic: int


class InitiateWithdrawWish(_Effect):
    """Take the rest back without the station."""

    channel: ChannelJson
    amount_atomic: int


class FinalizeWithdrawWish(_Effect):
    """After the delay."""

    channel: ChannelJson


Call = DepositWish | ClaimWish | SettleWish | RefundWish | InitiateWithdrawWish | FinalizeWithdrawWish

Effect = (
    SealMessage
    | SealPayment
    | Publish
    | SetTimer
    | ClearTimer
    | ReadHead
    | ReadChannel
    | PrepareTransaction
    | BroadcastTransaction
    | KeepReceipt
    | KeepEvidence
    | StartDocking
    | CancelDocking
    | WatchProbe
    | StartUndocking
    | CallForHelp
    | ShutDownSafely
    | WriteProbe
    | Energise
    | Deenergise
    | ReadMeter
)

Effects = tuple[Any, ...]
"""Any number of :data:`Effect`, in order."""
