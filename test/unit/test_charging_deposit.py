"""What a station accepts as a deposit: the good one, and siblings with one field spoiled."""

from typing import Any

import pytest
from msgspec.structs import replace

from depai_robot.charging import effect as fx
from depai_robot.charging import fact as ft
from depai_robot.charging import station
from depai_robot.charging.envelope import open_token
from depai_robot.charging.message import Draft, Payment, PaymentResult, Quote, QuoteReject, QuoteRequest
from depai_robot.values.identity import address_to_hex, did_pkh
from test.builders import CHAIN_ID, WALL_S, make_key, make_station_settings
from test.pretend import World


@pytest.fixture(scope="module")
def deposit() -> tuple[World, str]:
    """A world in which the robot has just sealed its deposit, and that message."""
    world = World()
    world.run(lambda: bool(world.robot.state.offers), 5)
    world.on_wire = lambda _topic, token: [] if isinstance(open_token(token).body, Payment) else [5_000_000]
    world.request()
    world.run(lambda: bool(world.vouchers), 10)
    world.run(seconds=0.1)
    token = next(t for s, t in world.published if s == "robot" and isinstance(open_token(t).body, Payment))
    return world, token


def answer(world: World, draft: Draft, key: str = "robot") -> tuple[Any, Any]:
    """(state, the station's answer to that message)."""
    fact = ft.MessageReceived(world.at, make_key(key).address, make_key(key).seal(draft))
    state, effects = station.step(world.stations["a"].state, fact)
    bodies = [wish.draft.body for wish in effects if isinstance(wish, fx.SealMessage)]
    results = [body for body in bodies if isinstance(body, PaymentResult)]
    return state, results[0] if results else None


def with_payload(draft: Draft, **changes: Any) -> Draft:
    payload = draft.body.payload
    return replace(draft, body=Payment(replace(payload, payload=replace(payload.payload, **changes))))


def test_the_good_one_is_relayed(deposit):
    world, token = deposit
    state, result = answer(world, open_token(token))
    assert result is None  # the answer comes when the chain has it
    assert state.sessions["s-1"].phase == "FUNDING"
    assert set(state.sessions["s-1"].jobs) == {"s-1:channel"}


def spoil_config(**changes: Any) -> Any:
    return lambda d: with_payload(d, channel_config=replace(d.body.payload.payload.channel_config, **changes))


def spoil_voucher(**changes: Any) -> Any:
    return lambda d: with_payload(d, voucher=replace(d.body.payload.payload.voucher, **changes))


def spoil_deposit(**changes: Any) -> Any:
    return lambda d: with_payload(d, deposit=replace(d.body.payload.payload.deposit, **changes))


def spoil_authorization(**changes: Any) -> Any:
    def spoil(draft: Draft) -> Draft:
        money = draft.body.payload.payload.deposit
        inner = replace(money.authorization.erc3009_authorization, **changes)
        return spoil_deposit(authorization=replace(money.authorization, erc3009_authorization=inner))(draft)

    return spoil


def spoil_accepted(**changes: Any) -> Any:
    return lambda d: replace(
        d, body=Payment(replace(d.body.payload, accepted=replace(d.body.payload.accepted, **changes)))
    )


OTHER = address_to_hex(make_key("other").address)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_config(receiver=OTHER), "receiver_mismatch"),
        (spoil_config(receiver_authorizer=OTHER), "receiver_authorizer_mismatch"),
        (spoil_config(token=OTHER), "token_mismatch"),
        (spoil_config(withdraw_delay=901), "withdraw_delay_mismatch"),
        (spoil_config(payer_authorizer=OTHER), "payer_authorizer_mismatch"),
        (spoil_config(payer=OTHER), "channel_id_mismatch"),
        (spoil_config(salt="0x" + "01" * 32), "channel_id_mismatch"),
        (spoil_voucher(max_claimable_amount="2001"), "voucher_signature"),
        (spoil_voucher(channel_id="0x" + "01" * 32), "channel_id_mismatch"),
        (spoil_voucher(signature="0x" + "00" * 65), "voucher_signature"),
        (spoil_deposit(amount="2399"), "deposit_below_min_deposit"),
        (spoil_deposit(amount="9999999"), "deposit_signature"),
        (spoil_authorization(valid_before=str(WALL_S + 5)), "authorization_time"),
        (spoil_authorization(valid_after=str(WALL_S + 50)), "authorization_time"),
        (spoil_authorization(salt="0x" + "01" * 32), "deposit_signature"),
        (spoil_authorization(signature="0x"), "deposit_signature"),
        (spoil_accepted(amount="1"), "invalid_payment_requirements"),
        (spoil_accepted(pay_to=OTHER), "invalid_payment_requirements"),
        (spoil_accepted(max_timeout_seconds=301), "invalid_payment_requirements"),
    ],
)
def test_a_spoiled_one_is_refused_by_name(deposit, spoil, reason):
    world, token = deposit
    state, result = answer(world, spoil(open_token(token)))
    assert result is not None
    assert result.settle.success is False
    assert reason in result.settle.error_reason
    assert state.sessions["s-1"].phase == "QUOTED"
    assert not state.sessions["s-1"].jobs


