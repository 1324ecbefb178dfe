"""From the broker's thread to the queue: every message is checked here before it becomes a fact.

The broker's callback only puts bytes on a queue; a thread of the inbox checks size, form, signature, addressee and
time. What is refused is counted by reason. A message that carries a meter statement gets the robot's own reading of
that moment, so that both meters are compared at one time.
"""

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from depai_robot.app.admission import Admit
from depai_robot.app.chain_worker import Now, Post
from depai_robot.charging.envelope import RefusedMessageError, verify_token
from depai_robot.charging.fact import BatteryRead, MessageReceived
from depai_robot.charging.message import NeedVoucher, SessionEvent
from depai_robot.values.error import BugError
from depai_robot.values.identity import Address

LOG = logging.getLogger(__name__)

WAITING_MAX = 10_000
"""Messages that wait to be checked; more are dropped, since their senders say everything again."""
STOP_TIMEOUT_S = 5.0


class Inbox:
    """One role's ears.

    Args:
        chain_id: of the identities.
        recipient: our identity's address.
        post: puts a fact on the runner's queue.
        now: instant of facts.
        read_battery: the robot's own reading; None at a station.
        admit: drops what nobody has a business with; None takes everything that is signed well.

    Attributes:
        refused: how many messages were refused, by reason.
    """

    def __init__(
        self,
        chain_id: int,
        recipient: Address,
        post: Post,
        now: Now,
        *,
        read_battery: Callable[[], BatteryRead | None] | None = None,
        admit: Admit | None = None,
    ) -> None:
        self.refused: Counter[str] = Counter()
        self._chain_id, self._recipient = chain_id, recipient
        self._post, self._now, self._read_battery = post, now, read_battery
        self._admit = admit
        self._waiting: queue.Queue[bytes | None] = queue.Queue(WAITING_MAX)
        self._thread = threading.Thread(target=self._run, name="inbox", daemon=True)

    def receive(self, topic: str, payload: bytes) -> None:
        """The broker's callback; returns at once. An empty payload only clears a retained offer."""
        del topic
        if not payload:
            return
        try:
            self._waiting.put_nowait(payload)
        except queue.Full:
            self.refused["overflow"] += 1

    def start(self) -> None:
        """Facts come from now on; what came before has waited."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after what it is at."""
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        while (payload := self._waiting.get()) is not None:
            try:
                self._take(payload)
            except RefusedMessageError as error:
                self.refused[error.code] += 1
                LOG.info("message refused: %s", error)
            except BugError as error:
                LOG.warning("inbox ends: %s", error)
                return

    def _take(self, payload: bytes) -> None:
        verified = verify_token(
            payload, now_s=self._now().wall_s, chain_id=self._chain_id, recipient=self._recipient
        )
        if self._admit is not None:
            dropped = self._admit(bytes(verified.sender), verified.draft, time.monotonic())
            if dropped:
                self.refused[dropped] += 1
                LOG.info("message dropped: %s", dropped)
                return
        reading = None
        if self._read_battery is not None and _has_statement(verified.draft.body):
            reading = self._read_battery()
        self._post(MessageReceived(self._now(), bytes(verified.sender), payload.decode(), reading))


def _has_statement(body: Any) -> bool:
    return isinstance(body, NeedVoucher) or (isinstance(body, SessionEvent) and body.statement is not None)
