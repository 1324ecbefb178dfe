"""The acceptance suite: one robot, whatever it runs on, is asked for charges and watched from outside.

Started by ``depai-robot acceptance``. It speaks to the robot by the wallet's action and listens to its topics. What it
can't do to a robot from outside (cut its broker, kill its wallet, meet a cheat) it does with commands it is given, or
on the embedded target by itself; what it has no means for is reported as not run.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import BatteryState
from std_msgs.msg import String

from depai_robot.adapters.keystore_signer import KeystoreSigner
from depai_robot.app.acceptance import (
    FAILED,
    NOT_RUN,
    PASSED,
    STEPS,
    StepResult,
    make_report,
    render,
    seal_report,
)
from depai_robot.app.demo_plan import DemoPlan
from depai_robot.app.site import ROBOT, Site
from depai_robot.nodes.charge_action import MISSING
from depai_robot.nodes.docking_protocol import decode_state
from depai_robot.nodes.quality import LATCHED, STATE
from depai_robot.payment.receipt import Receipt, parse_receipt
from depai_robot.ports import Signer
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.error import ConfigError, DepaiError, DeviceFailedError, DeviceTimeoutError
from depai_robot.values.money import cost_atomic

IDLE_A = 0.05
"""Source: Nav2's docking server: below this current nothing charges."""
CUT_S = 2.0
RETRY_S = 3.0
METER_BAND_MILLIWH = 400
READY_TIMEOUT_S = 90.0
HONEST, CHEAT = "st-near", "st-far"
"""Stations of the embedded target: the cheaper one is told to over-count."""


class Robot:
    """The robot under test, from outside."""

    def __init__(self, node: Node, timeout_s: float) -> None:
        from depai_interfaces.action import Charge
        from depai_interfaces.msg import ChargingReceipt, ChargingSession

        self.charge_type = Charge
        self._node, self._timeout_s = node, timeout_s
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(node)
        self.poses = 0
        self.docking: list[tuple[str, str]] = []
        self.current_a = float("nan")
        self.session: Any = None
        self.receipts: dict[str, Receipt] = {}
        listen = node.create_subscription
        listen(PoseStamped, "detected_dock_pose", self._take_pose, STATE)
        listen(String, "docking/state", self._take_docking, LATCHED)
        listen(BatteryState, "battery_state", self._take_battery, STATE)
        listen(ChargingSession, "wallet/session", self._take_session, LATCHED)
        listen(ChargingReceipt, "wallet/receipt", self._take_receipt, LATCHED)
        self.wallet_phase = ""
        listen(String, "wallet/phase", lambda message: setattr(self, "wallet_phase", message.data), LATCHED)
        self.client = ActionClient(node, Charge, "wallet/charge_battery")

    def _take_pose(self, message: PoseStamped) -> None:
        del message
        self.poses += 1

    def _take_docking(self, message: String) -> None:
        state = decode_state(message.data)
        self.docking.append((state.phase, state.result))

    def _take_battery(self, message: BatteryState) -> None:
        self.current_a = float(message.current)

    def _take_session(self, message: Any) -> None:
        self.session = message

    def _take_receipt(self, message: Any) -> None:
        receipt = parse_receipt(message.json)
        self.receipts[receipt.session] = receipt

    def until(self, condition: Callable[[], object], what: str, timeout_s: float | None = None) -> None:
        """Spins. Raises DeviceTimeoutError, naming what was waited for."""
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > deadline:
                raise DeviceTimeoutError(f"{what}: not within {limit_s:.0f} s")
            self._executor.spin_once(timeout_sec=0.1)

    def listen(self, seconds: float) -> None:
        """Lets time pass."""
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > end, "time", seconds + 60)

    def phase(self) -> str:
        """Of the session."""
        return "" if self.session is None else str(self.session.phase)

    def ready(self) -> None:
        """Waits for a wallet that runs and has no session open."""
        self.until(self.client.server_is_ready, "the wallet's action charge_battery", READY_TIMEOUT_S)
        self.until(lambda: self.wallet_phase in ("IDLE", "SETTLED"), "a wallet at rest")

    def charge(self, during: Callable[[], None] | None = None, **limits: Any) -> Any:
        """One charge; ``during`` is called once in the midst of it. Returns the action's result, None after that.

        A station that has just come up, or is barred for a while, is asked again for a minute and a half; so is a
        wallet that is still at the end of another goal.
        """
        codes = self.charge_type.Result
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            result = self._try(during, limits)
            if result is None or result.error_code not in (codes.NO_OFFER, codes.BUSY):
                return result
            if time.monotonic() > deadline:
                return result
            self.listen(RETRY_S)

    def _try(self, during: Callable[[], None] | None, limits: dict[str, Any]) -> Any:
        self.ready()
        self.docking.clear()
        self.poses = 0
        goal = self.charge_type.Goal(**limits)
        future = self.client.send_goal_async(goal)
        self.until(future.done, "the wallet takes the goal", 30)
        result = future.result().get_result_async()
        if during is not None:
            self.until(lambda: self.phase() == "CHARGING" or result.done(), "charging")
            self.until(
                lambda: (self.session is not None and self.session.energy_milliwh > 0) or result.done(),
                "energy",
            )
            if not result.done():
                during()
                return None
        self.until(result.done, "the end of the session")
        return result.result().result

    def receipt(self, session: str) -> Receipt:
        """Of a session that has ended."""
        self.until(lambda: session in self.receipts, f"the receipt of {session}", 60)
        return self.receipts[session]


