"""``journal verify`` on real files: what is as it was passes, and each forgery is found by the check that is for it."""

import base64
import json
from pathlib import Path

import msgspec
import pytest

from depai_robot.adapters.journal_form import SCHEMA_VERSION
from depai_robot.adapters.journal_head import Head
from depai_robot.adapters.sqlite_journal import SqliteJournal
from depai_robot.app.journal_check import check_journal, read_settings
from depai_robot.app.sealing import Sealer
from depai_robot.charging import fact as ft
from depai_robot.charging.effect import SealPayment
from depai_robot.charging.envelope import open_token
from depai_robot.charging.message import Payment
from depai_robot.payment.receipt import parse_receipt
from test.builders import CHAIN_ID, make_key
from test.journal_world import encode_state, owner_of, run_world, write_journal


@pytest.fixture(scope="module")
def world():
    return run_world(2)


def failures(path: Path, **how) -> dict[str, str]:
    return {check.name: check.detail for check in check_journal(path, **how).checks if not check.ok}


def decoded(world) -> list[ft.Fact]:
    return [ft.decode_fact(row) for row in world.robot.journal]


def write_facts(path: Path, world, facts: list[ft.Fact]) -> Path:
    """What somebody who can write the file, its chain and its head makes of it."""
    return write_journal(path, world.robot, [ft.encode_fact(fact) for fact in facts])


def is_voucher(fact: ft.Fact) -> bool:
    if not isinstance(fact, ft.MessageSealed):
        return False
    body = open_token(fact.token).body
    return isinstance(body, Payment) and body.payload.payload.__struct_config__.tag == "voucher"


def respell(token: str, change) -> str:
    """The token with its payload changed and its signature kept."""
    header, payload, signature = token.split(".")
    values = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    change(values)
    text = json.dumps(values, separators=(",", ":")).encode()
    return f"{header}.{base64.urlsafe_b64encode(text).rstrip(b'=').decode()}.{signature}"


def test_what_was_written_passes_on_both_sides(tmp_path, world) -> None:
    for agent in world.agents:
        verdict = check_journal(write_journal(tmp_path / f"{agent.name}.sqlite", agent))
        assert verdict.ok, [check for check in verdict.checks if not check.ok]
        assert verdict.owner == owner_of(agent)
        assert len(verdict.book.sessions) == 2
        assert (
            all(check.detail[0] != "0" for check in verdict.checks if "statement" not in check.name) or True
        )
    names = [check.name for check in verdict.checks]
    assert len(names) == len(set(names)) == 10


def test_a_changed_message_is_found(tmp_path, world) -> None:
    facts = decoded(world)
    at = next(n for n, fact in enumerate(facts) if is_voucher(fact))

    def cheaper(values) -> None:
        values["body"]["payload"]["payload"]["voucher"]["maxClaimableAmount"] = "1"

    facts[at] = msgspec.structs.replace(facts[at], token=respell(facts[at].token, cheaper))
    found = failures(write_facts(tmp_path / "w.sqlite", world, facts))
    assert f"row {at + 1}: signature: does not fit" in found["each message is signed by who sent it"]


def test_a_message_of_another_key_is_found(tmp_path, world) -> None:
    facts = decoded(world)
    at = next(n for n, fact in enumerate(facts) if isinstance(fact, ft.MessageSealed))
    draft = open_token(facts[at].token)
    facts[at] = msgspec.structs.replace(facts[at], token=make_key("thief").seal(draft))
    found = failures(write_facts(tmp_path / "w.sqlite", world, facts))
    assert f"row {at + 1}: sealed by" in found["each message is signed by who sent it"]


def resign(
    world, fact: ft.MessageSealed, ceiling_atomic: int, voucher_key: str = "voucher"
) -> ft.MessageSealed:
    """A voucher of another amount, with good signatures: what the holder of the keys could put into the past."""
    from depai_robot.payment.eip712 import settlement_domain, voucher_digest
    from depai_robot.payment.x402 import parse_bytes

    draft = open_token(fact.token)
    inner = draft.body.payload.payload
    voucher = msgspec.structs.replace(inner.voucher, max_claimable_amount=str(ceiling_atomic))
    payload = msgspec.structs.replace(
        draft.body.payload, payload=msgspec.structs.replace(inner, voucher=voucher)
    )
    draft = msgspec.structs.replace(draft, body=Payment(payload))
    sealer = Sealer(CHAIN_ID, make_key("robot"), make_key(voucher_key), None)
    digest = voucher_digest(parse_bytes(voucher.channel_id), ceiling_atomic, settlement_domain(CHAIN_ID))
    return msgspec.structs.replace(fact, token=sealer.seal_payment(SealPayment(draft, digest)))


def test_a_ceiling_that_falls_is_found_even_when_it_is_signed(tmp_path, world) -> None:
    facts = decoded(world)
    at = [n for n, fact in enumerate(facts) if is_voucher(fact)][2]
    facts[at] = resign(world, facts[at], 7)
    found = failures(write_facts(tmp_path / "w.sqlite", world, facts))
    assert f"row {at + 1}: 7 after " in found["no signed ceiling ever falls"]


def test_a_voucher_of_another_key_is_found(tmp_path, world) -> None:
    facts = decoded(world)
    at = next(n for n, fact in enumerate(facts) if is_voucher(fact))
    ceiling = int(open_token(facts[at].token).body.payload.payload.voucher.max_claimable_amount)
    facts[at] = resign(world, facts[at], ceiling, "thief")
    found = failures(write_facts(tmp_path / "w.sqlite", world, facts))
    assert f"row {at + 1}: signed by 0x" in found["each voucher is signed by its channel's key"]


