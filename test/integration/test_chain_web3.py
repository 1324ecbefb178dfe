"""The chain adapter against endpoints that fail, lag, lie or talk nonsense, in front of a real EVM."""

import socket
import time
from dataclasses import replace

import pytest

from depai_robot.adapters import chain_account
from depai_robot.adapters.anvil import fund
from depai_robot.adapters.web3_chain import Web3Chain
from depai_robot.payment import eip712
from depai_robot.ports import TransactionStatus
from depai_robot.sim.rpc_proxy import RpcProxy
from depai_robot.values.error import BugError, ConfigError, FinalChainError, RetryableChainError
from test.chain_world import AnvilWorld, Party, network_of, send, settled, start_chain


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = AnvilWorld(tmp_path_factory.mktemp("anvil"))
    yield world
    world.close()


@pytest.fixture
def endpoint(world):
    opened = []

    def make(**answers):
        opened.append(RpcProxy(world.anvil.url))
        for method, answer in answers.items():
            opened[-1].lie(method, answer)
        return opened[-1]

    yield make
    for item in opened:
        item.stop()


@pytest.fixture
def dead_url():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{probe.getsockname()[1]}/v2/secret-access-key"


def funded(world):
    party = Party()
    world.fund(party.payer.address, 10_000)
    world.fund(party.receiver.address)
    return party


# --- pins ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chain_id": 1337}, "is on chain 31337, expected 1337"),
        ({"settlement_code_hash": b"\1" * 32}, "settlement 0x4020.* has code hash .* pinned is 0x0101"),
        ({"collector_code_hash": b"\1" * 32}, "collector 0x4020.* has code hash"),
        ({"settlement": b"\5" * 20}, "settlement 0x0505.*no contract there"),
        ({"token_name": "USD Coin"}, "name 'USD Coin' version '2' give"),
        ({"token_version": "1"}, "name 'USDC' version '1' give"),
        ({"token": b"\5" * 20}, "token 0x0505.* no domain separator.*no contract there"),
        ({"token": eip712.DEPOSIT_COLLECTOR}, "token 0x4020.* no domain separator"),
    ],
)
def test_whatever_is_not_the_pinned_one_is_refused(world, changes, message):
    chain = Web3Chain(network_of(world.anvil.url, **changes))
    with pytest.raises(FinalChainError, match=message):
        chain.check_pins()
    # Nor is it read from, whether or not somebody checked first.
    with pytest.raises(RetryableChainError, match="no RPC endpoint answers"):
        chain.head()


@pytest.mark.parametrize("name", ["settlement_code_hash", "collector_code_hash"])
def test_a_contract_that_nobody_pinned_is_a_configuration_error(name):
    with pytest.raises(ConfigError, match=f"{name} must be pinned"):
        network_of("http://127.0.0.1:1", **{name: b""})


@pytest.mark.parametrize("urls", [(), ("ws://127.0.0.1:1",), ("http://a", "file:///etc/passwd")])
def test_endpoints_are_http(urls):
    with pytest.raises(ConfigError, match="rpc_urls (must be|names no RPC).* http"):
        network_of(*urls)


def test_one_endpoint_of_another_chain_fails_the_pins_and_is_never_read(world, endpoint):
    other = endpoint(eth_chainId={"result": "0x1"}, eth_getBlockByNumber={"result": {"number": "0x99"}})
    chain = Web3Chain(network_of(other.url, world.anvil.url))
    with pytest.raises(FinalChainError, match="on chain 1, expected 31337"):
        chain.check_pins()
    assert chain.head().number < 0x99
    assert "eth_getBlockByNumber" not in other.asked


# --- failing over --------------------------------------------------------------------------------------------


def test_a_dead_endpoint_is_passed_over(world, dead_url):
    chain = Web3Chain(network_of(dead_url, world.anvil.url))
    chain.check_pins()
    party = funded(world)
    chain = Web3Chain(network_of(dead_url, world.anvil.url), party.receiver)
    assert [name for name, _ in send(chain, party.deposit(5))] == ["ChannelCreated", "Deposited"]
    assert chain.channel(party.id, 1).balance_atomic == 5


def test_no_endpoint_at_all_and_no_access_key_in_the_message(dead_url):
    chain = Web3Chain(network_of(dead_url))
    for ask in (chain.check_pins, chain.head, lambda: chain.outcome(bytes(32), 1)):
        with pytest.raises(RetryableChainError, match="no RPC endpoint answers: 127.0.0.1") as failure:
            ask()
        assert "secret-access-key" not in str(failure.value)


NONSENSE = {
    "not JSON": b"<html>busy</html>",
    "empty": b"",
    "null": {"result": None},
    "a number": {"result": 7},
    "a list": {"result": [1, 2]},
    "no hex": {"result": "zz"},
    "an error": {"error": {"code": -32005, "message": "limit exceeded"}},
    "an odd error": {"error": "no"},
    "a short word": {"result": "0x01"},
}


@pytest.mark.parametrize(
    ("method", "what"),
    [("everything", what) for what in NONSENSE]
    + [
        (method, what)
        for method in ("eth_getBlockByNumber", "eth_call", "eth_getTransactionReceipt")
        for what in ("null", "a number", "a short word")
    ],
)
def test_nonsense_is_no_answer_and_the_next_endpoint_serves(world, endpoint, method, what):
    party = funded(world)
    bad = endpoint(**{method: NONSENSE[what]})
    chain = Web3Chain(network_of(bad.url, world.anvil.url), party.receiver)
    assert chain.head().number >= 0
    assert chain.token_balance(party.payer.address) == 10_000
    assert chain.outcome(b"\1" * 32, 1).status is TransactionStatus.UNKNOWN
    alone = Web3Chain(network_of(bad.url))
    asked = {"eth_call": lambda: alone.channel(party.id, 1), "eth_getBlockByNumber": alone.head}
    if method in asked:
        with pytest.raises(RetryableChainError, match=r"no RPC endpoint answers"):
            asked[method]()


