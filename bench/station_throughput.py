"""Vouchers per second of one station: ``python -m bench.station_throughput``.

The whole program with 64 robots charging: each payment is verified (envelope and voucher), journalled with fsync in
groups, answered by a signed message that is journalled before it leaves. Without MQTT the payments enter the inbox
directly; with MQTT they come and go at QoS 1 through a real mosquitto from another process. The limits are measured
in the same run. Rates by processor time are what one core does when nobody else uses it; those by the wall are what
this machine did, with whatever else it was doing.
"""

import json
import multiprocessing
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import coincurve

from bench.station_rig import SESSIONS, Line, Rig, Robots, kind_of, rig_settings
from depai_robot.adapters.broker_process import find_mosquitto, start_broker
from depai_robot.adapters.paho_broker import BrokerAddress, PahoBroker
from depai_robot.charging.message import NeedVoucher, PaymentResult

WAVES = 24
WARM_WAVES = 2
TARGET_PER_S = 2000
TARGET_MQTT_PER_S = 800
WAIT_S = 60.0
ROBOT_TOPIC = "depai/v1/lab/robots/+/inbox"


def measure_recover(turn_s: float = 0.5) -> float:
    """Bare public-key recoveries per second of processor time: what a voucher costs in any case."""
    key = coincurve.PrivateKey(bytes(31) + b"\x07")
    digest = bytes(range(32))
    signature = key.sign_recoverable(digest, hasher=None)
    count, begin = 0, time.process_time()
    while (passed_s := time.process_time() - begin) < turn_s:
        for _ in range(50):
            coincurve.PublicKey.from_signature_and_message(signature, digest, hasher=None)
        count += 50
    return round(count / passed_s)


def measure_inside(waves: int = WAVES) -> dict[str, Any]:
    """Payments into the inbox, answers out of the program; no broker."""
    with tempfile.TemporaryDirectory() as name:
        line = Line()
        rig = Rig(Path(name), line)
        robots = Robots(rig.settings)
        rig.program.start()
        walls: list[float] = []
        cpus: list[float] = []
        cycles: list[float] = []
        commits = rows = 0
        try:
            for number in range(waves + WARM_WAVES):
                asked_s = time.process_time()
                if number:
                    rig.report()  # the first comes with the start
                needs = [
                    draft
                    for item in line.take(SESSIONS)
                    if isinstance((draft := kind_of(item)).body, NeedVoucher)
                ]
                ask_s = time.process_time() - asked_s
                payments = [robots.pay(need) for need in needs]
                before = rig.commits, rig.rows
                wall, cpu = time.perf_counter(), time.process_time()
                for payment in payments:
                    rig.program.inbox.receive("", payment)
                answers = line.take(SESSIONS)
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                for answer in answers:
                    body = kind_of(answer).body
                    if not isinstance(body, PaymentResult) or not body.settle.success:
                        raise RuntimeError(f"a voucher was refused: {body}")
                if number >= WARM_WAVES:
                    walls.append(wall)
                    cpus.append(cpu)
                    cycles.append(cpu + ask_s)
                    commits += rig.commits - before[0]
                    rows += rig.rows - before[1]
            if rig.vouchers() != SESSIONS * (waves + WARM_WAVES):
                raise RuntimeError(
                    f"expected {SESSIONS * (waves + WARM_WAVES)} vouchers, got {rig.vouchers()}"
                )
        finally:
            rig.program.stop()
        return {
            "vouchers": SESSIONS * waves,
            "per_s_of_processor_time": round(SESSIONS / statistics.median(cpus)),
            "per_s_by_the_wall": round(SESSIONS / statistics.median(walls)),
            "with_meter_statement_and_request_per_s": round(SESSIONS / statistics.median(cycles)),
            "journal_rows_per_fsync": round(rows / commits, 1),
        }


