"""Which station to choose: every offer gets a score or a named reason why not. Pure arithmetic on integers.

The score is what it costs to have the wanted energy in the battery after getting there: energy and the way to it
at the station's price, start fee, and the robot's time when its owner prices it. The least wins.
"""

from math import isqrt

from msgspec import Struct

from depai_robot.charging.message import ChargingTerms, Offer
from depai_robot.charging.setting import RobotSettings
from depai_robot.charging.terms import Agreed, BlockOffer, tranche_price_atomic, tranche_shortfall_milliwh
from depai_robot.payment.policy import (
    Exposure,
    SpendPolicy,
    Terms,
    escrow_max_atomic,
    refuse_terms,
    task_policy,
)
from depai_robot.payment.x402 import EXACT, SCHEME
from depai_robot.values.identity import Address
from depai_robot.values.money import MILLIWH_PER_KWH, cost_atomic

HOLD_MARGIN_S = 30
DRIVE_MM_PER_S = 200
"""A careful guess: without a deposit the connector is held no longer than the quote says."""


class Wanted(Struct, frozen=True):
    """What the robot asks for, and where it stands.

    Attributes:
        energy_milliwh: at its pads.
        x_mm, y_mm: in the map frame.
        state_of_charge_permille: of the battery.
        price_max_atomic_per_kwh, cost_max_atomic: limits of this task, beside the policy's; 0 for none.
        station: the only one that may be asked; empty for any.
    """

    energy_milliwh: int
    x_mm: int
    y_mm: int
    state_of_charge_permille: int
    price_max_atomic_per_kwh: int = 0
    cost_max_atomic: int = 0
    station: str = ""

    def tighten(self, policy: SpendPolicy) -> SpendPolicy:
        """The policy under this task's limits."""
        return task_policy(
            policy,
            price_max_atomic_per_kwh=self.price_max_atomic_per_kwh,
            session_max_atomic=self.cost_max_atomic,
        )


class Candidate(Struct, frozen=True):
    """One station in the choice; what screens and reports show.

    Attributes:
        station: its id.
        identity: 20 bytes.
        distance_mm: straight line.
        travel_milliwh: to get there.
        price_atomic_per_kwh: quoted, else offered.
        start_fee_atomic: quoted, else offered.
        power_w: at which it would charge.
        score_atomic: least wins; 0 when it did not get that far.
        refused: why not, empty when acceptable.
        rail: x402 scheme to pay by: the cheaper one that the policy allows.
        why: how the rails compare, for people; empty when the station has only one.
        chosen: the one.
    """

    station: str
    identity: bytes
    distance_mm: int
    travel_milliwh: int
    price_atomic_per_kwh: int
    start_fee_atomic: int
    power_w: int
    score_atomic: int = 0
    refused: str = ""
    chosen: bool = False
    rail: str = SCHEME
    why: str = ""


