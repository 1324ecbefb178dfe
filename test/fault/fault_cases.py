"""Every fault of the matrix by name: what breaks, where in a session, for how long."""

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

from depai_robot.adapters.paho_broker import BrokerAddress, PahoBroker
from depai_robot.app.auditor_evidence import read_evidence
from depai_robot.app.part import open_chain
from depai_robot.app.wallet import WalletProgram
from test.app_world import TeleportingDock, make_wallet_parts, robot_settings
from test.fault.fault_site import ENERGY_MILLIWH, ROBOT_CHANGES, Case, FaultSite, Outcome

HOUR_S = 3600
GROUPS = {
    "broker-killed": "kill -9 of the broker, back after 0.5 s",
    "chain-killed": "kill -9 of the chain node, back after 1 s with its blocks",
    "link-reset": "every connection to the broker reset (RST), refused for 1 s",
    "black-hole": "connections to the broker swallow everything for 3 s",
    "delay": "every piece of data to and from the broker is 150 ms late, all session long",
    "fork": "the chain forks, 1 to 5 blocks deep, transactions lost",
    "rpc-stalls": "the RPC endpoint accepts and does not answer for 3 s",
    "rpc-cut": "the RPC endpoint resets every connection for 3 s",
    "rpc-lies": "the RPC endpoint lies for 3 s, in eight ways",
    "rpc-gone": "no RPC endpoint for the whole session",
    "repeated": "every message of the session said again, twice, out of order",
    "replayed": "every message of the session before said again during this one",
    "clock": "a wall clock off by one hour",
    "two-robots": "a second robot with the same keys, at the same time",
}


