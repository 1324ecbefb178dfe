"""Runs the fault matrix on several sites side by side: most of a session is waiting."""

import queue
import threading
from collections.abc import Callable
from pathlib import Path

from test.fault.fault_cases import record
from test.fault.fault_site import Case, FaultSite, Outcome

Progress = Callable[[str, Outcome], None]


def run_matrix(
    folder: Path,
    choose: Callable[[Outcome], list[tuple[str, Case]]],
    lanes: int,
    progress: Progress = lambda _group, _outcome: None,
) -> list[tuple[str, Outcome]]:
    """(group, outcome) of each case.

    Args:
        folder: for brokers, chains and journals.
        choose: cases, once a session without a fault has said how many rows there are.
        lanes: how many sites.
        progress: after each case.
    """
    first = FaultSite(folder / "lane0", 0)
    sites = [first]
    done: list[tuple[str, Outcome]] = []
    lock = threading.Lock()
    waiting: queue.Queue[tuple[str, Case]] = queue.Queue()
    try:
        baseline = record(first)
        done.append(("none", baseline))
        progress("none", baseline)
        for item in choose(baseline):
            waiting.put(item)
        sites += [FaultSite(folder / f"lane{number}", number) for number in range(1, lanes)]

        def work(site: FaultSite) -> None:
            while True:
                try:
                    group, case = waiting.get_nowait()
                except queue.Empty:
                    return
                if group == "replayed":
                    record(site)  # the same site, right before
                outcome = site.run(case)
                with lock:
                    done.append((group, outcome))
                    progress(group, outcome)

        threads = [threading.Thread(target=work, args=(site,)) for site in sites]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if waiting.qsize():
            raise RuntimeError(f"{waiting.qsize()} cases were not run")
        return done
    finally:
        for site in sites:
            site.close()
