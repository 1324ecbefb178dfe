"""Rows were lost and a person went on: what is open is settled, and nothing is bought before the owner signs anew."""

import pytest
from msgspec.structs import replace

from depai_robot.charging import fact as ft
from depai_robot.charging import robot
from depai_robot.charging.effect import CallForHelp, SealPayment
from depai_robot.charging.message import Payment
from depai_robot.payment.x402 import RefundPayload
from test.builders import make_policy
from test.pretend import World


def accept(world: World, agent=None, **changes) -> None:
    values = {"rows_kept": 10, "rows_lost": 5, "policy_epoch": 1, "reason": "rows 11 to 15 are gone"}
    world.give(agent or world.robot, ft.JournalAccepted(world.at, **(values | changes)))


@pytest.fixture
def world() -> World:
    made = World()

    def record(name, effect):
        if name == "robot":
            made.robot.effects.append(effect)
        return [effect]

    made.distort = record
    return made


def new_vouchers(world: World) -> list[SealPayment]:
    """Wishes to sign that raise a ceiling: a refund names what was charged, and raises nothing."""
    return [
        effect
        for effect in world.robot.effects
        if isinstance(effect, SealPayment)
        and isinstance(effect.draft.body, Payment)
        and not isinstance(effect.draft.body.payload.payload, RefundPayload)
    ]


@pytest.mark.parametrize(
    "phase", ["QUOTING", "FUNDING", "APPROACHING", "PRESENTING", "CHARGING", "STOPPING", "SETTLING"]
)
def test_from_any_phase_it_ends_settled_and_buys_nothing_more(world, phase: str) -> None:
    world.run(lambda: bool(world.robot.state.offers), 5)
    world.request("s-1", 10_000)
    assert world.run(lambda: world.phase == phase, 600), world.story()
    accept(world)
    world.robot.effects.clear()
    world.crash(world.robot)
    assert world.run(lambda: world.phase in ("SETTLED", "IDLE"), 3000), world.story()
    assert new_vouchers(world) == []
    world.run(seconds=120)
    world.robot.effects.clear()
    for number in range(3):
        world.request(f"s-{number + 2}")
        world.run(seconds=30)
    assert world.phase in ("SETTLED", "IDLE")
    assert [
        type(effect) for effect in world.robot.effects if isinstance(effect, SealPayment | CallForHelp)
    ] == [CallForHelp] * 3
    assert (
        "expected one that the owner has signed since, of epoch 2 or later" in world.robot.effects[-1].message
    )


def test_a_kept_channel_is_closed_since_nobody_knows_what_was_signed_on_it(world) -> None:
    world.run_session("s-1", 1000)
    world.run(seconds=120)
    assert world.robot.state.channels
    accept(world)
    assert world.run(lambda: not world.robot.state.background, 9000), world.story()
    held = [world.chain.channel(bytes.fromhex(key)) for key in world.robot.state.channels]
    assert all(channel["balance"] == channel["claimed"] for channel in held), world.story()


@pytest.mark.parametrize(("given", "needed"), [(-1, 2), (1, 2), (7, 8)])
def test_the_owners_next_epoch_sets_it_free(world, given: int, needed: int) -> None:
    world.run(lambda: bool(world.robot.state.offers), 5)
    accept(world, policy_epoch=given)
    state = world.robot.state
    assert state.settle_only_epoch == needed - 1
    for epoch in (needed - 1, needed):
        settings = replace(state.settings, policy=make_policy(epoch=epoch))
        request = ft.ChargeRequested(world.at, "s-1", bytes(32), 1000, 0, 0, world.reading())
        after, effects = robot.step(replace(state, settings=settings), request)
        assert (after.session is not None) == (epoch == needed)
        assert any(isinstance(effect, CallForHelp) for effect in effects) == (epoch != needed)


def test_it_is_remembered_over_a_second_loss_with_a_lower_epoch(world) -> None:
    accept(world, policy_epoch=7)
    accept(world, policy_epoch=2)
    assert world.robot.state.settle_only_epoch == 7


def test_a_station_ends_what_is_open_and_sells_again(world) -> None:
    world.run(lambda: bool(world.robot.state.offers), 5)
    world.request("s-1", 10_000)
    assert world.run(lambda: world.phase == "CHARGING", 600), world.story()
    station = world.stations["a"]
    accept(world, station, policy_epoch=-1)
    world.crash(station)
    assert world.run(lambda: world.phase == "SETTLED", 3000), world.story()
    world.run(seconds=300)
    world.run_session("s-2", 1000)
    assert world.robot.state.session.money.vouchers > 0
