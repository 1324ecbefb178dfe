"""kill -9 of the wallet after every journal row and after every effect of a session: it ends settled, totals agree.

Real processes, broker, chain and station; only the physics is simulated. By default every few points are tried, which
ones changes from day to day; ``DEPAI_FAULTS=all`` tries every one.
"""

import multiprocessing
import os
import queue
import shutil
import threading
import time
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path

import pytest

from depai_robot.adapters.anvil import find_anvil, fund, place_contracts, start_anvil
from depai_robot.adapters.broker_process import start_broker
from depai_robot.adapters.paho_broker import BrokerAddress, PahoBroker, Will
from depai_robot.app.config import ChainPart, read_network
from depai_robot.app.part import open_chain
from depai_robot.app.resource import resource_path
from depai_robot.payment.receipt import parse_receipt
from depai_robot.values.identity import ChannelId
from test.app_world import AppWorld, robot_key, station_key, until
from test.fault.mortal_process import Case, run_wallet

LANES = 4
FACTOR = 20.0
ENERGY_MILLIWH = 1300
STATION_CHANGES = {
    "power_max_w": 60,
    "tranche_milliwh": 750,
    "report_interval_ms": 5000,
    "voucher_timeout_ms": 40_000,
    "price_atomic_per_kwh": 800_000,
    "price_floor_atomic_per_kwh": 800_000,
}
POINTS_DEFAULT = 14
CONTEXT = multiprocessing.get_context("forkserver")


class Lane:
    """A robot's world with its own station; cases run in it one after another."""

    def __init__(self, folder: Path, number: int, port: int, rpc_url: str) -> None:
        self.folder, self.port, self.rpc_url = folder, port, rpc_url
        self.robot, self.station = f"robot-{number}", f"s{number}"
        self.network = read_network(
            ChainPart(network="development", rpc_urls=[rpc_url]), folder / "none.yaml"
        )
        folder.mkdir()

        def make_broker(client_id: str, will: str | None) -> PahoBroker:
            return PahoBroker(BrokerAddress("127.0.0.1", port), client_id, will=Will(will) if will else None)

        self.chain = open_chain(self.network, None, folder)
        self.world = AppWorld(
            folder,
            self.network.network(),
            make_broker,
            lambda signer: open_chain(self.network, signer, folder),
            stations=(self.station,),
            robot=self.robot,
            factor=FACTOR,
            power_w=60.0,
            station_changes={self.station: STATION_CHANGES},
        )

    def run(self, case: Case) -> tuple[int, int, str] | None:
        """One process from start to end; None when it was killed."""
        ours, theirs = CONTEXT.Pipe()
        process = CONTEXT.Process(target=run_wallet, args=(case, theirs), daemon=True)
        process.start()
        theirs.close()
        ended = None
        try:
            while True:
                verb, value = ours.recv()
                if verb == "dock":
                    self.world.pads.touch((self.station, 1))
                    ours.send((verb, value))
                elif verb == "undock":
                    self.world.pads.touch(None)
                    ours.send((verb, value))
                else:
                    ended = value
        except (EOFError, OSError):
            pass
        process.join(10)
        ours.close()
        # 255: the fork server did not get to read the status of what was killed.
        assert ended is not None or process.exitcode in (-9, 255), (
            f"{case.session}: status {process.exitcode}"
        )
        return ended

    def try_case(self, name: str, kill_row: int = 0, kill_effect: int = 0) -> tuple[int, int]:
        """A session with at most one kill; returns rows and effects of its last process."""
        folder = self.folder / name
        folder.mkdir()
        case = Case(
            folder,
            self.world.socket,
            self.robot,
            self.station,
            self.port,
            self.rpc_url,
            name,
            ENERGY_MILLIWH,
            kill_row,
            kill_effect,
        )
        ended = self.run(case)
        if ended is None:
            ended = self.run(replace(case, kill_row=0, kill_effect=0))
        assert ended is not None, f"{name}: killed twice"
        assert ended[2] == "SETTLED", f"{name}: {ended}"
        self.check(folder, name)
        shutil.rmtree(folder)
        return ended[0], ended[1]

    def check(self, folder: Path, name: str) -> None:
        """Robot, station and chain say the same."""
        receipt = parse_receipt((folder / f"receipt-{name}.json").read_bytes())
        program = self.world.stations[self.station]
        until(lambda: program.state.sessions[name].phase == "SETTLED", f"{name} at the station")
        session = program.state.sessions[name]
        on_chain = self.chain.channel(ChannelId(bytes.fromhex(receipt.channel[2:])), 1)
        # On a loaded machine a restart can outlast the voucher time-out; then the station stopped, honestly.
        late = receipt.fault.endswith("channel_busy") and session.stop_reason == "LocalOutOfCredit"
        assert receipt.fault == "" or late, f"{receipt.fault}; station: {session.path} {session.ignored}"
        assert receipt.claimed_atomic == receipt.owed_atomic == on_chain.total_claimed_atomic
        assert receipt.claimed_atomic == session.channel.charged
        assert receipt.deposited_atomic == receipt.claimed_atomic + receipt.returned_atomic
        assert on_chain.balance_atomic == on_chain.total_claimed_atomic
        assert receipt.ceiling_atomic <= receipt.deposited_atomic
        assert receipt.station_energy_milliwh == session.delivered_milliwh
        assert program.failure is None


