"""What both machines do alike in one step: letters, chain jobs and timers of a dialogue, kept for a restart.

A :class:`Dialogue` is the frozen part of a session that both roles share; a :class:`Turn` is the scratch pad of
one step: it changes copies and collects effects, and is thrown away when the step raises.
"""

from typing import Generic, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from depai_robot.charging.effect import (
    BroadcastTransaction,
    ClearTimer,
    Effect,
    Effects,
    FindBadRows,
    PrepareTransaction,
    Publish,
    ReadAuthorization,
    ReadChannel,
    ReadFunds,
    ReadHead,
    ReadWithdrawals,
    SealMessage,
    SealPayment,
    SealTransfer,
    SetTimer,
)
from depai_robot.charging.fact import (
    ChainFailed,
    Fact,
    MessageSealed,
    TransactionConfirmed,
    TransactionSigned,
)
from depai_robot.charging.message import Body, Draft
from depai_robot.charging.transition import require_move
from depai_robot.values.error import BugError
from depai_robot.values.identity import did_pkh

Job = (
    ReadHead
    | ReadChannel
    | ReadFunds
    | ReadAuthorization
    | ReadWithdrawals
    | PrepareTransaction
    | BroadcastTransaction
    | FindBadRows
)

LETTERS_MAX = 1100
REPLIES_MAX = 4


class Letter(Struct, frozen=True):
    """A message under way, from the wish to sign it until it is answered.

    Attributes:
        id: of the draft.
        topic: where it goes.
        seal: the wish; said again after a restart until the token is there.
        token: the signed bytes, once they are; sent again identically.
        keep: wants an answer: sent again until it comes.
        retain: for offers.
        answers: id of the message that this answers; sent again whenever that one is repeated.
    """

    id: str
    topic: str
    seal: SealMessage | SealPayment | SealTransfer
    token: str = ""
    keep: bool = False
    retain: bool = False
    answers: str = ""


class Patience(Struct, frozen=True):
    """A simulated session clock may run many times faster than networks and chains, which know only the wall's.

    Attributes:
        not_before_s: wall clock.
        not_after_ns: session clock; then the timer counts, whatever the wall clock says.
    """

    not_before_s: int
    not_after_ns: int


class Dialogue(Struct, frozen=True, kw_only=True):
    """What a session of either role holds for its correspondence.

    Attributes:
        id: of the session, ``-`` for what belongs to none.
        seq: of the next message.
        letters: under way, oldest first.
        replies: signed answers by the id of what they answer, the newest few.
        jobs: chain effects without an outcome yet, by purpose.
        timers: due times on the session clock, by name.
        patience: of timers that wait for others: not before this wall clock, nor after this session clock.
        ignored: how often something was ignored, by reason.
    """

    id: str
    seq: int = 0
    letters: tuple[Letter, ...] = ()
    replies: dict[str, Letter] = {}
    jobs: dict[str, Job] = {}
    timers: dict[str, int] = {}
    patience: dict[str, Patience] = {}
    ignored: dict[str, int] = {}


D = TypeVar("D", bound=Dialogue)


class Correspondence(Struct, frozen=True):
    """Who speaks: from the settings of either role.

    Attributes:
        role: ``robot`` or ``station``.
        chain_id: of the identities' did:pkh.
        message_ttl_s: how long a message stays valid.
        retry_ms: until an unanswered one is sent again.
        chain_retry_ms: until a chain effect that nobody answered is tried again.
    """

    role: str
    chain_id: int
    message_ttl_s: int
    retry_ms: int
    chain_retry_ms: int


