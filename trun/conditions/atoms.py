"""Atoms: the leaves. Each says what a given message means to it, and latches once in this process.

``Atom`` and ``Level`` live in the process that made them and are set by hand. ``JobAtom`` is about the stream of a
job or a group, wherever it runs: ``judge`` maps one event to a value by the outcome table, and is all that the
machine needs. World atoms (files, addresses, resources) are settled by whoever watches for them. Time atoms are in
``timing``.

Rule: an atom never reaches out. Who watches, listens or waits belongs to the engine or to ``depends``.
"""

from __future__ import annotations

import itertools
import uuid
import warnings
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

from trun.conditions.algebra import Leaf, digest, share_count
from trun.conditions.outcomes import MESSAGE_KINDS as MESSAGE_KINDS
from trun.conditions.outcomes import OUTCOMES, judge_group
from trun.conditions.predicate import Predicate, compile_predicate
from trun.conditions.timing import span_seconds
from trun.conditions.value import CANCELLED, HOLDS, NEVER, TRUE, WAIT, Value
from trun.errors import BadOption, ConditionWarning, nearest
from trun.messages import Completed, Counted, Event, Improved, Progress, Said

#: Atoms of this process by key, as long as somebody holds them: what comes back over the wire is the live one.
live: weakref.WeakValueDictionary[str, Leaf] = weakref.WeakValueDictionary()

#: Called as (atom, value, reason) whenever an atom of this process moves; ``depends`` puts itself here.
hooks: list[Callable[[Leaf, Value, str], None]] = []

_rises = itertools.count(1)


def next_rise() -> int:
    """Return the number of a rise that happens now; numbers grow in the order in which things came true."""
    return next(_rises)


#: Guards the latches; ``depends`` puts a lock here.
guard: AbstractContextManager[Any] = nullcontext()


class Latched(Leaf):
    """A leaf with a value that this process keeps."""

    __slots__ = ("_latch", "_watchers", "contradicted", "reason", "rose")

    def __init__(self) -> None:
        self._latch = WAIT
        #: The how manyeth rise in this process its last one was; 0: none, or unknown.
        self.rose = 0
        #: Why it settled as it did.
        self.reason = ""
        #: Contradicting settlements that were ignored.
        self.contradicted = 0
        self._watchers: list[Callable[[str, int, str], None]] = []

    @property
    def latch(self) -> Value:
        """What this process knows of the atom's value."""
        return self._latch

    def watch(self, moved: Callable[[str, int, str], None]) -> None:
        """Call ``moved(key, value, reason)`` now and at each change."""
        if moved not in self._watchers:
            self._watchers.append(moved)
        moved(self.key, int(self._latch), self.reason)

    def _move(self, value: Value, reason: str = "", rise: int = 0) -> None:
        """Take a new value: a settled one stays, the first settlement wins."""
        with guard:
            old = self._latch
            if old is value:
                return
            if old.is_settled:
                self.contradicted += 1
                contradiction = True
            else:
                contradiction = False
                self._latch = value
                if value >= HOLDS > old:
                    self.rose = rise or next(_rises)
                self.reason = reason
        if contradiction:
            text = f"{self} is settled as {old.name} already; {value.name} was ignored"
            warnings.warn(text, ConditionWarning, stacklevel=3)
            return
        self._tell(value, reason)

    def _tell(self, value: Value, reason: str) -> None:
        for hook in list(hooks):
            hook(self, value, reason)
        for moved in list(self._watchers):
            moved(self.key, int(value), reason)

    def reset(self) -> None:
        """Forget the value: a new run has begun."""
        with guard:
            self._latch = WAIT
            self.reason = ""


class Atom(Latched):
    """A condition that is set by hand, once: ``set_ready``, ``set_never`` or ``set_cancelled``.

    Subclasses may do the work that satisfies it in ``start`` and then call ``notify``.
    """

    __slots__ = ("id", "name")

    def __init__(self, name: str | None = None) -> None:
        super().__init__()
        #: Unique everywhere.
        self.id = uuid.uuid4().hex
        self.name = name
        self._key = f"atom:{self.id}"
        live[self._key] = self

    def set_ready(self, reason: str | None = None) -> None:
        """It is true, for good."""
        self._move(TRUE, reason or "")

    def set_never(self, reason: str | None = None) -> None:
        """It will not become true."""
        self._move(NEVER, reason or "")

    def set_cancelled(self, reason: str | None = None) -> None:
        """The question is withdrawn."""
        self._move(CANCELLED, reason or "")

    def start(self) -> None:
        """Do what must be done to satisfy the condition, then ``notify``; for subclasses."""
        raise NotImplementedError(f"{type(self).__name__} has nothing to start")

    def notify(self) -> None:
        """Tell everybody who waits in this process what the atom is worth."""
        self._tell(self._latch, self.reason)

    # The seed sets these flags directly.
    @property
    def _ready(self) -> bool:
        return self._latch is TRUE

    @_ready.setter
    def _ready(self, ready: bool) -> None:
        if ready:
            self._latch = TRUE

    @property
    def _cancelled(self) -> bool:
        return self._latch is CANCELLED

    @_cancelled.setter
    def _cancelled(self, cancelled: bool) -> None:
        if cancelled:
            self._latch = CANCELLED


