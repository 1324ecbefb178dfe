"""The runner: queue -> journal (fsync) -> step -> effects, on one thread.

Callbacks of MQTT, ROS and the chain only :meth:`post` facts. All that waits in the queue is appended in one
transaction, then stepped, then everybody's effects are performed: a station with many sessions pays one fsync for many
inputs. Outcomes of effects are facts again. A JournalError or a BugError stops the runner: nothing is signed after it.
"""

import heapq
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from depai_robot.charging.effect import ClearTimer, KeepEvidence, KeepReceipt, SetTimer
from depai_robot.charging.fact import Fact, Instant, Restarted, TimerFired, decode_fact, encode_fact
from depai_robot.ports import Clock, Journal
from depai_robot.values.error import BugError, DepaiError, JournalError

LOG = logging.getLogger(__name__)

S = TypeVar("S")
Step = Callable[[S, Fact], tuple[S, Sequence[Any]]]

QUEUE_FACTS_MAX = 100_000
POLL_ARMED_S = 0.005
"""How often the session clock is looked at while a timer is armed: it may run faster than the wall's."""
POLL_IDLE_S = 0.2
CLOSE_TIMEOUT_S = 10.0


Perform = Callable[[Any], None]
"""Does one effect; a slow one is started and its outcome posted later. Called on the runner's thread.

Raises DepaiError when it could not even be started.
"""


class Observer(Protocol[S]):  # type: ignore[misc]
    """Sees every step, after its fact is on disk; for screens and reports."""

    def __call__(self, fact: Fact, before: S, after: S, effects: Sequence[Any]) -> None:
        """Must be quick and must not raise."""


@dataclass(frozen=True, slots=True)
class Snapshots(Generic[S]):
    """How a state with nothing open stands for its history.

    The first snapshot stands before the first row, so the settings that a history was made with are always on disk:
    a fold never mixes the old history with new settings.

    Attributes:
        encode, decode: of the whole state, settings included.
        is_quiet: whether nothing is open.
        adopt: the state with the settings of this start; in force as soon as nothing is open.
        every_rows: after so many rows, when quiet.
    """

    encode: Callable[[S], bytes]
    decode: Callable[[bytes], S]
    is_quiet: Callable[[S], bool]
    adopt: Callable[[S], S]
    every_rows: int = 1000


