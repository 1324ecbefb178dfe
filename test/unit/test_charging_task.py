"""Limits of one task, beside the owner's policy: they only tighten."""

import pytest

from depai_robot.payment.policy import task_policy
from test.builders import make_policy, make_station_settings
from test.pretend import World

WH = 1000


def two_stations() -> World:
    world = World(
        stations=[
            make_station_settings("a"),
            make_station_settings("b", pose_mm_mrad=(9000, 0, 0), price_atomic_per_kwh=500_000),
        ]
    )
    world.run(lambda: len(world.robot.state.offers) == 2, 5)
    return world


def refused(world: World) -> dict[str, str]:
    return {item.station: item.refused for item in world.robot.state.session.ranking}


def test_the_station_that_was_asked_for_is_the_only_one_asked():
    world = two_stations()
    world.request(station="station-b")
    assert world.run(lambda: world.phase == "SETTLED", 900), world.story()
    assert world.robot.state.session.agreement.offer.offer.station == "station-b"
    assert refused(world)["station-a"] == "only station-b was asked for"


def test_a_station_that_is_not_there_is_waited_for():
    world = two_stations()
    world.request(station="station-z")
    assert world.run(lambda: world.phase == "BACKING_OFF", 60)
    assert set(refused(world).values()) == {"only station-z was asked for"}


def test_a_price_above_the_tasks_is_refused():
    world = two_stations()
    world.request(price_max_atomic_per_kwh=300_000)
    assert world.run(lambda: world.phase == "BACKING_OFF", 60)
    assert all("300000" in reason for reason in refused(world).values()), refused(world)


@pytest.mark.parametrize("limit", [3000, 4200])
def test_no_more_is_signed_than_the_task_may_cost(limit):
    world = two_stations()
    world.request(energy_milliwh=10 * WH, cost_max_atomic=limit)
    assert world.run(lambda: world.phase == "SETTLED", 900), world.story()
    money = world.robot.state.session.money
    assert 2000 < money.signed <= limit
    assert world.robot.state.session.stop.reason == "DeAuthorized"
    assert world.robot.state.session.stop.fault == ""


def test_limits_of_a_task_never_widen_the_policy():
    policy = make_policy()
    wide = task_policy(policy, price_max_atomic_per_kwh=10**12, session_max_atomic=10**12)
    assert wide == policy
    assert task_policy(policy) == policy
    assert task_policy(policy, session_max_atomic=1).session_max_atomic == 1
