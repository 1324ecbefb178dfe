"""The two sets of frames of ``bench.perception``: which cells there are, and that neither is counted with the other."""

import pytest

pytest.importorskip("onnxruntime", reason="pip install 'depai_robot[onnx]'")

from bench.perception import ALL_BANDS_M, ROOMS, Cell, Line, cells, measured_when
from bench.perception_page import split
from depai_robot.app.model_eval import Judged
from training.degrade import CONDITIONS, PLAIN_CONDITIONS
from training.make_set import RENDERERS


def test_each_renderer_condition_and_band_is_a_cell_and_no_two_draw_the_same_frames():
    work = cells(300, ROOMS)
    assert len({(cell.renderer, cell.number) for cell in work}) == len(work), "a number seeds its frames"
    with_dock = [(cell.renderer, cell.condition, cell.band_m) for cell in work if cell.band_m is not None]
    wanted = {
        (renderer, condition, band)
        for renderer in RENDERERS
        for condition in (*CONDITIONS, *PLAIN_CONDITIONS)
        for band in ALL_BANDS_M
    }
    assert set(with_dock) == wanted
    assert len(with_dock) == len(wanted)
    assert sum(cell.frames for cell in work if cell.band_m is None) == sum(ROOMS.values())


def test_a_plain_frame_counts_in_the_plain_set_alone_under_its_conditions_name():
    lines = [
        Line("simulator", index, "models", Judged(condition, 1.0, published=False, cpu_ms=1.0))
        for index, condition in enumerate((*CONDITIONS, *PLAIN_CONDITIONS))
    ]
    hard, plain = split(lines)
    assert hard == lines[: len(CONDITIONS)]
    assert [line.judged.condition for line in plain] == list(CONDITIONS)
    assert [line.index for line in plain] == [line.index for line in lines[len(CONDITIONS) :]]


def test_what_was_not_measured_has_no_time(tmp_path):
    cell = Cell("simulator", 0, "clean", (1.0, 2.0), 1)
    assert measured_when([cell], tmp_path) == "never"
    (tmp_path / f"{cell.name}.jsonl").touch()
    assert measured_when([cell], tmp_path).endswith(" UTC")
