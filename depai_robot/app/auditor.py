"""The independent auditor: a chain and journals of robots and stations in, breaches of the design's invariants out.

``python -m depai_robot.app.auditor --rpc URL JOURNAL...`` prints what it finds and ends with 1 when it finds anything.
It believes signed bytes and the chain alone, opens them with a decoder of its own (:mod:`auditor_evidence`,
:mod:`auditor_chain`), and shares no code with the machines that wrote them.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from depai_robot.app.auditor_chain import ChainRecord, read_chain
from depai_robot.app.auditor_evidence import (
    Domains,
    Evidence,
    Message,
    Transfer,
    Voucher,
    parse_meter,
    read_evidence,
    read_payment,
)
from depai_robot.values.error import DepaiError

SETTLEMENT = bytes.fromhex("4020074e9df2ce1dee5a9c1b5c3f541d02a10003")
COLLECTOR = bytes.fromhex("4020806089470a89826cb9fb1f4059150b550004")
"""Canonical addresses. Source: x402 v2, scheme batch-settlement on EVM."""
MILLIWH_PER_KWH = 1_000_000
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Limits:
    """What the owner allows; None is not audited.

    Attributes:
        session_max_atomic, day_max_atomic, escrow_total_max_atomic: of the signed policy.
        payees: addresses that may be paid.
        efficiency_min_permille: of the way from the station's meter to the robot's.
        meter_slack_milliwh: both meters' steps.
    """

    session_max_atomic: int | None = None
    day_max_atomic: int | None = None
    escrow_total_max_atomic: int | None = None
    payees: tuple[bytes, ...] = ()
    efficiency_min_permille: int = 900
    meter_slack_milliwh: int = 100


@dataclass(frozen=True, slots=True)
class Finding:
    """One breach.

    Attributes:
        rule: number of the design's invariant; 0 for evidence that can't be believed.
        who: journal, channel or receiver.
        detail: what was seen and what was expected.
    """

    rule: int
    who: str
    detail: str

    def __str__(self) -> str:
        what = f"invariant {self.rule}" if self.rule else "evidence"
        return f"{what}: {self.who}: {self.detail}"


@dataclass(slots=True)
class _Robot:
    """One robot's journal, opened.

    Attributes:
        vouchers: in order of rows.
        transfers: likewise.
    """

    evidence: Evidence
    vouchers: list[Voucher] = field(default_factory=list)
    transfers: list[Transfer] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Terms:
    price: int
    start_fee: int
    tranche: int
    idle_fee: int


def audit(
    journals: Sequence[Evidence], chain: ChainRecord, domains: Domains, limits: Limits | None = None
) -> list[Finding]:
    """Every breach; empty when all is as it must be."""
    limits = limits or Limits()
    findings = [Finding(0, item.name, detail) for item in journals for detail in item.findings]
    robots = []
    for item in journals:
        findings += _check_bytes(item)
        if item.is_robot:
            robot = _Robot(item)
            findings += _open_payments(robot, domains)
            robots.append(robot)
    findings += _check_sides(journals)
    for robot in robots:
        findings += _check_ceilings(robot, chain)
        findings += _check_signatures(robot, limits)
        findings += _check_energy(robot, limits)
        findings += _check_policy(robot, chain, limits)
        findings += _check_transfers(robot, chain)
    findings += _check_claims(robots, chain)
    findings += _check_money(chain)
    return findings


def _open_payments(robot: _Robot, domains: Domains) -> Iterator[Finding]:
    for message in robot.evidence.messages:
        if not message.sealed or message.kind != "payment":
            continue
        try:
            payment = read_payment(message, domains)
        except (ValueError, KeyError, TypeError) as error:
            yield Finding(0, _place(robot, message), f"no payment: {type(error).__name__}: {error}")
            continue
        if isinstance(payment, Transfer):
            robot.transfers.append(payment)
        else:
            robot.vouchers.append(payment)


def _place(robot: _Robot, message: Message) -> str:
    return f"{robot.evidence.name} row {message.row}, {message.session}"


def _check_bytes(evidence: Evidence) -> Iterator[Finding]:
    """5: what is signed under one id is signed once."""
    token_by_id: dict[tuple[bytes, str], bytes] = {}
    for message in evidence.messages:
        if not message.sealed:
            continue
        if token_by_id.setdefault((message.sender, message.id), message.digest) != message.digest:
            yield Finding(5, evidence.name, f"message {message.id} was signed twice, with other bytes")


def _check_sides(journals: Sequence[Evidence]) -> Iterator[Finding]:
    """4: whatever reached the other side stands in its signer's journal."""
    sealed: dict[bytes, set[bytes]] = defaultdict(set)
    for item in journals:
        for message in item.messages:
            if message.sealed:
                sealed[message.sender].add(message.digest)
    for item in journals:
        for message in item.messages:
            if (
                not message.sealed
                and message.sender in sealed
                and message.digest not in sealed[message.sender]
            ):
                yield Finding(
                    4,
                    f"{item.name} row {message.row}",
                    f"{message.kind} {message.id} is in no journal of its signer",
                )