class Level(Latched):
    """A condition that may change until it is closed: ``hold``, ``release``, ``close``."""

    __slots__ = ("id", "name")

    def __init__(self, name: str | None = None, holds: bool = False) -> None:
        super().__init__()
        self.id = uuid.uuid4().hex
        self.name = name
        self._key = f"level:{self.id}"
        if holds:
            self._latch = HOLDS
            self.rose = next(_rises)
        live[self._key] = self

    def hold(self) -> None:
        """It is true now."""
        self._move(HOLDS)

    def release(self) -> None:
        """It is not true now."""
        self._move(WAIT)

    def close(self) -> None:
        """Settle at the present value: TRUE where it holds, else NEVER."""
        if not self._latch.is_settled:
            self._move(TRUE if self._latch is HOLDS else NEVER)


# -- atoms over the stream of a job


class JobAtom(Latched):
    """A condition on the stream of a job or group.

    Parameters
    ----------
    job
        A job, a group, or its uid.
    """

    __slots__ = ("argument", "label", "predicate", "service_key", "single", "subject", "what")
    kind: ClassVar[str] = ""

    def __init__(
        self, job: Any, *, what: str = "", argument: Any = None, service_key: str = "", label: str = ""
    ) -> None:
        super().__init__()
        self.what = what or self.kind
        self.argument = argument
        self.predicate: Predicate | None = None
        #: Whether it is known to be about one job, which ends in one way only; a bare uid may be that of a group.
        self.single = hasattr(type(job), "improved")
        if isinstance(job, str):
            self.subject, self.service_key, self.label = job, service_key, label
        else:
            uid = getattr(job, "uid", None)
            if not isinstance(uid, str):
                raise BadOption(f"{type(self).__name__} takes a job or its uid, not {type(job).__name__} ({job!r}).")
            self.subject = uid
            self.service_key = service_key or str(getattr(job, "service_key", "") or "")
            self.label = label or str(getattr(job, "_label", "") or getattr(job, "name", "") or "")
        self._check()
        tail = "" if argument is None else f":{self.argument}"
        self._key = f"job:{self.subject}:{self.what}{tail}"
        if not isinstance(job, str):
            # The first one that is made over a job is the one that the job keeps up to date.
            live.setdefault(self._key, self)
            adopt = getattr(type(job), "_adopt", None)
            if adopt is not None:
                adopt(job, self)

    def _check(self) -> None:
        if self.what not in OUTCOMES:
            raise BadOption(f"a job has no condition {self.what!r}.{nearest(self.what, OUTCOMES)}")
        if self.what == "result":
            self.predicate = compile_predicate(self.argument)
        elif self.what == "progress":
            if not isinstance(self.argument, (int, float)) or isinstance(self.argument, bool):
                raise BadOption(f"reaches takes a fraction from 0 to 1, not {self.argument!r}.")
            if not 0 <= self.argument <= 1:
                raise BadOption(f"reaches takes a fraction from 0 to 1, not {self.argument!r}.")
            self.argument = float(self.argument)
        elif self.what == "reached":
            share_count(self.argument, 1)
        elif self.what == "message" and not isinstance(self.argument, str):
            raise BadOption(f"said takes the name of a message, not {self.argument!r}.")
        elif self.what != "message" and self.argument is not None:
            raise BadOption(f"is{self.what} takes no argument, not {self.argument!r:.80}.")

    def judge(self, event: Event) -> Value | None:
        """Say what one event means for the atom; None: nothing. Pure."""
        kind = type(event)
        if kind is Counted:
            return judge_group(self.what, self.argument, event)  # type: ignore[arg-type]
        what = self.what
        if what in MESSAGE_KINDS:
            if kind is Progress:
                return TRUE if what == "progress" and event.fraction >= self.argument else None  # type: ignore[attr-defined]
            if kind is Said:
                return TRUE if what == "message" and event.name == self.argument else None  # type: ignore[attr-defined]
            if kind is Improved or kind is Completed:
                predicate = self.predicate
                if predicate is not None and predicate.holds(event.values):  # type: ignore[attr-defined]
                    return TRUE
        return OUTCOMES[what].get(kind)

    def see(self, event: Event, rise: int = 0) -> None:
        """Apply one event to the latch (called by whoever follows the stream).

        ``rise`` is the number that all atoms take which rise with this event: it is one moment for all of them.
        """
        if self._latch.is_settled:
            return
        value = self.judge(event)
        if value is not None:
            self._move(value, getattr(event, "reason", "") or "", rise)


class IsCompleted(JobAtom):
    """Wait for a job to complete."""

    __slots__ = ()
    kind = "completed"