class Means:
    """What the suite may do to the robot besides asking it: a command for each, empty for none."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.station, self.cheat = str(options.station), str(options.cheat_station)
        self._commands = {
            "cut": options.cut_command,
            "restore": options.restore_command,
            "kill": options.kill_command,
        }

    def has(self, what: str) -> bool:
        """Whether there is a way."""
        return bool(self._commands.get(what))

    def do(self, what: str) -> None:
        """Raises DeviceFailedError when the command fails."""
        done = subprocess.run(
            ["/bin/sh", "-c", self._commands[what]], check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise DeviceFailedError(
                f"{self._commands[what]!r} ended with {done.returncode}: {done.stderr[-300:]}"
            )


class EmbeddedMeans(Means):
    """On the embedded target: the suite's own site."""

    def __init__(self, options: argparse.Namespace, site: Site) -> None:
        super().__init__(options)
        self._site = site
        self.station, self.cheat = HONEST, CHEAT

    def has(self, what: str) -> bool:
        """Everything."""
        return what in ("cut", "restore", "kill")

    def do(self, what: str) -> None:
        """To the site's own processes."""
        if what == "cut":
            self._site.cut_broker()
        elif what == "restore":
            self._site.restore_broker()
        else:
            self._site.kill_node("wallet")
            start_wallet(self._site)


def start_wallet(site: Site) -> None:
    """The site's own, at the pose where odometry began."""
    site.start_node("wallet", "wallet", "use_sim_time:=true", f"initial_pose:={site.start_pose}")


# --- steps -----------------------------------------------------------------------------------------------------


