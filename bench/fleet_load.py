"""A simulated fleet on a real broker: ``python -m bench.fleet_load --robots 500 --period 5``.

Every robot's connection is retained; states come evenly over the period, and events (states out of turn) besides. One
client speaks for all robots, so wills are not part of it.
"""

import argparse
import random
import time

from depai_robot.adapters.paho_broker import BrokerAddress
from depai_robot.adapters.paho_feed import PahoFeed
from depai_robot.sim.fleet import FleetSim

SLICE_S = 0.02
BURST = 200
"""Messages handed to the client before it gets time to send them."""


def announce(feed: PahoFeed, sim: FleetSim) -> None:
    """Publishes every robot's connection, retained at QoS 1, and waits until all have left."""
    infos = []
    for number in range(sim.count):
        topic, payload = sim.connection(number, time.time())
        infos.append(feed._client.publish(topic, payload, qos=1, retain=True))
        if number % BURST == 0:
            infos[-1].wait_for_publish(30)
    for info in infos:
        info.wait_for_publish(30)


def run(feed: PahoFeed, sim: FleetSim, period_s: float, events_per_s: float, seconds: float) -> int:
    """Publishes states until the time is over; returns how many."""
    dice = random.Random(7)
    begin = time.monotonic()
    sent = events = 0
    while (passed_s := time.monotonic() - begin) < seconds:
        due = int(passed_s / period_s * sim.count)
        while sent < due:
            feed.publish(*sim.state(sent % sim.count, time.time()))
            sent += 1
        while events < int(passed_s * events_per_s):
            feed.publish(*sim.state(dice.randrange(sim.count), time.time()))
            events += 1
        time.sleep(SLICE_S)
    return sent + events


def main() -> None:
    """See ``--help``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker", default="localhost:1883", help="host:port (default localhost:1883)")
    parser.add_argument("--robots", type=int, default=500)
    parser.add_argument(
        "--period", type=float, default=30.0, help="seconds between a robot's states (default 30)"
    )
    parser.add_argument(
        "--events", type=float, default=20.0, help="states out of turn, a second, in all (default 20)"
    )
    parser.add_argument("--seconds", type=float, default=1e9, help="end after")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    host, _, port = arguments.broker.rpartition(":")
    feed = PahoFeed(BrokerAddress(host, int(port)))
    feed.start()
    if not feed.wait_connected(10):
        raise SystemExit(f"no broker at {arguments.broker}")
    sim = FleetSim(arguments.robots, seed=arguments.seed)
    announce(feed, sim)
    print(f"announced {sim.count} robots", flush=True)
    print(f"{run(feed, sim, arguments.period, arguments.events, arguments.seconds)} states", flush=True)
    feed.close()


if __name__ == "__main__":
    main()
