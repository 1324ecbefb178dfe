"""A console on a pretend feed: tests put messages in and see what would have been sent."""

import time
from collections import deque

from depai_robot.adapters.paho_broker import BrokerAddress
from depai_robot.console.app import FleetApp
from depai_robot.console.command import Role
from depai_robot.console.hub import Hub, HubSettings
from depai_robot.sim.fleet import FleetSim
from depai_robot.values.error import DeviceFailedError


class PretendFeed:
    """PahoFeed without a network."""

    def __init__(self):
        self.connected = True
        self.refusal = ""
        self.dropped_count = 0
        self.connections_count = 1
        self.filters = set()
        self.sent = []
        self._queue = deque()

    @property
    def waiting_count(self):
        return len(self._queue)

    def start(self):
        pass

    def close(self):
        pass

    def subscribe(self, *filters):
        self.filters.update(filters)

    def unsubscribe(self, *filters):
        self.filters.difference_update(filters)

    def publish(self, topic, payload, *, qos=0):
        if not self.connected:
            raise DeviceFailedError("not sent: no connection to the MQTT broker")
        self.sent.append((topic, payload))

    def put(self, message, *, retained=False):
        self._queue.append((*message, retained))

    def take(self, count_max):
        return [self._queue.popleft() for _ in range(min(count_max, len(self._queue)))]


class World:
    """A simulated fleet, a pretend feed and the app on them."""

    def __init__(self, folder, robots=30, role=Role.OPERATOR, seed=5, desk=None):
        self.feed = PretendFeed()
        self.sim = FleetSim(robots, seed=seed)
        self.hub = Hub(
            HubSettings(BrokerAddress("127.0.0.1", 9), history=folder / "fleet.sqlite", role=role, who="ann"),
            self.feed,
            desk,
        )
        self.app = FleetApp(self.hub, folder)

    def put_all(self, rounds=1):
        now_s = time.time()
        for number in range(self.sim.count):
            self.feed.put(self.sim.connection(number, now_s), retained=True)
            for _ in range(rounds):
                self.feed.put(self.sim.state(number, now_s))

    def screen_text(self):
        """What stands on the screen, line by line."""
        return "\n".join(
            "".join(segment.text for segment in strip)
            for strip in self.app.screen._compositor.render_strips()
        )
