"""Delegated mode as configured: the treasury's key is not on the robot; what it signed beforehand is all there is."""

import time

import pytest

from depai_robot.adapters.web3_chain import Web3Chain
from depai_robot.app.config import BrokerPart, ChainPart, KeyPart, WalletFile, WalletKeys, read_network
from depai_robot.app.wallet import _settings, _treasury
from depai_robot.charging.setting import Network
from depai_robot.payment.channel import ChannelConfig, DepositAuthorization
from depai_robot.payment.policy import format_policy, policy_digest
from depai_robot.payment.presigned import DepositPlace, Presigned, format_presigned, presigned_digest
from depai_robot.sim.memory_broker import MemoryExchange
from depai_robot.values.error import ConfigError
from test.app_world import ROBOT, AppWorld, make_policy, robot_key, station_key
from test.chain_world import AnvilWorld
from test.integration.test_app_channel import FUNDS, KEEPS, balance_of, buy

TREASURY = robot_key(ROBOT, "payer")


@pytest.fixture
def network(tmp_path) -> Network:
    return read_network(ChainPart(network="development"), tmp_path / "none.yaml").network()


def place_of(network: Network) -> DepositPlace:
    return DepositPlace(network.chain_id, network.token, network.token_name, network.token_version)


def presign(network: Network, amount: int, number: int, station: str = "a") -> Presigned:
    receiver = station_key(station, "receiver").address
    channel = ChannelConfig(
        TREASURY.address,
        robot_key(ROBOT, "voucher").address,
        receiver,
        receiver,
        network.token,
        900,
        bytes(32),
    )
    deposit = DepositAuthorization(
        amount, 0, int(time.time()) + 86_400, number.to_bytes(32, "big"), bytes(65)
    )
    digest = presigned_digest(place_of(network), channel, deposit)
    signed = DepositAuthorization(amount, 0, deposit.valid_before_s, deposit.salt, TREASURY.sign(digest))
    return Presigned(station, channel, signed)


def wallet_file(**changes) -> WalletFile:
    values = {
        "version": 1,
        "robot": ROBOT,
        "zone": "lab",
        "folder": ".",
        "chain": ChainPart(network="development"),
        "broker": BrokerPart(),
        "keys": WalletKeys(identity=KeyPart(development="i"), voucher=KeyPart(development="v")),
        "owner": "0x" + TREASURY.address.hex(),
        "policy": "policy.json",
        "payer": "0x" + TREASURY.address.hex(),
        "presigned": "presigned.json",
        "settings": {"keep_max_atomic": 50_000},
    }
    return WalletFile(**(values | changes))


def settings_of(tmp_path, network: Network, *deposits: Presigned):
    policy = make_policy(ROBOT, ("a",))
    signature = TREASURY.sign(policy_digest(policy, network.chain_id))
    (tmp_path / "policy.json").write_bytes(
        format_policy(policy, network.chain_id, TREASURY.address, signature)
    )
    (tmp_path / "presigned.json").write_bytes(format_presigned(deposits, place_of(network)))
    return _settings(
        wallet_file(),
        tmp_path / "wallet.yaml",
        network=network,
        identity=robot_key(ROBOT, "identity"),
        voucher=robot_key(ROBOT, "voucher"),
        payer=None,
    )


def test_the_robot_spends_only_what_was_signed_beforehand(tmp_path, network) -> None:
    settings = settings_of(tmp_path, network, presign(network, 9_000, 1), presign(network, 9_000, 2))
    assert settings.delegated
    anvil = AnvilWorld(tmp_path / "anvil")
    exchange = MemoryExchange()
    anvil.fund(TREASURY.address, FUNDS)
    anvil.fund(station_key("a", "receiver").address)
    anvil.fund(robot_key(ROBOT, "voucher").address)
    world = AppWorld(
        tmp_path,
        network,
        lambda client_id, will: exchange.client(client_id, will=(will, b"", True) if will else None),
        lambda signer: Web3Chain(anvil.network, signer or robot_key(ROBOT, "voucher")),
        station_changes={"a": KEEPS},
        robot_changes={"delegated": True, "presigned": settings.presigned, "keep_max_atomic": 50_000},
    )
    world.anvil = anvil
    try:
        first = buy(world, "s-1", 500)
        second = buy(world, "s-2", 500)
        assert first.deposited_atomic == 9_000
        assert first.channel == second.channel
        assert not second.transactions.deposit
        assert balance_of(world, TREASURY.address) == FUNDS - 9_000
        assert len(world.wallet.state.presigned_used) == 1
    finally:
        world.close()
        exchange.close()
        anvil.close()


def test_a_spoiled_deposit_refuses_the_file(tmp_path, network) -> None:
    good = presign(network, 9_000, 1)
    with pytest.raises(ConfigError, match="pre-signed deposit 2"):
        settings_of(
            tmp_path, network, good, Presigned("a", good.channel, presign(network, 9_001, 1, "b").deposit)
        )


def test_no_payer_and_nothing_in_its_place(tmp_path) -> None:
    with pytest.raises(ConfigError, match="delegated mode"):
        _treasury(wallet_file(payer=None), tmp_path / "wallet.yaml")
