"""The scratch pad of one step of the robot: its state beside the session in hand, and what every phase needs."""

from msgspec.structs import replace

from depai_robot.charging.effect import KeepEvidence
from depai_robot.charging.fact import BatteryRead, Fact
from depai_robot.charging.message import Body
from depai_robot.charging.robot_state import Bar, Money, RobotState, Session, exposure_of
from depai_robot.charging.setting import station_inbox
from depai_robot.charging.transition import RobotPhase
from depai_robot.charging.turn import Correspondence, Turn
from depai_robot.payment.policy import (
    Exposure,
    SpendPolicy,
    grants_survival,
    may_survive,
    survival_policy,
)
from depai_robot.values.identity import ChannelId, keccak256

FAILED, CHEATED = "failed", "cheated"
FOREVER_S = 2**40
BAR_DOUBLINGS_MAX = 10
PATH_MAX = 64


class RobotTurn(Turn[Session]):
    """Changes copies of the state and of one session."""

    def __init__(self, state: RobotState, fact: Fact, cause: str, session: Session) -> None:
        settings = state.settings
        speaker = Correspondence(
            role="robot",
            chain_id=settings.network.chain_id,
            message_ttl_s=settings.message_ttl_s,
            retry_ms=settings.retry_ms,
            chain_retry_ms=settings.chain_retry_ms,
        )
        super().__init__(speaker, fact, cause, session)
        self.state = state
        self.settings = settings

    def change(self, **changes: object) -> None:
        """Changes fields of the robot's state."""
        self.state = replace(self.state, **changes)

    def store(self) -> RobotState:
        """The state with the session in its place."""
        session = self.session
        state = self.state
        if session.id in state.background:
            kept = {k: v for k, v in state.background.items() if k != session.id}
            if session.phase != RobotPhase.SETTLED.value:
                kept[session.id] = session
            return replace(state, background=kept)
        gone = session.phase == RobotPhase.IDLE.value
        return replace(state, session=None if gone else session)

    def move(self, after: RobotPhase) -> None:
        """Goes to another phase; the way is kept for the report. Raises BugError when it is not in the table."""
        self.move_to(after.value)
        self.update(path=(*self.session.path, (self.cause, after.value))[-PATH_MAX:])

    def at_phase(self, *phases: RobotPhase) -> bool:
        """Whether the session is in one of them."""
        return any(self.session.phase == phase.value for phase in phases)

    def money(self, **changes: int) -> Money:
        """Changes the session's money."""
        self.update(money=replace(self.session.money, **changes))
        return self.session.money

    def tell(
        self,
        body: Body,
        *,
        keep: bool = False,
        voucher_digest: bytes = b"",
        deposit_digest: bytes = b"",
        transfer_digest: bytes = b"",
    ) -> str:
        """A message to the chosen station."""
        offer = self.session.contract().offer
        return self.post(
            body,
            to=offer.sender,
            topic=station_inbox(self.settings.zone, offer.offer.station),
            keep=keep,
            voucher_digest=voucher_digest,
            deposit_digest=deposit_digest,
            transfer_digest=transfer_digest,
        )

    def exposure(self) -> Exposure:
        """What is signed and locked."""
        return exposure_of(self.state, self.session, self.at.wall_s)

    @property
    def policy(self) -> SpendPolicy:
        """In force for this session: the owner's, or what it grants for survival, under the task's limits."""
        policy = self.settings.policy
        if self.session.survival and grants_survival(policy):
            policy = survival_policy(policy)
        return self.session.wanted.tighten(policy)

    def may_survive(self) -> bool:
        """Whether a charge above the usual price may be agreed now."""
        last_s = self.state.survival_s
        return may_survive(
            self.settings.policy,
            self.session.wanted.state_of_charge_permille,
            survival_s=None if last_s < 0 else last_s,
            now_s=self.at.wall_s,
        )

    def note_survival(self) -> None:
        """Something is signed: that was the one charge of the day under the survival clause."""
        if self.session.survival and not self.session.money.vouchers:
            self.change(survival_s=self.at.wall_s)

    def record_signature(self, ceiling_atomic: int) -> None:
        """In the books, before the wish to sign leaves. Raises BugError when a ceiling falls or exceeds escrow."""
        self.note_survival()
        channel = ChannelId(self.session.contract().channel_id)
        # On a kept channel the last voucher of an earlier session may lie higher: exposure is the highest ever.
        if ceiling_atomic > self.state.ledger.account(channel).ceiling_atomic:
            self.change(ledger=self.state.ledger.sign(channel, ceiling_atomic, self.at.wall_s))
        money = self.session.money
        self.money(signed=max(money.signed, ceiling_atomic), vouchers=money.vouchers + 1)

    def head_is_known(self) -> bool:
        """Whether the head of the chain was seen lately."""
        head = self.state.head
        age_ns = self.at.session_ns - head.seen_ns
        return head.seen_ns >= 0 and 0 <= age_ns <= self.settings.head_age_max_ms * 1_000_000

    def head_disagrees(self) -> str:
        """Why nothing may be signed, or empty."""
        skew = self.state.head.skew_s
        if abs(skew) > self.settings.clock_skew_max_s:
            return (
                f"head of the chain and wall clock differ by {skew} s,"
                f" at most {self.settings.clock_skew_max_s} is allowed"
            )
        return ""

    def fresh(self, reading: BatteryRead | None) -> BatteryRead | None:
        """The reading, if it is young enough to authorise money."""
        if (
            reading is None
            or self.at.session_ns - reading.stamp_ns > self.settings.reading_age_max_ms * 1_000_000
        ):
            return None
        return reading

    def keep_evidence(self, reason: str, tokens: tuple[str, ...]) -> None:
        """What convicts the other side, with what it had agreed to."""
        agreement = self.session.agreement
        agreed = (agreement.offer.token, agreement.quote_token) if agreement else ()
        every = tuple(token for token in (*agreed, self.session.meter.begin_token, *tokens) if token)
        digest = "0x" + keccak256("\n".join((reason, *every)).encode()).hex()
        self.update(evidence=(*self.session.evidence, digest))
        self.emit(KeepEvidence(self.session.id, reason, every))

    def bar(self, identity: bytes, reason: str, fault: str) -> None:
        """Don't ask that station: for a while when it failed, each time for longer, and never when it cheated.

        Otherwise one that only ever takes the start fee could do so every time.
        """
        known = self.state.bars.get(identity.hex())
        failures = 1 if known is None else known.failures + (known.until_s <= self.at.wall_s)
        while_s = self.settings.bar_s << min(failures - 1, BAR_DOUBLINGS_MAX)
        until_s = FOREVER_S if fault == CHEATED else self.at.wall_s + while_s
        if known is None or known.until_s <= until_s:
            self.change(bars={**self.state.bars, identity.hex(): Bar(reason[:512], until_s, failures)})

    def forgive(self, identity: bytes) -> None:
        """A session went well: failures before it do not count any more."""
        known = self.state.bars.get(identity.hex())
        if known is not None and known.until_s <= self.at.wall_s:
            self.change(bars={k: v for k, v in self.state.bars.items() if k != identity.hex()})
