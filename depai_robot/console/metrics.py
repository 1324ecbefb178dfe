"""Prometheus: the fleet as numbers. Series per station are bounded; series per robot only when asked for."""

from collections import Counter
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from depai_robot.console.hub import Hub
from depai_robot.values.error import ConfigError

STATIONS_MAX = 500
BATTERY_BUCKETS_PERCENT = (5, 10, 15, 20, 30, 50, 70, 90, 100)


class FleetCollector(Collector):
    """Reads the hub at each scrape. On the server's thread: it takes copies of tables, and changes nothing."""

    def __init__(self, hub: Hub, *, per_robot: bool = False) -> None:
        self._hub = hub
        self._per_robot = per_robot

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client."""
        hub, fleet = self._hub, self._hub.fleet
        robots = list(fleet.robots.values())
        yield GaugeMetricFamily(
            "depai_fleet_broker_connected", "1 while connected", value=float(hub.feed.connected)
        )
        status = GaugeMetricFamily("depai_fleet_robots", "robots by status", labels=["status"])
        for name, count in Counter(robot.status() for robot in robots).items():
            status.add_metric([name.lower()], count)
        yield status
        alerts = GaugeMetricFamily(
            "depai_fleet_alerts", "open alerts", labels=["kind", "level", "acknowledged"]
        )
        counted = Counter(
            (alert.kind, alert.level.name.lower(), "yes" if alert.by else "no")
            for alert in list(fleet.alerts.open.values())
        )
        for labels, count in counted.items():
            alerts.add_metric(list(labels), count)
        yield alerts
        yield self._battery([robot.battery_percent for robot in robots if robot.battery_percent >= 0])
        counters = fleet.counters
        for name, words, value in (
            ("messages", "messages taken in", counters.messages),
            ("unreadable", "messages that were not VDA 5050", counters.unreadable),
            ("lost_states", "states missing by header ids", counters.lost),
            ("repeated_states", "states that came twice", counters.repeated),
            ("dropped", "messages dropped here", hub.feed.dropped_count),
            ("connections", "connections to the broker", hub.feed.connections_count),
            ("pump_seconds", "seconds spent taking messages in", hub.pump_seconds),
        ):
            yield CounterMetricFamily(f"depai_fleet_{name}", words, value=value)
        yield from self._stations()
        if self._per_robot:
            yield from self._robots()

    def _battery(self, percents: list[float]) -> Metric:
        buckets = [
            (str(float(limit)), float(sum(p <= limit for p in percents))) for limit in BATTERY_BUCKETS_PERCENT
        ]
        return HistogramMetricFamily(
            "depai_fleet_battery_percent",
            "batteries of the robots, now",
            buckets=[*buckets, ("+Inf", float(len(percents)))],
            sum_value=sum(percents),
        )

    def _stations(self) -> Iterable[Metric]:
        families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {
            "charging": GaugeMetricFamily(
                "depai_station_charging", "robots charging now", labels=["station"]
            ),
            "sessions": CounterMetricFamily(
                "depai_station_sessions", "finished sessions", labels=["station"]
            ),
            "faults": CounterMetricFamily(
                "depai_station_faults", "sessions with a fault", labels=["station"]
            ),
            "meter_faults": CounterMetricFamily(
                "depai_station_meter_faults", "sessions with a fault of the meter", labels=["station"]
            ),
            "energy": CounterMetricFamily("depai_station_energy_wh", "energy sold", labels=["station"]),
            "income": CounterMetricFamily("depai_station_income_usdc", "money taken", labels=["station"]),
        }
        for row in list(self._hub.fleet.stations.rows.values())[:STATIONS_MAX]:
            name = [row.station]
            families["charging"].add_metric(name, len(row.charging))
            families["sessions"].add_metric(name, row.sessions)
            families["faults"].add_metric(name, row.faults)
            families["meter_faults"].add_metric(name, row.meter_faults)
            families["energy"].add_metric(name, row.energy_milliwh / 1000)
            families["income"].add_metric(name, row.cost_atomic / 1_000_000)
        return families.values()

    def _robots(self) -> Iterable[Metric]:
        battery = GaugeMetricFamily("depai_robot_battery_percent", "battery", labels=["robot"])
        seen = GaugeMetricFamily(
            "depai_robot_last_state_seconds", "Unix time of the last state", labels=["robot"]
        )
        for robot in list(self._hub.fleet.robots.values()):
            if robot.battery_percent >= 0:
                battery.add_metric([robot.key], robot.battery_percent)
            if robot.seen_s:
                seen.add_metric([robot.key], robot.seen_s)
        return battery, seen


def serve_metrics(hub: Hub, port: int, host: str = "127.0.0.1", *, per_robot: bool = False) -> int:
    """Answers ``/metrics`` on a thread of its own; returns the port (0 takes a free one).

    Raises:
        ConfigError: the port is taken.
    """
    registry = CollectorRegistry()
    registry.register(FleetCollector(hub, per_robot=per_robot))
    try:
        server, _ = start_http_server(port, host, registry)
    except OSError as error:
        raise ConfigError(f"metrics at {host}:{port}: {error.strerror or error}") from error
    return int(server.server_port)
