"""Which station to choose: every offer gets a score or a named reason why not. Pure arithmetic on integers.

The score is what it costs to have the wanted energy in the battery after getting there: energy and the way to it
at the station's price, start fee, and the robot's time when its owner prices it. The least wins.
"""

from math import isqrt

from msgspec import Struct

from depai_robot.charging.message import ChargingTerms, Offer
from depai_robot.charging.setting import RobotSettings
from depai_robot.charging.terms import Agreed, tranche_price_atomic, tranche_shortfall_milliwh
from depai_robot.payment.policy import Exposure, Terms, escrow_max_atomic, refuse_terms
from depai_robot.values.identity import Address
from depai_robot.values.money import cost_atomic


class Wanted(Struct, frozen=True):
    """What the robot asks for, and where it stands.

    Attributes:
        energy_milliwh: at its pads.
        x_mm, y_mm: in the map frame.
        state_of_charge_permille: of the battery.
    """

    energy_milliwh: int
    x_mm: int
    y_mm: int
    state_of_charge_permille: int


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


def score_atomic(settings: RobotSettings, wanted: Wanted, offer: Offer, terms: ChargingTerms) -> int:
    """What it costs in all; least wins."""
    distance = distance_mm(wanted, offer)
    energy = energy_at_meter_milliwh(settings, wanted.energy_milliwh + travel_milliwh(settings, distance))
    power_w = min(terms.power_max_w, settings.power_max_w)
    minutes_x60 = -(-energy * 3600 // (power_w * 1000))  # seconds of charging: mWh * 3.6 J / W / 1000
    time_price = settings.time_price_atomic_per_min * minutes_x60 // 60
    return cost_atomic(terms.price_atomic_per_kwh, energy) + terms.start_fee_atomic + time_price


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
    """
    distance = distance_mm(wanted, offer)
    if not refused and agreed is None:
        refused = "no answer within the quote window"
    if not refused and agreed is not None:
        refused = refuse_quote(settings, wanted, offer, agreed, exposure=exposure, now_s=now_s)
    terms = agreed.terms if agreed else None
    return Candidate(
        station=offer.station,
        identity=identity,
        distance_mm=distance,
        travel_milliwh=travel_milliwh(settings, distance),
        price_atomic_per_kwh=terms.price_atomic_per_kwh if terms else offer.price_atomic_per_kwh,
        start_fee_atomic=terms.start_fee_atomic if terms else offer.start_fee_atomic,
        power_w=min(terms.power_max_w if terms else offer.power_max_w, settings.power_max_w),
        score_atomic=score_atomic(settings, wanted, offer, terms) if terms else 0,
        refused=refused,
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
