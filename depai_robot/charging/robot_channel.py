"""Channels across sessions: which one to pay from, what to add, what may stay in it, and getting the rest back.

A channel's totals never start again: a full refund leaves balance = claimed, above zero. So a channel is remembered
with what was charged on it, and the next session begins there.
"""

from msgspec import Struct
from msgspec.structs import replace

from depai_robot.charging.effect import ChannelJson
from depai_robot.charging.fact import ChannelCloseRequested
from depai_robot.charging.message import ChargingTerms
from depai_robot.charging.robot_state import KeptChannel, KnownOffer, Money, RobotState, Session, Stop
from depai_robot.charging.robot_turn import RobotTurn
from depai_robot.charging.selection import Wanted, escrow_atomic
from depai_robot.charging.setting import PresignedDeposit, RobotSettings
from depai_robot.charging.terms import Agreed, channel_key, digest_deposit, tranche_price_atomic
from depai_robot.charging.transition import RobotPhase
from depai_robot.payment.channel import DepositAuthorization
from depai_robot.payment.policy import Exposure, escrow_max_atomic
from depai_robot.values.identity import Address

PRESIGNED_MARGIN_S = 60
"""A pre-signed deposit must hold for so long when a session is planned on it; the relay needs a few blocks."""


class Plan(Struct, frozen=True):
    """How a session will be funded.

    Attributes:
        channel, channel_id: that it pays from.
        base_atomic: charged on it before.
        balance_atomic: on chain now, as far as known.
        deposit_atomic: to add, 0 for nothing.
        presigned: the deposit that the owner signed beforehand.
        refused: why it can't be funded, empty when it can.
    """

    channel: ChannelJson
    channel_id: bytes
    base_atomic: int = 0
    balance_atomic: int = 0
    deposit_atomic: int = 0
    presigned: PresignedDeposit | None = None
    refused: str = ""


def is_in_use(state: RobotState, channel_id: bytes) -> bool:
    """Whether an open session is on that channel, also one whose rest is being withdrawn in the background."""
    return any(
        session.agreement is not None
        and session.agreement.channel_id == channel_id
        and session.phase != RobotPhase.SETTLED.value
        for session in state.sessions.values()
    )


def kept_at(state: RobotState, identity: bytes) -> KeptChannel | None:
    """The channel with that station that holds the most, None when there is none to be used."""
    usable = [
        kept
        for kept in state.channels.values()
        if kept.agreement.offer.sender == identity
        and not kept.closing
        and not is_in_use(state, kept.agreement.channel_id)
    ]
    return max(usable, key=lambda kept: (kept.rest_atomic, kept.agreement.channel_id), default=None)


def channel_to_name(state: RobotState, identity: bytes) -> str | None:
    """The channel that a quote request names: one that still holds something."""
    kept = kept_at(state, identity)
    return "0x" + kept.agreement.channel_id.hex() if kept is not None and kept.rest_atomic else None


def exposure_with(exposure: Exposure, kept: KeptChannel | None) -> Exposure:
    """What is locked elsewhere: the rest of a channel that is used again is locked already, and not once more."""
    if kept is None:
        return exposure
    left = max(0, exposure.escrow_total_atomic - kept.rest_atomic)
    return Exposure(exposure.session_atomic, exposure.day_atomic, left)


def _channel_of(settings: RobotSettings, agreed: Agreed, salt: bytes) -> ChannelJson:
    return ChannelJson(
        payer=settings.payer,
        payer_authorizer=settings.voucher_key,
        receiver=agreed.receiver,
        receiver_authorizer=agreed.receiver_authorizer,
        token=settings.network.token,
        withdraw_delay_s=agreed.withdraw_delay_s,
        salt=salt,
    )


def plan_channel(turn: RobotTurn, known: KnownOffer, agreed: Agreed) -> Plan:
    """The channel for a session with that quote, and what must be added to it."""
    settings = turn.settings
    terms = agreed.terms
    kept = kept_at(turn.state, known.sender)
    if kept is not None and kept.agreement.channel != _channel_of(
        settings, agreed, kept.agreement.channel.salt
    ):
        kept = (
            None  # the station has other keys or another delay now: the old channel can not be used with it
        )
    if terms.channel is not None:
        return _plan_reuse(terms, kept)
    limit = exposure_with(turn.exposure(), kept)
    wished = escrow_atomic(settings, agreed, turn.session.wanted.energy_milliwh, limit)
    if settings.delegated:
        return _plan_presigned(turn, known, agreed, wished)
    if kept is None:
        channel = _channel_of(settings, agreed, turn.session.salt)
        return Plan(channel, channel_key(settings.network, channel), deposit_atomic=wished)
    known_channel = kept.agreement
    plan = Plan(
        known_channel.channel, known_channel.channel_id, base_atomic=kept.charged, balance_atomic=kept.balance
    )
    missing = wished - kept.rest_atomic
    if missing <= 0:
        return plan
    return replace(plan, deposit_atomic=max(missing, agreed.min_deposit_atomic))


