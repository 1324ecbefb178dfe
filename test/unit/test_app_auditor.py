"""The independent auditor finds nothing in honest sessions, and each spoiled byte in others."""

import base64
import hashlib
import json

import pytest

from depai_robot.app.auditor import COLLECTOR, SETTLEMENT, Limits, audit
from depai_robot.app.auditor_chain import ChainRecord, Event
from depai_robot.app.auditor_evidence import Domains, read_rows
from depai_robot.charging import fact as ft
from depai_robot.charging.envelope import open_token
from depai_robot.payment.eip712 import settlement_domain, voucher_digest
from test.builders import CHAIN_ID, TOKEN, make_key, make_policy
from test.pretend import World

DOMAINS = Domains(CHAIN_ID, SETTLEMENT, COLLECTOR, TOKEN)
POLICY = make_policy()
LIMITS = Limits(
    POLICY.session_max_atomic, POLICY.day_max_atomic, POLICY.escrow_total_max_atomic, tuple(POLICY.payees)
)


def record(world: World) -> ChainRecord:
    """The pretended chain as an auditor would read a real one."""
    chain = world.chain
    events = []
    for tx_hash, (_, happened) in sorted(chain.mined.items(), key=lambda item: item[1][0]):
        for name, channel, amount in happened:
            subject = world.transactions[tx_hash].receiver if name == "Settled" else channel
            events.append(Event(name, bytes(subject), amount))
    channels = {key: (row["balance"], row["claimed"]) for key, row in chain.channels.items()}
    receivers: dict[bytes, tuple[int, int]] = {}
    for row in chain.channels.values():
        if row["config"] is not None:
            claimed, settled = receivers.get(bytes(row["config"].receiver), (0, 0))
            receivers[bytes(row["config"].receiver)] = (claimed + row["claimed"], settled + row["settled"])
    held = sum(row["balance"] - row["settled"] for row in chain.channels.values())
    return ChainRecord(tuple(events), channels, receivers, held)


def rows_of(world: World) -> tuple[list[bytes], list[bytes]]:
    (station,) = world.stations.values()
    return list(world.robot.journal), list(station.journal)


def look(robot_rows, station_rows, chain, limits=LIMITS):
    journals = [read_rows("robot", "r", robot_rows), read_rows("station", "s", station_rows)]
    return audit(journals, chain, DOMAINS, limits)


@pytest.fixture(scope="module")
def honest():
    world = World()
    for number in (1, 2):
        world.run_session(f"s-{number}", 4000)
        world.run(seconds=120)
    robot, station = rows_of(world)
    return robot, station, record(world)


def payments(rows: list[bytes], kind: str = "MessageSealed") -> list[int]:
    """Places of the rows that hold a payment."""
    found = []
    for place, data in enumerate(rows):
        row = json.loads(data)
        if row["type"] == kind and type(open_token(row["token"]).body).__name__ == "Payment":
            found.append(place)
    return found


def test_honest_sessions_leave_nothing_to_find(honest) -> None:
    robot, station, chain = honest
    assert len(payments(robot)) > 8
    assert look(robot, station, chain) == []


def rules(findings) -> set[int]:
    return {finding.rule for finding in findings}


def test_a_forgotten_signature_is_found(honest) -> None:
    robot, station, chain = honest
    place = payments(robot)[3]
    spoiled = [row for number, row in enumerate(robot) if number != place]
    assert 4 in rules(look(spoiled, station, chain))


def test_an_edited_ceiling_is_found(honest) -> None:
    robot, station, chain = honest
    place = payments(robot)[3]
    row = json.loads(robot[place])
    head, payload, signature = row["token"].split(".")
    row["token"] = f"{head}.{payload[:-8]}{'A' if payload[-8] != 'A' else 'B'}{payload[-7:]}.{signature}"
    spoiled = [*robot[:place], json.dumps(row).encode(), *robot[place + 1 :]]
    found = look(spoiled, station, chain)
    assert {0, 4} <= rules(found)