def _check_ceilings(robot: _Robot, chain: ChainRecord) -> Iterator[Finding]:
    """1: a ceiling never falls, nor exceeds what is in the channel."""
    highest: dict[bytes, int] = {}
    refunded: set[bytes] = set()
    for item in robot.vouchers:
        where = _place(robot, item.message)
        before = highest.get(item.channel, 0)
        if item.kind in ("closing", "refund"):
            # At exactly what is charged, below the highest ceiling or, for the ramp's last joules, just above it.
            if item.kind == "refund":
                refunded.add(item.channel)
            highest[item.channel] = max(before, item.ceiling)
            continue
        if item.deposit:
            refunded.discard(item.channel)  # filled again
        if item.channel in refunded and item.kind == "voucher" and item.ceiling > before:
            yield Finding(1, where, f"ceiling {item.ceiling} on a channel whose rest was asked back")
        if item.ceiling < before and not item.deposit:
            yield Finding(1, where, f"the ceiling fell from {before} to {item.ceiling}")
        deposited = chain.total("Deposited", item.channel)
        if item.ceiling > deposited and item.ceiling > before + item.deposit:
            yield Finding(1, where, f"ceiling {item.ceiling}, only {deposited} was deposited")
        highest[item.channel] = max(before, item.ceiling)


def _check_signatures(robot: _Robot, limits: Limits) -> Iterator[Finding]:
    """5: no signature twice with other bytes; each by the key that it must be by; 9: to payees only."""
    by_ceiling: dict[tuple[bytes, int], bytes] = {}
    by_nonce: dict[bytes, tuple[int, bytes]] = {}
    for item in robot.vouchers:
        where = _place(robot, item.message)
        if item.signed_by != item.should_sign:
            yield Finding(
                0, where, f"voucher signed by 0x{item.signed_by.hex()}, expected 0x{item.should_sign.hex()}"
            )
        if by_ceiling.setdefault((item.channel, item.ceiling), item.signature) != item.signature:
            yield Finding(5, where, f"ceiling {item.ceiling} was signed twice, with other bytes")
        if item.deposit:
            if item.deposit_signed_by != item.payer:
                yield Finding(
                    0, where, f"deposit signed by 0x{item.deposit_signed_by.hex()}, not by its payer"
                )
            same = (item.deposit, item.channel)
            if by_nonce.setdefault(item.nonce, same) != same:
                yield Finding(5, where, "a deposit's nonce was signed for two amounts")
        if limits.payees and item.receiver not in limits.payees:
            yield Finding(9, where, f"pays 0x{item.receiver.hex()}, which the policy does not name")


def _terms_of(quotes: Sequence[Message], receiver: bytes, before_row: int) -> _Terms | None:
    """The newest quote of that receiver."""
    found = None
    for message in quotes:
        if message.row > before_row:
            continue
        required = message.body["payment_required"]
        if bytes.fromhex(required["accepts"][0]["payTo"][2:]) != receiver:
            continue
        for extension in required.get("extensions", {}).values():
            info: dict[str, Any] = extension["info"]
            found = _Terms(
                info["price_atomic_per_kwh"],
                info["start_fee_atomic"],
                info["tranche_milliwh"],
                info["idle_fee_atomic_per_min"],
            )
    return found


