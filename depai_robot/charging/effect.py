"""What a machine wants done: its outputs, in the imperative, performed after the journal's fsync.

An effect with an outcome names the fact that brings it. Performing one twice is harmless: a signature is
deterministic, a message has an id, a transaction has its bytes.
"""

from typing import Any

from msgspec import Struct

from depai_robot.charging.message import Draft


class _Effect(Struct, frozen=True, tag=True):
    pass


class SealMessage(_Effect, frozen=True):
    """Sign a draft with the identity key -> MessageSealed."""

    draft: Draft


class SealPayment(_Effect, frozen=True):
    """Sign a voucher (and a deposit), put both into the payment, seal it -> MessageSealed.

    Attributes:
        draft: whose body is a Payment with empty signatures (65 zero bytes) in their places.
        voucher_digest: 32 bytes for the voucher key.
        deposit_digest: 32 bytes for the payer key, or None.
    """

    draft: Draft
    voucher_digest: bytes
    deposit_digest: bytes | None = None


class SealTransfer(_Effect, frozen=True):
    """Sign a transfer with the payer's key, put it into the payment, seal it -> MessageSealed.

    Attributes:
        draft: whose body is a BlockPayment with an empty signature (65 zero bytes) in its place.
        transfer_digest: 32 bytes for the payer key.
    """

    draft: Draft
    transfer_digest: bytes


class Publish(_Effect, frozen=True):
    """Send sealed bytes.

    Attributes:
        topic: full MQTT topic.
        token: the JWS; empty with ``retain`` clears the topic.
        retain: for offers.
    """

    topic: str
    token: str
    retain: bool = False


class SetTimer(_Effect, frozen=True):
    """Replace the timer of that name -> TimerFired. Session clock; not durable, set again on Restarted."""

    name: str
    at_session_ns: int


class ClearTimer(_Effect, frozen=True):
    """Forget the timer of that name."""

    name: str


class ReadHead(_Effect, frozen=True):
    """-> ChainHeadObserved or ChainFailed(purpose)."""

    purpose: str


class ReadChannel(_Effect, frozen=True):
    """-> ChannelObserved or ChainFailed(purpose)."""

    purpose: str
    channel_id: bytes
    confirmations: int


class ReadFunds(_Effect, frozen=True):
    """-> FundsObserved or ChainFailed(purpose). What a holder has of the token, 20 bytes."""

    purpose: str
    holder: bytes


class ReadAuthorization(_Effect, frozen=True):
    """-> AuthorizationObserved or ChainFailed(purpose). Whether an EIP-3009 nonce (32 bytes) of a payer was used."""

    purpose: str
    payer: bytes
    nonce: bytes


class PrepareTransaction(_Effect, frozen=True):
    """Simulate and sign, send nothing -> TransactionSigned or ChainFailed.

    Attributes:
        purpose: names the wish, the same after a restart.
        call: one of the calls below.
    """

    purpose: str
    call: "Call"


class BroadcastTransaction(_Effect, frozen=True):
    """Send the bytes and watch them -> TransactionConfirmed or ChainFailed."""

    purpose: str
    raw: bytes
    tx_hash: bytes
    nonce: int
    confirmations: int


class ReadWithdrawals(_Effect, frozen=True):
    """-> WithdrawalsObserved or ChainFailed(purpose). From which of the channels somebody wants to withdraw.

    Attributes:
        purpose: names the wish.
        channel_ids: 32 bytes each.
        after_block: the ``until_block`` of the last answer, 0 for the first: one question then serves all channels.
    """

    purpose: str
    channel_ids: tuple[bytes, ...]
    after_block: int


class FindBadRows(_Effect, frozen=True):
    """A batch of claims was refused: ask the chain which of its rows are to blame -> BadRowsFound or ChainFailed."""

    purpose: str
    rows: "tuple[ClaimWish, ...]"


class KeepReceipt(_Effect, frozen=True):
    """Write the receipt's canonical JSON, signed with the identity key, where people find it."""

    session: str
    receipt: str


