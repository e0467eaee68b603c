"""What ``submit`` gives back: ``Job``, deferred pieces of its result, and ``Group``.

A ``Job`` quacks like a ``concurrent.futures.Future`` (so ``wait`` and ``as_completed`` work), can be awaited, and gives
conditions over its own stream. It learns of its state from the entries that ``trun.service`` hands it and decides
nothing.

Threads: ``take`` and ``refuse`` run in the link's thread; everything else may be called from anywhere.
Rule: results are unpickled in the caller's thread and only when somebody asks for them.
"""

from __future__ import annotations

import concurrent.futures
import functools
import os
import sys
import threading
import uuid
from collections.abc import Generator, Iterator
from typing import Any

import trun.errors as errors
import trun.hauling as hauling
import trun.verdicts as verdicts
from trun.adapters import pickles
from trun.conditions.atoms import (
    IsEnded,
    IsFailed,
    IsFinished,
    IsMessage,
    IsProgress,
    IsQueued,
    IsResult,
    IsStarted,
    JobAtom,
)
from trun.conditions.explain import Explanation
from trun.core.record import JobState
from trun.deferred import Deferred, Piece, is_one_edit
from trun.errors import JobAborted, JobCancelled, JobError, JobSkipped
from trun.messages import (
    FINAL,
    Aborted,
    Attempted,
    Cancel,
    Cancelled,
    Completed,
    Entry,
    ErrorInfo,
    Event,
    Failed,
    Hold,
    Progress,
    Queued,
    Release,
    Retried,
    Retry,
    Skipped,
    Started,
    Submitted,
    Tell,
)
from trun.outcomes import STATES, Outcomes, known_jobs
from trun.service import Service
from trun.silence import late
from trun.verdicts import Reply, failure, refusal, slot_given_back, told_on_failure, whole_log

_ENDS: dict[type[Event], tuple[type[JobError], str]] = {
    Aborted: (JobAborted, "was aborted"),
    Cancelled: (JobCancelled, "was cancelled"),
    Skipped: (JobSkipped, "was skipped"),
}
#: Messages of a running job that conditions made later may ask for; more than this are looked up at the service.
KEPT_MESSAGES = 10_000


_NOTHING: Any = object()


