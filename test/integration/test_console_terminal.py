"""The installed program as a stranger meets it: a real terminal (tmux), a browser (Chromium), pipes, Prometheus."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from depai_robot.adapters.broker_process import free_port, start_broker
from depai_robot.adapters.paho_broker import BrokerAddress
from depai_robot.adapters.paho_feed import PahoFeed
from depai_robot.console.main import main
from depai_robot.sim.fleet import FleetSim

PROGRAM = [sys.executable, "-m", "depai_robot.console.main"]
ROBOTS = 12


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """A broker with a few robots that have announced themselves, and the means to speak for them."""
    broker = start_broker(tmp_path_factory.mktemp("broker"), "mosquitto")
    feed = PahoFeed(BrokerAddress(broker.host, broker.port))
    feed.start()
    assert feed.wait_connected(10)
    sim = FleetSim(ROBOTS, seed=3)
    infos = []
    for number in range(ROBOTS):
        topic, payload = sim.connection(number, time.time(), "CONNECTIONBROKEN" if number == 4 else "ONLINE")
        infos.append(feed._client.publish(topic, payload, qos=1, retain=True))
    for info in infos:
        info.wait_for_publish(10)
    yield f"{broker.host}:{broker.port}", feed, sim
    feed.close()
    broker.stop()


def wait_for(look, what, timeout_s=10.0, told=None):
    deadline_s = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline_s, f"{what}\n{told() if told else ''}"
        time.sleep(0.1)
    return found


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
@pytest.mark.parametrize("colour", ["colour", "none"])
def test_a_real_terminal_over_tmux(fleet, tmp_path, colour):
    address, feed, sim = fleet
    socket_name = f"depai-{os.getpid()}-{colour}"

    def tmux(*words):
        return subprocess.run(
            ["tmux", "-L", socket_name, "-f", "/dev/null", *words], capture_output=True, text=True, timeout=10
        ).stdout

    plain = ["env", "NO_COLOR=1"] if colour == "none" else []
    tmux(
        "new-session", "-d", "-x", "80", "-y", "24",
        *plain, *PROGRAM, "--broker", address, "--role", "operator", "--who", "ann",
        "--history", str(tmp_path / "h.sqlite"),
    )  # fmt: skip
    try:

        def screen():
            return tmux("capture-pane", "-p")

        wait_for(lambda: f"{ROBOTS} robots" in screen(), "no fleet on the screen")
        for number in range(ROBOTS):
            feed.publish(*sim.state(number, time.time()))
        wait_for(lambda: "DRIVING" in screen(), "no state on the screen")
        assert ">X R00004" in screen()
        if colour == "none":
            shades = {int(n) for n in re.findall(r"[34]8;5;(\d+)", tmux("capture-pane", "-p", "-e"))}
            assert all(n >= 231 or n in {0, 7, 8, 15, 16} for n in shades), "NO_COLOR: greys alone"
        tmux("send-keys", "Down", "Enter")
        wait_for(lambda: "1 now" in screen() and "last state" in screen(), "no robot page")
        tmux("send-keys", "2")
        wait_for(lambda: "battery, %" in screen(), "no curves")
        tmux("send-keys", "Escape")
        wait_for(lambda: "ROBOT" in screen(), "no way back")
        tmux("send-keys", "3")
        wait_for(lambda: "broken" in screen() and "SEEN BY" in screen(), "no alerts")
        tmux("send-keys", "a")
        wait_for(lambda: "ann" in screen(), "not acknowledged")
        tmux("resize-window", "-x", "132", "-y", "40")
        tmux("send-keys", "1")
        wait_for(lambda: "PHASE" in screen(), "a wide window shows no more")
        tmux("send-keys", "q")
        wait_for(lambda: not tmux("list-sessions"), "q does not end it")
    finally:
        tmux("kill-server")


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_page_with_a_click(fleet, tmp_path):
    address, feed, sim = fleet
    from test.chromium import Page

    port = free_port()
    server = subprocess.Popen(
        [*PROGRAM, "--broker", address, "--no-history", "serve", "--port", str(port)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert f"http://localhost:{port}" in server.stdout.readline()
        with Page(CHROMIUM, f"http://localhost:{port}/", tmp_path) as page:
            page.wait("document.querySelector('.xterm-rows, .xterm-screen, canvas') !== null")
            deadline_s = time.monotonic() + 25
            picture = b""
            while time.monotonic() < deadline_s:
                feed.publish(*sim.state(1, time.time()))
                time.sleep(0.5)
                picture = page.screenshot()
                if len(picture) > 30_000:
                    break
            assert len(picture) > 30_000, "the page stays empty"
            before = picture
            page.click(200, 120)
            page.click(200, 120)
            wait_for(lambda: page.screenshot() != before, "a click changes nothing")
            requests = page.requests()
            assert requests
            assert all(f"localhost:{port}" in url or url.startswith("data:") for url in requests), requests
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(
                urllib.request.Request(
                    f"http://localhost:{port}/ws",
                    headers={
                        "Origin": "http://evil.example",
                        "Upgrade": "websocket",
                        "Connection": "Upgrade",
                        "Sec-WebSocket-Version": "13",
                        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
                    },
                ),
                timeout=5,
            )
        assert refusal.value.code == 403
        refusal.value.close()
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(10)
        server.stdout.close()


def run(*words, timeout=30):
    return subprocess.run([*PROGRAM, *words], capture_output=True, text=True, timeout=timeout)


def test_watch_as_json_for_scripts(fleet):
    address, _, _ = fleet
    done = run("--broker", address, "--no-history", "watch", "--json", "--once", "--for", "1")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["robot"] for row in rows] == [f"depai/R{n:05d}" for n in range(ROBOTS)]
    assert rows[4]["status"] == "BROKEN"
    away = run("--broker", address, "--no-history", "watch", "--alerts", "--for", "2")
    assert "depai/R00004" in away.stdout
    assert "no good-bye" in away.stdout


def test_watch_follows_changes_and_ends_with_its_pipe(fleet, tmp_path):
    address, feed, sim = fleet
    watch = subprocess.Popen(
        [
            *PROGRAM,
            "--broker",
            address,
            "--history",
            str(tmp_path / "h"),
            "watch",
            "--json",
            "--search",
            "R00007",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert json.loads(watch.stdout.readline())["status"] == "SILENT"
        feed.publish(*sim.state(7, time.time(), orderId="o-77"))
        assert json.loads(watch.stdout.readline())["task"] == "o-77"
        watch.stdout.close()
        feed.publish(*sim.state(7, time.time()))
        feed.publish(*sim.state(7, time.time() + 1))
        assert watch.wait(10) in (0, 1)
    finally:
        watch.kill()
        watch.wait()


def test_prometheus(fleet):
    address, _, _ = fleet
    port = free_port()
    server = subprocess.Popen([*PROGRAM, "--broker", address, "--no-history", "metrics", "--port", str(port)])
    try:

        def scrape():
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                    text = answer.read().decode()
            except (OSError, urllib.error.URLError):
                return ""
            return text if 'status="broken"} 1.0' in text else ""

        text = wait_for(scrape, "no metrics")
        assert "depai_fleet_broker_connected 1.0" in text
        assert 'depai_fleet_alerts{acknowledged="no",kind="broken",level="critical"} 1.0' in text
        assert "depai_fleet_messages_total" in text
        assert "R00001" not in text, "no series per robot unless asked for"
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--role", "root"], "viewer or operator"),
        (["--broker", "nowhere"], "expected host:port"),
        (["--role", "operator", "--no-history"], "audit log"),
        (["--cert", "x", "--key", "y", "watch"], "--ca"),
        (["--interface", "#", "watch", "--once"], "<name>/<major>"),
        (["--role", "operator", "serve", "--host", "0.0.0.0"], "anybody could send commands"),
        (["--no-history", "report"], "no history"),
        (["--broker", "127.0.0.1:9", "--no-history", "watch", "--once"], "did not answer"),
    ],
)
def test_what_is_refused_is_one_line(words, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["depai-fleet", *words])
    with pytest.raises(SystemExit) as leave:
        main()
    assert leave.value.code == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_help_teaches():
    text = run("--help").stdout
    for word in ("watch", "report", "serve", "metrics", "--role operator", "DEPAI_FLEET_BROKER"):
        assert word in text
