"""The second rail: blocks of energy, each paid by one transfer. Chosen by cost; nothing paid before contact."""

import pytest
from msgspec.structs import replace

from depai_robot.charging import effect as fx
from depai_robot.charging import fact as ft
from depai_robot.charging.envelope import open_token
from depai_robot.charging.message import BlockPayment, NeedVoucher
from depai_robot.payment.receipt import OutsideFacts, Receipt, parse_receipt, reconcile
from test.builders import make_key, make_policy, make_robot_settings, make_station_settings
from test.pretend import World

WH = 1000
BLOCK = 2 * WH
PRICE = 100 + 800  # fee and 2 Wh at 400 a Wh


def block_world(block_milliwh: int = BLOCK, fee: int = 100, **robot_changes: object) -> World:
    policy = make_policy(tranche_max_atomic=5000)
    return World(
        make_robot_settings(**({"policy": policy} | robot_changes)),
        [make_station_settings("a", block_milliwh=block_milliwh, block_fee_atomic=fee)],
    )


def receipt_of(world: World) -> Receipt:
    receipt = parse_receipt(world.receipts[-1])
    facts = OutsideFacts(
        balance_atomic=receipt.claimed_atomic,
        total_claimed_atomic=receipt.claimed_atomic,
        robot_meter_milliwh=receipt.robot_energy_milliwh,
        station_meter_milliwh=receipt.station_energy_milliwh,
        meter_band_milliwh=60 + receipt.robot_energy_milliwh // 10,
        journal_ceiling_atomic=receipt.ceiling_atomic,
        station_ceiling_atomic=None,
    )
    assert not [check for check in reconcile(receipt, facts) if not check[1]], receipt
    return receipt


def funds(world: World) -> tuple[int, int]:
    chain = world.chain.balances
    return chain[make_key("payer").address], chain.get(make_key("receiver-a").address, 0)


def test_a_small_amount_is_cheaper_by_one_block():
    world = block_world()
    world.run_session("s-1", WH)
    receipt = receipt_of(world)
    assert (receipt.scheme, receipt.blocks, receipt.block_atomic) == ("exact", 1, PRICE)
    assert (receipt.owed_atomic, receipt.claimed_atomic) == (PRICE, PRICE)
    assert receipt.robot_energy_milliwh >= WH
    assert funds(world) == (10_000_000 - PRICE, PRICE)
    assert [type(call) for call in world.transactions.values()] == [fx.TransferWish]
    assert world.robot.state.ledger.escrow_total_atomic == 0
    (chosen,) = world.robot.state.session.ranking
    assert chosen.rail == "exact"
    assert chosen.why == "batch-settlement: 2476; exact: 900, 1 blocks"
    assert world.run(
        lambda: (
            not world.stations["a"].state.sessions
            or all(s.phase == "SETTLED" for s in world.stations["a"].state.sessions.values())
        ),
        300,
    )
    assert world.stations["a"].state.earned_atomic == PRICE


def test_a_large_amount_is_cheaper_on_a_channel():
    world = block_world(fee=700)
    world.run_session("s-1", 10 * WH)
    assert receipt_of(world).scheme == "batch-settlement"
    (chosen,) = world.robot.state.session.ranking
    assert chosen.why.endswith("exact: 9000, 6 blocks")


def test_several_blocks_each_after_the_last_was_delivered():
    world = block_world(fee=1)
    world.run_session("s-1", 5 * WH)
    receipt = receipt_of(world)
    assert (receipt.blocks, receipt.owed_atomic) == (3, 3 * 801)
    assert receipt.robot_energy_milliwh >= 5 * WH
    assert funds(world)[1] == 3 * 801
    paid = [t for s, t in world.published if s == "robot" and isinstance(open_token(t).body, BlockPayment)]
    assert len({open_token(token).id for token in paid}) == 3


def test_a_block_above_the_policys_tranche_is_not_bought():
    world = block_world(policy=make_policy(tranche_max_atomic=PRICE - 1))
    world.run_session("s-1", WH)
    assert receipt_of(world).scheme == "batch-settlement"
    (chosen,) = world.robot.state.session.ranking
    assert "exact: tranche 900 is above the policy's 899" in chosen.why


def test_delegated_robots_buy_no_blocks():
    world = block_world(delegated=True)
    world.run(lambda: len(world.robot.state.offers) == 1, 5)
    world.request("s-1", WH)
    world.run(lambda: world.phase == "BACKING_OFF", 30)
    (candidate,) = world.robot.state.session.ranking
    assert "exact: the payer's key is not on this robot" in candidate.why


def test_an_empty_payer_is_found_before_the_way():
    world = block_world()
    world.chain.balances[make_key("payer").address] = PRICE - 1
    world.run(lambda: len(world.robot.state.offers) == 1, 5)
    world.request("s-1", WH)
    world.run(lambda: world.phase == "BACKING_OFF", 30)
    assert "the payer has 899, a block costs 900" in world.robot.state.session.ranking[0].refused
    assert not world.transactions
    assert not world.robot.state.bars


