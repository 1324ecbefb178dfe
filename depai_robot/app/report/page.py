"""Builds report.html from what a run left. Missing parts are named, not hidden; the page needs nothing but itself."""

import itertools
import re
from pathlib import Path
from typing import Any

import jinja2
import msgspec
import yaml

from depai_robot.app.report.chart import Panel, Series, TimeAxis, draw_flow, draw_panels, draw_timeline
from depai_robot.app.report.room import draw_room
from depai_robot.app.report.run import Run
from depai_robot.app.report.sight import Sight, choose_sights, error_statistics
from depai_robot.app.report.state_picture import state_picture
from depai_robot.app.view import (
    Tranche,
    View,
    describe,
    energy,
    fold,
    length,
    parse_tranche,
    price,
    usdc,
    verdict,
)
from depai_robot.charging.reconciliation import MeterBand, lower_bound_milliwh, upper_bound_milliwh
from depai_robot.charging.transition import ROBOT_TRANSITIONS, RobotPhase
from depai_robot.payment.receipt import Receipt
from depai_robot.values.error import ConfigError

EVENTS_SHOWN = 400
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")

FILES = (
    ("receipt.json", "the receipt"),
    ("receipt-*.jws", "the receipt, signed by the robot"),
    ("statements.ocmf", "the meter's signed statements, one a line (OCMF)"),
    ("checks.json", "the audit"),
    ("run.mcap", "record of the ROS topics: open it in Foxglove"),
    ("wallet.sqlite", "the robot's journal"),
    ("station-*.sqlite", "the stations' journals"),
    ("evidence-*.json", "signed messages kept against a station"),
    ("policy.json", "what the owner allows, signed"),
    ("story-*.jsonl", "what happened, line by line"),
    ("*.yaml", "configuration of each process"),
    ("logs/*.log", "what each process wrote"),
)


