"""The main job end to end: real processes, real broker, real EVM, rendered frames through ONNX, physics."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="pip install 'depai_robot[ros]', or source a ROS 2 installation")
pytest.importorskip("mujoco", reason="pip install 'depai_robot[sim]'")

from depai_robot.adapters.anvil import find_anvil
from depai_robot.payment.receipt import parse_receipt

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
    assert (run / "run.mcap").read_bytes()[:8] == b"\x89MCAP0\r\n"
    assert (run / "run.mcap").stat().st_size > 50_000
    assert (run / "statements.ocmf").read_text().startswith("OCMF|")


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
