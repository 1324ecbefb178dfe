"""Operators' commands: who may order what, once, for five minutes; and what is kept."""

import json

import pytest

from depai_robot.app.fleet_guard import AUDIT, NAME, FleetGuard, read_grants, seal_document
from depai_robot.fleet.command import Command, Grant
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.error import ConfigError
from depai_robot.values.identity import address_to_hex
from test.app_world import make_policy

CHAIN = 31337
NOW_S = 1_800_000_000
OWNER, ADA, EVE = (DevelopmentSigner(name) for name in ("owner", "operator-ada", "eve"))
STATION = "0x" + "ab" * 20
POLICY = make_policy("robot-1", ())


def make_grant(**changes):
    values = {
        "document": "depai.fleet.grant/1",
        "operator": address_to_hex(ADA.address),
        "robot": "robot-1",
        "kinds": ("tighten", "bar", "allow", "pause", "resume"),
        "valid_after_s": NOW_S - 10,
        "valid_before_s": NOW_S + 86_400,
    }
    return Grant(**(values | changes))


def make_command(kind="pause", **changes):
    values = {
        "document": "depai.fleet.command/1",
        "id": "c1",
        "robot": "robot-1",
        "kind": kind,
        "issued_s": NOW_S,
        "expires_s": NOW_S + 60,
    }
    return Command(**(values | changes))


class Desk:
    def __init__(self, folder, *grants):
        self.folder, self.now_s = folder, NOW_S
        self.grants = grants or (make_grant(),)
        self.open()

    def open(self):
        self.guard = FleetGuard(
            self.folder,
            robot="robot-1",
            chain_id=CHAIN,
            owner=OWNER.address,
            grants=self.grants,
            policy=POLICY,
            wall_s=lambda: self.now_s,
        )
        return self

    def send(self, kind="pause", by=ADA, **changes):
        return self.send_token(seal_document(make_command(kind, **changes), by, CHAIN).encode())

    def send_token(self, token):
        return json.loads(self.guard.take(token))


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


def test_pause_counts_at_once_and_after_a_restart_until_it_is_undone(desk):
    assert desk.guard.refusal() == ""
    assert desk.send("pause")["accepted"]
    assert desk.guard.refusal() != ""
    assert desk.open().guard.refusal() != ""
    assert desk.send("resume", id="c2")["accepted"]
    assert desk.open().guard.refusal() == ""


def test_a_command_counts_once_also_over_a_restart(desk):
    token = seal_document(make_command("pause"), ADA, CHAIN).encode()
    assert desk.send_token(token)["accepted"]
    assert desk.send("resume", id="c2")["accepted"]
    for _ in range(2):
        answer = desk.send_token(token)
        assert not answer["accepted"]
        assert "taken before" in answer["words"]
        assert not desk.guard.restrictions.paused
        desk.open()


@pytest.mark.parametrize(
    ("changes", "by", "words"),
    [
        ({"robot": "robot-2"}, ADA, "this is robot-1"),
        ({"issued_s": NOW_S - 90, "expires_s": NOW_S - 30}, ADA, "expired"),
        ({"issued_s": NOW_S + 500, "expires_s": NOW_S + 510}, ADA, "in the future"),
        ({"expires_s": NOW_S + 9000}, ADA, "must live"),
        ({}, EVE, "has not allowed"),
        ({"kind": "widen", "limits": {"day_max_atomic": 1}}, ADA, "owner's signature"),
        ({"kind": "report"}, ADA, "has not allowed"),
        ({"kind": "tighten"}, ADA, "must name a limit"),
        ({"kind": "tighten", "limits": {"tranche": 1}}, ADA, "expected one of"),
        ({"kind": "tighten", "limits": {"day_max_atomic": POLICY.day_max_atomic + 1}}, ADA, "would rise"),
        ({"kind": "bar"}, ADA, "must name a station"),
    ],
)
def test_what_is_refused(desk, changes, by, words):
    answer = desk.send(**({"kind": "pause"} | changes), by=by)
    assert not answer["accepted"]
    assert words in answer["words"]
    assert desk.guard.refusal() == ""
    assert desk.guard.restrictions.limits == {}