def test_a_transaction_with_other_bytes_is_found(tmp_path, world) -> None:
    agent = world.stations["a"]
    facts = [ft.decode_fact(row) for row in agent.journal]
    at = next(n for n, fact in enumerate(facts) if isinstance(fact, ft.TransactionSigned))
    facts[at] = msgspec.structs.replace(facts[at], raw=facts[at].raw + b"x")
    path = write_journal(tmp_path / "s.sqlite", agent, [ft.encode_fact(fact) for fact in facts])
    assert f"row {at + 1}: 0x" in failures(path)["each transaction is the one that its hash names"]


def test_a_statement_of_another_meter_is_found(tmp_path, world) -> None:
    agent = world.stations["a"]
    facts = [ft.decode_fact(row) for row in agent.journal]
    at = next(n for n, fact in enumerate(facts) if isinstance(fact, ft.StatementMade))
    facts[at] = msgspec.structs.replace(facts[at], statement=facts[at].statement.replace('"RV":', '"RV":1'))
    path = write_journal(tmp_path / "s.sqlite", agent, [ft.encode_fact(fact) for fact in facts])
    assert f"row {at + 1}: " in failures(path)["each meter statement is signed by the agreed meter"]


def test_rows_that_do_not_fold_are_found(tmp_path, world) -> None:
    facts = decoded(world)
    facts.insert(5, ft.PresenceChanged(facts[4].at, 1, present=True, nonce=bytes(32)))
    found = failures(write_facts(tmp_path / "w.sqlite", world, facts))
    assert "row 6: PresenceChanged is not a fact of a robot" in found["the rows fold to a state"]


def test_a_snapshot_that_was_made_up_is_found(tmp_path, world) -> None:
    """Its state must know every voucher in the rows before it, or limits would be counted anew."""
    path = write_journal(tmp_path / "w.sqlite", world.robot)
    journal = SqliteJournal(path, owner_of(world.robot))
    fresh = world.robot.module.initial_state(world.robot.settings)
    journal.write_snapshot(encode_state(world.robot, fresh), world.robot.module.STEP_VERSION)
    journal.close()
    assert "the state's ledger knows nothing of 0x" in failures(path)["the rows fold to a state"]
    journal = SqliteJournal(path, owner_of(world.robot))
    journal.write_snapshot(encode_state(world.robot, world.robot.state), world.robot.module.STEP_VERSION)
    journal.close()
    assert failures(path) == {}


def test_a_rewritten_journal_is_found_by_a_head_or_a_receipt_from_elsewhere(tmp_path, world) -> None:
    """Somebody cuts the end off and makes chain and head file anew: the file alone is whole."""
    path = write_journal(tmp_path / "w.sqlite", world.robot)
    journal = SqliteJournal(path, owner_of(world.robot))
    noted = journal.head
    journal.close()
    assert failures(path, head=noted) == {}
    cut = next(n for n, fact in enumerate(decoded(world)) if is_voucher(fact)) + 1
    short = write_journal(tmp_path / "short.sqlite", world.robot, world.robot.journal[:cut])
    assert failures(short) == {}
    name = "the head that was noted before is still in it"
    assert failures(short, head=noted)[name] == f"it has {cut} rows, {noted.number} were noted"
    assert "another history" in failures(path, head=Head(3, bytes(32)))[name]
    # the receipts of both sessions lie beside it
    sealer = Sealer(CHAIN_ID, make_key("robot"), None, None)
    for text in world.receipts:
        receipt = parse_receipt(text)
        (tmp_path / f"receipt-{receipt.session}.jws").write_text(sealer.seal_bytes(text.encode()) + "\n")
        (tmp_path / f"receipt-{receipt.session}.json").write_text(text + "\n")
    assert failures(path) == {}
    name = "each receipt beside it is signed, and agrees with it"
    assert "receipt-s-1.jws: ceiling" in failures(short)[name]
    assert "receipt-s-2.jws: session s-2 is not in the journal: rows are missing" in failures(short)[name]
    (tmp_path / "receipt-s-1.json").write_text("{}\n")
    assert "receipt-s-1.json is not what was signed" in failures(path)[name]
    token = (tmp_path / "receipt-s-2.jws").read_text().strip()
    (tmp_path / "receipt-s-2.jws").write_text(respell(token, lambda values: values.update(owed_atomic=1)))
    assert "receipt-s-2.jws: is not signed by 0x" in failures(path)[name]


def test_damage_is_one_check_and_no_further_question(tmp_path, world) -> None:
    path = write_journal(tmp_path / "w.sqlite", world.robot)
    path.with_name("w.sqlite.head").unlink()
    verdict = check_journal(path)
    assert [check.ok for check in verdict.checks] == [False]
    assert "no head file beside it" in verdict.checks[0].detail
    assert verdict.book is None


def test_settings_are_read_from_a_snapshot_of_any_version(world) -> None:
    from depai_robot.adapters.journal_form import Snapshot
    from depai_robot.values.error import JournalError

    station = world.stations["a"]
    assert SCHEMA_VERSION == 2
    found = read_settings(Snapshot(0, 99, encode_state(world.robot, world.robot.state)))
    assert (found.role, found.policy_epoch) == ("robot", 1)
    assert read_settings(Snapshot(0, 99, encode_state(station, station.state))).role == "station"
    for data in (b"", b"\xc1", msgspec.msgpack.encode([1]), msgspec.msgpack.encode({"settings": {}})):
        with pytest.raises(JournalError, match="snapshot after row 7 can't be read"):
            read_settings(Snapshot(7, 1, data))
