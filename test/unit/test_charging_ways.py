"""Rarer ways through the tables: each ends where the table says, and the money is settled."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from depai_robot.charging import effect as fx
from depai_robot.charging import fact as ft
from depai_robot.charging import ocmf
from depai_robot.charging.envelope import open_token
from depai_robot.charging.message import (
    Draft,
    EventType,
    NeedVoucher,
    Payment,
    PaymentResult,
    Quote,
    ReceiptMessage,
    SessionEvent,
    SessionStop,
)
from depai_robot.payment.receipt import parse_receipt
from depai_robot.values.identity import did_pkh
from test.builders import CHAIN_ID, make_key, make_robot_settings, make_station_settings
from test.pretend import SECOND, World

WH = 1000


def start(world: World | None = None, until: str = "", energy: int = 2 * WH) -> World:
    """A session that has come to a phase."""
    world = world or World()
    world.run(lambda: len(world.robot.state.offers) == len(world.stations), 5)
    world.request(energy_milliwh=energy)
    if until:
        assert world.run(lambda: world.phase == until, 60), world.story()
    return world


def say(world: World, body: Any, name: str = "a") -> None:
    """The station says something, properly signed."""
    now = world.wall_s
    to = did_pkh(CHAIN_ID, world.robot.settings.identity)
    draft = Draft(f"said.{world.now_ns}", "s-1", 900, now, now + 60, to, body)
    token = make_key(f"station-{name}").seal(draft)
    world.give(
        world.robot, ft.MessageReceived(world.at, make_key(f"station-{name}").address, token, world.reading())
    )


def drop(world: World, *kinds: type, sender: str = "") -> None:
    """Loses every message of those kinds."""

    def on_wire(topic: str, token: str) -> list[int]:
        lost = isinstance(open_token(token).body, kinds) and (not sender or sender in topic)
        return [] if lost else [5_000_000]

    world.on_wire = on_wire


def way(world: World) -> list[tuple[str, str]]:
    return list(world.robot.state.session.path)


def sold(world: World) -> Any:
    return world.stations["a"].state.sessions["s-1"]


def settled(world: World, seconds: float = 900) -> Any:
    assert world.run(lambda: world.phase == "SETTLED", seconds), world.story()
    return parse_receipt(world.receipts[-1])


ENDED = SessionEvent(EventType.ENDED, 9, "StopAuthorized", "Idle", None, None, "Other")
STOP = SessionStop("Other", "closing")


# --- the robot ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [ENDED, STOP])
def test_the_station_withdraws_its_quote_before_anything_is_signed(body):
    world = start(until="FUNDING")
    assert not world.robot.state.session.money.signed
    say(world, body)
    assert world.phase == "BACKING_OFF"
    assert world.robot.state.session.ranking[0].refused == "the station withdrew its quote"
    world.run(seconds=5)
    assert not world.vouchers


@pytest.mark.parametrize("body", [ENDED, STOP])
@pytest.mark.parametrize("phase", ["FUNDING", "APPROACHING", "PRESENTING", "CHARGING"])
def test_the_station_ends_it(phase, body):
    world = start(until=phase)
    world.run(lambda: world.robot.state.session.money.signed > 0, 5)
    say(world, body)
    assert world.phase in ("STOPPING", "SETTLING")
    assert settled(world).fault == ""


def test_contact_takes_too_long():
    world = World(make_robot_settings(docking_timeout_ms=2000))
    start(world, "APPROACHING")
    world.run(lambda: world.phase == "STOPPING", 10)
    assert world.robot.state.session.stop.detail == "no contact in time"
    assert settled(world).claimed_atomic == 2000


def test_the_docking_part_never_answers():
    world = World(make_robot_settings(docking_timeout_ms=2000))
    world.body_effect = lambda _wish: None
    start(world, "APPROACHING")
    assert settled(world).claimed_atomic == 2000


def test_the_station_never_begins():
    world = World()
    drop(world, NeedVoucher, SessionEvent, sender="robots")
    start(world, "PRESENTING")
    world.run(lambda: world.phase == "STOPPING", 60)
    assert world.robot.state.session.stop.detail == "the station did not begin in time"
    world.on_wire = lambda _topic, _token: [5_000_000]
    assert settled(world).claimed_atomic == 2000


def test_the_begin_comes_with_the_first_request_when_the_event_is_lost():
    world = World()
    drop(world, SessionEvent, sender="robots")
    start(world, "CHARGING")
    assert ("NeedVoucher", "CHARGING") in way(world)


def test_a_false_meter_from_the_beginning():
    world = World()
    world.supplies["a"].break_statements_after = 0
    drop(world, SessionEvent, sender="robots")
    start(world, "STOPPING")
    assert ("NeedVoucher", "STOPPING") in way(world)
    world.on_wire = lambda _topic, _token: [5_000_000]
    assert settled(world).claimed_atomic == 2000


def test_a_lost_request_is_answered_although_newer_statements_came():
    world = World()
    seen: list[str] = []

    def on_wire(_topic: str, token: str) -> list[int]:
        draft = open_token(token)
        if isinstance(draft.body, NeedVoucher) and draft.id not in seen:
            seen.append(draft.id)
            return []  # the first sending of each is lost
        return [5_000_000]

    world.on_wire = on_wire
    start(world, energy=4 * WH)
    receipt = settled(world)
    assert receipt.stop_reason == "EnergyLimitReached"
    assert receipt.robot_energy_milliwh >= 4 * WH


def test_late_copies_of_old_requests_change_nothing():
    world = World()

    def on_wire(_topic: str, token: str) -> list[int]:
        needs = isinstance(open_token(token).body, NeedVoucher)
        return [5_000_000, 9 * SECOND, 20 * SECOND] if needs else [5_000_000]

    world.on_wire = on_wire
    start(world, energy=5 * WH)
    receipt = settled(world)
    assert receipt.stop_reason == "EnergyLimitReached", world.story()
    assert world.robot.state.session.ignored["late need-voucher"] > 5


def restate(world: World, **changes: Any) -> str:
    """A statement of the station's meter that is properly signed and says something else."""
    meter = world.robot.state.session.meter
    payload = ocmf.encode_payload(replace(ocmf.parse_statement(meter.statement), **changes))
    return ocmf.assemble(payload, make_key("meter-a").sign(ocmf.digest_payload(payload)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"energy_milliwh": 7500}, "two statements with pagination"),
        ({"pagination": 900, "energy_milliwh": 6999}, "register fell to -1 mWh since the begin"),
        ({"pagination": 900, "energy_milliwh": 7001}, "station's register fell"),
        ({"pagination": 900, "energy_milliwh": 99_000}, "is explained"),
        ({"pagination": 900, "session": "s-2"}, "session"),
        ({"pagination": 900, "serial": "M-x"}, "expected serial"),
    ],
)
def test_a_properly_signed_statement_that_convicts(changes, words):
    world = start(until="CHARGING", energy=9 * WH)
    world.run(lambda: world.pads_uwh > 1_000_000)
    text = restate(world, **changes)
    say(world, SessionEvent(EventType.UPDATED, 1, "MeterValuePeriodic", "Charging", text))
    assert world.phase == "STOPPING"
    assert words in world.robot.state.session.stop.detail
    assert world.robot.state.session.stop.fault == "cheated"
    assert any(text in open_token(token).body.statement for token in world.evidence[0][2][-1:])
    assert settled(world).fault


