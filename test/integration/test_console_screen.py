"""The console as a person uses it: keys in, screen read. Textual's pilot, at 80 x 24 unless said."""

import asyncio
import csv
import json
import time

import pytest

from depai_robot.console.command import COMMANDS, Role
from depai_robot.console.query import FILTERS, SORTS
from test.console_world import World


def drive(world, script, size=(80, 24)):
    """Runs a script of keys against the app."""

    async def run():
        async with world.app.run_test(size=size, notifications=True) as pilot:
            await pilot.pause(0.1)
            await script(pilot)

    asyncio.run(run())


async def see(world, pilot, *words, timeout_s=4.0):
    """Waits until all the words stand on the screen; returns it."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        text = world.screen_text()
        if all(word in text for word in words):
            return text
        assert time.monotonic() < deadline_s, f"{words} not on the screen:\n{text}"
        await pilot.pause(0.05)


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    made.put_all()
    return made


def test_the_fleet_is_there_at_once(world):
    async def script(pilot):
        text = await see(world, pilot, "30 robots", "live", "operator", "R00000", "1/30", "charging")
        lines = text.split("\n")
        assert len(lines) == 24
        assert all(len(line) == 80 for line in lines)
        for head in ("ROBOT", "AGE", "STATUS", "BATT", "TASK", "STATION", "COST", "TODAY"):
            assert head in lines[2]

    drive(world, script)


def test_cursor_search_filter_and_sort(world):
    async def script(pilot):
        await see(world, pilot, "1/30")
        await pilot.press("down", "down", "j")
        await see(world, pilot, "4/30")
        await pilot.press("end")
        await see(world, pilot, "30/30")
        await pilot.press("home", "pagedown")
        await see(world, pilot, "21/30")
        await pilot.press("slash", *"R00017", "enter")
        await see(world, pilot, "1/1", 'search "R00017"')
        await pilot.press("escape")
        await see(world, pilot, "/30")
        for name in [*list(FILTERS)[1:], "all"]:
            await pilot.press("f")
            await see(world, pilot, FILTERS[name][0])
        for name in [*list(SORTS)[1:], "alerts"]:
            await pilot.press("s")
            await see(world, pilot, f"by {name}")
        await pilot.press("s", "S")
        text = await see(world, pilot, "by name backwards")
        assert ">  R00029" in text

    drive(world, script)


def test_the_cursor_stays_on_its_robot_when_the_order_changes(world):
    async def script(pilot):
        await see(world, pilot, "1/30")
        await pilot.press("down", "down", "down")
        name = world.app.grid("fleet").selected.name
        now_s = time.time()
        for number in range(20, 30):
            world.feed.put(world.sim.connection(number, now_s, "CONNECTIONBROKEN"))
        await see(world, pilot, "10 broken")
        await pilot.pause(1.2)
        assert world.app.grid("fleet").selected.name == name
        assert world.app.grid("fleet").cursor == 13

    drive(world, script)


def test_only_what_changed_is_drawn(world):
    async def script(pilot):
        await see(world, pilot, "1/30")
        await pilot.pause(0.3)
        grid = world.app.grid("fleet")
        drawn, refreshed = grid.drawn_cells, []
        original = grid.refresh
        grid.refresh = lambda *regions, **words: (refreshed.extend(regions), original(*regions, **words))[1]
        row = next(n for n, r in enumerate(grid.rows) if r.name == "R00003")
        world.feed.put(
            world.sim.state(
                3, time.time(), batteryState={"batteryCharge": 33.0, "charging": False}, orderId="NEWTASK"
            )
        )
        await see(world, pilot, "NEWTASK")
        mine = [region for region in refreshed if region.y == row + 1]
        assert {region.height for region in mine} == {1}
        assert all(region.width <= 14 for region in mine)
        assert grid.drawn_cells - drawn <= 60
        far = [n for n, r in enumerate(grid.rows) if n >= grid.window]
        refreshed.clear()
        world.feed.put(world.sim.state(int(grid.rows[far[0]].name[1:]), time.time(), orderId="FAR"))
        await pilot.pause(0.15)
        assert not any(region.y == far[0] + 1 for region in refreshed), "off the screen: nothing is drawn"

    drive(world, script)


def test_every_page_of_a_robot(world):
    world.put_all()

    async def script(pilot):
        await see(world, pilot, "1/30")
        await pilot.press("slash", *"charging", "enter")
        await pilot.pause(0.2)
        await pilot.press("enter")
        await see(world, pilot, "1 now", "battery", "CHARGING", "session", "price", "of 5.0000 USDC")
        await pilot.press("2")
        await see(world, pilot, "battery, %", "energy of the session, kWh", "spent that day, USDC", "24 h")
        await pilot.press("plus")
        await see(world, pilot, "12 h")
        await pilot.press("3")
        await see(world, pilot, "sessions,", "kWh", "CHARGING")
        await pilot.press("right")
        await see(world, pilot, "changes from the state before", "~ headerId")
        await pilot.press("z")
        await see(world, pilot, "FROZEN")
        await pilot.press("5")
        await see(world, pilot, '"headerId"')
        await pilot.press("6")
        await see(world, pilot, "unreadable", "none was sent")
        robot = world.app.screen.robot
        assert {t.rpartition("/")[2] for t in world.feed.filters if robot.name in t} == {
            "factsheet",
            "visualization",
        }
        world.feed.put(world.sim.factsheet(int(robot.name[1:]), time.time()), retained=True)
        await see(world, pilot, "seriesName")
        await pilot.press("left", "escape")
        await see(world, pilot, "ROBOT")
        assert not any(robot.name in topic for topic in world.feed.filters)

    drive(world, script)


def test_nothing_subscribes_to_everything(world):
    async def script(pilot):
        assert world.feed.filters == {
            "uagv/v2/+/+/connection",
            "uagv/v2/+/+/state",
            "depai/v1/+/stations/+/offer",
        }

    drive(world, script)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.name)
def test_each_command_asks_and_goes_out(world, command):
    async def script(pilot):
        await see(world, pilot, "1/30")
        await pilot.press("c")
        await see(world, pilot, "Command to R", *(c.label for c in COMMANDS))
        await pilot.press(str(COMMANDS.index(command) + 1))
        await see(world, pilot, f"{command.label}:", "yes, send it")
        await pilot.press("enter")
        await pilot.pause(0.1)
        assert not world.feed.sent, "Enter alone does nothing"
        await pilot.press("y")
        await pilot.pause(0.2)
        ((topic, payload),) = world.feed.sent
        assert topic.endswith("/instantActions")
        assert json.loads(payload)["actions"][0]["actionType"] == command.name
        await pilot.press("5")
        await see(world, pilot, f"command {command.name}"[:20], "ann")

    drive(world, script)


def test_no_means_no(world):
    async def script(pilot):
        await see(world, pilot, "1/30")
        for keys in (("c", "escape"), ("c", "1", "n"), ("c", "1", "escape"), ("c", "down", "enter", "n")):
            await pilot.press(*keys)
            await pilot.pause(0.1)
        assert not world.feed.sent
        assert len(world.app.screen_stack) == 1
        assert world.hub.history.audit_rows() == []

    drive(world, script)


def test_a_command_without_a_broker_is_said(world):
    async def script(pilot):
        await see(world, pilot, "1/30")
        world.feed.connected = False
        await see(world, pilot, "no connection to the broker")
        await pilot.press("c", "1")
        await see(world, pilot, "yes, send it")
        await pilot.press("y")
        await see(world, pilot, "not sent")

    drive(world, script, size=(110, 30))


def test_a_command_from_a_robots_page(world):
    async def script(pilot):
        await see(world, pilot, "1/30")
        await pilot.press("enter")
        await see(world, pilot, "1 now")
        await pilot.press("c", "2")
        await see(world, pilot, "Stop charging:")
        await pilot.press("y")
        await pilot.pause(0.2)
        assert len(world.feed.sent) == 1
        await see(world, pilot, "1 now")

    drive(world, script)


def test_a_viewer_is_told_and_sends_nothing(tmp_path):
    world = World(tmp_path, role=Role.VIEWER)
    world.put_all()
    world.feed.put(world.sim.connection(0, time.time(), "CONNECTIONBROKEN"))

    async def script(pilot):
        await see(world, pilot, "viewer", "1 broken")
        await pilot.press("c")
        await see(world, pilot, "a viewer sends no commands")
        await pilot.press("3", "a")
        await see(world, pilot, "a viewer acknowledges")
        await pilot.press("enter")
        await see(world, pilot, "1 now")
        await pilot.press("c")
        await pilot.pause(0.2)
        assert len(world.app.screen_stack) == 2
        assert not world.feed.sent
        assert world.hub.fleet.alerts.count(unseen=True) == 1

    drive(world, script, size=(120, 30))


def test_alerts_are_acknowledged_and_rung(world):
    rung = []
    world.app.bell = lambda: rung.append(1)

    async def script(pilot):
        await see(world, pilot, "1/30")
        now_s = time.time()
        world.feed.put(world.sim.connection(0, now_s, "CONNECTIONBROKEN"))
        await see(world, pilot, "(1 new)")
        assert not rung, "sound is off until somebody wants it"
        await pilot.press("b")
        for number in (1, 2):
            world.feed.put(world.sim.connection(number, now_s, "CONNECTIONBROKEN"))
        await see(world, pilot, "(3 new)", "bell")
        assert rung == [1]
        await pilot.press("3")
        await see(world, pilot, "R00000", "broken", "1/3")
        await pilot.press("a")
        await see(world, pilot, "(2 new)", "ann")
        await pilot.press("A")
        await see(world, pilot, "Acknowledge 2 alerts?")
        await pilot.press("y")
        await see(world, pilot, "alerts 3")
        assert world.hub.fleet.alerts.count(unseen=True) == 0
        world.feed.put(world.sim.connection(1, now_s, "ONLINE"))
        await see(world, pilot, "alerts 2")
        await pilot.press("o")
        await see(world, pilot, "those that are over", "1/3")
        await pilot.press("home", "enter")
        await see(world, pilot, "1 now")

    drive(world, script)


def test_stations_and_map(world):
    async def script(pilot):
        await see(world, pilot, "1/30")
        await pilot.press("2")
        await see(world, pilot, "dock-0", "PRICE", "METER")
        await pilot.press("4")
        text = await see(world, pilot, "map hall: 10 columns")
        assert "@" in text, "the robot under the cursor"
        await pilot.press("plus", "plus", "left", "up", "minus", "0", "m")
        await see(world, pilot, "map hall: 10 columns")

    drive(world, script)


@pytest.mark.parametrize(("view", "least"), [("1", 30), ("2", 1), ("3", 1), ("5", 1)])
def test_export(world, tmp_path, view, least):
    world.feed.put(world.sim.connection(0, time.time(), "CONNECTIONBROKEN"))

    async def script(pilot):
        await see(world, pilot, "(1 new)")
        await pilot.press("3", "a", view, "x")
        await see(world, pilot, "rows:")

    drive(world, script)
    (table,) = tmp_path.glob("*.csv")
    (document,) = tmp_path.glob("*.json")
    rows = json.loads(document.read_text())
    assert len(rows) >= least
    with table.open() as file:
        assert [list(row) for row in csv.DictReader(file)][0] == list(rows[0])


def test_help_and_leaving(world):
    async def script(pilot):
        await see(world, pilot, "1/30")
        await pilot.press("question_mark")
        await see(world, pilot, "Everything has a key")
        await pilot.press("x", "f")
        await pilot.press("escape")
        await see(world, pilot, "every robot")
        await pilot.press("q")

    drive(world, script)
    assert world.app.return_code == 0


def test_a_click_selects_and_opens(world):
    async def script(pilot):
        await see(world, pilot, "1/30")
        await pilot.click("#fleet", offset=(5, 4))
        await see(world, pilot, "4/30")
        await pilot.click("#fleet", offset=(5, 4))
        await see(world, pilot, "1 now")

    drive(world, script)


def test_a_wide_window_shows_more(world):
    world.feed.put(
        world.sim.state(0, time.time(), errors=[{"errorType": "noRoute", "errorLevel": "WARNING"}])
    )

    async def script(pilot):
        await see(world, pilot, "PHASE", "MODE", "TROUBLE", "noRoute", "AUTOMATIC")
        await pilot.resize_terminal(40, 10)
        text = await see(world, pilot, "ROBOT")
        assert all(len(line) == 40 for line in text.split("\n"))

    drive(world, script, size=(200, 40))


def test_without_colour_every_view_can_be_read(world, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    plain = World(world.app._export_folder / "plain")
    plain.put_all()
    plain.feed.put(plain.sim.connection(3, time.time(), "CONNECTIONBROKEN"))

    async def script(pilot):
        await see(plain, pilot, ">X R00003", "BROKEN", "+")
        for key, word in (("2", "dock-0"), ("3", "X "), ("4", "map hall"), ("5", "audit"), ("1", "ROBOT")):
            await pilot.press(key)
            await see(plain, pilot, word)
        assert plain.app.no_color
        assert plain.app._exception is None

    drive(plain, script)
