"""Child processes start, are missed when they die, and are gone at the end, whatever they do."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from depai_robot.app import supervisor as supervisor_module
from depai_robot.app.supervisor import Child, Supervisor
from depai_robot.values.error import DeviceAbsentError, DeviceFailedError


def python(supervisor: Supervisor, name: str, code: str) -> Child:
    """A child that runs a line of Python."""
    return supervisor.start(name, [sys.executable, "-c", code])


def until(condition: Callable[[], object], timeout_s: float = 15.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a dead one whose parent has not asked yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


STUBBORN = (
    "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
    "print(child.pid, flush=True); time.sleep(60)"
)


def test_output_and_errors_go_to_its_log(tmp_path: Path) -> None:
    with Supervisor(tmp_path / "logs", {"COLOUR": "red"}) as supervisor:
        child = python(
            supervisor, "teller", "import os, sys; print(os.environ['COLOUR']); sys.stderr.write('oh\\n')"
        )
        assert child.process.wait(15) == 0
        assert child.log == tmp_path / "logs" / "teller.log"
        assert child.tail() == "red\noh"
        assert child.tail(1) == "oh"


def test_a_death_is_told_with_the_end_of_the_log(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        alive = python(supervisor, "alive", "import time; time.sleep(60)")
        supervisor.check()
        dead = python(supervisor, "dead", "print('\\n'.join(map(str, range(99)))); raise SystemExit(3)")
        dead.process.wait(15)
        with pytest.raises(DeviceFailedError, match=r"(?s)dead ended with status 3:\n87\n.*98$"):
            supervisor.check()
        supervisor.check(expected_to_end=["dead"])
    assert not is_alive(alive.process.pid)
    assert supervisor.children == []


def test_a_polite_child_ends_by_sigterm_with_its_own_status(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); "
        "print('ready', flush=True); time.sleep(60)"
    )
    with Supervisor(tmp_path) as supervisor:
        child = python(supervisor, "polite", code)
        until(child.tail)
        assert supervisor.stop(child) == 5
        supervisor.check()
        assert supervisor.stop(child) == 5, "to stop it again does no harm"


def test_a_stubborn_child_is_killed_with_its_own_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "STOP_TIMEOUT_S", 0.3)
    supervisor = Supervisor(tmp_path)
    try:
        child = python(supervisor, "stubborn", STUBBORN)
        until(child.tail)
        grandchild = int(child.tail())
        assert is_alive(grandchild)
    finally:
        statuses = supervisor.stop_all()
    assert statuses == {"stubborn": -9}
    until(lambda: not is_alive(grandchild))


def test_every_child_is_ended_when_the_block_is_left_by_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="in the middle"), Supervisor(tmp_path) as supervisor:  # noqa: PT012
        pids = [python(supervisor, f"n{n}", "import time; time.sleep(60)").process.pid for n in range(3)]
        assert all(os.getpgid(pid) == pid for pid in pids), "a Ctrl-C of ours does not reach them"
        raise RuntimeError("in the middle")
    assert not any(is_alive(pid) for pid in pids)


def test_what_a_child_leaves_behind_is_ended_with_it(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        code = STUBBORN.replace("signal.signal(signal.SIGTERM, signal.SIG_IGN); ", "")
        child = python(supervisor, "parent", code)
        until(lambda: child.tail())
        grandchild = int(child.tail())
        assert is_alive(grandchild)
        supervisor.stop(child)
        until(lambda: not is_alive(grandchild))


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        with pytest.raises(
            DeviceAbsentError, match=r"broker can't be started: /no/such/program: No such file"
        ):
            supervisor.start("broker", ["/no/such/program"])
        assert supervisor.children == []
