"""Which state follows which: the one table of job states.

``TRANSITIONS`` says, for a state and a cause, what the next state is; whatever is not listed is refused and leaves the
job as it was. The diagram in ``docs/job_states.md`` is drawn from this table by ``python -m trun.core.states``.

It does not say what else must happen with a change of state: that is ``core.flow``. Rule: a new way through a job's
life is a new row here first.
"""

from __future__ import annotations

from typing import Literal

from trun.core.record import FINAL_STATES, JobState
from trun.errors import InvariantError

Cause = Literal[
    "wait",
    "hold",
    "release",
    "fire",
    "lapse",
    "due",
    "start",
    "complete",
    "fail",
    "abort",
    "retry later",
    "retry now",
    "returned",
    "missing",
    "adopted",
    "requeue",
    "poison",
    "cancel",
    "never: cancel",
    "never: hold",
    "never: skip",
    "never: run",
    "rerun",
]

#: What each cause means, for the page.
MEANING: dict[Cause, str] = {
    "wait": "its condition is undecided, or a retry is due later",
    "hold": "somebody holds it, or it was submitted so",
    "release": "it is no longer held",
    "fire": "its condition holds (or there is none)",
    "lapse": "a condition that held for the moment holds no more",
    "due": "the delay before its retry is over",
    "start": "an executor takes it",
    "complete": "it returned; for a race: its winner did",
    "fail": "it ended badly and has no retry left; for a race: the winner or all choices failed",
    "abort": "it was stopped on purpose after it had started",
    "retry later": "an attempt ended badly; the next follows after a delay",
    "retry now": "an attempt ended badly; the next follows at once",
    "returned": "the executor gave it back before it began; the attempt does not count",
    "missing": "nobody can say what became of it",
    "adopted": "it was found running",
    "requeue": "it was lost and starts again under a new epoch",
    "poison": "three workers died under it",
    "cancel": "it was cancelled before it started",
    "never: cancel": "its condition can no longer hold, policy cancel",
    "never: hold": "its condition can no longer hold, policy hold",
    "never: skip": "its condition can no longer hold, policy skip",
    "never: run": "its condition can no longer hold, policy run",
    "rerun": "a new run of the ended job begins",
}

NEW, HELD, WAITING, QUEUED, RUNNING, LOST = (
    JobState.NEW,
    JobState.HELD,
    JobState.WAITING,
    JobState.QUEUED,
    JobState.RUNNING,
    JobState.LOST,
)
COMPLETED, FAILED, ABORTED, CANCELLED, SKIPPED = (
    JobState.COMPLETED,
    JobState.FAILED,
    JobState.ABORTED,
    JobState.CANCELLED,
    JobState.SKIPPED,
)

TRANSITIONS: dict[tuple[JobState, Cause], JobState] = {
    (NEW, "wait"): WAITING,
    (NEW, "hold"): HELD,
    (NEW, "fire"): QUEUED,
    (NEW, "never: cancel"): CANCELLED,
    (NEW, "never: hold"): HELD,
    (NEW, "never: skip"): SKIPPED,
    (NEW, "never: run"): QUEUED,
    (HELD, "release"): NEW,
    (HELD, "cancel"): CANCELLED,
    (HELD, "abort"): ABORTED,
    (HELD, "never: cancel"): CANCELLED,
    (HELD, "never: hold"): HELD,
    (HELD, "never: skip"): SKIPPED,
    (WAITING, "fire"): QUEUED,
    (WAITING, "due"): QUEUED,
    (WAITING, "hold"): HELD,
    (WAITING, "cancel"): CANCELLED,
    (WAITING, "abort"): ABORTED,
    (WAITING, "never: cancel"): CANCELLED,
    (WAITING, "never: hold"): HELD,
    (WAITING, "never: skip"): SKIPPED,
    (WAITING, "never: run"): QUEUED,
    (WAITING, "complete"): COMPLETED,
    (WAITING, "fail"): FAILED,
    (QUEUED, "start"): RUNNING,
    (QUEUED, "lapse"): WAITING,
    (QUEUED, "hold"): HELD,
    (QUEUED, "cancel"): CANCELLED,
    (QUEUED, "abort"): ABORTED,
    (QUEUED, "never: cancel"): CANCELLED,
    (QUEUED, "never: hold"): HELD,
    (QUEUED, "never: skip"): SKIPPED,
    (RUNNING, "complete"): COMPLETED,
    (RUNNING, "fail"): FAILED,
    (RUNNING, "abort"): ABORTED,
    (RUNNING, "poison"): FAILED,
    (RUNNING, "retry later"): WAITING,
    (RUNNING, "retry now"): QUEUED,
    (RUNNING, "returned"): QUEUED,
    (RUNNING, "missing"): LOST,
    (LOST, "adopted"): RUNNING,
    (LOST, "requeue"): QUEUED,
    (LOST, "abort"): ABORTED,
    (LOST, "poison"): FAILED,
    (COMPLETED, "rerun"): NEW,
    (FAILED, "rerun"): NEW,
    (ABORTED, "rerun"): NEW,
    (CANCELLED, "rerun"): NEW,
    (SKIPPED, "rerun"): NEW,
}


def next_state(state: JobState, cause: Cause) -> JobState:
    """Return the state that follows; an unlisted transition is an ``InvariantError``."""
    try:
        return TRANSITIONS[state, cause]
    except KeyError:
        raise InvariantError(f"a job that is {state.value} cannot be changed by {cause!r}.") from None


def diagram() -> str:
    """Return the table as a Mermaid state diagram."""
    causes: dict[tuple[JobState, JobState], list[str]] = {}
    for (state, cause), following in TRANSITIONS.items():
        causes.setdefault((state, following), []).append(cause)
    lines = ["stateDiagram-v2", "    [*] --> new"]
    for (state, following), names in causes.items():
        lines.append(f"    {state.value} --> {following.value}: {', '.join(names).replace(':', '')}")
    lines += [f"    {state.value} --> [*]" for state in JobState if state in FINAL_STATES]
    return "\n".join(lines)


def page() -> str:
    """Return the diagram and the meaning of its words as Markdown."""
    rows = [f"| {cause} | {meaning} |" for cause, meaning in MEANING.items()]
    return "\n".join(["```mermaid", diagram(), "```", "", "| cause | meaning |", "|---|---|", *rows])


if __name__ == "__main__":
    print(page())
