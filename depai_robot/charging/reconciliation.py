"""Does the station's meter agree with the robot's own? Two tests on integers, for a jump and for a drift.

The robot meters what arrives at its pads (E); the station bills what leaves its meter (S >= E, by losses).
S must lie in ``[E / eta_max - a - lag, E / eta_min + a]``; a cumulative sum of the residual catches a small steady
cheat that stays inside the band. May import values only.

Across sessions the robot keeps a :class:`MeterRecord` of each station: what no single session shows adds up there.

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
        drift_limit_milliwh: cumulated residual beyond the slack that convicts, 1 to 1,000,000; statements that a
            network kept for some seconds come at once, and need about 100.

    The defaults of the last two are the most watchful of those that accuse at most one in 10,000 honest sessions.
    Source: ``python -m bench.meter_drift --search``.
    """

    efficiency_min_permille: int = 940
    efficiency_nominal_permille: int = 970
    efficiency_max_permille: int = 1010
    slack_milliwh: int = 60
    drift_slack_permille: int = 8
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


# --- over the sessions of one station -----------------------------------------------------------------------


class RecordBand(Struct, frozen=True):
    """When the sum of a station's sessions is no chance any more.

    Attributes:
        energy_min_milliwh: shorter sessions say too little and are left out, 1 to 1,000,000.
        sessions_min: so many must be known before a station is compared with its own past, 1 to 1000.
        carried_slack_permille: against nominal; honest pairs differ for ever by more than one session shows, 0 to 100.
        carried_limit_milliwh: beyond nominal and that slack, added up over sessions, 1 to 10,000,000.
        change_slack_permille: a dock and its contacts differ by so much from day to day, 0 to 100.
        change_limit_milliwh: beyond its own past and that slack, added up, 1 to 10,000,000.
    """

    energy_min_milliwh: int = 2000
    sessions_min: int = 5
    carried_slack_permille: int = 10
    carried_limit_milliwh: int = 300
    change_slack_permille: int = 4
    change_limit_milliwh: int = 1500

    def __post_init__(self) -> None:
        for name, least, most in (
            ("energy_min_milliwh", 1, 1_000_000),
            ("sessions_min", 1, 1000),
            ("carried_slack_permille", 0, 100),
            ("carried_limit_milliwh", 1, 10_000_000),
            ("change_slack_permille", 0, 100),
            ("change_limit_milliwh", 1, 10_000_000),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ConfigError(f"{name} must be {least} to {most}, got {value}")


class MeterRecord(Struct, frozen=True):
    """What both meters said in all sessions with one station.

    Attributes:
        sessions: that counted.
        station_milliwh, own_milliwh: sums; their ratio is what is usual there.
        carried_microwh: beyond nominal and slack, never below zero.
        change_microwh: beyond what was usual, never below zero.
    """

    sessions: int = 0
    station_milliwh: int = 0
    own_milliwh: int = 0
    carried_microwh: int = 0
    change_microwh: int = 0


def remember(
    record: MeterRecord, band: MeterBand, limits: RecordBand, *, station_milliwh: int, own_milliwh: int
) -> tuple[MeterRecord, str]:
    """A session's two energies -> the station's record, and what is wrong with it (empty when nothing).

    Two cumulative sums over sessions: against the nominal efficiency, for a station that always takes a little more
    than one session may show; against its own past, for one that begins to. A session that is complained of counts
    in the sums of the complaint and not in what is usual.
    """
    if own_milliwh < limits.energy_min_milliwh:
        return record, ""
    beyond = (
        station_milliwh * 1000
        - own_milliwh * 1_000_000 // band.efficiency_nominal_permille
        - own_milliwh * limits.carried_slack_permille
    )
    carried = max(0, record.carried_microwh + beyond)
    change = record.change_microwh
    if record.sessions >= limits.sessions_min and record.own_milliwh > 0:
        usual_microwh = own_milliwh * 1000 * record.station_milliwh // record.own_milliwh
        change = max(
            0, change + station_milliwh * 1000 - usual_microwh - own_milliwh * limits.change_slack_permille
        )
    complaint = ""
    if carried > limits.carried_limit_milliwh * 1000:
        complaint = (
            f"over {record.sessions + 1} sessions the station counts {carried // 1000} mWh beyond"
            f" {band.efficiency_nominal_permille} permille, at most {limits.carried_limit_milliwh} is chance"
        )
    elif change > limits.change_limit_milliwh * 1000:
        complaint = (
            f"the station counts {change // 1000} mWh more than it used to, at most"
            f" {limits.change_limit_milliwh} is chance"
        )
    known = record if complaint else None
    after = MeterRecord(
        sessions=record.sessions + 1,
        station_milliwh=known.station_milliwh if known else record.station_milliwh + station_milliwh,
        own_milliwh=known.own_milliwh if known else record.own_milliwh + own_milliwh,
        carried_microwh=carried,
        change_microwh=change,
    )
    return after, complaint