def reseal(row: bytes, change) -> bytes:
    """The same message with another body, by the same (stolen) key."""
    fact = ft.decode_fact(row)
    draft = open_token(fact.token)
    data = json.loads(_payload(fact.token))
    change(data["body"]["payload"]["payload"])
    return _seal(fact, draft, data)


def _payload(token: str) -> bytes:
    text = token.split(".")[1]
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _seal(fact, draft, data) -> bytes:
    key = make_key("robot")
    text = f"{key.header}.{base64.urlsafe_b64encode(json.dumps(data).encode()).rstrip(b'=').decode()}"
    signature = base64.urlsafe_b64encode(key.sign(hashlib.sha256(text.encode()).digest())[:64]).rstrip(b"=")
    row = json.loads(ft.encode_fact(fact))
    return json.dumps(row | {"token": f"{text}.{signature.decode()}"}).encode()


def raise_ceiling(by: int, *, sign: bool = True):
    def change(payload) -> None:
        voucher = payload["voucher"]
        voucher["maxClaimableAmount"] = str(int(voucher["maxClaimableAmount"]) + by)
        digest = voucher_digest(
            bytes.fromhex(voucher["channelId"][2:]),
            int(voucher["maxClaimableAmount"]),
            settlement_domain(CHAIN_ID),
        )
        if sign:
            voucher["signature"] = "0x" + make_key("voucher").sign(digest).hex()

    return change


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (raise_ceiling(2000), 3),
        (raise_ceiling(10**9), 1),
        (raise_ceiling(1, sign=False), 0),
        (raise_ceiling(-1200), 1),
    ],
)
def test_a_voucher_that_should_not_be_is_found(honest, change, rule) -> None:
    robot, station, chain = honest
    place = payments(robot)[3]
    spoiled = [*robot[:place], reseal(robot[place], change), *robot[place + 1 :]]
    assert rule in rules(look(spoiled, station, chain))


def test_the_same_ceiling_signed_with_other_bytes_is_found(honest) -> None:
    robot, station, chain = honest

    def other(payload) -> None:
        signature = bytearray.fromhex(payload["voucher"]["signature"][2:])
        order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
        high = order - int.from_bytes(signature[32:64], "big")
        signature[32:] = high.to_bytes(32, "big") + bytes([55 - signature[64]])
        payload["voucher"]["signature"] = "0x" + signature.hex()

    place = payments(robot)[3]
    spoiled = [*robot, reseal(robot[place], other)]
    assert 5 in rules(look(spoiled, station, chain))


def change_chain(chain: ChainRecord, **changes) -> ChainRecord:
    values = {name: getattr(chain, name) for name in ("events", "channels", "receivers", "held", "used")}
    return ChainRecord(**(values | changes))


def test_money_that_is_not_accounted_for_is_found(honest) -> None:
    robot, station, chain = honest
    assert rules(look(robot, station, change_chain(chain, held=chain.held - 1))) == {6}
    without = tuple(event for event in chain.events if event.name != "Refunded")
    assert 6 in rules(look(robot, station, change_chain(chain, events=without)))
    channel, (balance, _) = next(iter(chain.channels.items()))
    more = chain.channels | {channel: (balance, 10**6)}
    assert {4, 6} <= rules(look(robot, station, change_chain(chain, channels=more)))
    event = next(item for item in chain.events if item.name == "Deposited")
    twice = chain.events + (event,)
    assert {4, 6} <= rules(look(robot, station, change_chain(chain, events=twice)))


def test_the_owner_s_limits_are_looked_at(honest) -> None:
    robot, station, chain = honest
    assert 2 in rules(look(robot, station, chain, Limits(session_max_atomic=1000)))
    assert 2 in rules(look(robot, station, chain, Limits(day_max_atomic=1000)))
    assert rules(look(robot, station, chain, Limits(payees=(bytes(20),)))) == {9}


def test_a_row_that_is_none_is_said(honest) -> None:
    robot, station, chain = honest
    assert 0 in rules(look([*robot, b'{"type":"MessageSealed","at":[1,2]}'], station, chain))
