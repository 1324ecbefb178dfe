"""From a robot's question to its confirmed deposit: quotes, counter-offers, holding a connector, relaying."""

from msgspec.structs import replace

from depai_robot.charging.effect import DepositWish, PrepareTransaction, ReadChannel
from depai_robot.charging.fact import ChainFailed, ChannelObserved, TransactionConfirmed
from depai_robot.charging.message import (
    ChargingTerms,
    PaymentResult,
    Quote,
    QuoteCounter,
    QuoteReject,
    QuoteRequest,
)
from depai_robot.charging.message import Payment as PaymentBody
from depai_robot.charging.setting import StationSettings
from depai_robot.charging.station_charging import end, watch_channel
from depai_robot.charging.station_state import Channel, FreeHolds, KeptChannel, StationState
from depai_robot.charging.station_turn import StationTurn
from depai_robot.charging.terms import (
    REASON_PREFIX,
    build_quote,
    build_requirements,
    build_success,
    channel_config,
    channel_key,
    digest_deposit,
    read_channel,
    tranche_price_atomic,
)
from depai_robot.charging.transition import StationPhase
from depai_robot.payment.eip712 import settlement_domain
from depai_robot.payment.signature import SignatureError, verify
from depai_robot.payment.voucher import VoucherLimits, VoucherRefusedError, check_voucher
from depai_robot.payment.x402 import DepositPayload, VoucherPayload, json_to_deposit, json_to_voucher
from depai_robot.values.error import DepaiError
from depai_robot.values.identity import Address
from depai_robot.values.money import cost_atomic

COUNTERS_MAX = 2
"""Rounds of haggling over one quote. Source: DESIGN, wire."""
RELAY_MARGIN_S = 6
"""Seconds that an authorisation must still hold to be relayed. Source: x402 facilitators' own margin."""
FREE_HOLDS_MAX = 1024
"""Identities whose unpaid holds are remembered; who used least is forgotten first."""


def refuse_request(state: StationState, body: QuoteRequest) -> tuple[str, str]:
    """Why the station does not quote: a word and a text; empty when it does."""
    settings = state.settings
    if not settings.in_service:
        return "out-of-service", "the station is closed"
    payer = body.payer_authorizer[2:].lower()
    if payer in state.bars:
        return "not-served", f"its vouchers can not be claimed: {state.bars[payer]}"[:512]
    if settings.served is not None and bytes.fromhex(body.payer_authorizer[2:]) not in settings.served:
        return "not-served", "this robot is not among the customers"
    if body.current_type != settings.current_type:
        return "not-served", f"sells {settings.current_type}, asked was {body.current_type}"
    if state.free_connector() is None:
        faults = [item.fault for item in state.connectors.values() if item.fault]
        if len(faults) == len(state.connectors):
            return "out-of-service", faults[0][:512]
        return "occupied", "no connector is free"
    return "", ""


