"""From the wish for energy to the confirmed deposit: offers, quotes, the choice, agreement, or no offer at all.

Until a deposit is signed a session may simply end; from then on everything leads forward to settlement.
"""

from msgspec.structs import replace

from depai_robot.charging import robot_block
from depai_robot.charging.effect import (
    CallForHelp,
    ChannelJson,
    ReadBattery,
    ReadChannel,
    ReadFunds,
    ReadHead,
    ShutDownSafely,
    StartDocking,
)
from depai_robot.charging.fact import BatteryObserved, BatteryRead, ChannelObserved, FundsObserved
from depai_robot.charging.message import Payment as PaymentBody
from depai_robot.charging.message import (
    PaymentResult,
    Quote,
    QuoteCounter,
    QuoteReject,
    QuoteRequest,
    SessionStop,
)
from depai_robot.charging.robot_channel import (
    authorization_of,
    channel_to_name,
    exposure_with,
    kept_at,
    plan_channel,
    presigned_digest,
)
from depai_robot.charging.robot_ending import stop
from depai_robot.charging.robot_settlement import note_transaction, observe_channel, read_channel
from depai_robot.charging.robot_state import Agreement, Answer, KnownOffer, Money, Pending
from depai_robot.charging.robot_turn import CHEATED, FAILED, RobotTurn
from depai_robot.charging.selection import (
    Candidate,
    choose,
    energy_at_meter_milliwh,
    judge,
    refuse_way,
)
from depai_robot.charging.setting import station_inbox
from depai_robot.charging.terms import (
    SIGNATURE_NONE,
    Agreed,
    Need,
    build_deposit,
    build_voucher,
    digest_deposit,
    digest_voucher,
    read_charge,
    read_quote,
)
from depai_robot.charging.transition import RobotPhase
from depai_robot.payment.channel import DepositAuthorization
from depai_robot.payment.policy import is_survival_price, refuse_signature, survival_policy
from depai_robot.payment.x402 import EXACT, SCHEME
from depai_robot.values.error import RemoteError
from depai_robot.values.identity import Address, ChannelId, address_to_hex, keccak256

MARGIN_S = 6
"""A deposit must be valid for at least so long when it is sent. Source: x402 facilitators' own margin."""
REFUSALS_TOLD_MAX = 5


# --- asking -------------------------------------------------------------------------------------------------


def start_quoting(turn: RobotTurn) -> None:
    """Asks every known station that may be asked; with none, backs off at once."""
    settings = turn.settings
    session = turn.session
    asked: dict[str, str] = {}
    refused: list[str] = []
    turn.update(rounds=session.rounds + 1, answers={}, ranking=(), agreement=None)
    for key, known in turn.state.offers.items():
        refusal = refuse_offer(turn, known)
        if refusal:
            refused.append(f"{known.offer.station}: {refusal}")
        else:
            request = QuoteRequest(
                robot=settings.robot,
                energy_milliwh=energy_at_meter_milliwh(settings, session.wanted.energy_milliwh),
                power_max_w=settings.power_max_w,
                current_type=settings.current_type,
                payer_authorizer=address_to_hex(settings.voucher_key),
                channel=channel_to_name(turn.state, known.sender),
            )
            topic = station_inbox(settings.zone, known.offer.station)
            asked[key] = turn.post(request, to=known.sender, topic=topic, keep=True)
    turn.update(asked=asked)
    if not asked:
        rank(turn)
        reasons = refused[:REFUSALS_TOLD_MAX] + (["..."] if len(refused) > REFUSALS_TOLD_MAX else [])
        back_off(turn, f"no station to ask ({'; '.join(reasons) or 'no offer has come'})")
        return
    turn.move(RobotPhase.QUOTING)
    turn.set_patient_timer("quotes", settings.quote_window_ms)