def energy_at_meter_milliwh(settings: RobotSettings, energy_milliwh: int) -> int:
    """What a station must deliver so that the wanted energy arrives, by the least efficiency allowed."""
    return -(-energy_milliwh * 1000 // settings.band.efficiency_min_permille)


def distance_mm(wanted: Wanted, offer: Offer) -> int:
    """Straight line from the robot to the dock."""
    return isqrt((offer.pose_mm_mrad[0] - wanted.x_mm) ** 2 + (offer.pose_mm_mrad[1] - wanted.y_mm) ** 2)


def travel_milliwh(settings: RobotSettings, distance: int) -> int:
    """What the way costs, rounded up."""
    return -(-distance * settings.travel_milliwh_per_m // 1000)


def refuse_way(settings: RobotSettings, wanted: Wanted, offer: Offer) -> str:
    """Why the dock is out of reach, or empty."""
    have = wanted.state_of_charge_permille * settings.battery_capacity_milliwh // 1000
    reserve = settings.reserve_permille * settings.battery_capacity_milliwh // 1000
    need = travel_milliwh(settings, distance_mm(wanted, offer))
    if have - need < reserve:
        return f"out of reach: {need} mWh to get there leave {have - need} mWh, below the reserve of {reserve} mWh"
    return ""


def escrow_atomic(settings: RobotSettings, agreed: Agreed, energy_milliwh: int, exposure: Exposure) -> int:
    """What goes into the channel: fees, the wanted energy and one tranche, as far as the policy allows."""
    terms = agreed.terms
    energy = energy_at_meter_milliwh(settings, energy_milliwh) + terms.tranche_milliwh
    wished = terms.start_fee_atomic + 10 * terms.idle_fee_atomic_per_min
    wished += cost_atomic(terms.price_atomic_per_kwh, energy) + 1
    limit = escrow_max_atomic(settings.policy, Address(agreed.receiver), exposure)
    return min(max(wished, agreed.min_deposit_atomic), limit)


def refuse_quote(
    settings: RobotSettings, wanted: Wanted, offer: Offer, agreed: Agreed, *, exposure: Exposure, now_s: int
) -> str:
    """Why a quote is not acceptable, or empty."""
    terms = agreed.terms
    if terms.current_type != settings.current_type:
        return f"sells {terms.current_type}, the robot takes {settings.current_type}"
    if terms.hold_until_s <= now_s:
        return f"the connector is held until {terms.hold_until_s}, now is {now_s}"
    short = tranche_shortfall_milliwh(terms)
    if short:
        return (
            f"a tranche of {terms.tranche_milliwh} mWh is {short} mWh too small for {terms.power_max_w} W until a"
            " missing voucher stops the current"
        )
    idle_fee, idle_fee_max = terms.idle_fee_atomic_per_min, settings.policy.start_fee_max_atomic
    if idle_fee > idle_fee_max:
        # Clocks of two sides may disagree on a started minute, so one minute must be as cheap as a start may be.
        return f"idle fee {idle_fee} per minute is above the policy's {idle_fee_max} for a fee"
    judged = Terms(
        receiver=Address(agreed.receiver),
        price_atomic_per_kwh=terms.price_atomic_per_kwh,
        start_fee_atomic=terms.start_fee_atomic,
        tranche_cost_atomic=tranche_price_atomic(terms),
        withdraw_delay_s=agreed.withdraw_delay_s,
        min_deposit_atomic=agreed.min_deposit_atomic,
    )
    refused = refuse_terms(settings.policy, judged, exposure, now_s)
    return refused or refuse_way(settings, wanted, offer)


def time_price_atomic(settings: RobotSettings, terms: ChargingTerms, energy_milliwh: int) -> int:
    """What the robot's time at the connector is worth."""
    power_w = min(terms.power_max_w, settings.power_max_w)
    charging_s = -(-energy_milliwh * 3600 // (power_w * 1000))  # mWh * 3.6 J / W / 1000
    return settings.time_price_atomic_per_min * charging_s // 60


def score_atomic(settings: RobotSettings, wanted: Wanted, offer: Offer, terms: ChargingTerms) -> int:
    """What it costs in all on a channel; least wins."""
    distance = distance_mm(wanted, offer)
    energy = energy_at_meter_milliwh(settings, wanted.energy_milliwh + travel_milliwh(settings, distance))
    time_price = time_price_atomic(settings, terms, energy)
    return cost_atomic(terms.price_atomic_per_kwh, energy) + terms.start_fee_atomic + time_price


def score_blocks_atomic(
    settings: RobotSettings, wanted: Wanted, offer: Offer, terms: ChargingTerms, block: BlockOffer
) -> int:
    """What it costs in all by blocks: whole ones are paid, whatever is taken of the last."""
    count = blocks_needed(settings, wanted, offer, block)
    return count * block.price_atomic + time_price_atomic(settings, terms, count * block.block_milliwh)


def blocks_needed(settings: RobotSettings, wanted: Wanted, offer: Offer, block: BlockOffer) -> int:
    """How many blocks hold the wanted energy and the way."""
    travel = travel_milliwh(settings, distance_mm(wanted, offer))
    energy = energy_at_meter_milliwh(settings, wanted.energy_milliwh + travel)
    return -(-energy // block.block_milliwh)


def refuse_blocks(
    settings: RobotSettings, wanted: Wanted, offer: Offer, agreed: Agreed, *, exposure: Exposure, now_s: int
) -> str:
    """Why blocks are not acceptable, or empty. A block is paid before it flows, so it is judged as a tranche."""
    block = agreed.block
    terms = agreed.terms
    if block is None:
        return "sells no blocks"
    if settings.delegated:
        return "the payer's key is not on this robot"
    way_s = HOLD_MARGIN_S + distance_mm(wanted, offer) // DRIVE_MM_PER_S
    if terms.hold_until_s < now_s + way_s:
        return f"the connector is held until {terms.hold_until_s}, the way takes until {now_s + way_s}"
    if terms.current_type != settings.current_type:
        return f"sells {terms.current_type}, the robot takes {settings.current_type}"
    judged = Terms(
        receiver=Address(agreed.receiver),
        price_atomic_per_kwh=-(-block.price_atomic * MILLIWH_PER_KWH // block.block_milliwh),
        start_fee_atomic=0,
        tranche_cost_atomic=block.price_atomic,
        withdraw_delay_s=0,
        min_deposit_atomic=0,
    )
    refused = refuse_terms(settings.policy, judged, exposure, now_s)
    return refused or refuse_way(settings, wanted, offer)


def judge(
    settings: RobotSettings,
    wanted: Wanted,
    offer: Offer,
    identity: bytes,
    agreed: Agreed | None,
    *,
    exposure: Exposure,
    now_s: int,
    refused: str = "",
    refused_channel: str = "",
) -> Candidate:
    """A candidate with its score, or with the reason why not.

    Args:
        settings: of the robot.
        wanted: what and where.
        offer: signed by the station.
        identity: who signed it.
        agreed: its quote, when it sent one.
        exposure: what is signed and locked already.
        now_s: wall clock.
        refused: what is known against it already.
        refused_channel: why no channel can be funded there; blocks may still be bought.
    """
    distance = distance_mm(wanted, offer)
    if not refused and agreed is None:
        refused = "no answer within the quote window"
    terms = agreed.terms if agreed else None
    score = score_atomic(settings, wanted, offer, terms) if terms else 0
    rail, why = SCHEME, ""
    if not refused and agreed is not None:
        refused = refused_channel or refuse_quote(
            settings, wanted, offer, agreed, exposure=exposure, now_s=now_s
        )
        if agreed.block is not None:
            by_blocks = refuse_blocks(settings, wanted, offer, agreed, exposure=exposure, now_s=now_s)
            count = blocks_needed(settings, wanted, offer, agreed.block)
            price = score_blocks_atomic(settings, wanted, offer, agreed.terms, agreed.block)
            shown = [f"{SCHEME}: {refused or score}", f"{EXACT}: {by_blocks or f'{price}, {count} blocks'}"]
            why = "; ".join(shown)
            if not by_blocks and (refused or price < score):
                rail, refused, score = EXACT, "", price
    return Candidate(
        station=offer.station,
        identity=identity,
        distance_mm=distance,
        travel_milliwh=travel_milliwh(settings, distance),
        price_atomic_per_kwh=terms.price_atomic_per_kwh if terms else offer.price_atomic_per_kwh,
        start_fee_atomic=terms.start_fee_atomic if terms else offer.start_fee_atomic,
        power_w=min(terms.power_max_w if terms else offer.power_max_w, settings.power_max_w),
        score_atomic=score,
        refused=refused,
        rail=rail,
        why=why,
    )


def choose(candidates: list[Candidate]) -> tuple[Candidate, ...]:
    """Best first, the chosen one marked; ties go to the nearer, then to the lower identity (so every run agrees)."""
    ranked = sorted(candidates, key=lambda c: (bool(c.refused), c.score_atomic, c.distance_mm, c.identity))
    if ranked and not ranked[0].refused:
        best = ranked[0]
        ranked[0] = Candidate(
            **{name: getattr(best, name) for name in best.__struct_fields__} | {"chosen": True}
        )
    return tuple(ranked)
