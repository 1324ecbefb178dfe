"""Endpoints that stall, lag, lie and contradict each other, in front of a real EVM: whom the chain adapter believes."""

import time

import pytest

from depai_robot.adapters import rpc_pool
from depai_robot.adapters.web3_chain import Web3Chain
from depai_robot.ports import TransactionStatus
from depai_robot.sim.rpc_proxy import RpcProxy
from depai_robot.values.error import ConfigError, FinalChainError, RetryableChainError
from depai_robot.values.identity import address_to_hex, keccak256
from test.chain_world import AnvilWorld, Party, network_of, send, settled

ESCROW = 10_000
STALL_S = 1.0


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = AnvilWorld(tmp_path_factory.mktemp("anvil"))
    yield world
    world.close()


@pytest.fixture
def proxies(world):
    made = [RpcProxy(world.anvil.url) for _ in range(3)]
    yield made
    for proxy in made:
        proxy.stop()


@pytest.fixture
def party(world):
    party = Party()
    world.fund(party.payer.address, 10 * ESCROW)
    world.fund(party.receiver.address)
    return party


def open_chain(proxies, party=None, **changes):
    network = network_of(*(proxy.url for proxy in proxies), **({"rpc_timeout_s": STALL_S} | changes))
    return Web3Chain(network, None if party is None else party.receiver)


def word(number):
    return {"result": "0x" + number.to_bytes(32, "big").hex()}


# --- health and the way back ---------------------------------------------------------------------------------


def test_a_stalled_endpoint_costs_one_time_out_and_is_asked_again_when_it_is_well(proxies, monkeypatch):
    monkeypatch.setattr(rpc_pool, "REST_S_MAX", 0.5)
    monkeypatch.setattr(rpc_pool, "REST_S", 0.5)
    first, second, _ = proxies
    chain = open_chain(proxies[:2])
    chain.head()
    assert second.asked.count("eth_getBlockByNumber") == 0
    first.stall()
    begin_s = time.monotonic()
    for _ in range(20):
        chain.head()
    assert time.monotonic() - begin_s < 20 * STALL_S / 4
    assert second.asked.count("eth_getBlockByNumber") == 20
    first.heal()
    time.sleep(0.6)
    asked = second.asked.count("eth_getBlockByNumber")
    chain.head()
    assert second.asked.count("eth_getBlockByNumber") == asked, "the first is preferred again"


@pytest.mark.parametrize("fault", ["stop", "cut", "stall"])
def test_each_way_of_being_away_while_money_moves(world, proxies, party, fault):
    chain = open_chain(proxies[:2], party)
    getattr(proxies[0], fault)()
    assert [name for name, _ in send(chain, party.deposit(ESCROW))] == ["ChannelCreated", "Deposited"]
    assert chain.channel(party.id, 1).balance_atomic == ESCROW


def test_all_away_and_back(proxies):
    chain = open_chain(proxies[:2])
    for proxy in proxies[:2]:
        proxy.stop()
    with pytest.raises(RetryableChainError, match="no RPC endpoint answers"):
        chain.head()
    for proxy in proxies[:2]:
        proxy.start()
    # Those that rest are asked when nobody else is there: one answer back is enough.
    assert chain.head().number >= 0


def test_one_that_is_behind_is_asked_last(world, proxies, party, monkeypatch):
    monkeypatch.setattr(rpc_pool, "LOOK_S", 0.0)
    first, second, _ = proxies
    chain = open_chain(proxies[:2], party)
    first.freeze()
    world.mine(10)
    send(chain, party.deposit(5))
    assert chain.channel(party.id, 1).balance_atomic == 5
    assert chain.head().number == world.chain().head().number
    first.heal()
    asked = second.asked.count("eth_getBlockByNumber")
    chain.head()
    assert second.asked.count("eth_getBlockByNumber") == asked


def test_a_little_behind_for_long_is_stale_too(world, proxies, monkeypatch):
    monkeypatch.setattr(rpc_pool, "LOOK_S", 0.0)
    monkeypatch.setattr(rpc_pool, "LAG_S_MAX", 0.1)
    proxies[0].freeze()
    world.mine(1)
    chain = open_chain(proxies[:2])
    chain.head()
    time.sleep(0.2)
    assert chain.head().number == world.chain().head().number