def refuse_offer(turn: RobotTurn, known: KnownOffer) -> str:
    """Why a station is not even asked, or empty."""
    settings = turn.settings
    offer = known.offer
    bar = turn.state.bars.get(known.sender.hex())
    if bar is not None and bar.until_s > turn.at.wall_s:
        return f"barred: {bar.reason}"
    if known.until_s < turn.at.wall_s:
        return "offer expired"
    if settings.stations and known.sender not in settings.stations:
        return "not a station that the owner named"
    if offer.network != settings.network.caip2:
        return f"settles on {offer.network}, the robot on {settings.network.caip2}"
    if bytes.fromhex(offer.asset[2:]) != settings.network.token:
        return f"wants {offer.asset}, the robot pays in {address_to_hex(settings.network.token)}"
    wanted = turn.session.wanted
    if wanted.station and wanted.station != offer.station:
        return f"only {wanted.station} was asked for"
    return refuse_way(settings, wanted, offer)


def on_quote(turn: RobotTurn, body: Quote, sender: bytes, token: str) -> None:
    """A station's answer: a quote."""
    key = sender.hex()
    session = turn.session
    known = turn.state.offers.get(key)
    if key not in session.asked or known is None:
        turn.ignore("late quote")
        return
    try:
        agreed = read_quote(
            body.payment_required,
            known.offer,
            turn.settings.network,
            session.id,
            channel_to_name(turn.state, known.sender),
        )
    except RemoteError as error:
        _answered(turn, key, Answer(token, None, str(error)))
        return
    limit = turn.session.wanted.tighten(turn.settings.policy).price_max_atomic_per_kwh
    asked = turn.letter(session.asked[key])
    countered = asked is None or isinstance(asked.seal.draft.body, QuoteCounter)
    if agreed.terms.price_atomic_per_kwh > limit > 0 and not countered:
        turn.answer(session.asked[key])
        topic = station_inbox(turn.settings.zone, known.offer.station)
        letter = turn.post(QuoteCounter(limit, 1), to=sender, topic=topic, keep=True)
        turn.update(
            asked={**session.asked, key: letter}, answers={**session.answers, key: Answer(token, agreed)}
        )
        return
    _answered(turn, key, Answer(token, agreed))


def on_reject(turn: RobotTurn, body: QuoteReject, sender: bytes, token: str) -> None:
    """A station's answer: no."""
    key = sender.hex()
    if key not in turn.session.asked:
        turn.ignore("late quote")
        return
    detail = f"{body.reason}: {body.detail}" if body.detail else body.reason
    before = turn.session.answers.get(key)
    if before is not None and before.agreed is not None:
        _answered(turn, key, before)  # it refused the counter-offer; its first quote stands and is judged
        return
    _answered(turn, key, Answer(token, None, detail))


def _answered(turn: RobotTurn, key: str, answer: Answer) -> None:
    session = turn.session
    turn.answer(session.asked[key])
    turn.update(
        asked={k: v for k, v in session.asked.items() if k != key}, answers={**session.answers, key: answer}
    )
    if not turn.session.asked:
        decide(turn)


# --- choosing -----------------------------------------------------------------------------------------------


def rank(turn: RobotTurn) -> tuple[Candidate, ...]:
    """Every known station with its score, or the reason why not."""
    session = turn.session
    candidates = []
    for key, known in turn.state.offers.items():
        answer = session.answers.get(key)
        refused = refuse_offer(turn, known)
        if not refused and answer is not None:
            refused = answer.refused
        refused_channel = ""
        if not refused and answer is not None and answer.agreed is not None:
            refused_channel = plan_channel(turn, known, answer.agreed).refused
        settings = turn.settings
        if answer is not None and answer.agreed is not None and _is_survival(turn, answer.agreed):
            settings = replace(settings, policy=survival_policy(settings.policy))
        settings = replace(settings, policy=session.wanted.tighten(settings.policy))
        candidates.append(
            judge(
                settings,
                session.wanted,
                known.offer,
                known.sender,
                answer.agreed if answer else None,
                exposure=exposure_with(turn.exposure(), kept_at(turn.state, known.sender)),
                now_s=turn.at.wall_s,
                refused=refused,
                refused_channel=refused_channel,
            )
        )
    ranking = choose(candidates)
    turn.update(ranking=ranking)
    return ranking


def _is_survival(turn: RobotTurn, agreed: Agreed) -> bool:
    """Whether that quote could only be taken as the day's one charge for survival."""
    price = agreed.terms.price_atomic_per_kwh
    return is_survival_price(turn.settings.policy, price) and turn.may_survive()


