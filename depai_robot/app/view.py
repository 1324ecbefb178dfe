"""What a screen shows of a run, folded from the story's lines, and each event in words. Pure: draws and reads nothing.

The lines hold words of other parties (names of stations, reasons of refusals): whatever is absent or of another type
changes nothing, and control characters never get through.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from depai_robot.app.story import Line, clean
from depai_robot.values.money import format_energy, format_usdc

EMPTY_LINE = Line(0.0, 0.0, "", "", {})


@dataclass(frozen=True, slots=True)
class Tranche:
    """One voucher and what it was signed for: cumulative, in mWh and atomic units."""

    number: int
    station_milliwh: int
    own_milliwh: int
    cost_atomic: int
    ceiling_atomic: int


@dataclass(frozen=True, slots=True)
class View:
    """What is on the screen.

    Attributes:
        setup: newest step.
        ready: set-up is done.
        session: id of the wallet's newest session.
        phase: of it.
        path: phases so far.
        quotes: newest line by station, in the order they came.
        agreement, docking, seen, battery: newest line of each kind; ``seen`` is the detector's.
        was_seen: a pose of the dock was published before.
        contact: dock in contact.
        tranches: all so far.
        transactions: (source, purpose, gas).
        speed: by docked or not: simulated seconds for one of the wall.
        stop: why charging ended.
        fault: which rule the station broke.
        evidence: reasons, and how often each was noticed.
        receipt: of the session.
        checks: of the audit: name, passed, detail.
        notes: camera backend, broker.
    """

    setup: str = ""
    ready: bool = False
    session: str = ""
    phase: str = ""
    path: tuple[str, ...] = ()
    quotes: dict[str, Line] = field(default_factory=dict)
    agreement: Line = EMPTY_LINE
    docking: Line = EMPTY_LINE
    seen: Line = EMPTY_LINE
    was_seen: bool = False
    battery: Line = EMPTY_LINE
    contact: str = ""
    tranches: tuple[Tranche, ...] = ()
    transactions: tuple[tuple[str, str, int], ...] = ()
    speed: dict[bool, float] = field(default_factory=dict)
    stop: str = ""
    fault: str = ""
    evidence: dict[str, int] = field(default_factory=dict)
    receipt: Line = EMPTY_LINE
    checks: tuple[tuple[str, bool, str], ...] = ()
    notes: dict[str, str] = field(default_factory=dict)


def fold(view: View, line: Line) -> View:
    """The view after one line; kinds that are unknown, and lines that lack what they need, change nothing."""
    change = _CHANGES.get(line.kind)
    return view if change is None else replace(view, **change(view, line))


def _take_state(view: View, line: Line) -> dict[str, Any]:
    if line.source != "wallet":
        return {}
    session, phase = line.text("session"), line.text("to")
    if session != view.session and phase != "IDLE":
        # A new attempt, perhaps elsewhere: what belongs to the one before is gone from the screen.
        fresh = {"quotes": {}, "agreement": EMPTY_LINE, "tranches": (), "stop": "", "receipt": EMPTY_LINE}
        return {**fresh, "session": session, "phase": phase, "path": (phase,)}
    return {"phase": phase, "path": (*view.path, phase)}


def _take_tranche(view: View, line: Line) -> dict[str, Any]:
    tranche = parse_tranche(line)
    return {} if tranche is None else {"tranches": (*view.tranches, tranche)}


def parse_tranche(line: Line) -> Tranche | None:
    """The line's numbers, None when one is missing."""
    values = [
        line.count(name)
        for name in ("number", "station_milliwh", "own_milliwh", "cost_atomic", "ceiling_atomic")
    ]
    numbers = [value for value in values if value is not None]
    return Tranche(*numbers) if len(numbers) == len(values) else None


def _take_speed(view: View, line: Line) -> dict[str, Any]:
    simulated_s, wall_s = line.number("simulated_s"), line.number("wall_s")
    if not simulated_s or not wall_s:
        return {}
    return {"speed": {**view.speed, line.data.get("docked") is True: simulated_s / wall_s}}


