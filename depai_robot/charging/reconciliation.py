"""Does the station's meter agree with the robot's own? Two tests on integers, for a jump and for a drift.

The robot meters what arrives at its pads (E); the station bills what leaves its meter (S >= E, by losses).
S must lie in ``[E / eta_max - a - lag, E / eta_min + a]``; a cumulative sum of the residual catches a small steady
cheat that stays inside the band. May import values only.

Source: E. S. Page, "Continuous inspection schemes", Biometrika 41 (1954), for the cumulative sum.
"""

from msgspec import Struct

from depai_robot.values.error import ConfigError


class MeterBand(Struct, frozen=True):
    """How far two honest meters may differ: the "stated meter band" of the robot's greatest loss.

    Attributes:
        efficiency_min_permille: least share of the billed energy that arrives, meter errors included, 500 to 1000.
        efficiency_nominal_permille: expected share, between least and most.
        efficiency_max_permille: most, up to 1050 (meters err both ways).
        slack_milliwh: ``a``, for resolution and the age of a reading, 1 to 100,000.
        drift_slack_permille: drift against nominal that is nobody's fault, 0 to 100.
        drift_limit_milliwh: cumulated residual beyond the slack that convicts, 1 to 1,000,000.
    """

    efficiency_min_permille: int = 940
    efficiency_nominal_permille: int = 970
    efficiency_max_permille: int = 1010
    slack_milliwh: int = 60
    drift_slack_permille: int = 15
    drift_limit_milliwh: int = 150

    def __post_init__(self) -> None:
        low, middle, high = (
            self.efficiency_min_permille,
            self.efficiency_nominal_permille,
            self.efficiency_max_permille,
        )
        if not 500 <= low <= middle <= high <= 1050:
            raise ConfigError(
                f"expected 500 <= efficiency min <= nominal <= max <= 1050, got {low}, {middle}, {high}"
            )
        for name, least, most in (
            ("slack_milliwh", 1, 100_000),
            ("drift_slack_permille", 0, 100),
            ("drift_limit_milliwh", 1, 1_000_000),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ConfigError(f"{name} must be {least} to {most}, got {value}")


class Reconciliation(Struct, frozen=True):
    """The two meters since the begin of charging, as of the last statement that was accepted.

    Attributes:
        station_milliwh: stated and within the band: what is owed for.
        own_milliwh: at the robot's pads when that statement came.
        drift_microwh: cumulated residual, may be negative (credit).
        memory_milliwh: recent gain between two statements; how far late statements may trail.
    """

    station_milliwh: int = 0
    own_milliwh: int = 0
    drift_microwh: int = 0
    memory_milliwh: int = 0


def upper_bound_milliwh(band: MeterBand, own_milliwh: int) -> int:
    """The most that an honest station may state when the robot took in that much."""
    return own_milliwh * 1000 // band.efficiency_min_permille + band.slack_milliwh


def lower_bound_milliwh(band: MeterBand, own_milliwh: int, lag_milliwh: int) -> int:
    """The least. ``lag_milliwh``: what may flow while a statement is under way (one tranche)."""
    return max(0, own_milliwh * 1000 // band.efficiency_max_permille - band.slack_milliwh - lag_milliwh)


def reconcile(
    before: Reconciliation, band: MeterBand, *, station_milliwh: int, own_milliwh: int, lag_milliwh: int
) -> tuple[Reconciliation, str]:
    """Both meters since the begin of charging -> the new value, and what is wrong (empty when nothing).

    The own reading is taken when the statement arrives, so a late statement trails it: that is credit to the
    station for a while, bounded by what was taken in lately, so that nobody can save it up.
    """
    if own_milliwh < before.own_milliwh:
        return before, f"own meter fell from {before.own_milliwh} to {own_milliwh} mWh"
    if station_milliwh < before.station_milliwh:
        return before, f"station's register fell from {before.station_milliwh} to {station_milliwh} mWh"
    most = upper_bound_milliwh(band, own_milliwh)
    if station_milliwh > most:
        return (
            before,
            f"station states {station_milliwh} mWh, own meter {own_milliwh}: at most {most} is explained",
        )
    least = lower_bound_milliwh(band, own_milliwh, lag_milliwh)
    if station_milliwh < least:
        return (
            before,
            f"station states {station_milliwh} mWh, own meter {own_milliwh}: at least {least} is expected",
        )
    gained = own_milliwh - before.own_milliwh
    memory = max(gained, before.memory_milliwh // 2)
    residual_microwh = (
        (station_milliwh - before.station_milliwh) * 1000
        - gained * 1_000_000 // band.efficiency_nominal_permille
        - gained * band.drift_slack_permille
    )
    drift = max(before.drift_microwh + residual_microwh, -2000 * memory)
    after = Reconciliation(station_milliwh, own_milliwh, drift, memory)
    if drift > band.drift_limit_milliwh * 1000:
        return before, (
            f"station drifts: {drift // 1000} mWh beyond {band.efficiency_nominal_permille} permille"
            f" after {station_milliwh} mWh, at most {band.drift_limit_milliwh} is chance"
        )
    return after, ""
