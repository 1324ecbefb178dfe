"""The runner on a machine of three lines: what is on disk, in which order, and what stops it."""

import time
from typing import Any

import msgspec
import pytest

from depai_robot.app.runner import Runner, Snapshots
from depai_robot.charging.effect import CallForHelp, ClearTimer, KeepEvidence, SetTimer
from depai_robot.charging.fact import Fact, Restarted, StopRequested, TimerFired, decode_fact
from depai_robot.sim.memory_journal import MemoryJournal
from depai_robot.values.error import BugError, DeviceFailedError, JournalError


class State(msgspec.Struct, frozen=True):
    limit: int = 3
    seen: tuple[str, ...] = ()


def step(state: State, fact: Fact) -> tuple[State, tuple[Any, ...]]:
    if isinstance(fact, Restarted):
        return msgspec.structs.replace(state, seen=(*state.seen, "up")), ()
    if isinstance(fact, TimerFired):
        return msgspec.structs.replace(state, seen=(*state.seen, fact.name)), ()
    assert isinstance(fact, StopRequested)
    word, _, rest = fact.reason.partition(" ")
    if word == "bug":
        raise BugError("no such move")
    effects: tuple[Any, ...] = (CallForHelp(fact.reason),)
    if word == "timer":
        effects = (SetTimer(rest, fact.at.session_ns + 5_000_000),)
    if word == "clear":
        effects = (SetTimer(rest, fact.at.session_ns + 5_000_000), ClearTimer(rest))
    if word == "keep":
        effects = (KeepEvidence("s", rest, ()),)
    return msgspec.structs.replace(state, seen=(*state.seen, fact.reason)), effects


class HandClock:
    def __init__(self) -> None:
        self.now_ns = 0

    def session_ns(self) -> int:
        return self.now_ns

    def wall_s(self) -> int:
        return 1_800_000_000


def make(journal: Any, clock: HandClock | None = None, limit: int = 3, every: int = 1000) -> Runner[State]:
    snapshots = Snapshots(
        msgspec.json.encode,
        lambda data: msgspec.json.decode(data, type=State),
        lambda state: state.seen[-1:] != ("busy",),
        lambda state: msgspec.structs.replace(state, limit=limit),
        every,
    )
    return Runner(
        journal=journal,
        step=step,
        step_version=1,
        state=State(limit),
        clock=clock or HandClock(),
        entropy=lambda: bytes(32),
        snapshots=snapshots,
    )


def say(runner: Runner[State], reason: str) -> None:
    runner.post(StopRequested(runner.instant(), reason))


def wait(condition) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_each_effect_finds_its_row_on_disk() -> None:
    journal = MemoryJournal()
    seen = []
    runner = make(journal)
    runner.start(
        lambda effect: seen.append((effect.message, [decode_fact(r.data) for r in journal.rows()][-1]))
    )
    say(runner, "one")
    wait(lambda: seen)
    runner.stop()
    assert seen[0][0] == "one"
    assert seen[0][1].reason == "one"


def test_all_that_waits_is_one_transaction() -> None:
    sizes = []

    class Counting(MemoryJournal):
        def append(self, rows, step_version) -> None:
            sizes.append(len(rows))
            super().append(rows, step_version)

    runner = make(Counting())
    for number in range(50):
        say(runner, str(number))
    runner.start(lambda effect: None)
    runner.stop()
    assert max(sizes) >= 50
    assert runner.state.seen == (*(str(n) for n in range(50)), "up")


def test_an_outcome_posted_by_an_effect_is_the_next_fact() -> None:
    runner = make(MemoryJournal())
    runner.start(lambda effect: say(runner, "outcome") if effect.message == "one" else None)
    say(runner, "one")
    wait(lambda: "outcome" in runner.state.seen)
    runner.stop()


