"""Stories on disk: written by one process, read by another while it writes, and never to be trusted."""

import json
import sys
import threading
from pathlib import Path

import pytest

from depai_robot.app.story import Line, StoryTail, StoryWriter, clean, read_story
from depai_robot.values.error import ConfigError


class Clock:
    """Session time stands at 1.5 s."""

    def session_ns(self) -> int:
        return 1_500_000_000


def test_a_line_comes_back_as_it_was_told(tmp_path: Path) -> None:
    writer = StoryWriter(tmp_path / "new" / "run", "station:st-1", Clock())
    writer.tell("tx", hash=b"\x01\xff", block=7, purpose="s:claim", where=tmp_path)
    (line,) = read_story(tmp_path / "new" / "run")
    assert (line.source, line.kind, line.ros_s) == ("station:st-1", "tx", 1.5)
    assert line.data == {"hash": "0x01ff", "block": 7, "purpose": "s:claim", "where": str(tmp_path)}
    writer.close()
    writer.tell("tx", hash=b"")
    writer.close()
    assert len(read_story(tmp_path / "new" / "run")) == 1


def test_telling_never_raises(tmp_path: Path) -> None:
    class Broken:
        def session_ns(self) -> int:
            raise OSError("the link is gone")

    loop: dict = {}
    loop["self"] = loop
    writer = StoryWriter(tmp_path, "sim", Broken())
    writer.tell("pose", x_m=1.0)
    other = StoryWriter(tmp_path, "demo")
    other.tell("setup", step=loop)
    other.tell("setup", step="fine")
    writer.close()
    other.close()
    assert [line.data for line in read_story(tmp_path)] == [{"step": "fine"}]


def test_a_file_that_cannot_be_opened_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "story-sim.jsonl").mkdir()
    with pytest.raises(ConfigError, match=r"story .*story-sim\.jsonl: Is a directory"):
        StoryWriter(tmp_path, "sim")


def test_half_a_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "story-x.jsonl"
    whole = json.dumps({"wall": 1, "ros": 2, "source": "x", "kind": "k", "data": {"n": 1}})
    tail = StoryTail(tmp_path)
    assert tail.new_lines() == []
    path.write_text(whole[:20])
    assert tail.new_lines() == []
    path.write_text(whole + "\n" + whole[:5])
    assert [line.data["n"] for line in tail.new_lines()] == [1]
    assert tail.new_lines() == []


def test_after_a_crash_in_the_middle_of_a_line_the_next_one_stands_alone(tmp_path: Path) -> None:
    (tmp_path / "story-wallet.jsonl").write_text('{"wall": 1, "ros"')
    writer = StoryWriter(tmp_path, "wallet")
    writer.tell("state", to="QUOTING")
    writer.close()
    assert [line.data["to"] for line in read_story(tmp_path)] == ["QUOTING"]


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "{}",
        "[1, 2]",
        "null",
        "not json",
        '{"wall": "x", "ros": 0, "source": "s", "kind": "k", "data": {}}',
        '{"wall": NaN, "ros": 0, "source": "s", "kind": "k", "data": {}}',
        '{"wall": 1, "ros": 0, "source": "s", "kind": "k", "data": 5}',
        '{"wall": 1, "ros": 0, "source": "s", "kind": "k"}',
        "[" * 100_000,
        "\udcff",
    ],
)
def test_broken_lines_are_left_out(tmp_path: Path, broken: str) -> None:
    good = '{"wall": 1, "ros": 0, "source": "s", "kind": "good", "data": {}}'
    data = f"{good}\n{broken}\n{good}\n".encode(errors="surrogateescape")
    (tmp_path / "story-s.jsonl").write_bytes(data)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)  # as py_ecc, which web3 brings, does to the whole process
    try:
        assert [line.kind for line in read_story(tmp_path)] == ["good", "good"]
    finally:
        sys.setrecursionlimit(limit)


def test_many_tellers_are_read_in_the_order_of_the_wall(tmp_path: Path) -> None:
    for source, walls in (("a", (1, 4)), ("b", (2, 3))):
        text = "".join(
            json.dumps({"wall": w, "ros": 0, "source": source, "kind": "k", "data": {}}) + "\n" for w in walls
        )
        (tmp_path / f"story-{source}.jsonl").write_text(text)
    assert [line.source for line in read_story(tmp_path)] == ["a", "b", "b", "a"]


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    writer = StoryWriter(tmp_path, "wallet")

    def tell(number: int) -> None:
        for count in range(50):
            writer.tell("k", number=number, count=count, text="x" * 500)

    threads = [threading.Thread(target=tell, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    lines = read_story(tmp_path)
    assert len(lines) == 200
    assert {len(line.data["text"]) for line in lines} == {500}


def test_a_long_story_makes_room_and_its_reader_follows(tmp_path: Path) -> None:
    writer, tail, seen = StoryWriter(tmp_path, "sim", size_max_bytes=2000), StoryTail(tmp_path), []
    for count in range(100):
        writer.tell("pose", count=count)
        seen += [line.data["count"] for line in tail.new_lines()]
    writer.close()
    assert seen == list(range(100))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 4000


def test_accessors_take_nothing_for_granted() -> None:
    line = Line(
        0, 0, "s", "k", {"n": 1, "f": 2.5, "nan": float("nan"), "b": True, "t": "a\x1b[31mb\n", "x": None}
    )
    assert [line.number(name) for name in ("n", "f", "nan", "b", "t", "absent")] == [
        1,
        2.5,
        None,
        None,
        None,
        None,
    ]
    assert [line.count(name) for name in ("n", "f", "b", "absent")] == [1, None, None, None]
    assert line.text("t") == "a\ufffd[31mb\ufffd"
    assert (line.text("x"), line.text("absent"), line.text("n")) == ("", "", "1")
    assert len(clean("y" * 10_000)) == 400
