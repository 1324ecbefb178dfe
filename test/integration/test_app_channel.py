"""Channels across sessions on a real EVM: kept, claimed late, closed by wish, withdrawn by command."""

import json

import pytest
from click.testing import CliRunner

from depai_robot.adapters.web3_chain import Web3Chain
from depai_robot.app.channel import CLOSE_PREFIX, take_close_intents
from depai_robot.app.config import ChainPart, read_network
from depai_robot.cli.main import cli
from depai_robot.payment.receipt import Receipt, parse_receipt
from depai_robot.sim.memory_broker import MemoryExchange
from test.app_world import ROBOT, AppWorld, robot_key, station_key, until
from test.chain_world import AnvilWorld

FUNDS = 10_000_000
KEEPS = {"reuse_fee_atomic": 300, "claim_interval_ms": 86_400_000, "claim_at_atomic": 10**9}


@pytest.fixture
def world(tmp_path):
    network = read_network(ChainPart(network="development"), tmp_path / "none.yaml").network()
    anvil = AnvilWorld(tmp_path / "anvil")
    exchange = MemoryExchange()
    anvil.fund(robot_key(ROBOT, "payer").address, FUNDS)
    anvil.fund(station_key("a", "receiver").address)
    world = AppWorld(
        tmp_path,
        network,
        lambda client_id, will: exchange.client(client_id, will=(will, b"", True) if will else None),
        lambda signer: Web3Chain(anvil.network, signer),
        station_changes={"a": KEEPS},
        robot_changes={"keep_max_atomic": 50_000},
    )
    world.anvil = anvil
    yield world
    world.close()
    exchange.close()
    anvil.close()


def buy(world: AppWorld, session: str, energy_milliwh: int, stop_after_milliwh: int = 10**9) -> Receipt:
    wallet = world.wallet or world.start_wallet()
    wallet.request_charge(energy_milliwh, session)

    def settled() -> bool:
        assert wallet.failure is None, wallet.failure
        state = wallet.state.session
        if state is not None and state.id == session and state.phase == "CHARGING":
            if state.meter.own_last_milliwh >= stop_after_milliwh:
                wallet.stop_charging("enough")
        return state is not None and state.id == session and state.phase == "SETTLED"

    until(settled, f"{session} is settled", 60)
    path = world.folder / f"receipt-{session}.json"
    until(path.exists, "the receipt", 20)
    return parse_receipt(path.read_bytes())


def balance_of(world: AppWorld, holder: bytes) -> int:
    return Web3Chain(world.anvil.network).token_balance(holder)


def wallet_yaml(world: AppWorld) -> str:
    """A configuration for the commands; development keys are named, not stored."""
    config = {
        "version": 1,
        "robot": ROBOT,
        "zone": "lab",
        "folder": str(world.folder),
        "chain": {"network": "development", "rpc_urls": [world.anvil.anvil.url]},
        "broker": {},
        "keys": {role: {"development": f"{ROBOT} {role}"} for role in ("identity", "voucher", "payer")},
        "owner": "0x" + robot_key(ROBOT, "payer").address.hex(),
        "policy": "none.json",
    }
    path = world.folder / "wallet.yaml"
    path.write_text(json.dumps(config))
    return str(path)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False, standalone_mode=True)
    assert result.exit_code == 0, result.output
    return result.output


