"""Is a journal what it claims to be? Its file, its chain, every signature in it, its fold, the receipts beside it.

Each check is a question with an answer that names the first row that fails. Nothing here needs a key, a chain or a
running program; nothing is changed.
"""

import base64
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from depai_robot.adapters.journal_form import Snapshot
from depai_robot.adapters.journal_head import Head
from depai_robot.adapters.journal_reader import JournalReader, survey
from depai_robot.app.audit import Check
from depai_robot.app.book import Book
from depai_robot.app.bookkeeping import make_book, read_fact, read_terms, signer_of
from depai_robot.charging import robot, station
from depai_robot.charging.effect import KeepReceipt
from depai_robot.charging.envelope import open_token, signing_digest, verify_token
from depai_robot.charging.fact import Fact, MessageReceived, MessageSealed, StatementMade, TransactionSigned
from depai_robot.charging.message import Draft, Payment, Quote
from depai_robot.charging.ocmf import check_statement, parse_statement
from depai_robot.charging.robot_state import RobotState
from depai_robot.charging.station_state import StationState
from depai_robot.payment.eip712 import (
    DEPOSIT_COLLECTOR,
    SETTLEMENT,
    channel_id,
    deposit_digest,
    domain_separator,
    settlement_domain,
    voucher_digest,
)
from depai_robot.payment.signature import SignatureError, verify
from depai_robot.payment.x402 import (
    DepositPayload,
    RefundPayload,
    json_to_config,
    json_to_deposit,
    json_to_voucher,
    parse_bytes,
)
from depai_robot.values.error import DepaiError, JournalError
from depai_robot.values.identity import address_from_hex, address_to_hex, keccak256, parse_did_pkh

FAILURES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Settings:
    """What a snapshot says of its owner's settings, whatever version of a machine wrote it.

    Attributes:
        role: ``robot`` or ``station``.
        identity: address that signs messages.
        settlement, collector: contracts.
        policy_epoch: of the policy in force; -1 for a station.
    """

    role: str
    identity: bytes
    settlement: bytes = SETTLEMENT
    collector: bytes = DEPOSIT_COLLECTOR
    policy_epoch: int = -1


def read_settings(snapshot: Snapshot) -> Settings:
    """The settings in a snapshot.

    Raises:
        JournalError: it is none of a robot's or station's.
    """
    try:
        values = msgspec.msgpack.decode(snapshot.data)["settings"]
        network = values["network"]
        role = "robot" if "robot" in values else "station"
        return Settings(
            role,
            bytes(values["identity"]),
            bytes(network.get("settlement", SETTLEMENT)),
            bytes(network.get("collector", DEPOSIT_COLLECTOR)),
            int(values["policy"]["epoch"]) if role == "robot" else -1,
        )
    except (msgspec.MsgspecError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise JournalError(f"snapshot after row {snapshot.number} can't be read: {error}") from error


@dataclass(slots=True)
class _Question:
    """Collects what failed.

    Attributes:
        name: what must hold.
        asked: how often.
        failures: the first few, in words.
        failed: how many.
    """

    name: str
    asked: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)

    def fail(self, text: str) -> None:
        self.failed += 1
        if len(self.failures) < FAILURES_SHOWN:
            self.failures.append(text)

    @contextlib.contextmanager
    def asking(self, where: str) -> Iterator[None]:
        self.asked += 1
        try:
            yield
        except (DepaiError, ValueError) as error:
            self.fail(f"{where}: {error}")

    def check(self, unit: str) -> Check:
        more = f"; and {self.failed - len(self.failures)} more" if self.failed > len(self.failures) else ""
        return Check(
            self.name,
            not self.failed,
            "; ".join(self.failures) + more if self.failed else f"{self.asked} {unit}",
        )


