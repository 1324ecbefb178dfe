"""What a robot's machine knows: frozen values, rebuilt by folding the journal. Nothing here decides."""

from typing import Any

import msgspec
from msgspec import Struct, field

from depai_robot.charging.effect import ChannelJson
from depai_robot.charging.fact import BatteryRead
from depai_robot.charging.message import Offer
from depai_robot.charging.reconciliation import MeterRecord, Reconciliation
from depai_robot.charging.selection import Candidate, Wanted
from depai_robot.charging.setting import PresignedDeposit, RobotSettings
from depai_robot.charging.terms import Agreed
from depai_robot.charging.transition import RobotPhase
from depai_robot.charging.turn import Dialogue
from depai_robot.payment.ledger import Ledger
from depai_robot.payment.policy import Exposure
from depai_robot.payment.x402 import EXACT, SCHEME
from depai_robot.values.error import BugError
from depai_robot.values.money import cost_atomic

TRANCHES_MAX = 10_000


class KnownOffer(Struct, frozen=True):
    """A station's signed offer.

    Attributes:
        offer: the body.
        sender: its signer: the station's identity.
        token: as it came: evidence.
        ts: when it was signed.
        until_s: when it expires.
    """

    offer: Offer
    sender: bytes
    token: str
    ts: int
    until_s: int


class Answer(Struct, frozen=True):
    """What a station said to a quote request.

    Attributes:
        token: as it came.
        agreed: the quote, None when it was refused.
        refused: why.
    """

    token: str
    agreed: Agreed | None = None
    refused: str = ""


class Bar(Struct, frozen=True):
    """A station that is not asked.

    Attributes:
        reason: why.
        until_s: when it may be asked again.
        failures: in a row; each bars for twice as long as the one before.
    """

    reason: str
    until_s: int
    failures: int = 1


class Agreement(Struct, frozen=True):
    """The station chosen, and the channel to pay it by.

    Attributes:
        offer: its signed offer.
        quote_token: its signed quote.
        agreed: the quote in plain values.
        channel: config of the channel.
        channel_id: 32 bytes.
        escrow_atomic: what the channel must hold on chain, claimed parts included, before the robot drives.
        valid_before_s: the deposit's authorisation lapses at this chain time.
        deposit_atomic: what of it is deposited for this session; 0 pays from what an earlier one left.
        base_atomic: charged on the channel in earlier sessions.
        presigned: the owner signed the deposit beforehand; what is needed of it.
    """

    offer: KnownOffer
    quote_token: str
    agreed: Agreed
    channel: ChannelJson
    channel_id: bytes
    escrow_atomic: int
    valid_before_s: int
    deposit_atomic: int = 0
    base_atomic: int = 0
    presigned: PresignedDeposit | None = None


class Money(Struct, frozen=True):
    """Money of one session, in atomic units; sums are those of the channel, earlier sessions included.

    Attributes:
        base: charged on the channel before this session.
        signed: highest ceiling signed in this session, at least ``base``.
        charged: what the station has charged, as far as it was checked.
        escrow: confirmed on chain.
        claimed: on chain, as last read.
        balance: on chain, as last read (does not fall by claims).
        owed: agreed at the end; -1 before.
        vouchers: signed so far.
        refund_rounds: refund requests signed so far.
    """

    base: int = 0
    signed: int = 0
    charged: int = 0
    escrow: int = 0
    claimed: int = 0
    balance: int = 0
    owed: int = -1
    vouchers: int = 0
    refund_rounds: int = 0


class Block(Struct, frozen=True):
    """A block of energy that was paid by a transfer.

    Attributes:
        nonce: of the authorisation; names it in the books.
        amount_atomic: of it.
        valid_before_s: chain time.
        fate: ``used`` or ``lapsed`` by the chain, empty before that is known.
    """

    nonce: bytes
    amount_atomic: int
    valid_before_s: int
    fate: str = ""


class Tranche(Struct, frozen=True):
    """One voucher for energy; screens and reports show these.

    Attributes:
        number: 1, 2, 3, ...
        station_milliwh: stated when it was signed.
        own_milliwh: own meter then.
        ceiling_atomic: signed, less what earlier sessions cost on the same channel.
        cost_atomic: owed then, for this session.
    """

    number: int
    station_milliwh: int
    own_milliwh: int
    ceiling_atomic: int
    cost_atomic: int


class MeterLog(Struct, frozen=True):
    """Both meters in one session.

    Attributes:
        begin_milliwh: station's register at the begin, -1 before.
        own_begin_milliwh: own pads meter then.
        pagination: of the last statement accepted.
        begin_statement: text of the first.
        statement: text of that statement.
        reconciled: both meters since the begin.
        own_last_milliwh: own meter since the begin, newest reading of any kind.
        station_claim_milliwh: largest that the station stated, believed or not.
        begin_token, last_token: the messages that carried the first and last statement.
        final: the statement of the end came and was believed.
        moved_milliwh: own meter since the begin, when energy was last seen to flow.
    """

    begin_milliwh: int = -1
    own_begin_milliwh: int = 0
    pagination: int = -1
    begin_statement: str = ""
    statement: str = ""
    reconciled: Reconciliation = Reconciliation()
    own_last_milliwh: int = 0
    station_claim_milliwh: int = 0
    begin_token: str = ""
    last_token: str = ""
    final: bool = False
    moved_milliwh: int = 0


