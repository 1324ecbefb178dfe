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

HEAD = """# Benchmarks

Written by `make bench` (`python -m bench.all`); `--only TOPIC` measures one topic again. Each part says when and on
what it was measured, and how busy that machine was at its start: shared machines are noisy, so read ratios rather
than times.
"""

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
    (
        "station_throughput",
        "Vouchers per second of one station",
        "targets: at least 2,000 a second without MQTT and 800 with it, on one core",
    ),
    (
        "gas",
        "Gas of a session, by rail and pattern",
        "beside one plain transfer a tranche; development contracts on anvil",
    ),
    (
        "money_at_risk",
        "Money at risk at each moment of a session",
        "never more than one tranche; a session of the real programs on anvil",
    ),
    (
        "meter_drift",
        "Smallest meter cheat that is found",
        "at no more than one false alarm in 10,000 honest sessions; prices at 0.40 USDC per kWh",
    ),
    (
        "long_run",
        "Ten thousand sessions with random faults",
        "target: the independent auditor finds nothing; accelerated, with `--sessions 10000`",
    ),
    (
        "console",
        "Operators' console with 10,000 robots",
        (
            "targets with 10,000 robots, a state in 30 s each, plus events: at most 50 % of a core and 500 MB, key to "
            "screen p99 at most 100 ms, state to screen p99 at most 500 ms, cold start at most 10 s; 500 robots at 1 Hz"
        ),
    ),
    (
        "ros_nodes",
        "ROS nodes in processes: latencies, processor, memory",
        "the embedded site at real time, two stations; target: no starved battery topic while the wallet waits",
    ),
    (
        "detector_node",
        "The dock detector node alone, at 10 Hz",
        (
            "peers in the same node: OpenCV's ArUco, and nothing, which is what rclpy and the images take; "
            "targets: 8 % of a core, 150 MB"
        ),
    ),
    (
        "fleet_agent",
        "What a robot costs its fleet's broker, and how soon it is seen to be gone",
        "VDA 5050 agent over a real mosquitto",
    ),
    ("broker_rate", "States a second through one broker", "1 kB, QoS 0; with and without TLS and ACL"),
    ("detector", "Dock detector on one core", "peer: OpenCV's ArUco on the same frames"),
    (
        "confidence",
        "Confidence of a pose, and what the decal's edges add",
        "targets: lateral p95 0.5 mm at 0.5 m, yaw p95 0.5 degrees at 1 m; plot: docs/confidence.svg; synthetic",
    ),
    (
        "dock_scale",
        "A dock that is not built as its file says",
        "targets: a decal 5 % off flagged in at least 99 %, a whole dock 5 % off in at least 95 %; synthetic",
    ),
    (
        "approach",
        "What is known of the dock on the way to it",
        "whole approaches from 8 m at 0.3 m/s, through the tracker, each condition all the way; synthetic",
    ),
    (
        "photo",
        "A printed photo of the dock, over the approach",
        "true size, taken from the front at 1.2 to 3 m; the dock itself on the same approaches; synthetic",
    ),
    (
        "docking",
        "Docking over the whole chain",
        (
            "1 to 4 m, up to 60 degrees, light, noise, focus and motion blur varied; targets: at least 99.5 % in "
            "contact, lateral at most 10 mm and yaw at most 1.5 degrees at p95"
        ),
    ),
)


def machine() -> str:
    """One line: what it was measured on, and how busy that was."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    load = os.getloadavg()[0]
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, load {load:.1f}"


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


def section(name: str, title: str, target: str, figures: dict[str, Any], now: str) -> str:
    """A topic's part of the page."""
    text = [f"## {title}", "", f"`python -m bench.{name}`" + (f"; {target}." if target else ""), ""]
    text += [f"Measured {now}; {machine()}.", "", "| figure | measured |", "|---|---|"]
    return "\n".join(text + [f"| {figure} | {value} |" for figure, value in rows(figures)]) + "\n"


def read_sections() -> dict[str, str]:
    """The page's parts by title, so that one topic can be measured again without the others."""
    if not TARGET.is_file():
        return {}
    parts = TARGET.read_text(encoding="utf-8").split("\n## ")[1:]
    return {part.splitlines()[0]: "## " + part.rstrip("\n") + "\n" for part in parts}


def main() -> int:
    """Measures and writes; 1 when a part failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[name for name, _, _ in TOPICS],
        help="these topics; the others' figures stay",
    )
    parser.add_argument("--runs", type=int, default=100, help="docking runs (default 100)")
    parser.add_argument("--sessions", type=int, default=1000, help="of the long run (default 1000)")
    arguments = parser.parse_args()
    options: dict[str, tuple[int, ...]] = {"docking": (arguments.runs,), "long_run": (arguments.sessions,)}
    begin = time.monotonic()
    status = 0
    for name, title, target in TOPICS:
        if arguments.only is not None and name not in arguments.only:
            continue
        now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        print(f"[{time.monotonic() - begin:5.0f} s] {name}: {title}", flush=True)
        try:
            module = importlib.import_module(f"bench.{name}")
            figures = module.measure(*options.get(name, ()))
        except Exception as error:  # noqa: BLE001 - one part's failure must not lose the others' figures
            figures, status = {"failed": f"{type(error).__name__}: {error}"}, 1
        for figure, value in rows(figures):
            print(f"          {figure}: {value}", flush=True)
        # Written after each topic: a run that is cut short keeps what it has measured.
        sections = read_sections() | {title: section(name, title, target, figures, now)}
        ordered = [sections[title] for _, title, _ in TOPICS if title in sections]
        TARGET.write_text("\n".join([HEAD, *ordered]), encoding="utf-8")
    print(f"wrote {TARGET.relative_to(TARGET.parent.parent)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