class _Signatures:
    """Checks every signature again, row by row.

    Args:
        owner: address of the journal's key.
        settings: of the snapshot, None when there is none.
        accepted: rows of others' payments that were accepted; what was refused proves nothing against the journal.
    """

    def __init__(self, owner: str, settings: Settings | None, accepted: set[int]) -> None:
        self._accepted = accepted
        self._owner = owner
        self._settings = settings
        self._ceiling: dict[str, int] = {}
        self._meter: dict[str, tuple[str, str]] = {}
        self._identity: bytes | None = settings.identity if settings else None
        self.messages = _Question("each message is signed by who sent it")
        self.vouchers = _Question("each voucher is signed by its channel's key")
        self.deposits = _Question("each deposit is signed by its payer")
        self.ceilings = _Question("no signed ceiling ever falls")
        self.statements = _Question("each meter statement is signed by the agreed meter")
        self.transactions = _Question("each transaction is the one that its hash names")

    @property
    def highest(self) -> dict[str, int]:
        """Highest ceiling by channel."""
        return self._ceiling

    def look(self, number: int, fact: Fact) -> None:
        """One row."""
        where = f"row {number}"
        if isinstance(fact, MessageSealed | MessageReceived):
            draft: Draft | None = None
            with self.messages.asking(where):
                draft = self._message(fact)
            if draft is not None:
                own = isinstance(fact, MessageSealed)
                if own or not isinstance(draft.body, Payment) or number in self._accepted:
                    self._body(where, draft, own=own)
        elif isinstance(fact, StatementMade):
            self._statement(where, fact.statement)
        elif isinstance(fact, TransactionSigned):
            with self.transactions.asking(where):
                if keccak256(fact.raw) != fact.tx_hash:
                    raise JournalError(f"0x{fact.tx_hash.hex()} is not the hash of its bytes")

    def _message(self, fact: MessageSealed | MessageReceived) -> Draft:
        chain_id, signer = signer_of(fact.token)
        if isinstance(fact, MessageReceived) and signer != fact.sender:
            raise JournalError(f"from {address_to_hex(signer)}, journalled as 0x{fact.sender.hex()}")
        if isinstance(fact, MessageSealed):
            if self._identity is None:
                self._identity = signer
            if signer != self._identity:
                raise JournalError(
                    f"sealed by {address_to_hex(signer)}, expected {address_to_hex(self._identity)}"
                )
        draft = open_token(fact.token)
        addressee = None if draft.to == "*" else parse_did_pkh(draft.to)[1]
        return verify_token(fact.token, now_s=draft.ts, chain_id=chain_id, recipient=addressee).draft

    def _body(self, where: str, draft: Draft, *, own: bool) -> None:
        body = draft.body
        if isinstance(body, Quote):
            terms = read_terms(body)
            if terms is not None:
                self._meter[draft.session] = terms.meter.key, terms.meter.serial
        elif isinstance(body, Payment):
            self._payment(where, body, own=own)

    def _payment(self, where: str, body: Payment, *, own: bool) -> None:
        inner: Any = body.payload.payload
        config_json = getattr(inner, "channel_config", None)
        if config_json is None:
            return  # another rail: it has no channel
        accepted = body.payload.accepted
        settlement = self._settings.settlement if self._settings else SETTLEMENT
        collector = self._settings.collector if self._settings else DEPOSIT_COLLECTOR
        chain_id = int(accepted.network.rpartition(":")[2])
        domain = settlement_domain(chain_id, settlement)
        config, voucher = json_to_config(config_json), json_to_voucher(inner.voucher)
        with self.vouchers.asking(where):
            if channel_id(config, domain) != voucher.channel_id:
                raise JournalError(f"0x{voucher.channel_id.hex()} is not the channel of its config")
            if own and address_to_hex(config.payer_authorizer) != self._owner:
                raise JournalError(
                    f"voucher key {address_to_hex(config.payer_authorizer)}, expected {self._owner}"
                )
            verify(
                voucher_digest(voucher.channel_id, voucher.ceiling_atomic, domain),
                voucher.signature,
                config.payer_authorizer,
            )
        if isinstance(inner, DepositPayload):
            with self.deposits.asking(where):
                deposit = json_to_deposit(inner.deposit)
                token = domain_separator(
                    accepted.extra.name, accepted.extra.version, chain_id, parse_bytes(accepted.asset)
                )
                verify(
                    deposit_digest(
                        token,
                        payer=config.payer,
                        channel=voucher.channel_id,
                        amount_atomic=deposit.amount_atomic,
                        valid_after_s=deposit.valid_after_s,
                        valid_before_s=deposit.valid_before_s,
                        salt=deposit.salt,
                        collector=collector,
                    ),
                    deposit.signature,
                    config.payer,
                )
        self._ceilings(where, "0x" + voucher.channel_id.hex(), voucher.ceiling_atomic, inner, own=own)

    def _ceilings(self, where: str, channel: str, ceiling_atomic: int, inner: Any, *, own: bool) -> None:
        highest = self._ceiling.get(channel, 0)
        if isinstance(inner, RefundPayload):
            # Names exactly what was charged: at most what was signed before, and it revokes nothing.
            if own:
                with self.ceilings.asking(where):
                    if ceiling_atomic > highest:
                        raise JournalError(
                            f"refund at {ceiling_atomic}, above the signed {highest} on {channel}"
                        )
            return
        if own:
            with self.ceilings.asking(where):
                if ceiling_atomic < highest:
                    raise JournalError(f"{ceiling_atomic} after {highest} on {channel}")
        self._ceiling[channel] = max(highest, ceiling_atomic)

    def _statement(self, where: str, text: str) -> None:
        with self.statements.asking(where):
            session = parse_statement(text).session
            if session in self._meter:
                key, serial = self._meter[session]
                check_statement(text, key=key, serial=serial, session=session)

    def checks(self) -> list[Check]:
        """The answers."""
        return [
            self.messages.check("messages"),
            self.vouchers.check("vouchers"),
            self.deposits.check("deposits"),
            self.ceilings.check("vouchers"),
            self.statements.check("statements"),
            self.transactions.check("transactions"),
        ]


