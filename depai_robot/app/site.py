"""Everything around the robot of a demo, on loopback: development chain, broker, stations, and the files of all.

``depai-robot demo`` runs it with the robot; ``depai-robot site`` runs it alone, for nodes that somebody else starts
(``ros2 launch depai_robot sim.launch.py``).
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO, TypeVar

import msgspec
import yaml
from msgspec import Struct

from depai_robot.adapters.anvil import AnvilProcess, call_rpc, fund, place_contracts, start_anvil
from depai_robot.adapters.broker_process import BrokerProcess, start_broker
from depai_robot.adapters.web3_chain import NetworkConfig, Web3Chain
from depai_robot.app.config import NetworkFile, read_yaml
from depai_robot.app.demo_plan import FIRST_ROBOT, DemoPlan, StationPlan, make_world, plan_stations
from depai_robot.app.resource import resource_path
from depai_robot.app.story import StoryWriter
from depai_robot.app.supervisor import Child, Supervisor
from depai_robot.payment.policy import SpendPolicy, format_policy, policy_digest
from depai_robot.perception.dock import parse_dock
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.sim.scene import parse_robot, parse_world
from depai_robot.sim.sdf import face_obj, make_sdf
from depai_robot.values.error import ConfigError, DeviceFailedError
from depai_robot.values.identity import address_from_hex, address_to_hex

ROBOT = FIRST_ROBOT
ZONE = "demo"
ROBOT_USDC_ATOMIC = 5_000_000
WITHDRAW_DELAY_S = 900
BLOCK_TIME_S = 1.0
TRANCHE_MILLIWH = 500
LOCK = ".site.lock"
SITE = "site.json"
"""In a run's folder: where its chain and broker are, for whoever joins."""

Progress = Callable[[str], None]
S = TypeVar("S", bound="Site")


class Around(Struct, frozen=True, forbid_unknown_fields=True):
    """What the runs of one site share.

    Attributes:
        chain_url: JSON-RPC of the development chain.
        broker_host, broker_port: of the message broker.
        robots: the ids that are taken.
    """

    chain_url: str
    broker_host: str
    broker_port: int
    robots: tuple[str, ...]


