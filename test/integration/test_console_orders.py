"""Signed orders from the console: keys in, a real guard behind a real broker, the answer on screen and in the log."""

import asyncio
import time

import pytest

from depai_robot.adapters.broker_process import start_broker
from depai_robot.adapters.paho_broker import BrokerAddress, PahoBroker
from depai_robot.adapters.sqlite_journal import SqliteJournal
from depai_robot.app.fleet_guard import AUDIT, FleetGuard, answer_topic, command_topic, seal_document
from depai_robot.app.journal_share import JournalShare, journal_topic
from depai_robot.app.journal_told import read_told
from depai_robot.app.sealing import Sealer
from depai_robot.console.app import FleetApp
from depai_robot.console.command import COMMANDS, Role
from depai_robot.console.hub import Hub, HubSettings
from depai_robot.console.order import ORDERS, OrderDesk
from depai_robot.fleet.command import OPERATOR_KINDS, Grant
from depai_robot.sim.fleet import FleetSim
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.error import ConfigError
from depai_robot.values.identity import address_to_hex
from test.app_world import make_policy
from test.console_world import World

CHAIN = 31337
OWNER, ADA, IDENTITY = (DevelopmentSigner(name) for name in ("owner", "operator-ada", "robot-1 identity"))
DESK = OrderDesk(address_to_hex(ADA.address), lambda command: seal_document(command, ADA, CHAIN), CHAIN)
STATION = "0x52908400098527886E0F7030069857D2E4169EE7"
ORDER = {order.kind: order for order in ORDERS}


def on_screen(app):
    return "\n".join(
        "".join(segment.text for segment in strip) for strip in app.screen._compositor.render_strips()
    )


async def see(app, pilot, *words, timeout_s=8.0):
    deadline_s = time.monotonic() + timeout_s
    while True:
        text = on_screen(app)
        if all(word in text for word in words):
            return text
        assert time.monotonic() < deadline_s, f"{words} not on the screen:\n{text}"
        await pilot.pause(0.05)


async def until(pilot, true, timeout_s=8.0):
    deadline_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline_s, "what was expected did not come"
        await pilot.pause(0.05)


class Robot:
    """The wallet's side: a guard that answers on the broker."""

    def __init__(self, folder, broker, name):
        now_s = int(time.time())
        grant = Grant(
            document="depai.fleet.grant/1",
            operator=DESK.operator,
            robot=name,
            kinds=OPERATOR_KINDS,
            valid_after_s=now_s - 10,
            valid_before_s=now_s + 1000,
        )
        self.guard = FleetGuard(
            folder,
            robot=name,
            chain_id=CHAIN,
            owner=OWNER.address,
            grants=(grant,),
            policy=make_policy(name, ()),
            wall_s=lambda: int(time.time()),
        )
        self.link = PahoBroker(BrokerAddress(broker.host, broker.port), f"wallet-{name}")
        self.link.connect()
        self.link.subscribe(
            command_topic(name),
            lambda _topic, token: self.link.publish(answer_topic(name), self.guard.take(token)),
        )

    def tell_journal(self, folder, name):
        """The journal of a robot that has bought nothing yet, told as a wallet tells it."""
        path = folder / "wallet.sqlite"
        SqliteJournal(path, address_to_hex(IDENTITY.address)).close()
        topic, sealer = journal_topic(name), Sealer(CHAIN, IDENTITY, None, None)
        share = JournalShare(path, sealer.seal_bytes, lambda part: self.link.publish(topic, part))
        self.guard.tell_journal = share.ask
        return share


@pytest.fixture
def broker(tmp_path):
    process = start_broker(tmp_path / "broker", "mosquitto")
    yield process
    process.stop()


def open_desk(folder, broker):
    """A robot that is online, its name, and an operator's console on the same broker."""
    (folder / "robot").mkdir()
    topic, payload = FleetSim(1, seed=3).connection(0, time.time())
    name = topic.split("/")[3]
    robot = Robot(folder / "robot", broker, name)
    robot.link.publish(topic, payload, retain=True)
    address = BrokerAddress(broker.host, broker.port)
    settings = HubSettings(address, history=folder / "h.sqlite", role=Role.OPERATOR, who="ada")
    return robot, name, Hub(settings, desk=DESK)


