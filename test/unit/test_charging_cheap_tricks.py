"""Tricks that cost the other side nothing: each was possible once."""

import pytest
from msgspec.structs import replace

from depai_robot.charging import effect as fx
from depai_robot.charging import fact as ft
from depai_robot.charging.message import Draft, QuoteCounter, QuoteRequest
from depai_robot.charging.robot import step
from depai_robot.charging.selection import Wanted, refuse_quote
from depai_robot.charging.station_selling import deposit_wish, make_terms
from depai_robot.charging.terms import QuoteError, build_quote, read_quote
from depai_robot.payment.policy import Exposure
from depai_robot.values.identity import address_to_hex, did_pkh
from test.builders import (
    CHAIN_ID,
    make_key,
    make_network,
    make_offer,
    make_policy,
    make_robot_settings,
    make_station_settings,
)
from test.pretend import SECOND, World


def ask(world: World, session: str, key: str = "stranger") -> None:
    """A quote request under a session id that no robot of ours would choose."""
    station = world.stations["a"]
    body = QuoteRequest("r-x", 1000, 300, "DC", address_to_hex(make_key("v").address))
    to = did_pkh(CHAIN_ID, station.settings.identity)
    draft = Draft(f"{key}.{session}", session, 0, world.wall_s, world.wall_s + 300, to, body)
    world.deliver(station.settings.inbox, make_key(key).seal(draft), 1000)


@pytest.mark.parametrize("session", ["-", "offer"])
def test_a_session_can_not_take_the_stations_own_names(session):
    world = World()
    world.run(seconds=2)
    ask(world, session)
    world.run(seconds=1)
    state = world.stations["a"].state
    assert state.sessions == {}
    assert state.ignored["session id is reserved"] == 1
    assert state.free_connector() == 1


def test_a_dock_that_gives_nothing_is_left():
    world = World()
    world.charge_power_w = 0
    world.run(lambda: len(world.robot.state.offers) == 1, 5)
    world.request()
    assert world.run(lambda: world.phase == "CHARGING", 60)
    begin_ns = world.now_ns
    assert world.run(lambda: world.phase == "STOPPING", 100), world.story()
    assert world.now_ns - begin_ns <= 62 * SECOND
    stop = world.robot.state.session.stop
    assert (stop.reason, stop.fault) == ("Timeout", "failed")
    assert "0 mWh in 60 s" in stop.detail
    assert world.run(lambda: world.phase == "SETTLED", 300), world.story()


def test_a_slow_dock_is_not_left():
    world = World()
    world.charge_power_w = 25  # what the on-board load alone takes
    world.run(lambda: len(world.robot.state.offers) == 1, 5)
    world.request(energy_milliwh=2000)
    assert world.run(lambda: world.phase == "SETTLED", 1200), world.story()
    assert world.robot.state.session.stop.reason == "EnergyLimitReached"


def quote(**changes):
    settings = make_station_settings()
    request = QuoteRequest("robot-1", 10_000, 300, "DC", address_to_hex(make_key("voucher").address))
    terms = make_terms(settings, "s-1", request, connector=1, price=400_000, hold_until_s=1_800_000_120)
    return build_quote(settings, replace(terms, **changes))


@pytest.mark.parametrize("seconds", [3601, 2**31])
def test_a_deposit_is_never_signed_for_years(seconds):
    required = quote()
    required = replace(required, accepts=[replace(required.accepts[0], max_timeout_seconds=seconds)])
    with pytest.raises(QuoteError, match="maxTimeoutSeconds"):
        read_quote(required, make_offer(), make_network(), "s-1")


@pytest.mark.parametrize("seconds", [3601, 2**31])
def test_a_blocks_transfer_is_never_signed_for_years(seconds):
    settings = make_station_settings(block_milliwh=1000)
    request = QuoteRequest("robot-1", 10_000, 300, "DC", address_to_hex(make_key("voucher").address))
    terms = make_terms(settings, "s-1", request, connector=1, price=400_000, hold_until_s=1_800_000_120)
    required = build_quote(settings, terms)
    block = replace(required.accepts[1], max_timeout_seconds=seconds)
    required = replace(required, accepts=[required.accepts[0], block])
    with pytest.raises(QuoteError, match="maxTimeoutSeconds"):
        read_quote(required, make_offer(), make_network(), "s-1")


