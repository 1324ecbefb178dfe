"""Both programs as they run, on simulated pads, with broker and chain in memory: an honest station, and every cheat."""

import base64
import hashlib
import json
import time
from typing import Any

import pytest
from coincurve import PublicKey
from coincurve.ecdsa import cdata_to_der, deserialize_compact

from depai_robot.app.config import ChainPart, ChargePart, read_network
from depai_robot.app.story import read_story
from depai_robot.charging import robot
from depai_robot.charging.setting import Network
from depai_robot.payment.receipt import Receipt, parse_receipt
from depai_robot.sim.memory_broker import MemoryExchange
from depai_robot.sim.memory_chain import MemoryChain, MemoryLedger
from depai_robot.values.identity import Address, ChannelId
from depai_robot.values.money import cost_atomic
from test.app_world import ROBOT, AppWorld, robot_key, station_key, until

FUNDS = 10_000_000
PRICE = 400_000


@pytest.fixture
def network(tmp_path) -> Network:
    return read_network(ChainPart(network="development"), tmp_path / "none.yaml").network()


@pytest.fixture
def world(network, tmp_path):
    made: list[Any] = []

    def make(**how: Any) -> AppWorld:
        exchange = MemoryExchange()
        ledger = MemoryLedger(Address(network.token), network.token_name, network.token_version)
        ledger.mint(robot_key(ROBOT, "payer").address, FUNDS)
        world = AppWorld(
            tmp_path,
            network,
            lambda client_id, will: exchange.client(client_id, will=(will, b"", True) if will else None),
            lambda signer: MemoryChain(ledger, signer),
            **how,
        )
        world.ledger = ledger
        made[:] = [world, exchange]
        return world

    yield make
    for item in made:
        item.close()


def buy(world: AppWorld, energy_milliwh: int, phase: str = "SETTLED") -> None:
    wallet = world.start_wallet()
    wallet.request_charge(energy_milliwh, "session-1")
    until(
        lambda: wallet.failure or wallet.phase == phase,
        f"the session ends {phase}",
        60,
    )
    assert wallet.failure is None
    assert all(program.failure is None for program in world.stations.values())


def receipt_of(world: AppWorld, session: str = "session-1") -> Receipt:
    """The file comes a moment after the state."""
    path = world.folder / f"receipt-{session}.json"
    until(path.exists, f"the receipt of {session}", 60)
    return parse_receipt(path.read_bytes())


def kinds(world: AppWorld, source: str) -> list[str]:
    return [line.kind for line in read_story(world.folder) if line.source == source]


def balances(world: AppWorld, *holders: Address) -> list[int]:
    chain = MemoryChain(world.ledger)
    return [chain.token_balance(holder) for holder in holders]


def test_an_honest_station_is_paid_exactly_and_the_rest_comes_back(world) -> None:
    world = world(stations=("near", "far"))
    buy(world, 3000)
    receipt = receipt_of(world, "session-1")
    assert receipt.station == "near"
    assert receipt.stop_reason == "EnergyLimitReached"
    assert receipt.fault == ""
    assert receipt.robot_energy_milliwh >= 3000
    assert receipt.owed_atomic == 2000 + cost_atomic(PRICE, receipt.station_energy_milliwh)
    assert receipt.claimed_atomic == receipt.owed_atomic
    until(
        lambda: world.stations["near"].state.sessions["session-1"].phase == "SETTLED", "the station is paid"
    )
    payer, receiver = balances(
        world, robot_key(ROBOT, "payer").address, station_key("near", "receiver").address
    )
    assert (payer, receiver) == (FUNDS - receipt.claimed_atomic, receipt.claimed_atomic)
    said = kinds(world, "wallet")
    assert [said.count(kind) for kind in ("quote", "agreement", "stop", "receipt", "evidence")] == [
        2,
        1,
        1,
        1,
        0,
    ]
    assert said.count("tranche") == len(world.wallet.state.session.tranches) >= 2
    states = [
        line.data["to"]
        for line in read_story(world.folder)
        if line.kind == "state" and line.source == "wallet"
    ]
    assert states == [
        "QUOTING", "FUNDING", "APPROACHING", "PRESENTING", "CHARGING", "STOPPING", "UNDOCKING", "SETTLING", "SETTLED",
    ]  # fmt: skip
    assert kinds(world, "station:near").count("tx") == 4


