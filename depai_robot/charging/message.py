"""The bodies of every message on the wire, and the envelope around them.

Decoded strictly: unknown types, fields and versions are refused. Signing and checking of envelopes is in
``envelope``; what the messages mean is in ``robot`` and ``station``.
"""

from enum import Enum
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from depai_robot.payment.exact import ExactPaymentPayload
from depai_robot.payment.x402 import PaymentPayload, PaymentRequired, SettleResponse

WIRE_VERSION = 1
MESSAGE_BYTES_MAX = 64 * 1024
CHARGING_EXTENSION = "depai-charging"
"""Key of :class:`ChargingTerms` in the ``extensions`` of a quote's PaymentRequired."""

Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,95}\Z")]
Atomic = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""Money in atomic units. 2^63 - 1 is nine million million USDC: more is refused."""
MilliWh = Annotated[int, Meta(ge=0, le=2**53)]
UnixSeconds = Annotated[int, Meta(ge=0, le=2**40)]
Milliseconds = Annotated[int, Meta(ge=1, le=3_600_000)]
AddressHex = Annotated[str, Meta(pattern=r"^0x[0-9a-fA-F]{40}\Z")]
Bytes32Hex = Annotated[str, Meta(pattern=r"^0x[0-9a-f]{64}\Z")]
Text = Annotated[str, Meta(max_length=512)]


class _Body(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class MeterIdentity(_Body, frozen=True):
    """Which meter measures, and the key it signs with.

    Attributes:
        serial: on its plate.
        key: ``did:key`` or ``did:pkh`` of its signing key.
        accuracy_permille: the most it may be off, +-.
    """

    serial: Id
    key: Annotated[str, Meta(max_length=256)]
    accuracy_permille: Annotated[int, Meta(ge=0, le=100)]


class ChargingTerms(_Body, frozen=True):
    """The charging extension of a quote. Integers only.

    Attributes:
        station: its id.
        connector: its number at the station.
        session: the session's id, chosen by the robot.
        price_atomic_per_kwh: of the energy at the station's meter.
        start_fee_atomic: owed once the deposit is confirmed; pays the station's gas.
        idle_fee_atomic_per_min: owed per full minute on the connector after the end of charging.
        tranche_milliwh: the most energy that is authorised ahead of what both meters confirm.
        power_max_w: the supply's limit.
        stop_time_ms: from ceiling reached to no current.
        current_type: AC or DC.
        meter: that measures.
        report_interval_ms: between two meter statements.
        voucher_timeout_ms: how long a voucher may take before the station stops.
        confirmations: blocks that a deposit needs, its own included.
        hold_until_s: the connector is held until then.
        block_milliwh: the station sells blocks of so much energy too, each paid by one transfer (scheme exact).
        channel: the quote is for a robot that pays from this channel of an earlier session, without a deposit.
    """

    station: Id
    connector: Annotated[int, Meta(ge=1, le=64)]
    session: Id
    price_atomic_per_kwh: Atomic
    start_fee_atomic: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    idle_fee_atomic_per_min: Atomic
    tranche_milliwh: Annotated[int, Meta(ge=1, le=10**9)]
    power_max_w: Annotated[int, Meta(ge=1, le=1_000_000)]
    stop_time_ms: Milliseconds
    current_type: Annotated[str, Meta(pattern=r"^(AC|DC)\Z")]
    meter: MeterIdentity
    report_interval_ms: Milliseconds
    voucher_timeout_ms: Milliseconds
    confirmations: Annotated[int, Meta(ge=1, le=1000)]
    hold_until_s: UnixSeconds
    channel: Bytes32Hex | None = None
    block_milliwh: Annotated[int, Meta(ge=1, le=10**9)] | None = None


class Offer(_Body, frozen=True):
    """What a station says of itself: its signed, registered identity. Retained; its will clears it.

    Attributes:
        station: its id.
        name: for people.
        dock: id of its dock in the map.
        marker_id: of the tag on the dock; a hint, never a proof.
        pose_mm_mrad: dock pose in the map frame: x mm, y mm, yaw mrad; x points into the dock.
        power_max_w: of the best connector.
        price_atomic_per_kwh: indicative; the quote binds.
        start_fee_atomic: indicative.
        available: whether a connector is free.
        network: CAIP-2, ``eip155:<chain id>``.
        asset: the token.
        receiver: who is paid.
        receiver_authorizer: who signs claims and refunds.
        meter: of the connector.
        reuse_fee_atomic: indicative start fee for a robot that pays from the channel of an earlier session;
            None when the station keeps no channels.
    """

    station: Id
    name: Text
    dock: Id
    marker_id: Annotated[int, Meta(ge=0, le=586)]
    pose_mm_mrad: tuple[int, int, int]
    power_max_w: Annotated[int, Meta(ge=1, le=1_000_000)]
    price_atomic_per_kwh: Atomic
    start_fee_atomic: Atomic
    available: bool
    network: Annotated[str, Meta(pattern=r"^eip155:[1-9][0-9]{0,17}\Z")]
    asset: AddressHex
    receiver: AddressHex
    receiver_authorizer: AddressHex
    meter: MeterIdentity
    reuse_fee_atomic: Annotated[int, Meta(ge=1, le=2**63 - 1)] | None = None


class QuoteRequest(_Body, frozen=True):
    """A robot asks what an energy would cost.

    Attributes:
        robot: its id; answers go to its inbox.
        energy_milliwh: wanted, at the station's meter.
        power_max_w: the robot can take.
        current_type: AC or DC.
        payer_authorizer: whose signature will be on vouchers.
        channel: of an earlier session, that the robot would pay from.
    """

    robot: Id
    energy_milliwh: MilliWh
    power_max_w: Annotated[int, Meta(ge=1, le=1_000_000)]
    current_type: Annotated[str, Meta(pattern=r"^(AC|DC)\Z")]
    payer_authorizer: AddressHex
    channel: Bytes32Hex | None = None


class Quote(_Body, frozen=True):
    """A binding quote: x402's PaymentRequired with ChargingTerms in its extensions."""

    payment_required: PaymentRequired


