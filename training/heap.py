"""Keeps freed memory for the next array: large arrays come and go by the thousand here.

glibc hands each large block back when it is freed, and every page of the next one costs a fault; drawing frames
takes two thirds of the time without that, a step of training three quarters. Results do not change.
"""

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""Source: malloc.h of glibc."""

MMAP_THRESHOLD_MAX = 32 * 2**20
"""The most that glibc takes (``DEFAULT_MMAP_THRESHOLD_MAX`` on 64 bits)."""


def keep_freed_memory() -> bool:
    """For this process, for good; False where the C library has no such word (then only time is lost)."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = {M_MMAP_THRESHOLD: MMAP_THRESHOLD_MAX, M_TRIM_THRESHOLD: 2**30, M_TOP_PAD: 2**26}
    taken = [mallopt(name, value) == 1 for name, value in wanted.items()]
    return all(taken)
