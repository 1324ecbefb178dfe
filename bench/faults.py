"""The fault matrix, written to docs/faults.md: ``make faults`` or ``python -m bench.faults [--points N]``.

Every case is one session of the real programs with one fault, on a real broker and a real chain; see
``test/fault``. ``--points 0`` takes every journal row and every effect.
"""

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from bench.all import machine
from depai_robot.adapters.anvil import find_anvil
from depai_robot.adapters.broker_process import find_mosquitto
from test.fault.fault_cases import GROUPS, make_cases
from test.fault.fault_kills import KILLS, run_kills
from test.fault.fault_matrix import run_matrix
from test.fault.fault_site import Outcome

TARGET = Path(__file__).resolve().parent.parent / "docs" / "faults.md"
TRANCHE_ATOMIC = 600

HEAD = """# Faults

Written by `make faults` (`python -m bench.faults`). Each case is one charging session of the real programs (wallet
and station, SQLite journals, keys, a real mosquitto, a real EVM) on simulated pads, with one fault at one place. Money
is compared with the energy that truly flowed: a *loss* of the robot is what it paid beyond energy and agreed fee, a
loss of the station what it was not paid for. Target: 0 for both, and nothing locked. After each case the independent
auditor (`python -m depai_robot.app.auditor`) looks at both journals and the chain.

*Whole*: all of the energy was delivered. *Early*: the session ended before that, settled, and exactly what had flowed
was paid. *None*: no energy flowed and nobody paid; the robot waits, or calls for help. *Recovered*: wall time from the
end of the fault to the next progress, median and most; after a kill of robot or station, how much longer than
undisturbed the session took. Session time runs 20 times faster than the wall's, so one second of an outage is twenty of
a session.
"""


def table(done: list[tuple[str, Outcome]]) -> list[str]:
    """A row for each kind of fault."""
    by_group: dict[str, list[Outcome]] = defaultdict(list)
    for group, outcome in done:
        by_group[group].append(outcome)
    lines = [
        (
            "| fault | cases | whole | early | none | not settled | robot lost, at most | station lost, at most |"
            " locked, at most | recovered, s | auditor's findings |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for group, what in ({"none": "no fault"} | KILLS | GROUPS).items():
        found = by_group.get(group)
        if not found:
            continue
        settled = [item for item in found if item.ended == "SETTLED"]
        whole = sum(item.whole for item in settled)
        unsettled = sum(any("not settled" in text for text in item.findings) for item in found)
        recovered = [item.recovered_s for item in found if item.recovered_s >= 0]
        audited = sum(not text.startswith("not settled") for item in found for text in item.findings)
        times = f"{statistics.median(recovered):.1f}, {max(recovered):.1f}" if recovered else "-"
        lines.append(
            f"| {what} | {len(found)} | {whole} | {len(settled) - whole} |"
            f" {len(found) - len(settled) - unsettled} | {unsettled} |"
            f" {max(item.robot_lost for item in found)} | {max(item.station_lost for item in found)} |"
            f" {max(item.locked for item in found)} | {times} | {audited} |"
        )
    return lines


def troubles(done: list[tuple[str, Outcome]]) -> list[str]:
    """Every case that did not end as it should."""
    lines = []
    for group, item in done:
        if not (item.findings or item.robot_lost or item.locked or item.station_lost > 0):
            continue
        what = f"robot lost {item.robot_lost}, station lost {item.station_lost}, locked {item.locked}"
        text = "; ".join(item.findings[:2])
        lines.append(f"- `{group}`, {item.name}: {item.ended}, {what}{': ' + text if text else ''}")
    return lines


def write(done: list[tuple[str, Outcome]], now: str, took_s: float, points: int) -> None:
    """The page."""
    cases = len(done)
    which = "every journal row and every effect" if not points else f"{points} places of each kind"
    parts = [
        HEAD,
        f"Measured {now}; {machine()}; {cases} cases ({which}) in {took_s / 60:.0f} minutes.",
        "",
        *table(done),
        "",
        f"One tranche is {TRANCHE_ATOMIC} atomic units (0.0006 USDC).",
    ]
    bad = troubles(done)
    parts += ["", "## Cases that did not end as they should", "", *(bad or ["None."]), ""]
    TARGET.write_text("\n".join(parts), encoding="utf-8")


def main() -> int:
    """Runs and writes; 1 when a case did not end as it should."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--points", type=int, default=0, help="places of each kind; 0 takes every one")
    parser.add_argument("--lanes", type=int, default=4, help="sessions side by side")
    parser.add_argument("--only", nargs="+", choices=[*KILLS, *GROUPS], help="these faults only")
    given = parser.parse_args()
    if find_anvil() is None or find_mosquitto() is None:
        sys.stderr.write("the fault matrix needs anvil (depai-robot setup chain) and mosquitto\n")
        return 2
    if not given.points:
        os.environ["DEPAI_FAULTS"] = "all"
    logging.disable(logging.CRITICAL)
    begin = time.monotonic()
    now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    done: list[tuple[str, Outcome]] = []

    def progress(group: str, outcome: Outcome) -> None:
        text = "; ".join(outcome.findings[:1])[:100]
        losses = f"lost {outcome.robot_lost}/{outcome.station_lost}"
        print(
            f"[{time.monotonic() - begin:5.0f} s] {group}: {outcome.name}: {outcome.ended}, {losses} {text}",
            flush=True,
        )

    def chosen(cases: Any) -> list[Any]:
        return [case for case in cases if given.only is None or case[0] in given.only]

    with tempfile.TemporaryDirectory() as name:
        kills = [kind for kind in KILLS if given.only is None or kind in given.only]
        done += run_kills(Path(name) / "kills", kills, given.points, given.lanes, progress)
        write(done, now, time.monotonic() - begin, given.points)
        if given.only is None or set(given.only) & set(GROUPS):
            done += run_matrix(
                Path(name) / "matrix",
                lambda baseline: chosen(make_cases(baseline, given.points or 1)),
                given.lanes,
                progress,
            )
    write(done, now, time.monotonic() - begin, given.points)
    bad = troubles(done)
    print("\n".join([*table(done), "", *bad]))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
