"""Journals that are told in parts: whole or nothing, whoever writes between."""

import msgspec
import pytest

from depai_robot.app.fleet_guard import seal_document
from depai_robot.app.journal_told import Collection, read_told
from depai_robot.fleet.command import Command, RefusedCommandError, Restrictions, obey
from depai_robot.fleet.journal import (
    PART_BYTES_MAX,
    SESSIONS_MAX,
    Extract,
    JournalPart,
    UnreadablePartError,
    join_parts,
    read_part,
    refuse_extract,
    split_extract,
)
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.error import ConfigError

CHAIN = 31337
ROBOT, EVE = DevelopmentSigner("robot-1 identity"), DevelopmentSigner("eve")
DAY_S = 86_400
NOW_S = 1_800_000_000
COMMAND = Command(
    document="depai.fleet.command/1",
    id="c1",
    robot="robot-1",
    kind="journal",
    issued_s=NOW_S,
    expires_s=NOW_S + 60,
    since_s=NOW_S - 7 * DAY_S,
    until_s=NOW_S,
)


def make_extract(count=200):
    rows = tuple(
        {"session": f"s{n}", "billed_atomic": n, "note": "x" * 900, "fault": None} for n in range(count)
    )
    return Extract(
        rows=12_345, head="0x" + "ab" * 32, sessions=rows, days=({"day": "2027-01-15", "sessions": count},)
    )


def seal(part, signer=ROBOT):
    return seal_document(part, signer, CHAIN).encode()


def change(part, /, **changes):
    return msgspec.structs.replace(part, **changes)


def test_an_extract_is_the_same_behind_its_parts_in_any_order():
    extract = make_extract()
    parts = split_extract(extract, COMMAND)
    assert len(parts) > 3
    assert all(len(msgspec.json.encode(part)) <= PART_BYTES_MAX for part in parts)
    again = [read_part(msgspec.json.encode(part)) for part in reversed(parts)]
    assert join_parts(again) == extract


def test_a_year_of_days_and_the_most_sessions_fit():
    rows = tuple(
        dict.fromkeys((f"column_{n}" for n in range(40)), "0x" + "1" * 20) for _ in range(SESSIONS_MAX)
    )
    extract = Extract(rows=1, head="0x" + "00" * 32, sessions=rows, days=rows[:366])
    parts = split_extract(extract, COMMAND)
    assert all(len(msgspec.json.encode(part)) <= PART_BYTES_MAX for part in parts)
    assert join_parts(parts) == extract


def test_an_empty_journal_is_one_part():
    extract = Extract(rows=0, head="0x" + "00" * 32, sessions=(), days=())
    (part,) = split_extract(extract, COMMAND)
    assert join_parts([part]) == extract


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda parts: [], "no part has come"),
        (lambda parts: parts[1:], "1 of 5 parts are missing, the first is 1"),
        (lambda parts: [parts[0], change(parts[1], head="0x" + "cd" * 32), *parts[2:]], "part 2 has head"),
        (lambda parts: [*parts, change(parts[2], sessions=())], "part 3 came twice, and is not the same"),
        (lambda parts: [refuse_extract(COMMAND, "no disk")], "robot-1 says: no disk"),
    ],
)
def test_what_is_not_whole_is_refused(spoil, words):
    with pytest.raises(UnreadablePartError, match=words):
        join_parts(spoil(split_extract(make_extract(), COMMAND)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        msgspec.json.encode(change(refuse_extract(COMMAND, "x"), part=2)),
        msgspec.json.encode(change(refuse_extract(COMMAND, "x"), parts=129)),
        msgspec.json.encode(change(refuse_extract(COMMAND, "x"), head="0xAB")),
        msgspec.json.encode(change(refuse_extract(COMMAND, "x"), sessions=({"a": {"b": 1}},))),
        msgspec.json.encode(refuse_extract(COMMAND, "x"))[:-1] + b',"more":1}',
    ],
)
def test_what_is_no_part_is_refused(data):
    with pytest.raises(UnreadablePartError):
        read_part(data)


def test_more_sessions_than_are_told_are_refused_with_their_number():
    with pytest.raises(UnreadablePartError, match=f"{SESSIONS_MAX + 1} sessions in that time"):
        split_extract(make_extract(SESSIONS_MAX + 1), COMMAND)


