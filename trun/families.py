"""Many jobs at once: ``map`` (a family that is one atom), ``first`` (a race), and the ``Executor`` facade of a service.

All of them write ordinary ``JobSpec``s; who wins a race and when a family is complete is decided by the machine.
"""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import trun.service as services
from trun.conditions import predicate, wire
from trun.conditions.algebra import Or
from trun.errors import BadOption, UsageError
from trun.executors.context import current_job
from trun.front import doors
from trun.groups import Group
from trun.handles import Job
from trun.joboptions import make_options
from trun.jobs import LOSERS, JobFunction, link_foreign, make_spec, new_uid, submit_call, with_origins
from trun.messages import GroupSpec, JobSpec
from trun.service import Service

#: Jobs sent in one message.
BATCH = 1000


class _Chunk:
    """Calls a function on several tuples of items in one job."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn
        self.__name__ = getattr(fn, "__name__", "map")

    def __call__(self, items: list[tuple[Any, ...]]) -> list[Any]:
        return [self.fn(*item) for item in items]


def map(fn: Callable[..., Any], /, *iterables: Iterable[Any], chunk: int = 1, **options: Any) -> Group:
    """Submit ``fn`` for each tuple of items, as the builtin ``map`` pairs them, and return the group.

    Parameters
    ----------
    fn
        A function or a job function.
    iterables
        At least one; the shortest decides.
    chunk
        Tuples of items per job: more of them for very short calls.
    options
        The options of ``submit``, the same for each job.
    """
    if not iterables:
        raise UsageError("map needs at least one iterable: trun.map(fn, items).")
    for place, items in enumerate(iterables, 1):
        if not hasattr(items, "__iter__") and not hasattr(items, "__getitem__"):
            raise BadOption(f"map pairs the items of lists and the like; iterable {place} is {items!r:.80}.")
    if not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1:
        raise BadOption(f"chunk must be a whole number of at least 1, not {chunk!r}.")
    if isinstance(fn, JobFunction):
        options = {**fn.options, **options}
        fn = fn.fn
    checked = make_options(options)
    service = checked.service if checked.service is not None else services.current()
    uid = new_uid()
    name = checked.name or str(getattr(fn, "__name__", "map"))
    called: Callable[..., Any] = fn if chunk == 1 else _Chunk(fn)
    pairs: list[tuple[JobSpec, Job]] = []
    needed: set[str] = set()
    tuples = zip(*iterables, strict=False)
    for arguments in tuples if chunk == 1 else _chunks(tuples, chunk):
        spec, inputs = make_spec(called, arguments, {}, checked, service, group=uid)
        needed.update(inputs)
        pairs.append((spec, Job(service, spec.uid, spec.name)))
    group = Group(service, uid, name, [job for _, job in pairs], chunk)
    origins = link_foreign(service, tuple(needed), checked.when)
    if origins:
        pairs = [(with_origins(spec, origins), job) for spec, job in pairs]
    service.add_listener(uid, group)
    made = [GroupSpec(uid, name, len(pairs))]
    if not pairs:
        service.submit_specs([], made)
    for start in range(0, len(pairs), BATCH):
        service.submit_specs(pairs[start : start + BATCH], made if start == 0 else ())
    return group


def _chunks(items: Iterator[tuple[Any, ...]], size: int) -> Iterator[tuple[list[tuple[Any, ...]]]]:
    while part := list(islice(items, size)):
        yield (part,)


class Race(Job):
    """The job that ``first`` gives: its result is the winner's."""

    def __init__(self, service: Service, uid: str, name: str, jobs: tuple[Job, ...]) -> None:
        super().__init__(service, uid, name)
        self._jobs = jobs

    @property
    def winner(self) -> Job | None:
        """The job that won; None while the race is on. Known as soon as it is decided, maybe before it has ended."""
        uid = self._said_winner()
        if not uid:
            return None
        return next((job for job in self._jobs if job.uid == uid), None)

    def _said_winner(self) -> str:
        for entry in reversed(self._messages or ()):
            event: Any = entry.event
            if getattr(event, "name", None) == "winner":
                return str(event.value)
        return ""


def first(
    *jobs: Job,
    until: str | None = None,
    losers: str = "unneeded",
    name: str = "first",
    service: Service | None = None,
) -> Race:
    """Race jobs against one another: the job that this gives has the result of the first that is good enough.

    Parameters
    ----------
    jobs
        The jobs that race; also one list of them.
    until
        What is good enough, over intermediate (``improved``) and final results: ``"chisq < 0.1"``. None: completed.
        A winner that still runs goes on to its end.
    losers
        ``unneeded`` cancels the others unless something else still needs them, ``all`` cancels them, ``none`` does not.

    Returns
    -------
    A job with ``.winner``. Ties go to the lower sequence number, then to the position.
    """
    if len(jobs) == 1 and isinstance(jobs[0], Iterable) and not isinstance(jobs[0], Job):
        jobs = tuple(jobs[0])
    for position, job in enumerate(jobs):
        if not isinstance(job, Job):
            raise UsageError(f"first takes jobs; argument {position} is {type(job).__name__} ({job!r}).")
    if not jobs:
        raise UsageError("first needs at least one job.")
    if losers not in LOSERS:
        raise BadOption(f"losers must be one of {', '.join(map_text(LOSERS))}, not {losers!r}.")
    if until is not None:
        predicate.compile_predicate(until)
    target = service if service is not None else jobs[0].service
    condition = Or(*[job.iscompleted if until is None else job.improved(until) for job in jobs])
    inside = current_job()
    spec = JobSpec(
        uid=new_uid(),
        name=name,
        kind="first",
        when=wire.dumps(condition),
        choices=tuple(job.uid for job in jobs),
        until=until or "",
        losers=losers,
        session=target.session if inside is None else inside.session,
        parent="" if inside is None else inside.uid,
        detach=target.detach,
        made=time.time(),
    )
    race = Race(target, spec.uid, name, jobs)
    for job in jobs:
        job._in_race = True
    spec = with_origins(spec, link_foreign(target, (), condition))
    target.submit_specs([(spec, race)])
    return race


def map_text(words: Iterable[str]) -> list[str]:
    """Return the words as Python texts."""
    return [repr(word) for word in words]


class ServiceExecutor(concurrent.futures.Executor):
    """A ``concurrent.futures.Executor`` over a service: for libraries that take one."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._jobs: list[Job] = []
        self._closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Job:
        """Submit a call; every keyword goes to the function."""
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        job = submit_call(fn, args, kwargs, make_options({"service": self._service}))
        self._jobs = [known for known in self._jobs if not known.done()] if len(self._jobs) > 1000 else self._jobs
        self._jobs.append(job)
        return job

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more; wait for what was submitted, or cancel what has not started. The service itself stays open."""
        self._closed = True
        if cancel_futures:
            for job in self._jobs:
                if not job.running():
                    job.cancel()
        if wait:
            concurrent.futures.wait(self._jobs)


doors["map"] = map
doors["executor"] = ServiceExecutor
