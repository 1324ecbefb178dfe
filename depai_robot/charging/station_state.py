"""What a station's machine knows: frozen values, rebuilt by folding the journal. Nothing here decides."""

from typing import Any

from msgspec import Struct, field

from depai_robot.charging.effect import ChannelJson
from depai_robot.charging.message import ChargingTerms, QuoteRequest
from depai_robot.charging.setting import StationSettings
from depai_robot.charging.transition import StationPhase
from depai_robot.charging.turn import Dialogue
from depai_robot.values.error import BugError
from depai_robot.values.money import cost_atomic, energy_bought_milliwh

LOBBY = "-"


class Channel(Struct, frozen=True):
    """The robot's channel, and the best voucher for it.

    Attributes:
        config: of the channel.
        id: 32 bytes.
        escrow: what it must hold on chain, claimed parts included, before the robot may come.
        deposit_atomic: what of it is deposited for this session; 0 is paid from what an earlier one left.
        base: charged in earlier sessions.
        deposit_valid_before_s, deposit_valid_after_s, deposit_salt, deposit_signature: of its authorisation.
        balance: confirmed on chain.
        claimed: on chain.
        ceiling: highest accepted in this session.
        signature: of that voucher.
        charged: billed so far, cumulative; durable before power flows.
    """

    config: ChannelJson
    id: bytes
    escrow: int
    deposit_valid_after_s: int = 0
    deposit_valid_before_s: int = 0
    deposit_salt: bytes = b""
    deposit_signature: bytes = b""
    deposit_atomic: int = 0
    base: int = 0
    balance: int = 0
    claimed: int = 0
    ceiling: int = 0
    signature: bytes = b""
    charged: int = 0


class Meter(Struct, frozen=True):
    """The connector's meter in one session.

    Attributes:
        begin_milliwh: register at the begin, -1 before.
        last_milliwh: newest register.
        sold_milliwh: delivered when the newest voucher was accepted.
        reading: OCMF letter of a statement under way, empty when none is.
        begin_statement, statement: first and newest text.
    """

    begin_milliwh: int = -1
    last_milliwh: int = 0
    sold_milliwh: int = 0
    reading: str = ""
    begin_statement: str = ""
    statement: str = ""


class SoldBlock(Struct, frozen=True):
    """A block of energy, and the transfer that pays it.

    Attributes:
        nonce: of the transfer.
        payer: who pays.
        amount: atomic units.
        message: id of the payment that carried it.
        paid: confirmed on chain.
    """

    nonce: bytes
    payer: bytes
    amount: int
    message: str
    paid: bool = False


class Need(Struct, frozen=True):
    """A voucher asked for.

    Attributes:
        letter: id of the request.
        amount: that it shall add.
    """

    letter: str
    amount: int


