"""Door 1: plain functions as jobs, each gated by a condition.

``submit`` pickles a call, writes one ``JobSpec`` and sends it; ``job`` makes a function that does so when called;
``map`` makes a family that is one atom; ``first`` is a race. The door knows services and pickles; what waits, when
and why is decided by the machine behind the service.

Rule: everything that can be known to be wrong is refused here, at the caller's line, by one clear error.
Source: PARK's job proxies and ``when=``; ``concurrent.futures`` for the rest of the vocabulary.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, overload

import msgspec

import trun.hauling as hauling
import trun.service as services
from trun.adapters import pickles
from trun.adapters.versions import needs_of
from trun.conditions import check, wire
from trun.conditions.algebra import And, Condition
from trun.conditions.atoms import Atom, IsCompleted, JobAtom, Level
from trun.deferred import Piece
from trun.delegating import delegate
from trun.errors import BadOption, NeverCondition, UnknownName, UsageError
from trun.executors.context import current_job
from trun.front import doors
from trun.groups import Group
from trun.handles import Job
from trun.joboptions import OPTIONS, PLAIN, UNSET, Options, giving, make_filter, make_options
from trun.messages import Call, Completed, Failed, JobSpec, Origin, Perform, Performed
from trun.outcomes import known_jobs
from trun.relaying import relay
from trun.service import Service

LOSERS = ("unneeded", "all", "none")

# -- uids -------------------------------------------------------------------------------------------------------------


class _Uids:
    """Makes uids that are unique everywhere: a random prefix per process and a counter."""

    def __init__(self) -> None:
        self._count = count(1)
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._prefix = os.urandom(8).hex()

    def __call__(self) -> str:
        return f"{self._prefix}-{next(self._count):x}"


new_uid = _Uids()


def _uid_of(key: str) -> str:
    """Return the uid that belongs to an idempotency key: the same key is the same job."""
    if not isinstance(key, str) or not key:
        raise BadOption(f"key must be a text, not {key!r}.")
    return "key-" + hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


# -- submit -----------------------------------------------------------------------------------------------------------


def submit(  # noqa: PLR0913 - the public signature
    fn: Callable[..., Any],
    /,
    *args: Any,
    when: Condition | Job | None = None,
    service: Service | None = None,
    name: str | None = None,
    resources: dict[str, float] | None = None,
    priority: float = 0,
    retries: int = 0,
    retry_delay: Any = "0s",
    timeout: Any = None,
    memory: Any = None,
    on_never: str = "cancel",
    memo: Any = None,
    isolation: str = "worker",
    key: str | None = None,
    **kwargs: Any,
) -> Job:
    """Submit ``fn(*args, **kwargs)`` as a job that runs when its condition holds; returns at once.

    Parameters
    ----------
    fn
        A function (module, notebook, closure or lambda), or a ``JobFunction``, whose options are taken over.
    when
        Condition such as ``a.iscompleted & b.iscompleted``; a job means that it is completed. Jobs and pieces of their
        results among the arguments (also inside containers) add "and they are completed".
    service
        Where it runs; default: the innermost ``with service:``, else the local service of this process.
    name
        Display name; default: the function's.
    resources
        Amounts of counted resources that the job holds while it runs, ``{"gpu": 1}``.
    priority
        Higher starts first among those that are ready.
    retries
        Further attempts after one that ended badly.
    retry_delay
        Pause before each retry: seconds, ``"10s"``, ``"5m"`` or a timedelta.
    timeout
        Longest time of one attempt, counted from its start; then its process tree is killed.
    memory
        Most memory of one attempt and its children: bytes, ``"512MB"`` or ``"2GiB"``.
    on_never
        What becomes of the job when its condition can no longer hold: ``cancel``, ``hold``, ``skip`` or ``run``.
    memo
        Reuse what was computed before (not yet available).
    isolation
        ``worker`` (a warm process), ``fresh`` (a process of its own) or ``inline`` (in this process, once it may run).
    key
        Idempotency key: a second submission under the same key is the same job.

    Raises
    ------
    NeverCondition, CycleError, UnknownName, NotPicklable, BadOption, KeyConflict
        What can be known here is refused here; the rest by ``job.id`` and ``job.result()``.
    """
    named = (
        *(when, service, name, resources, priority, retries, retry_delay),
        *(timeout, memory, on_never, memo, isolation, key),
    )
    given = {option: value for option, value, unset in zip(OPTIONS, named, UNSET) if value is not unset}  # noqa: B905
    if isinstance(fn, JobFunction):
        given = {**fn.options, **given}
        fn = fn.fn
    elif given:
        _refuse_ambiguous(fn, given)
    if kwargs:
        _refuse_misspelt(fn, kwargs)
    return submit_call(fn, args, kwargs, make_options(given) if given else PLAIN)


def _refuse_ambiguous(fn: Callable[..., Any], given: dict[str, Any]) -> None:
    """Refuse an option name that the function itself has: nobody could say who is meant."""
    code = getattr(fn, "__code__", None)
    if code is None:
        try:
            names: Iterable[str] = inspect.signature(fn).parameters
        except (TypeError, ValueError):
            return
    else:
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    both = [name for name in given if name in names]
    if both:
        raise UsageError(
            f"{both[0]!r} is an option of submit and a parameter of {_name_of(fn)}; write "
            f"trun.options({both[0]}=...).submit({_name_of(fn)}, ..., {both[0]}=...) to say which is which."
        )


def _refuse_misspelt(fn: Callable[..., Any], keywords: Iterable[str]) -> None:
    """Refuse a keyword that the function does not take and that is nearly an option; other faults are the job's."""
    code = getattr(fn, "__code__", None)
    if code is None or code.co_flags & inspect.CO_VARKEYWORDS:
        return
    taken = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    for name in keywords:
        if name not in taken:
            error = UnknownName(f"{_name_of(fn)}() takes no {name!r}.", name=name, known=OPTIONS)
            if error.suggestions:
                raise error


