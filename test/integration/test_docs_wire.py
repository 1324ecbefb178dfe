"""The transport page shows what the code says: its examples are real messages, and they decode and verify."""

import json
import re

import pytest

from depai_robot.charging import envelope
from docs import wire
from test.builders import CHAIN_ID, WALL_S, make_key

PAGE = wire.PAGE.read_text(encoding="utf-8")
_SHOWN = re.compile(r"<!-- example: ([a-z.-]+) -->\n```json\n(.*?)\n```", re.DOTALL)
EXAMPLES = {name: json.loads(text) for name, text in _SHOWN.findall(PAGE)}
PAYMENTS = ("payment.deposit", "payment.voucher", "payment.refund", "block.payment.exact")


def test_the_examples_are_what_the_code_says():
    assert wire.render(PAGE) == PAGE, "run make docs"


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - {"jws"}))
def test_each_example_decodes_strictly(name):
    kind = "payment" if name in PAYMENTS else name
    body = envelope.decode_body(kind, json.dumps(EXAMPLES[name]).encode())
    assert json.loads(envelope.encode_body(body)) == EXAMPLES[name]


def test_the_messages_behind_them_verify():
    recipient = {"r": make_key("station-a").address, "s": make_key("robot").address}
    for name, token in wire.tokens().items():
        if name.endswith("offer"):
            continue
        side = wire.decode(token)[1]["id"].split(".")[-2]
        verified = envelope.verify_token(
            token, now_s=WALL_S + 60, chain_id=CHAIN_ID, recipient=recipient[side]
        )
        assert verified.draft.session.startswith("s-")


def test_every_example_is_used():
    assert {"jws", "quote", "need-voucher", "payment.result", *PAYMENTS} == set(EXAMPLES)