def test_a_late_statement_is_no_crime():
    world = start(until="CHARGING", energy=9 * WH)
    world.run(lambda: world.pads_uwh > 1_000_000)
    text = restate(world, pagination=2, energy_milliwh=7010)
    say(world, SessionEvent(EventType.UPDATED, 1, "MeterValuePeriodic", "Charging", text))
    assert world.phase == "CHARGING"


def test_an_own_meter_that_starts_again_from_zero():
    world = World()
    world.pads_uwh = 50_000_000
    start(world, "CHARGING", energy=9 * WH)
    world.run(lambda: world.pads_uwh > 51_000_000)
    world.pads_uwh = 0
    assert world.run(lambda: world.phase == "STOPPING", 10)
    assert "own meter fell" in world.robot.state.session.stop.detail
    assert world.robot.state.bars == {}


def test_a_lost_answer_is_asked_for_again_and_costs_nothing():
    world = World()
    count = iter(range(10**6))

    def on_wire(_topic: str, token: str) -> list[int]:
        lost = isinstance(open_token(token).body, PaymentResult) and next(count) % 2 == 0
        return [] if lost else [5_000_000]

    world.on_wire = on_wire
    start(world, energy=4 * WH)
    receipt = settled(world)
    assert receipt.robot_energy_milliwh >= 4 * WH
    assert receipt.claimed_atomic == receipt.owed_atomic


def test_the_final_statement_is_lost_and_the_own_meter_says_what_is_owed():
    world = start(until="CHARGING", energy=9 * WH)
    world.run(lambda: world.pads_uwh > 3_000_000)
    drop(world, SessionEvent, sender="robots")
    world.give(world.robot, ft.StopRequested(world.at, "operator"))
    receipt = settled(world)
    assert abs(receipt.claimed_atomic - receipt.owed_atomic) <= 1
    assert receipt.deposited_atomic == receipt.claimed_atomic + receipt.returned_atomic