@pytest.mark.parametrize("word", ["timer", "clear"])
def test_a_timer_fires_by_the_session_clock_and_not_before(word: str) -> None:
    clock = HandClock()
    runner = make(MemoryJournal(), clock)
    runner.start(lambda effect: None)
    say(runner, f"{word} t")
    wait(lambda: f"{word} t" in runner.state.seen)
    time.sleep(0.03)
    assert "t" not in runner.state.seen
    clock.now_ns = 6_000_000
    if word == "timer":
        wait(lambda: "t" in runner.state.seen)
    else:
        time.sleep(0.03)
        assert "t" not in runner.state.seen
    runner.stop()


class Broken(MemoryJournal):
    broken = False

    def append(self, rows, step_version) -> None:
        if self.broken:
            raise JournalError("disk full; nothing was appended")
        super().append(rows, step_version)


def test_without_a_journal_nothing_is_performed_any_more() -> None:
    journal = Broken()
    performed = []
    runner = make(journal)
    runner.start(lambda effect: performed.append(effect))
    wait(lambda: runner.state.seen == ("up",))
    journal.broken = True
    say(runner, "sign")
    wait(lambda: not runner.running)
    assert isinstance(runner.failure, JournalError)
    assert performed == []
    assert "sign" not in runner.state.seen
    with pytest.raises(BugError, match="stopped: disk full"):
        say(runner, "more")
    runner.stop()


def test_a_bug_in_step_or_effect_stops_the_machine() -> None:
    runner = make(MemoryJournal())
    runner.start(lambda effect: None)
    say(runner, "bug")
    wait(lambda: not runner.running)
    assert "no such move" in str(runner.failure)
    runner.stop()

    def fail(effect: Any) -> None:
        raise DeviceFailedError("no ink")

    runner = make(MemoryJournal())
    runner.start(fail)
    say(runner, "print")
    wait(lambda: not runner.running)
    assert str(runner.failure) == "no ink"
    runner.stop()


def run_once(journal: Any, *reasons: str, **how: Any) -> Runner[State]:
    kept: list[Any] = []
    runner = make(journal, **how)
    runner.kept = kept
    runner.start(kept.append)
    for reason in reasons:
        say(runner, reason)
    runner.stop()
    assert runner.failure is None
    return runner


def test_a_restart_folds_and_performs_only_what_is_kept_in_files() -> None:
    journal = MemoryJournal()
    run_once(journal, "one", "keep proof")
    again = run_once(journal)
    assert again.state.seen[-1] == "up"
    assert again.state.seen[:-1].count("one") == 1
    assert [type(effect) for effect in again.kept] == [KeepEvidence]


def test_a_snapshot_stands_for_its_rows() -> None:
    journal = MemoryJournal()
    first = run_once(journal, *(str(n) for n in range(20)), every=10)
    found = journal.read_snapshot(1)
    assert found is not None
    assert found[0] >= 10
    journal._rows[0] = journal._rows[1]  # the fold does not look at it
    again = run_once(journal)
    assert again.state.seen == (*first.state.seen, "up")


def test_settings_of_a_history_stay_until_nothing_is_open() -> None:
    journal = MemoryJournal()
    run_once(journal, "busy", limit=3)
    limits = []
    runner = make(journal, limit=9)
    runner.observe(lambda fact, before, after, effects: limits.append(before.limit))
    runner.start(lambda effect: None)  # Restarted is stepped under the old settings, then nothing is open
    say(runner, "more")
    runner.stop()
    assert limits[0] == 3
    assert runner.state.limit == 9
    assert run_once(journal, limit=9).state.limit == 9


def test_rows_of_another_step_version_are_refused() -> None:
    journal = MemoryJournal()
    journal.append([b"{}"], 2)
    with pytest.raises(JournalError, match="row 1 was written by step version 2, this is 1"):
        make(journal).start(lambda effect: None)


def test_a_row_that_is_no_fact_is_refused() -> None:
    journal = MemoryJournal()
    journal.append([b'{"type": "Nothing"}'], 1)
    with pytest.raises(JournalError, match="row 1 is not a fact"):
        make(journal).start(lambda effect: None)
