"""The end of the money of a session at the station: claim exactly what is owed, give the rest back, be paid.

Each transaction is followed by a look at the channel, and what to do next follows from what is there: so a restart,
a failure or somebody else's transaction changes nothing but the time it takes.
"""

from msgspec import UNSET
from msgspec.structs import replace

from depai_robot.charging.effect import (
    ClaimWish,
    PrepareTransaction,
    RefundWish,
    SettleWish,
)
from depai_robot.charging.fact import ChainFailed, ChannelObserved, TransactionConfirmed
from depai_robot.charging.message import Payment as PaymentBody
from depai_robot.charging.message import PaymentResult, ReceiptMessage
from depai_robot.charging.station_block import is_waiting
from depai_robot.charging.station_charging import idle_fee_atomic, total_due_atomic
from depai_robot.charging.station_state import KeptChannel
from depai_robot.charging.station_turn import StationTurn
from depai_robot.charging.terms import (
    REASON_PREFIX,
    build_requirements,
    build_success,
    channel_config,
    read_channel,
)
from depai_robot.charging.transition import StationPhase
from depai_robot.payment.eip712 import settlement_domain
from depai_robot.payment.receipt import Receipt, Transactions, format_receipt
from depai_robot.payment.voucher import VoucherLimits, VoucherRefusedError, check_voucher
from depai_robot.payment.x402 import (
    EXACT,
    SCHEME,
    RefundPayload,
    VoucherPayload,
    json_to_voucher,
    parse_amount,
)
from depai_robot.values.error import DepaiError
from depai_robot.values.identity import address_to_hex

RECEIPT = "receipt"
"""Nobody asks for a receipt; kept like an answer, so that a restart says it again."""

DOUBTS_MAX = 8
"""Looks at a channel that seems emptied: with 2 s between the first two, four minutes in all."""

_ACTION = {
    StationPhase.CLAIMING.value: "claim",
    StationPhase.REFUNDING.value: "refund",
    StationPhase.PAYING.value: "settle",
}


def on_refund(turn: StationTurn, body: PaymentBody, message_id: str) -> None:
    """The robot asks for the rest with a voucher at exactly what is charged."""
    if turn.reply_again(message_id):
        return
    payload = body.payload.payload
    session = turn.session
    keep = isinstance(payload, VoucherPayload) and turn.at_phase(StationPhase.ENDED) and _may_keep(turn)
    if not isinstance(payload, RefundPayload) and not keep:
        turn.refuse_payment(message_id, REASON_PREFIX + "channel_busy")
        return
    if not turn.at_phase(StationPhase.ENDED):
        turn.ignore("refund request repeated")
        if not session.refund_message and turn.at_phase(StationPhase.CLAIMING, StationPhase.REFUNDING):
            turn.update(
                refund_message=message_id
            )  # settled without it already: it is answered with the refund
        return
    channel = turn.channel(charged=total_due_atomic(turn))
    try:
        if keep and body.payload.accepted != build_requirements(turn.settings, 0):
            _refuse("cumulative_amount_mismatch", "the last voucher of a session adds nothing")
        if read_channel(payload) != channel.config:
            _refuse("channel_id_mismatch", "another channel")
        voucher = json_to_voucher(payload.voucher)
        check_voucher(
            channel_config(channel.config),
            voucher,
            settlement_domain(turn.settings.network.chain_id, turn.settings.network.settlement),
            VoucherLimits(channel.balance, channel.claimed, charged_atomic=channel.charged, amount_atomic=0),
        )
    except VoucherRefusedError as error:
        turn.ignore(error.reason)
        turn.refuse_payment(message_id, error.reason, amount=0)
        return
    except DepaiError as error:
        turn.ignore(type(error).__name__)
        turn.refuse_payment(message_id, REASON_PREFIX + "payload_invalid")
        return
    if voucher.ceiling_atomic > channel.ceiling:
        turn.channel(ceiling=voucher.ceiling_atomic, signature=voucher.signature)
    turn.update(vouchers=session.vouchers + 1)
    if keep:
        _keep(turn, message_id)
        return
    turn.update(refund_message=message_id)
    if isinstance(payload, RefundPayload) and payload.amount is not UNSET:
        rest = channel.balance - channel.charged
        turn.update(rest_target=max(0, rest - parse_amount(payload.amount)))
    start_claiming(turn)