class Turn(Generic[D]):
    """The scratch pad of one step on one dialogue."""

    def __init__(self, speaker: Correspondence, fact: Fact, cause: str, session: D) -> None:
        self.speaker = speaker
        self.fact = fact
        self.at = fact.at
        self.cause = cause
        self.session = session
        self.effects: list[Effect] = []

    # --- plain ---------------------------------------------------------------------------------------------

    def update(self, **changes: object) -> None:
        """Changes fields of the session."""
        self.session = replace(self.session, **changes)

    def emit(self, *effects: Effect) -> None:
        """Wishes, in order."""
        self.effects += effects

    def ignore(self, reason: str) -> None:
        """Counts something that is normal noise (repeated, late) and changes nothing."""
        ignored = self.session.ignored
        self.update(ignored={**ignored, reason: ignored.get(reason, 0) + 1})

    def move_to(self, after: str) -> None:
        """Goes to another phase. Raises BugError when the table does not allow it."""
        before: str = self.session.phase  # type: ignore[attr-defined]
        require_move(self.speaker.role, before, self.cause, after)
        self.update(phase=after)

    # --- timers --------------------------------------------------------------------------------------------

    def set_timer(self, what: str, delay_ms: int) -> None:
        """Fires after a delay on the session clock, also across a restart."""
        due_ns = self.at.session_ns + delay_ms * 1_000_000
        self.update(timers={**self.session.timers, what: due_ns})
        self.emit(SetTimer(f"{self.session.id}/{what}", due_ns))

    def set_patient_timer(self, what: str, delay_ms: int) -> None:
        """As set_timer, for what others must do: fires when the delay is over by the session and the wall clock.

        A wall clock that is set back can not hold it for longer than 20 times the delay.
        """
        self.set_timer(what, delay_ms)
        latest_ns = self.at.session_ns + 20 * delay_ms * 1_000_000
        patience = Patience(self.at.wall_s + delay_ms // 1000, latest_ns)
        self.update(patience={**self.session.patience, what: patience})

    def set_timer_once(self, what: str, delay_ms: int) -> None:
        """As set_timer, unless it runs already."""
        if what not in self.session.timers:
            self.set_timer(what, delay_ms)

    def clear_timer(self, *names: str) -> None:
        """Forgets timers; those that do not run are no matter."""
        for what in names:
            if what in self.session.timers:
                self._forget_timer(what)
                self.update(patience={k: v for k, v in self.session.patience.items() if k != what})
                self.emit(ClearTimer(f"{self.session.id}/{what}"))

    def clear_timers(self) -> None:
        """Forgets every timer of the phase; those of letters and chain jobs go with these."""
        self.clear_timer(
            *(what for what in self.session.timers if what != "retry" and not what.startswith("chain:"))
        )

    def take_timer(self, what: str) -> bool:
        """Whether the timer that fired was due and not replaced meanwhile; it is gone then."""
        due_ns = self.session.timers.get(what)
        if due_ns is None or due_ns > self.at.session_ns:
            self.ignore("stale timer")
            return False
        self._forget_timer(what)
        patience = self.session.patience.get(what)
        if patience is None:
            return True
        left_s = patience.not_before_s - self.at.wall_s
        if left_s > 0 and self.at.session_ns < patience.not_after_ns:
            self.set_timer(what, 1000 * left_s)
            return False
        self.update(patience={k: v for k, v in self.session.patience.items() if k != what})
        return True

    def _forget_timer(self, what: str) -> None:
        self.update(timers={k: v for k, v in self.session.timers.items() if k != what})

    # --- letters -------------------------------------------------------------------------------------------

    def post(
        self,
        body: Body,
        *,
        to: bytes | None,
        topic: str,
        keep: bool = False,
        retain: bool = False,
        answers: str = "",
        ttl_s: int = 0,
        voucher_digest: bytes = b"",
        deposit_digest: bytes = b"",
        transfer_digest: bytes = b"",
    ) -> str:
        """Wishes a message signed and sent; its id is returned.

        Args:
            body: of the message.
            to: address of the addressee, None for everybody.
            topic: where it goes.
            keep: say it again until :meth:`answer`.
            retain: for offers.
            answers: id of the message that this answers.
            ttl_s: validity, when not the usual one.
            voucher_digest: for a payment, what the voucher key signs.
            deposit_digest: for a deposit, what the payer key signs.
            transfer_digest: for a transfer, what the payer key signs.
        """
        session = self.session
        if len(session.letters) >= LETTERS_MAX:
            raise BugError(f"session {session.id}: more than {LETTERS_MAX} letters under way")
        prefix = "offer" if session.id == "-" else session.id
        letter_id = f"{prefix}.{self.speaker.role[0]}.{session.seq}"
        draft = Draft(
            id=letter_id,
            session=session.id,
            seq=session.seq,
            ts=self.at.wall_s,
            exp=self.at.wall_s + (ttl_s or self.speaker.message_ttl_s),
            to="*" if to is None else did_pkh(self.speaker.chain_id, to),
            body=body,
        )
        seal: SealMessage | SealPayment | SealTransfer = SealMessage(draft)
        if voucher_digest:
            seal = SealPayment(draft, voucher_digest, deposit_digest or None)
        elif transfer_digest:
            seal = SealTransfer(draft, transfer_digest)
        letter = Letter(letter_id, topic, seal, keep=keep, retain=retain, answers=answers)
        self.update(seq=session.seq + 1, letters=(*session.letters, letter))
        self.emit(seal)
        if keep:
            self.set_timer_once("retry", self.speaker.retry_ms)
        return letter_id

    def letter(self, letter_id: str) -> Letter | None:
        """The letter under way with that id."""
        return next((item for item in self.session.letters if item.id == letter_id), None)

    def sealed(self, fact: MessageSealed) -> None:
        """Signed bytes are there: send them."""
        letter = self.letter(fact.id)
        if letter is None or letter.token:
            self.ignore("sealed twice" if letter else "sealed late")
            return
        self.emit(Publish(letter.topic, fact.token, letter.retain))
        done = replace(letter, token=fact.token)
        if letter.answers:
            replies = {**self.session.replies, letter.answers: done}
            self.update(replies=dict(list(replies.items())[-REPLIES_MAX:]))
        letters = (done if item is letter else item for item in self.session.letters)
        self.update(letters=tuple(item for item in letters if item.keep or not item.token))

    def answer(self, *letter_ids: str) -> None:
        """These need no answer any more."""
        kept = tuple(item for item in self.session.letters if item.id not in letter_ids)
        if len(kept) != len(self.session.letters):
            self.update(letters=kept)
        if not any(item.keep for item in kept):
            self.clear_timer("retry")

    def reply_again(self, message_id: str) -> bool:
        """Whether that message was answered before; then the same answer goes out again."""
        reply = self.session.replies.get(message_id)
        if reply is not None:
            self.emit(Publish(reply.topic, reply.token, reply.retain))
        return reply is not None or any(item.answers == message_id for item in self.session.letters)

    def resend(self, letter_id: str) -> None:
        """Sends a signed letter again, the same bytes."""
        letter = self.letter(letter_id)
        if letter is not None and letter.token:
            self.emit(Publish(letter.topic, letter.token, letter.retain))

    def retry(self) -> None:
        """The retry timer fired: every unanswered letter again."""
        kept = [item for item in self.session.letters if item.keep]
        self.emit(*(Publish(item.topic, item.token, item.retain) for item in kept if item.token))
        if kept:
            self.set_timer("retry", self.speaker.retry_ms)

    # --- chain ---------------------------------------------------------------------------------------------

    def purpose(self, what: str) -> str:
        """Names a wish: the same after a restart."""
        return f"{self.session.id}:{what}"

    def start(self, job: Job) -> None:
        """Starts a chain effect and remembers it until its outcome."""
        self.update(jobs={**self.session.jobs, job.purpose: job})
        self.emit(job)

    def end(self, purpose: str) -> bool:
        """Whether an outcome was waited for; it no longer is."""
        if purpose not in self.session.jobs:
            return False
        self.update(jobs={k: v for k, v in self.session.jobs.items() if k != purpose})
        return True

    def end_reads(self, channel_id: bytes) -> set[str]:
        """A channel was read: every read of it is done. Returns what they were for."""
        done = {
            k
            for k, v in self.session.jobs.items()
            if isinstance(v, ReadChannel) and v.channel_id == channel_id
        }
        if done:
            self.update(jobs={k: v for k, v in self.session.jobs.items() if k not in done})
        return {purpose.rpartition(":")[2] for purpose in done}

    def signed(self, fact: TransactionSigned, confirmations: int) -> bool:
        """A transaction has its bytes: send exactly these."""
        job = self.session.jobs.get(fact.purpose)
        if not isinstance(job, PrepareTransaction):
            self.ignore("transaction signed twice")
            return False
        self.start(BroadcastTransaction(fact.purpose, fact.raw, fact.tx_hash, fact.nonce, confirmations))
        return True

    def confirmed(self, fact: TransactionConfirmed) -> bool:
        """Whether the confirmation was waited for."""
        if not self.end(fact.purpose):
            self.ignore("transaction confirmed twice")
            return False
        return True

    def failed(self, fact: ChainFailed) -> bool:
        """True when the chain said no (the job is over); otherwise it is tried again after a while."""
        if fact.purpose not in self.session.jobs:
            self.ignore("late chain failure")
            return False
        if fact.final:
            self.end(fact.purpose)
            return True
        self.set_timer_once(f"chain:{fact.purpose.rpartition(':')[2]}", self.speaker.chain_retry_ms)
        return False

    def retry_job(self, what: str) -> None:
        """The timer of a chain job fired: ask again, the same."""
        job = self.session.jobs.get(self.purpose(what))
        if job is not None:
            self.emit(job)

    # --- restart -------------------------------------------------------------------------------------------

    def resume(self, back_ns: int) -> None:
        """After a restart: every timer, letter and chain job again, as it was.

        Args:
            back_ns: how far the session clock went back, 0 when it did not.
        """
        if back_ns:
            patience = self.session.patience
            self.update(
                timers={k: v - back_ns for k, v in self.session.timers.items()},
                patience={k: replace(v, not_after_ns=v.not_after_ns - back_ns) for k, v in patience.items()},
            )
        session = self.session
        self.emit(*(SetTimer(f"{session.id}/{what}", due_ns) for what, due_ns in session.timers.items()))
        for item in session.letters:
            self.emit(Publish(item.topic, item.token, item.retain) if item.token else item.seal)
        self.emit(*session.jobs.values())

    def finish(self) -> Effects:
        """The effects, for the step's result."""
        return tuple(self.effects)
