"""Wallet and station as processes that SIGKILL ends after any journal row or any effect. Entry points of tests only."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from depai_robot.adapters.paho_broker import BrokerAddress, PahoBroker, Will
from depai_robot.app.config import ChainPart, read_network
from depai_robot.app.part import open_chain
from depai_robot.app.station import StationProgram
from depai_robot.app.wallet import WalletProgram
from depai_robot.values.error import DepaiError
from test.app_world import make_station_parts, make_wallet_parts, robot_settings, station_settings


@dataclass(frozen=True)
class Case:
    """What a child runs.

    Attributes:
        folder: of journal and receipt.
        socket: of the simulation link.
        robot, station: ids.
        broker_port: on loopback.
        rpc_url: of the chain.
        session: id.
        energy_milliwh: to buy.
        kill_row: SIGKILL as soon as this row is on disk; 0 never.
        kill_effect: SIGKILL as soon as this effect was performed; 0 never.
    """

    folder: Path
    socket: Path
    robot: str
    station: str
    broker_port: int
    rpc_url: str
    session: str
    energy_milliwh: int
    kill_row: int = 0
    kill_effect: int = 0
    station_changes: dict[str, Any] = field(default_factory=dict)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


class MortalJournal:
    """A journal whose process dies right after a row is on disk, in the midst of a group if need be."""

    def __init__(self, inner: Any, kill_row: int) -> None:
        self._inner, self._kill_row = inner, kill_row

    def append(self, rows: Sequence[bytes], step_version: int) -> None:
        room = self._kill_row - self._inner.length
        if self._kill_row and room <= len(rows):
            self._inner.append(list(rows)[:room], step_version)
            die()
        self._inner.append(rows, step_version)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def mortal(kill_effect: int, count: list[int]) -> Callable[[Any], Any]:
    """Performs, counts, and dies after one of them."""

    def wrap(perform: Any) -> Any:
        def performing(effect: Any) -> None:
            perform(effect)
            count[0] += 1
            if count[0] == kill_effect:
                die()

        return performing

    return wrap


class PipedDock:
    """Asks the parent, who has the world, to move the robot."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self.wallet: WalletProgram | None = None
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        try:
            while True:
                verb, dock = self._pipe.recv()
                if verb == "dock":
                    self.wallet.docking_ended(dock, docked=True)
                else:
                    self.wallet.undocking_ended(undocked=True)
        except (EOFError, OSError, DepaiError):
            return

    def start_docking(self, dock: str, marker_id: int, pose_mm_mrad: tuple[int, int, int]) -> None:
        self._pipe.send(("dock", dock))

    def cancel_docking(self) -> None:
        self.wallet.docking_ended("", docked=False, reason="cancelled")

    def start_undocking(self) -> None:
        self._pipe.send(("undock", ""))


def broker_maker(case: Case) -> Callable[[str, str | None], PahoBroker]:
    def make_broker(client_id: str, will: str | None) -> PahoBroker:
        return PahoBroker(
            BrokerAddress("127.0.0.1", case.broker_port), client_id, will=Will(will) if will else None
        )

    return make_broker


def run_station(case: Case, pipe: Any) -> None:
    """Serves until the parent says so; then says what became of the session, or is killed."""
    logging.basicConfig(filename=case.folder / "station.log", level=logging.INFO)
    network = read_network(
        ChainPart(network="development", rpc_urls=[case.rpc_url]), case.folder / "none.yaml"
    )
    parts, _ = make_station_parts(
        case.folder,
        case.socket,
        station_settings(network.network(), case.station, **case.station_changes),
        broker_maker(case),
        lambda signer: open_chain(network, signer, case.folder),
    )
    parts.journal = MortalJournal(parts.journal, case.kill_row)
    count = [0]
    station = StationProgram(parts, wrap_perform=mortal(case.kill_effect, count))
    station.start()
    pipe.send(("serves", None))
    pipe.recv()  # the robot has settled
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and station.failure is None:
        session = station.state.sessions.get(case.session)
        if session is not None and session.phase == "SETTLED":
            break
        time.sleep(0.005)
    found = station.state.sessions.get(case.session)
    said = None if found is None else (found.phase, found.channel.charged, found.delivered_milliwh)
    station.stop()
    pipe.send(("end", (parts.journal.length, count[0], said, str(station.failure or ""))))


def run_wallet(case: Case, pipe: Any) -> None:
    """Runs until the session is settled; says (rows, effects, phase) to the parent, or is killed."""
    logging.basicConfig(filename=case.folder / "wallet.log", level=logging.INFO)
    network = read_network(
        ChainPart(network="development", rpc_urls=[case.rpc_url]), case.folder / "none.yaml"
    )

    make_broker = broker_maker(case)
    settings = robot_settings(network.network(), (case.station,), case.robot)
    parts, _ = make_wallet_parts(
        case.folder,
        case.socket,
        settings,
        make_broker,
        lambda signer: open_chain(network, signer, case.folder),
        PipedDock(pipe),
    )
    parts.journal = MortalJournal(parts.journal, case.kill_row)
    count = [0]
    wallet = WalletProgram(parts, wrap_perform=mortal(case.kill_effect, count))
    parts.docking.wallet = wallet
    wallet.start()
    requested = False
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and wallet.failure is None:
        session = wallet.state.session
        if session is None and wallet.state.offers and not requested:
            requested = True
            wallet.request_charge(case.energy_milliwh, case.session)
        if (
            session is not None
            and session.phase == "SETTLED"
            and (case.folder / f"receipt-{case.session}.json").exists()
        ):
            break
        time.sleep(0.005)
    phase = f"failed: {wallet.failure}" if wallet.failure is not None else wallet.phase
    wallet.stop()
    pipe.send(("end", (parts.journal.length, count[0], phase)))