@pytest.mark.parametrize(("fee", "refused"), [(10_000, False), (10_001, True)])
def test_an_idle_fee_is_a_fee_that_the_owner_limits(fee, refused):
    agreed = read_quote(quote(idle_fee_atomic_per_min=fee), make_offer(), make_network(), "s-1")
    reason = refuse_quote(
        make_robot_settings(),
        Wanted(10_000, 0, 0, 180),
        make_offer(),
        agreed,
        exposure=Exposure(),
        now_s=1_800_000_000,
    )
    assert ("idle fee" in reason) is refused


def test_offers_of_strangers_do_not_drive_out_a_station_that_the_owner_named():
    policy = make_policy(payees=(make_key("receiver-a").address,))
    world = World(make_robot_settings(offers_max=2, policy=policy))
    world.run(seconds=0.5)
    state = world.robot.state
    state = replace(state, offers={})
    for name in ("x", "y", "z", "a"):
        body = make_offer(name)
        draft = Draft(f"offer.{name}", "-", 0, world.wall_s, world.wall_s + 300, "*", body)
        key = make_key(f"station-{name}")
        fact = ft.MessageReceived(world.at, key.address, key.seal(draft))
        state, _ = step(state, fact)
    assert len(state.offers) == 2
    assert make_key("station-a").address.hex() in state.offers
    assert state.ignored["too many offers"] == 1


def test_a_deposit_that_the_robot_relayed_itself_must_be_deep_as_well():
    """Otherwise it could be reorganised away, its money moved, and the energy taken for nothing."""
    world = World(stations=[make_station_settings(confirmations=3)])
    world.run(lambda: len(world.robot.state.offers) == 1, 5)
    depths: list[int] = []

    def distort(name, wish):
        if name == "a" and isinstance(wish, fx.ReadChannel):
            depths.append(wish.confirmations)
        if name == "a" and isinstance(wish, fx.PrepareTransaction) and isinstance(wish.call, fx.DepositWish):
            raise AssertionError("the station relays what is there already")
        return [wish]

    world.distort = distort

    def relay_first() -> None:
        session = next(iter(world.stations["a"].state.sessions.values()), None)
        if session is None or session.phase != "FUNDING" or world.transactions:
            return
        call = deposit_wish(session.channel)
        world.chain.mine(call)
        world.transactions[b"own"] = call

    world.after_step.append(relay_first)
    world.request()
    assert world.run(lambda: world.phase == "APPROACHING", 60), world.story()
    assert depths[:2] == [1, 3]


def test_haggling_ends_and_does_not_hold_the_connector_for_longer():
    world = World(stations=[make_station_settings(hold_ms=30_000)])
    world.run(seconds=2)
    ask(world, "q-1")
    world.run(seconds=1)
    session = world.stations["a"].state.sessions["q-1"]
    assert session.phase == "QUOTED"
    for number in range(5):
        body = QuoteCounter(400_000, 1)
        station = world.stations["a"]
        to = did_pkh(CHAIN_ID, station.settings.identity)
        draft = Draft(f"c.{number}", "q-1", number, world.wall_s, world.wall_s + 300, to, body)
        world.deliver(station.settings.inbox, make_key("stranger").seal(draft), 1000)
        world.run(seconds=7)
    session = world.stations["a"].state.sessions["q-1"]
    assert session.counters == 2
    assert session.phase == "LAPSED"


def test_a_station_that_fails_again_is_barred_for_longer_each_time():
    world = World(make_robot_settings(back_off_ms=100, bar_s=60))
    world.charge_power_w = 0
    world.run(lambda: len(world.robot.state.offers) == 1, 5)
    spans = []
    for number in range(3):
        world.request(f"s-{number}")
        assert world.run(lambda: world.phase == "SETTLED", 600), world.story()
        (bar,) = world.robot.state.bars.values()
        spans.append(bar.until_s - world.robot.state.session.stop.at_s)
        assert bar.failures == number + 1
        world.run(lambda: world.wall_s > bar.until_s + 1, 1000)
    assert spans == [60, 120, 240]
    world.charge_power_w = 300
    world.request("s-good")
    assert world.run(lambda: world.phase == "SETTLED", 600), world.story()
    assert world.robot.state.bars == {}
