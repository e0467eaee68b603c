"""Races (``trun.first``): who has won, and how a race ends. The changes of state themselves are made in ``flow``.

A race is a job without a payload. Its condition is the Or over its choices; when that fires, the winner is the choice
that satisfied it (ties: the lower sequence number, then the position). From then on it waits for the winner's end, and
ends as the winner does. Pure functions of records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from trun.conditions.atoms import IsCompleted, IsResult, JobAtom
from trun.conditions.value import TRUE, Value
from trun.core.record import JobRecord, JobState
from trun.messages import Cancelled, Completed, ErrorInfo, Event, Failed, JobSpec

Ending = tuple[Literal["complete", "fail", "cancel"], Completed | Failed | Cancelled]


def choice_atom(spec: JobSpec, uid: str) -> JobAtom:
    """Return the atom that says whether a choice is good enough."""
    return IsResult(uid, spec.until) if spec.until else IsCompleted(uid)


def winner(
    race: JobSpec, witness: tuple[str, ...], records: Mapping[str, JobRecord], value: Callable[[JobAtom], Value]
) -> str:
    """Return the uid of the choice that won."""
    true = frozenset(witness)
    best: tuple[float, int] | None = None
    found = race.choices[0]
    for position, uid in enumerate(race.choices):
        atom = choice_atom(race, uid)
        if atom.key not in true and value(atom) is not TRUE:
            continue
        record = records.get(uid)
        # A choice that runs on satisfied the condition just now; one that has ended did so with its last entry.
        seq = record.life.final_seq or record.life.seq if record is not None else float("inf")
        if best is None or (seq, position) < best:
            best, found = (seq, position), uid
    return found


def ending(winner_id: str, event: Event | None, uid: str) -> Ending:
    """Return how a race ends whose winner ended with this event; the result stays with the winner."""
    if isinstance(event, Completed):
        return "complete", Completed(values=event.values, seconds=event.seconds, peak_rss=event.peak_rss)
    if isinstance(event, Failed):
        return "fail", Failed(kind=event.kind, error=event.error)
    word = "was cancelled" if event is None else f"was {type(event).__name__.lower()}"
    said = getattr(event, "reason", "")
    reason = f"the winner {winner_id} {word}" + (f": {said}" if said else "")
    return "cancel", Cancelled(reason=reason, kind="race", root=uid)


def dead(race: JobSpec, records: Mapping[str, JobRecord], reason: str, root: str) -> Ending:
    """Return how a race ends that nobody can win any more: failed if a choice ran to an end, else cancelled."""
    choices = [records[uid] for uid in race.choices if uid in records]
    failed = [record for record in choices if record.life.state is JobState.FAILED]
    completed = [record for record in choices if record.life.state is JobState.COMPLETED]
    if failed and not completed:
        first = min(failed, key=lambda record: record.life.ended)
        return "fail", Failed(kind=first.life.kind or "raised", error=first.life.error)
    if completed:
        message = f"no job of the race {race.name} satisfied {race.until!r}: {reason}"
        return "fail", Failed(kind="raised", error=ErrorInfo(type="trun.errors.JobFailed", message=message))
    return "cancel", Cancelled(reason=f"no job of the race {race.name} is left: {reason}", kind="race", root=root)
