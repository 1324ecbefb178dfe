"""A whole station program with many robots charging at once, and robots that only pay: for ``station_throughput``.

The program, its machine, journal (SQLite, fsync), keys and envelopes are the real ones. Meters and contactors are
numbers in memory, and session time stands until the bench moves it, so that every connector reports at one moment.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from depai_robot.adapters.sqlite_journal import SqliteJournal
from depai_robot.app.station import StationParts, StationProgram
from depai_robot.charging import station, station_selling
from depai_robot.charging.envelope import open_token
from depai_robot.charging.message import Draft, NeedVoucher, Payment, QuoteRequest
from depai_robot.charging.setting import StationSettings
from depai_robot.charging.station_state import Channel, Connector, Meter, StationSession, StationState
from depai_robot.charging.terms import channel_config, channel_json, channel_key, digest_voucher
from depai_robot.charging.transition import StationPhase
from depai_robot.payment.channel import ChannelConfig
from depai_robot.payment.x402 import (
    PaymentPayload,
    VoucherJson,
    VoucherPayload,
    bytes_to_text,
    config_to_json,
)
from depai_robot.ports import MeterReading
from depai_robot.values.identity import Address, address_to_hex, did_pkh
from test.builders import CHAIN_ID, TOKEN, make_key, make_meter, make_station_settings

SESSIONS = 64
"""As many connectors as a station may have, each with a robot that charges."""
ENERGY_MILLIWH = 100_000_000
ESCROW_ATOMIC = 40_000_000
REPORT_MS = 1000


def rig_settings() -> StationSettings:
    """A station with 64 connectors, whose timers other than reports never matter."""
    return make_station_settings(
        "a",
        meters=tuple(make_meter("a") for _ in range(SESSIONS)),
        report_interval_ms=REPORT_MS,
        voucher_timeout_ms=30_000,
        tranche_milliwh=4000,
        retry_ms=60_000,
    )


def rig_state(settings: StationSettings, now_s: int) -> StationState:
    """Every connector taken and charging, begun a moment ago."""
    sessions = {}
    for number in range(1, SESSIONS + 1):
        request = QuoteRequest(
            robot=f"r{number}",
            energy_milliwh=ENERGY_MILLIWH,
            power_max_w=300,
            current_type="DC",
            payer_authorizer=address_to_hex(Address(make_key(f"voucher-{number}").address)),
        )
        key = f"s-{number}"
        terms = station_selling.make_terms(
            settings,
            key,
            request,
            connector=number,
            price=settings.price_atomic_per_kwh,
            hold_until_s=now_s + 120,
        )
        config = channel_json(robot_channel(settings, number))
        channel = Channel(
            config,
            bytes(channel_key(settings.network, config)),
            ESCROW_ATOMIC,
            deposit_atomic=ESCROW_ATOMIC,
            balance=ESCROW_ATOMIC,
            charged=settings.start_fee_atomic,
        )
        sessions[key] = StationSession(
            id=key,
            phase=StationPhase.CHARGING.value,
            identity=bytes(make_key(f"robot-{number}").address),
            request=request,
            request_id=f"{key}.r.0",
            connector=number,
            terms=terms,
            opened_s=now_s,
            channel=channel,
            meter=Meter(begin_milliwh=0),
        )
    connectors = {number: Connector(present=True, nonce=bytes(32)) for number in range(1, SESSIONS + 1)}
    return msgspec.structs.replace(station.initial_state(settings), sessions=sessions, connectors=connectors)


def robot_channel(settings: StationSettings, number: int) -> ChannelConfig:
    """Of the robot on that connector."""
    return ChannelConfig(
        payer=Address(make_key(f"payer-{number}").address),
        payer_authorizer=Address(make_key(f"voucher-{number}").address),
        receiver=Address(settings.receiver),
        receiver_authorizer=Address(settings.receiver_authorizer),
        token=Address(TOKEN),
        withdraw_delay_s=settings.withdraw_delay_s,
        salt=bytes(32),
    )


class Robots:
    """All robots' answers: a request for a voucher becomes a signed payment, and nothing is checked."""

    def __init__(self, settings: StationSettings) -> None:
        self._settings = settings
        self._to = did_pkh(CHAIN_ID, Address(settings.identity))
        self._sent = 0

    def pay(self, need: Draft) -> bytes:
        """The payment that a request asks for."""
        number = int(need.session.partition("-")[2])
        body: NeedVoucher = need.body
        accepted = body.payment_required.accepts[0]
        state: Any = accepted.extra.channel_state
        ceiling = int(state.charged_cumulative_amount) + int(accepted.amount)
        config = robot_channel(self._settings, number)
        channel = channel_key(self._settings.network, channel_json(config))
        signature = make_key(f"voucher-{number}").sign(
            digest_voucher(self._settings.network, channel, ceiling)
        )
        voucher = VoucherJson(bytes_to_text(channel), str(ceiling), bytes_to_text(signature))
        payload = PaymentPayload(
            x402_version=2,
            accepted=accepted,
            payload=VoucherPayload(config_to_json(channel_config(channel_json(config))), voucher),
            resource=body.payment_required.resource,
        )
        self._sent += 1
        now_s = int(time.time())
        draft = Draft(
            f"{need.session}.r.{self._sent}",
            need.session,
            self._sent,
            now_s,
            now_s + 300,
            self._to,
            Payment(payload),
        )
        return make_key(f"robot-{number}").seal(draft).encode()


