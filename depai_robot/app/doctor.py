"""``depai-robot doctor``: is this machine fit to run a robot? Looks, and says how to mend; changes and signs nothing.

Here are the checks of the machine. Those of a wallet's file (keys, policy, journal, broker, chain) are in
app.doctor_wallet. Each check is one function that answers with a :class:`Finding` and never raises what it expects.
"""

import grp
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import yaml
from msgspec import Struct

from depai_robot.adapters.onnx_session import RuntimeSettings, available_providers
from depai_robot.app.hardware_probe import list_serial_ports
from depai_robot.app.resource import resource_path
from depai_robot.values.error import ConfigError, DepaiError

Status = Literal["ok", "warn", "fail", "skipped"]

PYTHON_MIN = (3, 10)
FREE_BYTES_MIN = 100 << 20
FREE_BYTES_GOOD = 1 << 30
RMEM_BYTES_GOOD = 4 << 20
"""A 640x480 colour image is 0.9 MB in some 15 UDP fragments; Linux' default buffer of 208 KiB holds no whole one."""
PACKAGE = "depai_robot"
COLCON = "python -m colcon build --base-paths src/depai_robot src/depai_robot/depai_interfaces"


class Finding(Struct, frozen=True):
    """What a check saw.

    Attributes:
        name: of the check.
        status: ``fail``: a robot can't run so, or its money is not safe; ``warn``: it runs, with something missing;
            ``skipped``: could not be asked.
        seen: one line, no secret in it.
        mend: what to do; empty when there is nothing to do.
    """

    name: str
    status: Status
    seen: str
    mend: str = ""


def guarded(name: str, mend: str, check: Callable[[], Finding]) -> Finding:
    """A check whose expected errors are a finding too."""
    try:
        return check()
    except DepaiError as error:
        return Finding(name, "fail", str(error), mend)
    except OSError as error:
        return Finding(name, "fail", f"{error.filename or name}: {error.strerror or error}", mend)


# --- programs -----------------------------------------------------------------------------------------------


def check_python() -> Finding:
    """This Python, and what the package needs of others."""
    version = platform.python_version()
    if sys.version_info < PYTHON_MIN:
        return Finding("python", "fail", f"Python {version}, expected 3.10 or later", "Install Python 3.10.")
    try:
        requires = importlib.metadata.requires(PACKAGE) or []
        own = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return Finding("python", "warn", f"Python {version}; depai_robot is not installed", "pip install .")
    wrong = unmet(requires)
    if wrong:
        return Finding("python", "fail", "; ".join(wrong), f"{sys.executable} -m pip install '{PACKAGE}'")
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if _installed(name)]
    if len(both) == 2:
        return Finding(
            "python",
            "fail",
            "onnxruntime and onnxruntime-gpu are both installed: they overwrite each other's files",
            "pip uninstall onnxruntime onnxruntime-gpu, then install the one you want",
        )
    return Finding("python", "ok", f"Python {version}, depai_robot {own}, its packages are there")


def unmet(requires: Sequence[str]) -> list[str]:
    """What of a package's requirements (PEP 508 lines) is absent or of another version, in words."""
    from packaging.requirements import Requirement  # comes with onnxruntime and with web3

    wrong = []
    for line in requires:
        need = Requirement(line)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        seen = _installed(need.name)
        if seen is None:
            wrong.append(f"{need.name} is not installed")
        elif not need.specifier.contains(seen, prereleases=True):
            wrong.append(f"{need.name} {seen}, expected {need.specifier}")
    return wrong


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_ros() -> Finding:
    """ROS 2 and our interfaces, without importing them."""
    distribution = os.environ.get("ROS_DISTRO", "of no named distribution")
    if importlib.util.find_spec("rclpy") is None:
        return Finding(
            "ros",
            "warn",
            "no rclpy: stations, the console and the tools run, the robot's nodes do not",
            "source /opt/ros/<distribution>/setup.bash, in a venv made with --system-site-packages",
        )
    if importlib.util.find_spec("depai_interfaces") is None:
        return Finding(
            "ros",
            "fail",
            f"ROS 2 {distribution}, but no depai_interfaces: there is no Charge action",
            f"in the workspace: {COLCON}; then source its install/setup.bash",
        )
    return Finding("ros", "ok", f"ROS 2 {distribution}, with depai_interfaces")


