"""What a robot costs its fleet's broker, and how soon it is seen to be gone: ``python -m bench.fleet_agent``.

A real agent process on a real mosquitto. Killed: SIGKILL, so the broker publishes the will as the socket closes.
Unplugged: SIGSTOP, so nothing more comes on a connection that stays open, as with a cut cable; the broker waits for
1.5 times the keepalive.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from depai_robot.adapters.broker_process import start_broker
from depai_robot.adapters.paho_broker import BrokerAddress
from depai_robot.adapters.paho_feed import PahoFeed
from depai_robot.app.fleet_agent import FleetAgent
from depai_robot.fleet.profile import Profile
from depai_robot.fleet.status import Charge, Motion, Place, Status

PROFILE = Profile(manufacturer="depai", serial="robot-1")
KEEPALIVES_S = (5, 15)
HOUR_S = 3600
# A working hour that has one charge: state changes of the order of what the demo's robot has.
CHARGE_PHASES = (
    "QUOTING",
    "FUNDING",
    "APPROACHING",
    "PRESENTING",
    "CHARGING",
    "STOPPING",
    "UNDOCKING",
    "SETTLING",
    "SETTLED",
)
DRIVES_PER_HOUR = 60
MQTT_HEAD_BYTES = 4
"""Fixed header and topic length of a QoS 0 PUBLISH below 16 KiB. Source: OASIS MQTT 3.1.1, § 3.3."""


class _Robot:
    def look(self):
        return Status(charge_percent=50.0, place=Place(1.0, 2.0, 0.1), motion=Motion(0.0, 0.0))

    def request_charge(self, station):
        raise NotImplementedError

    def stop_charge(self):
        raise NotImplementedError

    def set_pause(self, *, paused):
        raise NotImplementedError


def child(port, keepalive_s):
    FleetAgent(BrokerAddress("127.0.0.1", port, keepalive_s=keepalive_s), PROFILE, _Robot()).start()
    signal.pause()


def seen_gone_s(port, keepalive_s, number):
    """From the signal until CONNECTIONBROKEN is heard."""
    feed = PahoFeed(BrokerAddress("127.0.0.1", port))
    feed.subscribe(PROFILE.topic("connection"))
    feed.start()
    arguments = [
        sys.executable,
        "-m",
        "bench.fleet_agent",
        "--child",
        str(port),
        "--keepalive",
        str(keepalive_s),
    ]
    process = subprocess.Popen(arguments)

    def wait(word, limit_s):
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            for _, payload, _ in feed.take(10):
                if json.loads(payload)["connectionState"] == word:
                    return time.monotonic()
            time.sleep(0.001)
        raise SystemExit(f"{word} was not heard within {limit_s} s")

    try:
        wait("ONLINE", 20)
        time.sleep(0.5)
        begun = time.monotonic()
        process.send_signal(number)
        return wait("CONNECTIONBROKEN", 3 * keepalive_s + 5) - begun
    finally:
        process.kill()
        process.wait()
        feed.close()


def hour(version, visualization_period_s):
    """Messages and bytes of a simulated hour, by the agent's own machine: 60 drives and one charge."""
    from depai_robot.fleet.agent import initial_state, step
    from depai_robot.fleet.agent_state import Connected, Publish, StatusObserved

    profile = Profile(
        manufacturer="depai", serial="robot-1", version=version, visualization_period_s=visualization_period_s
    )
    state, at_ms = initial_state(profile), 1_800_000_000_000
    state, _ = step(state, Connected(at_ms))
    count = size = 0
    for second in range(HOUR_S):
        place = second // (HOUR_S // (2 * DRIVES_PER_HOUR))
        charging = 1800 <= second < 2700
        phase = CHARGE_PHASES[min(8, (second - 1800) // 100)] if charging else "IDLE"
        charge = Charge(
            "robot-1-65f0a1b2-12ab34cd", phase, "station_a", second, second, 310_000, not charging
        )
        status = Status(
            charge_percent=50.0,
            voltage_v=24.0,
            current_a=-1.0,
            place=Place(1.0, 2.0, 0.1),
            motion=Motion(0.1, 0.0),
            driving=not charging and place % 2 == 0,
            charge=charge if second >= 1800 else Charge(),
            budget_today_atomic=5_000_000,
        )
        state, effects = step(state, StatusObserved(at_ms + second * 1000, status))
        for effect in effects:
            if isinstance(effect, Publish):
                count += 1
                size += len(effect.payload) + len(effect.topic) + MQTT_HEAD_BYTES
    return count, size


def measure():
    """Messages, bytes and times, by name."""
    figures = {}
    for version in ("2.1.0", "3.0.0"):
        for period_s in (0.0, 1.0):
            count, size = hour(version, period_s)
            name = f"{version}, visualization {'off' if not period_s else f'every {period_s:g} s'}"
            figures[name] = {"messages_a_robot_hour": count, "bytes_a_robot_hour": size}
    with tempfile.TemporaryDirectory() as folder:
        broker = start_broker(Path(folder), "mosquitto")
        try:
            for keepalive_s in KEEPALIVES_S:
                figures[f"keepalive {keepalive_s} s"] = {
                    "killed_seen_after_ms": round(
                        1000 * seen_gone_s(broker.port, keepalive_s, signal.SIGKILL), 1
                    ),
                    "unplugged_seen_after_s": round(seen_gone_s(broker.port, keepalive_s, signal.SIGSTOP), 1),
                }
        finally:
            broker.stop()
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", type=int)
    parser.add_argument("--keepalive", type=int, default=15)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.keepalive)
        return
    print(json.dumps(measure(), indent=2))


if __name__ == "__main__":
    main()
