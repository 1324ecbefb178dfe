"""A channel across sessions: kept, paid from again, topped up, pre-signed, claimed in batches, closed, withdrawn."""

import pytest
from msgspec.structs import replace

from depai_robot.charging import effect as fx
from depai_robot.charging import fact as ft
from depai_robot.charging.effect import ChannelJson
from depai_robot.charging.setting import PresignedDeposit
from depai_robot.charging.terms import SIGNATURE_NONE, channel_key, digest_deposit
from depai_robot.payment.channel import DepositAuthorization
from depai_robot.payment.receipt import Receipt, parse_receipt
from test.builders import (
    WALL_S,
    make_key,
    make_network,
    make_policy,
    make_robot_settings,
    make_station_settings,
)
from test.pretend import SECOND, World

WH = 1000


def world_that_keeps(**robot_changes: object) -> World:
    policy = make_policy(
        escrow_channel_max_atomic=40_000, escrow_total_max_atomic=100_000, session_max_atomic=40_000
    )
    settings = make_robot_settings(**({"keep_max_atomic": 30_000, "policy": policy} | robot_changes))
    return World(settings, [make_station_settings("a", reuse_fee_atomic=200, claim_at_atomic=10**9)])


def receipts(world: World) -> list[Receipt]:
    return [parse_receipt(text) for text in world.receipts]


def station_state(world: World):
    return world.stations["a"].state


def only_channel(world: World):
    (kept,) = world.robot.state.channels.values()
    return kept


def calls_of(world: World, kind: type) -> list:
    return [call for call in world.transactions.values() if isinstance(call, kind)]


def fill(world: World, energy_milliwh: int) -> None:
    """A first session with a large deposit: more was wanted than was taken."""
    world.run(lambda: len(world.robot.state.offers) == 1, 5)
    world.request("s-0", energy_milliwh)
    assert world.run(lambda: world.phase == "CHARGING", 120)
    world.run(lambda: False, 20)
    world.give(world.robot, ft.StopRequested(world.at, "enough"))
    assert world.run(lambda: world.phase == "SETTLED", 300), world.story()


def test_the_rest_stays_and_the_next_session_needs_no_transaction():
    world = world_that_keeps()
    fill(world, 50 * WH)
    assert len(calls_of(world, fx.DepositWish)) == 1
    assert not calls_of(world, fx.ClaimWish)
    assert not calls_of(world, fx.RefundWish)
    kept = only_channel(world)
    assert kept.rest_atomic > 10_000
    world.run_session("s-1", 2 * WH)
    world.run_session("s-2", 2 * WH)
    assert len(world.transactions) == 1, "one deposit for three sessions"
    first, second, third = receipts(world)
    assert first.start_fee_atomic == 2000
    assert second.start_fee_atomic == third.start_fee_atomic == 200
    assert second.base_atomic == first.owed_atomic
    assert third.base_atomic == first.owed_atomic + second.owed_atomic
    assert third.left_atomic == first.deposited_atomic  # nothing claimed yet
    assert station_state(world).channels[kept.agreement.channel_id.hex()].due_atomic == (
        third.base_atomic + third.owed_atomic
    )


def test_a_robot_that_leaves_after_its_session_was_settled_leaves_a_free_connector():
    world = world_that_keeps()
    world.run(lambda: len(world.robot.state.offers) == 1, 5)
    world.request("s-0", 50 * WH)
    assert world.run(lambda: world.phase == "CHARGING", 120)
    world.run(lambda: False, 20)
    world.leaving_seen_ns = 3 * SECOND
    world.give(world.robot, ft.StopRequested(world.at, "enough"))
    assert world.run(lambda: station_state(world).sessions["s-0"].phase == "SETTLED", 300), world.story()
    state = station_state(world)
    assert state.connectors[1].present, "it still stands there"
    assert state.free_connector() is None
    world.run(lambda: not station_state(world).connectors[1].present, 100)
    state = station_state(world)
    assert not state.connectors[1].present
    assert "s-0" in state.sessions, "late messages are still answered"
    assert state.free_connector() == 1