def _may_keep(turn: StationTurn) -> bool:
    """Whether the channel may stay open: the station wants that, and nobody is taking the rest out."""
    known = turn.session.paid_by().id.hex() in turn.state.channels
    room = known or len(turn.state.channels) < turn.settings.channels_max
    return bool(turn.settings.reuse_fee_atomic) and room and not turn.session.hurry


def _keep(turn: StationTurn, message_id: str) -> None:
    """The rest stays for the next session; what was earned is claimed later, with that of others."""
    session = turn.session
    channel = session.paid_by()
    settle = build_success(
        turn.settings.network, channel.config.payer, turn.channel_state(), charged_atomic=0
    )
    turn.tell(PaymentResult(message_id, settle), answers=message_id)
    turn.update(kept=True)
    turn.answer(*(item.id for item in session.letters if item.keep and item.answers != message_id))
    finish(turn)


def remember(turn: StationTurn) -> None:
    """The channel for the robot's next session: its totals never start again, so they are not forgotten."""
    session = turn.session
    channel = session.paid_by()
    key = channel.id.hex()
    kept = KeptChannel(channel, session.identity, session.terms, session.request, turn.at.wall_s)
    channels = {k: v for k, v in turn.state.channels.items() if k != key}
    room = len(channels) < turn.settings.channels_max
    if not room:
        empty = [k for k, v in channels.items() if not v.rest_atomic and not v.due_atomic]
        oldest = min(empty, key=lambda k: channels[k].kept_s, default=None)
        if oldest is not None:
            del channels[oldest]
            room = True
    if room:
        channels[key] = kept
    turn.state = replace(turn.state, channels=channels)


def _refuse(reason: str, detail: str) -> None:
    raise VoucherRefusedError(reason, detail)


def start_claiming(turn: StationTurn) -> None:
    """Asked for, or the robot is silent: settle now."""
    if turn.session.blocks_only:
        if is_waiting(turn):
            turn.set_timer("refund", turn.settings.chain_retry_ms)
            return
        turn.answer(*(item.id for item in turn.session.letters if item.keep))
        finish(turn)
        return
    channel = turn.session.paid_by()
    turn.channel(charged=min(max(channel.charged, total_due_atomic(turn)), channel.ceiling))
    turn.answer(*(item.id for item in turn.session.letters if item.keep))
    turn.clear_timers()
    turn.move(StationPhase.CLAIMING)
    turn.read_channel(turn.settings.confirmations)


def on_channel(turn: StationTurn, fact: ChannelObserved) -> None:
    """What is there decides what is next."""
    turn.end_reads(fact.channel_id)
    session = turn.session
    if any(turn.purpose(what) in session.jobs for what in _ACTION.values()):
        turn.ignore("channel read while a transaction is under way")
        return
    if _doubts(turn, fact):
        return
    channel = turn.channel(balance=fact.balance_atomic, claimed=fact.total_claimed_atomic)
    due = min(channel.charged, channel.balance)
    if due > channel.claimed:
        if not turn.at_phase(StationPhase.CLAIMING):
            # The chain took back what it had shown: a claim, or what emptied the channel. Then pay out once more.
            paid = session.transactions
            turn.update(transactions={k: v for k, v in paid.items() if k not in ("claim", "settle")})
        wish = ClaimWish(channel.config, channel.ceiling, channel.signature, due)
        turn.start(PrepareTransaction(turn.purpose("claim"), wish))
        return
    rest = channel.balance - channel.claimed - session.rest_target
    if rest > 0 and not turn.at_phase(StationPhase.PAYING):
        _go(turn, StationPhase.REFUNDING)
        wish_back = RefundWish(channel.config, rest)
        turn.start(PrepareTransaction(turn.purpose("refund"), wish_back))
        return
    if "settle" in session.transactions:
        finish(turn)
        return
    _go(turn, StationPhase.PAYING)
    _answer_refund(turn)
    turn.start(
        PrepareTransaction(turn.purpose("settle"), SettleWish(channel.config.receiver, channel.config.token))
    )


def _doubts(turn: StationTurn, fact: ChannelObserved) -> bool:
    """A channel that holds less than it must: a fork, or an endpoint that lags or lies. Look again before giving up.

    An accepted ceiling never exceeds the escrow, and only a withdrawal, which is seen pending first, takes it out.
    """
    session = turn.session
    charged = session.paid_by().charged
    if not turn.at_phase(StationPhase.CLAIMING, StationPhase.REFUNDING) or fact.balance_atomic >= charged:
        return False
    if fact.withdraw_requested_at_s or session.chain_tries >= DOUBTS_MAX:
        return False
    tries = session.chain_tries + 1
    turn.update(
        chain_tries=tries,
        trouble=f"the channel holds {fact.balance_atomic}, {charged} are owed: looking again",
    )
    turn.set_patient_timer("look", turn.settings.chain_retry_ms << min(tries - 1, 5))
    return True