class Suite:
    """Runs the steps; each failure is a result, not the end."""

    def __init__(self, robot: Robot, means: Means, tell: Callable[[StepResult], None]) -> None:
        self._robot, self._means, self._tell = robot, means, tell
        self.results: list[StepResult] = []

    def _add(self, name: str, outcome: Any, detail: str, begun_s: float) -> None:
        result = StepResult(name, outcome, detail[:500], round(time.monotonic() - begun_s, 1))
        self.results.append(result)
        self._tell(result)

    def _step(self, name: str, run: Callable[[], str]) -> bool:
        begun_s = time.monotonic()
        try:
            detail = run()
        except (DepaiError, OSError) as error:
            self._add(name, FAILED, str(error), begun_s)
            return False
        self._add(name, PASSED, detail, begun_s)
        return True

    def _skip(self, name: str, why: str) -> None:
        self._add(name, NOT_RUN, why, time.monotonic())

    def run(self, names: list[str]) -> None:
        """The steps asked for, in their order."""
        first: list[str] = [name for name in ("find", "dock", "pay", "undock") if name in names]
        if first:
            self._first(first)
        if "cheat" in names:
            if self._means.cheat:
                self._step("cheat", self._cheat)
            else:
                self._skip("cheat", "no station that cheats was named: --cheat-station ID")
        for name, needs in (("cut", ("cut", "restore")), ("kill", ("kill",))):
            if name not in names:
                continue
            missing = [f"--{what}-command" for what in needs if not self._means.has(what)]
            if missing:
                self._skip(name, f"no way to do it: {', '.join(missing)}")
            else:
                self._step(name, self._cut if name == "cut" else self._kill)

    def _first(self, names: list[str]) -> None:
        """One honest session tells of four steps."""
        begun_s = time.monotonic()
        try:
            result = self._robot.charge(station=self._means.station)
            receipt = self._robot.receipt(result.receipt_id) if result.receipt_id else None
        except DepaiError as error:
            for name in names:
                self._add(name, FAILED, str(error), begun_s)
            return
        said = f"error {result.error_code}: {result.error_msg}" if result.error_code else ""
        checks: dict[str, Callable[[], str]] = {
            "find": self._found,
            "dock": lambda: self._ended_with("docked", said),
            "pay": lambda: self._paid(receipt, said),
            "undock": lambda: self._left(said),
        }
        for name in names:
            self._step(name, checks[name])

    def _found(self) -> str:
        if not self._robot.poses:
            raise DeviceFailedError("no detected_dock_pose was published")
        return f"{self._robot.poses} poses of the dock"

    def _ended_with(self, result: str, said: str) -> str:
        if not any(ended == result for _, ended in self._robot.docking):
            phases = ", ".join(phase for phase, _ in self._robot.docking) or "none"
            raise DeviceFailedError(f"docking never said {result}; phases: {phases}; {said}")
        return ", ".join(phase for phase, _ in self._robot.docking)

    def _left(self, said: str) -> str:
        detail = self._ended_with("undocked", said)
        if self._robot.current_a > IDLE_A:
            raise DeviceFailedError(
                f"{self._robot.current_a:.2f} A flow into the battery of a robot that has left"
            )
        return detail

    def _paid(self, receipt: Receipt | None, said: str) -> str:
        if receipt is None:
            raise DeviceFailedError(f"no receipt: {said}")
        if receipt.fault:
            raise DeviceFailedError(f"an honest station was found at fault: {receipt.fault}")
        return check_receipt(receipt)

    def _cheat(self) -> str:
        result = self._robot.charge(station=self._means.cheat)
        if not result.receipt_id:
            raise DeviceFailedError(
                f"no session with {self._means.cheat}: {result.error_code} {result.error_msg}"
            )
        receipt = self._robot.receipt(result.receipt_id)
        if not receipt.fault:
            raise DeviceFailedError("the cheat was not noticed: the receipt names no fault")
        fair = receipt.start_fee_atomic + cost_atomic(
            receipt.price_atomic_per_kwh, receipt.robot_energy_milliwh
        )
        lost = receipt.claimed_atomic - receipt.base_atomic - fair
        return f"caught: {receipt.fault}; it took {lost} atomic units above what was fair"

    def _interrupted(self, interrupt: Callable[[], None]) -> str:
        before = set(self._robot.receipts)
        result = self._robot.charge(interrupt, station=self._means.station)
        if result is not None:
            raise DeviceFailedError(
                f"it ended before the interruption: {result.error_code} {result.error_msg}"
            )
        self._robot.until(lambda: set(self._robot.receipts) - before, "a receipt after the interruption")
        (session,) = set(self._robot.receipts) - before
        return check_receipt(self._robot.receipts[session])

    def _cut(self) -> str:
        def cut() -> None:
            self._means.do("cut")
            self._robot.listen(CUT_S)
            self._means.do("restore")

        return self._interrupted(cut)

    def _kill(self) -> str:
        return self._interrupted(lambda: self._means.do("kill"))