def check_dds(proc: Path = Path("/proc/sys/net/core")) -> Finding:
    """Whether images fit into the sockets' buffers."""
    if importlib.util.find_spec("rclpy") is None:
        return Finding("dds", "skipped", "no ROS 2 here")
    middleware = os.environ.get("RMW_IMPLEMENTATION", "the distribution's middleware")
    path = proc / "rmem_max"
    try:
        size = int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return Finding("dds", "skipped", f"{path} is not there")
    seen = f"{middleware}; receive buffers of at most {size >> 10} KiB"
    if size < RMEM_BYTES_GOOD:
        return Finding(
            "dds",
            "warn",
            seen + ": images between machines may get lost",
            f"sudo sysctl -w net.core.rmem_max={RMEM_BYTES_GOOD} (and a file in /etc/sysctl.d); not needed when camera"
            " and detector share this machine",
        )
    return Finding("dds", "ok", seen)


# --- devices ------------------------------------------------------------------------------------------------


def check_serial(ports: Sequence[tuple[str, str]] | None = None) -> Finding:
    """Serial ports and our right to use them; opens none."""
    found = list_serial_ports() if ports is None else ports
    if not found:
        return Finding(
            "serial",
            "warn",
            "no serial port with a device behind it",
            "Plug in the battery's and the base's adapters; CH340 and CP210x on Ubuntu 22.04: sudo apt remove"
            " brltty, which takes them away",
        )
    return _judge_access(
        "serial",
        [path for path, _ in found],
        "dialout",
        "; ".join(f"{path} ({about})" for path, about in found),
    )


def check_camera(folder: Path = Path("/dev")) -> Finding:
    """Video devices and our right to use them; opens none."""
    found = sorted(str(path) for path in folder.glob("video*"))
    if not found:
        return Finding(
            "camera",
            "warn",
            f"no {folder}/video*",
            "Plug the camera in; one on the network, or of another machine, needs none of these.",
        )
    return _judge_access("camera", found, "video", ", ".join(found))


def _judge_access(name: str, paths: Sequence[str], group: str, seen: str) -> Finding:
    closed = [path for path in paths if not os.access(path, os.R_OK | os.W_OK)]
    if closed:
        return Finding(
            name,
            "fail",
            f"no right to read and write {', '.join(closed)}; {_membership(group)}",
            f"sudo usermod -aG {group} $USER, then log in again; serial adapters: deploy/udev/99-depai.rules",
        )
    return Finding(name, "ok", seen)


def _membership(group: str) -> str:
    try:
        number = grp.getgrnam(group).gr_gid
    except KeyError:
        return f"there is no group {group}"
    inside = number in (*os.getgroups(), os.getegid())
    return f"this user is {'' if inside else 'not '}in group {group}"


