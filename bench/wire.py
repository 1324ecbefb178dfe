"""The wire: envelopes sealed and let in per second, round trips over real brokers. ``python -m bench.wire``."""

import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bench.wire_seed import CHAIN_ID, NOW_S, STATION, make_bodies, make_draft, seal
from depai_robot.adapters.broker_process import Kind, find_mosquitto, start_broker
from depai_robot.adapters.paho_broker import BrokerAddress, PahoBroker
from depai_robot.charging.envelope import verify_token
from depai_robot.charging.message import NeedVoucher

ROUND_TRIPS = 500
MESSAGE_BYTES = 400
SECONDS = 1.0
PATIENCE_S = 10.0


def per_second(work: Callable[[], object], seconds: float = SECONDS) -> int:
    """How often work is done in a second, on one core, after a warm-up; the best of three."""
    for _ in range(50):
        work()
    best = 0.0
    for _ in range(3):
        count, started_s = 0, time.perf_counter()
        while time.perf_counter() - started_s < seconds / 3:
            work()
            count += 1
        best = max(best, count / (time.perf_counter() - started_s))
    return round(best)


def measure_round_trip_ms(kind: Kind, count: int = ROUND_TRIPS) -> dict[str, float]:
    """p50 and p99 of a 400-byte request and its answer, QoS 1 both ways, on loopback."""
    with tempfile.TemporaryDirectory() as folder:
        process = start_broker(Path(folder), kind)
        address = BrokerAddress(process.host, process.port)
        robot, station = PahoBroker(address, "robot"), PahoBroker(address, "station")
        try:
            robot.connect()
            station.connect()
            answered = threading.Event()
            station.subscribe("bench/station", lambda _, payload: station.publish("bench/robot", payload))
            robot.subscribe("bench/robot", lambda *_: answered.set())
            took_ms = []
            for _ in range(count + 20):
                answered.clear()
                started_s = time.perf_counter()
                robot.publish("bench/station", b"x" * MESSAGE_BYTES)
                if not answered.wait(PATIENCE_S):
                    raise TimeoutError(f"no answer over {kind} within {PATIENCE_S} s")
                took_ms.append((time.perf_counter() - started_s) * 1000)
        finally:
            robot.close()
            station.close()
            process.stop()
    cuts = statistics.quantiles(took_ms[20:], n=100)
    return {"p50": round(cuts[49], 2), "p99": round(cuts[98], 2)}


def measure() -> dict[str, float]:
    """All figures by name."""
    bodies = make_bodies()
    small = make_draft(next(body for body in bodies if type(body).__name__ == "SessionStop"))
    large = make_draft(next(body for body in bodies if isinstance(body, NeedVoucher)))
    figures: dict[str, float] = {}
    for name, draft in (("smallest", small), ("need-voucher", large)):
        token = seal(draft)
        figures[f"envelope, {name} ({len(token)} bytes): sealed per second"] = per_second(
            lambda d=draft: seal(d)
        )
        figures[f"envelope, {name} ({len(token)} bytes): verified per second"] = per_second(
            lambda t=token: verify_token(t, now_s=NOW_S, chain_id=CHAIN_ID, recipient=STATION.address)
        )
    kinds: list[Kind] = ["mosquitto", "amqtt"] if find_mosquitto() else ["amqtt"]
    for kind in kinds:
        for cut, value_ms in measure_round_trip_ms(kind).items():
            figures[f"MQTT round trip over {kind}, {cut}, ms"] = value_ms
    return figures


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