class Job(Outcomes, Deferred, concurrent.futures.Future[Any]):
    """One unit of work at a service. Made by ``submit``; never by hand.

    As an argument of another job it means its output. ``id`` (``fit#7``) waits until the service has accepted it.
    """

    # What every job is at first stands here: a loop that submits makes thousands.
    seq = 0
    _id = ""
    _accepted: threading.Event | None = None
    _now = JobState.NEW
    _final: Event | None = None
    _refused: ErrorInfo | None = None
    _created = _started = _ended = 0.0
    _attempts = 0
    _progress: Progress | None = None
    _reason = ""
    _messages: list[Entry] | None = None
    _value: Any = _NOTHING
    _in_race = False
    #: What a Future has. Nobody waits on the condition, so all jobs share one.
    _condition = threading.Condition()
    _state = concurrent.futures.Future[Any]()._state
    _result = _exception = None

    def __init__(self, service: Service, uid: str, name: str) -> None:
        self.uid = uid
        self.name = name
        self.service = service
        self._atoms: dict[str, JobAtom] = {}
        self._waiters: list[Any] = []
        self._done_callbacks: list[Any] = []

    # -- what the service says (link's thread) ------------------------------------------------------------------------

    def take(self, entry: Entry) -> None:
        """Take one entry of the job's stream."""
        event = entry.event
        kind = type(event)
        state = STATES.get(kind)
        if state is not None:
            self._now = state
            if kind is Submitted:
                self._id = event.id  # type: ignore[union-attr]
                self._created = entry.time
                if self._accepted is not None:
                    self._accepted.set()
            elif kind is Started:
                self._started = entry.time
                self._attempts = event.attempt  # type: ignore[union-attr]
            elif kind is Retried:
                self._restart()
            elif kind is not Queued:
                self._reason = getattr(event, "reason", "")
        else:
            if kind is Progress:
                self._progress = event  # type: ignore[assignment]
            if kind is not Attempted and len(self._messages or ()) < KEPT_MESSAGES:
                self._messages = kept = self._messages or []
                kept.append(entry)
        self._see(event)
        if isinstance(event, FINAL):
            self._ended = entry.time
            self._final = event
            if kind is Failed:
                self.service.unheard[self.uid] = self
            self.service.forget(self.uid, self)
            self._finish()

    def refuse(self, error: ErrorInfo) -> None:
        """The job was not accepted, or its service has gone."""
        if self._final is not None:
            return
        self._refused = error
        if not self._id:
            self._now = JobState.CANCELLED
        self._see(Cancelled(reason=error.message, kind="owner"))
        if self._accepted is not None:
            self._accepted.set()
        self._finish()

    def _finish(self) -> None:
        cancelled = isinstance(self._final, Cancelled | Aborted)
        if cancelled:
            concurrent.futures.Future.cancel(self)
            self.set_running_or_notify_cancel()
        elif not concurrent.futures.Future.done(self):
            self.set_result(None)

    def _restart(self) -> None:
        """A new run: the Future is pending again."""
        with self._condition:
            self._state = "PENDING"
        self.service.unheard.pop(self.uid, None)
        self._final = None
        self._value = _NOTHING
        self._messages = None
        self._progress = None
        for atom in self._atoms.values():
            atom.reset()

    # -- facts

    @property
    def id(self) -> str:
        """Display name, unique at the service; waits until the job is accepted, raises if it was refused."""
        if not self._id:
            if self._accepted is None:
                self._accepted = threading.Event()
            if not self._id and self._refused is None:
                self.service.check_process()
                self._accepted.wait()
            if self._refused is not None and not self._id:
                raise refusal(self._refused)
        return self._id

    @property
    def _label(self) -> str:
        """The display name as far as it is known: never waits."""
        return self._id or self.name

    @property
    def service_key(self) -> str:
        """Key of the service that the job belongs to."""
        return self.service.key

    @property
    def state(self) -> JobState:
        """Where the job stands; ``unknown`` while its service cannot be heard and it had not ended."""
        return JobState.UNKNOWN if self.service.silence.since and self._final is None else self._now

    @property
    def last_state(self) -> JobState:
        """Where the job stood when its service was heard last."""
        return self._now

    @property
    def attempts(self) -> int:
        """How many attempts the present run has started."""
        return self._attempts

    @property
    def progress(self) -> float:
        """Fraction from 0 to 1 that the job reported last; 1.0 once it is completed."""
        if self._now is JobState.COMPLETED:
            return 1.0
        return self._progress.fraction if self._progress is not None else 0.0

    @property
    def created(self) -> float | None:
        """When the service accepted the job, in seconds since the epoch (UTC); None before."""
        return self._created or None

    @property
    def started(self) -> float | None:
        """When the last attempt started; None before."""
        return self._started or None

    @property
    def ended(self) -> float | None:
        """When the run ended; None before."""
        return self._ended if self._final is not None else None

    def running(self) -> bool:
        """Whether the job runs now."""
        return self.state is JobState.RUNNING

    def cancelled(self) -> bool:
        """Whether the job was cancelled or aborted."""
        return self._now in (JobState.CANCELLED, JobState.ABORTED)

    # -- outcome

    def _wait(self, timeout: float | None) -> None:
        if concurrent.futures.Future.done(self):
            return
        self.service.check_process()
        with slot_given_back():
            done = verdicts.is_done(self, timeout)
        if not done:
            raise late(self._label, timeout, self.service, self._now.value)

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the job and return what it returned.

        Raises
        ------
        TimeoutError
            It has not ended within ``timeout`` seconds; it goes on.
        JobCancelled, JobAborted, JobSkipped
            It did not run to its end. Where another job's failure began it, that error is the cause and comes first.
        Exception
            The job's own exception, with the traceback of the worker attached.
        """
        self._wait(timeout)
        final = self._final
        if isinstance(final, Completed):
            if self._value is _NOTHING:
                self._value = self._load(final)
            return self._value
        raise self._error()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the job and return its exception, or None if it completed."""
        self._wait(timeout)
        if isinstance(self._final, Completed):
            return None
        return self._error()

    @property
    def _is_minded(self) -> bool:
        """Whether a failure was reckoned with: by a race, or by a condition that does not need its success."""
        return self._in_race or any(isinstance(atom, IsFailed | IsEnded | IsFinished) for atom in self._atoms.values())

    def _in_short(self) -> str:
        info = getattr(self._final, "error", None)
        text = f"{info.type.rpartition('.')[2]}: {info.message}" if info is not None else "for no known reason"
        return " ".join(text.split())[:300]

    def _load(self, final: Completed) -> Any:
        payload = final.result
        if payload is None:
            payload = pickles.payload_from(self.service.ask("result", uid=self.uid))
        if payload is None:
            return None
        with told_on_failure(f"the result of {self._label} cannot be read here"):
            return pickles.load_result(payload, hauling.opener(self.service, self.uid), trusted=self.service.trusted)

    def _error(self) -> BaseException:
        final = self._final
        self.service.unheard.pop(self.uid, None)
        if self._refused is not None and final is None:
            self.service.lost = 0  # somebody is told
            return refusal(self._refused)
        label = self._label
        if isinstance(final, Failed):
            return failure(label, final, trusted=self.service.trusted)
        kind, verb = _ENDS[type(final)]  # type: ignore[index]
        reason = getattr(final, "reason", "")
        root = getattr(final, "root", "")
        self.service.unheard.pop(root, None)
        cause = self._root_error(root) if root else None
        if cause is None:
            return kind(f"{label} {verb}{': ' + reason if reason else ''}", job_id=label)
        name, error = cause
        found = kind(
            f"{name} failed: {type(error).__name__}: {error}; so {label} {verb}."
            f" (trun why {label}; trun logs {name})",
            job_id=label,
            root=name,
        )
        found.__cause__ = error
        return found

    def _root_error(self, uid: str) -> tuple[str, BaseException] | None:
        try:
            found = self.service.ask("outcome", uid=uid)
        except (errors.RemoteError, errors.UnknownName):
            other = known_jobs.get(uid)  # a job of another service, perhaps one that this process follows
            event, label = getattr(other, "_final", None), getattr(other, "id", "")
        else:
            event, label = pickles.event_from(found.get("event")), found["id"]
        trusted = self.service.trusted
        return (label, failure(label, event, trusted=trusted)) if isinstance(event, Failed) else None

    def cancel(self) -> bool:
        """Cancel the job if it waits, abort it if it runs; False if it has ended. Its end arrives by itself."""
        if concurrent.futures.Future.done(self):
            return False
        self.service.post(Cancel(uids=(self.uid,), reason="cancelled by the user"))
        return True

    def __await__(self) -> Generator[Any, None, Any]:
        import asyncio  # whoever awaits has it already, and nobody else pays for it
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def wake(_: Any) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(lambda: None if done.done() else done.set_result(None))

        self.add_done_callback(wake)
        if "ipykernel" in sys.modules:
            # A kernel hears an interrupt between two turns of its loop only.
            while not done.done():
                yield from asyncio.wait({done}, timeout=0.1).__await__()
        yield from done
        return self.result(0)

    # -- conditions

    def _past(self) -> Iterator[Event]:
        if self._started or self._now is JobState.QUEUED:
            yield Started() if self._started else Queued()
        yield from (entry.event for entry in list(self._messages or ()))
        if self._final is not None:
            yield self._final

    @property
    def isstarted(self) -> JobAtom:
        """Holds once the job has started."""
        return self._atom(IsStarted(self))

    @property
    def isqueued(self) -> JobAtom:
        """Holds once the job's own condition holds."""
        return self._atom(IsQueued(self))

    def improved(self, expression: str) -> JobAtom:
        """Holds once an intermediate or final result satisfies the expression (``"chisq < 2"``)."""
        return self._atom(IsResult(self, expression))

    def said(self, name: str) -> JobAtom:
        """Holds once the job has said something under that name."""
        return self._atom(IsMessage(self, name))

    def reaches(self, fraction: float) -> JobAtom:
        """Holds once the job's progress is at least ``fraction`` (0 to 1), or it has completed."""
        return self._atom(IsProgress(self, fraction))

    # -- deferred pieces

    def __trun_deferred__(self) -> tuple[str, tuple[tuple[str, Any], ...]]:
        return self.uid, ()

    def _owner(self) -> Job:
        return self

    @property
    def output(self) -> Piece:
        """The result as a deferred value: ``job.output.name`` where ``job.name`` means something of the job."""
        return Piece(self)

    def __getattr__(self, name: str) -> Piece:
        if name.startswith("_"):
            raise AttributeError(f"a job has no {name!r}; for a part of its result use .output.{name}")
        if len(name) >= 6:
            for own in _own_names():
                if is_one_edit(name, own):
                    raise AttributeError(
                        f"a job has no {name!r}. Did you mean {own!r}? For a part of its result use .output.{name}"
                    )
        return Piece(self, (("attr", name),))

    def __getitem__(self, key: Any) -> Piece:
        return Piece(self, (("item", key),))

    # -- questions and orders

    def why(self) -> Explanation:
        """Say why the job waits, runs not, or ended as it did; of a silent service: since when, and its last word."""
        return verdicts.explanation(self)

    @property
    def log(self) -> str:
        """What the last attempt printed so far."""
        return whole_log(self.service, self.uid)

    def messages(self, since: int = 0) -> list[Entry]:
        """Return the entries of the job's stream from sequence number ``since`` on (the first is 1)."""
        _ = self.id
        found = self.service.ask("entries", job=self.uid, since=max(1, since))
        return [pickles.entry_from(data) for data in found]

    def send(self, text: str, timeout: float | None = None) -> str | None:
        """Put a text into the job's inbox and wait for its reply.

        Returns the reply, or None where the job ended without one. Raises TimeoutError after ``timeout`` seconds.
        """
        token = uuid.uuid4().hex
        answer: concurrent.futures.Future[str | None] = concurrent.futures.Future()
        watcher = Reply(self, token, answer)
        self._atoms[token] = watcher  # type: ignore[assignment]
        try:
            self.service.do(Tell(uid=self.uid, token=token, text=text))
            if concurrent.futures.Future.done(self) and not answer.done():
                return None
            return answer.result(timeout)
        except TimeoutError:
            raise TimeoutError(f"{self._label} has not replied within {timeout:g} s.") from None
        finally:
            self._atoms.pop(token, None)

    def hold(self) -> None:
        """Do not start the job before ``release()``."""
        self.service.do(Hold(uids=(self.uid,)))

    def release(self) -> None:
        """Let a held job go on."""
        self.service.do(Release(uids=(self.uid,)))

    def retry(self, downstream: bool = False) -> None:
        """Start a new run of the ended job; ``downstream`` also revives what was cancelled because of it."""
        self.service.listen(self.uid, self, self.seq + 1)
        self.service.do(Retry(uids=(self.uid,), downstream=downstream))

    def __repr__(self) -> str:
        return verdicts.described(self)

    def __bool__(self) -> bool:  # type: ignore[override]
        return True

    def __hash__(self) -> int:
        return hash(self.uid)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Job) and other.uid == self.uid)


def _renew_lock() -> None:
    Job._condition = threading.Condition()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)  # somebody may have held it


@functools.cache
def _own_names() -> list[str]:
    return [name for name in dir(Job) if not name.startswith("_")] + ["service"]
