"""The doctor's checks of hardware.yaml: each port is there, ours to use, nobody else's, and answers as configured.

A port that another program holds is not opened. Only questions that change nothing are asked, as ``hw probe`` asks.
"""

import grp
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from depai_robot.adapters.serial_line import find_port
from depai_robot.app.doctor import Finding
from depai_robot.app.hardware_probe import ask_create, hear_base
from depai_robot.app.robot_hardware import BatteryPart, HardwareFile, open_board, read_hardware
from depai_robot.values.error import ConfigError, DeviceError

PROC, UDEV = Path("/proc"), Path("/run/udev/data")
RULES = "deploy/udev/99-depai.rules"
_MEND_BY_HOLDER = {
    "ModemManager": f"install {RULES}, which keeps ModemManager away, and plug the adapter in again",
    "brltty": "sudo apt remove brltty",
    "gpsd": "sudo systemctl disable --now gpsd.socket gpsd",
    "agetty": "sudo systemctl disable --now serial-getty@<port>",
}


@dataclass(frozen=True, slots=True)
class Use:
    """What a port is for.

    Attributes:
        name: of the finding.
        port: as in hardware.yaml.
        driver: that is configured.
        baud: of a base's or pads' line.
        battery: how to read it, when it is a battery's own board.
    """

    name: str
    port: str
    driver: str
    baud: int
    battery: BatteryPart | None = None


def check_hardware(path: Path, proc: Path = PROC, udev: Path = UDEV) -> list[Finding]:
    """hardware.yaml and every port in it; about a second for each."""
    try:
        file = read_hardware(path)
    except ConfigError as error:
        return [Finding("hardware", "fail", str(error), "config/hardware.yaml is a commented example")]
    uses = list_uses(file)
    seen = f"{path}: robot {file.robot}, {', '.join(f'{use.name} {use.driver}' for use in uses)}"
    return [Finding("hardware", "ok", seen), *(check_port(use, proc, udev) for use in uses)]


def list_uses(file: HardwareFile) -> list[Use]:
    """Its ports, each once."""
    base, battery, pads = file.base, file.battery, file.pads
    uses = [Use("base", base.port, base.driver, base.baud)]
    if battery.driver != "create-oi":
        uses.append(Use("battery", battery.port, battery.driver, 0, battery))
    if pads is not None:
        uses.append(Use("pads", pads.port, pads.driver, pads.baud))
    return uses


def check_port(use: Use, proc: Path = PROC, udev: Path = UDEV) -> Finding:
    """There, ours, free, answering; the first that is not so is what is said."""
    absent = "Plug it in; depai-robot hw probe lists what is there, and hardware.yaml names it"
    try:
        path = Path(find_port(use.port))
    except ConfigError as error:
        return Finding(use.name, "fail", str(error), "config/hardware.yaml says how a port is named")
    except DeviceError as error:
        return Finding(use.name, "fail", str(error), absent)
    if not path.exists():
        return Finding(use.name, "fail", f"{use.port} is not there", absent)
    if not stat.S_ISCHR(path.stat().st_mode):
        return Finding(use.name, "fail", f"{use.port} is no serial port", absent)
    if not os.access(path, os.R_OK | os.W_OK):
        group = _group_of(path)
        return Finding(
            use.name,
            "fail",
            f"no right to read and write {path}, which is group {group}'s",
            f"sudo usermod -aG {group} $USER, then log in again; or {RULES}",
        )
    for number, name, line in find_holders(path, proc):
        if "depai_robot" in line:
            return Finding(use.name, "ok", f"{use.port}: our process {number} has it; it was not asked")
        return Finding(
            use.name,
            "fail",
            f"{use.port} is held by {name} (process {number})",
            _MEND_BY_HOLDER.get(name, f"a port has one master: end process {number}"),
        )
    return _judge_answer(use, path, proc, udev)


def _judge_answer(use: Use, path: Path, proc: Path, udev: Path) -> Finding:
    try:
        said = _ask(use)
    except DeviceError as error:
        return Finding(
            use.name,
            "fail",
            f"does not answer as {use.driver}: {error}",
            f"is it switched on, are the two data lines crossed? depai-robot hw probe {use.port} names what answers",
        )
    if modem_manager_may_take(path, proc, udev):
        return Finding(
            use.name,
            "warn",
            f"{use.port}: {said}; but ModemManager runs and may talk into it whenever it is plugged in",
            f"sudo cp {RULES} /etc/udev/rules.d/ && sudo udevadm control --reload && sudo udevadm trigger -s tty",
        )
    return Finding(use.name, "ok", f"{use.port}: {said}")


def _ask(use: Use) -> str:
    if use.battery is not None:
        board = open_board(use.battery)
        try:
            info = board.read()
        finally:
            board.close()
        return f"{use.driver}, {info.voltage_v:.2f} V, {info.current_a:.2f} A, {info.state_of_charge:.0%}"
    said = ask_create(use.port) if use.driver == "create-oi" else hear_base(use.port, use.baud)
    if not said:
        raise DeviceError("nothing that we know was heard")
    return said


def _group_of(path: Path) -> str:
    number = path.stat().st_gid
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def find_holders(path: Path, proc: Path = PROC) -> list[tuple[int, str, str]]:
    """(process, its name, its command line) of the others that have a device open, as far as we may look."""
    wanted, found = os.path.realpath(path), []
    for folder in proc.iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            held = any(os.path.realpath(link) == wanted for link in (folder / "fd").iterdir())
            if held:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                found.append((int(folder.name), (folder / "comm").read_text().strip(), line))
        except OSError:
            continue  # another user's, or it has just ended
    return found


def modem_manager_may_take(path: Path, proc: Path = PROC, udev: Path = UDEV) -> bool:
    """Whether it runs, and udev's database does not tell it to leave this device alone."""
    if not any(_name_of(folder) == "ModemManager" for folder in proc.iterdir() if folder.name.isdigit()):
        return False
    device = path.stat().st_rdev
    try:
        entry = (udev / f"c{os.major(device)}:{os.minor(device)}").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    lines = entry.splitlines()
    return "E:ID_BUS=usb" in lines and "E:ID_MM_DEVICE_IGNORE=1" not in lines


def _name_of(folder: Path) -> str:
    try:
        return (folder / "comm").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