def _refuse_hold(state: StationState, identity: bytes) -> str:
    """Why a connector is not held for that identity; empty when it is. Costs no honest robot anything."""
    left_ms, hold_ms = state.hold_left_ms(identity), state.settings.hold_ms
    if left_ms * 4 >= hold_ms:
        return ""
    wait_s = -(-(hold_ms // 4 - left_ms) * 4 // 1000)
    return f"held a connector for {(hold_ms - left_ms) // 1000} s without paying: ask again in {wait_s} s"


def reusable(state: StationState, body: QuoteRequest, identity: bytes, price: int) -> KeptChannel | None:
    """The kept channel that a robot names, when it holds all that it asks for; then no deposit is needed."""
    settings = state.settings
    if not settings.reuse_fee_atomic or body.channel is None:
        return None
    kept = state.channels.get(body.channel[2:])
    if kept is None or kept.identity != identity or kept.withdrawing or kept.bad:
        return None
    if state.paying_with(kept.channel.id) is not None:
        return None
    cost = settings.reuse_fee_atomic + cost_atomic(price, body.energy_milliwh)
    return kept if kept.rest_atomic >= cost else None


def make_terms(
    settings: StationSettings,
    session: str,
    request: QuoteRequest,
    *,
    connector: int,
    price: int,
    hold_until_s: int,
    channel: str | None = None,
) -> ChargingTerms:
    """The charging terms of a quote; with a channel, for a robot that pays from it without a deposit."""
    return ChargingTerms(
        station=settings.station,
        connector=connector,
        session=session,
        price_atomic_per_kwh=price,
        start_fee_atomic=settings.start_fee_atomic if channel is None else settings.reuse_fee_atomic,
        idle_fee_atomic_per_min=settings.idle_fee_atomic_per_min,
        tranche_milliwh=settings.tranche_milliwh,
        power_max_w=min(settings.power_max_w, request.power_max_w),
        stop_time_ms=settings.stop_time_ms,
        current_type=settings.current_type,
        meter=settings.meters[connector - 1],
        report_interval_ms=settings.report_interval_ms,
        voucher_timeout_ms=settings.voucher_timeout_ms,
        confirmations=settings.confirmations,
        hold_until_s=hold_until_s,
        channel=channel,
        block_milliwh=settings.block_milliwh or None,
    )


def open_session(turn: StationTurn, body: QuoteRequest) -> None:
    """A fresh session: quote and hold a connector, or say why not."""
    word, detail = refuse_request(turn.state, body)
    free = turn.state.free_connector()
    if not word and (held := _refuse_hold(turn.state, turn.session.identity)):
        word, detail = "occupied", held
    if word or free is None:
        turn.update(phase=StationPhase.LAPSED.value)
        turn.tell(QuoteReject(word, detail), answers=turn.session.request_id)
        turn.forget_later()
        return
    hold_ms = turn.state.hold_left_ms(turn.session.identity)
    turn.update(connector=free, holding=True, hold_ms=hold_ms, held_ns=turn.at.session_ns)
    quote(turn, turn.settings.price_atomic_per_kwh, turn.session.request_id)


def quote(turn: StationTurn, price_atomic_per_kwh: int, answers: str) -> None:
    """Sends a binding quote and holds the connector until it expires."""
    session = turn.session
    kept = reusable(turn.state, session.request, session.identity, price_atomic_per_kwh)
    terms = make_terms(
        turn.settings,
        session.id,
        session.request,
        connector=session.connector,
        price=price_atomic_per_kwh,
        hold_until_s=session.opened_s + session.hold_ms // 1000,  # haggling does not hold it for longer
        channel=None if kept is None else session.request.channel,
    )
    turn.update(block_fee_atomic=turn.settings.block_fee_atomic)
    turn.update(terms=terms)
    turn.tell(Quote(build_quote(turn.settings, terms)), answers=answers)
    if "hold" not in session.timers:
        turn.set_patient_timer("hold", session.hold_ms)


def on_counter(turn: StationTurn, body: QuoteCounter, message_id: str) -> None:
    """A better price is asked for: yes at or above the floor."""
    if turn.reply_again(message_id):
        return
    if turn.session.counters >= COUNTERS_MAX:
        turn.tell(
            QuoteReject("price", f"after {COUNTERS_MAX} rounds the last quote stands"), answers=message_id
        )
        return
    turn.update(counters=turn.session.counters + 1)
    if body.price_atomic_per_kwh < turn.settings.price_floor_atomic_per_kwh:
        turn.tell(QuoteReject("price", "below the least price"), answers=message_id)
        return
    quote(turn, min(body.price_atomic_per_kwh, turn.session.terms.price_atomic_per_kwh), message_id)


def lapse(turn: StationTurn) -> None:
    """Nothing came of it."""
    turn.move(StationPhase.LAPSED)
    if turn.session.holding:
        _note_free_hold(turn)
    turn.release()
    turn.forget_later()


def _note_free_hold(turn: StationTurn) -> None:
    identity = turn.session.identity
    held_ms = max(0, turn.at.session_ns - turn.session.held_ns) // 1_000_000
    now_ns = turn.at.session_ns
    holds = {
        key: item
        for key, item in turn.state.free_holds.items()
        if item.used_now_ms(now_ns) and key != identity.hex()
    }
    used_ms = turn.settings.hold_ms - turn.state.hold_left_ms(identity) + held_ms
    holds[identity.hex()] = FreeHolds(min(used_ms, turn.settings.hold_ms), now_ns)
    if len(holds) > FREE_HOLDS_MAX:
        del holds[min(holds, key=lambda key: holds[key].used_now_ms(now_ns))]
    turn.state = replace(turn.state, free_holds=holds)


# --- the deposit --------------------------------------------------------------------------------------------


def on_deposit(turn: StationTurn, body: PaymentBody, message_id: str) -> None:
    """A payment that shall open the channel: judged strictly, then relayed."""
    if turn.reply_again(message_id):
        return
    session = turn.session
    if turn.at_phase(StationPhase.FUNDING):
        turn.ignore("deposit repeated")
        return
    if turn.at_phase(StationPhase.LAPSED):
        turn.refuse_payment(message_id, REASON_PREFIX + "channel_busy")
        return
    payload = body.payload.payload
    if not isinstance(payload, DepositPayload | VoucherPayload):
        turn.refuse_payment(message_id, "invalid_payload")
        return
    if isinstance(payload, DepositPayload) and session.terms.channel is not None:
        turn.ignore("deposit on a quote without one")
        turn.refuse_payment(message_id, "invalid_payment_requirements")
        return
    if body.payload.accepted != build_requirements(turn.settings, session.terms.start_fee_atomic):
        turn.refuse_payment(message_id, "invalid_payment_requirements")
        return
    try:
        if isinstance(payload, DepositPayload):
            channel = _judge_deposit(turn, payload)
        else:
            channel = _judge_first_voucher(turn, payload)
    except VoucherRefusedError as error:
        turn.ignore(error.reason)
        turn.refuse_payment(message_id, error.reason)
        return
    turn.update(channel=channel, deposit_message=message_id)
    turn.clear_timer("hold")
    turn.move(StationPhase.FUNDING)
    wait_s = channel.deposit_valid_before_s - turn.at.wall_s
    if not channel.deposit_atomic:
        wait_s = turn.settings.payment_timeout_s
    turn.set_patient_timer("funding", 1000 * max(1, wait_s))
    turn.read_channel(1)


def _judge_deposit(turn: StationTurn, payload: DepositPayload) -> Channel:
    session = turn.session
    settings = turn.settings
    network = settings.network
    try:
        config = read_channel(payload)
        deposit = json_to_deposit(payload.deposit)
        voucher = json_to_voucher(payload.voucher)
    except DepaiError as error:
        raise VoucherRefusedError("payload_invalid", str(error)) from error
    for name, seen, expected in (
        ("receiver_mismatch", config.receiver, settings.receiver),
        ("receiver_authorizer_mismatch", config.receiver_authorizer, settings.receiver_authorizer),
        ("token_mismatch", config.token, network.token),
        ("withdraw_delay_mismatch", config.withdraw_delay_s, settings.withdraw_delay_s),
        (
            "payer_authorizer_mismatch",
            config.payer_authorizer,
            bytes.fromhex(session.request.payer_authorizer[2:]),
        ),
    ):
        if seen != expected:
            raise VoucherRefusedError(name, f"expected {expected!r}, got {seen!r}")
    key = channel_key(network, config)
    kept = _kept(turn, key)
    base, balance = (kept.channel.charged, kept.channel.balance) if kept else (0, 0)
    rest = kept.rest_atomic if kept else 0
    least = session.terms.start_fee_atomic + tranche_price_atomic(session.terms)
    if rest + deposit.amount_atomic < least:
        raise VoucherRefusedError(
            "deposit_below_min_deposit", f"{rest} + {deposit.amount_atomic}, at least {least}"
        )
    if deposit.valid_after_s >= turn.at.wall_s or deposit.valid_before_s < turn.at.wall_s + RELAY_MARGIN_S:
        raise VoucherRefusedError(
            "authorization_time", f"valid from {deposit.valid_after_s} to {deposit.valid_before_s}"
        )
    check_voucher(
        channel_config(config),
        voucher,
        settlement_domain(network.chain_id, network.settlement),
        VoucherLimits(
            balance + deposit.amount_atomic,
            kept.channel.claimed if kept else 0,
            charged_atomic=base,
            amount_atomic=session.terms.start_fee_atomic,
        ),
    )
    try:
        verify(digest_deposit(network, config.payer, key, deposit), deposit.signature, Address(config.payer))
    except SignatureError as error:
        raise VoucherRefusedError("deposit_signature", str(error)) from error
    return Channel(
        config=config,
        id=key,
        escrow=balance + deposit.amount_atomic,
        deposit_atomic=deposit.amount_atomic,
        base=base,
        balance=balance,
        claimed=kept.channel.claimed if kept else 0,
        charged=base,
        deposit_valid_after_s=deposit.valid_after_s,
        deposit_valid_before_s=deposit.valid_before_s,
        deposit_salt=deposit.salt,
        deposit_signature=deposit.signature,
        ceiling=voucher.ceiling_atomic,
        signature=voucher.signature,
    )


def _kept(turn: StationTurn, key: bytes) -> KeptChannel | None:
    """What is known of a channel of earlier sessions. Raises VoucherRefusedError when no session may be on it."""
    kept = turn.state.channels.get(key.hex())
    if kept is None:
        return None
    if kept.identity != turn.session.identity:
        raise VoucherRefusedError("channel_busy", "it was opened by another identity")
    if kept.withdrawing or kept.bad:
        raise VoucherRefusedError("channel_busy", kept.bad or "a withdrawal is pending on the channel")
    if turn.state.paying_with(key) is not None:
        raise VoucherRefusedError("channel_busy", "it is in use")
    return kept


def _judge_first_voucher(turn: StationTurn, payload: VoucherPayload) -> Channel:
    """A session on a kept channel without a deposit: its first voucher adds the start fee."""
    session = turn.session
    try:
        config, voucher = read_channel(payload), json_to_voucher(payload.voucher)
    except DepaiError as error:
        raise VoucherRefusedError("payload_invalid", str(error)) from error
    network = turn.settings.network
    kept = _kept(turn, channel_key(network, config))
    if kept is None:
        raise VoucherRefusedError("channel_not_found", "no earlier session on this channel is known")
    if config.payer_authorizer != bytes.fromhex(session.request.payer_authorizer[2:]):
        raise VoucherRefusedError("payer_authorizer_mismatch", "not the one that asked for the quote")
    least = session.terms.start_fee_atomic + tranche_price_atomic(session.terms)
    if kept.rest_atomic < least:
        raise VoucherRefusedError("cumulative_exceeds_balance", f"{kept.rest_atomic} left, at least {least}")
    check_voucher(
        channel_config(config),
        voucher,
        settlement_domain(network.chain_id, network.settlement),
        VoucherLimits(
            kept.channel.balance,
            kept.channel.claimed,
            charged_atomic=kept.channel.charged,
            amount_atomic=session.terms.start_fee_atomic,
        ),
    )
    return replace(
        kept.channel,
        escrow=kept.channel.balance,
        deposit_atomic=0,
        base=kept.channel.charged,
        ceiling=voucher.ceiling_atomic,
        signature=voucher.signature,
    )


def on_funding_channel(turn: StationTurn, fact: ChannelObserved) -> None:
    """The channel on chain, before and after the deposit."""
    shallow = _depth(turn, fact) < turn.settings.confirmations
    turn.end_reads(fact.channel_id)
    channel = turn.session.paid_by()
    if fact.total_claimed_atomic > channel.base or fact.withdraw_requested_at_s:
        turn.ignore("channel is not as it was left")
        if not channel.deposit_atomic:
            turn.refuse_payment(turn.session.deposit_message, REASON_PREFIX + "channel_busy")
            lapse(turn)
        return
    if fact.balance_atomic < channel.escrow and not channel.deposit_atomic:
        turn.ignore("channel holds less than it did")
        turn.refuse_payment(turn.session.deposit_message, REASON_PREFIX + "cumulative_exceeds_balance")
        turn.channel(balance=fact.balance_atomic)
        lapse(turn)
        return
    if fact.balance_atomic < channel.escrow:
        purpose = turn.purpose("deposit")
        fresh = "deposit" not in turn.session.transactions and purpose not in turn.session.jobs
        if fresh and (shallow or turn.settings.confirmations == 1):
            turn.start(PrepareTransaction(purpose, deposit_wish(channel)))
        else:
            turn.set_timer_once("chain:again", turn.settings.chain_retry_ms)
        return
    if shallow:
        # Somebody else relayed it, maybe the robot itself, who could have it reorganised away: wait until it is deep.
        turn.read_channel(turn.settings.confirmations)
        return
    funded(turn, fact.balance_atomic)


def _depth(turn: StationTurn, fact: ChannelObserved) -> int:
    """At how many confirmations the channel was read, as far as this session asked for it."""
    reads = [job for job in turn.session.jobs.values() if isinstance(job, ReadChannel)]
    return max((job.confirmations for job in reads if job.channel_id == fact.channel_id), default=1)


def deposit_wish(channel: Channel) -> DepositWish:
    """The transaction that relays the deposit."""
    return DepositWish(
        channel=channel.config,
        amount_atomic=channel.deposit_atomic,
        valid_after_s=channel.deposit_valid_after_s,
        valid_before_s=channel.deposit_valid_before_s,
        salt=channel.deposit_salt,
        signature=channel.deposit_signature,
    )


def funded(turn: StationTurn, balance: int) -> None:
    """The escrow is there: the start fee is earned, the robot may come."""
    session = turn.session
    fee = session.terms.start_fee_atomic
    channel = turn.channel(balance=balance, charged=turn.session.paid_by().base + fee)
    turn.clear_timer("funding", "chain:again")
    turn.move(StationPhase.FUNDED)
    turn.update(vouchers=1)
    transaction = bytes.fromhex(session.transactions.get("deposit", "0x")[2:])
    settle = build_success(
        turn.settings.network,
        channel.config.payer,
        turn.channel_state(),
        charged_atomic=fee,
        transaction=transaction,
        amount_atomic=channel.deposit_atomic or None,
    )
    turn.tell(PaymentResult(session.deposit_message, settle), answers=session.deposit_message)
    turn.set_patient_timer("arrival", turn.settings.arrival_timeout_ms)
    watch_channel(turn)
    if session.stop_reason:
        end(turn)


def on_deposit_confirmed(turn: StationTurn, fact: TransactionConfirmed) -> None:
    """The relayed deposit is deep enough; its effect is read from the channel, not from a flag."""
    if not turn.confirmed(fact):
        return
    turn.update(transactions={**turn.session.transactions, "deposit": "0x" + fact.tx_hash.hex()})
    turn.read_channel(turn.settings.confirmations)


def on_deposit_failed(turn: StationTurn, fact: ChainFailed) -> None:
    """The chain refuses the deposit."""
    turn.ignore("deposit failed")
    turn.refuse_payment(turn.session.deposit_message, REASON_PREFIX + "deposit_transaction_failed")
    turn.update(stop_reason=fact.message[:512])
    lapse(turn)
