"""kill -9 of the station after journal rows and effects of a session: power stops, and it ends settled all the same.

As test_fault_kill_wallet, with the ends exchanged.
"""

import multiprocessing
import shutil
import threading
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

from depai_robot.adapters.anvil import find_anvil, fund, place_contracts, start_anvil
from depai_robot.adapters.broker_process import start_broker
from depai_robot.adapters.paho_broker import BrokerAddress, PahoBroker, Will
from depai_robot.app.config import ChainPart, read_network
from depai_robot.app.part import open_chain
from depai_robot.app.resource import resource_path
from depai_robot.app.wallet import WalletProgram
from depai_robot.payment.receipt import parse_receipt
from depai_robot.values.identity import ChannelId
from test.app_world import (
    AppWorld,
    TeleportingDock,
    make_wallet_parts,
    robot_key,
    robot_settings,
    station_key,
    until,
)
from test.fault.mortal_process import Case, run_station
from test.fault.test_fault_kill_wallet import ENERGY_MILLIWH, FACTOR, STATION_CHANGES, choose_points

ROBOT, STATION = "robot-9", "s9"
POINTS = 4
CONTEXT = multiprocessing.get_context("forkserver")


class StationProcess:
    """The station under test, started anew as soon as it is killed."""

    def __init__(self, case: Case, supply: Any) -> None:
        self._case, self._supply = case, supply
        self.serves = threading.Event()
        self.kills = 0
        self.powered_after_kill = False
        self.ended: Any = None
        self._pipe: Any = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        case = self._case
        while self.ended is None and self.kills < 2:
            self._pipe, theirs = CONTEXT.Pipe()
            process = CONTEXT.Process(target=run_station, args=(case, theirs), daemon=True)
            process.start()
            theirs.close()
            try:
                while self.ended is None:
                    verb, value = self._pipe.recv()
                    if verb == "serves":
                        self.serves.set()
                    else:
                        self.ended = value
            except (EOFError, OSError):
                self.kills += 1
                try:
                    until(lambda: self._supply._wanted_w == 0.0, "power is off without a station", 3)
                except AssertionError:
                    self.powered_after_kill = True
            process.join(10)
            case = replace(case, kill_row=0, kill_effect=0)

    def end(self) -> Any:
        """After the robot has settled: what the station says."""
        self.serves.wait(20)
        deadline = 3
        while self.ended is None and deadline:
            try:
                self._pipe.send("end")
            except (OSError, ValueError):
                pass
            self._thread.join(10)
            deadline -= 1
        return self.ended


@pytest.mark.timeout(3600)
def test_a_kill_at_any_point_ends_settled_with_the_same_totals(tmp_path_factory) -> None:
    if find_anvil() is None:
        pytest.skip("anvil is not installed: depai-robot setup chain")
    CONTEXT.set_forkserver_preload(["test.fault.mortal_process", "depai_robot.adapters.web3_chain"])
    folder = tmp_path_factory.mktemp("killstation")
    broker = start_broker(folder / "broker")
    chain = start_anvil(folder / "chain")
    world = None
    try:
        place_contracts(chain.url, resource_path("contracts", "artifacts"))
        fund(chain.url, robot_key(ROBOT, "payer").address, usdc_atomic=100_000_000)
        fund(chain.url, station_key(STATION, "receiver").address)
        network = read_network(ChainPart(network="development", rpc_urls=[chain.url]), folder / "none.yaml")

        def make_broker(client_id: str, will: str | None) -> PahoBroker:
            return PahoBroker(
                BrokerAddress("127.0.0.1", broker.port), client_id, will=Will(will) if will else None
            )

        world = AppWorld(
            folder,
            network.network(),
            make_broker,
            lambda signer: open_chain(network, signer, folder),
            stations=(STATION,),
            robot=ROBOT,
            factor=FACTOR,
            power_w=60.0,
            start_stations=False,
        )
        case = Case(
            folder,
            world.socket,
            ROBOT,
            STATION,
            broker.port,
            chain.url,
            "",
            ENERGY_MILLIWH,
            station_changes=STATION_CHANGES,
        )
        rows, effects = run_case(world, folder, case, "baseline", make_broker)
        failures = []
        for number, (kind, at) in enumerate(choose_points(rows, effects, POINTS)):
            name = f"{kind}-{at}-{number}"
            try:
                run_case(world, folder, replace(case, **{f"kill_{kind}": at}), name, make_broker)
            except Exception as error:
                failures.append(f"killed after {kind} {at}: {type(error).__name__}: {error}")
                world.pads.touch(None)
        assert not failures, "\n".join(failures)
    finally:
        if world is not None:
            world.close()
        forkserver._forkserver._stop()
        chain.stop()
        broker.stop()


def run_case(world: AppWorld, folder: Path, case: Case, name: str, make_broker: Any) -> tuple[int, int]:
    own = folder / name
    own.mkdir()
    case = replace(case, folder=own, session=name)
    network = read_network(ChainPart(network="development", rpc_urls=[case.rpc_url]), folder / "none.yaml")
    station = StationProcess(case, world.pads.supplies[case.station, 1])
    docking = TeleportingDock(world.pads)
    parts, hardware = make_wallet_parts(
        own,
        world.socket,
        robot_settings(network.network(), (case.station,), case.robot, retry_ms=5000),
        make_broker,
        lambda signer: open_chain(network, signer, folder),
        docking,
    )
    wallet = WalletProgram(parts)
    docking.wallet = wallet
    try:
        wallet.start()
        until(lambda: wallet.state.offers, "an offer")
        wallet.request_charge(case.energy_milliwh, name)
        path = own / f"receipt-{name}.json"
        until(lambda: path.exists() or wallet.failure, "the receipt", 60)
        assert wallet.failure is None
        receipt = parse_receipt(path.read_bytes())
    finally:
        wallet.stop()
        hardware.close()
        ended = station.end()
        world.pads.touch(None)
    assert ended is not None, "the station did not end"
    length, count, said, failure = ended
    assert failure == ""
    assert not station.powered_after_kill
    on_chain = parts.chain.channel(ChannelId(bytes.fromhex(receipt.channel[2:])), 1)
    assert receipt.claimed_atomic == receipt.owed_atomic == on_chain.total_claimed_atomic, receipt
    assert receipt.deposited_atomic == receipt.claimed_atomic + receipt.returned_atomic
    assert said == ("SETTLED", receipt.claimed_atomic, receipt.station_energy_milliwh)
    shutil.rmtree(own)
    return length, count