class StillClock:
    """Session time moves when it is told to; the wall's is the wall's."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000

    def session_ns(self) -> int:
        """ports.Clock."""
        return self.now_ns

    def wall_s(self) -> int:
        """ports.Clock."""
        return int(time.time())


class Numbers:
    """One connector's contactor and meter: numbers."""

    def __init__(self, clock: StillClock) -> None:
        self._clock = clock
        self.energy_milliwh = 2000

    def present(self) -> bool:
        """ports.Contactor."""
        return True

    def read(self) -> MeterReading:
        """ports.Meter."""
        return MeterReading(self._clock.now_ns, self.energy_milliwh, 300.0)

    def write_probe(self, nonce: bytes) -> None:
        """ports.Contactor."""

    def energise(self, power_max_w: float, until_energy_milliwh: int) -> None:
        """ports.Contactor."""

    def deenergise(self) -> None:
        """ports.Contactor."""

    def open(self) -> None:
        """ports.Contactor."""


class Line:
    """ports.Broker without one: what is published is kept in a list."""

    def __init__(self) -> None:
        self.callback: Callable[[str, bytes], None] = lambda _topic, _payload: None
        self.published: list[bytes] = []
        self.changed = threading.Condition()

    def connect(self) -> None:
        """At once."""

    def subscribe(self, topic: str, callback: Callable[[str, bytes], None]) -> None:
        """The station's inbox is the only one."""
        del topic
        self.callback = callback

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Keeps what is for robots."""
        del retain
        if "/robots/" not in topic:
            return
        self.published.append(payload)
        if len(self.published) >= SESSIONS:
            with self.changed:
                self.changed.notify_all()

    def take(self, count: int, timeout_s: float = 30.0) -> list[bytes]:
        """The next so many; waits for them.

        Raises:
            TimeoutError: they do not come.
        """
        with self.changed:
            if not self.changed.wait_for(lambda: len(self.published) >= count, timeout_s):
                raise TimeoutError(f"expected {count} messages, got {len(self.published)}")
        taken, self.published = self.published, []
        return taken

    def close(self) -> None:
        """Nothing is open."""


class Rig:
    """The station's program, ready to be paid.

    Args:
        folder: for the journal.
        broker: a Line, or a real client.
    """

    def __init__(self, folder: Path, broker: Any) -> None:
        self.settings = rig_settings()
        self.clock = StillClock()
        self.connectors = {number: Numbers(self.clock) for number in range(1, SESSIONS + 1)}
        journal = SqliteJournal(folder / "station.sqlite", address_to_hex(Address(self.settings.identity)))
        self.commits = 0
        self.rows = 0
        append = journal.append

        def counted(rows: Any, step_version: int) -> None:
            self.commits += 1
            self.rows += len(rows)
            append(rows, step_version)

        journal.append = counted  # type: ignore[method-assign]
        parts = StationParts(
            settings=self.settings,
            identity=make_key("station-a"),
            receiver=make_key("receiver-a"),
            meters=dict.fromkeys(self.connectors, make_key("meter-a")),
            journal=journal,
            broker=broker,
            chain=None,  # type: ignore[arg-type] - nobody asks it while the session clock stands
            clock=self.clock,
            connectors=self.connectors,  # type: ignore[arg-type]
            folder=folder,
        )
        self.program = StationProgram(parts)
        self.program.runner.state = rig_state(self.settings, self.clock.wall_s())

    def report(self) -> None:
        """Half a tranche has flowed everywhere, and every connector reports: each robot is asked for a voucher."""
        for item in self.connectors.values():
            item.energy_milliwh += self.settings.tranche_milliwh // 2
        self.clock.now_ns += REPORT_MS * 1_000_000

    def vouchers(self) -> int:
        """Accepted so far."""
        return sum(session.vouchers for session in self.program.state.sessions.values())


def kind_of(token: bytes) -> Draft:
    """What a message says."""
    return open_token(token.decode())