def check_receipt(receipt: Receipt) -> str:
    """Sums and meters. Raises DeviceFailedError, saying which does not fit."""
    owed = receipt.owed_atomic
    difference = abs(receipt.station_energy_milliwh - receipt.robot_energy_milliwh)
    claimed = receipt.claimed_atomic - receipt.base_atomic
    ceiling = receipt.ceiling_atomic - receipt.base_atomic
    problems = [
        text
        for bad, text in (
            (receipt.robot_energy_milliwh <= 0, "no energy came in"),
            (difference > METER_BAND_MILLIWH, f"the meters differ by {difference} mWh"),
            (claimed > ceiling, f"{claimed} were claimed, {ceiling} signed"),
            (owed > ceiling, f"{owed} are owed, {ceiling} were signed"),
        )
        if bad
    ]
    if problems:
        raise DeviceFailedError("; ".join(problems))
    return f"{receipt.robot_energy_milliwh} mWh for {owed} atomic units, {receipt.vouchers} vouchers"


# --- targets ---------------------------------------------------------------------------------------------------


def run_suite(options: argparse.Namespace, means: Means, robot_id: str) -> tuple[str, list[StepResult]]:
    """Connects and runs."""
    rclpy.init()
    node = Node("acceptance", namespace=options.namespace or None)
    robot = Robot(node, options.timeout)

    def tell(result: StepResult) -> None:
        sys.stdout.write(f"{result.outcome:8} {result.name:7} {result.seconds:6.1f} s  {result.detail}\n")
        sys.stdout.flush()

    try:
        robot.ready()
        suite = Suite(robot, means, tell)
        suite.run(options.steps)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return robot_id, suite.results


def run_embedded(options: argparse.Namespace) -> tuple[str, list[StepResult]]:
    """Makes the whole loop on this machine, and runs the suite against it."""
    folder = Path(options.out) / time.strftime("%Y%m%d-%H%M%S-acceptance")
    folder.mkdir(parents=True)
    plan = DemoPlan(
        folder=folder.resolve(),
        seed=options.seed,
        stations=2,
        dishonest="over-meter",
        speed_docked=1.0,
        energy_milliwh=2000,
    )
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"

    def tell(step: str) -> None:
        sys.stdout.write(f"set-up: {step}\n")

    with Site(plan, tell) as site:
        site.open()
        site.start_node("simulation", "simulation")
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not site.has_link():
            site.check_processes()
            if time.monotonic() > deadline:
                raise DeviceTimeoutError("the simulation does not start")
            time.sleep(0.1)
        site.start_stations()
        site.start_node("robot", "robot", "use_sim_time:=true")
        start_wallet(site)
        return run_suite(options, EmbeddedMeans(options, site), ROBOT)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Options, as ``depai-robot acceptance`` gives them."""
    parser = argparse.ArgumentParser(prog="acceptance", description=__doc__)
    parser.add_argument("--target", choices=["embedded", "gazebo", "jetson"], default="embedded")
    parser.add_argument("--out", default="out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", nargs="*", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--robot", default="robot")
    parser.add_argument("--namespace", default="")
    parser.add_argument("--timeout", type=float, default=240.0)
    parser.add_argument("--station", default="")
    parser.add_argument("--cheat-station", default="")
    parser.add_argument("--cut-command", default="")
    parser.add_argument("--restore-command", default="")
    parser.add_argument("--kill-command", default="")
    parser.add_argument("--keystore", default="")
    parser.add_argument("--passphrase-file", default="")
    return parser.parse_args(arguments)


def open_key(options: argparse.Namespace) -> Signer:
    """The tester's key; a development key where none was given, which proves nothing about who tested."""
    if not options.keystore:
        return DevelopmentSigner("acceptance")
    passphrase = Path(options.passphrase_file).read_text(encoding="utf-8").strip()
    return KeystoreSigner(Path(options.keystore), passphrase)


def main() -> None:
    """Entry point: exit code 0 only when nothing failed."""
    options = parse()
    try:
        if MISSING:
            raise ConfigError(MISSING)
        signer = open_key(options)
        run = run_embedded if options.target == "embedded" else None
        robot, results = run(options) if run else run_suite(options, Means(options), options.robot)
        report = make_report(options.target, robot, results)
        folder = Path(options.out)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"acceptance-{options.target}.jws"
        path.write_text(seal_report(report, signer) + "\n", encoding="utf-8")
        path.with_suffix(".json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    except (DepaiError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    sys.stdout.write(f"{render(report)}\nreport   {path}\n")
    sys.exit(0 if report.passed else 1)


if __name__ == "__main__":
    main()
