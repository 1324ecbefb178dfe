"""What a person typed becomes an order, or a clear refusal; what a robot answers is read as a stranger's words."""

import json

import pytest

from depai_robot.console.order import ORDERS, describe, is_answer, make_order, read_answer
from depai_robot.fleet.command import OPERATOR_KINDS, read_command
from depai_robot.values.error import ConfigError

ORDER = {order.kind: order for order in ORDERS}
STATION = "0x52908400098527886E0F7030069857D2E4169EE7"
ANSWER = {
    "v": 1,
    "id": "abc",
    "by": STATION,
    "kind": "tighten",
    "accepted": True,
    "words": "",
    "paused": True,
    "limits": {"day_max_atomic": 2_000_000},
    "barred": [STATION.lower()],
    "at_s": 5,
}


def make(kind, values=None, reason="a strange bill", robot="robot-1"):
    return make_order(robot, ORDER[kind], values or {}, reason, order_id="abc", now_s=1000)


def test_every_kind_an_operator_may_order_is_there():
    assert set(ORDER) == set(OPERATOR_KINDS)


def test_an_order_is_what_the_wire_wants():
    import msgspec

    command = make("tighten", {"day_max_atomic": " 2000000 ", "session_max_atomic": ""})
    assert read_command(msgspec.json.encode(command)) == command
    assert command.limits == {"day_max_atomic": 2_000_000}
    assert command.expires_s - command.issued_s == 300
    text = describe(command)
    assert "day_max_atomic  2000000 (2 USDC)" in text
    assert "a strange bill" in text


@pytest.mark.parametrize(
    ("kind", "values", "reason", "words"),
    [
        ("pause", {}, "", "reason"),
        ("pause", {}, "x" * 257, "reason"),
        ("tighten", {}, "why", "at least one limit"),
        ("tighten", {"day_max_atomic": "2.5"}, "why", "whole number"),
        ("tighten", {"day_max_atomic": "-1"}, "why", "whole number"),
        ("tighten", {"day_max_atomic": "9" * 30}, "why", "whole number"),
        ("bar", {"station": "0x12"}, "why", "40 hexadecimal"),
        ("bar", {}, "why", "40 hexadecimal"),
        (
            "allow",
            {"station": "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD".lower().replace("a", "A", 1)},
            "why",
            "checksum",
        ),
    ],
)
def test_what_is_not_filled_in_well_is_refused(kind, values, reason, words):
    with pytest.raises(ConfigError, match=words):
        make(kind, values, reason)


def test_a_serial_number_that_is_no_robot_id_is_refused():
    with pytest.raises(ConfigError):
        make("pause", robot="a/b")


def test_an_answer_is_read():
    topic = "depai/v1/fleet/robot-1/answer"
    assert is_answer(topic)
    answer = read_answer(topic, json.dumps(ANSWER).encode())
    assert (answer.robot, answer.id, answer.accepted) == ("robot-1", "abc", True)
    assert answer.text() == "robot-1 obeys: spending paused, day_max_atomic <= 2000000, 1 barred"
    refused = read_answer(topic, json.dumps(ANSWER | {"accepted": False, "words": "expired"}).encode())
    assert refused.text() == "robot-1 refuses: expired"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 100_000,
        json.dumps(ANSWER | {"id": 5}).encode(),
        json.dumps(ANSWER | {"limits": []}).encode(),
        json.dumps(ANSWER | {"barred": "x"}).encode(),
        b" " * 300_000,
    ],
)
def test_what_is_no_answer_is_none(payload):
    assert read_answer("depai/v1/fleet/robot-1/answer", payload) is None
