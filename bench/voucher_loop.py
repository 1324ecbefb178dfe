"""Money at work: voucher loop, agreement, contact to power, recovery, start, memory. ``python -m bench.voucher_loop``.

Both programs are the real ones, with SQLite journals that are fsynced, a real mosquitto on loopback where it is
installed, and a chain in memory. For the voucher loop the wallet has a process of its own; station, world and chain
share the other. Elsewhere all share one process, and so one interpreter lock: those figures are upper bounds.
"""

import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any

import msgspec
import psutil

from depai_robot.adapters.broker_process import find_mosquitto, start_broker
from depai_robot.adapters.paho_broker import BrokerAddress, PahoBroker, Will
from depai_robot.adapters.sqlite_journal import SqliteJournal
from depai_robot.app.config import ChainPart, read_network
from depai_robot.app.sealing import Sealer
from depai_robot.app.wallet import WalletProgram
from depai_robot.charging import effect as wish
from depai_robot.charging import robot, station
from depai_robot.charging.envelope import open_token
from depai_robot.charging.fact import Instant, MessageReceived, MessageSealed, Restarted, decode_fact
from depai_robot.charging.message import NeedVoucher, Payment, Quote
from depai_robot.charging.robot_state import RobotState
from depai_robot.payment.ledger import Ledger
from depai_robot.sim.memory_broker import MemoryExchange
from depai_robot.sim.memory_chain import MemoryChain, MemoryLedger
from depai_robot.values.identity import Address, ChannelId, address_to_hex, keccak256
from test.app_world import (
    ROBOT,
    AppWorld,
    make_wallet_parts,
    robot_key,
    robot_settings,
    station_key,
    station_settings,
    until,
)

VOUCHERS = 100
FACTOR = 30.0
LOOP_STATION = {"tranche_milliwh": 700, "voucher_timeout_ms": 5000, "price_atomic_per_kwh": 400_000}
ENERGY_MILLIWH = 60_000
CONTACTS = 8
SESSIONS = 10_000
ROWS_BEHIND = 1000


def percentiles(values_ms: list[float]) -> dict[str, float]:
    """p50 and p99."""
    ordered = sorted(values_ms)
    return {
        "p50_ms": round(statistics.median(ordered), 2),
        "p99_ms": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 2),
        "count": len(ordered),
    }


class Site:
    """A world over mosquitto (or in memory) with a chain in memory."""

    def __init__(self, folder: Path, **how: Any) -> None:
        self.network = read_network(ChainPart(network="development"), folder / "none.yaml").network()
        self.ledger = MemoryLedger(Address(self.network.token))
        self.ledger.mint(robot_key(ROBOT, "payer").address, 10**9)
        self.broker = start_broker(folder / "broker") if find_mosquitto() else None
        self.exchange = MemoryExchange()
        self.world = AppWorld(folder, self.network, self.connect, self.chain, **how)

    def connect(self, client_id: str, will: str | None) -> Any:
        """A client of the broker."""
        if self.broker is None:
            return self.exchange.client(client_id, will=(will, b"", True) if will else None)
        address = BrokerAddress(self.broker.host, self.broker.port)
        return PahoBroker(address, client_id, will=Will(will) if will else None)

    def chain(self, signer: Any) -> MemoryChain:
        """An account's look at the chain."""
        return MemoryChain(self.ledger, signer)

    def close(self) -> None:
        """Ends everything."""
        self.world.close()
        self.exchange.close()
        if self.broker is not None:
            self.broker.stop()


def stamp_arrivals(wallet: WalletProgram, kind: type, stamps: dict[str, float]) -> None:
    """Notes when each message of that kind first enters the wallet, on the broker's thread."""
    receive = wallet.inbox.receive

    def noted(topic: str, payload: bytes) -> None:
        now = time.perf_counter()
        if payload:
            draft = open_token(payload.decode())
            if isinstance(draft.body, kind):
                # Ids are unique for their sender only, and every station is a sender of quotes.
                stamps.setdefault(draft.id if kind is NeedVoucher else payload.decode(), now)
        receive(topic, payload)

    wallet.inbox.receive = noted  # type: ignore[method-assign]


def ceiling(state: Any) -> int:
    """The highest voucher that a station has accepted."""
    return max((s.channel.ceiling for s in state.sessions.values() if s.channel), default=0)


def _serve(folder: Path, pipe: Any) -> None:
    """The other process of the voucher loop: world, station, chain. Says when ceilings were raised."""
    site = Site(folder, factor=FACTOR, station_changes={"a": LOOP_STATION})
    accepted: dict[str, float] = {}

    def note(_fact: Any, before: Any, after: Any, _effects: Any) -> None:
        if ceiling(after) > ceiling(before) > 0:
            now = time.perf_counter()
            accepted.update({s.need.letter: now for s in before.sessions.values() if s.need is not None})

    station_program = site.world.stations["a"]
    station_program.runner.observe(note)

    def arrive() -> None:
        # The robot "is there" when its deposit is; it never leaves.
        until(lambda: any(s.phase == "FUNDED" for s in station_program.state.sessions.values()), "funds", 60)
        site.world.pads.touch(("a", 1))

    threading.Thread(target=arrive, daemon=True).start()
    manager = BaseManager(address=("127.0.0.1", 0), authkey=b"bench")
    manager.register("chain", callable=lambda: site.chain(robot_key(ROBOT, "payer")))
    server = manager.get_server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pipe.send((site.world.socket, site.broker.port if site.broker else 0, server.address))
    pipe.recv()
    pipe.send(accepted)
    pipe.recv()
    site.close()


