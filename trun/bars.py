"""``progress(iterable)``: a bar here, progress messages inside a job.

Inside a job each step reports a fraction (throttled there); outside, a terminal sees one line that is rewritten, and
anything that is no terminal sees nothing.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from trun.errors import BadOption
from trun.executors.context import current_job

T = TypeVar("T")
_EVERY_S = 0.1
_WIDTH = 30


def progress(iterable: Iterable[T], total: int | None = None) -> Iterator[T]:
    """Yield the items of ``iterable`` and show how far it is.

    Parameters
    ----------
    iterable
        What to go through.
    total
        Number of items; default ``len(iterable)`` where it has one. Without it only the count is shown.
    """
    if total is None:
        total = len(iterable) if isinstance(iterable, Sized) else None
    if total is not None and total < 0:
        raise BadOption(f"total must be at least 0, not {total!r}.")
    return _inside(iterable, total) if current_job() is not None else _here(iterable, total)


def _inside(iterable: Iterable[T], total: int | None) -> Iterator[T]:
    job = current_job()
    assert job is not None
    for count, item in enumerate(iterable, 1):
        yield item
        if total:
            job.set_progress(min(1.0, count / total), f"{count} of {total}")


def _here(iterable: Iterable[T], total: int | None) -> Iterator[T]:
    shown = sys.stderr.isatty() and os.environ.get("TRUN_PROGRESS") != "0"
    last = 0.0
    count = 0
    for item in iterable:
        yield item
        count += 1
        now = time.monotonic()
        if shown and (now - last >= _EVERY_S or count == total):
            last = now
            sys.stderr.write("\r" + _line(count, total))
            sys.stderr.flush()
    if shown and count:
        sys.stderr.write("\r" + _line(count, total) + "\n")


def _line(count: int, total: int | None) -> str:
    if not total:
        return f"{count} done"
    filled = int(_WIDTH * min(1.0, count / total))
    return f"[{'#' * filled}{'.' * (_WIDTH - filled)}] {count} of {total}"
