"""Money and energy as integers, and the one rounding rule between them.

Money is counted in atomic units of the token (USDC: 10^-6), energy in milliwatt-hours, a price in atomic
units per kilowatt-hour. No float ever becomes money.
"""

from depai_robot.values.error import BugError

USDC_DECIMALS = 6
MILLIWH_PER_KWH = 1_000_000
UINT128_MAX = 2**128 - 1


def _refuse_negative(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BugError(f"{name} must be an int, got {type(value).__name__} {value!r}")
    if value < 0:
        raise BugError(f"{name} must not be negative, got {value}")


def cost_atomic(price_atomic_per_kwh: int, energy_milliwh: int) -> int:
    """What an energy costs: floor(price x energy / 10^6). The only rounding rule of the project.

    Apply it to the cumulative energy of a session, never to a part of it, so that the whole session is off
    by less than one atomic unit.

    Raises:
        BugError: an argument is negative or not an integer.
    """
    _refuse_negative("price_atomic_per_kwh", price_atomic_per_kwh)
    _refuse_negative("energy_milliwh", energy_milliwh)
    return price_atomic_per_kwh * energy_milliwh // MILLIWH_PER_KWH


def energy_bought_milliwh(price_atomic_per_kwh: int, amount_atomic: int) -> int:
    """The most energy whose cost does not exceed the amount; the inverse of :func:`cost_atomic`.

    Raises:
        BugError: an argument is negative or not an integer, or the price is zero (energy would be unbounded).
    """
    _refuse_negative("price_atomic_per_kwh", price_atomic_per_kwh)
    _refuse_negative("amount_atomic", amount_atomic)
    if price_atomic_per_kwh == 0:
        raise BugError("price_atomic_per_kwh must be positive to bound an energy, got 0")
    # cost(e) <= amount  <=>  price*e < (amount+1)*10^6
    return ((amount_atomic + 1) * MILLIWH_PER_KWH - 1) // price_atomic_per_kwh


def format_usdc(amount_atomic: int) -> str:
    """``4000`` -> ``"0.004000 USDC"``; exact, by integer arithmetic."""
    sign = "-" if amount_atomic < 0 else ""
    whole, part = divmod(abs(amount_atomic), 10**USDC_DECIMALS)
    return f"{sign}{whole}.{part:0{USDC_DECIMALS}d} USDC"


def format_energy(energy_milliwh: int) -> str:
    """``10234`` -> ``"10.234 Wh"``; exact, by integer arithmetic."""
    sign = "-" if energy_milliwh < 0 else ""
    whole, part = divmod(abs(energy_milliwh), 1000)
    return f"{sign}{whole}.{part:03d} Wh"