def spread(count: int, wanted: int) -> list[int]:
    """Some of 1..count, evenly; which ones changes from day to day. All with DEPAI_FAULTS=all."""
    if os.environ.get("DEPAI_FAULTS") == "all" or wanted >= count:
        return list(range(1, count + 1))
    step = count / wanted
    first = 1 + int(time.time() // 86_400) % max(1, int(step))
    return sorted({min(count, first + int(number * step)) for number in range(wanted)})


def make_cases(baseline: Outcome, points: int) -> Iterator[tuple[str, Case]]:
    """(group, case), with so many points of each kind along a session.

    Args:
        baseline: of a session without a fault, for how many rows and effects there are.
        points: of each journal and of each performer; all of them under DEPAI_FAULTS=all.
    """
    for group, begin, end, lasts_s in (
        ("broker-killed", FaultSite.kill_broker, FaultSite.start_broker, 0.5),
        ("chain-killed", FaultSite.kill_chain, FaultSite.start_chain, 1.0),
    ):
        for side, kind, count in (
            ("robot", "row", baseline.rows),
            ("robot", "effect", baseline.effects),
            ("station", "row", baseline.station_rows),
            ("station", "effect", baseline.station_effects),
        ):
            for at in spread(count, points):
                yield (
                    group,
                    Case(
                        f"{group} after {side}'s {kind} {at}",
                        begin,
                        end,
                        side,
                        lasts_s=lasts_s,
                        **{f"at_{kind}": at},
                    ),
                )
    few = [max(1, baseline.rows * share // 100) for share in (15, 45, 80)]
    some = few if points > 1 else few[1:2]
    for side in ("robot", "station"):
        for at in some:
            where = f"{side}'s link, robot's row {at}"
            yield (
                "link-reset",
                Case(where, _link(side, "cut"), _link(side, "heal"), "robot", at, lasts_s=1.0),
            )
            yield (
                "black-hole",
                Case(where, _link(side, "black_hole"), _link(side, "heal"), "robot", at, lasts_s=3.0),
            )
            where = f"{side}'s endpoint, robot's row {at}"
            yield (
                "rpc-stalls",
                Case(where, _rpc(side, "stall"), _rpc(side, "heal"), "robot", at, lasts_s=3.0),
            )
            yield "rpc-cut", Case(where, _rpc(side, "cut"), _rpc(side, "heal"), "robot", at, lasts_s=3.0)
            for lie, begin in _LIES.items():
                yield (
                    "rpc-lies",
                    Case(
                        f"{side}'s endpoint: {lie}, robot's row {at}",
                        _lying(side, begin),
                        _rpc(side, "heal"),
                        "robot",
                        at,
                        lasts_s=3.0,
                    ),
                )
        yield "delay", Case(f"{side}'s link", _delay(side), _link(side, "heal"), lasts_s=10.0)
        yield (
            "rpc-gone",
            Case(
                f"{side}'s endpoint from the start",
                _rpc(side, "stop"),
                _rpc(side, "start"),
                lasts_s=10.0,
                expect_session=False,
                may_sign=side == "station",
            ),
        )
        yield (
            "rpc-gone",
            Case(
                f"{side}'s endpoint from the first voucher until the robot has left",
                _rpc(side, "stop"),
                _rpc(side, "start"),
                "robot",
                max(1, baseline.rows // 2),
                lasts_s=8.0,
            ),
        )
    for depth in range(1, 6):
        for at in spread(baseline.rows, points):
            yield (
                "fork",
                Case(f"{depth} blocks, robot's row {at}", _fork(depth), side="robot", at_row=at, lasts_s=0.0),
            )
    yield "repeated", Case("by somebody with a login at the broker", during=_repeat)
    yield "replayed", Case("by somebody with a login at the broker", during=_replay, goes_on=True)
    yield "two-robots", Case("on two machines", during=_second_robot)
    for shift_s in (HOUR_S, -HOUR_S):
        yield "clock", Case(f"robot's, {shift_s:+d} s", robot_clock_s=shift_s, expect_session=False)
        yield "clock", Case(f"station's, {shift_s:+d} s", station_clock_s=shift_s, expect_session=False)


def _second_robot(site: FaultSite, stop: threading.Event) -> None:
    """The same keys on another machine: it has no lock in common with the first, and asks for energy, too."""
    folder = site.folder / f"second-{time.monotonic_ns()}"
    folder.mkdir()
    network = site.networks["robot"]
    parts, hardware = make_wallet_parts(
        folder,
        site.world.socket,
        robot_settings(network.network(), (site.station,), site.robot, **ROBOT_CHANGES),
        site.maker("robot"),
        lambda signer: open_chain(network, signer, folder),
        TeleportingDock(site.world.pads),
    )
    parts.broker = PahoBroker(BrokerAddress("127.0.0.1", site.broker.port), "second-robot")
    wallet = WalletProgram(parts)
    parts.docking.wallet = wallet
    wallet.start()
    try:
        asked = False
        while not stop.wait(0.05):
            if (
                not asked
                and wallet.state.offers
                and site.wallet is not None
                and site.wallet.phase == "CHARGING"
            ):
                asked = True
                wallet.request_charge(ENERGY_MILLIWH, "second")
    finally:
        wallet.stop()
        hardware.close()
        site.others = [read_evidence(folder / "wallet.sqlite")]


def _link(side: str, verb: str) -> Any:
    return lambda site: getattr(site.links[side], verb)()


def _rpc(side: str, verb: str) -> Any:
    return lambda site: getattr(site.rpcs[side], verb)()


def _delay(side: str) -> Any:
    return lambda site: site.links[side].delay(0.15)


def _fork(depth: int) -> Any:
    return lambda site: site.reorganise(depth)


def _lying(side: str, lie: Any) -> Any:
    return lambda site: lie(site.rpcs[side])


_LIES: dict[str, Any] = {
    "another chain": lambda rpc: rpc.lie("eth_chainId", {"result": "0x1"}),
    "stands still": lambda rpc: rpc.freeze(),
    "swallows transactions": lambda rpc: rpc.swallow(),
    "no contract there": lambda rpc: rpc.lie("eth_getCode", {"result": "0x"}),
    "empty channels": lambda rpc: rpc.lie("eth_call", {"result": "0x" + "00" * 64}),
    "nonsense": lambda rpc: rpc.lie("everything", b"<html>502</html>"),
    "no receipt": lambda rpc: rpc.lie("eth_getTransactionReceipt", {"result": None}),
    "a clock one hour ahead": lambda rpc: rpc.lie("eth_getBlockByNumber", lambda q: _later(rpc, q)),
}


def _later(rpc: Any, question: dict[str, Any]) -> Any:
    block = rpc._forward_call(question["method"], question["params"])
    return {"result": {**block, "timestamp": hex(int(block["timestamp"], 16) + HOUR_S)}}


class _Tape:
    """Hears every message of a site, by the topics of both sides."""

    def __init__(self, site: FaultSite, client: str) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.own: set[bytes] = set()
        self._lock = threading.Lock()
        self.client = PahoBroker(BrokerAddress("127.0.0.1", site.broker.port), client)
        self.client.connect()
        self.client.subscribe("depai/v1/lab/robots/+/inbox", self._hear)
        self.client.subscribe("depai/v1/lab/stations/+/inbox", self._hear)

    def _hear(self, topic: str, payload: bytes) -> None:
        with self._lock:
            if payload not in self.own:
                self.own.add(payload)
                self.heard.append((topic, payload))

    def take(self) -> list[tuple[str, bytes]]:
        with self._lock:
            taken, self.heard = self.heard, []
        return taken


def _repeat(site: FaultSite, stop: threading.Event) -> None:
    """Says each message again, the newest first, and once more later."""
    tape = _Tape(site, "repeater")
    kept: list[tuple[str, bytes]] = []
    try:
        while not stop.wait(0.15):
            fresh = tape.take()
            kept += fresh
            for topic, payload in (*reversed(fresh), *reversed(kept[-40:])):
                tape.client.publish(topic, payload)
    finally:
        tape.client.close()


def _replay(site: FaultSite, stop: threading.Event) -> None:
    """Says the session before again: everything that lies on the site's tape."""
    tape = _Tape(site, "replayer")
    old: list[tuple[str, bytes]] = site.tape
    fresh: list[tuple[str, bytes]] = []
    place = 0
    try:
        while not stop.wait(0.05):
            fresh += tape.take()
            for topic, payload in old[place : place + 8]:
                tape.client.publish(topic, payload)
            place = (place + 8) % max(1, len(old))
    finally:
        site.tape = fresh
        tape.client.close()


def record(site: FaultSite) -> Outcome:
    """A session without a fault, whose messages are kept for ``replayed``."""
    return site.run(Case("recorded", during=_replay))


def of_group(cases: Any, group: str) -> list[Case]:
    return [case for name, case in cases if name == group]


def first_of_each(cases: list[tuple[str, Case]]) -> list[tuple[str, Case]]:
    """One case of each group: what `make test` has time for."""
    chosen: dict[str, tuple[str, Case]] = {}
    for group, case in cases:
        chosen.setdefault(group, (group, case))
    return list(chosen.values())