def _check_energy(robot: _Robot, limits: Limits) -> Iterator[Finding]:
    """3: at most one tranche ahead of energy that the station states and the robot's own meter explains."""
    payments = {item.message.row: item for item in robot.vouchers}
    quotes: dict[str, list[Message]] = defaultdict(list)
    terms: dict[str, _Terms | None] = {}
    base: dict[str, int] = {}
    closed: dict[bytes, int] = {}
    stated: dict[str, tuple[int, int]] = {}
    own: dict[str, tuple[int, int]] = {}
    for message in robot.evidence.messages:
        if not message.sealed and message.kind == "quote":
            quotes[message.session].append(message)
        if not message.sealed and message.kind in ("need-voucher", "session.event"):
            text = message.body.get("statement")
            if text and message.own_milliwh is not None:
                session, _, energy = parse_meter(text)
                first, newest = stated.get(session, (energy, energy))
                stated[session] = (first, max(newest, energy))
                own_first, own_newest = own.get(session, (message.own_milliwh, message.own_milliwh))
                own[session] = (own_first, max(own_newest, message.own_milliwh))
            continue
        item = payments.get(message.row)
        if item is None:
            continue
        key = message.session
        if terms.get(key) is None:
            terms[key] = _terms_of(quotes[key], item.receiver, message.row)
            base[key] = closed.get(item.channel, 0)
        agreed = terms[key]
        if agreed is None and item.kind == "refund":
            continue  # the rest of a kept channel is asked back outside any session
        if agreed is None:
            yield Finding(3, _place(robot, message), "a voucher without a quote")
            continue
        first, newest = stated.get(key, (0, 0))
        own_first, own_newest = own.get(key, (0, 0))
        most = (own_newest - own_first) * 1000 // limits.efficiency_min_permille + limits.meter_slack_milliwh
        energy = min(newest - first, most)
        owed = base[key] + agreed.start_fee + agreed.price * energy // MILLIWH_PER_KWH
        ahead, tranche = item.ceiling - owed, agreed.price * agreed.tranche // MILLIWH_PER_KWH
        if item.kind in ("closing", "refund"):
            closed[item.channel] = max(closed.get(item.channel, 0), item.ceiling)
            if agreed.idle_fee:
                continue  # how long it idled, the own clock said; that is not signed
        if ahead > tranche:
            yield Finding(
                3, _place(robot, message), f"{ahead} signed ahead of {energy} mWh, a tranche is {tranche}"
            )


