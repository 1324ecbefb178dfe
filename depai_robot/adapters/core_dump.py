"""Keeps a process's memory, and the keys in it, out of core files and away from other processes of the same user.

Python can't wipe what it has held; so the memory must not get out. Linux only; elsewhere only the resource limit.
"""

import ctypes
import resource
import sys

from depai_robot.values.error import ConfigError

PR_GET_DUMPABLE, PR_SET_DUMPABLE = 3, 4
"""Source: prctl(2). A process that is not dumpable leaves no core, by no core_pattern, and can't be traced by others
of its user; a new program started by it is dumpable again."""


def forbid_core_dumps() -> None:
    """For whoever is about to hold a key; before it is read. Doing it again changes nothing.

    Raises:
        ConfigError: the system refuses: then no key is opened.
    """
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError) as error:
        raise ConfigError(f"core dumps can't be turned off: {error}") from error
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 or libc.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise ConfigError(f"core dumps can't be turned off: prctl failed with errno {ctypes.get_errno()}")
