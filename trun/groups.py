"""``Group``: a family of jobs that is one atom, whatever its size.

The members are ordinary jobs; the group adds conditions over all of them (decided by the service from one counter,
not from a wide And) and the usual ways to collect results. Made by ``trun.map``.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator, Sequence
from typing import Any, overload

from trun.conditions.atoms import IsReached, JobAtom
from trun.errors import nearest
from trun.handles import Job
from trun.messages import Cancel, Entry, ErrorInfo, Event
from trun.outcomes import Outcomes
from trun.service import Service
from trun.verdicts import slot_given_back


class Group(Outcomes, Sequence[Job]):
    """A list of jobs with conditions over all of them."""

    def __init__(self, service: Service, uid: str, name: str, jobs: Sequence[Job], chunk: int = 1) -> None:
        self.service = service
        self.uid = uid
        self.name = name
        self.seq = 0
        self._jobs = list(jobs)
        self._chunk = chunk
        self._atoms: dict[str, JobAtom] = {}
        self._last: Entry | None = None

    @property
    def service_key(self) -> str:
        """Key of the service that the jobs belong to."""
        return self.service.key

    # -- a list of jobs

    def __len__(self) -> int:
        return len(self._jobs)

    @overload
    def __getitem__(self, index: int) -> Job: ...

    @overload
    def __getitem__(self, index: slice) -> list[Job]: ...

    def __getitem__(self, index: int | slice) -> Job | list[Job]:
        return self._jobs[index]

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """As an argument a group means the list of its results."""
        return (list if self._chunk == 1 else _flat), (self._jobs,)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"a group has no {name!r}.{nearest(name, [own for own in dir(Group) if own[0] != '_'])}")

    def __repr__(self) -> str:
        done = sum(job.done() for job in self._jobs)
        return f"<group {self.name} of {len(self._jobs)} jobs on {self.service.name}, {done} done>"

    # -- what the service says

    def take(self, entry: Entry) -> None:
        """Take one entry of the group's stream (in the link's thread)."""
        self._last = entry
        self._see(entry.event)

    def refuse(self, error: ErrorInfo) -> None:
        """The group was not accepted; its jobs say so themselves."""

    # -- conditions

    def _past(self) -> Iterator[Event]:
        if self._last is not None:
            yield self._last.event

    def reaches(self, share: int | str) -> JobAtom:
        """Holds once so many have completed: a number, or a percentage such as ``"60%"`` (rounded up)."""
        return self._atom(IsReached(self, share))

    # -- results

    def results(self, timeout: float | None = None) -> list[Any]:
        """Wait for all and return their results in order; raises the first error in order."""
        self.service.check_process()
        with slot_given_back():
            _, waiting = concurrent.futures.wait(self._jobs, timeout)
        if waiting:
            raise TimeoutError(f"{len(waiting)} of {len(self._jobs)} jobs of {self.name} have not ended; they go on.")
        for job in self._jobs:
            self.service.unheard.pop(job.uid, None)
        found = [job.result() for job in self._jobs]
        return found if self._chunk == 1 else _flat(found)

    def as_completed(self, timeout: float | None = None) -> Iterator[Job]:
        """Yield the jobs as they end."""
        return concurrent.futures.as_completed(self._jobs, timeout)  # type: ignore[return-value]

    def cancel(self) -> None:
        """Cancel those that wait and abort those that run."""
        self.service.post(Cancel(uids=tuple(job.uid for job in self._jobs), reason="cancelled by the user"))


def _flat(parts: list[list[Any]]) -> list[Any]:
    """Return the results of chunks as one list."""
    return [value for part in parts for value in part]