class Stop(Struct, frozen=True):
    """Why a session ended.

    Attributes:
        reason: OCPP stoppedReason word.
        detail: for people.
        fault: ``""`` nobody's, ``failed`` the station did not serve, ``cheated`` it broke the rules.
        at_s: wall clock.
    """

    reason: str
    detail: str
    fault: str
    at_s: int


class Pending(Struct, frozen=True):
    """A payment under way.

    Attributes:
        letter: id of its message.
        need: id of the message that asked for it.
        amount: that it adds, at most chargeable.
        charged: charged before it.
    """

    letter: str
    need: str
    amount: int
    charged: int


class Deferred(Struct, frozen=True):
    """A request that waits for a fresh look at the head of the chain."""

    token: str
    sender: bytes
    reading: BatteryRead | None


class Session(Dialogue, frozen=True, kw_only=True):
    """One session, from the wish for energy to the receipt.

    Attributes:
        phase: where it stands.
        salt: of the channel.
        wanted: energy and place.
        opened_s: wall clock.
        rounds: of asking for quotes.
        asked: id of the request by station identity (hex), while unanswered.
        answers: by station identity (hex).
        ranking: the choice, best first.
        agreement: once a station is chosen.
        money: see there.
        meter: see there.
        tranches: history.
        payment: under way.
        last_need: id of the newest request that was answered with a voucher.
        deferred: waiting for the head of the chain.
        dock: ``""`` away, ``driving``, ``docked``, ``leaving``, ``stuck``, ``held`` (current flows that should not).
        probe: nonce read on the pads.
        undockings: tries.
        stop: why it ended.
        ended: the station confirmed the end of charging, or did not in time.
        ended_ns: session clock when it had ended; for the idle fee.
        idle_ms: on the connector after the end of charging, by the robot's own clock.
        helped: help was called already.
        transactions: hash (hex) by what it did: deposit, claim, refund, settle, withdraw.
        lapse_block: first block seen that is too late for an unused deposit, 0 before.
        withdraw_at_s: chain time when a withdrawal may be finalised, 0 when none is pending.
        overclaimed: more was claimed than is owed; the evidence is kept.
        evidence: keccak-256 (hex) of each piece of evidence kept.
        path: phases so far with their causes, for reports.
        channel_seen: a channel of an earlier session was read from the chain and is as it was left.
        funds_atomic: what the payer has for a deposit; -1 before it was looked at.
        restarted: the robot itself was away in this session.
        keep: its rest stays in the channel for the next session.
        survival: agreed under the policy's survival clause, above the usual price.
        keep_atomic: so much stays in the channel, the rest was asked back.
        keep_refused: the station does not want that.
        closing: no energy: it only gets the rest of a kept channel back.
        rail: x402 scheme that it pays by.
        blocks: paid by transfers, for scheme exact.
    """

    phase: str
    salt: bytes
    wanted: Wanted
    opened_s: int
    rounds: int = 0
    asked: dict[str, str] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    ranking: tuple[Candidate, ...] = ()
    agreement: Agreement | None = None
    money: Money = Money()
    meter: MeterLog = MeterLog()
    tranches: tuple[Tranche, ...] = ()
    payment: Pending | None = None
    last_need: str = ""
    deferred: Deferred | None = None
    dock: str = ""
    probe: bytes = b""
    undockings: int = 0
    stop: Stop | None = None
    ended: bool = False
    ended_ns: int = 0
    idle_ms: int = 0
    helped: bool = False
    transactions: dict[str, str] = field(default_factory=dict)
    lapse_block: int = 0
    withdraw_at_s: int = 0
    overclaimed: bool = False
    evidence: tuple[str, ...] = ()
    path: tuple[tuple[str, str], ...] = ()
    channel_seen: bool = False
    funds_atomic: int = -1
    restarted: bool = False
    keep: bool = False
    keep_atomic: int = 0
    keep_refused: bool = False
    survival: bool = False
    closing: bool = False
    rail: str = SCHEME
    blocks: tuple[Block, ...] = ()

    def contract(self) -> Agreement:
        """The agreement. Raises BugError before there is one."""
        if self.agreement is None:
            raise BugError(f"session {self.id} in {self.phase} has no agreement")
        return self.agreement

    def fees(self, idle_minutes: int = 0) -> int:
        """Agreed fees, in atomic units."""
        if self.closing or self.rail == EXACT:
            return 0
        terms = self.contract().agreed.terms
        return terms.start_fee_atomic + idle_minutes * terms.idle_fee_atomic_per_min

    def owed_for(self, station_milliwh: int, idle_minutes: int = 0) -> int:
        """What is owed on the channel for an energy at the station's meter: fees and earlier sessions included."""
        price = self.contract().agreed.terms.price_atomic_per_kwh
        return self.money.base + self.fees(idle_minutes) + cost_atomic(price, station_milliwh)