@pytest.mark.parametrize(("since_s", "until_s"), [(0, 0), (5, 4), (0, 367 * DAY_S)])
def test_a_span_is_a_span(since_s, until_s):
    with pytest.raises(RefusedCommandError, match="expected since_s before until_s"):
        obey(Restrictions(), change(COMMAND, since_s=since_s, until_s=until_s), {}, NOW_S)


def test_asking_changes_nothing_but_the_ids():
    before = Restrictions(paused=True, barred=("0x" + "ab" * 20,))
    assert obey(before, COMMAND, {}, NOW_S) == change(before, ids={"c1": NOW_S + 180})


def test_a_collection_is_deaf_to_everybody_else():
    parts = split_extract(make_extract(), COMMAND)
    collection = Collection("robot-1", "c1", CHAIN, ROBOT.address)
    for noise in (
        b"noise",
        seal(parts[0], EVE),
        seal(change(parts[0], command="c2")),
        seal(change(parts[0], robot="robot-2")),
        seal_document(COMMAND, ROBOT, CHAIN).encode(),
        seal(refuse_extract(COMMAND, "never mind"), EVE),
    ):
        collection.take(noise)
    assert collection.progress == "no part"
    for part in parts[:-1]:
        collection.take(seal(part))
        collection.take(seal(part))
    assert (collection.is_over, collection.progress) == (False, "4 of 5 parts")
    collection.take(seal(parts[-1]))
    assert collection.told.extract == make_extract()
    assert collection.told.signer == ROBOT.address
    assert "200 sessions, 0.019900 USDC billed; journal at row 12345" in collection.told.text()


def test_without_an_identity_parts_of_two_signers_are_never_mixed():
    parts = split_extract(make_extract(), COMMAND)
    collection = Collection("robot-1", "c1", CHAIN)
    for part in parts[:3]:
        collection.take(seal(part, EVE))
    for part in parts[3:]:
        collection.take(seal(part))
    assert not collection.is_over
    for part in parts[:3]:
        collection.take(seal(part))
    assert collection.told.signer == ROBOT.address


def test_a_robots_refusal_ends_the_waiting():
    collection = Collection("robot-1", "c1", CHAIN)
    collection.take(seal(refuse_extract(COMMAND, "the journal can't be read")))
    assert collection.refusal == "the journal can't be read"


class TestFile:
    def make(self):
        collection = Collection("robot-1", "c1", CHAIN)
        for part in reversed(split_extract(make_extract(), COMMAND)):
            collection.take(seal(part))
        return "\n".join(collection.told.lines).encode()

    def test_is_read_again(self):
        told = read_told(self.make(), CHAIN, ROBOT.address)
        assert told.extract == make_extract()
        assert (told.since_s, told.until_s) == (COMMAND.since_s, COMMAND.until_s)

    def test_of_another_robot_is_refused(self):
        with pytest.raises(ConfigError, match="signed by 0x.*, expected 0x"):
            read_told(self.make(), CHAIN, EVE.address)

    def test_with_one_changed_letter_is_refused(self):
        data = bytearray(self.make())
        place = data.index(b"\n") + 400
        data[place] = ord("A") if data[place] != ord("A") else ord("B")
        with pytest.raises(ConfigError, match="line 2"):
            read_told(bytes(data), CHAIN)

    def test_that_lost_a_line_is_refused(self):
        data = self.make()
        with pytest.raises(ConfigError, match="1 of 5 parts are missing"):
            read_told(data[data.index(b"\n") + 1 :], CHAIN)

    @pytest.mark.parametrize("data", [b"", b"\n", b"a.b.c", b"\xff" * 100])
    def test_of_something_else_is_refused(self, data):
        with pytest.raises(ConfigError):
            read_told(data, CHAIN)


def test_a_part_says_no_more_than_it_must():
    part = refuse_extract(COMMAND, "why")
    assert isinstance(part, JournalPart)
    assert set(msgspec.to_builtins(part)) == {
        "document",
        "command",
        "robot",
        "part",
        "parts",
        "since_s",
        "until_s",
        "error",
    }
