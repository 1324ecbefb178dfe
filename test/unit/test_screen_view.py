"""The screen's view is a fold of lines; every line, however broken, leaves a view that can be drawn."""

import io
from typing import Any

import pytest
from rich.console import Console

from depai_robot.app.story import Line
from depai_robot.app.view import View, describe, fold, price
from depai_robot.charging.transition import RobotPhase
from depai_robot.cli.screen import USUAL_WAY, render


def line(kind: str, source: str = "wallet", **data: Any) -> Line:
    return Line(0.0, 0.0, source, kind, data)


def state(to: str, session: str = "s1", **data: Any) -> Line:
    return line("state", session=session, to=to, cause="Quote", **data)


def quote(station: str, **changes: Any) -> Line:
    data = {
        "station": station,
        "price_atomic_per_kwh": 380_000,
        "start_fee_atomic": 1500,
        "distance_m": 5.46,
        "score": 5833,
        "chosen": False,
        "refused": None,
    }
    return line("quote", **{**data, **changes})


def tranche(number: int) -> Line:
    return line(
        "tranche", number=number, station_milliwh=260 * number, own_milliwh=255 * number,
        cost_atomic=1500 + 98 * number, ceiling_atomic=1690 + 98 * number,
    )  # fmt: skip


RECEIPT = line(
    "receipt", station="st-far", robot_energy_milliwh=10_538, station_energy_milliwh=10_727, owed_atomic=5576,
    claimed_atomic=5576, deposited_atomic=5935, returned_atomic=359, stop_reason="EnergyLimitReached", vouchers=40,
)  # fmt: skip

STORY = [
    line("setup", "demo", step="simulated world", done=False),
    line("camera", "sim", backend="rays", reason="no GL here"),
    line("setup", "demo", step="everything runs", done=True),
    line("pose", "sim", x_m=0, y_m=0, state_of_charge=0.18, voltage_v=25.8, current_a=-1.0),
    state("QUOTING"),
    quote("st-far", chosen=True),
    quote("st-near", price_atomic_per_kwh=620_000, score=9998, distance_m=2.728),
    quote("st-shut", score=0, refused="members only"),
    line("agreement", station="st-far", channel_id="0x00", escrow_atomic=5935),
    state("FUNDING"),
    line("tx", "station:st-far", purpose="s1:deposit", hash="0x01", block=37, gas=130_044),
    state("APPROACHING"),
    line(
        "docking",
        "docking",
        phase="STAGING",
        distance_m=3.08,
        lateral_m=-0.237,
        yaw_error_rad=-0.396,
        attempt=2,
    ),
    line("detection", "detector", range_m=3.07, sigma_range_m=0.004, confidence=0.98),
    line("speed", "sim", docked=False, simulated_s=20.0, wall_s=5.0),
]
CHARGING = [
    line("contact", "sim", dock="dock_far"),
    state("PRESENTING"),
    state("CHARGING"),
    *(tranche(number) for number in range(1, 13)),
]
END = [
    line("stop", reason="EnergyLimitReached", detail="the wanted energy is in", fault=""),
    state("STOPPING"),
    state("UNDOCKING"),
    line("contact", "sim", dock=None),
    state("SETTLING"),
    line("tx", "station:st-far", purpose="s1:claim", hash="0x02", block=69, gas=90_116),
    state("SETTLED"),
    RECEIPT,
    line("check", "demo", name="owed is price times energy plus fees", ok=True, detail="5576, 5576"),
    line("check", "demo", name="both meters agree", ok=False, detail="10727, 9000"),
]


def folded(*lines: Line) -> View:
    view = View()
    for each in lines:
        view = fold(view, each)
    return view


def drawn(view: View, rows: int = 60, width: int = 120, events: tuple[str, ...] = ()) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False, color_system=None)
    console.print(render(view, events, 12.3, rows))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_quotes_show_scores_and_why_the_others_were_refused() -> None:
    text = drawn(folded(*STORY))
    rows = {
        name: next(row for row in text.splitlines() if name in row)
        for name in ("st-far", "st-near", "st-shut")
    }
    assert "0.380" in rows["st-far"]
    assert "0.005833" in rows["st-far"]
    assert "CHOSEN" in rows["st-far"]
    assert "dearer than the chosen one" in rows["st-near"]
    assert "refused: members only" in rows["st-shut"]
    assert "0.000000" not in rows["st-shut"], "what was not scored has no score"


def test_the_way_to_the_dock() -> None:
    text = drawn(folded(*STORY))
    assert "APPROACHING   battery 18.0 %  25.8 V -1.0 A   driving 4.0x real time" in text
    assert "staging (attempt 2)   3.08 m to the dock   -237 mm beside, -22.7 deg off" in text
    assert "seen at 3.07 m +- 4 mm" in text
    assert "deposit by st-far (130,044 gas)" in text


def test_tranches_show_both_meters_and_the_money() -> None:
    view = folded(*STORY, *CHARGING)
    text = drawn(view)
    assert "CONTACT dock_far" in text
    assert "Tranches (12)" in text
    newest = next(row for row in text.splitlines() if row.split()[1:2] == ["12"])
    assert newest.split()[1:7] == ["12", "3.120", "3.060", "0.002676", "0.002866", "0.000190"]
    assert "of 0.005935 USDC in escrow" in text
    small = drawn(view, rows=24)
    assert len(small.splitlines()) <= 24
    assert "bought from  st-far at 0.380 USDC/kWh   (st-near: dearer, st-shut: refused)" in small


