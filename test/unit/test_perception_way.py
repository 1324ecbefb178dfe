import pytest

from depai_robot.perception.objects import SeenObject
from depai_robot.perception.way import WaySettings, WayState, is_clear, is_in_way, look
from depai_robot.values.error import ConfigError

S = 1_000_000_000
SETTINGS = WaySettings(clear_s=1.0, stale_s=0.5)


def person(left=280, right=360, top=100, bottom=400, **changes):
    values = {"name": "person", "score": 0.8, **changes}
    return SeenObject(left_px=left, right_px=right, top_px=top, bottom_px=bottom, **values)


@pytest.mark.parametrize(
    ("seen", "blocked"),
    [
        (person(), True),
        (person(left=0, right=640), True),
        (person(left=0, right=100), False),
        (person(left=0, right=140), True),
        (person(left=560, right=640), False),
        (person(top=200, bottom=260), False),
        (person(score=0.2), False),
        (person(name="cart"), False),
    ],
    ids=["ahead", "wide", "left", "half in", "right", "far", "unsure", "other"],
)
def test_what_stands_in_the_way(seen, blocked):
    assert is_in_way([person(name="cart"), seen], 640, 480, SETTINGS) is blocked


def test_the_way_is_clear_after_a_second_of_looking():
    state = WayState()
    assert not is_clear(state, 0, SETTINGS), "nothing was seen yet"
    for tenth in range(20):
        state = look(state, blocked=False, stamp_ns=tenth * S // 10)
        assert is_clear(state, tenth * S // 10, SETTINGS) is (tenth >= 10)


def test_it_is_blocked_at_once_and_clear_a_second_later():
    state = WayState(seen_ns=10 * S, since_ns=0)
    assert is_clear(state, 10 * S, SETTINGS)
    state = look(state, blocked=True, stamp_ns=11 * S)
    assert not is_clear(state, 11 * S, SETTINGS)
    state = look(state, blocked=False, stamp_ns=11 * S + S // 2)
    assert not is_clear(state, 11 * S + S // 2, SETTINGS)
    state = look(state, blocked=False, stamp_ns=12 * S)
    assert is_clear(state, 12 * S, SETTINGS)


def test_without_fresh_images_it_is_not_clear():
    state = look(WayState(seen_ns=10 * S, since_ns=0), blocked=False, stamp_ns=12 * S)
    assert is_clear(state, 12 * S + S // 2, SETTINGS)
    assert not is_clear(state, 12 * S + S // 2 + 1, SETTINGS)


def test_an_older_image_changes_nothing():
    state = look(WayState(), blocked=False, stamp_ns=5 * S)
    assert look(state, blocked=True, stamp_ns=4 * S) == state


@pytest.mark.parametrize(
    "changes",
    [{"names": ()}, {"corridor_share": 0.0}, {"corridor_share": 1.1}, {"score_min": -0.1}, {"stale_s": 0.0}],
)
def test_impossible_settings_are_refused(changes):
    with pytest.raises(ConfigError, match="a way"):
        WaySettings(**changes)
