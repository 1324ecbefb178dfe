"""kill -9 of robot and station for the fault matrix: the two kill tests' worlds, point after point."""

import multiprocessing
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path

from depai_robot.adapters.anvil import AnvilProcess, fund, place_contracts, start_anvil
from depai_robot.adapters.broker_process import start_broker
from depai_robot.adapters.paho_broker import BrokerAddress, PahoBroker, Will
from depai_robot.app.config import ChainPart, read_network
from depai_robot.app.part import open_chain
from depai_robot.app.resource import resource_path
from test.app_world import AppWorld, robot_key, station_key
from test.fault import test_fault_kill_station as of_station
from test.fault import test_fault_kill_wallet as of_wallet
from test.fault.fault_cases import spread
from test.fault.fault_site import Outcome
from test.fault.mortal_process import Case

KILLS = {
    "robot-killed": "kill -9 of the robot's wallet, started again at once",
    "station-killed": "kill -9 of the station's program, started again at once",
}
CONTEXT = multiprocessing.get_context("forkserver")
Progress = Callable[[str, Outcome], None]
Try = Callable[[str, str, int], tuple[int, int]]
"""(name, ``row`` or ``effect``, number; 0 for none) -> rows and effects. Raises when the session does not end well."""


def run_kills(
    folder: Path, kinds: Sequence[str], points: int, lanes: int, progress: Progress
) -> list[tuple[str, Outcome]]:
    """(kind, outcome) of each kill; 0 points takes every row and effect."""
    if not kinds:
        return []
    CONTEXT.set_forkserver_preload(["test.fault.mortal_process", "depai_robot.adapters.web3_chain"])
    folder.mkdir(parents=True)
    broker = start_broker(folder / "broker")
    chain = start_anvil(folder / "chain")
    done: list[tuple[str, Outcome]] = []
    try:
        place_contracts(chain.url, resource_path("contracts", "artifacts"))
        for kind in kinds:
            worlds = []
            try:
                tries: list[Try] = []
                for number in range(lanes):
                    world, trying = _MAKE[kind](folder, number, broker.port, chain)
                    worlds.append(world)
                    tries.append(trying)
                done += _run(kind, tries, points, progress)
            finally:
                for world in worlds:
                    world.close()
        return done
    finally:
        forkserver._forkserver._stop()
        chain.stop()
        broker.stop()


def _run(kind: str, tries: list[Try], points: int, progress: Progress) -> list[tuple[str, Outcome]]:
    begin = time.monotonic()
    rows, effects = tries[0]("baseline", "row", 0)
    plain_s = time.monotonic() - begin
    waiting: queue.Queue[tuple[str, int]] = queue.Queue()
    for what, count in (("row", rows), ("effect", effects)):
        for at in spread(count, points or count):
            waiting.put((what, at))
    done: list[tuple[str, Outcome]] = []
    lock = threading.Lock()

    def work(trying: Try) -> None:
        while True:
            try:
                what, at = waiting.get_nowait()
            except queue.Empty:
                return
            begin = time.monotonic()
            findings: tuple[str, ...] = ()
            try:
                trying(f"{kind[0]}{what}-{at}", what, at)
            except Exception as error:
                findings = (f"{type(error).__name__}: {error}",)
            took_s = time.monotonic() - begin
            outcome = Outcome(
                f"after {what} {at}",
                "unknown" if findings else "SETTLED",
                not findings,
                0,
                0,
                0,
                round(max(0.0, took_s - plain_s), 2),
                findings,
                round(took_s, 1),
            )
            with lock:
                done.append((kind, outcome))
                progress(kind, outcome)

    threads = [threading.Thread(target=work, args=(trying,)) for trying in tries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done


def _make_wallet_lane(folder: Path, number: int, port: int, chain: AnvilProcess) -> tuple[AppWorld, Try]:
    fund(chain.url, robot_key(f"robot-{number}", "payer").address, usdc_atomic=1_000_000_000)
    fund(chain.url, station_key(f"s{number}", "receiver").address)
    lane = of_wallet.Lane(folder / f"wallet{number}", number, port, chain.url)

    def trying(name: str, what: str, at: int) -> tuple[int, int]:
        try:
            return lane.try_case(name, **{f"kill_{what}": at})
        except Exception:
            lane.world.pads.touch(None)
            raise

    return lane.world, trying


def _make_station_lane(folder: Path, number: int, port: int, chain: AnvilProcess) -> tuple[AppWorld, Try]:
    robot, station = f"robot-of-{number}", f"t{number}"
    own = folder / f"station{number}"
    own.mkdir()
    fund(chain.url, robot_key(robot, "payer").address, usdc_atomic=1_000_000_000)
    fund(chain.url, station_key(station, "receiver").address)
    network = read_network(ChainPart(network="development", rpc_urls=[chain.url]), folder / "none.yaml")

    def make_broker(client_id: str, will: str | None) -> PahoBroker:
        return PahoBroker(BrokerAddress("127.0.0.1", port), client_id, will=Will(will) if will else None)

    world = AppWorld(
        own,
        network.network(),
        make_broker,
        lambda signer: open_chain(network, signer, own),
        stations=(station,),
        robot=robot,
        factor=of_station.FACTOR,
        power_w=60.0,
        start_stations=False,
    )
    case = Case(
        own,
        world.socket,
        robot,
        station,
        port,
        chain.url,
        "",
        of_station.ENERGY_MILLIWH,
        station_changes=of_station.STATION_CHANGES,
    )

    def trying(name: str, what: str, at: int) -> tuple[int, int]:
        try:
            return of_station.run_case(world, own, replace(case, **{f"kill_{what}": at}), name, make_broker)
        except Exception:
            world.pads.touch(None)
            raise

    return world, trying


_MAKE = {"robot-killed": _make_wallet_lane, "station-killed": _make_station_lane}