def _take_stop(view: View, line: Line) -> dict[str, Any]:
    return {"stop": line.text("reason"), "fault": _fault(line) or view.fault}


def _fault(line: Line) -> str:
    fault, detail = line.text("fault"), line.text("detail")
    return f"{fault}: {detail}" if fault and detail else fault


def _take_evidence(view: View, line: Line) -> dict[str, Any]:
    reason = line.text("reason")
    return {
        "evidence": {**view.evidence, reason: view.evidence.get(reason, 0) + 1},
        "fault": view.fault or reason,
    }


def _take_transaction(view: View, line: Line) -> dict[str, Any]:
    entry = (clean(line.source, 60), _purpose(line), line.count("gas") or 0)
    return {"transactions": (*view.transactions, entry)}


def _purpose(line: Line) -> str:
    return line.text("purpose").rpartition(":")[2]


_CHANGES: dict[str, Callable[[View, Line], dict[str, Any]]] = {
    "setup": lambda _, line: {"setup": line.text("step"), "ready": line.data.get("done") is True},
    "state": _take_state,
    "quote": lambda view, line: {"quotes": {**view.quotes, line.text("station"): line}},
    "agreement": lambda _, line: {"agreement": line},
    "docking": lambda _, line: {"docking": line},
    "detection": lambda view, line: {
        "seen": line,
        "was_seen": view.was_seen or line.number("range_m") is not None,
    },
    "pose": lambda _, line: {"battery": line} if line.number("state_of_charge") is not None else {},
    "battery": lambda view, line: {} if view.battery.kind == "pose" else {"battery": line},
    "contact": lambda _, line: {"contact": line.text("dock")},
    "tranche": _take_tranche,
    "tx": _take_transaction,
    "speed": _take_speed,
    "stop": _take_stop,
    "evidence": _take_evidence,
    "receipt": lambda _, line: {"receipt": line},
    "check": lambda view, line: {
        "checks": (*view.checks, (line.text("name"), line.data.get("ok") is True, line.text("detail")))
    },
    "camera": lambda view, line: {"notes": {**view.notes, "camera": line.text("backend")}},
    "broker": lambda view, line: {"notes": {**view.notes, "broker": line.text("program")}},
}


# --- words ---------------------------------------------------------------------------------------------------


def describe(view: View, line: Line) -> str | None:
    """One event in words, for logs; None for what only moves a number on the screen.

    Args:
        view: before the line.
        line: what was told.
    """
    words = _WORDS.get(line.kind)
    return None if words is None else words(view, line)


def verdict(quote: Line) -> str:
    """Why a station was taken or not."""
    if quote.data.get("chosen") is True:
        return "CHOSEN"
    return f"refused: {quote.text('refused')}" if quote.text("refused") else "dearer than the chosen one"


def usdc(atomic: int | None) -> str:
    """An amount, or a dash."""
    return "-" if atomic is None else format_usdc(atomic)


def energy(milliwh: int | None) -> str:
    """An energy, or a dash."""
    return "-" if milliwh is None else format_energy(milliwh)


def price(atomic_per_kwh: int | None) -> str:
    """A price, or a dash: exact, with at least three digits."""
    if not atomic_per_kwh:
        return "-"
    number, _, unit = format_usdc(atomic_per_kwh).partition(" ")
    return f"{number[:-3]}{number[-3:].rstrip('0')} {unit}/kWh"


def length(metres: float | None) -> str:
    """A distance, or a dash."""
    return "-" if metres is None else f"{metres:.2f} m"


def dock_errors(docking: Line) -> str:
    """How far beside the dock's axis the robot is, and by how much it is turned away; empty when unknown."""
    lateral_m, yaw_rad = docking.number("lateral_m"), docking.number("yaw_error_rad")
    if lateral_m is None or yaw_rad is None:
        return ""
    return f"{lateral_m * 1000:+.0f} mm beside, {yaw_rad * 57.29578:+.1f} deg off"