def test_a_refused_deposit_leads_forward_and_bars_for_a_while():
    world = World()
    world.distort = lambda name, wish: (
        [replace(wish, call=replace(wish.call, signature=bytes(65)))]
        if name == "a" and isinstance(wish, fx.PrepareTransaction) and isinstance(wish.call, fx.DepositWish)
        else [wish]
    )
    start(world)
    assert world.run(lambda: world.phase in ("SETTLING", "WITHDRAWING"), 60)
    assert ("PaymentResult", "STOPPING") in way(world)
    assert sold(world).phase == "LAPSED"
    bar = world.robot.state.bars[make_key("station-a").address.hex()]
    assert bar.until_s - world.wall_s <= 3600


def test_the_deposit_is_not_seen_in_time():
    world = World(make_robot_settings(funding_timeout_ms=5000))
    world.distort = lambda name, wish: (
        [] if name == "a" and isinstance(wish, fx.PrepareTransaction) else [wish]
    )
    start(world)
    world.run(lambda: world.phase == "SETTLING", 60)
    assert ("TimerFired", "STOPPING") in way(world)


def test_a_deposit_that_arrives_after_the_robot_gave_up_comes_back():
    world = World(make_robot_settings(funding_timeout_ms=5000))
    held: list[Any] = []

    def distort(name: str, wish: Any) -> list[Any]:
        if name == "a" and isinstance(wish, fx.PrepareTransaction) and isinstance(wish.call, fx.DepositWish):
            held.append(wish)
            return []
        return [wish]

    world.distort = distort
    start(world)
    world.run(lambda: world.phase == "SETTLING", 60)
    world.put(world.stations["a"], lambda: world.prepare(held[0]), 10 * SECOND)
    receipt = settled(world)
    assert receipt.claimed_atomic == 2000
    assert receipt.deposited_atomic == receipt.claimed_atomic + receipt.returned_atomic


def test_the_robot_withdraws_when_the_station_claims_but_gives_nothing_back():
    world = World(make_robot_settings(settle_timeout_ms=20_000))
    world.distort = lambda name, wish: (
        []
        if name == "a" and isinstance(wish, fx.PrepareTransaction) and isinstance(wish.call, fx.RefundWish)
        else [wish]
    )
    start(world)
    assert world.run(lambda: world.phase == "WITHDRAWING", 200)
    receipt = settled(world, 2000)
    assert receipt.claimed_atomic == receipt.owed_atomic
    assert receipt.returned_atomic == receipt.deposited_atomic - receipt.claimed_atomic
    assert receipt.transactions.withdraw


def test_help_is_called_and_asking_goes_on():
    world = World(make_robot_settings(back_off_tries=1, back_off_ms=1000, help_retry_ms=5000), stations=[])
    world.request()
    assert world.run(lambda: world.phase == "CALLING_FOR_HELP", 30)
    world.run(seconds=30)
    assert world.phase == "CALLING_FOR_HELP"
    assert len(world.calls) == 1
    assert world.robot.state.session.rounds > 3
    world.give(world.robot, ft.StopRequested(world.at, "operator"))
    assert world.phase == "IDLE"


@pytest.mark.parametrize("phase", ["BACKING_OFF", "CALLING_FOR_HELP"])
def test_a_low_battery_shuts_down_while_nobody_sells(phase):
    world = World(make_robot_settings(back_off_tries=1), stations=[])
    world.request()
    world.run(lambda: world.phase == phase, 60)
    world.soc_permille = 30
    world.request("s-2")
    assert world.phase == "SHUT_DOWN"


def test_a_low_battery_shuts_down_while_every_station_refuses():
    world = World(stations=[make_station_settings("a", served=())])
    start(world, "BACKING_OFF")
    world.soc_permille = 30
    assert world.run(lambda: world.phase == "SHUT_DOWN", 60)


def test_a_chain_that_says_no_before_anything_is_signed():
    world = World()
    world.distort = lambda _name, wish: [] if isinstance(wish, fx.ReadHead) else [wish]
    start(world, "FUNDING")
    world.give(world.robot, ft.ChainFailed(world.at, "s-1:head", True, "wrong chain id"))
    assert world.phase == "BACKING_OFF"
    assert "wrong chain id" in world.robot.state.session.ranking[0].refused