def test_one_of_three_that_claims_to_be_far_ahead_makes_the_others_no_worse(world, proxies, monkeypatch):
    monkeypatch.setattr(rpc_pool, "LOOK_S", 0.0)
    proxies[2].lie("eth_blockNumber", {"result": hex(10**9)})
    chain = open_chain(proxies)
    assert chain.head() == world.chain().head()
    agreeing = open_chain(proxies, agree=2)
    assert agreeing.head() == world.chain().head()


def test_an_endpoint_that_changes_its_chain_is_found_when_it_comes_back(proxies, monkeypatch):
    monkeypatch.setattr(rpc_pool, "REST_S", 0.0)
    first, second, _ = proxies
    chain = open_chain(proxies[:2])
    chain.head()
    first.cut()
    chain.head()
    first.heal()
    first.lie("eth_chainId", {"result": "0x1"})
    first.lie("eth_getBlockByNumber", {"result": {"number": "0x99"}})
    assert chain.head().number < 0x99
    monkeypatch.setattr(rpc_pool, "CHECK_S", -1.0)
    second.lie("eth_getCode", {"result": "0x60"})
    with pytest.raises(RetryableChainError, match=r"on chain 1.*has code hash|has code hash.*on chain 1"):
        chain.head()


def test_pins_are_checked_at_each_endpoint(proxies):
    proxies[1].lie("eth_getCode", {"result": "0x6001"})
    with pytest.raises(FinalChainError, match="has code hash"):
        open_chain(proxies).check_pins()


# --- lies, when several must agree ---------------------------------------------------------------------------


def test_more_must_agree_than_there_are(proxies):
    with pytest.raises(ConfigError, match="agree is 2, expected 1 to 1"):
        network_of(proxies[0].url, agree=2)
    with pytest.raises(ConfigError, match="names an endpoint twice"):
        network_of(proxies[0].url, proxies[0].url, agree=2)


def deep_lie(proxy, balance):
    """Says of every channel that so much is in it, and is honest about the rest."""
    selector = "0x" + keccak256(b"channels(bytes32)")[:4].hex()

    def answer(question):
        data = question["params"][0].get("data") or question["params"][0].get("input")
        if not data.startswith(selector):
            return None
        return {"result": "0x" + balance.to_bytes(32, "big").hex() + bytes(32).hex()}

    proxy.lie("eth_call", answer)


def test_a_balance_that_another_endpoint_contradicts_is_unknown(proxies, party):
    deep_lie(proxies[0], ESCROW)
    believing = open_chain(proxies[:2])
    assert believing.channel(party.id, 1).balance_atomic == ESCROW, "with agree: 1 the first is believed"
    with pytest.raises(RetryableChainError, match="disagree, so it is unknown"):
        open_chain(proxies[:2], agree=2).channel(party.id, 1)


def test_two_of_three_outvote_a_liar(proxies, party):
    deep_lie(proxies[0], ESCROW)
    chain = open_chain(proxies, agree=2)
    assert chain.channel(party.id, 1).balance_atomic == 0
    deep_lie(proxies[1], ESCROW - 1)
    with pytest.raises(RetryableChainError, match="disagree"):
        open_chain(proxies, agree=2).channel(party.id, 1)


def test_too_few_answer(proxies, party):
    proxies[1].stop()
    chain = open_chain(proxies[:2], agree=2)
    with pytest.raises(RetryableChainError, match="1 RPC endpoints .*, 2 must"):
        chain.channel(party.id, 1)
    with pytest.raises(RetryableChainError, match="2 must"):
        chain.outcome(bytes(32), 1)
    proxies[1].start()
    assert chain.channel(party.id, 1).balance_atomic == 0


def test_balance_and_authorization_need_agreement(proxies, party):
    chain = open_chain(proxies[:2], agree=2)
    assert chain.token_balance(party.payer.address) == 10 * ESCROW
    assert not chain.authorization_used(party.payer.address, bytes(32))
    proxies[1].lie("eth_call", word(1))
    for ask in (
        lambda: chain.token_balance(party.payer.address),
        lambda: chain.authorization_used(party.payer.address, bytes(32)),
    ):
        with pytest.raises(RetryableChainError, match="disagree"):
            ask()