def test_the_end_shows_receipt_and_every_check() -> None:
    text = drawn(folded(*STORY, *CHARGING, *END))
    assert "10.538 Wh by own meter, 10.727 Wh by the station's, from st-far" in text
    assert "claimed 0.005576 USDC of 0.005935 USDC deposited; 0.000359 USDC came back" in text
    assert "ok     owed is price times energy plus fees  5576, 5576" in text
    assert "FAILED both meters agree  10727, 9000" in text
    assert "1 of 2 checks passed" in text
    assert "CONTACT" not in text
    assert len(drawn(folded(*STORY, *CHARGING, *END), rows=24).splitlines()) <= 24


def test_another_way_is_told_as_it_was_taken() -> None:
    text = drawn(folded(state("QUOTING"), state("BACKING_OFF"), state("QUOTING")))
    assert "QUOTING > BACKING_OFF > QUOTING" in text


def test_a_new_session_clears_what_belonged_to_the_last() -> None:
    view = folded(*STORY, *CHARGING, state("QUOTING", session="s2"))
    assert (view.quotes, view.tranches, view.path, view.session) == ({}, (), ("QUOTING",), "s2")
    assert len(view.transactions) == 1, "money that moved stays on the screen"


def test_a_fault_is_said_once_in_words_and_stays_on_the_screen() -> None:
    evidence = line("evidence", session="s1", reason="station states 371 mWh, own meter 271")
    stop = line("stop", reason="Other", detail="station states 333 mWh, own meter 255", fault="cheated")
    view = folded(*STORY, stop)
    assert describe(view, evidence) == "evidence station states 371 mWh, own meter 271"
    view = fold(view, evidence)
    assert describe(view, evidence) is None
    assert "noticed  cheated: station states 333 mWh, own meter 255" in drawn(view)


def test_words_of_each_event() -> None:
    view, words = View(), []
    for each in [*STORY, *CHARGING[:4], *END]:
        told = describe(view, each)
        view = fold(view, each)
        words += [told] if told is not None else []
    assert words == [
        "set-up   simulated world",
        "camera   rays (no GL here)",
        "set-up   everything runs",
        "wallet   IDLE -> QUOTING (Quote)",
        "quote    st-far: 0.380 USDC/kWh, 5.46 m away, in all 0.005833 USDC: CHOSEN",
        "quote    st-near: 0.620 USDC/kWh, 2.73 m away, in all 0.009998 USDC: dearer than the chosen one",
        "quote    st-shut: 0.380 USDC/kWh, 5.46 m away, not scored: refused: members only",
        "channel  escrow 0.005935 USDC at st-far",
        "wallet   IDLE -> FUNDING (Quote)",
        "chain    station:st-far: deposit, block 37, 130044 gas",
        "wallet   IDLE -> APPROACHING (Quote)",
        "docking  STAGING, 3.08 m to the dock, -237 mm beside, -22.7 deg off, attempt 2",
        "camera   the dock is seen, 3.07 m away, confidence 0.98",
        "speed    driving: 4.0 times real time",
        "contact  dock_far",
        "wallet   IDLE -> PRESENTING (Quote)",
        "wallet   IDLE -> CHARGING (Quote)",
        "tranche    1: station's meter 0.260 Wh, own meter 0.255 Wh, owed 0.001598 USDC, signed up to 0.001788 USDC",
        "stop     EnergyLimitReached: the wanted energy is in",
        "wallet   IDLE -> STOPPING (Quote)",
        "wallet   IDLE -> UNDOCKING (Quote)",
        "contact  none",
        "wallet   IDLE -> SETTLING (Quote)",
        "chain    station:st-far: claim, block 69, 90116 gas",
        "wallet   IDLE -> SETTLED (Quote)",
        "receipt  0.005576 USDC claimed for 10.538 Wh, 0.000359 USDC came back",
        "ok       owed is price times energy plus fees (5576, 5576)",
        "FAILED   both meters agree (10727, 9000)",
    ]


def test_what_only_moves_a_number_has_no_words() -> None:
    view = folded(*STORY)
    for each in (STORY[3], STORY[12], STORY[13], STORY[14], line("supply", "sim"), line("", "")):
        assert describe(view, each) is None


def test_a_stations_words_are_neither_markup_nor_control_codes() -> None:
    view = folded(state("QUOTING"), quote("[bold]x[/red]", refused="[/]\x1b[2J\x07 pay me"))
    text = drawn(view, width=160)
    assert "[bold]x[/red]" in text
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\x1b" not in (describe(view, quote("a\x1bb")) or "")


@pytest.mark.parametrize(
    ("atomic", "text"),
    [
        (380_000, "0.380 USDC/kWh"),
        (1, "0.000001 USDC/kWh"),
        (2_000_000, "2.000 USDC/kWh"),
        (None, "-"),
        (0, "-"),
    ],
)
def test_prices_are_exact(atomic: int | None, text: str) -> None:
    assert price(atomic) == text


def test_the_usual_way_is_a_way_through_the_machine() -> None:
    assert [p for p in RobotPhase if p in USUAL_WAY] == list(USUAL_WAY)
