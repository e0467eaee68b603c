"""Kills a node at an exact point: before or after a commit, an order, an answer, or whatever else cannot be taken back.

``arm`` wraps, in this process alone, the methods at which a node meets the world; each passage is a point with a
number. At the chosen one the process kills itself. Without one the points are only written down, to know how many
there are.

Other faults: a disk whose syncs fail while a file is there, a program that is newer than the journal, a wall clock that
jumps. For processes that tests fork (see ``mother``) or start (``program``).
Rule: nothing in trun knows of this, and what it wraps does what it did.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trun.adapters.sqlite as sqlite
from trun.adapters.sqlite import SqliteJournal
from trun.adapters.wire import RouterEndpoint
from trun.executors.lasting import Lasting
from trun.executors.lastingcrew import LastingCrew


class Points:
    """Counts points, and ends the process at one of them."""

    def __init__(self, at: int, trace: str) -> None:
        self._at = at
        self._count = 0
        self._trace = Path(trace) if trace else None

    def reach(self, name: str) -> None:
        """Be at the next point."""
        self._count += 1
        if self._trace is not None:
            with self._trace.open("a") as file:
                file.write(name + "\n")
        if self._count == self._at:
            os.kill(os.getpid(), signal.SIGKILL)


def arm(at: int = 0, trace: str = "", broken_disk: str = "", newer: bool = False, clock: str = "") -> None:
    """Give this process faults.

    Parameters
    ----------
    at, trace
        It kills itself at this point (0: never); the names of points go to that file.
    broken_disk
        While this file is there, commits fail as on a broken disk.
    newer
        The format of the journal is one further, with a step that brings older ones forward.
    clock
        The wall clock is ahead by the seconds that stand in this file.
    """
    if broken_disk:
        _break_disk(broken_disk)
    if newer:
        _renew()
    if clock:
        _move_clock(clock)
    if at or trace:
        _arm(at, trace)


def _break_disk(flag: str) -> None:
    class Broken(sqlite3.Connection):
        def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
            if statement == "COMMIT" and os.path.exists(flag):
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
                raise error
            return super().execute(statement, *arguments)

    SqliteJournal.factory = Broken


def _renew() -> None:
    def step(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE novelty (x)")

    sqlite.MIGRATIONS[sqlite.VERSION] = step
    sqlite.VERSION += 1


def _move_clock(path: str) -> None:
    real = time.time

    def moved() -> float:
        return real() + float(Path(path).read_text())

    time.time = moved


def _arm(at: int, trace: str) -> None:
    points = Points(at, trace)
    _around(points, SqliteJournal, "commit", bool_of_first=True)
    for name in ("submit", "_give", "cancel", "tell", "suspend", "resume", "attach"):
        _around(points, Lasting, name)
    _around(points, LastingCrew, "settle")
    _around(points, RouterEndpoint, "send")
    poll = Lasting.poll

    def heard(self: Lasting, now: float) -> Any:
        reports = poll(self, now)
        if reports:
            points.reach("heard")
        return reports

    Lasting.poll = heard  # type: ignore[method-assign]


def _around(points: Points, kind: type, name: str, *, bool_of_first: bool = False) -> None:
    real: Callable[..., Any] = getattr(kind, name)

    @functools.wraps(real)
    def watched(self: Any, *arguments: Any, **options: Any) -> Any:
        if bool_of_first and not arguments[0]:
            return real(self, *arguments, **options)
        points.reach(f"before {name}")
        found = real(self, *arguments, **options)
        points.reach(f"after {name}")
        return found

    setattr(kind, name, watched)


def program(**faults: Any) -> tuple[str, ...]:
    """Return what to start, in place of ``-m trun.daemons.node``, for a node with these faults."""
    return __file__, json.dumps(faults)


def main() -> int:
    """Be a node with faults: ``python tests/faulty.py FAULTS ARGUMENTS``."""
    from trun.daemons.node import main as run

    arm(**json.loads(sys.argv[1]))
    return run(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
