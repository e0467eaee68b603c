"""Conditions that a job and a group have in common: one property per outcome.

``Outcomes`` is a mix-in: it makes atoms over ``self`` (anything with a ``uid`` and a ``service_key``), keeps each
once, and lets them see what has already happened. Who follows the stream passes every event on to ``_see``.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any

from trun.conditions.atoms import (
    IsAborted,
    IsCancelled,
    IsCompleted,
    IsEnded,
    IsFailed,
    IsFinished,
    IsOk,
    IsSkipped,
    JobAtom,
    next_rise,
)
from trun.core.record import JobState
from trun.messages import (
    Aborted,
    Cancelled,
    Completed,
    Event,
    Failed,
    Held,
    Lost,
    Queued,
    Retried,
    Skipped,
    Started,
    Submitted,
    Waiting,
)

#: Jobs and groups of this process whose conditions or results were used: what another service may need to hear of.
known_jobs: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()


#: Where a job stands after an event.
STATES: dict[type[Event], JobState] = {
    Submitted: JobState.NEW,
    Waiting: JobState.WAITING,
    Held: JobState.HELD,
    Queued: JobState.QUEUED,
    Started: JobState.RUNNING,
    Lost: JobState.LOST,
    Retried: JobState.WAITING,
    Completed: JobState.COMPLETED,
    Failed: JobState.FAILED,
    Aborted: JobState.ABORTED,
    Cancelled: JobState.CANCELLED,
    Skipped: JobState.SKIPPED,
}


class Outcomes:
    """Conditions on how a job, or all members of a group, end."""

    uid: str
    #: The atoms that the properties give, and weak references to others that were made directly.
    _atoms: dict[str, JobAtom]
    _others: Sequence[weakref.ref[JobAtom]] = ()

    def _past(self) -> Iterable[Event]:
        """Return the events that an atom made now has missed, in order."""
        raise NotImplementedError

    def _adopt(self, atom: JobAtom) -> None:
        """Keep an atom over this job up to date (each atom calls it as it is made)."""
        if atom.key in self._atoms:
            self._others = [*(ref for ref in self._others if ref() is not None), weakref.ref(atom)]
        else:
            self._atoms[atom.key] = atom
            known_jobs[self.uid] = self
        for event in list(self._past()):
            atom.see(event)

    def _atom(self, atom: JobAtom) -> JobAtom:
        """Return the one atom of this meaning, which is the given one if it was the first."""
        return self._atoms[atom.key]

    def _see(self, event: Event) -> None:
        if self._atoms:
            rise = next_rise()
            for atom in list(self._atoms.values()):
                atom.see(event, rise)
            for ref in self._others:
                other = ref()
                if other is not None:
                    other.see(event, rise)

    @property
    def iscompleted(self) -> JobAtom:
        """Holds once the job (each member) has completed; cancelled as soon as it ends otherwise."""
        return self._atom(IsCompleted(self))

    @property
    def isfailed(self) -> JobAtom:
        """Holds once the job (a member) has failed: raised, timeout, memory, died, lost, after its last retry."""
        return self._atom(IsFailed(self))

    @property
    def isaborted(self) -> JobAtom:
        """Holds once the job (a member) was stopped on purpose while it ran."""
        return self._atom(IsAborted(self))

    @property
    def iscancelled(self) -> JobAtom:
        """Holds once the job (a member) was cancelled before it started."""
        return self._atom(IsCancelled(self))

    @property
    def isskipped(self) -> JobAtom:
        """Holds once the job (a member) was skipped."""
        return self._atom(IsSkipped(self))

    @property
    def isended(self) -> JobAtom:
        """Holds once the job (each member) has run to an end of whatever kind."""
        return self._atom(IsEnded(self))

    @property
    def isfinished(self) -> JobAtom:
        """Holds once the job (each member) is over, whether it ran or not."""
        return self._atom(IsFinished(self))

    @property
    def isok(self) -> JobAtom:
        """Holds once the job (each member) has completed or was skipped; cancelled if it ends otherwise."""
        return self._atom(IsOk(self))