def decide(turn: RobotTurn) -> None:
    """The quote window is over, or all have answered: choose, and agree with the best."""
    turn.clear_timer("quotes")
    turn.answer(*turn.session.asked.values())
    turn.update(asked={})
    ranking = rank(turn)
    if not ranking or not ranking[0].chosen:
        back_off(turn, "no acceptable offer")
        return
    session = turn.session
    settings = turn.settings
    best = ranking[0].identity.hex()
    for key, answer in session.answers.items():
        if key != best and answer.agreed is not None:
            offer = turn.state.offers[key]
            topic = station_inbox(settings.zone, offer.offer.station)
            turn.post(SessionStop("Other", "another station was chosen"), to=offer.sender, topic=topic)
    answer = session.answers[best]
    agreed = answer.agreed
    known = turn.state.offers[best]
    if agreed is None:
        back_off(turn, "no acceptable offer")
        return
    if ranking[0].rail == EXACT:
        _agree_on_blocks(turn, known, answer.token, agreed)
        return
    plan = plan_channel(turn, known, agreed)
    valid_before_s = turn.at.wall_s + agreed.requirements.max_timeout_seconds
    agreement = Agreement(
        offer=known,
        quote_token=answer.token,
        agreed=agreed,
        channel=plan.channel,
        channel_id=plan.channel_id,
        escrow_atomic=plan.balance_atomic + plan.deposit_atomic,
        valid_before_s=plan.presigned.valid_before_s if plan.presigned else valid_before_s,
        deposit_atomic=plan.deposit_atomic,
        base_atomic=plan.base_atomic,
        presigned=plan.presigned,
    )
    fresh = plan.channel_id.hex() not in turn.state.channels
    turn.update(survival=_is_survival(turn, agreed))
    turn.update(
        agreement=agreement,
        channel_seen=fresh,
        money=Money(base=plan.base_atomic, signed=plan.base_atomic, charged=plan.base_atomic),
    )
    turn.move(RobotPhase.FUNDING)
    turn.set_patient_timer("funding", settings.funding_timeout_ms)
    turn.start(ReadHead(turn.purpose("head")))
    if not fresh:
        read_channel(turn)
    if plan.deposit_atomic:
        turn.start(ReadFunds(turn.purpose("funds"), settings.payer))


def _agree_on_blocks(turn: RobotTurn, known: KnownOffer, quote_token: str, agreed: Agreed) -> None:
    """No channel: nothing is paid before contact, only looked whether it could be."""
    nobody = bytes(20)
    channel = ChannelJson(
        turn.settings.payer, nobody, agreed.receiver, nobody, turn.settings.network.token, 0, bytes(32)
    )
    agreement = Agreement(
        offer=known,
        quote_token=quote_token,
        agreed=agreed,
        channel=channel,
        channel_id=bytes(32),
        escrow_atomic=0,
        valid_before_s=turn.at.wall_s,
        deposit_atomic=0,
    )
    turn.update(agreement=agreement, rail=EXACT, channel_seen=True, money=Money())
    turn.move(RobotPhase.FUNDING)
    turn.set_patient_timer("funding", turn.settings.funding_timeout_ms)
    turn.start(ReadHead(turn.purpose("head")))
    turn.start(ReadFunds(turn.purpose("funds"), turn.settings.payer))


# --- funding ------------------------------------------------------------------------------------------------


