"""The whole loop on one machine: world, robot, wallet, stations, broker and chain, each a process of its own.

Makes the files of a run in its folder, starts everything on loopback, waits for the receipt and audits it.
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from depai_robot.adapters.anvil import AnvilProcess, call_rpc, fund, place_contracts, start_anvil
from depai_robot.adapters.broker_process import BrokerProcess, start_broker
from depai_robot.adapters.web3_chain import NetworkConfig, Web3Chain
from depai_robot.app.audit import Check, audit, read_facts, write_checks, write_statements
from depai_robot.app.config import NetworkFile, read_yaml
from depai_robot.app.demo_plan import DemoPlan, StationPlan, make_world, plan_stations
from depai_robot.app.resource import resource_path
from depai_robot.app.story import StoryTail, StoryWriter
from depai_robot.app.supervisor import Supervisor
from depai_robot.payment.policy import SpendPolicy, format_policy, policy_digest
from depai_robot.payment.receipt import Receipt, parse_receipt
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.sim.scene import parse_world
from depai_robot.values.error import DeviceFailedError, DeviceTimeoutError
from depai_robot.values.identity import address_from_hex, address_to_hex
from depai_robot.values.money import cost_atomic

ROBOT = "rover-1"
ZONE = "demo"
ROBOT_USDC_ATOMIC = 5_000_000
WITHDRAW_DELAY_S = 900
TIMEOUT_S = 170.0
BLOCK_TIME_S = 1.0
METER_BAND_MILLIWH = 400
"""Between the two journals' totals: cable losses of 1.5 % of 10 Wh, both meters' errors, one report interval."""
TRANCHE_MILLIWH = 500

Progress = Callable[[str], None]


@dataclass(slots=True)
class Outcome:
    """What came of it.

    Attributes:
        receipt: of the session, None when there was none.
        checks: of the audit.
        loop_s: wall time from everything up to the receipt.
    """

    receipt: Receipt | None = None
    checks: list[Check] = field(default_factory=list)
    loop_s: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return bool(self.checks) and all(check.ok for check in self.checks)


class Demo:
    """One run; use as a context, so that every process ends with it."""

    def __init__(self, plan: DemoPlan, progress: Progress) -> None:
        self.plan = plan
        self._progress = progress
        self._world = make_world(plan)
        parse_world(yaml.safe_dump(self._world), "the demo's world")
        self.stations = plan_stations(plan, [dock["id"] for dock in self._world["docks"]])
        self._dock_by_id = {dock["id"]: dock for dock in self._world["docks"]}
        # Keys of this run alone: two demos side by side must not hold the same key, which the key lock refuses.
        self._key_prefix = f"demo {plan.folder.name[:40]} {os.getpid()}"
        self.keys = {
            role: DevelopmentSigner(f"{self._key_prefix} {role}")
            for role in ("identity", "voucher", "payer", "owner")
        }
        self._supervisor: Supervisor | None = None
        self._chain: AnvilProcess | None = None
        self._broker: BrokerProcess | None = None
        # A socket's path is at most 107 bytes, and a run's folder may be deep.
        self._sockets = tempfile.TemporaryDirectory(prefix="depai-")
        self.link = Path(self._sockets.name) / "link"
        self._story = StoryWriter(plan.folder, "demo")
        self._before: dict[str, int] = {}

    # --- the run -------------------------------------------------------------------------------------------

    def __enter__(self) -> "Demo":  # noqa: PYI034
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends every process, the robot's first."""
        if self._supervisor is not None:
            self._supervisor.stop_all()
            self._supervisor = None
        for part in (self._broker, self._chain):
            if part is not None:
                part.stop()
        self._broker = self._chain = None
        self._story.close()
        self._sockets.cleanup()

    def start(self) -> None:
        """Chain, broker, world, robot, stations, recorder; the wallet comes last, since it acts by itself."""
        plan = self.plan
        logs = plan.folder / "logs"
        self._step("development chain")
        self._chain = start_anvil(logs, block_time_s=BLOCK_TIME_S)
        place_contracts(self._chain.url, resource_path("contracts", "artifacts"))
        self._fund(self._chain.url)
        self._step("message broker")
        self._broker = start_broker(plan.folder / "broker", plan.broker)
        self._story.tell("broker", program=self._broker.kind)
        self._write_files()
        environment = {
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "ROS_DOMAIN_ID": os.environ.get("ROS_DOMAIN_ID", str(1 + os.getpid() % 100)),
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
        }
        self._supervisor = Supervisor(logs, environment)
        self._step("simulated world")
        self._node("simulation", "simulation")
        self._wait_for_line("sim", "camera")
        self._step("stations, robot and recorder")
        for station in self.stations:
            config = str(plan.folder / f"station-{station.id}.yaml")
            self._supervisor.start_python(
                f"station-{station.id}", "depai_robot.cli.main", "station", "run", "--config", config
            )
        self._node("robot", "robot", "use_sim_time:=true")
        self._node("recorder", "recorder", "use_sim_time:=true", f"path:={plan.folder / 'run.mcap'}")
        self._wait_for_offers()
        self._step("wallet")
        start = self._world["start"]
        pose = f"initial_pose:=[{start['x_m']}, {start['y_m']}, {start['yaw_rad']}]"
        self._node("wallet", "wallet", "use_sim_time:=true", pose)
        self._step("everything runs", done=True)

    def check_processes(self) -> None:
        """Raises DeviceFailedError, with the end of its log, when a process has ended that should not."""
        if self._supervisor is not None:
            vanished = [f"station-{s.id}" for s in self.stations if s.dishonest == "vanish"]
            self._supervisor.check(vanished)

    def receipt(self) -> Receipt | None:
        """The session's receipt, once it is there."""
        for path in sorted(self.plan.folder.glob("receipt-*.json")):
            return parse_receipt(path.read_bytes())
        return None

    def advance_chain(self, seconds: int) -> None:
        """Moves the development chain's clock forward, for a withdrawal whose delay nobody wants to sit out."""
        if self._chain is not None:
            call_rpc(self._chain.url, "evm_increaseTime", [seconds])
            call_rpc(self._chain.url, "evm_mine", [])

    # --- the end -------------------------------------------------------------------------------------------

    def judge(self, receipt: Receipt) -> Outcome:
        """Stops the robot's and stations' processes in an orderly way, then audits what they left."""
        if self._supervisor is not None:
            for name, status in self._supervisor.stop_all().items():
                if status not in (0, -15):
                    self._story.tell(
                        "check", name=f"{name} ends in order", ok=False, detail=f"status {status}"
                    )
        chain = self._open_chain()
        folder = self.plan.folder
        seller = next((s for s in self.stations if s.id == receipt.station), self.stations[0])
        wallet = read_facts(folder / "wallet.sqlite", address_to_hex(self.keys["voucher"].address))
        station = read_facts(
            folder / f"station-{seller.id}.sqlite",
            address_to_hex(self.station_key(seller.id, "identity").address),
        )
        (folder / "receipt.json").write_text(
            (folder / f"receipt-{receipt.session}.json").read_text(encoding="utf-8"), encoding="utf-8"
        )
        count = write_statements(folder / "statements.ocmf", station, receipt.session)
        checks = audit(receipt, wallet, station, chain, METER_BAND_MILLIWH)
        payer = chain.token_balance(self.keys["payer"].address)
        spent = self._before["payer"] - payer
        left = receipt.deposited_atomic - receipt.claimed_atomic - receipt.returned_atomic
        checks.append(
            Check(
                "the payer's tokens are what is left after claim and rest",
                spent == receipt.claimed_atomic + left,
                f"{spent} spent, {receipt.claimed_atomic} claimed, {left} still in the channel",
            )
        )
        if self.plan.dishonest == "none":
            checks += self._honest_checks(receipt, count)
        else:
            checks = self._dishonest_checks(receipt, checks)
        write_checks(folder / "checks.json", checks)
        for check in checks:
            self._story.tell("check", name=check.name, ok=check.ok, detail=check.detail)
        return Outcome(receipt, checks)

    def _honest_checks(self, receipt: Receipt, statements: int) -> list[Check]:
        return [
            Check(
                "at least 10 Wh were bought",
                receipt.robot_energy_milliwh >= 10_000,
                f"{receipt.robot_energy_milliwh} mWh",
            ),
            Check("in at least 20 tranches", receipt.vouchers >= 20, f"{receipt.vouchers} vouchers"),
            Check(
                "claimed is what is owed",
                receipt.claimed_atomic == receipt.owed_atomic,
                f"{receipt.claimed_atomic}",
            ),
            Check("signed statements were kept", statements >= 2, f"{statements} statements"),
            Check("no fault was found", not receipt.fault, receipt.fault or "none"),
        ]

    def _dishonest_checks(self, receipt: Receipt, checks: list[Check]) -> list[Check]:
        """Against a cheat: what it took, that it was noticed, that the robot left and kept the evidence."""
        fair = (
            cost_atomic(receipt.price_atomic_per_kwh, receipt.robot_energy_milliwh) + receipt.start_fee_atomic
        )
        band = cost_atomic(receipt.price_atomic_per_kwh, METER_BAND_MILLIWH)
        tranche = cost_atomic(receipt.price_atomic_per_kwh, TRANCHE_MILLIWH)
        lost = receipt.claimed_atomic - fair
        evidence = sorted(path.name for path in self.plan.folder.glob("evidence-*.json"))
        silent = self.plan.dishonest == "vanish"
        # Where charging ends exactly at the last ceiling, an over-claim has nothing to claim.
        nothing_to_take = (
            self.plan.dishonest == "over-claim" and receipt.ceiling_atomic == receipt.owed_atomic
        )
        # What can't hold against this cheat is what it cheats about; everything else must.
        excused = {"claimed is not above what is owed"}
        if self.plan.dishonest in ("over-meter", "no-power"):
            excused |= {"both meters agree within the band", "the receipt's energies are the meters'"}
        return [
            *(check for check in checks if check.name not in excused),
            Check(
                "the cheat took at most one tranche and the meter band",
                lost <= tranche + band,
                f"{lost} atomic units above what was fair, at most {tranche} + {band}",
            ),
            Check(
                "the cheat was noticed",
                bool(receipt.fault) or nothing_to_take,
                receipt.fault or "nothing to take",
            ),
            Check(
                "the evidence is kept",
                bool(evidence) or silent or nothing_to_take,
                ", ".join(evidence) or "silence leaves none",
            ),
        ]

    # --- files ---------------------------------------------------------------------------------------------

    def station_key(self, station: str, role: str) -> DevelopmentSigner:
        """A station's key: ``identity``, ``receiver`` or ``meter``."""
        return DevelopmentSigner(f"{self._key_prefix} {station} {role}")

    def _write_files(self) -> None:
        plan, folder = self.plan, self.plan.folder
        self._write("world.yaml", self._world)
        story = str(folder.resolve())
        self._write(
            "simulation.yaml",
            {
                "robot": ROBOT,
                "world": str((folder / "world.yaml").resolve()),
                "link": str(self.link),
                "story": story,
                "connectors": [{"dock": s.dock, "station": s.id} for s in self.stations],
                "seed": plan.seed,
                "speed_driving": plan.speed_driving,
                "speed_docked": plan.speed_docked,
                "camera": plan.camera,
                "shadows": False,
            },
        )
        start = self._world["start"]
        pose = [start["x_m"], start["y_m"], start["yaw_rad"]]
        self._write(
            "robot.yaml", {"robot": ROBOT, "link": str(self.link), "initial_pose": pose, "story": story}
        )
        self._write_policy()
        self._write("wallet.yaml", self._wallet_file())
        for station in self.stations:
            self._write(f"station-{station.id}.yaml", self._station_file(station))

    def _write(self, name: str, data: dict[str, Any]) -> None:
        (self.plan.folder / name).write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")

    def _common(self) -> dict[str, Any]:
        if self._chain is None or self._broker is None:
            raise DeviceFailedError("the demo's chain and broker do not run")
        return {
            "zone": ZONE,
            "folder": ".",
            "chain": {"network": "development", "rpc_urls": [self._chain.url]},
            "broker": {"host": self._broker.host, "port": self._broker.port},
            "link": str(self.link),
        }

    def _wallet_file(self) -> dict[str, Any]:
        names = {
            role: {"development": f"{self._key_prefix} {role}"} for role in ("identity", "voucher", "payer")
        }
        return {
            "version": 1,
            "robot": ROBOT,
            **self._common(),
            "keys": names,
            "owner": address_to_hex(self.keys["owner"].address),
            "policy": "policy.json",
            "charge": {"below_permille": 190, "energy_milliwh": self.plan.energy_milliwh, "retry_s": 3600},
            "settings": {"settle_timeout_ms": 20_000, "withdraw_poll_ms": 4000, "receipt_wait_ms": 4000},
        }

    def _station_file(self, station: StationPlan) -> dict[str, Any]:
        dock = self._dock_by_id[station.dock]
        prefix = f"{self._key_prefix} {station.id}"
        data: dict[str, Any] = {
            "version": 1,
            "station": station.id,
            "name": station.name,
            **self._common(),
            "keys": {role: {"development": f"{prefix} {role}"} for role in ("identity", "receiver")},
            "dock": station.dock,
            "marker_id": dock["marker_id"],
            "pose": {"x_m": dock["x_m"], "y_m": dock["y_m"], "yaw_rad": dock["yaw_rad"]},
            "meters": [{"serial": f"M-{station.id}", "key": {"development": f"{prefix} meter"}}],
            "settings": {
                "price_atomic_per_kwh": station.price_atomic_per_kwh,
                "price_floor_atomic_per_kwh": station.price_atomic_per_kwh,
                "start_fee_atomic": station.start_fee_atomic,
                "tranche_milliwh": TRANCHE_MILLIWH,
                "power_max_w": 300,
                "report_interval_ms": 1000,
                "voucher_timeout_ms": 5000,
                "withdraw_delay_s": WITHDRAW_DELAY_S,
                "refund_wait_ms": 6000,
            },
            "dishonest": station.dishonest,
        }
        if not station.serves:
            data["served"] = [address_to_hex(self.station_key(station.id, "receiver").address)]
        return data

    def _write_policy(self) -> None:
        now_s = int(time.time())
        network = self._network()
        policy = SpendPolicy(
            robot=self.keys["voucher"].address,
            epoch=1,
            valid_after_s=now_s - 3600,
            valid_before_s=now_s + 30 * 86_400,
            tranche_max_atomic=1000,
            session_max_atomic=50_000,
            day_max_atomic=200_000,
            escrow_channel_max_atomic=50_000,
            escrow_unknown_max_atomic=20_000,
            escrow_total_max_atomic=60_000,
            withdraw_delay_max_s=3600,
            price_max_atomic_per_kwh=700_000,
            start_fee_max_atomic=5000,
            payees=tuple(self.station_key(s.id, "receiver").address for s in self.stations),
        )
        owner = self.keys["owner"]
        signature = owner.sign(policy_digest(policy, network.chain_id))
        data = format_policy(policy, network.chain_id, owner.address, signature)
        (self.plan.folder / "policy.json").write_bytes(data)

    # --- parts ---------------------------------------------------------------------------------------------

    def _network(self) -> NetworkFile:
        return read_yaml(resource_path("config", "network", "development.yaml"), NetworkFile)

    def _open_chain(self) -> Web3Chain:
        network = self._network()
        if self._chain is None:
            raise DeviceFailedError("the demo's chain does not run")
        return Web3Chain(
            NetworkConfig(
                rpc_urls=(self._chain.url,),
                chain_id=network.chain_id,
                token=address_from_hex(network.token),
                token_name=network.token_name,
                token_version=network.token_version,
                settlement_code_hash=bytes.fromhex((network.settlement_code_hash or "")[2:]),
                collector_code_hash=bytes.fromhex((network.collector_code_hash or "")[2:]),
            )
        )

    def _fund(self, url: str) -> None:
        fund(url, self.keys["payer"].address, usdc_atomic=ROBOT_USDC_ATOMIC)
        fund(url, self.keys["voucher"].address)
        for station in self.stations:
            fund(url, self.station_key(station.id, "receiver").address)
        chain = self._open_chain()
        chain.check_pins()
        self._before["payer"] = chain.token_balance(self.keys["payer"].address)

    def _node(self, name: str, config: str, *parameters: str) -> None:
        if self._supervisor is None:
            raise DeviceFailedError("the demo has no supervisor")
        arguments = ["--ros-args", "-p", f"config:={self.plan.folder / f'{config}.yaml'}"]
        if name == "recorder":
            arguments = ["--ros-args"]
        for parameter in parameters:
            arguments += ["-p", parameter]
        self._supervisor.start_python(name, f"depai_robot.nodes.{name}", *arguments)

    def _step(self, name: str, *, done: bool = False) -> None:
        self._progress(name)
        self._story.tell("setup", step=name, done=done)

    def _wait_for_line(self, source: str, kind: str, timeout_s: float = 40.0) -> None:
        tail = StoryTail(self.plan.folder)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if any(line.source == source and line.kind == kind for line in tail.new_lines()):
                return
            self.check_processes()
            time.sleep(0.05)
        raise DeviceTimeoutError(
            f"{source} told no {kind!r} in {timeout_s:.0f} s; see {self.plan.folder / 'logs'}"
        )

    def _wait_for_offers(self, timeout_s: float = 40.0) -> None:
        """Stations are up when their journals are there and their stories opened."""
        deadline = time.monotonic() + timeout_s
        wanted = [self.plan.folder / f"story-station-{s.id}.jsonl" for s in self.stations]
        while time.monotonic() < deadline:
            if all(path.exists() for path in wanted):
                return
            self.check_processes()
            time.sleep(0.05)
        missing = [path.name for path in wanted if not path.exists()]
        raise DeviceTimeoutError(
            f"no {', '.join(missing)} in {timeout_s:.0f} s; see {self.plan.folder / 'logs'}"
        )
