"""Whole sessions on the real USDC code, with the issuer in the way: clear words, nothing lost, paid in the end."""

import pytest
from msgspec.structs import replace

from depai_robot.app.config import ChainPart, read_network
from depai_robot.payment.receipt import parse_receipt
from depai_robot.sim.memory_broker import MemoryExchange
from depai_robot.values.identity import address_to_hex
from test.app_world import ROBOT, AppWorld, robot_key, station_key, until
from test.usdc_token import UsdcWorld

FUNDS = 10_000_000


@pytest.fixture
def chain_world(tmp_path):
    world = UsdcWorld(tmp_path / "anvil")
    world.fund(robot_key(ROBOT, "payer").address, FUNDS)
    world.fund(station_key("a", "receiver").address)
    yield world
    world.close()


@pytest.fixture
def world(chain_world, tmp_path):
    network = read_network(ChainPart(network="development"), tmp_path / "none.yaml").network()
    exchange = MemoryExchange()
    world = AppWorld(
        tmp_path,
        replace(network, token=chain_world.token.address),
        lambda client_id, will: exchange.client(client_id, will=(will, b"", True) if will else None),
        chain_world.chain,
        station_changes={"a": {"chain_retry_ms": 500}},
        robot_changes={"chain_retry_ms": 1000},
    )
    yield world
    world.close()
    exchange.close()


def ask(world, session="session-1"):
    wallet = world.wallet or world.start_wallet()
    wallet.request_charge(1500, session)
    return wallet


def receipt_of(world, session="session-1"):
    path = world.folder / f"receipt-{session}.json"
    until(path.exists, "the receipt", 60)
    return parse_receipt(path.read_bytes())


def test_a_session_on_the_real_token(world, chain_world) -> None:
    ask(world)
    receipt = receipt_of(world)
    assert receipt.claimed_atomic == receipt.owed_atomic > 0
    chain = chain_world.chain()
    until(
        lambda: chain.token_balance(station_key("a", "receiver").address) == receipt.claimed_atomic,
        "the station is paid",
    )
    assert chain.token_balance(robot_key(ROBOT, "payer").address) == FUNDS - receipt.claimed_atomic


def test_a_token_paused_while_energy_flows(world, chain_world) -> None:
    """Energy is paid by vouchers, so the session goes on; refund and payout wait until it is unpaused."""
    wallet = ask(world)
    until(lambda: wallet.phase == "CHARGING", "charging", 60)
    chain_world.token.do("pause")
    station = world.stations["a"]
    until(
        lambda: (session := station.state.sessions.get("session-1")) and "paused" in session.trouble,
        "the station says what is wrong",
        60,
    )
    assert "Pausable: paused" in station.state.sessions["session-1"].trouble
    assert station.failure is None
    assert wallet.failure is None
    chain_world.token.do("unpause")
    receipt = receipt_of(world)
    chain = chain_world.chain()
    payer, receiver = robot_key(ROBOT, "payer").address, station_key("a", "receiver").address
    until(
        lambda: chain.token_balance(payer) + chain.token_balance(receiver) == FUNDS,
        "nothing is left on the way",
        60,
    )
    assert chain.token_balance(receiver) == receipt.owed_atomic > 0


def test_a_blacklisted_payer_gets_no_energy_and_loses_nothing(world, chain_world) -> None:
    payer = robot_key(ROBOT, "payer").address
    chain_world.token.do("blacklist", address_to_hex(payer))
    wallet = ask(world)
    # What was signed could still be sent by anybody: the robot waits until it has lapsed by the chain's clock.
    until(lambda: wallet.phase == "SETTLING", "it gives up", 60)
    assert wallet.state.session.stop.detail.endswith("deposit_transaction_failed")
    chain_world.advance(400)
    until(lambda: wallet.phase == "SETTLED", "the authorization has lapsed", 60)
    station = world.stations["a"].state
    assert all(session.delivered_milliwh == 0 for session in station.sessions.values())
    assert chain_world.chain().token_balance(payer) == FUNDS
