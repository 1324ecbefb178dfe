"""The reference sketch, compiled for this machine with a stand-in for Arduino, against the host's codec."""

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from depai_robot.adapters import mcu_frame as mcu
from depai_robot.app.resource import resource_path

HARNESS = r"""
#include <cstdio>
#include <cstdint>
#include <cstddef>
#include <string>
static uint32_t now_ms = 0;
static uint32_t millis() { return now_ms; }
static std::string to_board;
static size_t at = 0;
struct Port {
  void begin(uint32_t) {}
  int available() { return at < to_board.size(); }
  int read() { return (uint8_t)to_board[at++]; }
  void write(const uint8_t *data, size_t size) { fwrite(data, 1, size, stdout); }
} Serial;
static int16_t told_linear = 0, told_angular = 0;
#define driveWheels sketchDriveWheels
#include "SKETCH"
#undef driveWheels
int main() {
  char buffer[4096];
  size_t size = fread(buffer, 1, sizeof buffer, stdin);
  to_board.assign(buffer, size);
  setup();
  loop();
  fprintf(stderr, "%d %d ", told_linear, told_angular);
  now_ms = 299; loop();
  fprintf(stderr, "%d ", told_linear);
  now_ms = 301; loop();
  fprintf(stderr, "%d", told_linear);
}
"""


@pytest.fixture(scope="module")
def sketch(tmp_path_factory):
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("sketch")
    source = Path(resource_path("firmware", "depai_base", "depai_base.ino")).read_text()
    (wanted,) = re.findall(r"^void driveWheels\(.*$", source, re.MULTILINE)
    told = "void driveWheels(int16_t l, int16_t a) { told_linear = l; told_angular = a; }"
    (folder / "sketch.ino").write_text(source.replace(wanted, told))
    (folder / "main.cpp").write_text(HARNESS.replace("SKETCH", "sketch.ino"))
    program = folder / "board"
    command = ["c++", "-std=c++17", "-Wall", "-Wextra", "-o", str(program), str(folder / "main.cpp")]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return program


def run(program, data: bytes) -> tuple[list, str]:
    done = subprocess.run([program], input=data, capture_output=True, check=True)
    return mcu.Splitter().feed(done.stdout), done.stderr.decode()


def test_it_obeys_and_stops_by_itself(sketch):
    _, said = run(sketch, mcu.make_drive(1, 0.25, -0.5))
    assert said == "250 -500 250 0"


def test_it_keeps_its_own_limits(sketch):
    _, said = run(sketch, mcu.make_drive(1, 30.0, -30.0))
    assert said == "450 -1200 450 0"


def test_a_stop_holds_against_commands_until_it_is_released(sketch):
    _, said = run(sketch, mcu.make_stop(1, stop=True) + mcu.make_drive(2, 0.25, 0.0))
    assert said == "0 0 0 0"
    _, said = run(
        sketch, mcu.make_stop(1, stop=True) + mcu.make_stop(2, stop=False) + mcu.make_drive(3, 0.2, 0.0)
    )
    assert said == "200 0 200 0"


def test_garbage_and_damaged_frames_move_nothing(sketch):
    bad = bytearray(mcu.make_drive(1, 0.25, 0.0))
    bad[3] ^= 0x40
    _, said = run(sketch, b"\xff" * 200 + b"\0" + bytes(bad) + b"garbage\0")
    assert said == "0 0 0 0"


def test_the_host_understands_what_it_says(sketch):
    frames, _ = run(sketch, b"")
    assert [kind for kind, _, _ in frames[:2]] == [mcu.STATE, mcu.PADS]
    state = mcu.parse_state(frames[0][2])
    assert state is not None
    assert (state.contact, state.stopped, state.fault) == (False, False, False)
    pads = mcu.parse_pads(frames[1][2])
    assert pads is not None
    assert pads.nonce == b""
    assert struct.calcsize("<IHhI32s") == len(frames[1][2])
