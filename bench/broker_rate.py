"""States a second through mosquitto on loopback, plain and with TLS: ``python -m bench.broker_rate``.

Robots' states (1 kB, QoS 0) from a few publishers to one subscriber, which must hear all of them:
at most WINDOW are under way, since a flooded broker drops QoS 0.
"""

import json
import os
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from depai_robot.adapters.broker_process import find_mosquitto, free_port, start_broker
from depai_robot.adapters.broker_site import add_client, init_site

STATE_BYTES = 1000
COUNT = 20_000
PUBLISHERS = 2
WINDOW = 2000


def make_client(name, port, files=None):
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name)
    if files:
        client.tls_set(*files)
    deadline = time.monotonic() + 10
    while True:
        try:
            client.connect("127.0.0.1", port)
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    client.loop_start()
    return client


def rate(port, robot_files, reader_files):
    """Messages a second from the first sent to the last heard, and how many were heard."""
    heard = [0]
    done = threading.Event()

    def take(_client, _data, _message):
        heard[0] += 1
        if heard[0] == COUNT:
            done.set()

    reader = make_client("reader", port, reader_files)
    reader.on_message = take
    reader.subscribe("uagv/v2/depai/+/state", 0)
    time.sleep(0.5)
    robots = [make_client(f"robot-{n}", port, robot_files) for n in range(PUBLISHERS)]
    payload = b"x" * STATE_BYTES
    begun = time.monotonic()

    def send(robot):
        for number in range(COUNT // PUBLISHERS):
            robot.publish("uagv/v2/depai/robot-1/state", payload)
            if number % 50 == 0:
                while number * PUBLISHERS - heard[0] > WINDOW:
                    time.sleep(0.001)

    threads = [threading.Thread(target=send, args=(robot,)) for robot in robots]
    for thread in threads:
        thread.start()
    done.wait(60)
    seconds = time.monotonic() - begun
    for client in (reader, *robots):
        client.disconnect()
        client.loop_stop()
    return heard[0] / seconds, heard[0]


def measure():
    """States a second, by the broker's set-up; all that was sent was heard, or it says how many."""
    figures = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        broker = start_broker(folder / "plain", "mosquitto")
        try:
            figures["plain"] = _figures(*rate(broker.port, None, None))
        finally:
            broker.stop()
        port, site = free_port(), folder / "site"
        init_site(site, ["127.0.0.1"], "depai", port=port)
        robot, viewer = add_client(site, "robot-1", "robot"), add_client(site, "vic", "viewer")
        config = site / "mosquitto.conf"
        config.write_text(config.read_text() + ("user root\n" if os.geteuid() == 0 else ""))
        process = subprocess.Popen([find_mosquitto(), "-c", str(config)], stderr=subprocess.DEVNULL)
        try:
            files = [[str(site / "ca.pem"), *map(str, pair)] for pair in (robot, viewer)]
            figures["TLS and ACL"] = _figures(*rate(port, *files))
        finally:
            process.terminate()
            process.wait()
    return figures


def _figures(states_per_s, heard):
    return {"states_a_second": round(states_per_s), "heard_of_sent": f"{heard} of {COUNT}"}


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