class QuoteCounter(_Body, frozen=True):
    """The robot asks for a better price; two rounds at most."""

    price_atomic_per_kwh: Atomic
    round: Annotated[int, Meta(ge=1, le=2)]


class QuoteReject(_Body, frozen=True):
    """The station does not quote.

    Attributes:
        reason: ``occupied``, ``out-of-service``, ``not-served``, ``price``, ``power``.
        detail: for people.
    """

    reason: Id
    detail: Text = ""


class Payment(_Body, frozen=True):
    """An x402 PaymentPayload, unmodified: deposit, voucher or refund request."""

    payload: PaymentPayload


class BlockPayment(_Body, frozen=True):
    """An x402 PaymentPayload of scheme exact, unmodified; on the wire its type is ``payment``, too."""

    payload: ExactPaymentPayload


class PaymentResult(_Body, frozen=True):
    """The answer to a payment.

    Attributes:
        answers: id of the payment message.
        settle: the SettleResponse.
        required: corrective PaymentRequired, when the payment was refused for its amount.
    """

    answers: Id
    settle: SettleResponse
    required: PaymentRequired | None = None


class EventType(str, Enum):
    """OCPP 2.1 TransactionEvent types."""

    STARTED = "Started"
    UPDATED = "Updated"
    ENDED = "Ended"


