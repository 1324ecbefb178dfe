"""The proxy that fails and lies between a program and its chain: what it is told, and nothing else."""

import pytest
import requests

from depai_robot.adapters.anvil import call_rpc
from depai_robot.sim.rpc_proxy import RpcProxy
from depai_robot.values.error import DeviceFailedError
from test.chain_world import start_chain


@pytest.fixture(scope="module")
def anvil(tmp_path_factory):
    process = start_chain(tmp_path_factory.mktemp("anvil"))
    yield process
    process.stop()


@pytest.fixture
def proxy(anvil):
    proxy = RpcProxy(anvil.url)
    yield proxy
    proxy.stop()


def test_it_forwards(anvil, proxy):
    assert call_rpc(proxy.url, "eth_chainId", []) == "0x7a69"
    assert call_rpc(proxy.url, "eth_blockNumber", []) == anvil.rpc("eth_blockNumber")
    with pytest.raises(DeviceFailedError, match="Method not found"):
        call_rpc(proxy.url, "no_such", [])


def test_lies_are_told_until_it_is_healed(proxy):
    proxy.lie("eth_chainId", {"result": "0x1"})
    proxy.lie("eth_gasPrice", lambda question: {"result": question["method"]})
    assert call_rpc(proxy.url, "eth_chainId", []) == "0x1"
    assert call_rpc(proxy.url, "eth_gasPrice", []) == "eth_gasPrice"
    assert proxy.asked == ["eth_chainId", "eth_gasPrice"]
    proxy.heal()
    assert call_rpc(proxy.url, "eth_chainId", []) == "0x7a69"


def test_a_frozen_one_knows_nothing_that_came_later(anvil, proxy):
    sender = anvil.rpc("eth_accounts")[0]
    anvil.rpc("anvil_mine", "0x2")
    proxy.freeze()
    before = anvil.rpc("eth_blockNumber")
    balance = call_rpc(proxy.url, "eth_getBalance", [sender, "latest"])
    tx_hash = anvil.rpc("eth_sendTransaction", {"from": sender, "to": "0x" + "33" * 20, "value": "0x5"})
    assert call_rpc(proxy.url, "eth_blockNumber", []) == before
    assert call_rpc(proxy.url, "eth_getBlockByNumber", ["latest", False])["number"] == before
    assert call_rpc(proxy.url, "eth_getBalance", [sender, "latest"]) == balance
    assert call_rpc(proxy.url, "eth_getTransactionReceipt", [tx_hash]) is None
    proxy.heal()
    assert call_rpc(proxy.url, "eth_getTransactionReceipt", [tx_hash])["status"] == "0x1"


def test_a_forged_receipt_is_of_that_transaction_only(anvil, proxy):
    proxy.forge_receipt(b"\7" * 32, to="0x" + "22" * 20)
    receipt = call_rpc(proxy.url, "eth_getTransactionReceipt", ["0x" + "07" * 32])
    assert (receipt["status"], receipt["logs"]) == ("0x1", [])
    assert receipt["blockNumber"] == anvil.rpc("eth_blockNumber")
    assert call_rpc(proxy.url, "eth_getTransactionReceipt", ["0x" + "08" * 32]) is None


def test_swallowed_transactions_are_nowhere(anvil, proxy):
    proxy.swallow()
    tx_hash = call_rpc(proxy.url, "eth_sendRawTransaction", ["0x02aabb"])
    assert len(tx_hash) == 66
    assert anvil.rpc("eth_getTransactionByHash", tx_hash) is None


def test_stalled_cut_and_gone(proxy):
    question = {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}
    proxy.stall()
    with pytest.raises(requests.Timeout):
        requests.post(proxy.url, json=question, timeout=0.2)
    proxy.heal()
    proxy.cut()
    with pytest.raises(requests.ConnectionError):
        requests.post(proxy.url, json=question, timeout=5)
    proxy.heal()
    url = proxy.url
    proxy.stop()
    with pytest.raises(requests.ConnectionError):
        requests.post(url, json=question, timeout=5)
    proxy.start()
    assert proxy.url == url
    assert call_rpc(url, "eth_chainId", []) == "0x7a69"