def _pay_over_mqtt(port: int, pipe: Any) -> None:
    """The robots' process: collects the requests of a wave, signs, and at a word sends them all."""
    robots = Robots(rig_settings())
    client = PahoBroker(BrokerAddress("127.0.0.1", port), "robots")
    client.connect()
    needs: list[Any] = []
    answers = [0]
    changed = threading.Condition()

    def heard(_topic: str, payload: bytes) -> None:
        draft = kind_of(payload) if b"." in payload else None
        with changed:
            if draft is not None and isinstance(draft.body, NeedVoucher):
                needs.append(draft)
            elif draft is not None and isinstance(draft.body, PaymentResult):
                answers[0] += 1
            changed.notify_all()

    client.subscribe(ROBOT_TOPIC, heard)
    inbox = rig_settings().inbox
    pipe.send("listening")
    while pipe.recv() == "pay":
        with changed:
            if not changed.wait_for(lambda: len(needs) >= SESSIONS, WAIT_S):
                raise TimeoutError(f"expected {SESSIONS} requests, got {len(needs)}")
            batch = [robots.pay(need) for need in needs]
            needs.clear()
            answers[0] = 0
        pipe.send("ready")
        pipe.recv()
        begin = time.perf_counter()
        for payment in batch:
            client.publish(inbox, payment)
        with changed:
            if not changed.wait_for(lambda: answers[0] >= SESSIONS, WAIT_S):
                raise TimeoutError(f"expected {SESSIONS} answers, got {answers[0]}")
        pipe.send(time.perf_counter() - begin)
    client.close()


def measure_mqtt(waves: int = WAVES) -> dict[str, Any]:
    """The same, with payments and answers through mosquitto at QoS 1."""
    if find_mosquitto() is None:
        return {"skipped": "no mosquitto"}
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        broker = start_broker(Path(name) / "broker")
        ours, theirs = context.Pipe()
        process = context.Process(target=_pay_over_mqtt, args=(broker.port, theirs), daemon=True)
        process.start()
        try:
            ours.recv()
            rig = Rig(Path(name), PahoBroker(BrokerAddress("127.0.0.1", broker.port), "station"))
            rig.program.start()
            walls: list[float] = []
            cpus: list[float] = []
            try:
                for number in range(waves + WARM_WAVES):
                    if number:
                        rig.report()
                    ours.send("pay")
                    ours.recv()
                    cpu = time.process_time()
                    ours.send("go")
                    wall = ours.recv()
                    if number >= WARM_WAVES:
                        walls.append(wall)
                        cpus.append(time.process_time() - cpu)
                ours.send("end")
            finally:
                rig.program.stop()
            return {
                "per_s_of_the_station_s_processor_time": round(SESSIONS / statistics.median(cpus)),
                "per_s_by_the_wall": round(SESSIONS / statistics.median(walls)),
                "bare_broker_messages_per_s": measure_broker(broker.port, rig),
            }
        finally:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
            broker.stop()


def _echo(port: int, pipe: Any) -> None:
    """Another process that counts messages of a topic."""
    client = PahoBroker(BrokerAddress("127.0.0.1", port), "counter")
    client.connect()
    count = [0]
    done = threading.Event()
    wanted = pipe.recv()

    def heard(_topic: str, _payload: bytes) -> None:
        count[0] += 1
        if count[0] >= wanted:
            done.set()

    client.subscribe("bare/topic", heard)
    pipe.send("listening")
    done.wait(WAIT_S)
    pipe.send(count[0])
    client.close()


def measure_broker(port: int, rig: Rig, count: int = 4000) -> int:
    """Bare messages per second from one client to another at QoS 1, each as long as a payment."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_echo, args=(port, theirs), daemon=True)
    process.start()
    try:
        ours.send(count)
        ours.recv()
        client = PahoBroker(BrokerAddress("127.0.0.1", port), "bare")
        client.connect()
        payload = b"x" * len(_a_payment(rig))
        begin = time.perf_counter()
        for _ in range(count):
            client.publish("bare/topic", payload)
        if ours.recv() != count:
            raise RuntimeError("the broker lost messages")
        passed_s = time.perf_counter() - begin
        client.close()
        return round(count / passed_s)
    finally:
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()


def _a_payment(rig: Rig) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        line = Line()
        other = Rig(Path(name), line)
        other.program.start()
        try:
            need = next(
                d for item in line.take(SESSIONS) if isinstance((d := kind_of(item)).body, NeedVoucher)
            )
            return Robots(rig.settings).pay(need)
        finally:
            other.program.stop()


def measure(waves: int = WAVES) -> dict[str, Any]:
    """Every figure; about half a minute on a quiet machine."""
    return {
        "without_MQTT": measure_inside(waves) | {"target_per_s": TARGET_PER_S},
        "with_MQTT_through_mosquitto": measure_mqtt(waves) | {"target_per_s": TARGET_MQTT_PER_S},
        "limit:_recoveries_per_s_of_processor_time": measure_recover(),
    }


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
