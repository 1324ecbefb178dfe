"""The operators' console under load: ``python -m bench.console``.

The real program in a real terminal (a pty of 120 x 40), a real mosquitto, and a process that speaks for all robots. A
key or a state counts as shown when its text leaves the console for the terminal: from there on it is the terminal's
time, not ours.
"""

import fcntl
import os
import re
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from depai_robot.adapters.broker_process import BrokerProcess, start_broker
from depai_robot.adapters.paho_broker import BrokerAddress
from depai_robot.adapters.paho_feed import PahoFeed
from depai_robot.sim.fleet import FleetSim

COLUMNS, LINES = 120, 40
KEYS = 100
PROBES = 60
WAIT_S = 60.0
MIB = 1024 * 1024


class Terminal:
    """A program in a pty; what it writes is kept with the time it came."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        self.begun = time.perf_counter()
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, env=environment
        )
        os.close(slave)
        self._data = bytearray()
        self._more = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                chunk = os.read(self.master, 1 << 16)
            except OSError:
                return
            if not chunk:
                return
            with self._more:
                self._data += chunk
                self._more.notify_all()

    def press(self, keys: str) -> None:
        """Types."""
        os.write(self.master, keys.encode())

    def mark(self) -> int:
        """Where the output stands now."""
        with self._more:
            return len(self._data)

    def wait(self, pattern: bytes, since: int = 0, timeout_s: float = WAIT_S) -> float:
        """Blocks until the pattern stands in the output after ``since``; returns when that was."""
        compiled, deadline = re.compile(pattern), time.perf_counter() + timeout_s
        with self._more:
            while not compiled.search(self._data, since):
                left = deadline - time.perf_counter()
                if left <= 0:
                    raise TimeoutError(f"{pattern!r} did not appear; last: {bytes(self._data[-300:])!r}")
                self._more.wait(left)
        return time.perf_counter()

    def close(self) -> None:
        """Leaves by its key, or is ended."""
        if self.process.poll() is None:
            self.press("q")
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGKILL)
                self.process.wait(10)
        os.close(self.master)


def spread(milliseconds: list[float]) -> dict[str, float]:
    """p50 and p99."""
    ordered = sorted(milliseconds)
    return {
        "p50 ms": round(statistics.median(ordered), 1),
        "p99 ms": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 1),
        "count": len(ordered),
    }


def measure_keys(terminal: Terminal, total: int) -> list[float]:
    """Milliseconds from a key (the cursor goes down) to the new place on the screen."""
    out = []
    terminal.press("\x1b[H")
    time.sleep(0.5)
    for number in range(KEYS):
        mark, begin = terminal.mark(), time.perf_counter()
        terminal.press("j")
        out.append((terminal.wait(b"%d/%d " % (number + 2, total), mark) - begin) * 1000)
        time.sleep(0.07)
    return out


def measure_states(terminal: Terminal, feed: PahoFeed, sim: FleetSim) -> list[float]:
    """Milliseconds from publishing a state of a robot that is on the screen to its task on the screen."""
    probe = sim.count - 1  # one that the load does not speak for
    name = sim.serial(probe)
    feed.publish(*sim.state(probe, time.time()))
    terminal.press("/")
    time.sleep(0.3)
    terminal.press(name)
    time.sleep(0.5)
    terminal.press("\r")
    terminal.wait(b"1/1 ")
    time.sleep(1.5)
    out = []
    for number in range(PROBES):
        word = f"probe-{number:06d}"
        mark, begin = terminal.mark(), time.perf_counter()
        feed.publish(*sim.state(probe, time.time(), orderId=word))
        out.append((terminal.wait(word.encode(), mark) - begin) * 1000)
        time.sleep(0.11)
    return out


def measure_fleet(robots: int, period_s: float, events_per_s: float, watch_s: float) -> dict[str, Any]:
    """One console on one fleet."""
    with tempfile.TemporaryDirectory() as name:
        broker = start_broker(Path(name) / "broker", "mosquitto")
        try:
            return _measure(Path(name), broker, robots, (period_s, events_per_s, watch_s))
        finally:
            broker.stop()


def _measure(
    folder: Path, broker: BrokerProcess, robots: int, load: tuple[float, float, float]
) -> dict[str, Any]:
    period_s, events_per_s, watch_s = load
    address = f"{broker.host}:{broker.port}"
    feed = PahoFeed(BrokerAddress(broker.host, broker.port))
    feed.start()
    feed.wait_connected(10)
    command = [sys.executable, "-m", "bench.fleet_load", "--broker", address, "--robots", str(robots)]
    command += ["--period", str(period_s), "--events", str(events_per_s)]
    figures: dict[str, Any] = {"robots": robots, "states a second": round(robots / period_s + events_per_s)}
    load_process = subprocess.Popen(command, stdout=subprocess.PIPE)
    terminal = None
    try:
        assert load_process.stdout is not None
        load_process.stdout.readline()  # announced: every connection is retained
        console = [sys.executable, "-m", "depai_robot.console.main", "--broker", address]
        console += ["--history", str(folder / "fleet.sqlite")]
        environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "C.UTF-8"}
        terminal = Terminal(console, environment)
        shown = terminal.wait(f"{robots:,} robots".encode())
        figures["cold start onto the retained connections s"] = round(shown - terminal.begun, 2)
        process = psutil.Process(terminal.process.pid)
        time.sleep(period_s + 3)  # each robot has spoken once
        before, begin = process.cpu_times(), time.perf_counter()
        mark = terminal.mark()
        time.sleep(watch_s)
        after, passed_s = process.cpu_times(), time.perf_counter() - begin
        spent_s = after.user + after.system - before.user - before.system
        figures["processor, % of a core"] = round(100 * spent_s / passed_s, 1)
        figures["written to the terminal, kB/s"] = round((terminal.mark() - mark) / passed_s / 1000, 1)
        figures["key to screen"] = spread(measure_keys(terminal, robots))
        figures["state to screen"] = spread(measure_states(terminal, feed, FleetSim(robots + 1, seed=99)))
        figures["memory MiB"] = round(process.memory_info().rss / MIB)
        figures["history on disk MiB"] = round(
            sum(path.stat().st_size for path in folder.glob("fleet.sqlite*")) / MIB, 1
        )
    finally:
        if terminal is not None:
            terminal.close()
        load_process.terminate()
        load_process.wait(10)
        feed.close()
    return figures


def measure() -> dict[str, Any]:
    """Ten thousand robots at the slowest rate of the standard, and five hundred at one state a second."""
    return {
        "10,000 robots": measure_fleet(10_000, 30.0, 20.0, 30.0),
        "500 robots at 1 Hz": measure_fleet(500, 1.0, 0.0, 15.0),
    }


if __name__ == "__main__":
    from bench.all import rows

    for figure, value in rows(measure()):
        print(f"{figure}: {value}", flush=True)
