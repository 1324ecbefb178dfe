"""The screen in a real pseudo-terminal, and its plain form in a pipe that knows only ASCII."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

PROGRAM = """
import sys, time
from pathlib import Path
from depai_robot.app.story import StoryWriter
from depai_robot.cli.screen import Screen

folder = Path(sys.argv[1])
demo, wallet = StoryWriter(folder, "demo"), StoryWriter(folder, "wallet")
with Screen(folder) as screen:
    screen.progress("development chain")
    time.sleep(0.5)
    demo.tell("setup", step="development chain", done=False)
    wallet.tell("state", session="s", to="QUOTING", cause="ChargeRequested")
    wallet.tell("quote", station="st-far", price_atomic_per_kwh=380000, score=5833, chosen=True)
    wallet.tell("quote", station="st-shut", refused="members only \\u2713")
    screen.refresh()
    time.sleep(0.4)
    for number in range(1, 13):
        wallet.tell("tranche", number=number, station_milliwh=number, own_milliwh=number,
                    cost_atomic=number, ceiling_atomic=number + 1)
    for number in range(12):
        demo.tell("check", name=f"check {number}", ok=number != 7, detail="seen")
    screen.refresh()
    time.sleep(0.4)
print("the end")
"""


def environment(**changes: str) -> dict[str, str]:
    kept = {
        k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "CI"}
    }
    return {**kept, "TERM": "xterm-256color", **changes}


def test_in_a_small_terminal(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        stdout=slave, stderr=slave, stdin=slave, env=environment(), close_fds=True,
    )  # fmt: skip
    os.close(slave)
    shown = b""
    try:
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:  # how Linux says that the other end is closed
                break
            if not data:
                break
            shown += data
        assert process.wait(timeout=10) == 0, shown.decode()
    finally:
        process.kill()
        process.wait()
        os.close(master)
    text = shown.decode()
    assert "\x1b[?25l" in text, "the cursor is hidden while it is drawn"
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "and comes back"
    words = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    assert "development chain" in words
    assert "CHOSEN" in words
    assert "refused: members only ✓" in words
    # While it runs, a small terminal shows what failed; what stays is everything.
    before, _, after = words.rpartition("Quotes, in USDC")
    assert "11 of 12 checks passed" in before
    assert "check 3" not in before
    assert "check 3" in after
    assert "check 7" in after
    assert words.rstrip().endswith("the end")
    # The clock went on while nobody called refresh: more than one time was shown in the first half second.
    assert len(set(re.findall(r"(\d+\.\d) s +development chain", words))) >= 2


def test_in_a_pipe_each_event_is_a_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        capture_output=True, check=True, timeout=30, env=environment(PYTHONIOENCODING="ascii"),
    )  # fmt: skip
    lines = [re.sub(r"^ *\d+\.\d s  ", "", line) for line in done.stdout.decode("ascii").splitlines()]
    assert done.stderr == b""
    assert lines[:5] == [
        "set-up   development chain",
        "wallet   IDLE -> QUOTING (ChargeRequested)",
        "quote    st-far: 0.380 USDC/kWh, - away, in all 0.005833 USDC: CHOSEN",
        "quote    st-shut: -, - away, not scored: refused: members only \\u2713",
        "tranche    1: station's meter 0.001 Wh, own meter 0.001 Wh, owed 0.000001 USDC, signed up to 0.000002 USDC",
    ]
    assert len(lines) == 4 + 12 + 12 + 1
    assert "FAILED   check 7 (seen)" in lines
