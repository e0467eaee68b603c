"""The resolver with callbacks, for a process of its own: PARK's ``Depends``.

``register(condition, ready, cancel)`` calls exactly one of the two, once, ever: in this call if the condition is
decided already, else in the call that decides it. Any thread may come in; the atoms of this process report here by
themselves. Callbacks run outside the lock and after the propagation, in the thread that brought the news; what they
set off is queued behind them. Time, and atoms over the world, need one thread, which starts with the first of them
and ends with the last.

It does not run jobs, and remembers nothing beyond the process: that is the engine's part. This is the one module of
the room that may know threads and the time.
"""

from __future__ import annotations

import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable
from importlib import import_module
from itertools import count
from typing import Any, ClassVar

from trun.conditions import atoms
from trun.conditions.algebra import Condition, Leaf, faces
from trun.conditions.atoms import WorldAtom, live
from trun.conditions.decisions import Decision, Fire, Reason
from trun.conditions.resolver import Resolver
from trun.conditions.value import CANCELLED, HOLDS, NEVER, TRUE, WAIT, Value
from trun.errors import BadOption, ConditionTypeError, ConditionWarning, nearest
from trun.messages import Entry, Message

#: Who looks at files and addresses for a bare ``Depends``; named here, found when first needed.
LOOKER = ("trun.adapters.world", "Looker")
#: So many settlements and errors are kept.
KEPT = 10_000

STATUS = {"ready": TRUE, "holds": HOLDS, "waiting": WAIT, "never": NEVER, "cancelled": CANCELLED}
_WORDS = {value: word for word, value in STATUS.items()}

Ready = Callable[[], object]
Cancel = Callable[..., object]
_Call = tuple[int, Callable[..., object], Reason | None]


def _clock() -> Callable[[], float]:
    """Return a clock that says seconds since the epoch and never jumps."""
    start = time.time() - time.monotonic()
    return lambda: start + time.monotonic()


