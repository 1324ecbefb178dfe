"""A story holds other parties' words and half-written thoughts: no line of it breaks the screen."""

import io

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from depai_robot.app.story import Line
from depai_robot.app.view import _CHANGES, _WORDS, View, describe, fold
from depai_robot.cli.screen import render

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
NAMES = (
    "session", "to", "from", "cause", "station", "price_atomic_per_kwh", "start_fee_atomic", "distance_m", "score",
    "chosen", "refused", "escrow_atomic", "number", "station_milliwh", "own_milliwh", "ceiling_atomic", "cost_atomic",
    "purpose", "block", "gas", "reason", "detail", "fault", "state_of_charge", "soc", "voltage_v", "current_a", "phase",
    "lateral_m", "yaw_error_rad", "attempt", "range_m", "confidence", "dock", "docked", "simulated_s", "wall_s", "name",
    "ok", "step", "done", "backend", "program", "claimed_atomic", "robot_energy_milliwh", "stop_reason", "vouchers",
)  # fmt: skip
LINES = st.builds(
    lambda kind, source, data: Line(0.0, 0.0, source, kind, data),
    st.sampled_from(sorted({*_CHANGES, *_WORDS, "unknown"})),
    st.sampled_from(["wallet", "sim", "station:x\x1b"]),
    st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=12),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(LINES, min_size=3, max_size=25), st.integers(10, 60), st.integers(20, 140))
def test_no_line_breaks_the_screen(lines: list[Line], rows: int, width: int) -> None:
    view = View()
    for each in lines:
        words = describe(view, each)
        assert words is None or words.isprintable()
        view = fold(view, each)
    console = Console(file=io.StringIO(), width=width, force_terminal=False, color_system=None)
    console.print(render(view, (), 1.0, rows))
    assert "\x1b" not in console.file.getvalue()  # type: ignore[attr-defined]
