"""Who asks for money back is seen for all channels at once, in memory and on a real EVM alike.

Source: reference list of what the real contract showed: vouchers during a pending withdrawal must be refused and what
is due claimed at once, so a station watches for WithdrawInitiated.
"""

import pytest

from depai_robot.adapters import web3_chain
from depai_robot.adapters.web3_chain import Web3Chain
from depai_robot.sim.rpc_proxy import RpcProxy
from test.chain_world import AnvilWorld, MemoryWorld, Party, network_of, send, signer

ESCROW = 10_000


@pytest.fixture(scope="module")
def anvil_world(tmp_path_factory):
    world = AnvilWorld(tmp_path_factory.mktemp("anvil"))
    yield world
    world.close()


@pytest.fixture(params=["memory", "anvil"])
def world(request):
    return MemoryWorld() if request.param == "memory" else request.getfixturevalue("anvil_world")


def open_channels(world, count):
    receiver = signer("receiver")
    world.fund(receiver.address)
    chain = world.chain(receiver)
    parties = []
    for _ in range(count):
        party = Party(receiver=receiver)
        world.fund(party.payer.address, ESCROW)
        world.fund(party.voucher_key.address)
        send(chain, party.deposit(ESCROW))
        parties.append(party)
    return chain, parties


def test_withdrawals_are_seen_once_asked_for(world):
    chain, (one, two, other) = open_channels(world, 3)
    ids = (one.id, two.id)
    first = chain.withdrawals(ids, 0)
    assert (first.channel_ids, first.until_block) == (frozenset(), chain.head().number)
    send(world.chain(two.voucher_key), two.initiate(5))
    send(world.chain(other.payer), other.initiate(5))
    seen = chain.withdrawals(ids, first.until_block)
    assert seen.channel_ids == {two.id}
    assert seen.until_block == chain.head().number
    assert chain.withdrawals((), first.until_block).channel_ids == frozenset()
    assert chain.withdrawals(ids, 0).channel_ids == {two.id}


def test_a_watcher_that_was_away_for_long_misses_none(world, monkeypatch):
    monkeypatch.setattr(web3_chain, "LOG_BLOCKS_MAX", 4)
    monkeypatch.setattr(web3_chain, "LOG_QUESTIONS_MAX", 10)
    chain, parties = open_channels(world, 3)
    ids = tuple(party.id for party in parties)
    before = chain.withdrawals(ids, 0).until_block
    send(world.chain(parties[1].payer), parties[1].initiate(1))
    world.mine(11)
    assert chain.withdrawals(ids, before).channel_ids == {parties[1].id}
    world.mine(60)
    assert chain.withdrawals(ids, before).channel_ids == {parties[1].id}


def test_one_that_is_moved_to_another_block_is_seen_again(world):
    chain, (party,) = open_channels(world, 1)
    send(world.chain(party.payer), party.initiate(1))
    head = chain.head().number
    # The blocks below are looked at again; memory's are not replaced here.
    if world.name == "anvil":
        assert chain.withdrawals((party.id,), head).channel_ids == {party.id}
        assert chain.withdrawals((party.id,), head + 5).channel_ids == {party.id}


def test_many_channels_cost_one_question(anvil_world):
    chain, (party,) = open_channels(anvil_world, 1)
    send(anvil_world.chain(party.payer), party.initiate(1))
    proxy = RpcProxy(anvil_world.anvil.url)
    try:
        chain = Web3Chain(network_of(proxy.url))
        head = chain.head().number
        proxy.asked.clear()
        ids = (party.id, *(number.to_bytes(32, "big") for number in range(1, 300)))
        assert chain.withdrawals(ids, head).channel_ids == {party.id}
        assert proxy.asked == ["eth_blockNumber", "eth_getLogs"]
    finally:
        proxy.stop()


@pytest.mark.parametrize(
    "lie",
    [
        {"error": {"code": -32601, "message": "the method eth_getLogs does not exist"}},
        {"error": {"code": -32005, "message": "query returned more than 10000 results"}},
    ],
)
def test_an_endpoint_without_logs_is_asked_for_each_state(anvil_world, lie):
    chain, (one, two) = open_channels(anvil_world, 2)
    send(anvil_world.chain(two.payer), two.initiate(1))
    proxy = RpcProxy(anvil_world.anvil.url)
    proxy.lie("eth_getLogs", lie)
    try:
        chain = Web3Chain(network_of(proxy.url))
        assert chain.withdrawals((one.id, two.id), chain.head().number).channel_ids == {two.id}
        assert "eth_getLogs" in proxy.asked
    finally:
        proxy.stop()
