"""How values look: units, ages, colours that colour-blind people tell apart, and a sign beside every colour. Pure."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from depai_robot.console.alert import SYMBOL, Alert, Level
from depai_robot.console.fleet import IDLE_PHASES, Fleet, Robot, Session
from depai_robot.console.history import AuditRow
from depai_robot.console.station import Station

Cell = tuple[str, str]
"""Text and style."""

# Hues of Okabe and Ito's set, which people with any colour vision tell apart. Source: M. Okabe and K. Ito, Color
# Universal Design, 2008.
BAD = "bold #ff8a5c"
WARN = "#f0b93a"
GOOD = "#3fc79a"
POWER = "#67c3f3"
DIM = "dim"
PLAIN = ""
STYLE_BY_LEVEL = {0: PLAIN, Level.NOTICE: POWER, Level.WARNING: WARN, Level.CRITICAL: BAD}
STYLE_BY_STATUS = {
    "BROKEN": BAD,
    "E-STOP": BAD,
    "FAULT": BAD,
    "STALE": WARN,
    "PAUSED": WARN,
    "OFFLINE": DIM,
    "SILENT": DIM,
    "CHARGING": POWER,
    "DRIVING": GOOD,
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        title: head.
        width: characters.
        rank: those with the lowest are kept where the window is narrow.
        right: numbers stand at the right.
    """

    title: str
    width: int
    rank: int = 0
    right: bool = False


@dataclass(frozen=True, slots=True)
class Sheet:
    """A kind of table: its columns, what identifies a row, and a row's cells (in the order of the columns)."""

    columns: tuple[Column, ...]
    key: Callable[[Any], str]
    cells: Callable[[Any], tuple[Cell, ...]]


def money(atomic: int | None) -> str:
    """USDC with what matters: ``1.2345``, ``12.345``, ``1,234.5``."""
    if atomic is None:
        return "-"
    value = atomic / 1_000_000
    digits = 4 if abs(value) < 10 else 3 if abs(value) < 100 else 1
    return f"{value:,.{digits}f}"


def kwh(milliwh: int | None) -> str:
    """Energy in kWh."""
    return "-" if milliwh is None else f"{milliwh / 1_000_000:.3f}"


def age(seconds: float) -> str:
    """``12s``, ``5m``, ``3h``, ``2d``."""
    if seconds < 0:
        return "0s"
    if seconds < 100:
        return f"{seconds:.0f}s"
    if seconds < 6000:
        return f"{seconds / 60:.0f}m"
    return f"{seconds / 3600:.0f}h" if seconds < 172_800 else f"{seconds / 86_400:.0f}d"


def clock(at_s: float) -> str:
    """Local time of day."""
    return time.strftime("%H:%M:%S", time.localtime(at_s)) if at_s else "-"


def stamp(at_s: float) -> str:
    """Local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s)) if at_s else "-"


def battery(percent: float, *, charging: bool) -> Cell:
    """``45%`` with ``+`` while it charges and ``!`` when it is low."""
    if percent < 0:
        return "-", DIM
    sign = "+" if charging else "!" if percent < 15 else " "
    style = POWER if charging else BAD if percent < 15 else WARN if percent < 30 else PLAIN
    return f"{min(percent, 999):.0f}%{sign}", style


def budget(spent_atomic: int, limit_atomic: int | None) -> Cell:
    """Spent today, of what the owner allows."""
    if not limit_atomic:
        return money(spent_atomic), PLAIN
    share = 100 * spent_atomic // limit_atomic
    style = BAD if share >= 100 else WARN if share >= 90 else PLAIN
    return f"{money(spent_atomic)} {share:3d}%", style


ROBOT_COLUMNS = (
    Column("A", 1, 0),
    Column("ROBOT", 12, 0),
    Column("AGE", 4, 0, right=True),
    Column("STATUS", 8, 0),
    Column("BATT", 5, 0, right=True),
    Column("TASK", 12, 2),
    Column("STATION", 9, 1),
    Column("COST", 7, 1, right=True),
    Column("TODAY", 11, 1, right=True),
    Column("PHASE", 12, 3),
    Column("MODE", 10, 4),
    Column("MAP", 8, 6),
    Column("LOST", 5, 6, right=True),
    Column("MAKER", 10, 7),
    Column("TROUBLE", 24, 5),
)


def robot_sheet(fleet: Fleet, now: Callable[[], float]) -> Sheet:
    """The fleet table's columns and cells."""

    def cells(robot: Robot) -> tuple[Cell, ...]:
        now_s = now()
        reading, said = robot.reading, robot.charging
        level = fleet.alerts.worst(robot.key)
        kinds = fleet.alerts.of(robot.key)
        unseen = any(not fleet.alerts.open[robot.key, kind].by for kind in kinds)
        sign = SYMBOL[Level(level)] if level else " "
        status = robot.status()
        buying = said is not None and said.phase not in IDLE_PHASES
        trouble = "; ".join(fleet.alerts.open[robot.key, kind].text for kind in kinds)
        return (
            (sign, STYLE_BY_LEVEL[level] + (" reverse" if unseen and level >= Level.WARNING else "")),
            (robot.name, "bold"),
            (age(now_s - robot.seen_s) if robot.seen_s else "-", WARN if robot.stale else DIM),
            (status, STYLE_BY_STATUS.get(status, PLAIN)),
            battery(robot.battery_percent, charging=bool(reading and reading.charging_now)),
            (reading.task if reading else "", PLAIN),
            (said.station if said and buying else "", POWER),
            (money(said.cost_atomic) if said and buying else "", PLAIN),
            budget(robot.spent_today_atomic(now_s), said.budget_today_atomic if said else None),
            (said.phase if said else "", DIM),
            (reading.mode if reading else "", DIM),
            (robot.position.mapId if robot.position else "", DIM),
            (str(robot.lost) if robot.lost else "", WARN),
            (robot.address.manufacturer, DIM),
            (trouble, STYLE_BY_LEVEL[level]),
        )

    return Sheet(ROBOT_COLUMNS, lambda robot: str(robot.key), cells)


