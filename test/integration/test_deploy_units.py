"""The units and rules that users copy: systemd's own check where it is at hand, and what they must never lose."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
RULES = DEPLOY / "udev" / "99-depai.rules"


class Repeats(dict):
    """systemd's keys may repeat: their values are gathered."""

    def __setitem__(self, key, value):
        if isinstance(value, list) and isinstance(self.get(key), list):
            value = self[key] + value
        super().__setitem__(key, value)


def read_unit(path: Path) -> configparser.RawConfigParser:
    unit = configparser.RawConfigParser(dict_type=Repeats, strict=False)
    unit.optionxform = str
    unit.read_string(path.read_text())
    return unit


def test_both_programs_have_a_unit() -> None:
    assert [path.name for path in UNITS] == ["depai-robot.service", "depai-station.service"]


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_keeps_keys_and_journal_safe(path) -> None:
    service = read_unit(path)["Service"]
    assert service["LimitCORE"] == "0"
    assert service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["StateDirectoryMode"] == "0700"
    assert service["UMask"] == "0077"
    assert service["Restart"] == "always"
    assert service["User"] not in ("", "root")
    assert all(
        re.fullmatch(r"\w+:/etc/depai/credentials/\w+\.cred", line)
        for line in service["LoadCredentialEncrypted"].split("\n")
    )
    assert "dialout" in service["SupplementaryGroups"].split()
    assert not re.search(r"(?i)pass(word|phrase)=", path.read_text())


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_finds_nothing_wrong_with_a_unit(path, tmp_path) -> None:
    if shutil.which("systemd-analyze") is None:
        return  # the forms are checked above
    # The program's place is the user's own; everything else is checked as it is.
    unit = tmp_path / path.name
    unit.write_text(path.read_text().replace("/opt/depai/venv/bin/depai-robot", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=30
    )
    about = [line for line in (done.stdout + done.stderr).splitlines() if path.stem in line]
    assert (done.returncode, about) == (0, [])


@pytest.mark.parametrize(("hardware", "given"), [("", []), ("/etc/h.yaml", ["hardware_config:=/etc/h.yaml"])])
def test_the_robots_unit_starts_our_serial_drivers_when_they_are_named(hardware, given, tmp_path) -> None:
    """The line as systemd hands it to bash: $$ is a dollar, ${NAME} is expanded before."""
    service = read_unit(DEPLOY / "systemd" / "depai-robot.service")["Service"]
    line = re.fullmatch(r"/bin/bash -c '(.*)'", service["ExecStart"]).group(1)
    launch = line[line.index("ros2 launch") :].replace("$$", "$")
    assert "${" not in launch.replace("${DEPAI_HARDWARE:+", "")
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {launch}"],
        env={"DEPAI_HARDWARE": hardware},
        capture_output=True,
        text=True,
    )
    assert [word for word in done.stdout.splitlines() if "hardware" in word] == given
    assert "hw stop" in service["ExecStopPost"]


def test_udev_rules_are_whole_and_every_jump_lands() -> None:
    lines = [line for line in RULES.read_text().splitlines() if line and not line.startswith("#")]
    token = re.compile(r'(ENV\{\w+\}|[A-Z]+)(==|!=|\+=|=)"[^"]*"')
    for line in lines:
        assert all(token.fullmatch(part) for part in re.split(r",\s*", line)), line
    jumps = {name for line in lines for name in re.findall(r'GOTO="(\w+)"', line)}
    labels = {name for line in lines for name in re.findall(r'LABEL="(\w+)"', line)}
    assert jumps == labels
    text = "\n".join(lines)
    for vendor in ("1a86", "0403", "10c4"):
        assert vendor in text
    assert 'GROUP="dialout"' in text
    assert 'MODE="0660"' in text