def test_limits_fall_by_operators_and_rise_by_the_owner_up_to_the_policy(desk):
    top = POLICY.day_max_atomic
    assert desk.send("tighten", id="a", limits={"day_max_atomic": top // 2})["accepted"]
    assert not desk.send("tighten", id="b", limits={"day_max_atomic": top})["accepted"]
    assert desk.guard.limit("day_max_atomic") == top // 2
    assert not desk.send("widen", by=OWNER, id="c", limits={"day_max_atomic": top + 1})["accepted"]
    assert desk.send("widen", by=OWNER, id="d", limits={"day_max_atomic": top})["accepted"]
    assert desk.guard.limit("day_max_atomic") == top


def test_stations_are_barred_and_allowed(desk):
    assert desk.send("bar", station=STATION)["barred"] == [STATION]
    assert desk.guard.is_barred(bytes.fromhex("ab" * 20))
    assert desk.send("allow", id="c2", station=STATION)["barred"] == []


def test_expired_and_withdrawn_grants_count_nothing(tmp_path):
    desk = Desk(tmp_path, make_grant(valid_before_s=NOW_S - 1))
    assert "not valid now" in desk.send()["words"]


@pytest.mark.parametrize("token", [b"", b"a.b.c", b"\xff" * 50, b"x" * 100_000])
def test_nonsense_is_refused_and_leaves_no_row(desk, token):
    assert not desk.send_token(token)["accepted"]
    assert not (desk.folder / AUDIT).exists()


def test_a_changed_byte_is_refused(desk):
    token = seal_document(make_command(), ADA, CHAIN)
    head, body, signature = token.split(".")
    other = seal_document(make_command("resume"), ADA, CHAIN).split(".")[1]
    assert not desk.send_token(f"{head}.{other}.{signature}".encode())["accepted"]


def test_a_grant_is_no_command_and_a_command_no_grant(desk, tmp_path):
    assert "no command" in desk.send_token(seal_document(make_grant(), OWNER, CHAIN).encode())["words"]
    path = tmp_path / "grants"
    path.write_text(seal_document(make_command(), OWNER, CHAIN))
    with pytest.raises(ConfigError, match="no grant"):
        read_grants(path, owner=OWNER.address, robot="robot-1", chain_id=CHAIN)


def test_grants_are_the_owners_and_for_this_robot(tmp_path):
    path = tmp_path / "grants"
    path.write_text(seal_document(make_grant(), OWNER, CHAIN) + "\n")
    assert read_grants(path, owner=OWNER.address, robot="robot-1", chain_id=CHAIN) == (make_grant(),)
    with pytest.raises(ConfigError, match="this is robot-2"):
        read_grants(path, owner=OWNER.address, robot="robot-2", chain_id=CHAIN)
    path.write_text(seal_document(make_grant(), EVE, CHAIN) + "\n")
    with pytest.raises(ConfigError, match="not by the owner"):
        read_grants(path, owner=OWNER.address, robot="robot-1", chain_id=CHAIN)


def test_every_command_of_somebody_known_is_in_the_audit_log(desk):
    desk.send("pause", reason="a strange bill")
    desk.send("widen", id="c2", limits={"day_max_atomic": 1})
    desk.send("pause", by=EVE, id="c3")
    rows = [json.loads(line) for line in (desk.folder / AUDIT).read_text().splitlines()]
    assert [(row["id"], bool(row["refused"])) for row in rows] == [("c1", False), ("c2", True)]
    assert rows[0]["reason"] == "a strange bill"
    assert rows[0]["by"] == address_to_hex(ADA.address)


def test_damaged_restrictions_stop_all_spending_until_a_person_looks(desk):
    desk.send("pause")
    (desk.folder / NAME).write_bytes(b"{}garbage")
    desk.open()
    assert "can't be read" in desk.guard.refusal()
    assert not desk.send("resume", id="c9")["accepted"]


def test_what_can_not_be_kept_is_not_obeyed(desk):
    desk.send("pause")
    (desk.folder / f".{NAME}.part").mkdir()
    answer = desk.send("resume", id="c2")
    assert not answer["accepted"]
    assert desk.guard.restrictions.paused
