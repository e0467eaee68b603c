"""Where operating systems differ, for what a client does: locks on files, whose a file is, and what only Linux has.

Clients run on Linux, macOS and Windows; services and their workers on Linux, since they live by what only it has
(descriptors of processes, credentials of peers, ...). What needs Linux says so in one error, before it begins.

Who may come in: the adapters, and whoever starts something that needs Linux. Rule: no ``sys.platform`` elsewhere where
one of these would do.
"""

from __future__ import annotations

import os
import stat
import sys

from trun.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

#: Not for children; 0 where a descriptor never is.
CLOEXEC: int = getattr(os, "O_CLOEXEC", 0)


def user_id() -> int:
    """Return the number of this user; 0 where users have none."""
    return os.getuid() if hasattr(os, "getuid") else 0


def is_mine(found: os.stat_result) -> bool:
    """Return whether a file is ours; True where files do not say."""
    return not hasattr(os, "getuid") or found.st_uid == os.getuid()


def is_open_to_others(found: os.stat_result, mask: int) -> bool:
    """Return whether others have one of these rights (``0o022``); False where modes do not say."""
    return hasattr(os, "getuid") and bool(stat.S_IMODE(found.st_mode) & mask)


def lock(fd: int, *, wait: bool = False, shared: bool = False) -> None:
    """Lock an open file until it is closed; BlockingIOError where somebody else has it and we do not wait."""
    if fcntl is not None:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))


def unlock(fd: int) -> None:
    """Give a locked file up."""
    if fcntl is not None:
        fcntl.flock(fd, fcntl.LOCK_UN)


def only_mine(fd: int) -> None:
    """Let nobody else read or write an open file."""
    if hasattr(os, "fchmod"):
        os.fchmod(fd, 0o600)


def need_linux(what: str) -> None:
    """Refuse what only Linux can do.

    Raises
    ------
    UsageError
        This is another system.
    """
    if not sys.platform.startswith("linux"):
        raise UsageError(
            f"{what} needs Linux, and this is {sys.platform}. From here trun.remote_service('tcp://host:port') reaches "
            "services that run on Linux."
        )


__all__ = ["CLOEXEC", "is_mine", "is_open_to_others", "lock", "need_linux", "only_mine", "unlock", "user_id"]