@pytest.fixture(scope="module")
def lanes(tmp_path_factory):
    if find_anvil() is None:
        pytest.skip("anvil is not installed: depai-robot setup chain")
    CONTEXT.set_forkserver_preload(["test.fault.mortal_process", "depai_robot.adapters.web3_chain"])
    folder = tmp_path_factory.mktemp("kill")
    broker = start_broker(folder / "broker")
    chain = start_anvil(folder / "chain")
    made: list[Lane] = []
    try:
        place_contracts(chain.url, resource_path("contracts", "artifacts"))
        for number in range(LANES):
            fund(chain.url, robot_key(f"robot-{number}", "payer").address, usdc_atomic=100_000_000)
            fund(chain.url, station_key(f"s{number}", "receiver").address)
            made.append(Lane(folder / f"lane{number}", number, broker.port, chain.url))
        yield made
    finally:
        for lane in made:
            lane.world.close()
        forkserver._forkserver._stop()
        chain.stop()
        broker.stop()


def choose_points(rows: int, effects: int, wanted: int = POINTS_DEFAULT) -> list[tuple[str, int]]:
    """(kind, number): those that ``DEPAI_FAULTS`` names as ``row:17,effect:3``, all, or a spread."""
    named = os.environ.get("DEPAI_FAULTS", "")
    if ":" in named:
        return [(item.split(":")[0], int(item.split(":")[1])) for item in named.split(",")]
    points = [("row", n) for n in spread(rows, wanted // 2)]
    return points + [("effect", n) for n in spread(effects, wanted // 2)]


def spread(count: int, wanted: int) -> list[int]:
    """Some of 1..count, evenly, from a begin that changes from day to day."""
    if os.environ.get("DEPAI_FAULTS") == "all" or wanted >= count:
        return list(range(1, count + 1))
    step = count / wanted
    begin = int(time.time() // 86_400) % max(1, int(step))
    return sorted({min(count, 1 + begin + int(i * step)) for i in range(wanted)} | {count})


@pytest.mark.timeout(3600)
def test_a_kill_at_any_point_ends_settled_with_the_same_totals(lanes) -> None:
    rows, effects = lanes[0].try_case("baseline")
    points = choose_points(rows, effects)
    waiting: queue.Queue[tuple[str, int]] = queue.Queue()
    for point in points:
        waiting.put(point)
    failures: list[str] = []

    def work(lane: Lane) -> None:
        while True:
            try:
                kind, number = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                lane.try_case(f"{kind}-{number}-{waiting.qsize()}", **{f"kill_{kind}": number})
            except Exception as error:
                failures.append(f"killed after {kind} {number}: {type(error).__name__}: {error}")
                lane.world.pads.touch(None)

    threads = [threading.Thread(target=work, args=(lane,)) for lane in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{len(points)} kills over {rows} rows and {effects} effects")
    assert not failures, "\n".join(failures)
