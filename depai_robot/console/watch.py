"""``depai-fleet watch``: the fleet for scripts, one line a change, as words or JSON."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from depai_robot.console.app import alert_as_json
from depai_robot.console.fleet import Robot
from depai_robot.console.hub import Hub
from depai_robot.console.look import age, money
from depai_robot.console.page import line_of_json, robot_as_json
from depai_robot.console.query import Query, matches, select

POLL_S = 0.05
CONNECT_S = 5.0
SETTLE_S = 2.0
"""A snapshot waits until nothing new has come for this long."""


def robot_line(robot: Robot, now_s: float) -> str:
    """One robot in one line of words."""
    reading, said = robot.reading, robot.charging
    parts = [
        f"{robot.key:24}",
        f"{robot.status():9}",
        f"{robot.battery_percent:4.0f}%" if robot.battery_percent >= 0 else "    -",
        f"{age(now_s - robot.seen_s) if robot.seen_s else '-':>4}",
        f"{said.phase if said else '':12} {said.station if said else '':14}",
        f"today {money(robot.spent_today_atomic(now_s))}",
        reading.task if reading else "",
    ]
    return "  ".join(parts).rstrip()


def follow(
    hub: Hub, query: Query, *, alerts_only: bool, until_s: float, sleep: Callable[[float], None] = time.sleep
) -> Iterator[dict[str, Any] | Robot]:
    """Changes as they come: alerts as JSON objects, robots as rows.

    Args:
        hub: started.
        query: which robots.
        alerts_only: no robots, only alerts as they are raised, acknowledged and cleared.
        until_s: monotonic; ``inf`` for ever.
        sleep: for tests.
    """
    seen: dict[str, int] = {}
    told: dict[tuple[str, str, float], tuple[Any, ...]] = {}
    while time.monotonic() < until_s:
        hub.pump()
        if alerts_only:
            for alert in [*hub.fleet.alerts.open.values(), *hub.fleet.alerts.closed.values()]:
                form = (alert.level, alert.text, alert.until_s, alert.by)
                key = (alert.subject, alert.kind, alert.since_s)
                if told.get(key) != form:
                    told[key] = form
                    yield alert_as_json(alert)
            if len(told) > 100_000:
                told.clear()
        else:
            for robot in list(hub.fleet.robots.values()):
                if seen.get(robot.key) == robot.version:
                    continue
                seen[robot.key] = robot.version
                if matches(robot, hub.fleet, query):
                    yield robot
        sleep(POLL_S)


def snapshot(hub: Hub, query: Query, timeout_s: float, settle_s: float = SETTLE_S) -> list[Robot]:
    """Everything that is known once messages stop pouring in, or the time is over.

    Without states kept by the broker, robots without news since are SILENT: wait 30 s to have heard each.
    """
    begin_s = time.monotonic()
    deadline_s = begin_s + timeout_s
    count, quiet_s = -1, time.monotonic()
    while time.monotonic() < deadline_s:
        hub.pump()
        if not hub.feed.connections_count and time.monotonic() > begin_s + CONNECT_S:
            break
        now = len(hub.fleet.robots)
        if now != count:
            count, quiet_s = now, time.monotonic()
        elif hub.feed.connected and time.monotonic() - quiet_s > settle_s:
            break
        time.sleep(POLL_S)
    return select(hub.fleet, query, time.time())


def write_line(item: dict[str, Any] | Robot, hub: Hub, *, as_json: bool) -> str:
    """A change as a line."""
    now_s = time.time()
    if isinstance(item, Robot):
        return line_of_json(robot_as_json(item, hub.fleet, now_s)) if as_json else robot_line(item, now_s)
    if as_json:
        return line_of_json(item)
    over = (
        " OVER"
        if item["until_s"]
        else f" seen by {item['acknowledged_by']}"
        if item["acknowledged_by"]
        else ""
    )
    return f"{item['sign']} {item['subject']:24}  {item['kind']:10}  {item['text']}{over}"