def measure_loop() -> dict[str, Any]:
    """From a request with a meter statement at the wallet to the ceiling raised at the station."""
    if find_mosquitto() is None:
        return {"skipped": "no mosquitto"}
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(folder, theirs), daemon=True)
        process.start()
        socket, port, address = ours.recv()
        client = BaseManager(address=address, authkey=b"bench")
        client.register("chain")
        client.connect()
        network = read_network(ChainPart(network="development"), folder / "none.yaml").network()
        arrived: dict[str, float] = {}
        parts, hardware = make_wallet_parts(
            folder,
            socket,
            robot_settings(network),
            lambda client_id, _will: PahoBroker(BrokerAddress("127.0.0.1", port), client_id),
            lambda _signer: client.chain(),  # type: ignore[attr-defined]
            RemoteDock(),
        )
        inside: list[float] = []
        _stamp_payments(parts.broker, arrived, inside)
        wallet = WalletProgram(parts)
        parts.docking.wallet = wallet
        stamp_arrivals(wallet, NeedVoucher, arrived)
        wallet.start()
        until(lambda: wallet.state.offers, "an offer")
        wallet.request_charge(ENERGY_MILLIWH)
        until(lambda: len(arrived) > VOUCHERS or wallet.phase == "SETTLED", "vouchers", 120)
        wallet.stop()
        hardware.close()
        ours.send("enough")
        accepted = ours.recv()
        ours.send("end")
        process.join(10)
        loops = [1000 * (accepted[key] - at) for key, at in arrived.items() if key in accepted]
        return percentiles(loops) | {"in_the_wallet": percentiles(inside)}


def _stamp_payments(broker: Any, arrived: dict[str, float], inside: list[float]) -> None:
    """Notes how long after the newest request each voucher leaves."""
    publish = broker.publish
    answered: set[str] = set()

    def noted(topic: str, payload: bytes, *, retain: bool = False) -> None:
        publish(topic, payload, retain=retain)
        if not arrived or not isinstance(open_token(payload.decode()).body, Payment):
            return
        newest = list(arrived)[-1]
        if newest not in answered:
            answered.add(newest)
            inside.append(1000 * (time.perf_counter() - arrived[newest]))

    broker.publish = noted


class RemoteDock:
    """The world is in the other process, which touches the pads as soon as a session is funded there."""

    wallet: WalletProgram

    def start_docking(self, dock: str, _marker_id: int, _pose: tuple[int, int, int]) -> None:
        """At once."""
        threading.Thread(target=self.wallet.docking_ended, args=(dock,), kwargs={"docked": True}).start()

    def cancel_docking(self) -> None:
        """Never needed."""

    def start_undocking(self) -> None:
        """At once."""
        threading.Thread(target=self.wallet.undocking_ended, kwargs={"undocked": True}).start()


class QuickStation:
    """A station's machine without a program around it: it only offers and quotes."""

    def __init__(self, site_network: Any, name: str, place: int, broker: Any) -> None:
        settings = station_settings(site_network, name, place)
        self._sealer = Sealer(settings.network.chain_id, station_key(name, "identity"), None, None)
        self._state = station.initial_state(settings)
        self._broker = broker
        broker.connect()
        self._step(Restarted(self._now(), keccak256(name.encode())))
        broker.subscribe(settings.inbox, self._receive)

    def _now(self) -> Instant:
        return Instant(time.monotonic_ns(), int(time.time()))

    def _receive(self, _topic: str, payload: bytes) -> None:
        identity = bytes(robot_key(ROBOT, "identity").address)
        self._step(MessageReceived(self._now(), identity, payload.decode()))

    def _step(self, fact: Any) -> None:
        self._state, effects = station.step(self._state, fact)
        for effect in effects:
            if isinstance(effect, wish.SealMessage):
                self._step(MessageSealed(self._now(), effect.draft.id, self._sealer.seal(effect.draft)))
            elif isinstance(effect, wish.Publish):
                self._broker.publish(effect.topic, effect.token.encode(), retain=effect.retain)