class StationSession(Dialogue, frozen=True, kw_only=True):
    """One robot's session.

    Attributes:
        phase: where it stands.
        identity: who asked.
        request: what for.
        request_id: of that message.
        connector: held for it.
        terms: quoted.
        holding: whether it occupies the connector.
        hold_ms: the quote holds it for so long; as much as its robot may still hold for nothing.
        held_ns: session clock when that began.
        channel: once a deposit came.
        deposit_message: id of the payment that carried it.
        refund_message: id of the refund request, once it was accepted.
        meter: see there.
        need: voucher under way.
        probe: nonce that the robot read.
        resuming: power comes back with the next statement after a restart.
        stop_reason: OCPP word.
        stop_tries: of seeing the current gone.
        hurry: somebody withdraws: claim at once.
        ended_ns: session clock when charging had ended.
        left_ns: when the robot had left.
        opened_s, ended_s: wall clock.
        chain_tries: of the present chain action.
        trouble: why the operator should look at it, empty when nothing is wrong.
        transactions: hash (hex) by what it did.
        vouchers: accepted.
        path: phases so far with their causes.
        closing: no energy: the robot only gets the rest of a kept channel back.
        kept: the robot left its rest in the channel.
        rest_target: so much is left in the channel by a partial refund; 0 gives all the rest back.
        blocks_only: it pays by transfers (scheme exact); the channel only holds their sums.
        blocks: sold so.
        block_fee_atomic: quoted.
        counters: rounds of haggling so far.
    """

    phase: str
    identity: bytes
    request: QuoteRequest
    request_id: str
    connector: int
    terms: ChargingTerms
    opened_s: int
    holding: bool = True
    hold_ms: int = 0
    held_ns: int = 0
    channel: Channel | None = None
    deposit_message: str = ""
    refund_message: str = ""
    meter: Meter = Meter()
    need: Need | None = None
    probe: bytes = b""
    resuming: bool = False
    stop_reason: str = ""
    stop_tries: int = 0
    hurry: bool = False
    ended_ns: int = 0
    left_ns: int = 0
    ended_s: int = 0
    chain_tries: int = 0
    trouble: str = ""
    transactions: dict[str, str] = field(default_factory=dict)
    vouchers: int = 0
    path: tuple[tuple[str, str], ...] = ()
    closing: bool = False
    kept: bool = False
    rest_target: int = 0
    blocks_only: bool = False
    blocks: tuple[SoldBlock, ...] = ()
    block_fee_atomic: int = 0
    counters: int = 0

    @property
    def block_price_atomic(self) -> int:
        """Of a block, by what the quote said."""
        energy = self.terms.block_milliwh or 0
        return self.block_fee_atomic + cost_atomic(self.terms.price_atomic_per_kwh, energy)

    @property
    def start_fee_atomic(self) -> int:
        """Owed once the money is in place."""
        return 0 if self.closing else self.terms.start_fee_atomic

    def paid_by(self) -> Channel:
        """The channel. Raises BugError before there is one."""
        if self.channel is None:
            raise BugError(f"session {self.id} in {self.phase} has no channel")
        return self.channel

    @property
    def delivered_milliwh(self) -> int:
        """By the newest statement."""
        return (
            max(0, self.meter.last_milliwh - self.meter.begin_milliwh) if self.meter.begin_milliwh >= 0 else 0
        )

    def owed_for(self, energy_milliwh: int) -> int:
        """Start fee and energy, on top of earlier sessions on the channel."""
        if self.blocks_only:
            return self.paid_by().charged
        base = self.channel.base if self.channel is not None else 0
        return base + self.start_fee_atomic + cost_atomic(self.terms.price_atomic_per_kwh, energy_milliwh)

    def limit_milliwh(self) -> int:
        """Energy that the highest accepted ceiling buys: power flows only while less was delivered."""
        if self.blocks_only:
            return sum(block.paid for block in self.blocks) * (self.terms.block_milliwh or 0)
        channel = self.paid_by()
        for_energy = channel.ceiling - channel.base - self.start_fee_atomic
        return energy_bought_milliwh(self.terms.price_atomic_per_kwh, max(0, for_energy))


class KeptChannel(Struct, frozen=True):
    """A robot's channel between its sessions.

    Attributes:
        channel: with the best voucher; ``charged`` is the base of the next session.
        identity: of the robot.
        terms: of the last session.
        request: of the last session.
        kept_s: wall clock.
        withdrawing: somebody takes the rest out: no session on it any more.
        bad: the contract refuses its voucher; why.
        watched: it was read since it was kept; from then on only new withdrawals matter.
    """

    channel: Channel
    identity: bytes
    terms: ChargingTerms
    request: QuoteRequest
    kept_s: int
    withdrawing: bool = False
    bad: str = ""
    watched: bool = False

    @property
    def due_atomic(self) -> int:
        """Earned and not claimed."""
        return (
            0 if self.bad else max(0, min(self.channel.charged, self.channel.balance) - self.channel.claimed)
        )

    @property
    def rest_atomic(self) -> int:
        """For the next session."""
        return max(0, self.channel.balance - self.channel.charged)


class Connector(Struct, frozen=True):
    """One connector.

    Attributes:
        present: something is on it, checks passed.
        nonce: on its pads.
        pagination: of the last statement asked for.
        fault: why it is out of service, empty when it serves.
    """

    present: bool = False
    nonce: bytes = b""
    pagination: int = 0
    fault: str = ""