STATION_COLUMNS = (
    Column("STATION", 12, 0),
    Column("OFFER", 6, 0),
    Column("PRICE", 7, 0, right=True),
    Column("kW", 5, 1, right=True),
    Column("LOAD", 4, 0, right=True),
    Column("SOLD kWh", 9, 1, right=True),
    Column("INCOME", 9, 1, right=True),
    Column("SESS", 5, 1, right=True),
    Column("FAIL", 5, 0, right=True),
    Column("METER", 6, 0, right=True),
    Column("PAID/kWh", 8, 3, right=True),
    Column("ZONE", 8, 3),
    Column("NAME", 14, 4),
    Column("LAST FAULT", 20, 2),
)


def station_sheet() -> Sheet:
    """The stations table's columns and cells."""

    def cells(row: Station) -> tuple[Cell, ...]:
        offer, live = row.offer, row.offer_s > 0
        honesty = row.meter_honesty_percent
        word = "none" if offer is None else "gone" if not live else "free" if offer.available else "busy"
        return (
            (row.station, "bold"),
            (word, GOOD if word == "free" else WARN if word in ("gone", "busy") else DIM),
            (money(offer.price_atomic_per_kwh) if offer else "-", PLAIN if live else DIM),
            (f"{offer.power_max_w / 1000:.1f}" if offer else "-", PLAIN),
            (str(len(row.charging)), POWER if row.charging else DIM),
            (kwh(row.energy_milliwh), PLAIN),
            (money(row.cost_atomic), PLAIN),
            (str(row.sessions), PLAIN),
            (str(row.faults) if row.faults else "", WARN),
            (
                f"{honesty:.0f}%" if honesty is not None else "-",
                BAD if honesty is not None and honesty < 99.5 else PLAIN,
            ),
            (money(row.price_paid_atomic_per_kwh), PLAIN),
            (row.zone, DIM),
            (offer.name if offer else "", DIM),
            (row.last_fault, WARN),
        )

    return Sheet(STATION_COLUMNS, lambda row: str(row.station), cells)


ALERT_COLUMNS = (
    Column("A", 1, 0),
    Column("SINCE", 8, 0),
    Column("FOR", 4, 0, right=True),
    Column("WHO", 12, 0),
    Column("KIND", 10, 0),
    Column("SEEN BY", 8, 0),
    Column("TEXT", 28, 0),
)


def alert_sheet(now: Callable[[], float]) -> Sheet:
    """The alerts table's columns and cells."""

    def cells(alert: Alert) -> tuple[Cell, ...]:
        over = alert.until_s is not None
        style = DIM if over else STYLE_BY_LEVEL[alert.level]
        sign = "." if over else SYMBOL[alert.level]
        return (
            (sign, style if alert.by or over else f"{style} reverse"),
            (clock(alert.since_s), DIM),
            (age((alert.until_s or now()) - alert.since_s), DIM),
            (alert.subject.rpartition("/")[2], "bold" if not over else DIM),
            (alert.kind, style),
            (alert.by, GOOD),
            (alert.text, style),
        )

    return Sheet(ALERT_COLUMNS, lambda alert: f"{alert.subject}\n{alert.kind}\n{alert.since_s}", cells)


AUDIT_COLUMNS = (
    Column("WHEN", 19, 0),
    Column("WHO", 8, 0),
    Column("ROLE", 8, 1),
    Column("WHAT", 21, 0),
    Column("ON", 12, 0),
    Column("DETAIL", 12, 0),
)


def audit_sheet() -> Sheet:
    """The audit log's columns and cells."""

    def cells(row: AuditRow) -> tuple[Cell, ...]:
        bad = row.what in ("refused", "not sent") or "FAILED" in row.detail
        return (
            (stamp(row.at_s), DIM),
            (row.who, "bold"),
            (row.role, DIM),
            (row.what, BAD if bad else PLAIN),
            (row.subject.rpartition("/")[2], PLAIN),
            (row.detail, DIM),
        )

    return Sheet(AUDIT_COLUMNS, lambda row: f"{row.at_s}{row.what}", cells)


def session_line(session: Session) -> str:
    """A session in one line of 76 characters or more."""
    price = money(session.price_atomic_per_kwh)
    line = (
        f"{stamp(session.begun_s)[5:]}  {session.station[:12]:12} {kwh(session.energy_milliwh):>8} kWh "
        f"{money(session.cost_atomic):>9} at {price:>7}  {session.phase[:10]:10}"
    )
    return f"{line} {session.receipt}" + (f"  FAULT {session.fault}" if session.fault else "")
