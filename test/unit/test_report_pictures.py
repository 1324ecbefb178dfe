"""Charts, map and state pictures: what they show of what they are given, and that no words break out of them."""

import re
from xml.etree import ElementTree as ET

import pytest

from depai_robot.app.report.chart import (
    Panel,
    Series,
    TimeAxis,
    draw_flow,
    draw_panels,
    draw_timeline,
    nice_ticks,
)
from depai_robot.app.report.room import draw_room
from depai_robot.app.report.run import Dock, TrackPoint, World
from depai_robot.app.report.state_picture import state_picture

HOSTILE = '<script>alert(1)</script>"&'
AXIS = TimeAxis(
    0.0, 100.0, [("QUOTING", 0.0, 10.0), (HOSTILE, 10.0, 100.0)], [("contact", 40.0), (HOSTILE, 50.0)]
)
WORLD = World(
    -4.0, 4.0, -3.0, 3.0, (Dock("d1", "st-1", 3.65, 0.9, 0.0), Dock("d2", HOSTILE, 0.2, -2.65, -1.57))
)


def parsed(svg: str) -> ET.Element:
    """Well-formed, and nothing of the hostile words is an element."""
    tree = ET.fromstring(svg)
    assert not [element for element in tree.iter() if element.tag.endswith("script")]
    return tree


def point(at_s: float, x_m: float) -> TrackPoint:
    return TrackPoint(at_s, x_m, 0.0, 0.0, None, None, None, None)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0.0015, 0.0056, [0.002, 0.003, 0.004, 0.005]),
        (17.6, 22.1, [18, 19, 20, 21, 22]),
        (-700, 700, [-500, 0, 500]),
        (5, 5, [5]),
        (1, 0, [1]),
        (0, 1e-9, [0, 2e-10, 4e-10, 6e-10, 8e-10, 1e-9]),
        (0, float("inf"), [0]),
    ],
)
def test_ticks_are_round_and_within(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(ticks)


def test_panels_share_one_axis_of_time() -> None:
    first = Panel("energy", (Series("a", "a", [(0, 0), (50, 5)]), Series("b", "b", [(0, 0), (100, 9)])))
    second = Panel("money", (Series("", "c", [(0, 1), (50, 2)], stairs=True),), limits=[("escrow", 3)])
    tree = parsed(draw_panels([first, second], AXIS, "both"))
    lines = [
        e.get("d") or "" for e in tree.iter() if (e.get("class") or "") in {"line a", "line b", "line c"}
    ]
    curves = [d for d in lines if not re.fullmatch(r"M\d+ [\d.]+h15", d)]
    assert len(curves) == 3
    middle = (54 + 510) / 2
    assert curves[0].endswith(f"L{middle:.1f} " + curves[0].rsplit(" ", 1)[1]), "half of the time is half way"
    assert f"H{middle:.1f}V" in curves[2], "stairs go along before they go up"
    words = [e.text for e in tree.iter() if e.tag == "text"]
    assert {"energy", "money", "escrow", "a", "b"} <= set(words)


def test_a_band_is_drawn_behind_its_line() -> None:
    panel = Panel(
        "d", (Series("x", "c", [(0, 0), (9, 1)]),), band=[(0, -1, 1), (9, -5, 5)], band_name="allowed"
    )
    svg = draw_panels([panel], AXIS, "t")
    assert svg.index('class="band"') < svg.index('class="line c"')
    assert "allowed" in svg


def test_nothing_to_draw_draws_nothing() -> None:
    assert draw_panels([], AXIS, "t") == ""
    assert draw_panels([Panel("t", (Series("a", "a", [(1, 1)]),))], AXIS, "t") == ""
    assert draw_panels([Panel("t", (Series("a", "a", [(1, 1), (2, 2)]),))], TimeAxis(5, 5), "t") == ""
    assert draw_timeline(TimeAxis(0, 0), []) == ""
    assert draw_flow([("a", "a", 0)], "t") == ""


def test_the_timeline_is_in_proportion_and_names_what_fits() -> None:
    tree = parsed(draw_timeline(AXIS, AXIS.marks))
    widths = [float(e.get("width") or 0) for e in tree.iter("rect")]
    assert widths == [pytest.approx(100), pytest.approx(900)]
    assert "contact" in [e.text for e in tree.iter("text")]
    tiny = draw_timeline(TimeAxis(0, 1000, [("QUOTING", 0, 1), ("CHARGING", 1, 1000)]), [])
    assert ">QUOTING<" not in tiny
    assert "QUOTING: 1.0 s" in tiny, "it can still be pointed at"


def test_the_flow_is_in_proportion() -> None:
    rects = list(parsed(draw_flow([("claimed", "b", 3), ("back", "a", 1)], HOSTILE)).iter("rect"))
    assert [float(r.get("x") or 0) for r in rects] == [0.0, pytest.approx(390)]


def test_the_map_shows_docks_way_and_robot() -> None:
    track = [point(t, -1.0 + 0.1 * t) for t in range(30)]
    svg = draw_room(WORLD, track, chosen="st-1", contact_s=20.0, views=[("1", track[5])])
    tree = parsed(svg)
    classes = [e.get("class") or "" for e in tree.iter()]
    assert (classes.count("dock on"), classes.count("dock")) == (1, 1)
    assert (classes.count("way there"), classes.count("way back")) == (1, 1)
    assert {"robot start", "robot end", "view"} <= set(classes)
    x, y = next(e for e in tree.iter() if e.get("class") == "view").get("cx"), 1
    assert float(x or 0) == pytest.approx(14 + (-0.5 + 4) * (520 - 28) / 8, abs=0.1)
    assert y


def test_a_map_of_a_run_that_never_drove() -> None:
    tree = parsed(draw_room(WORLD, []))
    assert not [e for e in tree.iter() if "robot" in (e.get("class") or "")]
    parsed(draw_room(WORLD, [point(0, 0)]))


MOVES = [
    ("A", "go", "B"),
    ("B", "on", "C"),
    ("A", "skip", "C"),
    ("C", "again", "A"),
    ("C", "self", "C"),
    ("X", "y", "A"),
]


def test_a_state_picture_has_every_phase_and_every_move() -> None:
    svg = state_picture(MOVES, ["A", "B", "C"])
    tree = parsed(svg)
    titles = [e.text for e in tree.iter() if e.tag.endswith("title")]
    assert {"A to B: go", "B to C: on", "A to C: skip", "C to A: again"} <= set(titles)
    assert [e.text for e in tree.iter() if e.tag.endswith("}text")] == ["A", "B", "C"]
    assert not [e for e in tree.iter() if (e.get("class") or "").endswith(" on")]


def test_the_path_taken_stands_out_and_nothing_else() -> None:
    svg = state_picture(MOVES, ["A", "B", "C"], ["A", "C"], "t", {"C": HOSTILE})
    tree = parsed(svg)
    on = [e for e in tree.iter() if (e.get("class") or "").endswith(" on")]
    assert [e[0].text for e in on if e.tag.endswith("path")] == ["A to C: skip"]
    assert len([e for e in on if e.tag.endswith("rect")]) == 2


def test_state_pictures_are_the_same_every_time() -> None:
    assert state_picture(MOVES, ["A", "B", "C"]) == state_picture(list(MOVES), ["A", "B", "C"])
    parsed(state_picture([(HOSTILE, HOSTILE, "B")], [HOSTILE, "B"], [HOSTILE, "B"], HOSTILE))
