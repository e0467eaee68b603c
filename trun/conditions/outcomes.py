"""What the messages of a job or group mean: the outcome table.

``OUTCOMES`` says for each kind of atom what each event settles it to; ``judge_group`` the same for the counts of a
group. Pure tables and functions; ``atoms`` asks them, ``check`` reads off which outcomes exclude one another.

Rule: every way to end has its value in every row (the table of the documentation is drawn from here).
"""

from __future__ import annotations

from typing import Any

from trun.conditions.algebra import share_count
from trun.conditions.value import CANCELLED, NEVER, TRUE, Value
from trun.messages import Aborted, Cancelled, Completed, Counted, Event, Failed, Queued, Skipped, Started

_OK: dict[type[Event], Value] = {
    Completed: TRUE,
    Skipped: TRUE,
    Failed: CANCELLED,
    Aborted: CANCELLED,
    Cancelled: CANCELLED,
}
_RAN: dict[type[Event], Value] = {
    Started: TRUE,
    Completed: TRUE,
    Failed: TRUE,
    Aborted: TRUE,
    Cancelled: CANCELLED,
    Skipped: NEVER,
}
_END: dict[type[Event], Value] = {
    Completed: CANCELLED,
    Failed: CANCELLED,
    Aborted: CANCELLED,
    Cancelled: CANCELLED,
    Skipped: NEVER,
}
_COMPLETED: dict[type[Event], Value] = {
    Completed: TRUE,
    Failed: CANCELLED,
    Aborted: CANCELLED,
    Cancelled: CANCELLED,
    Skipped: NEVER,
}

#: What each final event means to each kind of atom (the outcome table).
OUTCOMES: dict[str, dict[type[Event], Value]] = {
    "completed": _COMPLETED,
    "fetched": _COMPLETED,
    "failed": {Completed: NEVER, Failed: TRUE, Aborted: NEVER, Cancelled: CANCELLED, Skipped: NEVER},
    "aborted": {Completed: NEVER, Failed: NEVER, Aborted: TRUE, Cancelled: CANCELLED, Skipped: NEVER},
    "cancelled": {Completed: NEVER, Failed: NEVER, Aborted: NEVER, Cancelled: TRUE, Skipped: NEVER},
    "skipped": {Completed: NEVER, Failed: NEVER, Aborted: NEVER, Cancelled: CANCELLED, Skipped: TRUE},
    "started": _RAN,
    "queued": {Queued: TRUE, **_RAN},
    "ended": {Completed: TRUE, Failed: TRUE, Aborted: TRUE, Cancelled: NEVER, Skipped: NEVER},
    "finished": {Completed: TRUE, Failed: TRUE, Aborted: TRUE, Cancelled: TRUE, Skipped: TRUE},
    "ok": _OK,
    "message": _END,
    "result": _END,
    "progress": {**_END, Completed: TRUE},
    "reached": {},
}
#: Kinds that look at messages of the running job: one that is made late must see the earlier ones.
MESSAGE_KINDS = frozenset({"message", "result", "progress"})


def judge_group(what: str, argument: Any, count: Counted) -> Value | None:
    """Say what the counts of a group mean for an atom over it."""
    bad = count.failed + count.aborted + count.cancelled
    over = count.completed + bad + count.skipped
    done = count.closed and over == count.total
    if what in ("failed", "aborted", "cancelled", "skipped"):
        if getattr(count, what):
            return TRUE
        return NEVER if done else None
    if what == "finished":
        return TRUE if done else None
    if what == "ended":
        if count.cancelled or count.skipped:
            return NEVER
        return TRUE if done else None
    if what == "ok":
        if bad:
            return CANCELLED
        return TRUE if done else None
    if what == "completed":
        if bad:
            return CANCELLED
        if count.skipped:
            return NEVER
        return TRUE if done else None
    if what == "reached":
        return _judge_reached(argument, count, bad)
    return None


def _judge_reached(share: int | str, count: Counted, bad: int) -> Value | None:
    if isinstance(share, str) and not count.closed:
        return None
    need = share_count(share, count.total)
    if count.completed >= need:
        return TRUE
    if count.closed and count.total - bad - count.skipped < need:
        return NEVER if count.total - bad >= need else CANCELLED
    return None
