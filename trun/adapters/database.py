"""The one room that knows ``sqlite3``: what the journal takes from it, and a glance at names of jobs that costs little.

``glance`` serves Tab completion, which has 100 ms for everything: it reads number, name and state of jobs from a
journal without loading anything of trun, by looking at the first fields of the stored records only.

Who may come in: the journal (``sqlite``), and ``trun __complete``. Rule: imports nothing but the standard library, and
little of that.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from sqlite3 import (
    SQLITE_CANTOPEN,
    SQLITE_CONSTRAINT,
    SQLITE_CORRUPT,
    SQLITE_ERROR,
    SQLITE_FULL,
    SQLITE_IOERR,
    SQLITE_IOERR_FSYNC,
    SQLITE_NOTADB,
    SQLITE_PERM,
    SQLITE_READONLY,
    Connection,
    Error,
    connect,
)
from urllib.parse import quote

#: Name of the journal in its folder.
FILE = "journal.sqlite"


def looking(path: str | os.PathLike[str]) -> Connection:
    """Open a journal so that nothing can be changed, whoever holds it."""
    return connect(f"file:{quote(os.fspath(path))}?mode=ro", uri=True, check_same_thread=False, timeout=10.0)


def newest_runs(state: str, most: int) -> list[str]:
    """Return the folders of the newest runs below a state folder, the newest first."""
    found = []
    with contextlib.suppress(OSError), os.scandir(os.path.join(state, "runs")) as items:
        for item in items:
            with contextlib.suppress(OSError):
                if item.is_dir(follow_symlinks=False):
                    found.append((item.stat().st_mtime, item.path))
    return [path for _, path in sorted(found, reverse=True)[:most]]


def glance(folder: str, most: int, end: float) -> Iterator[tuple[int, str, str]]:
    """Yield number, name and state of the newest jobs on a record, the newest first, until ``time.monotonic() > end``.

    What cannot be read is left out: whoever wants to know why asks the journal.
    """
    path = os.path.join(folder, FILE)
    if not os.path.exists(path):
        return
    with contextlib.suppress(Error, ValueError, IndexError), contextlib.closing(looking(path)) as connection:
        query = "SELECT l.number, j.spec, l.life FROM lives l JOIN jobs j ON j.number = l.number ORDER BY l.number DESC"
        for number, spec, life in connection.execute(f"{query} LIMIT ?", (most,)):
            _, name = _texts(spec, 2)
            (state,) = _texts(life, 1, skip=1)
            yield number, name, state
            if time.monotonic() > end:
                return


def _texts(data: bytes, many: int, *, skip: int = 0) -> list[str]:
    """Return the first texts of a MessagePack array, after ``skip`` whole numbers."""
    head = data[0]
    at = 1 if 0x90 <= head <= 0x9F else 3 if head == 0xDC else 5
    for _ in range(skip):
        at += 1 if data[at] < 0x80 else 1 + (1 << (data[at] - 0xCC))
    found = []
    for _ in range(many):
        kind = data[at]
        wide = 0 if 0xA0 <= kind <= 0xBF else 1 << (kind - 0xD9)
        size = kind & 0x1F if not wide else int.from_bytes(data[at + 1 : at + 1 + wide], "big")
        at += 1 + wide
        found.append(data[at : at + size].decode())
        at += size
    return found


__all__ = [
    "FILE",
    "SQLITE_CANTOPEN",
    "SQLITE_CONSTRAINT",
    "SQLITE_CORRUPT",
    "SQLITE_ERROR",
    "SQLITE_FULL",
    "SQLITE_IOERR",
    "SQLITE_IOERR_FSYNC",
    "SQLITE_NOTADB",
    "SQLITE_PERM",
    "SQLITE_READONLY",
    "Connection",
    "Error",
    "connect",
    "glance",
    "looking",
    "newest_runs",
]