def test_claimed_in_one_batch_when_the_interval_is_over():
    world = world_that_keeps()
    fill(world, 50 * WH)
    world.run_session("s-1", 2 * WH)
    owed = receipts(world)[-1].base_atomic + receipts(world)[-1].owed_atomic
    world.run(lambda: False, 3700)
    (claim,) = calls_of(world, fx.ClaimBatchWish)
    assert [row.total_claimed_atomic for row in claim.rows] == [owed]
    assert len(calls_of(world, fx.SettleWish)) == 1
    assert world.chain.balances[make_key("receiver-a").address] == owed
    kept = next(iter(station_state(world).channels.values()))
    assert (kept.channel.claimed, kept.due_atomic) == (owed, 0)
    assert not station_state(world).batch
    world.run_session("s-2", 2 * WH)  # and the channel serves on
    assert receipts(world)[-1].start_fee_atomic == 200


def test_a_channel_that_holds_too_little_is_topped_up():
    world = world_that_keeps()
    fill(world, 20 * WH)
    rest = only_channel(world).rest_atomic
    world.run_session("s-1", 40 * WH)
    first, second = calls_of(world, fx.DepositWish)
    assert first.channel == second.channel
    receipt = receipts(world)[-1]
    assert receipt.start_fee_atomic == 2000, "a deposit costs the station gas again"
    assert receipt.deposited_atomic == first.amount_atomic + second.amount_atomic
    assert second.amount_atomic < first.amount_atomic + rest


def test_what_is_beyond_the_owners_limit_comes_back_and_the_rest_stays():
    world = world_that_keeps(keep_max_atomic=5000)
    fill(world, 50 * WH)
    (refund,) = calls_of(world, fx.RefundWish)
    first = receipts(world)[-1]
    assert first.left_atomic == 5000
    assert first.returned_atomic == refund.amount_atomic
    assert first.deposited_atomic == first.claimed_atomic + first.returned_atomic + 5000
    assert world.robot.state.ledger.escrow_total_atomic == 5000
    world.run_session("s-1", 2 * WH)
    assert len(calls_of(world, fx.DepositWish)) == 1, "what stayed pays for a small session"


def test_nothing_stays_when_the_owners_limit_holds_no_tranche():
    world = world_that_keeps(keep_max_atomic=599)
    fill(world, 50 * WH)
    assert receipts(world)[-1].left_atomic == 0
    assert world.robot.state.ledger.escrow_total_atomic == 0


def test_a_partial_refund_survives_a_crash_of_either_side():
    for who in ("robot", "a"):
        world = world_that_keeps(keep_max_atomic=5000)
        world.run(lambda w=world: len(w.robot.state.offers) == 1, 5)
        world.request("s-0", 50 * WH)
        assert world.run(lambda w=world: w.phase == "CHARGING", 120)
        world.run(lambda: False, 20)
        world.give(world.robot, ft.StopRequested(world.at, "enough"))
        assert world.run(lambda w=world: w.phase == "SETTLING", 300)
        world.run(lambda: False, 0.4)
        world.crash(next(agent for agent in world.agents if agent.name == who), 1)
        assert world.run(lambda w=world: w.phase == "SETTLED", 300), world.story()
        assert receipts(world)[-1].left_atomic == 5000
        assert len(calls_of(world, fx.RefundWish)) == 1


def test_nothing_stays_with_a_station_that_gains_nothing_by_it():
    world = World(make_robot_settings(keep_max_atomic=30_000))
    fill(world, 20 * WH)
    assert len(calls_of(world, fx.RefundWish)) == 1


def test_the_owner_gets_the_rest_of_a_kept_channel_back():
    world = world_that_keeps()
    fill(world, 50 * WH)
    before = world.chain.balances[make_key("payer").address]
    kept = only_channel(world)
    world.give(world.robot, ft.ChannelCloseRequested(world.at, "close-1", kept.agreement.channel_id, "owner"))
    assert world.run(lambda: len(world.receipts) == 2, 120), world.story()
    closing = receipts(world)[-1]
    assert (closing.session, closing.owed_atomic, closing.start_fee_atomic) == ("close-1", 0, 0)
    assert world.chain.balances[make_key("payer").address] == before + kept.rest_atomic
    assert world.robot.state.ledger.escrow_total_atomic == 0
    assert not world.robot.state.background
    world.run_session("s-1", 2 * WH)  # the same channel, topped up
    assert receipts(world)[-1].channel == closing.channel


def test_a_station_that_does_not_close_is_left_by_withdrawal():
    world = world_that_keeps()
    fill(world, 50 * WH)
    kept = only_channel(world)
    world.stations["a"].alive = False
    world.give(world.robot, ft.ChannelCloseRequested(world.at, "close-1", kept.agreement.channel_id, "owner"))
    assert world.run(lambda: bool(calls_of(world, fx.FinalizeWithdrawWish)), 3000), world.story()
    world.run(lambda: not world.robot.state.background, 600)
    assert not world.robot.state.background


