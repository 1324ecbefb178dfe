"""The machine keeps a record of each station's meter, and leaves one that always takes a little."""

from depai_robot.charging import robot
from test.builders import make_key
from test.pretend import World

WH = 1000


def charge(world, session, seconds=900):
    world.request(session, 20 * WH)
    assert world.run(lambda: world.phase == "SETTLED", seconds), world.story()
    world.run(seconds=5)


def record(world):
    return world.robot.state.meter_records[make_key("station-a").address.hex()]


def test_honest_sessions_leave_a_record_and_no_complaint():
    world = World()
    world.run(lambda: len(world.robot.state.offers) == 1, 5)
    for number in range(3):
        charge(world, f"s-{number}")
    assert record(world).sessions == 3
    assert record(world).own_milliwh >= 60 * WH
    assert record(world).carried_microwh == 0
    assert not world.evidence
    assert not world.robot.state.bars


def test_a_small_constant_cheat_is_found_over_sessions():
    """About 2.5 % more than honest: below what one session of 20 Wh shows."""
    world = World()
    world.supplies["a"].over_permille = 1025
    world.run(lambda: len(world.robot.state.offers) == 1, 5)
    for number in range(6):
        if world.robot.state.bars:
            break
        charge(world, f"s-{number}")
    assert 2 <= record(world).sessions <= 5
    assert "sessions the station counts" in world.evidence[-1][1]
    (bar,) = world.robot.state.bars.values()
    assert bar.until_s > world.wall_s + 10**9
    # the session itself was in order, and its receipt names the evidence
    assert world.robot.state.session.stop.fault == ""
    assert world.robot.state.session.evidence


def test_the_record_survives_a_snapshot_and_a_restart():
    world = World()
    world.run(lambda: len(world.robot.state.offers) == 1, 5)
    charge(world, "s-1")
    state = world.robot.state
    assert robot.decode_state(robot.encode_state(state), state.settings) == state
    world.crash(world.robot)
    world.run(lambda: world.robot.alive, 10)
    assert record(world).sessions == 1
