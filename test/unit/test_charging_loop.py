"""Both machines joined by the pretend wire: the happy path, and every failure forward to the settlement."""

from depai_robot.payment.receipt import parse_receipt
from depai_robot.values.money import cost_atomic
from test.pretend import World


def test_happy_path():
    world = World()
    world.run_session(energy_milliwh=10_000)
    receipt = parse_receipt(world.receipts[0])
    assert receipt.fault == ""
    assert receipt.stop_reason == "EnergyLimitReached"
    assert receipt.robot_energy_milliwh >= 10_000
    assert receipt.owed_atomic == receipt.claimed_atomic
    assert receipt.owed_atomic == 2000 + cost_atomic(400_000, receipt.station_energy_milliwh)
    assert receipt.deposited_atomic == receipt.claimed_atomic + receipt.returned_atomic
    assert receipt.transactions.settle
    assert len(world.robot.state.session.tranches) >= 18