def test_a_fork_is_no_agreement(proxies, party):
    """The same state on blocks with other hashes: one of them will be undone."""
    chain = open_chain(proxies[:2], agree=2)
    chain.channel(party.id, 1)

    def fork(question):
        block = proxies[1]._forward_call("eth_getBlockByNumber", question["params"])
        return {"result": block | {"hash": "0x" + "13" * 32}}

    proxies[1].lie("eth_getBlockByNumber", fork)
    for ask in (chain.head, lambda: chain.channel(party.id, 1)):
        with pytest.raises(RetryableChainError, match="disagree"):
            ask()


def test_agreeing_endpoints_do_everything(world, proxies, party):
    chain = open_chain(proxies, party, agree=3)
    chain.check_pins()
    assert [name for name, _ in send(chain, party.deposit(ESCROW))] == ["ChannelCreated", "Deposited"]
    assert send(chain, party.claim(3000)) == [("Claimed", 3000)]
    state = chain.channel(party.id, 1)
    assert (state.balance_atomic, state.total_claimed_atomic) == (ESCROW, 3000)
    assert chain.withdrawals((party.id,), 0).channel_ids == frozenset()
    world.fund(party.payer.address)
    send(world.chain(party.payer), party.initiate(5))
    assert chain.withdrawals((party.id,), 0).channel_ids == {party.id}
    chain.tend()


# --- receipts ------------------------------------------------------------------------------------------------


def forge(proxy, party, tx_hash, status=1):
    proxy.forge_receipt(tx_hash, to=address_to_hex(party.config.token), status=status)


def test_a_receipt_that_only_one_has_confirms_nothing(world, proxies, party):
    chain = open_chain(proxies, party, agree=2)
    transaction = chain.prepare(party.deposit(5))
    for status in (1, 0):
        forge(proxies[0], party, transaction.tx_hash, status)
        assert chain.outcome(transaction.tx_hash, 1).status is TransactionStatus.PENDING
    chain.broadcast(transaction)
    outcome = settled(chain, transaction.tx_hash)
    assert outcome.status is TransactionStatus.CONFIRMED
    assert [event.name for event in outcome.events] == ["ChannelCreated", "Deposited"]


def test_contradicting_receipts_confirm_nothing_whatever_must_agree(proxies, party):
    """With agree: 1, too: one says that it reverted, the other that it did not."""
    chain = open_chain(proxies[:2], party)
    transaction = chain.prepare(party.deposit(5))
    chain.broadcast(transaction)
    forge(proxies[0], party, transaction.tx_hash, status=0)
    assert chain.outcome(transaction.tx_hash, 1).status is TransactionStatus.PENDING


def test_a_success_without_its_event_has_no_events(proxies, party):
    """status 1 alone moves nothing: the machines go by the events and then read the channel."""
    chain = open_chain(proxies[:1], party)
    forge(proxies[0], party, b"\7" * 32)
    outcome = chain.outcome(b"\7" * 32, 1)
    assert (outcome.status, outcome.events) == (TransactionStatus.CONFIRMED, ())
    assert chain.channel(party.id, 1).balance_atomic == 0


def test_a_receipt_of_another_transaction_is_nonsense(proxies, party):
    chain = open_chain(proxies[:1], party)
    forge(proxies[0], party, b"\7" * 32)
    other = proxies[0]._lies["eth_getTransactionReceipt"]
    proxies[0].lie(
        "eth_getTransactionReceipt", lambda question: other({**question, "params": ["0x" + "07" * 32]})
    )
    with pytest.raises(RetryableChainError, match="a receipt of 0x0707"):
        chain.outcome(b"\x08" * 32, 1)


def test_a_made_up_revert_blames_nobody(proxies, party):
    """An endpoint that says of every claim that it reverts would get honest payers barred."""
    honest = open_chain(proxies[1:], party, agree=2)
    send(honest, party.deposit(ESCROW))
    proxies[0].lie(
        "eth_estimateGas",
        {"error": {"code": 3, "message": "execution reverted: InvalidSignature", "data": "0x8baa579f"}},
    )
    assert open_chain(proxies, party, agree=2).simulate(party.claim(1)) > 21_000
    with pytest.raises(RetryableChainError, match="disagree"):
        open_chain(proxies[:2], party, agree=2).simulate(party.claim(1))
    with pytest.raises(FinalChainError, match="ClaimExceedsBalance"):
        honest.simulate(party.claim(ESCROW + 1))
