"""Operators' commands as a running wallet obeys them: over the broker, on a session that is open, and on the next."""

import json
import time

import pytest

from depai_robot.app.config import ChainPart, read_network
from depai_robot.app.fleet_guard import FleetGuard, answer_topic, command_topic, seal_document
from depai_robot.fleet.command import Command, Grant
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.sim.memory_broker import MemoryExchange
from depai_robot.sim.memory_chain import MemoryChain, MemoryLedger
from depai_robot.values.error import ConfigError
from depai_robot.values.identity import Address, address_to_hex
from test.app_world import ROBOT, AppWorld, make_policy, robot_key, station_key, until

OWNER, ADA = DevelopmentSigner("owner"), DevelopmentSigner("operator-ada")


class Desk:
    """An operator at the broker, and the wallet's world."""

    def __init__(self, folder):
        network = read_network(ChainPart(network="development"), folder / "none.yaml").network()
        self.chain_id = network.chain_id
        self.exchange = MemoryExchange()
        ledger = MemoryLedger(Address(network.token), network.token_name, network.token_version)
        ledger.mint(robot_key(ROBOT, "payer").address, 10_000_000)
        self.world = AppWorld(
            folder,
            network,
            lambda client_id, will: self.exchange.client(client_id, will=(will, b"", True) if will else None),
            lambda signer: MemoryChain(ledger, signer),
            stations=("near", "far"),
            robot_changes={"quote_window_ms": 1000},
        )
        now_s = int(time.time())
        grant = Grant(
            document="depai.fleet.grant/1",
            operator=address_to_hex(ADA.address),
            robot=ROBOT,
            kinds=("tighten", "bar", "pause", "resume"),
            valid_after_s=now_s - 10,
            valid_before_s=now_s + 3600,
        )
        self.world.guard = FleetGuard(
            folder,
            robot=ROBOT,
            chain_id=self.chain_id,
            owner=OWNER.address,
            grants=(grant,),
            policy=make_policy(ROBOT, ()),
            wall_s=lambda: int(time.time()),
        )
        self.answers = []
        self.link = self.exchange.client("desk", will=None)
        self.link.connect()
        self.link.subscribe(answer_topic(ROBOT), lambda _topic, data: self.answers.append(json.loads(data)))
        self.wallet = self.world.start_wallet()

    def order(self, kind, **fields):
        now_s = int(time.time())
        number = f"c{len(self.answers)}"
        command = Command(
            document="depai.fleet.command/1",
            id=number,
            robot=ROBOT,
            kind=kind,
            issued_s=now_s,
            expires_s=now_s + 60,
            **fields,
        )
        self.link.publish(command_topic(ROBOT), seal_document(command, ADA, self.chain_id).encode())
        answer = until(lambda: next((a for a in self.answers if a["id"] == number), None), "an answer")
        assert answer["accepted"], answer

    def close(self):
        self.world.close()
        self.exchange.close()


@pytest.fixture
def desk(tmp_path):
    desk = Desk(tmp_path)
    yield desk
    desk.close()


def test_a_barred_station_is_not_dealt_with(desk):
    desk.order("bar", station=address_to_hex(station_key("near", "identity").address))
    desk.wallet.request_charge(1000, "s1")
    until(lambda: desk.wallet.phase == "SETTLED", "the session ends", 60)
    assert desk.wallet.state.session.agreement.agreed.terms.station == "far"


def test_a_pause_ends_the_open_session_in_order_and_the_next_does_not_begin(desk):
    desk.wallet.request_charge(50_000, "s1")
    until(lambda: desk.wallet.phase == "CHARGING", "it charges", 60)
    desk.order("pause")
    with pytest.raises(ConfigError, match="paused"):
        desk.wallet.request_charge(1000, "s2")
    until(lambda: desk.wallet.phase == "SETTLED", "the session is settled", 60)
    assert desk.wallet.failure is None
    desk.order("resume")
    desk.wallet.request_charge(1000, "s3")
    until(lambda: desk.wallet.phase == "SETTLED" and desk.wallet.state.session.id == "s3", "the next", 60)


def test_limits_of_operators_hold_for_the_next_session(desk):
    desk.order("tighten", limits={"day_max_atomic": 0})
    with pytest.raises(ConfigError, match="leaves nothing"):
        desk.wallet.request_charge(1000, "s1")
