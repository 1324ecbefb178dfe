"""The end of the money of a session: refund request, reading the channel, withdrawal without the station, receipt.

The chain alone says what was claimed and what came back; the station's word only says when to look.
"""

from msgspec.structs import replace

from depai_robot.charging.effect import (
    FinalizeWithdrawWish,
    InitiateWithdrawWish,
    KeepReceipt,
    PrepareTransaction,
    ReadChannel,
    ReadHead,
)
from depai_robot.charging.fact import ChainHeadObserved, ChannelObserved, TransactionConfirmed
from depai_robot.charging.message import Payment as PaymentBody
from depai_robot.charging.message import PaymentResult, ReceiptMessage
from depai_robot.charging.reconciliation import upper_bound_milliwh
from depai_robot.charging.robot_record import note_meters
from depai_robot.charging.robot_state import KeptChannel, Pending, Session
from depai_robot.charging.robot_turn import CHEATED, FAILED, RobotTurn
from depai_robot.charging.terms import (
    build_closing,
    build_refund,
    digest_voucher,
    read_charge,
    read_need,
    tranche_price_atomic,
)
from depai_robot.charging.transition import RobotPhase
from depai_robot.payment.receipt import Receipt, Transactions, format_receipt, parse_receipt
from depai_robot.payment.x402 import EXACT
from depai_robot.values.error import ConfigError, RemoteError
from depai_robot.values.identity import ChannelId, address_to_hex
from depai_robot.values.money import cost_atomic, energy_bought_milliwh

REFUND_ROUNDS_MAX = 3
CHANNELS_MAX = 256
SETTLE_POLLS = 4
"""The channel is looked at more rarely than the battery: RPC endpoints count requests."""


def owed_milliwh(turn: RobotTurn) -> int:
    """The energy that is owed for, at the station's meter.

    The station's final statement when it was believed. Otherwise what the robot's own meter says at the nominal
    efficiency: never less than was reconciled before, never more than the station states or the ceiling buys.
    """
    session = turn.session
    meter = session.meter
    if meter.begin_milliwh < 0 or meter.final:
        return meter.reconciled.station_milliwh
    terms = session.contract().agreed.terms
    price = terms.price_atomic_per_kwh
    if session.rail == EXACT:
        most = len(session.blocks) * (terms.block_milliwh or 0)
        return min(most, max(meter.reconciled.station_milliwh, meter.station_claim_milliwh))
    bought = energy_bought_milliwh(price, max(0, session.money.signed - session.money.base - session.fees()))
    by_own_meter = meter.own_last_milliwh * 1000 // turn.settings.band.efficiency_nominal_permille
    if meter.station_claim_milliwh:
        by_own_meter = min(by_own_meter, max(meter.station_claim_milliwh, meter.reconciled.station_milliwh))
    return max(meter.reconciled.station_milliwh, min(by_own_meter, bought))


def is_funded(turn: RobotTurn) -> bool:
    """Whether the money of this session was ever seen on chain."""
    session = turn.session
    agreement = session.contract()
    if session.rail == EXACT:
        return True
    return session.money.escrow >= max(1, agreement.escrow_atomic)


def has_lapsed(turn: RobotTurn, block_number: int = 2**63) -> bool:
    """Whether an unused deposit can not be used any more, as of that block."""
    lapse_block = turn.session.lapse_block
    return bool(lapse_block) and block_number >= lapse_block