def measure_agreement(answers: int) -> float:
    """From the last of so many quotes at the wallet to its signed deposit on the way, ms."""
    with tempfile.TemporaryDirectory() as name:
        site = Site(Path(name), stations=("none",), start_stations=False, factor=1.0)
        exchange = MemoryExchange()
        names = tuple(f"q{number}" for number in range(answers))
        quotes: dict[str, float] = {}
        sent: list[float] = []

        def connect(client_id: str, _will: str | None) -> Any:
            client = exchange.client(client_id)
            publish = client.publish

            def noted(topic: str, payload: bytes, *, retain: bool = False) -> None:
                if payload and isinstance(open_token(payload.decode()).body, Payment):
                    sent.append(time.perf_counter())
                publish(topic, payload, retain=retain)

            client.publish = noted
            return client

        try:
            for place, station_name in enumerate(names):
                QuickStation(site.network, station_name, place % 50, exchange.client(station_name))
            parts, hardware = make_wallet_parts(
                Path(name),
                site.world.socket,
                robot_settings(site.network, names, quote_window_ms=10_000),
                connect,
                site.chain,
                None,
            )
            wallet = WalletProgram(parts)
            stamp_arrivals(wallet, Quote, quotes)
            wallet.start()
            until(lambda: len(wallet.state.offers) == answers, "offers")
            wallet.request_charge(10_000)
            until(lambda: sent, "the deposit")
            assert len(quotes) == answers
            wallet.stop()
            hardware.close()
            return round(1000 * (sent[0] - max(quotes.values())), 2)
        finally:
            exchange.close()
            site.close()


def measure_contact() -> dict[str, float]:
    """From the pads' contact to the closed contactor, channel funded, on loopback, in real time."""
    took: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        site = Site(Path(name), factor=1.0)
        try:
            supply = site.world.pads.supplies["a", 1]
            touch, energise = site.world.pads.touch, supply.energise
            touched: list[float] = []

            def touch_noted(key: Any) -> None:
                if key is not None:
                    touched.append(time.perf_counter())
                touch(key)

            def energise_noted(power_w: float, until_milliwh: int) -> None:
                if touched and len(took) < len(touched):
                    took.append(1000 * (time.perf_counter() - touched[-1]))
                energise(power_w, until_milliwh)

            site.world.pads.touch, supply.energise = touch_noted, energise_noted  # type: ignore[method-assign]
            wallet = site.world.start_wallet()
            for number in range(CONTACTS):
                finished = wallet.state.finished
                wallet.request_charge(20, f"contact-{number}")
                until(lambda n=finished: wallet.state.finished > n, "a session", 60)
            return percentiles(took)
        finally:
            site.close()


def measure_recovery() -> dict[str, Any]:
    """Opening a journal after so many sessions: a snapshot with every channel, and rows behind it to fold."""
    with tempfile.TemporaryDirectory() as name:
        site = Site(Path(name), factor=100.0)
        try:
            wallet = site.world.start_wallet()
            wallet.request_charge(500)
            until(lambda: wallet.phase == "SETTLED", "a session", 60)
            state = wallet.state
        finally:
            site.close()
        with_rows = SqliteJournal(
            Path(name) / "wallet.sqlite", address_to_hex(robot_key(ROBOT, "voucher").address)
        )
        rows = [row.data for row in with_rows.rows()]
        with_rows.close()
        (account,) = state.ledger.account_by_channel.values()
        books = {ChannelId(keccak256(number.to_bytes(4, "big"))): account for number in range(SESSIONS)}
        full = msgspec.structs.replace(state, ledger=Ledger(books), finished=SESSIONS)
        data = msgspec.msgpack.encode(full)
        begin = time.perf_counter()
        assert msgspec.msgpack.decode(data, type=RobotState) == full
        decode_s = time.perf_counter() - begin
        count = 0
        begin = time.perf_counter()
        while count < ROWS_BEHIND:
            fold = robot.initial_state(state.settings)
            for row in rows:
                fold, _ = robot.step(fold, decode_fact(row))
            count += len(rows)
        fold_s = (time.perf_counter() - begin) * ROWS_BEHIND / count
        return {
            "sessions": SESSIONS,
            "snapshot_mib": round(len(data) / 2**20, 2),
            "snapshot_s": round(decode_s, 3),
            "rows_behind": ROWS_BEHIND,
            "fold_s": round(fold_s, 3),
            "recovery_s": round(decode_s + fold_s, 3),
        }


def measure_process(code: str) -> dict[str, float]:
    """Start time and resident memory of an interpreter that has run that code."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code}\nprint('up', flush=True)\ninput()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        started_s = time.perf_counter() - begin
        rss_mib = psutil.Process(process.pid).memory_info().rss / 2**20
    finally:
        process.kill()
        process.communicate()
    return {"start_s": round(started_s, 2), "rss_mib": round(rss_mib, 1)}


def _of(module: str) -> Callable[[], dict[str, float]]:
    code = f"import {module}, depai_robot.adapters.web3_chain"
    return lambda: measure_process(code)


def measure() -> dict[str, Any]:
    """Every figure, with its target beside it."""
    return {
        "voucher_loop": measure_loop() | {"target": "p50 <= 3 ms, p99 <= 10 ms"},
        "agreement_after_3_ms": measure_agreement(3),
        "agreement_after_50_ms": measure_agreement(50),
        "agreement_target": "<= 50 ms after the last answer",
        "contact_to_power": measure_contact() | {"target": "<= 2000 ms in all, <= 50 ms ours"},
        "recovery": measure_recovery() | {"target": "<= 2 s after 10,000 sessions"},
        "wallet_process": _of("depai_robot.app.wallet")(),
        "station_process": _of("depai_robot.app.station")(),
    }


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