def _quote_words(_: View, line: Line) -> str:
    score = line.count("score")
    # A quote that was refused has no score to be compared by.
    cost = f"in all {usdc(score)}" if score and not line.text("refused") else "not scored"
    return (
        f"quote    {line.text('station')}: {price(line.count('price_atomic_per_kwh'))}, "
        f"{length(line.number('distance_m'))} away, {cost}: {verdict(line)}"
    )


def _state_words(_: View, line: Line) -> str | None:
    if line.source != "wallet":
        return None
    return f"wallet   {line.text('from') or 'IDLE'} -> {line.text('to')} ({line.text('cause')})"


def _tranche_words(_: View, line: Line) -> str | None:
    tranche = parse_tranche(line)
    if tranche is None:
        return None
    return (
        f"tranche  {tranche.number:3d}: station's meter {energy(tranche.station_milliwh)}, own meter "
        f"{energy(tranche.own_milliwh)}, owed {usdc(tranche.cost_atomic)}, signed up to {usdc(tranche.ceiling_atomic)}"
    )


def _docking_words(view: View, line: Line) -> str | None:
    phase = line.text("phase")
    if phase == view.docking.text("phase"):
        return None
    parts = [phase, line.text("reason")]
    if line.number("distance_m") is not None:
        parts.append(f"{length(line.number('distance_m'))} to the dock")
    parts.append(dock_errors(line))
    attempt = line.count("attempt") or 1
    parts.append(f"attempt {attempt}" if attempt > 1 else "")
    return "docking  " + ", ".join(part for part in parts if part)


def _detection_words(view: View, line: Line) -> str | None:
    range_m = line.number("range_m")
    if range_m is None or view.was_seen:
        return None
    return (
        f"camera   the dock is seen, {length(range_m)} away, confidence {line.number('confidence') or 0:.2f}"
    )


def _stop_words(_: View, line: Line) -> str:
    return f"stop     {line.text('reason')}: {line.text('detail')} {line.text('fault')}".rstrip(": ")


def _evidence_words(view: View, line: Line) -> str | None:
    reason = line.text("reason")
    return None if reason in view.evidence else f"evidence {reason}"


def _speed_words(view: View, line: Line) -> str | None:
    after = fold(view, line).speed
    if after == view.speed:
        return None
    docked = line.data.get("docked") is True
    return f"speed    {'docked' if docked else 'driving'}: {after[docked]:.1f} times real time"


_WORDS: dict[str, Callable[[View, Line], str | None]] = {
    "setup": lambda _, line: f"set-up   {line.text('step')}",
    "quote": _quote_words,
    "state": _state_words,
    "agreement": lambda _, line: (
        f"channel  escrow {usdc(line.count('escrow_atomic'))} at {line.text('station')}"
    ),
    "docking": _docking_words,
    "detection": _detection_words,
    "contact": lambda _, line: f"contact  {line.text('dock') or 'none'}",
    "tranche": _tranche_words,
    "tx": lambda _, line: (
        f"chain    {clean(line.source, 60)}: {_purpose(line)}, block {line.count('block')}, {line.count('gas')} gas"
    ),
    "stop": _stop_words,
    "evidence": _evidence_words,
    "receipt": lambda _, line: (
        f"receipt  {usdc(line.count('claimed_atomic'))} claimed for {energy(line.count('robot_energy_milliwh'))}, "
        f"{usdc(line.count('returned_atomic'))} came back"
    ),
    "check": lambda _, line: (
        f"{'ok' if line.data.get('ok') is True else 'FAILED':8} {line.text('name')} ({line.text('detail')})"
    ),
    "camera": lambda _, line: f"camera   {line.text('backend')} ({line.text('reason')})",
    "broker": lambda _, line: f"broker   {line.text('program')}",
    "speed": _speed_words,
}