def test_a_channel_that_was_used_before_is_not_paid_into():
    world = World()
    start(world, "FUNDING")
    world.run(lambda: bool(world.vouchers), 5)
    channel = world.robot.state.session.agreement.channel_id
    world.give(world.robot, ft.ChannelObserved(world.at, channel, 9000, 2000, 77, 0, 1))
    assert world.robot.state.session.stop.detail == "the channel is not as it was left"


def test_a_station_that_comes_up_is_asked_by_the_next_round():
    world = World(make_robot_settings(back_off_tries=1, back_off_ms=1000, help_retry_ms=5000))
    world.stations["a"].alive = False
    world.request()
    world.run(lambda: world.phase == "CALLING_FOR_HELP", 60)
    world.restart(world.stations["a"])
    assert settled(world).fault == ""


def test_a_charge_requested_while_the_rest_is_being_withdrawn():
    world = World()
    start(world, "CHARGING")
    station = world.stations["a"]
    station.alive = False
    station.epoch += 1
    station.timers.clear()
    world.supplies["a"].power_w = 0
    world.run(lambda: world.phase == "WITHDRAWING", 400)
    world.request("s-2")
    assert world.phase == "BACKING_OFF"
    assert list(world.robot.state.background) == ["s-1"]
    assert world.run(lambda: not world.robot.state.background, 2000), world.story()
    assert parse_receipt(world.receipts[0]).session == "s-1"


def test_the_wall_clock_bounds_what_others_must_do():
    """A simulation may run ten times faster than the chain: the station still has its time."""
    world = World(make_robot_settings(settle_timeout_ms=20_000))
    real = World.wall_s.fget

    class Fast(World):
        wall_s = property(lambda self: real(self) if not self.slow else self.slow_wall())
        slow = False

        def slow_wall(self) -> int:
            return self.base_s + (self.now_ns - self.base_ns) // (10 * SECOND)

    world.__class__ = Fast
    start(world, "UNDOCKING")
    world.base_s, world.base_ns = world.wall_s, world.now_ns
    world.slow = True
    drop(world, Payment)
    world.run(lambda: world.phase == "SETTLING", 30)
    since_ns = world.now_ns
    world.chain.down = True
    world.run(seconds=150)
    assert world.phase == "SETTLING"  # 150 s of simulation are 15 s for the chain
    assert world.run(lambda: world.phase == "WITHDRAWING", 100)
    assert world.now_ns - since_ns > 190 * SECOND


# --- the station --------------------------------------------------------------------------------------------


def hardware(world: World, make: Callable[[ft.Instant], Any]) -> None:
    world.give(world.stations["a"], make(world.at))


def test_the_robot_never_comes():
    world = World(stations=[make_station_settings("a", arrival_timeout_ms=5000)])
    world.travel_s = 100
    start(world, "FUNDING")
    world.run(lambda: sold(world).phase == "ENDED", 60)
    assert sold(world).stop_reason == "Timeout"
    assert settled(world).claimed_atomic == 2000


def test_the_robot_never_pays():
    world = World(stations=[make_station_settings("a", binding_timeout_ms=3000, voucher_timeout_ms=4000)])
    world.distort = lambda name, wish: (
        [] if name == "robot" and isinstance(wish, fx.SealPayment) and not wish.deposit_digest else [wish]
    )
    start(world, "FUNDING")
    world.run(lambda: sold(world).phase == "STOPPING", 60)
    assert sold(world).delivered_milliwh == 0


@pytest.mark.parametrize("pull", ["presence", "contactor", "operator"])
def test_charging_is_cut(pull):
    world = start(until="CHARGING", energy=9 * WH)
    world.run(lambda: world.pads_uwh > 1_000_000)
    if pull == "presence":
        hardware(world, lambda at: ft.PresenceChanged(at, 1, False, bytes(32)))
    elif pull == "contactor":
        hardware(world, lambda at: ft.ContactorFailed(at, 1, "welded"))
    else:
        hardware(world, lambda at: ft.StopRequested(at, "closing time"))
    assert sold(world).phase == "STOPPING"
    assert world.supplies["a"].power_w == 0
    receipt = settled(world)
    assert receipt.claimed_atomic == receipt.owed_atomic > 2000
    assert world.stations["a"].state.connectors[1].fault == ("welded" if pull == "contactor" else "")
    hardware(world, lambda at: ft.PresenceChanged(at, 1, False, bytes(32)))
    free = world.stations["a"].state.free_connector()
    assert free == (None if pull == "contactor" else 1)