def on_kept_channel(turn: RobotTurn, fact: ChannelObserved) -> None:
    """A channel of an earlier session, read before anything is signed on it again: it must be as it was left."""
    turn.end_reads(fact.channel_id)
    session = turn.session
    agreement = session.contract()
    kept = turn.state.channels.get(fact.channel_id.hex())
    if kept is None or session.channel_seen:
        turn.ignore("channel read late")
        return
    observe_channel(turn, fact)
    if fact.total_claimed_atomic > kept.charged:
        lost = fact.total_claimed_atomic - kept.charged
        reason = f"station claimed {fact.total_claimed_atomic}, agreed was {kept.charged}: {lost} lost"
        turn.keep_evidence(reason, (kept.agreement.quote_token,))
        turn.bar(agreement.offer.sender, reason, CHEATED)
        # Never used again (the station is barred), and closed as soon as a session begins: the rest is the robot's.
        stale = replace(kept, charged=fact.total_claimed_atomic, balance=fact.balance_atomic, kept_s=0)
        turn.change(channels={**turn.state.channels, fact.channel_id.hex(): stale})
        leave(turn, reason)
        return
    if fact.withdraw_requested_at_s:
        drop_channel(turn)
        leave(turn, "a withdrawal is pending on the kept channel")
        return
    if fact.balance_atomic < kept.charged:
        # The station gave back what was its own: a deposit would first have to fill the hole that this left.
        drop_channel(turn)
        leave(turn, f"the kept channel holds {fact.balance_atomic}, charged on it are {kept.charged}")
        return
    if fact.balance_atomic != kept.balance:
        seen = replace(kept, balance=fact.balance_atomic)
        turn.change(channels={**turn.state.channels, fact.channel_id.hex(): seen})
        leave(turn, f"the kept channel holds {fact.balance_atomic}, expected {kept.balance}: planned anew")
        return
    turn.update(channel_seen=True)
    _sign_on_a_known_head(turn)


def _sign_on_a_known_head(turn: RobotTurn) -> None:
    """After a restart the head of the chain is unknown, whatever was seen before: then it is asked for first."""
    if turn.head_is_known():
        sign_deposit(turn)
    elif turn.purpose("head") not in turn.session.jobs:
        turn.start(ReadHead(turn.purpose("head")))


def on_funds(turn: RobotTurn, fact: FundsObserved) -> None:
    """What the payer has: a deposit that can't be covered is never signed, and no station is blamed for it."""
    if not turn.end(fact.purpose):
        turn.ignore("funds read late")
        return
    turn.update(funds_atomic=fact.balance_atomic)
    _sign_on_a_known_head(turn)


def drop_channel(turn: RobotTurn) -> None:
    """Not used again; the books still know what is locked in it."""
    key = turn.session.contract().channel_id.hex()
    turn.change(channels={k: v for k, v in turn.state.channels.items() if k != key})


def sign_deposit(turn: RobotTurn) -> None:
    """The head of the chain was seen: sign deposit and start fee, or leave without having signed anything."""
    session = turn.session
    agreement = session.contract()
    if not session.channel_seen or turn.purpose("head") in session.jobs:
        return  # the channel of an earlier session and the head of the chain are looked at first
    if session.rail == EXACT:
        _go_for_blocks(turn)
        return
    if agreement.deposit_atomic and session.funds_atomic < 0:
        return  # so is what the payer has
    if agreement.deposit_atomic > max(0, session.funds_atomic):
        short = f"the payer has {session.funds_atomic}, the deposit is {agreement.deposit_atomic}"
        if not session.helped:
            turn.update(helped=True)
            turn.emit(CallForHelp(short))
        leave(turn, short)
        return
    terms = agreement.agreed.terms
    fee = terms.start_fee_atomic
    # The start fee is an agreed fee with a limit of its own (checked with the terms): nothing is ahead of energy yet.
    refused = turn.head_disagrees() or refuse_signature(
        turn.policy, turn.exposure(), rise_atomic=fee, ahead_atomic=0, now_s=turn.at.wall_s
    )
    if not refused and agreement.deposit_atomic and agreement.valid_before_s - turn.at.wall_s < MARGIN_S:
        refused = f"the deposit would be valid for less than {MARGIN_S} s"
    if refused:
        leave(turn, refused)
        return
    ceiling = agreement.base_atomic + fee
    digest = digest_voucher(turn.settings.network, agreement.channel_id, ceiling)
    if agreement.deposit_atomic:
        deposit, deposit_digest = _authorize(turn)
        turn.record_signature(ceiling)
        payload = build_deposit(agreement.agreed, agreement.channel, agreement.channel_id, ceiling, deposit)
        letter = turn.tell(
            PaymentBody(payload), keep=True, voucher_digest=digest, deposit_digest=deposit_digest
        )
    else:
        turn.record_signature(ceiling)
        need = Need(agreement.agreed.requirements, fee, agreement.base_atomic)
        payload = build_voucher(agreement.agreed, need, agreement.channel, agreement.channel_id, ceiling)
        letter = turn.tell(PaymentBody(payload), keep=True, voucher_digest=digest)
    turn.update(payment=Pending(letter, need="", amount=fee, charged=agreement.base_atomic))
    turn.set_timer("poll", 10 * turn.settings.poll_ms)