class SessionEvent(_Body, frozen=True):
    """OCPP TransactionEvent names; either side sends it.

    Attributes:
        event_type: Started, Updated or Ended.
        seq_no: rises by one per event of its sender in the session.
        trigger_reason: OCPP word, e.g. ``CablePluggedIn``, ``Authorized``, ``MeterValuePeriodic``.
        charging_state: OCPP word.
        statement: OCMF text of the meter, from the station.
        probe: nonce that the robot read on its pads, from the robot.
        stopped_reason: OCPP word, when ended.
    """

    event_type: EventType
    seq_no: Annotated[int, Meta(ge=0, le=2**31)]
    trigger_reason: Annotated[str, Meta(max_length=40)]
    charging_state: Annotated[str, Meta(max_length=20)]
    statement: Annotated[str, Meta(max_length=8192)] | None = None
    probe: Bytes32Hex | None = None
    stopped_reason: Annotated[str, Meta(max_length=40)] | None = None


class NeedVoucher(_Body, frozen=True):
    """The station asks for the next voucher: its statement, and fresh requirements (the last may shrink).

    Attributes:
        payment_required: amount is the tranche's price; ``extra.channelState`` says what is charged so far.
        statement: OCMF text of the meter.
    """

    payment_required: PaymentRequired
    statement: Annotated[str, Meta(max_length=8192)]


class SessionStop(_Body, frozen=True):
    """Either side wants the current to end.

    Attributes:
        reason: OCPP stoppedReason word.
        detail: for people.
    """

    reason: Annotated[str, Meta(max_length=40)]
    detail: Text = ""


class ReceiptMessage(_Body, frozen=True):
    """A receipt in its canonical JSON (payment.receipt)."""

    receipt: Annotated[str, Meta(max_length=32768)]


Body = (
    Offer
    | QuoteRequest
    | Quote
    | QuoteCounter
    | QuoteReject
    | Payment
    | BlockPayment
    | PaymentResult
    | SessionEvent
    | NeedVoucher
    | SessionStop
    | ReceiptMessage
)

BODY_BY_TYPE: dict[str, type[Any]] = {
    "offer": Offer,
    "quote.request": QuoteRequest,
    "quote": Quote,
    "quote.counter": QuoteCounter,
    "quote.reject": QuoteReject,
    "payment": Payment,
    "payment.result": PaymentResult,
    "session.event": SessionEvent,
    "need-voucher": NeedVoucher,
    "session.stop": SessionStop,
    "receipt": ReceiptMessage,
}
TYPE_BY_BODY = {body: name for name, body in BODY_BY_TYPE.items()} | {BlockPayment: "payment"}


class _AcceptedJson(Struct, frozen=True):
    scheme: str


class _PayloadJson(Struct, frozen=True):
    accepted: _AcceptedJson


class PaymentScheme(Struct, frozen=True):
    """Only as much of a payment as says which scheme it is of; everything else is left to its own strict reader."""

    payload: _PayloadJson


class Draft(Struct, frozen=True, forbid_unknown_fields=True):
    """A message before it is signed; also what is inside once it was checked.

    Attributes:
        id: unique for its sender until it expires.
        session: the session's id, or ``-`` outside any.
        seq: rises by one per message of its sender in the session.
        ts: wall clock of the sender, Unix seconds.
        exp: not to be accepted after this.
        to: did:pkh of the addressee, or ``*`` for offers.
        body: one of :data:`Body`; its type's name travels as ``type``.
    """

    id: str
    session: str
    seq: int
    ts: int
    exp: int
    to: str
    body: Any


class EnvelopeJson(Struct, frozen=True, forbid_unknown_fields=True):
    """The exact JSON of a JWS payload: ``{v, id, session, seq, ts, exp, to, type, body}``."""

    v: Annotated[int, Meta(ge=1, le=1)]
    id: Id
    session: Annotated[str, Meta(pattern=r"^(-|[A-Za-z0-9][A-Za-z0-9_.-]{0,63})\Z")]
    seq: Annotated[int, Meta(ge=0, le=2**53)]
    ts: UnixSeconds
    exp: UnixSeconds
    to: Annotated[str, Meta(max_length=128)]
    type: Annotated[str, Meta(max_length=32)]
    body: msgspec.Raw