@dataclass(slots=True)
class Verdict:
    """The answers about one journal.

    Attributes:
        path: of the file.
        owner: whose it is, as far as it says.
        checks: each question with its answer.
        book: what it tells, None when it can't be read to its end.
    """

    path: Path
    owner: str | None
    checks: list[Check]
    book: Book | None = None

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)


def check_journal(path: Path, *, head: Head | None = None) -> Verdict:
    """Everything that can be known of a journal from its folder alone.

    Args:
        path: of the file.
        head: noted elsewhere before; the journal must still hold it.

    Raises:
        JournalError: it is no journal of ours at all, or of a later version.
    """
    found = survey(path)
    verdict = Verdict(path, found.owner, [])
    whole = Check(
        "the file is whole, and its chain of rows holds",
        not found.findings,
        "; ".join(found.findings) or f"{found.sound_rows} rows",
    )
    verdict.checks.append(whole)
    if not whole.ok:
        return verdict
    with contextlib.closing(JournalReader(path)) as reader:
        if head is not None:
            verdict.checks.append(_check_noted(reader, head))
        _check_rows(reader, verdict, found.snapshot)
    return verdict


def _check_noted(reader: JournalReader, head: Head) -> Check:
    name = "the head that was noted before is still in it"
    if head.number > reader.length:
        return Check(name, False, f"it has {reader.length} rows, {head.number} were noted")
    held = reader.hash_at(head.number) == head.hash
    return Check(name, held, f"row {head.number}" + ("" if held else " has another hash: another history"))


def _check_rows(reader: JournalReader, verdict: Verdict, snapshot: Snapshot | None) -> None:
    settings: Settings | None = None
    facts = _Question("each row is a fact", asked=-1)
    folding = _Question("the rows fold to a state")
    if snapshot is not None:
        with folding.asking("settings"):
            settings = read_settings(snapshot)
    with facts.asking("the rows"):
        verdict.book = make_book(reader.rows())
    accepted = (
        {thing.row for thing in verdict.book.signed if thing.outcome == "accepted"} if verdict.book else set()
    )
    signatures = _Signatures(reader.form.owner, settings, accepted)
    fold = None if snapshot is None or settings is None else _Fold(snapshot, settings)
    for row in reader.rows():
        fact: Fact | None = None
        with facts.asking(f"row {row.number}"):
            fact = read_fact(row)
        if fact is not None:
            signatures.look(row.number, fact)
            if fold is not None and row.number > fold.after:
                with folding.asking(f"row {row.number}"):
                    fold.step(row.step_version, fact)
    verdict.checks += [facts.check("rows"), *signatures.checks()]
    if fold is not None:
        fold.compare(folding, signatures.highest)
        folding.asked = reader.length - fold.after
        answer = folding.check(f"rows behind the snapshot after row {fold.after}")
        verdict.checks.append(Check(answer.name, answer.ok, fold.note or answer.detail))
    verdict.checks.append(_check_receipts(reader.path.parent, verdict.book, fold, signatures.highest))


