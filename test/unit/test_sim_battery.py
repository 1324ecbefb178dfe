import pytest

from depai_robot.sim.battery import MILLIWH_PER_JOULE, SimulatedBattery
from depai_robot.sim.scene import BatteryModel

MODEL = BatteryModel(
    capacity_wh=200.0,
    cells=8,
    internal_resistance_ohm=0.06,
    charge_current_max_a=15.0,
    charge_voltage_max_v=28.4,
    onboard_load_w=25.0,
    drive_load_w=40.0,
    charge_efficiency=0.96,
)
STEP_NS = 100_000_000


def battery(state_of_charge=0.18, **changes):
    return SimulatedBattery(MODEL, state_of_charge, **{"meter_gain_error": 0.0, **changes})


def run(one, seconds, offered_w, drive_fraction=0.0):
    """Total taken at the pads, J."""
    return sum(one.step(STEP_NS, offered_w, drive_fraction) * 0.1 for _ in range(int(seconds * 10)))


def test_off_the_dock_it_discharges_by_its_load():
    one = battery(0.5)
    run(one, 360, 0.0)
    lost_wh = (0.5 - one.state_of_charge) * 200.0
    assert lost_wh == pytest.approx(25.0 * 0.1, rel=0.05)
    reading = one.reading(7)
    assert reading.current_a < 0
    assert reading.voltage_v < 8 * 3.30
    assert (reading.stamp_ns, reading.pads_energy_milliwh, reading.pads_power_w) == (7, 0, 0.0)


def test_driving_costs_more():
    still, moving = battery(0.5), battery(0.5)
    run(still, 60, 0.0)
    run(moving, 60, 0.0, drive_fraction=1.0)
    assert moving.state_of_charge < still.state_of_charge - 40.0 * 60 / 3600 / 200.0 * 0.95


def test_the_pads_meter_is_what_was_taken():
    one = battery()
    taken_j = run(one, 60, 200.0)
    assert taken_j == pytest.approx(200.0 * 60)
    assert one.reading(0).pads_energy_milliwh == int(taken_j * MILLIWH_PER_JOULE)


def test_energy_is_conserved_but_for_the_stated_losses():
    one = battery(0.18)
    taken_wh = run(one, 600, 250.0) / 3600
    stored_wh = (one.state_of_charge - 0.18) * 200.0
    into_pack_wh = (taken_wh - 25.0 / 6) * 0.96
    assert stored_wh < into_pack_wh
    # What is missing is I^2 R: about 8 A through 0.06 Ohm.
    assert into_pack_wh - stored_wh == pytest.approx(8.0**2 * 0.06 / 6, rel=0.25)


def test_it_takes_no_more_than_constant_current_allows():
    one = battery(0.18)
    one.step(STEP_NS, 10_000.0)
    assert one.reading(0).current_a == pytest.approx(15.0, rel=0.01)


def test_near_full_the_voltage_limits_the_current():
    one = battery(0.995)
    one.step(STEP_NS, 10_000.0)
    first = one.reading(0)
    assert first.current_a < 14.0
    assert first.voltage_v <= 28.4 + 1e-6
    run(one, 1200, 10_000.0)
    later = one.reading(0)
    assert later.current_a < 0.5 * first.current_a
    assert later.state_of_charge <= 1.0


def test_the_meter_has_a_gain_of_its_own_within_half_a_percent():
    registers = set()
    for seed in range(30):
        one = SimulatedBattery(MODEL, 0.18, seed=seed)
        run(one, 36, 200.0)
        registers.add(one.reading(0).pads_energy_milliwh)
    assert len(registers) > 10
    assert 2000 * 0.995 - 1 <= min(registers) < 2000 < max(registers) <= 2000 * 1.005


def test_the_same_seed_gives_the_same_battery():
    one, two = (SimulatedBattery(MODEL, 0.18, seed=5) for _ in range(2))
    run(one, 20, 100.0)
    run(two, 20, 100.0)
    assert one.reading(0) == two.reading(0)


def test_an_empty_battery_stays_at_nothing():
    one = battery(0.0001)
    run(one, 60, 0.0)
    assert one.state_of_charge == 0.0
