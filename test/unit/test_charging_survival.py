"""The survival clause: one last charge a day above the usual price, when the battery is critical."""

import pytest

from depai_robot.payment.receipt import parse_receipt
from test.builders import make_policy, make_robot_settings, make_station_settings
from test.pretend import World

WH = 1000
DEAR = 1_500_000


def dear_world(below_permille: int = 200, session: int = 10_000, price: int = 2_000_000) -> World:
    policy = make_policy(
        survival_below_permille=below_permille,
        survival_price_max_atomic_per_kwh=price,
        survival_session_max_atomic=session,
        tranche_max_atomic=5000,
    )
    world = World(
        make_robot_settings(policy=policy),
        [make_station_settings("a", price_atomic_per_kwh=DEAR, price_floor_atomic_per_kwh=DEAR)],
    )
    world.run(lambda: len(world.robot.state.offers) == 1, 5)
    return world


def test_a_critical_battery_may_pay_more():
    world = dear_world()
    world.run_session("s-1", WH)
    receipt = parse_receipt(world.receipts[-1])
    assert receipt.price_atomic_per_kwh == DEAR
    assert receipt.stop_reason == "EnergyLimitReached"
    assert world.robot.state.survival_s > 0


def test_a_session_for_survival_is_small():
    world = dear_world(session=5_000)
    world.run_session("s-1", 20 * WH)
    receipt = parse_receipt(world.receipts[-1])
    assert receipt.ceiling_atomic <= 5_000
    assert receipt.robot_energy_milliwh < 3 * WH


def test_only_once_a_day():
    world = dear_world()
    world.run_session("s-1", WH)
    world.request("s-2", WH)
    world.run(lambda: world.phase == "BACKING_OFF", 60)
    assert (
        "price per kWh 1500000 is above the policy's 800000" in world.robot.state.session.ranking[0].refused
    )
    world.now_ns += 24 * 3600 * 10**9
    world.robot.state.offers.clear()
    world.run(lambda: bool(world.robot.state.offers), 400)
    assert world.run(lambda: world.phase == "SETTLED", 900), world.story()


@pytest.mark.parametrize("how", [{"below_permille": 180}, {"below_permille": 0}, {"price": DEAR - 1}])
def test_not_when_the_owner_does_not_grant_it(how):
    world = dear_world(**how)
    world.request("s-1", WH)
    world.run(lambda: world.phase == "BACKING_OFF", 60)
    assert not world.vouchers


def test_a_charge_that_came_to_nothing_is_not_counted():
    world = dear_world()
    world.chain.skew_s = 500  # nothing may be signed
    world.request("s-1", WH)
    world.run(lambda: world.phase == "BACKING_OFF", 60)
    assert world.robot.state.survival_s == -1


def test_a_usual_price_leaves_the_clause_for_later():
    world = dear_world()
    world2 = World(make_robot_settings(policy=world.robot.settings.policy))
    world2.run_session("s-1", WH)
    assert world2.robot.state.survival_s == -1
    assert not world2.robot.state.session.survival
