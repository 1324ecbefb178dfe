"""What an acceptance run found, signed: which steps passed, failed, or were not run, on what, with which versions."""

import platform
import sys
import time
from importlib import metadata
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from depai_robot import __version__
from depai_robot.app.sealing import Sealer
from depai_robot.charging.envelope import open_bytes
from depai_robot.ports import Signer
from depai_robot.values.error import ConfigError, RemoteError
from depai_robot.values.identity import Address

CHAIN_ID = 1
"""Of the signer's did:pkh: an acceptance report belongs to no chain, and names it the main one."""
PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"
PACKAGES = ("ros-rclpy", "numpy", "onnxruntime", "opencv-python-headless", "web3", "paho-mqtt", "mujoco")

Target = Literal["embedded", "gazebo", "jetson"]
STEPS: dict[str, str] = {
    "find": "the camera finds the dock that the wallet chose",
    "dock": "the robot is in contact and says so",
    "pay": "energy is paid for as both meters saw it, and the receipt adds up",
    "undock": "it leaves once the current has fallen",
    "cheat": "a station that over-counts is caught within one tranche",
    "cut": "the broker is away in the midst of charging, and everything is settled",
    "kill": "the wallet is killed in the midst of charging, and nothing is paid twice",
}


class StepResult(Struct, frozen=True):
    """One step.

    Attributes:
        name: of STEPS.
        outcome: passed, failed or not run.
        detail: what was seen; why it was not run.
        seconds: wall time.
    """

    name: str
    outcome: Literal["passed", "failed", "not run"]
    detail: str = ""
    seconds: Annotated[float, Meta(ge=0)] = 0.0


class AcceptanceReport(Struct, frozen=True):
    """A run.

    Attributes:
        target: what it ran against.
        robot: id.
        started_s: Unix time.
        steps: in order.
        versions: of what took part.
        machine: processor and system.
        form: of this document.
    """

    target: Target
    robot: str
    started_s: int
    steps: tuple[StepResult, ...]
    versions: dict[str, str]
    machine: str
    form: Annotated[str, Meta(pattern=r"^depai-acceptance/1\Z")] = "depai-acceptance/1"

    @property
    def passed(self) -> bool:
        """No step failed, and something was run."""
        outcomes = [step.outcome for step in self.steps]
        return PASSED in outcomes and FAILED not in outcomes


def collect_versions() -> dict[str, str]:
    """Of the packages that are installed here."""
    found = {"depai_robot": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def make_report(target: Target, robot: str, steps: list[StepResult]) -> AcceptanceReport:
    """The report of a run on this machine."""
    machine = f"{platform.machine()}, {platform.system()} {platform.release()}, {sys.implementation.name}"
    return AcceptanceReport(target, robot, int(time.time()), tuple(steps), collect_versions(), machine)


def seal_report(report: AcceptanceReport, signer: Signer) -> str:
    """Compact JWS."""
    return Sealer(CHAIN_ID, signer, None, None).seal_bytes(msgspec.json.encode(report))


def open_report(token: str) -> tuple[Address, AcceptanceReport]:
    """Who signed, and what.

    Raises:
        ConfigError: no such JWS, a signature that does not fit, or another document.
    """
    try:
        signer, data = open_bytes(token.strip(), chain_id=CHAIN_ID)
        return signer, msgspec.json.decode(data, type=AcceptanceReport)
    except (RemoteError, msgspec.MsgspecError) as error:
        raise ConfigError(f"acceptance report: {error}") from error


def render(report: AcceptanceReport) -> str:
    """For people."""
    rows = [f"acceptance of {report.robot} on {report.target}: {'passed' if report.passed else 'FAILED'}"]
    for step in report.steps:
        rows.append(f"  {step.outcome:8} {step.name:7} {step.seconds:6.1f} s  {STEPS[step.name]}")
        if step.detail:
            rows.append(f"           {step.detail}")
    return "\n".join(rows)