def _check_policy(robot: _Robot, chain: ChainRecord, limits: Limits) -> Iterator[Finding]:
    """2: what is signed stays within the owner's policy."""
    name = robot.evidence.name
    by_session: dict[str, int] = defaultdict(int)
    by_day: dict[int, int] = defaultdict(int)
    highest: dict[bytes, int] = defaultdict(int)
    deposits: dict[bytes, tuple[int, bytes]] = {}
    for item in robot.vouchers:
        more = max(0, item.ceiling - highest[item.channel])
        highest[item.channel] += more
        by_session[item.message.session] += more
        by_day[item.message.wall_s // DAY_S] += more
        if item.deposit:
            deposits[item.nonce] = (item.deposit, item.channel)
    for payment in robot.transfers:
        by_session[payment.message.session] += payment.amount
        by_day[payment.message.wall_s // DAY_S] += payment.amount
    for session, signed in by_session.items():
        if limits.session_max_atomic is not None and signed > limits.session_max_atomic:
            yield Finding(2, name, f"{signed} signed in {session}, at most {limits.session_max_atomic}")
    for signed in by_day.values():
        if limits.day_max_atomic is not None and signed > limits.day_max_atomic:
            yield Finding(2, name, f"{signed} signed in a day, at most {limits.day_max_atomic}")
    if limits.escrow_total_max_atomic is not None:
        locked = sum(_locked(chain, channel) for channel in {channel for _, channel in deposits.values()})
        if locked > limits.escrow_total_max_atomic:
            yield Finding(2, name, f"{locked} is locked, at most {limits.escrow_total_max_atomic}")


def _locked(chain: ChainRecord, channel: bytes) -> int:
    balance, claimed = chain.channels.get(channel, (0, 0))
    return balance - claimed


def _check_transfers(robot: _Robot, chain: ChainRecord) -> Iterator[Finding]:
    """3 and 5 for scheme exact: one nonce one amount, used once; blocks never more than one ahead of the energy."""
    by_nonce: dict[bytes, tuple[int, bytes]] = {}
    for item in robot.transfers:
        where = _place(robot, item.message)
        if item.signed_by != item.payer:
            yield Finding(0, where, f"transfer signed by 0x{item.signed_by.hex()}, not by its payer")
        same = (item.amount, item.signature)
        if by_nonce.setdefault(item.nonce, same) != same:
            yield Finding(5, where, "a transfer's nonce was signed twice, with other bytes")
        if chain.used.count(item.nonce) > 1:
            yield Finding(5, where, "a transfer was made twice")


def _check_claims(robots: Sequence[_Robot], chain: ChainRecord) -> Iterator[Finding]:
    """4: nothing is claimed or deposited that no journal knows; no more is claimed than was signed."""
    payers = {item.payer for robot in robots for item in robot.vouchers}
    highest: dict[bytes, int] = defaultdict(int)
    promised: dict[bytes, dict[bytes, int]] = defaultdict(dict)
    for robot in robots:
        for item in robot.vouchers:
            highest[item.channel] = max(highest[item.channel], item.ceiling)
            if item.deposit:
                promised[item.channel][item.nonce] = item.deposit
    if not payers:
        return
    for channel in sorted(set(chain.channels) & set(highest)):
        _, claimed = chain.channels[channel]
        if claimed > highest[channel]:
            yield Finding(4, _name(channel), f"{claimed} is claimed, {highest[channel]} was signed")
        deposited, most = chain.total("Deposited", channel), sum(promised[channel].values())
        if deposited > most:
            yield Finding(4, _name(channel), f"{deposited} was deposited, {most} was signed")


def _check_money(chain: ChainRecord) -> Iterator[Finding]:
    """6: deposit = claimed + refunded + withdrawn + what is left, by events and by storage alike."""
    left = 0
    for channel, (balance, claimed) in sorted(chain.channels.items()):
        deposited = chain.total("Deposited", channel)
        back = chain.total("Refunded", channel) + chain.total("WithdrawFinalized", channel)
        if deposited != balance + back:
            yield Finding(6, _name(channel), f"{deposited} deposited, {back} went back, balance {balance}")
        if claimed > balance:
            yield Finding(6, _name(channel), f"{claimed} claimed of {balance}")
        if chain.total("Claimed", channel) != claimed:
            yield Finding(
                6, _name(channel), f"storage says {claimed} claimed, events {chain.total('Claimed', channel)}"
            )
        left += balance - claimed
    unpaid = 0
    for receiver, (claimed, settled) in sorted(chain.receivers.items()):
        if chain.total("Settled", receiver) != settled:
            yield Finding(6, _name(receiver), f"storage says {settled} settled, events otherwise")
        unpaid += claimed - settled
    everybody = sum(claimed for claimed, _ in chain.receivers.values())
    unseen = sum(claimed for _, claimed in chain.channels.values()) - everybody
    if chain.held != left + unpaid + unseen:
        yield Finding(
            6, "settlement", f"holds {chain.held}, expected {left} of payers and {unpaid + unseen} earned"
        )


def _name(subject: bytes) -> str:
    return f"0x{subject.hex()[:16]}"


def describe(journals: Sequence[Evidence], chain: ChainRecord) -> str:
    """How much was looked at."""
    messages = sum(len(item.messages) for item in journals)
    return (
        f"{len(journals)} journals, {messages} signed messages, {len(chain.channels)} channels,"
        f" {len(chain.events)} events of the chain"
    )


def read_limits(path: Path) -> Limits:
    """From a policy's JSON (names of SpendPolicy's fields). Raises ValueError, OSError."""
    policy = json.loads(path.read_text(encoding="utf-8"))
    policy = policy.get("policy", policy)
    return Limits(
        session_max_atomic=int(policy["session_max_atomic"]),
        day_max_atomic=int(policy["day_max_atomic"]),
        escrow_total_max_atomic=int(policy["escrow_total_max_atomic"]),
        payees=tuple(bytes.fromhex(str(item).removeprefix("0x")) for item in policy.get("payees", ())),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when nothing was found, 1 when something was, 2 when it could not look."""
    parser = argparse.ArgumentParser(
        prog="python -m depai_robot.app.auditor", description=__doc__.splitlines()[0]
    )
    parser.add_argument("journals", nargs="+", type=Path, help="of robots and stations")
    parser.add_argument("--rpc", required=True, help="JSON-RPC of the chain")
    parser.add_argument("--token", required=True, help="address")
    parser.add_argument("--chain-id", type=int, default=31337)
    parser.add_argument("--settlement", default="0x" + SETTLEMENT.hex())
    parser.add_argument("--collector", default="0x" + COLLECTOR.hex())
    parser.add_argument("--from-block", type=int, default=0)
    parser.add_argument("--policy", type=Path, help="JSON with the owner's limits")
    given = parser.parse_args(arguments)
    settlement, collector, token = (
        bytes.fromhex(text.removeprefix("0x")) for text in (given.settlement, given.collector, given.token)
    )
    domains = Domains(given.chain_id, settlement, collector, token)
    try:
        limits = read_limits(given.policy) if given.policy else None
        journals = [read_evidence(path) for path in given.journals]
        chain = read_chain(given.rpc, settlement=settlement, token=token, from_block=given.from_block)
    except (DepaiError, OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"can't audit: {error}\n")
        return 2
    findings = audit(journals, chain, domains, limits)
    for finding in findings:
        sys.stdout.write(f"{finding}\n")
    sys.stdout.write(f"{describe(journals, chain)}: {len(findings)} findings\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