def _name_of(fn: Any) -> str:
    if isinstance(fn, functools.partial):
        return _name_of(fn.func)
    name = getattr(fn, "__name__", "") or type(fn).__name__
    return "lambda" if name == "<lambda>" else name


def submit_call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: Options) -> Job:
    """Submit one call under checked options."""
    service = options.service if options.service is not None else services.current()
    if options.isolation == "inline" and not service.owned:
        raise BadOption(f"isolation='inline' is for a local service of this process, not for {service}.")
    spec, inputs = make_spec(fn, args, kwargs, options, service)
    job = Job(service, spec.uid, spec.name)
    if inputs or options.when is not None:
        spec = with_origins(spec, link_foreign(service, inputs, options.when, job=spec.uid))
    service.submit_specs([(spec, job)])
    return job


def make_spec(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: Options,
    service: Service,
    *,
    group: str = "",
) -> tuple[JobSpec, tuple[str, ...]]:
    """Pickle a call and write its slip of paper; returns it with the uids whose results it takes."""
    if not callable(fn):
        raise BadOption(f"submit needs something to call, not {fn!r}.")
    digest, code = pickles.dump_function(fn)
    payload, inputs = pickles.dump_call(args, kwargs, big=_big(service))
    service.define(digest, code)
    call = Call(digest, payload, _context(service))
    when = condition_bytes(options, inputs) if inputs or options.when is not None else b""
    inside = current_job()
    spec = JobSpec(
        uid=new_uid(),
        name=options.name or _name_of(fn),
        call=call,
        when=when,
        inputs=inputs,
        resources=options.resources,
        priority=options.priority,
        retries=options.retries,
        retry_delay=options.retry_delay,
        timeout=options.timeout,
        memory=options.memory,
        on_never=options.on_never,
        isolation=options.isolation,
        group=group,
        session=service.session if inside is None else inside.session,
        parent="" if inside is None else inside.uid,
        detach=service.detach,
        made=time.time(),
        needs=() if service.near else needs_of(fn),
    )
    if options.key is not None:
        content = pickles.digest_of(digest, payload)
        spec = msgspec.structs.replace(spec, uid=_uid_of(options.key), key=options.key, digest=content)
    if options.resources:
        _check_resources(service, options.resources)
    return spec, inputs


def _check_resources(service: Service, wanted: dict[str, float]) -> None:
    limits = service.wait_ready().resources
    for name, amount in wanted.items():
        if name not in limits:
            raise UnknownName(
                f"service {service.name} has no resource {name!r}; it has {', '.join(limits) or 'none'}. "
                f"Give it with {giving(name, is_ours=service.owned)}.",
                name=name,
                known=limits,
            )
        if amount > limits[name]:
            raise BadOption(
                f"the job wants {amount:g} of resource {name!r}, service {service.name} has {limits[name]:g} in all; "
                "it could never run."
            )