def test_by_a_stranger_it_is_ignored(deposit):
    world, token = deposit
    state, result = answer(world, open_token(token), key="stranger")
    assert result is None
    assert state.sessions == world.stations["a"].state.sessions


def ask(
    state: Any, session: str, key: str = "robot", at: ft.Instant | None = None, **changes: Any
) -> tuple[Any, list[Any]]:
    world_at = at or ft.Instant(0, WALL_S)
    values = {
        "robot": "robot-1",
        "energy_milliwh": 1000,
        "power_max_w": 300,
        "current_type": "DC",
        "payer_authorizer": address_to_hex(make_key("voucher").address),
    }
    to = did_pkh(CHAIN_ID, state.settings.identity)
    body = QuoteRequest(**(values | changes))
    draft = Draft(f"{session}.r.0", session, 0, world_at.wall_s, world_at.wall_s + 300, to, body)
    fact = ft.MessageReceived(world_at, make_key(key).address, make_key(key).seal(draft))
    state, effects = station.step(state, fact)
    bodies = [wish.draft.body for wish in effects if isinstance(wish, fx.SealMessage)]
    return state, [body for body in bodies if isinstance(body, Quote | QuoteReject)]


def test_one_connector_is_held_for_one_robot_only():
    state = station.initial_state(make_station_settings())
    state, bodies = ask(state, "s-1")
    assert isinstance(bodies[0], Quote)
    state, bodies = ask(state, "s-2", key="robot-2")
    assert bodies == [QuoteReject("occupied", "no connector is free")]
    state, bodies = ask(state, "s-3")  # the same robot asks anew: its old hold is given up
    assert isinstance(bodies[0], Quote)
    assert state.sessions["s-1"].phase == "LAPSED"


def test_a_hold_runs_out():
    state = station.initial_state(make_station_settings())
    state, _ = ask(state, "s-1")
    due = state.sessions["s-1"].timers["hold"]
    state, _ = station.step(state, ft.TimerFired(ft.Instant(due, WALL_S + 120), "s-1/hold"))
    assert state.sessions["s-1"].phase == "LAPSED"
    assert state.free_connector() == 1


def test_a_flood_of_questions_is_bounded():
    state = station.initial_state(make_station_settings(sessions_max=5))
    for number in range(20):
        state, _ = ask(state, f"s-{number}", key=f"robot-{number % 3}")
    assert len(state.sessions) == 5
    state, bodies = ask(state, "s-20", key="robot-0")
    assert isinstance(bodies[0], Quote), "its own hold was replaced, and old questions keep nobody out"
    assert "s-20" in state.sessions


def at_ms(ms: int) -> ft.Instant:
    return ft.Instant(ms * 1_000_000, WALL_S + ms // 1000)


def hold(state: Any, number: int, ms: int) -> tuple[Any, list[Any]]:
    state, bodies = ask(state, f"s-{number}", at=at_ms(ms))
    return state, bodies


def test_unpaid_holds_of_a_robot_add_up():
    state = station.initial_state(make_station_settings(hold_ms=120_000))
    refused_ms = 0
    for number in range(20):  # asks every ten seconds, pays never
        state, bodies = hold(state, number, number * 10_000)
        if isinstance(bodies[0], QuoteReject):
            refused_ms = refused_ms or number * 10_000
            assert "without paying: ask again in" in bodies[0].detail
    assert 90_000 <= refused_ms <= 130_000
    assert state.free_connector() == 1
    state, bodies = ask(state, "s-honest", key="robot-2", at=at_ms(200_000))
    assert isinstance(bodies[0], Quote)


def test_an_unpaid_hold_is_forgiven_in_four_times_its_time():
    state = station.initial_state(make_station_settings(hold_ms=120_000))
    state, _ = hold(state, 0, 0)
    state, _ = station.step(state, ft.TimerFired(at_ms(120_000), "s-0/hold"))
    state, bodies = hold(state, 1, 230_000)
    assert isinstance(bodies[0], QuoteReject)
    assert "in 10 s" in bodies[0].detail
    state, bodies = hold(state, 2, 241_000)
    assert isinstance(bodies[0], Quote)
    assert state.sessions["s-2"].terms.hold_until_s == WALL_S + 241 + 30


def test_a_session_of_somebody_else_is_not_answered():
    state = station.initial_state(make_station_settings())
    state, _ = ask(state, "s-1")
    state, bodies = ask(state, "s-1", key="stranger")
    assert bodies == []
    assert state.sessions["s-1"].identity == make_key("robot").address