def write_report(folder: Path) -> Path:
    """Writes ``report.html`` into a run's folder and returns its path; the page needs nothing else.

    Raises:
        ConfigError: the folder can't be read or written.
    """
    path = folder / "report.html"
    if not folder.is_dir():
        raise ConfigError(
            f"report: {folder} is not a folder; expected one that a run has left, as below out/"
        )
    try:
        # Written aside first: a reader never sees half a page.
        aside = path.with_name(path.name + ".new")
        aside.write_text(render(folder), encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise ConfigError(f"report of {folder}: {error}") from error
    return path


def render(folder: Path) -> str:
    """The page's HTML."""
    run = Run(folder)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("depai_robot.app.report", "template"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"usdc": usdc, "energy": energy}
    axis = time_axis(run)
    sights = choose_sights(run)
    tranches = charged(run)
    page: str = environment.get_template("page.html.j2").render(
        name=folder.resolve().name,
        run=run,
        receipt=run.receipt,
        checks=run.checks,
        ok=bool(run.checks) and all(ok for _, ok, _ in run.checks),
        outcome=outcome(run),
        missing=missing(run, sights),
        timeline=draw_timeline(axis, axis.marks),
        room=_room(run, sights),
        sights=sights,
        errors=error_statistics(run),
        quotes=_quotes(run),
        energy_svg=_energy(run, tranches, charging_axis(run, axis)),
        money_svg=_money(run, tranches, charging_axis(run, axis)),
        battery_svg=_battery(run, axis),
        tranche_count=len(tranches),
        flow=flow(run.receipt),
        flow_svg=draw_flow(flow(run.receipt), "What became of the deposit"),
        risk_max=max((t.ceiling_atomic - t.cost_atomic for _, t in tranches), default=None),
        states_svg=_states(run),
        way=[(s.phase, s.cause, s.from_s - run.zero_s, s.until_s - s.from_s) for s in run.stays],
        transactions=_transactions(run),
        receipt_rows=_receipt_rows(run.receipt),
        events=_events(run),
        notes=_notes(run),
        files=_files(folder),
        stop=run.newest("stop", "wallet"),
        stop_reason=_CAMEL.sub(" ", run.receipt.stop_reason).lower() if run.receipt is not None else "",
    )
    return page


# --- words ---------------------------------------------------------------------------------------------------


def outcome(run: Run) -> tuple[str, str]:
    """(badge, sentence) of what came of the run."""
    receipt, cheat = run.receipt, str(run.plan.get("dishonest", "none"))
    if receipt is None:
        last = run.stays[-1].phase if run.stays else ""
        where = f"The session was last {last}." if last else "No session was begun."
        return "not finished", f"There is no receipt. {where}"
    sentence = f"{receipt.robot} bought {energy(receipt.robot_energy_milliwh)} from {receipt.station}"
    sentence += f" for {usdc(receipt.claimed_atomic)}"
    if cheat != "none":
        sentence += f", a station that cheats on purpose ({cheat})"
    if not run.checks:
        return "not audited", f"{sentence}. The run ended before its audit."
    if any(not ok for _, ok, _ in run.checks):
        return "does not reconcile", f"{sentence}. Something does not agree: see the audit."
    what = "journals, chain and both meters agree with the receipt"
    if cheat != "none":
        what = "the robot noticed, left, settled and kept what proves it"
    return "reconciled", f"{sentence}: {what}."


def missing(run: Run, sights: list[Sight]) -> list[str]:
    """Names of parts that the run did not leave."""
    parts = (
        ("receipt", run.receipt),
        ("audit", run.checks),
        ("quotes", run.quotes),
        ("tranches", charged(run)),
        ("camera pictures", sights),
        ("track", run.track),
    )
    return [name for name, there in parts if not there]


def _notes(run: Run) -> list[str]:
    notes = [
        f"{'docked' if docked else 'driving'} {factor:.1f} times real time" for docked, factor in run.speeds
    ]
    camera, broker = run.newest("camera", "sim"), run.newest("broker", "demo")
    if camera is not None:
        notes.append(f"camera by {camera.text('backend')} ({camera.text('reason')})")
    if broker is not None:
        notes.append(f"broker {broker.text('program')}")
    if "seed" in run.plan:
        notes.append(f"seed {run.plan['seed']}")
    return notes


def _quotes(run: Run) -> list[dict[str, Any]]:
    rows = []
    for quote in run.quotes:
        refused, chosen = quote.text("refused"), quote.data.get("chosen") is True
        rows.append(
            {
                "station": quote.text("station"),
                "price": _bare(price(quote.count("price_atomic_per_kwh"))),
                "fee": _bare(usdc(quote.count("start_fee_atomic"))),
                "distance": length(quote.number("distance_m")),
                "score": "-" if refused else _bare(usdc(quote.count("score") or None)),
                "verdict": "chosen" if chosen else verdict(quote),
                "style": "on" if chosen else "no" if refused else "",
            }
        )
    return rows


def _bare(amount: str) -> str:
    """Without its unit, which stands in the column's head."""
    return amount.partition(" ")[0]


def _transactions(run: Run) -> list[dict[str, str]]:
    return [
        {
            "who": line.source.removeprefix("station:"),
            "what": line.text("purpose").rpartition(":")[2],
            "hash": line.text("hash"),
            "block": line.text("block"),
            "gas": f"{line.count('gas') or 0:,}",
            "at": f"{line.ros_s - run.zero_s:.1f} s",
        }
        for line in run.of("tx")
    ]


def _receipt_rows(receipt: Receipt | None) -> list[tuple[str, str]]:
    if receipt is None:
        return []
    rows = [
        ("session", receipt.session),
        ("robot", f"{receipt.robot}, {receipt.robot_address}"),
        ("station", f"{receipt.station}, {receipt.station_address}"),
        ("network", receipt.network),
        ("token", receipt.token),
        ("channel", receipt.channel),
        ("price", price(receipt.price_atomic_per_kwh)),
        ("station's meter", energy(receipt.station_energy_milliwh)),
        ("own meter", energy(receipt.robot_energy_milliwh)),
        ("start fee, idle fee", f"{usdc(receipt.start_fee_atomic)}, {usdc(receipt.idle_fee_atomic)}"),
        ("owed", usdc(receipt.owed_atomic)),
        ("signed up to", f"{usdc(receipt.ceiling_atomic)}, in {receipt.vouchers} vouchers"),
        ("deposited", usdc(receipt.deposited_atomic)),
        ("claimed", usdc(receipt.claimed_atomic)),
        ("came back", usdc(receipt.returned_atomic)),
        ("stopped by", receipt.stop_reason),
        ("fault", receipt.fault),
    ]
    rows += [
        (f"{name} transaction", value) for name, value in msgspec.structs.asdict(receipt.transactions).items()
    ]
    return [(name, value) for name, value in rows if value]


def _events(run: Run) -> list[tuple[str, str]]:
    """(session time, words) of what happened; the newest ones when there are too many."""
    view, events = View(), []
    for line in run.lines:
        words = describe(view, line)
        view = fold(view, line)
        if words is not None:
            at = f"{line.ros_s - run.zero_s:.1f} s" if line.ros_s else ""
            events.append((at, words))
    return events[-EVENTS_SHOWN:]


def _files(folder: Path) -> list[tuple[str, int, str]]:
    """(name, bytes, meaning) of what lies beside the page."""
    found: dict[str, tuple[str, int, str]] = {}
    for pattern, meaning in FILES:
        for path in sorted(folder.glob(pattern)):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and name not in found:
                found[name] = (name, path.stat().st_size, meaning)
    return list(found.values())


# --- pictures ------------------------------------------------------------------------------------------------


def time_axis(run: Run) -> TimeAxis:
    """From the first request to the end of the session, with its phases and what happened once."""
    zero_s = run.zero_s
    until_s = run.stays[-1].from_s if run.stays else run.end_s
    shades = [(s.phase, s.from_s - zero_s, min(s.until_s, until_s) - zero_s) for s in run.stays]
    marks = [(line.text("purpose").rpartition(":")[2], line.ros_s - zero_s) for line in run.of("tx")]
    marks += [("contact", line.ros_s - zero_s) for line in run.of("contact", "sim") if line.text("dock")]
    marks += [("stop", line.ros_s - zero_s) for line in run.of("stop", "wallet")]
    marks += [("evidence", line.ros_s - zero_s) for line in run.of("evidence", "wallet")[:1]]
    kept = sorted((mark for mark in marks if 0 <= mark[1] <= until_s - zero_s), key=lambda mark: mark[1])
    return TimeAxis(0.0, until_s - zero_s, [shade for shade in shades if shade[2] > shade[1]], kept)


def charging_axis(run: Run, whole: TimeAxis) -> TimeAxis:
    """The part of the session in which energy flowed, a little wider; the whole of it when that is unknown."""
    began = [stay.from_s for stay in run.stays if stay.phase in {"PRESENTING", "CHARGING"}]
    ended = [stay.from_s for stay in run.stays if stay.phase in {"UNDOCKING", "SETTLING"}]
    if not began or not ended or ended[0] <= began[0]:
        return whole
    from_x, until_x = began[0] - run.zero_s, ended[0] - run.zero_s
    pad = (until_x - from_x) * 0.03
    from_x, until_x = from_x - pad, until_x + pad
    shades = [shade for shade in whole.shades if shade[2] > from_x and shade[1] < until_x]
    marks = [mark for mark in whole.marks if from_x <= mark[1] <= until_x]
    return TimeAxis(from_x, until_x, shades, marks)


def _stated(run: Run) -> list[tuple[float, float]]:
    """(session time, Wh) that the chosen station's meter stated, from its first statement on."""
    lines = [line for line in run.of("statement", f"station:{run.station}") if run.station]
    values = [(line.ros_s - run.zero_s, line.count("energy_milliwh")) for line in lines]
    known = [(x, value) for x, value in values if value is not None]
    return [(x, (value - known[0][1]) / 1000) for x, value in known]


def _delivered(run: Run, axis: TimeAxis) -> list[tuple[float, float]]:
    """(session time, Wh) that really went through the robot's pads, as the simulation knows it."""
    points, total_wh = [], 0.0
    for before, after in itertools.pairwise(run.track):
        total_wh += (before.pads_w or 0.0) * (after.at_s - before.at_s) / 3600
        x = after.at_s - run.zero_s
        if axis.from_x <= x <= axis.until_x:
            points.append((x, total_wh))
    return points if total_wh else []


def charged(run: Run) -> list[tuple[float, Tranche]]:
    """(session time, tranche) of the session."""
    found = []
    for line in run.of("tranche", "wallet"):
        tranche = parse_tranche(line)
        if tranche is not None and line.ros_s >= run.zero_s:
            found.append((line.ros_s - run.zero_s, tranche))
    return found


def _room(run: Run, sights: list[Sight]) -> str:
    if run.world is None:
        return ""
    views = [(str(sight.number), sight.place) for sight in sights if sight.place is not None]
    return draw_room(run.world, run.track, chosen=run.station, contact_s=run.contact_s, views=views)


def _band(folder: Path) -> MeterBand:
    """The band that the wallet was told to use, or the usual one."""
    try:
        data = yaml.safe_load((folder / "wallet.yaml").read_text(encoding="utf-8"))
        return msgspec.convert(data["band"], MeterBand)
    except (OSError, yaml.YAMLError, msgspec.ValidationError, ConfigError, KeyError, TypeError, ValueError):
        return MeterBand()


def _energy(run: Run, tranches: list[tuple[float, Tranche]], axis: TimeAxis) -> str:
    band, lag = _band(run.folder), 0
    if run.receipt is not None and run.receipt.price_atomic_per_kwh:
        risk = max((t.ceiling_atomic - t.cost_atomic for _, t in tranches), default=0)
        lag = risk * 1_000_000 // run.receipt.price_atomic_per_kwh
    allowed = [
        (
            x,
            float(lower_bound_milliwh(band, t.own_milliwh, lag) - t.own_milliwh),
            float(upper_bound_milliwh(band, t.own_milliwh) - t.own_milliwh),
        )
        for x, t in tranches
    ]
    if len(tranches) < 2:
        # Too soon over for a curve of tranches: then what the station said, against what came.
        series = (
            Series("stated by the station", "b", _stated(run)),
            Series("really delivered", "a", _delivered(run, axis)),
        )
        return draw_panels([Panel("energy, Wh", series)], axis, "Energy over time")
    panels = [
        Panel(
            "energy, Wh",
            (
                Series("station's meter", "b", [(x, t.station_milliwh / 1000) for x, t in tranches]),
                Series("own meter", "a", [(x, t.own_milliwh / 1000) for x, t in tranches]),
            ),
        ),
        Panel(
            "station less own, mWh",
            (
                Series(
                    "difference", "c", [(x, float(t.station_milliwh - t.own_milliwh)) for x, t in tranches]
                ),
            ),
            band=allowed,
            band_name="explained by losses and time",
            height=110,
        ),
    ]
    return draw_panels(panels, axis, "Energy by both meters over time")


def _money(run: Run, tranches: list[tuple[float, Tranche]], axis: TimeAxis) -> str:
    escrow = run.receipt.deposited_atomic if run.receipt is not None else 0
    if not escrow:
        agreement = run.newest("agreement", "wallet")
        escrow = (agreement.count("escrow_atomic") or 0) if agreement is not None else 0
    ceiling = [(x, t.ceiling_atomic / 1e6) for x, t in tranches]
    cost = [(x, t.cost_atomic / 1e6) for x, t in tranches]
    risk = [(x, float(t.ceiling_atomic - t.cost_atomic)) for x, t in tranches]
    panels = [
        Panel(
            "USDC",
            (
                Series("signed ceiling", "b", ceiling, stairs=True),
                Series("owed", "a", cost, stairs=True),
            ),
            limits=[("in escrow", escrow / 1e6)] if escrow else [],
        ),
        Panel(
            "at risk: ceiling less owed, millionths of a USDC",
            (Series("", "c", [(x, y) for x, y in risk], stairs=True),),
            limits=[("", 0.0)],
            height=90,
        ),
    ]
    return draw_panels(panels, axis, "Money over time")


def _battery(run: Run, axis: TimeAxis) -> str:
    points = [
        (p.at_s - run.zero_s, p) for p in run.track if axis.from_x <= p.at_s - run.zero_s <= axis.until_x
    ]
    step = max(1, len(points) // 600)
    points = points[::step]
    if not points:
        lines = [line for line in run.of("battery", "wallet") if line.ros_s >= run.zero_s]
        soc = [(line.ros_s - run.zero_s, line.number("soc")) for line in lines]
        charge = [(x, y * 100) for x, y in soc if y is not None]
        return draw_panels(
            [Panel("state of charge, %", (Series("", "a", charge),))], axis, "Battery over time"
        )
    charge = [(x, p.charge * 100) for x, p in points if p.charge is not None]
    power = [
        (x, p.voltage_v * p.current_a)
        for x, p in points
        if p.voltage_v is not None and p.current_a is not None
    ]
    pads = [(x, p.pads_w) for x, p in points if p.pads_w is not None]
    panels = [
        Panel("state of charge, %", (Series("", "a", charge),), height=120),
        Panel(
            "power, W", (Series("at the pads", "b", pads), Series("into the battery", "a", power)), height=120
        ),
    ]
    return draw_panels(panels, axis, "Battery over time")


def flow(receipt: Receipt | None) -> list[tuple[str, str, int]]:
    """(words, style, amount) of what became of the deposit."""
    if receipt is None or not receipt.deposited_atomic:
        return []
    fees = min(receipt.claimed_atomic, receipt.start_fee_atomic + receipt.idle_fee_atomic)
    left = receipt.deposited_atomic - receipt.claimed_atomic - receipt.returned_atomic
    parts = [
        ("fees", "b2", fees),
        ("for energy", "b", receipt.claimed_atomic - fees),
        ("came back", "a", receipt.returned_atomic),
        ("still in the channel", "c", max(0, left)),
    ]
    return [(f"{name} {usdc(amount)}", style, amount) for name, style, amount in parts if amount]


def _states(run: Run) -> str:
    notes: dict[str, str] = {}
    for number, stay in enumerate(run.stays):
        if stay.phase in notes:
            notes[stay.phase] = f"{sum(other.phase == stay.phase for other in run.stays)} times"
            continue
        # The last phase has no end that is its own.
        lasted = f", for {stay.until_s - stay.from_s:.1f} s" if number + 1 < len(run.stays) else ""
        notes[stay.phase] = f"at {stay.from_s - run.zero_s:.1f} s{lasted}"
    return state_picture(
        [(row.before, row.cause, row.after) for row in ROBOT_TRANSITIONS],
        [phase.value for phase in RobotPhase],
        ["IDLE", *(stay.phase for stay in run.stays)] if run.stays else [],
        "The robot's session",
        notes,
    )