def _big(service: Service) -> Any:
    """Return the writer of large buffers, where the service's folder can be reached from here."""
    return hauling.writer(service)


_contexts: dict[tuple[str, tuple[str, ...]], tuple[str, bytes]] = {}


def _context(service: Service) -> str:
    """Define where this process stands (folder, module path), so that workers find what it finds."""
    try:
        cwd = os.getcwd()
    except FileNotFoundError:
        cwd = ""
    where = (cwd, tuple(sys.path))
    known = _contexts.get(where)
    if known is None:
        known = _contexts[where] = pickles.dump_context(cwd, [path or cwd for path in sys.path if path or cwd])
    service.define(*known)
    return known[0]


# -- conditions of a submission ---------------------------------------------------------------------------------------


def as_condition(when: Any) -> Condition | None:
    """Return what ``when=`` means: a condition, or a job, which means that it is completed."""
    if when is None or isinstance(when, Condition):
        return when
    if isinstance(when, Job | Group):
        return when.iscompleted
    if isinstance(when, Piece):
        name = repr(when)
        raise BadOption(f"when={name} is a piece of a result; give the job's condition, such as job.iscompleted.")
    raise BadOption(
        f"when= takes a condition such as a.iscompleted & b.iscompleted, not {type(when).__name__} ({when!r})."
    )


def condition_bytes(options: Options, inputs: tuple[str, ...]) -> bytes:
    """Check the condition of a submission and return its wire form; empty where there is none."""
    condition = as_condition(options.when)
    if condition is not None and inputs:
        check.refuse_alternatives(condition, inputs)
    if inputs:
        needed: list[Condition]
        if condition is None:
            needed = [_completed(uid) for uid in inputs]
        else:
            sides = condition.of if type(condition) is And else (condition,)
            said = {side.subject for side in sides if type(side) is IsCompleted}
            needed = [condition, *(_completed(uid) for uid in inputs if uid not in said)]
        condition = And(*needed) if len(needed) > 1 else needed[0]
    if condition is None:
        return b""
    if options.on_never == "cancel":
        reason = check.never_reason(condition)
        if reason:
            raise NeverCondition(f"the condition {condition} can never hold: {reason}")
    return wire.dumps(condition)


def _completed(uid: str) -> Condition:
    """Return what an argument adds to the condition. It travels at once, so no job need keep it up to date."""
    job = known_jobs.get(uid)
    if job is None:
        return IsCompleted(uid)
    return IsCompleted(uid, service_key=job.service_key, label=getattr(job, "_label", "") or job.name)


def with_origins(spec: JobSpec, origins: list[Origin]) -> JobSpec:
    """Write down where the service can hear the other services that a job waits for."""
    return msgspec.structs.replace(spec, origins=tuple(origins)) if origins else spec


def link_foreign(service: Service, inputs: tuple[str, ...], when: Any, *, job: str = "") -> list[Origin]:
    """See to it that the service learns of what is not its own: jobs elsewhere, and atoms that live in this process.

    Returns where it can hear the other services by itself; what it cannot hear is passed on by this process.
    """
    subjects = set(inputs)
    condition = as_condition(when)
    if condition is not None:
        for atom in condition.depends:
            if isinstance(atom, JobAtom):
                subjects.add(atom.subject)
            elif isinstance(atom, Atom | Level):
                atom.watch(service.atom_moved)
    foreign: dict[Service, set[str]] = {}
    for uid in subjects:
        other = known_jobs.get(uid)
        if other is not None and other.service is not service:
            foreign.setdefault(other.service, set()).add(uid)
    found: list[Origin] = []
    for origin, streams in foreign.items():
        lent = delegate(streams, origin=origin, target=service, job=job)
        found += lent
        if not lent:
            for uid in streams:
                relay(uid, origin=origin, target=service)
    return found