@pytest.mark.parametrize("phase", ["FUNDED", "BINDING"])
@pytest.mark.parametrize("pull", ["presence", "contactor", "operator", "refund"])
def test_it_ends_before_power(phase, pull):
    world = World()
    drop(world, NeedVoucher)
    start(world)
    assert world.run(lambda: "s-1" in world.stations["a"].state.sessions and sold(world).phase == phase, 60)
    if pull == "presence":
        hardware(world, lambda at: ft.PresenceChanged(at, 1, False, bytes(32)))
    elif pull == "contactor":
        hardware(world, lambda at: ft.ContactorFailed(at, 1, "welded"))
    elif pull == "operator":
        hardware(world, lambda at: ft.StopRequested(at, "closing time"))
    else:
        drop(world, NeedVoucher, SessionStop)
        world.give(world.robot, ft.StopRequested(world.at, "operator"))
    world.run(seconds=1)
    world.on_wire = lambda _topic, _token: [5_000_000]
    receipt = settled(world)
    assert receipt.claimed_atomic == receipt.owed_atomic


def test_the_stations_meter_falls_silent():
    world = start(until="CHARGING", energy=9 * WH)
    world.run(lambda: world.pads_uwh > 1_000_000)
    world.distort = lambda name, wish: [] if isinstance(wish, fx.ReadMeter) else [wish]
    assert world.run(lambda: sold(world).phase == "STOPPING", 30)
    assert world.supplies["a"].power_w == 0
    receipt = settled(world)
    assert receipt.claimed_atomic <= receipt.owed_atomic + 100
    assert world.run(lambda: world.stations["a"].state.connectors[1].fault == "meter silent", 300)


def test_the_contact_comes_after_the_word():
    world = World()
    slow = world.presence
    station = world.stations["a"]
    start(world, "APPROACHING")
    nonce = slow(station, present=True).nonce
    world.give(world.robot, ft.DockingEnded(world.at, True, "dock-a", "", world.reading()))
    world.give(world.robot, ft.ProbeRead(world.at, nonce))
    world.run(seconds=0.5)
    assert sold(world).phase == "FUNDED"
    hardware(world, lambda at: ft.PresenceChanged(at, 1, True, nonce))
    assert sold(world).phase == "BINDING"


def test_another_robot_on_the_connector_is_not_served():
    world = start(until="PRESENTING")
    world.run(lambda: sold(world).phase == "FUNDED", 1)
    hardware(world, lambda at: ft.PresenceChanged(at, 1, True, b"\x01" * 32))
    drop(world, SessionEvent, sender="stations")
    assert sold(world).phase in ("FUNDED", "BINDING")


def test_the_chain_refuses_the_claim_for_a_while():
    world = World()
    left = [8]

    def distort(name: str, wish: Any) -> list[Any]:
        if isinstance(wish, fx.PrepareTransaction) and isinstance(wish.call, fx.ClaimWish) and left[0]:
            left[0] -= 1
            agent = world.stations["a"]
            world.put(agent, lambda: ft.ChainFailed(world.at, wish.purpose, True, "reverted"), SECOND)
            return []
        return [wish]

    world.distort = distort
    world_settings = make_robot_settings(settle_timeout_ms=3_000_000)
    world.robot.settings = world_settings
    world.robot.state = replace(world.robot.state, settings=world_settings)
    start(world, "FUNDING")
    world.run(lambda: bool(sold(world).trouble), 600)
    assert "reverted" in sold(world).trouble
    assert settled(world, 3000).fault == ""
    assert sold(world).trouble == ""


def test_a_quote_is_for_the_power_that_was_asked_for():
    world = World(make_robot_settings(power_max_w=120))
    start(world, "FUNDING")
    quotes = [open_token(t).body for _, t in world.published if isinstance(open_token(t).body, Quote)]
    assert quotes[0].payment_required.extensions["depai-charging"].info["power_max_w"] == 120


def test_a_receipt_that_was_signed_and_never_sent_is_sent_after_the_restart():
    world = World()
    start(world, "SETTLING")
    station = world.stations["a"]

    def dies(agent, fact):
        if agent is not station or not isinstance(fact, ft.MessageSealed):
            return False
        return isinstance(open_token(fact.token).body, ReceiptMessage)

    world.crash_before_effects = dies
    assert world.run(lambda: not station.alive, 120), world.story()
    world.crash_before_effects = lambda _agent, _fact: False
    before = world.now_ns
    assert world.run(lambda: world.phase == "SETTLED", 60), world.story()
    assert world.robot.state.session.transactions.get("settle")
    assert world.now_ns - before < 3 * 10**9, "no waiting for what was lost"
