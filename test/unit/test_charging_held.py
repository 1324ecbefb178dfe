"""A dock whose current does not stop: nobody leaves under current, and the money does not wait for that."""

import pytest

from depai_robot.payment.receipt import parse_receipt
from test.builders import make_robot_settings
from test.pretend import World


def held_world() -> World:
    world = World(make_robot_settings(stop_timeout_ms=5000, settle_timeout_ms=60_000))
    world.run(lambda: len(world.robot.state.offers) == 1, 5)
    world.request("s-1", 2000)
    assert world.run(lambda: world.phase == "CHARGING", 60)
    world.supplies["a"].stuck = True
    return world


def test_the_money_is_settled_while_the_robot_is_held():
    world = held_world()
    assert world.run(lambda: world.phase == "SETTLED", 900), world.story()
    assert world.docked == "a"
    assert world.robot.state.session.dock == "held"
    assert any("not undocking" in call for call in world.calls)
    receipt = parse_receipt(world.receipts[-1])
    assert receipt.claimed_atomic <= receipt.owed_atomic or receipt.fault
    assert world.robot.state.ledger.escrow_total_atomic == 0


def test_it_leaves_when_the_current_stops_at_last():
    world = held_world()
    assert world.run(lambda: world.phase == "SETTLED", 900)
    world.supplies["a"].stuck = False
    world.supplies["a"].power_w = 0
    assert world.run(lambda: not world.docked, 60), world.story()
    assert world.robot.state.session.dock == ""


def test_nothing_else_is_begun_while_it_is_held():
    world = held_world()
    assert world.run(lambda: world.phase == "SETTLED", 900)
    world.request("s-2", 1000)
    assert world.robot.state.session.id == "s-1"
    assert world.robot.state.ignored["charge requested while a dock holds the robot"] == 1


@pytest.mark.parametrize("phase", ["SETTLING", "SETTLED"])
def test_a_restart_goes_on_looking(phase):
    world = held_world()
    assert world.run(lambda: world.phase == phase, 900), world.story()
    world.crash(world.robot, 1)
    assert world.run(lambda: world.robot.alive, 10)
    world.supplies["a"].stuck = False
    world.supplies["a"].power_w = 0
    assert world.run(lambda: not world.docked, 120), world.story()
    assert world.run(lambda: world.phase == "SETTLED", 900)
