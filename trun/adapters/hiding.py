"""Keeps a process that holds secrets to itself: no core dumps, no debugger, no page of it on the swap device.

What the system does not allow is left undone and said, since a secret in plain memory is still better than one in a
script. Who may come in: the agent. Rule: Linux only, by its own calls; nothing here can fail.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys

_PR_SET_DUMPABLE = 4
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4


def hide_process() -> list[str]:
    """Close this process to others as far as the system allows, and return what it did not allow."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not sys.platform.startswith("linux"):
        return ["other processes of this user may look into this one", "memory may be written to the swap device"]
    missing = []
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        missing.append(f"other processes of this user may look into this one ({os.strerror(ctypes.get_errno())})")
    most = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (most, most))
    # Under a limit only what is there now is locked: with MCL_FUTURE each later allocation could fail.
    flags = _MCL_ONFAULT | _MCL_CURRENT | (_MCL_FUTURE if most == resource.RLIM_INFINITY or os.geteuid() == 0 else 0)
    if library.mlockall(flags) != 0:
        missing.append(f"memory may be written to the swap device ({os.strerror(ctypes.get_errno())})")
    return missing