def _go_for_blocks(turn: RobotTurn) -> None:
    if turn.session.funds_atomic < 0:
        return
    refused = robot_block.refuse_first(turn)
    if refused:
        leave(turn, refused)
    else:
        _drive(turn)


def _authorize(turn: RobotTurn) -> tuple[DepositAuthorization, bytes]:
    """The deposit, in the books before the wish to sign it; the digest is empty when its owner signed it already."""
    agreement = turn.session.contract()
    channel = ChannelId(agreement.channel_id)
    ledger = turn.state.ledger
    promised = ledger.promise(channel, Address(agreement.agreed.receiver), agreement.deposit_atomic)
    turn.change(ledger=promised)
    if agreement.presigned is not None:
        digest = presigned_digest(turn.settings, agreement.presigned)
        turn.change(presigned_used=(*turn.state.presigned_used, digest.hex()))
        return authorization_of(agreement.presigned), b""
    deposit = DepositAuthorization(
        amount_atomic=agreement.deposit_atomic,
        valid_after_s=0,
        valid_before_s=agreement.valid_before_s,
        salt=keccak256(turn.session.salt + b"deposit"),
        signature=SIGNATURE_NONE,
    )
    return deposit, digest_deposit(turn.settings.network, turn.settings.payer, channel, deposit)


def leave(turn: RobotTurn, reason: str) -> None:
    """Nothing was signed: release the connector and try again later."""
    turn.tell(SessionStop("Other", reason[:512]))
    turn.clear_timers()
    ranking = tuple(
        replace(item, refused=reason, chosen=False) if item.chosen else item for item in turn.session.ranking
    )
    turn.update(
        jobs={},
        ranking=ranking,
        agreement=None,
        money=Money(),
        channel_seen=False,
        funds_atomic=-1,
        rail=SCHEME,
    )
    back_off(turn, reason)


def on_deposit_answer(turn: RobotTurn, body: PaymentResult, sender_token: str) -> None:
    """The station says what became of the deposit; only the chain is believed."""
    pending = turn.session.payment
    if pending is None or body.answers != pending.letter:
        turn.ignore("late payment result")
        return
    if not body.settle.success:
        reason = str(body.settle.error_reason)
        stop(turn, "DeAuthorized", f"deposit refused: {reason}", fault=FAILED, tokens=(sender_token,))
        return
    if not session_pays_deposit(turn):
        _on_fee_answer(turn, pending, body, sender_token)
        return
    turn.answer(pending.letter)
    turn.update(payment=None)
    note_transaction(turn, "deposit", body.settle.transaction)
    read_channel(turn)


def session_pays_deposit(turn: RobotTurn) -> bool:
    """Whether something is deposited for this session."""
    return turn.session.contract().deposit_atomic > 0


def _on_fee_answer(turn: RobotTurn, pending: Pending, body: PaymentResult, token: str) -> None:
    """The start fee was taken from a kept channel: the sum must be right, then the robot may come."""
    agreement = turn.session.contract()
    try:
        charged, cumulative = read_charge(body.settle, agreement.channel_id)
    except RemoteError as error:
        stop(turn, "Other", str(error), fault=CHEATED, tokens=(token,))
        return
    if charged > pending.amount or cumulative != pending.charged + charged:
        expected = f"{pending.charged} and at most {pending.amount}"
        detail = f"station charged {charged} and sums to {cumulative}, expected {expected}"
        stop(turn, "Other", detail, fault=CHEATED, tokens=(token,))
        return
    _drive(turn)