def test_the_receipt_is_signed_by_the_robots_identity(world) -> None:
    world = world()
    buy(world, 500)
    receipt_of(world)
    header, payload, signature = (world.folder / "receipt-session-1.jws").read_text().strip().split(".")
    plain = (world.folder / "receipt-session-1.json").read_bytes().strip()

    def decode(part: str) -> bytes:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))

    assert decode(payload) == plain
    jwk = json.loads(decode(header))["jwk"]
    assert decode(jwk["x"]) + decode(jwk["y"]) == robot_key(ROBOT, "identity").public_key
    key = PublicKey(b"\x04" + decode(jwk["x"]) + decode(jwk["y"]))
    der = cdata_to_der(deserialize_compact(decode(signature)))
    assert key.verify(der, hashlib.sha256(f"{header}.{payload}".encode()).digest(), hasher=None)


def test_a_restart_afterwards_folds_to_the_same_state(world) -> None:
    world = world()
    buy(world, 500)
    before = robot.summary(world.wallet.state)
    world.wallet.stop()
    world.start_wallet()
    assert robot.summary(world.wallet.state) == before
    world.wallet.request_charge(500, "session-2")
    assert receipt_of(world, "session-2").stop_reason == "EnergyLimitReached"


def test_the_battery_asks_by_itself(world) -> None:
    world = world()
    world.charge = ChargePart(below_permille=200, energy_milliwh=500, retry_s=3600)
    wallet = world.start_wallet()
    until(lambda: wallet.phase == "SETTLED", "it bought energy without being told", 60)


# --- cheats -------------------------------------------------------------------------------------------------

FAST = {
    "voucher_timeout_ms": 5000,
    "report_interval_ms": 1000,
    "tranche_milliwh": 600,
    "refund_wait_ms": 2000,
}


@pytest.mark.parametrize("kind", ["over-meter", "no-power", "over-claim", "bad-signature"])
def test_a_cheat_gets_at_most_one_tranche_and_never_a_second_session(world, kind: str) -> None:
    world = world(stations=("a", "b"), dishonest=kind, station_changes={"a": FAST})
    buy(world, 2000)
    receipt = receipt_of(world, "session-1")
    assert receipt.station == "a"
    if kind == "over-claim" and receipt.ceiling_atomic == receipt.owed_atomic:
        # Charging ended just where the last ceiling did: there was nothing to take beyond what is owed.
        assert receipt.claimed_atomic == receipt.owed_atomic
        return
    assert receipt.fault
    fair = 2000 + cost_atomic(PRICE, receipt.robot_energy_milliwh * 1000 // 970)
    band = cost_atomic(PRICE, 60 + receipt.robot_energy_milliwh * 40 // 1000)
    assert receipt.claimed_atomic <= fair + cost_atomic(PRICE, FAST["tranche_milliwh"]) + band
    assert receipt.deposited_atomic == receipt.claimed_atomic + receipt.returned_atomic
    assert kinds(world, "wallet").count("evidence") >= 1
    kept = {
        path.name.rpartition("-")[2].removesuffix(".json")
        for path in world.folder.glob("evidence-session-1-*")
    }
    assert kept == {digest[2:18] for digest in receipt.evidence}
    wallet = world.wallet
    wallet.request_charge(300, "session-2")
    assert receipt_of(world, "session-2").station == "b"


def test_a_station_that_vanishes_costs_one_withdrawal(world) -> None:
    world = world(
        dishonest="vanish",
        factor=10.0,
        station_changes={"a": FAST},
        robot_changes={
            "meter_slack_ms": 2000,
            "stop_timeout_ms": 3000,
            "settle_timeout_ms": 3000,
            "withdraw_poll_ms": 1000,
        },
    )
    buy(world, 5000, "WITHDRAWING")
    wallet = world.wallet
    channel = ChannelId(wallet.state.session.agreement.channel_id)
    chain = MemoryChain(world.ledger)
    until(lambda: chain.channel(channel, 1).withdraw_requested_at_s, "the withdrawal is initiated", 30)
    world.ledger.advance(901)
    until(lambda: wallet.phase == "SETTLED", "the rest is back", 30)
    receipt = receipt_of(world, "session-1")
    assert receipt.transactions.withdraw
    assert receipt.claimed_atomic == 0
    assert balances(world, robot_key(ROBOT, "payer").address) == [FUNDS]
    assert "stop" in kinds(world, "wallet")


def test_the_offer_is_cleared_when_a_station_ends(world) -> None:
    world = world()
    seen = []
    broker = world._make_broker("watcher", None)
    broker.connect()
    broker.subscribe("depai/v1/lab/stations/+/offer", lambda topic, payload: seen.append(payload))
    until(lambda: seen and seen[-1], "the offer")
    world.stations.pop("a").stop()
    until(lambda: not seen[-1], "it is cleared")
    time.sleep(0.1)
    assert seen[-1] == b""
    broker.close()