@pytest.mark.parametrize("seen_before", [False, True])
def test_a_pending_withdrawal_makes_the_station_claim_at_once(seen_before):
    world = world_that_keeps()
    fill(world, 50 * WH)
    owed = receipts(world)[-1].owed_atomic
    kept = only_channel(world)
    if seen_before:
        world.run(lambda: False, 60)
        assert all(item.watched for item in station_state(world).channels.values())
    world.chain.mine(fx.InitiateWithdrawWish(kept.agreement.channel, kept.rest_atomic))
    assert world.run(lambda: bool(calls_of(world, fx.SettleWish)), 60)
    assert world.chain.channel(kept.agreement.channel_id)["claimed"] == owed
    # And no session is sold on it any more.
    world.request("s-1", 2 * WH)
    world.run(lambda: world.phase in ("SETTLED", "BACKING_OFF"), 60)
    assert not world.robot.state.channels


def test_more_claimed_than_agreed_on_a_kept_channel_convicts():
    world = world_that_keeps()
    fill(world, 50 * WH)
    kept = only_channel(world)
    row = world.chain.channel(kept.agreement.channel_id)
    row["claimed"] = kept.charged + 7
    world.request("s-1", 2 * WH)
    world.run(lambda: bool(world.evidence), 30)
    assert "7 lost" in world.evidence[-1][1]
    assert world.robot.state.bars
    # Never paid from again; the rest comes back with the next session.
    world.give(world.robot, ft.StopRequested(world.at, "nobody else sells"))
    world.request("s-2", 2 * WH)
    (closing,) = world.robot.state.background.values()
    assert closing.agreement.channel_id == kept.agreement.channel_id
    assert closing.money.charged == kept.charged + 7
    key = kept.agreement.channel_id
    assert world.run(lambda: not world.robot.state.background, 3000), world.story()
    assert world.chain.channel(key)["balance"] == kept.charged + 7


def test_a_bad_row_is_set_aside_its_payer_barred_and_the_others_claimed():
    world = world_that_keeps()
    fill(world, 50 * WH)
    state = station_state(world)
    (key,) = state.channels
    good = state.channels[key]
    config = replace(good.channel.config, salt=b"\x07" * 32, payer_authorizer=make_key("mallory").address)
    bad_id = channel_key(make_network(), config)
    world.chain.channel(bad_id)["balance"] = 9000
    bad = replace(
        good, channel=replace(good.channel, config=config, id=bad_id, charged=500, signature=bytes(65))
    )
    world.stations["a"].state = replace(state, channels={**state.channels, bad_id.hex(): bad})
    world.run(lambda: bool(calls_of(world, fx.SettleWish)), 3700)
    state = station_state(world)
    assert make_key("mallory").address.hex() in state.bars
    assert state.channels[bad_id.hex()].bad
    assert state.channels[key].due_atomic == 0
    assert "can not be claimed" in state.trouble or not state.trouble


def test_a_voucher_on_a_channel_that_the_station_does_not_know_is_refused():
    world = world_that_keeps()
    fill(world, 50 * WH)
    world.stations["a"].state = replace(station_state(world), channels={})
    world.request("s-1", 2 * WH)
    # Quoted with a deposit; the robot would pay from what is there, the station can not know how much was charged.
    assert world.run(lambda: world.phase == "WITHDRAWING", 300)
    assert "channel_not_found" in world.robot.state.session.stop.detail


# --- delegated mode -----------------------------------------------------------------------------------------


def presign(
    amount_atomic: int, number: int, *, station: str = "a", salt: bytes = bytes(32)
) -> PresignedDeposit:
    """As the treasury does it: the robot never has this key."""
    network = make_network()
    receiver = make_key(f"receiver-{station}").address
    channel = ChannelJson(
        payer=make_key("payer").address,
        payer_authorizer=make_key("voucher").address,
        receiver=receiver,
        receiver_authorizer=receiver,
        token=network.token,
        withdraw_delay_s=900,
        salt=salt,
    )
    deposit = DepositAuthorization(
        amount_atomic=amount_atomic,
        valid_after_s=WALL_S - 10,
        valid_before_s=WALL_S + 86_400,
        salt=number.to_bytes(32, "big"),
        signature=SIGNATURE_NONE,
    )
    digest = digest_deposit(network, channel.payer, channel_key(network, channel), deposit)
    return PresignedDeposit(
        channel=channel,
        amount_atomic=deposit.amount_atomic,
        valid_after_s=deposit.valid_after_s,
        valid_before_s=deposit.valid_before_s,
        salt=deposit.salt,
        signature=make_key("payer").sign(digest),
    )


