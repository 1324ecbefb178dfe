"""A process that holds a key leaves no core file and can't be traced; the recursion limit stays as it was."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from depai_robot.adapters.keystore_signer import write_keystore
from depai_robot.sim.key import DevelopmentSigner

ABORT = """
import os, resource, sys
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
from pathlib import Path
from depai_robot.app.config import KeyPart
from depai_robot.app.part import open_signer
if sys.argv[1] == "key":
    part = KeyPart(keystore="key.json", password_file="pass")
    signer = open_signer("keys.voucher", part, Path("wallet.yaml").absolute(), 8453)
    print(signer.address.hex(), resource.getrlimit(resource.RLIMIT_CORE), flush=True)
os.abort()
"""


def _abort(folder: Path, what: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", ABORT, what], cwd=folder, capture_output=True, text=True, timeout=60
    )


def _cores(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if "core" in path.name]


def test_an_aborted_wallet_leaves_no_core(tmp_path):
    key = DevelopmentSigner("core")
    write_keystore(tmp_path / "key.json", key.secret, "pass")
    (tmp_path / "pass").write_text("pass\n")
    (tmp_path / "pass").chmod(0o600)
    done = _abort(tmp_path, "key")
    assert done.returncode == -6, done.stderr
    assert done.stdout.strip() == f"{key.address.hex()} (0, 0)"
    assert not _cores(tmp_path)


def test_without_a_key_the_same_abort_leaves_one(tmp_path):
    """Shows that the test above can fail, where this machine writes cores into the working folder at all."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    done = _abort(tmp_path, "none")
    assert done.returncode == -6, done.stderr
    if "/" not in pattern and not pattern.startswith("|") and hard != 0:
        assert _cores(tmp_path)
    for name in _cores(tmp_path):
        (tmp_path / name).unlink()


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_key_holder_is_not_dumpable_by_any_core_pattern():
    program = """
import ctypes
from depai_robot.adapters.core_dump import forbid_core_dumps
libc = ctypes.CDLL(None)
before = libc.prctl(3, 0, 0, 0, 0)
forbid_core_dumps(); forbid_core_dumps()
print(before, libc.prctl(3, 0, 0, 0, 0))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["1", "0"]


@pytest.mark.parametrize(
    "module", ["depai_robot.adapters.keystore_signer", "depai_robot.adapters.web3_chain"]
)
def test_libraries_do_not_raise_the_recursion_limit(module):
    """eth-account and web3 load py_ecc, which sets it to 100,000: hostile nesting would end in a crash."""
    program = f"""
import sys
sys.setrecursionlimit(1234)
import {module}
import eth_account, web3
print(sys.getrecursionlimit())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "1234"