def _plan_reuse(terms: ChargingTerms, kept: KeptChannel | None) -> Plan:
    """The station priced the session for a channel that it names, without a deposit."""
    empty = ChannelJson(bytes(20), bytes(20), bytes(20), bytes(20), bytes(20), 0, bytes(32))
    if kept is None or terms.channel != "0x" + kept.agreement.channel_id.hex():
        return Plan(empty, bytes(32), refused=f"priced for channel {terms.channel}, which can not be used")
    least = terms.start_fee_atomic + tranche_price_atomic(terms)
    refused = ""
    if kept.rest_atomic < least:
        refused = f"the kept channel holds {kept.rest_atomic}, start fee and one tranche are {least}"
    return Plan(
        kept.agreement.channel,
        kept.agreement.channel_id,
        base_atomic=kept.charged,
        balance_atomic=kept.balance,
        refused=refused,
    )


def presigned_digest(settings: RobotSettings, deposit: PresignedDeposit) -> bytes:
    """What the treasury signed: names the deposit."""
    channel = channel_key(settings.network, deposit.channel)
    return digest_deposit(settings.network, deposit.channel.payer, channel, authorization_of(deposit))


def authorization_of(deposit: PresignedDeposit) -> DepositAuthorization:
    """The authorisation as it travels."""
    return DepositAuthorization(
        amount_atomic=deposit.amount_atomic,
        valid_after_s=deposit.valid_after_s,
        valid_before_s=deposit.valid_before_s,
        salt=deposit.salt,
        signature=deposit.signature,
    )


def _plan_presigned(turn: RobotTurn, known: KnownOffer, agreed: Agreed, wished: int) -> Plan:
    """What is kept, if it holds enough; else the smallest pre-signed deposit that does, else the largest allowed."""
    settings = turn.settings
    terms = agreed.terms
    now_s = turn.at.wall_s
    least = terms.start_fee_atomic + tranche_price_atomic(terms)
    channel = _channel_of(settings, agreed, turn.session.salt)
    best = Plan(
        channel,
        channel_key(settings.network, channel),
        refused=f"no pre-signed deposit for {terms.station} that holds start fee and one tranche ({least})",
    )
    best_rank: tuple[bool, int, bytes] | None = None
    for deposit in (None, *settings.presigned):
        plan = _presigned_plan(turn, known, agreed, deposit, now_s)
        if plan is None:
            continue
        held = plan.balance_atomic - plan.base_atomic + plan.deposit_atomic
        if held < least:
            continue
        rank = (held < wished, held if held >= wished else -held, plan.channel_id)
        if best_rank is None or rank < best_rank:
            best, best_rank = plan, rank
    return best


def _presigned_plan(
    turn: RobotTurn, known: KnownOffer, agreed: Agreed, deposit: PresignedDeposit | None, now_s: int
) -> Plan | None:
    """The plan with that deposit, or with what is kept and no deposit; None when it may not be used."""
    settings = turn.settings
    if deposit is None:
        kept = kept_at(turn.state, known.sender)
        if kept is None or kept.agreement.channel != _channel_of(
            settings, agreed, kept.agreement.channel.salt
        ):
            return None
        channel, key = kept.agreement.channel, kept.agreement.channel_id
        return Plan(channel, key, base_atomic=kept.charged, balance_atomic=kept.balance)
    channel = deposit.channel
    if channel != _channel_of(settings, agreed, channel.salt):
        return None
    if not deposit.valid_after_s < now_s < deposit.valid_before_s - PRESIGNED_MARGIN_S:
        return None
    if presigned_digest(settings, deposit).hex() in turn.state.presigned_used:
        return None
    key = channel_key(settings.network, channel)
    kept = turn.state.channels.get(key.hex())
    if is_in_use(turn.state, key) or (kept is not None and kept.closing):
        return None
    rest = kept.rest_atomic if kept else 0
    limit = escrow_max_atomic(settings.policy, Address(agreed.receiver), exposure_with(turn.exposure(), kept))
    if rest + deposit.amount_atomic > limit:
        return None
    return Plan(
        channel,
        key,
        base_atomic=kept.charged if kept else 0,
        balance_atomic=kept.balance if kept else 0,
        deposit_atomic=deposit.amount_atomic,
        presigned=deposit,
    )


# --- getting the rest back ----------------------------------------------------------------------------------


def closing_session(state: RobotState, fact: ChannelCloseRequested) -> Session | None:
    """The session that closes a kept channel, None when there is no such channel or nothing in it."""
    kept = state.channels.get(fact.channel_id.hex())
    if kept is None or kept.closing or not kept.rest_atomic or fact.session in state.sessions:
        return None
    if is_in_use(state, fact.channel_id):
        return None
    return Session(
        id=fact.session,
        phase=RobotPhase.IDLE.value,
        salt=kept.agreement.channel.salt,
        wanted=Wanted(0, 0, 0, 0),
        opened_s=fact.at.wall_s,
        agreement=kept.agreement,
        money=Money(
            base=kept.charged,
            signed=kept.charged,
            charged=kept.charged,
            escrow=kept.balance,
            balance=kept.balance,
        ),
        stop=Stop("Remote", fact.reason[:512], "", fact.at.wall_s),
        closing=True,
    )


def mark_closing(state: RobotState, channel_id: bytes, session: str) -> RobotState:
    """The channel is not used for sessions any more."""
    key = channel_id.hex()
    return replace(state, channels={**state.channels, key: replace(state.channels[key], closing=session)})


def stale_channels(state: RobotState, now_s: int) -> list[bytes]:
    """Channels that were kept for too long and still hold something."""
    return [
        kept.agreement.channel_id
        for kept in state.channels.values()
        if kept.rest_atomic
        and not kept.closing
        and not is_in_use(state, kept.agreement.channel_id)
        and now_s - kept.kept_s > state.settings.keep_max_s
    ]
