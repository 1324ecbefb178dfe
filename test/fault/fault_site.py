"""A robot and a station with a real broker and a real chain behind proxies that break, one session a case.

Both programs run as they are, each with a journal that can set a fault off right after any row; only physics is
simulated. What each side lost is taken from token balances and the true meter, and both journals and the chain go
through the independent auditor.
"""

import contextlib
import itertools
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from depai_robot.adapters.anvil import DEVELOPMENT_USDC, fund, place_contracts, start_anvil
from depai_robot.adapters.broker_process import start_broker
from depai_robot.adapters.paho_broker import BrokerAddress, PahoBroker, Will
from depai_robot.app.auditor import COLLECTOR, SETTLEMENT, Limits, audit
from depai_robot.app.auditor_chain import read_chain
from depai_robot.app.auditor_evidence import Domains, Evidence, read_evidence
from depai_robot.app.config import ChainPart, read_network
from depai_robot.app.part import open_chain
from depai_robot.app.resource import resource_path
from depai_robot.app.station import StationProgram
from depai_robot.app.wallet import WalletProgram
from depai_robot.sim.fault_proxy import FaultProxy
from depai_robot.sim.rpc_proxy import RpcProxy
from depai_robot.values.error import DepaiError
from test.app_world import (
    AppWorld,
    TeleportingDock,
    make_policy,
    make_station_parts,
    make_wallet_parts,
    robot_key,
    robot_settings,
    station_key,
    station_settings,
)