class Runner(Generic[S]):
    """Drives one machine.

    Args:
        journal: holds its history; the runner closes it.
        step: of the machine.
        step_version: rises with any change that makes a fold of the same rows give another state.
        state: before the first fact.
        clock: for the instants of facts and for timers.
        entropy: gives fresh random bytes, 32 at a time.
        snapshots: None leaves them out.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        step: Step[S],
        step_version: int,
        state: S,
        clock: Clock,
        entropy: Callable[[], bytes],
        snapshots: Snapshots[S] | None = None,
    ) -> None:
        self._journal = journal
        self._step = step
        self._step_version = step_version
        self.state = state
        self._clock = clock
        self._entropy = entropy
        self._snapshots = snapshots
        self._snapshot_at = 0
        self._adopting = False
        self._queue: queue.Queue[Fact | None] = queue.Queue(QUEUE_FACTS_MAX)
        self._due: list[tuple[int, int, str]] = []
        self._due_by_name: dict[str, tuple[int, int]] = {}
        self._timer_count = 0
        self._observers: list[Observer[S]] = []
        self._perform: Perform | None = None
        self._thread = threading.Thread(target=self._run, name="runner", daemon=True)
        self._stopping = threading.Event()
        self.failure: DepaiError | None = None
        self.recovery_s = 0.0

    def observe(self, observer: Observer[S]) -> None:
        """Adds an observer; before :meth:`start`."""
        self._observers.append(observer)

    def instant(self) -> Instant:
        """Now, on both clocks."""
        return Instant(self._clock.session_ns(), self._clock.wall_s())

    def post(self, fact: Fact) -> None:
        """Puts a fact on the queue; from any thread, never blocks.

        Raises:
            BugError: the queue is full, or the runner has stopped.
        """
        if self.failure is not None:
            raise BugError(f"the runner has stopped: {self.failure}")
        try:
            self._queue.put_nowait(fact)
        except queue.Full as error:
            raise BugError(f"more than {QUEUE_FACTS_MAX} facts wait") from error

    def start(self, perform: Perform) -> None:
        """Folds the journal, then goes on from there.

        Raises:
            JournalError: damaged, or written by a newer program.
        """
        self._perform = perform
        begin = time.monotonic()
        kept = self._recover()
        self.recovery_s = time.monotonic() - begin
        for effect in kept:
            perform(effect)
        self.post(Restarted(self.instant(), self._entropy()))
        self._thread.start()

    def stop(self) -> None:
        """Finishes what is in the queue, ends the thread and closes the journal."""
        self._stopping.set()
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(CLOSE_TIMEOUT_S)
        self._journal.close()

    @property
    def running(self) -> bool:
        """Whether facts are still taken."""
        return self._thread.is_alive() and self.failure is None

    # --- recovery ------------------------------------------------------------------------------------------

    def _recover(self) -> list[Any]:
        """Folds; returns what was to be kept in files, since a crash may have come between row and file."""
        kept: list[Any] = []
        after = self._load_snapshot()
        self._snapshot_at = after
        for row in self._journal.rows(after):
            if row.step_version != self._step_version:
                raise JournalError(
                    f"row {row.number} was written by step version {row.step_version}, this is"
                    f" {self._step_version}: an upgrade needs a snapshot with no open session"
                )
            try:
                fact = decode_fact(row.data)
            except Exception as error:
                raise JournalError(f"row {row.number} is not a fact: {error}") from error
            self.state, effects = self._step(self.state, fact)
            kept.extend(effect for effect in effects if isinstance(effect, KeepReceipt | KeepEvidence))
        if self._snapshots is not None and self._snapshots.adopt(self.state) != self.state:
            self._adopting = True
            if not self._maybe_snapshot():
                LOG.warning("settings changed: in force when the open session is settled")
        return kept

    def _load_snapshot(self) -> int:
        """Number of the row after which the state stands."""
        if self._snapshots is None:
            return 0
        found = self._journal.read_snapshot(self._step_version)
        if found is not None:
            after, data = found
            try:
                self.state = self._snapshots.decode(data)
            except Exception as error:
                raise JournalError(f"snapshot after row {after} can't be read: {error}") from error
            return after
        if self._journal.length == 0:
            self._write_snapshot()
        return 0

    # --- the thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not (self._stopping.is_set() and self._queue.empty()):
                batch = self._take()
                if batch:
                    self._turn(batch)
        except DepaiError as error:
            self.failure = error
            LOG.critical("stopped, nothing more is signed: %s", error)
        except Exception as error:  # a bug of ours must stop the money, whatever it is
            self.failure = BugError(f"{type(error).__name__}: {error}")
            LOG.exception("stopped, nothing more is signed")

    def _take(self) -> list[Fact]:
        """All that waits: facts first, then timers that are due."""
        batch: list[Fact] = []
        try:
            first = self._queue.get(timeout=POLL_ARMED_S if self._due else POLL_IDLE_S)
            if first is not None:
                batch.append(first)
            while True:
                more = self._queue.get_nowait()
                if more is not None:
                    batch.append(more)
        except queue.Empty:
            pass
        if self._due and not self._stopping.is_set():
            batch.extend(self._fire())
        return batch

    def _fire(self) -> list[Fact]:
        fired: list[Fact] = []
        now_ns = self._clock.session_ns()
        while self._due and self._due[0][0] <= now_ns:
            at_ns, number, name = heapq.heappop(self._due)
            if self._due_by_name.get(name) == (at_ns, number):
                del self._due_by_name[name]
                fired.append(TimerFired(self.instant(), name))
        return fired

    def _turn(self, batch: list[Fact]) -> None:
        self._journal.append([encode_fact(fact) for fact in batch], self._step_version)
        wishes: list[Any] = []
        for fact in batch:
            before = self.state
            self.state, effects = self._step(before, fact)
            wishes.extend(effects)
            for observer in self._observers:
                observer(fact, before, self.state, effects)
        for effect in wishes:
            self._do(effect)
        self._maybe_snapshot()

    def _do(self, effect: Any) -> None:
        if isinstance(effect, SetTimer):
            self._timer_count += 1
            self._due_by_name[effect.name] = (effect.at_session_ns, self._timer_count)
            heapq.heappush(self._due, (effect.at_session_ns, self._timer_count, effect.name))
        elif isinstance(effect, ClearTimer):
            self._due_by_name.pop(effect.name, None)
        elif self._perform is not None:
            self._perform(effect)

    def _maybe_snapshot(self) -> bool:
        """Whether one was written: when nothing is open, and enough rows came or settings changed."""
        snapshots = self._snapshots
        if snapshots is None or not (
            self._adopting or self._journal.length - self._snapshot_at >= snapshots.every_rows
        ):
            return False
        if not snapshots.is_quiet(self.state):
            return False
        self.state = snapshots.adopt(self.state)
        self._adopting = False
        try:
            self._write_snapshot()
        except BugError:
            # The rows are all there: only the next recovery is longer.
            LOG.exception("no snapshot")
            self._snapshot_at = self._journal.length
        return True

    def _write_snapshot(self) -> None:
        if self._snapshots is None:
            return
        data = self._snapshots.encode(self.state)
        if self._snapshots.decode(data) != self.state:
            raise BugError("a snapshot does not read back as the state that it was made from")
        self._journal.write_snapshot(data, self._step_version)
        self._snapshot_at = self._journal.length
