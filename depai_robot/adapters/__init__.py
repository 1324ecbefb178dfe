"""The ports on the real world, one library per file. Wraps that library's errors with ``from``."""

import contextlib
import sys

# eth-account and web3 load py_ecc, which sets the whole process's recursion limit to 100,000: hostile nesting would
# then end in a segmentation fault instead of a RecursionError. It does so only once, so it is loaded here first.
_limit = sys.getrecursionlimit()
with contextlib.suppress(ImportError):
    import py_ecc  # type: ignore[import-untyped,unused-ignore]  # noqa: F401
sys.setrecursionlimit(_limit)
