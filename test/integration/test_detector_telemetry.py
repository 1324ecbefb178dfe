"""The inference runtime must not report to anybody: it keeps no device id and no queue of events."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_loading_models_leaves_nothing_behind(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from depai_robot.adapters.onnx_detector import OnnxDetector\n"
        f"OnnxDetector(Path({str(ROOT / 'models')!r}))\n"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