class KeptChannel(Struct, frozen=True):
    """A channel between two sessions. Its totals never start again, so they are never forgotten while it is used.

    Attributes:
        agreement: of the last session on it.
        charged: agreed with the station, cumulative: the next session's base.
        balance: on chain, as last read; does not fall by claims.
        kept_s: wall clock of the end of the last session.
        closing: id of the session that gets the rest back, empty when none does.
    """

    agreement: Agreement
    charged: int
    balance: int
    kept_s: int
    closing: str = ""

    @property
    def rest_atomic(self) -> int:
        """What it still holds for energy."""
        return max(0, self.balance - self.charged)


class Head(Struct, frozen=True):
    """The newest block seen.

    Attributes:
        number: of the block.
        timestamp_s: chain time.
        seen_ns: session clock.
        skew_s: chain time minus wall clock, when it was seen.
    """

    number: int = 0
    timestamp_s: int = 0
    seen_ns: int = -1
    skew_s: int = 0


class RobotState(Struct, frozen=True, kw_only=True):
    """Everything a robot's machine knows.

    Attributes:
        settings: the owner's.
        now_ns: session clock of the last fact.
        session: in the foreground, None before the first.
        background: sessions whose rest is being withdrawn while the robot goes on.
        offers: by identity (hex).
        bars: stations not asked, by identity (hex).
        ledger: every channel's escrow and highest ceiling.
        head: of the chain.
        reading: the newest of the battery.
        ignored: how often something outside any session was ignored, by reason.
        finished: sessions so far.
        channels: kept, by id (hex).
        survival_s: wall clock when something was signed under the survival clause last; -1 never.
        presigned_used: pre-signed deposits that were sent, by digest (hex).
        meter_records: both meters over all sessions with a station, by identity (hex).
        settle_only_epoch: rows were lost: nothing new is bought until a policy with a later epoch is in force.
    """

    settings: RobotSettings
    now_ns: int = 0
    session: Session | None = None
    background: dict[str, Session] = {}
    offers: dict[str, KnownOffer] = {}
    bars: dict[str, Bar] = {}
    ledger: Ledger = Ledger()
    head: Head = Head()
    reading: BatteryRead | None = None
    ignored: dict[str, int] = {}
    finished: int = 0
    channels: dict[str, KeptChannel] = {}
    presigned_used: tuple[str, ...] = ()
    survival_s: int = -1
    meter_records: dict[str, MeterRecord] = {}
    settle_only_epoch: int = -1

    @property
    def phase(self) -> str:
        """Of the session in the foreground."""
        return RobotPhase.IDLE.value if self.session is None else self.session.phase

    @property
    def sessions(self) -> dict[str, Session]:
        """All that are open, by id."""
        every = dict(self.background)
        if self.session is not None:
            every[self.session.id] = self.session
        return every


def exposure_of(state: RobotState, session: Session, now_s: int) -> Exposure:
    """What is signed and locked: for the policy's limits."""
    return Exposure(
        session_atomic=session.money.signed - session.money.base,
        day_atomic=state.ledger.day_atomic(now_s),
        escrow_total_atomic=state.ledger.escrow_total_atomic,
    )


def summarise(state: RobotState) -> dict[str, Any]:
    """What a screen shows: plain values only."""
    out: dict[str, Any] = {
        "robot": state.settings.robot,
        "phase": state.phase,
        "offers": len(state.offers),
        "barred": {identity: bar.reason for identity, bar in state.bars.items()},
        "withdrawing": sorted(state.background),
        "finished": state.finished,
        "channels": {
            key: {
                "station": kept.agreement.agreed.terms.station,
                "rest_atomic": kept.rest_atomic,
                "charged_atomic": kept.charged,
                "closing": bool(kept.closing),
            }
            for key, kept in state.channels.items()
        },
    }
    session = state.session
    if session is None:
        return out
    out["session"] = session.id
    out["ranking"] = [msgspec.to_builtins(item) for item in session.ranking]
    out["stop"] = msgspec.to_builtins(session.stop) if session.stop else None
    out["dock"] = session.dock
    if session.agreement is not None:
        terms = session.agreement.agreed.terms
        out["station"] = terms.station
        out["channel_id"] = "0x" + session.agreement.channel_id.hex()
        out["escrow_atomic"] = session.agreement.escrow_atomic
        out["price_atomic_per_kwh"] = terms.price_atomic_per_kwh
        out["station_milliwh"] = session.meter.reconciled.station_milliwh
        out["own_milliwh"] = session.meter.own_last_milliwh
        base = session.money.base
        out["ceiling_atomic"] = session.money.signed - base
        out["cost_atomic"] = session.owed_for(session.meter.reconciled.station_milliwh) - base
        out["base_atomic"] = base
        out["tranches"] = [msgspec.to_builtins(item) for item in session.tranches]
    return out