def perform(service: Service, wanted: Perform) -> None:
    """Run an inline job of this process in a thread of its own, and tell the service what came of it."""

    def run() -> None:
        outcome: Completed | Failed
        began = time.perf_counter()
        try:
            fn, args, kwargs = pickles.load_call(
                wanted.function, wanted.arguments, wanted.inputs, pickles.blob_opener(service.folder)
            )
            result, values = pickles.dump_result(fn(*args, **kwargs), big=_big(service))
            outcome = Completed(result=result, values=values, seconds=time.perf_counter() - began)
        except BaseException as error:  # whatever it is, it is the job's end
            seconds = time.perf_counter() - began
            outcome = Failed(kind="raised", error=pickles.dump_error(error), seconds=seconds)
        service.post(Performed(uid=wanted.uid, epoch=wanted.epoch, outcome=outcome))

    threading.Thread(target=run, name=f"trun-inline-{wanted.uid}", daemon=True).start()


# -- functions as jobs ------------------------------------------------------------------------------------------------


class JobFunction:
    """A function that is submitted when it is called: ``f(x, when=...)`` gives a ``Job``; ``f.call(x)`` runs here."""

    def __init__(self, fn: Callable[..., Any], options: dict[str, Any]) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.options = options

    def __call__(self, *args: Any, **kwargs: Any) -> Job:
        """Submit a call; options of ``submit`` that the function does not have itself may be given."""
        given = {name: kwargs.pop(name) for name in OPTIONS if name in kwargs and name not in self._own}
        if kwargs:
            _refuse_misspelt(self.fn, kwargs)
        merged = {**self.options, **given}
        return submit_call(self.fn, args, kwargs, make_options(merged) if merged else PLAIN)

    @functools.cached_property
    def _own(self) -> frozenset[str]:
        try:
            return frozenset(inspect.signature(self.fn).parameters)
        except (TypeError, ValueError):
            return frozenset()

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function here and now: no job, no memo."""
        return self.fn(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<job function {_name_of(self.fn)}>"

    def __reduce__(self) -> Any:
        return JobFunction, (self.fn, self.options)


@overload
def job(fn: Callable[..., Any], /) -> JobFunction: ...


@overload
def job(**options: Any) -> Callable[[Callable[..., Any]], JobFunction]: ...


def job(fn: Any = None, /, **options: Any) -> Any:
    """Make a function a job function: ``@job`` or ``@job(name=, resources=, timeout=, ...)``.

    The options are those of ``submit``, and ``version``, by which a memo will tell one from the next.
    """
    if isinstance(fn, str):
        raise TypeError(f"trun.job makes a job function; to find a job use service.job({fn!r}).")
    options.pop("version", None)
    if options:
        make_options(options)
    if fn is None:
        return lambda found: JobFunction(found, options)
    if not callable(fn):
        raise TypeError(f"trun.job decorates a function, not {fn!r}.")
    return JobFunction(fn, options)


class _WithOptions:
    """Options set apart, so that every keyword of ``submit`` goes to the function."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._options = make_options(given)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Job:
        """Submit ``fn(*args, **kwargs)`` under these options."""
        return submit_call(fn.fn if isinstance(fn, JobFunction) else fn, args, kwargs, self._options)


def options(**job_options: Any) -> _WithOptions:
    """Set the options of a job apart: ``options(timeout="5m").submit(fn, *args, **kwargs)``."""
    return _WithOptions(job_options)


def find_job(service: Service, job_id: str) -> Job:
    """Return the handle of a job that the service knows, by id (``fit#7``) or uid, also from a new process."""
    if isinstance(job_id, Job):
        job_id = job_id.uid
    elif not isinstance(job_id, str):
        raise BadOption(f"a job is named by its id or uid, such as 'fit#7', not {job_id!r}.")
    found = service.ask("job", job=job_id)
    return _handle(service, found)


def find_jobs(
    service: Service, *, state: Any = None, name: str | None = None, since: Any = None
) -> list[Job]:
    """Return handles of the jobs of a service, in order of submission."""
    found = service.ask("jobs", **make_filter(state, name, since))
    return [_handle(service, facts) for facts in found]


def _handle(service: Service, facts: dict[str, Any]) -> Job:
    handle = Job(service, facts["uid"], facts["name"])
    service.listen(handle.uid, handle, 1)
    _ = handle.id
    if facts["final"]:
        handle._wait(30.0)
        service.unheard.pop(handle.uid, None)
    return handle


doors["submit"] = submit
doors["job"] = find_job
doors["jobs"] = find_jobs
doors["perform"] = perform
