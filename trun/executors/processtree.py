"""Process trees as /proc shows them: who descends from whom, how much memory they hold, and how to end them.

Nothing here knows of workers. One look at all processes costs about 25 microseconds each, so nobody looks without a
reason.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable

_PAGE = os.sysconf("SC_PAGE_SIZE")


def parents() -> dict[int, int]:
    """Return {pid: pid of the parent} of all processes."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    # The name in parentheses may contain anything, also parentheses and spaces.
                    found[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
            except OSError:
                continue
    return found


def descendants(roots: Iterable[int], known: dict[int, int] | None = None) -> set[int]:
    """Return the processes that descend from ``roots``, without the roots."""
    below: dict[int, list[int]] = {}
    for pid, parent in (parents() if known is None else known).items():
        below.setdefault(parent, []).append(pid)
    found: set[int] = set()
    todo = list(roots)
    while todo:
        for pid in below.get(todo.pop(), ()):
            if pid not in found:
                found.add(pid)
                todo.append(pid)
    return found


def rss(pid: int) -> int:
    """Return the resident bytes of a process; 0 where it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def pss(pid: int) -> int:
    """Return the bytes of a process with shared pages counted in proportion (slow); 0 where that cannot be had."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def tree_bytes(root: int, known: dict[int, int], limit: int) -> int:
    """Return how much memory a process and its descendants hold; exact sharing is looked at only above ``limit``."""
    pids = [root, *descendants([root], known)]
    total = sum(rss(pid) for pid in pids)
    if total > limit and len(pids) > 1:
        shared = sum(pss(pid) for pid in pids)
        return shared or total
    return total


def kill(pids: Iterable[int], signum: int = signal.SIGKILL) -> None:
    """Send a signal to processes; those that are gone are as good."""
    for pid in pids:
        try:
            os.kill(pid, signum)
        except (ProcessLookupError, PermissionError):
            continue


def marked(mark: str) -> set[int]:
    """Return the processes that were started with ``mark`` (a ``NAME=value``) in their environment."""
    found = set()
    wanted = mark.encode()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    if wanted in file.read().split(b"\0"):
                        found.add(int(name))
            except OSError:
                continue
    return found