class IsFailed(JobAtom):
    """Wait for a job to fail (after its last retry)."""

    __slots__ = ()
    kind = "failed"


class IsAborted(JobAtom):
    """Wait for a running job to be stopped on purpose."""

    __slots__ = ()
    kind = "aborted"


class IsCancelled(JobAtom):
    """Wait for a job to be cancelled before it started."""

    __slots__ = ()
    kind = "cancelled"


class IsSkipped(JobAtom):
    """Wait for a job to be skipped."""

    __slots__ = ()
    kind = "skipped"


class IsStarted(JobAtom):
    """Wait for a job to start."""

    __slots__ = ()
    kind = "started"


class IsQueued(JobAtom):
    """Wait for a job's own condition to hold."""

    __slots__ = ()
    kind = "queued"


class IsEnded(JobAtom):
    """Wait for a job to have run, whatever came of it."""

    __slots__ = ()
    kind = "ended"


class IsFinished(JobAtom):
    """Wait for a job to be over, whether it ran or not."""

    __slots__ = ()
    kind = "finished"


class IsOk(JobAtom):
    """Wait for a job to complete or be skipped."""

    __slots__ = ()
    kind = "ok"


class IsFetched(JobAtom):
    """Wait for a download to complete."""

    __slots__ = ()
    kind = "fetched"


class IsMessage(JobAtom):
    """Wait for a job to say something under a name."""

    __slots__ = ()
    kind = "message"

    def __init__(self, job: Any, name: str, **more: Any) -> None:
        super().__init__(job, argument=name, **more)


class IsResult(JobAtom):
    """Wait for an intermediate or final result that satisfies an expression (``"chisq < 2"``)."""

    __slots__ = ()
    kind = "result"

    def __init__(self, job: Any, expression: str, **more: Any) -> None:
        super().__init__(job, argument=expression, **more)


class IsProgress(JobAtom):
    """Wait for a job to be so far: a fraction from 0 to 1."""

    __slots__ = ()
    kind = "progress"

    def __init__(self, job: Any, fraction: float, **more: Any) -> None:
        super().__init__(job, argument=fraction, **more)


class IsReached(JobAtom):
    """Wait for so many members of a group to complete: a number or ``"60%"``."""

    __slots__ = ()
    kind = "reached"

    def __init__(self, group: Any, share: int | str, **more: Any) -> None:
        super().__init__(group, argument=share, **more)


#: Kind -> class, for the wire and the text.
JOB_ATOMS: dict[str, type[JobAtom]] = {
    cls.kind: cls
    for cls in (
        *(IsCompleted, IsFailed, IsAborted, IsCancelled, IsSkipped, IsStarted, IsQueued, IsEnded, IsFinished, IsOk),
        *(IsFetched, IsMessage, IsResult, IsProgress, IsReached),
    )
}


# -- atoms over the world


class WorldAtom(Latched):
    """A condition on something outside: watched by the engine, or by ``Depends``, every ``poll_s`` seconds.

    ``what`` is exists (a file or address is there), changed (a file is other than at registration), url (an address
    answers well) or free (so much of a counted resource is free).
    """

    __slots__ = ("amount", "poll_s", "target", "what")

    def __init__(self, what: str, target: str, *, poll_s: float = 5.0, amount: float = 0.0) -> None:
        super().__init__()
        if not isinstance(target, str) or not target:
            raise BadOption(f"{what} needs a path, an address or a name, not {target!r}.")
        self.what = what
        self.target = target
        self.poll_s = poll_s
        self.amount = amount
        self._key = "world:" + digest(what, target, repr(float(amount)))


def exists(path_or_url: Any, poll: Any = "5s") -> WorldAtom:
    """Return the condition that a file, folder or address is there; it may vanish again."""
    return WorldAtom("exists", _target(path_or_url), poll_s=_poll(poll))


def changed(path: Any, poll: Any = "5s") -> WorldAtom:
    """Return the condition that a file is other than it was at registration (size or time of change)."""
    return WorldAtom("changed", _target(path), poll_s=_poll(poll))


def url_ok(url: str, poll: Any = "5s") -> WorldAtom:
    """Return the condition that an address answers without an error."""
    if not isinstance(url, str) or "://" not in url:
        raise BadOption(f"url_ok takes an address such as 'https://host/path', not {url!r}.")
    return WorldAtom("url", url, poll_s=_poll(poll))


def free(resource: str, n: float = 1) -> WorldAtom:
    """Return the condition that at least n of a counted resource are free."""
    if not isinstance(n, (int, float)) or isinstance(n, bool) or n < 0:
        raise BadOption(f"free takes an amount of at least 0, not {n!r}.")
    return WorldAtom("free", resource, amount=float(n))


def _target(path: Any) -> str:
    text: Any = path.__fspath__() if hasattr(path, "__fspath__") else path
    if not isinstance(text, str):
        raise BadOption(f"a path or an address is a text, not {path!r}.")
    return text


def _poll(span: Any) -> float:
    return max(0.01, span_seconds(span, "poll"))
