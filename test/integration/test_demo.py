"""The main job end to end: real processes, real broker, real EVM, rendered frames through ONNX, physics."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy", reason="pip install 'depai_robot[ros]', or source a ROS 2 installation")
pytest.importorskip("mujoco", reason="pip install 'depai_robot[sim]'")
pytest.importorskip("mcap", reason="pip install 'depai_robot[sim]'")

from mcap.reader import make_reader

from depai_robot.adapters.anvil import find_anvil
from depai_robot.payment.receipt import parse_receipt
from depai_robot.sim.key import DevelopmentSigner
from test.secret_search import Search

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(find_anvil() is None, reason="no anvil: depai-robot setup chain"),
]


def run_demo(out: Path, *arguments: str) -> tuple[Path, "subprocess.CompletedProcess[str]"]:
    command = [sys.executable, "-m", "depai_robot.cli.main", "demo", "--plain", "--out", str(out), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=380)
    (run,) = out.iterdir()
    return run, done


def meter_key(run: Path) -> bytes:
    """The 64 bytes of the public key whose secret the far station's meter holds."""
    file = yaml.safe_load((run / "station-st-far.yaml").read_text(encoding="utf-8"))
    return DevelopmentSigner(file["meters"][0]["key"]["development"]).public_key


def read_statements_as_a_stranger(path: Path, serial: str, public_key: bytes) -> int:
    """Reads and verifies every record with another project's OCMF library; returns the energy in between."""
    pyocmf = pytest.importorskip("pyocmf", reason="pip install 'depai_robot[test]'")
    # SubjectPublicKeyInfo of a secp256k1 key in DER: the fixed header and the point. Source: RFC 5480, section 2.
    der = bytes.fromhex("3056301006072a8648ce3d020106052b8104000a034200") + b"\x04" + public_key
    values_kwh, numbers, kinds = [], [], []
    for text in path.read_text(encoding="utf-8").splitlines():
        record = pyocmf.OCMF.from_string(text, strict=True)
        assert record.verify_signature(der.hex()) is True
        assert record.payload.MS == serial
        (reading,) = record.payload.RD
        values_kwh.append(reading.RV)
        numbers.append(int(record.payload.PG.removeprefix("T")))
        kinds.append(reading.TX.value)
    assert len(values_kwh) > 20
    assert values_kwh == sorted(values_kwh)
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "no record is missing"
    assert (kinds[0], set(kinds[1:-1]), kinds[-1]) == ("B", {"C"}, "E")
    return int((values_kwh[-1] - values_kwh[0]) * 1_000_000)


def check_recording(path: Path) -> None:
    """The recording is whole, and what a replay needs is in it."""
    with path.open("rb") as file:
        summary = make_reader(file).get_summary()
    assert summary is not None, "the file was not ended"
    counts = {
        channel.topic: summary.statistics.channel_message_counts.get(number, 0)
        for number, channel in summary.channels.items()
    }
    for topic in ("/clock", "/odom", "/cmd_vel", "/battery_state", "/detected_dock_pose", "/docking/state"):
        assert counts.get(topic, 0) > 2, f"{topic}: {counts}"
    assert counts["/camera/image_raw/compressed"] > 5


def search_for_secrets(run: Path, output: str) -> None:
    """No key is in what was said, in any file, or in any recorded ROS message; the journals hold what MQTT carried."""
    names = {
        name
        for path in run.glob("*.yaml")
        for name in re.findall(r"development: '?(.+?)'?$", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(names) >= 3 + 3 * 2, "a robot's keys and those of two stations at least"
    search = Search([DevelopmentSigner(name).secret for name in names])
    found, count = search.in_folder(run)
    assert found == []
    assert count > 20
    assert search.in_bytes(output.encode(), "output") == []


def test_an_honest_run_reconciles(tmp_path: Path) -> None:
    run, done = run_demo(tmp_path / "out")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    checks = json.loads((run / "checks.json").read_text())
    assert len(checks) >= 12
    assert all(check["ok"] for check in checks)
    receipt = parse_receipt((run / "receipt.json").read_bytes())
    assert receipt.robot_energy_milliwh >= 10_000
    assert receipt.vouchers >= 20
    assert receipt.claimed_atomic == receipt.owed_atomic
    assert receipt.station == "st-far"
    assert "refused: not-served" in done.stdout
    assert "dearer than the chosen one" in done.stdout
    page = (run / "report.html").read_text()
    assert "reconciled" in page
    assert not re.search(r"""(?:src|href)=["']https?:""", page), "the report must open offline"
    assert (run / "run.mcap").stat().st_size > 50_000
    check_recording(run / "run.mcap")
    energy_milliwh = read_statements_as_a_stranger(
        run / "statements.ocmf", f"M-{receipt.station}", meter_key(run)
    )
    assert energy_milliwh == receipt.station_energy_milliwh
    search_for_secrets(run, done.stdout + done.stderr)


@pytest.mark.parametrize("cheat", ["over-meter"])
def test_a_cheat_takes_a_tranche_at_most_and_is_convicted(tmp_path: Path, cheat: str) -> None:
    run, done = run_demo(tmp_path / "out", "--dishonest", cheat)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    receipt = parse_receipt((run / "receipt.json").read_bytes())
    assert receipt.fault
    assert receipt.robot_energy_milliwh < 2_000
    assert list(run.glob("evidence-*.json"))
    assert "UNDOCKING" in done.stdout


def test_a_wrong_option_is_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "depai_robot.cli.main", "demo", "--dishonest", "nicely"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "over-meter" in done.stderr
    assert "Traceback" not in done.stderr