def _go(turn: StationTurn, phase: StationPhase) -> None:
    if not turn.at_phase(phase):
        turn.update(chain_tries=0, trouble="")
        turn.move(phase)


def on_confirmed(turn: StationTurn, fact: TransactionConfirmed) -> None:
    """A transaction is deep enough: look at the channel."""
    if not turn.confirmed(fact):
        return
    what = fact.purpose.rpartition(":")[2]
    turn.update(transactions={**turn.session.transactions, what: "0x" + fact.tx_hash.hex()})
    turn.read_channel(turn.settings.confirmations)


def on_failed(turn: StationTurn, fact: ChainFailed) -> None:
    """The chain said no: look at the channel and try again, more and more rarely; the summary says what is wrong."""
    tries = turn.session.chain_tries + 1
    trouble = f"{fact.purpose} fails: {fact.message}"[:512] if tries >= turn.settings.chain_tries else ""
    turn.update(chain_tries=tries, trouble=trouble)
    turn.set_timer("look", turn.settings.chain_retry_ms << min(tries, 10))


def on_look_timer(turn: StationTurn) -> None:
    """Time to look at the channel again."""
    turn.read_channel(turn.settings.confirmations)


def _answer_refund(turn: StationTurn) -> None:
    """The rest went back: say so."""
    session = turn.session
    if not session.refund_message:
        return
    transaction = bytes.fromhex(session.transactions.get("refund", "0x")[2:])
    settle = build_success(
        turn.settings.network,
        session.paid_by().config.payer,
        turn.channel_state(),
        charged_atomic=0,
        transaction=transaction,
        amount_atomic=session.paid_by().escrow - session.paid_by().balance,
    )
    turn.tell(PaymentResult(session.refund_message, settle), answers=session.refund_message)


def finish(turn: StationTurn) -> None:
    """Paid: the signed receipt goes to the robot."""
    turn.move(StationPhase.SETTLED)
    if not turn.session.blocks_only:
        remember(turn)
    turn.tell(ReceiptMessage(format_receipt(build_receipt(turn))), answers=RECEIPT)
    turn.forget_later()


def build_receipt(turn: StationTurn) -> Receipt:
    """The station's view; it does not know the robot's own meter and leaves that at zero."""
    session = turn.session
    channel = session.paid_by()
    terms = session.terms
    settings = turn.settings
    energy = min(session.delivered_milliwh, session.limit_milliwh())
    idle = idle_fee_atomic(turn)
    return Receipt(
        session=session.id,
        robot=session.request.robot,
        station=settings.station,
        robot_address=address_to_hex(session.identity),
        station_address=address_to_hex(settings.identity),
        network=settings.network.caip2,
        token=address_to_hex(settings.network.token),
        channel="0x" + channel.id.hex(),
        started_s=session.opened_s,
        ended_s=session.ended_s,
        stop_reason=session.stop_reason,
        price_atomic_per_kwh=terms.price_atomic_per_kwh,
        start_fee_atomic=0 if session.blocks_only else session.start_fee_atomic,
        idle_fee_atomic=idle,
        station_energy_milliwh=energy,
        robot_energy_milliwh=0,
        statements=(session.meter.begin_statement, session.meter.statement),
        vouchers=session.vouchers,
        ceiling_atomic=channel.ceiling,
        owed_atomic=session.owed_for(energy) - channel.base + idle,
        base_atomic=channel.base,
        scheme=EXACT if session.blocks_only else SCHEME,
        blocks=sum(block.paid for block in session.blocks),
        block_atomic=session.block_price_atomic if session.blocks else 0,
        left_atomic=max(0, channel.balance - channel.claimed),
        deposited_atomic=max(channel.escrow, channel.balance),
        claimed_atomic=channel.claimed,
        returned_atomic=max(0, channel.escrow - channel.balance),
        transactions=Transactions(
            deposit=session.transactions.get("deposit", ""),
            claim=session.transactions.get("claim", ""),
            refund=session.transactions.get("refund", ""),
            settle=session.transactions.get("settle", ""),
        ),
    )
