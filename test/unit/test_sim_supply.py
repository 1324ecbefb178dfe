import pytest

from depai_robot.sim.battery import MILLIWH_PER_JOULE
from depai_robot.sim.supply import SimulatedSupply, SupplyModel
from depai_robot.values.error import DeviceFailedError

MODEL = SupplyModel()
STEP_NS = 10_000_000


def supply(seed=0):
    one = SimulatedSupply(MODEL, seed=seed)
    one.set_present(present=True)
    return one


def run(one, seconds, takes_w=10_000.0):
    """Steps; returns the powers taken at the pads, W."""
    powers = []
    for _ in range(round(seconds * 1e9 / STEP_NS)):
        taken = min(one.offer_w(STEP_NS), takes_w)
        one.take(STEP_NS, taken)
        powers.append(taken)
    return powers


def test_nobody_on_it_leaves_the_pads_dead():
    one = SimulatedSupply(MODEL)
    with pytest.raises(DeviceFailedError, match="nobody is on the connector"):
        one.energise(100.0, 1000)
    assert run(one, 0.1) == [0.0] * 10
    assert not one.closed


def test_it_ramps_to_what_was_asked_and_no_further():
    one = supply()
    one.energise(200.0, 10_000)
    powers = run(one, 1.0)
    steps = [b - a for a, b in zip(powers, powers[1:], strict=False)]
    assert max(steps) <= MODEL.ramp_w_per_s * 0.01 + 1e-9
    assert powers[-1] == pytest.approx(200.0 * MODEL.cable_efficiency)
    one.energise(10_000.0, 10_000)
    assert run(one, 1.0)[-1] == pytest.approx(MODEL.power_max_w * MODEL.cable_efficiency)


def test_the_register_stops_at_the_limit_with_no_power_left():
    one = supply()
    one.energise(300.0, 500)
    powers = run(one, 12.0)
    assert 490 <= one.register_milliwh <= 500
    assert powers[-1] < 10.0
    # It was down to little before the limit: nothing opened under load.
    assert (
        max(abs(b - a) for a, b in zip(powers, powers[1:], strict=False)) <= MODEL.ramp_w_per_s * 0.01 * 1.5
    )


def test_a_higher_limit_goes_on_without_a_gap():
    one = supply()
    one.energise(300.0, 500)
    run(one, 3.0)
    one.energise(300.0, 5_000)
    assert min(run(one, 5.0)) == pytest.approx(300.0 * MODEL.cable_efficiency)


def test_a_lower_limit_counts_at_once():
    one = supply()
    one.energise(300.0, 5_000)
    run(one, 3.0)
    before = one.register_milliwh
    one.energise(300.0, before)
    run(one, 1.0)
    assert one.register_milliwh <= before + 1


def test_deenergise_ramps_down_and_opens():
    one = supply()
    one.energise(300.0, 5_000)
    run(one, 1.0)
    one.deenergise()
    powers = run(one, 0.5)
    assert powers[0] > 250.0
    assert powers[-1] == 0.0
    assert not one.closed


def test_open_and_a_robot_that_leaves_cut_at_once():
    for cut in (SimulatedSupply.open, lambda one: one.set_present(present=False)):
        one = supply()
        one.probe = b"nonce"
        one.energise(300.0, 5_000)
        run(one, 1.0)
        cut(one)
        assert one.offer_w(STEP_NS) == 0.0
        assert one.power_w == 0.0
        assert not one.closed
    assert one.probe is None


def test_the_register_counts_what_was_taken_within_its_gain():
    for seed in range(10):
        one = supply(seed)
        one.energise(300.0, 100_000)
        taken_milliwh = sum(run(one, 20.0, takes_w=150.0)) * STEP_NS * 1e-9 * MILLIWH_PER_JOULE
        metered = taken_milliwh / MODEL.cable_efficiency
        assert one.delivered_milliwh == pytest.approx(metered)
        assert metered * 0.995 - 1 <= one.register_milliwh <= metered * 1.005


def test_pages_never_go_back():
    one = supply()
    assert [one.next_page() for _ in range(3)] == [1, 2, 3]
