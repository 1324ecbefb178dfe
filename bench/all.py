"""Every figure in one run, written to docs/benchmarks.md: ``make bench`` or ``python -m bench.all``."""

import argparse
import importlib
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"

TOPICS: tuple[tuple[str, str, str], ...] = (
    (
        "signing",
        "Vouchers signed and verified, beside the stock x402 package",
        "target: at least 3 times the stock package",
    ),
    ("wire", "Envelopes and MQTT round trips", ""),
    (
        "voucher_loop",
        "Voucher loop, agreement, contact to power, recovery, processes",
        (
            "targets: voucher loop p50 at most 3 ms and p99 at most 10 ms; agreement at most 50 ms after the last "
            "answer; contact to power at most 2 s, at most 50 ms of it ours; recovery at most 2 s after 10,000 sessions"
        ),
    ),
    ("detector", "Dock detector on one core", "peer: OpenCV's ArUco on the same frames"),
    ("docking", "Docking over the whole chain", "target: at least 98 of 100 runs end in contact"),
)


def machine() -> str:
    """One line: what it was measured on, and how busy that was."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    load = os.getloadavg()[0]
    return (
        f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, load {load:.1f} at the start"
    )


def rows(figures: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested figures as (name, value)."""
    out: list[tuple[str, str]] = []
    for name, value in figures.items():
        if isinstance(value, dict):
            out += rows(value, f"{prefix}{name}: ")
        else:
            text = f"{value:.4g}" if isinstance(value, float) and abs(value) < 1000 else f"{value}"
            text = f"{value:,.0f}" if isinstance(value, float) and abs(value) >= 1000 else text
            out.append((f"{prefix}{name}".replace("_", " "), text))
    return out


def main() -> int:
    """Measures and writes; 1 when a part failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", choices=[name for name, _, _ in TOPICS], help="measure one topic, write nothing"
    )
    parser.add_argument("--runs", type=int, default=100, help="docking runs (default 100)")
    arguments = parser.parse_args()
    begin = time.monotonic()
    now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    text = [
        "# Benchmarks",
        "",
        f"Written by `python -m bench.all --runs {arguments.runs}` on {now}.",
        f"Machine: {machine()}. Shared machines are noisy: read ratios rather than times.",
    ]
    status = 0
    for name, title, target in TOPICS:
        if arguments.only not in (None, name):
            continue
        print(f"[{time.monotonic() - begin:5.0f} s] {name}: {title}", flush=True)
        try:
            module = importlib.import_module(f"bench.{name}")
            figures = module.measure(arguments.runs) if name == "docking" else module.measure()
        except Exception as error:  # noqa: BLE001 - one part's failure must not lose the others' figures
            figures, status = {"failed": f"{type(error).__name__}: {error}"}, 1
        text += ["", f"## {title}", "", f"`python -m bench.{name}`" + (f"; {target}." if target else ""), ""]
        text += ["| figure | measured |", "|---|---|"]
        for figure, value in rows(figures):
            print(f"          {figure}: {value}", flush=True)
            text.append(f"| {figure} | {value} |")
    if arguments.only is None:
        TARGET.write_text("\n".join(text) + "\n", encoding="utf-8")
        print(f"wrote {TARGET.relative_to(TARGET.parent.parent)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
