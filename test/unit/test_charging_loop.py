"""Both machines joined by the pretend wire: the happy path, and every failure forward to the settlement."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from depai_robot.charging import effect as fx
from depai_robot.charging import fact as ft
from depai_robot.charging.envelope import open_token
from depai_robot.charging.message import NeedVoucher, PaymentResult, Quote, QuoteCounter, SessionStop
from depai_robot.payment.receipt import OutsideFacts, Receipt, parse_receipt, reconcile
from depai_robot.values.money import cost_atomic
from test.builders import make_key, make_policy, make_robot_settings, make_station_settings
from test.pretend import SECOND, World

WH = 1000


def receipt_of(world: World, number: int = -1) -> Receipt:
    """The receipt, after it was checked against chain and meters as an outsider would."""
    receipt = parse_receipt(world.receipts[number])
    row = world.chain.channel(bytes.fromhex(receipt.channel[2:]))
    facts = OutsideFacts(
        balance_atomic=row["balance"],
        total_claimed_atomic=row["claimed"],
        robot_meter_milliwh=receipt.robot_energy_milliwh,
        station_meter_milliwh=receipt.station_energy_milliwh,
        meter_band_milliwh=60 + receipt.robot_energy_milliwh // 10,
        journal_ceiling_atomic=max(
            (c for key, c in world.vouchers if key.hex() == receipt.channel[2:]), default=0
        ),
        station_ceiling_atomic=None,
    )
    failed = [check for check in reconcile(receipt, facts) if not check[1]]
    assert not failed or receipt.fault, (failed, world.story())
    return receipt


def distort_bodies(kind: type, change: Callable[[Any], Any]) -> Callable[[str, Any], list[Any]]:
    """A station that sends other bodies than its machine wishes."""

    def distort(name: str, wish: Any) -> list[Any]:
        if name != "robot" and isinstance(wish, fx.SealMessage) and isinstance(wish.draft.body, kind):
            return [fx.SealMessage(replace(wish.draft, body=change(wish.draft.body)))]
        return [wish]

    return distort


def stop_reason(world: World) -> str:
    return world.robot.state.session.stop.detail


# --- the happy path -----------------------------------------------------------------------------------------


def test_happy_path():
    world = World()
    world.run_session(energy_milliwh=10 * WH)
    receipt = receipt_of(world)
    assert receipt.fault == ""
    assert receipt.stop_reason == "EnergyLimitReached"
    assert receipt.robot_energy_milliwh >= 10 * WH
    assert receipt.owed_atomic == receipt.claimed_atomic
    assert receipt.owed_atomic == 2000 + cost_atomic(400_000, receipt.station_energy_milliwh)
    assert receipt.transactions.claim
    assert receipt.transactions.settle
    session = world.robot.state.session
    assert len(session.tranches) >= 20
    assert not session.letters
    assert not session.jobs
    assert not session.timers
    assert not world.evidence
    assert world.robot.state.ledger.escrow_total_atomic == 0
    assert world.chain.balances[make_key("receiver-a").address] == receipt.claimed_atomic


def test_two_sessions_after_each_other_on_one_robot():
    world = World()
    world.run_session("s-1", 2 * WH)
    world.run_session("s-2", 2 * WH)
    first = parse_receipt(world.receipts[0])
    second = receipt_of(world, 1)
    assert (first.session, second.session) == ("s-1", "s-2")
    # Refunded in full, and topped up: the channel's totals go on where they were.
    assert second.channel == first.channel
    assert second.base_atomic == first.owed_atomic == first.claimed_atomic
    assert second.claimed_atomic == first.owed_atomic + second.owed_atomic


def test_contact_to_power_takes_only_messages():
    world = World()
    world.run(lambda: bool(world.robot.state.offers), 5)
    world.request()
    world.run(lambda: world.docked != "")
    contact_ns = world.now_ns
    world.run(lambda: world.supplies["a"].power_w > 0, 30)
    assert world.now_ns - contact_ns < 0.2 * SECOND


def test_full_battery_ends_it():
    world = World()
    world.run(lambda: bool(world.robot.state.offers), 5)
    world.request()
    world.run(lambda: world.pads_uwh > 2_000_000)
    world.soc_permille = 990
    assert world.run(lambda: world.phase == "SETTLED", 300), world.story()
    assert receipt_of(world).stop_reason == "SOCLimitReached"


def test_the_escrow_of_the_policy_bounds_the_session():
    policy = make_policy(escrow_channel_max_atomic=3_000, escrow_unknown_max_atomic=3_000)
    world = World(make_robot_settings(policy=policy))
    world.run_session()
    receipt = receipt_of(world)
    assert receipt.deposited_atomic == 3_000
    assert receipt.claimed_atomic <= 3_000
    assert receipt.fault == ""
    assert receipt.stop_reason == "EnergyLimitReached"


def test_the_session_limit_of_the_policy_stops_signing():
    world = World(make_robot_settings(policy=make_policy(session_max_atomic=3_000)))
    world.run_session()
    receipt = receipt_of(world)
    assert receipt.ceiling_atomic <= 3_000
    assert "session total" in stop_reason(world)
    assert world.robot.state.bars == {}


# --- choice -------------------------------------------------------------------------------------------------


def three_stations() -> World:
    return World(
        stations=[
            make_station_settings("a", price_atomic_per_kwh=500_000, pose_mm_mrad=(2000, 0, 0)),
            make_station_settings(
                "b",
                price_atomic_per_kwh=300_000,
                price_floor_atomic_per_kwh=300_000,
                pose_mm_mrad=(6000, 0, 0),
            ),
            make_station_settings("c", served=()),
        ]
    )


def test_the_cheap_and_far_wins_and_each_other_one_has_its_reason():
    world = three_stations()
    world.run_session(energy_milliwh=3 * WH)
    best, second, third = world.robot.state.session.ranking
    assert (best.station, best.chosen, best.refused) == ("station-b", True, "")
    assert (second.station, second.refused) == ("station-a", "")
    assert second.score_atomic > best.score_atomic
    assert third.refused == "not-served: this robot is not among the customers"
    assert receipt_of(world).station == "station-b"
    assert all(s.phase == "LAPSED" for s in world.stations["a"].state.sessions.values())


def test_the_robots_time_counts_when_its_owner_prices_it():
    slow = make_station_settings("b", power_max_w=30, tranche_milliwh=1000, pose_mm_mrad=(2000, 0, 0))
    fast = make_station_settings("a", price_atomic_per_kwh=450_000)
    for time_price, chosen in ((0, "station-b"), (1000, "station-a")):
        world = World(make_robot_settings(time_price_atomic_per_min=time_price), [fast, slow])
        world.run(lambda world=world: len(world.robot.state.offers) == 2, 5)
        world.request()
        world.run(lambda world=world: world.phase == "FUNDING", 10)
        assert world.robot.state.session.ranking[0].station == chosen


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"pose_mm_mrad": (900_000, 0, 0)}, "out of reach"),
        ({"start_fee_atomic": 10_001}, "start fee 10001 is above the policy's 10000"),
        ({"withdraw_delay_s": 7200}, "withdraw delay 7200 is above the policy's 3600"),
        ({"tranche_milliwh": 20_000}, "tranche 8000 is above the policy's 5000"),
        ({"current_type": "AC"}, "not-served"),
        ({"in_service": False}, "out-of-service"),
    ],
)
def test_refused_offers(settings, reason):
    world = World(stations=[make_station_settings("a", **settings)])
    world.run(lambda: bool(world.robot.state.offers), 5)
    world.request()
    assert world.run(lambda: world.phase == "BACKING_OFF", 10), world.story()
    assert reason in world.robot.state.session.ranking[0].refused
    assert not world.vouchers


def test_a_dear_station_accepts_a_counter_offer_above_its_floor():
    station = make_station_settings("a", price_atomic_per_kwh=900_000, price_floor_atomic_per_kwh=700_000)
    world = World(stations=[station])
    world.run_session(energy_milliwh=2 * WH)
    assert receipt_of(world).price_atomic_per_kwh == 800_000


def test_a_dear_station_refuses_a_counter_offer_below_its_floor():
    station = make_station_settings("a", price_atomic_per_kwh=900_000, price_floor_atomic_per_kwh=850_000)
    world = World(stations=[station])
    world.run(lambda: bool(world.robot.state.offers), 5)
    world.request()
    assert world.run(lambda: world.phase == "BACKING_OFF", 10)
    assert "price per kWh 900000 is above the policy's 800000" in world.robot.state.session.ranking[0].refused
    sent = [body for body in bodies(world, "robot") if isinstance(body, QuoteCounter)]
    assert len(sent) == 1


def bodies(world: World, name: str) -> list[Any]:
    return [open_token(token).body for sender, token in world.published if sender == name]


def test_an_occupied_dock_is_not_sold():
    world = World()
    station = world.stations["a"]
    world.run(lambda: bool(world.robot.state.offers), 5)
    world.give(station, world.presence(station, present=True))
    world.run(lambda: not next(iter(world.robot.state.offers.values())).offer.available, 5)
    world.request()
    assert world.run(lambda: world.phase == "BACKING_OFF", 10)
    assert "occupied" in world.robot.state.session.ranking[0].refused
    world.give(station, world.presence(station, present=False))
    assert world.run(lambda: world.phase == "SETTLED", 300), world.story()


def test_a_silent_station_is_not_waited_for_longer_than_the_window():
    world = three_stations()
    world.run(lambda: len(world.robot.state.offers) == 3, 5)
    world.stations["c"].alive = False
    asked_ns = world.now_ns
    world.request()
    world.run(lambda: world.phase == "FUNDING", 10)
    assert abs(world.now_ns - asked_ns - 3 * SECOND) < 0.1 * SECOND
    assert world.robot.state.session.ranking[-1].refused == "no answer within the quote window"


def test_nobody_sells_back_off_help_and_safe_shutdown():
    world = World(stations=[])
    world.request()
    assert world.phase == "BACKING_OFF"
    assert world.run(lambda: world.phase == "CALLING_FOR_HELP", 300)
    assert world.calls == ["no station sells: no station to ask (no offer has come)"]
    world.soc_permille = 20
    assert world.run(lambda: world.phase == "SHUT_DOWN", 700)
    assert "nobody sells" in world.calls[-1]
    world.crash(world.robot)
    world.run(seconds=2)
    assert world.phase == "IDLE"


# --- nothing signed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("skew_s", [-121, 121])
def test_nothing_is_signed_while_clocks_disagree(skew_s):
    world = World()
    world.chain.skew_s = skew_s
    world.run(lambda: bool(world.robot.state.offers), 5)
    world.request()
    assert world.run(lambda: world.phase == "BACKING_OFF", 30)
    assert not world.vouchers
    assert "wall clock differ" in world.robot.state.session.ranking[0].refused


def test_nothing_is_signed_without_a_chain():
    world = World()
    world.chain.down = True
    world.run(lambda: bool(world.robot.state.offers), 5)
    world.request()
    assert world.run(lambda: world.phase == "BACKING_OFF", 300)
    assert not world.vouchers


def test_stopped_before_anything_was_signed():
    world = World()
    world.run(lambda: bool(world.robot.state.offers), 5)
    world.request()
    world.give(world.robot, ft.StopRequested(world.at, "changed my mind"))
    assert world.phase == "IDLE"
    assert world.robot.state.session is None
    world.run_session("s-2", WH)


# --- forward to settlement ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "phase", ["FUNDING", "APPROACHING", "PRESENTING", "CHARGING", "STOPPING", "UNDOCKING"]
)
@pytest.mark.parametrize("who", ["robot", "a"])
def test_an_operators_stop_in_every_phase(phase, who):
    world = World()
    world.run(lambda: bool(world.robot.state.offers), 5)
    world.request(energy_milliwh=2 * WH)
    world.run(lambda: world.phase == phase and world.robot.state.session.money.signed > 0, 300)
    world.run(seconds=0.02)
    agent = world.robot if who == "robot" else world.stations["a"]
    world.give(agent, ft.StopRequested(world.at, "operator"))
    assert world.run(lambda: world.phase == "SETTLED", 400), world.story()
    receipt = receipt_of(world)
    assert receipt.fault == ""
    assert world.docked == ""
    assert receipt.claimed_atomic <= receipt.owed_atomic


def test_docking_fails():
    world = World()
    world.docking_fails = 1
    world.run_session()
    receipt = receipt_of(world)
    assert receipt.claimed_atomic == 2000
    assert "docking failed" in stop_reason(world)
    world.run_session("s-2", WH)  # the station is not to blame: it is asked again
    assert receipt_of(world).station_energy_milliwh > 0


def test_docked_at_the_wrong_dock():
    world = World(
        stations=[make_station_settings("a"), make_station_settings("b", pose_mm_mrad=(9000, 0, 0))]
    )
    honest = world.dock
    world.dock = lambda _dock: honest("dock-b")
    world.run_session()
    assert "agreed was 'dock-a'" in stop_reason(world)
    assert receipt_of(world).claimed_atomic == 2000
    assert world.docked == ""


def test_the_deposit_bounces():
    world = World(
        stations=[make_station_settings("a"), make_station_settings("b", pose_mm_mrad=(9000, 0, 0))]
    )
    world.run(lambda: len(world.robot.state.offers) == 2, 5)
    world.request()
    assert world.run(lambda: bool(world.vouchers), 30)
    world.chain.balances[make_key("payer").address] = 0  # spent elsewhere, after it was looked at
    assert world.run(lambda: world.phase == "WITHDRAWING", 300), world.story()
    assert world.robot.state.ledger.escrow_total_atomic > 0
    world.chain.balances[make_key("payer").address] = 10**6
    world.run_session("s-2", WH)
    assert receipt_of(world).station == "station-b"
    world.chain.number += 1
    assert world.run(lambda: not world.robot.state.background, 900), world.story()
    receipt = receipt_of(world)
    assert (receipt.session, receipt.deposited_atomic, receipt.owed_atomic) == ("s-1", 0, 0)
    assert world.robot.state.ledger.escrow_total_atomic == 0


def test_undocking_fails_and_the_money_is_settled():
    world = World()
    world.undocking_fails = 5
    world.run_session(energy_milliwh=WH)
    assert receipt_of(world).fault == ""
    assert "can not leave the dock" in world.calls[0]


def test_no_undocking_while_current_flows():
    world = World()
    world.run(lambda: bool(world.robot.state.offers), 5)
    world.request(energy_milliwh=WH)
    world.run(lambda: world.phase == "CHARGING")
    world.supplies["a"].stuck = True
    assert world.run(lambda: bool(world.calls), 300), world.story()
    assert "not undocking" in world.calls[0]
    assert world.docked == "a"
    world.supplies["a"].stuck = False
    world.supplies["a"].power_w = 0
    assert world.run(lambda: world.phase == "SETTLED", 300), world.story()


def test_idle_minutes_are_paid():
    station = make_station_settings("a", idle_fee_atomic_per_min=100, refund_wait_ms=600_000)
    world = World(stations=[station])
    slow = world.undock

    def crawl() -> Any:
        return slow()

    world.undock = crawl
    normal = world.body_effect

    def body_effect(wish: Any) -> None:
        if isinstance(wish, fx.StartUndocking):
            world.put(world.robot, world.undock, 130 * SECOND)
        else:
            normal(wish)

    world.body_effect = body_effect
    world.run_session(energy_milliwh=WH)
    receipt = receipt_of(world)
    assert receipt.idle_fee_atomic == 200
    assert receipt.claimed_atomic == receipt.owed_atomic


# --- a dishonest or broken station --------------------------------------------------------------------------


def loss_atomic(world: World, receipt: Receipt) -> int:
    """What was claimed beyond the price of what came in at the pads, by the nominal efficiency."""
    fair = cost_atomic(receipt.price_atomic_per_kwh, receipt.robot_energy_milliwh * 1000 // 970)
    return receipt.claimed_atomic - receipt.start_fee_atomic - fair


def expect_cheat(world: World, words: str) -> Receipt:
    world.run_session()
    receipt = receipt_of(world)
    assert words in receipt.fault, world.story()
    assert world.evidence
    assert receipt.evidence
    assert loss_atomic(world, receipt) <= cost_atomic(receipt.price_atomic_per_kwh, 1000 + 200)
    bar = world.robot.state.bars[make_key("station-a").address.hex()]
    assert bar.until_s > 2**39
    world.request("s-2")
    assert world.phase == "BACKING_OFF"
    assert "barred" in world.robot.state.session.ranking[0].refused
    return receipt


def test_a_meter_that_counts_too_much():
    world = World()
    world.supplies["a"].over_permille = 1350
    expect_cheat(world, "is explained")


def test_a_meter_that_counts_a_little_too_much():
    world = World(make_robot_settings())
    world.supplies["a"].over_permille = 1045
    world.run_session(energy_milliwh=100 * WH, seconds=4000)
    receipt = receipt_of(world)
    assert "drifts" in receipt.fault or "is explained" in receipt.fault
    assert receipt.robot_energy_milliwh < 30 * WH


def test_a_station_without_power():
    world = World()
    world.supplies["a"].dead = True
    receipt = expect_cheat(world, "is explained")
    assert receipt.robot_energy_milliwh == 0


def test_broken_meter_signatures():
    world = World()
    world.supplies["a"].break_statements_after = 6
    expect_cheat(world, "meter statement refused (signature)")


def test_a_station_that_claims_the_ceiling():
    world = World()

    def distort(name: str, wish: Any) -> list[Any]:
        if isinstance(wish, fx.PrepareTransaction) and isinstance(wish.call, fx.ClaimWish):
            wish = replace(wish, call=replace(wish.call, total_claimed_atomic=wish.call.ceiling_atomic))
        return [wish]

    world.distort = distort
    receipt = expect_cheat(world, "station claimed")
    assert receipt.claimed_atomic == receipt.ceiling_atomic > receipt.owed_atomic


def ask_more(body: NeedVoucher) -> NeedVoucher:
    required = body.payment_required
    item = replace(required.accepts[0], amount=str(int(required.accepts[0].amount) + 1000))
    return replace(body, payment_required=replace(required, accepts=[item]))


def other_payee(body: NeedVoucher) -> NeedVoucher:
    required = body.payment_required
    item = replace(required.accepts[0], pay_to="0x" + "11" * 20)
    return replace(body, payment_required=replace(required, accepts=[item]))


def charge_more(body: NeedVoucher) -> NeedVoucher:
    required = body.payment_required
    item = required.accepts[0]
    state = item.extra.channel_state
    state = replace(state, charged_cumulative_amount=str(int(state.charged_cumulative_amount) + 100))
    item = replace(item, extra=replace(item.extra, channel_state=state))
    return replace(body, payment_required=replace(required, accepts=[item]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (ask_more, "ahead of reconciled energy"),
        (other_payee, "requirements changed within the session"),
        (charge_more, "station charges"),
    ],
)
def test_a_request_for_a_voucher_that_breaks_the_agreement(change, words):
    world = World()
    world.distort = distort_bodies(NeedVoucher, change)
    expect_cheat(world, words)
    assert max(ceiling for _, ceiling in world.vouchers) == 2000


def bill_more(body: PaymentResult) -> PaymentResult:
    extra = body.settle.extra
    if not body.settle.success or body.settle.transaction:
        return body
    return replace(body, settle=replace(body.settle, extra=replace(extra, charged_amount="99999")))


def wrong_sum(body: PaymentResult) -> PaymentResult:
    if not body.settle.success or body.settle.transaction:
        return body
    state = replace(body.settle.extra.channel_state, charged_cumulative_amount="1")
    return replace(body, settle=replace(body.settle, extra=replace(body.settle.extra, channel_state=state)))


@pytest.mark.parametrize(
    ("change", "words"), [(bill_more, "station charged"), (wrong_sum, "station's sum is")]
)
def test_an_answer_that_does_not_add_up(change, words):
    world = World()
    world.distort = distort_bodies(PaymentResult, change)
    expect_cheat(world, words)


def test_a_quote_with_another_payee_is_refused_at_once():
    world = World()

    def change(body: Quote) -> Quote:
        required = body.payment_required
        return Quote(replace(required, accepts=[replace(required.accepts[0], pay_to="0x" + "11" * 20)]))

    world.distort = distort_bodies(Quote, change)
    world.run(lambda: bool(world.robot.state.offers), 5)
    world.request()
    assert world.run(lambda: world.phase == "BACKING_OFF", 10)
    assert "payTo" in world.robot.state.session.ranking[0].refused


@pytest.mark.parametrize(
    "phase", ["FUNDING", "APPROACHING", "PRESENTING", "CHARGING", "STOPPING", "SETTLING"]
)
def test_a_station_that_vanishes(phase):
    world = World(
        stations=[make_station_settings("a"), make_station_settings("b", pose_mm_mrad=(9000, 0, 0))]
    )
    world.run(lambda: len(world.robot.state.offers) == 2, 5)
    world.request()
    world.run(lambda: world.phase == phase and world.robot.state.session.money.signed > 0, 300)
    station = world.stations["a"]
    station.alive = False
    station.epoch += 1
    station.timers.clear()
    world.supplies["a"].power_w = 0
    assert world.run(lambda: world.phase == "WITHDRAWING", 400), world.story()
    world.run_session("s-2", 2 * WH)
    assert receipt_of(world).station == "station-b"
    assert world.run(lambda: not world.robot.state.background, 2000), world.story()
    receipt = receipt_of(world)
    row = world.chain.channel(bytes.fromhex(receipt.channel[2:]))
    assert row["balance"] == row["claimed"] == 0
    assert world.robot.state.ledger.escrow_total_atomic == 0


def test_the_receipt_waits_for_the_outcome_of_the_withdrawal_that_the_channel_shows():
    world = World()
    world.run(lambda: bool(world.robot.state.offers), 5)
    world.request()
    world.run(lambda: world.phase == "CHARGING" and world.robot.state.session.money.signed > 0, 300)
    world.stations["a"].alive = False
    world.stations["a"].epoch += 1
    slow = world.broadcast

    def broadcast(wish):
        """Mined at once, and shown by the channel; known of a while later."""
        outcome = slow(wish)
        if "finalize-withdraw" in wish.purpose:
            world.put(world.robot, lambda: replace(outcome, at=world.at), 60 * SECOND)
            return world.read_channel(
                fx.ReadChannel("peek", world.robot.state.session.agreement.channel_id, 1)
            )
        return outcome

    world.broadcast = broadcast
    assert world.run(lambda: world.phase == "SETTLED", 4000), world.story()
    receipt = receipt_of(world)
    assert receipt.transactions.withdraw, world.story()
    assert receipt.left_atomic == 0


def test_a_withdrawal_makes_the_station_claim_at_once():
    world = World(stations=[make_station_settings("a", channel_watch_ms=2000)])
    world.run(lambda: bool(world.robot.state.offers), 5)
    world.request()
    world.run(lambda: world.pads_uwh > 2_000_000)
    agreement = world.robot.state.session.agreement
    world.chain.mine(fx.InitiateWithdrawWish(agreement.channel, 1000))
    world.run(lambda: world.stations["a"].state.sessions["s-1"].phase == "SETTLED", 60)
    session = world.stations["a"].state.sessions["s-1"]
    assert session.channel.claimed == session.channel.charged > 2000
    assert world.run(lambda: world.phase == "SETTLED", 300), world.story()
    assert receipt_of(world).claimed_atomic == session.channel.claimed


def test_a_robot_that_stops_paying_takes_nothing_unpaid():
    world = World()

    def distort(name: str, wish: Any) -> list[Any]:
        paying = isinstance(wish, fx.SealPayment) and not wish.deposit_digest
        return [] if name == "robot" and paying and len(world.vouchers) >= 4 else [wish]

    world.distort = distort
    world.run(lambda: bool(world.robot.state.offers), 5)
    world.request()
    world.run(lambda: world.stations["a"].state.count == 1, 300)
    session = world.stations["a"].state.sessions["s-1"]
    assert session.delivered_milliwh <= session.limit_milliwh()
    assert session.channel.claimed >= 2000 + cost_atomic(400_000, session.delivered_milliwh)


# --- the robot's own parts fail -----------------------------------------------------------------------------


def test_without_the_own_meter_nothing_is_signed():
    world = World()
    world.run(lambda: bool(world.robot.state.offers), 5)
    world.request()
    world.run(lambda: world.phase == "PRESENTING")
    honest = world.reading
    world.reading = lambda: replace(honest(), stamp_ns=0)
    world.run(lambda: world.phase == "STOPPING", 60)
    assert max(ceiling for _, ceiling in world.vouchers) == 2000
    world.reading = honest
    assert world.run(lambda: world.phase == "SETTLED", 300), world.story()


def test_an_own_meter_that_falls_authorises_nothing():
    world = World()
    world.run(lambda: bool(world.robot.state.offers), 5)
    world.request()
    world.run(lambda: world.pads_uwh > 2_000_000)
    world.pads_uwh = 0
    world.run(lambda: world.phase == "STOPPING", 60)
    assert "own meter" in stop_reason(world)
    assert world.robot.state.bars == {}
    assert world.run(lambda: world.phase == "SETTLED", 300), world.story()


def test_the_chain_is_down_while_charging():
    world = World()
    world.run(lambda: bool(world.robot.state.offers), 5)
    world.request()
    world.run(lambda: world.pads_uwh > 2_000_000)
    world.chain.down = True
    world.run(lambda: world.phase == "STOPPING", 200)
    signed = world.robot.state.session.money.signed
    world.run(seconds=100)
    assert world.robot.state.session.money.signed == signed
    world.chain.down = False
    assert world.run(lambda: world.phase == "SETTLED", 2500), world.story()
    assert receipt_of(world).claimed_atomic > 2000


def test_the_head_of_the_chain_stands_still():
    world = World()
    world.run(lambda: bool(world.robot.state.offers), 5)
    world.request()
    world.run(lambda: world.pads_uwh > 2_000_000)
    world.chain.skew_s = -500
    world.run(lambda: world.phase == "STOPPING", 60)
    assert "wall clock differ" in stop_reason(world)


# --- the wire -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rest", [0, 1, 2])
def test_every_third_message_is_lost_and_every_fourth_comes_twice(rest):
    world = World()
    count = iter(range(10**9))

    def on_wire(_topic: str, _token: str) -> list[int]:
        number = next(count)
        if number % 3 == rest:
            return []
        return [5_000_000, 700_000_000] if number % 4 == 0 else [5_000_000]

    world.on_wire = on_wire
    world.run(lambda: bool(world.robot.state.offers), 500)
    world.request(energy_milliwh=4 * WH)
    assert world.run(lambda: world.phase in {"SETTLED", "BACKING_OFF"}, 900), world.story()
    receipt = receipt_of(world)
    assert receipt.fault == "", world.story()
    assert receipt.claimed_atomic <= receipt.owed_atomic


@pytest.mark.parametrize("who", ["robot", "a"])
def test_a_crash_after_every_row_of_the_journal(who):
    whole = World()
    whole.run_session(energy_milliwh=WH)
    rows = len((whole.robot if who == "robot" else whole.stations["a"]).journal)
    for row in range(2, rows, 2):
        world = World()
        agent = world.robot if who == "robot" else world.stations["a"]
        fired = []

        def at_row(other: Any, _fact: Any, agent=agent, row=row, fired=fired) -> bool:
            if other is agent and len(agent.journal) == row and not fired:
                fired.append(row)
                return True
            return False

        world.crash_before_effects = at_row
        world.run(lambda world=world: world.robot.alive and bool(world.robot.state.offers), 5)
        world.run(seconds=0.5)
        world.request(energy_milliwh=WH)
        assert world.run(lambda world=world: world.phase == "SETTLED", 600), f"row {row}\n{world.story()}"
        receipt = receipt_of(world)
        assert receipt.fault == "", f"row {row}\n{world.story()}"
        assert receipt.claimed_atomic <= receipt.owed_atomic, f"row {row}\n{world.story()}"


def test_bodies_are_what_they_say():
    world = World()
    world.run(lambda: bool(world.robot.state.offers), 5)
    world.request(energy_milliwh=9 * WH)
    world.run(lambda: world.pads_uwh > 2_000_000)
    world.give(world.robot, ft.StopRequested(world.at, "operator"))
    assert world.run(lambda: world.phase == "SETTLED", 400), world.story()
    kinds = {type(body).__name__ for body in bodies(world, "robot") + bodies(world, "a")}
    assert kinds == {
        "Offer",
        "QuoteRequest",
        "Quote",
        "Payment",
        "PaymentResult",
        "SessionEvent",
        "NeedVoucher",
        "SessionStop",
        "ReceiptMessage",
    }
    stops = [body for body in bodies(world, "robot") if isinstance(body, SessionStop)]
    assert stops[0].reason == "Remote"