def test_three_sessions_one_deposit_and_the_owner_gets_the_rest_back(world) -> None:
    first = buy(world, "s-1", 20_000, stop_after_milliwh=500)
    assert first.left_atomic > 5000
    second = buy(world, "s-2", 500)
    third = buy(world, "s-3", 500)
    assert {first.channel, second.channel, third.channel} == {first.channel}
    assert (second.start_fee_atomic, third.start_fee_atomic) == (300, 300)
    assert not third.transactions.deposit
    assert third.claimed_atomic == 0
    owed = third.base_atomic + third.owed_atomic
    listed = run("channel", "list", "--config", wallet_yaml(world))
    assert first.channel in listed
    assert "withdrawal" not in listed

    run("channel", "close", "--config", wallet_yaml(world), first.channel[:10])
    until(lambda: list(world.folder.glob("receipt-close-*.json")), "the channel is closed", 60)
    (path,) = world.folder.glob("receipt-close-*.json")
    closing = parse_receipt(path.read_bytes())
    assert (closing.owed_atomic, closing.claimed_atomic, closing.left_atomic) == (0, owed, 0)
    payer, receiver = robot_key(ROBOT, "payer").address, station_key("a", "receiver").address
    until(lambda: balance_of(world, receiver) == owed, "the station is paid", 20)
    assert balance_of(world, payer) == FUNDS - owed
    assert not list((world.folder / "intents").glob(CLOSE_PREFIX + "*"))


def test_withdraw_needs_no_station_and_it_claims_what_it_is_owed_meanwhile(world) -> None:
    receipt = buy(world, "s-1", 20_000, stop_after_milliwh=500)
    config = wallet_yaml(world)
    said = run("channel", "withdraw", "--config", config, receipt.channel)
    assert "--finalize" in said
    until(
        lambda: balance_of(world, station_key("a", "receiver").address) == receipt.owed_atomic,
        "the station claims at once",
        60,
    )
    result = CliRunner().invoke(
        cli, ["channel", "withdraw", "--config", config, receipt.channel, "--finalize"]
    )
    assert "s to go" in str(result.exception)
    world.anvil.advance(901)
    run("channel", "withdraw", "--config", config, receipt.channel, "--finalize")
    assert balance_of(world, robot_key(ROBOT, "payer").address) == FUNDS - receipt.owed_atomic
    assert "rest 0.000000 USDC" in run("channel", "list", "--config", config)


def test_a_wrong_name_is_answered_with_the_right_ones(world) -> None:
    receipt = buy(world, "s-1", 500)
    result = CliRunner().invoke(cli, ["channel", "close", "--config", wallet_yaml(world), "0xdead"])
    assert f"is 0 of the journal's channels; it has {receipt.channel[:14]}" in str(result.exception)


def test_intents_are_taken_once_and_nothing_else_is_touched(tmp_path) -> None:
    folder = tmp_path / "intents"
    folder.mkdir()
    (folder / (CLOSE_PREFIX + "ab" * 32)).touch()
    (folder / (CLOSE_PREFIX + "not-a-channel")).touch()
    (folder / "pay-everybody").touch()
    assert take_close_intents(tmp_path) == [b"\xab" * 32]
    assert take_close_intents(tmp_path) == []
    assert sorted(path.name for path in folder.iterdir()) == [CLOSE_PREFIX + "not-a-channel", "pay-everybody"]


def test_a_block_is_paid_by_one_transfer_and_no_channel(tmp_path) -> None:
    network = read_network(ChainPart(network="development"), tmp_path / "none.yaml").network()
    anvil = AnvilWorld(tmp_path / "anvil")
    exchange = MemoryExchange()
    anvil.fund(robot_key(ROBOT, "payer").address, FUNDS)
    anvil.fund(station_key("a", "receiver").address)
    world = AppWorld(
        tmp_path,
        network,
        lambda client_id, will: exchange.client(client_id, will=(will, b"", True) if will else None),
        lambda signer: Web3Chain(anvil.network, signer),
        station_changes={"a": {"block_milliwh": 1000, "block_fee_atomic": 100}},
    )
    world.anvil = anvil
    try:
        receipt = buy(world, "s-1", 500)
        assert (receipt.scheme, receipt.blocks, receipt.owed_atomic) == ("exact", 1, 500)
        assert receipt.robot_energy_milliwh >= 500
        assert balance_of(world, station_key("a", "receiver").address) == 500
        assert balance_of(world, robot_key(ROBOT, "payer").address) == FUNDS - 500
        assert receipt.transactions.settle
    finally:
        world.close()
        exchange.close()
        anvil.close()
