"""The states of a job and every way from one to another, as one table.

``TRANSITIONS[state, cause]`` is the next state. The machine moves a job only through ``following``; what is not in
the table is refused and leaves the job as it was. ``python -m trun.core.states`` prints the table as a Mermaid
diagram, from which the documentation is made.

Rule: a new way to move is a new line here first.
"""

from __future__ import annotations

import enum

from trun.core.record import JobState
from trun.errors import InvariantError


class Cause(str, enum.Enum):
    """Why a job moves."""

    ACCEPTED_WAITING = "accepted, its condition does not hold yet"
    ACCEPTED_READY = "accepted, nothing to wait for"
    ACCEPTED_HELD = "accepted to be held"
    FIRED = "its condition holds"
    LAPSED = "its condition holds no longer"
    STARTED = "given to a worker"
    COMPLETED = "returned"
    FAILED = "ended badly, no retry left"
    AGAIN_LATER = "ended badly, another attempt after a delay"
    AGAIN = "another attempt at once"
    RETURNED = "given back by the executor, never begun"
    STOPPED = "stopped on purpose while running"
    MISSING = "nobody can say what became of it"
    FOUND = "found running again"
    CANCELLED = "cancelled before it started"
    SKIPPED = "its condition can never hold: skip"
    NEVER_HELD = "its condition can never hold: hold"
    HELD = "held by somebody"
    RELEASED_WAITING = "released, its condition does not hold yet"
    RELEASED_READY = "released, ready"
    RETRIED = "a new run was asked for"
    DUE = "the delay before the next attempt is over"


_S, _C = JobState, Cause

TRANSITIONS: dict[tuple[JobState, Cause], JobState] = {
    (_S.NEW, _C.ACCEPTED_WAITING): _S.WAITING,
    (_S.NEW, _C.ACCEPTED_READY): _S.QUEUED,
    (_S.NEW, _C.ACCEPTED_HELD): _S.HELD,
    (_S.WAITING, _C.FIRED): _S.QUEUED,
    (_S.WAITING, _C.DUE): _S.QUEUED,
    (_S.WAITING, _C.COMPLETED): _S.COMPLETED,
    (_S.WAITING, _C.FAILED): _S.FAILED,
    (_S.WAITING, _C.CANCELLED): _S.CANCELLED,
    (_S.WAITING, _C.SKIPPED): _S.SKIPPED,
    (_S.WAITING, _C.NEVER_HELD): _S.HELD,
    (_S.WAITING, _C.HELD): _S.HELD,
    (_S.HELD, _C.RELEASED_WAITING): _S.WAITING,
    (_S.HELD, _C.RELEASED_READY): _S.QUEUED,
    (_S.HELD, _C.CANCELLED): _S.CANCELLED,
    (_S.HELD, _C.SKIPPED): _S.SKIPPED,
    (_S.QUEUED, _C.LAPSED): _S.WAITING,
    (_S.QUEUED, _C.HELD): _S.HELD,
    (_S.QUEUED, _C.CANCELLED): _S.CANCELLED,
    (_S.QUEUED, _C.SKIPPED): _S.SKIPPED,
    (_S.QUEUED, _C.NEVER_HELD): _S.HELD,
    (_S.QUEUED, _C.STARTED): _S.RUNNING,
    (_S.RUNNING, _C.COMPLETED): _S.COMPLETED,
    (_S.RUNNING, _C.FAILED): _S.FAILED,
    (_S.RUNNING, _C.STOPPED): _S.ABORTED,
    (_S.RUNNING, _C.AGAIN_LATER): _S.WAITING,
    (_S.RUNNING, _C.AGAIN): _S.QUEUED,
    (_S.RUNNING, _C.RETURNED): _S.QUEUED,
    (_S.RUNNING, _C.MISSING): _S.LOST,
    (_S.LOST, _C.FOUND): _S.RUNNING,
    (_S.LOST, _C.AGAIN): _S.QUEUED,
    (_S.LOST, _C.COMPLETED): _S.COMPLETED,
    (_S.LOST, _C.FAILED): _S.FAILED,
    (_S.LOST, _C.STOPPED): _S.ABORTED,
    (_S.COMPLETED, _C.RETRIED): _S.NEW,
    (_S.FAILED, _C.RETRIED): _S.NEW,
    (_S.ABORTED, _C.RETRIED): _S.NEW,
    (_S.CANCELLED, _C.RETRIED): _S.NEW,
    (_S.SKIPPED, _C.RETRIED): _S.NEW,
}


def following(state: JobState, cause: Cause) -> JobState:
    """Return the state that follows; an unlisted way is refused."""
    found = TRANSITIONS.get((state, cause))
    if found is None:
        raise InvariantError(f"a job in state {state.value} cannot move because: {cause.value}")
    return found


def mermaid() -> str:
    """Return the table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> NEW"]
    lines += [f"    {a.name} --> {b.name}: {cause.value}" for (a, cause), b in TRANSITIONS.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(mermaid())