class FreeHolds(Struct, frozen=True):
    """How long an identity has held connectors with questions that it never paid for.

    Attributes:
        used_ms: as of then; a quarter of the time that passes is forgiven.
        at_ns: session clock.
    """

    used_ms: int = 0
    at_ns: int = 0

    def used_now_ms(self, now_ns: int) -> int:
        """What is left of it."""
        return max(0, self.used_ms - (now_ns - self.at_ns) // (4 * 1_000_000))


class Finished(Struct, frozen=True):
    """A session that is over, remembered longer than its messages can be replayed.

    Attributes:
        until_s: wall clock.
        seq: of the next message, were it opened again.
        funded: then it can't be.
    """

    until_s: int
    seq: int
    funded: bool


class StationState(Struct, frozen=True, kw_only=True):
    """Everything a station's machine knows.

    Attributes:
        settings: the owner's.
        now_ns: session clock of the last fact.
        lobby: correspondence that belongs to no session: offers.
        sessions: by id.
        finished: by id.
        connectors: by number.
        ignored: how often something outside any session was ignored, by reason.
        sold_milliwh, earned_atomic, count: of finished sessions.
        channels: kept, by id (hex).
        bars: payers' authorizers (hex) whose vouchers the contract refused, with the reason.
        batch: channels (hex) in the claim under way.
        watched_block: withdrawals are known up to this block.
        trouble: why the last claim of kept channels failed, empty when nothing is wrong.
        free_holds: by identity (hex); of those that held something for nothing of late.
    """

    settings: StationSettings
    now_ns: int = 0
    lobby: Dialogue = Dialogue(id=LOBBY)
    sessions: dict[str, StationSession] = {}
    finished: dict[str, Finished] = {}
    connectors: dict[int, Connector] = {}
    ignored: dict[str, int] = {}
    sold_milliwh: int = 0
    earned_atomic: int = 0
    count: int = 0
    channels: dict[str, KeptChannel] = {}
    bars: dict[str, str] = {}
    batch: tuple[str, ...] = ()
    watched_block: int = 0
    trouble: str = ""
    free_holds: dict[str, FreeHolds] = {}

    def hold_left_ms(self, identity: bytes) -> int:
        """How long a quote to that identity may still hold a connector."""
        used = self.free_holds.get(identity.hex())
        return max(0, self.settings.hold_ms - (used.used_now_ms(self.now_ns) if used else 0))

    def paying_with(self, channel_id: bytes) -> "StationSession | None":
        """The open session on that channel: one at a time."""
        return next(
            (
                s
                for s in self.sessions.values()
                if s.channel is not None
                and s.channel.id == channel_id
                and s.phase not in (StationPhase.SETTLED.value, StationPhase.LAPSED.value)
            ),
            None,
        )

    def holder(self, connector: int) -> StationSession | None:
        """The session that occupies a connector."""
        return next((s for s in self.sessions.values() if s.holding and s.connector == connector), None)

    def free_connector(self) -> int | None:
        """A connector that can be held, lowest number first."""
        for number in sorted(self.connectors):
            item = self.connectors[number]
            if not item.present and not item.fault and self.holder(number) is None:
                return number
        return None


def summarise(state: StationState) -> dict[str, Any]:
    """What a screen shows: plain values only."""
    return {
        "station": state.settings.station,
        "available": state.settings.in_service and state.free_connector() is not None,
        "connectors": {
            number: {
                "present": item.present,
                "fault": item.fault,
                "session": holder.id if (holder := state.holder(number)) else None,
            }
            for number, item in state.connectors.items()
        },
        "sessions": {
            s.id: {
                "phase": s.phase,
                "robot": s.request.robot,
                "delivered_milliwh": s.delivered_milliwh,
                "charged_atomic": s.channel.charged if s.channel else 0,
                "ceiling_atomic": s.channel.ceiling if s.channel else 0,
                "stop": s.stop_reason,
                "trouble": s.trouble,
            }
            for s in state.sessions.values()
            if s.phase != StationPhase.LAPSED.value
        },
        "finished": state.count,
        "sold_milliwh": state.sold_milliwh,
        "earned_atomic": state.earned_atomic,
        "channels": len(state.channels),
        "unclaimed_atomic": sum(kept.due_atomic for kept in state.channels.values()),
        "barred": dict(state.bars),
        "trouble": state.trouble,
    }
