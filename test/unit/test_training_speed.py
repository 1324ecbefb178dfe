"""What makes training quick changes no result."""

import platform
import subprocess
import sys
from pathlib import Path

import numpy as np

from training.backdrop import Backdrop, wrapped

ROOT = Path(__file__).resolve().parents[2]
HEAP = "from training.heap import keep_freed_memory; print(keep_freed_memory())"


def test_freed_memory_is_kept_where_the_c_library_can():
    done = subprocess.run(
        [sys.executable, "-c", HEAP], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == str(platform.libc_ver()[0] == "glibc")


def test_planes_are_wrapped_as_a_remainder_does():
    values = np.random.default_rng(1).normal(0, 5000, 10_000)
    assert np.allclose(wrapped(values), np.mod(values, 511.0), atol=1e-8)
    assert 0 <= wrapped(values).min() <= wrapped(values).max() <= 511.0


def test_a_room_is_a_function_of_its_number():
    first, again, other = (Backdrop([1, 2], 4).pick(np.random.default_rng(n)) for n in (5, 5, 6))
    assert first.shape == (480, 640)
    assert (first == again).all()
    assert (first != other).any()