def owed_atomic(turn: RobotTurn) -> int:
    """What is owed on the channel, by the robot's own reckoning; nothing new when its deposit never came."""
    session = turn.session
    if not is_funded(turn):
        return session.money.base
    if session.rail == EXACT:
        return sum(block.amount_atomic for block in session.blocks if block.fate == "used")
    if session.money.owed >= 0:
        return session.money.owed
    return session.owed_for(owed_milliwh(turn), session.idle_ms // 60_000)


def owed_max_atomic(turn: RobotTurn) -> int:
    """The most that the station may have charged: the band's upper end and started idle minutes."""
    session = turn.session
    energy = upper_bound_milliwh(turn.settings.band, session.meter.own_last_milliwh)
    if session.meter.begin_milliwh < 0:
        energy = 0
    return session.owed_for(max(energy, owed_milliwh(turn)), -(-session.idle_ms // 60_000))


def start_settling(turn: RobotTurn) -> None:
    """No more energy: look at the head (nothing is signed on an old one), ask for the rest, watch the channel."""
    turn.move(RobotPhase.SETTLING)
    turn.answer(*(letter.id for letter in turn.session.letters if letter.keep))
    turn.clear_timers()
    turn.update(payment=None, deferred=None)
    if turn.session.rail == EXACT:
        turn.set_timer("poll", 1)
        return
    turn.set_patient_timer("settle", turn.settings.settle_timeout_ms)
    turn.set_timer("poll", SETTLE_POLLS * turn.settings.poll_ms)
    turn.start(ReadHead(turn.purpose("head")))
    read_channel(turn)


def read_channel(turn: RobotTurn) -> None:
    """Asks the chain, not the station."""
    agreement = turn.session.contract()
    purpose = turn.purpose("channel")
    turn.start(ReadChannel(purpose, agreement.channel_id, agreement.agreed.terms.confirmations))


def on_head(turn: RobotTurn, fact: ChainHeadObserved) -> None:
    """The head of the chain, while settling or withdrawing."""
    session = turn.session
    if fact.timestamp_s >= session.contract().valid_before_s and not session.lapse_block:
        turn.update(lapse_block=fact.number)
    if session.rail == EXACT:
        return
    if turn.at_phase(RobotPhase.SETTLING):
        request_closing(turn)
    elif session.withdraw_at_s and fact.timestamp_s > session.withdraw_at_s:
        prepare(turn, "finalize-withdraw", FinalizeWithdrawWish(session.contract().channel))


def request_closing(turn: RobotTurn, charged_atomic: int | None = None) -> None:
    """A voucher at exactly what is charged: asks for all the rest, or leaves it there for the next session.

    Args:
        turn: settling.
        charged_atomic: by the station's word, checked; None for what the robot itself reckons.
    """
    session = turn.session
    money = session.money
    waits = not is_funded(turn) and not has_lapsed(turn)
    if waits or not money.escrow or session.payment is not None or money.refund_rounds >= REFUND_ROUNDS_MAX:
        return
    if turn.head_disagrees() or not turn.head_is_known():
        turn.ignore("refund request waits for the head of the chain")
        return
    agreement = session.contract()
    owed = owed_atomic(turn)
    ceiling = min(owed if charged_atomic is None else charged_atomic, money.escrow, money.balance)
    # Above the highest ceiling only for idle fees or a lost last statement, and above the policy never.
    if ceiling > money.signed and ceiling - money.base <= turn.policy.session_max_atomic:
        turn.record_signature(ceiling)
    ceiling = min(ceiling, turn.session.money.signed)
    turn.money(refund_rounds=money.refund_rounds + 1, owed=owed)
    keep_most = keepable_atomic(turn) if ceiling == owed else 0
    rest = money.balance - ceiling
    keep = 0 < rest <= keep_most
    turn.update(keep=keep, keep_atomic=0 if keep else min(keep_most, rest))
    key = agreement.channel_id
    if keep:
        payload = build_closing(agreement.agreed, agreement.channel, key, ceiling)
    else:
        amount = rest - keep_most if keep_most else None
        payload = build_refund(agreement.agreed, agreement.channel, key, ceiling, amount)
    letter = turn.tell(
        PaymentBody(payload),
        keep=True,
        voucher_digest=digest_voucher(turn.settings.network, agreement.channel_id, ceiling),
    )
    turn.update(payment=Pending(letter, need="", amount=0, charged=ceiling))


def keepable_atomic(turn: RobotTurn) -> int:
    """How much may stay in the channel, 0 for nothing: by cost, and only with a station that served well.

    It is worth it when the station charges less for a session on a kept channel than for one with a deposit, and
    what stays would pay for such a start and a tranche; the owner says how much may stay.
    """
    session = turn.session
    agreement = session.contract()
    offer = agreement.offer.offer
    stop = session.stop
    if session.closing or session.keep_refused or (stop is not None and stop.fault):
        return 0
    if offer.reuse_fee_atomic is None:
        return 0
    rest = session.money.balance - owed_atomic(turn)
    gain = offer.start_fee_atomic - offer.reuse_fee_atomic
    least = offer.reuse_fee_atomic + tranche_price_atomic(agreement.agreed.terms)
    most = turn.settings.keep_max_atomic
    return most if gain > 0 and least <= min(rest, most) else 0


def on_closing_answer(turn: RobotTurn, body: PaymentResult, token: str) -> None:
    """The station's word on the last voucher: look at the channel, or correct what is owed within reason."""
    session = turn.session
    pending = session.payment
    if pending is None or body.answers != pending.letter:
        turn.ignore("late payment result")
        return
    turn.answer(pending.letter)
    if body.settle.success and session.keep:
        _on_kept(turn, pending, body, token)
        return
    if body.settle.success:
        if body.settle.transaction:
            note_transaction(turn, "refund", body.settle.transaction)
        read_channel(turn)
        return
    agreement = session.contract()
    if body.required is None and session.keep:
        turn.update(keep=False, keep_refused=True, payment=None)
        request_closing(turn)
        return
    if body.required is None:
        turn.ignore("refund refused")
        return
    try:
        charged = read_need(body.required, agreement.agreed, agreement.channel_id).charged_atomic
    except RemoteError as error:
        convict(turn, f"corrective answer: {error}", token)
        return
    if charged > owed_max_atomic(turn):
        convict(turn, f"station charges {charged}, at most {owed_max_atomic(turn)} is owed", token)
        return
    turn.update(payment=None)
    if charged > owed_atomic(turn):
        _accept_charge(turn, charged)
    request_closing(turn, charged)


def _on_kept(turn: RobotTurn, pending: Pending, body: PaymentResult, token: str) -> None:
    """The station agrees on the sum and keeps the channel: the session is settled without a transaction."""
    try:
        charged, cumulative = read_charge(body.settle, turn.session.contract().channel_id)
    except RemoteError as error:
        charged, cumulative = 0, -1
        turn.ignore(str(error)[:200])
    if charged or cumulative != pending.charged:
        turn.update(keep=False, payment=None)
        convict(turn, f"station sums to {cumulative}, the last voucher says {pending.charged}", token)
        request_closing(turn)
        return
    settle(turn)


def _accept_charge(turn: RobotTurn, charged: int) -> None:
    """The last statement was lost, or an idle minute more was counted: within the band, so it is owed."""
    session = turn.session
    meter = session.meter
    if not meter.final and meter.begin_milliwh >= 0:
        price = session.contract().agreed.terms.price_atomic_per_kwh
        energy = energy_bought_milliwh(
            price, max(0, charged - session.fees(session.idle_ms // 60_000) - session.money.base)
        )
        most = upper_bound_milliwh(turn.settings.band, meter.own_last_milliwh)
        energy = max(meter.reconciled.station_milliwh, min(energy, most))
        turn.update(
            meter=replace(meter, reconciled=replace(meter.reconciled, station_milliwh=energy), final=True)
        )
    turn.money(owed=charged)


def convict(turn: RobotTurn, reason: str, *tokens: str) -> None:
    """The station broke the rules after the stop: evidence, and never again."""
    turn.keep_evidence(reason, tuple(tokens))
    turn.bar(turn.session.contract().offer.sender, reason, CHEATED)
    stop = turn.session.stop
    if stop is not None and stop.fault != CHEATED:
        turn.update(stop=replace(stop, fault=CHEATED, detail=reason))


def on_receipt(turn: RobotTurn, body: ReceiptMessage) -> None:
    """The station's signed receipt names its transactions."""
    try:
        theirs = parse_receipt(body.receipt)
    except ConfigError:
        turn.ignore("bad receipt")
        return
    if theirs.session != turn.session.id or theirs.channel != _hex(turn.session.contract().channel_id):
        turn.ignore("receipt of another session")
        return
    for what in ("deposit", "claim", "refund", "settle"):
        note_transaction(turn, what, getattr(theirs.transactions, what))
    if "receipt" in turn.session.timers:
        turn.clear_timer("receipt")
        settle(turn)


def note_transaction(turn: RobotTurn, what: str, tx_hash: str) -> None:
    """For the receipt; the chain is what counts."""
    if tx_hash and what not in turn.session.transactions:
        turn.update(transactions={**turn.session.transactions, what: tx_hash})


def on_channel(turn: RobotTurn, fact: ChannelObserved) -> None:
    """The channel as the chain has it, while settling or withdrawing."""
    turn.end_reads(fact.channel_id)
    observe_channel(turn, fact)
    session = turn.session
    money = session.money
    owed = owed_atomic(turn)
    if money.claimed > owed and not session.overclaimed:
        turn.update(overclaimed=True)
        convict(turn, f"station claimed {money.claimed}, owed is {owed}: {money.claimed - owed} lost")
    lapsed = has_lapsed(turn, fact.block_number)
    left = money.balance - money.claimed
    if left <= session.keep_atomic and (lapsed or (money.claimed and is_funded(turn))):
        if turn.purpose("finalize-withdraw") not in session.jobs:  # its outcome belongs into the receipt
            _wait_for_receipt(turn)
        return
    if turn.at_phase(RobotPhase.WITHDRAWING):
        _withdraw(turn, fact)


def observe_channel(turn: RobotTurn, fact: ChannelObserved) -> None:
    """In the books."""
    ledger = turn.state.ledger.observe(
        ChannelId(fact.channel_id),
        balance_atomic=fact.balance_atomic,
        total_claimed_atomic=fact.total_claimed_atomic,
    )
    turn.change(ledger=ledger)
    money = turn.session.money
    turn.money(
        claimed=fact.total_claimed_atomic,
        balance=fact.balance_atomic,
        escrow=max(money.escrow, fact.balance_atomic),
    )


def _wait_for_receipt(turn: RobotTurn) -> None:
    known = turn.session.transactions
    if turn.at_phase(RobotPhase.SETTLING) and turn.session.money.claimed and "settle" not in known:
        turn.clear_timer("poll", "settle")
        if "receipt" not in turn.session.timers:
            turn.set_patient_timer("receipt", turn.settings.receipt_wait_ms)
        return
    settle(turn)


def _withdraw(turn: RobotTurn, fact: ChannelObserved) -> None:
    """Takes the rest back without the station; the robot pays this gas itself."""
    session = turn.session
    agreement = session.contract()
    if fact.withdraw_requested_at_s:
        turn.update(withdraw_at_s=fact.withdraw_requested_at_s + agreement.channel.withdraw_delay_s)
        return
    turn.update(withdraw_at_s=0)
    rest = fact.balance_atomic - fact.total_claimed_atomic
    if rest > 0:
        prepare(turn, "initiate-withdraw", InitiateWithdrawWish(agreement.channel, rest))


def prepare(turn: RobotTurn, what: str, call: InitiateWithdrawWish | FinalizeWithdrawWish) -> None:
    """Starts a transaction of the robot's own, unless it is under way."""
    purpose = turn.purpose(what)
    if purpose not in turn.session.jobs:
        turn.start(PrepareTransaction(purpose, call))


def on_confirmed(turn: RobotTurn, fact: TransactionConfirmed) -> None:
    """A withdrawal's transaction is deep enough: the channel shows what it did."""
    if turn.confirmed(fact):
        note_transaction(turn, fact.purpose.rpartition(":")[2], _hex(fact.tx_hash))
        read_channel(turn)


def give_up_on_station(turn: RobotTurn) -> None:
    """The station did not settle in its time: withdraw, in the background if the robot needs energy."""
    session = turn.session
    turn.move(RobotPhase.WITHDRAWING)
    turn.answer(*(letter.id for letter in session.letters if letter.keep))
    turn.clear_timers()
    turn.update(keep=False, keep_atomic=0)
    if session.dock == "held":
        turn.set_timer("held", turn.settings.poll_ms)
    if session.money.escrow:
        turn.bar(session.contract().offer.sender, "did not settle in time", FAILED)
    turn.set_timer("poll", turn.settings.withdraw_poll_ms)
    read_channel(turn)


def poll(turn: RobotTurn) -> None:
    """Time to look at head and channel again."""
    withdrawing = turn.at_phase(RobotPhase.WITHDRAWING)
    turn.set_timer(
        "poll", turn.settings.withdraw_poll_ms if withdrawing else SETTLE_POLLS * turn.settings.poll_ms
    )
    session = turn.session
    waits_for_head = withdrawing or not is_funded(turn) or session.payment is None
    if waits_for_head and turn.purpose("head") not in session.jobs:
        turn.start(ReadHead(turn.purpose("head")))
    if turn.purpose("channel") not in session.jobs:
        read_channel(turn)


def settle(turn: RobotTurn) -> None:
    """Every atomic unit has its place: write the receipt."""
    session = turn.session
    agreement = session.contract()
    turn.move(RobotPhase.SETTLED)
    if not is_funded(turn):
        turn.change(ledger=turn.state.ledger.release_promise(ChannelId(agreement.channel_id)))
    turn.answer(*(letter.id for letter in session.letters))
    turn.clear_timers()
    if session.dock == "held":
        turn.set_timer("held", turn.settings.poll_ms)
    turn.update(jobs={}, payment=None)
    remember(turn)
    note_meters(turn)
    if session.meter.final and session.stop is not None and not session.stop.fault:
        turn.forgive(agreement.offer.sender)
    turn.change(finished=turn.state.finished + 1)
    turn.emit(KeepReceipt(session.id, format_receipt(build_receipt(turn))))


def remember(turn: RobotTurn) -> None:
    """Its channel can be used again, from what was charged on it; one that a faulty station has can not."""
    session = turn.session
    agreement = session.contract()
    if session.rail == EXACT:
        return
    key = agreement.channel_id.hex()
    channels = {k: v for k, v in turn.state.channels.items() if k != key}
    money = session.money
    if money.escrow and (session.stop is None or not session.stop.fault):
        charged = money.owed if session.keep else money.claimed
        channels[key] = KeptChannel(agreement, charged, money.balance, turn.at.wall_s)
    while len(channels) > CHANNELS_MAX:
        # Those that hold nothing go first: a fresh salt makes a fresh channel.
        worst = min(channels, key=lambda k: (channels[k].rest_atomic, channels[k].kept_s))
        if channels[worst].rest_atomic:
            break
        del channels[worst]
    turn.change(channels=channels)


def build_receipt(turn: RobotTurn) -> Receipt:
    """What was bought, for how much, and what became of every atomic unit."""
    session: Session = turn.session
    agreement = session.contract()
    terms = agreement.agreed.terms
    money, meter, stop = session.money, session.meter, session.stop
    funded = is_funded(turn)
    owed = owed_atomic(turn) - money.base
    energy = owed_milliwh(turn) if funded else 0
    cost = cost_atomic(terms.price_atomic_per_kwh, energy)
    settings = turn.settings
    start_fee = session.fees() if funded else 0
    blocks = sum(block.fate == "used" for block in session.blocks)
    return Receipt(
        session=session.id,
        robot=settings.robot,
        station=terms.station,
        robot_address=address_to_hex(settings.identity),
        station_address=address_to_hex(agreement.offer.sender),
        network=settings.network.caip2,
        token=address_to_hex(settings.network.token),
        channel=_hex(agreement.channel_id),
        started_s=session.opened_s,
        ended_s=stop.at_s if stop else turn.at.wall_s,
        stop_reason=stop.reason if stop else "Other",
        price_atomic_per_kwh=terms.price_atomic_per_kwh,
        start_fee_atomic=start_fee,
        idle_fee_atomic=max(0, owed - cost - start_fee) if funded and session.rail != EXACT else 0,
        station_energy_milliwh=energy,
        robot_energy_milliwh=meter.own_last_milliwh,
        statements=(meter.begin_statement, meter.statement),
        vouchers=money.vouchers,
        ceiling_atomic=money.signed if funded else 0,
        owed_atomic=owed,
        deposited_atomic=money.escrow,
        claimed_atomic=money.claimed,
        returned_atomic=money.escrow - money.balance,
        withdrawal_until_s=0,
        base_atomic=money.base,
        scheme=session.rail,
        blocks=blocks,
        block_atomic=agreement.agreed.block.price_atomic if blocks and agreement.agreed.block else 0,
        left_atomic=max(0, money.balance - money.claimed),
        transactions=Transactions(
            deposit=session.transactions.get("deposit", ""),
            claim=session.transactions.get("claim", ""),
            refund=session.transactions.get("refund", ""),
            settle=session.transactions.get("settle", ""),
            withdraw=session.transactions.get("finalize-withdraw", ""),
        ),
        evidence=session.evidence,
        fault=stop.detail[:512] if stop and stop.fault else "",
    )


def _hex(value: bytes) -> str:
    return "0x" + value.hex()