def test_docking_fails_and_nothing_was_paid():
    world = block_world()
    world.docking_fails = 1
    world.run_session("s-1", WH)
    receipt = receipt_of(world)
    assert (receipt.blocks, receipt.owed_atomic, receipt.ceiling_atomic) == (0, 0, 0)
    assert not world.transactions


def test_no_power_for_a_block_is_one_block_lost_at_most():
    world = block_world(fee=1)
    world.supplies["a"].dead = True  # the meter counts, nothing arrives
    world.run_session("s-1", 5 * WH)
    receipt = parse_receipt(world.receipts[-1])
    assert receipt.claimed_atomic <= 801
    assert receipt.fault
    assert world.evidence


def test_a_station_that_asks_for_the_next_block_too_early_is_left():
    world = block_world(fee=1)

    def greedy(_name: str, effect: object) -> list[object]:
        return [effect]

    world.distort = greedy
    world.run(lambda: len(world.robot.state.offers) == 1, 5)
    world.request("s-1", 5 * WH)
    assert world.run(lambda: len(world.transactions) == 1 and world.phase == "CHARGING", 120)
    asked = [t for s, t in world.published if s == "a" and isinstance(open_token(t).body, NeedVoucher)]
    draft = open_token(asked[-1])
    world.run(lambda: world.robot.state.session.payment is None, 20)
    statement = world.stations["a"].state.sessions["s-1"].meter.statement
    again = replace(draft, id=draft.id + ".again", body=replace(draft.body, statement=statement))
    world.deliver(world.robot.settings.inbox, make_key("station-a").seal(again), 1_000_000)
    assert world.run(lambda: world.phase == "SETTLED", 600)
    assert "asked for the next block" in world.robot.state.session.stop.detail
    assert parse_receipt(world.receipts[-1]).blocks == 1


def test_a_transfer_that_is_never_sent_lapses_and_was_never_paid():
    world = block_world()
    world.distort = lambda name, effect: (
        [] if name == "a" and isinstance(effect, fx.PrepareTransaction) else [effect]
    )
    world.run(lambda: len(world.robot.state.offers) == 1, 5)
    world.request("s-1", WH)
    assert world.run(lambda: world.phase == "SETTLING", 500), world.story()
    assert world.robot.state.ledger.escrow_total_atomic == PRICE, "it may still be sent"
    assert world.run(
        lambda: (world.chain.__setattr__("number", world.chain.number + 1), world.phase == "SETTLED")[1], 600
    ), world.story()
    receipt = receipt_of(world)
    assert (receipt.blocks, receipt.owed_atomic, receipt.ceiling_atomic) == (0, 0, PRICE)
    assert world.robot.state.ledger.escrow_total_atomic == 0


@pytest.mark.parametrize(
    "phase", ["APPROACHING", "PRESENTING", "CHARGING", "STOPPING", "UNDOCKING", "SETTLING"]
)
@pytest.mark.parametrize("who", ["robot", "a"])
def test_a_crash_anywhere_pays_each_block_once(phase, who):
    world = block_world(fee=1)
    world.run(lambda: len(world.robot.state.offers) == 1, 5)
    world.request("s-1", 5 * WH)
    assert world.run(lambda: world.phase == phase, 600), world.story()
    agent = next(agent for agent in world.agents if agent.name == who)
    world.crash(agent, 1)
    assert world.run(lambda: world.phase == "SETTLED", 1200), world.story()
    receipt = receipt_of(world)
    spent = 10_000_000 - funds(world)[0]
    assert spent == funds(world)[1] == receipt.claimed_atomic == receipt.blocks * 801
    assert not world.evidence


def test_the_operator_stops_in_the_midst_of_a_block():
    world = block_world(fee=1)
    world.run(lambda: len(world.robot.state.offers) == 1, 5)
    world.request("s-1", 5 * WH)
    assert world.run(lambda: world.phase == "CHARGING" and bool(world.transactions), 120)
    world.run(lambda: False, 8)
    world.give(world.robot, ft.StopRequested(world.at, "enough"))
    assert world.run(lambda: world.phase == "SETTLED", 300), world.story()
    receipt = receipt_of(world)
    assert receipt.owed_atomic == 801 * receipt.blocks


def test_a_slow_chain_does_not_make_the_robot_leave_what_it_has_paid():
    world = block_world()
    world.run(lambda: len(world.robot.state.offers) == 1, 5)
    world.request("s-1", WH)
    assert world.run(lambda: bool(world.robot.state.session.blocks), 120)
    world.chain.down = True
    world.run(lambda: False, 90)
    assert world.phase == "CHARGING"
    world.chain.down = False
    assert world.run(lambda: world.phase == "SETTLED", 300), world.story()
    receipt = receipt_of(world)
    assert (receipt.blocks, receipt.fault) == (1, "")
    assert receipt.robot_energy_milliwh >= WH
    assert not world.evidence
