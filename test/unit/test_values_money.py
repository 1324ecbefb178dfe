import pytest

from depai_robot.values.error import BugError
from depai_robot.values.money import cost_atomic, energy_bought_milliwh, format_energy, format_usdc


@pytest.mark.parametrize(
    ("price", "energy", "cost"),
    [
        (400_000, 1_000_000, 400_000),  # 0.40 USDC for one kWh
        (400_000, 1, 0),  # floor, not round
        (400_000, 2, 0),
        (400_000, 3, 1),
        (999_999, 1_000_001, 999_999),
        (0, 10**9, 0),
        (10**18, 10**18, 10**30),  # no overflow, no float
    ],
)
def test_cost_is_floor_of_price_times_energy(price, energy, cost):
    assert cost_atomic(price, energy) == cost


@pytest.mark.parametrize("bad", [-1, 1.0, "1", True, None])
def test_cost_refuses_what_is_not_a_count(bad):
    with pytest.raises(BugError):
        cost_atomic(bad, 1)
    with pytest.raises(BugError):
        cost_atomic(1, bad)
    with pytest.raises(BugError):
        energy_bought_milliwh(bad, 1)
    with pytest.raises(BugError):
        energy_bought_milliwh(1, bad)


def test_energy_bought_refuses_free_energy():
    with pytest.raises(BugError, match="positive"):
        energy_bought_milliwh(0, 1)


def test_one_atomic_unit_buys_just_under_the_energy_of_the_next():
    energy = energy_bought_milliwh(400_000, 1)
    assert (energy, cost_atomic(400_000, energy), cost_atomic(400_000, energy + 1)) == (4, 1, 2)


def test_texts_are_exact():
    assert format_usdc(4000) == "0.004000 USDC"
    assert format_usdc(-1) == "-0.000001 USDC"
    assert format_usdc(2**128) == "340282366920938463463374607431768.211456 USDC"
    assert format_energy(10_234) == "10.234 Wh"
    assert format_energy(-5) == "-0.005 Wh"
