"""The wallet as a process that SIGKILL ends after any journal row or any effect. Entry point of tests only."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depai_robot.adapters.paho_broker import BrokerAddress, PahoBroker, Will
from depai_robot.app.config import ChainPart, read_network
from depai_robot.app.part import open_chain
from depai_robot.app.wallet import WalletProgram
from depai_robot.values.error import DepaiError
from test.app_world import make_wallet_parts, robot_settings


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


def run_wallet(case: Case, pipe: Any) -> None:
    """Runs until the session is settled; says (rows, effects, phase) to the parent, or is killed."""
    logging.basicConfig(filename=case.folder / "wallet.log", level=logging.INFO)
    network = read_network(
        ChainPart(network="development", rpc_urls=[case.rpc_url]), case.folder / "none.yaml"
    )

    def make_broker(client_id: str, will: str | None) -> PahoBroker:
        return PahoBroker(
            BrokerAddress("127.0.0.1", case.broker_port), client_id, will=Will(will) if will else None
        )

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
