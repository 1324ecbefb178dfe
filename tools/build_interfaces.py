"""Builds depai_interfaces from the ROS 2 wheels and installs it into this Python's environment.

    python tools/build_interfaces.py

For development and tests on x86_64 Linux; a robot builds the package with colcon and its own ROS installation. A C++
compiler is needed; without one nothing is built, the exit code is 0, and the tests that need the interfaces say so.
What was built is kept until a definition changes.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "depai_interfaces"
REQUIREMENTS = Path(__file__).with_name("interfaces-requirements.txt")
WORK = ROOT / ".tools" / "interfaces"
STAMP = Path(sys.prefix) / "share" / "depai_interfaces" / "built-from"


def digest() -> str:
    """Of everything that the result depends on."""
    whole = hashlib.sha256(f"{sys.version_info[:2]} {sys.prefix}".encode())
    for path in sorted((REQUIREMENTS, *(p for p in SOURCE.rglob("*") if p.is_file()))):
        whole.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return whole.hexdigest()


def make_generators() -> Path:
    """A virtual environment with the generators; returns its folder."""
    folder = WORK / "venv"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    stamp = folder / "made-from"
    if stamp.exists() and stamp.read_text() == wanted:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    subprocess.run([*pip, "--requirement", REQUIREMENTS], check=True, env=clean_environment())
    python = folder / "bin" / "python"
    code = "import numpy; print(numpy.get_include())"
    numpy = subprocess.run(
        [python, "-c", code], check=True, capture_output=True, text=True, env=clean_environment()
    )
    # The exports name the headers of the machine that built the wheels.
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    site = f"python{sys.version_info.major}.{sys.version_info.minor}"
    moved = {
        f"/opt/python/{tag}-{tag}/include/{site}": sysconfig.get_path("include"),
        f"/opt/python/{tag}-{tag}/lib/{site}/site-packages/numpy/_core/include": numpy.stdout.strip(),
    }
    for path in folder.glob("share/*/cmake/*.cmake"):
        text = path.read_text()
        for before, after in moved.items():
            text = text.replace(before, after)
        path.write_text(text)
    stamp.write_text(wanted)
    return folder


def clean_environment(**more: str) -> dict[str, str]:
    """Without what the ROS wheels of this interpreter set for their own processes."""
    leave = ("_ROS_WHEELS_BOOTSTRAP_COMPLETE", "LD_LIBRARY_PATH", "AMENT_PREFIX_PATH", "PYTHONPATH")
    return {key: value for key, value in os.environ.items() if key not in leave} | more


def build(generators: Path) -> None:
    """Configures, compiles and installs."""
    folder = WORK / "build"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    environment = clean_environment(
        LD_LIBRARY_PATH=str(generators / "lib"),
        AMENT_PREFIX_PATH=str(generators),
        PATH=f"{generators / 'bin'}{os.pathsep}{os.environ['PATH']}",
    )
    commands = [
        [
            generators / "bin" / "cmake",
            SOURCE,
            f"-DCMAKE_PREFIX_PATH={generators}",
            f"-DCMAKE_INSTALL_PREFIX={sys.prefix}",
            f"-DPython3_EXECUTABLE={generators / 'bin' / 'python'}",
            "-DBUILD_TESTING=OFF",
            "-DCMAKE_BUILD_TYPE=Release",
        ],
        [
            generators / "bin" / "cmake",
            "--build",
            ".",
            "--parallel",
            str(os.cpu_count() or 1),
            "--target",
            "install",
        ],
    ]
    for command in commands:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"depai_interfaces was not built:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")


def main() -> None:
    """See the module."""
    wanted = digest()
    if STAMP.exists() and STAMP.read_text() == wanted:
        return
    if shutil.which("c++") is None or shutil.which("make") is None:
        print("depai_interfaces: no C++ compiler and make, so it is not built (Debian: apt install g++ make)")
        return
    print("building depai_interfaces from the ROS 2 wheels (half a minute, once)")
    build(make_generators())
    STAMP.write_text(wanted)


if __name__ == "__main__":
    main()
