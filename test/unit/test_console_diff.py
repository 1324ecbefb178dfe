"""JSON diff and text curves."""

from depai_robot.console.diff import compare, pretty
from depai_robot.console.plot import plot, resample


def test_changes_are_named_by_path():
    before = b'{"a":1,"b":{"c":[1,2]},"gone":true}'
    after = b'{"a":1,"b":{"c":[1,3,4]},"new":"x"}'
    assert [(c.sign, c.path, c.before, c.after) for c in compare(before, after)] == [
        ("~", "b.c[1]", "2", "3"),
        ("+", "b.c[2]", "", "4"),
        ("+", "new", "", '"x"'),
        ("-", "gone", "true", ""),
    ]


def test_a_type_change_is_a_change():
    assert [c.after for c in compare(b'{"a":1}', b'{"a":true}')] == ["true"]


def test_what_is_no_json_does_not_raise():
    assert compare(b"", b"\xff{")[0].path == "(no JSON)"
    assert compare(b"[" * 50_000, b"[" * 50_000) == []
    assert "\x1b" not in pretty(b"\x1b[2J")
    assert pretty(b'{"a":1}') == '{\n  "a": 1\n}'


def test_resample_keeps_the_last_value():
    assert resample([(0, 1), (1, 2), (5, 3)], 0, 10, 10) == [1, 2, 2, 2, 2, 3, None, None, None, None]
    assert resample([], 0, 10, 3) == [None, None, None]
    assert resample([(-5, 7), (9, 8)], 0, 10, 2) == [7, 8]


def test_plot_fills_from_the_bottom():
    lines, low, high = plot([0, 50, 100, None], 2, 0, 100)
    assert (low, high) == (0, 100)
    assert [len(line) for line in lines] == [4, 4]
    assert lines == ["  █ ", "▁██ "]
    assert plot([5, 5], 1)[0] == ["▁▁"]
    assert all(c in " .:-=+*#@" for line in plot([1, 2, 3], 3, ascii_only=True)[0] for c in line)