def test_an_operator_pauses_tightens_and_bars_from_the_screen(broker, tmp_path):
    robot, name, hub = open_desk(tmp_path, broker)
    app = FleetApp(hub, tmp_path)

    async def give(pilot, kind, *keys):
        await pilot.press("c")
        await see(app, pilot, "Command to", f"{ORDER[kind].label} (signed)")
        place = len(COMMANDS) + [order.kind for order in ORDERS].index(kind)
        await pilot.press("home", *["down"] * place, "enter")
        await see(app, pilot, "reason, kept")
        await pilot.press(*keys)

    async def run():
        async with app.run_test(size=(100, 30), notifications=True) as pilot:
            await see(app, pilot, "1/1", name)
            await give(pilot, "pause", "enter")
            await see(app, pilot, "a reason of 1 to 256")
            await give(pilot, "pause", *"a bill", "enter")
            await see(app, pilot, "Sign and send?", "command   pause", "reason    a bill")
            await pilot.press("n")
            assert not robot.guard.restrictions.paused
            await give(pilot, "pause", *"a bill", "enter")
            await see(app, pilot, "Sign and send?")
            await pilot.press("y")
            await see(app, pilot, "obeys: spending paused")
            assert robot.guard.restrictions.paused
            await give(pilot, "tighten", "enter", "enter", *"500000", "enter", *"less", "enter")
            await see(app, pilot, "day_max_atomic  500000 (0.5 USDC)")
            await pilot.press("y")
            await until(pilot, lambda: robot.guard.limit("day_max_atomic") == 500_000)
            await give(pilot, "bar", *STATION, "enter", *"cheat", "enter")
            await see(app, pilot, STATION)
            await pilot.press("y")
            await until(pilot, lambda: bool(robot.guard.restrictions.barred))
            await give(pilot, "tighten", "enter", "enter", *"9000000000", "enter", *"more", "enter")
            await see(app, pilot, "Sign and send?")
            await pilot.press("y")
            await see(app, pilot, "refuses:")
            await pilot.press("5")
            await see(app, pilot, "order tighten", "answer")

    try:
        asyncio.run(run())
    finally:
        robot.link.close()
    log = (tmp_path / "robot" / AUDIT).read_text(encoding="utf-8")
    assert "a bill" in log
    assert "would rise" in log


def test_a_journal_is_asked_for_and_kept_as_the_robot_signed_it(broker, tmp_path):
    robot, name, hub = open_desk(tmp_path, broker)
    app = FleetApp(hub, tmp_path / "exports")
    place = len(COMMANDS) + [order.kind for order in ORDERS].index("journal")

    async def ask(pilot, *days):
        await pilot.press("c", "home", *["down"] * place, "enter")
        await see(app, pilot, "1 to 366; empty: 7")
        await pilot.press(*days, "enter", *"books", "enter")

    async def run():
        async with app.run_test(size=(100, 30), notifications=True) as pilot:
            await see(app, pilot, "1/1", name)
            await ask(pilot, "0")
            await see(app, pilot, "days is a whole number from 1 to 366")
            await ask(pilot)
            await see(app, pilot, "Sign and send?", "that ended in the last 7 days")
            await pilot.press("y")
            await see(app, pilot, "refuses: nobody tells the journal here")
            share = robot.tell_journal(tmp_path / "robot", name)
            await ask(pilot, "3", "0")
            await see(app, pilot, "Sign and send?", "that ended in the last 30 days")
            await pilot.press("y")
            await until(pilot, lambda: not share._asked.empty())
            await asyncio.to_thread(share.look)
            await see(app, pilot, "0 sessions")
            (path,) = (tmp_path / "exports").glob(f"journal-{name}-*.jws")
            told = read_told(path.read_bytes(), CHAIN, IDENTITY.address)
            assert (told.robot, told.extract.rows) == (name, 0)
            assert told.until_s - told.since_s == 30 * 86_400
            (tmp_path / "robot" / "wallet.sqlite").write_bytes(b"no journal")
            await ask(pilot)
            await see(app, pilot, "Sign and send?")
            await pilot.press("y")
            await until(pilot, lambda: not share._asked.empty())
            await asyncio.to_thread(share.look)
            await see(app, pilot, "tells no journal")
            await pilot.press("5")
            await see(app, pilot, "order journal", "no journal")

    try:
        asyncio.run(run())
    finally:
        robot.link.close()


def test_without_a_key_there_are_no_orders_and_a_viewer_gives_none(tmp_path):
    world = World(tmp_path)
    world.put_all()
    world.hub.start()
    world.hub.pump(1.0)
    robot = next(iter(world.hub.fleet.robots.values()))
    with pytest.raises(ConfigError, match="--operator-key"):
        world.hub.prepare(robot, ORDER["pause"], {}, "why")
    viewer = World(tmp_path / "v", role=Role.VIEWER, desk=DESK)
    with pytest.raises(ConfigError, match="viewer sends no orders"):
        viewer.hub.prepare(robot, ORDER["pause"], {}, "why")
    assert not world.feed.sent
    assert not viewer.feed.sent


def test_a_robot_that_does_not_answer_is_said_and_strangers_answers_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr("depai_robot.console.hub.ANSWER_WITHIN_S", 0.05)
    world = World(tmp_path, desk=DESK)
    world.put_all()
    world.hub.start()
    world.hub.pump(1.0)
    robot = next(iter(world.hub.fleet.robots.values()))
    command = world.hub.prepare(robot, ORDER["pause"], {}, "why")
    world.hub.order(robot, command)
    ((topic, token),) = world.feed.sent
    assert topic == command_topic(robot.address.serial)
    assert token.count(b".") == 2
    body = b'{"id": "%s", "accepted": true, "limits": {}, "barred": []}' % command.id.encode()
    world.feed.put((answer_topic("another"), body))
    world.feed.put((answer_topic(robot.address.serial), b'{"id": "other", "limits": {}, "barred": []}'))
    world.hub.pump(0.2)
    assert world.hub.take_words() == []
    time.sleep(0.1)
    world.hub._ticked_s = 0.0
    world.hub.pump(0.2)
    ((words, well),) = world.hub.take_words()
    assert "does not answer" in words
    assert not well
