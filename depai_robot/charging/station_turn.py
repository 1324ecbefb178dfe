"""The scratch pad of one step of the station: its state beside the session in hand, and what every phase needs."""

from msgspec.structs import replace

from depai_robot.charging.effect import Deenergise, ReadChannel, ReadMeter
from depai_robot.charging.fact import Fact
from depai_robot.charging.message import Body, Offer, PaymentResult
from depai_robot.charging.setting import StationSettings, robot_inbox
from depai_robot.charging.station_state import (
    Channel,
    Connector,
    Finished,
    Meter,
    StationSession,
    StationState,
)
from depai_robot.charging.terms import build_channel_state, build_failure, build_need
from depai_robot.charging.transition import StationPhase
from depai_robot.charging.turn import Correspondence, Dialogue, Turn
from depai_robot.payment.x402 import ChannelStateJson
from depai_robot.values.identity import address_to_hex

FORGET_MS = 120_000
"""A session that is over still answers repeated messages for so long."""
PATH_MAX = 64


def speaker_of(settings: StationSettings) -> Correspondence:
    """Who speaks."""
    return Correspondence(
        role="station",
        chain_id=settings.network.chain_id,
        message_ttl_s=settings.message_ttl_s,
        retry_ms=settings.retry_ms,
        chain_retry_ms=settings.chain_retry_ms,
    )


class StationTurn(Turn[StationSession]):
    """Changes copies of the state and of one session."""

    def __init__(self, state: StationState, fact: Fact, cause: str, session: StationSession) -> None:
        super().__init__(speaker_of(state.settings), fact, cause, session)
        self.state = state
        self.settings = state.settings

    def store(self) -> StationState:
        """The state with the session in its place."""
        return replace(self.state, sessions={**self.state.sessions, self.session.id: self.session})

    def move(self, after: StationPhase) -> None:
        """Goes to another phase; the way is kept for reports. Raises BugError when it is not in the table."""
        self.move_to(after.value)
        self.update(path=(*self.session.path, (self.cause, after.value))[-PATH_MAX:])

    def at_phase(self, *phases: StationPhase) -> bool:
        """Whether the session is in one of them."""
        return any(self.session.phase == phase.value for phase in phases)

    def tell(self, body: Body, *, keep: bool = False, answers: str = "") -> str:
        """A message to the robot."""
        return self.post(
            body,
            to=self.session.identity,
            topic=robot_inbox(self.settings.zone, self.session.request.robot),
            keep=keep,
            answers=answers,
        )

    def channel(self, **changes: object) -> Channel:
        """Changes what is known of the channel."""
        channel = replace(self.session.paid_by(), **changes)
        self.update(channel=channel)
        return channel

    def meter(self, **changes: object) -> Meter:
        """Changes what is known of the meter."""
        meter = replace(self.session.meter, **changes)
        self.update(meter=meter)
        return meter

    def connector(self, **changes: object) -> Connector:
        """Changes the session's connector."""
        number = self.session.connector
        item = replace(self.state.connectors[number], **changes)
        self.state = replace(self.state, connectors={**self.state.connectors, number: item})
        return item

    def read_meter(self, transaction: str) -> None:
        """Asks for a signed statement, the next by number."""
        number = self.connector(
            pagination=self.state.connectors[self.session.connector].pagination + 1
        ).pagination
        self.meter(reading=transaction)
        self.emit(ReadMeter(self.session.connector, self.session.id, transaction, number))
        self.set_timer("meter", 1000 + 3 * self.settings.report_interval_ms)

    def read_channel(self, confirmations: int) -> None:
        """Asks the chain."""
        purpose = self.purpose("channel")
        if purpose not in self.session.jobs:
            self.start(ReadChannel(purpose, self.session.paid_by().id, confirmations))

    def channel_state(self) -> ChannelStateJson:
        """What the station says of the channel."""
        channel = self.session.paid_by()
        return build_channel_state(channel.id, channel.balance, channel.claimed, channel.charged)

    def refuse_payment(self, message_id: str, reason: str, *, amount: int | None = None) -> None:
        """Answers a payment with the scheme's error; with an amount, also with what would be right."""
        required = None
        if amount is not None:
            required = build_need(
                self.settings, self.session.connector, amount, self.channel_state(), error=reason
            )
        self.tell(
            PaymentResult(message_id, build_failure(self.settings.network, reason), required),
            answers=message_id,
        )

    def power_off(self) -> None:
        """Ramps down and opens."""
        self.emit(Deenergise(self.session.connector))

    def release(self) -> None:
        """The connector is free again."""
        self.update(holding=False)

    def forget_later(self) -> None:
        """A session that is over: its late messages are still answered for a while."""
        self.clear_timers()
        self.answer(*(item.id for item in self.session.letters if item.keep))
        self.set_timer("forget", FORGET_MS)


def make_offer(state: StationState) -> Offer:
    """What the station says of itself now."""
    settings = state.settings
    return Offer(
        station=settings.station,
        name=settings.name,
        dock=settings.dock,
        marker_id=settings.marker_id,
        pose_mm_mrad=settings.pose_mm_mrad,
        power_max_w=settings.power_max_w,
        price_atomic_per_kwh=settings.price_atomic_per_kwh,
        start_fee_atomic=settings.start_fee_atomic,
        available=settings.in_service and state.free_connector() is not None,
        network=settings.network.caip2,
        asset=address_to_hex(settings.network.token),
        receiver=address_to_hex(settings.receiver),
        receiver_authorizer=address_to_hex(settings.receiver_authorizer),
        meter=settings.meters[0],
        reuse_fee_atomic=settings.reuse_fee_atomic or None,
    )


def post_offer(turn: Turn[Dialogue], state: StationState) -> None:
    """Publishes the offer, retained, and again before it expires."""
    settings = state.settings
    turn.answer(*(item.id for item in turn.session.letters))
    turn.post(make_offer(state), to=None, topic=settings.offer_topic, retain=True, ttl_s=settings.offer_ttl_s)
    turn.set_timer("offer", settings.offer_interval_ms)


def forget(state: StationState, session_id: str, now_s: int) -> StationState:
    """Drops a session that is over, but remembers its id."""
    session = state.sessions[session_id]
    finished = {k: v for k, v in state.finished.items() if v.until_s > now_s}
    entry = Finished(now_s + state.settings.finished_keep_s, session.seq, session.channel is not None)
    return replace(
        state,
        sessions={k: v for k, v in state.sessions.items() if k != session_id},
        finished={**finished, session_id: entry},
    )
