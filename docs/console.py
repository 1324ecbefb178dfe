"""Draws the pictures of docs/console.md from the running console: ``python -m docs.console``.

SVG by Textual's own export; PNG, where Chromium is installed, of the same SVG. The fleet is simulated and seeded, the
time is fixed, so a picture changes only when the screen does.
"""

import asyncio
import shutil
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any
from unittest import mock

from depai_robot.adapters.paho_broker import BrokerAddress
from depai_robot.app.fleet_guard import seal_document
from depai_robot.console.app import FleetApp
from depai_robot.console.command import COMMANDS, Role
from depai_robot.console.hub import Hub, HubSettings
from depai_robot.console.order import ORDERS, OrderDesk
from depai_robot.sim.fleet import FleetSim
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.identity import address_to_hex

FOLDER = Path(__file__).parent / "console"
BEGIN_S = 1_800_000_000.0
"""2027-01-15 08:00:00 UTC."""
ROBOTS = 400
HOURS = 6
PNG_SIZE = (1000, 640)
CHAIN_ID = 31337


class _Feed:
    """PahoFeed without a network: the messages of the simulation, as many as are put in."""

    def __init__(self) -> None:
        self.connected, self.refusal, self.dropped_count, self.connections_count = True, "", 0, 1
        self.waiting: list[tuple[str, bytes, bool]] = []
        self.waiting_count = 0

    def start(self) -> None:
        """Nothing to connect to."""

    close = start

    def subscribe(self, *_filters: str) -> None:
        """Everything comes."""

    unsubscribe = subscribe

    def publish(self, topic: str, payload: bytes, *, qos: int = 0) -> None:
        """Nobody listens."""

    def take(self, count_max: int) -> list[tuple[str, bytes, bool]]:
        """What waits."""
        taken, self.waiting = self.waiting[:count_max], self.waiting[count_max:]
        return taken


async def _draw(folder: Path, now: dict[str, float]) -> list[Path]:
    feed: Any = _Feed()
    sim = FleetSim(ROBOTS, seed=11, stations=12)
    history = folder / "fleet.sqlite"
    settings = HubSettings(BrokerAddress("localhost", 1883), history=history, role=Role.OPERATOR, who="ann")
    before = Hub(settings, feed)
    for minute in range(0, HOURS * 60, 5):
        now["s"] = BEGIN_S + minute * 60
        for number in range(ROBOTS):
            before.fleet.ingest(*sim.state(number, now["s"]), retained=False, now_s=now["s"])
        before.keep(now["s"])
    before.close()
    # A console that is started now knows that day from its history.
    signer = DevelopmentSigner("operator-ann")
    desk = OrderDesk(
        address_to_hex(signer.address), lambda command: seal_document(command, signer, CHAIN_ID), CHAIN_ID
    )
    hub = Hub(settings, feed, desk)
    for station in range(12):
        hub.fleet.ingest(*sim.offer(station, now["s"]), retained=True, now_s=now["s"])
    for _ in range(2):
        now["s"] += 20
        for number in range(ROBOTS):
            hub.fleet.ingest(*sim.state(number, now["s"]), retained=False, now_s=now["s"])
    now["s"] += 2
    for number in range(ROBOTS):
        word = "CONNECTIONBROKEN" if number % 133 == 21 else "ONLINE"
        hub.fleet.ingest(*sim.connection(number, now["s"], word), retained=True, now_s=now["s"])
        if number % 57 == 3:
            trouble = [
                {"errorType": "noRoute", "errorLevel": "WARNING", "errorDescription": "aisle 7 is blocked"}
            ]
            hub.fleet.ingest(*sim.state(number, now["s"], errors=trouble), retained=False, now_s=now["s"])
    hub.history.flush()
    app, drawn = FleetApp(hub, folder), []

    async def picture(pilot: Any, name: str, *keys: str) -> None:
        await pilot.press(*keys)
        await pilot.pause(0.4)
        app.draw_all()
        await pilot.pause(0.2)
        path = FOLDER / f"{name}.svg"
        path.write_text(app.export_screenshot(title="depai-fleet", simplify=True), encoding="utf-8")
        drawn.append(path)

    async with app.run_test(size=(110, 30)) as pilot:
        await picture(pilot, "fleet")
        await picture(pilot, "search", "slash", *"charging", "enter")
        await picture(pilot, "robot", "enter")
        await picture(pilot, "curves", "2", "plus", "plus")
        await picture(pilot, "changes", "4")
        await picture(pilot, "stations", "escape", "escape", "2")
        await picture(pilot, "alerts", "3", "a", "down", "a")
        await picture(pilot, "map", "4")
        await picture(pilot, "command", "1", "c")
        await picture(pilot, "confirm", "1")
        await picture(pilot, "audit", "y", "5")
        down = len(COMMANDS) + [order.kind for order in ORDERS].index("tighten")
        await picture(pilot, "orders", "1", "c", "home", *["down"] * down)
        fields = ("enter", "enter", "enter", *"2000000", "enter", *"a strange bill", "enter")
        await picture(pilot, "order", *fields)
        await picture(pilot, "help", "escape", "n", "question_mark")
    return drawn


def to_png(svg: Path) -> Path | None:
    """The same picture as PNG beside it; None where there is no Chromium."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        return None
    out = svg.with_suffix(".png")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                program,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                f"--user-data-dir={profile}",
                f"--window-size={PNG_SIZE[0]},{PNG_SIZE[1]}",
                f"--screenshot={out}",
                svg.resolve().as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=60,
        )
    return out


def main() -> None:
    """Writes docs/console/*.svg, and fleet.png."""
    FOLDER.mkdir(exist_ok=True)
    now = {"s": BEGIN_S}
    with (
        tempfile.TemporaryDirectory() as name,
        mock.patch.object(time, "time", side_effect=lambda: now["s"]),
        mock.patch.object(uuid, "uuid4", return_value=uuid.UUID(int=1)),
    ):
        drawn = asyncio.run(_draw(Path(name), now))
    for path in drawn:
        print(path)
    png = to_png(FOLDER / "fleet.svg")
    print(png or "no PNG: Chromium is not installed")


if __name__ == "__main__":
    main()
