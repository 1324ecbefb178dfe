"""The one rounding rule."""

from hypothesis import given
from hypothesis import strategies as st

from depai_robot.values.money import MILLIWH_PER_KWH, cost_atomic, energy_bought_milliwh

prices = st.integers(0, 10**12)
energies = st.integers(0, 10**12)


@given(prices, energies)
def test_cost_is_the_exact_price_less_than_one_unit_below(price, energy):
    exact_scaled = price * energy
    cost_scaled = cost_atomic(price, energy) * MILLIWH_PER_KWH
    assert 0 <= exact_scaled - cost_scaled < MILLIWH_PER_KWH


@given(prices, energies, st.integers(0, 10**9))
def test_cost_never_falls_with_energy(price, energy, more):
    assert cost_atomic(price, energy + more) >= cost_atomic(price, energy)


@given(prices, st.lists(st.integers(0, 10**7), max_size=50))
def test_a_session_in_tranches_costs_what_it_costs_at_once(price, steps):
    """Cumulative rounding: the tranches' rises add up to the whole, however it was cut."""
    total, paid = 0, 0
    for step in steps:
        total += step
        rise = cost_atomic(price, total) - paid
        assert rise >= 0
        paid += rise
    assert paid == cost_atomic(price, total)


@given(st.integers(1, 10**12), st.integers(0, 10**15))
def test_energy_bought_is_the_most_that_the_amount_pays(price, amount):
    energy = energy_bought_milliwh(price, amount)
    assert cost_atomic(price, energy) <= amount < cost_atomic(price, energy + 1)