def on_funding_channel(turn: RobotTurn, fact: ChannelObserved) -> None:
    """The channel on chain: funded means go."""
    turn.end_reads(fact.channel_id)
    session = turn.session
    agreement = session.contract()
    observe_channel(turn, fact)
    if fact.withdraw_requested_at_s or fact.total_claimed_atomic > session.money.signed:
        stop(turn, "DeAuthorized", "the channel is not as it was left", fault=FAILED)
        return
    if fact.balance_atomic < agreement.escrow_atomic:
        return  # not deep enough yet: the poll asks again
    if session_pays_deposit(turn):
        _drive(turn)


def _drive(turn: RobotTurn) -> None:
    """The money is in place: drive to the dock."""
    session = turn.session
    agreement = session.contract()
    turn.clear_timers()
    if session.payment is not None:
        turn.answer(session.payment.letter)
        turn.update(payment=None)
    if session.rail != EXACT:
        turn.money(charged=agreement.base_atomic + agreement.agreed.terms.start_fee_atomic)
    turn.update(dock="driving")
    turn.move(RobotPhase.APPROACHING)
    turn.set_timer("docking", turn.settings.docking_timeout_ms)
    turn.emit(start_docking(turn))


def start_docking(turn: RobotTurn) -> StartDocking:
    """The wish to drive in, the same after a restart."""
    offer = turn.session.contract().offer.offer
    return StartDocking(offer.dock, offer.marker_id, offer.pose_mm_mrad)


def on_funding_poll(turn: RobotTurn) -> None:
    """Time to look at the channel, whatever the station says."""
    turn.set_timer("poll", turn.settings.poll_ms)
    agreement = turn.session.contract()
    if turn.purpose("channel") not in turn.session.jobs:
        confirmations = agreement.agreed.terms.confirmations
        turn.start(ReadChannel(turn.purpose("channel"), agreement.channel_id, confirmations))


# --- no acceptable offer ------------------------------------------------------------------------------------


def back_off(turn: RobotTurn, reason: str) -> None:
    """Nobody sells for now: wait, doubling; then call for help and ask more rarely."""
    session = turn.session
    settings = turn.settings
    turn.answer(*(letter.id for letter in session.letters if letter.keep))
    turn.update(asked={}, agreement=None, payment=None)
    turn.emit(ReadBattery())  # too low to wait: shut down
    if session.rounds <= settings.back_off_tries:
        turn.move(RobotPhase.BACKING_OFF)
        turn.set_timer("again", settings.back_off_ms << min(session.rounds - 1, 10))
        return
    if session.phase == RobotPhase.IDLE.value:
        turn.move(RobotPhase.BACKING_OFF)
        turn.set_timer("again", settings.back_off_ms)
        return
    turn.move(RobotPhase.CALLING_FOR_HELP)
    if not session.helped:
        turn.update(helped=True)
        turn.emit(CallForHelp(f"no station sells: {reason}"))
    turn.set_timer("again", settings.help_retry_ms)


def on_again(turn: RobotTurn) -> None:
    """Time to ask again."""
    start_quoting(turn)


def on_waiting_reading(turn: RobotTurn, reading: BatteryRead) -> None:
    """The battery while nobody sells: shut down before deep discharge."""
    turn.update(
        wanted=replace(turn.session.wanted, state_of_charge_permille=reading.state_of_charge_permille)
    )
    waiting = turn.at_phase(RobotPhase.BACKING_OFF, RobotPhase.CALLING_FOR_HELP)
    if waiting and reading.state_of_charge_permille <= turn.settings.shutdown_permille:
        turn.clear_timers()
        turn.move(RobotPhase.SHUT_DOWN)
        turn.emit(ShutDownSafely(f"battery at {reading.state_of_charge_permille / 10} % and nobody sells"))


def on_waiting_battery(turn: RobotTurn, fact: BatteryObserved) -> None:
    """The answer to a look at the battery."""
    if fact.reading is not None:
        on_waiting_reading(turn, fact.reading)


def cancel(turn: RobotTurn) -> None:
    """Stopped before anything was signed; the station's hold runs out by itself."""
    turn.clear_timers()
    turn.update(jobs={}, asked={})
    turn.move(RobotPhase.IDLE)
