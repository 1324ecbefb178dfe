"""The report of a whole run, of one that broke off anywhere, and of one that is full of other people's words."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from depai_robot.app.report import write_report
from depai_robot.app.report.page import render
from depai_robot.app.report.run import Run
from depai_robot.app.report.sight import choose_sights, error_statistics
from depai_robot.app.story import StoryWriter
from depai_robot.charging.transition import RobotPhase
from depai_robot.payment.receipt import Receipt, Transactions, format_receipt
from depai_robot.values.error import ConfigError

HOSTILE = "<script>alert('x')</script><img src=https://example.org/x.png>\x1b[2J"
SESSION = "rover-1-s1"
PHASES = (
    "QUOTING",
    "FUNDING",
    "APPROACHING",
    "PRESENTING",
    "CHARGING",
    "STOPPING",
    "UNDOCKING",
    "SETTLING",
    "SETTLED",
)
TIMES_S = (10, 11, 12, 30, 31, 90, 91, 95, 100)

RECEIPT = Receipt(
    session=SESSION, robot="rover-1", station="st-1", robot_address="0x" + "11" * 20, station_address="0x" + "22" * 20,
    network="eip155:31337", token="0x" + "33" * 20, channel="0x" + "44" * 32, started_s=1, ended_s=2,
    stop_reason="EnergyLimitReached", price_atomic_per_kwh=380_000, start_fee_atomic=1500, idle_fee_atomic=0,
    station_energy_milliwh=10_727, robot_energy_milliwh=10_538, statements=("OCMF|first", "OCMF|last"), vouchers=40,
    ceiling_atomic=5634, owed_atomic=5576, deposited_atomic=5935, claimed_atomic=5576, returned_atomic=359,
    transactions=Transactions(deposit="0x" + "55" * 32),
)  # fmt: skip


class Clock:
    """Session time as it is set."""

    at_s = 0.0

    def session_ns(self) -> int:
        return round(self.at_s * 1e9)


class Page(HTMLParser):
    """Tags and words of a page; complains about what is not closed."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        """Words, single spaces."""
        return " ".join(" ".join(self.words).split())


def make_run(folder: Path, words: str = "members only") -> Path:
    """A run as the demo leaves it: sixty seconds of charging, pictures on the way, an audit."""
    clock = Clock()
    tell = {
        source: StoryWriter(folder, source, clock)
        for source in ("sim", "wallet", "detector", "station:st-1", "demo")
    }
    dock = {"id": "dock_1", "station": "st-1", "x_m": 3.0, "y_m": 0.0, "yaw_rad": 0.0}
    other = {"id": "dock_2", "station": words, "x_m": 0.0, "y_m": 2.5, "yaw_rad": 1.57}
    room = {"x_min_m": -4.0, "x_max_m": 4.0, "y_min_m": -3.0, "y_max_m": 3.0}
    tell["sim"].tell("world", room=room, docks=[dock, other], start={})
    tell["sim"].tell("camera", backend="rays", reason=words)
    (folder / "frames").mkdir()
    for step in range(200):
        clock.at_s = step * 0.5
        x_m = min(2.6, -2.0 + max(0.0, clock.at_s - 12) * 0.3)
        charging = 31 <= clock.at_s < 90
        tell["sim"].tell(
            "pose", x_m=x_m, y_m=0.0, yaw_rad=0.0, state_of_charge=0.18 + 0.0005 * step, voltage_v=25.8,
            current_a=9.0 if charging else -1.0, pads_w=300.0 if charging else 0.0,
        )  # fmt: skip
        if 12 <= clock.at_s <= 30:
            name = f"frames/{step:06d}.jpg"
            cv2.imwrite(str(folder / name), np.full((480, 640, 3), step, np.uint8))
            tell["detector"].tell(
                "detection", stamp_s=clock.at_s, frame=name, keypoints=[[310, 230], [330, 230], [330, 250], [310, 250]],
                visibility=[1, 1, 1, 0.1], confidence=0.9, range_m=3.0 - (x_m + 0.02) + 0.01, sigma_range_m=0.004,
            )  # fmt: skip
    for station, chosen, refused in (("st-1", True, None), (words, False, words)):
        clock.at_s = 10.5
        tell["wallet"].tell(
            "quote", station=station, price_atomic_per_kwh=380_000, start_fee_atomic=1500, distance_m=5.0, score=5833,
            chosen=chosen, refused=refused,
        )  # fmt: skip
    before = "IDLE"
    for phase, at_s in zip(PHASES, TIMES_S, strict=True):
        clock.at_s = at_s
        tell["wallet"].tell("state", session=SESSION, **{"from": before}, to=phase, cause="TimerFired")
        before = phase
    for number in range(1, 21):
        clock.at_s = 31 + 2.5 * number
        tell["wallet"].tell(
            "tranche", number=number, station_milliwh=270 * number, own_milliwh=262 * number,
            ceiling_atomic=1690 + 100 * number, cost_atomic=1500 + 100 * number,
        )  # fmt: skip
        tell["station:st-1"].tell("statement", connector=1, energy_milliwh=270 * number, power_w=300)
    clock.at_s = 96
    tell["station:st-1"].tell("tx", purpose=f"{SESSION}:claim", hash=b"\x66" * 32, block=5, gas=90_116)
    tell["demo"].tell("broker", program="mosquitto")
    for each in tell.values():
        each.close()
    (folder / "receipt.json").write_text(format_receipt(RECEIPT))
    checks = [{"name": "owed is price times energy", "ok": True, "detail": words}]
    (folder / "checks.json").write_text(json.dumps(checks))
    (folder / "plan.json").write_text(json.dumps({"seed": 7, "dishonest": "none"}))
    (folder / "run.mcap").write_bytes(b"x" * 1234)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("whole"))


def test_the_page_of_a_whole_run(whole: Path) -> None:
    page = Page(write_report(whole).read_text(encoding="utf-8"))
    text = page.text
    for words in (
        "reconciled",
        "rover-1 bought 10.538 Wh from st-1 for 0.005576 USDC",
        "0.000359 USDC came back of 0.005935 USDC",
        "0.000190 USDC at risk at most",
        "energy limit reached",
        "refused: members only",
        "0x" + "66" * 32,
        "0x" + "44" * 32,
        "OCMF|first",
        "camera by rays",
        "broker mosquitto",
        "seed 7",
        "1,234",
        "fees 0.001500 USDC",
        "for energy 0.004076 USDC",
    ):
        assert words in text, words
    assert "This run left no" not in text
    assert [text.count(f"{phase} TimerFired") for phase in PHASES] == [1] * len(PHASES)
    images = [attributes["src"] or "" for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 6
    assert all(source.startswith("data:image/jpeg;base64,/9j/") for source in images)


def test_the_page_needs_nothing_but_itself(whole: Path) -> None:
    page = Page(render(whole))
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object"}
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"src", "href"}:
                assert re.match(r"data:image/jpeg|[\w.-]+(/[\w.-]+)?$", value or ""), value
            elif name != "xmlns":
                assert "//" not in (value or ""), f"{name}={value}"
    policy = [
        a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_pictures_are_spread_over_the_approach_and_say_how_true_they_were(whole: Path) -> None:
    run = Run(whole)
    sights = choose_sights(run)
    ranges = [sight.range_m or 0 for sight in sights]
    assert ranges == sorted(ranges, reverse=True)
    assert ranges[0] > 4.5
    assert ranges[-1] < 0.5
    assert "really" in sights[0].truth
    assert "(+10 mm)" in sights[0].truth
    # Three of four corners were sure: two sides and three dots.
    assert (sights[0].overlay.count("<path"), sights[0].overlay.count("<circle")) == (2, 3)
    statistics = error_statistics(run)
    assert statistics is not None
    assert statistics[1:] == pytest.approx((0.01, 0.01), abs=1e-6)


def test_words_of_others_stay_words(tmp_path: Path) -> None:
    page = Page(render(make_run(tmp_path, HOSTILE)))
    tags = {tag for tag, _ in page.tags}
    assert "script" not in tags
    assert all((a["src"] or "").startswith("data:") for t, a in page.tags if t == "img")
    assert "<script>alert('x')</script>" in page.text
    assert "\x1b" not in page.text


@pytest.mark.parametrize(
    "kept", ["nothing", "story-demo.jsonl", "story-sim.jsonl", "story-wallet.jsonl", "receipt.json"]
)
def test_a_run_that_broke_off_still_gets_its_page(whole: Path, tmp_path: Path, kept: str) -> None:
    if kept != "nothing":
        shutil.copy(whole / kept, tmp_path / kept)
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "This run left no" in page.text
    assert ("not audited" if kept == "receipt.json" else "not finished") in page.text
    assert ("The session was last SETTLED" in page.text) == (kept == "story-wallet.jsonl")


def test_any_single_file_may_be_missing_or_broken(whole: Path, tmp_path: Path) -> None:
    for number, path in enumerate(
        sorted(p for p in whole.iterdir() if p.is_file() and p.suffix in {".json", ".jsonl"})
    ):
        for spoil in (b"", b"{", b"[1, null]", b"\xff\xfe", b'{"tokens": 5}'):
            folder = tmp_path / f"{number}-{spoil.hex()}"
            shutil.copytree(whole, folder)
            (folder / path.name).write_bytes(spoil)
            Page(render(folder))
            shutil.rmtree(folder)


def test_pictures_outside_the_folder_are_not_taken(whole: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(next((whole / "frames").glob("*.jpg")).read_bytes())
    folder = tmp_path / "run"
    writer = StoryWriter(folder, "detector")
    for name in ("../secret.jpg", str(secret), "frames", "", "frames/none.jpg", "x\0y"):
        writer.tell("detection", stamp_s=1.0, frame=name, keypoints=[], visibility=[], range_m=1.0)
    (folder / "fake.jpg").write_text("not a picture")
    writer.tell("detection", stamp_s=1.0, frame="fake.jpg", keypoints=[[1, "a"]], visibility=3)
    writer.close()
    assert choose_sights(Run(folder)) == []


def test_evidence_is_opened_and_what_cannot_be_opened_is_said(tmp_path: Path) -> None:
    data: dict[str, Any] = {"session": SESSION, "reason": HOSTILE, "tokens": ["a.b.c", 5, "x"]}
    (tmp_path / "evidence-1.json").write_text(json.dumps(data))
    (evidence,) = Run(tmp_path).evidence
    assert len(evidence.messages) == 3
    assert all(
        message.kind.startswith("not opened: ") and not message.sender for message in evidence.messages
    )
    Page(render(tmp_path))


def test_a_failed_check_and_a_fault_cannot_be_overlooked(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "checks.json").write_text(
        json.dumps([{"name": "both meters agree", "ok": False, "detail": "1, 2"}])
    )
    faulty = msgspec.structs.replace(RECEIPT, fault="station states too much")
    (folder / "receipt.json").write_text(format_receipt(faulty))
    text = Page(render(folder)).text
    assert "does not reconcile" in text
    assert "Noticed: station states too much" in text
    assert "✗ both meters agree" in text


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(ConfigError, match="is not a folder"):
        write_report(tmp_path / "x")
    (tmp_path / "report.html.new").mkdir()
    with pytest.raises(ConfigError, match="report of"):
        write_report(tmp_path)


def test_every_phase_of_the_machine_is_in_the_picture(whole: Path) -> None:
    text = Page(render(whole)).text
    assert all(phase.value in text for phase in RobotPhase)