class Depends:
    """Calls back when conditions hold, or when they no longer can.

    Parameters
    ----------
    stream
        Where settlements of other processes come from and ``notify`` also puts its message: has
        ``listen(key, queue)`` and ``put(key, message)``. None: this process only.
    clock
        Seconds since the epoch. With one of your own no thread is started: call ``advance`` instead.
    look
        What a world atom is worth now (0 to 4); it may block. Default: files and addresses as they are.
    """

    #: Name of the stream on which settlements are posted.
    STREAM: ClassVar[str] = "condition"

    class Notify(Message, frozen=True):
        """An atom is worth something now: ``status`` is ready, cancelled, never, holds or waiting."""

        id: str
        status: str = "ready"

    def __init__(
        self,
        stream: Any = None,
        *,
        clock: Callable[[], float] | None = None,
        look: Callable[[WorldAtom], int] | None = None,
    ) -> None:
        self._resolver = Resolver()
        self._calls: dict[int, tuple[Ready, Cancel]] = {}
        self._ids = count(1)
        #: What was put by message: settled for us alone; and the how manyeth rise in this process that was.
        self._told: dict[str, Value] = {}
        self._told_rises: dict[str, int] = {}
        self._room = KEPT
        self._lock = threading.RLock()
        self._is_inside = False
        self._inbox: deque[tuple[Callable[..., list[Decision]], tuple[Any, ...]]] = deque()
        self._own = threading.local()
        self._has_clock = clock is not None
        self._clock = clock if clock is not None else _clock()
        self._look = look
        self._polls: dict[str, tuple[WorldAtom, float]] = {}
        self._timer: threading.Thread | None = None
        self._wake = threading.Event()
        #: Exceptions that callbacks raised, the last ones; each carries a note that names the registration.
        self.errors: list[BaseException] = []
        self._stream = stream
        with _guard:
            _all.add(self)
        if stream is not None and hasattr(stream, "listen"):
            stream.listen(self.STREAM, self)

    def __len__(self) -> int:
        return len(self._calls)

    # -- who waits

    def register(self, condition: Condition, ready: Ready, cancel: Cancel) -> int:
        """Call ``ready()`` once the condition holds, or ``cancel(reason)`` once it cannot any more.

        Returns the id of the registration. If the condition is decided already, the callback runs in this call.
        A ``cancel`` that takes no argument is called without.
        """
        if not isinstance(condition, Condition):
            raise ConditionTypeError(f"register takes a condition, not {type(condition).__name__} ({condition!r})")
        for callback, name in ((ready, "ready"), (cancel, "cancel")):
            if not callable(callback):
                raise BadOption(f"{name} must be callable, not {callback!r}.")
        id = next(self._ids)
        self._do(self._enter, id, condition, ready, cancel)
        return id

    def _enter(self, id: int, condition: Condition, ready: Ready, cancel: Cancel) -> list[Decision]:
        self._calls[id] = (ready, cancel)
        return self._resolver.register(id, condition, now=self._clock(), known=self._known, risen=self._risen)

    def withdraw(self, id: int) -> bool:
        """Forget a registration: neither callback will be called. False if it was decided already, or is unknown."""
        with self._lock:
            if not self._resolver.withdraw(id):
                return False
            del self._calls[id]
            self._watch_world()
        return True

    def explain(self, id: int) -> Any:
        """Say what a registration waits for."""
        with self._lock:
            return self._resolver.explain(id, now=self._clock())

    # -- what happens

    def put(self, msg: Any) -> None:
        """Take a ``Notify``, or an entry of a job's stream: atoms settle for this ``Depends`` alone."""
        if isinstance(msg, Entry):
            self._do(self._hear, msg)
            return
        if not isinstance(msg, Depends.Notify):
            raise BadOption(f"put takes a Depends.Notify or an entry of a stream, not {type(msg).__name__}.")
        value = STATUS.get(msg.status)
        if value is None:
            raise BadOption(f"{msg.status!r} is no status of an atom.{nearest(str(msg.status), STATUS)}")
        key = key_of(msg.id)
        self._do(self._settle, key, value)

    def _hear(self, entry: Entry) -> list[Decision]:
        return self._resolver.hear(entry.stream, entry.event, seq=entry.seq, now=self._clock())

    def resolve(self, atom_id: str) -> None:
        """Look again at an atom of this process that has changed, and at all who wait for it."""
        leaf = live.get(key_of(atom_id))
        if leaf is not None:
            self._moved(leaf)

    @staticmethod
    def notify(atom: Leaf) -> None:
        """Tell every ``Depends`` of this process, and their streams, what an atom is worth."""
        value = atom.value
        message = Depends.Notify(id=getattr(atom, "id", atom.key), status=_WORDS[value])
        streams = {}
        for depends in _everybody():
            depends._moved(atom)
            if depends._stream is not None:
                streams[id(depends._stream)] = depends._stream
        for stream in streams.values():
            stream.put(Depends.STREAM, message)

    def advance(self) -> None:
        """Let time pass up to now."""
        self._do(self._pass)
        self._poll()

    def _pass(self) -> list[Decision]:
        return self._resolver.advance(self._clock())

    def _moved(self, leaf: Leaf) -> None:
        """Take the value of an atom of this process: what it is worth now, so that no late report undoes another."""
        self._do(self._take, leaf)

    def _take(self, leaf: Leaf) -> list[Decision]:
        key = leaf.key
        if key in self._told:
            if self._told[key].is_settled:
                return []
            del self._told[key]
        # Numbers of rises say what came first, also where two threads report in the other order.
        rise = getattr(leaf, "rose", 0)
        return self._resolver.settle(key, leaf.value, seq=rise, now=self._clock(), reason=getattr(leaf, "reason", ""))

    def _settle(self, key: str, value: Value) -> list[Decision]:
        """Take what a message says of an atom, and remember it for those who register later."""
        told = self._told.get(key, WAIT)
        if told.is_settled:
            if value.is_settled and told is not value:
                text = f"{key} is settled as {told.name} already; {value.name} was ignored"
                warnings.warn(text, ConditionWarning, stacklevel=5)
            return []
        if value >= HOLDS > told:
            self._told_rises[key] = atoms.next_rise()
        self._told[key] = value
        if len(self._told) > self._room:
            self._told = {key: value for key, value in self._told.items() if key in live}
            self._told_rises = {key: rise for key, rise in self._told_rises.items() if key in self._told}
            self._room = max(KEPT, 2 * len(self._told))
        return self._resolver.settle(key, value, seq=self._told_rises.get(key, 0), now=self._clock())

    def _risen(self, leaf: Leaf) -> float:
        """Return the how manyeth rise in this process made an atom hold, as far as we know: for ``since``."""
        own, told = getattr(leaf, "rose", 0), self._told_rises.get(leaf.key, 0)
        if told and own and leaf.latch is TRUE:
            return float(min(own, told))
        return float(told if leaf.key in self._told else own)

    def _known(self, leaf: Leaf) -> Value | None:
        found = self._told.get(leaf.key)
        if found is None and isinstance(leaf, WorldAtom) and leaf.what in ("exists", "changed"):
            found = Value(self._looker()(leaf)) if "://" not in leaf.target else None
        return found

    # -- propagation, then callbacks

    def _do(self, work: Callable[..., list[Decision]], *news: Any) -> None:
        """Propagate one piece of news, then call back. Inside a propagation (a signal, a finaliser) it is queued."""
        with self._lock:
            if self._is_inside:
                self._inbox.append((work, news))
                return
            self._is_inside = True
            try:
                calls = self._plan(work(*news))
                while self._inbox:
                    work, news = self._inbox.popleft()
                    calls += self._plan(work(*news))
            finally:
                self._is_inside = False
            if self._resolver.is_timed:
                self._watch_world()
                self._need_timer()
        if calls:
            self._perform(calls)

    def _plan(self, decisions: list[Decision]) -> list[_Call]:
        """Turn decisions into calls."""
        calls: list[_Call] = []
        for decision in decisions:
            id: int = decision.owner  # type: ignore[assignment]
            ready, cancel = self._calls.pop(id)
            if type(decision) is Fire:
                calls.append((id, ready, None))
            else:
                calls.append((id, cancel, decision.reason))  # type: ignore[union-attr]
        return calls

    def _perform(self, calls: list[_Call]) -> None:
        """Call back, one after the other; calls that follow from these queue behind them."""
        queue: deque[_Call] | None = getattr(self._own, "queue", None)
        if queue is not None:
            queue.extend(calls)
            return
        queue = self._own.queue = deque(calls)
        stop: BaseException | None = None
        try:
            while queue:
                id, callback, reason = queue.popleft()
                try:
                    if reason is None or not takes_argument(callback):
                        callback()
                    else:
                        callback(reason)
                except Exception as error:
                    self._note(id, error)
                except BaseException as error:  # the others still have their right to be called
                    stop = stop or error
        finally:
            self._own.queue = None
        if stop is not None:
            raise stop

    def _note(self, id: int, error: Exception) -> None:
        import logging

        error.add_note(f"raised by a callback of registration {id}")
        logging.getLogger(__name__).error("callback failed registration=%s", id, exc_info=error)
        self.errors.append(error)
        del self.errors[:-KEPT]

    # -- time, and the world

    def _looker(self) -> Callable[[WorldAtom], int]:
        if self._look is None:
            found = faces.get("look")
            if found is None:
                module, name = LOOKER
                found = getattr(import_module(module), name)().look
            self._look = found
        return self._look

    def _watch_world(self) -> None:
        start, stop = self._resolver.take_watch_changes()
        for key in stop:
            self._polls.pop(key, None)
        for atom in start:
            self._polls[atom.key] = (atom, self._clock())

    def _poll(self) -> None:
        """Look at the world atoms whose turn it is, outside the lock, and take what was seen."""
        with self._lock:
            now = self._clock()
            due = [atom for atom, at in self._polls.values() if at <= now]
        for atom in due:
            value = Value(self._looker()(atom))
            with self._lock:
                if atom.key in self._polls:
                    self._polls[atom.key] = (atom, self._clock() + atom.poll_s)
            self._do(self._see, atom, value)

    def _see(self, atom: WorldAtom, value: Value) -> list[Decision]:
        if self._resolver.value(atom.key) is value:
            return []
        return self._resolver.settle(atom.key, value, now=self._clock())

    def _next(self) -> float | None:
        """Return when time or the world must be looked at next."""
        found = [at for _, at in self._polls.values()]
        at = self._resolver.next_deadline()
        if at is not None:
            found.append(at)
        return min(found, default=None)

    def _need_timer(self) -> None:
        """Have the timer look again at what is next; start it if there is none."""
        if self._has_clock or (self._resolver.next_deadline() is None and not self._polls):
            return
        if self._timer is None:
            self._wake = threading.Event()
            wake = self._wake
            weak = weakref.ref(self, lambda _: wake.set())
            self._timer = threading.Thread(target=_run_timer, args=(weak, wake), name="trun-depends", daemon=True)
            self._timer.start()
        elif threading.current_thread() is not self._timer:
            self._wake.set()

    def _pass_time(self) -> float | None:
        """Do what is due; return the seconds until there is more, or None when the timer may end."""
        self.advance()
        with self._lock:
            at = self._next()
            if at is None:
                self._timer = None
                return None
            return max(0.0, at - self._clock())


def _run_timer(weak: weakref.ref[Depends], wake: threading.Event) -> None:
    while True:
        depends = weak()
        if depends is None:
            return
        wake.clear()
        pause = depends._pass_time()
        if pause is None:
            return
        del depends
        wake.wait(min(pause, 3600.0))


def takes_argument(callback: Callable[..., object]) -> bool:
    """Whether a callback can take the reason; the seed's takes nothing."""
    from inspect import signature

    try:
        signature(callback).bind(None)
    except TypeError:
        return False
    except ValueError:  # some builtins do not tell
        return True
    return True


def key_of(id: str) -> str:
    """Return the key of an atom that is named by its id or its key."""
    text = str(id)
    for key in (f"atom:{text}", f"level:{text}"):
        if key in live:
            return key
    return text if ":" in text or len(text) != 32 or text in live else f"atom:{text}"


_all: weakref.WeakSet[Depends] = weakref.WeakSet()
_guard = threading.Lock()


def _everybody() -> list[Depends]:
    with _guard:
        return list(_all)


def _spread(leaf: Leaf, value: Value, reason: str) -> None:
    for depends in _everybody():
        depends._moved(leaf)


atoms.guard = threading.RLock()
atoms.hooks.append(_spread)