class _Fold:
    """Steps the machine through the rows behind a snapshot, as a start does, and performs nothing."""

    def __init__(self, snapshot: Snapshot, settings: Settings) -> None:
        self.after = snapshot.number
        self.note = ""
        self.receipts: dict[str, str] = {}
        self._state: Any = None
        self._step: Callable[[Any, Fact], tuple[Any, Any]] = robot.step
        self._version = robot.STEP_VERSION
        form: type[Any] = RobotState
        if settings.role == "station":
            self._step, self._version, form = station.step, station.STEP_VERSION, StationState
        if snapshot.step_version != self._version:
            self.note = (
                f"not asked: the snapshot is of step version {snapshot.step_version}, this is {self._version}"
            )
            return
        try:
            self._state = msgspec.msgpack.decode(snapshot.data, type=form)
        except (msgspec.MsgspecError, DepaiError, ValueError) as error:
            self.note = f"not asked: {error}"

    def step(self, step_version: int, fact: Fact) -> None:
        """One row. Raises DepaiError when the machine refuses it."""
        if self._state is None:
            return
        if step_version != self._version:
            raise JournalError(f"of step version {step_version}, this is {self._version}")
        self._state, effects = self._step(self._state, fact)
        for effect in effects:
            if isinstance(effect, KeepReceipt):
                self.receipts[effect.session] = effect.receipt

    def compare(self, question: _Question, highest: dict[str, int]) -> None:
        """The state's books hold what was signed: a snapshot that was made up differs."""
        if not isinstance(self._state, RobotState):
            return
        for channel, account in self._state.ledger.account_by_channel.items():
            name = "0x" + channel.hex()
            with question.asking("the state's ledger"):
                # Between the wish to sign and the signature there is a row: the ledger may be ahead by one voucher.
                if account.ceiling_atomic < highest.get(name, 0):
                    raise JournalError(
                        f"holds {account.ceiling_atomic} on {name}, signed was {highest[name]}"
                    )
        for name in highest.keys() - {"0x" + c.hex() for c in self._state.ledger.account_by_channel}:
            question.fail(f"the state's ledger knows nothing of {name}, signed was {highest[name]}")


def _check_receipts(folder: Path, book: Book | None, fold: _Fold | None, highest: dict[str, int]) -> Check:
    """Receipts beside the journal: signed by its identity, of its sessions, with its highest voucher."""
    question = _Question("each receipt beside it is signed, and agrees with it")
    if book is None:
        return question.check("receipts")
    for path in sorted(folder.glob("receipt-*.jws")):
        with question.asking(path.name):
            token = path.read_text(encoding="utf-8").strip()
            text = _receipt_text(token)
            values = msgspec.json.decode(text)
            session = str(values.get("session"))
            if address_to_hex(signer_of(token)[1]) != book.identity:
                question.asked -= 1
                continue  # another program's of the same folder
            _verify_bytes(token, book.identity)
            beside = path.with_suffix(".json")
            if beside.exists() and beside.read_text(encoding="utf-8").strip() != text:
                raise JournalError(f"{beside.name} is not what was signed")
            if session not in book.sessions:
                raise JournalError(f"session {session} is not in the journal: rows are missing")
            if values.get("ceiling_atomic", 0) > highest.get(str(values.get("channel")), 0):
                raise JournalError(
                    f"ceiling {values.get('ceiling_atomic')}, the journal's highest voucher is"
                    f" {highest.get(str(values.get('channel')), 0)}: rows are missing"
                )
            if fold is not None and fold.receipts.get(session, text) != text:
                raise JournalError("the journal folds to another receipt")
    return question.check("receipts")


def _receipt_text(token: str) -> str:
    parts = token.split(".")
    if len(parts) != 3:
        raise JournalError(f"expected header.payload.signature, got {len(parts)} parts")
    return base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)).decode()


def _verify_bytes(token: str, identity: str) -> None:
    signing_input, _, text = token.rpartition(".")
    signature = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    digest = signing_digest(signing_input.encode())
    for v in (27, 28):  # a JWS leaves it out
        with contextlib.suppress(SignatureError):
            verify(digest, signature + bytes([v]), address_from_hex(identity))
            return
    raise JournalError(f"is not signed by {identity}")