def nearest_existing(path: Path) -> Path:
    """The path, or the folder above it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def check_disk(folder: Path) -> Finding:
    """Room for the journal, which must be able to grow."""
    place = nearest_existing(folder)
    usage = shutil.disk_usage(place)
    seen = f"{usage.free / 2**30:.1f} GiB free of {usage.total / 2**30:.1f} at {place}"
    mend = "Make room: a wallet that can't write its journal signs nothing."
    if usage.free < FREE_BYTES_MIN:
        return Finding("disk", "fail", seen, mend)
    if usage.free < FREE_BYTES_GOOD:
        return Finding("disk", "warn", seen, mend)
    return Finding("disk", "ok", seen)


# --- models -------------------------------------------------------------------------------------------------


class ModelKeys(Struct, frozen=True):
    """What the robot's file says of the models; its other keys are the node's to judge (nodes.robot.RobotConfig).

    Attributes:
        models: their folder; empty for the package's own.
        inference: how they are run.
        model_report: file of ``depai-robot model gate``; empty for the one beside the models.
        model_report_keys: addresses of those whose report lets them run.
    """

    models: str = ""
    inference: RuntimeSettings = RuntimeSettings()
    model_report: str = ""
    model_report_keys: tuple[str, ...] = ()

    def folder(self) -> Path:
        """Of the models."""
        return Path(self.models) if self.models else resource_path("models")


def read_robot(path: Path | None) -> ModelKeys:
    """The robot's file, as far as models go.

    Raises:
        ConfigError: it can't be read.
    """
    if path is None:
        return ModelKeys()
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(tree, dict):
            raise ConfigError(f"{path}: expected keys and values, got {type(tree).__name__}")
        return msgspec.convert(tree, ModelKeys)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from error


def check_report(keys: ModelKeys, models_sha256: str) -> Finding:
    """Whether somebody who is trusted has measured these very models and signed that they passed."""
    from depai_robot.app.model_gate import REPORT_NAME, require_report
    from depai_robot.values.identity import address_from_hex

    gate = "measure and sign them: depai-robot model gate --help"
    if not keys.model_report_keys:
        return Finding(
            "report",
            "warn",
            "model_report_keys is empty: any models run, measured or not",
            f"{gate}; then name the signer in model_report_keys of the robot's file",
        )
    path = Path(keys.model_report) if keys.model_report else keys.folder() / REPORT_NAME
    try:
        trusted = tuple(address_from_hex(key) for key in keys.model_report_keys)
        require_report(path, models_sha256, trusted)
    except DepaiError as error:
        return Finding("report", "fail", str(error), f"the robot would not start; {gate}")
    return Finding("report", "ok", f"{path}: of these models, passed, signed by a trusted key")


def check_models(robot: Path | None) -> list[Finding]:
    """The models as a robot opens them (manifest, hashes, golden vector), the provider that serves, their report."""
    from depai_robot.adapters.onnx_detector import OnnxDetector

    mend = "Install the package anew, or its onnx extra: pip install 'depai_robot[onnx]'"
    try:
        keys = read_robot(robot)
        folder = keys.folder()
        offered = ", ".join(available_providers())
        detector = OnnxDetector(folder, settings=keys.inference)
    except DepaiError as error:
        return [
            Finding("models", "fail", str(error), mend),
            Finding("providers", "skipped", "the models do not open"),
        ]
    report = [] if robot is None else [check_report(keys, detector.model_sha256)]
    models = Finding("models", "ok", f"{detector.manifest.name} in {folder}: hashes and golden vector agree")
    seen = f"{detector.provider} serves; onnxruntime offers {offered}"
    if detector.refusals:
        return [
            models,
            Finding(
                "providers", "warn", f"{seen}; refused: {'; '.join(detector.refusals)}", "docs/jetson.md"
            ),
            *report,
        ]
    return [models, Finding("providers", "ok", seen), *report]


# --- all of it ----------------------------------------------------------------------------------------------


def examine(
    wallet: Path | None = None, robot: Path | None = None, hardware: Path | None = None
) -> list[Finding]:
    """Every check, in the order in which a person would mend. Takes seconds; more where a server does not answer."""
    from depai_robot.app.doctor_hardware import check_hardware
    from depai_robot.app.doctor_wallet import check_wallet

    findings = [
        guarded("python", "pip install --force-reinstall depai_robot", check_python),
        check_ros(),
        check_dds(),
        guarded("serial", "docs/install.md", check_serial),
        *([] if hardware is None else check_hardware(hardware)),
        guarded("camera", "docs/install.md", check_camera),
        *check_models(robot),
    ]
    return [*findings, *check_wallet(wallet)]