def delegated_world(*deposits: PresignedDeposit, **changes: object) -> World:
    world = world_that_keeps(delegated=True, presigned=deposits, **changes)
    del world.robot.keys["payer"]
    return world


def test_delegated_mode_pays_with_what_the_treasury_signed():
    world = delegated_world(presign(10_000, 1), presign(10_000, 2))
    world.run_session("s-1", 2 * WH)
    (deposit,) = calls_of(world, fx.DepositWish)
    assert deposit.amount_atomic == 10_000
    assert len(world.robot.state.presigned_used) == 1
    world.run_session("s-2", 2 * WH)
    world.run_session("s-3", 2 * WH)
    world.run_session("s-4", 2 * WH)
    assert len(calls_of(world, fx.DepositWish)) <= 2
    assert {r.channel for r in receipts(world)} == {receipts(world)[0].channel}


def test_delegated_mode_without_a_deposit_for_the_station_says_so():
    world = delegated_world(presign(10_000, 1, station="b"))
    world.run(lambda: len(world.robot.state.offers) == 1, 5)
    world.request("s-1", 2 * WH)
    world.run(lambda: world.phase == "BACKING_OFF", 30)
    (candidate,) = world.robot.state.session.ranking
    assert "no pre-signed deposit for station-a" in candidate.refused
    assert not world.vouchers


@pytest.mark.parametrize("change", ["expired", "used", "too much"])
def test_delegated_mode_uses_no_deposit_that_it_must_not(change):
    deposit = presign(10_000, 1)
    if change == "expired":
        deposit = replace(deposit, valid_before_s=WALL_S + 30)
    if change == "too much":
        deposit = presign(50_000, 1)
    world = delegated_world(deposit)
    if change == "used":
        digest = digest_deposit(
            make_network(),
            deposit.channel.payer,
            channel_key(make_network(), deposit.channel),
            DepositAuthorization(
                deposit.amount_atomic,
                deposit.valid_after_s,
                deposit.valid_before_s,
                deposit.salt,
                deposit.signature,
            ),
        )
        world.robot.state = replace(world.robot.state, presigned_used=(digest.hex(),))
    world.run(lambda: len(world.robot.state.offers) == 1, 5)
    world.request("s-1", 2 * WH)
    world.run(lambda: world.phase == "BACKING_OFF", 30)
    assert not world.vouchers


def test_settings_refuse_a_deposit_of_wrong_form():
    with pytest.raises(Exception, match="32 and a signature of 65"):
        replace(presign(1, 1), salt=b"")


def test_a_payer_without_money_is_nobody_elses_fault():
    world = World()
    world.chain.balances[make_key("payer").address] = 100
    world.run(lambda: len(world.robot.state.offers) == 1, 5)
    world.request("s-1", 2 * WH)
    world.run(lambda: world.phase == "BACKING_OFF", 30)
    assert not world.vouchers
    assert not world.robot.state.bars
    assert world.calls == ["the payer has 100, the deposit is 3252"]
    assert world.robot.state.ledger.escrow_total_atomic == 0


@pytest.mark.parametrize("kept", [False, True])
def test_a_crash_between_two_looks_at_the_chain_while_funding(kept):
    """The head was seen, the payer's funds (or the kept channel) were not: after the restart nothing is known."""
    world = world_that_keeps()
    if kept:
        fill(world, 50 * WH)
    world.run(lambda: len(world.robot.state.offers) == 1, 5)
    fact_type = ft.ChainHeadObserved
    died = []

    def dies(agent, fact):
        if agent is world.robot and isinstance(fact, fact_type) and world.phase == "FUNDING" and not died:
            died.append(True)
            return True
        return False

    world.crash_before_effects = dies
    world.request("s-9", 2 * WH)
    assert world.run(lambda: bool(died), 30)
    began = world.now_ns
    assert world.run(lambda: world.phase == "APPROACHING", 60), world.story()
    assert world.now_ns - began < 20 * 10**9, "it does not wait for a time-out"