def test_a_stalled_endpoint_costs_one_time_out(world, endpoint):
    slow = endpoint(eth_chainId=lambda _: time.sleep(1.0))
    chain = Web3Chain(network_of(slow.url, world.anvil.url, rpc_timeout_s=0.3))
    begin = time.monotonic()
    chain.head()
    assert slow.asked == ["eth_chainId"]
    assert time.monotonic() - begin < 5


def test_a_transaction_that_one_endpoint_does_not_know_is_looked_for_at_the_next(world, endpoint):
    party = funded(world)
    lagging = endpoint(eth_getTransactionReceipt={"result": None}, eth_getTransactionByHash={"result": None})
    chain = Web3Chain(network_of(lagging.url, world.anvil.url), party.receiver)
    transaction = chain.prepare(party.deposit(5))
    chain.broadcast(transaction)
    assert settled(chain, transaction.tx_hash).status is TransactionStatus.CONFIRMED


def test_an_answer_makes_nobody_fetch_an_address(world, endpoint):
    """An offchain lookup (EIP-3668) would make the client fetch what the endpoint names."""
    data = "0x556f1830" + "00" * 12 + "40" * 20 + "00" * 160
    trap = endpoint(eth_call={"error": {"code": 3, "message": "execution reverted", "data": data}})
    chain = Web3Chain(network_of(trap.url))
    with pytest.raises((RetryableChainError, FinalChainError)):
        chain.head()


# --- transactions --------------------------------------------------------------------------------------------


def test_a_lying_endpoint_cant_burn_the_accounts_gas_money(world, endpoint):
    party = funded(world)
    liar = endpoint(eth_maxPriorityFeePerGas={"result": hex(10**15)})
    chain = Web3Chain(network_of(liar.url), party.receiver)
    with pytest.raises(RetryableChainError, match="gas would cost up to"):
        chain.prepare(party.deposit(5))


def test_an_account_without_gas_money(world):
    party = Party()
    world.fund(party.payer.address, 100)
    chain = world.chain(party.receiver)
    with pytest.raises(RetryableChainError, match=r"(?i)insufficient funds"):
        send(chain, party.deposit(5))


def test_a_nonce_that_was_used_by_another_transaction_is_final(world):
    party = funded(world)
    one, two = (Web3Chain(world.network, party.receiver) for _ in range(2))
    first, second = one.prepare(party.deposit(5)), two.prepare(party.deposit(6, salt=2))
    assert first.nonce == second.nonce
    one.broadcast(first)
    settled(one, first.tx_hash)
    with pytest.raises(FinalChainError, match=f"nonce {first.nonce} of 0x.* was used by another transaction"):
        two.broadcast(second)
    one.broadcast(first)


def test_prepared_transactions_get_their_own_nonces_and_what_was_never_sent_leaves_no_gap(world, monkeypatch):
    party = funded(world)
    chain = Web3Chain(world.network, party.receiver)
    lost, second = chain.prepare(party.deposit(5)), chain.prepare(party.deposit(6, salt=2))
    assert second.nonce == lost.nonce + 1
    chain.broadcast(second)
    assert chain.outcome(second.tx_hash, 1).status is TransactionStatus.PENDING
    monkeypatch.setattr(chain_account, "UNSENT_NONCE_S", 0.0)
    third = chain.prepare(party.deposit(7, salt=3))
    assert third.nonce == lost.nonce
    chain.broadcast(third)
    for transaction in (second, third):
        assert settled(chain, transaction.tx_hash).status is TransactionStatus.CONFIRMED
    assert chain.channel(party.id, 1).balance_atomic == 13


def test_a_restarted_process_sends_the_same_bytes(world):
    party = funded(world)
    transaction = Web3Chain(world.network, party.receiver).prepare(party.deposit(5))
    restarted = Web3Chain(world.network, party.receiver)
    restarted.broadcast(transaction)
    settled(restarted, transaction.tx_hash)
    restarted.broadcast(transaction)
    assert restarted.channel(party.id, 1).balance_atomic == 5


def test_bytes_that_were_altered_are_our_own_bug(world):
    party = funded(world)
    chain = world.chain(party.receiver)
    good = chain.prepare(party.deposit(5))
    with pytest.raises(BugError, match="do not hash to"):
        chain.broadcast(replace(good, raw=good.raw + b"\0"))
    with pytest.raises(BugError, match="no signed transaction"):
        chain.broadcast(replace(good, raw=b"\2\xc0", tx_hash=eip712.keccak256(b"\2\xc0")))


def test_a_chain_killed_and_started_again_on_its_state(tmp_path):
    state = tmp_path / "state.json"
    anvil = start_chain(tmp_path / "one", state=state)
    try:
        party = Party()
        fund(anvil.url, party.payer.address, usdc_atomic=100)
        fund(anvil.url, party.receiver.address)
        send(Web3Chain(network_of(anvil.url), party.receiver), party.deposit(5))
    finally:
        anvil.stop()
    anvil = start_chain(tmp_path / "two", state=state)
    try:
        chain = Web3Chain(network_of(anvil.url))
        chain.check_pins()
        assert chain.channel(party.id, 1).balance_atomic == 5
    finally:
        anvil.stop()
