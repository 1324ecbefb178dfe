"""What the wallet's and the station's programs have in common: one machine, run and connected.

Order of a start: broker, fold of the journal, then the inbox; of an end: the inbox, the runner, the rest. A program
that has failed (journal, bug) signs nothing more; it stays so until it is started anew.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from depai_robot.app.admission import Admit
from depai_robot.app.chain_worker import ChainWorker
from depai_robot.app.inbox import Inbox
from depai_robot.app.performer import Performer, RobotBody, StationBody
from depai_robot.app.runner import Observer, Perform, Runner, Snapshots, Step
from depai_robot.app.sealing import Keeper, Sealer
from depai_robot.charging.fact import StopRequested
from depai_robot.payment.eip712 import settlement_domain
from depai_robot.ports import Broker
from depai_robot.values.error import DepaiError, DeviceAbsentError
from depai_robot.values.identity import Address

LOG = logging.getLogger(__name__)

CONNECT_TRIES = 5
CONNECT_PAUSE_S = 1.0

S = TypeVar("S")
WrapPerform = Callable[[Perform], Perform]
"""Stands between a machine's wishes and their performance: simulated cheats, tests of crashes."""


def state_codec(form: type[S]) -> tuple[Callable[[S], bytes], Callable[[bytes], S]]:
    """Encoder and decoder of a machine's whole state, for snapshots."""
    decoder = msgspec.msgpack.Decoder(form)

    def encode(state: S) -> bytes:
        return msgspec.msgpack.encode(state)

    def decode(data: bytes) -> S:
        state: S = decoder.decode(data)
        return state

    return encode, decode


class Program(Generic[S]):
    """Base of both programs: holds the parts, starts and ends them in order.

    Attributes:
        is_running: connected, and the journal is folded; before, :attr:`state` passes through what once was.
    """

    def __init__(
        self,
        *,
        runner: Runner[S],
        broker: Broker,
        chain: ChainWorker,
        sealer: Sealer,
        keeper: Keeper,
        chain_id: int,
        identity: Address,
        topics: Sequence[str],
        robot: RobotBody | None = None,
        station: StationBody | None = None,
        wrap_perform: WrapPerform | None = None,
        admit: Admit | None = None,
    ) -> None:
        self.runner = runner
        self._broker = broker
        self._topics = topics
        self.performer = Performer(
            sealer=sealer,
            broker=broker,
            chain=chain,
            keeper=keeper,
            post=runner.post,
            now=runner.instant,
            robot=robot,
            station=station,
        )
        self._perform: Perform = self.performer
        if wrap_perform is not None:
            self._perform = wrap_perform(self.performer)
        self.inbox = Inbox(
            chain_id,
            identity,
            runner.post,
            runner.instant,
            read_battery=self.performer.read_battery if robot is not None else None,
            admit=admit,
        )
        self.is_running = False
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()

    @property
    def state(self) -> S:
        """The machine's state now: an immutable value."""
        return self.runner.state

    @property
    def failure(self) -> DepaiError | None:
        """Why nothing more is done, or None."""
        return self.runner.failure

    def observe(self, observer: Observer[S]) -> None:
        """Adds an observer; before :meth:`start`."""
        self.runner.observe(observer)

    def start(self) -> None:
        """Connects, folds the journal and goes on where it stopped.

        Raises:
            DeviceAbsentError: no broker.
            JournalError: the journal is held, damaged or of another version.
        """
        self._connect()
        for topic in self._topics:
            self._broker.subscribe(topic, self.inbox.receive)
        self.runner.start(self._perform)
        self.inbox.start()
        self.is_running = True

    def _connect(self) -> None:
        for number in range(1, CONNECT_TRIES + 1):
            try:
                self._broker.connect()
            except DeviceAbsentError as error:
                if number == CONNECT_TRIES:
                    raise
                LOG.warning("%s; trying again", error)
                self._closing.wait(CONNECT_PAUSE_S)
            else:
                return

    def watch(self, name: str, look: Callable[[], None], period_s: float) -> None:
        """Runs ``look`` again and again on a thread of its own until the program stops."""

        def run() -> None:
            trouble = ""
            while not self._closing.wait(period_s):
                try:
                    look()
                    trouble = ""
                except DepaiError as error:
                    if self.failure is not None:
                        return
                    if str(error) != trouble:
                        trouble = str(error)
                        LOG.warning("%s: %s", name, trouble)

        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop_charging(self, reason: str) -> None:
        """An operator or a safety part wants every session to end."""
        self.runner.post(StopRequested(self.runner.instant(), reason))

    def stop(self) -> None:
        """Ends the program; open sessions go on with the next start."""
        self.is_running = False
        self._closing.set()
        for thread in self._threads:
            thread.join(2.0)
        self.inbox.stop()
        self.runner.stop()
        self.performer.close()
        self._broker.close()


def make_worker(chain: Any, chain_id: int, settlement: bytes, runner: Runner[Any]) -> ChainWorker:
    """The chain's thread for a runner."""
    return ChainWorker(chain, settlement_domain(chain_id, settlement), runner.post, runner.instant)


__all__ = ["Program", "Snapshots", "Step", "WrapPerform", "make_worker", "state_codec"]