class Site:
    """One run's surroundings; use as a context, so that every process ends with it.

    Args:
        plan: what is asked for.
        progress: told each step.
    """

    def __init__(self, plan: DemoPlan, progress: Progress) -> None:
        self.plan = plan
        self._progress = progress
        self._world = make_world(plan)
        parse_world(yaml.safe_dump(self._world), "the demo's world")
        self.stations = plan_stations(plan, [dock["id"] for dock in self._world["docks"]])
        self._dock_by_id = {dock["id"]: dock for dock in self._world["docks"]}
        # Keys of this run alone: two demos side by side must not hold the same key, which the key lock refuses.
        self._key_prefix = f"demo {plan.folder.name[:40]} {plan.robot} {os.getpid()}"
        self.keys = {
            role: DevelopmentSigner(f"{self._key_prefix} {role}")
            for role in ("identity", "voucher", "payer", "owner")
        }
        self._supervisor: Supervisor | None = None
        self._chain: AnvilProcess | None = None
        self._broker: BrokerProcess | None = None
        self._around: Around | None = None
        self._lock: TextIO | None = None
        # A socket's path is at most 107 bytes, and a run's folder may be deep.
        self._sockets = tempfile.TemporaryDirectory(prefix="depai-")
        self.link = Path(self._sockets.name) / "link"
        self._story = StoryWriter(plan.folder, "demo")
        self._before: dict[str, int] = {}

    def __enter__(self: S) -> S:  # noqa: PYI019 - Self is of 3.11
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
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        self._sockets.cleanup()

    def open(self) -> None:
        """Chain, broker, and the files of everybody."""
        plan = self.plan
        logs = plan.folder / "logs"
        self._lock_folder()
        self._around = self._start_around(logs) if plan.join is None else self._join(plan.join)
        self._fund(self._around.chain_url)
        (plan.folder / SITE).write_bytes(msgspec.json.encode(self._around))
        self._write_files()
        environment = {
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "ROS_DOMAIN_ID": os.environ.get("ROS_DOMAIN_ID", str(1 + os.getpid() % 100)),
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
        }
        self._supervisor = Supervisor(logs, environment)

    def _lock_folder(self) -> None:
        """Raises ConfigError when another run has the folder: two must not write the same files and journals."""
        self._lock = (self.plan.folder / LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"{self.plan.folder}: in use by another run; give each robot a folder of its own"
            ) from error

    def _start_around(self, logs: Path) -> "Around":
        """Chain and broker of our own."""
        self._step("development chain")
        self._chain = start_anvil(logs, block_time_s=BLOCK_TIME_S)
        place_contracts(self._chain.url, resource_path("contracts", "artifacts"))
        self._step("message broker")
        self._broker = start_broker(self.plan.folder / "broker", self.plan.broker)
        self._story.tell("broker", program=self._broker.kind)
        return Around(self._chain.url, self._broker.host, self._broker.port, (self.plan.robot,))

    def _join(self, folder: Path) -> "Around":
        """Another run's chain and broker. Raises ConfigError when it has none, or a robot of our name."""
        path = folder / SITE
        try:
            around = msgspec.json.decode(path.read_bytes(), type=Around)
        except (OSError, msgspec.MsgspecError) as error:
            raise ConfigError(f"{path}: expected the file of a run to join ({error})") from error
        if self.plan.robot in around.robots:
            raise ConfigError(
                f"{folder}: its robot is called {self.plan.robot}, too; give this one another name"
            )
        self._step(f"joining {folder}")
        joined = msgspec.structs.replace(around, robots=(*around.robots, self.plan.robot))
        path.write_bytes(msgspec.json.encode(joined))
        return joined

    @property
    def zone(self) -> str:
        """Of the run's stations. A second world has its own: a station is offered to who can drive to it."""
        return ZONE if self.plan.join is None else f"{ZONE}-{self.plan.robot}"

    @property
    def start_pose(self) -> list[float]:
        """Of the robot in the map, where odometry begins: x m, y m, yaw rad."""
        start = self._world["start"]
        return [float(start[name]) for name in ("x_m", "y_m", "yaw_rad")]

    def has_link(self) -> bool:
        """Whether the simulation runs, where the stations' contactors and meters are."""
        return self.link.exists()

    def start_stations(self) -> None:
        """Each a process of its own."""
        if self._supervisor is None:
            raise DeviceFailedError("the site is not open")
        for station in self.stations:
            config = str(self.plan.folder / f"station-{station.id}.yaml")
            self._supervisor.start_python(
                f"station-{station.id}", "depai_robot.cli.main", "station", "run", "--config", config
            )

    def start_node(self, name: str, config: str, *parameters: str) -> None:
        """One process of nodes, with the site's file ``<config>.yaml``."""
        if self._supervisor is None:
            raise DeviceFailedError("the site is not open")
        arguments = ["--ros-args", "-p", f"config:={self.plan.folder / f'{config}.yaml'}"]
        if name == "recorder":
            arguments = ["--ros-args"]
        for parameter in parameters:
            arguments += ["-p", parameter]
        if self.plan.namespace:
            arguments += ["-r", f"__ns:=/{self.plan.namespace}"]
            for topic in ("clock", "tf", "tf_static"):
                arguments += ["-r", f"/{topic}:={topic}"]
        self._supervisor.start_python(name, f"depai_robot.nodes.{name}", *arguments)

    def kill_node(self, name: str) -> None:
        """As a power cut would; nothing is said."""
        child = self._child(name)
        child.process.kill()
        child.process.wait()
        if self._supervisor is not None:
            self._supervisor.stop(child)

    def process_id(self, name: str) -> int:
        """Of one of its processes. Raises DeviceFailedError when it runs none of that name."""
        return self._child(name).process.pid

    def _child(self, name: str) -> Child:
        for child in self._supervisor.children if self._supervisor is not None else []:
            if child.name == name:
                return child
        raise DeviceFailedError(f"the site runs no {name}")

    def cut_broker(self) -> None:
        """The broker is gone, until it is restored."""
        if self._broker is not None:
            self._broker.kill()

    def restore_broker(self) -> None:
        """On the same port, with what it had on disk."""
        if self._broker is not None:
            old = self._broker
            self._broker = start_broker(self.plan.folder / "broker", self.plan.broker, port=old.port)

    def check_processes(self) -> None:
        """Raises DeviceFailedError, with the end of its log, when a process has ended that should not."""
        if self._supervisor is not None:
            vanished = [f"station-{s.id}" for s in self.stations if s.dishonest == "vanish"]
            self._supervisor.check(vanished)

    def advance_chain(self, seconds: int) -> None:
        """Moves the development chain's clock forward, for a withdrawal whose delay nobody wants to sit out."""
        if self._chain is not None:
            call_rpc(self._chain.url, "evm_increaseTime", [seconds])
            call_rpc(self._chain.url, "evm_mine", [])

    # --- files ---------------------------------------------------------------------------------------------

    def station_key(self, station: str, role: str) -> DevelopmentSigner:
        """A station's key: ``identity``, ``receiver`` or ``meter``."""
        return DevelopmentSigner(f"{self._key_prefix} {station} {role}")

    def _write_files(self) -> None:
        plan, folder = self.plan, self.plan.folder
        self._write("world.yaml", self._world)
        self._write_sdf()
        story = str(folder.resolve())
        self._write(
            "simulation.yaml",
            {
                "robot": plan.robot,
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
            "robot.yaml", {"robot": plan.robot, "link": str(self.link), "initial_pose": pose, "story": story}
        )
        nodes = yaml.safe_load(resource_path("config", "robot_params.yaml").read_text(encoding="utf-8"))
        nodes["/**/wallet"]["ros__parameters"]["initial_pose"] = [float(number) for number in pose]
        self._write("nodes.yaml", nodes)
        self._write_policy()
        self._write("wallet.yaml", self._wallet_file())
        for station in self.stations:
            self._write(f"station-{station.id}.yaml", self._station_file(station))

    def _write_sdf(self) -> None:
        """The same world for Gazebo, with these docks."""
        robot = parse_robot(resource_path("config", "robot.yaml").read_text(encoding="utf-8"))
        dock = parse_dock(resource_path("config", "dock.yaml").read_text(encoding="utf-8"))
        world = parse_world(yaml.safe_dump(self._world), "the demo's world")
        folder = self.plan.folder
        (folder / "face.obj").write_text(face_obj(), encoding="utf-8")
        textures = resource_path("config", "dock").resolve().as_uri()
        text = make_sdf(robot, world, dock, textures=textures, face=(folder / "face.obj").resolve().as_uri())
        (folder / "world.sdf").write_text(text, encoding="utf-8")

    def _write(self, name: str, data: dict[str, Any]) -> None:
        (self.plan.folder / name).write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")

    def _common(self) -> dict[str, Any]:
        around = self._reach_around()
        return {
            "zone": self.zone,
            "folder": ".",
            "chain": {"network": "development", "rpc_urls": [around.chain_url]},
            "broker": {"host": around.broker_host, "port": around.broker_port},
            "link": str(self.link),
        }

    def _wallet_file(self) -> dict[str, Any]:
        names = {
            role: {"development": f"{self._key_prefix} {role}"} for role in ("identity", "voucher", "payer")
        }
        return {
            "version": 1,
            "robot": self.plan.robot,
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

    def _reach_around(self) -> "Around":
        if self._around is None:
            raise DeviceFailedError("the demo's chain and broker do not run")
        return self._around

    def _open_chain(self) -> Web3Chain:
        network = self._network()
        return Web3Chain(
            NetworkConfig(
                rpc_urls=(self._reach_around().chain_url,),
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

    def _step(self, name: str, *, done: bool = False) -> None:
        self._progress(name)
        self._story.tell("setup", step=name, done=done)