class KeepEvidence(_Effect, frozen=True):
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


class StartDocking(_Effect, frozen=True):
    """-> DockingEnded. Pose of the dock in the map frame: x mm, y mm, yaw mrad."""

    dock: str
    marker_id: int
    pose_mm_mrad: tuple[int, int, int]


class CancelDocking(_Effect, frozen=True):
    """Stop where you are -> DockingEnded(docked=False)."""


class WatchProbe(_Effect, frozen=True):
    """Report the nonce on the pads -> ProbeRead."""


class ReadBattery(_Effect, frozen=True):
    """Measure now -> BatteryObserved."""


class StartUndocking(_Effect, frozen=True):
    """-> UndockingEnded. Only with no current."""


class CallForHelp(_Effect, frozen=True):
    """Nobody sells: tell the operator."""

    message: str


class ShutDownSafely(_Effect, frozen=True):
    """Before deep discharge."""

    message: str


# --- Station only -----------------------------------------------------------------------------------------


class WriteProbe(_Effect, frozen=True):
    """Put the nonce on the connector."""

    connector: int
    nonce: bytes


class Energise(_Effect, frozen=True):
    """Let power flow until the register reads ``until_energy_milliwh``; the supply ramps down before.

    Saying it again with a higher limit goes on without a gap.
    """

    connector: int
    power_max_w: int
    until_energy_milliwh: int


class Deenergise(_Effect, frozen=True):
    """Ramp to zero, then open."""

    connector: int


class ReadMeter(_Effect, frozen=True):
    """-> StatementMade.

    Attributes:
        connector: number.
        session: written into the statement (OCMF ID).
        transaction: OCMF TX letter: B begin, C running, E end.
        pagination: number of the statement (OCMF PG); counted by the machine, so it survives a restart.
    """

    connector: int
    session: str
    transaction: str
    pagination: int = 0


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


class DepositWish(_Effect, frozen=True):
    """Relay a payer's deposit."""

    channel: ChannelJson
    amount_atomic: int
    valid_after_s: int
    valid_before_s: int
    salt: bytes
    signature: bytes


class ClaimWish(_Effect, frozen=True):
    """Record what was earned on one channel."""

    channel: ChannelJson
    ceiling_atomic: int
    signature: bytes
    total_claimed_atomic: int


class ClaimBatchWish(_Effect, frozen=True):
    """Record what was earned on several channels in one transaction."""

    rows: tuple[ClaimWish, ...]


class SettleWish(_Effect, frozen=True):
    """Be paid."""

    receiver: bytes
    token: bytes


class RefundWish(_Effect, frozen=True):
    """Give the rest back."""

    channel: ChannelJson
    amount_atomic: int


class TransferWish(_Effect, frozen=True):
    """Send a payer's signed transfer: scheme exact."""

    payer: bytes
    receiver: bytes
    amount_atomic: int
    valid_after_s: int
    valid_before_s: int
    nonce: bytes
    signature: bytes


class InitiateWithdrawWish(_Effect, frozen=True):
    """Take the rest back without the station."""

    channel: ChannelJson
    amount_atomic: int


class FinalizeWithdrawWish(_Effect, frozen=True):
    """After the delay."""

    channel: ChannelJson


Call = (
    DepositWish
    | ClaimWish
    | ClaimBatchWish
    | SettleWish
    | RefundWish
    | TransferWish
    | InitiateWithdrawWish
    | FinalizeWithdrawWish
)

Effect = (
    SealMessage
    | SealPayment
    | SealTransfer
    | Publish
    | SetTimer
    | ClearTimer
    | ReadHead
    | ReadChannel
    | ReadFunds
    | ReadAuthorization
    | ReadWithdrawals
    | PrepareTransaction
    | BroadcastTransaction
    | FindBadRows
    | KeepReceipt
    | KeepEvidence
    | StartDocking
    | CancelDocking
    | WatchProbe
    | ReadBattery
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