LOG = logging.getLogger(__name__)

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
ROBOT_CHANGES = {"retry_ms": 5000}
CASE_TIMEOUT_S = 90.0
GAVE_UP = ("CALLING_FOR_HELP", "SHUT_DOWN")
"""The only station has failed the robot: it calls for help, as it should."""
SETTLE_PAUSE_S = 0.05
OLDER_MAX = 6
PLAIN_BLOCKS = 8
"""Before each session, so that a fork of five blocks undoes nothing but the session's own."""
STATE_OF_CHARGE = 0.18


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one case; money in atomic units.

    Attributes:
        name: of the case.
        ended: phase of the robot's session at the end, or why there was none.
        whole: all of the energy was delivered.
        robot_lost, station_lost: against the price of the energy that truly flowed and the agreed fee.
        locked: of the robot's money, still in channels at the end.
        recovered_s: from the end of the fault to the next sign of progress; -1 when the fault never ended.
        findings: of the auditor, and anything else that must not be.
        wall_s: of the case.
        rows, effects: of the robot's journal and performer.
        station_rows, station_effects: of the station's.
    """

    name: str
    ended: str
    whole: bool
    robot_lost: int
    station_lost: int
    locked: int
    recovered_s: float
    findings: tuple[str, ...]
    wall_s: float
    rows: int = 0
    effects: int = 0
    station_rows: int = 0
    station_effects: int = 0


class FiringJournal:
    """Sets something off as soon as a row is on disk, before its step; a group is parted there."""

    def __init__(self, inner: Any, at_row: int, fire: Callable[[], None]) -> None:
        self._inner, self._at_row, self._fire = inner, at_row, fire

    def append(self, rows: Sequence[bytes], step_version: int) -> None:
        room = self._at_row - self._inner.length
        if 0 < room <= len(rows):
            self._inner.append(list(rows)[:room], step_version)
            self._fire()
            self._inner.append(list(rows)[room:], step_version)
            return
        self._inner.append(rows, step_version)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class ShiftedClock:
    """A wall clock that is wrong."""

    def __init__(self, inner: Any, wall_s: int) -> None:
        self._inner, self._wall_s = inner, wall_s

    def session_ns(self) -> int:
        return self._inner.session_ns()

    def wall_s(self) -> int:
        return self._inner.wall_s() + self._wall_s


@dataclass(frozen=True, slots=True)
class Case:
    """One fault.

    Attributes:
        name: for the table.
        begin: puts the fault on; gets the site.
        end: takes it off; None when begin does both.
        side: whose journal or effects set it off; empty: before the session begins.
        at_row, at_effect: where.
        lasts_s: wall time until it is taken off.
        expect_session: False when no energy may flow.
        may_sign: a deposit may be signed all the same; nobody can send it.
        goes_on: with the journals of the case before.
        robot_clock_s, station_clock_s: how wrong the wall clocks are.
        during: runs beside the session, until it is over.
    """

    name: str
    begin: Callable[["FaultSite"], None] = lambda _site: None
    end: Callable[["FaultSite"], None] | None = None
    side: str = ""
    at_row: int = 0
    at_effect: int = 0
    lasts_s: float = 0.5
    expect_session: bool = True
    may_sign: bool = False
    goes_on: bool = False
    robot_clock_s: int = 0
    station_clock_s: int = 0
    during: Callable[["FaultSite", threading.Event], None] | None = None
    settings: dict[str, Any] = field(default_factory=dict)


class FaultSite:
    """Broker, chain, proxies and a world; cases run in it one after another."""

    def __init__(self, folder: Path, number: int = 0) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.robot, self.station = f"fault-robot-{number}-{os.getpid()}", f"fault-s{number}"
        self.broker = start_broker(folder / "broker")
        self.chain = start_anvil(folder / "chain")
        place_contracts(self.chain.url, resource_path("contracts", "artifacts"))
        fund(self.chain.url, robot_key(self.robot, "payer").address, usdc_atomic=100_000_000)
        fund(self.chain.url, station_key(self.station, "receiver").address)
        self.links = {"robot": FaultProxy(self.broker.port), "station": FaultProxy(self.broker.port)}
        self.rpcs = {"robot": RpcProxy(self.chain.url), "station": RpcProxy(self.chain.url)}
        self.networks = {
            side: read_network(ChainPart(network="development", rpc_urls=[rpc.url]), folder / "none.yaml")
            for side, rpc in self.rpcs.items()
        }
        self.world = AppWorld(
            folder,
            self.networks["robot"].network(),
            lambda _id, _will: None,
            lambda _signer: None,
            stations=(self.station,),
            robot=self.robot,
            factor=FACTOR,
            power_w=60.0,
            start_stations=False,
        )
        self.wallet: WalletProgram | None = None
        self.station_program: StationProgram | None = None
        self._count = itertools.count()
        self._older: list[list[Evidence]] = []
        self._offers: list[Evidence] = []
        self.others: list[Evidence] = []
        self._previous: Path | None = None
        self.tape: list[tuple[str, bytes]] = []

    def close(self) -> None:
        self.world.close()
        for proxy in (*self.links.values(), *self.rpcs.values()):
            proxy.stop()
        self.chain.stop()
        self.broker.stop()

    # --- faults --------------------------------------------------------------------------------------------

    def kill_broker(self) -> None:
        self.broker.kill()

    def start_broker(self) -> None:
        self.broker = start_broker(self.folder / "broker", port=self.broker.port)

    def kill_chain(self) -> None:
        """With its blocks on disk, as a node has them."""
        self._dump = self.chain.rpc("anvil_dumpState")
        self.chain.process.kill()
        self.chain.process.wait(5)

    def start_chain(self) -> None:
        self.chain = start_anvil(self.folder / "chain", port=self.chain.port)
        self.chain.rpc("anvil_loadState", self._dump)

    def reorganise(self, depth: int) -> None:
        self.chain.rpc("anvil_reorg", depth, [])

    def maker(self, side: str) -> Callable[[str, str | None], PahoBroker]:
        def make(client_id: str, will: str | None) -> PahoBroker:
            address = BrokerAddress("127.0.0.1", self.links[side].port)
            return PahoBroker(address, client_id, will=Will(will) if will else None)

        return make

    # --- one case ------------------------------------------------------------------------------------------

    def run(self, case: Case) -> Outcome:
        """A session from the first offer to the receipt, with one fault."""
        begin_s = time.monotonic()
        number = next(self._count)
        session = f"c{number}"
        folder = self.folder / session
        folder.mkdir()
        if case.goes_on and self._previous is not None:
            for path in self._previous.glob("*.sqlite*"):
                shutil.copy(path, folder / path.name)
        # The robot idles between cases, many times faster than the wall: an empty battery is none of the faults.
        with self.world.pads.lock:
            self.world.pads.battery.set_state_of_charge(STATE_OF_CHARGE)
        self.chain.rpc("anvil_mine", hex(PLAIN_BLOCKS))
        receiver = station_key(self.station, "receiver").address
        payer = robot_key(self.robot, "payer").address
        before = self._balance(receiver), self._balance(payer), self._energy()
        healed = threading.Event()
        marks: dict[str, float] = {}
        timers: list[threading.Thread] = []

        def fire() -> None:
            case.begin(self)

            def heal() -> None:
                time.sleep(case.lasts_s)
                if case.end is not None:
                    case.end(self)
                marks["healed"] = time.monotonic()
                healed.set()

            thread = threading.Thread(target=heal, daemon=True)
            timers.append(thread)
            thread.start()

        counts = {"robot": [0], "station": [0]}

        def count(side: str) -> Callable[[Any], Any]:
            def wrap(perform: Any) -> Any:
                def performing(effect: Any) -> None:
                    perform(effect)
                    counts[side][0] += 1
                    if case.side == side and counts[side][0] == case.at_effect:
                        fire()

                return performing

            return wrap

        findings: list[str] = []
        ended = "no session"
        stop = threading.Event()
        helper: threading.Thread | None = None
        open_parts: list[Any] = []
        progress: tuple[Any, ...] = ()
        wallet: WalletProgram | None = None
        program: StationProgram | None = None
        rows = station_rows = 0
        try:
            parts, hardware = make_station_parts(
                folder,
                self.world.socket,
                station_settings(
                    self.networks["station"].network(), self.station, **(STATION_CHANGES | case.settings)
                ),
                self.maker("station"),
                lambda signer: open_chain(self.networks["station"], signer, folder),
            )
            open_parts.append(hardware)
            if case.side == "station" and case.at_row:
                parts.journal = FiringJournal(parts.journal, case.at_row, fire)
            if case.station_clock_s:
                parts.clock = ShiftedClock(parts.clock, case.station_clock_s)
            program = self.station_program = StationProgram(parts, wrap_perform=count("station"))
            docking = TeleportingDock(self.world.pads)
            robot_parts, robot_hardware = make_wallet_parts(
                folder,
                self.world.socket,
                robot_settings(
                    self.networks["robot"].network(), (self.station,), self.robot, **ROBOT_CHANGES
                ),
                self.maker("robot"),
                lambda signer: open_chain(self.networks["robot"], signer, folder),
                docking,
            )
            open_parts.append(robot_hardware)
            if case.side == "robot" and case.at_row:
                robot_parts.journal = FiringJournal(robot_parts.journal, case.at_row, fire)
            if case.robot_clock_s:
                robot_parts.clock = ShiftedClock(robot_parts.clock, case.robot_clock_s)
            wallet = self.wallet = WalletProgram(robot_parts, wrap_perform=count("robot"))
            docking.wallet = wallet
            program.start()
            wallet.start()
            if not case.side:
                fire()
            if case.during is not None:
                helper = threading.Thread(target=case.during, args=(self, stop), daemon=True)
                helper.start()
            deadline = time.monotonic() + (CASE_TIMEOUT_S if case.expect_session else 8.0)
            asked = False
            while time.monotonic() < deadline:
                if wallet.failure is not None or program.failure is not None:
                    findings.append(f"a program stopped: {wallet.failure or program.failure}")
                    break
                if not asked and wallet.state.offers:
                    asked = True
                    wallet.request_charge(ENERGY_MILLIWH, session)
                now = self._look(wallet, program, session)
                if healed.is_set() and "progress" not in marks:
                    progress = progress or now
                    if now != progress:
                        marks["progress"] = time.monotonic()
                if self._is_over(wallet, program, folder, session):
                    break
                time.sleep(0.01)
            ended = wallet.phase if wallet.state.session is not None else "no session"
            if case.expect_session and ended not in ("SETTLED", *GAVE_UP):
                findings.append(f"not settled within {CASE_TIMEOUT_S:g} s: {ended}")
            if not case.expect_session and not case.may_sign and wallet.state.session is not None:
                money = wallet.state.session.money
                if money is not None and money.signed:
                    findings.append(f"{money.signed} was signed")
        finally:
            stop.set()
            if helper is not None:
                helper.join(10)
            for thread in timers:
                thread.join(case.lasts_s + 20)
            for item in (wallet, program):
                if item is not None:
                    with contextlib.suppress(DepaiError):
                        item.stop()
            for item in open_parts:
                item.close()
            self.world.pads.touch(None)
        chain = read_chain(self.chain.url, settlement=bytes(SETTLEMENT), token=bytes(DEVELOPMENT_USDC))
        journals = [
            read_evidence(path)
            for path in (folder / "wallet.sqlite", folder / f"station-{self.station}.sqlite")
        ]
        domains = Domains(31337, SETTLEMENT, COLLECTOR, bytes(DEVELOPMENT_USDC))
        # A broker that was killed may bring back what was said in the cases before.
        older = itertools.chain.from_iterable(self._older)
        everybody = [*journals, *older, *self.others, *self._offers]
        findings += [str(item) for item in audit(everybody, chain, domains, self._limits())]
        self._older = [[*journals, *self.others], *self._older][:OLDER_MAX]
        offers = tuple(item for item in journals[1].messages if item.sealed and item.kind == "offer")
        self._offers.append(Evidence("offers", "", offers, ()))
        self.others = []
        energy = self._energy() - before[2]
        paid = self._balance(receiver) - before[0]
        out = before[1] - self._balance(payer)
        price = STATION_CHANGES["price_atomic_per_kwh"]
        fee = station_settings(self.networks["station"].network(), self.station).start_fee_atomic
        # The fee is owed as soon as the money is in place; nothing is when nothing was put in place.
        fair = (fee if paid or energy else 0) + price * energy // 1_000_000
        with contextlib.suppress(OSError):
            rows, station_rows = (
                self._rows(folder / "wallet.sqlite"),
                self._rows(folder / f"station-{self.station}.sqlite"),
            )
        whole = energy >= ENERGY_MILLIWH - 5
        recovered = -1.0
        if "healed" in marks:
            recovered = max(0.0, marks.get("progress", marks["healed"]) - marks["healed"])
        if self._previous is not None:
            shutil.rmtree(self._previous)
        self._previous = folder
        return Outcome(
            case.name,
            ended,
            whole,
            max(0, paid - fair),
            max(0, fair - paid),
            out - paid,
            round(recovered, 2),
            tuple(findings),
            round(time.monotonic() - begin_s, 1),
            rows,
            counts["robot"][0],
            station_rows,
            counts["station"][0],
        )

    def _is_over(self, wallet: WalletProgram, program: StationProgram, folder: Path, session: str) -> bool:
        if wallet.phase in GAVE_UP:
            found = program.state.sessions.get(session)
            return found is None or found.phase in ("SETTLED", "LAPSED")
        if wallet.state.session is None or wallet.phase != "SETTLED":
            return False
        if not (folder / f"receipt-{session}.json").exists():
            return False
        found = program.state.sessions.get(session)
        return found is None or found.phase in ("SETTLED", "LAPSED")

    @staticmethod
    def _look(wallet: WalletProgram, program: StationProgram, session: str) -> tuple[Any, ...]:
        found = program.state.sessions.get(session)
        own = wallet.state.session
        return (
            wallet.phase,
            own.money.signed if own is not None and own.money is not None else 0,
            None if found is None else (found.phase, found.vouchers, found.meter.last_milliwh),
        )

    def _limits(self) -> Limits:
        policy = make_policy(self.robot, (self.station,))
        return Limits(
            policy.session_max_atomic,
            policy.day_max_atomic,
            policy.escrow_total_max_atomic,
            tuple(bytes(payee) for payee in policy.payees),
        )

    @staticmethod
    def _rows(path: Path) -> int:
        return max((item.row for item in read_evidence(path).messages), default=0)

    def _balance(self, holder: bytes) -> int:
        # The token's own word, past every proxy.
        data = "0x70a08231" + bytes(12).hex() + holder.hex()
        to = "0x" + bytes(DEVELOPMENT_USDC).hex()
        return int(self.chain.rpc("eth_call", {"to": to, "data": data}, "latest"), 16)

    def _energy(self) -> int:
        with self.world.pads.lock:
            return int(self.world.pads.connector(self.station, 1).read().energy_milliwh)


def to_json(outcome: Outcome) -> str:
    return json.dumps({name: getattr(outcome, name) for name in outcome.__slots__})
