"""A station whose channel seems emptied looks again before it gives its claim up: forks, endpoints that lag or lie."""

from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from depai_robot.charging.fact import ChainFailed
from test.pretend import World

ENERGY_MILLIWH = 3000


@dataclass
class Liar:
    """Says for some looks, once the station settles, that the channel is empty."""

    world: World
    looks: int
    withdraw_at: int = 0
    seen: int = 0

    def __post_init__(self) -> None:
        self._read = self.world.read_channel
        self.world.read_channel = self.read

    def read(self, wish):
        fact = self._read(wish)
        (station,) = self.world.stations.values()
        session = next(iter(station.state.sessions.values()), None)
        if session is None or session.phase not in ("CLAIMING", "REFUNDING") or self.seen >= self.looks:
            return fact
        self.seen += 1
        return replace(fact, balance_atomic=0, withdraw_requested_at_s=self.withdraw_at)


@pytest.mark.parametrize("looks", [1, 3, 8])
def test_it_claims_what_it_earned_after_all(looks) -> None:
    world = World()
    liar = Liar(world, looks)
    world.run(lambda: len(world.robot.state.offers) == 1, 5)
    world.request("s-1", ENERGY_MILLIWH)
    assert world.run(lambda: world.phase == "SETTLED", 3000), world.story()
    assert liar.seen == looks
    (channel,) = (row for row in world.chain.channels.values() if row["balance"] or row["claimed"])
    assert channel["claimed"] == channel["settled"] == channel["balance"] > 2000


def test_it_gives_up_in_the_end_and_says_so() -> None:
    world = World()
    Liar(world, 10**6)
    (station,) = world.stations.values()
    world.run(lambda: len(world.robot.state.offers) == 1, 5)
    world.request("s-1", ENERGY_MILLIWH)

    def trouble() -> str:
        return next((item.trouble for item in station.state.sessions.values()), "")

    assert world.run(lambda: "looking again" in trouble(), 600), world.story()
    # Then the truth is out again, after all: it is claimed even so.
    assert world.run(lambda: station.state.sessions["s-1"].phase == "SETTLED", 600), world.story()
    (channel,) = world.chain.channels.values()
    assert channel["claimed"] == channel["settled"] > 2000


def test_a_withdrawal_that_is_pending_leaves_no_time_for_doubts() -> None:
    world = World()
    liar = Liar(world, 10**6, withdraw_at=1)
    (station,) = world.stations.values()
    world.run(lambda: len(world.robot.state.offers) == 1, 5)
    world.request("s-1", ENERGY_MILLIWH)
    assert world.run(lambda: liar.seen, 600), world.story()
    assert world.run(lambda: station.state.sessions["s-1"].phase in ("PAYING", "SETTLED"), 5), world.story()
    assert liar.seen == 1


@pytest.mark.parametrize("fails", [1, 3])
def test_a_read_that_fails_for_good_while_the_deposit_is_awaited_is_asked_again(fails) -> None:
    world = World()
    (station,) = world.stations.values()
    truth = world.read_channel
    left = [fails]

    def read(wish):
        session = next(iter(station.state.sessions.values()), None)
        if session is not None and session.phase == "FUNDING" and left[0] and wish.purpose in session.jobs:
            left[0] -= 1
            return ChainFailed(world.at, wish.purpose, True, "another chain")
        return truth(wish)

    world.read_channel = read
    world.run_session("s-1", ENERGY_MILLIWH, seconds=200)
    assert left == [0]
